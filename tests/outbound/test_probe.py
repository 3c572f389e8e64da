"""Probes: who is looked at, when, and what comes of it; and what operators see and do."""

from __future__ import annotations

from typing import Any

from mailgate.net.waiting import spawn
from mailgate.outbound.failure import Kind
from mailgate.outbound.health import HealthSettings
from mailgate.outbound.operations import NotPossible, PoolControl
from mailgate.outbound.pool import PoolSettings
from mailgate.outbound.probe import Prober
from mailgate.testing.nexthop import HANG, NextHop, Step, say
from tests.outbound.support import deliver, timeouts
from tests.outbound.test_pool import _Simulated

PROBED = HealthSettings(failures=3, backoff=5, max_backoff=300, probe=10)


class ProbeTest(_Simulated):
    def probed(self, *endpoints: NextHop | str, **settings: Any) -> Any:
        engine = self.engine(*endpoints, health=settings.pop("health", PROBED), **settings)
        prober = Prober(engine.pool, engine.endpoints, 10, self.reactor, self.reactor.random, engine.log)
        prober.start()
        self.addCleanup(prober.stop)
        return engine

    def visits(self, hop: NextHop) -> int:
        return len(hop.connections)

    def test_one_that_nobody_uses_is_looked_at(self) -> None:
        hop = self.hop()
        self.probed(hop)
        self.reactor.settle(60)
        self.assertTrue(5 <= self.visits(hop) <= 7)
        self.assertEqual([connection.verbs for connection in hop.connections], [[b"EHLO", b"QUIT"]] * self.visits(hop))

    def test_one_that_messages_go_to_is_left_alone(self) -> None:
        hop = self.hop()
        engine = self.probed(hop)
        for _ in range(12):
            self.assertEqual(self.deliver(engine), 250)
            self.reactor.settle(5)
        self.assertEqual(self.visits(hop), 1)

    def test_one_that_is_gone_is_known_before_a_message_meets_it(self) -> None:
        first, second = self.hop(25), self.hop(26)
        engine = self.probed(first, second)
        self.reactor.run(first.close())
        self.reactor.settle(15)
        self.assertFalse(engine.endpoints[0].circuit.closed)
        self.assertEqual(self.deliver(engine), 250)
        self.assertEqual(self.observed.named("delivery.attempt")[0]["endpoint"], second.endpoint)

    def test_one_that_does_not_greet_takes_as_many_probes_as_failures_count(self) -> None:
        first = self.hop(25, script={Step.BANNER: say(b"554 5.3.2 no")})
        engine = self.probed(first, self.hop(26))
        self.reactor.settle(25)
        self.assertTrue(engine.endpoints[0].circuit.closed)
        self.reactor.settle(15)
        self.assertFalse(engine.endpoints[0].circuit.closed)

    def test_a_probe_finds_out_that_it_is_back_and_no_message_is_risked(self) -> None:
        second = self.hop(26)
        engine = self.probed("tcp://127.0.0.1:25", second)
        self.assertEqual(self.deliver(engine), 250)
        self.reactor.settle(30)  # its back-off has long been over
        self.assertEqual(self.deliver(engine), 250)
        self.assertEqual(len([one for one in self.observed.named("delivery.attempt") if one.get("stage") == "connect"]), 1)
        back = self.hop(25)
        self.reactor.settle(13)
        self.assertTrue(engine.endpoints[0].circuit.closed)
        self.assertEqual(back.connections[0].verbs, [b"EHLO", b"QUIT"])
        self.assertEqual(self.deliver(engine), 250)
        self.assertEqual(len(back.transactions), 1)

    def test_all_down_messages_try_all_the_same(self) -> None:
        engine = self.probed("tcp://127.0.0.1:25")
        self.assertEqual(self.deliver(engine), 451)
        self.hop(25)
        self.assertEqual(self.deliver(engine), 250)

    def test_a_hanging_probe_is_one_at_a_time(self) -> None:
        hop = self.hop(script={Step.BANNER: HANG})
        engine = self.probed(hop, timeouts=timeouts(command=35))
        self.reactor.settle(34)
        self.assertEqual(self.visits(hop), 1)
        self.assertEqual(engine.pool.open_count, 1)

    def test_a_full_pool_is_not_probed(self) -> None:
        hop = self.hop()
        engine = self.probed(hop, pool=PoolSettings(max_connections=1))
        self.reactor.run(self.lease(engine))
        self.reactor.settle(40)
        self.assertEqual(self.visits(hop), 1)
        self.assertTrue(engine.endpoints[0].circuit.closed)

    def test_a_drained_one_is_not_probed(self) -> None:
        hop = self.hop()
        engine = self.probed(hop)
        engine.endpoints[0].circuit.drain(True)
        self.reactor.settle(40)
        self.assertEqual(self.visits(hop), 0)

    def test_stopped_nothing_is_left(self) -> None:
        hop = self.hop(script={Step.BANNER: HANG})
        engine = self.engine(hop, health=PROBED)
        prober = Prober(engine.pool, engine.endpoints, 10, self.reactor, self.reactor.random, engine.log)
        prober.start()
        self.reactor.settle(15)
        prober.stop()
        self.reactor.settle(1)
        self.assertEqual((engine.pool.open_count, engine.endpoints[0].report().probe_in), (0, None))
        self.reactor.settle(60)
        self.assertEqual(self.visits(hop), 1)


