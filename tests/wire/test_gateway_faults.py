"""A next hop that fails and stands alone, and what happens to connections between messages (trust page, class 6).

Where a second endpoint stands behind the failing one, see test_next_hop_matrix.py.
"""

from __future__ import annotations

from mailgate.testing.nexthop import DROP, GARBAGE, RESET, Action, Step, say
from tests.support.ledger import message
from tests.support.next_hop_table import STEPS, TABLE, Outcome, action_at
from tests.support.scenario import SimulatedCase

TIMEOUTS = """\
    connect_timeout 20s
    command_timeout 20s
    submission_timeout 40s
    timeouts {
        data_block 20s
    }
"""
LARGE = message("m", body=(b"x" * 998 + b"\r\n") * 2000)
SMALL = message("m")


class LonelyNextHop(SimulatedCase):
    """Without a second endpoint every failure before the dot is a deferral, and within the configured time."""

    def test_every_step_and_action_is_4xx_or_the_answer_itself(self) -> None:
        for step in ("connect", "banner", "ehlo", "mail", "rcpt", "data", "body", "dot"):
            for name, outcome in TABLE[step].items():
                with self.row(f"{step} × {name}"):
                    hop = self.hop(script={STEPS[step]: action_at(step, name)})
                    self.relay(hop, target=TIMEOUTS)
                    began = self.reactor.seconds()
                    replies = self.deliver(self.client(), b"r@y.test", content=LARGE if step == "body" else SMALL)
                    expected = b"5" if (name == "5xx" and outcome is Outcome.ANSWER) else b"4"
                    refused = next(reply for reply in replies if reply[:1] in (b"4", b"5"))
                    self.assertEqual(refused[:1], expected, replies)
                    self.assertLess(self.reactor.seconds() - began, 250, replies)


class PooledConnections(SimulatedCase):
    """What happens to connections between messages is nobody's failure."""

    def between(self, action: Action, delay: float = 1.0) -> None:
        hop = self.hop(script={Step.IDLE: [action]}, idle_delay=delay)
        self.relay(hop)
        client = self.client()
        for number in range(3):
            replies = self.deliver(client, b"%d@y.test" % number)
            self.assertEqual(replies[-1][:3], b"250", replies)
            self.reactor.settle(5)
        self.assertEqual(len(hop.transactions), 3)
        self.assertEqual(len(hop.connections), 2)
        assert self.running is not None
        self.assertEqual(self.running.logged("endpoint.down"), [])

    def test_closed_while_idle(self) -> None:
        self.between(DROP)

    def test_reset_while_idle(self) -> None:
        self.between(RESET)

    def test_421_while_idle(self) -> None:
        self.between(say(b"421 4.4.2 idle too long", then_drop=True))

    def test_421_while_idle_without_closing(self) -> None:
        self.between(say(b"421 4.4.2 idle too long"))

    def test_garbage_while_idle(self) -> None:
        self.between(GARBAGE)

    def test_421_to_mail_on_a_reused_connection_is_silently_repeated(self) -> None:
        hop = self.hop(script={Step.MAIL: [say(b"250 2.1.0 ok"), say(b"421 4.7.0 enough", then_drop=True)]})
        self.relay(hop)
        client = self.client()
        for number in range(3):
            self.assertEqual(self.deliver(client, b"%d@y.test" % number)[-1][:3], b"250")
        self.assertEqual(len(hop.transactions), 3)
        self.assertEqual(len(hop.connections), 2)
