"""The running queue: accepts, schedules, delivers, records, reports.

One `Queue` is one `target.queue`. What it does with an entry:

    accept  →  store, durable  →  250  →  [due]  →  lease  →  attempt (attempt.py)  →  settle  →  gone, or due again, or a report

- A fresh entry whose destination is up goes out at once, from memory; everything else comes from the store when it is due.
- What an attempt made of each recipient (verdicts.py) is recorded before anything else happens with it. While the store can't
  record, nothing new is tried: a delivery that nobody can note down would be made again (recorder.py).
- Reports (reports.py, owed.py) are owed durably before they are made, so none is lost, and settled when they were accepted.
- `stop` lets what is on the wire come to its answer; what waits stays in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.message.message import Message
from mailgate.queue.attempt import Outcome, outcome_of, try_lease
from mailgate.queue.destinations import NEVER, Destination, Destinations
from mailgate.queue.entry import Draft, Entry, LastTry, Lease, Settled, Standing
from mailgate.queue.housekeeping import Housekeeping
from mailgate.queue.owed import OwedReports
from mailgate.queue.recorder import Recorder
from mailgate.queue.reports import Reporter
from mailgate.queue.store import Damaged, LeaseLost, StoreError, Unavailable
from mailgate.queue.verdicts import QueueSettings, Verdicts
from mailgate.queue.work import Work
from mailgate.smtp.address import Address
from mailgate.smtp.reply import Reply

LOOK_AGAIN = 60.0
"""Seconds after which the clock on the wall is looked at in any case: it may have been set."""
PATIENCE = 60.0
"""Seconds that deliveries under way have to come to their answers when the queue stops."""
FRESH_LIMIT = 64 << 20
"""Octets of content of fresh entries that may be held in memory for their first attempt; beyond it they are read again."""
AHEAD = 100
"""Fresh entries of one destination that may wait for their turn with their intent written already. If the process dies, those
are marked as possible duplicates though nobody has tried them: a note too many, not a copy."""
LINE = 100
"""Entries looked at together when a destination is down and those who wait for it may have waited too long."""


class Queue:
    """See the module's docstring. ``find_target(name)`` gives the `ITarget` of that name, or None when there is none any more."""

    def __init__(
        self,
        settings: QueueSettings,
        store: Any,
        find_target: Callable[[str], Any],
        reporter: Reporter,
        adapters: Adapters,
        log: EventLog | None = None,
    ) -> None:
        self.store = store
        self.destinations = Destinations(adapters.random, settings.each)
        self.destinations.limit(settings.rate, adapters.wall_time())
        self.find_target = find_target
        self._adapters = adapters
        self._log = log or EventLog("mailgate.queue")
        self._housekeeping = Housekeeping(store, adapters, self._log)
        self._owner: object = None
        self._work = Work(settings.name, adapters, self._log)
        self.recorder = Recorder(settings.name, store, self._work, self._log, self.hear)
        store.on_trouble = self.recorder.pause
        self._verdicts = Verdicts(settings, reporter, store, adapters, self._log)
        self._owed = OwedReports(store, self._verdicts, self.recorder, self._work, adapters, self._log)
        self._delivering = 0
        self._accepting = 0
        self._timer: Any = None
        self._started = False
        self._fresh = 0

    # Life

    async def start(self) -> None:
        """Open the store and go on where the last process stopped. :raises StoreError: it can't be had, whatever happens."""
        await self.store.open()
        self._started = True
        self.recorder.stopping = False
        self._housekeeping.start()
        try:
            self.hear(await self.store.destinations())
        except Unavailable as error:  # a database that is not there yet
            self.recorder.pause(error)

    def adopt(self, owner: object, settings: QueueSettings, find_target: Callable[[str], Any], reporter: Reporter) -> None:
        """A reload: what is begun from now on is done as the new configuration says. ``owner`` is who may `stop` it."""
        self._owner = owner
        self._verdicts.settings = settings
        self._verdicts.reporter = reporter
        self.destinations.each = settings.each
        self.destinations.limit(settings.rate, self._now())
        self.find_target = find_target

    def is_owned_by(self, owner: object) -> bool:
        return self._owner is owner

    async def stop(self) -> None:
        """Start nothing new; wait for what is on the wire; close the store."""
        self._started = False
        self.recorder.stopping = True
        self._housekeeping.stop()
        self._owed.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.put_back_fresh()
        await self._work.finished(PATIENCE)  # beyond it stays in the store, with its intent, for the next process
        await self.store.close()

    @property
    def paused(self) -> str:
        """Why nothing is delivered at present, or ""."""
        return self.recorder.paused

    @property
    def settings(self) -> QueueSettings:
        return self._verdicts.settings

    @property
    def reporter(self) -> Reporter:
        return self._verdicts.reporter

    @property
    def delivered(self) -> int:
        return self._verdicts.delivered

    @property
    def failed(self) -> int:
        return self._verdicts.failed

    @property
    def in_flight(self) -> int:
        return self._delivering

    def destination_of(self, target: str, address: Address) -> str:
        """What a recipient of that target shares back-off and concurrency with."""
        found = self.find_target(target)
        shared = getattr(found, "queue_destination", None)
        return shared(address) if shared is not None else f"&{target}"

    # Accepting

    async def accept(self, drafts: Sequence[Draft]) -> tuple[Entry, ...]:
        """Durable when it returns, and on its way. :raises StoreError: nothing was kept."""
        intended = self._begins(drafts)
        self._accepting += 1
        try:
            entries: tuple[Entry, ...] = await self.recorder.ask(self.store.accept(drafts, intended=intended))
        finally:
            self._accepting -= 1
        for entry, draft in zip(entries, drafts, strict=True):
            self.let_go(entry, draft.message, intended)
        return entries

    def _begins(self, drafts: Sequence[Draft]) -> Sequence[str]:
        """The destinations to which these are delivered as soon as they are accepted: their intent is written with them."""
        now = self._adapters.wall_time()
        found: list[str] = []
        for draft in drafts:
            if draft.message.body.data is None:
                return ()
            for row in draft.recipients:
                name = row.destination
                if name in found:
                    continue
                if row.due > now or not self._may_keep_fresh(name, draft.message):
                    return ()
                if self.destinations.waiting_fresh(name) + self._accepting < AHEAD:
                    found.append(name)
        return found

    async def prepare(self, drafts: Sequence[Draft]) -> tuple[Entry, ...]:
        """Durable, but nobody's to deliver until `commit`. :raises StoreError: nothing was kept."""
        prepared: tuple[Entry, ...] = await self.recorder.ask(self.store.accept(drafts, prepared=True))
        return prepared

    async def commit(self, entries: Sequence[Entry], messages: Sequence[Message]) -> None:
        """:raises StoreError: they stay prepared, and are forgotten at the next start unless `abort` does it now."""
        await self.recorder.ask(self.store.commit([entry.id for entry in entries]))
        for entry, message in zip(entries, messages, strict=True):
            self.let_go(entry, message)

    async def abort(self, entries: Sequence[Entry]) -> None:
        await self.store.abort([entry.id for entry in entries])

    async def resolve(self, entry: Entry, results: Sequence[Settled]) -> None:
        """Commit a prepared entry with what became of each of its recipients meanwhile (`on_split queue`)."""
        await self.recorder.ask(self.store.settle(Lease(entry, entry.recipients), results))
        for result in results:
            if result.row is not None and result.row.standing is Standing.WAITING:
                self.destinations.waits(result.row.destination, result.row.due)
        self._serve()
        self._owed.make()

    async def keep_rest(self, entry: Entry, replies: Sequence[Reply]) -> None:
        """Commit a prepared entry whose recipients were tried meanwhile, with what each of them heard."""
        waiting = tuple(replace(row, standing=Standing.WAITING) for row in entry.recipients)
        # What was taken at once is for the listener to report: it has heard who took it.
        outcomes = [replace(outcome_of(reply), reports_itself=True) for reply in replies]
        results, _ = await self._verdicts.judge(entry, waiting, outcomes)
        await self.resolve(entry, results)

    def let_go(self, entry: Entry, message: Message, intended: Sequence[str] = ()) -> None:
        """Deliver a fresh entry: at once where that is possible, else when its turn comes. To those ``intended`` it is known."""
        now = self._adapters.wall_time()
        for name in dict.fromkeys([row.destination for row in entry.recipients]):
            due = min([row.due for row in entry.recipients if row.destination == name])
            may = due <= now and self._may_keep_fresh(name, message)
            if not may and name not in intended:
                self.destinations.waits(name, due)
                continue
            lease = self.store.take(entry, name, intended=name in intended)
            if not may:  # the destination went down meanwhile, or the store did
                self.store.drop(lease)
                self.destinations.waits(name, due)
                continue
            message.body.hold()
            self._fresh += message.size
            self.destinations.wait_fresh(name, (lease, message), entry.priority)
        self._serve()

    def _may_keep_fresh(self, name: str, message: Message) -> bool:
        return (
            self._started
            and not self.recorder.paused
            and self._fresh + message.size <= FRESH_LIMIT
            and not self.destinations.is_down(name)
        )

    def _forget_fresh(self, name: str) -> None:
        """Those that wait in memory wait in the store instead: the destination is down, or the queue stops."""
        destination = self.destinations[name]
        while destination.fresh:
            lease, message = destination.fresh.popleft()
            self._fresh -= message.size
            message.body.release()
            self.store.drop(lease)
            self.destinations.waits(name, min(row.due for row in lease.recipients))

    def put_back_fresh(self) -> None:
        """Everybody who waits in memory: an operator changes the store."""
        for destination in self.destinations.report():
            self._forget_fresh(destination.name)

    # Serving

    def hear(self, waiting: Sequence[tuple[str, float]]) -> None:
        """Whom the store has waiting: it is well again, or another node or an operator put them there."""
        for name, due in waiting:
            self.destinations.waits(name, due)
        self._serve()
        self._owed.make()

    def hear_of(self, waiting: Sequence[tuple[str, float]] | None) -> None:
        """Another node has left somebody for us; None: it may have."""
        if waiting is None:
            self.wake()
        elif self._started:
            self.hear(waiting)

    def try_now(self, names: Iterable[str]) -> None:
        """An operator wants these destinations tried, whatever their back-off says: one delivery, if they are down."""
        for name in names:
            self.destinations[name].not_before = 0.0

    def wake(self) -> None:
        """An operator changed something: look again."""
        self._work.own(self._refresh())

    async def _refresh(self) -> None:
        try:
            self.hear(await self.store.destinations())
        except StoreError as error:
            self.recorder.pause(error)

    def _serve(self) -> None:
        """Begin what can begin now, and set the clock for what can't."""
        if not self._started or self.recorder.paused:
            return
        now = self._adapters.wall_time()
        while self._delivering < self.settings.concurrency:
            destination = self.destinations.next(now)
            if destination is None:
                break
            if self.destinations.takes_fresh(destination, now):
                lease, message = destination.fresh.popleft()
                self._begin(lease, destination.name, message)
                self.destinations.again(destination, now)
                continue
            destination.searching = True
            room = min(self.destinations.room(destination, now), self.settings.concurrency - self._delivering)
            self._work.own(self._search(destination, now, room))
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        if self._delivering >= self.settings.concurrency:
            return  # whoever is done serves the next
        delay = min(max(self.destinations.wake_at() - now, 0.001), LOOK_AGAIN)
        if self._timer is not None:
            if self._timer.getTime() - self._adapters.reactor.seconds() <= delay:
                return
            self._timer.cancel()
        self._timer = self._adapters.reactor.callLater(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._serve()

    async def _search(self, destination: Destination, now: float, room: int) -> None:
        """Ask the store for those who are due at one destination."""
        before = destination.due
        destination.due = NEVER  # whoever comes meanwhile lowers it
        try:
            leases, following = await self.store.lease(destination.name, now, room)
        except StoreError as error:
            destination.searching = False
            destination.due = min(destination.due, before)
            self.recorder.pause(error)
            return
        destination.searching = False
        for lease in leases:
            self._begin(lease, destination.name, None)
        self.destinations.served(destination, min(destination.due, following))
        self.destinations.again(destination, self._now())
        self._serve()

    def _begin(self, lease: Lease, name: str, message: Message | None) -> None:
        self._delivering += 1
        self.destinations.started(name, self._now())
        self._work.own(self._deliver(lease, name, message))

    # One delivery

    async def _deliver(self, lease: Lease, name: str, message: Message | None) -> None:
        fresh = message.size if message is not None else 0
        try:
            await self._attempt(lease, name, message)
        finally:
            self._fresh -= fresh
            if message is not None:
                message.body.release()
            self._delivering -= 1
            self.destinations.ended(name, self._adapters.wall_time())
            self._serve()

    async def _attempt(self, lease: Lease, name: str, message: Message | None) -> None:
        entry = lease.entry
        target = self.find_target(entry.target)
        if target is None:
            await self._hold(lease, f"there is no target `{entry.target}` any more")
            return
        read = None
        try:
            if message is None:
                message = read = await self.store.message(entry)
            expire = (await self._verdicts.plan(entry, lease.recipients[0])).expire
            outcomes = await try_lease(self.store, lease, message, target, expire, self._adapters, self._log)
        except Damaged:
            return  # the store has set it aside, and said so
        except LeaseLost as error:
            self._log.warn(Event.QUEUE_LEASE_LOST, queue=self.settings.name, message=entry.message_id, error=str(error))
            self.store.drop(lease)
            return
        except StoreError as error:
            self.store.drop(lease)
            self.destinations.waits(name, self._adapters.wall_time())
            self.recorder.pause(error)
            return
        finally:
            if read is not None:
                read.body.release()
        await self._record(lease, name, outcomes)

    async def _hold(self, lease: Lease, reason: str) -> None:
        held = [replace(row, standing=Standing.HELD, reason=reason) for row in lease.recipients]
        self._log.error(Event.QUEUE_HELD, queue=self.settings.name, message=lease.entry.message_id, reason=reason)
        await self.recorder.settle(lease, [Settled(row.number, row, f"held: {reason}") for row in held])

    async def _record(self, lease: Lease, name: str, outcomes: Sequence[Outcome]) -> None:
        """Judge what was heard, write it down, and draw the conclusions."""
        results, now = await self._verdicts.judge(lease.entry, lease.recipients, outcomes)
        self._judge_destination(name, outcomes, results, now)
        await self.recorder.settle(lease, results)
        for result in results:
            if result.row is not None and result.row.standing is Standing.WAITING:
                self.destinations.waits(result.row.destination, result.row.due)
        if any(result.row is not None and result.row.standing is Standing.OWED for result in results):
            self._owed.make()

    async def _tell_the_line(self, name: str, last: LastTry, now: float) -> None:
        """A destination could not be reached: those who wait there for too long hear of it, though nobody tried for them."""
        after = 0
        while self._started and not self.recorder.paused:
            leases = await self.store.overdue(name, now - self.settings.quiet, after, LINE)
            if not leases:
                return
            for lease in leases:
                after = lease.entry.id
                asked = [await self._verdicts.unasked(lease.entry, row, last, now) for row in lease.recipients]
                results = [result for result in asked if result is not None]
                if results:
                    await self.recorder.settle(lease, results)
                self.store.drop(lease)
                self.destinations.waits(name, min(row.due for row in lease.recipients))  # a search meanwhile has passed it over
            self._owed.make()

    def _judge_destination(self, name: str, outcomes: Sequence[Outcome], results: list[Settled], now: float) -> None:
        """Whether the way there is at fault; then all who wait for it wait together, and this entry with them."""
        blamed = next((outcome for outcome in outcomes if outcome.blames_the_way), None)
        if blamed is None:
            if any(outcome.heard for outcome in outcomes):
                self.destinations.succeeded(name, now)
            return
        reason = blamed.reply.text
        was_down = self.destinations[name].is_down
        until = self.destinations.failed(name, now, reason)
        self._forget_fresh(name)
        self._work.own(self._tell_the_line(name, blamed.last(now), now))
        if not was_down:
            self._log.warn(
                Event.QUEUE_DESTINATION_DOWN, queue=self.settings.name, destination=name, reason=reason, retry_in=until - now
            )

    def _now(self) -> float:
        return self._adapters.wall_time()
