"""What a queue has whole is said whole: MAIL, every RCPT and DATA in one group (RFC 2920), and what may go wrong with that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailgate.testing.nexthop import DROP, HANG, Action, NextHop, Step, say
from mailgate.testing.script import Connection
from tests.support.ledger import message
from tests.wire.test_queue import MINUTE, QueueCase

PLAIN = (b"8BITMIME", b"ENHANCEDSTATUSCODES")
"""Without PIPELINING."""


def by_recipient(answers: dict[bytes, bytes], groups: list[list[bytes]] | None = None) -> Callable[..., Action | None]:
    """A script that answers each address as it is told, and keeps what lay there when MAIL was read."""

    def act(step: Step, connection: Connection, line: bytes) -> Action | None:
        if step is Step.MAIL and groups is not None:
            said = bytes(connection.clear)
            groups.append([command.split(b" ")[0] for command in said[said.rindex(b"MAIL ") :].split(b"\r\n")[:-1]])
        if step is Step.RCPT:
            return next((say(answer) for address, answer in answers.items() if address in line), None)
        return None

    return act


class Groups(QueueCase):
    def waiting(self) -> list[Any]:
        assert self.running is not None
        queue: Any = self.running.configuration.instances["outbound"]
        return self.reactor.run(queue.queue.store.browse(0, 100))  # type: ignore[no-any-return]

    def paths(self, hop: NextHop) -> list[list[bytes]]:
        return [transaction.paths for transaction in hop.transactions]

    def test_one_write_for_all(self) -> None:
        groups: list[list[bytes]] = []
        hop = self.hop(script=by_recipient({}, groups))
        self.queued(hop)
        self.submit("one", b"a@dest.test", b"b@dest.test", b"c@dest.test")
        self.reactor.settle(5)
        self.assertEqual(groups, [[b"MAIL", b"RCPT", b"RCPT", b"RCPT", b"DATA"]])
        self.assertEqual(self.paths(hop), [[b"a@dest.test", b"b@dest.test", b"c@dest.test"]])
        self.assertEqual(self.waiting(), [])

    def test_one_by_one_without_pipelining(self) -> None:
        groups: list[list[bytes]] = []
        hop = self.hop(script=by_recipient({}, groups), extensions=PLAIN)
        self.queued(hop)
        self.submit("one", b"a@dest.test", b"b@dest.test")
        self.reactor.settle(5)
        self.assertEqual(groups, [[b"MAIL"]])
        self.assertEqual(self.paths(hop), [[b"a@dest.test", b"b@dest.test"]])

    def test_each_recipient_has_the_answer_of_its_own(self) -> None:
        answers = {b"busy@": b"452 4.2.2 full", b"none@": b"550 5.1.1 no such user"}
        hop, back = self.hop(script=by_recipient(answers)), self.hop()
        self.queued(hop, back)
        self.submit("one", b"good@dest.test", b"busy@dest.test", b"none@dest.test")
        self.reactor.settle(5)
        self.assertEqual(self.paths(hop), [[b"good@dest.test"]])
        (entry,) = self.waiting()
        self.assertEqual([(str(row.address), row.last.code) for row in entry.recipients], [("busy@dest.test", 452)])
        (_, failed) = self.fields(self.report_of(back))
        self.assertEqual(failed["Final-Recipient"], "rfc822; none@dest.test")
        answers.clear()
        self.reactor.settle(10 * MINUTE)
        self.assertEqual(self.paths(hop), [[b"good@dest.test"], [b"busy@dest.test"]])

    def test_content_is_not_given_for_nobody(self) -> None:
        """A server that says 354 though it took no recipient (RFC 2920 3.1): no dot, no content, another connection."""
        for answers in ({Step.RCPT: [say(b"450 4.2.1 later")] * 2}, {Step.MAIL: [say(b"451 4.3.0 later")]}):
            with self.row(str(answers)):
                hop = self.hop(script={**answers, Step.DATA: [say(b"354 go ahead")]})
                self.queued(hop)
                self.submit("one", b"a@dest.test", b"b@dest.test")
                self.reactor.settle(5)
                self.assertEqual(hop.transactions, [])
                self.reactor.settle(10 * MINUTE)
                self.assertEqual(self.paths(hop), [[b"a@dest.test", b"b@dest.test"]])
                self.assertEqual(len(hop.connections), 2)
                self.assertEqual(hop.connections[0].clear.count(b"X-Token"), 0)

    def test_data_is_refused(self) -> None:
        hop = self.hop(script={Step.DATA: [say(b"451 4.3.0 not now")]})
        self.queued(hop)
        self.submit("one", b"a@dest.test", b"b@dest.test")
        self.reactor.settle(5)
        (entry,) = self.waiting()
        self.assertEqual([row.last.code for row in entry.recipients], [451, 451])
        self.assertFalse(any(row.in_doubt for row in entry.recipients))
        self.reactor.settle(10 * MINUTE)
        self.assertEqual(self.paths(hop), [[b"a@dest.test", b"b@dest.test"]])

    def test_another_endpoint_is_asked(self) -> None:
        """Where the first takes nobody for now, or breaks before its answer to DATA; not where it took one of them."""
        full = say(b"450 4.2.1 later")
        for script, first_takes in (
            ({Step.RCPT: [full, full]}, 0),
            ({Step.DATA: [full]}, 0),
            ({Step.DATA: [DROP]}, 0),
            ({Step.DATA: [HANG]}, 0),
            ({Step.RCPT: [full, say(b"250 2.1.5 ok")]}, 1),
        ):
            with self.row(str(script)):
                first, second = self.hop(script=script), self.hop()
                self.gateway(
                    f"target.smtp next {{\n    targets {first.endpoint} {second.endpoint}\n}}\n"
                    "target.queue outbound {\n    target &next\n}\n"
                    "smtp tcp://127.0.0.1:25 {\n    tls off\n    deliver_to &outbound\n}\n"
                )
                self.submit("one", b"a@dest.test", b"b@dest.test")
                self.reactor.settle(30 * MINUTE)
                everybody = sorted(path for hop in (first, second) for paths in self.paths(hop) for path in paths)
                self.assertEqual(everybody, [b"a@dest.test", b"b@dest.test"])
                self.assertEqual(len(self.paths(first)[0] if first_takes else []), first_takes)
                self.assertEqual(bool(second.transactions), not first_takes)
                self.assertEqual(self.waiting(), [])

    def test_one_address_does_not_stop_the_others(self) -> None:
        """Nobody offers SMTPUTF8, and one recipient needs it."""
        hop, back = self.hop(extensions=(b"PIPELINING", b"8BITMIME")), self.hop()
        self.queued(hop, back)
        client = self.client()
        for command in ("MAIL FROM:<sender@client.test> SMTPUTF8", "RCPT TO:<a@dest.test>", "RCPT TO:<ü@dest.test>", "DATA"):
            reply = self.reactor.run(client.command(command.encode()))
            self.assertIn(reply[:1], b"23", command)
        self.assertEqual(self.reactor.run(client.command(message("one") + b"."))[:3], b"250")
        self.reactor.settle(10 * MINUTE)
        self.assertEqual(self.paths(hop), [[b"a@dest.test"]])
        self.assertEqual(len(back.transactions), 1)
        self.assertEqual(self.waiting(), [])

    def test_lmtp_answers_for_each_that_was_accepted(self) -> None:
        script = {
            Step.RCPT: [say(b"250 2.1.5 ok"), say(b"550 5.1.1 no"), say(b"250 2.1.5 ok")],
            Step.DOT: [say(b"250 2.0.0 ok", b"452 4.2.2 full")],
        }
        hop, back = self.hop(lmtp=True, script=script), self.hop()
        self.gateway(
            f"target.lmtp next {{\n    targets {hop.endpoint}\n}}\ntarget.smtp back {{\n    targets {back.endpoint}\n}}\n"
            "target.queue outbound {\n    target &next\n    bounce {\n        deliver_to &back\n    }\n}\n"
            "smtp tcp://127.0.0.1:25 {\n    tls off\n    deliver_to &outbound\n}\n"
        )
        self.submit("one", b"a@dest.test", b"b@dest.test", b"c@dest.test")
        self.reactor.settle(5)
        (entry,) = self.waiting()
        self.assertEqual([(str(row.address), row.last.code) for row in entry.recipients], [("c@dest.test", 452)])
        self.assertEqual(len(back.transactions), 1)
        self.reactor.settle(10 * MINUTE)
        self.assertEqual(self.paths(hop)[1:], [[b"c@dest.test"]])

    def test_a_target_with_limits_lets_through_what_it_may(self) -> None:
        hop = self.hop()
        self.queued(hop, target="    limits {\n        destination rate 1 1m\n    }\n")
        self.submit("one", b"a@one.test", b"b@one.test", b"c@two.test")
        self.reactor.settle(30 * MINUTE)
        everybody = sorted(path for paths in self.paths(hop) for path in paths)
        self.assertEqual(everybody, [b"a@one.test", b"b@one.test", b"c@two.test"])
        self.assertEqual(self.waiting(), [])
