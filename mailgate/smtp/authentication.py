"""The AUTH command in the server engine (RFC 4954): when it may come, what must wait for it, and how often it may fail.

The engine carries the lines of an exchange; `sasl_server` reads them, and the driver judges the credentials. What stays here is
what every server must decide alike:

- AUTH comes in clear only where the operator says so (538), once (503), outside of a transaction, and for a mechanism
  that is offered.
- `*` ends an exchange (501), and a line of one is never looked at as a command.
- Lines of AUTH may have 12288 octets, since tokens are long (RFC 4954 4); a longer one is 500 5.5.6.
- Where login is required, the commands marked in the command table are 530 without it, and a client that never logs in has a
  number of commands only. The failed login that would be the Nth is 421: guessing. No delivered message takes these counts
  back, nor does STARTTLS. An AUTH that was not listened to (454, 538) is a command of which nothing came: a hundred, then 421.
"""

from __future__ import annotations

from mailgate.smtp import command as grammar
from mailgate.smtp import extensions, replies
from mailgate.smtp.dialogue import Dialogue
from mailgate.smtp.events import Auth, CloseReason
from mailgate.smtp.reply import Reply
from mailgate.smtp.settings import ServerSettings

MAX_AUTH_LINE = 12288
"""Octets of an AUTH line or a response without CRLF (RFC 4954 4, errata: base64 of 9216)."""
RUNAWAY_AUTH_LINE = 16384
"""Beyond it such a line is no mistake: 421 and close, unless commands may be as long."""


class AuthDialogue(Dialogue):
    """One connection that may log in."""

    __slots__ = (
        "_auth_failures",
        "_authenticated",
        "_exchange",
        "_lacking",
        "_locked",
        "_plain_lines",
        "_plain_settings",
        "_tls",
        "_unauthenticated",
    )

    def __init__(self, settings: ServerSettings, *, tls: bool, lacking: frozenset[str], greeted: bool) -> None:
        super().__init__(settings, greeted=greeted)
        self._tls = tls
        self._lacking = lacking
        """Mechanisms that can't be used on this connection."""
        self._auth_failures = 0
        self._unauthenticated = 0
        """Commands before a login, where one is required."""
        self._plain_settings = not settings.disable_commands and settings.max_command_length >= grammar.PLAIN_LENGTH
        self._forget_login()

    def _forget_login(self) -> None:
        self._exchange = ""
        """The mechanism of an AUTH that waits for the client's next line."""
        self._set_authenticated(False)

    def _set_authenticated(self, authenticated: bool) -> None:
        """Login by AUTH, or by a trusted client's word (XCLIENT LOGIN), or none any more."""
        self._authenticated = authenticated
        self._locked = self._settings.auth_required and not authenticated
        """Login is required and has not happened."""
        self._admit_plain_lines()

    def _admit_plain_lines(self) -> None:
        self._plain_lines = self._plain_settings and not self._exchange and not self._locked
        """Whether the short way for plain MAIL and RCPT lines gives what the long one would."""

    @property
    def authenticated(self) -> bool:
        return self._authenticated

    # The command and its exchange

    def _auth(self, argument: bytes) -> None:
        words = argument.split()
        if not self._settings.auth_mechanisms:
            self._say(replies.NOT_IMPLEMENTED)
        elif self._authenticated:
            self._say(replies.AUTHENTICATED)
        elif not (self._tls or self._settings.insecure_auth):
            self._refuse(replies.AUTH_NEEDS_TLS)
        elif not 1 <= len(words) <= 2:
            self._say(replies.BAD_AUTH)
        else:
            mechanism = words[0].decode("latin-1").upper()
            if mechanism in extensions.mechanisms(self._settings, self._lacking):
                self._ask(Auth(mechanism, words[1] if len(words) == 2 else None, initial=True))
            else:
                self._say(replies.UNKNOWN_MECHANISM)

    def _continue_auth(self, line: bytes) -> None:
        mechanism, self._exchange = self._exchange, ""
        if line == b"*":
            self._admit_plain_lines()
            self._say(replies.AUTH_CANCELLED)
        else:
            self._ask(Auth(mechanism, line, initial=False))

    def _auth_answered(self, question: Auth, reply: Reply) -> None:
        self._exchange = question.mechanism if reply.code == 334 else ""
        self._set_authenticated(reply.code == 235)
        if reply.code == 334:  # one line, whatever its length, and with its space when it is empty (RFC 4954 4)
            self._output.append(b"334 %s\r\n" % reply.text.encode("ascii"))
            return
        if reply.code == 235:
            self._say(reply)
            return
        if reply.code != 535:
            self._refuse(reply)
            return
        self._auth_failures += 1
        if self._auth_failures >= self._settings.max_auth_failures:
            self._close(CloseReason.AUTH_FAILURES)
        else:
            self._say(reply)

    # What waits for it

    def _count_unauthenticated(self, verb: bytes) -> bool:
        """One more command without the login that is required; false when it was one too many and the session is closed."""
        allowed = self._settings.max_unauthenticated_commands
        if not allowed or verb.upper() in (b"AUTH", b"QUIT"):
            return True
        self._unauthenticated += 1
        if self._unauthenticated > allowed:
            self._close(CloseReason.UNAUTHENTICATED)
            return False
        return True

    # Long lines

    def _line_limits(self, start: int) -> grammar.LineLimits:
        limits = super()._line_limits(start)
        if not self._settings.auth_mechanisms or not (self._exchange or self._buffer[start : start + 5].upper() == b"AUTH "):
            return limits
        length, runaway = max(limits.length, MAX_AUTH_LINE), max(limits.runaway, RUNAWAY_AUTH_LINE)
        return grammar.LineLimits(length, runaway, replies.AUTH_LINE_TOO_LONG)

    def _no_command(self, reply: Reply) -> None:
        if self._exchange:  # a response that can't be one: the exchange is over (RFC 4954 4)
            self._exchange = ""
            self._admit_plain_lines()
        super()._no_command(reply)
