"""`twistd mailgate --workers 2`: two processes on one set of addresses, and the supervisor that keeps and speaks for them."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ConnectionLost
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from mailgate.cli import main
from mailgate.cli.daemon import Daemon
from mailgate.testing.client import ConnectionEnded, RawClient, connect
from mailgate.testing.nexthop import NextHop
from tests.support.invariants import check_hop
from tests.support.ledger import Ledger, message, token_of
from tests.support.ports import free_port
from tests.support.process import GatewayProcess
from tests.wire.test_gateway_process import ProcessCase

READY = "workers.start"
DEADLINE = 60.0
"""A worker imports half of Python before it serves, on a machine that is busy with other things."""


class WorkersCase(ProcessCase):
    timeout = 240

    def start(self, text: str, *options: str) -> GatewayProcess:
        config = self.home / "mailgate.conf"
        self.write(text)
        self.gateway = GatewayProcess(config, *(options or ("--workers", "2")))
        self.addCleanup(self.finish)
        if not self.gateway.wait_for_line(READY, deadline=DEADLINE):
            raise AssertionError(self.gateway.log)
        self.daemon = Daemon(str(config))
        return self.gateway

    def write(self, text: str) -> None:
        header = f"hostname gateway.test\nstate_dir {self.home}\nruntime_dir {self.home}\ntls off\n"
        (self.home / "mailgate.conf").write_text(header + text)

    def relaying(self, hop: NextHop, more: str = "", addresses: str = "") -> str:
        return (
            f"target.smtp next {{\n targets {hop.endpoint}\n}}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {addresses} {{\n{more}\n shutdown_timeout 10s\n deliver_to &next\n}}\n"
        )

    def queueing(self, hop: NextHop) -> str:
        return (
            f"target.smtp next {{\n targets {hop.endpoint}\n}}\n"
            "target.queue later {\n target &next\n retry 1s\n bounce {\n  discard\n }\n}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {{\n deliver_to &later\n}}\n"
        )

    async def status(self) -> dict[str, Any]:
        reply = await deferToThread(self.daemon.get, "/v1/status")
        body: dict[str, Any] = reply.body
        return body

    async def until(self, said: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The status, once it is so."""
        end = time.monotonic() + DEADLINE
        while True:
            found = await self.status()
            if said(found):
                return found
            if time.monotonic() > end:
                raise AssertionError(f"{found}\n{self.gateway.log if self.gateway else ''}")
            await deferLater(self.reactor, 0.1)

    async def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as they are written."""
        request = b"GET /metrics HTTP/1.0\r\n\r\n"

        def get() -> bytes:
            with socket.socket(socket.AF_UNIX) as opened:
                opened.connect(str(self.home / "control.sock"))
                opened.sendall(request)
                data = b""
                while piece := opened.recv(1 << 16):
                    data += piece
                return data

        text = (await deferToThread(get)).partition(b"\r\n\r\n")[2].decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    async def client_of(self, wanted: int) -> RawClient:
        """A session at this worker; the kernel deals by chance."""
        for _ in range(60):
            client = await self.client()
            counts = (await self.until(lambda found: any(one["sessions"] for one in found["workers"])))["workers"]
            if next(one for one in counts if one["sessions"])["worker"] == wanted:
                return client
            await client.quit()
            await self.until(lambda found: found["sessions"] == 0 and not any(one["sessions"] for one in found["workers"]))
        raise AssertionError(f"60 connections, and none came to worker {wanted}")


class ServingTests(WorkersCase):
    async def test_both_serve_and_what_they_count_is_added_up(self) -> None:
        hop = self.hop()
        self.start(self.relaying(hop))
        clients = [await self.client() for _ in range(40)]
        found = await self.until(lambda found: sum(one["sessions"] for one in found["workers"]) == 40)
        self.assertTrue(all(one["sessions"] for one in found["workers"]), found["workers"])
        self.assertEqual(found["sessions"], 40)
        for number, client in enumerate(clients):
            await self.deliver(client, b"b@y.test", content=message(f"m{number}"))
            await client.quit()
        count = len(clients)
        self.assertEqual([one["state"] for one in found["workers"]], ["serving", "serving"])
        self.assertEqual(len({found["pid"], *(one["pid"] for one in found["workers"])}), 3)
        self.assertEqual(len(hop.transactions), count)
        metrics = await self.metrics()
        name = f'mailgate_messages_total{{listener="smtp tcp://127.0.0.1:{self.smtp}",result="accepted"}}'
        self.assertEqual(metrics[name], count)
        self.assertEqual(metrics['mailgate_workers{state="serving"}'], 2)
        self.assertEqual(metrics['mailgate_deliveries_total{result="accepted",target="next"}'], count)
        pools = (await deferToThread(self.daemon.get, "/v1/pools")).body["pools"]
        self.assertEqual(pools[0]["endpoints"][0]["messages"], count)
        self.assertEqual(pools[0]["max_connections"], 50)

    async def test_a_worker_that_is_killed_is_replaced_and_what_it_counted_stays(self) -> None:
        hop = self.hop()
        gateway = self.start(self.relaying(hop))
        for number in range(10):
            client = await self.client()
            await self.deliver(client, b"b@y.test", content=message(f"before{number}"))
            await client.quit()
        name = f'mailgate_messages_total{{listener="smtp tcp://127.0.0.1:{self.smtp}",result="accepted"}}'
        self.assertEqual((await self.metrics())[name], 10)
        victim = (await self.status())["workers"][0]
        os.kill(victim["pid"], signal.SIGKILL)
        self.assertTrue(await deferToThread(gateway.wait_for_line, "worker.ended worker=1"))
        found = await self.until(lambda found: [one["state"] for one in found["workers"]] == ["serving", "serving"])
        self.assertEqual((found["workers"][0]["restarts"], found["workers"][0]["last_end"]), (1, "killed by SIGKILL"))
        self.assertNotEqual(found["workers"][0]["pid"], victim["pid"])
        shown = await deferToThread(CliRunner().invoke, main, ["status", "-c", str(self.home / "mailgate.conf")])
        self.assertEqual(shown.exit_code, 0, shown.output)
        self.assertRegex(
            shown.output, r"  worker 1: serving, pid \d+, \d+ sessions, 1 restarts, the last after killed by SIGKILL\n"
        )
        self.assertRegex(shown.output, r"  worker 2: serving, pid \d+, \d+ sessions\n")
        self.assertEqual((await self.metrics())[name], 10)

    async def test_a_unix_socket_is_shared_and_is_gone_at_the_end(self) -> None:
        hop = self.hop()
        path = self.home / "in.sock"
        gateway = self.start(self.relaying(hop, addresses=f"unix://{path}\n").replace("\n {", " {"))
        self.assertEqual(path.stat().st_mode & 0o777, 0o660)
        clients = [await connect(self.reactor, f"unix://{path}") for _ in range(4)]
        for client in clients:
            self.assertEqual((await client.reply())[:3], b"220")
            await client.close()
        os.kill((await self.status())["workers"][0]["pid"], signal.SIGTERM)
        self.assertTrue(await deferToThread(gateway.wait_for_line, "worker.ended worker=1"))
        self.assertTrue(path.exists())
        await gateway.stop_beside()
        self.assertFalse(path.exists())

    async def test_limits_are_divided(self) -> None:
        hop = self.hop()
        self.start(self.relaying(hop, more="max_connections 6\n max_connections_per_ip 4\n reserved_connections 0"))
        opened = [await connect(self.reactor, f"tcp://127.0.0.1:{self.smtp}") for _ in range(30)]
        greetings = [(await client.reply())[:3] for client in opened]
        self.assertLessEqual(greetings.count(b"220"), 6)
        self.assertGreaterEqual(greetings.count(b"220"), 3)
        for client in opened:
            await client.close()


class ReloadTests(WorkersCase):
    async def finish(self) -> None:
        if self.gateway is not None:
            await super().finish()

    async def reload(self) -> dict[str, Any]:
        reply = await deferToThread(self.daemon.post, "/v1/reload", {}, 120.0)
        body: dict[str, Any] = reply.body
        return body

    async def banner(self, port: int) -> bytes:
        client = await connect(self.reactor, f"tcp://127.0.0.1:{port}")
        greeting = await client.reply()
        await client.close()
        return greeting

    async def test_it_reaches_both_and_new_addresses_too(self) -> None:
        hop = self.hop()
        self.start(self.relaying(hop))
        other = free_port()
        self.write(self.relaying(hop, more=" banner second", addresses=f"tcp://127.0.0.1:{other}"))
        found = await self.reload()
        self.assertEqual((found["verdict"], found["generation"]), ("reloaded", 2))
        for port in (self.smtp, other):
            for _ in range(12):
                self.assertIn(b"second", await self.banner(port))
        self.write(self.relaying(hop, more=" banner third"))
        self.assertEqual((await self.reload())["verdict"], "reloaded")
        with socket.socket() as probe:
            self.assertNotEqual(probe.connect_ex(("127.0.0.1", other)), 0)
        for _ in range(12):
            self.assertIn(b"third", await self.banner(self.smtp))

    async def test_a_bad_one_changes_nothing_even_for_a_worker_that_starts_later(self) -> None:
        hop = self.hop()
        gateway = self.start(self.relaying(hop, more=" banner good"))
        other = free_port()
        self.write("no_such_thing\n" + self.relaying(hop, more=" banner bad"))
        found = await self.reload()
        self.assertEqual(found["verdict"], "refused")
        self.assertIn("no_such_thing", found["reason"])
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", other))
            taken.listen()
            self.write(self.relaying(hop, more=" banner bad", addresses=f"tcp://127.0.0.1:{other}"))
            found = await self.reload()
        self.assertEqual(found["verdict"], "refused")
        self.assertIn(f"127.0.0.1:{other}", found["reason"])
        os.kill((await self.status())["workers"][1]["pid"], signal.SIGKILL)
        self.assertTrue(await deferToThread(gateway.wait_for_line, "worker.ended worker=2"))
        await self.until(lambda found: all(one["state"] == "serving" for one in found["workers"]))
        for _ in range(12):
            self.assertIn(b"good", await self.banner(self.smtp))
        self.assertEqual((await self.status())["generation"], 1)

    async def test_what_a_worker_can_not_have_no_worker_has(self) -> None:
        """The second worker finds a queue's file in other hands; the first one could have had its own."""
        hop = self.hop()
        gateway = self.start(self.relaying(hop, more=" banner good"))
        directory = self.home / "queue" / "later"
        directory.mkdir(parents=True)
        lock = os.open(directory / "2.sqlite.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self.addCleanup(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.write(self.queueing(hop).replace("deliver_to", "banner bad\n deliver_to"))
        found = await self.reload()
        self.assertEqual(found["verdict"], "refused")
        self.assertIn("worker 2", found["reason"])
        for _ in range(12):
            self.assertIn(b"good", await self.banner(self.smtp))
        fcntl.flock(lock, fcntl.LOCK_UN)
        found = await self.reload()
        self.assertEqual(found["verdict"], "reloaded", found)
        await gateway.stop_beside()  # its log has the store that could not be had as an incident
        self.gateway = None

    async def test_sighup_reloads_all_and_says_what_is_wrong_once(self) -> None:
        hop = self.hop()
        gateway = self.start(self.relaying(hop))
        self.write("no_such_thing\n" + self.relaying(hop))
        gateway.signal(signal.SIGHUP)
        self.assertTrue(await deferToThread(gateway.wait_for_line, "gateway.reload_refused"))
        self.assertEqual(gateway.log.count("gateway.reload_refused"), 1)


class StopTests(WorkersCase):
    async def test_sigterm_drains_all(self) -> None:
        hop = self.hop()
        gateway = self.start(self.relaying(hop))
        clients = [await self.client() for _ in range(8)]
        for number, client in enumerate(clients):
            replies = [await client.command(line) for line in (b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"DATA")]
            self.assertEqual([reply[:3] for reply in replies], [b"250", b"250", b"354"], number)
        gateway.signal(signal.SIGTERM)
        self.assertTrue(await deferToThread(gateway.wait_for_line, "gateway.stop sessions="))
        for number, client in enumerate(clients):
            client.send(message(f"late{number}") + b".\r\n")
            self.assertEqual((await client.reply())[:3], b"250")
            self.assertEqual((await client.reply())[:3], b"421")
        await deferToThread(gateway.wait, DEADLINE)
        self.assertEqual(len(hop.transactions), 8)

    async def test_workers_end_when_the_supervisor_is_killed(self) -> None:
        hop = self.hop()
        gateway = self.start(self.relaying(hop))
        pids = [one["pid"] for one in (await self.status())["workers"]]
        gateway.kill()
        end = time.monotonic() + DEADLINE
        while any(os.path.exists(f"/proc/{pid}/exe") for pid in pids):  # noqa: ASYNC240 - it is memory
            self.assertLess(time.monotonic(), end)
            await deferLater(self.reactor, 0.05)
        self.gateway = None

    async def finish(self) -> None:
        if self.gateway is not None:
            await super().finish()


class QueueTests(WorkersCase):
    async def test_a_change_of_their_number_strands_nothing(self) -> None:
        """Three workers take mail that can't be delivered yet; two, then one, have it all."""
        hop = self.hop()
        await hop.close()
        text = self.queueing(hop)
        gateway = self.start(text, "--workers", "3")
        for number in range(30):
            client = await self.client()
            await self.deliver(client, b"b@y.test", content=message(f"m{number}"))
            await client.quit()
        files = sorted((self.home / "queue" / "later").glob("*.sqlite"))
        self.assertEqual([file.name for file in files], ["1.sqlite", "2.sqlite", "3.sqlite"])
        listed = (await deferToThread(self.daemon.get, "/v1/queue/entries?limit=100")).body
        pages = [listed]
        while pages[-1]["next"] is not None:
            pages.append((await deferToThread(self.daemon.get, f"/v1/queue/entries?limit=100&after={pages[-1]['next']}")).body)
        entries = [entry for page in pages for entry in page["entries"]]
        self.assertEqual(len(entries), 30)
        self.assertEqual(len({entry["number"] for entry in entries}), 30)
        one = entries[-1]
        content = await deferToThread(self.daemon.get, f"/v1/queue/content?queue=later&number={one['number']}&offset=0")
        self.assertEqual(content.body["size"], one["size"])
        found = await deferToThread(self.daemon.get, f"/v1/queue/message?id={one['id']}")
        self.assertEqual([entry["worker"] for entry in found.body["entries"]], [one["worker"]])
        done = await deferToThread(self.daemon.post, "/v1/queue", {"action": "hold", "ids": [one["id"], "absent"]})
        self.assertEqual((done.body["matched"], done.body["missing"]), (1, ["absent"]))
        self.assertEqual((await self.status())["queues"][0]["held"], 1)
        await gateway.stop_beside()
        gateway = self.start(text, "--workers", "2")
        summary = (await self.status())["queues"][0]
        self.assertEqual((summary["waiting"], summary["held"]), (29, 1))
        await gateway.stop_beside()
        self.assertEqual(sum(_rows(file) for file in files), 30)


def _rows(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM recipient WHERE standing <> 0").fetchone()
        return int(count)


class StartTests(WorkersCase):
    async def test_what_no_worker_can_start_with_is_the_end(self) -> None:
        (self.home / "mailgate.conf").write_text(
            f"hostname g.test\nstate_dir {self.home}\nruntime_dir {self.home}\ntls off\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {{\n deliver_to maildir /proc/mail\n}}\n"
        )
        gateway = GatewayProcess(self.home / "mailgate.conf", "--workers", "2")
        self.assertEqual(await deferToThread(gateway.wait, DEADLINE), 1)
        self.assertIn("the gateway could not start: worker", gateway.log)
        self.assertIn("/proc/mail", gateway.log)

    async def test_a_second_gateway_does_not_share_the_port(self) -> None:
        hop = self.hop()
        self.start(self.relaying(hop))
        second = GatewayProcess(self.home / "mailgate.conf", "--workers", "2")
        self.assertEqual(await deferToThread(second.wait, DEADLINE), 1)
        self.assertIn(f"cannot listen on tcp://127.0.0.1:{self.smtp}: Address already in use", second.log)

    async def test_limits_that_can_not_be_divided_stop_it(self) -> None:
        hop = self.hop()
        self.write(self.relaying(hop, more=" max_connections 1\n limits {\n  all concurrency 1\n }"))
        gateway = GatewayProcess(self.home / "mailgate.conf", "--workers", "2")
        self.assertEqual(await deferToThread(gateway.wait, DEADLINE), 1)
        self.assertEqual(gateway.log.count("E0409"), 2, gateway.log)


class UnderLoad(WorkersCase):
    """Connections one after another without a pause, while something is done to the gateway: none is refused, and nothing that
    was accepted is lost."""

    timeout = 600

    async def load(self, text: str, hop: NextHop, deeds: Callable[[], Any], *, losing: bool, most_broken: int = 12) -> Ledger:
        """``losing``: sessions may break off; then what was not answered may have arrived."""
        self.start(text)
        ledger = Ledger()
        running = True
        broken = 0

        async def clients(number: int) -> int:
            nonlocal broken
            count = 0
            while running:
                client = await connect(self.reactor, f"tcp://127.0.0.1:{self.smtp}")  # refused: the test fails
                token = f"t{number}.{count}"
                recipient = b"%s@y.test" % token.encode()
                ledger.answered(token, recipient, b"")
                count += 1
                try:
                    greeting = await client.reply(DEADLINE)
                    self.assertEqual(greeting[:3], b"220", greeting)
                    await client.command(b"EHLO c.test")
                    replies = await client.deliver(b"a@x.test", [recipient], message(token))
                    ledger.answered(token, recipient, replies[-1])
                    self.assertEqual(replies[-1][:3], b"250", replies)
                    await client.quit()
                except (ConnectionEnded, ConnectionLost):
                    if not losing:
                        raise
                    broken += 1
                await client.close()
            return count

        loads = [Deferred.fromCoroutine(clients(number)) for number in range(6)]
        await deferLater(self.reactor, 0.5)
        try:
            await deeds()
        finally:
            running = False
        results = await DeferredList(loads, fireOnOneErrback=True, consumeErrors=True)
        self.assertLessEqual(broken, most_broken)
        print(f"\n{sum(count for _, count in results)} connections, {broken} sessions broken off, refused: 0")
        return ledger

    async def kill_one(self) -> None:
        victim = (await self.status())["workers"][0]
        os.kill(victim["pid"], signal.SIGKILL)
        await self.until(lambda found: found["workers"][0]["restarts"] == 1 and found["workers"][0]["state"] == "serving")

    async def test_kill_of_one_loses_nothing_that_was_accepted(self) -> None:
        hop = self.hop()
        ledger = await self.load(self.queueing(hop), hop, self.kill_one, losing=True)
        await self.until(lambda found: found["queues"][0]["waiting"] == 0 and found["queues"][0]["in_flight"] == 0)
        lost = [problem for problem in ledger.book(hop).problems() if not problem.startswith("I3")]
        self.assertEqual(lost, [])

    async def reload_often(self, times: int) -> None:
        for number in range(times):
            self.write(self.relaying(self.next, more=f" banner n{number}"))
            reply = await deferToThread(self.daemon.post, "/v1/reload", {}, 120.0)
            self.assertEqual(reply.body["verdict"], "reloaded", reply.body)

    async def reloads(self, times: int) -> None:
        self.next = hop = self.hop()
        ledger = await self.load(self.relaying(hop), hop, lambda: self.reload_often(times), losing=False)
        ledger.book(hop).check()
        check_hop(hop)
        arrived = [token_of(transaction.content) for transaction in hop.transactions]
        self.assertEqual(sorted(arrived), sorted(token for token, _ in ledger.answers))

    async def test_a_few_reloads(self) -> None:
        await self.reloads(5)

    async def kill_six(self) -> None:
        """One after the other, as soon as all serve again: each comes back a little later than before."""
        for number in range(6):
            victim = (await self.status())["workers"][number % 2]
            os.kill(victim["pid"], signal.SIGKILL)
            await self.until(lambda found, number=number: sum(one["restarts"] for one in found["workers"]) > number)
            await self.until(lambda found: all(one["state"] == "serving" for one in found["workers"]))

    @pytest.mark.slow
    async def test_six_kills(self) -> None:
        hop = self.hop()
        ledger = await self.load(self.queueing(hop), hop, self.kill_six, losing=True, most_broken=60)
        await self.until(lambda found: found["queues"][0]["waiting"] == 0 and found["queues"][0]["in_flight"] == 0)
        self.assertEqual([problem for problem in ledger.book(hop).problems() if not problem.startswith("I3")], [])

    @pytest.mark.slow
    async def test_60_reloads(self) -> None:
        await self.reloads(60)
