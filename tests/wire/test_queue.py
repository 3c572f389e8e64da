"""target.queue in a whole gateway on simulated time: accepted means kept, tried, delivered or reported.

The queue's files are real; weeks pass in milliseconds.
"""

from __future__ import annotations

import email
import email.policy
import sqlite3
from dataclasses import replace
from email.message import EmailMessage
from itertools import pairwise
from pathlib import Path
from typing import Any

from mailgate.queue.engine import AHEAD
from mailgate.queue.store import Unavailable
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.network import adapters_for
from mailgate.testing.nexthop import DROP, HANG, NextHop, Step, say
from tests.support.ledger import message
from tests.support.scenario import LMTP, SMTP, SimulatedCase

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class QueueCase(SimulatedCase):
    """One next hop behind a queue, another that gets the reports."""

    def queued(self, hop: NextHop, reports: NextHop | None = None, *, queue: str = "", target: str = "") -> WholeGateway:
        bounce = "    bounce {\n        deliver_to &back\n    }\n" if reports is not None else ""
        back = f"target.smtp back {{\n    targets {reports.endpoint}\n}}\n" if reports is not None else ""
        return self.gateway(
            f"target.smtp next {{\n    targets {hop.endpoint}\n{target}}}\n{back}"
            f"target.queue outbound {{\n    target &next\n{bounce}{queue}}}\n"
            f"smtp {SMTP} {{\n    tls off\n    deliver_to &outbound\n}}\n"
        )

    def submit(self, token: str = "one", *recipients: bytes, sender: bytes = b"sender@client.test") -> list[bytes]:
        client = self.client()
        replies = self.deliver(client, *(recipients or (b"b@dest.test",)), content=message(token), sender=sender)
        self.reactor.run(client.quit())
        return replies

    def restart(self) -> WholeGateway:
        """Stop the gateway and start another on what it left."""
        running = self.running
        assert running is not None
        text = running.path.read_text()
        self.reactor.run(running.stop(), limit=600)
        self.running = WholeGateway(text, running.live._assembler._adapters, self.directory)  # type: ignore[attr-defined]
        self.reactor.run(self.running.start())
        return self.running

    def report_of(self, hop: NextHop, number: int = 0) -> EmailMessage:
        content = hop.transactions[number].content
        parsed: Any = email.message_from_bytes(content, policy=email.policy.default)
        self.assertEqual(parsed.defects, [])
        return parsed  # type: ignore[no-any-return]

    def fields(self, report: EmailMessage) -> list[dict[str, str]]:
        """The groups of the machine-readable part: of the message, then of each recipient."""
        parts: Any = list(report.iter_parts())
        self.assertEqual(parts[1].get_content_type(), "message/delivery-status")
        return [dict(group.items()) for group in parts[1].get_payload()]


