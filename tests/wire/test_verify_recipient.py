"""check.verify_recipient: the next hop is asked first, once, and nobody passes because it could not be asked."""

from __future__ import annotations

from typing import Any

from mailgate.registry import build
from mailgate.testing.nexthop import HANG, NextHop, Say, Step, say
from tests.support.scenario import SMTP, SimulatedCase, statuses

UNKNOWN = say(b"550 5.1.1 no such user")


def _knows_only_ann(step: Step, connection: Any, line: bytes) -> Say | None:
    return UNKNOWN if step is Step.RCPT and b"ann@" not in line else None


class VerifyRecipient(SimulatedCase):
    def stage(self, settings: str = "", **hop: Any) -> tuple[NextHop, NextHop]:
        """Who is asked, and who gets the mail."""
        asked, sink = self.hop(**hop), self.hop()
        self.gateway(
            f"target.smtp asked {asked.endpoint} {{\ncommand_timeout 30s\n}}\ntarget.smtp sink {sink.endpoint}\n"
            f"smtp {SMTP} {{\ntls off\ncheck {{\nverify_recipient &asked {{\n{settings}\n}}\n}}\ndeliver_to &sink\n}}\n"
        )
        return asked, sink

    def rcpt(self, address: bytes) -> bytes:
        """Status of one RCPT in a session of its own."""
        client = self.client()
        self.ask(client, b"MAIL FROM:<a@x.test>")
        reply = self.ask(client, b"RCPT TO:<" + address + b">")
        self.reactor.run(client.quit())
        return statuses([reply])[0]

    def questions(self, asked: NextHop) -> int:
        return sum(connection.verbs.count(b"RCPT") for connection in asked.connections)

    def test_known_and_unknown(self) -> None:
        asked, sink = self.stage(script=_knows_only_ann)
        self.assertEqual((self.rcpt(b"ann@y.test"), self.rcpt(b"bob@y.test")), (b"250 2.1.5", b"550 5.1.1"))
        self.assertEqual(asked.connections[0].transactions[0].mail, b"<>")
        self.assertEqual(asked.transactions, [])
        self.assertNotIn(b"bob@y.test", b"".join(bytes(connection.clear) for connection in sink.connections))

    def test_answers_are_remembered_for_their_time(self) -> None:
        asked, _ = self.stage("cache {\npositive 10m\nnegative 1m\n}", script=_knows_only_ann)
        for _ in range(3):
            self.assertEqual((self.rcpt(b"ann@y.test"), self.rcpt(b"bob@Y.test")), (b"250 2.1.5", b"550 5.1.1"))
        self.assertEqual(self.questions(asked), 2)
        self.reactor.settle(61)
        self.rcpt(b"ann@y.test")
        self.rcpt(b"bob@y.test")
        self.assertEqual(self.questions(asked), 3)
        self.reactor.settle(600)
        self.rcpt(b"ann@y.test")
        self.assertEqual(self.questions(asked), 4)

    def test_the_memory_is_bounded(self) -> None:
        asked, _ = self.stage("cache {\nsize 2\n}")
        for name in (b"a", b"b", b"c", b"a"):
            self.assertEqual(self.rcpt(name + b"@y.test"), b"250 2.1.5")
        self.assertEqual(self.questions(asked), 4)

    def test_nobody_passes_because_nobody_could_be_asked(self) -> None:
        for name, script in (
            ("4yz", {Step.RCPT: say(b"450 4.2.1 greylisted")}),
            ("silence", {Step.RCPT: HANG}),
            ("garbage", {Step.RCPT: say(b"what?")}),
            ("the sender of the question is refused", {Step.MAIL: say(b"550 5.7.1 no")}),
            ("the greeting", {Step.BANNER: say(b"554 5.3.2 closed")}),
        ):
            with self.row(name):
                asked, sink = self.stage(script=script)
                before = len(asked.connections)
                self.assertEqual(self.rcpt(b"ann@y.test")[:1], b"4")
                self.assertEqual(sink.connections, [])
                self.rcpt(b"ann@y.test")
                self.assertGreater(self.questions(asked) + len(asked.connections), before + 1, "it was remembered")

    def test_down(self) -> None:
        asked, sink = self.stage()
        self.reactor.run(asked.close())
        self.assertEqual(self.rcpt(b"ann@y.test"), b"451 4.4.1")
        self.assertEqual(sink.connections, [])

    def test_who_asks_at_the_same_time_shares_one_question(self) -> None:
        asked, _ = self.stage(script={Step.RCPT: [HANG]})
        clients = [self.client() for _ in range(3)]
        for client in clients:
            self.ask(client, b"MAIL FROM:<a@x.test>")
            client.send(b"RCPT TO:<ann@y.test>\r\n")
        self.reactor.settle(5)
        self.assertEqual(self.questions(asked), 1)
        clients[0].transport.abortConnection()  # the others still want to know
        self.reactor.settle(1)
        replies = [self.reactor.run(client.reply(), limit=300) for client in clients[1:]]
        self.assertEqual([reply[:3] for reply in replies], [b"451", b"451"])

    def test_in_the_name_of_somebody(self) -> None:
        asked, _ = self.stage("sender verify@gateway.test")
        self.rcpt(b"ann@y.test")
        self.assertEqual(asked.connections[0].transactions[0].mail, b"<verify@gateway.test>")

    def test_mistakes_at_load(self) -> None:
        for target, check in (
            ("target.maildir next /var/mail", "verify_recipient &next"),
            ("target.smtp next tcp://10.0.0.1", 'verify_recipient &next {\nsender "a b"\n}'),
        ):
            text = f"{target}\nsmtp tcp://127.0.0.1:25 {{\ntls off\ncheck {{\n{check}\n}}\ndeliver_to &next\n}}\n"
            codes = [d.code for d in build(f"hostname gw.example\n{text}").diagnostics if d.is_error]
            self.assertEqual(codes, ["E0791"])
