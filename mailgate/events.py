"""What the log says: an enumeration of events, each one line with named fields.

Fields are escaped, so that an event is one line whatever a peer sent, and cut at `MAX_FIELD`. Secrets are the caller's
to leave out. A message that passes is at most four lines at info.
"""

from __future__ import annotations

import re
import time
from enum import Enum
from typing import Any, ClassVar

from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure

MAX_FIELD = 1000

_is_plain = re.compile(rf"[!#-<>-\[\]-~]{{1,{MAX_FIELD}}}").fullmatch
"""Printable ASCII without space, quote, equals sign and backslash."""
_is_quotable = re.compile(rf"[ !#-\[\]-~]{{1,{MAX_FIELD}}}").fullmatch
"""The same with spaces and equals signs: it stands in quotes as it is."""
_are_quotable = re.compile(rf"[ !#-\[\]-~]{{0,{MAX_FIELD}}}").fullmatch
"""All texts of an event together, if none of them needs more than quotes: nearly every event."""
_ESCAPED = re.compile(r"[^ !#-\[\]-~]")


class Event(Enum):
    """Every kind of line; the comment names its fields. ``session`` and ``message`` are ids."""

    GATEWAY_START = "gateway.start"  # listeners
    GATEWAY_STOP = "gateway.stop"  # sessions left to drain
    RELOAD = "gateway.reload"  # generation, changes, sessions that stay with older configurations, seconds
    RELOAD_REFUSED = "gateway.reload_refused"  # reason, errors: nothing changed
    CONFIGURATION_CHANGED = "configuration.changed"  # where (the blocks around it), old, new
    CONFIGURATION_ERROR = "configuration.error"  # place (file:line:column), code, error
    CONFIGURATION_RELEASED = "configuration.released"  # old: the last session of a replaced one has ended, so many are left
    CONTROL_UNAVAILABLE = "control.unavailable"  # reason: the gateway runs without its control socket
    WORKERS_START = "workers.start"  # workers, listeners: all of them serve
    WORKER_READY = "worker.ready"  # worker, pid, restarts
    WORKER_ENDED = "worker.ended"  # worker, pid, reason, sessions that it had, served (seconds), retry_in
    WORKER_HUNG = (
        "worker.hung"  # worker, pid, seconds without a sign of life, or beyond its time to drain: it is ended by a signal
    )
    WORKER_BEHIND = "worker.behind"  # worker, reason: it has not changed over with the others, and is replaced
    LISTENER_OPEN = "listener.open"  # listener, address
    LISTENER_SOCKET = "listener.socket"  # address, error: a reload could not give its unix socket the new owner or mode
    LISTENER_CLOSE = "listener.close"  # address, error: the socket could not be closed cleanly
    SESSION_OPEN = "session.open"  # session, listener, client, peer (a proxy that speaks for the client) (debug)
    SESSION_CLOSE = "session.close"  # session, listener, client, peer, reason, messages
    SESSION_TLS = "session.tls"  # session, version, cipher, or error (debug)
    SESSION_REFUSED = "session.refused"  # listener, client, limit; of a check: session, stage, reply, where
    LIMITS_ALONE = "limits.alone"  # limits, counter, reason, on_failure: shared limits can't be counted together now
    LIMITS_SHARED = "limits.shared"  # limits, counter: they can again
    LIMITS_LATE = "limits.late"  # counter, reason: slots could not be given back or renewed; they end by themselves
    LIMIT_REFUSED = "limit.refused"  # place (listener or target), limit, key, refused: how many since the last line
    SESSION_XCLIENT = "session.xclient"  # session, peer, and what it said of its client: name, addr, port, helo, login, …
    PROXY_REFUSED = "proxy.refused"  # listener, client (the peer), reason: a PROXY header that can't be used, or none
    AUTH_OK = "auth.ok"  # session, client, user, mechanism
    AUTH_FAILED = "auth.failed"  # session, client, user, mechanism, reason
    AUTH_DENIED = "auth.denied"  # provider, client, user, reason: not for the password, but acct_expired, perm_denied, …
    AUTH_TROUBLE = "auth.trouble"  # session, provider or user and mechanism, error: nobody could say whether it was right
    ACCOUNTS_RELOADED = "accounts.reloaded"  # provider, path, entries
    ACCOUNTS_FAILED = "accounts.failed"  # provider, path, reason: the old entries stay
    PROTOCOL_INJECTION = "protocol.injection"  # session, client: bytes behind STARTTLS
    MESSAGE_XFORWARD = "message.xforward"  # message, session, and what XFORWARD said of its origin: name, addr, helo, ident, …
    MESSAGE_DONE = "message.done"  # message, session, from, to, size, reply, target, seconds; where checks found
    # something: auth (results of methods), score, verdict (pass, tag, quarantine)
    MESSAGE_ABORTED = "message.aborted"  # message, session, stage, reason
    RECIPIENT_REFUSED = "recipient.refused"  # message, session, from, to, reply, where (file:line), reason
    SENDER_REFUSED = "sender.refused"  # message, session, from, reply, where, reason
    CHECK_IGNORED = "check.ignored"  # message, session, check, where, action, reply (what would have been said), reason
    CHECK_ANSWERED = "check.answered"  # message, session, check, answer (a filter's own word), score, symbols
    GREYLIST_UNSWEPT = "greylist.unswept"  # check, reason: what is over is still in the database
    DMARC_DATA = "dmarc.data"  # file, lost (messages that stand in no row), error
    DMARC_REPORT = "dmarc.report"  # domain, day, to, result (sent, later, refused, too large, unconfirmed, given up), reason
    MESSAGE_DISCARDED = "message.discarded"  # message, to, where
    DELIVERY_ATTEMPT = "delivery.attempt"  # message, target, endpoint, stage, reply or error, mx, remote, local, reused,
    # tls, cipher, verified (the name that matched, chain, no), verify_error, peer_cert, peer_key, peer_chain, tls_error, timings,
    # dsn, seconds: one try, however it ended
    DELIVERY_LATE = "delivery.late"  # message, target, reply: the answer came after the client had gone
    POSSIBLE_DUPLICATE = "delivery.possible_duplicate"  # message, target, endpoint, recipients, reason
    SOURCE_FAILED = "source.failed"  # target, endpoint, source, error: one of our own addresses can't be connected from
    ENDPOINT_DOWN = "endpoint.down"  # target, endpoint, reason, retry_in, evidence: the last failures
    DNSSEC_MISSING = "dnssec.missing"  # target, reason: DANE is asked for, and finds nothing
    MTA_STS = "mta_sts"  # domain, result (the policy's mode, or what was not done), reason
    TLS_REPORT = "tls_report"  # domain, day, to, result (sent, later, given up, not kept), reason: reports of TLS-RPT
    ENDPOINT_UP = "endpoint.up"  # target, endpoint
    ENDPOINT_CHANGED = "endpoint.changed"  # target, endpoint, action: an operator's: drain, undrain, weight
    WIRE = "wire"  # target, endpoint, connection, dir, line (only with `debug yes`, or while `mailgate log watch` wants it); of
    # a watched client: session, listener, client, dir (< is what it says), line
    TLS_RELOADED = "tls.reloaded"  # files: certificates and keys that handshakes use from now on
    TLS_NOT_RELOADED = "tls.not_reloaded"  # files, reason: they have changed, but can't be used; those before them stay
    TLS_LOOKUP_FAILED = "tls.lookup_failed"  # name, reason: sni_lookup can't say which certificate belongs to a name
    TABLE_RELOADED = "table.reloaded"  # table, path, entries
    TABLE_FAILED = "table.failed"  # table, path, reason
    QUEUE_STORE = "queue.store"  # queue or file, error: results can't be recorded, deliveries pause; or recovered
    QUEUE_LEASE_LOST = "queue.lease_lost"  # queue, message, error: another node has it by now; what this one did is not recorded
    QUEUE_TAKEN_OVER = "queue.taken_over"  # queue, recipients: a node is not heard of any more, and had them
    COPY_FAILED = "copy.failed"  # message, target, to, reply: copy_to could not keep its copy
    QUEUE_RETRY = "queue.retry"  # message, queue, to, reply, kind (class of failure), retry (attempts so far), retry_in
    QUEUE_HELD = "queue.held"  # queue, message, reason
    QUEUE_DESTINATION_DOWN = "queue.destination_down"  # queue, destination, reason, retry_in: all who wait for it wait
    QUEUE_SCHEDULE = "queue.schedule"  # queue, message, error: a dynamic setting had no value, the default schedule holds
    UNDELIVERABLE = "message.undeliverable"  # message, to, reason, reply: given up, and nobody is told
    REPORT_SENT = "report.sent"  # message (that it is about), to, action, reply
    REPORT_HELD = "report.held"  # queue, entry, message (that it is about), to, lost (each recipient and its end), reports, reply
    QUEUE_ACT = "queue.act"  # queue, action, who, where, messages, changed, busy, target (of reroute): an operator's
    QUEUE_ORPHAN = "queue.orphan"  # file, reason: no queue of the configuration has these files, nobody delivers what is in them
    QUEUE_PURGED = "queue.purged"  # recipients: removed by operators a day ago, gone for good now
    QUEUE_DAMAGED = "queue.damaged"  # file, entry, error: set aside, with its bytes
    LOG_LOST = "log.lost"  # events: a destination of the log had no room for so many before this line
    LOG_DETAIL = "log.detail"  # what (level debug, target next, reset), seconds (0: it is over), by: more or less is logged
    LOG_NOT_REOPENED = "log.not_reopened"  # reason: SIGUSR1 could not open a file anew; the old one is written on to
    INCIDENT = "incident"  # incident, where: our own bug; the traceback follows

    seen: int
    """How often it was logged since the process began: an attribute, since a look-up by member would cost two calls."""


