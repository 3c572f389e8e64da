"""Dovecot's authentication protocol: the client's side without a server, and over a socket with one that misbehaves."""

from __future__ import annotations

import tempfile
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgate.clients.dovecot import MAX_LINE, Dialogue, Dovecot, DovecotFailure, Verdict
from mailgate.net.waiting import spawn

HELLO = b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t1\nCUID\t2\nCOOKIE\tabc\nDONE\n"


class DialogueTests(SynchronousTestCase):
    def test_what_is_said(self) -> None:
        dialogue = Dialogue()
        self.assertRegex(dialogue.greeting(), rb"\AVERSION\t1\t2\nCPID\t\d+\n\Z")
        said = dialogue.question(7, "smtp", "ann\tx", "s=e\ncret")
        head, _, response = said.partition(b"\tresp=")
        self.assertEqual(head, b"AUTH\t7\tPLAIN\tservice=smtp\tnologin\tsecured")
        self.assertEqual(b64decode(response), b"\0ann\tx\0s=e\ncret")
        self.assertEqual((response.count(b"\n"), response.count(b"\t")), (1, 0))

    def test_answers(self) -> None:
        for line, answer in (
            (b"OK\t1\tuser=Ann", Verdict("Ann")),
            (b"OK\t1\tuser=ann\tproxy", Verdict("ann")),
            (b"OK\t1", None),
            (b"FAIL\t1\tuser=ann", Verdict("")),
            (b"FAIL\t1\tuser=ann\ttemp", None),
            (b"FAIL\t1\tuser=ann\tcode=temp_fail\treason=down", None),
            (b"FAIL\t1\tuser=ann\tcode=authz_fail", Verdict("")),
            (b"CONT\t1\tabc", None),
        ):
            ((number, found),) = Dialogue().receive(line + b"\n")
            self.assertEqual(number, 1)
            if answer is None:
                self.assertIsInstance(found, DovecotFailure, line)
            else:
                self.assertEqual(found, answer, line)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(1, len(HELLO) + 20), max_size=8))
    def test_every_cut_is_the_same(self, cuts: list[int]) -> None:
        octets = HELLO + b"OK\t1\tuser=ann\nFAIL\t2\n"
        dialogue, answers, start = Dialogue(), [], 0
        for end in [*sorted(cuts), len(octets)]:
            answers += dialogue.receive(octets[start:end])
            start = max(start, end)
        self.assertEqual((dialogue.is_ready, answers), (True, [(1, Verdict("ann")), (2, Verdict(""))]))

    def test_no_such_server(self) -> None:
        for octets in (
            b"VERSION\t2\t0\n",
            b"VERSION\t1\t2\nMECH\tCRAM-MD5\nDONE\n",
            b"OK\tone\tuser=ann\n",
            b"OK\n",
            b"x" * (MAX_LINE + 1),
            b"MECH\t" + b"x" * MAX_LINE + b"\n",
        ):
            with self.assertRaises(DovecotFailure):
                list(Dialogue().receive(octets))


class Server(Protocol):
    """Says hello, and to each question what `answer` makes of its number and response; None: nothing."""

    hello = HELLO
    answer: Callable[[bytes, bytes], bytes | None]

    def connectionMade(self) -> None:
        self.factory.connections.append(self)  # type: ignore[union-attr]
        self.transport.write(self.hello)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        for line in data.splitlines():
            if line.startswith(b"AUTH"):
                fields = line.split(b"\t")
                said = type(self).answer(fields[1], b64decode(fields[-1].partition(b"=")[2]))
                if said is not None:
                    self.transport.write(said)  # type: ignore[union-attr]


class SocketTests(TestCase):
    def serve(self, answer: Callable[[bytes, bytes], bytes | None], hello: bytes = HELLO, timeout: float = 5.0) -> Dovecot:
        factory: Any = Factory.forProtocol(type("Serving", (Server,), {"answer": staticmethod(answer), "hello": hello}))
        self.connections = factory.connections = []
        directory = tempfile.TemporaryDirectory(prefix="mailgate-")
        self.addCleanup(directory.cleanup)
        self.path = f"{directory.name}/socket"
        port: Any = reactor.listenUNIX(self.path, factory)  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        dovecot = Dovecot(reactor, path=self.path, service="smtp", timeout=timeout)
        self.addCleanup(lambda: spawn(dovecot.stop()))
        return dovecot

    async def test_many_at_once_over_one_connection(self) -> None:
        def answer(number: bytes, response: bytes) -> bytes:
            _, user, password = response.split(b"\0")
            return b"OK\t%b\tuser=%b\n" % (number, user) if password == b"right" else b"FAIL\t%b\n" % number

        dovecot = self.serve(answer)
        asked = [spawn(dovecot.check(f"u{n}", "right" if n % 2 else "wrong")) for n in range(20)]
        verdicts = [await one for one in asked]
        self.assertEqual([one.user for one in verdicts], [f"u{n}" if n % 2 else "" for n in range(20)])
        self.assertEqual(len(self.connections), 1)

    async def assert_fails(self, dovecot: Dovecot, reason: str) -> None:
        with self.assertRaises(DovecotFailure) as caught:
            await dovecot.check("ann", "secret")
        self.assertIn(reason, str(caught.exception))
        self.assertIn(self.path, str(caught.exception))

    async def test_no_answer_is_no_verdict(self) -> None:
        for answer, reason in (
            (lambda number, _: b"OK\t99\tuser=eve\n", "to nobody"),
            (lambda number, _: b"FAIL\t%b\ttemp\n" % number, "problem"),
            (lambda number, _: b"x" * 9000, "too long"),
            (lambda number, _: None, "in time"),
        ):
            await self.assert_fails(self.serve(answer, timeout=0.3), reason)

    async def test_a_server_without_plain(self) -> None:
        await self.assert_fails(self.serve(lambda number, _: None, hello=b"VERSION\t1\t2\nDONE\n"), "PLAIN")

    async def test_a_server_that_says_nothing(self) -> None:
        await self.assert_fails(self.serve(lambda number, _: None, hello=b"", timeout=0.3), "")

    async def test_nobody_there(self) -> None:
        self.path = "nowhere"
        await self.assert_fails(Dovecot(reactor, path=self.path, service="smtp", timeout=1), "")

    async def test_a_connection_that_is_closed_is_made_again(self) -> None:
        dovecot = self.serve(lambda number, _: b"OK\t%b\tuser=ann\n" % number)
        self.assertEqual((await dovecot.check("ann", "x")).user, "ann")
        gone: Deferred[None] = Deferred()
        connection: Any = dovecot._connection
        lost = connection.connectionLost
        connection.connectionLost = lambda reason: (lost(reason), gone.callback(None))
        self.connections[0].transport.loseConnection()
        await gone
        self.assertEqual((await dovecot.check("ann", "x")).user, "ann")
        self.assertEqual(len(self.connections), 2)