class DeliveryTests(QueueCase):
    def test_accepted_and_delivered_at_once(self) -> None:
        hop = self.hop()
        gateway = self.queued(hop)
        replies = self.submit()
        self.assertTrue(replies[-1].startswith(b"250 2.0.0 Ok: "), replies)
        self.reactor.settle(5)
        (transaction,) = hop.transactions
        self.assertIn(b"X-Token: one\r\n", transaction.content)
        self.assertEqual(self.waiting(gateway), [])

    def waiting(self, gateway: WholeGateway) -> list[Any]:
        queue: Any = gateway.configuration.instances["outbound"]
        return self.reactor.run(queue.queue.store.browse(0, 100))  # type: ignore[no-any-return]

    def test_a_next_hop_that_is_down_costs_no_message(self) -> None:
        hop = self.hop(script={Step.CONNECT: [DROP] * 4})
        gateway = self.queued(hop)
        self.assertEqual(self.submit()[-1][:3], b"250")
        self.reactor.settle(30)
        self.assertEqual(hop.transactions, [])
        (entry,) = self.waiting(gateway)
        (row,) = entry.recipients
        self.assertEqual((row.retries, row.last.way.peer, row.last.way.stage), (1, hop.endpoint, "greeting"))
        queue: Any = gateway.configuration.instances["outbound"]
        (line,) = self.reactor.run(queue.queue.store.history(entry.id))
        self.assertIn(f" ({hop.endpoint} {row.last.way.address}, greeting)", line.text)
        self.assertTrue(hop.endpoint.endswith(row.last.way.address), row.last.way)
        self.reactor.settle(HOUR)
        self.assertEqual(len(hop.transactions), 1)
        self.assertEqual(self.waiting(gateway), [])

    def test_what_waits_survives_a_restart(self) -> None:
        hop = self.hop(script={Step.RCPT: [say(b"450 4.2.1 later")]})
        self.queued(hop)
        self.submit()
        self.reactor.settle(5)
        self.assertEqual(hop.transactions, [])
        self.restart()
        self.reactor.settle(10 * MINUTE)
        self.assertEqual(len(hop.transactions), 1)

    def test_recipients_are_retried_each_by_itself(self) -> None:
        hop = self.hop(script={Step.RCPT: [say(b"250 2.1.5 ok"), say(b"451 4.3.0 later")]})
        self.queued(hop)
        self.submit("one", b"b@dest.test", b"c@dest.test")
        self.reactor.settle(10 * MINUTE)
        recipients = [transaction.paths for transaction in hop.transactions]
        self.assertEqual(len(recipients), 2, recipients)
        self.assertEqual([len(some) for some in recipients], [1, 1])

    def test_the_schedule_is_kept(self) -> None:
        hop = self.hop(script=lambda step, connection, line: say(b"451 4.3.0 later") if step is Step.MAIL else None)
        gateway = self.queued(hop, queue="    retry 1m 2m 4m\n")
        self.submit()
        started = self.reactor.seconds()
        self.reactor.settle(30 * MINUTE)
        retries = gateway.logged("queue.retry")
        times = [float(line.split("retry_in=")[1].split()[0]) for line in retries]
        self.assertEqual(len(times), 9, retries)
        for expected, paused in zip((60, 120, 240, 240, 240), times, strict=False):
            self.assertTrue(0.89 * expected < paused < 1.11 * expected, (expected, paused))
        self.assertGreater(self.reactor.seconds() - started, 29 * MINUTE)


