"""What `explain` and `try` share: a configuration for a dry run, its tables, and the run itself, with or without a reactor."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

import click
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailgate.adapters import Adapters
from mailgate.cli.common import UNREADABLE
from mailgate.config.diagnostics import render
from mailgate.dns.service import with_names
from mailgate.interfaces import ITable
from mailgate.net.waiting import DeadlineExceeded, begin, spawn, within
from mailgate.pipeline import rehearsal
from mailgate.pipeline.explain import find_listener
from mailgate.pipeline.lookup import WITHOUT_IO, Kept, kept
from mailgate.registry import Configuration, Globals, Module, build

T = TypeVar("T")

ONLINE = frozenset(Kept)
ONLINE_TIME = 60.0
"""Seconds that a dry run may ask the network in all."""
TEMPORARY = 75
"""Exit status when what was asked could not answer."""


def load(path: str, adapters: Adapters, *, names: bool = False) -> Configuration:
    """The configuration of a file, with its resolver where ``names`` will be asked for. Exits with 2 if it can't be read, with 1
    (its diagnostics printed) if it has errors."""

    def outfit(settings: Globals) -> dict[str, Any]:
        return {"adapters": with_names(settings.resolver, adapters)} if names else {}

    try:
        built = build(path, adapters, outfit=outfit)
    except OSError as error:
        fail(f"can't read {path}: {error.strerror or error}", UNREADABLE)
    if built.configuration is None:
        errors = [diagnostic for diagnostic in built.diagnostics if diagnostic.is_error]
        click.echo(render(errors, color=sys.stderr.isatty()), err=True)
        sys.exit(1)
    return built.configuration


def choose_listener(configuration: Configuration, address: str, path: str) -> Any:
    """The listener at an address, the first without one. Exits with 2 if there is none."""
    listener = find_listener(configuration.listeners, address)
    if listener is None:
        known = ", ".join(listener_addresses(configuration))
        fail(f"{path} has no listener at {address}; there is {known}" if known else f"{path} has no listener", UNREADABLE)
    return listener


def listener_addresses(configuration: Configuration) -> list[str]:
    listeners: list[Any] = list(configuration.listeners)
    return [address for listener in listeners for address in listener.addresses]


def tables(configuration: Configuration) -> list[Any]:
    return [module for module in configuration.modules if ITable.providedBy(module)]


def adapters(*, online: bool) -> Adapters:
    """The outside world of a dry run: the real one only if it may ask the network."""
    if not online:
        return rehearsal.adapters()
    from twisted.internet import reactor, threads

    return Adapters(reactor, time.time, threads.deferToThread, random.SystemRandom())


def run(
    configurations: Sequence[Configuration],
    dry: Coroutine[Any, Any, T],
    outside: Adapters,
    *,
    online: bool,
    seconds: float = ONLINE_TIME,
) -> T:
    """The result of a dry run: at once, or (``online``) under the reactor, with everything that asks the network started, and
    within ``seconds``."""
    if not online:
        result = begin(dry)
        assert not isinstance(result, Deferred), "something waits in a dry run"
        return result
    outcome: list[Any] = []

    def finished(result: Any) -> None:
        outcome.append(result)
        outside.reactor.stop()

    asking = [module for configuration in configurations for module in configuration.modules if _asks(module)]
    outside.reactor.callWhenRunning(lambda: spawn(within(_alive(asking, dry), seconds, outside.reactor)).addBoth(finished))
    outside.reactor.run()
    (found,) = outcome
    if isinstance(found, Failure):
        if found.check(DeadlineExceeded):
            fail(f"no answer within {seconds:g} s", TEMPORARY)
        found.raiseException()
    answer: T = found
    return answer


async def _alive(modules: Sequence[Module], dry: Coroutine[Any, Any, T]) -> T:
    started: list[Module] = []
    try:
        for module in modules:
            started.append(module)
            await module.start()
        return await dry
    finally:
        dry.close()
        for module in reversed(started):
            await module.stop()


def _asks(module: Module) -> bool:
    """Whether a dry run needs it alive: what answers questions over the network, never what listens or delivers."""
    return type(module).name.partition(".")[0] in ("table", "check") and kept(module) not in WITHOUT_IO


def fail(message: str, status: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(status)
