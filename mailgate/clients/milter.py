"""Connections to a milter: made, agreed on, used for one message after the other.

`Milter` is one configuration's. `lease` gives a `Link` on which both sides have agreed what they can do; whoever has it speaks
with the filter for one message and gives it back. The next message of the same client goes over the same link, without connect
and hello, as every MTA does it; `Client` remembers which. For another client a link is used again only with `reuse`: version 6
has a word for it (quit, new connection follows), but filters made with libmilter 1.0 say nothing any more after it.

- Every wait has its time: for the connection and the agreement, for each answer (a filter that is at work says so, which begins
  the time anew, up to `PATIENCE` times of it), and for all of the end of a message.
- A link on which anything went wrong, or which somebody stopped waiting on, is closed. Failures in a row are a matter of the
  `Breaker`: a filter that hangs costs three messages their time, and then nobody waits for it.
- At most ``connections`` at a time; who finds none waits for `lease`'s time.
- Neither side gets ahead of the other: we wait while our writing is not taken, and do not read while answers are not.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, DeferredSemaphore
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.adapters import Adapters
from mailgate.clients import milter_wire as wire
from mailgate.clients.breaker import Breaker
from mailgate.clients.milter_wire import Agreement, Command, MilterError, Negotiated, Packets, Response, Said
from mailgate.net.transport import send
from mailgate.net.waiting import DeadlineExceeded, Wait, within
from mailgate.smtp.reply import Reply

IDLE = 60.0
"""Seconds for which a connection is kept that nobody uses."""
MAX_QUEUED = 64
"""Packets of a filter that wait for us; then we read no more."""
PATIENCE = 5
"""How many times the time of an answer it may take if the filter says that it is at work."""


class MilterFailure(Exception):
    """There is no answer to be had."""


class ConnectionGone(MilterFailure):
    """The filter has closed it."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: for connecting and agreeing, for one answer, for one answer at the end of a message, and for all of those."""

    connect: float = 10.0
    command: float = 30.0
    end: float = 120.0
    whole_end: float = 600.0


