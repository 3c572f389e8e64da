"""200 reloads of one process under load, every tenth with a broken file: nobody refused, nothing lost, nothing doubled.

`python -m pytest -m slow -s tests/wire/test_reload_under_load.py` prints the figures of docs/reliability.md.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from mailgate.cli.daemon import Daemon
from mailgate.testing.client import RawClient
from mailgate.testing.nexthop import NextHop
from tests.support.invariants import check_hop, open_descriptors
from tests.support.ledger import Ledger, message, token_of
from tests.support.ports import free_port
from tests.wire.test_gateway_process import ProcessCase

CLIENTS = 4
MESSAGES_PER_CONNECTION = 3
PAUSE = 0.1
"""Seconds between two reloads."""
CALM = 0.05
"""Seconds for each reload before the first: what the same load is like without them."""


class ReloadUnderLoad(ProcessCase):
    timeout = 600

    async def reload_often(self, reloads: int) -> None:
        hop = self.hop()
        other = free_port()
        self.start(self.text(0, hop, other))
        gateway = self.gateway
        assert gateway is not None
        ledger = Ledger()
        times: list[float] = []
        running = True

        async def deliver(client: RawClient, token: str) -> None:
            recipient = b"%s@y.test" % token.encode()
            ledger.answered(token, recipient, b"")
            began = time.monotonic()
            replies = await client.deliver(b"a@x.test", [recipient], message(token))
            times.append(time.monotonic() - began)
            ledger.answered(token, recipient, replies[-1])
            self.assertEqual([reply[:3] for reply in replies], [b"250", b"250", b"354", b"250"], token)

        async def load(number: int) -> int:
            """Connections one after another, without a pause: one that is refused fails the test."""
            connections = 0
            while running:
                client = await self.client()
                for count in range(MESSAGES_PER_CONNECTION):
                    await deliver(client, f"load{number}.{connections}.{count}")
                await client.quit()
                connections += 1
            return connections

        async def stay(number: int) -> None:
            """A session from before the first reload, of which something is wanted now and then, and at the end."""
            client = await self.client()
            staying.append(client)
            count = 0
            while running:
                await deliver(client, f"stay{number}.{count}")
                count += 1
                await deferLater(self.reactor, 0.5)

        staying: list[RawClient] = []
        idle = await self.client()
        loads = [Deferred.fromCoroutine(load(number)) for number in range(CLIENTS)]
        stays = [Deferred.fromCoroutine(stay(number)) for number in range(2)]
        daemon = Daemon(str(self.config))
        took: list[float] = []
        refused = 0
        descriptors, memory = [], []
        try:
            await deferLater(self.reactor, CALM * reloads)
            calm = len(times)
            for number in range(1, reloads + 1):
                broken = number % 10 == 0
                self.config.write_text(self.header() + self.text(number, hop, other, broken=broken))
                reply = await deferToThread(daemon.post, "/v1/reload", {}, 60.0)
                self.assertEqual(reply.body["verdict"], "refused" if broken else "reloaded", reply.body)
                refused += broken
                if not broken:
                    took.append(reply.body["seconds"])
                await deferLater(self.reactor, PAUSE)
                if number % 20 == 0:
                    descriptors.append(open_descriptors(gateway.pid))
                    memory.append(resident(gateway.pid))
        finally:
            running = False
        results = await DeferredList([*loads, *stays], fireOnOneErrback=True, consumeErrors=True)
        for number, client in enumerate(staying):
            await deliver(client, f"last{number}")
        await deliver(idle, "idle")
        connections = sum(result for _, result in results[:CLIENTS])
        for client in (*staying, idle):
            await client.quit()
        self.assertTrue(await deferToThread(gateway.wait_for_line, "configuration.released old=0"))
        ledger.book(hop).check()
        check_hop(hop)
        arrived = [token_of(transaction.content) for transaction in hop.transactions]
        self.assertEqual(sorted(arrived), sorted(token for token, _ in ledger.answers))
        status = (await deferToThread(daemon.get, "/v1/status")).body
        self.assertEqual(status["reloads"], {"reloaded": reloads - refused, "fine": 0, "refused": refused, "stopping": 0})
        self.assertEqual(status["old_configurations"], 0)
        print(
            f"\n{reloads} reloads, {refused} of them with a broken file: {connections} connections, {len(arrived)} messages;"
            f" refused, lost, doubled: 0."
            f"\nA reload took {statistics.median(took) * 1000:.0f} ms (most {max(took) * 1000:.0f} ms)."
            f"\nA message took {spread(times[:calm])} before the first reload, {spread(times[calm:])} from then on."
            f"\nDescriptors after every 20: {descriptors}; resident memory in MiB: {memory}."
        )
        self.assertLess(max(descriptors), descriptors[0] + 30, descriptors)

    @property
    def config(self) -> Path:
        return self.home / "mailgate.conf"

    def header(self) -> str:
        return f"hostname gateway.test\nstate_dir {self.home}\nruntime_dir {self.home}\ntls off\n"

    def text(self, number: int, hop: NextHop, other: int, *, broken: bool = False) -> str:
        """Each is different: the listener always, its addresses, the target and a table now and then."""
        addresses = f"tcp://127.0.0.1:{self.smtp}" + (f" tcp://127.0.0.1:{other}" if number % 3 == 1 else "")
        return (
            f"target.smtp next {{\n targets {hop.endpoint}\n max_idle {4 + number // 7 % 2}\n}}\n"
            f"table.static people {{\n entry a{number}@y.test b@y.test\n}}\n"
            f"smtp {addresses} {{\n banner {number}\n{' no_such_thing' if broken else ''}\n"
            " modify {\n  replace_rcpt &people\n }\n deliver_to &next\n}\n"
            'test "mail is taken" {\n from a@x.test\n rcpt b@y.test\n expect accept &next\n}\n'
        )

    async def test_a_few(self) -> None:
        await self.reload_often(20)

    @pytest.mark.slow
    async def test_200(self) -> None:
        await self.reload_often(200)


def spread(times: list[float]) -> str:
    p99 = sorted(times)[len(times) * 99 // 100]
    return f"{statistics.median(times) * 1000:.0f} ms (p99 {p99 * 1000:.0f} ms, most {max(times) * 1000:.0f} ms)"


def resident(pid: int) -> int:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) >> 10
    raise AssertionError("no VmRSS")
