"""Counts of TLS, and the daily reports made of them: the life of one `tls_report`, over reloads.

Each domain's day is looked at when it is over: its ``_smtp._tls`` record says where reports go, to each place in turn until one
takes it. Who publishes none is forgotten; where nobody could be reached, or asked for, it is tried again until the day after the
next. When, and how often: daily_reports.py.

The counts go to disk every `FLUSH` seconds and at the end.
"""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from twisted.internet.defer import Deferred

from mailgate.adapters import Adapters
from mailgate.dns.answer import Status
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import texts
from mailgate.events import Event, EventLog
from mailgate.net.waiting import spawn
from mailgate.outbound.daily_reports import AGAIN, DailyReporter, day_of, end_of, several_at_once
from mailgate.outbound.report_mail import Author, as_message
from mailgate.outbound.tls_counts import FLUSH, CountFile, Day, TlsCounts
from mailgate.outbound.tls_report import MailPlace, WebPlace, compose, places_of
from mailgate.outbound.tls_report_mail import letter
from mailgate.smtp.address import Address


@dataclass(frozen=True, slots=True)
class Ways:
    """How reports leave. ``post(place, packed)`` awaits why it was not taken ("" if it was), ``mail(to, message)`` likewise; None
    where no way for mail is configured."""

    author: Author
    sender: str
    post: Callable[[WebPlace, bytes], Awaitable[str]]
    mail: Callable[[Address, bytes], Awaitable[str]] | None


class TlsReporter(DailyReporter[Ways]):
    """See the module's docstring."""

    title = "tls_report"

    def __init__(self, file: CountFile, adapters: Adapters, log: EventLog) -> None:
        super().__init__(adapters, log)
        self.counts = TlsCounts(adapters.wall_time)
        self._file = file
        self._writing: Deferred[Any] | None = None
        self._tried: dict[Day, float] = {}
        """When a report was tried last."""

    async def start(self) -> None:
        """:raises OSError: there can be no file."""
        self.counts.restore(await self.adapters.run_in_thread(self._file.load))
        self.later("flush", FLUSH, self._flush)
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        if self._writing is not None:
            await self._writing
        await self._write()

    # Disk

    def _flush(self) -> None:
        self.later("flush", FLUSH, self._flush)
        if self._writing is None:
            self._writing = spawn(self._write())
            self._writing.addErrback(self.incident)
            self._writing.addBoth(self._written)

    def _written(self, _: Any) -> None:
        self._writing = None

    async def _write(self) -> None:
        rows = self.counts.take_changes()
        if not rows:
            return
        try:
            await self.adapters.run_in_thread(self._file.save, rows)
        except (OSError, sqlite3.Error) as error:
            self.counts.give_back(rows)
            self.log.warn(Event.TLS_REPORT, result="not kept", reason=str(error))

    # Reports

    async def send_due(self) -> None:
        now = self.adapters.wall_time()
        today = day_of(now)
        dropped = self.counts.drop_old(today)
        if dropped:
            self.log.warn(Event.TLS_REPORT, result="given up", reason=f"{dropped} reports could not be delivered in time")
        self._tried = {key: at for key, at in self._tried.items() if key[0] >= today - timedelta(days=4)}
        await several_at_once([key for key in self.counts.before(today) if self._is_due(key, now)], self._send)

    def _is_due(self, key: Day, now: float) -> bool:
        return now >= end_of(key[0]) + self.offset and now >= self._tried.get(key, 0.0) + AGAIN

    async def _send(self, key: Day) -> None:
        self._tried[key] = self.adapters.wall_time()
        if await self._report(key):
            self.counts.forget(key)

    async def _report(self, key: Day) -> bool:
        """Whether there is no more to do about it."""
        day, domain = key
        try:
            answer = await self.adapters.resolver.txt(f"_smtp._tls.{domain}")
        except DnsFailure as failure:
            self._tell(key, "", "later", str(failure))
            return False
        places = places_of(texts(answer)) if answer.status is Status.FOUND else ()
        if not places:
            return True
        packed = gzip.compress(compose(self.ways.author, domain, day, self.counts.of(key)), mtime=0)
        possible = False
        for place in places:
            if isinstance(place, MailPlace) and self.ways.mail is None:
                continue
            possible = True
            reason = await self._deliver(place, key, packed)
            to = place.url if isinstance(place, WebPlace) else f"<{place.address}>"
            self._tell(key, to, "later" if reason else "sent", reason)
            if not reason:
                return True
        return not possible

    async def _deliver(self, place: MailPlace | WebPlace, key: Day, packed: bytes) -> str:
        ways, (day, domain) = self.ways, key
        if isinstance(place, WebPlace):
            return await ways.post(place, packed)
        assert ways.mail is not None
        now = self.adapters.wall_time()
        written = letter(ways.author, ways.sender, place.address, domain, day, packed, now, self.boundary())
        return await ways.mail(place.address, as_message(written))

    def _tell(self, key: Day, to: str, result: str, reason: str) -> None:
        self.log.info(Event.TLS_REPORT, domain=key[1], day=key[0].isoformat(), to=to, result=result, reason=reason)
