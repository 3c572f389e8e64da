"""Inbound connections over real sockets: ports, greeting, limits, pressure, TLS, memory."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailgate.inbound.ports import CannotBind
from mailgate.inbound.sessions import ConnectionSettings
from mailgate.smtp.reply import Reply
from mailgate.testing.client import RawClient, connect
from mailgate.testing.tls import TrustingClient
from tests.inbound.scripted import TAKEN, Lab
from tests.support.adapters import real_adapters
from tests.support.interpreters import needs_tracemalloc
from tests.support.ports import free_port

DATA = b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n"
CONTENT = b"Subject: x\r\n\r\nhello\r\n"


class _Wire(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.adapters = real_adapters()
        self.reactor = self.adapters.reactor
        self.labs: list[Lab] = []
        self.clients: list[RawClient] = []
        self._directory = TemporaryDirectory()
        self.directory = Path(self._directory.name)

    async def tearDown(self) -> None:
        for client in self.clients:
            await client.close()
        for lab in self.labs:
            for closing in lab.port.close():
                await closing
            await lab.sessions.drain(0)
        self._directory.cleanup()

    def lab(self, **options: Any) -> Lab:
        lab = Lab(self.adapters, **options)
        self.labs.append(lab)
        return lab

    async def client(self, lab: Lab, *, hello: bytes = b"EHLO client.test", tls: Any = None) -> RawClient:
        client = await connect(self.reactor, lab.address, tls=tls)
        self.clients.append(client)
        if hello:
            await client.reply()
            await client.command(hello)
        client.lmtp = lab.sessions.server.lmtp
        return client

    async def until(self, condition: Any, deadline: float = 10.0) -> None:
        end = self.reactor.seconds() + deadline
        while not condition():
            self.assertLess(self.reactor.seconds(), end, "it did not happen in time")
            await deferLater(self.reactor, 0.005)


class Messages(_Wire):
    async def test_over_tcp(self) -> None:
        lab = self.lab()
        client = await self.client(lab)
        for number in range(3):
            replies = await client.deliver(b"a@client.test", [b"b@mx.test"], CONTENT)
            self.assertEqual(b"250 2.0.0 Ok: taken", replies[-1])
            self.assertEqual(CONTENT, lab.transactions[number].content)
        await client.quit()
        self.assertTrue(client.received.endswith(b"221 2.0.0 Bye\r\n"))
        session = lab.transactions[0].session
        self.assertEqual(
            ("127.0.0.1", "127.0.0.1", lab.port.numbers[0]), (session.client_ip, session.local_ip, session.local_port)
        )
        self.assertGreater(session.client_port, 0)

    async def test_pipelined_in_one_write(self) -> None:
        lab = self.lab()
        client = await self.client(lab, hello=b"")
        await client.reply()
        client.send(b"EHLO client.test\r\n" + DATA)
        self.assertEqual([b"250", b"250", b"250", b"354"], [reply[:3] for reply in await client.replies(4)])
        client.send(CONTENT + b".\r\n" + DATA + CONTENT + b".\r\nQUIT\r\n")
        replies = [reply[:3] for reply in await client.replies(6)]
        self.assertEqual([b"250", b"250", b"250", b"354", b"250", b"221"], replies)
        await client.wait_closed()
        self.assertEqual([CONTENT, CONTENT], [transaction.content for transaction in lab.transactions])

    async def test_byte_by_byte(self) -> None:
        lab = self.lab()
        client = await self.client(lab)
        stream = DATA + CONTENT + b".\r\n"
        await client.send_pieces(stream[at : at + 1] for at in range(len(stream)))
        self.assertEqual([b"250", b"250", b"354", b"250"], [reply[:3] for reply in await client.replies(4)])
        self.assertEqual(CONTENT, lab.transactions[0].content)

    async def test_lmtp_over_a_unix_socket(self) -> None:
        answers = [TAKEN, Reply(452, "4.2.2", "full"), Reply(550, "5.1.1", "unknown")]
        lab = self.lab(lmtp=True, scheme="unix", path=str(self.directory / "lmtp"), script={"end": lambda transaction: answers})
        client = await self.client(lab, hello=b"LHLO client.test")
        replies = await client.deliver(b"a@client.test", [b"b@mx.test", b"b@mx.test", b"c@mx.test"], CONTENT)
        self.assertEqual([b"250", b"452", b"550"], [reply[:3] for reply in replies[-3:]])
        self.assertEqual(("", "LMTP"), (lab.transactions[0].session.client_ip, lab.transactions[0].session.protocol))
        self.assertEqual(b"500", (await client.command(b"EHLO client.test"))[:3])


class Beginnings(_Wire):
    async def test_bytes_that_wait_at_accept_are_early(self) -> None:
        lab = self.lab()
        with socket.create_connection(("127.0.0.1", lab.port.numbers[0])) as early:
            early.sendall(b"EHLO client.test\r\n")
            early.setblocking(False)
            heard = bytearray()

            def closed() -> bool:
                try:
                    piece = early.recv(4096)
                except BlockingIOError:
                    return False
                heard.extend(piece)
                return not piece

            await self.until(closed)
        self.assertTrue(heard.startswith(b"421 4.7.0 "), heard)

    async def test_http(self) -> None:
        lab = self.lab()
        client = await self.client(lab, hello=b"")
        await client.reply()
        client.send(b"POST / HTTP/1.1\r\nHost: mx.test\r\n\r\nMAIL FROM:<a@client.test>\r\n")
        self.assertEqual(b"421", (await client.reply())[:3])
        await client.wait_closed()
        self.assertEqual([], lab.transactions)


class Limits(_Wire):
    async def test_one_too_many_hears_it_within_50_ms_and_the_place_is_free_again(self) -> None:
        lab = self.lab(settings=ConnectionSettings(max_connections=2))
        first = await self.client(lab)
        await self.client(lab)
        third = await self.client(lab, hello=b"")
        began = self.reactor.seconds()
        self.assertEqual(b"421 4.7.0 ", (await third.reply())[:10])
        self.assertLess(self.reactor.seconds() - began, 0.05)
        await third.wait_closed()
        await first.quit()
        await self.until(lambda: len(lab.sessions) == 1)
        await self.client(lab)

    async def test_one_too_many_who_speaks_first_hears_it_too(self) -> None:
        lab = self.lab(settings=ConnectionSettings(max_connections=1))
        await self.client(lab)
        for _ in range(20):
            early = await self.client(lab, hello=b"")
            early.send(b"EHLO early.test\r\n")
            self.assertEqual(b"421 4.7.0 ", (await early.reply())[:10])
            await early.wait_closed()

    async def test_a_flood(self) -> None:
        lab = self.lab(settings=ConnectionSettings(max_connections=5))
        clients = [await self.client(lab, hello=b"") for _ in range(60)]
        heard = [(await client.reply())[:3] for client in clients]
        self.assertEqual((5, 55), (heard.count(b"220"), heard.count(b"421")))
        for client in clients[5:]:
            await client.wait_closed()
        self.assertEqual(b"250", (await clients[0].command(b"NOOP"))[:3] if heard[0] == b"220" else b"250")


class Pressure(_Wire):
    async def test_a_body_is_not_read_while_the_pipeline_is_behind(self) -> None:
        held: list[Deferred[None]] = []

        def append(content: bytes) -> Deferred[None]:
            held.append(Deferred())
            return held[-1]

        lab = self.lab(script={"append": append}, max_message_size=1 << 30)
        client = await self.client(lab)
        client.send(DATA)
        await client.replies(3)
        sent = 64 << 20
        client.send(b"\r\n" + b"x" * 998 + b"\r\n")
        await self.until(lambda: held)
        for _ in range(sent >> 20):
            client.send((b"x" * 1022 + b"\r\n") * 1024)
        await deferLater(self.reactor, 0.2)
        self.assertLess(len(lab.transactions[0].content), 1 << 20)
        client.drop(reset=True)
        await client.wait_closed()
        while held and not lab.transactions[0].aborted:
            held.pop().callback(None)
            await deferLater(self.reactor, 0.01)
        self.assertEqual("client gone", lab.transactions[0].aborted)

    async def test_a_client_that_never_reads(self) -> None:
        lab = self.lab(max_idle_commands=10**9, settings=ConnectionSettings(read_timeout=1.0))
        client = await self.client(lab)
        client.stop_reading()
        client.send(b"VRFY someone\r\n" * 1_000_000)
        connection: Any = next(iter(lab.sessions._open))
        await self.until(lambda: connection._blocked)
        self.assertLess(sum(map(len, connection.transport._tempDataBuffer)) + len(connection.transport.dataBuffer), 8 << 20)
        await self.until(lambda: not len(lab.sessions))


class Tls(_Wire):
    async def test_starttls(self) -> None:
        lab = self.lab(tls=True)
        client = await self.client(lab)
        self.assertEqual(b"220", (await client.secure(TrustingClient("mx.test")))[:3])
        await client.command(b"EHLO client.test")
        content = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 100_000
        replies = await client.deliver(b"a@client.test", [b"b@mx.test"], content)
        self.assertEqual(b"250", replies[-1][:3])
        self.assertEqual(content, lab.transactions[0].content)
        facts = lab.transactions[0].session.tls
        self.assertEqual(("TLS1.3", "mx.test"), (facts.version, facts.sni) if facts else None)
        await client.quit()
        await self.until(lambda: not len(lab.sessions))

    async def test_nothing_is_said_in_clear_after_the_handshake(self) -> None:
        """Writing at once must not go round the TLS layer."""
        lab = self.lab(tls=True)
        client = await self.client(lab)
        raw = bytearray()
        await client.secure(TrustingClient())
        transport: Any = client.transport
        receive = transport.protocol.dataReceived
        transport.protocol.dataReceived = lambda data: (raw.extend(data), receive(data))
        await client.command(b"EHLO client.test")
        self.assertNotIn(b"mx.test", raw)
        self.assertGreater(len(raw), 0)

    async def test_injection(self) -> None:
        lab = self.lab(tls=True)
        client = await self.client(lab)
        client.send(b"STARTTLS\r\nMAIL FROM:<injected@client.test>\r\n")
        self.assertEqual(b"554 5.5.1", (await client.reply())[:9])
        await client.wait_closed()
        self.assertEqual([], lab.transactions)

    async def test_garbage_in_place_of_a_handshake(self) -> None:
        lab = self.lab(tls=True)
        client = await self.client(lab)
        await client.command(b"STARTTLS")
        client.send(b"EHLO in clear\r\n" * 10)
        await client.wait_closed()
        await self.until(lambda: not len(lab.sessions))

    async def test_from_the_first_byte(self) -> None:
        lab = self.lab(tls=True, scheme="tls")
        client = await self.client(lab, tls=TrustingClient("mx.test"))
        replies = await client.deliver(b"a@client.test", [b"b@mx.test"], CONTENT)
        self.assertEqual(b"250", replies[-1][:3])
        client.send(b"QUIT\r\n")
        await client.wait_closed()
        await self.until(lambda: not len(lab.sessions))


class Drain(_Wire):
    async def test_running_messages_finish(self) -> None:
        lab = self.lab()
        idle, busy = await self.client(lab), await self.client(lab)
        busy.send(DATA)
        await busy.replies(3)
        drained: list[None] = []
        lab.sessions.drain(20).addCallback(drained.append)
        self.assertEqual(b"421 4.3.2 ", (await idle.reply())[:10])
        await idle.wait_closed()
        self.assertEqual([], drained)
        busy.send(CONTENT + b".\r\n")
        self.assertEqual([b"250", b"421"], [reply[:3] for reply in await busy.replies(2)])
        await busy.wait_closed()
        await self.until(lambda: drained)


class Ports(_Wire):
    async def test_a_port_in_use(self) -> None:
        lab = self.lab()
        error = self.assertRaises(CannotBind, Lab, self.adapters, port=lab.port.numbers[0])
        self.assertEqual("cannot listen on tcp://127.0.0.1: Address already in use", str(error))

    async def test_every_address_of_both_families(self) -> None:
        port = free_port()
        lab = self.lab(host="*", port=port)
        self.assertEqual((port,) * len(lab.port.numbers), lab.port.numbers)
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            if family == socket.AF_INET6 and len(lab.port.numbers) < 2:
                continue  # this kernel has no IPv6
            client = await connect(self.reactor, f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
            self.clients.append(client)
            await client.reply()
            await client.command(b"EHLO client.test")
            await client.deliver(b"a@client.test", [b"b@mx.test"], CONTENT)
            self.assertEqual(host, lab.transactions[-1].session.client_ip)

    async def test_connections_wait_until_we_accept(self) -> None:
        lab = self.lab(accept=False)
        client = await self.client(lab, hello=b"")
        await deferLater(self.reactor, 0.05)
        self.assertEqual((b"", False), (bytes(client.received), client.closed))
        lab.accept()
        self.assertEqual(b"220", (await client.reply())[:3])

    async def test_a_stale_unix_socket_is_removed(self) -> None:
        path = str(self.directory / "lmtp")
        left = socket.socket(socket.AF_UNIX)
        left.bind(path)
        left.close()
        lab = self.lab(scheme="unix", path=path)
        self.assertEqual(b"250", (await (await self.client(lab)).command(b"NOOP"))[:3])

    async def test_a_unix_socket_that_somebody_serves_is_not(self) -> None:
        path = str(self.directory / "lmtp")
        lab = self.lab(scheme="unix", path=path)
        error = self.assertRaises(CannotBind, Lab, self.adapters, scheme="unix", path=path)
        self.assertIn(os.strerror(errno.EADDRINUSE), str(error))
        self.assertEqual(b"250", (await (await self.client(lab)).command(b"NOOP"))[:3])

    async def test_another_file_in_the_way_stays(self) -> None:
        path = self.directory / "lmtp"
        path.write_text("mail")
        self.assertRaises(CannotBind, Lab, self.adapters, scheme="unix", path=str(path))
        self.assertTrue(stat.S_ISREG(path.stat().st_mode))
        self.assertEqual("mail", path.read_text())

    async def test_a_unix_socket_that_someone_removed_already(self) -> None:
        path = self.directory / "lmtp"
        lab = self.lab(scheme="unix", path=str(path))
        path.unlink()
        for closing in lab.port.close():
            await closing

    async def test_a_unix_socket_is_gone_afterwards(self) -> None:
        path = self.directory / "lmtp"
        lab = self.lab(scheme="unix", path=str(path))
        for closing in lab.port.close():
            await closing
        self.assertFalse(path.exists())


class Memory(_Wire):
    @needs_tracemalloc
    async def test_idle_connections(self) -> None:
        """Greeted, EHLO said, nothing since: at most 12 KiB each."""
        import tracemalloc

        count = min(300, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        lab = self.lab(settings=ConnectionSettings(max_connections=10_000))
        address = ("127.0.0.1", lab.port.numbers[0])
        sockets: list[socket.socket] = []
        self.addCleanup(lambda: [opened.close() for opened in sockets])

        async def more(number: int) -> None:
            for _ in range(number):
                opened = socket.create_connection(address)
                sockets.append(opened)
                await self.until(lambda: len(lab.sessions) == len(sockets))
                opened.recv(4096)
                opened.sendall(b"EHLO client.test\r\n")
            await deferLater(self.reactor, 0.1)

        await more(20)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await more(count)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        each = (after - before) / count
        self.assertLess(each, 12 << 10)
