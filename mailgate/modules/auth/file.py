"""`auth.file`: users and hashed passwords in a text file that is read again when it changes.

One user a line, ``user:hash``, as htpasswd (`htpasswd -B`), `doveadm pw` and `mkpasswd` write them; lines that begin with ``#``
and empty lines are nothing. Every line must be good: one that can't be used is an error with its number, not a user who can't
log in.
"""

from __future__ import annotations

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.events import Event, EventLog
from mailgate.interfaces import Account, IAccountStore, Proof
from mailgate.modules._watched import FileProblem, WatchedFile
from mailgate.modules.auth._accounts import NOBODY, account_of, proofs_of
from mailgate.passwords import Form, PasswordError, read_secret
from mailgate.registry import Module, ModuleContext

MOST_COMPLAINTS = 10
"""Lines of one file that are complained of."""
_HASHES = tuple(form.value for form in Form if form is not Form.PLAIN)

_log = EventLog("mailgate.auth")


@implementer(IAccountStore)
class FileAuth(Module):
    """Users in a text file of `user:hash` lines, read again when it changes."""

    name = "auth.file"
    path = Argument("PATH", v.Path(), doc="The file: `user:hash` a line.", origin="maddy")
    schemes = Directive(
        "schemes",
        v.List(v.Choice(*_HASHES, Form.PLAIN.value), minimum=1),
        default=_HASHES,
        doc="The forms that secrets may have; plain passwords must be asked for. With `plain` alone CRAM-MD5 and SCRAM-SHA-256"
        " are possible, with `scram-sha-256` and `plain` SCRAM-SHA-256.",
    )
    reload_interval = Directive(
        "reload_interval", v.Duration(minimum=0.1), default=5.0, doc="How often to look whether the file has changed."
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._forms = frozenset(Form(word) for word in self.schemes)
        self.proofs: frozenset[Proof] = proofs_of(self._forms)
        self._file: WatchedFile[dict[str, str]] = WatchedFile(
            self.path, self._parse, _log, Event.ACCOUNTS_RELOADED, Event.ACCOUNTS_FAILED, {"provider": self.label}, len
        )

    def configure(self, report: Report) -> None:
        try:
            self._file.load()
        except FileProblem as problem:
            if not problem.lines:
                report.error(self.span, f"the users in `{self.path}` can't be read: {problem}", code="E0782")
            for number, complaint in problem.lines[:MOST_COMPLAINTS]:
                report.error(self.span, f"{self.path}:{number}: {complaint}", code="E0782")

    async def start(self) -> None:
        assert self.context.adapters is not None
        self._file.watch(self.context.adapters, self.reload_interval)

    async def stop(self) -> None:
        self._file.stop()

    @property
    def decoy(self) -> str:
        return next(iter(self._file.content.values()), NOBODY)

    def account(self, user: str) -> Account | None:
        return account_of(user, self._file.content)

    def _parse(self, text: str) -> dict[str, str]:
        secrets: dict[str, str] = {}
        wrong: list[tuple[int, str]] = []
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            user, colon, secret = line.partition(":")
            complaint = self._complaint(user, secret, user in secrets) if colon else "a line is `user:hash`"
            if complaint:
                wrong.append((number, complaint))
            else:
                secrets[user] = secret
        if wrong:
            raise FileProblem(f"line {wrong[0][0]}: {wrong[0][1]}", tuple(wrong))
        return secrets

    def _complaint(self, user: str, secret: str, known: bool) -> str:
        if known:
            return f"the user `{user}` stands here twice"
        if not user or not user.isprintable():
            return "this is no name for a user"
        try:
            form = read_secret(secret).form
        except PasswordError as error:
            return f"the secret of `{user}` can't be used: {error}"
        if form not in self._forms:
            return f"the secret of `{user}` is {form.value}, which `schemes` does not have"
        return ""
