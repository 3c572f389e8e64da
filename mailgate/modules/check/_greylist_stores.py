"""`store` of check.greylist: a file of this machine, or a server that several gateways share.

A store is asked by `seen`, which raises `NoAnswer` when nobody can say; nothing of it is asked before `start`. The libraries of
the servers are extras, and imported when a server is named.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.task import LoopingCall

from mailgate.adapters import Adapters
from mailgate.clients.greylist import Greylist, Seen, Waiting
from mailgate.clients.threads import NoAnswer, Threads
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.line import Chosen
from mailgate.config.schema import Block, Directive
from mailgate.events import Event, EventLog
from mailgate.net.waiting import spawn
from mailgate.registry import Module

PENDING = 256
"""Questions that wait for the file; beyond it they fail at once."""
SWEEP = 600.0
"""Seconds between two looks of a gateway at what is over in a database."""
BATCHES = 100
"""Of one look at most."""
STORE = v.OneOf(
    {"sqlite": v.Nothing(), "redis": v.Endpoint(6379, schemes=("tcp", "tls", "unix")), "postgres": v.Secret("CONNINFO")}
)
_LIBRARIES = {"redis": "redis", "postgres": "psycopg"}
_OF_REDIS = ("login", "database", "root_ca", "prefix")

_log = EventLog("mailgate.checks")


class StoreBlock(Block):
    """How a server is reached."""

    login = Directive(
        "login", v.Args(v.String("USER"), v.Secret("PASSWORD")), default=None, doc='Who we are to Redis; "" is the default user.'
    )
    database = Directive("database", v.Integer(minimum=0), default=0, doc="The number of the database, of Redis.")
    root_ca = Directive(
        "root_ca", v.Path(), default=None, doc="A file with the certificates to trust (PEM), of a Redis at tls://."
    )
    prefix = Directive(
        "prefix",
        v.String("TEXT"),
        default="mailgate-greylist",
        doc="What our keys in Redis begin with: who has the same prefix greylists together.",
    )
    connections = Directive(
        "connections",
        v.Integer(minimum=1, maximum=64),
        default=4,
        divided=True,
        doc="Connections at most, and threads that use them.",
    )
    timeout = Directive("timeout", v.Duration(minimum=0.1, maximum=60), default=2.0, doc="For connecting, and for each answer.")

    def __init__(self) -> None:
        self.value = self.value or Chosen("sqlite", None)


class Store(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def seen(self, network: str, sender: str, recipient: str) -> Seen:
        """:raises NoAnswer: nobody can say."""


def check_store(module: Any, report: Report) -> None:
    """What is wrong with `store` and what belongs to it."""
    block, span = module.store, module.span_of("store")
    word = block.value.word
    if word != "sqlite" and module.span_of("path") is not None:
        report.warning(module.span_of("path"), "`path` has no effect here", code="W0714", hint="it is for `store sqlite`")
    for item in block.items:
        if word == "sqlite" or (word == "postgres" and item.name in _OF_REDIS):
            report.warning(item.span, f"`{item.name}` has no effect here", code="W0714", hint=f"this is `store {word}`")
    library = _LIBRARIES.get(word)
    if library is not None and importlib.util.find_spec(library) is None:
        text = f"`store {word}` needs the Python library `{library}`, which is not installed"
        report.error(span, text, code="E0605", hint=f"pip install 'mailgate[{word}]'")
    elif word == "redis":
        from mailgate.modules._redis import access_of, check_access

        check_access(block, access_of(block, block.value.value), span, report)
        if not block.prefix.isprintable() or not block.prefix or "{" in block.prefix or "}" in block.prefix:
            report.error(block.span_of("prefix"), "a prefix is printable text without braces", code="E0847")
    elif word == "postgres":
        from mailgate.clients.greylist_postgres import is_conninfo

        if not is_conninfo(block.value.value.reveal()):
            hint = '"host=db.example.net dbname=mail user=mailgate"'
            report.error(span, "PostgreSQL's library can't read this", code="E0841", hint=hint)


def make(module: Module, block: Any, path: str, waiting: Waiting) -> Store:
    """Not started."""
    assert module.context.adapters is not None
    chosen: Chosen = block.value
    if chosen.word == "sqlite":
        return FileStore(Greylist(path, waiting), path, module.context.adapters)
    if chosen.word == "redis":
        from mailgate.clients.greylist_redis import RedisGreylist
        from mailgate.clients.redis_link import RedisLink
        from mailgate.modules._redis import access_of

        redis, access = RedisGreylist(block.prefix, waiting), access_of(block, chosen.value)
        return ServerStore(module, block, partial(RedisLink, access), redis.seen)
    from mailgate.clients.greylist_postgres import PostgresGreylist, PostgresLink

    postgres = PostgresGreylist(waiting)
    return ServerStore(module, block, partial(PostgresLink, chosen.value, block.timeout), postgres.seen, postgres.sweep)


class FileStore:
    """A file of SQLite's, that all processes of a machine share."""

    def __init__(self, greylist: Greylist, path: str, adapters: Adapters) -> None:
        self.greylist = greylist
        self._path = path
        self._adapters = adapters
        self._pending = 0

    async def start(self) -> None:
        await self._adapters.run_in_thread(self.greylist.open)

    async def stop(self) -> None:
        await self._adapters.run_in_thread(self.greylist.close)

    async def seen(self, network: str, sender: str, recipient: str) -> Seen:
        if self._pending >= PENDING:
            raise NoAnswer(f"{self._path}: too many questions wait")
        self._pending += 1
        try:
            found: Seen = await self._adapters.run_in_thread(
                self.greylist.seen, network, sender, recipient, self._adapters.wall_time()
            )
        except (sqlite3.Error, OSError) as error:
            raise NoAnswer(f"{os.path.basename(self._path)}: {error}") from error
        finally:
            self._pending -= 1
        return found


class ServerStore:
    """``judge(link, network, sender, recipient)`` and ``sweep(link)`` are called in threads. The server need not be there when
    the gateway starts."""

    def __init__(
        self,
        module: Module,
        block: StoreBlock,
        connect: Callable[[], Any],
        judge: Callable[..., Seen],
        sweep: Callable[[Any], int] | None = None,
    ) -> None:
        assert module.context.adapters is not None
        self._label = module.label
        self._reactor = module.context.adapters.reactor
        self._judge = judge
        self._sweep = sweep
        self._sweeping: LoopingCall | None = None
        self._threads: Threads[Any] = Threads(
            self._label, connect, module.context.adapters, links=block.connections, deadline=3 * block.timeout
        )

    async def start(self) -> None:
        if self._sweep is not None:
            self._sweeping = LoopingCall(self._begin_sweep)
            self._sweeping.clock = self._reactor
            self._sweeping.start(SWEEP, now=False)

    async def stop(self) -> None:
        if self._sweeping is not None and self._sweeping.running:
            self._sweeping.stop()
        await self._threads.stop()

    async def seen(self, network: str, sender: str, recipient: str) -> Seen:
        return await self._threads.ask(partial(self._judge, network=network, sender=sender, recipient=recipient))

    def _begin_sweep(self) -> None:
        spawn(self.sweep())  # the loop does not wait for it: it takes less than the time between two

    async def sweep(self) -> None:
        """Remove what is over; what can't be removed now is, the next time."""
        assert self._sweep is not None
        try:
            for _ in range(BATCHES):
                if not await self._threads.ask(self._sweep):
                    break
        except CancelledError:
            raise
        except NoAnswer as error:
            _log.warn(Event.GREYLIST_UNSWEPT, check=self._label, reason=str(error))
