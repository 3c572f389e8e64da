"""What the tables that ask a server share: the parts of a key, and answers that are kept for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailgate.clients.cache import Cache
from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.registry import Module, ModuleContext

KEY_PARTS = ("key", "localpart", "domain")
_OF_ADDRESSES = frozenset({"localpart", "domain"})


class AskedTable(Module):
    """A table whose answers come from `ask` and are kept. A key that is no address has no match where `wanted_parts` has a part
    of an address."""

    cache = Directive("cache", v.Duration(maximum=86400), default=60.0, doc="How long values are kept; 0: not at all.")
    negative_cache = Directive(
        "negative_cache", v.Duration(maximum=86400), default=10.0, doc="How long it is kept that a key has no match."
    )
    cache_size = Directive("cache_size", v.Integer(minimum=1), default=10_000, doc="Keys that are kept at most.")

    wanted_parts: frozenset[str] = frozenset()

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._answers: Cache[tuple[str, ...]] | None = None

    def lookup(self, key: str) -> Any:
        if not key or (self.wanted_parts & _OF_ADDRESSES and not _is_address(key)):
            return ()
        answers = self._answers
        if answers is None:
            assert self.context.adapters is not None
            seconds = self.context.adapters.reactor.seconds
            answers = self._answers = Cache(seconds, size=self.cache_size, found=self.cache, missing=self.negative_cache)
        return answers.get(key, self.ask)

    async def ask(self, key: str) -> tuple[str, ...]:
        """The values of the key, none without a match; whatever is raised makes the client hear 451."""
        raise NotImplementedError


def parts_of(key: str) -> Mapping[str, str]:
    localpart, _, domain = key.rpartition("@")
    return {"key": key, "localpart": localpart, "domain": domain}


def _is_address(key: str) -> bool:
    localpart, at, domain = key.rpartition("@")
    return bool(at and localpart and domain)
