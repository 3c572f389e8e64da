"""`auth.pam`: passwords judged by the machine's PAM."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any

from twisted.internet.task import deferLater
from zope.interface import implementer

from mailgate.clients.pam import MAX_RESPONSE, Pam, PamMissing, PamTrouble, PamVerdict
from mailgate.clients.threads import Threads, Unanswerable
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Directive
from mailgate.events import Event, EventLog
from mailgate.interfaces import Identity, IPasswordJudge, Proof
from mailgate.modules.auth._known import KnownLogins
from mailgate.registry import Module, ModuleContext

PLACES = ("/etc/pam.d", "/usr/etc/pam.d", "/usr/lib/pam.d")
"""Where Linux-PAM, as it is built usually, looks for a service's file."""
MAX_DELAY = 20.0
"""Of the seconds for which modules want a client to wait that was wrong; clients and `PATIENCE` wait no minute for an answer."""
_WRONG = frozenset({"auth_err", "user_unknown"})
"""What `auth.failed` says well enough."""
_SERVICE = re.compile(r"[a-z0-9_][a-z0-9._-]*")

_log = EventLog("mailgate.auth")


class _Link(Pam):
    """For `clients.threads`: each question is a transaction of its own, so nothing is open between two."""

    def close(self) -> None:
        pass

    def abort(self) -> None:
        """A module can't be interrupted; its thread is free again when it returns."""


@implementer(IPasswordJudge)
class PamAuth(Module):
    """The machine's PAM says whether a user's password is right, and whether the account may be used; the name that it has then
    is the user's. While it can't say, clients hear 454. Modules run in this process, with its rights."""

    name = "auth.pam"
    proofs = frozenset({Proof.PASSWORD})
    service = Directive(
        "service",
        v.String("NAME"),
        default="mailgate",
        doc="The service, a file in /etc/pam.d with `auth` and `account` lines. `pam_unix` in it judges other users than the"
        " gateway's own only for root.",
    )
    directory = Directive("directory", v.Path(), default=None, doc="Where that file is, in place of /etc/pam.d.")
    threads = Directive(
        "threads",
        v.Integer(minimum=1, maximum=64),
        default=4,
        divided=True,
        doc="Logins that are judged at the same time; more of them wait.",
    )
    timeout = Directive(
        "timeout",
        v.Duration(minimum=1, maximum=30),
        default=15.0,
        doc="For one login, its wait for a thread included. A pause that modules want after a wrong password comes on top, and"
        " holds up nobody else.",
    )
    cache = Directive(
        "cache",
        v.Duration(maximum=3600),
        default=60.0,
        doc="How long a login that was right is taken for right, from the same address, without asking again; 0: always ask.",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._threads: Threads[_Link] | None = None
        self._known: KnownLogins | None = None

    def configure(self, report: Report) -> None:
        place = self.span_of("service") or self.span
        if not _SERVICE.fullmatch(self.service):
            report.error(place, f"`{self.service}` is no name of a service", code="E0848", hint="such as `mailgate`")
        elif self.directory is not None and not os.path.isfile(os.path.join(self.directory, self.service)):
            report.error(place, f"there is no file {os.path.join(self.directory, self.service)}", code="E0848")
        elif self.directory is None and not _is_known(self.service):
            text = f"there is no file {PLACES[0]}/{self.service}: PAM would ask the service `other`"
            report.warning(place, text, code="W0848", hint="with lines such as `auth required pam_sss.so`")
        try:
            self._connect()
        except PamMissing as error:
            report.error(self.span, str(error), code="E0848", hint="Debian has it in libpam0g")

    async def start(self) -> None:
        adapters = self.context.adapters
        assert adapters is not None
        self._known = KnownLogins(adapters, self.cache)
        self._threads = Threads(self.label, self._connect, adapters, links=self.threads, deadline=self.timeout)

    async def stop(self) -> None:
        if self._threads is not None:
            await self._threads.stop()

    def _connect(self) -> _Link:
        return _Link(self.service, str(self.directory or ""))

    def check_password(self, user: str, password: str, client_ip: str) -> Any:
        if not user or not password or "\0" in user or "\0" in password or len(password.encode()) > MAX_RESPONSE:
            return None
        assert self._known is not None
        digest = self._known.digest(client_ip, user, password)
        return self._known.get(digest) or self._ask(user, password, client_ip, digest)

    async def _ask(self, user: str, password: str, client_ip: str, digest: bytes) -> Identity | None:
        assert self._known is not None
        assert self._threads is not None
        verdict: PamVerdict = await self._threads.ask(partial(_check, user=user, password=password, client_ip=client_ip))
        if not verdict.user:
            if verdict.reason not in _WRONG:
                _log.info(Event.AUTH_DENIED, provider=self.label, user=user, client=client_ip, reason=verdict.reason)
            await self._pause(verdict.delay)
            return None
        if not verdict.user.isprintable():
            raise PamTrouble(f"it has a name for {user!r} that is none: {verdict.user!r}")
        identity = Identity(verdict.user)
        self._known.add(digest, identity)
        return identity

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            assert self.context.adapters is not None
            await deferLater(self.context.adapters.reactor, min(seconds, MAX_DELAY))


def _check(link: _Link, user: str, password: str, client_ip: str) -> PamVerdict:
    try:
        return link.check(user, password, client_ip)
    except PamTrouble as error:  # about this user, for all that we know: it is not asked again, and others are asked about
        raise Unanswerable(str(error)) from error


def _is_known(service: str) -> bool:
    """Or can't be known: without /etc/pam.d it is another configuration that counts."""
    return not os.path.isdir(PLACES[0]) or any(os.path.isfile(os.path.join(place, service)) for place in PLACES)
