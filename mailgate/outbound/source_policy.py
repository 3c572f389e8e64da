"""How the source of a new connection is found, for one endpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from mailgate.outbound.sources import Selection, Source, Turns, choose


@dataclass(frozen=True, slots=True, eq=False)
class SourcePolicy:
    """How a new connection finds its source. ``sources`` are the constant ones; a key that has its own goes before them."""

    sources: tuple[Source, ...] = ()
    selection: Selection = Selection.RANDOM
    fallback: bool = False
    random: Random = field(default_factory=Random, repr=False)
    turns: Turns = field(default_factory=Turns, repr=False)

    def candidates(self, chosen: tuple[Source, ...], remote: str) -> tuple[Source, ...]:
        """Sources for a connection to the address ``remote``, the one to use first, then those that may stand in for it where it
        can't be bound. Empty: there is none, so there is no connection. `sources.SYSTEM`: the system chooses."""
        sources = chosen or self.sources
        first = choose(sources, remote, self.selection, random=self.random, turns=self.turns, fallback=self.fallback)
        if first is None:
            return ()
        if not first.address:
            return (first,)
        fitting = (source for source in sources if (":" in source.address) == (":" in remote))
        return (first, *(source for source in fitting if source is not first))

    def name_of(self, chosen: tuple[Source, ...], local: str) -> str:
        """What is said in EHLO from the address ``local``; "": what the key says."""
        return next((source.hostname for source in chosen or self.sources if source.address == local), "")


SYSTEM_CHOOSES = SourcePolicy()
