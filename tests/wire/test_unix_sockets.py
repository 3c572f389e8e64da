"""socket_mode, socket_owner, socket_group: whose the file of a unix listener is, from before the first connection to the end."""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import TestCase

from mailgate.inbound.ports import CannotBind
from mailgate.registry import build
from mailgate.testing.client import connect
from mailgate.testing.gateway import WholeGateway
from tests.support.adapters import real_adapters


class UnixSockets(TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.socket = self.home / "in.sock"

    async def start(self, directives: str = "") -> WholeGateway:
        gateway = WholeGateway(f"lmtp unix://in.sock {{\n tls off\n{directives}\n discard\n}}\n", real_adapters(), str(self.home))
        await gateway.start()
        self.addCleanup(gateway.stop)
        return gateway

    @property
    def mode(self) -> int:
        return self.socket.stat().st_mode & 0o777

    async def greeting(self) -> bytes:
        from twisted.internet import reactor

        client = await connect(reactor, f"unix://{self.socket}")
        self.addCleanup(client.close)
        return await client.reply()

    async def test_by_default_the_gateways_user_and_group_may_connect(self) -> None:
        await self.start()
        self.assertEqual(self.mode, 0o660)
        self.assertEqual((await self.greeting())[:3], b"220")

    async def test_socket_mode(self) -> None:
        await self.start("socket_mode 0600")
        self.assertEqual(self.mode, 0o600)

    async def test_socket_mode_whatever_the_umask(self) -> None:
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        await self.start("socket_mode 0666")
        self.assertEqual(self.mode, 0o666)

    async def test_socket_owner_and_socket_group_by_name_and_by_number(self) -> None:
        if os.getuid() != 0:
            self.skipTest("only root can give files away")
        nobody = pwd.getpwnam("nobody")
        group = grp.getgrgid(nobody.pw_gid)
        for owner, of_group in (("nobody", group.gr_name), (str(nobody.pw_uid), str(nobody.pw_gid))):
            gateway = await self.start(f"socket_owner {owner}\nsocket_group {of_group}\nsocket_mode 0620")
            status = self.socket.stat()
            self.assertEqual((status.st_uid, status.st_gid, self.mode), (nobody.pw_uid, nobody.pw_gid, 0o620))
            self.assertEqual((await self.greeting())[:3], b"220")
            await gateway.stop()
            self.assertFalse(self.socket.exists())

    async def test_nobody_may_connect_before_it_is_whose_it_should_be(self) -> None:
        modes: list[int] = []
        chown = os.chown

        def watched(path: Any, uid: int, gid: int) -> None:
            modes.append(self.mode)
            chown(path, uid, gid)

        with mock.patch("os.chown", watched):
            await self.start(f"socket_owner {os.getuid()}\nsocket_mode 0666")
        self.assertEqual((modes, self.mode), ([0o600], 0o666))

    async def test_a_socket_that_can_not_be_given_away_stops_the_start_and_is_not_left_behind(self) -> None:
        refused = mock.patch("os.chown", side_effect=PermissionError(1, "Operation not permitted"))
        with refused, self.assertRaises(CannotBind) as caught:
            await self.start("socket_owner 12345")
        self.assertIn(f"cannot listen on unix://{self.socket}: Operation not permitted", str(caught.exception))
        self.assertFalse(self.socket.exists())

    def test_mistakes_are_told_at_load(self) -> None:
        for directive, code, message in (
            ("socket_owner no-such-user", "E0724", "there is no user `no-such-user` on this machine"),
            ("socket_group no-such-group", "E0724", "there is no group `no-such-group` on this machine"),
            ("socket_mode rw", "E0505", "`rw` is no mode"),
            ("socket_mode 0888", "E0505", "`0888` is no mode"),
        ):
            built = build(f"lmtp unix:///in.sock {{\n tls off\n {directive}\n discard\n}}\n")
            self.assertEqual([(one.code, one.message) for one in built.diagnostics], [(code, message)])
            self.assertTrue(str(built.diagnostics[0].span).startswith("<text>:3:"))

    def test_without_a_unix_address_they_have_no_effect(self) -> None:
        built = build("lmtp tcp://127.0.0.1:24 {\n tls off\n socket_mode 0600\n discard\n}\n")
        self.assertEqual([(one.code, one.message) for one in built.diagnostics], [("W0714", "`socket_mode` has no effect here")])
