"""`limits { … }` of targets on the wire: who waits, who hears 451 4.3.2, and that a limit of ours is no attempt."""

from __future__ import annotations

from typing import Any

from mailgate.testing.client import RawClient
from mailgate.testing.nexthop import HANG, Action, NextHop, Step
from tests.support.ledger import message
from tests.support.scenario import LMTP, SMTP, SimulatedCase, codes

BUSY = b"451 4.3.2 Too much mail for the next hop at present, try again later"
RCPT = b"RCPT TO:<b@y.test>"


class TargetLimitTests(SimulatedCase):
    def limited(self, *lines: str, target: str = "", script: dict[Step, list[Action]] | None = None) -> NextHop:
        hop = self.hop(script=script)
        block = "".join(f"        {line}\n" for line in lines)
        self.relay(hop, target=f"    limits {{\n{block}    }}\n{target}")
        return hop

    def mail(self, sender: bytes = b"a@client.test") -> RawClient:
        client = self.client()
        self.assertEqual(self.ask(client, b"MAIL FROM:<" + sender + b">")[:3], b"250")
        return client

    def seconds_of(self, action: Any) -> tuple[float, Any]:
        before = self.reactor.seconds()
        answer = action()
        return self.reactor.seconds() - before, answer

    def test_who_is_too_much_waits_as_long_as_for_a_connection(self) -> None:
        hop = self.limited("all concurrency 1", target="    lease_timeout 20s\n")
        first, second = self.mail(), self.mail()
        self.assertEqual(self.ask(first, RCPT)[:3], b"250")
        seconds, reply = self.seconds_of(lambda: self.ask(second, RCPT))
        self.assertEqual(reply, BUSY)
        self.assertLess(abs(seconds - 20.0), 0.1)
        self.ask(first, b"RSET")
        self.assertEqual(self.ask(second, RCPT), BUSY, "this message was refused; the next one is asked anew")
        self.ask(second, b"RSET")
        self.assertEqual(codes(self.deliver(second, b"b@y.test"))[-1], b"250")
        self.assertEqual(len(hop.transactions), 1)

    def test_a_limit_of_ours_is_no_attempt_and_nobody_is_to_blame(self) -> None:
        hop = self.limited("all rate 1 1h wait 0")
        client = self.client()
        self.assertEqual(codes(self.deliver(client, b"b@y.test"))[-1], b"250")
        assert self.running is not None
        attempts = len(self.running.logged("delivery.attempt"))
        self.say(client, b"MAIL FROM:<a@client.test>")
        self.assertEqual(self.ask(client, RCPT), BUSY)
        self.assertEqual(len(self.running.logged("delivery.attempt")), attempts)
        self.assertEqual(self.running.logged("endpoint.down"), [])
        self.assertIn('place=next limit="all rate 1 1h" key=* refused=1', self.running.logged("limit.refused")[0])
        self.assertEqual(len(hop.connections), 1)

    def test_a_rate_is_a_pause(self) -> None:
        self.limited("all rate 1 5s")
        client = self.client()
        self.deliver(client, b"b@y.test")
        seconds, replies = self.seconds_of(lambda: self.deliver(client, b"b@y.test"))
        self.assertEqual(codes(replies)[-1], b"250")
        self.assertLess(abs(seconds - 5.0), 0.2)

    def test_source(self) -> None:
        self.limited("source concurrency 1 wait 0")
        first, second, other = self.mail(), self.mail(), self.mail(b"a@other.test")
        replies = [self.ask(client, RCPT) for client in (first, second, other)]
        self.assertEqual(codes(replies), [b"250", b"451", b"250"])

    def test_destination(self) -> None:
        self.limited("destination concurrency 1 wait 0")
        first, second = self.mail(), self.mail()
        self.assertEqual(self.ask(first, RCPT)[:3], b"250")
        self.assertEqual(self.ask(first, b"RCPT TO:<c@y.test>")[:3], b"250", "one message to a domain counts once")
        self.assertEqual(self.ask(second, RCPT), BUSY)
        self.assertEqual(self.ask(second, b"RCPT TO:<b@z.test>")[:3], b"250")

    def test_released_however_it_ends(self) -> None:
        ends: dict[str, Any] = {
            "delivered": lambda client: self.say(client, b"DATA", b"Subject: x\r\n\r\nx\r\n."),
            "RSET": lambda client: self.ask(client, b"RSET"),
            "client gone": lambda client: client.drop(reset=True),
            "QUIT": lambda client: self.reactor.run(client.quit()),
        }
        for name, end in ends.items():
            with self.row(name):
                self.limited("all concurrency 1 wait 0")
                client = self.mail()
                self.assertEqual(self.ask(client, RCPT)[:3], b"250")
                end(client)
                self.reactor.settle(1)
                self.assertEqual(self.ask(self.mail(), RCPT)[:3], b"250")

    def test_released_when_the_next_hop_refuses_or_fails(self) -> None:
        for name, step, action in [("hang", Step.RCPT, HANG), ("hang at the dot", Step.DOT, HANG)]:
            with self.row(name):
                timeouts = "    command_timeout 5s\n    submission_timeout 5s\n"
                hop = self.limited("all concurrency 1 wait 0", target=timeouts, script={step: [action]})
                client = self.client()
                self.assertEqual(
                    codes(self.deliver(client, b"b@y.test", content=message("x")))[1 if step is Step.RCPT else -1], b"451"
                )
                self.ask(client, b"RSET")
                self.reactor.settle(1)
                self.assertEqual(codes(self.deliver(self.client(), b"b@y.test"))[-1], b"250")
                self.assertGreaterEqual(len(hop.connections), 2)

    def test_who_waits_and_leaves_takes_nothing(self) -> None:
        self.limited("all concurrency 1")
        first, second, third = self.mail(), self.mail(), self.mail()
        self.ask(first, RCPT)
        second.send(RCPT + b"\r\n")
        self.reactor.settle(1)
        second.drop(reset=True)
        self.reactor.settle(1)
        self.ask(first, b"RSET")
        seconds, reply = self.seconds_of(lambda: self.ask(third, RCPT))
        self.assertEqual(reply[:3], b"250")
        self.assertLess(seconds, 1.0)

    def test_lmtp_hears_it_too(self) -> None:
        self.limited("source rate 1 1h wait 0")
        self.assertEqual(codes(self.deliver(self.client(SMTP), b"b@y.test"))[-1], b"250")
        replies = self.deliver(self.client(LMTP), b"b@y.test", b"c@y.test")
        self.assertEqual(replies[1:3], [BUSY, BUSY])
