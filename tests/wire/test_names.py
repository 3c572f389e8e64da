"""Names over real sockets: every way in which a name server fails has its class (delivery.md), and nothing is left behind."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Awaitable
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailgate.dns.answer import Status
from mailgate.dns.failure import Bogus, DnsFailure, NoData, NoDomain, ServerFailure, Timeout
from mailgate.dns.resolver import MX, A, Resolver, parse_name, texts
from mailgate.dns.service import HostnameResolver
from mailgate.dns.system import Hosts
from mailgate.dns.txdnspython import MAX_STRANGERS, Schedule, Server, Transport
from mailgate.dns.wire import MAX_RECORDS, Question
from mailgate.net.waiting import as_deferred, spawn
from mailgate.testing.names import Action, NameServer

PATIENT = Schedule(timeout=5.0, attempts=2)
HASTY = Schedule(timeout=0.05, attempts=2)


def descriptors() -> int:
    """Sockets that are open."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith("socket:") for link in links if os.path.lexists(link))


class _Names(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.reactor: Any = reactor
        self.server = self.serve()
        self.server.add("example.org", "MX", "20 mx2.example.org.", "10 mx1.example.org.")
        self.server.add("mx1.example.org", "A", "192.0.2.1")
        self.server.add("mx1.example.org", "AAAA", "2001:db8::1")
        self.server.add("www.example.org", "CNAME", "mx1.example.org.")
        self.resolver = self.server.resolver(random.Random(1), schedule=PATIENT)

    def serve(self, **settings: Any) -> NameServer:
        server = NameServer(self.reactor, **settings)
        self.addCleanup(lambda: spawn(server.stop()))
        return server

    def over(self, *servers: Server, schedule: Schedule = PATIENT) -> Resolver:
        return Resolver(Transport(servers, self.reactor, random.Random(1), schedule), self.reactor.seconds)

    async def fails(self, waiting: Awaitable[Any], kind: type[DnsFailure]) -> DnsFailure:
        return await self.assertFailure(as_deferred(waiting), kind)  # type: ignore[no-any-return]


class AnswerTests(_Names):
    async def test_mx_records(self) -> None:
        answer = await self.resolver.mx("Example.ORG")
        self.assertEqual([record.exchange.to_text() for record in answer.require()], ["mx1.example.org.", "mx2.example.org."])
        self.assertEqual((answer.status, answer.canonical, answer.secure), (Status.FOUND, "example.org", False))
        self.assertTrue(self.server.queries[0].edns)

    async def test_both_families_at_once(self) -> None:
        addresses = await self.resolver.addresses("mx1.example.org")
        self.assertEqual((addresses.ipv4, addresses.ipv6), (("192.0.2.1",), ("2001:db8::1",)))
        self.assertEqual(len({query.port for query in self.server.queries}), 2)

    async def test_an_alias_is_followed_in_one_response_and_over_several(self) -> None:
        for action in (Action.ANSWER, Action.OPEN_ALIAS):
            self.resolver.forget()
            self.server.script("www.example.org", "A", action)
            answer = await self.resolver.query("www.example.org", A)
            self.assertEqual((answer.canonical, len(answer.records)), ("mx1.example.org", 1))

    async def test_no_data_and_no_domain(self) -> None:
        answer = await self.resolver.txt("example.org")
        self.assertIs(answer.status, Status.NODATA)
        self.assertRaises(NoData, answer.require)
        answer = await self.resolver.mx("nowhere.example.net")
        self.assertIs(answer.status, Status.NXDOMAIN)
        self.assertRaises(NoDomain, answer.require)

    async def test_denials_are_kept_by_their_soa(self) -> None:
        for _ in range(2):
            await self.resolver.txt("example.org")
        self.assertEqual(self.server.asked("example.org", "TXT"), 1)
        self.server.script("mx1.example.org", "TXT", Action.NO_SOA)
        for _ in range(2):
            await self.resolver.txt("mx1.example.org")
        self.assertEqual(self.server.asked("mx1.example.org", "TXT"), 2)

    async def test_reverse(self) -> None:
        self.server.add("1.2.0.192.in-addr.arpa", "PTR", "mx1.example.org.")
        self.assertEqual(await self.resolver.reverse("192.0.2.1"), ("mx1.example.org",))
        self.assertEqual(await self.resolver.reverse("192.0.2.9"), ())

    async def test_text_of_several_strings(self) -> None:
        self.server.add("example.org", "TXT", '"v=spf1 " "-all"')
        self.assertEqual(texts(await self.resolver.txt("example.org")), (b"v=spf1 -all",))

    async def test_srv_and_tlsa(self) -> None:
        self.server.add("_25._tcp.mx1.example.org", "TLSA", "3 1 1 " + "ab" * 32)
        self.server.add("_smtp._tcp.example.org", "SRV", "0 0 25 mx1.example.org.")
        self.assertEqual((await self.resolver.tlsa("mx1.example.org", 25)).require()[0].usage, 3)
        self.assertEqual((await self.resolver.srv("_smtp._tcp.example.org")).require()[0].port, 25)

    async def test_only_a_trusted_server_makes_an_answer_secure(self) -> None:
        server = self.serve(secure=True)
        server.add("example.org", "MX", "10 mx1.example.org.")
        self.assertTrue((await self.over(server.server).mx("example.org")).secure)
        stranger = Server(server.host, server.port, trusted=False)
        self.assertFalse((await self.over(stranger).mx("example.org")).secure)

    async def test_what_is_known_is_not_asked(self) -> None:
        hosts = Hosts({"store1": ("10.1.1.1",)}, {"10.1.1.1": "store1"})
        resolver = self.server.resolver(random.Random(1), hosts=hosts)
        self.assertEqual((await resolver.addresses("192.0.2.7")).ipv4, ("192.0.2.7",))
        self.assertEqual((await resolver.addresses("2001:db8::7")).ipv6, ("2001:db8::7",))
        self.assertEqual((await resolver.addresses("Store1")).ipv4, ("10.1.1.1",))
        self.assertEqual((await resolver.addresses("a.localhost")).ipv6, ("::1",))
        self.assertIs((await resolver.addresses("a.invalid")).status, Status.NXDOMAIN)
        self.assertIs((await resolver.mx("bad..name")).status, Status.NXDOMAIN)
        self.assertEqual(await resolver.reverse("10.1.1.1"), ("store1",))
        self.assertEqual(await resolver.reverse("127.0.0.9"), ("localhost",))
        self.assertEqual(self.server.queries, [])


class FaultTests(_Names):
    async def test_servfail(self) -> None:
        self.server.script("example.org", "MX", Action.SERVFAIL)
        await self.fails(self.resolver.mx("example.org"), ServerFailure)
        self.assertEqual(self.server.asked("example.org"), 2)

    async def test_refused(self) -> None:
        self.server.script("example.org", "MX", Action.REFUSED)
        await self.fails(self.resolver.mx("example.org"), ServerFailure)

    async def test_lame(self) -> None:
        self.server.script("example.org", "MX", Action.LAME)
        failure = await self.fails(self.resolver.mx("example.org"), ServerFailure)
        self.assertIn("lame", failure.reason)

    async def test_garbage(self) -> None:
        self.server.script("example.org", "MX", Action.GARBAGE)
        await self.fails(self.resolver.mx("example.org"), ServerFailure)

    async def test_timeout(self) -> None:
        self.server.script("example.org", "MX", Action.SILENCE)
        await self.fails(self.over(self.server.server, schedule=HASTY).mx("example.org"), Timeout)
        self.assertEqual(self.server.asked("example.org"), 2)

    async def test_bogus_is_not_asked_of_a_second_server(self) -> None:
        kinder = self.serve()
        kinder.add("example.org", "MX", "10 evil.example.org.")
        self.server.script("example.org", "MX", Action.BOGUS)
        await self.fails(self.over(self.server.server, kinder.server).mx("example.org"), Bogus)
        self.assertEqual(kinder.queries, [])

    async def test_an_alias_loop(self) -> None:
        self.server.add("a.example.org", "CNAME", "b.example.org.")
        self.server.add("b.example.org", "CNAME", "a.example.org.")
        for action in (Action.ANSWER, Action.OPEN_ALIAS):
            self.resolver.forget()
            for name in ("a.example.org", "b.example.org"):
                self.server.script(name, "MX", action)
            failure = await self.fails(self.resolver.mx("a.example.org"), ServerFailure)
            self.assertIn("circles", failure.reason)

    async def test_aliases_without_end(self) -> None:
        for number in range(40):
            self.server.add(f"c{number}.example.org", "CNAME", f"c{number + 1}.example.org.")
            self.server.script(f"c{number}.example.org", "A", Action.OPEN_ALIAS)
        await self.fails(self.resolver.query("c0.example.org", A), ServerFailure)
        self.assertLess(len(self.server.queries), 20)

    async def test_spoofed_answers_raced(self) -> None:
        self.server.script("example.org", "MX", Action.SPOOF)
        answer = await self.resolver.mx("example.org")
        self.assertEqual(len(answer.records), 2)
        self.assertEqual([query.by for query in self.server.queries], ["udp"])

    async def test_a_flood_of_guesses_turns_to_tcp(self) -> None:
        self.server.script("example.org", "MX", Action.FLOOD)
        answer = await self.resolver.mx("example.org")
        self.assertEqual(len(answer.records), 2)
        self.assertEqual([query.by for query in self.server.queries], ["udp", "tcp"])
        self.assertNotEqual(self.server.queries[0].ident, self.server.queries[1].ident)
        self.assertLess(MAX_STRANGERS, 100)

    async def test_answers_from_another_address_are_never_read(self) -> None:
        """The socket is connected: the kernel drops them."""
        self.server.script("example.org", "MX", Action.SILENCE)
        waiting = as_deferred(self.over(self.server.server, schedule=Schedule(0.3, 1)).mx("example.org"))
        while not self.server.queries:
            await deferLater(self.reactor, 0.005)
        query = self.server.queries[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.2", 0))
            stranger.sendto(query.ident.to_bytes(2, "big") + b"\x81\x80" + bytes(8), ("127.0.0.1", query.port))
        await self.fails(waiting, Timeout)

    async def test_truncation(self) -> None:
        self.server.script("example.org", "MX", Action.TRUNCATE)
        self.assertEqual(len((await self.resolver.mx("example.org")).records), 2)
        self.assertEqual([query.by for query in self.server.queries], ["udp", "tcp"])

    async def test_truncation_with_tcp_down(self) -> None:
        server = self.serve(tcp=False)
        server.add("example.org", "MX", "10 mx1.example.org.")
        server.script("example.org", "MX", Action.TRUNCATE)
        failure = await self.fails(self.over(server.server).mx("example.org"), ServerFailure)
        self.assertIn("TCP", failure.reason)

    async def test_edns_that_is_not_understood(self) -> None:
        self.server.script("example.org", "MX", Action.FORMERR, Action.ANSWER)
        self.assertEqual(len((await self.resolver.mx("example.org")).records), 2)
        self.assertEqual([query.edns for query in self.server.queries], [True, False])

    async def test_a_thousand_addresses(self) -> None:
        self.server.add("many.example.org", "A", *(f"10.0.{n // 250}.{n % 250}" for n in range(1000)))
        answer = await self.resolver.query("many.example.org", A)
        self.assertEqual((len(answer.records), answer.more), (MAX_RECORDS, True))

    async def test_a_flood_of_texts(self) -> None:
        self.server.add("flood.example.org", "TXT", *(f'"{number} {"x" * 100}"' for number in range(500)))
        await self.fails(self.resolver.txt("flood.example.org"), ServerFailure)
        self.server.add("long.example.org", "TXT", " ".join(f'"{"x" * 250}"' for _ in range(200)))
        self.assertEqual(len(texts(await self.resolver.txt("long.example.org"))[0]), 50000)

    async def test_one_family_fails(self) -> None:
        self.server.script("mx1.example.org", "AAAA", Action.SERVFAIL)
        addresses = await self.resolver.addresses("mx1.example.org")
        self.assertEqual((addresses.ipv4, addresses.ipv6), (("192.0.2.1",), ()))
        self.assertIsInstance(addresses.failure, ServerFailure)

    async def test_a_fails_and_aaaa_has_nothing_is_temporary(self) -> None:
        self.server.add("v4.example.org", "A", "192.0.2.4")
        self.server.script("v4.example.org", "A", Action.SERVFAIL)
        failure = await self.fails(self.resolver.addresses("v4.example.org"), ServerFailure)
        self.assertTrue(failure.temporary)


class ServersTests(_Names):
    async def test_the_next_server_answers_for_one_that_fails(self) -> None:
        bad = self.serve()
        for action in (Action.SERVFAIL, Action.REFUSED, Action.LAME, Action.GARBAGE):
            bad.script("example.org", "MX", action)
            answer = await self.over(bad.server, self.server.server).mx("example.org")
            self.assertEqual(len(answer.records), 2, action)

    async def test_nobody_at_the_first_servers_port(self) -> None:
        gone = self.serve()
        await gone.stop()
        self.assertEqual(len((await self.over(gone.server, self.server.server).mx("example.org")).records), 2)

    async def test_a_silent_server_costs_its_timeout_once(self) -> None:
        silent = self.serve()
        for name in ("example.org", "mx1.example.org"):
            for kind in ("MX", "A"):
                silent.script(name, kind, Action.SILENCE)
        resolver = self.over(silent.server, self.server.server, schedule=HASTY)
        await resolver.mx("example.org")
        await resolver.query("mx1.example.org", A)
        self.assertEqual([query.kind for query in silent.queries], ["MX"])

    async def test_a_late_answer_of_the_first_server_counts(self) -> None:
        late = self.serve(delay=0.2)
        late.add("example.org", "MX", "10 late.example.org.")
        self.server.script("example.org", "MX", Action.SILENCE)
        answer = await self.over(late.server, self.server.server, schedule=Schedule(0.12, 1)).mx("example.org")
        self.assertEqual(answer.records[0].exchange.to_text(), "late.example.org.")


class CancellingTests(_Names):
    async def test_nothing_is_left_open(self) -> None:
        """Answered, failed, timed out, cancelled by UDP and by TCP: every socket is closed."""
        self.server.script("s.example.org", "A", Action.SILENCE)
        self.server.script("t.example.org", "A", Action.TRUNCATE, Action.SILENCE)
        self.server.delay = 0.0
        transport = Transport([self.server.server], self.reactor, random.Random(1), HASTY)
        open_before = descriptors()
        silent = [transport.ask(question("s.example.org")).as_deferred() for _ in range(20)]
        self.assertEqual(descriptors(), open_before + 20)
        self.assertEqual(transport.in_flight, 20)
        for waiting in silent[:10]:
            waiting.cancel()
            await self.assertFailure(waiting, CancelledError)
        self.assertEqual(descriptors(), open_before + 10)
        for waiting in silent[10:]:
            await self.assertFailure(waiting, Timeout)
        self.assertEqual((descriptors(), transport.in_flight), (open_before, 0))
        by_tcp = transport.ask(question("t.example.org")).as_deferred()
        while not any(query.by == "tcp" for query in self.server.queries):
            await deferLater(self.reactor, 0.001)
        by_tcp.cancel()
        await self.assertFailure(by_tcp, CancelledError)
        await deferLater(self.reactor, 0.05)
        self.assertEqual(transport.in_flight, 0)
        self.assertLessEqual(descriptors(), open_before)

    async def test_one_waiter_of_a_question_leaves(self) -> None:
        self.server.delay = 0.05
        first, second = (as_deferred(self.resolver.mx("example.org")) for _ in range(2))
        first.cancel()
        await self.assertFailure(first, CancelledError)
        self.assertEqual(len((await second).records), 2)
        self.assertEqual(self.server.asked("example.org"), 1)

    async def test_the_last_waiter_takes_the_question_with_it(self) -> None:
        self.server.delay = 0.05
        transport = Transport([self.server.server], self.reactor, random.Random(1), PATIENT)
        resolver = Resolver(transport, self.reactor.seconds)
        waiting: list[Deferred[Any]] = [as_deferred(resolver.mx("example.org")) for _ in range(2)]
        for each in waiting:
            each.cancel()
            await self.assertFailure(each, CancelledError)
        self.assertEqual(transport.in_flight, 0)
        self.server.delay = 0.0
        self.assertEqual(len((await resolver.mx("example.org")).records), 2)

    async def test_no_more_than_so_many_at_once(self) -> None:
        transport = Transport([self.server.server], self.reactor, random.Random(1), Schedule(5.0, 2, max_queries=3))
        waiting = [transport.ask(question("example.org")).as_deferred() for _ in range(10)]
        self.assertEqual(transport.in_flight, 3)
        waiting[5].cancel()
        await self.assertFailure(waiting[5], CancelledError)
        for each in (*waiting[:5], *waiting[6:]):
            await each
        self.assertEqual(len(self.server.queries), 9)

    async def test_closing_the_transport_ends_every_wait(self) -> None:
        self.server.script("example.org", "MX", Action.SILENCE)
        transport = Transport([self.server.server], self.reactor, random.Random(1), PATIENT)
        waiting = as_deferred(Resolver(transport, self.reactor.seconds).mx("example.org"))
        transport.close()
        await self.assertFailure(waiting, CancelledError)


class _Receiver:
    def __init__(self) -> None:
        self.found: list[Any] = []
        self.done: Deferred[None] = Deferred()

    def resolutionBegan(self, resolution: Any) -> None:
        self.resolution = resolution

    def addressResolved(self, address: Any) -> None:
        self.found.append(address)

    def resolutionComplete(self) -> None:
        self.done.callback(None)


class HostnameResolverTests(_Names):
    async def resolve(self, name: str, types: Any = None) -> list[Any]:
        receiver = _Receiver()
        HostnameResolver(self.resolver).resolveHostName(receiver, name, 25, types)
        await receiver.done
        return receiver.found

    async def test_families_take_turns(self) -> None:
        self.server.add("mx1.example.org", "A", "192.0.2.1", "192.0.2.2")
        found = await self.resolve("mx1.example.org")
        self.assertEqual(found[0], IPv6Address("TCP", "2001:db8::1", 25))
        self.assertEqual(set(found[1:]), {IPv4Address("TCP", f"192.0.2.{number}", 25) for number in (1, 2)})

    async def test_one_family_alone(self) -> None:
        self.assertEqual([a.host for a in await self.resolve("mx1.example.org", [IPv6Address])], ["2001:db8::1"])

    async def test_a_failure_is_no_address(self) -> None:
        self.server.script("bad.example.org", "A", Action.SERVFAIL)
        self.server.script("bad.example.org", "AAAA", Action.SERVFAIL)
        self.assertEqual(await self.resolve("bad.example.org"), [])
        self.assertEqual(await self.resolve("nowhere.example.org"), [])


def question(name: str) -> Question:
    parsed = parse_name(name)
    assert parsed is not None
    return Question(parsed, MX if name == "example.org" else A)
