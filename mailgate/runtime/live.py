"""The gateway through its reloads: one that serves, and older ones until their last session has ended.

A reload reads and checks the file in a thread, runs its `test` blocks, makes a successor beside the gateway that serves, binds
what is new, starts its modules, and only when all of that went well changes over, within one turn of the event loop. Whatever
goes wrong before that turn, nothing changes, and the `Outcome` says why. After it, nothing can.

Sessions stay with the configuration they began under, idle ones too; nobody is cut off. An old configuration is released when its
last session ends, and at the latest when the process stops, within its shutdown_timeout.

Reloads come one after another. Those asked for while one runs are one: it reads the file when the running one is done.
Asked for during the start, it waits for that; during the stop, it is refused.

`Companion` is for what lives beside the gateway and has a share in its configuration: the control socket, for one.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from twisted.internet.defer import CancelledError, Deferred, DeferredList

from mailgate.adapters import Adapters
from mailgate.config.diagnostics import Diagnostic
from mailgate.events import Event, EventLog
from mailgate.inbound.ports import CannotBind
from mailgate.net.waiting import DeadlineExceeded, spawn, within
from mailgate.registry import Configuration
from mailgate.registry.effective import Change
from mailgate.runtime.assembly import Assembler, Candidate
from mailgate.runtime.gateway import Gateway, Refusal, drain
from mailgate.runtime.generations import ends_listening, fixed_changes

START_TIME = 60.0
"""Seconds for the modules of a new configuration to start: a database that does not answer must not keep a reload open."""
MOST_LINES = 20
"""Errors, and changes, of one reload that the log names."""
NOTHING_LISTENS = "the file has no smtp, submission or lmtp block, so nothing would listen: is all of it there?"

_events = EventLog("mailgate.runtime")


class Verdict(Enum):
    """How a reload ended."""

    DONE = "reloaded"
    FINE = "fine"
    """A dry run that found nothing to object to."""
    REFUSED = "refused"
    """The file is not fit to run: errors, failed tests, what can't be changed, bound or started."""
    STOPPING = "stopping"
    """The gateway ends."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``reason``: why nothing changed; one sentence, the ``diagnostics`` have the places."""

    verdict: Verdict
    reason: str = ""
    diagnostics: tuple[Diagnostic, ...] = ()
    changes: tuple[Change, ...] = ()
    seconds: float = 0.0


class Companion:
    """What lives beside the gateway. `prepare` may refuse a configuration; then `give_up` follows, else `adopt`."""

    def prepare(self, configuration: Configuration) -> None:
        """Open what this configuration asks for. :raises CannotBind: it can't be had."""

    def give_up(self) -> None:
        """The configuration that was prepared last comes to nothing."""

    def adopt(self) -> None:
        """The configuration that was prepared last serves from now on."""

    def reloading(self) -> None:
        """A reload begins; dry runs don't count."""

    def reloaded(self, outcome: Outcome) -> None:
        """It is over."""

    def stopping(self) -> None:
        """The gateway begins to drain."""

    async def stop(self) -> None:
        """The gateway is down."""


