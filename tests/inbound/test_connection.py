"""Time, limits, pressure, TLS and the end of connections, on a simulated network and clock."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailgate.inbound.sessions import LINGER, ConnectionSettings
from mailgate.smtp.reply import Reply
from mailgate.testing.client import RawClient
from mailgate.testing.network import adapters_for
from mailgate.testing.tls import TrustingClient

from .scripted import Lab, Simulation

DATA = b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n"


class _Connections(SynchronousTestCase):
    def assertCloses(self, simulation: Simulation, client: RawClient, reply: bytes = b"") -> None:
        """The client hears ``reply`` and is closed, within the patience we have."""
        began = simulation.reactor.seconds()
        if reply:
            self.assertEqual(reply, simulation.reply(client)[: len(reply)])
        simulation.reactor.run(client.wait_closed())
        self.assertLessEqual(simulation.reactor.seconds() - began, LINGER + 1)
        simulation.reactor.settle()
        self.assertEqual(0, len(simulation.lab.sessions))


class Time(_Connections):
    def test_silence_after_the_greeting(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(read_timeout=300))
        client = simulation.greeted(b"")
        simulation.reactor.settle(298)
        self.assertFalse(client.closed)
        simulation.reactor.settle(3)
        self.assertCloses(simulation, client, b"421 4.4.2 ")

    def test_the_timeout_is_for_a_whole_command(self) -> None:
        """A byte now and then does not keep a session open (slowloris)."""
        simulation = Simulation(settings=ConnectionSettings(read_timeout=300))
        client = simulation.greeted()
        for byte in b"NOOP aaaaaaaaaaaaaaaaaaaaaaaaaaaa":
            client.send(bytes([byte]))
            simulation.reactor.settle(10)
        self.assertIn(b"421 4.4.2 ", client.received)
        self.assertCloses(simulation, client)

    def test_each_command_begins_a_new_time(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(read_timeout=300))
        client = simulation.greeted()
        for _ in range(3):
            simulation.reactor.settle(200)
            self.assertEqual(b"250", simulation.command(client, b"NOOP")[:3])
        simulation.reactor.settle(301)
        self.assertCloses(simulation, client, b"421 4.4.2 ")

    def test_our_own_waiting_does_not_count(self) -> None:
        answer: Deferred[Reply] = Deferred()
        simulation = Simulation(settings=ConnectionSettings(read_timeout=300), script={"rcpt": lambda address: answer})
        client = simulation.greeted()
        client.send(DATA)
        simulation.reactor.settle(1000)
        answer.callback(Reply(250, "2.1.5", "at last"))
        self.assertEqual([b"250", b"250", b"354"], [simulation.reply(client)[:3] for _ in range(3)])
        simulation.reactor.settle(301)
        self.assertCloses(simulation, client, b"421 4.4.2 ")

    def test_silence_within_content(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(read_timeout=300))
        client = simulation.greeted()
        client.send(DATA)
        for _ in range(3):
            simulation.reply(client)
        client.send(b"Subject: x\r\n" * 100_000)
        simulation.reactor.settle(302)
        self.assertCloses(simulation, client, b"421 4.4.2 Idle")
        self.assertEqual("idle", simulation.transaction.aborted)

    def test_slow_content_ends_with_the_data_timeout(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(data_timeout=600))
        client = simulation.greeted()
        client.send(DATA)
        for _ in range(3):
            simulation.reply(client)
        while not client.closed and simulation.reactor.seconds() < 700:
            client.send(b"x" * 70 + b"\r\n")
            simulation.reactor.settle(1)
        self.assertIn(b"421 4.4.2 Content came too slowly", client.received)
        self.assertTrue(600 <= simulation.reactor.seconds() <= 603, simulation.reactor.seconds())
        self.assertCloses(simulation, client)

    def test_content_at_a_decent_rate_may_take_longer(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(data_timeout=600))
        client = simulation.greeted()
        client.send(DATA)
        for _ in range(3):
            simulation.reply(client)
        for _ in range(1000):
            client.send(b"x" * 598 + b"\r\n")
            simulation.reactor.settle(1)
        client.send(b".\r\n")
        self.assertEqual(b"250", simulation.reply(client)[:3])

    def test_a_refused_chunk_has_the_time_of_content(self) -> None:
        refused = {"rcpt": Reply(550, "5.1.1", "no such user")}
        for octets, last in ((600, b"503 5.5.1"), (400, b"421 4.4.2 Content came too slowly")):
            simulation = Simulation(settings=ConnectionSettings(read_timeout=300, data_timeout=600), script=refused)
            client = simulation.greeted()
            client.send(DATA.replace(b"DATA\r\n", b"BDAT %d LAST\r\n" % (1000 * octets)))
            for _ in range(2):
                simulation.reply(client)
            for _ in range(1000):
                client.send(b"x" * octets)
                simulation.reactor.settle(1)
            self.assertEqual(last, simulation.reply(client)[: len(last)])

    def test_behind_a_refused_chunk_a_command_has_its_own_time_again(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(read_timeout=1000, data_timeout=600))
        client = simulation.greeted()
        client.send(b"BDAT 4 LAST\r\nab")
        simulation.reactor.settle(500)
        client.send(b"cd")
        self.assertEqual(b"503", simulation.reply(client)[:3])
        simulation.reactor.settle(900)
        client.send(b"NOOP\r\n")
        self.assertEqual(b"250", simulation.reply(client)[:3])

    def test_time_that_the_disk_takes_is_not_the_clients(self) -> None:
        waits: list[Deferred[None]] = []

        def append(content: bytes) -> Any:
            waits.append(Deferred())
            return waits[-1]

        simulation = Simulation(settings=ConnectionSettings(data_timeout=600), script={"append": append})
        client = simulation.greeted()
        client.send(DATA + b"Subject: x\r\n")
        for _ in range(3):
            simulation.reply(client)
        simulation.reactor.settle(3000)
        waits.pop().callback(None)
        simulation.reactor.settle(200)
        client.send(b"\r\n.\r\n")
        simulation.reactor.settle()
        waits.pop().callback(None)
        self.assertEqual(b"250", simulation.reply(client)[:3])

    def test_a_whole_session(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(session_timeout=1000))
        client = simulation.greeted()
        while simulation.reactor.seconds() < 980:
            simulation.command(client, b"RSET" if simulation.reactor.seconds() % 2 else b"NOOP")
            simulation.reactor.settle(50)
        simulation.reactor.settle(1010 - simulation.reactor.seconds())
        self.assertCloses(simulation, client, b"421 4.4.2 Session took too long")

    def test_a_tls_handshake_that_never_comes(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(handshake_timeout=30), scheme="tls", tls=True)
        from mailgate.testing.client import connect

        client = simulation.reactor.run(connect(simulation.reactor, simulation.lab.address.replace("tls:", "tcp:")))
        simulation.reactor.settle(29)
        self.assertFalse(client.closed)
        simulation.reactor.settle(2)
        self.assertCloses(simulation, client)
        self.assertEqual(b"", bytes(client.received))

    def test_a_handshake_of_starttls_that_never_comes(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(handshake_timeout=30), tls=True)
        client = simulation.greeted()
        simulation.command(client, b"STARTTLS")
        simulation.reactor.settle(31)
        self.assertCloses(simulation, client)

    def test_a_peer_that_does_not_close_is_reset(self) -> None:
        simulation = Simulation()
        client = simulation.greeted()
        client.stop_reading()
        client.send(b"BDAT x\r\n" + b"NOOP\r\n" * 10)
        simulation.reactor.settle(LINGER + 1)
        self.assertEqual(0, len(simulation.lab.sessions))


class Greeting(_Connections):
    def test_a_client_that_speaks_first(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(greeting_delay=5))
        client = simulation.connect()
        client.send(b"EHLO client.test\r\n")
        self.assertCloses(simulation, client, b"421 4.7.0 ")

    def test_a_delay_without_a_word(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(greeting_delay=5))
        client = simulation.connect()
        simulation.reactor.settle(4.9)
        self.assertEqual(b"", bytes(client.received))
        self.assertEqual(b"220 mx.test ESMTP", simulation.reply(client))
        self.assertEqual(b"250", simulation.command(client, b"EHLO client.test")[:3])

    def test_early_talkers_may_be_let_pass(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(greeting_delay=5, reject_early_talkers=False))
        client = simulation.connect()
        client.send(b"EHLO client.test\r\n")
        client.send(b"NOOP\r\n" * 3)
        self.assertEqual([b"220", b"250"], [simulation.reply(client)[:3] for _ in range(2)])
        self.assertEqual([b"250"] * 3, [simulation.reply(client)[:3] for _ in range(3)])

    def test_the_banner(self) -> None:
        simulation = Simulation(banner="at your service")
        self.assertEqual(b"220 mx.test ESMTP at your service", simulation.reply(simulation.connect()))


class Limits(_Connections):
    def test_one_connection_too_many(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(max_connections=2))
        first, _ = simulation.greeted(), simulation.greeted()
        third = simulation.connect()
        began = simulation.reactor.seconds()
        self.assertEqual(b"421 4.7.0 ", simulation.reply(third)[:10])
        self.assertLess(simulation.reactor.seconds() - began, 0.05)
        simulation.reactor.run(third.wait_closed())
        first.drop()
        simulation.reactor.settle()
        simulation.greeted()

    def test_per_address_but_not_for_loopback(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(max_connections_per_ip=1))
        simulation.greeted(), simulation.greeted()
        sessions = simulation.lab.sessions
        sessions.add(_Nobody(), "192.0.2.1")
        self.assertEqual("max_connections_per_ip", sessions.exceeded("192.0.2.1"))
        self.assertEqual("", sessions.exceeded("192.0.2.2"))
        self.assertEqual("", sessions.exceeded("127.0.0.1"))
        self.assertEqual("", sessions.exceeded(""))

    def test_known_networks_are_not_counted(self) -> None:
        known = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
        sessions = Simulation(settings=ConnectionSettings(max_connections_per_ip=1, uncounted=known)).lab.sessions
        for client, counted in (("10.1.2.3", False), ("2001:db8::1", False), ("192.0.2.1", True), ("fe80::1%eth0", True)):
            held = _Nobody()
            sessions.add(held, client)
            self.assertEqual("max_connections_per_ip" if counted else "", sessions.exceeded(client), client)
            sessions.remove(held, client)
        self.assertEqual({}, sessions.census.per_address)

    def test_ipv6_clients_count_by_their_network(self) -> None:
        known = (ip_network("2001:db8::5/128"),)
        sessions = Simulation(settings=ConnectionSettings(max_connections_per_ip=2, uncounted=known)).lab.sessions
        held = [_Nobody(), _Nobody()]
        for number, connection in enumerate(held):
            self.assertEqual("", sessions.exceeded(f"2001:db8::{number + 1}"))
            sessions.add(connection, f"2001:db8::{number + 1}")
        self.assertEqual("max_connections_per_ip", sessions.exceeded("2001:db8::3"))
        self.assertEqual("", sessions.exceeded("2001:db8:0:1::1"))
        self.assertEqual("", sessions.exceeded("2001:db8::5"), "it is known, whoever its neighbours are")
        self.assertEqual("", sessions.move("2001:db8::1", "2001:db8::9"), "it counts there already")
        self.assertEqual("", sessions.move("2001:db8::2", "192.0.2.1"))
        self.assertEqual("", sessions.exceeded("2001:db8::3"))
        sessions.remove(held[0], "2001:db8::9")
        sessions.remove(held[1], "192.0.2.1")
        self.assertEqual({}, sessions.census.per_address)

    def test_one_too_many_by_its_header_stays_where_it_was(self) -> None:
        sessions = Simulation(settings=ConnectionSettings(max_connections_per_ip=1)).lab.sessions
        for address in ("192.0.2.1", "2001:db8::1"):
            sessions.add(_Nobody(), address)
        self.assertEqual("max_connections_per_ip", sessions.move("192.0.2.1", "2001:db8::2"))
        self.assertEqual({"192.0.2.1": 1, "2001:db8::/64": 1}, sessions.census.per_address)

    def test_counts_go_down_again(self) -> None:
        sessions = Simulation(settings=ConnectionSettings(max_connections_per_ip=1)).lab.sessions
        held = _Nobody()
        for _ in range(3):
            self.assertEqual("", sessions.exceeded("192.0.2.1"))
            sessions.add(held, "192.0.2.1")
            sessions.remove(held, "192.0.2.1")
        self.assertEqual({}, sessions.census.per_address)

    def test_a_flood_is_one_line_a_second(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(max_connections=1))
        simulation.greeted()
        lines: list[dict[str, Any]] = []
        simulation.lab.sessions.events = _Log(lines)  # type: ignore[assignment]
        for _ in range(50):
            simulation.lab.sessions.log_refused("tcp://x", "192.0.2.1", "max_connections")
        simulation.reactor.advance(1.1)
        simulation.lab.sessions.log_refused("tcp://x", "192.0.2.1", "max_connections")
        self.assertEqual([1, 50], [line["refused"] for line in lines])


class _Nobody:
    def drain(self) -> None: ...

    def cut(self) -> None: ...


class _Log:
    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = lines

    def warn(self, event: Any, **fields: Any) -> None:
        self.lines.append(fields)


class Pressure(_Connections):
    def test_a_pipeline_that_is_behind_stops_the_reading(self) -> None:
        """However much the client sends: what we hold is one read, what the network holds is its buffers."""
        waits: list[Deferred[None]] = []

        def append(content: bytes) -> Any:
            waits.append(Deferred())
            return waits[-1]

        simulation = Simulation(script={"append": append}, max_message_size=1 << 30)
        client = simulation.greeted()
        client.send(DATA)
        for _ in range(3):
            simulation.reply(client)
        block = b"x" * 998 + b"\r\n"
        client.send(b"\r\n")
        for _ in range(64):
            client.send(block * 16)
        simulation.reactor.settle()
        self.assertLessEqual(len(simulation.transaction.content), 32_000)
        for _ in range(100):
            if not waits:
                break
            waits.pop().callback(None)
            simulation.reactor.settle(0.1)
        self.assertEqual(2 + 64 * 16 * len(block), len(simulation.transaction.content) + 2)

    def test_a_flood_behind_an_open_question_is_not_read(self) -> None:
        answer: Deferred[Reply] = Deferred()
        simulation = Simulation(script={"mail": lambda sender: answer})
        client = simulation.greeted()
        client.send(b"MAIL FROM:<a@client.test>\r\n")
        for _ in range(100):
            client.send(b"NOOP xxxxxxxxxxxxxxxxxx\r\n" * 500)
        simulation.reactor.settle()
        held = next(iter(simulation.lab.sessions._open))._dialogue._engine  # type: ignore[attr-defined]
        self.assertLess(len(held._buffer), 100_000)
        answer.callback(Reply(250, "2.1.0", "ok"))
        self.assertEqual(b"250 2.1.0 ok", simulation.reply(client))
        simulation.reactor.settle()
        self.assertIn(b"421 4.7.0", client.received)

    def test_a_client_that_does_not_read_is_not_read(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(read_timeout=60), max_idle_commands=10**9, max_errors=10**9)
        client = simulation.greeted()
        client.stop_reading()
        for _ in range(200):
            client.send(b"VRFY x\r\n" * 200)
        simulation.reactor.settle(5)
        ours = next(iter(simulation.lab.sessions._open))
        self.assertTrue(ours._stopped and ours._blocked)  # type: ignore[attr-defined]
        simulation.reactor.settle(61 + LINGER)
        self.assertEqual(0, len(simulation.lab.sessions))

    def test_a_client_that_reads_again_is_read_again(self) -> None:
        simulation = Simulation(max_idle_commands=10**9, max_errors=10**9)
        client = simulation.greeted()
        client.stop_reading()
        for _ in range(100):
            client.send(b"VRFY x\r\n" * 200)
        simulation.reactor.settle(5)
        client.resume_reading()
        simulation.reactor.settle(20)
        self.assertEqual(20_000, bytes(client.received).count(b"\r\n252 "))
        client.send(b"NOOP\r\n")
        simulation.reactor.settle(1)
        self.assertRegex(bytes(client.received), rb"250 2.0.0 [^\r]*\r\n\Z")


class StartTls(_Connections):
    def test_everything_is_forgotten(self) -> None:
        simulation = Simulation(tls=True)
        client = simulation.greeted()
        self.assertEqual(b"220", simulation.reactor.run(client.secure(TrustingClient("mx.test")))[:3])
        self.assertEqual(b"503", simulation.command(client, b"MAIL FROM:<a@client.test>")[:3])
        hello = simulation.command(client, b"EHLO client.test")
        self.assertNotIn(b"STARTTLS", hello)
        simulation.deliver(client)
        session = simulation.transaction.session
        self.assertEqual(("TLS1.3", "mx.test"), (session.tls.version, session.tls.sni) if session.tls else None)

    def test_bytes_behind_the_command(self) -> None:
        simulation = Simulation(tls=True)
        client = simulation.greeted()
        client.send(b"STARTTLS\r\nMAIL FROM:<injected@client.test>\r\n")
        self.assertCloses(simulation, client, b"554 5.5.1")
        self.assertEqual([], simulation.lab.transactions)

    def test_bytes_in_clear_after_the_220(self) -> None:
        simulation = Simulation(tls=True)
        client = simulation.greeted()
        self.assertEqual(b"220", simulation.command(client, b"STARTTLS")[:3])
        client.send(b"MAIL FROM:<injected@client.test>\r\n")
        self.assertCloses(simulation, client)
        self.assertEqual([], simulation.lab.transactions)

    def test_not_offered_without_certificates(self) -> None:
        simulation = Simulation()
        client = simulation.greeted(b"")
        self.assertNotIn(b"STARTTLS", simulation.command(client, b"EHLO client.test"))
        self.assertEqual(b"5", simulation.command(client, b"STARTTLS")[:1])

    def test_a_message_within_tls(self) -> None:
        simulation = Simulation(tls=True)
        client = simulation.greeted()
        simulation.reactor.run(client.secure(TrustingClient()))
        simulation.command(client, b"EHLO client.test")
        content = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 50_000
        self.assertEqual(b"250", simulation.deliver(client, content)[-1][:3])
        self.assertEqual(content, simulation.transaction.content)


class ImplicitTls(_Connections):
    def test_a_message(self) -> None:
        simulation = Simulation(scheme="tls", tls=True)
        client = simulation.connect(TrustingClient("mx.test"))
        self.assertEqual(b"220", simulation.reply(client)[:3])
        self.assertNotIn(b"STARTTLS", simulation.command(client, b"EHLO client.test"))
        self.assertEqual(b"250", simulation.deliver(client)[-1][:3])
        self.assertIsNotNone(simulation.transaction.session.tls)

    def test_no_word_over_a_limit(self) -> None:
        simulation = Simulation(scheme="tls", tls=True, settings=ConnectionSettings(max_connections=1))
        simulation.reply(simulation.connect(TrustingClient()))
        second = simulation.connect(TrustingClient())
        simulation.reactor.run(second.wait_closed())
        self.assertEqual(b"", bytes(second.received))

    def test_early_words_within_tls(self) -> None:
        simulation = Simulation(scheme="tls", tls=True, settings=ConnectionSettings(greeting_delay=2))
        client = simulation.connect(TrustingClient())
        client.send(b"EHLO client.test\r\n")
        self.assertCloses(simulation, client, b"421 4.7.0 ")


class Drain(_Connections):
    def _drain(self, simulation: Simulation, timeout: float = 100.0) -> Deferred[None]:
        return simulation.lab.sessions.drain(timeout)

    def test_nobody_is_there(self) -> None:
        simulation = Simulation()
        self.successResultOf(self._drain(simulation))

    def test_idle_sessions_hear_it_at_once(self) -> None:
        simulation = Simulation()
        silent, idle = simulation.greeted(b""), simulation.greeted()
        done = self._drain(simulation)
        for client in (silent, idle):
            self.assertEqual(b"421 4.3.2 ", simulation.reply(client)[:10])
            simulation.reactor.run(client.wait_closed())
        simulation.reactor.settle()
        self.successResultOf(done)

    def test_a_transaction_is_finished_first(self) -> None:
        simulation = Simulation()
        client = simulation.greeted()
        client.send(DATA)
        for _ in range(3):
            simulation.reply(client)
        done = self._drain(simulation)
        simulation.reactor.settle(50)
        self.assertNoResult(done)
        client.send(b"Subject: x\r\n\r\n.\r\n")
        self.assertEqual([b"250", b"421"], [simulation.reply(client)[:3] for _ in range(2)])
        simulation.reactor.run(client.wait_closed())
        simulation.reactor.settle()
        self.successResultOf(done)

    def test_a_transaction_that_is_reset(self) -> None:
        simulation = Simulation()
        client = simulation.greeted()
        simulation.command(client, b"MAIL FROM:<a@client.test>")
        self._drain(simulation)
        client.send(b"RSET\r\n")
        self.assertEqual([b"250", b"421"], [simulation.reply(client)[:3] for _ in range(2)])

    def test_no_transaction_outlives_the_timeout(self) -> None:
        answer: Deferred[Any] = Deferred()
        simulation = Simulation(script={"end": lambda transaction: answer})
        waiting, slow = simulation.greeted(), simulation.greeted()
        waiting.send(DATA + b"Subject: x\r\n\r\n.\r\n")
        slow.send(DATA)
        simulation.reactor.settle()
        done = self._drain(simulation, 100)
        simulation.reactor.settle(99)
        self.assertNoResult(done)
        simulation.reactor.settle(1 + LINGER + 1)
        self.successResultOf(done)
        for client in (waiting, slow):
            self.assertIn(b"421 4.3.2", client.received)
        self.assertEqual(["shutdown"] * 2, [transaction.aborted for transaction in simulation.lab.transactions])

    def test_handshakes_are_dropped(self) -> None:
        simulation = Simulation(tls=True)
        client = simulation.greeted()
        simulation.command(client, b"STARTTLS")
        done = self._drain(simulation)
        simulation.reactor.settle()
        self.successResultOf(done)

    def test_nobody_is_greeted_any_more(self) -> None:
        simulation = Simulation(settings=ConnectionSettings(greeting_delay=5))
        client = simulation.connect()
        self._drain(simulation)
        self.assertEqual(b"421 4.3.2 ", simulation.reply(client)[:10])


class Ports(SynchronousTestCase):
    def test_nothing_is_accepted_before_its_time(self) -> None:
        simulation = Simulation()
        simulation.lab.sessions.accepting = False
        client = simulation.connect()
        simulation.reactor.run(client.wait_closed())
        self.assertEqual((b"", 0), (bytes(client.received), len(simulation.lab.sessions)))

    def test_two_listeners_do_not_share_a_port(self) -> None:
        from mailgate.inbound.ports import CannotBind

        simulation = Simulation()
        number = simulation.lab.port.numbers[0]
        self.assertRaises(CannotBind, Lab, adapters_for(simulation.reactor), port=number)
