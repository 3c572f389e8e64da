"""`twistd mailgate` as a new user meets it: a process, real sockets, real time. What the first release promises, one by one."""

from __future__ import annotations

import re
import signal
import smtplib
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgate.net.waiting import spawn
from mailgate.testing.client import RawClient, connect
from mailgate.testing.names import NameServer
from mailgate.testing.nexthop import DROP, NextHop, Step, say
from mailgate.testing.script import Script
from tests.support.certificates import authority, leaf
from tests.support.invariants import check_content, check_hop, check_log, open_descriptors
from tests.support.ledger import message
from tests.support.ports import free_port, free_ports
from tests.support.process import GatewayProcess, twistd
from tests.support.scenario import codes, statuses
from tests.support.servers import tool

DEMO = Path(__file__).parents[2] / "etc" / "demo.conf"
LARGE = message("large", body=(b"x" * 998 + b"\r\n") * 8000)


class ProcessCase(TestCase):
    """A gateway process between clients and next hops of this process's reactor."""

    timeout = 60

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        directory = tempfile.TemporaryDirectory(prefix="mailgate-test-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.smtp, self.lmtp = free_ports(2)
        self.gateway: GatewayProcess | None = None

    def hop(self, *, lmtp: bool = False, script: Script | None = None, tls: Any = None) -> NextHop:
        hop = NextHop(lmtp=lmtp, script=script, tls=tls).listen(self.reactor)
        self.addCleanup(hop.close)
        return hop

    def start(self, text: str) -> GatewayProcess:
        config = self.home / "mailgate.conf"
        config.write_text(f"hostname gateway.test\nstate_dir {self.home}\nruntime_dir {self.home}\ntls off\n{text}")
        self.gateway = GatewayProcess(config)
        self.addCleanup(self.finish)
        return self.gateway.wait_until_ready()

    def relay(self, *hops: NextHop, more: str = "") -> GatewayProcess:
        kind = "lmtp" if hops[0].lmtp else "smtp"
        return self.start(
            f"target.{kind} next {{\n targets {' '.join(hop.endpoint for hop in hops)}\n{more}\n}}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {{\n deliver_to &next\n}}\n"
            f"lmtp tcp://127.0.0.1:{self.lmtp} {{\n deliver_to &next\n}}\n"
        )

    async def finish(self) -> None:
        assert self.gateway is not None
        check_log(await self.gateway.stop_beside())

    async def client(self, *, lmtp: bool = False) -> RawClient:
        client = await connect(self.reactor, f"tcp://127.0.0.1:{self.lmtp if lmtp else self.smtp}")
        self.addCleanup(client.close)
        self.assertEqual((await client.reply())[:3], b"220")
        self.assertEqual((await client.command(b"LHLO c.test" if lmtp else b"EHLO c.test"))[:3], b"250")
        client.lmtp = lmtp
        return client

    async def deliver(self, client: RawClient, *recipients: bytes, content: bytes = b"") -> list[bytes]:
        return await client.deliver(b"a@x.test", recipients, content or message("m"))


class WhatTheClientHears(ProcessCase):
    async def test_lmtp_to_lmtp_with_250_452_550_hears_exactly_these_in_order(self) -> None:
        store = self.hop(lmtp=True, script={Step.DOT: say(b"250 2.1.5 kept", b"452 4.2.2 full", b"550 5.1.1 gone")})
        self.relay(store)
        replies = await self.deliver(await self.client(lmtp=True), b"one@y.test", b"two@y.test", b"three@y.test")
        self.assertEqual(statuses(replies[-3:])[1:], [b"452 4.2.2", b"550 5.1.1"])
        self.assertEqual(codes(replies[-3:]), [b"250", b"452", b"550"])
        check_hop(store, 1)

    async def test_smtp_to_lmtp_defers_the_second_recipient_to_the_next_transaction(self) -> None:
        store = self.hop(lmtp=True)
        self.relay(store)
        client = await self.client()
        replies = await self.deliver(client, b"one@y.test", b"two@y.test")
        self.assertEqual(statuses(replies)[2], b"452 4.5.3")
        self.assertEqual(codes(replies)[-1], b"250")
        self.assertEqual(codes(await self.deliver(client, b"two@y.test"))[-1], b"250")
        self.assertEqual([kept.paths for kept in store.transactions], [[b"one@y.test"], [b"two@y.test"]])
        check_hop(store, 2)

    async def test_smtp_with_two_targets_defers_the_second_recipient_to_the_next_transaction(self) -> None:
        one, two = self.hop(), self.hop()
        self.start(
            f"target.smtp one {{\n targets {one.endpoint}\n}}\ntarget.smtp two {{\n targets {two.endpoint}\n}}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {{\n destination one.test {{\n  deliver_to &one\n }}\n"
            " default_destination {\n  deliver_to &two\n }\n}\n"
        )
        client = await self.client()
        replies = await self.deliver(client, b"a@one.test", b"b@two.test")
        self.assertEqual(statuses(replies)[2], b"452 4.5.3")
        self.assertEqual(codes(await self.deliver(client, b"b@two.test"))[-1], b"250")
        self.assertEqual([kept.paths for kept in one.transactions], [[b"a@one.test"]])
        self.assertEqual([kept.paths for kept in two.transactions], [[b"b@two.test"]])


class NextHopsThatDie(ProcessCase):
    async def test_killed_in_the_middle_of_data_the_second_endpoint_gets_the_whole_message_once(self) -> None:
        first, second = self.hop(script={Step.BODY: DROP}), self.hop()
        self.relay(first, second)
        replies = await self.deliver(await self.client(), b"one@y.test", content=LARGE)
        self.assertEqual(codes(replies)[-1], b"250")
        self.assertEqual((len(first.transactions), len(second.transactions)), (0, 1))
        check_content(second.transactions[0].content, LARGE)
        check_hop(second, 1)

    async def test_killed_after_the_dot_is_451_and_no_second_delivery(self) -> None:
        first, second = self.hop(script={Step.DOT: DROP}), self.hop()
        gateway = self.relay(first, second)
        replies = await self.deliver(await self.client(), b"one@y.test", content=LARGE)
        self.assertEqual(statuses(replies)[-1], b"451 4.4.2")
        self.assertEqual((len(first.transactions), len(second.transactions)), (1, 0))
        self.assertTrue(await deferToThread(gateway.wait_for_line, "delivery.possible_duplicate"))

    async def test_dead_from_the_start_is_a_deferral_and_alive_afterwards(self) -> None:
        port = free_port()
        gateway = self.start(
            f"target.smtp next {{\n targets tcp://127.0.0.1:{port}\n health {{\n  backoff 1s 1s\n }}\n}}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {{\n deliver_to &next\n}}\n"
        )
        client = await self.client()
        replies = await self.deliver(client, b"one@y.test")
        self.assertEqual(replies[1][:1], b"4", replies)
        self.assertTrue(await deferToThread(gateway.wait_for_line, "endpoint.down"))
        self.assertEqual((await client.command(b"RSET"))[:3], b"250")
        hop = NextHop().listen(self.reactor, port=port)
        self.addCleanup(hop.close)
        self.assertEqual(codes(await self.deliver(client, b"one@y.test"))[-1], b"250")  # all are down: the next due is tried


class RequiredTls(ProcessCase):
    def required(self, hop: NextHop) -> GatewayProcess:
        return self.start(
            f"target.smtp next {{\n targets tcp://localhost:{hop.port}\n require_tls yes\n"
            f" tls_client {{\n  root_ca {authority().path}\n }}\n}}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {{\n deliver_to &next\n}}\n"
        )

    async def assert_refused_in_silence(self, hop: NextHop) -> None:
        replies = await self.deliver(await self.client(), b"r@y.test")
        self.assertEqual(replies[1][:1], b"4", replies)
        self.assertEqual((hop.mail_count, hop.transactions), (0, []))

    async def test_without_starttls_the_client_hears_4xx_and_the_next_hop_no_mail(self) -> None:
        hop = self.hop()
        self.required(hop)
        await self.assert_refused_in_silence(hop)

    async def test_with_a_proper_certificate_it_passes(self) -> None:
        hop = self.hop(tls=leaf("localhost").server)
        self.required(hop)
        self.assertEqual(codes(await self.deliver(await self.client(), b"r@y.test"))[-1], b"250")
        self.assertTrue(hop.transactions[0].secure)

    async def test_with_a_wrong_name_it_does_not(self) -> None:
        hop = self.hop(tls=leaf("other.test").server)
        self.required(hop)
        await self.assert_refused_in_silence(hop)


class Demo(SynchronousTestCase):
    """etc/demo.conf as it is, on free ports, in a directory of its own."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-demo-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        ports = dict(zip(("2525", "2524", "2599"), free_ports(3), strict=True))
        text = re.sub(r"127\.0\.0\.1:(\d+)", lambda match: f"127.0.0.1:{ports[match.group(1)]}", DEMO.read_text())
        (self.home / "demo").mkdir()
        config = self.home / "demo.conf"
        config.write_text(text)
        self.smtp, self.lmtp = ports["2525"], ports["2524"]
        self.gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(self.gateway.kill)

    def arrived(self) -> list[bytes]:
        found = sorted((self.home / "demo" / "Maildir" / "new").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return [path.read_bytes() for path in found]

    def test_a_mail_by_smtp_and_one_by_lmtp_arrive_octet_for_octet(self) -> None:
        letter = b"Return-Path: <forged@x.test>\r\nSubject: hello\r\n\r\n.dot\r\n..\r\nbye\r\n"
        kept = letter.partition(b"\r\n")[2]
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=20) as client:
            client.sendmail("me@example.com", ["ann@example.org"], letter)
        client = smtplib.LMTP("127.0.0.1", self.lmtp, timeout=20)
        client.sendmail("me@example.com", ["sales@example.net"], letter)
        client.quit()
        arrived = self.arrived()
        self.assertEqual(len(arrived), 2)
        for lies in arrived:
            lies = lies.replace(b"\r\n", b"\n")
            self.assertTrue(lies.startswith(b"Return-Path: <me@example.com>\n"), lies)
            self.assertTrue(lies.endswith(kept.replace(b"\r\n", b"\n")), lies)
            added = lies[: -len(kept.replace(b"\r\n", b"\n"))]
            self.assertEqual(added.count(b"Return-Path:"), 1)
            names = {line.partition(b":")[0] for line in added.splitlines() if line[:1] not in b" \t"}
            self.assertEqual(names, {b"Return-Path", b"Received"} | ({b"Delivered-To"} & names))
        log = self.gateway.stop()
        check_log(log)
        self.assertEqual(log.count("endpoint.down"), 1)

    def test_the_command_that_make_run_prints_sends_a_message(self) -> None:
        tool("curl", "curl")
        (printed,) = re.findall(r"@echo '  (curl .*)'", (DEMO.parents[1] / "Makefile").read_text())
        command = printed.replace("127.0.0.1:2525", f"127.0.0.1:{self.smtp}").split()
        subprocess.run(command, cwd=DEMO.parents[1], check=True, timeout=60)
        self.assertIn(b"mailgate is a mail gateway", self.arrived()[0])

    def test_the_dead_endpoint_is_skipped_and_not_dialled_for_each_message(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=20) as client:
            for _ in range(5):
                client.sendmail("me@example.com", ["ann@example.org"], b"Subject: again\r\n\r\n")
        self.assertEqual(len(self.arrived()), 5)
        self.assertEqual(self.gateway.log.count("endpoint.down"), 1)

    def test_who_is_not_in_the_pipeline_is_refused(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=20) as client:
            client.ehlo()
            client.mail("me@example.com")
            self.assertEqual(client.rcpt("x@elsewhere.test"), (550, b"5.7.1 relaying denied"))


class TheProcess(ProcessCase):
    async def test_sigterm_drains_and_sighup_disturbs_nobody(self) -> None:
        hop = self.hop()
        gateway = self.relay(hop)
        idle, busy = await self.client(), await self.client()
        gateway.signal(signal.SIGHUP)
        self.assertTrue(await deferToThread(gateway.wait_for_line, "gateway.reload"))
        self.assertEqual((await idle.command(b"NOOP"))[:3], b"250")
        await busy.say(b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"DATA")
        stopping = gateway.stop_beside()
        self.assertEqual(statuses([await idle.reply()]), [b"421 4.3.2"])
        await idle.wait_closed()
        busy.send(message("last") + b".\r\n")
        self.assertEqual((await busy.reply())[:3], b"250")
        await stopping
        self.assertEqual(len(hop.transactions), 1)

    async def test_descriptors_come_back_and_a_clean_message_passes(self) -> None:
        hop = self.hop()
        gateway = self.relay(hop)
        client = await self.client()
        await self.deliver(client, b"r@y.test")
        await client.quit()
        base = open_descriptors(gateway.pid)
        for junk in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\r\n" * 50,
            b"x" * 50_000,
            b"EHLO c\r\nMAIL FROM:<a@x>\r\nDATA\r\n",
        ):
            client = await connect(self.reactor, f"tcp://127.0.0.1:{self.smtp}")
            client.send(junk)
            await client.reply()
            await client.close()
        client = await self.client()
        self.assertEqual(codes(await self.deliver(client, b"r@y.test"))[-1], b"250")
        await client.quit()
        self.assertLessEqual(open_descriptors(gateway.pid), base + 1)


class RefusingToStart(SynchronousTestCase):
    def start(self, text: str) -> tuple[int, str, Path]:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-test-")
        self.addCleanup(directory.cleanup)
        config = Path(directory.name) / "mailgate.conf"
        config.write_text(f"hostname gateway.test\nstate_dir {directory.name}\nruntime_dir {directory.name}\n{text}")
        gateway = GatewayProcess(config)
        self.addCleanup(gateway.kill)
        return gateway.wait(), gateway.log, config

    def test_every_error_of_a_configuration_is_placed_and_nothing_starts(self) -> None:
        port = free_port()
        status, log, config = self.start(
            f"smtp tcp://127.0.0.1:{port} {{\n tls off\n deliver_too &store\n}}\ntarget.smtp store {{\n targets nonsense\n}}\n"
        )
        self.assertEqual(status, 1)
        self.assertIn(f"{config}:6:2", log)
        self.assertIn(f"{config}:9:10", log)
        self.assertIn("did you mean `deliver_to`?", log)
        self.assertNotIn("Traceback", log)
        with socket.socket() as probe:
            self.assertNotEqual(probe.connect_ex(("127.0.0.1", port)), 0)

    def test_a_port_in_use_names_the_directive(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            status, log, config = self.start(
                f"target.smtp next {{\n targets tcp://127.0.0.1:1\n}}\n"
                f"smtp tcp://127.0.0.1:{port} {{\n tls off\n deliver_to &next\n}}\n"
            )
        self.assertNotEqual(status, 0)
        self.assertIn(f"{config}:7", log)
        self.assertIn("in use", log)
        self.assertNotIn("Traceback", log)

    def test_a_missing_file_and_no_number_of_workers_are_refused(self) -> None:
        gateway = GatewayProcess("/nonexistent/mailgate.conf")
        self.addCleanup(gateway.kill)
        self.assertEqual(gateway.wait(), 2)
        for number in ("0", "65", "many"):
            done = subprocess.run(
                [twistd(), "-n", "--pidfile=", "mailgate", "--workers", number], capture_output=True, text=True, timeout=30
            )
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("workers", done.stdout + done.stderr)


class WhatItAsksNameServers(ProcessCase):
    async def test_next_hops_are_found_by_the_resolver_of_the_file(self) -> None:
        names = NameServer(self.reactor)
        self.addCleanup(lambda: spawn(names.stop()))
        hop = self.hop()
        names.add("store1.example.org", "A", "127.0.0.1")
        self.start(
            f"resolver {{\n servers 127.0.0.1:{names.port}\n timeout 2s\n}}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {{\n"
            f" deliver_to smtp tcp://store1.example.org:{hop.port} {{\n tls disabled\n}}\n}}\n"
        )
        client = await self.client()
        self.assertEqual(codes(await self.deliver(client, b"one@y.test"))[-1], b"250")
        self.assertEqual(names.asked("store1.example.org", "A"), 1)
        check_hop(hop, 1)
