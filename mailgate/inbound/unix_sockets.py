"""Who may connect to a listener's unix sockets: mode, owner and group of their files.

Whoever can write to a socket may relay through it (`relay_from` is for addresses), so by default only the gateway's user and
group can. With `twistd --uid` sockets are made as root, and belong to root unless `socket_owner` says whose they are.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailgate.config import values as v
from mailgate.config.diagnostics import Problem
from mailgate.config.lexer import Token
from mailgate.config.schema import Block, Directive
from mailgate.registry import Report

KEEP = -1
"""For chown(2): as it is."""


@dataclass(frozen=True, slots=True)
class SocketAccess:
    """Permission bits, and whose the file is."""

    mode: int = 0o660
    owner: int = KEEP
    group: int = KEEP

    @property
    def gives_away(self) -> bool:
        return self.owner != KEEP or self.group != KEEP

    def apply(self, path: str) -> None:
        """The owner first: for no moment may somebody connect who should not. :raises OSError: we may not."""
        if self.gives_away:
            os.chown(path, self.owner, self.group)
        os.chmod(path, self.mode)


DEFAULT_ACCESS = SocketAccess()


class _Mode(v.Value):
    """Permission bits in octal digits."""

    metavar = "MODE"

    def parse_word(self, word: Token, scope: v.Scope) -> int:
        if not re.fullmatch(r"0?[0-7]{3}", word.text):
            raise Problem(word.span, f"`{word.shown}` is no mode", code="E0505", hint="three octal digits, such as `0660`")
        return int(word.text, 8)

    def show(self, value: Any) -> str:
        return f"{value:04o}"


class SocketDirectives(Block):
    """The directives of `smtp`, `submission` and `lmtp` blocks."""

    endpoints: Any

    socket_mode = Directive(
        "socket_mode",
        _Mode(),
        default=DEFAULT_ACCESS.mode,
        doc="The mode of unix sockets: who can write to one may send mail through it.",
    )
    socket_owner = Directive(
        "socket_owner", v.String("USER"), default="", doc="The owner of unix sockets, name or number; by default who makes them."
    )
    socket_group = Directive(
        "socket_group",
        v.String("GROUP"),
        default="",
        doc="The group of unix sockets, name or number; by default that of the gateway.",
    )

    _access = DEFAULT_ACCESS

    @property
    def socket_access(self) -> SocketAccess:
        """Known after `check_sockets`."""
        return self._access

    def check_sockets(self, report: Report) -> None:
        """Look up the names; warn of settings that no address of the block has a use for."""
        owner = self._number("socket_owner", self.socket_owner, lambda name: pwd.getpwnam(name).pw_uid, "user", report)
        group = self._number("socket_group", self.socket_group, lambda name: grp.getgrnam(name).gr_gid, "group", report)
        self._access = SocketAccess(self.socket_mode, owner, group)
        if any(endpoint.scheme == "unix" for endpoint in self.endpoints or ()):
            return
        for name in ("socket_mode", "socket_owner", "socket_group"):
            if self.span_of(name) is not None:
                hint = "there is no unix:// address"
                report.warning(self.span_of(name), f"`{name}` has no effect here", code="W0714", hint=hint)

    def _number(self, directive: str, name: str, look_up: Callable[[str], int], what: str, report: Report) -> int:
        if not name or name.isdecimal():
            return int(name) if name else KEEP
        try:
            return look_up(name)
        except KeyError:
            report.error(self.span_of(directive), f"there is no {what} `{name}` on this machine", code="E0724")
            return KEEP
