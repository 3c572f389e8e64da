"""What is asked about a client before it is greeted, and again after STARTTLS and XCLIENT.

A `Step` looks at a `Session` and answers None, or a `Reply` that refuses; it may take its time (a lookup, a limit that makes
clients wait). `Listener.bind` puts them in order; the first refusal ends the row. The contract:

- Steps run one after the other, on a session whose facts (address, TLS) are settled. What a step takes for a session it gives
  back by a function in ``session.at_end``, called once, however the session ends, and when XCLIENT makes it another client's.
- No step may hold a client for ever: after `PATIENCE` it is cancelled, and that is a failure of ours.
- A failure never lets a client in: an exception that carries a reply is that reply, any other is 421 4.3.0 with an incident id
  in the log.

A listener without steps has nothing to do with any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from twisted.internet.defer import CancelledError

from mailgate.inbound.sessions import Sessions
from mailgate.message.envelope import Session
from mailgate.net.waiting import Wait, start, within
from mailgate.smtp.reply import MailError, Reply

Step: TypeAlias = Callable[[Session], Any]
"""Maybe awaitable `Reply` or None."""

PATIENCE = 120.0
"""Seconds for one step: within the five minutes that a client waits for its greeting (RFC 5321 4.5.3.2.1)."""


class Welcome:
    """One row of steps for one session. `begin` has ``done(reply)`` hear of the end, at once if no step must be waited for, never
    after `cancel`."""

    __slots__ = ("_done", "_session", "_sessions", "_waiting")

    def __init__(self, sessions: Sessions, session: Session) -> None:
        self._sessions = sessions
        self._session = session
        self._done: Callable[[Reply | None], None] | None = None
        self._waiting: Wait[Reply | None] | None = None

    def begin(self, steps: Iterable[Step], done: Callable[[Reply | None], None]) -> None:
        answer = start(self.take(steps))
        if isinstance(answer, Wait):
            self._waiting = answer
            self._done = done
            answer.when_done(self._go_on)
        else:
            done(answer)

    async def take(self, steps: Iterable[Step]) -> Reply | None:
        """The first refusal; a failure is one."""
        try:
            for step in steps:
                answer = step(self._session)
                if answer is not None and not isinstance(answer, Reply):
                    answer = await within(answer, PATIENCE, self._sessions.reactor)
                if answer is not None:
                    return _checked(answer)
        except CancelledError:
            raise
        except MailError as error:
            return error.reply
        except Exception as error:
            incident = self._sessions.new_id()
            self._sessions.events.incident(incident, error, session=self._session.id, where="welcome")
            return Reply(421, "4.3.0", f"Internal error, incident {incident}")
        return None

    def cancel(self) -> None:
        """The client is gone, or has lost its turn."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and self._done is not None:
            self._done(waiting.result())


def give_back(session: Session) -> None:
    """Call what is due at the end of a session, each once; all are called, then the first failure is raised."""
    callbacks, session.at_end = session.at_end, None
    failed: Exception | None = None
    for callback in callbacks or ():
        try:
            callback()
        except Exception as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _checked(answer: Any) -> Reply:
    if not isinstance(answer, Reply) or not 400 <= answer.code <= 599:
        raise TypeError(f"a step answered {answer!r}")
    return answer
