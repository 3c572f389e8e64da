"""What operators do to what waits: hold, release, retry, rm, undo, bounce, reroute.

An act takes a page of the queue at a time: it chooses recipients, by message ids or by an expression (selection.py), and changes
those that the act can change and that nobody is delivering just now. Each change is one line of the entry's history, with who did
it; each act one line of the log. A dry run chooses and changes nothing.

    hold      waiting → held
    release   held → waiting, due at once; of what is at its end, the report
    retry     waiting, or a report that is owed → due at once; a destination that backs off is probed
    rm        waiting, held, or a report that is owed → removed; `undo` makes it what it was, within a day (housekeeping.py)
    bounce    waiting, held → failed for good, and its sender hears of it
    reroute   waiting, held → waiting for another target, due at once

What is sealed is not opened again: a recipient that has a fate is never delivered, bounced or rerouted, only its report is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from twisted.internet.defer import gatherResults

from mailgate.events import Event, EventLog
from mailgate.net.waiting import spawn
from mailgate.queue.engine import Queue
from mailgate.queue.entry import Entry, Fate, LastTry, Standing, Waiting
from mailgate.queue.selection import Candidate
from mailgate.smtp.reply import Reply

PAGE = 500
"""Entries that one step of an act, or of a listing, looks at."""
GIVEN_UP = "Given up by the postmaster"

Chooses = Callable[[Candidate], bool]


@dataclass(frozen=True, slots=True)
class Context:
    """Of one act: on which queue, when, who asks, and where to."""

    queue: Queue
    now: float
    who: str
    target: str = ""
    chooses: Chooses | None = None


Edit = Callable[[Context, Entry, Waiting], Waiting]


@dataclass(frozen=True, slots=True)
class Act:
    """``takes``: the standings that it can change; ``done``: the word for the history; ``sealed``: those with a fate too."""

    done: str
    takes: frozenset[Standing]
    edit: Edit
    sealed: bool = True

    def can_change(self, row: Waiting) -> bool:
        return row.standing in self.takes and (self.sealed or row.fate is None)


def _hold(context: Context, entry: Entry, row: Waiting) -> Waiting:
    return replace(row, standing=Standing.HELD, reason=f"by {context.who}")


def _release(context: Context, entry: Entry, row: Waiting) -> Waiting:
    if row.fate is None:
        return _due(context, entry, row)
    return replace(row, standing=Standing.OWED, reason="", due=context.now, reports=0, owed_since=0.0)


def _again(context: Context, entry: Entry, row: Waiting) -> Waiting:
    return replace(row, due=context.now)


def _due(context: Context, entry: Entry, row: Waiting) -> Waiting:
    return replace(row, standing=Standing.WAITING, reason="", due=context.now)


def _remove(context: Context, entry: Entry, row: Waiting) -> Waiting:
    return replace(row, standing=Standing.REMOVED, before=row.standing, due=context.now, reason=f"by {context.who}")


def _undo(context: Context, entry: Entry, row: Waiting) -> Waiting:
    before = row.before or Standing.HELD
    reason = "removed and put back" if before is Standing.HELD else ""
    return replace(row, standing=before, before=None, due=context.now, reason=reason)


def _bounce(context: Context, entry: Entry, row: Waiting) -> Waiting:
    last = row.last or LastTry(context.now, 0, "5.0.0", GIVEN_UP)
    if not context.queue.reporter.wants(entry, row, Fate.FAILED):
        return _remove(context, entry, replace(row, last=last))
    return replace(row, standing=Standing.OWED, fate=Fate.FAILED, reason="", due=context.now, last=last)


def _reroute(context: Context, entry: Entry, row: Waiting) -> Waiting:
    return replace(_due(context, entry, row), destination=context.queue.destination_of(context.target, row.address))


_BEFORE_ITS_END = frozenset({Standing.WAITING, Standing.HELD})
ACTS = {
    "hold": Act("held", frozenset({Standing.WAITING}), _hold),
    "release": Act("released", frozenset({Standing.HELD}), _release),
    "retry": Act("due at once", frozenset({Standing.WAITING, Standing.OWED}), _again),
    "rm": Act("removed", _BEFORE_ITS_END | {Standing.OWED}, _remove),
    "undo": Act("put back", frozenset({Standing.REMOVED}), _undo),
    "bounce": Act("bounced", _BEFORE_ITS_END, _bounce, sealed=False),
    "reroute": Act("rerouted", _BEFORE_ITS_END, _reroute, sealed=False),
}


@dataclass(slots=True)
class Done:
    """What became of a page. Recipients; ``busy`` are those that were being delivered."""

    matched: int = 0
    changed: int = 0
    busy: int = 0
    messages: list[str] = field(default_factory=list)
    """Their ids; without those that only had busy recipients."""

    def add(self, entry: Entry, chosen: int, changed: int) -> None:
        self.matched += chosen
        self.changed += changed
        self.busy += chosen - changed
        if changed:
            self.messages.append(entry.message_id)

    def merge(self, other: Done) -> None:
        """Of another queue."""
        self.matched += other.matched
        self.changed += other.changed
        self.busy += other.busy
        self.messages += other.messages


def candidates(queue: Queue, entry: Entry, now: float) -> list[Candidate]:
    """The recipients of an entry, as expressions see them."""
    leased = queue.store.is_leased
    return [Candidate(queue.settings.name, entry, row, now, delivering=leased(entry.id, row.number)) for row in entry.recipients]


def chosen(queue: Queue, entries: Iterable[Entry], chooses: Chooses | None, now: float) -> list[tuple[Entry, list[Candidate]]]:
    """Entries with those of their recipients that are meant; without an expression all but what was removed."""
    found = []
    for entry in entries:
        meant = [one for one in candidates(queue, entry, now) if (one.state != "removed" if chooses is None else chooses(one))]
        if meant:
            found.append((entry, meant))
    return found


async def perform(name: str, context: Context, entries: Sequence[Entry], *, dry_run: bool = False) -> Done:
    """One act on what it chooses of these entries. :raises StoreError: the store could not do it, or not all of it."""
    act, queue = ACTS[name], context.queue
    done = Done()
    meant = []
    for entry in entries:
        every = candidates(queue, entry, context.now)
        numbers = {
            one.row.number for one in every if act.can_change(one.row) and (context.chooses is None or context.chooses(one))
        }
        if numbers:
            meant.append((entry, numbers))
    if dry_run:
        for entry, numbers in meant:
            done.add(entry, len(numbers), len(numbers))
        return done
    if not meant:
        return done
    queue.put_back_fresh()
    changed = await gatherResults([spawn(_change(name, context, entry, numbers)) for entry, numbers in meant])
    for (entry, numbers), count in zip(meant, changed, strict=True):
        done.add(entry, len(numbers), count)
    if name == "retry":
        rows = [row for entry, numbers in meant for row in entry.recipients if row.number in numbers]
        queue.try_now({row.destination for row in rows if row.standing is Standing.WAITING})
    queue.wake()
    return done


async def _change(name: str, context: Context, entry: Entry, numbers: set[int]) -> int:
    act, queue = ACTS[name], context.queue

    def edit(row: Waiting) -> Waiting | None:
        """In a thread; the row as it is now."""
        return act.edit(context, entry, row) if row.number in numbers and act.can_change(row) else None

    to = ", ".join(f"<{row.address}>" for row in entry.recipients if row.number in numbers)
    where = f" to {context.target}" if name == "reroute" else ""
    note = f"{act.done}{where} by {context.who}: {to}"
    if name == "reroute":
        return int(await queue.store.move(entry.id, edit, context.target, note))
    count = int(await queue.store.change(entry.id, edit, note))
    if name == "bounce" and count:
        _log_unheard(context, entry, numbers)
    return count


def _log_unheard(context: Context, entry: Entry, numbers: set[int]) -> None:
    """Whose sender wants no report is nevertheless in the log."""
    log = EventLog("mailgate.queue")
    for row in entry.recipients:
        if row.number in numbers and not context.queue.reporter.wants(entry, row, Fate.FAILED):
            reply = Reply(550, "5.0.0", GIVEN_UP)
            log.warn(Event.UNDELIVERABLE, message=entry.message_id, to=f"<{row.address}>", reason="bounced", reply=reply)
