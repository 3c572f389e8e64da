"""A filter made with libmilter (by pymilter) behind check.milter: what it hears, and what its words do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mailgate.testing.client import connect
from tests.e2e.test_filters import CONTENT, FilterCase, wait_for
from tests.support.servers import missing

PYTHON = "/usr/bin/python3"

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


class PymilterTests(FilterCase):
    async def filtered(self) -> Path:
        """A gateway that asks it; returns where it writes down what it hears."""
        if subprocess.run([PYTHON, "-I", "-c", "import Milter"], check=False, capture_output=True).returncode:  # noqa: ASYNC221
            missing("pymilter", "python3-milter")
        home = Path(self.directory)
        program = Path(__file__).parent.parent / "support" / "pymilter_filter.py"
        process = subprocess.Popen(  # noqa: ASYNC220
            [PYTHON, "-I", str(program), str(home / "socket"), str(home / "heard")], stdin=subprocess.DEVNULL
        )
        self.addCleanup(process.wait, 10)
        self.addCleanup(process.kill)
        await wait_for(self.reactor, (home / "socket").exists)
        await self.gateway(f"milter unix://{home}/socket {{\nmacro daemon_name ORIGINATING\n}}")
        return home / "heard"

    async def say(self, *lines: bytes) -> list[bytes]:
        client = await connect(self.reactor, f"tcp://127.0.0.1:{self.port}")
        try:
            await client.reply()
            return await client.say(*lines)
        finally:
            await client.close()

    def heard(self, path: Path) -> list[Any]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    async def test_what_it_hears(self) -> None:
        path = await self.filtered()
        for _ in range(2):
            self.assertEqual((await self.send(CONTENT % b"x"))[:9], b"250 2.0.0")
        await wait_for(self.reactor, lambda: [one[0] for one in self.heard(path)].count("close") == 2)
        heard = self.heard(path)[: len(self.heard(path)) // 2]
        self.assertEqual([one[0] for one in heard], ["connect", "hello", "mail", "rcpt", "body", "end", "close"])
        told = {one[0]: one[1:] for one in heard}
        self.assertEqual((told["connect"][0], told["connect"][2:]), ("[127.0.0.1]", ["127.0.0.1", "ORIGINATING"]))
        self.assertEqual(told["hello"], ["client.test", None])
        self.assertEqual(told["mail"], ["<ann@x.test>", [], "ann@x.test", True])
        self.assertEqual(told["rcpt"], ["<bob@y.test>", [], "smtp"])
        self.assertEqual(told["end"], [" hello", "<1@x.test>"])

    async def test_refusals(self) -> None:
        path = await self.filtered()
        replies = await self.say(b"EHLO bad.test", b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>")
        self.assertEqual(replies[-1], b"550-5.7.7 bad\r\n550 5.7.7 hello")
        replies = await self.say(b"EHLO a.test", b"MAIL FROM:<later@x.test>", b"RCPT TO:<b@y.test>")
        self.assertEqual(replies[-1][:9], b"451 4.7.1")
        replies = await self.say(b"EHLO a.test", b"MAIL FROM:<a@x.test>", b"RCPT TO:<no@y.test>", b"RCPT TO:<b@y.test>", b"RSET")
        self.assertEqual([one[:3] for one in replies[2:]], [b"550", b"250", b"250"])
        reply = await self.send(CONTENT.replace(b"hello", b"refuse") % b"x")
        self.assertTrue(reply.startswith(b"554-5.6.9 not\r\n554 5.6.9 this one"), reply)
        self.assertEqual((await self.send(CONTENT.replace(b"hello", b"throw away") % b"x"))[:9], b"250 2.0.0")
        self.assertEqual([one for one in self.relay.transactions if one.content], [])
        await wait_for(self.reactor, lambda: [one[0] for one in self.heard(path)].count("close") == 5)

    async def test_changes(self) -> None:
        await self.filtered()
        self.assertEqual((await self.send(CONTENT.replace(b"hello", b"change") % b"x"))[:9], b"250 2.0.0")
        (last,) = [one for one in self.relay.transactions if one.content]
        self.assertEqual((last.sender, last.recipients), (b"new@x.test", [b"<added@y.test>"]))
        header, _, body = bytes(last.content).partition(b"\r\n\r\n")
        self.assertEqual(body, b"another\r\n")
        self.assertIn(b"\r\nSubject: changed\r\n", header)
        self.assertIn(b"\r\nX-Added: 1\r\n\tfolded", header)
        self.assertIn(b"X-First: 0\r\nReceived: ", header)
        self.assertNotIn(b"\r\nDate:", header)
        self.assertIn(b"X-Mailgate-Quarantine: yes", header)
