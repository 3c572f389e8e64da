"""Next hops that fail: every step of the dialogue × every way to fail, over SMTP and LMTP (trust page, class 6).

The table says what must come of it where a second, healthy endpoint stands behind the failing one:

    moved     the second endpoint gets the message, once; the client hears 250
    answer    what was said is the client's answer; the second endpoint hears nothing of it
    unknown   the final dot was written: 451 4.4.2, recorded as a possible duplicate, no second delivery
"""

from __future__ import annotations

from mailgate.testing.nexthop import DEAF, DROP, ENDLESS, GARBAGE, HANG, RESET, Action, Step, say
from tests.support.ledger import Ledger, message
from tests.support.scenario import LMTP, SMTP, SimulatedCase

ACTIONS: dict[str, Action] = {
    "421": say(b"421 4.3.2 going down", then_drop=True),
    "4xx": say(b"450 4.2.0 later"),
    "5xx": say(b"550 5.1.1 no"),
    "220": say(b"220 hello"),
    "221": say(b"221 2.0.0 bye"),
    "354": say(b"354 go on"),
    "garbage": GARBAGE,
    "hang": HANG,
    "deaf": DEAF,
    "drop": DROP,
    "reset": RESET,
    "endless": ENDLESS,
}
SETUP = ("421", "4xx", "5xx", "garbage", "hang", "drop", "reset", "endless")
OUTCOMES: dict[Step, dict[str, str]] = {
    Step.CONNECT: dict.fromkeys(("hang", "drop", "reset"), "moved"),
    Step.BANNER: dict.fromkeys(SETUP, "moved"),
    Step.HELLO: dict.fromkeys(SETUP, "moved"),
    Step.MAIL: dict.fromkeys(SETUP, "moved") | {"5xx": "answer"},
    Step.RCPT: dict.fromkeys(SETUP, "moved") | {"5xx": "answer"},
    Step.DATA: dict.fromkeys(SETUP, "moved") | {"5xx": "answer"},
    Step.BODY: dict.fromkeys(("421", "4xx", "garbage", "deaf", "drop", "reset"), "moved") | {"5xx": "answer", "hang": "unknown"},
    Step.DOT: dict.fromkeys(("220", "221", "354", "garbage", "hang", "drop", "reset", "endless"), "unknown")
    | dict.fromkeys(("421", "4xx", "5xx"), "answer"),
}
"""The body is larger than what fits on the way, so a fault in it meets a gateway that has not written the dot yet; a next hop
that swallows all of it and then says nothing is one that never answered the dot."""

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


class NextHopFaults(SimulatedCase):
    """Each test of the table is one step; its rows are the actions."""

    endpoint = SMTP
    lmtp_store = False

    def rows(self, step: Step) -> None:
        for name, outcome in OUTCOMES[step].items():
            with self.row(f"{step.value} × {name} → {outcome}"):
                self.fault(step, name, outcome)

    def fault(self, step: Step, name: str, outcome: str) -> None:
        first = self.hop(lmtp=self.lmtp_store, script={step: ACTIONS[name]})
        second = self.hop(lmtp=self.lmtp_store)
        gateway = self.relay(first, second, target=TIMEOUTS)
        client = self.client(self.endpoint)
        began = self.reactor.seconds()
        replies = self.deliver(client, b"r@y.test", content=LARGE if step is Step.BODY else SMALL)
        self.assertLess(self.reactor.seconds() - began, 100, replies)
        final = replies[-1]
        reached = (len(first.transactions), len(second.transactions))
        if outcome == "moved":
            self.assertEqual(final[:3], b"250", replies)
            self.assertEqual(reached, (0, 1), replies)
        elif outcome == "answer":
            expected = {"421": b"4", "4xx": b"450 4.2.0", "5xx": b"550 5.1.1"}[name]
            refused = next(reply for reply in replies if reply[:1] in (b"4", b"5"))
            self.assertTrue(refused.startswith(expected), replies)
            self.assertEqual(reached[1], 0, replies)
        else:
            self.assertTrue(final.startswith(b"451 4.4.2"), replies)
            self.assertEqual(reached[1], 0, replies)
            self.assertEqual(len(gateway.logged("delivery.possible_duplicate")), 1, replies)
        ledger = Ledger()
        ledger.answered("m", b"r@y.test", final)
        ledger.book(first, second).check()

    def test_connect(self) -> None:
        self.rows(Step.CONNECT)

    def test_banner(self) -> None:
        self.rows(Step.BANNER)

    def test_hello(self) -> None:
        self.rows(Step.HELLO)

    def test_mail(self) -> None:
        self.rows(Step.MAIL)

    def test_rcpt(self) -> None:
        self.rows(Step.RCPT)

    def test_data(self) -> None:
        self.rows(Step.DATA)

    def test_body(self) -> None:
        self.rows(Step.BODY)

    def test_dot(self) -> None:
        self.rows(Step.DOT)


class NextHopFaultsOverLmtp(NextHopFaults):
    endpoint = LMTP
    lmtp_store = True


class SmtpInLmtpOutFaults(NextHopFaults):
    lmtp_store = True


class LonelyNextHop(SimulatedCase):
    """Without a second endpoint every failure before the dot is a deferral, and within the configured time."""

    def test_every_step_and_action_is_4xx_or_the_answer_itself(self) -> None:
        for step, actions in OUTCOMES.items():
            for name, outcome in actions.items():
                with self.row(f"{step.value} × {name}"):
                    hop = self.hop(script={step: ACTIONS[name]})
                    self.relay(hop, target=TIMEOUTS)
                    began = self.reactor.seconds()
                    replies = self.deliver(self.client(), b"r@y.test", content=LARGE if step is Step.BODY else SMALL)
                    expected = b"5" if (name == "5xx" and outcome == "answer") else b"4"
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
