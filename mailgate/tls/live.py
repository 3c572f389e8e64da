"""Server certificates of a running listener: read again when their files change, or asked for by name.

`LiveContexts` is made while the configuration is loaded (so every mistake is a load error) and holds a `ServerContexts`. Every
`CHECK_INTERVAL`, in a thread, the files are looked at, and read if anything about them has changed. The contract:

- A pair is taken over only when both of its files were read, parse, and belong together; else the old one stays. That a pair
  can't be used is said once, and it is tried again at each look: somebody may be in the middle of writing it.
- What changed goes into a new `ServerContexts`, which takes the old one's place in one assignment. Handshakes that have begun
  and running sessions keep what they have.
- Nothing here can end a listener: it goes on with what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cryptography import x509
from twisted.internet.defer import CancelledError
from twisted.internet.task import LoopingCall

from mailgate.adapters import Adapters
from mailgate.events import Event, EventLog
from mailgate.net.waiting import Wait, spawn
from mailgate.tls.lookup import CertificateLookup
from mailgate.tls.options import SERVER_DEFAULTS, TlsError, TlsOptions
from mailgate.tls.pairs import KeyPair, file_signature, load_certificates
from mailgate.tls.server import ClientAuth, Clients, ServerConnectionCreator, ServerContexts, Site

T = TypeVar("T")

CHECK_INTERVAL = 3.0
"""Seconds between two looks at the files: a change is noticed within 5, the time to read it included."""

_events = EventLog("mailgate.tls")


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Where a pair is read from; one file may hold both."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class SitePlan:
    """What is shown, and what is asked of clients; ``name`` is "" for what is shown by the names in the certificates."""

    pairs: tuple[PairFiles | KeyPair, ...] = ()
    auth: ClientAuth = ClientAuth.OFF
    authorities: str = ""
    """The file with the certificates that vouch for clients."""
    name: str = ""


class _Watched(Generic[T]):
    """A value that is read from files. ``value`` is the last good one.

    :raises TlsError: at first; later `look` keeps what it has.
    """

    def __init__(self, files: tuple[str, ...], load: Callable[[], T]) -> None:
        self.files = files
        self._load = load
        self._seen = file_signature(files)
        self.complaint = ""
        self.value = load()

    def look(self) -> _Look[T] | None:
        """Whether there is something new; None if not. Blocking, and changes nothing: `take` does."""
        signature = file_signature(self.files)
        if signature == self._seen and not self.complaint:
            return None
        try:
            return _Look(self, signature, self._load())
        except TlsError as error:
            return _Look(self, signature, None, str(error))

    def take(self, look: _Look[T]) -> None:
        if look.value is not None:
            self.value, self._seen = look.value, look.signature
        self.complaint = look.complaint


@dataclass(frozen=True, slots=True)
class _Look(Generic[T]):
    """What a look has found: a new value, or why there is none."""

    watched: _Watched[T]
    signature: tuple[Any, ...]
    value: T | None
    complaint: str = ""


class _LiveSite:
    """A `SitePlan` with what was read for it."""

    def __init__(self, plan: SitePlan) -> None:
        self.name = plan.name
        self._auth = plan.auth
        self.pairs = [pair if isinstance(pair, KeyPair) else _watch_pair(pair) for pair in plan.pairs]
        self.trusted: _Watched[tuple[x509.Certificate, ...]] | None = None
        if plan.auth is not ClientAuth.OFF:
            path = plan.authorities
            self.trusted = _Watched((path,), lambda: load_certificates(path))

    @property
    def watched(self) -> list[_Watched[Any]]:
        found: list[_Watched[Any]] = [pair for pair in self.pairs if isinstance(pair, _Watched)]
        return [*found, self.trusted] if self.trusted is not None else found

    def site(self, new: dict[int, Any]) -> Site:
        """As it is, with new values (by the id of what watches them) in place of the old."""

        def value(watched: _Watched[Any]) -> Any:
            return new.get(id(watched), watched.value)

        pairs = tuple(value(pair) if isinstance(pair, _Watched) else pair for pair in self.pairs)
        return Site(self.name, pairs, Clients(self._auth, value(self.trusted) if self.trusted is not None else ()))


class LiveContexts:
    """The contexts of one `tls` directive. ``sites`` have a name each; ``source`` (an ITable or ICertificateSource) is asked for
    names that nothing else has.

    :raises TlsError: for files, pairs or options that can't be used, and for nothing to show at all.
    """

    def __init__(
        self,
        plan: SitePlan,
        sites: Sequence[SitePlan] = (),
        options: TlsOptions = SERVER_DEFAULTS,
        source: Any = None,
        directory: str = "",
    ) -> None:
        self._options = options
        self._main = _LiveSite(plan)
        self._sites = [_LiveSite(site) for site in sites]
        self._watched = [watched for site in (self._main, *self._sites) for watched in site.watched]
        self.lookup = CertificateLookup(source, self._looked_up, directory) if source is not None else None
        self._contexts = self._build({})
        self._refused = ""
        """Why OpenSSL did not take what was read last."""
        self._looking: LoopingCall | None = None
        self._adapters: Adapters | None = None
        self._users = 0
        self._busy: list[Wait[None]] | None = None

    # what connections need

    def connection_creator(self) -> ServerConnectionCreator:
        """For a handshake that begins now."""
        return self._contexts.creator

    def creator_for(self, name: str) -> ServerConnectionCreator | Wait[ServerConnectionCreator]:
        """The same for the server name ("" for none) that a client will ask for; it may have to be waited for.

        :raises Exception: (or fails) when the lookup does.
        """
        if self.lookup is None or not name or self._contexts.known(name.encode("ascii")) is not None:
            return self._contexts.creator
        found = self.lookup.find(name)
        if isinstance(found, Wait):
            return _then(found, lambda creator: creator or self._contexts.creator)
        return found or self._contexts.creator

    @property
    def pairs(self) -> list[tuple[KeyPair, bool]]:
        """Every pair that is shown, and whether it came from files."""
        everything = [pair for site in (self._main, *self._sites) for pair in site.pairs]
        return [(pair.value, True) if isinstance(pair, _Watched) else (pair, False) for pair in everything]

    # reading again

    def watch(self, adapters: Adapters) -> None:
        """Look at the files from now on; each `watch` needs a `stop`."""
        self._users += 1
        if self._users > 1:
            return
        self._adapters = adapters
        if self.lookup is not None:
            self.lookup.adapters = adapters
        self._looking = LoopingCall(lambda: spawn(self.reload()))
        self._looking.clock = adapters.reactor
        self._looking.start(CHECK_INTERVAL, now=False)

    def stop(self) -> None:
        self._users -= 1
        if self._users == 0 and self._looking is not None and self._looking.running:
            self._looking.stop()

    async def reload(self) -> bool:
        """Look at the files now; whether something new was taken over. It never fails."""
        if self._adapters is None:
            raise RuntimeError("watch comes before reload")
        if self._busy is not None:  # the look that is under way may have passed the file that matters
            turn: Wait[None] = Wait()
            self._busy.append(turn)
            await turn
            return await self.reload()
        self._busy = []
        try:
            return await self._reload(self._adapters)
        except CancelledError:
            raise
        except Exception as error:
            _events.incident("tls.reload", error)
            return False
        finally:
            waiting, self._busy = self._busy, None
            for one in waiting:
                one.fire(None)

    async def _reload(self, adapters: Adapters) -> bool:
        looks, contexts, refused = await adapters.run_in_thread(self._look)
        news = [look for look in looks if look.value is not None]
        for look in looks:
            if look.complaint and look.complaint != look.watched.complaint:
                _events.warn(Event.TLS_NOT_RELOADED, files=" ".join(look.watched.files), reason=look.complaint)
            if look.complaint or not refused:
                look.watched.take(look)
        if refused and refused != self._refused:
            _events.warn(Event.TLS_NOT_RELOADED, files=_files(news), reason=refused)
        self._refused = refused
        if contexts is not None:
            self._contexts = contexts
            _events.info(Event.TLS_RELOADED, files=_files(news))
        if self.lookup is not None:
            await self.lookup.refresh(forget=contexts is not None)
        return contexts is not None

    def _look(self) -> tuple[list[_Look[Any]], ServerContexts | None, str]:
        """Runs in a thread: what has changed, the contexts made of it, or why OpenSSL refuses them."""
        looks = [look for look in (watched.look() for watched in self._watched) if look is not None]
        new = {id(look.watched): look.value for look in looks if look.value is not None}
        if not new:
            return looks, None, ""
        try:
            return looks, self._build(new), ""
        except TlsError as error:
            return looks, None, str(error)

    def _build(self, new: dict[int, Any]) -> ServerContexts:
        main = self._main.site(new)
        sites = [site.site(new) for site in self._sites]
        return ServerContexts(main.pairs, self._options, main.clients, sites, may_be_empty=self.lookup is not None)

    def _looked_up(self, pair: KeyPair) -> ServerConnectionCreator:
        """Of a pair that a table has named; it may run in a thread."""
        return ServerConnectionCreator(self._contexts.context([pair], self._main.site({}).clients))


def _watch_pair(files: PairFiles) -> _Watched[KeyPair]:
    return _Watched((files.certificate, files.key), lambda: KeyPair.load(files.certificate, files.key))


def _files(looks: Sequence[_Look[Any]]) -> str:
    return " ".join(dict.fromkeys(path for look in looks for path in look.watched.files))


def _then(found: Wait[Any], change: Callable[[Any], T]) -> Wait[T]:
    """The value of a wait, changed."""
    changed: Wait[T] = Wait(found.cancel)

    def done() -> None:
        try:
            value = found.result()
        except BaseException as error:
            if not changed.done:
                changed.fail(error)
        else:
            if not changed.done:
                changed.fire(change(value))

    found.when_done(done)
    return changed
