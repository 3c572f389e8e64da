"""What a queue holds, in numbers: how old it is and where it wants to go, and what was heard last, equal answers taken together.

A survey looks at every recipient, in slices, so its memory is bounded by what it tells and not by the queue; `Summary` is what
can be had at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

AGES = (("5m", 300.0), ("15m", 900.0), ("1h", 3600.0), ("4h", 14400.0), ("1d", 86400.0), ("3d", 259200.0))
"""Upper ends of the columns; one for what is older comes behind them."""
MOST_DESTINATIONS = 10_000
MOST_CLUSTERS = 1_000
OTHERS = "(others)"
"""Where those are counted for whom there is no room."""

_ADDRESS = re.compile(r"<?[^\s<>]+@[^\s<>]+>?")
_NUMBERED = re.compile(r"\b(?=[A-Za-z-]*\d)[\w-]{6,}\b")
"""Queue ids, session ids, times."""


@dataclass(slots=True)
class Survey:
    """``destinations``: recipients by age, a list as long as `AGES` and one; ``clusters``: recipients by what they heard last."""

    destinations: dict[str, list[int]] = field(default_factory=dict)
    clusters: dict[tuple[int, str, str], int] = field(default_factory=dict)
    """By code, enhanced code and text."""
    recipients: int = 0

    def add(self, groups: Iterable[tuple[str, int, int | None, str | None, str | None, int]]) -> None:
        """Destination, column, code, enhanced code and text of the last answer (None: not tried yet), and how many."""
        for destination, column, code, status, text, count in groups:
            self.recipients += count
            key = destination if destination in self.destinations or len(self.destinations) < MOST_DESTINATIONS else OTHERS
            self.destinations.setdefault(key, [0] * (len(AGES) + 1))[column] += count
            if code is None:
                continue
            cluster = (code, status or "", alike(text or ""))
            if cluster not in self.clusters and len(self.clusters) >= MOST_CLUSTERS:
                cluster = (0, "", OTHERS)
            self.clusters[cluster] = self.clusters.get(cluster, 0) + count

    def merge(self, other: Survey) -> None:
        """Another part of the same queue."""
        for key, columns in other.destinations.items():
            mine = self.destinations.setdefault(key, [0] * len(columns))
            self.destinations[key] = [one + another for one, another in zip(mine, columns, strict=True)]
        for cluster, count in other.clusters.items():
            self.clusters[cluster] = self.clusters.get(cluster, 0) + count
        self.recipients += other.recipients


def alike(text: str) -> str:
    """A reply without what makes each of its kind different: addresses, ids, long numbers."""
    return " ".join(_NUMBERED.sub("…", _ADDRESS.sub("<…>", text)).split())[:200]


@dataclass(frozen=True, slots=True)
class Summary:
    """Recipients by standing; ``oldest`` is when the eldest entry arrived, 0 if there is none."""

    waiting: int = 0
    held: int = 0
    owed: int = 0
    removed: int = 0
    damaged: int = 0
    """Rows that were set aside."""
    oldest: float = 0.0

    def plus(self, other: Summary) -> Summary:
        """Of two parts of one queue."""
        return Summary(
            self.waiting + other.waiting,
            self.held + other.held,
            self.owed + other.owed,
            self.removed + other.removed,
            self.damaged + other.damaged,
            min(filter(None, (self.oldest, other.oldest)), default=0.0),
        )
