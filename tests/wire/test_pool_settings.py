"""The pool's directives as an operator writes them, through a whole gateway: who gets the messages, what clients hear."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from mailgate.cli import main
from mailgate.outbound.target import Downstream
from mailgate.testing.nexthop import HANG, NextHop, Step, say
from tests.support.scenario import SMTP, SimulatedCase, statuses

LISTENER = f"smtp {SMTP} {{\n tls off\n deliver_to &next\n}}\n"


class PoolCase(SimulatedCase):
    def pool(self, *lines: str, hops: int = 3, weights: tuple[int, ...] = (), **options: Any) -> list[NextHop]:
        """A gateway with one target of these lines in front of ``hops`` next hops."""
        made = [self.hop(**options) for _ in range(hops)]
        weighed = zip(made, weights, strict=False)
        endpoints = "".join(f"    endpoint {hop.endpoint} {{\n        weight {weight}\n    }}\n" for hop, weight in weighed)
        if not weights:
            endpoints = f"    targets {' '.join(hop.endpoint for hop in made)}\n"
        inner = "".join(f"    {line}\n" for line in lines)
        self.gateway(
            f"target.smtp next {{\n{endpoints}{inner}    tls disabled\n}}\nsmtp {SMTP} {{\n tls off\n deliver_to &next\n}}\n"
        )
        return made

    def send(self, count: int = 1, sender: bytes = b"sender@client.test") -> list[bytes]:
        client = self.client()
        final = [self.deliver(client, b"r@y.test", sender=sender)[-1] for _ in range(count)]
        client.drop()
        return final

    def counts(self, hops: list[NextHop]) -> list[int]:
        return [len(hop.transactions) for hop in hops]

    @property
    def target(self) -> Downstream:
        assert self.running is not None
        (found,) = [module for module in self.running.configuration.modules if isinstance(module, Downstream)]
        return found


class BalanceTest(PoolCase):
    def test_ordered(self) -> None:
        hops = self.pool("balance ordered")
        self.send(9)
        self.assertEqual(self.counts(hops), [9, 0, 0])

    def test_round_robin_by_weight(self) -> None:
        hops = self.pool("balance round_robin", weights=(3, 2, 1))
        self.send(12)
        self.assertEqual(self.counts(hops), [6, 4, 2])

    def test_random_by_weight(self) -> None:
        hops = self.pool("balance random", weights=(8, 1, 1))
        self.send(200)
        first, *others = self.counts(hops)
        self.assertTrue(130 < first < 190, first)
        self.assertTrue(all(others))

    def test_least_busy(self) -> None:
        hops = self.pool("balance least_busy")
        held = [self.client() for _ in range(6)]
        for client in held:
            self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<r@y.test>")
        self.assertEqual([hop.open_connections for hop in hops], [2, 2, 2])

    def test_hash_of_an_expression(self) -> None:
        hops = self.pool("balance hash(lower(sender))")
        for number in range(12):
            for spelling in (b"User%d@x.test", b"user%d@x.test"):
                self.send(1, spelling % number)
        for hop in hops:
            senders = Counter(done.sender.lower() for done in hop.transactions)
            self.assertEqual(set(senders.values()), {2}, "both spellings meet")
        self.assertEqual(sum(self.counts(hops)), 24)
        self.assertTrue(all(self.counts(hops)))

    def test_the_others_take_over(self) -> None:
        for method in ("ordered", "round_robin", "random", "least_busy", "hash(sender)"):
            with self.row(method):
                hops = self.pool(f"balance {method}")
                for hop in hops[:2]:
                    self.reactor.refuse("127.0.0.1", hop.port)
                self.assertEqual({reply[:3] for reply in self.send(10)}, {b"250"})
                self.assertEqual(self.counts(hops), [0, 0, 10])

    def test_explain_promises_no_endpoint_that_may_not_be_it(self) -> None:
        for method, said in (("ordered", "to tcp://a.test:25"), ("random", "to one of tcp://a.test:25, tcp://b.test:25")):
            path = Path(self.directory) / "explain.conf"
            path.write_text(
                "hostname gw.test\n"
                f"target.smtp next {{\n targets tcp://a.test tcp://b.test\n tls disabled\n balance {method}\n}}\n{LISTENER}"
            )
            result = CliRunner().invoke(main, ["explain", "-c", str(path), "--from", "a@x.test", "--rcpt", "b@y.test"])
            self.assertIn(said, result.output)


class HealthTest(PoolCase):
    def test_probe_and_slow_start(self) -> None:
        """A probe finds the first endpoint gone and back, no message waits for it, and it comes back slowly."""
        hops = self.pool("health {", "    probe 10s", "    slow_start 100s", "}", hops=2)
        self.reactor.refuse("127.0.0.1", hops[0].port)
        self.reactor.settle(13)
        self.send(3)
        self.assertEqual(self.counts(hops), [0, 3])
        control = self.target.control
        assert control is not None
        self.assertEqual([one.state for one in control.report().endpoints], ["down", "up"])
        self.reactor.heal("127.0.0.1", hops[0].port)
        self.reactor.settle(13)
        self.assertEqual(control.report().endpoints[0].state, "starting")
        assert self.running is not None
        (down,) = self.running.logged("endpoint.down")
        self.assertIn("evidence=", down)
        self.assertEqual(len(self.running.logged("endpoint.up")), 1)
        self.send(50)
        self.assertTrue(0 < self.counts(hops)[0] < 25, self.counts(hops))
        self.reactor.settle(100)
        before = self.counts(hops)[0]
        self.send(20)
        self.assertEqual(self.counts(hops)[0] - before, 20)

    def test_failures_and_backoff(self) -> None:
        script = {Step.BANNER: say(b"554 5.3.2 no")}
        bad, good = self.hop(script=script), self.hop()
        self.relay(bad, good, target="    health {\n        failures 2\n        backoff 30s 1m\n    }\n")
        self.send(5)
        self.assertEqual((len(bad.connections), len(good.transactions)), (2, 5))
        self.reactor.settle(40)
        self.send(2)
        self.assertEqual(len(bad.connections), 3)

    def test_drained_at_work(self) -> None:
        hops = self.pool(hops=2)
        self.send(2)
        control = self.target.control
        assert control is not None
        control.drain(hops[0].endpoint)
        self.send(2)
        control.undrain(hops[0].endpoint)
        self.send(2)
        self.assertEqual(self.counts(hops), [4, 2])


class LimitsTest(PoolCase):
    def test_who_finds_no_connection_waits_in_line_and_hears_451_at_the_end(self) -> None:
        self.pool("max_connections 1", "lease_timeout 5s", hops=1)
        holder, waiting = self.client(), self.client()
        self.say(holder, b"MAIL FROM:<a@x.test>", b"RCPT TO:<r@y.test>")
        began = self.reactor.seconds()
        replies = self.say(waiting, b"MAIL FROM:<b@x.test>", b"RCPT TO:<r@y.test>")
        self.assertEqual(statuses(replies)[1], b"451 4.3.2")
        self.assertTrue(5 <= self.reactor.seconds() - began < 5.5)

    def test_max_connections_max_idle_max_messages_and_idle_timeout(self) -> None:
        (hop,) = self.pool("max_connections 4", "max_idle 2", "max_messages 3", "idle_timeout 20s", hops=1)
        held = [self.client() for _ in range(4)]
        for client in held:
            self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<r@y.test>")
        self.assertEqual(hop.open_connections, 4)
        for client in held:
            client.drop()
        self.reactor.settle(2)
        self.assertEqual(hop.open_connections, 2)
        self.send(3)
        self.assertEqual(max(len(connection.transactions) for connection in hop.connections), 4)  # one was RSET
        self.reactor.settle(25)
        self.assertEqual(hop.open_connections, 0)

    def test_total_bounds_what_a_command_waits(self) -> None:
        (hop,) = self.pool("failover {", "    total 7s", "}", hops=1, script={Step.RCPT: HANG})
        client = self.client()
        began = self.reactor.seconds()
        replies = self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<r@y.test>")
        self.assertEqual(statuses(replies)[1], b"451 4.4.1")
        self.assertTrue(7 <= self.reactor.seconds() - began < 7.5)
        self.assertEqual(hop.transactions, [])
