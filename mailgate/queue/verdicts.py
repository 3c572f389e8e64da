"""What an attempt means for its recipients: the row each one keeps, the line in the log, the report of delay.

`schedule` has the rules, as pure functions; here they meet the settings of the moment, the reporter and the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.queue.attempt import Outcome
from mailgate.queue.entry import Entry, Fate, LastTry, Settled, Standing, Waiting
from mailgate.queue.reports import Reporter
from mailgate.queue.schedule import NOTIFY, Plan, Verdict, as_asked, judge, judge_unasked
from mailgate.smtp.reply import Reply


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Of one queue. ``plan(row, entry)`` gives the schedule as it is for this recipient now; it may be awaitable, and raises what
    dynamic settings raise."""

    name: str
    concurrency: int = 200
    each: int = 20
    """Deliveries at once to one destination."""
    rate: tuple[int, float] | None = None
    """Deliveries to one destination in so many seconds."""
    plan: Callable[[Entry, Waiting], Any] = field(default=lambda entry, row: Plan())
    quiet: float = NOTIFY[0]
    """The least age at which `plan` may have somebody told of a delay, or given up."""


class Verdicts:
    """Of one queue; `settings` and `reporter` are replaced by a reload."""

    def __init__(self, settings: QueueSettings, reporter: Reporter, store: Any, adapters: Adapters, log: EventLog) -> None:
        self.settings = settings
        self.reporter = reporter
        self._store = store
        self._adapters = adapters
        self._log = log
        self.delivered = 0
        self.failed = 0

    async def plan(self, entry: Entry, row: Waiting) -> Plan:
        """The schedule of a recipient."""
        plan, wishes = await self.configured(entry, row), entry.parameters
        return plan if wishes.by is None and wishes.hold_for is None else as_asked(plan, wishes)

    async def configured(self, entry: Entry, row: Waiting) -> Plan:
        """The same, whatever its sender asked for."""
        try:
            found = self.settings.plan(entry, row)
            return found if isinstance(found, Plan) else await found
        except CancelledError:
            raise
        except Exception as error:  # a lookup that failed: the schedule of the book holds
            self._log.warn(Event.QUEUE_SCHEDULE, queue=self.settings.name, message=entry.message_id, error=str(error))
            return Plan()

    async def judge(self, entry: Entry, rows: Sequence[Waiting], outcomes: Sequence[Outcome]) -> tuple[list[Settled], float]:
        """What each of the rows becomes, and the time that was. Those who failed alike are due at one time: the next attempt is
        one again, for all of them."""
        now = self._adapters.wall_time()
        results: list[Settled] = []
        luck: int | None = None
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome.reply.is_success:
                results.append(self._delivered(entry, row, outcome, now))
                continue
            luck = self._adapters.random.getrandbits(32) if luck is None else luck
            plan = await self.plan(entry, row)
            verdict = judge(
                row,
                outcome.reply,
                plan,
                arrived=entry.arrived,
                now=now,
                chance=Random(luck),
                way=outcome.way,
                remote=outcome.remote,
            )
            results.append(await self._conclude(entry, row, outcome, verdict))
        return results, now

    def _delivered(self, entry: Entry, row: Waiting, outcome: Outcome, now: float) -> Settled:
        self.delivered += 1
        fate = outcome.fate or Fate.RELAYED
        if self.reporter.wants(entry, row, fate) and not outcome.reports_itself:
            owed = replace(row, standing=Standing.OWED, fate=fate, last=outcome.last(now))
            return Settled(row.number, owed, f"<{row.address}> {outcome.reply}{outcome.way}")
        if len(entry.recipients) == 1:
            return Settled(row.number, None)  # nobody will read what happened to an entry that is gone
        return Settled(row.number, None, f"<{row.address}> {outcome.reply}{outcome.way}")

    async def unasked(self, entry: Entry, row: Waiting, last: LastTry, now: float) -> Settled | None:
        """What it means for a recipient that its destination failed somebody else; None: nothing."""
        verdict = judge_unasked(row, last, await self.plan(entry, row), arrived=entry.arrived, now=now)
        if verdict is None or verdict.row is None:
            return None
        reply = Reply(last.code or 451, last.status, last.text)
        return await self._conclude(entry, row, Outcome(reply, remote=last.remote), verdict)

    async def _conclude(self, entry: Entry, row: Waiting, outcome: Outcome, verdict: Verdict) -> Settled:
        """The row to keep, with the log line and the report of delay that belong to it."""
        to = f"<{row.address}>"
        note = f"{to} {outcome.reply}{outcome.way}"
        now = self._adapters.wall_time()
        assert verdict.row is not None
        kept = replace(verdict.row, in_doubt=row.in_doubt or outcome.unknown)
        if verdict.fate is not None:
            self.failed += 1
            reason = "expired" if verdict.expired else "refused"
            if self.reporter.wants(entry, row, verdict.fate):
                return Settled(row.number, kept, f"{reason}: {note}")
            self._log.warn(Event.UNDELIVERABLE, message=entry.message_id, to=to, reason=reason, reply=outcome.reply)
            return Settled(row.number, None, note)
        if verdict.notify and self.reporter.wants_delay(entry, row):
            told = await self.reporter.delayed(entry, kept, self._store, verdict.until)
            kept = replace(kept, notified=row.notified + 1) if told else kept
        self._log.info(
            Event.QUEUE_RETRY,
            message=entry.message_id,
            queue=self.settings.name,
            to=to,
            reply=outcome.reply,
            kind=verdict.kind.value if verdict.kind is not None else "",
            retry=kept.retries,
            retry_in=max(kept.due - now, 0.0),
        )
        return Settled(row.number, kept, note)
