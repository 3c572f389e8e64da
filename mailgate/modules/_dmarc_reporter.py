"""The daily reports of DMARC (RFC 7489 7.2): the life of one `dmarc_report`, over reloads.

Each address of a domain's `rua` gets its report, once. Of several processes that share a file the first one sends, and a gateway
reports in one process only. An address that can't be reached now is tried again, each hour until the day after the next; one that
takes no message of this size, and one in another organization that does not say that it wants reports, get none.

What was sent is written down after it has gone: a crash between the two sends it again, under the same report id, by which its
readers know it. What comes to a day's rows after its report has left is in no report.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta

from twisted.internet.defer import CancelledError

from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import texts
from mailgate.events import Event
from mailgate.mailauth.dmarc import MAX_URIS
from mailgate.mailauth.dmarc_report import Head, Place, asks_elsewhere, confirmed, digest, file_name, places_of
from mailgate.modules import _dmarc_file as files
from mailgate.modules._dmarc_file import Subject, Taken
from mailgate.modules.check._suffixes import organizational_domain
from mailgate.net.waiting import DeadlineExceeded, spawn, within
from mailgate.outbound.daily_reports import AGAIN, DailyReporter, day_of, several_at_once
from mailgate.outbound.report_mail import Attachment, Author, Letter, as_message
from mailgate.smtp.address import Address

KEPT = timedelta(days=3)
"""Days that are reported at all."""
MARGIN = 900.0
"""Seconds after midnight in which the day's last rows are written."""
MOST_DUE = 1000
"""Reports that are looked for at a time."""
PATIENCE = files.LEASE / 2
"""Seconds for one address; the report is taken anew for each."""


@dataclass(frozen=True, slots=True)
class Ways:
    """``files`` have what was found; ``mail(to, message)`` awaits the reply that it was refused with, "" if it was not.
    ``hostname`` tells gateways apart that report in the same name."""

    files: Callable[[], Iterable[str]]
    author: Author
    hostname: str
    sender: str
    mail: Callable[[Address, bytes], Awaitable[str]]


class Failed(Exception):
    """It could not be delivered now, or (``for_good``) will never be."""

    def __init__(self, result: str, reason: str = "", *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.result = result
        self.for_good = for_good


class DmarcReporter(DailyReporter[Ways]):
    """See the module's docstring."""

    title = "dmarc_report"

    async def stop(self) -> None:
        sending = self._sending
        await super().stop()
        if sending is not None:
            await sending

    async def send_due(self) -> None:
        now = self.adapters.wall_time()
        today = day_of(now - MARGIN - self.offset)
        for path in self.ways.files():
            try:
                await self._send_of(path, (day_of(now) - KEPT).isoformat(), today.isoformat(), now)
            except (OSError, sqlite3.Error) as error:
                self.log.warn(Event.DMARC_DATA, file=path, error=str(error))

    async def _send_of(self, path: str, oldest: str, today: str, now: float) -> None:
        in_thread = self.adapters.run_in_thread
        lost = await in_thread(files.give_up, path, oldest)
        if lost:
            self.log.warn(Event.DMARC_REPORT, result="given up", reason=f"{lost} reports could not be delivered in time")
        due: list[Subject] = await in_thread(files.due, path, oldest, today, int(now), MOST_DUE)

        async def send(subject: Subject) -> None:
            taken = await in_thread(files.take, path, subject, int(self.adapters.wall_time()))
            if taken is not None:
                await self._report(path, taken)

        await several_at_once(due, send)

    async def _report(self, path: str, taken: Taken) -> None:
        """To everybody who has not got it yet."""
        subject, told = taken.subject, list(taken.told)
        places, unsure = await self._places(taken)
        content = b""
        for place in places:
            to = str(place.address)
            if to in told:
                continue
            content = content or await self.adapters.run_in_thread(files.packed, path, subject, self._head(subject))
            try:
                await self._deliver(place, subject, content)
            except Failed as failed:
                self._tell(subject, to, failed.result, str(failed))
                unsure |= not failed.for_good
                told += [to] if failed.for_good else []
            else:
                self._tell(subject, to, "sent")
                told.append(to)
            await self._settle(path, replace(taken, told=tuple(told)), int(self.adapters.wall_time()) + files.LEASE)
        again = int(self.adapters.wall_time() + AGAIN) if unsure else None
        await self._settle(path, replace(taken, told=tuple(told)), again)

    async def _settle(self, path: str, taken: Taken, again: int | None) -> None:
        await self.adapters.run_in_thread(files.settle, path, taken, again)

    # Where to

    async def _places(self, taken: Taken) -> tuple[list[Place], bool]:
        """The addresses that want it, and whether somebody could not be asked."""
        domain, unsure = taken.subject.policy_domain, False
        found: dict[str, Place] = {}
        for place in places_of(taken.reports_to):
            name = asks_elsewhere(domain, place, organizational_domain)
            wanted: tuple[Place, ...] = (place,)
            if name:
                try:
                    wanted = confirmed(texts(await self.adapters.resolver.txt(name)), place)
                except DnsFailure as failure:
                    self._tell(taken.subject, str(place.address), "later", str(failure))
                    unsure = True
                    continue
                if not wanted:
                    self._tell(taken.subject, str(place.address), "unconfirmed", f"{name} has no record that wants it")
            for one in wanted:
                found.setdefault(str(one.address), one)
        return list(found.values())[:MAX_URIS], unsure

    async def _deliver(self, place: Place, subject: Subject, content: bytes) -> None:
        """:raises Failed: it was not taken."""
        message = as_message(self._letter(place.address, subject, content))
        if place.limit and len(message) > place.limit:
            raise Failed("too large", f"{len(message)} octets, it takes {place.limit}", for_good=True)
        sending = spawn(self._mail(place.address, message))
        try:
            reason = await within(sending, PATIENCE, self.adapters.reactor)
        except CancelledError:
            raise
        except DeadlineExceeded as late:
            raise Failed("later", "no answer in time") from late
        if reason:
            for_good = reason.startswith("5")
            raise Failed("refused" if for_good else "later", reason, for_good=for_good)

    async def _mail(self, to: Address, message: bytes) -> str:
        return await self.ways.mail(to, message)

    # What

    def _unique(self, subject: Subject) -> str:
        return digest(self.ways.hostname, subject.day, subject.policy_domain, subject.policy)

    def _identity(self, subject: Subject) -> str:
        return f"{subject.day}.{self._unique(subject)}@{self.ways.author.domain}"

    def _head(self, subject: Subject) -> Callable[[str], Head]:
        author, identity = self.ways.author, self._identity(subject)
        return lambda error: files.head_of(subject, author.organization, author.contact, identity, error)

    def _letter(self, to: Address, subject: Subject, content: bytes) -> Letter:
        author, domain = self.ways.author, subject.policy_domain
        name = file_name(author.domain, domain, date.fromisoformat(subject.day), self._unique(subject))
        text = f"This is an aggregate report of what DMARC found of mail from {domain}\nthat came on {subject.day} (UTC)."
        return Letter(
            author,
            self.ways.sender,
            to,
            domain,
            self._identity(subject),
            text,
            Attachment(content, "application/gzip", name),
            self.adapters.wall_time(),
            self.boundary(),
        )

    def _tell(self, subject: Subject, to: str, result: str, reason: str = "") -> None:
        self.log.info(
            Event.DMARC_REPORT, domain=subject.policy_domain, day=subject.day, to=f"<{to}>", result=result, reason=reason
        )
