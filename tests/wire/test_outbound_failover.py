"""What happens when a next hop fails: who gets the message, what the client hears. Step by step it is test_next_hop_matrix.py."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from mailgate.outbound.health import HealthSettings, State
from mailgate.outbound.pool import PoolSettings
from mailgate.testing.nexthop import DROP, HANG, NextHop, Step, say
from tests.outbound.support import (
    CONTENT,
    Observed,
    deliver,
    endpoint_settings,
    fill,
    make_hops,
    recipient,
    timeouts,
)
from tests.support.adapters import real_adapters
from tests.support.invariants import check_wire
from tests.support.ports import free_port

QUICK = timeouts(0.4, connect=0.4, final_dot=0.4, rset=0.4, quit=0.4)


class _Hops(TestCase):
    """Next hops that are closed at the end, and the engine in front of them."""

    def hop(self, **settings: Any) -> NextHop:
        hop = NextHop(**settings).listen(reactor)
        self.addCleanup(hop.close)
        return hop

    def engine(self, *hops: NextHop | str, observed: Observed | None = None, **settings: Any) -> Any:
        times = settings.pop("timeouts", timeouts())
        lmtp = settings.pop("lmtp", False)
        endpoints = [endpoint_settings(hop if isinstance(hop, str) else hop.endpoint, timeouts=times, lmtp=lmtp) for hop in hops]
        engine = make_hops(reactor, *endpoints, observed=observed, **settings)
        self.addCleanup(engine.pool.close)
        return engine


LARGE = b"Subject: large\r\n\r\n" + b".%076d\r\n" % 7 * 100_000
"""More than the buffers of a loopback connection hold."""


class BodyTest(_Hops):
    """Trouble in the middle of a content that is streamed from disk."""

    async def test_250_too_early(self) -> None:
        bad = self.hop(script={Step.BODY: say(b"250 2.0.0 thanks")})
        good = self.hop()
        message = await fill(LARGE, real_adapters())
        _, replies = await deliver(self.engine(bad, good), message=message)
        message.body.release()
        self.assertEqual([reply.code for reply in replies], [250])
        self.assertEqual([t.content == LARGE for t in good.transactions], [True])
        self.assertEqual(bad.transactions, [])

    async def test_a_250_right_behind_the_354_is_no_success(self) -> None:
        bad = self.hop(script={Step.DATA: say(b"354 go", b"250 2.0.0 thanks")})
        good = self.hop()
        _, replies = await deliver(self.engine(bad, good))
        self.assertEqual([reply.code for reply in replies], [250])
        self.assertEqual([t.content for t in good.transactions], [CONTENT])


class AfterTheDotTest(_Hops):
    """From the final dot on nobody else gets the message."""

    async def check(self, action: Any, code: int, enhanced: str, *, duplicate: bool) -> None:
        first = self.hop(script={Step.DOT: action})
        second = self.hop()
        observed = Observed()
        engine = self.engine(first, second, timeouts=QUICK, observed=observed)
        _, replies = await deliver(engine)
        self.assertEqual([(reply.code, reply.enhanced) for reply in replies], [(code, enhanced)])
        self.assertEqual(second.transactions, [])
        self.assertEqual(second.mail_count, 0)
        self.assertEqual(len(observed.named("delivery.possible_duplicate")), int(duplicate))

    async def test_1yz_is_no_success(self) -> None:
        await self.check(say(b"150 wait"), 451, "4.4.2", duplicate=True)

    async def test_4yz_is_the_answer(self) -> None:
        await self.check(say(b"452 4.2.2 full"), 452, "4.2.2", duplicate=False)

    async def test_421_is_an_answer_but_not_about_our_client(self) -> None:
        await self.check(say(b"421 4.3.2 shutdown", then_drop=True), 451, "4.3.2", duplicate=False)

    async def test_5yz_is_the_answer(self) -> None:
        await self.check(say(b"554 5.6.0 no"), 554, "5.6.0", duplicate=False)

    async def test_no_enhanced_code_gets_the_class(self) -> None:
        await self.check(say(b"554 no"), 554, "5.0.0", duplicate=False)

    async def test_a_2yz_that_is_not_250(self) -> None:
        await self.check(say(b"252 ok"), 252, "2.0.0", duplicate=False)


class ClosingTest(_Hops):
    async def test_a_421_to_the_dot_is_the_connections_end(self) -> None:
        hop = self.hop(script={Step.DOT: [say(b"421 4.3.2 no more")]})
        engine = self.engine(hop)
        await deliver(engine)
        await hop.when(lambda: hop.connections[0].closed)
        self.assertEqual(hop.connections[0].verbs[-1], b"QUIT")
        _, replies = await deliver(engine)
        self.assertEqual((replies[0].code, len(hop.connections)), (250, 2))


class LmtpTest(_Hops):
    """Each recipient has its own answer."""

    async def check(self, action: Any, expected: list[int], *, unknown: int = 0) -> NextHop:
        hop = self.hop(lmtp=True, script={Step.DOT: [action]})
        observed = Observed()
        engine = self.engine(hop, lmtp=True, observed=observed)
        _, replies = await deliver(engine, recipient("a"), recipient("b"), recipient("c"))
        self.assertEqual([reply.code for reply in replies], expected)
        events = observed.named("delivery.possible_duplicate")
        self.assertEqual([len(event["recipients"].split(", ")) for event in events], [unknown] if unknown else [])
        await deliver(engine)
        self.assertEqual(len(hop.transactions), 2)
        return hop

    async def test_answers_in_order(self) -> None:
        hop = await self.check(say(b"250 2.1.5 ok", b"452 4.2.2 full", b"550 5.1.1 no"), [250, 452, 550])
        self.assertEqual(len(hop.connections), 1)

    async def test_answers_in_pieces(self) -> None:
        hop = await self.check(say(b"250-2.1.5 stored", b"250 2.1.5 ok", b"250 ok", b"250 ok"), [250, 250, 250])
        self.assertEqual(len(hop.connections), 1)

    async def test_missing_answers_are_unknown(self) -> None:
        hop = await self.check(say(b"250 ok", then_drop=True), [250, 451, 451], unknown=2)
        self.assertEqual(len(hop.connections), 2)

    async def test_garbage_makes_the_rest_unknown(self) -> None:
        hop = await self.check(say(b"250 ok", b"what?", b"250 ok"), [250, 451, 451], unknown=2)
        self.assertEqual(len(hop.connections), 2)

    async def test_354_makes_the_rest_unknown(self) -> None:
        await self.check(say(b"250 ok", b"354 what", b"250 ok"), [250, 451, 451], unknown=2)

    async def test_surplus_answers_close_the_connection(self) -> None:
        hop = await self.check(say(*[b"250 ok"] * 4), [250, 250, 250])
        self.assertEqual(len(hop.connections), 2)

    async def test_the_same_recipient_twice_is_sent_twice(self) -> None:
        hop = self.hop(lmtp=True, script={Step.DOT: say(b"250 ok", b"452 4.2.2 once is enough")})
        engine = self.engine(hop, lmtp=True)
        _, replies = await deliver(engine, recipient("a"), recipient("a"))
        self.assertEqual([reply.code for reply in replies], [250, 452])
        self.assertEqual(hop.transactions[0].paths, [b"a@y.example"] * 2)


class HealthTest(_Hops):
    """A next hop that is down costs one attempt, not one for each message."""

    async def test_a_dead_first_endpoint_is_dialled_once(self) -> None:
        observed = Observed()
        good = self.hop()
        engine = self.engine(f"tcp://127.0.0.1:{free_port()}", good, observed=observed)
        for _ in range(5):
            _, replies = await deliver(engine)
            self.assertEqual(replies[0].code, 250)
        self.assertEqual([attempt["stage"] for attempt in observed.named("delivery.attempt")], ["connect"] + ["dot"] * 5)
        self.assertIs(engine.endpoints[0].circuit.state, State.OPEN)

    async def test_an_endpoint_that_comes_back_is_used_again(self) -> None:
        first = self.hop()
        port = first.port
        await first.stop_listening()
        second = self.hop()
        engine = self.engine(first, second, health=HealthSettings(backoff=0.001, max_backoff=0.001))
        await deliver(engine)
        self.assertEqual(len(second.transactions), 1)
        back = NextHop().listen(reactor, port=port)
        self.addCleanup(back.close)
        circuit = engine.endpoints[0].circuit
        self.assertLess(circuit.due - reactor.seconds(), 0.01)
        while circuit.state is not State.HALF_OPEN:
            await _turn()
        await deliver(engine)
        self.assertEqual(len(back.transactions), 1)
        self.assertIs(circuit.state, State.CLOSED)

    async def test_all_dead_is_451_at_rcpt(self) -> None:
        engine = self.engine(f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}")
        heard, replies = await deliver(engine)
        self.assertEqual([(reply.code, reply.enhanced) for reply in heard], [(451, "4.4.1")])
        self.assertEqual(replies, [])

    async def test_a_hanging_endpoint_is_overtaken(self) -> None:
        slow = self.hop(script={Step.BANNER: HANG})
        good = self.hop()
        engine = self.engine(slow, good, timeouts=QUICK, fallback_delay=0.05)
        _, replies = await deliver(engine)
        self.assertEqual(replies[0].code, 250)
        self.assertEqual(len(good.transactions), 1)

    async def test_the_total_time_bounds_a_command(self) -> None:
        slow = self.hop(script={Step.MAIL: HANG})
        engine = self.engine(slow, total=0.2)
        heard, _ = await deliver(engine)
        self.assertEqual([(reply.code, reply.enhanced) for reply in heard], [(451, "4.4.1")])


class StaleTest(_Hops):
    """A kept connection that turns out to be gone is replaced without a word."""

    async def check(self, script: Any) -> tuple[NextHop, Observed]:
        hop = self.hop(script=script)
        observed = Observed()
        engine = self.engine(hop, observed=observed)
        for _ in range(2):
            _, replies = await deliver(engine)
            self.assertEqual(replies[0].code, 250)
        self.assertEqual(len(hop.transactions), 2)
        self.assertEqual(len(hop.connections), 2)
        self.assertEqual([attempt["stage"] for attempt in observed.named("delivery.attempt")], ["dot", "dot"])
        self.assertIs(engine.endpoints[0].circuit.state, State.CLOSED)
        return hop, observed

    async def test_closed_instead_of_the_answer_to_mail(self) -> None:
        await self.check(_second_mail(DROP))

    async def test_421_to_mail(self) -> None:
        await self.check(_second_mail(say(b"421 4.4.2 idle too long", then_drop=True)))

    async def test_closed_while_idle(self) -> None:
        await self.check({Step.IDLE: [DROP]})

    async def test_421_while_idle(self) -> None:
        await self.check({Step.IDLE: [say(b"421 4.4.2 idle", then_drop=True)]})


def _second_mail(action: Any) -> Any:
    def script(step: Step, connection: Any, line: bytes) -> Any:
        return action if step is Step.MAIL and connection.number <= 1 and connection.verbs.count(b"MAIL") == 2 else None

    return script


class PoolTest(_Hops):
    async def test_a_connection_is_worn_out_after_max_messages(self) -> None:
        hop = self.hop()
        engine = self.engine(hop, pool=PoolSettings(max_messages=2))
        for _ in range(4):
            await deliver(engine)
        self.assertEqual([connection.verbs[-1] for connection in hop.connections[:1]], [b"QUIT"])
        self.assertEqual(len(hop.connections), 2)
        for connection in hop.connections:
            check_wire(connection)

    async def test_a_lease_is_waited_for_only_so_long(self) -> None:
        hop = self.hop(script={Step.DOT: HANG})
        engine = self.engine(hop, pool=PoolSettings(max_connections=1, lease_timeout=0.1), timeouts=QUICK)
        from mailgate.net.waiting import spawn

        first = spawn(deliver(engine))
        heard, _ = await deliver(engine)
        self.assertEqual([(reply.code, reply.enhanced) for reply in heard], [(451, "4.3.2")])
        await first


async def _turn() -> None:
    from twisted.internet.task import deferLater

    await deferLater(reactor, 0)