class ReportTests(QueueCase):
    def test_a_refusal_is_reported_once(self) -> None:
        hop = self.hop(script={Step.RCPT: say(b"550 5.1.1 no such user here")})
        back = self.hop()
        gateway = self.queued(hop, back)
        self.submit()
        self.reactor.settle(HOUR)
        self.assertEqual(len(back.transactions), 1)
        report = self.report_of(back)
        self.assertEqual(back.transactions[0].sender, b"")
        self.assertEqual(report["To"], "sender@client.test")
        whole, of_recipient = self.fields(report)
        self.assertEqual(whole["Reporting-MTA"], "dns; gateway.test")
        self.assertEqual(of_recipient["Final-Recipient"], "rfc822; b@dest.test")
        self.assertEqual((of_recipient["Action"], of_recipient["Status"]), ("failed", "5.1.1"))
        self.assertEqual(of_recipient["Diagnostic-Code"], "smtp; 550 5.1.1 no such user here")
        self.assertEqual(of_recipient["Remote-MTA"], f"dns; {hop.endpoint.partition('://')[2].rpartition(':')[0]}")
        self.assertEqual(DeliveryTests.waiting(self, gateway), [])  # type: ignore[arg-type]

    def test_the_words_of_reports(self) -> None:
        hop = self.hop(script={Step.RCPT: say(b"550 5.1.1 no")})
        back = self.hop()
        words = 'from help@gateway.test\n subject failed "Sorry"\n text failed "Ask {hostname} about {message_id}, {this}.\n"\n'
        self.queued(hop, back, queue=f"    reports {{\n{words}    }}\n")
        self.submit()
        self.reactor.settle(HOUR)
        report = self.report_of(back)
        self.assertEqual((report["Subject"], report["From"]), ("Sorry", "Mail delivery <help@gateway.test>"))
        first: Any = next(iter(report.iter_parts()))
        self.assertRegex(first.get_content(), r"\AAsk gateway\.test about \S+, \{this\}\.")

    def test_nobody_is_told_of_a_failed_report(self) -> None:
        hop = self.hop(script={Step.RCPT: say(b"550 5.1.1 no")})
        back = self.hop()
        gateway = self.queued(hop, back)
        self.submit(sender=b"")
        self.reactor.settle(HOUR)
        self.assertEqual(back.transactions, [])
        self.assertEqual(len(gateway.logged("message.undeliverable")), 1)

    def test_delay_and_expiry_over_a_week(self) -> None:
        hop = self.hop(script=lambda step, connection, line: say(b"451 4.3.0 later") if step is Step.MAIL else None)
        back = self.hop()
        gateway = self.queued(hop, back)
        self.submit()
        self.reactor.settle(7 * DAY)
        actions = []
        for number in range(len(back.transactions)):
            _, of_recipient = self.fields(self.report_of(back, number))
            actions.append((of_recipient["Action"], of_recipient["Status"]))
            self.assertEqual("Will-Retry-Until" in of_recipient, of_recipient["Action"] == "delayed")
        self.assertEqual(actions, [("delayed", "4.3.0"), ("delayed", "4.3.0"), ("failed", "5.4.7")])
        self.assertEqual(DeliveryTests.waiting(self, gateway), [])  # type: ignore[arg-type]

    def test_every_attempt_of_a_week_comes_when_the_schedule_says(self) -> None:
        times: list[float] = []

        def later(step: Step, connection: Any, line: bytes) -> Any:
            if step is not Step.MAIL:
                return None
            times.append(self.reactor.seconds())
            return say(b"451 4.3.0 later")

        self.queued(self.hop(script=later), self.hop())
        self.submit()
        self.reactor.settle(7 * DAY)
        steps = [2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR]
        pauses = [end - begin for begin, end in pairwise(times)]
        for number, pause in enumerate(pauses[:-1]):
            step = steps[number] if number < len(steps) else 2 * HOUR
            self.assertTrue(0.9 * step <= pause < 1.1 * step + 1, (number, pause))
        self.assertTrue(55 <= len(times) <= 75, len(times))  # 5 days by 2 hours, and the first six
        self.assertTrue(5 * DAY - 1 < times[-1] - times[0] < 5 * DAY + 2 * MINUTE, "the last one when the time is over")

    def test_a_clock_that_jumps_expires_nothing(self) -> None:
        """A month, while the message waits, and while the gateway is down: there is still a real attempt, and it is taken."""
        for restarted in (False, True):
            with self.row(f"{restarted=}"):
                jump = [0.0]
                hop = self.hop(script={Step.MAIL: [say(b"451 4.3.0 later")]})
                back = self.hop()
                text = (
                    f"hostname gateway.test\ntarget.smtp next {{\n    targets {hop.endpoint}\n}}\n"
                    f"target.smtp back {{\n    targets {back.endpoint}\n}}\n"
                    "target.queue outbound {\n    target &next\n    bounce {\n        deliver_to &back\n    }\n}\n"
                    f"smtp {SMTP} {{\n    tls off\n    deliver_to &outbound\n}}\n"
                )
                plain = adapters_for(self.reactor)
                adapters = replace(plain, wall_time=lambda jump=jump, plain=plain: plain.wall_time() + jump[0])
                self.running = WholeGateway(text, adapters, self.directory)
                self.reactor.run(self.running.start())
                self.submit()
                self.reactor.settle(5)
                jump[0] = 30 * DAY
                if restarted:
                    self.reactor.run(self.running.stop(), limit=600)
                    self.running = WholeGateway(text, adapters, self.directory)
                    self.reactor.run(self.running.start())
                self.reactor.settle(2 * MINUTE)
                self.assertEqual(len(hop.transactions), 1)
                self.assertEqual(back.transactions, [])

    def test_those_in_a_long_line_hear_of_it_too(self) -> None:
        hop = self.hop(script=lambda step, connection, line: DROP if step is Step.CONNECT else None)
        back = self.hop()
        gateway = self.queued(hop, back, queue="    notify 2h\n    expire 1d\n")
        for number in range(30):
            self.submit(f"m{number}")
        self.reactor.settle(2 * DAY)
        actions: dict[str, int] = {}
        for number in range(len(back.transactions)):
            _, of_recipient = self.fields(self.report_of(back, number))
            actions[of_recipient["Action"]] = actions.get(of_recipient["Action"], 0) + 1
        self.assertEqual(actions, {"delayed": 30, "failed": 30})
        self.assertEqual(DeliveryTests.waiting(self, gateway), [])  # type: ignore[arg-type]

    def test_a_report_that_finds_no_way_is_made_again(self) -> None:
        hop = self.hop(script={Step.RCPT: say(b"550 5.1.1 no")})
        back = self.hop(script={Step.MAIL: [say(b"451 4.3.0 later")] * 3})
        self.queued(hop, back)
        self.submit()
        self.reactor.settle(HOUR)
        self.assertEqual(len(back.transactions), 1)

    def test_reports_that_a_failing_store_kept_back_are_made_when_it_is_well(self) -> None:
        hop = self.hop(script={Step.RCPT: say(b"550 5.1.1 no")})
        back = self.hop()
        gateway = self.queued(hop, back)
        queue: Any = gateway.configuration.instances["outbound"]
        reporter, tried = queue.queue.reporter, []

        async def failing(*arguments: Any) -> Any:
            tried.append(arguments)
            raise Unavailable("the disk is away")

        reporter.report = failing
        self.submit()
        self.reactor.settle(3)
        self.assertTrue(tried)
        del reporter.report
        self.expect_clean_log = False
        self.reactor.settle(MINUTE)
        self.assertEqual(len(back.transactions), 1)
        self.assertEqual(DeliveryTests.waiting(self, gateway), [])  # type: ignore[arg-type]