for _event in Event:
    _event.seen = 0


class EventLog:
    """A named source of events over a twisted.logger Logger."""

    __slots__ = ("_logger", "_namespace", "_observer")

    debugging: ClassVar[bool] = False
    """Whether debug events are made at all: one switch for the process (logs/detail.py sets it)."""

    def __init__(self, namespace: str, observer: Any = None) -> None:
        self._namespace = namespace
        self._observer = observer or globalLogPublisher
        self._logger = Logger(namespace=namespace, observer=self._observer)

    def debug(self, event: Event, **fields: Any) -> None:
        if self.debugging:
            self._emit(LogLevel.debug, event, fields)

    def info(self, event: Event, **fields: Any) -> None:
        self._emit(LogLevel.info, event, fields)

    def warn(self, event: Event, **fields: Any) -> None:
        self._emit(LogLevel.warn, event, fields)

    def error(self, event: Event, **fields: Any) -> None:
        self._emit(LogLevel.error, event, fields)

    def incident(self, incident: str, error: BaseException, **fields: Any) -> None:
        """Our own bug: one line, then the traceback."""
        self._emit(LogLevel.critical, Event.INCIDENT, {"incident": incident, "error": repr(error), **fields})
        self._logger.failure("incident {incident}", Failure(error), incident=incident)

    def _emit(self, level: Any, event: Event, fields: dict[str, Any]) -> None:
        event.seen += 1
        # What Logger.emit makes of an event, without its checks of the level's name: every message comes this way.
        self._observer(
            {
                "log_level": level,
                "log_namespace": self._namespace,
                "log_source": None,
                "log_time": time.time(),
                "log_format": "{event_text}",
                "event": event,
                "fields": fields,
                "event_text": _Line(event, fields),
            }
        )


