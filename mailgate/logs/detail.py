"""What the log says for a while more, or less, than the configuration wants: an operator's doing, at run time.

A level holds for every destination. A `Watch` has dialogues written line by line (`wire`, without secrets and content): of a
listener's sessions, of clients in a network, of a target's connections, of deliveries to a recipient. There is one `detail` for
the process, as there is one log. It ends by the clock (who sets it owns the timer) and with every reload; while there is none,
it costs its owners a look at `active`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mailgate.events import EventLog

LEVELS = {"debug": 0, "info": 1, "warn": 2, "error": 3, "critical": 4}


class Subject(StrEnum):
    LISTENER = "listener"
    PEER = "peer"
    TARGET = "target"
    RECIPIENT = "recipient"


@dataclass(frozen=True, slots=True)
class Watch:
    """``value`` by subject: an address as the configuration writes it; a network; a target's label; an address, or @domain."""

    subject: Subject
    value: str

    def __str__(self) -> str:
        return f"{self.subject} {self.value}"


class Detail:
    """See the module's docstring. Times are those of the caller's clock."""

    def __init__(self) -> None:
        self.active = False
        """Somebody is watched."""
        self.rank = -1
        """The level that holds for every destination, as a number; -1: each has its own."""
        self._debugging = False
        self._level: tuple[str, float] | None = None
        self._watches: dict[Watch, float] = {}

    def begin(self, *, debugging: bool) -> None:
        """A configuration serves from now on, and says whether debug events are wanted; what was set before is over."""
        self._debugging = debugging
        self._level = None
        self._watches = {}
        self._apply()

    def set_level(self, level: str, until: float) -> None:
        self._level = level, until
        self._apply()

    def watch(self, watch: Watch, until: float) -> None:
        """:raises ValueError: a peer that is no network."""
        if watch.subject is Subject.PEER:
            ipaddress.ip_network(watch.value, strict=False)
        self._watches[watch] = until
        self._apply()

    def reset(self) -> None:
        self.begin(debugging=self._debugging)

    def expire(self, now: float) -> list[str]:
        """What was over by then, as the log says it."""
        over = [str(watch) for watch, until in self._watches.items() if until <= now]
        self._watches = {watch: until for watch, until in self._watches.items() if until > now}
        if self._level is not None and self._level[1] <= now:
            over.insert(0, f"level {self._level[0]}")
            self._level = None
        self._apply()
        return over

    @property
    def level(self) -> tuple[str, float] | None:
        return self._level

    @property
    def watches(self) -> dict[Watch, float]:
        """Each with its end."""
        return dict(self._watches)

    @property
    def next_end(self) -> float | None:
        ends = [*self._watches.values(), *([self._level[1]] if self._level is not None else [])]
        return min(ends, default=None)

    # What is asked, while it is `active`

    def watches_session(self, listener: str, client: str) -> bool:
        return any(
            value == listener if subject is Subject.LISTENER else subject is Subject.PEER and _within(client, value)
            for subject, value in self._pairs()
        )

    def watches_delivery(self, target: str, recipients: Iterable[str] = ()) -> bool:
        folded = [recipient.casefold() for recipient in recipients]
        return any(
            value == target if subject is Subject.TARGET else subject is Subject.RECIPIENT and _is_among(value.casefold(), folded)
            for subject, value in self._pairs()
        )

    def _pairs(self) -> Iterable[tuple[Subject, str]]:
        return ((watch.subject, watch.value) for watch in self._watches)

    def _apply(self) -> None:
        self.active = bool(self._watches)
        level = "" if self._level is None else self._level[0]
        self.rank = LEVELS.get(level, -1)
        EventLog.debugging = level == "debug" if level else self._debugging


def _within(client: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(client) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False  # a unix socket


def _is_among(value: str, recipients: list[str]) -> bool:
    return any(recipient.endswith(value) if value.startswith("@") else recipient == value for recipient in recipients)


detail = Detail()
"""The one of this process."""
