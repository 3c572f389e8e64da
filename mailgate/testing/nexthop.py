"""A next hop that keeps every byte and misbehaves on request: capture sink and scripted peer in one.

It's an oracle, so it shares no code with the gateway: framing is decided here anew, as strictly as RFC 5321 and RFC 3030 allow.
A command ends with CRLF, the content with CRLF.CRLF, a BDAT chunk with its last octet, and nothing else ends anything. Whatever
the gateway sends is kept twice, raw per connection and parsed per transaction, so that a test can compare what was meant
with what was said.

A script maps a `Step` of the dialogue to what happens there instead of the usual reply:

    NextHop(script={Step.RCPT: Say(b"452 4.2.2 full\\r\\n")})      # each time
    NextHop(script={Step.DOT: [DROP]})                            # the first time only: a list is used up, one by one
    NextHop(script=lambda step, connection, line: …)              # anything else; None is the usual reply

For LMTP the action at `Step.DOT` is the whole answer: `say(b"250 ok", b"452 full", b"550 no")` is three replies, and too few or
too many are as easily said. It runs on any reactor, sockets or `mailgate.testing.network`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from mailgate.testing.script import (
    DEAF,
    DROP,
    ENDLESS,
    GARBAGE,
    HANG,
    RESET,
    Action,
    Connection,
    Deaf,
    Drop,
    Endless,
    Hang,
    Say,
    Script,
    Step,
    Transaction,
    say,
    split_replies,
)

__all__ = [
    "DEAF",
    "DROP",
    "ENDLESS",
    "GARBAGE",
    "HANG",
    "RESET",
    "Action",
    "Connection",
    "NextHop",
    "Say",
    "Script",
    "Step",
    "Transaction",
    "say",
    "split_replies",
]

ENDLESS_LIMIT = 16 << 20
"""Octets after which an endless reply ends by closing: the gateway under test must have given up long before."""


class NextHop(Factory):
    """A listening SMTP or LMTP server that keeps what it gets. ``transactions`` are the complete ones, in order."""

    noisy = False

    def __init__(
        self,
        *,
        lmtp: bool = False,
        extensions: Sequence[bytes] = (b"PIPELINING", b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES", b"SIZE 0"),
        script: Script | None = None,
        tls: Any = None,
        implicit_tls: bool = False,
        idle_delay: float = 0.0,
    ) -> None:
        """``tls`` is a server connection creator (or context factory): STARTTLS is then offered, unless ``implicit_tls``."""
        self.lmtp = lmtp
        self.extensions = tuple(extensions)
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.idle_delay = idle_delay
        self.connections: list[Connection] = []
        self.transactions: list[Transaction] = []
        self.reactor: Any = None
        self.endpoint = ""
        """How to reach it, as the configuration writes it: ``tcp://127.0.0.1:4711``; set by `listen`."""
        self._script = script
        self._used: dict[Step, int] = {}
        self._port: Any = None
        self._open: set[_Peer] = set()
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def listen(self, reactor: Any, *, path: str = "", port: int = 0, interface: str = "127.0.0.1") -> NextHop:
        """Listen on a free TCP port, or on the unix socket ``path``."""
        self.reactor = reactor
        if path:
            self._port = reactor.listenUNIX(path, self)
            self.endpoint = f"unix://{path}"
        else:
            self._port = reactor.listenTCP(port, self, interface=interface)
            scheme = "tls" if self.implicit_tls else "tcp"
            self.endpoint = f"{scheme}://{interface}:{self._port.getHost().port}"
        return self

    @property
    def port(self) -> int:
        return cast(int, self._port.getHost().port)

    async def close(self) -> None:
        """Stop listening and drop every connection; returns when all are gone."""
        await self.stop_listening()
        for peer in list(self._open):
            peer.drop(reset=True)
        await self.when(lambda: not self._open)

    async def stop_listening(self) -> None:
        if self._port is not None:
            port, self._port = self._port, None
            stopped = port.stopListening()
            if stopped is not None:
                await stopped

    def drop_connections(self) -> None:
        """What a restart of the next hop looks like from the gateway."""
        for peer in list(self._open):
            peer.drop(reset=False)

    def when(self, condition: Callable[[], bool], deadline: float = 10.0) -> Deferred[None]:
        """Fires as soon as ``condition()`` holds; fails with TimeoutError after ``deadline`` seconds."""
        waiting: Deferred[None] = Deferred()
        if condition():
            waiting.callback(None)
            return waiting
        self._waiting.append((condition, waiting))
        return waiting.addTimeout(deadline, self.reactor)

    def when_delivered(self, count: int = 1, deadline: float = 10.0) -> Deferred[None]:
        """Fires when ``count`` complete contents have come in."""
        return self.when(lambda: len(self.transactions) >= count, deadline)

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def mail_count(self) -> int:
        """MAIL commands over all connections (I4)."""
        return sum(connection.verbs.count(b"MAIL") for connection in self.connections)

    # for the protocol

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Peer(self)

    def action(self, step: Step, connection: Connection, line: bytes) -> Action | None:
        if self._script is None:
            return None
        if callable(self._script):
            return self._script(step, connection, line)
        planned = self._script.get(step)
        if planned is None or not isinstance(planned, Sequence):
            return planned
        used = self._used.get(step, 0)
        self._used[step] = used + 1
        return planned[used] if used < len(planned) else None

    def opened(self, peer: _Peer) -> None:
        self._open.add(peer)
        self.connections.append(peer.record)
        self.changed()

    def lost(self, peer: _Peer) -> None:
        self._open.discard(peer)
        self.changed()

    def changed(self) -> None:
        due = [(condition, waiting) for condition, waiting in self._waiting if waiting.called or condition()]
        self._waiting = [entry for entry in self._waiting if entry not in due]
        for _condition, waiting in due:
            if not waiting.called:
                waiting.callback(None)


