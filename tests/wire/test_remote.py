"""Direct delivery over real sockets: a DNS server, hosts on addresses 127.0.0.x with one port, TLS with real certificates."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from twisted.trial.unittest import TestCase

from mailgate.net.waiting import spawn
from mailgate.testing.client import RawClient, connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.names import Action, NameServer
from mailgate.testing.nexthop import NextHop, Step, say
from tests.support.adapters import real_adapters
from tests.support.invariants import check_log
from tests.support.ledger import message
from tests.support.ports import free_port
from tests.support.scenario import codes, statuses


class RemoteWireCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        adapters = real_adapters()
        self.reactor: Any = adapters.reactor
        self.names = NameServer(self.reactor)
        self.addCleanup(lambda: spawn(self.names.stop()))
        self.adapters = replace(adapters, resolver=self.names.resolver(Random(1)))
        directory = tempfile.TemporaryDirectory(prefix="mailgate-test-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.port = free_port()
        self.smtp = free_port()
        self.gateway: WholeGateway | None = None

    def host(self, name: str, address: str, **options: Any) -> NextHop:
        self.names.add(name, "A", address)
        hop = NextHop(**options).listen(self.reactor, port=self.port, interface=address)
        self.addCleanup(lambda: spawn(hop.close()))
        return hop

    async def start(self, *lines: str, listener: str = "") -> WholeGateway:
        loopback = () if any("allow_loopback" in line for line in lines) else ("allow_loopback yes",)
        inner = "\n".join((f"port {self.port}", *loopback, *lines))
        text = (
            f"hostname gateway.test\ntarget.remote direct {{\n{inner}\n}}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {{\n tls off\n{listener}\n deliver_to &direct\n}}\n"
        )
        self.gateway = WholeGateway(text, self.adapters, str(self.directory))
        await self.gateway.start()
        self.addCleanup(self.finish)
        return self.gateway

    def finish(self) -> Any:
        assert self.gateway is not None
        log = self.gateway.log_text
        return spawn(self.gateway.stop()).addCallback(lambda _: check_log(log))

    async def client(self) -> RawClient:
        client = await connect(self.reactor, f"tcp://127.0.0.1:{self.smtp}")
        self.addCleanup(client.close)
        await client.reply()
        await client.command(b"EHLO c.test")
        return client

    async def send(self, *recipients: bytes) -> list[bytes]:
        return await (await self.client()).deliver(b"a@x.test", recipients, message("remote"))


class RemoteTests(RemoteWireCase):
    async def test_by_preference_past_a_dead_host(self) -> None:
        self.names.add("mx0.d.test", "A", "127.0.0.10")
        second = self.host("mx1.d.test", "127.0.0.11")
        self.names.add("d.test", "MX", "0 mx0.d.test.", "10 mx1.d.test.")
        await self.start()
        self.assertEqual(codes(await self.send(b"u@d.test"))[-1], b"250")
        self.assertEqual(len(second.transactions), 1)

    async def test_implicit_mx(self) -> None:
        hop = self.host("d.test", "127.0.0.11")
        await self.start()
        self.assertEqual(codes(await self.send(b"u@d.test"))[-1], b"250")
        self.assertEqual(len(hop.transactions), 1)

    async def test_null_mx(self) -> None:
        self.names.add("d.test", "MX", "0 .")
        await self.start()
        self.assertEqual(statuses((await self.send(b"u@d.test"))[:2])[-1], b"556 5.1.10")

    async def test_a_banner_of_554_and_a_421_lead_to_the_next_host(self) -> None:
        for script in ({Step.BANNER: say(b"554 no", then_drop=True)}, {Step.MAIL: say(b"421 4.3.2 no", then_drop=True)}):
            self.names.add("d.test", "MX", "0 mx0.d.test.", "10 mx1.d.test.")
            first = self.host("mx0.d.test", "127.0.0.10", script=script)
            second = self.host("mx1.d.test", "127.0.0.11")
            await self.start()
            self.assertEqual(codes(await self.send(b"u@d.test"))[-1], b"250")
            self.assertEqual((len(first.transactions), len(second.transactions)), (0, 1))
            await first.close()
            await second.close()
            assert self.gateway is not None
            await self.gateway.stop()
            self.smtp = free_port()

    async def test_two_groups_by_queue_or_in_two_transactions(self) -> None:
        one, two = self.host("mx.one.test", "127.0.0.10"), self.host("mx.two.test", "127.0.0.11")
        self.names.add("a.test", "MX", "10 mx.one.test.")
        self.names.add("b.test", "MX", "10 mx.two.test.")
        await self.start()
        replies = await self.send(b"u@a.test", b"u@b.test")
        self.assertEqual(statuses(replies)[2], b"452 4.5.3")
        self.assertEqual((len(one.transactions), len(two.transactions)), (1, 0))

    async def test_a_source_address_of_our_choice(self) -> None:
        self.host("d.test", "127.0.0.11")
        gateway = await self.start(
            "source_ip 127.0.0.21 127.0.0.22",
            "max_idle 0",
            "hostname {\n if local_ip == 127.0.0.22 then mx2.gateway.test\n else mx.gateway.test\n}",
        )
        for _ in range(12):
            self.assertEqual(codes(await self.send(b"u@d.test"))[-1], b"250")
        sources = {line.split("local=")[1].split(":")[0] for line in gateway.logged("delivery.attempt")}
        self.assertEqual(sources, {"127.0.0.21", "127.0.0.22"})

    async def test_a_source_that_is_not_ours_is_no_fault_of_the_host(self) -> None:
        self.host("d.test", "127.0.0.11")
        gateway = await self.start("source_ip 203.0.113.1")
        self.assertEqual(statuses((await self.send(b"u@d.test"))[:2])[-1], b"451 4.3.0")
        self.assertEqual(gateway.logged("endpoint.down"), [])

    async def test_dns_faults_are_temporary(self) -> None:
        self.names.script("d.test", "MX", Action.SERVFAIL)
        await self.start()
        self.assertEqual(statuses((await self.send(b"u@d.test"))[:2])[-1], b"451 4.4.3")

    async def test_loopback_is_refused_unless_it_is_allowed(self) -> None:
        hop = self.host("d.test", "127.0.0.11")
        await self.start("allow_loopback no")
        self.assertEqual(statuses((await self.send(b"u@d.test"))[:2])[-1], b"550 5.4.4")
        self.assertEqual(hop.connections, [])
