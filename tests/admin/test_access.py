"""Who may do what: by user, by the socket's mode, by token; whom a browser may be led to."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from mailgate.admin.access import Access, is_plain_host, tokens
from mailgate.config.places import SecretText
from mailgate.registry.administration import Role

STRANGER = 12345
TOKENS = tokens([("view", SecretText("look")), ("admin", SecretText("all"))])


class RoleTests(SynchronousTestCase):
    def test_table(self) -> None:
        group, everyone, tcp = Access(TOKENS, Role.OPERATE), Access(TOKENS, Role.VIEW), Access(TOKENS)
        for access, uid, authorization, expected in (
            (group, 0, None, Role.ADMIN),
            (group, os.geteuid(), None, Role.ADMIN),
            (group, STRANGER, None, Role.OPERATE),
            (everyone, STRANGER, None, Role.VIEW),
            (everyone, STRANGER, b"Bearer all", Role.ADMIN),
            (group, STRANGER, b"Bearer look", Role.OPERATE),
            (tcp, None, None, Role.NOBODY),
            (tcp, None, b"Bearer look", Role.VIEW),
            (tcp, None, b"bearer  look ", Role.VIEW),
            (tcp, None, b"Bearer lookk", Role.NOBODY),
            (tcp, None, b"Bearer ", Role.NOBODY),
            (tcp, None, b"Basic look", Role.NOBODY),
            (Access(), None, b"Bearer ", Role.NOBODY),
        ):
            self.assertIs(access.role(uid, authorization), expected, (access.anyone, uid, authorization))


class HostTests(SynchronousTestCase):
    def test_only_names_that_nobody_else_can_hold(self) -> None:
        for host, plain in (
            (None, True),
            (b"127.0.0.1:8025", True),
            (b"[::1]:8025", True),
            (b"localhost", True),
            (b"attacker.example:8025", False),
            (b"127.0.0.1.attacker.example", False),
            (b"localhost.attacker.example", False),
            (b"[attacker.example]:80", False),
        ):
            self.assertEqual(is_plain_host(host), plain, host)
