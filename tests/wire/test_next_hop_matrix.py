"""Next hops that fail: every step × every action × SMTP and LMTP × cut-through and queue, each with the outcome of
tests/support/next_hop_table.py.

A whole gateway on a simulated clock for all of it, and the engine over real sockets for the steps that a socket can make differ.
Besides its outcome each cell has: nothing lost, nothing doubled (I1 to I3), no wait beyond the timeouts, a clean log, no
connection left, and a clean message passes at once afterwards.
"""

from __future__ import annotations

from typing import Any

from mailgate.testing.nexthop import NextHop, Step, say
from tests.outbound.support import CONTENT, deliver, fill
from tests.support.adapters import real_adapters
from tests.support.certificates import leaf
from tests.support.ledger import Ledger, message
from tests.support.next_hop_table import STEPS, TABLE, Fate, Outcome, action_at, fate_of, outcome_of
from tests.support.scenario import LMTP, SMTP, SimulatedCase, statuses
from tests.wire.test_outbound_failover import LARGE, QUICK, _Hops

EXTENSIONS = (b"PIPELINING", b"8BITMIME", b"ENHANCEDSTATUSCODES", b"SIZE 0")
TIMES = """\
    connect_timeout 20s
    command_timeout 20s
    submission_timeout 40s
    timeouts {
        data_block 20s
        rset 20s
    }
    hold_timeout 10s
"""
SETTINGS = {
    "starttls": "tls require\n",
    "auth": "tls disabled\n    auth plain gateway secret\n    auth_insecure yes\n",
}
LARGE_BODY = (b"x" * 998 + b"\r\n") * 2000
"""More than what fits on the way: a fault in it meets a gateway that has not written the dot yet."""
SAID = {"421": b"451 4.3.2", "4xx": b"450 4.2.0", "5xx": b"550 5.1.1"}


class Matrix(SimulatedCase):
    """One test for each step; its rows are the actions."""

    inbound = SMTP
    lmtp = False

    def hop_for(self, step: str, **script: Any) -> NextHop:
        offered = (*EXTENSIONS, b"AUTH PLAIN") if step == "auth" else EXTENSIONS
        tls = leaf("next.test").server if step == "starttls" else None
        return self.hop(lmtp=self.lmtp, extensions=offered, tls=tls, idle_delay=0.5, **script)

    def rows(self, step: str) -> None:
        for action in TABLE[step]:
            outcome = outcome_of(step, action, lmtp=self.lmtp)
            with self.row(f"{step} × {action} → {outcome.value}"):
                self.cell(step, action, outcome)

    def cell(self, step: str, action: str, outcome: Outcome) -> None:
        first = self.hop_for(step, script={STEPS[step]: [action_at(step, action)]})
        second = self.hop_for(step)
        if step == "connect" and action != "drop":
            (self.reactor.refuse if action == "refuse" else self.reactor.black_hole)("127.0.0.1", first.port)
        gateway = self.relay(first, second, target=SETTINGS.get(step, "") + TIMES)
        client = self.client(self.inbound)
        ledger = Ledger()
        if step == "idle":
            replies = self.deliver(client, b"before@y.test", content=message("before"))
            ledger.answered("before", b"before@y.test", replies[-1])
            self.reactor.settle(1)
        began = self.reactor.seconds()
        if step == "rset":
            replies = self.slowly(client)
        else:
            body = LARGE_BODY if step == "body" else b"Hello.\r\n"
            replies = self.deliver(client, b"r@y.test", content=message("m", body=body))
        self.assertLess(self.reactor.seconds() - began, 75, replies)
        final = replies[-1]
        ledger.answered("m", b"r@y.test", final)
        ledger.book(first, second).check()
        self.check(outcome, action, statuses(replies), first, second)
        duplicates = gateway.logged("delivery.possible_duplicate")
        self.assertEqual(len(duplicates), int(outcome is Outcome.UNKNOWN), duplicates)
        if outcome is Outcome.SAME:
            self.assertEqual(gateway.logged("endpoint.down"), [])
            failed = [line for line in gateway.logged("delivery.attempt") if "error=" in line]
            self.assertEqual(failed, [])
        self.check_alive(self.inbound)

    def slowly(self, client: Any) -> list[bytes]:
        """The client keeps the connection waiting for longer than `hold_timeout`: there is an RSET in between."""
        replies = [self.ask(client, b"MAIL FROM:<sender@client.test>"), self.ask(client, b"RCPT TO:<r@y.test>")]
        self.reactor.settle(12)
        replies.append(self.ask(client, b"DATA"))
        client.send(message("m") + b".\r\n")
        return [*replies, self.reactor.run(client.reply())]

    def check(self, outcome: Outcome, action: str, replies: list[bytes], first: NextHop, second: NextHop) -> None:
        reached = [sum(b"X-Token: m\r" in done.content for done in hop.transactions) for hop in (first, second)]
        if outcome in (Outcome.MOVED, Outcome.SAME):
            self.assertEqual(replies[-1][:3], b"250", replies)
            self.assertEqual(reached, [0, 1] if outcome is Outcome.MOVED else [1, 0], replies)
        elif outcome is Outcome.ANSWER:
            self.assertIn(SAID[action], replies)
            self.assertEqual(second.mail_count, 0, replies)
        else:
            self.assertEqual(replies[-1], b"451 4.4.2", replies)
            self.assertEqual(second.mail_count, 0, replies)

    def test_connect(self) -> None:
        self.rows("connect")

    def test_banner(self) -> None:
        self.rows("banner")

    def test_ehlo(self) -> None:
        self.rows("ehlo")

    def test_starttls(self) -> None:
        self.rows("starttls")

    def test_auth(self) -> None:
        self.rows("auth")

    def test_mail(self) -> None:
        self.rows("mail")

    def test_rcpt(self) -> None:
        self.rows("rcpt")

    def test_data(self) -> None:
        self.rows("data")

    def test_body(self) -> None:
        self.rows("body")

    def test_dot(self) -> None:
        self.rows("dot")

    def test_rset(self) -> None:
        self.rows("rset")

    def test_idle(self) -> None:
        self.rows("idle")


