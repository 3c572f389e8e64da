"""The stages of checks that belong to a connection: connection, tls, auth. See `pipeline.check`.

`SessionChecks` is made for a listener from the checks at the top of its block, and gives it steps (`inbound.welcome`). The states
live in ``session.check_states``, are made when they are first needed, and are closed through ``session.at_end``, so that after
XCLIENT, which makes the session another client's, they are made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from mailgate.events import Event, EventLog
from mailgate.message.envelope import Session
from mailgate.pipeline.check import SESSION_STAGES, has_session_stage, stages_of
from mailgate.pipeline.checks import first_refusal
from mailgate.pipeline.router import place
from mailgate.smtp.reply import MailError, Reply

_log = EventLog("mailgate.pipeline")


class _Listed:
    """A check, and where it is written."""

    __slots__ = ("check", "where")

    def __init__(self, check: Any) -> None:
        self.check = check
        self.where = place(getattr(check, "span", None))


class SessionChecks:
    """See the module's docstring. ``listen(check, stage, ask)`` is called in place of ``ask()``, for who wants to hear of it."""

    def __init__(self, checks: Iterable[Any], listen: Callable[[Any, str, Callable[[], Any]], Any] | None = None) -> None:
        listed = [_Listed(check) for check in checks if has_session_stage(check)]
        self._all = listed
        self._by_stage = {stage: [one for one in listed if stage in stages_of(one.check)] for stage in SESSION_STAGES}
        self._listen = listen

    def steps(self, stage: str) -> tuple[Callable[[Session], Any], ...]:
        """What is asked about a session in a stage; nothing where no check takes part."""
        return (partial(self._step, stage),) if self._by_stage[stage] else ()

    async def _step(self, stage: str, session: Session) -> Reply | None:
        try:
            await self.ask(stage, session)
        except MailError as error:
            fields = {"listener": session.listener, "client": session.client_ip, "session": session.id}
            _log.info(Event.SESSION_REFUSED, **fields, stage=stage, reply=error.reply, where=error.where)
            return error.reply
        return None

    async def ask(self, stage: str, session: Session) -> None:
        """:raises MailError: refused, and by which check."""
        asked = self._by_stage[stage]
        if asked:
            states = self._states(session)
            await first_refusal([(one, self._question(one.check, stage, states[one.check])) for one in asked])

    def _question(self, check: Any, stage: str, state: Any) -> Callable[[], Any]:
        ask: Callable[[], Any] = getattr(state, stage)
        listen = self._listen
        return ask if listen is None else lambda: listen(check, stage, ask)

    def _states(self, session: Session) -> dict[Any, Any]:
        states = session.check_states
        if states is None:
            states = session.check_states = {}
            session.at_end = [*(session.at_end or ()), lambda: close(session)]
            for one in self._all:
                states[one.check] = one.check.open_session(session)
        return states


def close(session: Session) -> None:
    """What checks keep of a session is closed, each whatever the others do; then the first failure is raised."""
    states, session.check_states = session.check_states, None
    failed: Exception | None = None
    for state in (states or {}).values():
        try:
            state.close()
        except Exception as error:
            failed = failed or error
    if failed is not None:
        raise failed
