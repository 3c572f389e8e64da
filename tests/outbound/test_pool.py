"""Pools and races on a simulated clock and network: order, limits, waiting, overtaking."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.envelope import Attempt
from mailgate.net.waiting import spawn
from mailgate.outbound.delivery import Delivery
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.health import HealthSettings, State
from mailgate.outbound.pool import PoolSettings
from mailgate.testing.network import SimulatedReactor
from mailgate.testing.nexthop import HANG, NextHop, Step
from tests.outbound.support import Observed, deliver, endpoint_settings, envelope, make_hops, recipient, timeouts


class _Simulated(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = SimulatedReactor(seed=3)
        self.observed = Observed()

    def hop(self, port: int = 25, **settings: Any) -> NextHop:
        return NextHop(**settings).listen(self.reactor, port=port)

    def engine(self, *endpoints: NextHop | str, **settings: Any) -> Any:
        times = settings.pop("timeouts", timeouts())
        labels = [endpoint if isinstance(endpoint, str) else endpoint.endpoint for endpoint in endpoints]
        return make_hops(
            self.reactor, *[endpoint_settings(label, timeouts=times) for label in labels], observed=self.observed, **settings
        )

    def deliver(self, engine: Any) -> int:
        heard, replies = self.reactor.run(deliver(engine))
        return (replies or heard)[0].code

    def lease(self, engine: Any) -> Any:
        return spawn(engine.pool.lease(engine.endpoints[0].link))


class PoolTest(_Simulated):
    def test_the_newest_idle_first(self) -> None:
        engine = self.engine(self.hop())
        one, other = self.reactor.run(self.lease(engine)), self.reactor.run(self.lease(engine))
        engine.pool.give_back(one)
        engine.pool.give_back(other)
        self.assertIs(engine.pool.take(engine.endpoints[0].link), other)
        self.assertIs(engine.pool.take(engine.endpoints[0].link), one)
        self.assertIsNone(engine.pool.take(engine.endpoints[0].link))

    def test_idle_ones_say_quit_when_their_time_is_over(self) -> None:
        hop = self.hop()
        engine = self.engine(hop, pool=PoolSettings(idle_timeout=120))
        self.deliver(engine)
        self.reactor.settle(119)
        self.assertEqual(engine.pool.idle_count, 1)
        self.reactor.settle(3)
        self.assertEqual((engine.pool.idle_count, engine.pool.open_count), (0, 0))
        self.assertEqual(hop.connections[0].verbs[-1], b"QUIT")

    def test_used_again_an_idle_one_has_its_whole_time_again(self) -> None:
        engine = self.engine(self.hop(), pool=PoolSettings(idle_timeout=120))
        for _ in range(3):
            self.deliver(engine)
            self.reactor.settle(100)
        self.assertEqual(engine.pool.idle_count, 1)

    def test_an_old_one_is_not_kept(self) -> None:
        hop = self.hop()
        engine = self.engine(hop, pool=PoolSettings(max_age=200, idle_timeout=300))
        for _ in range(3):
            self.deliver(engine)
            self.reactor.settle(150)
        self.assertEqual(len(hop.connections), 2)

    def test_who_waits_first_is_served_first(self) -> None:
        engine = self.engine(self.hop(), pool=PoolSettings(max_connections=1))
        held = self.reactor.run(self.lease(engine))
        served: list[int] = []
        waiting = [self.lease(engine).addCallback(lambda got, n=n: served.append(n) or got) for n in range(3)]
        for expected in ([0], [0, 1], [0, 1, 2]):
            engine.pool.give_back(held)
            self.assertEqual(served, expected)
            held = self.successResultOf(waiting[len(expected) - 1])
        self.assertEqual(engine.pool.open_count, 1)

    def test_nobody_passes_those_who_wait(self) -> None:
        engine = self.engine(self.hop(), pool=PoolSettings(max_connections=1))
        held = self.reactor.run(self.lease(engine))
        first = self.lease(engine)
        engine.pool.give_back(held)
        self.assertIs(self.successResultOf(first), held)
        self.assertIsNone(engine.pool.take(engine.endpoints[0].link))

    def test_waiting_ends(self) -> None:
        engine = self.engine(self.hop(), pool=PoolSettings(max_connections=1, lease_timeout=30))
        self.reactor.run(self.lease(engine))
        late = self.lease(engine)
        self.reactor.settle(29)
        self.assertNoResult(late)
        self.reactor.settle(2)
        self.assertIs(self.failureResultOf(late, AttemptFailed).value.kind, Kind.LEASE)

    def test_a_connection_that_is_lost_makes_room(self) -> None:
        hop = self.hop()
        engine = self.engine(hop, pool=PoolSettings(max_connections=1))
        self.reactor.run(self.lease(engine))
        waiting = self.lease(engine)
        hop.drop_connections()
        self.reactor.run(waiting)
        self.assertEqual((engine.pool.open_count, len(hop.connections)), (1, 2))

    def test_an_idle_one_of_another_link_makes_room(self) -> None:
        first, second = self.hop(25), self.hop(26)
        engine = self.engine(first, second, pool=PoolSettings(max_connections=1))
        self.deliver(engine)
        engine.endpoints[0].circuit.failed(Kind.CONNECT)
        self.assertEqual(self.deliver(engine), 250)
        self.assertEqual((len(second.transactions), engine.pool.open_count), (1, 1))
        self.assertEqual(first.connections[0].verbs[-1], b"QUIT")

    def test_a_limit_for_each_endpoint(self) -> None:
        engine = self.engine(self.hop(), pool=PoolSettings(max_connections=9, max_connections_per_endpoint=1))
        self.reactor.run(self.lease(engine))
        self.assertNoResult(self.lease(engine))

    def test_close_waits_for_those_in_use(self) -> None:
        engine = self.engine(self.hop())
        self.deliver(engine)
        held = self.reactor.run(self.lease(engine))
        closing = spawn(engine.pool.close())
        self.reactor.settle(1)
        self.assertNoResult(closing)
        engine.pool.give_back(held)
        self.reactor.run(closing)
        self.assertEqual(engine.pool.open_count, 0)

    def test_close_does_not_wait_for_ever(self) -> None:
        engine = self.engine(self.hop())
        self.reactor.run(self.lease(engine))
        self.reactor.run(spawn(engine.pool.close()))
        self.reactor.settle(1)
        self.assertEqual(engine.pool.open_count, 0)

    def test_a_failed_attempt_gives_its_slot_back(self) -> None:
        for script in ({Step.BANNER: HANG}, {Step.HELLO: HANG}):
            port = 30 + len(str(script))
            engine = self.engine(
                self.hop(port, script=script), timeouts=timeouts(command=5), pool=PoolSettings(max_connections=1)
            )
            for _ in range(2):
                self.assertEqual(self.deliver(engine), 451)
            self.assertEqual(engine.pool.open_count, 0)


class RaceTest(_Simulated):
    def test_one_that_does_not_connect_is_overtaken_once(self) -> None:
        self.reactor.black_hole("127.0.0.1", 24)
        good = self.hop()
        engine = self.engine("tcp://127.0.0.1:24", good, fallback_delay=3.0)
        started = self.reactor.seconds()
        self.assertEqual(self.deliver(engine), 250)
        self.assertTrue(3.0 <= self.reactor.seconds() - started < 3.2)
        started = self.reactor.seconds()
        self.assertEqual(self.deliver(engine), 250)
        self.assertLess(self.reactor.seconds() - started, 0.2)
        stages = [attempt["stage"] for attempt in self.observed.named("delivery.attempt")]
        self.assertEqual([stage for stage in stages if stage != "dot"], ["connect"])
        self.assertIs(engine.endpoints[0].circuit.state, State.OPEN)

    def test_without_a_fallback_delay_it_is_waited_for(self) -> None:
        self.reactor.black_hole("127.0.0.1", 24)
        engine = self.engine("tcp://127.0.0.1:24", self.hop(), fallback_delay=0.0, timeouts=timeouts(connect=60))
        started = self.reactor.seconds()
        self.assertEqual(self.deliver(engine), 250)
        self.assertTrue(60 <= self.reactor.seconds() - started < 61)

    def test_a_slow_one_that_connected_is_not_overtaken(self) -> None:
        engine = self.engine(self.hop(24, script={Step.BANNER: HANG}), self.hop(), timeouts=timeouts(command=60))
        started = self.reactor.seconds()
        self.assertEqual(self.deliver(engine), 250)
        self.assertGreaterEqual(self.reactor.seconds() - started, 60)

    def test_the_total_time_ends_it(self) -> None:
        self.reactor.black_hole("127.0.0.1", 24)
        engine = self.engine("tcp://127.0.0.1:24", total=240.0)
        started = self.reactor.seconds()
        heard, _ = self.reactor.run(deliver(engine))
        self.assertEqual((heard[0].code, heard[0].enhanced), (451, "4.4.1"))
        self.assertTrue(240 <= self.reactor.seconds() - started < 241)
        self.assertIs(engine.endpoints[0].circuit.state, State.OPEN)

    def test_refused_ones_are_passed_by_at_once(self) -> None:
        engine = self.engine("tcp://127.0.0.1:23", "tcp://127.0.0.1:24", self.hop())
        started = self.reactor.seconds()
        self.assertEqual(self.deliver(engine), 250)
        self.assertLess(self.reactor.seconds() - started, 0.2)

    def test_when_its_time_has_come_one_message_tries_it(self) -> None:
        engine = self.engine("tcp://127.0.0.1:24", self.hop(), health=HealthSettings(backoff=5, max_backoff=5))
        self.deliver(engine)
        back = self.hop(24)
        self.deliver(engine)
        self.assertEqual(back.connections, [])
        self.reactor.settle(7)
        self.deliver(engine)
        self.assertEqual(len(back.transactions), 1)
        self.assertIs(engine.endpoints[0].circuit.state, State.CLOSED)

    def test_one_that_says_nothing_leaves_the_next_its_time(self) -> None:
        """With times as they are by default, where each step may take longer than the whole command."""
        for number, step in enumerate((Step.BANNER, Step.HELLO, Step.MAIL, Step.RCPT, Step.DATA)):
            bad = self.hop(100 + number, script={step: HANG})
            good = self.hop(200 + number)
            engine = self.engine(bad, good, total=240.0)
            started = self.reactor.seconds()
            self.assertEqual(self.deliver(engine), 250, step)
            self.assertTrue(120 <= self.reactor.seconds() - started < 122, step)
            self.assertEqual((len(bad.transactions), len(good.transactions)), (0, 1))
            self.assertEqual([evidence.kind for evidence in engine.endpoints[0].circuit.evidence], ["timeout"], step)

    def test_each_of_several_has_half_of_what_is_left(self) -> None:
        hops = [self.hop(24 + number, script={Step.MAIL: HANG}) for number in range(3)]
        engine = self.engine(*hops, self.hop(40), total=240.0)
        started = self.reactor.seconds()
        self.assertEqual(self.deliver(engine), 250)
        self.assertTrue(210 <= self.reactor.seconds() - started < 212)

    def test_the_last_one_has_all_that_is_left(self) -> None:
        engine = self.engine(*[self.hop(24 + n, script={Step.MAIL: HANG}) for n in range(2)], total=240.0)
        started = self.reactor.seconds()
        self.assertEqual(self.deliver(engine), 451)
        self.assertTrue(240 <= self.reactor.seconds() - started < 241)

    def test_one_alone_that_keeps_a_message_until_its_time_is_over_has_failed(self) -> None:
        for step in (Step.BANNER, Step.MAIL):
            engine = self.engine(self.hop(24 + len(step.value), script={step: HANG}), total=240.0)
            self.assertEqual(self.deliver(engine), 451)
            self.assertEqual([evidence.kind for evidence in engine.endpoints[0].circuit.evidence], ["timeout"], step)

    def test_an_attempt_of_a_queue_has_more_time(self) -> None:
        self.reactor.black_hole("127.0.0.1", 24)
        engine = self.engine("tcp://127.0.0.1:24", timeouts=timeouts(connect=4000))
        started = self.reactor.seconds()
        queued = envelope()
        queued.attempt = Attempt(queued=True)
        reply = self.reactor.run(Delivery(engine, queued).rcpt(recipient()))
        self.assertEqual((reply.code, reply.enhanced), (451, "4.4.1"))
        self.assertTrue(1800 <= self.reactor.seconds() - started < 1801)

    def test_in_the_place_of_a_stale_connection_the_next_endpoint_if_need_be(self) -> None:
        first, second = self.hop(24), self.hop(25)
        engine = self.engine(first, second, fallback_delay=3.0)
        self.assertEqual(self.deliver(engine), 250)
        stale = engine.pool.take(engine.endpoints[0].link)
        stale.transport.loseConnection()
        stale.link.idle.append(stale)  # gone, but nobody has been told yet
        self.reactor.run(first.close())
        self.reactor.black_hole("127.0.0.1", 24)
        started = self.reactor.seconds()
        self.assertEqual(self.deliver(engine), 250)
        self.assertTrue(self.reactor.seconds() - started < 4)
        self.assertEqual(len(second.transactions), 1)

    def test_a_name_is_resolved(self) -> None:
        self.hop()
        self.assertEqual(self.deliver(self.engine("tcp://localhost:25")), 250)


class TimeoutTest(_Simulated):
    """Each wait has an end."""

    def test_the_answer_to_the_dot_has_its_own_time(self) -> None:
        engine = self.engine(self.hop(script={Step.DOT: HANG}))
        started = self.reactor.seconds()
        self.assertEqual(self.deliver(engine), 451)
        self.assertTrue(720 <= self.reactor.seconds() - started < 721)
        self.assertEqual(len(self.observed.named("delivery.possible_duplicate")), 1)

    def test_a_hold_ends_after_half_a_minute(self) -> None:
        hop = self.hop()
        engine = self.engine(hop)
        delivery = Delivery(engine, envelope())
        self.reactor.run(delivery.rcpt(recipient()))
        self.reactor.settle(29)
        self.assertNotIn(b"RSET", hop.connections[0].verbs)
        self.reactor.settle(2)
        self.assertEqual((hop.connections[0].verbs[-1], engine.pool.idle_count), (b"RSET", 1))

    def test_a_connection_that_does_not_answer_to_rset_is_closed(self) -> None:
        hop = self.hop(script={Step.RSET: HANG})
        engine = self.engine(hop)
        delivery = Delivery(engine, envelope())
        self.reactor.run(delivery.rcpt(recipient()))
        delivery.abort()
        self.reactor.settle(19)
        self.assertEqual(engine.pool.open_count, 1)
        self.reactor.settle(2)
        self.assertEqual(engine.pool.open_count, 0)
