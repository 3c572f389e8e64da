"""What DMARC found, as domains want to be told (RFC 7489 7.2): an SQLite file with a row for each different observation of a day.

Messages are counted in memory and written down together, every `FLUSH` seconds and at the end, in a thread: a crash loses that
much of a statistic. The file (mailgate/modules/_dmarc_file.py) is shared by all processes and generations of a gateway. It is
bounded: days beyond `keep` go, and a new row that would be one more than `max_rows` is not made; that is logged, as is a file
that can't be written. Mail never waits for it, and what can't be written is kept in memory, up to `MOST_PENDING` rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.mailauth import dkim
from mailgate.mailauth.dmarc import Judged, Policy, Wish
from mailgate.modules._dmarc_file import Count, Row, day_at, write
from mailgate.net.waiting import spawn

FLUSH = 10.0
"""Seconds from a message to its row, at most."""
MOST_PENDING = 10_000
"""Rows in memory: several megabytes."""
MOST_SIGNATURES = 20
"""Of one message that a row tells of."""

_log = EventLog("mailgate.checks")


def row(
    policy: Policy,
    judged: Judged,
    *,
    source_ip: str,
    disposition: Wish,
    spf: tuple[str, str, str],
    signatures: tuple[dkim.Result, ...],
    now: float,
) -> Row:
    """One observation; ``spf`` is domain, scope (mfrom, helo) and result. ``disposition`` is what was done, ``judged.wish`` what
    was wanted."""
    record = policy.record
    alignment = {True: "s", False: "r"}
    published = {
        "p": record.policy.value,
        "sp": record.subdomains.value,
        "pct": record.percent,
        "adkim": alignment[record.strict_dkim],
        "aspf": alignment[record.strict_spf],
        "fo": record.failures,
    }
    results = [{"domain": one.domain, "selector": one.selector, "result": one.outcome.value} for one in signatures if one.domain]
    found = (
        day_at(now),
        policy.domain,
        policy.author,
        source_ip,
        disposition.value,
        str(int(judged.dkim_aligned)),
        str(int(judged.spf_aligned)),
        _override(judged, disposition),
        *spf,
        json.dumps(results[:MOST_SIGNATURES], sort_keys=True),
        json.dumps(published, sort_keys=True),
        ",".join(record.reports_to),
    )
    return tuple(value.encode("utf-8", "replace").decode() for value in found)


def _override(judged: Judged, disposition: Wish) -> str:
    """Why something else was done than the domain wants (RFC 7489 appendix C, PolicyOverrideType)."""
    if judged.vouched_by:
        return f"local_policy arc={judged.vouched_by}"
    if disposition is not judged.wish:
        return "local_policy"
    return "sampled_out" if judged.sampled_out else ""


class Observations:
    """The rows that are not written yet. ``file`` is made with mode 0600."""

    def __init__(self, adapters: Adapters, path: str, keep: float, max_rows: int) -> None:
        self._adapters = adapters
        self._path = path
        self._keep = keep
        self._max_rows = max_rows
        self._pending: dict[Row, Count] = {}
        self._lost = 0
        self._call: Any = None
        self._writing: Any = None

    def note(self, observed: Row) -> None:
        now = int(self._adapters.wall_time())
        count = self._pending.get(observed)
        if count is not None:
            count.messages += 1
            count.last = now
        elif len(self._pending) < MOST_PENDING:
            self._pending[observed] = Count(1, now, now)
        else:
            self._lost += 1
        if self._call is None:
            self._call = self._adapters.reactor.callLater(FLUSH, self._due)

    async def close(self) -> None:
        """Everything is written down that can be."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._writing is not None:
            await self._writing
        if self._pending:
            await self._flush()

    def _due(self) -> None:
        self._call = None
        if self._writing is None:
            self._writing = spawn(self._flush())
            self._writing.addBoth(self._done)

    def _done(self, _: Any) -> None:
        self._writing = None
        if self._pending and self._call is None:
            self._call = self._adapters.reactor.callLater(FLUSH, self._due)

    async def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        lost, self._lost = self._lost, 0
        error = ""
        try:
            lost += await self._adapters.run_in_thread(
                write, self._path, pending, self._max_rows, self._adapters.wall_time() - self._keep
            )
        except CancelledError:
            raise
        except (OSError, sqlite3.Error) as failure:
            error = str(failure)
            lost += self._take_back(pending)
        if lost or error:
            _log.warn(Event.DMARC_DATA, file=self._path, lost=lost or None, error=error)

    def _take_back(self, pending: Mapping[Row, Count]) -> int:
        """Keep for the next time what was not written; how many messages there was no room for."""
        lost = 0
        for observed, count in pending.items():
            newer = self._pending.get(observed)
            if newer is not None:
                newer.messages += count.messages
                newer.first = count.first
            elif len(self._pending) < MOST_PENDING:
                self._pending[observed] = count
            else:
                lost += count.messages
        return lost
