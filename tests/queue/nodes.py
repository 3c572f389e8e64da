"""Several nodes of one queue in PostgreSQL inside a test, and a clock for their leases that stands where it is put."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from mailgate.config.places import SecretText
from tests.queue.support import World
from tests.support.postgres import Postgres, shared

CLOCK = "(SELECT at FROM public.clock)"


class Pace:
    """The reactor, with a clock that a test moves on by leaps."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.ahead = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def seconds(self) -> float:
        return float(self._reactor.seconds()) + self.ahead


class Nodes(World):
    """A database, and stores on it. They beat when the test says so: their leases are too long for it to happen by itself."""

    def __init__(self, server: Postgres | None = None) -> None:
        super().__init__()
        self.server = server or shared()
        self.dsn = self.server.database()
        self.pace = Pace(self.adapters.reactor)
        object.__setattr__(self.adapters, "reactor", self.pace)
        self.sql("CREATE TABLE public.clock (at double precision)")
        self.sql("INSERT INTO public.clock VALUES (0)")
        self.stores: list[Any] = []

    def sql(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """In the queue's schema."""
        return self.server.execute(f"{self.dsn} options='-csearch_path=mailgate_out'", statement, *arguments)

    def node(self, name: str = "node", lease: float = 3600.0) -> Any:
        from mailgate.queue.postgres import PostgresStore
        from mailgate.queue.postgres_link import Access

        store = PostgresStore(Access(SecretText(self.dsn), "mailgate_out", CLOCK), name, self.adapters, lease=lease)
        self.stores.append(store)
        return store

    async def opened(self, name: str = "node") -> Any:
        store = self.node(name)
        await store.open()
        await store._life.beat()
        return store

    def later(self, seconds: float) -> None:
        """For the leases, and for those who count them."""
        self.pace.ahead += seconds
        self.sql(f"UPDATE public.clock SET at = at + {seconds}")

    async def alive(self, store: Any, seconds: float, step: float = 600.0) -> None:
        """Time passes, and only this node lives."""
        for _ in range(int(seconds / step)):
            self.later(step)
            await store._life.beat()

    async def stop(self) -> None:
        for store in self.stores:
            await store.close()

    def turn(self) -> Deferred[None]:
        """The reactor has been round once."""
        waited: Deferred[None] = deferLater(self.adapters.reactor, 0.0)
        return waited

    async def until(self, condition: Any, what: str) -> None:
        end = self.pace._reactor.seconds() + 10
        while not condition():
            if self.pace._reactor.seconds() > end:
                raise AssertionError(what)
            await deferLater(self.adapters.reactor, 0.005)
