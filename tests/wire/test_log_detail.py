"""More of the log for a while: what is watched is written line by line, nothing else is, and no secret; then it is over."""

from __future__ import annotations

import base64
import re
from typing import Any

from twisted.internet.threads import deferToThread

from mailgate.admin.log_detail import LogDetail
from mailgate.admin.site import Answer, Fault, Question
from mailgate.logs.detail import Detail, Subject, Watch, detail
from mailgate.testing.nexthop import NextHop
from tests.support.ledger import message
from tests.support.scenario import SMTP, SimulatedCase
from tests.wire.test_administration import AdministrationCase
from tests.wire.test_workers import WorkersCase

FAR = 1e9
OTHER = "tcp://127.0.0.1:2525"


class WatchTests(SimulatedCase):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(detail.reset)

    def stage(self) -> tuple[NextHop, NextHop]:
        """Two targets by domain, two listeners."""
        one, two = self.hop(), self.hop()
        accounts = "auth static {\n entry ann secret-word\n}\n insecure_auth yes\n"
        rules = "destination one.test {\n deliver_to &one\n}\n default_destination {\n deliver_to &two\n}\n"
        self.gateway(
            f"target.smtp one {{\n targets {one.endpoint}\n}}\ntarget.smtp two {{\n targets {two.endpoint}\n}}\n"
            f"smtp {SMTP} {{\n tls off\n{accounts}{rules}}}\nsmtp {OTHER} {{\n tls off\n{accounts}{rules}}}\n"
        )
        return one, two

    def wire(self) -> list[str]:
        assert self.running is not None
        return [line.partition("wire ")[2] for line in self.running.logged("wire")]

    def send(self, *recipients: bytes, endpoint: str = SMTP) -> None:
        client = self.client(endpoint)
        replies = self.deliver(client, *recipients, content=message("hidden"))
        self.assertEqual(replies[-1][:3], b"250", replies)
        self.reactor.run(client.quit())

    def test_nothing_without(self) -> None:
        self.stage()
        self.send(b"b@one.test")
        self.assertEqual(self.wire(), [])

    def test_a_target_from_the_connection_on_that_is_kept_already(self) -> None:
        self.stage()
        self.send(b"b@one.test")
        detail.watch(Watch(Subject.TARGET, "one"), FAR)
        self.send(b"b@one.test")
        self.send(b"b@two.test")
        lines = self.wire()
        self.assertTrue(all("target=one " in line for line in lines))
        said = [re.sub(r'.*line="?([^"]*)"?$', r"\1", line) for line in lines if "dir=>" in line]
        self.assertEqual(said[:2], ["MAIL FROM:<sender@client.test>", "RCPT TO:<b@one.test>"])
        self.assertIn("(content and final dot)", said)
        self.assertNotIn("hidden", "".join(lines))
        before = len(lines)
        detail.reset()
        self.send(b"b@one.test")
        self.assertEqual(len(self.wire()), before)

    def test_deliveries_to_a_recipient(self) -> None:
        self.stage()
        for value in ("B@one.test", "@ONE.test"):
            with self.subTest(value):
                detail.reset()
                before = len(self.wire())
                detail.watch(Watch(Subject.RECIPIENT, value), FAR)
                self.send(b"b@two.test")
                self.assertEqual(len(self.wire()), before)
                self.send(b"b@one.test")
                self.assertGreater(len(self.wire()), before)
        before = len(self.wire())
        detail.reset()
        detail.watch(Watch(Subject.RECIPIENT, "c@one.test"), FAR)
        self.send(b"b@one.test")
        self.assertEqual(len(self.wire()), before)
        self.send(b"b@one.test", b"c@one.test")
        self.assertIn("RCPT TO:<c@one.test>", "".join(self.wire()[before:]))

    def test_sessions_of_a_listener_or_a_peer_without_their_secrets(self) -> None:
        self.stage()
        for watch in (Watch(Subject.LISTENER, OTHER), Watch(Subject.PEER, "127.0.0.0/8")):
            with self.subTest(str(watch)):
                detail.reset()
                before = len(self.wire())
                detail.watch(watch, FAR)
                client = self.client(OTHER)
                plain = base64.b64encode(b"\0ann\0secret-word")
                self.ask(client, b"AUTH LOGIN")
                self.ask(client, base64.b64encode(b"ann"))
                self.assertEqual(self.ask(client, base64.b64encode(b"secret-wurd"))[:3], b"535")
                self.assertEqual(self.ask(client, b"auth plain " + plain)[:3], b"235")
                self.deliver(client, b"b@one.test", content=message("hidden"))
                self.reactor.run(client.quit())
                lines = self.wire()[before:]
                text = "\n".join(lines)
                for shown in (
                    "EHLO client.test",
                    "RCPT TO:<b@one.test>",
                    "(content and final dot)",
                    "221 2.0.0",
                    "(credentials)",
                ):
                    self.assertIn(shown, text)
                for hidden in (b"secret-word", plain, base64.b64encode(b"ann"), base64.b64encode(b"secret-wurd"), b"hidden"):
                    self.assertNotIn(hidden.decode(), text)
                self.assertTrue(all(f"listener={OTHER}" in line and "client=127.0.0.1" in line for line in lines))
        detail.reset()
        detail.watch(Watch(Subject.LISTENER, OTHER), FAR)
        before = len(self.wire())
        self.send(b"b@one.test")
        self.assertEqual(len(self.wire()), before)

    def test_binary_chunks_are_content(self) -> None:
        self.stage()
        detail.watch(Watch(Subject.LISTENER, SMTP), FAR)
        client = self.client()
        self.ask(client, b"MAIL FROM:<a@x.test>")
        self.ask(client, b"RCPT TO:<b@one.test>")
        client.send(b"BDAT 25 LAST\r\nSubject: x\r\n\r\nnot for you")
        self.assertEqual(self.reactor.run(client.reply())[:3], b"250")
        text = "".join(self.wire())
        self.assertIn("(chunk)", text)
        self.assertNotIn("not for you", text)