class DiskTests(QueueCase):
    def test_a_store_that_failed_an_idle_queue_is_opened_again(self) -> None:
        """Nobody is delivering; the first client is refused, unless the store was well again before he came."""
        hop = self.hop()
        gateway = self.queued(hop)
        queue: Any = gateway.configuration.instances["outbound"]
        store = queue.queue.store
        store._writer._break(OSError("fsync"))
        self.assertEqual(self.submit("one")[1][:3], b"451")
        self.reactor.settle(10)
        self.assertEqual(queue.queue.paused, "")
        self.assertEqual(self.submit("two")[-1][:3], b"250")
        self.reactor.settle(10)
        self.assertEqual(len(hop.transactions), 1)


class IntentTests(QueueCase):
    def intents(self) -> int:
        """Open ones, as the next process would find them."""
        connection = sqlite3.connect(Path(self.directory) / "queue" / "outbound" / "1.sqlite")
        (count,) = connection.execute("SELECT COUNT(*) FROM recipient WHERE intent = 1").fetchone()
        connection.close()
        return int(count)

    def test_few_more_are_open_than_deliveries_are_under_way(self) -> None:
        """Those written with the acceptance; they are closed when the destination turns out to be down."""
        hop = self.hop(script=lambda step, connection, line: HANG if step is Step.MAIL else None)
        gateway = self.queued(hop, target="    timeouts {\n        mail_from 1m\n    }\n")
        for number in range(150):
            self.submit(f"m{number}")
        queue: Any = gateway.configuration.instances["outbound"]
        self.assertEqual(queue.queue.in_flight, 20)
        self.assertEqual(self.intents(), 20 + AHEAD)
        self.reactor.settle(MINUTE + 10)
        self.assertEqual(queue.queue.in_flight, 0)
        self.assertEqual(self.intents(), 0)


class AnswerTests(QueueCase):
    def test_an_answer_that_is_lost_may_double_once_and_says_so(self) -> None:
        hop = self.hop(script={Step.DOT: [HANG]})
        gateway = self.queued(hop, target="    submission_timeout 30s\n")
        self.submit()
        self.reactor.settle(HOUR)
        self.assertEqual(len(hop.transactions), 2)
        self.assertTrue(gateway.logged("delivery.possible_duplicate"))

    def test_a_target_that_is_gone_holds_its_messages(self) -> None:
        hop = self.hop(script={Step.MAIL: [say(b"451 4.3.0 later")]})
        gateway = self.queued(hop)
        self.submit()
        self.reactor.settle(5)
        text = gateway.path.read_text().replace("&next", "&other").replace("target.smtp next", "target.smtp other")
        self.reactor.run(gateway.reload(text), limit=60)
        self.expect_clean_log = False
        self.reactor.settle(10 * MINUTE)
        self.assertEqual(hop.transactions, [])
        self.assertTrue(gateway.logged("queue.held"), gateway.log_text)


