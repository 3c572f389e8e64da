"""The reports that are owed: made one after another when they are due, settled when they were accepted.

That somebody is owed a report stands in the store before it is made, so none is lost, and a restart forgets nothing of this:

- Accepted, or refused for good (one log line then): that was it.
- Refused for now: it is due again by the steps of the queue's ``retry``, as a message would be (`schedule.judge_report`).
- Refused for now as long as ``expire``: an error in the log names the message and who was not told what, and the recipients are
  HELD until an operator releases them, which makes the report again, or removes them. They are never delivered again.
"""

from __future__ import annotations

from random import Random
from typing import Any

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.queue.entry import Fate, Lease, Settled, Standing
from mailgate.queue.recorder import Recorder
from mailgate.queue.reports import ACTIONS
from mailgate.queue.schedule import judge_report
from mailgate.queue.store import Damaged, StoreError
from mailgate.queue.verdicts import Verdicts
from mailgate.queue.work import Work
from mailgate.smtp.reply import Reply

ROUND = 100
"""Entries whose reports are made in one round."""
LOOK_AGAIN = 60.0
"""Seconds after which the clock on the wall is looked at in any case while a report waits: it may have been set."""


class OwedReports:
    """Of one queue. ``verdicts`` has the settings and the reporter of the configuration of now."""

    def __init__(self, store: Any, verdicts: Verdicts, recorder: Recorder, work: Work, adapters: Adapters, log: EventLog) -> None:
        self._store = store
        self._verdicts = verdicts
        self._recorder = recorder
        self._work = work
        self._adapters = adapters
        self._log = log
        self._busy = False
        self._again = False
        self._timer: Any = None

    @property
    def _may_go_on(self) -> bool:
        return not (self._recorder.stopping or self._recorder.paused)

    def make(self) -> None:
        """Make those that are due."""
        if self._busy:
            self._again = True
        elif self._may_go_on:
            self._busy = True
            self._work.own(self._make_all())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _make_all(self) -> None:
        leases: list[Lease] = []
        try:
            while self._may_go_on:
                self._again = False
                now = self._adapters.wall_time()
                leases, following = await self._store.owed(now, ROUND)
                if not leases and not self._again:
                    self._wait(following - now)
                    return
                while leases:
                    await self._make(leases[0])
                    del leases[0]
        except StoreError as error:
            self._recorder.pause(error)
        finally:
            for lease in leases:
                self._store.drop(lease)
            self._busy = False

    def _wait(self, seconds: float) -> None:
        """For the next that is due."""
        self.stop()
        if seconds < float("inf") and self._may_go_on:
            self._timer = self._adapters.reactor.callLater(min(max(seconds, 1.0), LOOK_AGAIN), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.make()

    async def _make(self, lease: Lease) -> None:
        """One message about all recipients of an entry whose fate is sealed."""
        entry = lease.entry
        try:
            reply = await self._verdicts.reporter.report(entry, lease.recipients, self._store)
        except Damaged:
            return  # the store has set it aside, and said so
        if not (reply.is_success or reply.is_permanent):
            await self._recorder.settle(lease, await self._put_off(lease, reply))
            return
        if reply.is_permanent:
            self._log.warn(
                Event.UNDELIVERABLE,
                message=entry.message_id,
                to=f"<{entry.sender}>",
                reason="its report was refused",
                reply=reply,
            )
        await self._recorder.settle(lease, [Settled(row.number, None) for row in lease.recipients])

    async def _put_off(self, lease: Lease, reply: Reply) -> list[Settled]:
        """What becomes of a report that was refused for now: those who go into it together are due together."""
        entry, now = lease.entry, self._adapters.wall_time()
        luck = self._adapters.random.getrandbits(32)
        results = []
        for row in lease.recipients:
            plan = await self._verdicts.configured(entry, row)
            kept = judge_report(row, reply, plan, now=now, chance=Random(luck))
            what = "held, its report" if kept.standing is Standing.HELD else "its report"
            results.append(Settled(row.number, kept, f"<{row.address}> {what} was refused: {reply}"))
        self._tell_of_held(lease, [one for one in results if one.row is not None and one.row.standing is Standing.HELD], reply)
        return results

    def _tell_of_held(self, lease: Lease, held: list[Settled], reply: Reply) -> None:
        rows = [one.row for one in held if one.row is not None]
        if not rows:
            return
        self._log.error(
            Event.REPORT_HELD,
            queue=self._verdicts.settings.name,
            entry=lease.entry.id,
            message=lease.entry.message_id,
            to=f"<{lease.entry.sender}>",
            lost=", ".join(f"<{row.address}> {ACTIONS[row.fate or Fate.FAILED]}" for row in rows),
            reports=max(row.reports for row in rows),
            reply=reply,
        )
