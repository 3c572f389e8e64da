"""Counts of TLS, and the daily reports made of them: the life of one `tls_report`, over reloads.

Shortly after midnight UTC, spread over `SPREAD` so that not all gateways report at once, each domain's day is looked at: its
``_smtp._tls`` record says where reports go, to each place in turn until one takes it. Who publishes none is forgotten; where
nobody could be reached, or asked for, it is tried again every `AGAIN` until the day after the next.

The counts go to disk every `FLUSH` seconds and at the end. Nothing of this is awaited by a message.
"""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList

from mailgate.adapters import Adapters
from mailgate.dns.answer import Status
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import texts
from mailgate.events import Event, EventLog
from mailgate.net.waiting import spawn
from mailgate.outbound.tls_counts import FLUSH, CountFile, Day, TlsCounts, day_of
from mailgate.outbound.tls_report import Author, MailPlace, WebPlace, compose, places_of
from mailgate.outbound.tls_report_mail import Letter, as_message
from mailgate.smtp.address import Address

SPREAD = 3 * 3600.0
AGAIN = 3600.0
LOOK = 300.0
"""Seconds between looks for what is due."""
AT_ONCE = 8
"""Reports on their way."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How reports leave. ``post(place, packed)`` awaits why it was not taken ("" if it was), ``mail(to, message)`` likewise; None
    where no way for mail is configured."""

    author: Author
    sender: str
    post: Callable[[WebPlace, bytes], Awaitable[str]]
    mail: Callable[[Address, bytes], Awaitable[str]] | None


class TlsReporter:
    """See the module's docstring. It works from `start` to `stop`; a reload hands it on by `adopt`."""

    def __init__(self, file: CountFile, adapters: Adapters, log: EventLog) -> None:
        self.counts = TlsCounts(adapters.wall_time)
        self._file = file
        self._adapters = adapters
        self._log = log
        self._owner: Any = None
        self._ways: Ways | None = None
        self._timers: dict[str, Any] = {}
        self._writing: Deferred[Any] | None = None
        self._sending: Deferred[Any] | None = None
        self._tried: dict[Day, float] = {}
        """When a report was tried last."""
        self._offset = adapters.random.uniform(0.0, SPREAD)

    def adopt(self, owner: Any, ways: Ways) -> None:
        """Whose it is, and how its reports leave from now on."""
        self._owner, self._ways = owner, ways

    def is_owned_by(self, owner: Any) -> bool:
        return self._owner is owner

    async def start(self) -> None:
        """:raises OSError: there can be no file."""
        self.counts.restore(await self._adapters.run_in_thread(self._file.load))
        self._later("flush", FLUSH, self._flush)
        self._later("look", LOOK, self._look)

    async def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._sending is not None:
            self._sending.cancel()
        if self._writing is not None:
            await self._writing
        await self._write()

    def _later(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._timers[name] = self._adapters.reactor.callLater(seconds, action)

    # Disk

    def _flush(self) -> None:
        self._later("flush", FLUSH, self._flush)
        if self._writing is None:
            self._writing = spawn(self._write())
            self._writing.addErrback(self._incident)
            self._writing.addBoth(self._written)

    def _written(self, _: Any) -> None:
        self._writing = None

    async def _write(self) -> None:
        rows = self.counts.take_changes()
        if not rows:
            return
        try:
            await self._adapters.run_in_thread(self._file.save, rows)
        except (OSError, sqlite3.Error) as error:
            self.counts.give_back(rows)
            self._log.warn(Event.TLS_REPORT, result="not kept", reason=str(error))

    # Reports

    def _look(self) -> None:
        self._later("look", LOOK, self._look)
        if self._sending is None:
            self._sending = spawn(self.send_due())
            self._sending.addErrback(self._incident)
            self._sending.addBoth(self._sent)

    def _sent(self, _: Any) -> None:
        self._sending = None

    async def send_due(self) -> None:
        """Every report that is due now."""
        now = self._adapters.wall_time()
        today = day_of(now)
        dropped = self.counts.drop_old(today)
        if dropped:
            self._log.warn(Event.TLS_REPORT, result="given up", reason=f"{dropped} reports could not be delivered in time")
        self._tried = {key: at for key, at in self._tried.items() if key[0] >= today - timedelta(days=4)}
        due = iter([key for key in self.counts.before(today) if self._is_due(key, now)])
        working: Any = DeferredList([spawn(self._work(due)) for _ in range(AT_ONCE)], consumeErrors=True)
        for done, result in await working:
            if not done:
                result.raiseException()

    def _is_due(self, key: Day, now: float) -> bool:
        end = datetime(key[0].year, key[0].month, key[0].day, tzinfo=UTC).timestamp() + 86400
        return now >= end + self._offset and now >= self._tried.get(key, 0.0) + AGAIN

    async def _work(self, due: Iterator[Day]) -> None:
        for key in due:
            self._tried[key] = self._adapters.wall_time()
            if await self._report(key):
                self.counts.forget(key)

    async def _report(self, key: Day) -> bool:
        """Whether there is no more to do about it."""
        day, domain = key
        try:
            answer = await self._adapters.resolver.txt(f"_smtp._tls.{domain}")
        except DnsFailure as failure:
            self._tell(key, "", "later", str(failure))
            return False
        places = places_of(texts(answer)) if answer.status is Status.FOUND else ()
        if not places:
            return True
        assert self._ways is not None
        packed = gzip.compress(compose(self._ways.author, domain, day, self.counts.of(key)), mtime=0)
        possible = False
        for place in places:
            if isinstance(place, MailPlace) and self._ways.mail is None:
                continue
            possible = True
            reason = await self._deliver(place, key, packed)
            to = place.url if isinstance(place, WebPlace) else f"<{place.address}>"
            self._tell(key, to, "later" if reason else "sent", reason)
            if not reason:
                return True
        return not possible

    async def _deliver(self, place: MailPlace | WebPlace, key: Day, packed: bytes) -> str:
        ways, chance = self._ways, self._adapters.random
        assert ways is not None
        if isinstance(place, WebPlace):
            return await ways.post(place, packed)
        assert ways.mail is not None
        boundary = f"report-{chance.getrandbits(96):024x}"
        letter = Letter(ways.author, ways.sender, place.address, key[1], key[0], packed, self._adapters.wall_time(), boundary)
        return await ways.mail(place.address, as_message(letter))

    def _tell(self, key: Day, to: str, result: str, reason: str) -> None:
        self._log.info(Event.TLS_REPORT, domain=key[1], day=key[0].isoformat(), to=to, result=result, reason=reason)

    def _incident(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self._log.incident("tls_report", failure.value)
