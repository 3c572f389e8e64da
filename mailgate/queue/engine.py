"""The running queue: accepts, schedules, delivers, records, reports.

One `Queue` is one `target.queue`. What it does with an entry:

    accept  →  store, durable  →  250  →  [due]  →  lease  →  attempt (attempt.py)  →  settle  →  gone, or due again, or a report

- A fresh entry whose destination is up goes out at once, from memory; everything else comes from the store when it is due.
- What an attempt made of each recipient is recorded before anything else happens with it. While the store can't record, nothing
  new is tried: a delivery that nobody can note down would be made again.
- Reports (reports.py) are owed durably before they are made, so none is lost, and settled when they were accepted.
- `stop` lets what is on the wire come to its answer; what waits stays in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.message.message import Message
from mailgate.net.waiting import spawn
from mailgate.queue.attempt import Outcome, outcome_of, try_lease
from mailgate.queue.destinations import NEVER, Destination, Destinations
from mailgate.queue.entry import Draft, Entry, Fate, LastTry, Lease, Settled, Standing, Waiting
from mailgate.queue.housekeeping import Housekeeping
from mailgate.queue.reports import Reporter
from mailgate.queue.schedule import NOTIFY, Plan, Verdict, concerns_destination, judge, judge_unasked
from mailgate.queue.store import Damaged, LeaseLost, StoreError, Unavailable
from mailgate.smtp.address import Address
from mailgate.smtp.reply import Reply

LOOK_AGAIN = 60.0
"""Seconds after which the clock on the wall is looked at in any case: it may have been set."""
STORE_RETRY = 5.0
"""Seconds between two tries to record, while the store can't."""
PATIENCE = 60.0
"""Seconds that deliveries under way have to come to their answers when the queue stops."""
FRESH_LIMIT = 64 << 20
"""Octets of content of fresh entries that may be held in memory for their first attempt; beyond it they are read again."""
LINE = 100
"""Entries looked at together when a destination is down and those who wait for it may have waited too long."""


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Of one queue. ``plan(row, entry)`` gives the schedule as it is for this recipient now; it may be awaitable, and raises what
    dynamic settings raise."""

    name: str
    concurrency: int = 200
    each: int = 20
    """Deliveries at once to one destination."""
    plan: Callable[[Entry, Waiting], Any] = field(default=lambda entry, row: Plan())
    quiet: float = NOTIFY[0]
    """The least age at which `plan` may have somebody told of a delay, or given up."""


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
        self.settings = settings
        self.store = store
        self.destinations = Destinations(adapters.random, settings.each)
        self.find_target = find_target
        self.reporter = reporter
        self._adapters = adapters
        self._log = log or EventLog("mailgate.queue")
        self._housekeeping = Housekeeping(store, adapters, self._log)
        self._owner: object = None
        self._running: set[Deferred[None]] = set()
        self._delivering = 0
        self._timer: Any = None
        self._started = False
        self._paused = ""
        self._fresh = 0
        self._reporting = False
        self._report_again = False
        self.delivered = 0
        self.failed = 0

    # Life

    async def start(self) -> None:
        """Open the store and go on where the last process stopped. :raises StoreError: it can't be had."""
        await self.store.open()
        for name, due in await self.store.destinations():
            self.destinations.waits(name, due)
        self._started = True
        self._housekeeping.start()
        self._serve()
        self._report()

    def adopt(self, owner: object, settings: QueueSettings, find_target: Callable[[str], Any], reporter: Reporter) -> None:
        """A reload: what is begun from now on is done as the new configuration says. ``owner`` is who may `stop` it."""
        self._owner = owner
        self.settings = settings
        self.destinations.each = settings.each
        self.find_target = find_target
        self.reporter = reporter

    def is_owned_by(self, owner: object) -> bool:
        return self._owner is owner

    async def stop(self) -> None:
        """Start nothing new; wait for what is on the wire; close the store."""
        self._started = False
        self._housekeeping.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.put_back_fresh()
        late = self._adapters.reactor.callLater(PATIENCE, self._give_up_waiting)
        while self._running:
            await DeferredList(list(self._running), consumeErrors=True)
        if late.active():
            late.cancel()
        await self.store.close()

    def _give_up_waiting(self) -> None:
        """What is on the wire takes too long: it stays in the store, with its intent, and is tried by the next process."""
        for running in list(self._running):
            running.cancel()

    @property
    def paused(self) -> str:
        """Why nothing is delivered at present, or ""."""
        return self._paused

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
        entries: tuple[Entry, ...] = await self._ask(self.store.accept(drafts))
        for entry, draft in zip(entries, drafts, strict=True):
            self.let_go(entry, draft.message)
        return entries

    async def prepare(self, drafts: Sequence[Draft]) -> tuple[Entry, ...]:
        """Durable, but nobody's to deliver until `commit`. :raises StoreError: nothing was kept."""
        prepared: tuple[Entry, ...] = await self._ask(self.store.accept(drafts, prepared=True))
        return prepared

    async def commit(self, entries: Sequence[Entry], messages: Sequence[Message]) -> None:
        """:raises StoreError: they stay prepared, and are forgotten at the next start unless `abort` does it now."""
        await self._ask(self.store.commit([entry.id for entry in entries]))
        for entry, message in zip(entries, messages, strict=True):
            self.let_go(entry, message)

    async def _ask(self, work: Any) -> Any:
        """What a client waits for. A store that fails him must be tried again, though nothing is being delivered."""
        try:
            return await work
        except Unavailable as error:
            self._pause(error)
            raise

    async def abort(self, entries: Sequence[Entry]) -> None:
        await self.store.abort([entry.id for entry in entries])

    async def resolve(self, entry: Entry, results: Sequence[Settled]) -> None:
        """Commit a prepared entry with what became of each of its recipients meanwhile (`on_split queue`)."""
        await self._ask(self.store.settle(Lease(entry, entry.recipients), results))
        for result in results:
            if result.row is not None and result.row.standing is Standing.WAITING:
                self.destinations.waits(result.row.destination, result.row.due)
        self._serve()
        self._report()

    async def keep_rest(self, entry: Entry, replies: Sequence[Reply]) -> None:
        """Commit a prepared entry whose recipients were tried meanwhile, with what each of them heard."""
        waiting = tuple(replace(row, standing=Standing.WAITING) for row in entry.recipients)
        outcomes = [outcome_of(reply) for reply in replies]
        results, _ = await self._judge(entry, waiting, outcomes)
        await self.resolve(entry, results)

    def let_go(self, entry: Entry, message: Message) -> None:
        """Deliver a fresh entry: at once where that is possible, else when its turn comes."""
        now = self._adapters.wall_time()
        for name in dict.fromkeys(row.destination for row in entry.recipients):
            due = min(row.due for row in entry.recipients if row.destination == name)
            if due > now or not self._may_keep_fresh(name, message):
                self.destinations.waits(name, due)
                continue
            message.body.hold()
            self._fresh += message.size
            self.destinations.wait_fresh(name, (self.store.take(entry, name), message))
        self._serve()

    def _may_keep_fresh(self, name: str, message: Message) -> bool:
        return (
            self._started
            and not self._paused
            and self._fresh + message.size <= FRESH_LIMIT
            and not self.destinations[name].is_down
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

    def try_now(self, names: Iterable[str]) -> None:
        """An operator wants these destinations tried, whatever their back-off says: one delivery, if they are down."""
        for name in names:
            self.destinations[name].not_before = 0.0

    def wake(self) -> None:
        """An operator changed something: look again."""
        self._own(self._refresh())

    async def _refresh(self) -> None:
        for name, due in await self.store.destinations():
            self.destinations.waits(name, due)
        self._serve()
        self._report()

    def _serve(self) -> None:
        """Begin what can begin now, and set the clock for what can't."""
        if not self._started or self._paused:
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
            room = min(self.destinations.room(destination), self.settings.concurrency - self._delivering)
            self._own(self._search(destination, now, room))
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
            self._pause(error)
            return
        destination.searching = False
        for lease in leases:
            self._begin(lease, destination.name, None)
        self.destinations.served(destination, min(destination.due, following))
        self.destinations.again(destination, self._now())
        self._serve()

    def _begin(self, lease: Lease, name: str, message: Message | None) -> None:
        self._delivering += 1
        self.destinations.started(name)
        self._own(self._deliver(lease, name, message))

    def _own(self, work: Any) -> None:
        """Nobody awaits this: what it raises is our own bug, and goes to the log."""
        running = spawn(work)
        if running.called:
            running.addErrback(self._bug)
            return
        self._running.add(running)

        def over(result: Any) -> None:
            self._running.discard(running)
            if result is not None and hasattr(result, "check"):
                self._bug(result)

        running.addBoth(over)

    def _bug(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self._log.incident(f"{self._adapters.random.getrandbits(32):08x}", failure.value, queue=self.settings.name)

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
            expire = (await self._plan(entry, lease.recipients[0])).expire
            outcomes = await try_lease(self.store, lease, message, target, expire, self._adapters, self._log)
        except Damaged:
            return  # the store has set it aside, and said so
        except StoreError as error:
            self.store.drop(lease)
            self.destinations.waits(name, self._adapters.wall_time())
            self._pause(error)
            return
        finally:
            if read is not None:
                read.body.release()
        await self._record(lease, name, outcomes)

    async def _hold(self, lease: Lease, reason: str) -> None:
        held = [replace(row, standing=Standing.HELD, reason=reason) for row in lease.recipients]
        self._log.error(Event.QUEUE_HELD, queue=self.settings.name, message=lease.entry.message_id, reason=reason)
        await self._settle(lease, [Settled(row.number, row, f"held: {reason}") for row in held])

    async def _record(self, lease: Lease, name: str, outcomes: Sequence[Outcome]) -> None:
        """Judge what was heard, write it down, and draw the conclusions."""
        results, now = await self._judge(lease.entry, lease.recipients, outcomes)
        self._judge_destination(name, outcomes, results, now)
        await self._settle(lease, results)
        for result in results:
            if result.row is not None and result.row.standing is Standing.WAITING:
                self.destinations.waits(result.row.destination, result.row.due)
        if any(result.row is not None and result.row.standing is Standing.OWED for result in results):
            self._report()

    async def _judge(self, entry: Entry, rows: Sequence[Waiting], outcomes: Sequence[Outcome]) -> tuple[list[Settled], float]:
        now = self._adapters.wall_time()
        results: list[Settled] = []
        for row, outcome in zip(rows, outcomes, strict=True):
            plan = await self._plan(entry, row)
            verdict = judge(
                row,
                outcome.reply,
                plan,
                arrived=entry.arrived,
                now=now,
                chance=self._adapters.random,
                way=outcome.way,
                remote=outcome.remote,
            )
            results.append(await self._conclude(entry, row, outcome, verdict))
        return results, now

    async def _plan(self, entry: Entry, row: Waiting) -> Plan:
        try:
            plan = self.settings.plan(entry, row)
            return plan if isinstance(plan, Plan) else await plan
        except CancelledError:
            raise
        except Exception as error:  # a lookup that failed: the schedule of the book holds
            self._log.warn(Event.QUEUE_SCHEDULE, queue=self.settings.name, message=entry.message_id, error=str(error))
            return Plan()

    async def _conclude(self, entry: Entry, row: Waiting, outcome: Outcome, verdict: Verdict) -> Settled:
        """The row to keep, with the log line and the report of delay that belong to it."""
        to = f"<{row.address}>"
        note = f"{to} {outcome.reply}{outcome.way}"
        if verdict.row is None:
            self.delivered += 1
            fate = outcome.fate or Fate.RELAYED
            if self.reporter.wants(entry, row, fate) and not outcome.reports_itself:
                return Settled(row.number, replace(row, standing=Standing.OWED, fate=fate, last=outcome.last(self._now())), note)
            return Settled(row.number, None, note)
        kept = replace(verdict.row, in_doubt=row.in_doubt or outcome.unknown)
        if verdict.fate is not None:
            self.failed += 1
            reason = "expired" if verdict.expired else "refused"
            if self.reporter.wants(entry, row, verdict.fate):
                return Settled(row.number, kept, f"{reason}: {note}")
            self._log.warn(Event.UNDELIVERABLE, message=entry.message_id, to=to, reason=reason, reply=outcome.reply)
            return Settled(row.number, None, note)
        if verdict.notify and self.reporter.wants_delay(entry, row) and await self.reporter.delayed(entry, kept, self.store):
            kept = replace(kept, notified=row.notified + 1)
        self._log.info(
            Event.QUEUE_RETRY,
            message=entry.message_id,
            queue=self.settings.name,
            to=to,
            reply=outcome.reply,
            kind=verdict.kind.value if verdict.kind is not None else "",
            retry=kept.retries,
            retry_in=max(kept.due - self._now(), 0.0),
        )
        return Settled(row.number, kept, note)

    async def _tell_the_line(self, name: str, last: LastTry, now: float) -> None:
        """A destination could not be reached: those who wait there for too long hear of it, though nobody tried for them."""
        after = 0
        while self._started and not self._paused:
            leases = await self.store.overdue(name, now - self.settings.quiet, after, LINE)
            if not leases:
                return
            for lease in leases:
                after = lease.entry.id
                results = [result for row in lease.recipients if (result := await self._unasked(lease.entry, row, last, now))]
                if results:
                    await self._settle(lease, results)
                self.store.drop(lease)
                self.destinations.waits(name, min(row.due for row in lease.recipients))  # a search meanwhile has passed it over
            self._report()

    async def _unasked(self, entry: Entry, row: Waiting, last: LastTry, now: float) -> Settled | None:
        verdict = judge_unasked(row, last, await self._plan(entry, row), arrived=entry.arrived, now=now)
        if verdict is None or verdict.row is None:
            return None
        reply = Reply(last.code or 451, last.status, last.text)
        return await self._conclude(entry, row, Outcome(reply, remote=last.remote), verdict)

    def _judge_destination(self, name: str, outcomes: Sequence[Outcome], results: list[Settled], now: float) -> None:
        """Whether the way there is at fault; then all who wait for it wait together, and this entry with them."""
        kinds = [outcome.kind for outcome in outcomes]
        blamed = next((kind for kind in kinds if kind is not None and concerns_destination(kind)), None)
        if blamed is None:
            if any(outcome.heard for outcome in outcomes):
                self.destinations.succeeded(name, now)
            return
        reason = next(outcome.reply.text for outcome in outcomes if outcome.kind is blamed)
        was_down = self.destinations[name].is_down
        until = self.destinations.failed(name, now, reason)
        self._forget_fresh(name)
        last = next(outcome.last(now) for outcome in outcomes if outcome.kind is blamed)
        self._own(self._tell_the_line(name, last, now))
        if not was_down:
            self._log.warn(
                Event.QUEUE_DESTINATION_DOWN, queue=self.settings.name, destination=name, reason=reason, retry_in=until - now
            )

    def _now(self) -> float:
        return self._adapters.wall_time()

    # Recording

    async def _settle(self, lease: Lease, results: Sequence[Settled]) -> None:
        """Until it is done: what was delivered must not be delivered again. While it can't be done, nothing new is begun."""
        while True:
            try:
                await self.store.settle(lease, results)
                return
            except LeaseLost as error:
                self._log.error(Event.QUEUE_STORE, queue=self.settings.name, message=lease.entry.message_id, error=str(error))
                return
            except StoreError as error:
                if not self._started:
                    self._log.error(
                        Event.POSSIBLE_DUPLICATE,
                        message=lease.entry.message_id,
                        target=lease.entry.target,
                        recipients=", ".join(f"<{row.address}>" for row in lease.recipients),
                        reason=f"stopping, and the result can't be recorded: {error}",
                    )
                    return
                self._pause(error)
            await self._sleep(STORE_RETRY)
            await self._try_store()

    def _pause(self, error: BaseException) -> None:
        """The store does not do its part: stop delivering until it does."""
        if not self._paused:
            self._paused = str(error) or type(error).__name__
            self._log.error(Event.QUEUE_STORE, queue=self.settings.name, error=self._paused)
            self._own(self._recover())

    async def _recover(self) -> None:
        while self._paused and self._started:
            await self._sleep(STORE_RETRY)
            await self._try_store()

    async def _try_store(self) -> None:
        if not self._paused:
            return
        try:
            await self.store.reopen()
            due = await self.store.destinations()
        except StoreError:
            return
        self._paused = ""
        self._log.info(Event.QUEUE_STORE, queue=self.settings.name, error="recovered")
        for name, at in due:
            self.destinations.waits(name, at)
        self._serve()
        self._report()

    async def _sleep(self, seconds: float) -> None:
        waiting: Deferred[None] = Deferred()
        call = self._adapters.reactor.callLater(seconds, waiting.callback, None)
        try:
            await waiting
        except CancelledError:
            if call.active():
                call.cancel()
            raise

    # Reports

    def _report(self) -> None:
        """Make the reports that are owed, one round at a time."""
        if self._reporting:
            self._report_again = True
        elif self._started and not self._paused:
            self._reporting = True
            self._own(self._make_reports())

    async def _make_reports(self) -> None:
        leases: list[Lease] = []
        try:
            while self._started and not self._paused:
                self._report_again = False
                leases = await self.store.owed(100)
                if not leases and not self._report_again:
                    return
                while leases:
                    await self._make_report(leases[0])
                    del leases[0]
        except StoreError as error:
            self._pause(error)
        finally:
            for lease in leases:
                self.store.drop(lease)
            self._reporting = False

    async def _make_report(self, lease: Lease) -> None:
        """One message about all recipients of an entry whose fate is sealed."""
        entry = lease.entry
        try:
            reply = await self.reporter.report(entry, lease.recipients, self.store)
        except Damaged:
            return  # the store has set it aside, and said so
        if reply.is_success:
            await self._settle(lease, [Settled(row.number, None) for row in lease.recipients])
            return
        if reply.is_permanent:
            self._log.warn(
                Event.UNDELIVERABLE,
                message=entry.message_id,
                to=f"<{entry.sender}>",
                reason="its report was refused",
                reply=reply,
            )
            await self._settle(lease, [Settled(row.number, None) for row in lease.recipients])
            return
        self._adapters.reactor.callLater(STORE_RETRY * 12, self._give_back, lease)

    def _give_back(self, lease: Lease) -> None:
        self.store.drop(lease)
        self._report()
