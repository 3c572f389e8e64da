"""The reactor of mailgate/net/epoll.py: what its short way must have in common with Twisted's."""

from __future__ import annotations

import os
import socket
import sys
import unittest
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_DONE
from twisted.trial.unittest import SynchronousTestCase

if sys.platform == "linux":
    from mailgate.net.epoll import Reactor


class Reader:
    """One end of a pair of sockets, as the reactor sees it."""

    def __init__(self, reactor: Any, answer: Any = None) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.read = b""
        self.lost: list[Any] = []
        self.written = 0
        self._reactor = reactor
        self._answer = answer

    def fileno(self) -> int:
        return self.near.fileno()

    def logPrefix(self) -> str:
        return "reader"

    def doRead(self) -> Any:
        self.read += self.near.recv(100)
        return self._answer() if self._answer is not None else None

    def doWrite(self) -> None:
        self.written += 1
        self._reactor.removeWriter(self)

    def readConnectionLost(self, reason: Any) -> None:
        self.connectionLost(reason)

    def connectionLost(self, reason: Any) -> None:
        self.lost.append(reason)

    def close(self) -> None:
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        self.near.close()
        self.far.close()


@unittest.skipUnless(sys.platform == "linux", "epoll is Linux's")
class EpollTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = Reactor()
        self.addCleanup(self._close)

    def _close(self) -> None:
        for reader in self.reactor.removeAll():
            reader.connectionLost(None)
        self.reactor._poller.close()

    def _reader(self, answer: Any = None) -> Reader:
        reader = Reader(self.reactor, answer)
        self.reactor.addReader(reader)
        self.addCleanup(reader.close)
        return reader

    def test_what_came_is_read(self) -> None:
        reader = self._reader()
        reader.far.send(b"octets")
        self.reactor.doPoll(1)
        self.assertEqual((reader.read, reader.lost), (b"octets", []))

    def test_nothing_came(self) -> None:
        reader = self._reader()
        self.reactor.doPoll(0)
        self.assertEqual(reader.read, b"")

    def test_who_says_that_it_is_over_is_disconnected(self) -> None:
        reader = self._reader(lambda: CONNECTION_DONE)
        reader.far.send(b".")
        self.reactor.doPoll(1)
        self.assertIsInstance(reader.lost[0].value, ConnectionDone)
        self.assertNotIn(reader, self.reactor.getReaders())

    def test_an_exception_is_logged_and_ends_that_one_only(self) -> None:
        def fail() -> None:
            raise RuntimeError("on purpose")

        broken, sound = self._reader(fail), self._reader()
        broken.far.send(b".")
        sound.far.send(b".")
        self.reactor.doPoll(1)
        self.assertEqual([type(failure.value) for failure in self.flushLoggedErrors(RuntimeError)], [RuntimeError])
        self.assertIsInstance(broken.lost[0].value, RuntimeError)
        self.assertEqual((sound.read, sound.lost), (b".", []))

    def test_one_that_an_earlier_event_closed_is_passed_over(self) -> None:
        pair: list[Reader] = []

        def close_the_other() -> None:
            for reader in pair:
                if not reader.read:
                    self.reactor.removeReader(reader)

        pair += [self._reader(close_the_other), self._reader(close_the_other)]
        for reader in pair:
            reader.far.send(b".")
        self.reactor.doPoll(1)
        self.assertEqual(sorted(reader.read for reader in pair), [b"", b"."])

    def test_reading_and_writing_at_once_go_twisteds_way(self) -> None:
        reader = self._reader()
        self.reactor.addWriter(reader)
        reader.far.send(b"both")
        self.reactor.doPoll(1)
        self.assertEqual((reader.read, reader.written), (b"both", 1))

    def test_the_end_of_the_peer(self) -> None:
        reader = self._reader(lambda: CONNECTION_DONE)
        reader.far.close()
        self.reactor.doPoll(1)
        self.assertIsInstance(reader.lost[0].value, ConnectionDone)

    def test_a_signal_is_no_event(self) -> None:
        class Interrupted:
            def poll(self, *_: Any) -> Any:
                raise InterruptedError(4, os.strerror(4))

            def close(self) -> None:
                pass

        real, self.reactor._poller = self.reactor._poller, Interrupted()
        self.reactor.doPoll(1)
        self.reactor._poller = real