class MatrixOverLmtp(Matrix):
    inbound = LMTP
    lmtp = True


class SmtpInLmtpOutMatrix(Matrix):
    lmtp = True


class QueueMatrix(Matrix):
    """The client has heard 250 before anybody was asked: what becomes of it is `Fate`."""

    WAIT = 600.0
    """Beyond every timeout, and two retries."""

    def cell(self, step: str, action: str, outcome: Outcome) -> None:
        fate = fate_of(action, outcome)
        script: dict[Step, Any] = {STEPS[step]: [action_at(step, action)]}
        if step == "rset":
            script[Step.RCPT] = [say(b"550 5.1.1 no")]
        first, second, back = self.hop_for(step, script=script), self.hop_for(step), self.hop()
        if step == "connect" and action != "drop":
            (self.reactor.refuse if action == "refuse" else self.reactor.black_hole)("127.0.0.1", first.port)
        self.keep(SETTINGS.get(step, "") + TIMES, first, second, back)
        ledger = Ledger()
        if step in ("idle", "rset"):
            self.submit(ledger, "before", settle=1)
        self.submit(ledger, "m", settle=self.WAIT, body=LARGE_BODY if step == "body" else b"Hello.\r\n")
        if fate is Fate.REPORTED:
            ledger.settled.add(("m", b"r@y.test"))
        if step == "rset":
            ledger.settled.add(("before", b"r@y.test"))
        ledger.book(first, second).check()
        self.judge(fate, outcome, first, second, back)
        self.submit(Ledger(), "alive", settle=5)
        self.assertIn(b"X-Token: alive\r", b"".join(done.content for hop in (first, second) for done in hop.transactions))

    def judge(self, fate: Fate, outcome: Outcome, first: NextHop, second: NextHop, back: NextHop) -> None:
        assert self.running is not None
        reached = [sum(b"X-Token: m\r" in done.content for done in hop.transactions) for hop in (first, second)]
        reports = [done for done in back.transactions if b"X-Token: m\r" in done.content]
        retries = len(self.running.logged("queue.retry"))
        doubts = len(self.running.logged("delivery.possible_duplicate"))
        self.assertEqual((len(reports), bool(retries)), (int(fate is Fate.REPORTED), fate in (Fate.RETRIED, Fate.REPEATED)))
        if fate is Fate.DELIVERED:
            self.assertEqual(reached, [0, 1] if outcome is Outcome.MOVED else [1, 0])
        elif fate is Fate.RETRIED:
            self.assertEqual(self.answered_well("m", first, second), 1, reached)
        elif fate is Fate.REPEATED:
            self.assertGreaterEqual(doubts, 1)
            self.assertEqual((self.answered_well("m", first, second), sum(reached)), (1, 2))
        if fate is not Fate.REPEATED:
            self.assertEqual(doubts, 0)

    def answered_well(self, token: str, *hops: NextHop) -> int:
        ledger = Ledger().book(*hops)
        return ledger.deliveries[token, b"r@y.test"]

    def keep(self, settings: str, first: NextHop, second: NextHop, back: NextHop) -> None:
        kind = "lmtp" if self.lmtp else "smtp"
        self.gateway(
            f"target.{kind} next {{\n    targets {first.endpoint} {second.endpoint}\n{settings}}}\n"
            f"target.smtp back {{\n    targets {back.endpoint}\n}}\n"
            "target.queue kept {\n    target &next\n    retry 2m\n    bounce {\n        deliver_to &back\n    }\n}\n"
            f"smtp {SMTP} {{\n    tls off\n    deliver_to &kept\n}}\n"
        )

    def submit(self, ledger: Ledger, token: str, *, settle: float, body: bytes = b"Hello.\r\n") -> None:
        client = self.client()
        replies = self.deliver(client, b"r@y.test", content=message(token, body=body))
        self.assertEqual(replies[-1][:3], b"250", replies)
        ledger.answered(token, b"r@y.test", replies[-1])
        self.reactor.run(client.quit())
        self.reactor.settle(settle)


