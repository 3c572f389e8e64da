"""The test house itself: peers, simulated network, TLS in memory."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as Overdue
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError, TimeoutError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import SynchronousTestCase

from mailgate.testing.client import ConnectionEnded, RawClient, connect
from mailgate.testing.network import SimulatedReactor, SimulationStuck
from mailgate.testing.nexthop import DROP, ENDLESS, HANG, RESET, NextHop, Step, say
from mailgate.testing.tls import TrustingClient
from tests.support.certificates import leaf

MESSAGE = b"Subject: hello\r\n\r\n..dots\r\nend\r\n"


class NextHopTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = SimulatedReactor(seed=1)

    def hop(self, **options: object) -> NextHop:
        return NextHop(**options).listen(self.reactor)  # type: ignore[arg-type]

    def client(self, hop: NextHop) -> RawClient:
        client = self.reactor.run(connect(self.reactor, hop.endpoint))
        self.assertEqual(self.reactor.run(client.reply())[:4], b"220 ")
        return client

    def test_a_transaction_is_kept_with_its_exact_bytes(self) -> None:
        hop = self.hop()
        client = self.client(hop)
        replies = self.reactor.run(client.deliver(b"a@x.test", [b"b@y.test"], MESSAGE, hello=b"EHLO c.test"))
        self.assertEqual([reply[:3] for reply in replies], [b"250", b"250", b"250", b"354", b"250"])
        (kept,) = hop.transactions
        self.assertEqual((kept.sender, kept.paths, kept.wire), (b"a@x.test", [b"b@y.test"], MESSAGE))
        self.assertEqual(kept.content, MESSAGE.replace(b"..", b"."))
        self.assertIn(MESSAGE + b".\r\n", bytes(hop.connections[0].clear))

    def test_the_end_of_data_is_found_at_every_cut_and_nowhere_else(self) -> None:
        content = b"a\n.\nb\r.\rc\r\n.\rd\r\n.\ne\r\n..\r\n"
        stream = b"EHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n" + content + b".\r\nQUIT\r\n"
        for cut in range(1, len(stream)):
            hop = self.hop()
            client = self.client(hop)
            self.reactor.run(client.send_pieces([stream[:cut], stream[cut:]]))
            self.reactor.run(client.wait_closed())
            self.assertEqual([kept.wire for kept in hop.transactions], [content])
            self.assertEqual(hop.connections[0].verbs, [b"EHLO", b"MAIL", b"RCPT", b"DATA", b"QUIT"])

    def test_chunks_are_counted(self) -> None:
        hop = self.hop()
        client = self.client(hop)
        self.reactor.run(client.say(b"EHLO c", b"MAIL FROM:<a@x>", b"RCPT TO:<b@y>"))
        client.send(b"BDAT 4\r\n.\r\n\nBDAT 2 LAST\r\n.\r")
        self.assertEqual([reply[:3] for reply in self.reactor.run(client.replies(2))], [b"250", b"250"])
        self.assertEqual((hop.transactions[0].via, hop.transactions[0].content), ("BDAT", b".\r\n\n.\r"))

    def test_lmtp_answers_are_given_one_by_one(self) -> None:
        hop = self.hop(lmtp=True, script={Step.DOT: say(b"250 ok", b"452-two\r\n452 lines")})
        client = self.client(hop)
        client.send(b"LHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nRCPT TO:<c@y>\r\nRCPT TO:<d@y>\r\nDATA\r\n.\r\n")
        self.reactor.run(client.replies(8))
        self.assertEqual(
            hop.transactions[0].outcome(lmtp=True),
            [(b"b@y", b"250 ok"), (b"c@y", b"452-two\r\n452 lines"), (b"d@y", b"")],
        )

    def test_a_list_of_actions_is_used_up(self) -> None:
        hop = self.hop(script={Step.MAIL: [say(b"451 later")]})
        client = self.client(hop)
        replies = self.reactor.run(client.say(b"EHLO c", b"MAIL FROM:<a@x>", b"MAIL FROM:<a@x>"))
        self.assertEqual([reply[:3] for reply in replies], [b"250", b"451", b"250"])
        self.assertEqual(hop.mail_count, 2)

    def test_hanging_keeps_the_connection(self) -> None:
        client = self.client(self.hop(script={Step.HELLO: HANG}))
        with self.assertRaises(Overdue):
            self.reactor.run(client.command(b"EHLO c", deadline=30))
        self.assertFalse(client.closed)

    def test_dropping_and_resetting(self) -> None:
        for action, reason in ((DROP, ConnectionDone), (RESET, ConnectionLost)):
            client = self.client(self.hop(script={Step.DATA: action}))
            with self.assertRaises(ConnectionEnded):
                self.reactor.run(client.deliver(b"a@x", [b"b@y"], MESSAGE, hello=b"EHLO c"))
            assert client.close_reason is not None
            self.assertTrue(client.close_reason.check(reason))

    def test_an_endless_reply_stops_when_nobody_reads_and_ends_when_the_peer_goes(self) -> None:
        client = self.client(self.hop(script={Step.HELLO: ENDLESS}))
        client.send(b"EHLO c\r\n")
        self.reactor.settle(0.5)
        client.stop_reading()
        self.reactor.settle(1)
        before = len(client.received)
        self.reactor.settle(5)
        self.assertEqual(len(client.received), before)
        self.reactor.run(client.close())
        self.reactor.settle(1)
        self.assertEqual(len(self.reactor.transports), 0)

    def test_idle_action_comes_after_its_delay(self) -> None:
        hop = self.hop(
            script={
                Step.IDLE: say(
                    b"421 bye",
                )
            },
            idle_delay=5.0,
        )
        client = self.client(hop)
        self.reactor.run(client.deliver(b"a@x", [b"b@y"], MESSAGE, hello=b"EHLO c"))
        before = self.reactor.seconds()
        self.assertEqual(self.reactor.run(client.reply()), b"421 bye")
        self.assertAlmostEqual(self.reactor.seconds() - before, 5.0, places=1)

    def test_starttls_with_a_real_handshake(self) -> None:
        hop = self.hop(tls=leaf("nexthop.test").server)
        client = self.client(hop)
        self.assertIn(b"STARTTLS", self.reactor.run(client.command(b"EHLO c")))
        self.reactor.run(client.secure(TrustingClient("nexthop.test")))
        replies = self.reactor.run(client.deliver(b"a@x", [b"b@y"], MESSAGE, hello=b"EHLO c"))
        self.assertEqual(replies[-1][:3], b"250")
        record = hop.connections[0]
        self.assertEqual(bytes(record.clear), b"EHLO c\r\nSTARTTLS\r\n")
        self.assertTrue(hop.transactions[0].secure)
        self.assertIn(b"MAIL FROM:<a@x>", bytes(record.secured))
        self.reactor.run(client.quit())

    def test_bytes_behind_starttls_are_noticed(self) -> None:
        hop = self.hop(tls=leaf("nexthop.test").server)
        client = self.client(hop)
        self.reactor.run(client.command(b"EHLO c"))
        client.send(b"STARTTLS\r\nNOOP\r\n")
        self.reactor.run(client.reply())
        self.assertEqual(hop.connections[0].behind_starttls, b"NOOP\r\n")


class NetworkTests(SynchronousTestCase):
    def test_one_seed_is_one_run(self) -> None:
        def run(seed: int) -> list[float]:
            reactor = SimulatedReactor(seed)
            hop = NextHop().listen(reactor)
            times = []
            for _ in range(3):
                client = reactor.run(connect(reactor, hop.endpoint))
                reactor.run(client.reply())
                times.append(reactor.seconds())
            return times

        self.assertEqual(run(5), run(5))
        self.assertNotEqual(run(5), run(6))

    def test_refused_and_unanswered_connections(self) -> None:
        reactor = SimulatedReactor()
        with self.assertRaises(ConnectionRefusedError):
            reactor.run(connect(reactor, "tcp://127.0.0.1:25"))
        reactor.black_hole("192.0.2.1", 25)
        with self.assertRaises(TimeoutError):
            reactor.run(connect(reactor, "tcp://192.0.2.1:25"))
        self.assertAlmostEqual(reactor.seconds(), 30, places=1)

    def test_awaiting_what_never_comes_is_an_error(self) -> None:
        with self.assertRaises(SimulationStuck):
            SimulatedReactor().run(Deferred())
        reactor = SimulatedReactor()
        loop = LoopingCall(lambda: None)
        loop.clock = reactor
        loop.start(1.0)
        with self.assertRaises(SimulationStuck):
            reactor.run(Deferred(), limit=10)

    def test_a_reader_that_pauses_pauses_the_writer(self) -> None:
        reactor = SimulatedReactor()
        reader = _Reader()
        factory = Factory()
        factory.buildProtocol = lambda _addr: reader  # type: ignore[assignment, return-value]
        reactor.listenUNIX("/run/x.sock", factory)
        client = reactor.run(connect(reactor, "unix:///run/x.sock"))
        events: list[str] = []
        client.transport.registerProducer(_Recorder(events), True)  # type: ignore[union-attr]
        reader.transport.pauseProducing()  # type: ignore[union-attr]
        client.send(b"x" * 100_000)
        reactor.settle(1)
        self.assertEqual((events, reader.size), (["pause"], 0))
        reader.transport.resumeProducing()  # type: ignore[union-attr]
        reactor.settle(1)
        self.assertEqual((events, reader.size), (["pause", "resume"], 100_000))

    def test_chopping_keeps_the_order(self) -> None:
        reactor = SimulatedReactor()
        reactor.chop = lambda data: [data[at : at + 1] for at in range(len(data))]
        hop = NextHop().listen(reactor)
        client = reactor.run(connect(reactor, hop.endpoint))
        reactor.run(client.reply())
        reactor.run(client.deliver(b"a@x", [b"b@y"], MESSAGE, hello=b"EHLO c"))
        self.assertEqual(hop.transactions[0].wire, MESSAGE)


class _Reader(Protocol):
    size = 0

    def dataReceived(self, data: bytes) -> None:
        self.size += len(data)


class _Recorder:
    def __init__(self, events: list[str]) -> None:
        self.pauseProducing = lambda: events.append("pause")
        self.resumeProducing = lambda: events.append("resume")
        self.stopProducing = lambda: events.append("stop")