class _Peer(Protocol):
    """One connection of the next hop. ``_take`` is what the next octets are: a command, a content, a chunk, a SASL line."""

    def __init__(self, hop: NextHop) -> None:
        self._hop = hop
        self.record = Connection(number=len(hop.connections))
        self._buffer = bytearray()
        self._scanned = 0
        self._silent = False
        self._current: Transaction | None = None
        self._chunk_left = 0
        self._last_chunk = False
        self._body_begun = False
        self._take: Callable[[], bool] = self._take_command
        self._idle_call: Any = None

    # Twisted calls these

    def connectionMade(self) -> None:
        transport = cast(Any, self.transport)
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        self._hop.opened(self)
        if self._hop.implicit_tls:
            self.record.tls = True
            transport.startTLS(self._hop.tls, self)
        self._step(Step.CONNECT, b"", b"")
        if not self.record.closed and not self._silent:
            word = b"LMTP" if self._hop.lmtp else b"ESMTP"
            self._step(Step.BANNER, b"", b"220 nexthop.test " + word + b"\r\n")

    def dataReceived(self, data: bytes) -> None:
        (self.record.secured if self.record.tls else self.record.clear).extend(data)
        if not self._silent:
            self._buffer += data
            while not self._silent and self._take():
                pass
        self._hop.changed()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.record.closed = True
        self._silent = True
        if self._idle_call is not None and self._idle_call.active():
            self._idle_call.cancel()
        self._hop.lost(self)

    # acting

    def drop(self, *, reset: bool) -> None:
        self._silent = True
        transport = cast(Any, self.transport)
        if reset:
            transport.abortConnection()
        else:
            transport.loseConnection()

    def _step(self, step: Step, line: bytes, usual: bytes) -> bytes:
        """Do what the script says at this step, else say ``usual``; returns what was said."""
        action = self._hop.action(step, self.record, line)
        if action is None:
            action = Say(usual)
        match action:
            case Say(data, then_drop):
                if data:
                    cast(Any, self.transport).write(data)
                if then_drop:
                    self.drop(reset=False)
                return data
            case Hang():
                self._silent = True
            case Deaf():
                self._silent = True
                cast(Any, self.transport).pauseProducing()
            case Drop(reset):
                self.drop(reset=reset)
            case Endless(text):
                self._silent = True
                cast(Any, self.transport).registerProducer(_EndlessReply(cast(Any, self.transport), text), False)
        return b""

    # taking octets; each returns False when it needs more

    def _take_command(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self.record.commands.append(line)
        verb, _, argument = line.partition(b" ")
        handler = _VERBS.get(verb.upper())
        if handler is None:
            cast(Any, self.transport).write(b"500 5.5.2 Unknown command\r\n")
        else:
            handler(self, argument)
        return True

    def _hello(self, argument: bytes) -> None:
        offered = list(self._hop.extensions)
        if self._hop.tls is not None and not self.record.tls:
            offered.append(b"STARTTLS")
        lines = [b"nexthop.test", *offered]
        usual = b"".join(
            b"250" + (b" " if number == len(lines) - 1 else b"-") + text + b"\r\n" for number, text in enumerate(lines)
        )
        self._current = None
        self._step(Step.HELLO, argument, usual)

    def _plain_hello(self, argument: bytes) -> None:
        self._current = None
        self._step(Step.HELLO, argument, b"250 nexthop.test\r\n")

    def _starttls(self, argument: bytes) -> None:
        said = self._step(Step.STARTTLS, argument, b"220 2.0.0 Go ahead\r\n")
        if said[:3] != b"220" or self._silent:
            return
        if self._hop.tls is None:
            self._take = self._take_handshake
            return
        self.record.behind_starttls = bytes(self._buffer)
        self._buffer.clear()
        self._current = None
        self.record.tls = True
        cast(Any, self.transport).startTLS(self._hop.tls, self)

    def _take_handshake(self) -> bool:
        if self._buffer:
            self._buffer.clear()
            self._step(Step.HANDSHAKE, b"", b"")
            self._silent = True
        return False

    def _xclient(self, argument: bytes) -> None:
        self._current = None
        self._step(Step.XCLIENT, argument, b"220 nexthop.test\r\n")

    def _xforward(self, argument: bytes) -> None:
        self._step(Step.XFORWARD, argument, b"250 2.0.0 Ok\r\n")

    def _auth(self, argument: bytes) -> None:
        mechanism, _, initial = argument.partition(b" ")
        if mechanism.upper() == b"LOGIN" or not initial:
            self._sasl_left = 2 if mechanism.upper() == b"LOGIN" else 1
            self._take = self._take_sasl
            cast(Any, self.transport).write(b"334 \r\n")
        else:
            self._step(Step.AUTH, argument, b"235 2.7.0 Welcome\r\n")

    def _take_sasl(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._sasl_left -= 1
        if self._sasl_left:
            cast(Any, self.transport).write(b"334 \r\n")
        else:
            self._take = self._take_command
            self._step(Step.AUTH, line, b"235 2.7.0 Welcome\r\n")
        return True

    def _mail(self, argument: bytes) -> None:
        begun = Transaction(argument[len(b"FROM:") :], self.record.tls)
        said = self._step(Step.MAIL, argument, b"250 2.1.0 Ok\r\n")
        self.record.transactions.append(begun)
        if said[:1] == b"2":
            self._current = begun

    def _rcpt(self, argument: bytes) -> None:
        if self._current is None:
            cast(Any, self.transport).write(b"503 5.5.1 MAIL first\r\n")
            return
        said = self._step(Step.RCPT, argument, b"250 2.1.5 Ok\r\n")
        (self._current.recipients if said[:1] == b"2" else self._current.refused).append(argument[len(b"TO:") :])

    def _data(self, argument: bytes) -> None:
        wanted = self._current is not None and self._current.recipients
        said = self._step(Step.DATA, argument, b"354 Go ahead\r\n" if wanted else b"503 5.5.1 Recipients first\r\n")
        if said[:1] == b"3":
            self._current = self._current or Transaction(b"", self.record.tls)
            self._current.via = "DATA"
            self._begin_content()
            self._take = self._take_content

    def _bdat(self, argument: bytes) -> None:
        size, _, last = argument.partition(b" ")
        self._chunk_left = int(size)
        self._last_chunk = last.upper() == b"LAST"
        if self._current is not None and not self._current.via:
            self._current.via = "BDAT"
            self._begin_content()
        self._take = self._take_chunk

    def _begin_content(self) -> None:
        self._body_begun = False
        self._scanned = 0

    def _take_content(self) -> bool:
        buffer = self._buffer
        transaction = cast(Transaction, self._current)
        if buffer and not self._body_begun:
            self._body_begun = True
            transaction.answer = self._step(Step.BODY, b"", b"")
            if self._silent:
                return False
        if buffer[:3] == b".\r\n":
            length, wire = 3, b""
        else:
            end = buffer.find(b"\r\n.\r\n", max(self._scanned - 4, 0))
            self._scanned = len(buffer)
            if end < 0:
                return False
            length, wire = end + 5, bytes(buffer[: end + 2])
        del buffer[:length]
        transaction.wire = wire
        self._take = self._take_command
        self._complete(transaction)
        return True

    def _take_chunk(self) -> bool:
        taken = bytes(self._buffer[: self._chunk_left])
        del self._buffer[: len(taken)]
        self._chunk_left -= len(taken)
        transaction = self._current
        if transaction is not None:
            transaction.wire += taken
            if taken and not self._body_begun:
                self._body_begun = True
                transaction.answer = self._step(Step.BODY, b"", b"")
                if self._silent:
                    return False
        if self._chunk_left:
            return False
        self._take = self._take_command
        if transaction is None or not transaction.recipients:
            cast(Any, self.transport).write(b"503 5.5.1 Recipients first\r\n")
        elif self._last_chunk:
            self._complete(transaction)
        else:
            self._step(Step.DATA, b"", b"250 2.0.0 Chunk ok\r\n")
        return True

    def _complete(self, transaction: Transaction) -> None:
        transaction.complete = True
        self._current = None
        usual = b"250 2.0.0 Kept\r\n" * (len(transaction.recipients) if self._hop.lmtp else 1)
        if not transaction.answer:  # else it was answered while it came, and there is one answer only
            transaction.answer = self._step(Step.DOT, b"", usual)
        self._hop.transactions.append(transaction)
        if not self._silent:
            self._idle_call = self._hop.reactor.callLater(self._hop.idle_delay, self._idle)

    def _idle(self) -> None:
        if not self._silent and self._current is None and not self._buffer:
            self._step(Step.IDLE, b"", b"")

    def _rset(self, argument: bytes) -> None:
        self._current = None
        self._step(Step.RSET, argument, b"250 2.0.0 Ok\r\n")

    def _noop(self, argument: bytes) -> None:
        self._step(Step.NOOP, argument, b"250 2.0.0 Ok\r\n")

    def _quit(self, argument: bytes) -> None:
        self._step(Step.QUIT, argument, b"221 2.0.0 Bye\r\n")
        if not self._silent:
            self.drop(reset=False)


class _EndlessReply:
    """A pull producer that never finishes by itself."""

    def __init__(self, transport: Any, line: bytes) -> None:
        self._transport = transport
        self._block = line * max(1, 4096 // len(line))
        self._left = ENDLESS_LIMIT

    def resumeProducing(self) -> None:
        self._left -= len(self._block)
        self._transport.write(self._block)
        if self._left <= 0:
            self._transport.unregisterProducer()
            self._transport.loseConnection()

    def stopProducing(self) -> None:
        self._left = 0


_VERBS: dict[bytes, Callable[[_Peer, bytes], None]] = {
    b"EHLO": _Peer._hello,
    b"LHLO": _Peer._hello,
    b"HELO": _Peer._plain_hello,
    b"STARTTLS": _Peer._starttls,
    b"XCLIENT": _Peer._xclient,
    b"XFORWARD": _Peer._xforward,
    b"AUTH": _Peer._auth,
    b"MAIL": _Peer._mail,
    b"RCPT": _Peer._rcpt,
    b"DATA": _Peer._data,
    b"BDAT": _Peer._bdat,
    b"RSET": _Peer._rset,
    b"NOOP": _Peer._noop,
    b"QUIT": _Peer._quit,
}
