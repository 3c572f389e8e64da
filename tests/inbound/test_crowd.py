"""Crowds and guessers: the reserve, the tarpit, quiet hosts."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.inbound.doorman import Lag
from mailgate.inbound.sessions import ConnectionSettings
from mailgate.inbound.trust import Peers, ProxySettings, TrustSettings
from mailgate.smtp.proxy_protocol import Family, Header, encode
from mailgate.smtp.reply import Reply
from mailgate.testing.client import RawClient, connect
from tests.support.scenario import SimulatedCase

from .scripted import Simulation

SMTP = "tcp://127.0.0.1:25"
TARPIT = ConnectionSettings(tarpit=2.0, tarpit_limit=5.0)
PROXY = TrustSettings(ProxySettings(Peers((ip_network("127.0.0.0/8"),))))


def named(number: int) -> bytes:
    return encode(Header(Family.TCP4, f"192.0.2.{number}", "198.51.100.1", 1, 25))


class Reserve(SynchronousTestCase):
    def come(self, simulation: Simulation, source: str) -> RawClient:
        return simulation.reactor.run(connect(simulation.reactor, simulation.lab.address, source=source))

    def test_strangers_leave_room_for_those_we_know(self) -> None:
        settings = ConnectionSettings(
            max_connections=6,
            reserved_connections=3,
            uncounted=(ip_network("10.0.0.0/8"),),
            reserved_for=(ip_network("172.16.0.0/12"),),
        )
        simulation = Simulation(settings=settings)
        answers = [simulation.reply(self.come(simulation, f"192.0.2.{number}"))[:3] for number in range(4)]
        self.assertEqual([b"220", b"220", b"220", b"421"], answers)
        known = [
            simulation.reply(self.come(simulation, source))[:3] for source in ("10.0.0.1", "172.16.0.1", "127.0.0.1", "10.0.0.2")
        ]
        self.assertEqual([b"220", b"220", b"220", b"421"], known)

    def test_strangers_are_refused_first_where_the_event_loop_can_not_keep_up(self) -> None:
        settings = ConnectionSettings(max_lag=0.5, uncounted=(ip_network("10.0.0.0/8"),))
        simulation = Simulation(settings=settings)
        for lag, stranger, known in ((0.4, b"220", b"220"), (0.6, b"421 4.3.2", b"220"), (2.1, b"421 4.3.2", b"421 4.3.2")):
            self.patch(Lag, "knock", lambda _, lag=lag: lag)
            for source, expected in (("192.0.2.1", stranger), ("10.0.0.1", known), ("127.0.0.1", known)):
                self.assertEqual(expected, simulation.reply(self.come(simulation, source))[: len(expected)], (lag, source))
        self.assertEqual({"max_lag": 4}, simulation.lab.sessions.tally.refused)

    def test_behind_a_proxy_it_is_for_the_clients_whom_it_names(self) -> None:
        settings = ConnectionSettings(max_connections=4, reserved_connections=2, reserved_for=(ip_network("192.0.2.9"),))
        simulation = Simulation(settings=settings, steps={"trust": PROXY})
        clients = []
        for number in (1, 2, 3, 9):
            clients.append(simulation.connect())
            clients[-1].send(named(number))
            simulation.reactor.settle()
        self.assertEqual([b"220", b"220", b"", b"220"], [bytes(client.received[:3]) for client in clients])
        self.assertEqual([False, False, True, False], [client.closed for client in clients])


class Tarpit(SynchronousTestCase):
    def pause(self, simulation: Simulation, client: RawClient, line: bytes) -> float:
        """How long the answer takes, in whole seconds."""
        before = simulation.reactor.seconds()
        simulation.command(client, line)
        return round(simulation.reactor.seconds() - before)

    def test_each_mistake_takes_longer_up_to_a_limit(self) -> None:
        simulation = Simulation(settings=TARPIT)
        client = simulation.greeted()
        self.assertEqual([2, 0, 4, 0, 5, 5], [self.pause(simulation, client, line) for line in
            (b"JUNK", b"NOOP", b"JUNK", b"RSET", b"MAIL", b"JUNK")])  # fmt: skip

    def test_a_message_ends_it(self) -> None:
        simulation = Simulation(settings=TARPIT)
        client = simulation.greeted()
        self.pause(simulation, client, b"JUNK")
        self.assertEqual(b"250", simulation.deliver(client)[-1][:3])
        self.assertEqual(2, self.pause(simulation, client, b"JUNK"))

    def test_refused_recipients(self) -> None:
        simulation = Simulation(settings=TARPIT, script={"rcpt": Reply(550, "5.1.1", "Nobody")})
        client = simulation.greeted()
        simulation.command(client, b"MAIL FROM:<a@client.test>")
        self.assertEqual([2, 4], [self.pause(simulation, client, b"RCPT TO:<b@mx.test>") for _ in range(2)])

    def test_what_is_sent_meanwhile_waits(self) -> None:
        simulation = Simulation(settings=TARPIT)
        client = simulation.greeted()
        client.send(b"JUNK\r\n")
        simulation.reactor.settle(0.5)
        client.send(b"NOOP\r\nJUNK\r\n")
        simulation.reactor.settle(1)
        self.assertNotIn(b"500", client.received)
        self.assertEqual(b"500", simulation.reply(client)[:3])
        self.assertEqual([b"250", b"500"], [simulation.reply(client)[:3] for _ in range(2)])

    def test_our_time_is_not_the_clients(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(tarpit=20.0, tarpit_limit=100.0, read_timeout=10.0))
        client = simulation.greeted()
        client.patience = 60
        self.assertEqual(20, self.pause(simulation, client, b"JUNK"))
        simulation.reactor.settle(9)
        self.assertFalse(client.closed)

    def test_the_last_word_comes_at_once(self) -> None:
        simulation = Simulation(settings=TARPIT)
        client = simulation.greeted()
        client.send(b"JUNK\r\n")
        simulation.reactor.settle(0.5)
        simulation.lab.sessions.drain(100)
        self.assertEqual([b"500", b"421"], [simulation.reply(client)[:3] for _ in range(2)])

    def test_a_client_that_leaves(self) -> None:
        simulation = Simulation(settings=TARPIT)
        client = simulation.greeted()
        client.send(b"JUNK\r\n")
        simulation.reactor.settle(0.5)
        client.drop(reset=True)
        simulation.reactor.settle(10)
        self.assertEqual(0, len(simulation.lab.sessions))

    def test_off_by_default(self) -> None:
        simulation = Simulation()
        self.assertEqual(0, self.pause(simulation, simulation.greeted(), b"JUNK"))


class Directives(SimulatedCase):
    def settings(self, *lines: str) -> Any:
        text = "\n    ".join(lines)
        running = self.gateway(f"local_domains x.test\nsmtp {SMTP} {{\n    {text}\n    discard\n}}\n")
        settings = running.configuration.listeners[0].connection_settings()
        self.tearDown()
        self.setUp()
        return settings

    def test_reserved_connections(self) -> None:
        for lines, expected in (
            ([], (10, ())),
            (["max_connections 50"], (5, ())),
            (["max_connections 9"], (0, ())),
            (["reserved_connections 0"], (0, ())),
            (
                ["reserved_connections 20 10.1.0.0/16 2001:db8::/32"],
                (20, (ip_network("10.1.0.0/16"), ip_network("2001:db8::/32"))),
            ),
        ):
            settings = self.settings(*lines)
            self.assertEqual(expected, (settings.reserved_connections, settings.reserved_for))

    def test_tarpit(self) -> None:
        for line, expected in (("tarpit off", (0.0, 0.0)), ("tarpit 500ms 10s", (0.5, 10.0)), ("tarpit 5s 1s", (5.0, 5.0))):
            settings = self.settings(line)
            self.assertEqual(expected, (settings.tarpit, settings.tarpit_limit))

    def test_quiet_hosts(self) -> None:
        running = self.gateway(f"smtp {SMTP} {{\n quiet_hosts 127.0.0.2\n discard\n}}\n")
        for source in ("127.0.0.1", "127.0.0.2"):
            client = self.reactor.run(connect(self.reactor, SMTP, source=source))
            self.reactor.run(client.quit())
        self.reactor.settle()
        (line,) = running.logged("session.close")
        self.assertIn("client=127.0.0.1", line)