class SplitTests(SimulatedCase):
    """on_split queue: all are tried at once; what a store does not take is kept for that store."""

    def stores(self, *hops: NextHop, listener: str = SMTP) -> WholeGateway:
        targets = "".join(f"target.lmtp store{number} {{\n    targets {hop.endpoint}\n}}\n" for number, hop in enumerate(hops, 1))
        rules = "".join(
            f"    destination store{number}.test {{\n        deliver_to &store{number}\n    }}\n"
            for number in range(1, len(hops) + 1)
        )
        kind = "lmtp" if listener == LMTP else "smtp"
        return self.gateway(
            f"{targets}target.queue rest {{\n    target &store1\n    bounce {{\n        deliver_to &store1\n    }}\n}}\n"
            f"{kind} {listener} {{\n    tls off\n    on_split queue &rest\n{rules}"
            "    default_destination {\n        reject\n    }\n}\n"
        )

    def waiting(self, gateway: WholeGateway) -> list[Any]:
        queue: Any = gateway.configuration.instances["rest"]
        return self.reactor.run(queue.queue.store.browse(0, 100))  # type: ignore[no-any-return]

    def test_what_one_store_does_not_take_is_kept_for_that_store(self) -> None:
        first, second = self.hop(lmtp=True), self.hop(lmtp=True, script={Step.DOT: [say(b"452 4.2.2 full")]})
        gateway = self.stores(first, second)
        replies = self.deliver(self.client(), b"a@store1.test", b"b@store2.test", content=message("one"))
        self.assertEqual([reply[:3] for reply in replies], [b"250", b"250", b"250", b"354", b"250"])
        (entry,) = self.waiting(gateway)
        self.assertEqual((entry.target, str(entry.recipients[0].address)), ("store2", "b@store2.test"))
        self.reactor.settle(10 * MINUTE)
        self.assertEqual([len(hop.transactions) for hop in (first, second)], [1, 2])
        self.assertEqual(self.waiting(gateway), [])

    def test_several_recipients_of_one_store_in_one_transaction(self) -> None:
        store = self.hop(lmtp=True, script={Step.DOT: [say(b"250 2.0.0 ok", b"550 5.7.1 no", b"451 4.3.0 later")]})
        gateway = self.stores(store)
        replies = self.deliver(
            self.client(), b"a@store1.test", b"b@store1.test", b"c@store1.test", content=message("one"), sender=b"me@store1.test"
        )
        self.assertEqual(replies[-1][:3], b"250")
        self.reactor.settle(10 * MINUTE)
        # The first delivery, the report to the sender, and the one that was asked to come later.
        self.assertEqual(
            sorted(tuple(transaction.paths) for transaction in store.transactions),
            [(b"a@store1.test", b"b@store1.test", b"c@store1.test"), (b"c@store1.test",), (b"me@store1.test",)],
        )
        self.assertEqual(self.waiting(gateway), [])

    def test_one_final_answer_needs_no_queue(self) -> None:
        store = self.hop(lmtp=True, script={Step.DOT: [say(b"550 5.7.1 no")]})
        gateway = self.stores(store)
        replies = self.deliver(self.client(), b"a@store1.test", content=message("one"))
        self.assertEqual(replies[-1][:3], b"550")
        self.assertEqual(self.waiting(gateway), [])

    def test_a_next_hop_that_says_nothing_may_have_it_twice_and_the_log_says_so(self) -> None:
        first, second = self.hop(lmtp=True), self.hop(lmtp=True, script={Step.DOT: [DROP]})
        gateway = self.stores(first, second)
        replies = self.deliver(self.client(), b"a@store1.test", b"b@store2.test", content=message("one"))
        self.assertEqual(replies[-1][:3], b"250")
        self.reactor.settle(10 * MINUTE)
        self.assertEqual(len(second.transactions), 2)
        self.assertGreaterEqual(len(gateway.logged("delivery.possible_duplicate")), 2)


