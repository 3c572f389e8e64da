"""Logins judged by Dovecot: the client's side of its authentication protocol, version 1.2.

One connection carries all questions, each with a number; it is made when somebody asks, and after it broke. Each line has fields
with tabs between. A line that is too long, a number that nobody asked, another major version, or an answer that does not come in
time ends the connection, and whoever waits there hears `DovecotFailure`; "wrong" is only what Dovecot said in as many words,
FAIL without `temp`. The password goes there as PLAIN: the socket is a local one.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mailgate.net.waiting import DeadlineExceeded, Wait, within

MAX_LINE = 8192
MAX_WAITING = 1000
MAJOR = "1"


class DovecotFailure(Exception):
    """Dovecot could not say."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``user``: the name that Dovecot has for whom it let in; "" if it did not."""

    user: str


class Dialogue:
    """The protocol without its connection: octets in, verdicts by number out. Every cut of the input is the same."""

    def __init__(self) -> None:
        self.is_ready = False
        """The server has said what it can do."""
        self.has_plain = False
        self._buffer = b""

    def greeting(self) -> bytes:
        return f"VERSION\t{MAJOR}\t2\nCPID\t{os.getpid()}\n".encode("ascii")

    def question(self, number: int, service: str, user: str, password: str) -> bytes:
        response = b64encode(f"\0{user}\0{password}".encode()).decode("ascii")
        return f"AUTH\t{number}\tPLAIN\tservice={service}\tnologin\tsecured\tresp={response}\n".encode("ascii")

    def receive(self, data: bytes) -> Iterator[tuple[int, Verdict | DovecotFailure]]:
        """:raises DovecotFailure: this is no such server, or not one that can be used."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise DovecotFailure("a line is too long")
        for line in lines:
            word, *fields = line.decode("utf-8", "replace").split("\t")
            if word == "VERSION" and fields[:1] != [MAJOR]:
                raise DovecotFailure(f"it speaks version {'.'.join(fields[:2])} of the protocol")
            elif word == "MECH":
                self.has_plain = self.has_plain or fields[:1] == ["PLAIN"]
            elif word == "DONE":
                if not self.has_plain:
                    raise DovecotFailure("it does not take PLAIN")
                self.is_ready = True
            elif word in ("OK", "FAIL", "CONT"):
                yield self._answer(word, fields)

    def _answer(self, word: str, fields: list[str]) -> tuple[int, Verdict | DovecotFailure]:
        if not fields or not fields[0].isdecimal():
            raise DovecotFailure("an answer to nobody")
        number = int(fields[0])
        values = dict(field.partition("=")[::2] for field in fields[1:])
        if word == "OK":
            return number, Verdict(values["user"]) if values.get("user") else DovecotFailure("it names nobody")
        if word == "CONT":
            return number, DovecotFailure("it asks for more than PLAIN has")
        if "temp" in values or values.get("code") == "temp_fail":
            return number, DovecotFailure(f"it has a problem: {values.get('reason') or 'temp'}")
        return number, Verdict("")


class _Connection(Protocol):
    """`ready` fires once it can be asked."""

    def __init__(self, gone: Callable[[], None]) -> None:
        self.dialogue = Dialogue()
        self.ready: Wait[None] = Wait()
        self._gone = gone
        self._asked: dict[int, Wait[Verdict]] = {}
        self._last = 0

    def connectionMade(self) -> None:
        self._write(self.dialogue.greeting())

    def ask(self, service: str, user: str, password: str) -> Wait[Verdict]:
        if len(self._asked) >= MAX_WAITING:
            raise DovecotFailure("too many logins wait for an answer")
        self._last = number = self._last % 0x7FFFFFFF + 1
        # Who stops waiting leaves the number taken: its answer may still come.
        wait: Wait[Verdict] = Wait()
        self._asked[number] = wait
        self._write(self.dialogue.question(number, service, user, password))
        return wait

    def dataReceived(self, data: bytes) -> None:
        try:
            for number, answer in self.dialogue.receive(data):
                wait = self._asked.pop(number, None)
                if wait is None:
                    raise DovecotFailure("an answer to nobody")
                if not wait.done:
                    wait.fail(answer) if isinstance(answer, DovecotFailure) else wait.fire(answer)
            if self.dialogue.is_ready and not self.ready.done:
                self.ready.fire(None)
        except DovecotFailure as failure:
            self.drop(failure)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.drop(DovecotFailure("the connection is gone"))

    def drop(self, failure: DovecotFailure) -> None:
        """Whoever waits hears this, and nobody asks here any more."""
        self._gone()
        asked, self._asked = self._asked, {}
        waiting: list[Wait[Any]] = [self.ready, *asked.values()]
        for wait in waiting:
            if not wait.done:
                wait.fail(failure)
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Dovecot:
    """One server, at a unix socket's path, or a host and port."""

    def __init__(self, reactor: Any, *, path: str = "", host: str = "", port: int = 0, service: str, timeout: float) -> None:
        self._reactor = reactor
        self._endpoint = UNIXClientEndpoint(reactor, path) if path else HostnameEndpoint(reactor, host, port)
        self.label = path or f"{host}:{port}"
        self._service = service
        self._timeout = timeout
        self._connection: _Connection | None = None
        self._connecting: list[Wait[_Connection]] = []

    async def check(self, user: str, password: str) -> Verdict:
        """:raises DovecotFailure: nobody could say."""
        try:
            return await within(self._check(user, password), self._timeout, self._reactor)
        except DovecotFailure as failure:
            raise DovecotFailure(f"{self.label}: {failure}") from failure
        except CancelledError:
            raise
        except Exception as error:
            if self._connection is not None and self._connection.ready.done:
                self._connection.drop(DovecotFailure("an answer did not come in time"))
            text = "no answer in time" if isinstance(error, DeadlineExceeded) else error
            raise DovecotFailure(f"{self.label}: {text}") from error

    async def stop(self) -> None:
        if self._connection is not None:
            self._connection.drop(DovecotFailure("stopped"))

    async def _check(self, user: str, password: str) -> Verdict:
        connection = self._connection or await self._connect()
        return await connection.ask(self._service, user, password)

    async def _connect(self) -> _Connection:
        """One dials, the others wait for it."""
        if self._connecting:
            wait: Wait[_Connection] = Wait()
            self._connecting.append(wait)
            return await wait
        first: Wait[_Connection] = Wait()
        self._connecting = [first]
        Deferred.fromCoroutine(within(self._dial(), self._timeout, self._reactor)).addCallbacks(self._dialled, self._failed)
        return await first

    async def _dial(self) -> _Connection:
        made: list[_Connection] = []

        def gone() -> None:
            if made and self._connection is made[0]:
                self._connection = None

        factory = Factory.forProtocol(lambda: _Connection(gone))
        connection: Any = await self._endpoint.connect(factory)
        made.append(connection)
        try:
            await connection.ready
        except BaseException:
            connection.drop(DovecotFailure("it does not say what it can do"))
            raise
        self._connection = connection
        return made[0]

    def _dialled(self, connection: _Connection) -> None:
        waiting, self._connecting = self._connecting, []
        for wait in waiting:
            if not wait.done:
                wait.fire(connection)

    def _failed(self, failure: Failure) -> None:
        waiting, self._connecting = self._connecting, []
        reason = failure.value
        for wait in waiting:
            if not wait.done:
                wait.fail(reason if isinstance(reason, DovecotFailure) else DovecotFailure(str(reason)))