class EndTests(SimulatedCase):
    """How it is asked for, and when it is over."""

    def act(self, **body: Any) -> dict[str, Any]:
        answer = self.view.act(Question(body=body, who="a test"))
        assert isinstance(answer, Answer)
        return answer.body  # type: ignore[no-any-return]

    def setUp(self) -> None:
        super().setUp()
        gateway = self.relay(self.hop())
        self.detail = Detail()
        self.view = LogDetail(gateway.live, self.detail, self.reactor)
        self.addCleanup(detail.reset)

    def test_it_ends_by_the_clock(self) -> None:
        self.act(action="watch", subject="target", value="next", seconds=60)
        self.act(action="level", level="debug", seconds=120)
        shown = self.view.show(Question()).body
        self.assertEqual(shown["watches"], [{"subject": "target", "value": "next", "seconds": 60}])
        self.assertEqual(shown["level"], {"level": "debug", "seconds": 120})
        self.reactor.settle(61)
        self.assertEqual((self.detail.active, self.detail.rank), (False, 0))
        self.reactor.settle(60)
        self.assertEqual(self.view.show(Question()).body, {"level": None, "watches": []})
        assert self.running is not None
        self.assertEqual(len(self.running.logged("log.detail")), 4)

    def test_it_ends_when_it_is_told_to(self) -> None:
        self.act(action="level", level="error")
        self.assertEqual(self.act(action="reset"), {"level": None, "watches": []})
        self.assertEqual(self.detail.rank, -1)

    def test_it_ends_when_a_configuration_begins_to_serve(self) -> None:
        self.act(action="watch", subject="peer", value="192.0.2.0/24")
        self.detail.begin(debugging=False)
        self.view.adopt()
        self.assertFalse(self.detail.active)

    def test_what_can_not_be(self) -> None:
        for status, body in (
            (400, {}),
            (400, {"action": "level", "level": "loud"}),
            (400, {"action": "level", "level": "debug", "seconds": 0}),
            (400, {"action": "level", "level": "debug", "seconds": 1e6}),
            (400, {"action": "watch", "subject": "queue", "value": "x"}),
            (400, {"action": "watch", "subject": "target"}),
            (404, {"action": "watch", "subject": "target", "value": "nxt"}),
            (404, {"action": "watch", "subject": "listener", "value": "tcp://127.0.0.1:26"}),
            (400, {"action": "watch", "subject": "peer", "value": "nobody"}),
            (400, {"action": "watch", "subject": "recipient", "value": "nobody"}),
        ):
            with self.subTest(str(body)), self.assertRaises(Fault) as caught:
                self.act(**body)
            self.assertEqual(caught.exception.status, status)
        self.assertFalse(self.detail.active)

    def test_not_without_end(self) -> None:
        for number in range(50):
            self.act(action="watch", subject="recipient", value=f"u{number}@y.test")
        with self.assertRaises(Fault):
            self.act(action="watch", subject="recipient", value="u50@y.test")


class CommandTests(AdministrationCase):
    def test_debug_events_a_watch_and_the_end_by_a_reload(self) -> None:
        process = self.start()
        self.assertEqual(self.mailgate("log", "show").output, "as the configuration says\n")
        self.send("b@y.test")
        self.assertNotIn("session.open", process.log)
        result = self.mailgate("log", "level", "debug", "--for", "5m")
        self.assertEqual((result.exit_code, result.output), (0, "level debug for 300s\n"))
        self.send("b@y.test")
        self.assertTrue(process.wait_for_line("session.open"))
        result = self.mailgate("log", "watch", "listener", f"tcp://127.0.0.1:{self.smtp}")
        self.assertEqual(result.exit_code, 0, result.output)
        self.send("b@y.test")
        self.assertTrue(process.wait_for_line('line="mail FROM:<a@x.test>"'))
        self.assertEqual(self.mailgate("log", "watch", "target", "nobody").exit_code, 1)
        self.assertEqual(self.mailgate("log", "level", "debug", "--for", "week").exit_code, 2)
        self.write(listener="    banner two")
        self.assertEqual(self.mailgate("reload").exit_code, 0)
        self.assertEqual(self.mailgate("log", "show").output, "as the configuration says\n")
        before = process.log.count("session.open")
        self.send("b@y.test")
        self.mailgate("log", "level", "error")
        self.send("b@y.test")
        self.mailgate("log", "reset")
        self.assertEqual(process.log.count("session.open"), before)


class WorkersTests(WorkersCase):
    async def test_every_worker_does_it(self) -> None:
        hop = self.hop()
        running = self.start(self.relaying(hop))
        body = {"action": "watch", "subject": "target", "value": "next", "seconds": 120}
        self.assertEqual((await deferToThread(self.daemon.post, "/v1/log", body)).status, 200)
        shown = (await deferToThread(self.daemon.get, "/v1/log")).body
        self.assertEqual([one["value"] for one in shown["watches"]], ["next"])
        for worker in (1, 2):
            client = await self.client_of(worker)
            await self.deliver(client, b"b@y.test", content=message(f"m{worker}"))
            await client.quit()
            await self.until(lambda found: found["sessions"] == 0)
        self.assertEqual(running.log.count('line="MAIL FROM:'), 2)