class CopyTests(SimulatedCase):
    """A queue beside an irrevocable target: prepared first, committed only when the other one took it."""

    def copies(self, hop: NextHop, archive: NextHop, listener: str = SMTP) -> WholeGateway:
        kind = "lmtp" if hop.lmtp else "smtp"
        return self.gateway(
            f"target.{kind} next {{\n    targets {hop.endpoint}\n}}\ntarget.smtp archive {{\n    targets {archive.endpoint}\n}}\n"
            "target.queue copies {\n    target &archive\n    bounce {\n        discard\n    }\n}\n"
            f"{'lmtp' if listener == LMTP else 'smtp'} {listener} {{\n"
            "    tls off\n    deliver_to &next\n    deliver_to &copies\n}\n"
        )

    def test_both_get_it(self) -> None:
        hop, archive = self.hop(), self.hop()
        self.copies(hop, archive)
        self.assertEqual(self.deliver(self.client(), b"b@y.test")[-1][:3], b"250")
        self.reactor.settle(10)
        self.assertEqual([len(one.transactions) for one in (hop, archive)], [1, 1])

    def test_what_the_next_hop_refuses_leaves_no_copy(self) -> None:
        hop, archive = self.hop(script={Step.DOT: say(b"550 5.7.1 no")}), self.hop()
        self.copies(hop, archive)
        self.assertEqual(self.deliver(self.client(), b"b@y.test")[-1][:3], b"550")
        self.reactor.settle(HOUR)
        self.assertEqual(archive.transactions, [])

    def test_each_recipient_of_lmtp_by_itself(self) -> None:
        hop, archive = self.hop(lmtp=True, script={Step.DOT: say(b"250 2.0.0 ok", b"550 5.7.1 no")}), self.hop()
        self.copies(hop, archive, LMTP)
        replies = self.deliver(self.client(LMTP), b"b@y.test", b"c@y.test")
        self.assertEqual([reply[:3] for reply in replies[-2:]], [b"250", b"550"])
        self.reactor.settle(HOUR)
        self.assertEqual([transaction.paths for transaction in archive.transactions], [[b"b@y.test"]])

    def test_copy_to_gets_what_was_accepted_and_changes_no_answer(self) -> None:
        hop, archive = self.hop(script={Step.DOT: [say(b"550 5.7.1 no")]}), self.hop()
        gateway = self.gateway(
            f"target.smtp next {{\n    targets {hop.endpoint}\n}}\ntarget.smtp archive {{\n    targets {archive.endpoint}\n}}\n"
            "target.queue copies {\n    target &archive\n    bounce {\n        discard\n    }\n}\n"
            f"smtp {SMTP} {{\n    tls off\n    deliver_to &next\n    copy_to &copies\n}}\n"
        )
        client = self.client()
        self.assertEqual(self.deliver(client, b"b@y.test", content=message("refused"))[-1][:3], b"550")
        self.assertEqual(self.deliver(client, b"b@y.test", b"c@y.test", content=message("taken"))[-1][:3], b"250")
        self.reactor.settle(10)
        (transaction,) = archive.transactions
        self.assertIn(b"X-Token: taken\r\n", transaction.content)
        self.assertEqual(transaction.paths, [b"b@y.test", b"c@y.test"])
        queue: Any = gateway.configuration.instances["copies"]
        queue.queue.recorder.paused = "a test says so"
        self.assertEqual(self.deliver(client, b"b@y.test")[-1][:3], b"250")
        self.reactor.settle(1)
        self.assertEqual(len(gateway.logged("copy.failed")), 1)
        queue.queue.recorder.paused = ""


class RateTests(QueueCase):
    def test_so_many_in_a_time_and_the_others_do_not_wait(self) -> None:
        hop = self.hop()
        self.queued(hop, queue="    limits {\n        destination rate 2 10m\n    }\n")
        client = self.client()
        for number in range(5):
            self.deliver(client, b"b@dest.test", content=message(str(number)))
        self.reactor.run(client.quit())
        counts = []
        for pause in (1, 5 * MINUTE, 5 * MINUTE, 5 * MINUTE):
            self.reactor.settle(pause)
            counts.append(len(hop.transactions))
        self.assertEqual(counts, [2, 3, 4, 5])
