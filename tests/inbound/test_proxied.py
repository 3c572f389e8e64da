"""Connections behind the PROXY protocol, on a simulated network: whose they are, what is refused, and when."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.events import Event
from mailgate.inbound.proxy import SILENCE
from mailgate.inbound.sessions import LINGER, ConnectionSettings
from mailgate.inbound.trust import Peers, ProxySettings, TrustSettings
from mailgate.smtp.proxy_protocol import Family, Header, ProxyTls, encode
from mailgate.testing.client import RawClient, connect
from mailgate.testing.tls import TrustingClient

from .scripted import Simulation

CLIENT = Header(Family.TCP4, "192.0.2.7", "198.51.100.1", 40000, 2525)
TLS = ProxyTls("TLSv1.3", "TLS_AES_256_GCM_SHA384", certificate=True, verified=True, common_name="gw.test")


class ProxiedSimulation(Simulation):
    """A listener that believes the headers of ``network``. ``lines`` is its log."""

    def __init__(self, network: str, required: bool, accept_tls: bool, **options: Any) -> None:
        trust = TrustSettings(ProxySettings(Peers((ip_network(network),)), required, accept_tls))
        super().__init__(steps={"trust": trust}, **options)
        self.lines: list[Any] = []
        self.lab.sessions.events._observer = self.lines.append

    def logged(self, event: Event) -> list[dict[str, Any]]:
        return [line["fields"] for line in self.lines if line["event"] is event]


def proxied(
    network: str = "127.0.0.0/8", *, required: bool = True, accept_tls: bool = False, **options: Any
) -> ProxiedSimulation:
    return ProxiedSimulation(network, required, accept_tls, **options)


class _Proxied(SynchronousTestCase):
    def start(self, simulation: ProxiedSimulation, data: bytes, greeting: bytes = b"220") -> RawClient:
        client = simulation.connect()
        client.send(data)
        self.assertEqual(greeting, simulation.reply(client)[: len(greeting)])
        return client

    def session(self, simulation: ProxiedSimulation, client: RawClient) -> Any:
        simulation.command(client, b"EHLO client.test")
        self.assertEqual(b"250", simulation.deliver(client)[-1][:3])
        return simulation.transaction.session

    def assertSilent(self, simulation: ProxiedSimulation, data: bytes, reason: str, wait: float = 1.0) -> None:
        """The connection is closed without a word, and the log says why."""
        client = simulation.connect()
        client.send(data)
        simulation.reactor.settle(wait + LINGER)
        self.assertEqual((b"", True), (bytes(client.received), client.closed))
        self.assertEqual(0, len(simulation.lab.sessions))
        refused = simulation.logged(Event.PROXY_REFUSED)
        self.assertEqual([("127.0.0.1", reason)], [(fields["client"], fields["reason"]) for fields in refused])


class Identity(_Proxied):
    def test_both_versions_name_the_client(self) -> None:
        for version in (1, 2):
            simulation = proxied()
            data = encode(Header(Family.TCP4, "192.0.2.7", "198.51.100.1", 40000, 2525, version=version))
            session = self.session(simulation, self.start(simulation, data))
            self.assertEqual(
                ("192.0.2.7", 40000, "198.51.100.1", 2525),
                (session.client_ip, session.client_port, session.local_ip, session.local_port),
            )
            self.assertEqual(version, session.proxy.version)

    def test_addresses_in_ipv6_clothes(self) -> None:
        simulation = proxied()
        client = self.start(simulation, b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 40000 25\r\n")
        self.assertEqual("192.0.2.7", self.session(simulation, client).client_ip)

    def test_what_names_nobody_keeps_the_peer(self) -> None:
        for header in (
            Header(Family.LOCAL),
            Header(Family.UNKNOWN),
            Header(Family.UNKNOWN, version=1),
            Header(Family.UNIX, "/run/a", "/run/b"),
        ):
            simulation = proxied()
            session = self.session(simulation, self.start(simulation, encode(header)))
            self.assertEqual("127.0.0.1", session.client_ip)
            self.assertEqual(simulation.lab.port.numbers[0], session.local_port)

    def test_every_cut(self) -> None:
        data = encode(CLIENT)
        for cut in range(1, len(data)):
            simulation = proxied()
            client = simulation.connect()
            client.send(data[:cut])
            simulation.reactor.settle(1)
            self.assertEqual(b"", bytes(client.received))
            client.send(data[cut:])
            self.assertEqual(b"220", simulation.reply(client)[:3])
            self.assertEqual("192.0.2.7", self.session(simulation, client).client_ip)

    def test_the_log_names_client_and_peer(self) -> None:
        simulation = proxied()
        client = self.start(simulation, encode(CLIENT))
        client.send(b"QUIT\r\n")
        simulation.reactor.settle()
        (closed,) = simulation.logged(Event.SESSION_CLOSE)
        self.assertEqual(("192.0.2.7", "127.0.0.1"), (closed["client"], closed["peer"]))

    def test_steps_and_limits_see_the_client(self) -> None:
        seen: list[str] = []
        trust = TrustSettings(ProxySettings(Peers((ip_network("127.0.0.0/8"),))))
        simulation = Simulation(steps={"trust": trust, "welcome": [lambda session: seen.append(session.client_ip)]})
        self.start(simulation, encode(CLIENT))
        self.assertEqual(["192.0.2.7"], seen)


class Refusals(_Proxied):
    def test_headers_that_can_not_be_used(self) -> None:
        damaged = encode(CLIENT)
        for data, reason in (
            (b"PROXY TCP4 not-an-ip 198.51.100.1 40000 25\r\n", "the line is malformed"),
            (b"PROXY " + b"x" * 200, "the line is too long"),
            (damaged[:-1] + bytes([damaged[-1] ^ 1]), "the checksum is wrong"),
            (b"EHLO client.test\r\n", "no PROXY header came"),
            (b"GET / HTTP/1.1\r\n\r\n", "no PROXY header came"),
        ):
            with self.subTest(data=data):
                self.assertSilent(proxied(), data, reason)

    def test_a_header_that_does_not_come(self) -> None:
        for data in (b"", b"PRO", encode(CLIENT)[:20]):
            with self.subTest(data=data):
                simulation = proxied(settings=ConnectionSettings(handshake_timeout=30))
                client = simulation.connect()
                client.send(data)
                simulation.reactor.settle(29)
                self.assertFalse(client.closed)
                client.drop()
                simulation.reactor.settle()
                self.assertSilent(proxied(settings=ConnectionSettings(handshake_timeout=30)), data, "none came in time", 31)

    def test_a_peer_that_is_not_trusted(self) -> None:
        self.assertSilent(proxied("10.0.0.0/8"), encode(CLIENT), "the peer is not trusted")
        self.assertSilent(proxied("10.0.0.0/8"), b"", "the peer is not trusted")

    def test_bytes_behind_the_header_are_early(self) -> None:
        self.start(proxied(), encode(CLIENT) + b"EHLO client.test\r\n", b"421 4.7.0")

    def test_early_bytes_may_be_let_pass(self) -> None:
        simulation = proxied(settings=ConnectionSettings(reject_early_talkers=False))
        client = self.start(simulation, encode(CLIENT) + b"EHLO client.test\r\n")
        self.assertEqual(b"250", simulation.reply(client)[:3])

    def test_a_second_header_is_no_header(self) -> None:
        simulation = proxied()
        client = self.start(simulation, encode(CLIENT))
        client.send(b"PROXY TCP4 203.0.113.1 198.51.100.1 40000 25\r\n")
        self.assertEqual(b"500", simulation.reply(client)[:3])
        self.assertEqual("192.0.2.7", self.session(simulation, client).client_ip)

    def test_a_drain_drops_those_that_wait(self) -> None:
        simulation = proxied()
        client = simulation.connect()
        done = simulation.lab.sessions.drain(100)
        simulation.reactor.settle()
        self.successResultOf(done)
        self.assertEqual(b"", bytes(client.received))
        (closed,) = simulation.logged(Event.SESSION_CLOSE)
        self.assertEqual("shutdown", closed["reason"])  # and not the client's doing


class NotRequired(_Proxied):
    def test_strangers_are_served_as_themselves(self) -> None:
        simulation = proxied("10.0.0.0/8", required=False)
        session = self.session(simulation, self.start(simulation, b""))
        self.assertEqual(("127.0.0.1", None), (session.client_ip, session.proxy))

    def test_but_have_no_header(self) -> None:
        for settings in (
            ConnectionSettings(),
            ConnectionSettings(greeting_delay=5),
            ConnectionSettings(reject_early_talkers=False),
        ):
            simulation = proxied("10.0.0.0/8", required=False, settings=settings)
            client = simulation.connect()
            client.send(encode(CLIENT))
            simulation.reactor.settle(LINGER + 1)
            self.assertTrue(client.closed)
            self.assertNotIn(b"421", client.received)
            self.assertEqual(
                ["the peer is not trusted, or it came too late"],
                [fields["reason"] for fields in simulation.logged(Event.PROXY_REFUSED)],
            )

    def test_a_trusted_peer_may_be_silent(self) -> None:
        simulation = proxied(required=False)
        client = simulation.connect()
        simulation.reactor.settle(SILENCE - 0.1)
        self.assertEqual(b"", bytes(client.received))
        session = self.session(simulation, self.start_silent(simulation, client))
        self.assertEqual("127.0.0.1", session.client_ip)

    def start_silent(self, simulation: ProxiedSimulation, client: RawClient) -> RawClient:
        self.assertEqual(b"220", simulation.reply(client)[:3])
        return client

    def test_a_slow_header_still_counts(self) -> None:
        simulation = proxied(required=False)
        client = simulation.connect()
        client.send(b"PROX")
        simulation.reactor.settle(SILENCE * 3)
        client.send(b"Y TCP4 192.0.2.7 198.51.100.1 40000 25\r\n")
        self.assertEqual("192.0.2.7", self.session(simulation, self.start_silent(simulation, client)).client_ip)

    def test_a_late_header_ends_it(self) -> None:
        simulation = proxied(required=False)
        client = simulation.connect()
        simulation.reply(client)
        client.send(encode(CLIENT))
        simulation.reactor.run(client.wait_closed())
        self.assertEqual(1, len(simulation.logged(Event.PROXY_REFUSED)))


class Limits(_Proxied):
    def test_the_real_client_counts(self) -> None:
        simulation = proxied(settings=ConnectionSettings(max_connections_per_ip=2))
        for number in range(4):
            header = Header(Family.TCP4, f"192.0.2.{number % 2}", "198.51.100.1", 1, 25)
            self.start(simulation, encode(header))
        client = simulation.connect()
        client.send(encode(Header(Family.TCP4, "192.0.2.1", "198.51.100.1", 1, 25)))
        simulation.reactor.run(client.wait_closed())
        self.assertEqual(b"", bytes(client.received))
        self.start(simulation, encode(CLIENT)).drop()
        simulation.reactor.settle()
        self.assertEqual({"192.0.2.0": 2, "192.0.2.1": 2}, simulation.lab.sessions.census.per_address)

    def test_no_word_over_a_limit(self) -> None:
        simulation = proxied(settings=ConnectionSettings(max_connections=1))
        simulation.connect()
        second = simulation.connect()
        simulation.reactor.run(second.wait_closed())
        self.assertEqual(b"", bytes(second.received))


class Tls(_Proxied):
    def test_tls_behind_the_header(self) -> None:
        simulation = proxied(scheme="tls", tls=True)
        client = simulation.reactor.run(connect(simulation.reactor, simulation.lab.address.replace("tls:", "tcp:")))
        client.send(encode(CLIENT))
        client.start_tls(TrustingClient("mx.test"))
        self.assertEqual(b"220", simulation.reply(client)[:3])
        session = self.session(simulation, client)
        self.assertEqual(("192.0.2.7", "mx.test"), (session.client_ip, session.tls.sni))

    def test_header_and_hello_in_one_segment(self) -> None:
        simulation = proxied(scheme="tls", tls=True)
        client = simulation.reactor.run(connect(simulation.reactor, simulation.lab.address.replace("tls:", "tcp:")))
        transport: Any = client.transport
        send, pieces = transport._write, [encode(CLIENT)]
        transport._write = pieces.append
        client.start_tls(TrustingClient("mx.test"))
        simulation.reactor.settle(0.1)
        transport._write = send
        send(b"".join(pieces))
        self.assertEqual(b"220", simulation.reply(client)[:3])
        self.assertEqual("192.0.2.7", self.session(simulation, client).client_ip)

    def test_starttls_behind_the_header(self) -> None:
        simulation = proxied(tls=True)
        client = self.start(simulation, encode(CLIENT))
        simulation.command(client, b"EHLO client.test")
        simulation.reactor.run(client.secure(TrustingClient("mx.test")))
        session = self.session(simulation, client)
        self.assertEqual(("192.0.2.7", "TLS1.3"), (session.client_ip, session.tls.version))

    def test_header_and_handshake_have_the_time_of_one(self) -> None:
        simulation = proxied(scheme="tls", tls=True, settings=ConnectionSettings(handshake_timeout=30))
        client = simulation.reactor.run(connect(simulation.reactor, simulation.lab.address.replace("tls:", "tcp:")))
        simulation.reactor.settle(20)
        client.send(encode(CLIENT))
        simulation.reactor.settle(9)
        self.assertFalse(client.closed)
        simulation.reactor.settle(2)
        self.assertTrue(client.closed)

    def test_no_header_where_none_is_required(self) -> None:
        simulation = proxied(scheme="tls", tls=True, required=False)
        client = simulation.connect(TrustingClient("mx.test"))
        self.assertEqual(b"220", simulation.reply(client)[:3])
        self.assertEqual("127.0.0.1", self.session(simulation, client).client_ip)

    def test_tls_that_the_proxy_terminated_is_ignored(self) -> None:
        simulation = proxied(tls=True)
        header = Header(Family.TCP4, "192.0.2.7", "198.51.100.1", 1, 25, authority="mx.test", tls=TLS)
        client = self.start(simulation, encode(header))
        self.assertIn(b"STARTTLS", simulation.command(client, b"EHLO client.test"))
        session = self.session(simulation, client)
        self.assertEqual((None, TLS), (session.tls, session.proxy.tls))

    def test_or_counts(self) -> None:
        simulation = proxied(tls=True, accept_tls=True)
        header = Header(Family.TCP4, "192.0.2.7", "198.51.100.1", 1, 25, authority="mx.test", tls=TLS)
        client = self.start(simulation, encode(header))
        self.assertNotIn(b"STARTTLS", simulation.command(client, b"EHLO client.test"))
        tls = self.session(simulation, client).tls
        self.assertEqual(("TLS1.3", TLS.cipher, "mx.test", "gw.test"), (tls.version, tls.cipher, tls.sni, tls.peer_name))
        self.assertEqual(b"503", simulation.command(client, b"STARTTLS")[:3])

    def test_a_certificate_that_was_not_verified_names_nobody(self) -> None:
        simulation = proxied(accept_tls=True)
        tls = ProxyTls("evil\u2028", "x", certificate=True, verified=False, common_name="gw.test")
        client = self.start(simulation, encode(Header(Family.TCP4, "192.0.2.7", "198.51.100.1", 1, 25, tls=tls)))
        facts = self.session(simulation, client).tls
        self.assertEqual(("TLS", ""), (facts.version, facts.peer_name))
