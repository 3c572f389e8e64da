"""What checks are made of: the base classes of `check.*` modules, ours and everybody's (docs/extending.md).

A check is configuration; what it knows of one connection is a `SessionCheck`, what it knows of one message a `MessageCheck`. Each
stage is a method, and a class overrides those it has something to do in: the others are not even called.

    stage        state           when, and what is known then
    connection   SessionCheck    before the greeting: addresses, client_name; after XCLIENT again, on a new state
    tls          SessionCheck    TLS is on, from the first byte or by STARTTLS: session.tls
    auth         SessionCheck    a login was right, and is not answered yet: session.auth_user, auth_mechanism
    sender       MessageCheck    MAIL: the hello name, the sender (as modified so far), its parameters
    rcpt         MessageCheck    each RCPT: the recipient as the client gave it, in a destination block as modified
    refused      MessageCheck    a recipient was refused, by whomever: what is answered here changes nothing any more
    body         MessageCheck    the content is here, with our Received in front; the accepted recipients
    verdict      MessageCheck    all have judged the content: the sum of what they found, once for each set of them
    close        both            the connection or the transaction is over, in whatever way: called once, last

A stage answers None to go on, or a `Reply` (4yz or 5yz) to refuse, or an awaitable of one. The checks of one stage and one block
are asked at the same time, the first refusal in written order counts, and what the others still wait for is cancelled. A
failure of any kind is 451 (before the greeting 421, at a login 454): nothing passes because something broke.

The session stages are judged for checks at the top of a listener's block only: nothing is known yet that would lead further in. A
refusal at stage tls after STARTTLS is the answer to every MAIL, or closes if it is 421.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from zope.interface import implementer

from mailgate.interfaces import ICheck, ICheckState, ISessionCheckState
from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.message.message import Message
from mailgate.registry import Module
from mailgate.smtp.reply import Reply

SESSION_STAGES = ("connection", "tls", "auth")
MESSAGE_STAGES = ("sender", "rcpt", "refused", "body", "verdict")


@dataclass(frozen=True, slots=True)
class Refused:
    """What stage refused is about: the recipient as the client gave it, and what the client hears."""

    recipient: Recipient
    reply: Reply


@implementer(ISessionCheckState)
class SessionCheck:
    """What a check keeps of one connection. ``check`` is the module, with the values of its directives."""

    def __init__(self, check: Any, session: Session) -> None:
        self.check = check
        self.session = session

    def connection(self) -> Any:
        """Judge who connects."""

    def tls(self) -> Any:
        """Judge the TLS of the connection."""

    def auth(self) -> Any:
        """Judge a login that was right; a refusal makes it wrong."""

    def close(self) -> None:
        """The connection is over."""


@implementer(ICheckState)
class MessageCheck:
    """What a check keeps of one message."""

    def __init__(self, check: Any, envelope: Envelope) -> None:
        self.check = check
        self.envelope = envelope

    @property
    def of_session(self) -> Any:
        """The `SessionCheck` of this check and connection; None if the check is not at the top of the listener's block, or has
        no session stage."""
        states = self.envelope.session.check_states
        return states.get(self.check) if states is not None else None

    def sender(self, envelope: Envelope) -> Any:
        """Judge the reverse-path, and all that is known of the session."""

    def rcpt(self, recipient: Recipient) -> Any:
        """Judge one recipient."""

    def refused(self, refused: Refused) -> Any:
        """Hear of a recipient that nobody will deliver to."""

    def body(self, message: Message) -> Any:
        """Judge the content."""

    def verdict(self, found: Any) -> Any:
        """Judge what all checks together have found: a `pipeline.content.Sum`."""

    def close(self) -> None:
        """The transaction is over."""


@implementer(ICheck)
class Check(Module):
    """The base of `check.*` modules. It names its states; without stages of its own it passes everything."""

    session_state: ClassVar[type[SessionCheck]] = SessionCheck
    message_state: ClassVar[type[MessageCheck]] = MessageCheck
    stages: frozenset[str] = frozenset()
    """Which it takes part in: found in the classes above; an instance whose settings leave some out has fewer."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        # Who makes states of another class is asked in every stage: what can't be seen must not be left out.
        found = [
            *_overridden(cls.session_state, SessionCheck, SESSION_STAGES, everything=cls.open_session is not Check.open_session),
            *_overridden(cls.message_state, MessageCheck, MESSAGE_STAGES, everything=cls.open is not Check.open),
        ]
        cls.stages = frozenset(found)

    @property
    def marks(self) -> bool:
        """Whether it may write something down about a message (`Envelope.findings_of`). Recipients who have passed different
        checks that do get their own variant of the message, in transactions of their own."""
        return False

    def open_session(self, session: Session) -> Any:
        """An `ISessionCheckState` for one connection."""
        return self.session_state(self, session)

    def open(self, envelope: Envelope) -> Any:
        """An `ICheckState` for one message."""
        return self.message_state(self, envelope)


def _overridden(state: type, base: type, stages: tuple[str, ...], *, everything: bool) -> list[str]:
    return [stage for stage in stages if everything or getattr(state, stage) is not getattr(base, stage)]


def stages_of(check: Any) -> frozenset[str]:
    """Which stages a check takes part in: all those of messages, for a class that does not say."""
    stages: frozenset[str] = getattr(check, "stages", _UNTOLD)
    return stages


def has_message_stage(check: Any) -> bool:
    return not _OF_MESSAGES.isdisjoint(stages_of(check))


def has_session_stage(check: Any) -> bool:
    return not _OF_SESSIONS.isdisjoint(stages_of(check))


_OF_MESSAGES = frozenset(MESSAGE_STAGES)
_UNTOLD = frozenset(("sender", "rcpt", "body"))
"""Those that every check had when there were no others."""
_OF_SESSIONS = frozenset(SESSION_STAGES)
