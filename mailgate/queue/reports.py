"""Which reports are due, and how they leave (RFC 3461 5.2, RFC 3464).

A report is a message like any other: null reverse-path, to the reverse-path of the message it is about, through the queue's
`bounce` pipeline. What was asked for with NOTIFY is obeyed; without it failures and delays are told. Nothing is told to the null
reverse-path, so no report answers a report.

`Reporter.report` gives the reply of the pipeline. Temporary: it is made again later (owed.py). Permanent, or no pipeline
at all: one log line `undeliverable`, and that was it.

A report about a message with REQUIRETLS is protected as the message was (RFC 8689 5): it asks for REQUIRETLS itself, and returns
the header section only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.message.dsn import RecipientReport, StatusReport, compose
from mailgate.queue.entry import Entry, Fate, Waiting
from mailgate.queue.store import StoreError
from mailgate.smtp.address import Address
from mailgate.smtp.parameters import BodyType, MailParameters, orcpt_of
from mailgate.smtp.reply import Reply, reply_for

MAX_RETURNED = 1 << 20
"""Octets up to which a whole message is returned where RET=FULL asks for it; of larger ones the header section."""
NO_PIPELINE = Reply(550, "5.4.0", "No way for reports is configured")

_WANTED = {Fate.FAILED: "FAILURE", Fate.RELAYED: "SUCCESS", Fate.DELIVERED: "SUCCESS", Fate.EXPANDED: "SUCCESS"}
ACTIONS = {Fate.FAILED: "failed", Fate.RELAYED: "relayed", Fate.DELIVERED: "delivered", Fate.EXPANDED: "expanded"}
_SUCCESS_STATUS = {Fate.DELIVERED: "2.0.0", Fate.RELAYED: "2.0.0", Fate.EXPANDED: "2.0.0"}

Submit = Callable[[Address, bytes, MailParameters], Awaitable[Reply]]
"""Send this message from <> to one address, with these parameters of MAIL."""


@dataclass(frozen=True, slots=True)
class ReportSettings:
    hostname: str
    from_address: str = ""
    texts: Mapping[str, str] | None = None


class Reporter:
    """Makes the reports of one queue; ``submit`` is None where no `bounce` is configured. ``itself`` is the queue's own way out:
    it takes the reports that a listener owes (`reports &queue`) where there is no other."""

    def __init__(
        self,
        settings: ReportSettings,
        submit: Submit | None,
        adapters: Adapters,
        log: EventLog | None = None,
        itself: Submit | None = None,
    ) -> None:
        self._settings = settings
        self._submit = submit
        self._way = submit or itself
        self._adapters = adapters
        self._log = log or EventLog("mailgate.queue")

    def wants(self, entry: Entry, row: Waiting, fate: Fate) -> bool:
        """Whether the sender is told of this end."""
        if self._submit is None or entry.sender.is_null:
            return False
        notify, by = row.parameters.notify, entry.parameters.by
        if fate is Fate.RELAYED and by is not None and by.trace and "NEVER" not in notify:
            return True
        return _WANTED[fate] in notify if notify else fate is Fate.FAILED

    def wants_delay(self, entry: Entry, row: Waiting) -> bool:
        notify = row.parameters.notify
        return self._submit is not None and not entry.sender.is_null and (not notify or "DELAY" in notify)

    async def delayed(self, entry: Entry, row: Waiting, store: Any, until: float) -> bool:
        """Tell the sender that a recipient still waits, and until when it will; false when that failed, to be tried at the next
        occasion."""
        about = replace(self._about(entry, row, "delayed"), retry_until=until)
        reply = await self._send(entry, [about], store, full=False)
        return reply.is_success

    async def report(self, entry: Entry, rows: Sequence[Waiting], store: Any) -> Reply:
        """Tell the sender what became of these; the answer is the pipeline's."""
        about = [self._about(entry, row, ACTIONS[row.fate or Fate.FAILED]) for row in rows]
        full = entry.parameters.ret == "FULL" and not entry.parameters.requiretls and any(one.action == "failed" for one in about)
        return await self._send(entry, about, store, full=full)

    def _about(self, entry: Entry, row: Waiting, action: str) -> RecipientReport:
        last = row.last
        success = row.fate is not None and row.fate is not Fate.FAILED
        status = "2.0.0" if success else _status(last.status if last is not None else "", action)
        return RecipientReport(
            final=row.address,
            action=action,
            status=status,
            original=row.parameters.orcpt or (orcpt_of(row.original) if row.original is not None else ""),
            diagnostic=last.text if last is not None else "",
            code=last.code if last is not None else 0,
            said=last.status if last is not None else "",
            remote=last.remote if last is not None else False,
            remote_mta=_host(last.way.peer) if last is not None and last.remote else "",
            last_attempt=last.at if last is not None else 0.0,
        )

    async def _send(self, entry: Entry, about: Sequence[RecipientReport], store: Any, *, full: bool) -> Reply:
        if self._way is None:
            return NO_PIPELINE
        try:
            returned, full = await self._returned(entry, store, full)
            report = self._status_report(entry, about, returned, full)
            content = compose(report)
            body = BodyType.SEVEN_BIT if content.isascii() else BodyType.EIGHT_BIT
            parameters = MailParameters(len(content), body, report.needs_utf8, entry.parameters.requiretls)
            reply = await self._way(entry.sender, content, parameters)
        except (CancelledError, StoreError):
            raise
        except Exception as error:
            incident = f"{self._adapters.random.getrandbits(32):08x}"
            self._log.incident(incident, error, message=entry.message_id)
            reply = reply_for(error, incident)
        actions = ",".join(dict.fromkeys(one.action for one in about))
        self._log.info(Event.REPORT_SENT, message=entry.message_id, to=f"<{entry.sender}>", action=actions, reply=reply)
        return reply

    def _status_report(self, entry: Entry, about: Sequence[RecipientReport], returned: bytes, full: bool) -> StatusReport:
        return StatusReport(
            hostname=self._settings.hostname,
            sender=entry.sender,
            message_id=entry.message_id,
            recipients=about,
            arrived=entry.arrived,
            now=self._adapters.wall_time(),
            boundary=f"report-{self._adapters.random.getrandbits(96):024x}",
            own_id=f"{self._adapters.random.getrandbits(64):016x}",
            envid=entry.parameters.envid or "",
            received_from=entry.origin.helo,
            returned=returned,
            full=full,
            texts=self._settings.texts,
            from_address=self._settings.from_address,
            smtputf8=entry.parameters.smtputf8,
        )

    async def _returned(self, entry: Entry, store: Any, full: bool) -> tuple[bytes, bool]:
        if not full or entry.size > MAX_RETURNED:
            return entry.header, False
        message = await store.message(entry)
        try:
            content = message.data()
            if content is None:
                reading = message.read(0, message.size)
                content = reading if isinstance(reading, bytes) else await reading
            return content, True
        finally:
            message.body.release()


def _status(status: str, action: str) -> str:
    """A recipient that failed has a permanent status, one that waits a temporary one (RFC 3464 2.3.4): an expired one failed."""
    if not status:
        return "5.0.0" if action == "failed" else "4.0.0"
    if action == "failed" and status.startswith("4."):
        return "5.4.7" if status.startswith(("4.4.", "4.0.", "4.3.")) else f"5{status[1:]}"
    return status


def _host(peer: str) -> str:
    """The name in an MX or an endpoint as it is written; "" of a path."""
    scheme, _, place = peer.rpartition("://")
    if scheme == "unix":
        return ""
    host = place.rpartition(":")[0] if scheme and not place.endswith("]") else place
    return host if host.startswith("[") or ":" not in host else f"[{host}]"
