"""What a store of a queue promises, whatever it is made of.

A store keeps entries (entry.py). Everything that changes it is durable when its awaitable fires: it survives `kill -9` and the
loss of power. A call that fails changed nothing, or, where the disk lied about that, the store undoes it before it goes on.

- Two phases: `accept` with ``prepared`` makes rows that nobody delivers; `commit` lets them go, `abort` forgets them; `open`
  forgets what a process that died had prepared, for nobody heard 250 for it.
- Leases: `lease` hands recipients that are due to one process. Every save names the lease; a store that several nodes share
  refuses saves under a lease that ended (`LeaseLost`), so a slow node can't overwrite what its successor did.
- `intend` is written before the final dot may go out. Whoever finds an open intent later knows that his delivery may be
  the second one: that is what `Waiting.in_doubt` says. A delivery that begins as soon as its message is accepted has its
  intent written with the acceptance (``intended``), which saves it a write; `drop` closes it when it is not begun after all.
- A damaged entry is set aside with its bytes and logged; it never stops the rest and is never deleted.

`Full` and `Unavailable` are 452 4.3.1 and 451 4.3.0 to a client; deliveries pause while results can't be recorded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Any, Protocol

from mailgate.queue.entry import Draft, Entry, Lease, Settled, Waiting
from mailgate.queue.survey import Summary, Survey
from mailgate.values import value

LEASE = 60.0
"""Seconds after which others take over what a process had that is not heard of any more, in a store that several share."""


class StoreError(Exception):
    """The store did not do it."""


class Full(StoreError):
    """No space is left: on the disk, or by our own bounds."""


class Unavailable(StoreError):
    """The store can't be used now: a failing disk, a database that is gone."""


class LeaseLost(StoreError):
    """Somebody else has some of the recipients by now: what is his was not saved, and nothing of his is overwritten."""


class Damaged(StoreError):
    """A stored row or body does not have the checksum it was written with."""


@value
class Line:
    """One line of an entry's history: when, and what happened."""

    at: float
    text: str


class Content(Protocol):
    """The content behind an entry's header section, as `message.message.Message` reads a body."""

    size: int
    data: bytes | None

    def read(self, offset: int, size: int) -> bytes | Awaitable[bytes]: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...


class Store(Protocol):
    """See the module's docstring. Awaitables fail with `StoreError`."""

    on_trouble: Callable[[BaseException], None]
    """Set by the owner: hears that the store can't be used until `reopen`, even if nobody waits for anything of it."""

    def open(self) -> Awaitable[None]:
        """Make or take over the store. :raises StoreError: somebody else has it, or it is of a later version."""

    def close(self) -> Awaitable[None]:
        """After everything that was begun; leases end."""

    def accept(
        self, drafts: Sequence[Draft], *, prepared: bool = False, intended: Container[str] = ()
    ) -> Awaitable[tuple[Entry, ...]]:
        """All of the drafts or none. The entries are as they lie in the store. The recipients of the destinations ``intended``,
        only of content that is in memory, have an open intent; the caller will `take` them."""

    def commit(self, entries: Sequence[int]) -> Awaitable[None]: ...

    def abort(self, entries: Sequence[int]) -> Awaitable[None]: ...

    def destinations(self) -> Awaitable[list[tuple[str, float]]]:
        """Every destination that somebody waits for, and when the first of them is due."""

    def lease(self, destination: str, now: float, limit: int) -> Awaitable[tuple[list[Lease], float]]:
        """Up to ``limit`` recipients that are due, the earliest first, grouped by entry; and when the next one of this
        destination will be due that is not leased (inf: none)."""

    def take(self, entry: Entry, destination: str, *, intended: bool = False) -> Lease:
        """A lease on the WAITING recipients of an entry that was just accepted here, without asking the disk; whether their
        intent was written with it."""

    def drop(self, lease: Lease) -> None:
        """End a lease with nothing changed: nobody was tried. An intent that was written with the acceptance is closed, soon."""

    def reopen(self) -> Awaitable[None]:
        """Try a store again that failed. :raises StoreError: it still does."""

    def overdue(self, destination: str, arrived_before: float, after: int, limit: int) -> Awaitable[list[Lease]]:
        """Recipients of one destination that wait, of entries that arrived before a time and have a number above ``after``,
        in the order of the numbers, leased."""

    def renew(self, lease: Lease) -> Awaitable[Lease]:
        """:raises LeaseLost: too late."""

    def intend(self, lease: Lease) -> Awaitable[None]:
        """A delivery of these recipients is about to become irrevocable. :raises LeaseLost: too late."""

    def settle(self, lease: Lease, results: Sequence[Settled]) -> Awaitable[None]:
        """Record what became of the recipients, close their intents, end the lease on them. An entry without rows is gone
        together with its body. :raises LeaseLost: too late."""

    def owed(self, now: float, limit: int) -> Awaitable[tuple[list[Lease], float]]:
        """Recipients whose report is owed and due, grouped by entry, leased; and when the next one of the others is due (inf:
        there is none)."""

    def message(self, entry: Entry) -> Awaitable[Any]:
        """The entry's `message.message.Message`; its body is held once for the caller.
        :raises Damaged: it can't be trusted, and was set aside."""

    # for operators

    def browse(self, after: int, limit: int) -> Awaitable[list[Entry]]:
        """Entries by number, with all their rows, those with a number above ``after``."""

    def page(self, after: int, limit: int) -> Awaitable[tuple[list[Entry], int | None]]:
        """As `browse`, and the ``after`` of the next page, a `cursor`; None behind the last."""

    def cursor(self, number: int) -> int:
        """The ``after`` of what comes behind an entry."""

    def entry(self, number: int) -> Awaitable[Entry | None]: ...

    def survey(self, now: float) -> Awaitable[Survey]:
        """What waits, by age and destination, and why."""

    def summary(self) -> Awaitable[Summary]: ...

    def summary_now(self) -> Summary:
        """The same, in the caller's thread. :raises StoreError: it can't be told."""

    def is_leased(self, entry: int, number: int) -> bool:
        """Whether this process is delivering the recipient just now."""

    def move(self, entry: int, edit: Callable[[Waiting], Waiting | None], target: str, note: str) -> Awaitable[int]:
        """As `change`; those rows become an entry of their own, for another target."""

    def find(self, message_id: str) -> Awaitable[list[Entry]]: ...

    def history(self, entry: int) -> Awaitable[list[Line]]: ...

    def change(self, entry: int, edit: Callable[[Waiting], Waiting | None], note: str) -> Awaitable[int]:
        """Change those rows of an entry that nobody has leased; None from ``edit`` leaves a row alone. The number changed."""

    def purge(self, before: float) -> Awaitable[int]:
        """Forget for good what was REMOVED before this time."""
