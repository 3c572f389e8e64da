"""Certificates that a table names (`sni_lookup`): a bounded cache with one question at a time for each name.

The source is asked for the name, then for the wildcard over it. An ITable answers with the paths of the certificate and of the
key, or of one file with both; an ICertificateSource with their content. The answer is kept for `KEPT`, "nothing" too; the
files of a pair are looked at whenever those of the listener are (`live.LiveContexts`), so a new certificate is not waited for.

An answer that can't be had is an error, never "nothing": the handshake ends. If there was a certificate before, it is shown on.
A flood of invented names costs at most `MOST_ASKED` questions at once and pushes no certificate out: what is not there has a
place of its own.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.interfaces import ICertificateSource
from mailgate.net.waiting import Wait, spawn, within
from mailgate.tls.options import TlsError
from mailgate.tls.pairs import KeyPair, file_signature
from mailgate.tls.server import ServerConnectionCreator

KEPT = 60.0
"""Seconds that an answer of the source holds."""
MOST_KEPT = 1000
"""Names with a certificate, and as many without."""
MOST_ASKED = 100
"""Names asked for at once: a bound on what strangers can make a directory server do."""
PATIENCE = 20.0
"""Seconds for one answer: less than a client waits for a handshake."""

_events = EventLog("mailgate.tls")


class LookupFailed(Exception):
    """The source can't say which certificate belongs to a name."""


@dataclass(slots=True)
class _Known:
    """One name's certificate: where it came from, and until when that holds."""

    answer: tuple[Any, ...]
    signature: tuple[Any, ...]
    creator: ServerConnectionCreator
    until: float
    complaint: str = ""
    """Why its files, as they are now, can't be used."""


class CertificateLookup:
    """See the module's docstring. ``make(pair)`` gives what begins a handshake with it; paths are relative to ``directory``."""

    def __init__(self, source: Any, make: Callable[[KeyPair], ServerConnectionCreator], directory: str = "") -> None:
        self._source = source
        self._make = make
        self._directory = directory
        self.adapters: Adapters | None = None
        """Set before the first handshake."""
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._asked: dict[str, list[Wait[ServerConnectionCreator | None]]] = {}

    def find(self, name: str) -> ServerConnectionCreator | Wait[ServerConnectionCreator | None] | None:
        """What begins a handshake with the name's certificate; None if it has none. A wait fails if that can't be known."""
        now = self._outside.reactor.seconds()
        known = self._known.get(name)
        if known is not None and now < known.until:
            self._known.move_to_end(name)
            return known.creator
        if known is None and now < self._absent.get(name, 0.0):
            return None
        wait: Wait[ServerConnectionCreator | None] = Wait()
        if name in self._asked:
            self._asked[name].append(wait)
        elif len(self._asked) >= MOST_ASKED:
            wait.fail(LookupFailed("too many names are asked for at once"))
        else:
            self._asked[name] = [wait]
            spawn(self._fill(name))
        return wait

    async def refresh(self, *, forget: bool) -> None:
        """Read the files that have changed. ``forget``: what contexts are made with has changed, so each is made anew when it
        is needed."""
        if forget:
            for known in self._known.values():
                known.until, known.signature = 0.0, ()
            return
        current = dict(self._known)
        for name, made in (await self._outside.run_in_thread(self._look, current)).items():
            known = current[name]
            if isinstance(made, str):
                if made != known.complaint:
                    _events.warn(Event.TLS_NOT_RELOADED, files=" ".join(map(str, known.answer)), reason=made)
                known.complaint = made
            else:
                known.signature, known.creator = made
                known.complaint = ""
                _events.info(Event.TLS_RELOADED, files=" ".join(map(str, known.answer)))

    @property
    def _outside(self) -> Adapters:
        if self.adapters is None:
            raise RuntimeError("made for a check only")
        return self.adapters

    async def _fill(self, name: str) -> None:
        """Ask for a name, and tell all who wait for it."""
        creator: ServerConnectionCreator | None = None
        error: BaseException | None = None
        try:
            creator = await within(self._answer(name), PATIENCE, self._outside.reactor)
        except CancelledError as cancelled:
            error = cancelled
        except Exception as failure:
            _events.warn(Event.TLS_LOOKUP_FAILED, name=name, reason=str(failure) or type(failure).__name__)
            known = self._known.get(name)
            if known is not None:
                known.until = self._outside.reactor.seconds() + KEPT
                creator = known.creator
            else:
                error = LookupFailed(name)
        for wait in self._asked.pop(name):
            if wait.done:
                continue
            if error is not None:
                wait.fail(error)
            else:
                wait.fire(creator)

    async def _answer(self, name: str) -> ServerConnectionCreator | None:
        answer = await self._ask(name) or await self._ask("*." + name.partition(".")[2])
        until = self._outside.reactor.seconds() + KEPT
        if not answer:
            self._known.pop(name, None)
            self._absent[name] = until
            _trim(self._absent)
            return None
        known = self._known.get(name)
        made = await self._outside.run_in_thread(self._load, answer, known)
        if made is not None or known is None:
            signature, creator = made
            known = self._known[name] = _Known(answer, signature, creator, until)
            self._absent.pop(name, None)
            _trim(self._known)
        known.until = until
        return known.creator

    async def _ask(self, name: str) -> tuple[Any, ...]:
        by_name = ICertificateSource.providedBy(self._source)
        answer = self._source.certificate(name) if by_name else self._source.lookup(name)
        if hasattr(answer, "__await__"):
            answer = await answer
        if not answer:
            return ()
        if len(answer) > 2 or not all(answer):
            raise TlsError("the answer is not a certificate and a key")
        if by_name:
            return tuple(answer)
        return tuple(os.path.join(self._directory, path) for path in answer)

    def _load(self, answer: tuple[Any, ...], known: _Known | None = None) -> Any:
        """Runs in a thread: signature and creator, None if they are what is known."""
        signature = _signature_of(answer)
        if known is not None and known.answer == answer and signature == known.signature:
            return None
        certificate, key = answer[0], answer[-1]
        pair = KeyPair.load(certificate, key) if signature else KeyPair.from_pem(certificate, key)
        return signature, self._make(pair)

    def _look(self, known: dict[str, _Known]) -> dict[str, Any]:
        """Runs in a thread: of the names whose files have changed what they are now, or why they can't be used."""
        found: dict[str, Any] = {}
        for name, one in known.items():
            if one.signature and (one.complaint or _signature_of(one.answer) != one.signature):
                try:
                    found[name] = self._load(one.answer)
                except TlsError as error:
                    found[name] = str(error)
        return found


def _signature_of(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of its files; () if the answer is the content."""
    return file_signature(answer) if isinstance(answer[0], str) else ()


def _trim(names: OrderedDict[str, Any]) -> None:
    while len(names) > MOST_KEPT:
        names.popitem(last=False)
