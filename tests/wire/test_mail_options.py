"""MT-PRIORITY, FUTURERELEASE and DELIVERBY: announced where they are configured, and kept by the queue behind the listener."""

from __future__ import annotations

import email
import email.policy
import re
from datetime import UTC, datetime
from typing import Any

from mailgate.testing.gateway import WholeGateway
from mailgate.testing.nexthop import DROP, NextHop, Step, say
from tests.support.ledger import message
from tests.support.scenario import LMTP, SMTP, SimulatedCase

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
OPTIONS = "    mt_priority 4\n    future_release 7d\n    deliver_by 1m\n"
EXTENSIONS = (b"PIPELINING", b"8BITMIME", b"ENHANCEDSTATUSCODES", b"SIZE 0")


class OptionCase(SimulatedCase):
    def queued(self, hop: NextHop, back: NextHop | None = None, *, queue: str = "", options: str = OPTIONS) -> WholeGateway:
        home = back or hop
        kind = "lmtp" if hop.lmtp else "smtp"
        return self.gateway(
            f"target.{kind} next {{\n    targets {hop.endpoint}\n}}\ntarget.smtp home {{\n    targets {home.endpoint}\n}}\n"
            f"target.queue outbound {{\n    target &next\n{queue}    bounce {{\n        deliver_to &home\n    }}\n}}\n"
            f"smtp {SMTP} {{\n    tls off\n{options}    deliver_to &outbound\n}}\n"
            f"lmtp {LMTP} {{\n    tls off\n    deliver_to &outbound\n}}\n"
        )

    def submit(self, parameters: bytes, token: str = "one", sender: bytes = b"a@x.test") -> list[bytes]:
        client = self.client()
        replies = self.say(client, b"MAIL FROM:<" + sender + b"> " + parameters, b"RCPT TO:<b@y.test>", b"DATA")
        replies += self.say(client, message(token) + b".")
        self.reactor.run(client.quit())
        return replies

    def now(self) -> float:
        assert self.running is not None
        return float(self.running.live._assembler._adapters.wall_time())  # type: ignore[attr-defined]

    def stamp(self, seconds: float) -> bytes:
        return datetime.fromtimestamp(self.now() + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()

    def tokens(self, hop: NextHop) -> list[str]:
        return [re.findall(rb"X-Token: (\S+)", transaction.content)[0].decode() for transaction in hop.transactions]

    def report(self, hop: NextHop) -> dict[str, str]:
        parsed: Any = email.message_from_bytes(hop.transactions[-1].content, policy=email.policy.default)
        return dict(list(parsed.iter_parts())[1].get_payload()[1].items())


class AnnouncedTests(OptionCase):
    def test_only_where_configured(self) -> None:
        self.queued(self.hop())
        hello = self.ask(self.client(), b"EHLO again.test").split(b"\r\n")
        self.assertIn(b"250-MT-PRIORITY", hello)
        self.assertIn(b"250-FUTURERELEASE 604800 " + self.stamp(7 * DAY), hello)
        self.assertIn(b"250 DELIVERBY 60", hello)
        without = self.client(LMTP)
        self.assertFalse(re.search(b"PRIORITY|RELEASE|DELIVER", self.ask(without, b"LHLO again.test")))
        for parameter in (b"MT-PRIORITY=1", b"HOLDFOR=60", b"HOLDUNTIL=2030-01-01T00:00:00Z", b"BY=60;N"):
            self.assertEqual(self.ask(without, b"MAIL FROM:<a@x.test> " + parameter)[:9], b"555 5.5.4", parameter)

    def test_the_time_that_is_announced_goes_on(self) -> None:
        self.queued(self.hop())
        client = self.client()
        first = self.ask(client, b"EHLO again.test")
        self.reactor.settle(90)
        self.assertNotEqual(self.ask(client, b"EHLO again.test"), first)

    def test_the_answer_to_each_value(self) -> None:
        self.queued(self.hop())
        for parameters, expected in (
            (b"MT-PRIORITY=4", b"250 2.1.0"),
            (b"MT-PRIORITY=-9", b"250 2.1.0"),
            (b"MT-PRIORITY=0", b"250 2.1.0"),
            (b"MT-PRIORITY=5", b"250 2.3.6"),
            (b"MT-PRIORITY=10", b"501 5.5.4"),
            (b"MT-PRIORITY=+1", b"501 5.5.4"),
            (b"MT-PRIORITY=-0", b"501 5.5.4"),
            (b"MT-PRIORITY", b"501 5.5.4"),
            (b"HOLDFOR=604800", b"250 2.1.0"),
            (b"HOLDFOR=604801", b"501 5.5.4"),
            (b"HOLDFOR=0", b"501 5.5.4"),
            (b"HOLDFOR=-1", b"501 5.5.4"),
            (b"HOLDUNTIL=" + self.stamp(7 * DAY - 5), b"250 2.1.0"),
            (b"HOLDUNTIL=" + self.stamp(7 * DAY + 60), b"501 5.5.4"),
            (b"HOLDUNTIL=" + self.stamp(-60), b"250 2.1.0"),
            (b"HOLDUNTIL=2030-13-01T00:00:00Z", b"501 5.5.4"),
            (b"HOLDUNTIL=tomorrow", b"501 5.5.4"),
            (b"HOLDFOR=60 HOLDUNTIL=" + self.stamp(60), b"501 5.5.4"),
            (b"HOLDFOR=60 HOLDFOR=60", b"501 5.5.4"),
            (b"BY=60;R", b"250 2.1.0"),
            (b"BY=59;R", b"501 5.5.4"),
            (b"BY=-5;R", b"501 5.5.4"),
            (b"BY=0;R", b"501 5.5.4"),
            (b"BY=-5;N", b"250 2.1.0"),
            (b"BY=120;nt", b"250 2.1.0"),
            (b"BY=120", b"501 5.5.4"),
            (b"BY=120;X", b"501 5.5.4"),
            (b"BY=1234567890;N", b"501 5.5.4"),
        ):
            client = self.client()
            reply = self.ask(client, b"MAIL FROM:<a@x.test> " + parameters)
            self.assertEqual(reply[:9], expected, parameters)
            self.reactor.run(client.quit())


class PriorityTests(OptionCase):
    def test_the_highest_first_and_it_goes_along(self) -> None:
        hop = self.hop(extensions=(*EXTENSIONS, b"MT-PRIORITY"))
        gateway = self.queued(hop, queue="    limits {\n        destination concurrency 1\n    }\n")
        queue: Any = gateway.configuration.instances["outbound"]
        queue.queue.destinations.each = 0  # nothing leaves
        for token, parameters in (
            ("low", b"MT-PRIORITY=-3"),
            ("none", b""),
            ("high", b"MT-PRIORITY=3"),
            ("top", b"MT-PRIORITY=9"),
        ):
            self.submit(parameters, token)
        queue.queue.destinations.each = 1
        queue.queue.wake()
        for destination in queue.queue.destinations.report():
            queue.queue.destinations._enter(destination)
        queue.queue._serve()
        self.reactor.settle(60)
        self.assertEqual(self.tokens(hop), ["top", "high", "none", "low"])
        words = [transaction.mail.partition(b"MT-PRIORITY=")[2].split(b" ")[0] for transaction in hop.transactions]
        self.assertEqual(words, [b"4", b"3", b"", b"-3"])

    def test_those_in_the_store_too(self) -> None:
        hop = self.hop(script={Step.CONNECT: [DROP]})
        self.queued(hop, queue="    limits {\n        destination concurrency 1\n    }\n    retry 10m\n")
        self.submit(b"", "probe")
        self.reactor.settle(5)
        for token, parameters in (("none", b""), ("high", b"MT-PRIORITY=3")):
            self.submit(parameters, token)
        self.reactor.settle(HOUR)
        tokens = self.tokens(hop)
        self.assertEqual(sorted(tokens), ["high", "none", "probe"])
        self.assertLess(tokens.index("high"), tokens.index("none"))


class HeldTests(OptionCase):
    def test_nothing_leaves_before_its_time(self) -> None:
        for parameter in (b"HOLDFOR=3600", b"until"):
            with self.row(parameter.decode()):
                hop = self.hop()
                self.queued(hop)
                self.submit(b"HOLDUNTIL=" + self.stamp(HOUR) if parameter == b"until" else parameter)
                self.reactor.settle(HOUR - 60)
                self.assertEqual(hop.transactions, [])
                self.reactor.settle(120)
                self.assertEqual(len(hop.transactions), 1)
                self.assertNotIn(b"HOLD", hop.transactions[0].mail)

    def test_it_is_held_over_a_restart_and_tried_as_long_as_others(self) -> None:
        hop = self.hop(script=lambda step, connection, line: say(b"451 4.3.0 later") if step is Step.MAIL else None)
        back = self.hop()
        gateway = self.queued(hop, back, queue="    notify 1h\n    expire 1d\n    retry 1h\n")
        self.submit(b"HOLDFOR=172800")
        text, adapters = gateway.path.read_text(), gateway.live._assembler._adapters  # type: ignore[attr-defined]
        self.reactor.run(gateway.stop(), limit=600)
        self.running = WholeGateway(text, adapters, self.directory)
        self.reactor.run(self.running.start())
        self.reactor.settle(2 * DAY + 30 * MINUTE)
        self.assertEqual(back.transactions, [], "what was held is not late")
        self.reactor.settle(2 * HOUR)
        self.assertEqual(self.report(back)["Action"], "delayed")
        self.reactor.settle(DAY)
        self.assertEqual(self.report(back)["Action"], "failed")
        self.assertEqual(len(back.transactions), 2)


class DeliverByTests(OptionCase):
    LATER = staticmethod(lambda step, connection, line: say(b"451 4.3.0 later") if step is Step.MAIL else None)

    def test_late_mail_is_returned(self) -> None:
        hop, back = self.hop(lmtp=True, script=self.LATER), self.hop()
        self.queued(hop, back, queue="    retry 1m\n")
        self.submit(b"BY=600;R")
        self.reactor.settle(9 * MINUTE)
        self.assertEqual(back.transactions, [])
        self.reactor.settle(5 * MINUTE)
        found = self.report(back)
        self.assertEqual((found["Action"], found["Status"]), ("failed", "5.4.7"))
        self.reactor.settle(DAY)
        self.assertEqual((len(back.transactions), hop.transactions), (1, []))

    def test_nothing_is_delivered_too_late(self) -> None:
        hop, back = self.hop(lmtp=True, script={Step.CONNECT: [DROP] * 9}), self.hop()
        self.queued(hop, back, queue="    retry 1h\n")
        self.submit(b"BY=600;R")
        self.reactor.settle(DAY)
        self.assertEqual(hop.transactions, [])
        self.assertEqual(self.report(back)["Status"], "5.4.7")

    def test_who_wants_to_hear_of_it_hears_of_it(self) -> None:
        hop, back = self.hop(script=self.LATER), self.hop()
        self.queued(hop, back, queue="    retry 1m\n")
        self.submit(b"BY=600;N")
        self.reactor.settle(9 * MINUTE)
        self.assertEqual(back.transactions, [])
        self.reactor.settle(5 * MINUTE)
        self.assertEqual(self.report(back)["Action"], "delayed")

    def test_what_is_left_goes_along(self) -> None:
        for extensions, expected in (((b"DELIVERBY",), 1), ((), 0)):
            with self.row(str(expected)):
                hop, back = (
                    self.hop(extensions=(*EXTENSIONS, *extensions), script={Step.MAIL: [say(b"451 4.3.0 later")]}),
                    self.hop(),
                )
                self.queued(hop, back, queue="    retry 2m\n")
                self.submit(b"BY=600;RT")
                self.reactor.settle(5 * MINUTE)
                self.assertEqual(len(hop.transactions), expected)
                if expected:
                    left = re.findall(rb" BY=(\d+);RT", hop.transactions[0].mail)
                    self.assertTrue(400 < int(left[0]) < 500, left)
                else:  # nobody there would return it
                    self.assertEqual(self.report(back)["Status"], "5.3.3")

    def test_a_trace_is_a_report_of_relaying(self) -> None:
        hop, back = self.hop(extensions=EXTENSIONS), self.hop()
        self.queued(hop, back)
        self.submit(b"BY=600;NT")
        self.reactor.settle(MINUTE)
        self.assertEqual(self.report(back)["Action"], "relayed")