class QueueToLmtpMatrix(QueueMatrix):
    lmtp = True


class SocketMatrix(_Hops):
    """The same table over real sockets, by the engine alone: one test for each cell of the steps up to the dot."""

    async def check(self, step: str, action: str, *, lmtp: bool) -> None:
        outcome = outcome_of(step, action, lmtp=lmtp)
        bad = self.hop(script={STEPS[step]: [action_at(step, action)]}, lmtp=lmtp)
        good = self.hop(lmtp=lmtp)
        engine = self.engine(bad, good, lmtp=lmtp, timeouts=QUICK, fallback_delay=0)
        large = await fill(LARGE, real_adapters()) if step == "body" else None
        heard, replies = await deliver(engine, message=large)
        if large is not None:
            large.body.release()
        found = [(reply.code, reply.enhanced) for reply in (*heard, *replies)]
        delivered = [done.content == (CONTENT if large is None else LARGE) for done in good.transactions]
        if outcome in (Outcome.MOVED, Outcome.SAME):
            self.assertEqual([code for code, _ in found], [250, 250], found)
            self.assertEqual((len(bad.transactions), delivered), (1, []) if outcome is Outcome.SAME else (0, [True]))
        elif outcome is Outcome.ANSWER:
            code, enhanced = SAID[action].decode().split()
            self.assertEqual((found[-1], delivered), ((int(code), enhanced), []), found)
        else:
            self.assertEqual((found[-1], delivered), ((451, "4.4.2"), []), found)


def _add(step: str, action: str, lmtp: bool) -> None:
    async def test(self: SocketMatrix) -> None:
        await self.check(step, action, lmtp=lmtp)

    setattr(SocketMatrix, f"test_{step}_{action}_{'lmtp' if lmtp else 'smtp'}", test)


for _step in ("connect", "banner", "ehlo", "mail", "rcpt", "data", "body", "dot"):
    for _action in TABLE[_step]:
        for _lmtp in (False, True):
            _add(_step, _action, _lmtp)


class TableTest(SimulatedCase):
    def test_the_table_has_every_step_and_what_is_left_out_can_not_be(self) -> None:
        self.assertEqual(set(TABLE), set(STEPS))
        for step, row in TABLE.items():
            demanded = (
                {"refuse", "hang", "drop"} if step == "connect" else set(SAID) | {"refuse", "hang", "drop", "garbage", "endless"}
            )
            self.assertLessEqual(demanded, set(row), step)
        self.assertEqual({TABLE["dot"][code] for code in ("220", "221", "354", "garbage")}, {Outcome.UNKNOWN})