class Milter:
    """See the module's docstring. ``path`` is a unix socket's; else ``host`` and ``port``."""

    def __init__(
        self, label: str, path: str, host: str, port: int, adapters: Adapters, times: Times, connections: int, *, reuse: bool
    ) -> None:
        self.label = label
        self.times = times
        self._path = path
        self._host = host
        self._port = port
        self.reactor = adapters.reactor
        self._reuse = reuse
        self._turns = DeferredSemaphore(connections)
        self._breaker = Breaker(adapters.reactor.seconds)
        self._idle: list[Link] = []
        self._open: set[Link] = set()
        self.agreement: Agreement | None = None
        """The last one."""

    async def lease(self, client: Client) -> Link:
        """:raises MilterFailure: there is none to be had."""
        if self._breaker.is_open:
            raise MilterFailure(f"{self.label}: left alone for a while, since it failed")
        try:
            await within(self._turns.acquire(), self.times.connect, self.reactor)
        except DeadlineExceeded as error:
            raise MilterFailure(f"{self.label}: all connections are in use") from error
        link = None
        try:
            if not self._breaker.begin():
                raise MilterFailure(f"{self.label}: left alone for a while, since it failed")
            link = client.take() or self._take_idle() or await self._connected()
            link.client = client
            return link
        except CancelledError:
            self._breaker.gave_up()
            raise
        finally:
            if link is None:
                self._turns.release()

    def _take_idle(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if link.is_usable and self.reactor.seconds() < link.idle_since + IDLE:
                link.is_used = True
                return link
            link.close()
        return None

    async def _connected(self) -> Link:
        try:
            return await within(self._connect(), self.times.connect, self.reactor)
        except CancelledError:
            raise
        except Exception as error:
            self._breaker.failed()
            raise MilterFailure(f"{self.label}: {error or type(error).__name__}") from error

    async def _connect(self) -> Link:
        link = Link(self)
        try:
            await self._endpoint().connect(Factory.forProtocol(lambda: link))
            link.write(wire.negotiate())
            said = await link.answer(self.times.connect)
            if not isinstance(said, Negotiated):
                raise MilterError("no agreement")
        except BaseException:
            link.close()
            raise
        link.agreement = self.agreement = said.agreement
        return link

    def _endpoint(self) -> Any:
        seconds = self.times.connect
        if self._path:
            unix: Any = UNIXClientEndpoint
            return unix(self.reactor, self._path, timeout=seconds)
        try:
            version = ipaddress.ip_address(self._host).version
        except ValueError:
            return HostnameEndpoint(self.reactor, self._host, self._port, timeout=seconds)
        return (TCP4ClientEndpoint if version == 4 else TCP6ClientEndpoint)(self.reactor, self._host, self._port, timeout=seconds)

    def give_back(self, link: Link, *, in_message: bool, goes_on: bool) -> None:
        """All is said, and it went well. ``goes_on``: the filter will hear more of this client."""
        self._breaker.succeeded()
        self._turns.release()
        if link.is_waiting or not link.is_usable:
            link.close()
            return
        if in_message:
            link.write(wire.packet(Command.ABORT))
        if goes_on and link.client is not None and not link.client.is_gone:
            link.client.keep(link)
        else:
            self.part(link)

    def part(self, link: Link) -> None:
        """The client is gone, or no message of it is to be judged any more."""
        link.client = link.hello = None
        link.is_introduced = False
        if self._reuse and link.agreement.version >= wire.SINCE[Command.QUIT_NEW_CONNECTION] and link.is_usable:
            link.write(wire.packet(Command.QUIT_NEW_CONNECTION))
            link.idle_since = self.reactor.seconds()
            self._idle.append(link)
        else:
            link.write(wire.packet(Command.QUIT))
            link.close()

    def give_up(self, link: Link, *, failed: bool) -> None:
        """It did not go well, or nobody knows how it would have gone: the link is closed."""
        (self._breaker.failed if failed else self._breaker.gave_up)()
        link.close()
        self._turns.release()

    def opened(self, link: Link) -> None:
        self._open.add(link)

    def lost(self, link: Link) -> None:
        self._open.discard(link)
        if link in self._idle:
            self._idle.remove(link)

    def stop(self) -> None:
        for link in list(self._open):
            link.close()


class Client:
    """What a filter knows of one client's connection: `Milter.lease` is asked for it."""

    def __init__(self, milter: Milter) -> None:
        self.is_gone = False
        self.is_accepted = False
        """The filter has taken all that this client sends, at connect or hello."""
        self.refusal: Reply | None = None
        """What it has said at connect or hello, for all of the client's messages."""
        self.refused_hello: object = None
        """The hello that it was said to; None if it was the connection."""
        self._milter = milter
        self._link: Link | None = None

    def take(self) -> Link | None:
        link, self._link = self._link, None
        if link is not None and link.is_usable:
            link.is_used = True
            return link
        return None

    def keep(self, link: Link) -> None:
        if self._link is not None:  # two messages at a time: a check that stands in several blocks
            self._milter.part(self._link)
        self._link = link

    def gone(self) -> None:
        self.is_gone = True
        link, self._link = self._link, None
        if link is not None:
            self._milter.part(link)


@implementer(IPushProducer)
class Link(Protocol):
    """One connection."""

    def __init__(self, milter: Milter) -> None:
        self.agreement = Agreement()
        self.client: Client | None = None
        self.is_introduced = False
        """The filter was told of the client's connection."""
        self.hello: object = None
        """What it was told with the hello; None if nothing."""
        self.owed: Command | None = None
        """It has been asked this, and nobody waits for the answer any more."""
        self.is_used = False
        """Something went over it before: the filter may have closed it meanwhile."""
        self.idle_since = 0.0
        self._milter = milter
        self._packets = Packets()
        self._said: deque[Said] = deque()
        self._waiting: Wait[None] | None = None
        self._blocked: Wait[None] | None = None
        self._is_paused = False
        self._trouble: Exception | None = None

    @property
    def is_usable(self) -> bool:
        return self._trouble is None and not self._said and self.owed is None

    @property
    def is_waiting(self) -> bool:
        return self._waiting is not None

    def write(self, data: bytes) -> None:
        if self._trouble is None:
            send(self.transport, data)

    async def drained(self) -> None:
        """:raises MilterFailure: what was written is not taken."""
        if self._is_paused and self._trouble is None:
            self._blocked = Wait()
            try:
                await within(self._blocked, self._milter.times.command, self._milter.reactor)
            except DeadlineExceeded as error:
                raise MilterFailure(f"{self._milter.label}: takes nothing") from error
            finally:
                self._blocked = None
        if self._trouble is not None:
            raise self._trouble

    async def answer(self, seconds: float) -> Said:
        """What the filter says next, but that it is at work. :raises MilterFailure: nothing that helps."""
        clock = self._milter.reactor.seconds
        until = clock() + PATIENCE * seconds
        while True:
            if not self._said:
                if self._trouble is not None:
                    raise self._trouble
                await self._wait(min(seconds, until - clock()))
                continue
            said = self._said.popleft()
            if len(self._said) == MAX_QUEUED // 2:
                self.transport.resumeProducing()  # type: ignore[union-attr]
            if said is not Response.PROGRESS:
                return said
            if clock() >= until:
                raise MilterFailure(f"{self._milter.label}: at work without an end")

    async def _wait(self, seconds: float) -> None:
        self._waiting = Wait()
        try:
            await within(self._waiting, seconds, self._milter.reactor)
        except DeadlineExceeded as error:
            raise MilterFailure(f"{self._milter.label}: no answer in time") from error
        finally:
            self._waiting = None

    def close(self) -> None:
        if self._trouble is None:
            self._trouble = MilterFailure(f"{self._milter.label}: closed")
        transport: Any = self.transport
        if transport is not None:
            transport.unregisterProducer()  # else Twisted would wait for more from us
            transport.loseConnection()

    # Called by Twisted

    def connectionMade(self) -> None:
        self._milter.opened(self)
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        try:
            for command, content in self._packets.receive(data):
                self._said.append(wire.parse(command, content))
        except MilterError as error:
            self._fail(MilterFailure(f"{self._milter.label}: {error}"))
            self.transport.abortConnection()  # type: ignore[union-attr]
            return
        if len(self._said) >= MAX_QUEUED:
            self.transport.pauseProducing()  # type: ignore[union-attr]
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._milter.lost(self)
        self._fail(ConnectionGone(f"{self._milter.label}: the connection is gone"))

    def _fail(self, trouble: Exception) -> None:
        self._trouble = self._trouble or trouble
        self._wake()
        if self._blocked is not None:
            self._blocked.fire(None)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done:
            self._waiting.fire(None)

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        if self._blocked is not None and not self._blocked.done:
            self._blocked.fire(None)

    def stopProducing(self) -> None:
        self._is_paused = False
