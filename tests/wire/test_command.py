"""check.command: what a program of the operator's sees, what its end means, and that it has one."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailgate.clients.program import ProgramFailure, Programs
from mailgate.modules.check.command import NAMES, _content
from mailgate.registry import build
from mailgate.testing.client import connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.nexthop import NextHop
from tests.support.adapters import real_adapters
from tests.support.ports import free_port
from tests.support.scenario import statuses

CONTENT = b"From: a@x.test\r\nSubject: one\r\n\r\nhello\r\n"
OK, TEMPORARY, REFUSED = b"250 2.0.0", b"451 4.3.0", b"550 5.7.1"


def is_there(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def pipes() -> list[str]:
    """Those that we have open."""
    links = (os.path.realpath(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd"))
    return sorted(link for link in links if "pipe:" in link)


class CommandTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        directory = tempfile.TemporaryDirectory(prefix="mailgate-test-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.relay = NextHop().listen(reactor)
        self.addCleanup(self.relay.close)

    def script(self, text: str) -> str:
        path = self.home / "judge"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    async def judged(
        self, text: str, *lines: str, arguments: str = "", content: bytes = CONTENT, rules: str = "CHECK\nDELIVER"
    ) -> bytes:
        """What a client hears whose message this program judges."""
        port = free_port()
        block = "\n".join(lines)
        check = f"check {{\ncommand {self.script(text)} {arguments} {{\n{block}\n}}\n}}"
        rules = rules.replace("CHECK", check).replace("DELIVER", f"deliver_to smtp {self.relay.endpoint}")
        gateway = WholeGateway(
            f"hostname gateway.test\nsmtp tcp://127.0.0.1:{port} {{\ntls off\nreverse_lookup no\n{rules}\n}}\n",
            real_adapters(),
            str(self.home),
        )
        await gateway.start()
        client = await connect(self.reactor, f"tcp://127.0.0.1:{port}")
        try:
            await client.reply()
            replies = await client.deliver(b"a@x.test", [b"b@y.test"], content, hello=b"EHLO client.test")
        finally:
            await client.close()
            await gateway.stop()
        found = statuses(replies)
        return next((one for one in found if one[:1] in b"45"), found[-1])

    async def test_exit_codes(self) -> None:
        for text, lines, expected in (
            ("exit 0", (), OK),
            ("exit 1", (), REFUSED),
            ("exit 1", ('on_fail reject 554 5.7.9 "no"',), b"554 5.7.9"),
            ("exit 2", (), OK),
            ("exit 3", (), TEMPORARY),
            ("exit 3", ("code 3 tag odd",), OK),
            ("exit 0", ("code 0 reject 550 5.7.2",), b"550 5.7.2"),
            ("exit 3", ("on_error ignore",), OK),
            ("kill -9 $$", (), TEMPORARY),
            ("exit 1", ("run_on sender",), REFUSED),
            ("exit 1", ("run_on rcpt",), REFUSED),
        ):
            self.assertEqual(await self.judged(text, *lines), expected, (text, lines))
        (quarantined, tagged) = (
            sum(field in bytes(one.content) for one in self.relay.transactions)
            for field in (b"X-Mailgate-Quarantine: yes\r\n", b"X-Mailgate-Tag: odd\r\n")
        )
        self.assertEqual((quarantined, tagged), (1, 1))

    async def test_what_it_sees(self) -> None:
        seen = self.home / "seen"
        text = f'cat > {seen}; printf "%s|" "$@" $MAILGATE_SENDER $HOME >> {seen}'
        found = await self.judged(text, arguments='"--from={sender}; touch {helo}" {rcpts} "$(id)"')
        self.assertEqual(found, OK)
        expected = CONTENT + b"--from=a@x.test; touch client.test|b@y.test|$(id)|a@x.test|"
        self.assertEqual(seen.read_bytes(), expected)
        self.assertEqual(sorted(os.listdir(self.home)), ["judge", "mailgate.conf", "seen"])

    async def test_beside_after_body(self) -> None:
        for rules in (
            'CHECK\nafter_body {\nwhen header("X-A") == "2" {\nreject 550 5.7.9\n}\nDELIVER\n}',
            "after_body {\nCHECK\nDELIVER\n}",
        ):
            before = len(self.relay.transactions)
            self.assertEqual(await self.judged('printf "X-A: 1\\n"; exit 2', rules=rules), OK)
            content = bytes(self.relay.transactions[-1].content)
            self.assertEqual(len(self.relay.transactions), before + 1)
            self.assertIn(b"X-Mailgate-Quarantine: yes\r\n", content)
            self.assertEqual(content.count(b"\r\nX-A: 1\r\n"), 1)
            self.assertEqual(await self.judged("exit 1", rules=rules), REFUSED)
            self.assertEqual(await self.judged("kill -9 $$", rules=rules), TEMPORARY)

    async def test_what_it_writes(self) -> None:
        found = await self.judged('printf "X-A: 1\\nX-B: 2\\n\\tfolded\\n"')
        self.assertEqual(found, OK)
        content = bytes(self.relay.transactions[-1].content)
        self.assertIn(b"\r\nX-A: 1\r\nX-B: 2\r\n\tfolded\r\nFrom: a@x.test\r\n", content)
        for text in ("echo nonsense", 'echo "X Y: 1"', "head -c 100000 /dev/zero"):
            self.assertEqual(await self.judged(text), TEMPORARY, text)

    async def test_one_that_takes_its_time_is_killed(self) -> None:
        pid = self.home / "pid"
        before = self.reactor.seconds()
        self.assertEqual(await self.judged(f"echo $$ > {pid}; exec sleep 1000", "timeout 300ms"), TEMPORARY)
        self.assertLess(self.reactor.seconds(), before + 10)
        await self.gone(int(pid.read_text()))

    async def gone(self, number: int) -> None:
        """Returns when that process is no more, not even as a zombie of ours."""
        while is_there(number):
            await deferLater(self.reactor, 0.02)

    async def test_what_it_has_started_goes_with_it(self) -> None:
        pid = self.home / "pid"
        start = f"sleep 1000 & echo $! > {pid};"
        for text, lines, expected in (
            (f"{start} wait", ("timeout 300ms",), TEMPORARY),
            (f"{start} head -c 100000 /dev/zero; wait", (), TEMPORARY),
            (f"{start} exit 0", (), OK),
            (f"{start} kill -9 $$", (), TEMPORARY),
        ):
            before = self.reactor.seconds()
            self.assertEqual(await self.judged(text, *lines), expected, text)
            await self.gone(int(pid.read_text()))
            self.assertLess(self.reactor.seconds(), before + 20)

    async def test_who_leaves_the_group_is_not_waited_for(self) -> None:
        pid = self.home / "pid"
        text = f"setsid sh -c 'echo $$ > {pid}; exec sleep 1000' & until test -s {pid}; do sleep 0.01; done; exit 0"
        self.assertEqual(await self.judged("exit 0"), OK)
        before = pipes()
        self.assertEqual(await self.judged(text, "timeout 2s"), TEMPORARY)
        self.assertEqual(pipes(), before)
        os.kill(int(pid.read_text()), 9)

    async def test_it_has_nothing_of_ours(self) -> None:
        seen = self.home / "seen"
        os.environ["MAILGATE_TEST_SECRET"] = "s3cret"
        self.addCleanup(os.environ.pop, "MAILGATE_TEST_SECRET")
        held = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(held, True)
        self.addCleanup(os.close, held)
        text = f"ls /proc/self/fd > {seen}; echo $(ps -o pgid= -p $$) $$ >> {seen}; env | cut -d= -f1 | sort >> {seen}"
        self.assertEqual(await self.judged(text), OK)
        descriptors, group, names = seen.read_text().split("\n", 4)[:4], *seen.read_text().split("\n", 5)[4:]
        self.assertEqual(descriptors, ["0", "1", "2", "3"])  # the last is ls looking
        self.assertEqual(*group.split())
        ours = {"LC_ALL", "PATH", *(f"MAILGATE_{name.upper()}" for name in NAMES)}
        self.assertEqual(set(names.split()) - {"PWD", "OLDPWD", "SHLVL", "_"}, ours)

    async def test_more_recipients_than_a_variable_holds(self) -> None:
        """Nobody is refused for good because a program could not be started."""
        programs = Programs(self.reactor, seconds=5, most=1, max_output=10)
        for command, environment in (
            (["/bin/true", "x" * (128 << 10)], {}),
            (["/bin/true"], {"A": "x" * (128 << 10)}),
            (["/bin/true", *["x" * 100_000] * 11], {}),
        ):
            with self.assertRaises(ProgramFailure):
                await programs.run(command, environment, _content(None))
        self.assertEqual((await programs.run(["/bin/true", "x" * ((128 << 10) - 1)], {}, _content(None))).code, 0)

    async def test_a_large_message_and_one_who_does_not_read_it(self) -> None:
        large = CONTENT + b"0123456789abcde\r\n" * 200_000
        self.assertEqual(await self.judged(f"test $(wc -c) -eq {len(large)}", content=large), OK)
        self.assertEqual(await self.judged("exit 0", content=large), OK)

    def test_mistakes(self) -> None:
        for command in ("judge", "/no/such/program", "/tmp", '/bin/true "{shell}"'):
            text = f"smtp tcp://127.0.0.1:25 {{\ntls off\ncheck {{\ncommand {command}\n}}\ndiscard\n}}\n"
            self.assertEqual([one.code for one in build(text).diagnostics if one.is_error], ["E0786"], command)
