"""From which of our addresses, and under which name: loopback has enough of them to see it on the wire."""

from __future__ import annotations

from collections import Counter
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from mailgate.outbound.health import State
from mailgate.outbound.record import AttemptRecord
from mailgate.outbound.target import Downstream
from mailgate.registry import build
from mailgate.smtp.address import Address
from mailgate.testing.nexthop import NextHop
from tests.outbound.support import envelope, make_message, recipient
from tests.support.adapters import real_adapters

MINE = "127.0.0.5"
OTHER = "127.0.0.6"
NOBODYS = "192.0.2.77"


class SourceTest(TestCase):
    def setUp(self) -> None:
        self.hop = NextHop().listen(reactor)
        self.addCleanup(self.hop.close)

    async def target(self, settings: str, before: str = "", endpoint: str = "") -> Downstream:
        text = f"hostname gw.example\n{before}\ntarget.smtp next {endpoint or self.hop.endpoint} {{\n{settings}\n}}\n"
        result = build(text, real_adapters())
        assert result.configuration is not None, [str(diagnostic) for diagnostic in result.diagnostics]
        (target,) = [module for module in result.configuration.modules if isinstance(module, Downstream)]
        await target.start()
        self.addCleanup(target.stop)
        return target

    async def send(self, target: Downstream, sender: str = "a") -> tuple[Any, AttemptRecord]:
        """The last reply about one message, and the record of its only attempt."""
        records: list[AttemptRecord] = []
        offered = envelope(sender=Address(sender, "x.example"))
        offered.on_attempt = records.append
        delivery = target.open(offered)
        reply = await delivery.rcpt(recipient())
        if reply.is_success:
            (reply,) = await delivery.send(make_message())
        (record,) = records
        return reply, record

    async def sources(self, target: Downstream, count: int) -> list[str]:
        return [(await self.send(target))[1].connection.local.partition(":")[0] for _ in range(count)]

    async def test_source_ip(self) -> None:
        reply, record = await self.send(await self.target(f"source_ip {MINE}"))
        self.assertEqual((reply.code, record.connection.local.partition(":")[0]), (250, MINE))

    async def test_by_name(self) -> None:
        target = await self.target(f"source_ip {MINE} ::1", endpoint=f"tcp://localhost:{self.hop.port}")
        reply, record = await self.send(target)
        self.assertEqual((reply.code, record.connection.local.partition(":")[0]), (250, MINE))

    async def test_round_robin_over_new_connections(self) -> None:
        target = await self.target(f"source_ip {MINE} {OTHER}\nsource_selection round_robin\nmax_idle 0")
        self.assertEqual(await self.sources(target, 4), [MINE, OTHER, MINE, OTHER])

    async def test_random_is_the_default(self) -> None:
        target = await self.target(f"source_ip {MINE} {OTHER}\nmax_idle 0")
        self.assertEqual(set(Counter(await self.sources(target, 30))), {MINE, OTHER})

    async def test_a_connection_is_used_again_whatever_the_selection(self) -> None:
        target = await self.target(f"source_ip {MINE} {OTHER}\nsource_selection round_robin")
        self.assertEqual(await self.sources(target, 3), [MINE] * 3)
        self.assertEqual(len(self.hop.connections), 1)

    async def test_hash_keeps_a_sender_at_one_address(self) -> None:
        target = await self.target(f"source_ip {MINE} {OTHER}\nsource_selection hash(sender)")
        seen: dict[str, set[str]] = {}
        for _ in range(2):
            for sender in "abcdefgh":
                _, record = await self.send(target, sender)
                seen.setdefault(sender, set()).add(record.connection.local.partition(":")[0])
        self.assertEqual({len(addresses) for addresses in seen.values()}, {1})
        self.assertEqual(set.union(*seen.values()), {MINE, OTHER})

    async def test_by_expression_and_never_over_a_connection_from_elsewhere(self) -> None:
        target = await self.target(
            f'source_ip {{\nif sender == "vip@x.example" then {MINE}\nelse {OTHER}\n}}',
        )
        for sender, address in (("vip", MINE), ("joe", OTHER), ("vip", MINE), ("ann", OTHER)):
            _, record = await self.send(target, sender)
            self.assertEqual(record.connection.local.partition(":")[0], address)
        self.assertEqual(len(self.hop.connections), 2)

    async def test_the_name_of_a_source_address(self) -> None:
        named = f"source_address out {{\naddress {MINE} ::1\nhostname out.example\n}}"
        for settings, name in (("", b"out.example"), ("hostname own.example", b"own.example")):
            target = await self.target(f"source_ip &out\n{settings}", named)
            _, record = await self.send(target)
            self.assertEqual(record.connection.local.partition(":")[0], MINE)
            self.assertEqual(self.hop.connections[-1].commands[0], b"EHLO " + name)
            self.assertEqual(record.connection.hostname, name.decode())

    async def test_a_name_that_follows_the_address(self) -> None:
        for endpoint in (self.hop.endpoint, f"tcp://localhost:{self.hop.port}"):
            target = await self.target(
                f"source_ip {MINE} {OTHER}\nsource_selection round_robin\nmax_idle 0\n"
                f"hostname {{\nif local_ip == {MINE} then one.example\nelse two.example\n}}",
                endpoint=endpoint,
            )
            for address, name in ((MINE, b"one.example"), (OTHER, b"two.example")) * 2:
                _, record = await self.send(target)
                self.assertEqual(record.connection.local.partition(":")[0], address)
                self.assertEqual(self.hop.connections[-1].commands[0], b"EHLO " + name)

    async def test_a_name_by_sender_has_connections_of_its_own(self) -> None:
        target = await self.target("hostname (sender_domain)\nmax_idle 5")
        await self.send(target)
        self.assertEqual(self.hop.connections[0].commands[0], b"EHLO x.example")

    async def test_no_address_of_the_family(self) -> None:
        target = await self.target("source_ip ::1")
        reply, record = await self.send(target)
        self.assertEqual((reply.code, reply.enhanced, record.connection.remote), (451, "4.3.0", ""))
        self.assertEqual(self.hop.connections, [])
        self.assertIs(target._hops.endpoints[0].circuit.state, State.CLOSED)  # type: ignore[union-attr]

    async def test_no_address_of_the_family_and_source_ip_fallback(self) -> None:
        reply, record = await self.send(await self.target("source_ip ::1\nsource_ip_fallback yes"))
        self.assertEqual((reply.code, record.connection.local.partition(":")[0]), (250, "127.0.0.1"))

    async def test_an_address_that_is_not_ours_is_our_fault(self) -> None:
        target = await self.target(f"source_ip {NOBODYS}\nhealth {{\nfailures 1\n}}")
        for _ in range(3):
            reply, record = await self.send(target)
            self.assertEqual((reply.code, reply.enhanced, record.stage), (451, "4.3.0", "connect"))
        self.assertEqual(self.hop.connections, [])
        self.assertIs(target._hops.endpoints[0].circuit.state, State.CLOSED)  # type: ignore[union-attr]

    async def test_another_of_the_family_stands_in_for_it(self) -> None:
        target = await self.target(f"source_ip {NOBODYS} {MINE}\nsource_selection round_robin\nmax_idle 0")
        self.assertEqual(await self.sources(target, 2), [MINE, MINE])

    async def test_unix_sockets_have_no_address(self) -> None:
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        path = f"{directory.name}/hop"
        hop = NextHop().listen(reactor, path=path)
        self.addCleanup(hop.close)
        reply, _ = await self.send(await self.target(f"source_ip {NOBODYS}", endpoint=f"unix://{path}"))
        self.assertEqual(reply.code, 250)
