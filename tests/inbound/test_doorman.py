"""Accepting under a flood, on a port and a clock of our own: what is let in, what is refused, when the door is shut."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.inbound.doorman import AT_ONCE, BEAT, BURST, SHARE, SUSTAINED, WEIGHT, Doorman, Lag, Refusal

COST = 0.00002
"""Seconds of the processor for a refusal."""
REPLY = b"421 4.3.2 Too busy\r\n"


class Socket:
    """A client's, as we see it."""

    def __init__(self, *, gone: bool = False) -> None:
        self.sent = b""
        self.closed = False
        self._gone = gone

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def send(self, data: bytes) -> None:
        if self._gone:
            raise BrokenPipeError
        self.sent += data

    def recv(self, size: int) -> bytes:
        raise BlockingIOError

    def close(self) -> None:
        self.closed = True


class Served:
    def makeConnection(self, transport: Any) -> None:
        assert transport is not None


class Port:
    """As Twisted's: accepts `numberAccepts` of those who wait, and has that number grow."""

    connected = True
    disconnecting = False

    def __init__(self, factory: Any) -> None:
        self.factory = factory
        self.queue: deque[Socket] = deque()
        self.reading = True
        self.numberAccepts = 1
        self.served: list[Socket] = []
        self.spent = 0.0

    def doRead(self) -> None:
        accepted = 0
        while self.queue and accepted < self.numberAccepts:
            accepted += 1
            opened = self.queue.popleft()
            protocol = self.factory.buildProtocol(None)
            protocol.makeConnection(self.transport(opened, protocol, None, self, 0, None))
            self.spent += COST * (1 if isinstance(protocol, Refusal) else WEIGHT)
        self.numberAccepts = self.numberAccepts + 20 if accepted == self.numberAccepts else max(1, accepted)

    def transport(self, opened: Socket, *rest: Any) -> Socket:
        self.served.append(opened)
        return opened

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True


class Factory:
    """An `Acceptor` as the door sees it; ``room`` is how many it takes."""

    max_lag = 0.5

    def __init__(self, room: float) -> None:
        self.room = room
        self.standing = 0.0

    def buildProtocol(self, addr: Any) -> Any:
        if self.standing > self.max_lag or self.room <= 0:
            return Refusal(REPLY)
        self.room -= 1
        return Served()


class DoormanTests(SynchronousTestCase):
    def stage(self, room: float = float("inf")) -> None:
        self.clock = Clock()
        self.port = Port(Factory(room))
        self.door = Doorman(self.port, self.clock, lambda: self.port.spent)

    def come(self, number: int) -> list[Socket]:
        clients = [Socket() for _ in range(number)]
        self.port.queue.extend(clients)
        return clients

    def turn(self, seconds: float = 0.001) -> None:
        """One of the event loop."""
        if self.port.reading and self.port.queue:
            self.port.doRead()
        self.clock.advance(seconds)

    def test_a_refused_client_hears_why_and_has_no_transport(self) -> None:
        self.stage(room=1)
        served, refused = self.come(2)
        for _ in range(3):
            self.turn()
        self.assertEqual(self.port.served, [served])
        self.assertEqual((refused.sent, refused.closed), (REPLY, True))

    def test_a_client_that_is_gone_already_is_no_trouble(self) -> None:
        self.stage(room=0)
        gone = Socket(gone=True)
        self.port.queue.append(gone)
        self.turn()
        self.assertTrue(gone.closed)

    def test_a_burst_is_let_in_turn_by_turn(self) -> None:
        self.stage()
        self.come(5 * AT_ONCE)
        most = 0
        for _ in range(20):
            before = len(self.port.served)
            self.turn(0.02)
            most = max(most, len(self.port.served) - before)
        self.assertEqual((len(self.port.served), most), (5 * AT_ONCE, AT_ONCE))

    def test_a_queue_that_stands_is_refused_behind_each_turns_share(self) -> None:
        self.stage()
        refused_at = None
        clients = []
        while self.clock.seconds() < 2:
            clients += self.come(AT_ONCE + 30)
            before = len(self.port.served)
            self.turn(0.05)
            if refused_at is None and any(client.closed for client in clients):
                refused_at = self.clock.seconds()
            if self.port.reading and self.clock.seconds() > 1:
                self.assertEqual(len(self.port.served) - before, AT_ONCE)
        self.assertIsNotNone(refused_at)
        self.assertTrue(0.5 < refused_at < 0.8, refused_at)  # type: ignore[operator]
        self.assertEqual(len(self.port.queue), 0)
        self.come(AT_ONCE // 2)
        self.turn()
        self.port.numberAccepts = AT_ONCE
        self.come(AT_ONCE + 30)
        self.turn(0.05)
        self.assertEqual(len(self.port.queue), 30)  # it was empty: a queue must stand anew
        self.assertTrue(all(client.sent == REPLY for client in clients if client.closed))

    def test_a_burst_after_a_quiet_time_begins_anew(self) -> None:
        self.stage()
        for _ in range(4):
            clients = self.come(6 * AT_ONCE)
            for _ in range(12):
                self.turn(0.05)
            self.assertFalse(any(client.closed for client in clients))

    def test_refusing_has_its_share_of_the_time(self) -> None:
        self.stage(room=0)
        refused = 0
        while self.clock.seconds() < 5:
            clients = self.come(50)
            self.turn()
            refused += sum(client.closed for client in clients)
            while len(self.port.queue) > 1000:  # the kernel's queue is full
                self.port.queue.popleft()
        self.assertLess(self.port.spent / self.clock.seconds(), SHARE * 1.2)
        self.assertGreater(self.port.spent / self.clock.seconds(), SHARE * 0.8)

    def test_a_few_refusals_do_not_shut_the_door(self) -> None:
        self.stage(room=0)
        for _ in range(100):
            self.come(int(BURST / COST / 10))
            self.turn(0.05)
            self.assertTrue(self.port.reading)

    def test_nothing_is_left_when_it_is_closed(self) -> None:
        self.stage(room=0)
        for _ in range(5):
            self.come(AT_ONCE)
            self.turn(0.0)
        self.assertFalse(self.port.reading)
        self.door.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LagTests(SynchronousTestCase):
    def turns(self, *seconds: float) -> float:
        """A connection comes in each turn of these lengths; the lag at the end."""
        for length in seconds:
            self.lag.knock()
            self.clock.advance(length)
        return self.lag.knock()

    def setUp(self) -> None:
        self.clock = Clock()
        self.lag = Lag(self.clock)

    def test_short_turns(self) -> None:
        self.assertLess(self.turns(*[BEAT / 5] * 50), 1e-9)

    def test_long_turns_in_a_row(self) -> None:
        self.assertEqual(self.turns(*[1.0] * (SUSTAINED - 1)), 0.0)
        self.assertAlmostEqual(self.turns(1.0), 1.0 - BEAT)

    def test_one_long_turn_now_and_then(self) -> None:
        self.assertEqual(self.turns(*[3.0, 0.06, 0.06] * 5), self.turns(0.06))

    def test_it_is_over_when_turns_are_short_again(self) -> None:
        self.turns(*[1.0] * 10)
        self.assertLess(self.turns(BEAT), 0.001)

    def test_no_timer_while_nobody_knocks(self) -> None:
        self.turns(*[1.0] * 10)
        for _ in range(3):
            self.clock.advance(1.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.lag.knock(), 0.0)
        self.lag.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