class LiveGateway:
    """See the module's docstring."""

    def __init__(
        self,
        assembler: Assembler,
        configuration: Configuration,
        adapters: Adapters,
        *,
        companions: Sequence[Companion] = (),
        make: Callable[[Configuration], Gateway] = Gateway,
    ) -> None:
        """``make`` makes the gateway of one configuration."""
        self._assembler = assembler
        self._adapters = adapters
        self.released: Callable[[], None] | None = None
        """Called when an old configuration has come to its end."""
        self.companions = list(companions)
        self.consent: Callable[[], Awaitable[None]] | None = None
        """Awaited before each change over, when everything is ready. :raises Refusal: it must not be. Who asks for it also logs
        what becomes of reloads."""
        self._make = make
        self.current = make(configuration)
        self.old: list[Gateway] = []
        """Superseded, not released: the eldest first."""
        self.generation = 1
        self.ready = False
        """Started, and not stopping."""
        self.last: Outcome | None = None
        """How the last reload ended; without its changes and diagnostics, which keep whole files alive."""
        self.reloads = dict.fromkeys(Verdict, 0)
        self.started_at = 0.0
        """Wall time of the start, and of the last change of configuration."""
        self.reloaded_at = 0.0
        self._asked: list[tuple[bool, Deferred[Outcome]]] = []
        self._worker: Deferred[None] | None = None
        self._worked: Deferred[None] | None = None
        """Fires when the worker has really come to its end, also when it was cancelled."""
        self._releasing: list[Deferred[None]] = []
        self._stopping = False
        assembler.adopt(configuration)

    @property
    def state(self) -> str:
        return "serving" if self.ready else "draining" if self._stopping else "starting"

    @property
    def session_count(self) -> int:
        return sum(gateway.session_count for gateway in (*self.old, self.current))

    # Start and stop

    def bind(self) -> None:
        """:raises CannotBind: nothing stays open then."""
        for companion in self.companions:
            companion.prepare(self.current.configuration)
        try:
            self.current.bind()
        except CannotBind:
            for companion in self.companions:
                companion.give_up()
            raise

    async def start(self) -> None:
        await self.current.start()
        self.ready = True
        self.started_at = self.reloaded_at = self._adapters.wall_time()
        for companion in self.companions:
            companion.adopt()
        self._work_on()

    async def stop(self) -> None:
        """Drain all sessions, old and new, then take everything down. Safe at any stage, and twice."""
        self.ready = False
        first, self._stopping = not self._stopping, True
        if self._worked is not None and self._worker is not None:
            worked = self._worked
            self._worker.cancel()
            await worked
        self._answer_all(Outcome(Verdict.STOPPING, "the gateway stops"))
        gateways = [*self.old, self.current]
        if first:
            _events.info(Event.GATEWAY_STOP, sessions=self.session_count)
            for companion in self.companions:
                companion.stopping()
        await drain(gateways)
        if self._releasing:
            await DeferredList(self._releasing)
        await self.current.stop_modules()
        for companion in self.companions:
            await companion.stop()

    # Reload

    def reload(self, *, dry_run: bool = False) -> Deferred[Outcome]:
        """Read the file again, and change over to it. Never fails: whatever is wrong is in the outcome."""
        answer: Deferred[Outcome] = Deferred()
        self._asked.append((dry_run, answer))
        if self._stopping:
            self._answer_all(Outcome(Verdict.STOPPING, "the gateway stops"))
        else:
            self._work_on()
        return answer

    def _work_on(self) -> None:
        if self._asked and self.ready and self._worked is None:
            self._worked = Deferred()
            self._worker = spawn(self._work())
            self._worker.addErrback(lambda failure: failure.trap(CancelledError))

    async def _work(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, []
            for dry_run in (True, False):
                waiting = [answer for dry, answer in asked if dry is dry_run]
                if waiting:
                    outcome = await self._attempt(dry_run)
                    for answer in waiting:
                        answer.callback(outcome)
        worked, self._worked = self._worked, None
        assert worked is not None
        worked.callback(None)

    def _answer_all(self, outcome: Outcome) -> None:
        asked, self._asked = self._asked, []
        for _, answer in asked:
            answer.callback(outcome)

    async def _attempt(self, dry_run: bool) -> Outcome:
        """One reload, from the file to its outcome; an incident of ours is a refusal."""
        if self._stopping:
            return Outcome(Verdict.STOPPING, "the gateway stops")
        begun = self._adapters.reactor.seconds()
        if not dry_run:
            for companion in self.companions:
                companion.reloading()
        try:
            outcome = await self._reload(dry_run)
        except CancelledError:
            outcome = Outcome(Verdict.STOPPING, "the gateway stops")
        except Exception as error:
            _events.incident("reload", error)
            outcome = Outcome(Verdict.REFUSED, f"internal error, see the log: {error!r}")
        outcome = replace(outcome, seconds=self._adapters.reactor.seconds() - begun)
        if not dry_run:
            self._record(outcome)
            for companion in self.companions:
                companion.reloaded(outcome)
        return outcome

    async def _reload(self, dry_run: bool) -> Outcome:
        current = self.current.configuration
        try:
            candidate: Candidate = await self._adapters.run_in_thread(self._assembler.read_again, current)
        except OSError as error:
            return Outcome(Verdict.REFUSED, f"{self._assembler.path}: {error.strerror or error}")
        found = Outcome(Verdict.FINE, "", candidate.diagnostics, candidate.changes)
        if candidate.configuration is None:
            errors = [diagnostic for diagnostic in candidate.diagnostics if diagnostic.is_error]
            more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
            return replace(found, verdict=Verdict.REFUSED, reason=f"{errors[0]}{more}")
        if ends_listening(candidate.configuration, current):
            return replace(found, verdict=Verdict.REFUSED, reason=NOTHING_LISTENS)
        fixed = fixed_changes(candidate.configuration, current)
        if fixed:
            return replace(found, verdict=Verdict.REFUSED, reason="; ".join(fixed))
        if dry_run:
            return found
        trouble = await self._replace(candidate.configuration)
        return replace(found, verdict=Verdict.REFUSED if trouble else Verdict.DONE, reason=trouble)

    async def _replace(self, configuration: Configuration) -> str:
        """Make a successor, and change over to it. Returns what was in the way; "" if nothing."""
        successor = self._make(configuration)
        prepared: list[Companion] = []
        try:
            successor.succeed(self.current)
            successor.bind()
            for companion in self.companions:
                companion.prepare(configuration)
                prepared.append(companion)
            await within(successor.start_modules(), START_TIME, self._adapters.reactor)
            if self.consent is not None:
                await self.consent()
        except BaseException as error:
            for companion in prepared:
                companion.give_up()
            await successor.stop()
            if isinstance(error, CannotBind):
                return _explained(error)
            if isinstance(error, Refusal):
                return str(error)
            if isinstance(error, DeadlineExceeded):
                return f"a module did not start within {START_TIME:g} s"
            if isinstance(error, CancelledError) or not isinstance(error, Exception):
                raise
            _events.incident("reload", error)
            return f"a module can't start: {error}"
        self._change_over(successor)
        await successor.settled()
        return ""

    def _change_over(self, successor: Gateway) -> None:
        """One turn of the event loop; nothing in it waits, and nothing in it can be refused."""
        previous, self.current = self.current, successor
        self._assembler.adopt(successor.configuration)
        self.generation += 1
        self.reloaded_at = self._adapters.wall_time()
        successor.accept()
        previous.superseded()
        for companion in self.companions:
            companion.adopt()
        self.old.append(previous)
        releasing = spawn(self._release(previous))
        if not releasing.called:
            self._releasing.append(releasing)
            releasing.addBoth(lambda _: self._releasing.remove(releasing))

    async def _release(self, gateway: Gateway) -> None:
        """Wait for its sessions to end of their own accord, or by `stop`, then let it go."""
        await gateway.emptied()
        await gateway.stop()
        self.old.remove(gateway)
        _events.info(Event.CONFIGURATION_RELEASED, old=len(self.old))
        if self.released is not None and not self._stopping:
            self._adapters.reactor.callLater(0, self.released)  # nothing of ours holds it any more then

    def _record(self, outcome: Outcome) -> None:
        self.reloads[outcome.verdict] += 1
        self.last = replace(outcome, diagnostics=(), changes=())
        if self.consent is not None:
            return
        errors = [diagnostic for diagnostic in outcome.diagnostics if diagnostic.is_error]
        if outcome.verdict is Verdict.DONE:
            _events.info(
                Event.RELOAD,
                generation=self.generation,
                changes=len(outcome.changes),
                sessions=sum(gateway.session_count for gateway in self.old),
                seconds=outcome.seconds,
            )
            for change in outcome.changes[:MOST_LINES]:
                before, after = (setting and setting.line for setting in (change.before, change.after))
                _events.info(Event.CONFIGURATION_CHANGED, where=" ".join(change.path), old=before, new=after)
        else:
            _events.error(Event.RELOAD_REFUSED, reason=outcome.reason, errors=len(errors))
            for diagnostic in errors[:MOST_LINES]:
                _events.error(Event.CONFIGURATION_ERROR, place=diagnostic.span, code=diagnostic.code, error=diagnostic.message)


def _explained(error: CannotBind) -> str:
    """Why an address can't be had now, though it might have been at the start."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    if cause is not None and cause.errno in (errno.EACCES, errno.EPERM):
        return f"{error}; the process may have been allowed to before it dropped its privileges: restart it"
    if cause is not None and cause.errno == errno.EADDRINUSE:
        return f"{error}; if it is this gateway's own, under `*` or an address that the file no longer has: restart it"
    return str(error)