class ControlTest(_Simulated):
    def control(self, *endpoints: NextHop | str, **settings: Any) -> tuple[Any, PoolControl]:
        engine = self.engine(*endpoints, **settings)
        return engine, PoolControl(engine, "ordered")

    def test_what_there_is_to_see(self) -> None:
        first = self.hop()
        engine, control = self.control(first, "tcp://127.0.0.1:26", health=HealthSettings(backoff=10, max_backoff=10))
        self.deliver(engine)
        held = self.reactor.run(self.lease(engine))
        engine.endpoints[1].circuit.failed(Kind.CONNECT, "refused")
        self.reactor.settle(2)
        report = control.report()
        self.assertEqual((report.target, report.balance, report.open, report.idle, report.waiting), ("relay", "ordered", 1, 0, 0))
        one, other = report.endpoints
        self.assertEqual(
            (one.endpoint, one.state, one.messages, one.open, one.idle, one.leased), (first.endpoint, "up", 1, 1, 0, 1)
        )
        self.assertEqual((other.state, other.share, other.weight), ("down", 1.0, 1))
        self.assertTrue(5 < other.retry_in < 10)
        self.assertTrue(2 <= other.since < 3)
        ((ago, said),) = other.evidence
        self.assertTrue(2 <= ago < 3)
        self.assertEqual(said, "connect: refused")
        engine.pool.give_back(held)
        self.assertEqual((control.report().idle, control.report().endpoints[0].leased), (1, 0))
        self.reactor.settle(11)
        self.assertEqual(control.report().endpoints[1].state, "half-open")

    def test_drain_and_undrain(self) -> None:
        first, second = self.hop(25), self.hop(26)
        engine, control = self.control(first, second)
        self.deliver(engine)
        held = self.reactor.run(self.lease(engine))
        idle = self.reactor.run(self.lease(engine))
        engine.pool.give_back(idle)
        control.drain(first.endpoint)
        self.reactor.settle(1)
        self.assertEqual(control.report().endpoints[0].state, "drained")
        self.assertEqual(first.connections[1].verbs[-1], b"QUIT")
        self.deliver(engine)
        self.assertEqual((len(first.transactions), len(second.transactions)), (1, 1))
        engine.pool.give_back(held)
        self.reactor.settle(1)
        self.assertEqual(engine.endpoints[0].open_count, 0)
        control.undrain(first.endpoint)
        self.deliver(engine)
        self.assertEqual(len(first.transactions), 2)
        self.assertEqual([one["action"] for one in self.observed.named("endpoint.changed")], ["drain", "undrain"])

    def test_eject_is_a_failure_and_passes(self) -> None:
        first, second = self.hop(25), self.hop(26)
        engine, control = self.control(first, second, health=HealthSettings(backoff=5, max_backoff=5))
        control.eject(first.endpoint, "maintenance")
        self.deliver(engine)
        self.assertEqual(len(second.transactions), 1)
        self.assertEqual([said for _, said in control.report().endpoints[0].evidence], ["operator: maintenance"])
        self.reactor.settle(7)
        self.deliver(engine)
        self.assertEqual(len(first.transactions), 1)

    def test_probe_says_what_it_found(self) -> None:
        good = self.hop()
        engine, control = self.control(good, "tcp://127.0.0.1:26")
        self.assertEqual(self.reactor.run(spawn(control.probe(good.endpoint))), "")
        self.assertIn("connect:", self.reactor.run(spawn(control.probe("tcp://127.0.0.1:26"))))
        self.assertFalse(engine.endpoints[1].circuit.closed)

    def test_weight(self) -> None:
        first = self.hop()
        engine, control = self.control(first)
        control.weigh(first.endpoint, 7)
        self.assertEqual((engine.endpoints[0].weight, control.report().endpoints[0].weight), (7, 7))
        for weight in (0, 1001):
            with self.assertRaises(NotPossible):
                control.weigh(first.endpoint, weight)

    def test_an_endpoint_nobody_wrote(self) -> None:
        _, control = self.control(self.hop())
        for act in (control.drain, control.undrain, control.eject):
            with self.assertRaises(NotPossible) as caught:
                act("tcp://nowhere:25")
            self.assertIn("tcp://127.0.0.1:25", str(caught.exception))

    def test_all_drained_is_a_temporary_failure_at_once(self) -> None:
        hop = self.hop()
        engine, control = self.control(hop)
        control.drain(hop.endpoint)
        heard, _ = self.reactor.run(deliver(engine))
        self.assertEqual((heard[0].code, heard[0].enhanced), (451, "4.4.1"))
