"""One process of a simulation: what it began ends with it, at once and without a word, as with `kill -9`.

    process = SimulatedProcess(reactor)
    gateway = WholeGateway(text, process.adapters(), directory)
    reactor.run(gateway.start())
    process.kill()

It is the reactor for what runs in it, over the `SimulatedReactor` that all share. A thread's work takes time: it is done a moment
after it was asked for, and heard of a moment later, so that a kill may come before, between, and after. What was done stays done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from mailgate.adapters import Adapters
from mailgate.testing.network import SimulatedReactor, adapters_for

THREAD = 0.003
"""Seconds that a thread's work takes at most to begin, and its result to be heard of."""


class SimulatedProcess:
    """See the module's docstring. ``around(function)`` may replace what a thread is about to do: a disk that fails."""

    def __init__(
        self, reactor: SimulatedReactor, around: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
    ) -> None:
        self._reactor = reactor
        self._around = around
        self._ports: list[Any] = []
        self._protocols: list[Any] = []
        self.is_dead = False

    def __getattr__(self, name: str) -> Any:
        """What no process owns is the reactor's: time, names."""
        return getattr(self._reactor, name)

    def adapters(self) -> Adapters:
        return replace(adapters_for(self._reactor), reactor=self, run_in_thread=self.run_in_thread)

    def kill(self) -> None:
        """From now on nothing of it happens; its peers see their connections reset."""
        self.is_dead = True
        for port in self._ports:
            port.factory = None
            port.accepting = port.connected = False
            self._reactor.forget_port(port.key)
        for protocol in self._protocols:
            transport = protocol.transport
            if transport is not None and not transport.disconnected:
                transport.protocol = Protocol()
                transport.abortConnection()

    # What it does

    def callLater(self, delay: float, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        return self._reactor.callLater(delay, self._alive(function), *arguments, **keywords)

    def callFromThread(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        self.callLater(0, function, *arguments, **keywords)

    def run_in_thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        heard: Deferred[Any] = Deferred()
        work = self._around(function) if self._around is not None else function

        def tell(result: Any) -> None:
            if not heard.called:  # else it was cancelled
                heard.callback(result)

        def do() -> None:
            try:
                result = work(*arguments)
            except Exception:
                result = Failure()
            self.callLater(self._moment(), tell, result)

        self.callLater(self._moment(), do)
        return heard

    def listenTCP(self, port: int, factory: Any, *arguments: Any, **keywords: Any) -> Any:
        return self._listen(self._reactor.listenTCP(port, _Watched(self, factory), *arguments, **keywords))

    def listenUNIX(self, address: str, factory: Any, *arguments: Any, **keywords: Any) -> Any:
        return self._listen(self._reactor.listenUNIX(address, _Watched(self, factory), *arguments, **keywords))

    def connectTCP(self, host: str, port: int, factory: Any, *arguments: Any, **keywords: Any) -> Any:
        return self._reactor.connectTCP(host, port, _Watched(self, factory), *arguments, **keywords)

    def connectUNIX(self, address: str, factory: Any, *arguments: Any, **keywords: Any) -> Any:
        return self._reactor.connectUNIX(address, _Watched(self, factory), *arguments, **keywords)

    # Inside

    def _moment(self) -> float:
        return self._reactor.random.uniform(0.0, THREAD)

    def _alive(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            return None if self.is_dead else function(*arguments, **keywords)

        return call

    def _listen(self, port: Any) -> Any:
        self._ports.append(port)
        return port

    def built(self, protocol: Any) -> Any:
        if protocol is not None:
            self._protocols = [one for one in self._protocols if one.transport is None or not one.transport.disconnected]
            self._protocols.append(protocol)
        return protocol


class _Watched:
    """A factory as its process sees it: nobody hears anything once it is dead."""

    def __init__(self, process: SimulatedProcess, factory: Any) -> None:
        self._process = process
        self._factory = factory

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._factory, name)
        return self._process._alive(value) if callable(value) else value

    def buildProtocol(self, address: Any) -> Any:
        return None if self._process.is_dead else self._process.built(self._factory.buildProtocol(address))