class _Line:
    """The text of an event, made only if somebody writes it."""

    __slots__ = ("_event", "_fields")

    def __init__(self, event: Event, fields: dict[str, Any]) -> None:
        self._event = event
        self._fields = fields

    def __str__(self) -> str:
        line: str = self._event._value_  # .value is a descriptor written in Python
        texts = ""
        for name, value in self._fields.items():
            kind = value.__class__
            if kind is float:
                line += f" {name}={value:.3f}"
                continue
            text = value if kind is str else "" if value is None else str(value)
            if not text:
                continue
            texts += text
            line += f' {name}="{text}"' if " " in text or "=" in text else f" {name}={text}"
        return line if _are_quotable(texts) else self._with_escapes()

    def _with_escapes(self) -> str:
        """The same where a text holds what must not stand in a line as it is, or is long."""
        line: str = self._event._value_
        for name, value in self._fields.items():
            if value.__class__ is float:
                line += f" {name}={value:.3f}"
                continue
            text = "" if value is None else str(value)
            if _is_plain(text):
                line += f" {name}={text}"
            elif _is_quotable(text):
                line += f' {name}="{text}"'
            elif text:
                line += f" {name}={_escaped(text)}"
        return line


def format_event(event: Event, fields: dict[str, Any]) -> str:
    """``message.done message=1a2b from=<a@b> …``: one line of printable ASCII whatever the fields hold."""
    return str(_Line(event, fields))


def _escaped(text: str) -> str:
    if len(text) > MAX_FIELD:
        text = text[:MAX_FIELD] + "..."
    return text if _is_plain(text) else f'"{_ESCAPED.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character in '"\\':
        return "\\" + character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
