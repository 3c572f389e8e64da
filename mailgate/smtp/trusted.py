"""XCLIENT and XFORWARD in the server engine: the words of a client that may speak for others.

Whether this client may is a matter of the settings that the session was made with: to others the commands are not announced, and
are 550 whatever they say. What stays here is what every server must decide alike:

- Neither comes inside a transaction (503), and each is read as a whole before anything follows from it (501).
- XCLIENT makes the connection another client's: the driver judges that client as it did the first; then all that was said
  before is forgotten, login included, the counts of what the client may do wrong begin again, and the answer is a new
  greeting. A client that is refused hears so in its place, and the connection is closed. Several commands add up, until
  there was a transaction: the next one begins with nothing, so that no client inherits another's login.
- XFORWARD is told to the driver and has no effect on the session. Several add up; they hold for one transaction.
"""

from __future__ import annotations

from abc import abstractmethod

from mailgate.smtp import replies, xclient
from mailgate.smtp.authentication import AuthDialogue
from mailgate.smtp.command import Phase
from mailgate.smtp.events import CloseReason, XClient, XForward
from mailgate.smtp.reply import MailError, Reply
from mailgate.smtp.settings import ServerSettings
from mailgate.smtp.xclient import NOTHING, Identity


class TrustedDialogue(AuthDialogue):
    """One connection whose client may speak for others."""

    __slots__ = ("_forwarded", "_identity", "_phase", "_served")

    _phase: Phase

    def __init__(self, settings: ServerSettings, *, tls: bool, lacking: frozenset[str], greeted: bool) -> None:
        self._identity = NOTHING
        self._forwarded = NOTHING
        self._served = False
        """There was a transaction since the last XCLIENT."""
        super().__init__(settings, tls=tls, lacking=lacking, greeted=greeted)

    @abstractmethod
    def _forget(self) -> None:
        """As after the greeting."""

    @property
    def faults(self) -> int:
        """How often the client was in the wrong since the last delivered message: junk, refused recipients, failed logins (these
        since the session began)."""
        return self._errors + self._rejected + self._auth_failures

    def _xclient(self, argument: bytes) -> None:
        identity = self._read("XCLIENT", argument, self._settings.xclient)
        if identity is not None:
            self._ask(XClient(identity if self._served else self._identity.with_more(identity)))

    def _xclient_answered(self, question: XClient, reply: Reply) -> None:
        if reply.code >= 300:
            self._say(reply)
            if not self._closed:
                self._end(CloseReason.REPLIED)
            return
        self._forget()
        self._served = False
        self._identity = question.identity
        self._forgive()
        self._auth_failures = self._unauthenticated = 0
        self._set_authenticated(bool(question.identity.get("LOGIN")))
        self._write(self._greeting())

    def _forget_login(self) -> None:
        super()._forget_login()
        if self._identity.get("LOGIN"):  # what was said in clear is no login behind STARTTLS either
            self._identity = self._identity.without("LOGIN")

    def _xforward(self, argument: bytes) -> None:
        identity = self._read("XFORWARD", argument, self._settings.xforward)
        if identity is not None:
            self._forwarded = self._forwarded.with_more(identity)
            self._events.append(XForward(self._forwarded))
            self._say(replies.OK)

    def _forget_forwarded(self) -> None:
        if self._forwarded is not NOTHING:
            self._forwarded = NOTHING
            self._events.append(XForward(NOTHING))

    def _read(self, verb: str, argument: bytes, trusted: bool) -> Identity | None:
        refusal = replies.NOT_ALLOWED
        if trusted and self._phase > Phase.GREETED:
            refusal = replies.IN_TRANSACTION
        elif trusted:
            try:
                return xclient.parse(verb, argument)
            except MailError as error:
                refusal = error.reply
        self._say(refusal)
        return None
