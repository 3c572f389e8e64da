"""What goes wrong on the way to the hosts of a domain, over real sockets: the DNS, the MX list, MTA-STS; the classes of
docs/behaviour.md each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.server import Site

from mailgate.dns.service import HostnameResolver
from mailgate.dns.txdnspython import Schedule
from mailgate.modules.target import remote
from mailgate.net.waiting import spawn
from mailgate.outbound.sts_fetch import PolicyHosts
from mailgate.testing.client import RawClient
from mailgate.testing.names import Action, NameServer
from mailgate.testing.nexthop import NextHop, Step, say
from tests.support.certificates import Leaf, authority, leaf
from tests.support.ports import free_port
from tests.support.scenario import codes, statuses
from tests.wire.test_remote import RemoteWireCase
from tests.wire.test_sts_fetch import PolicyResource

IMPATIENT = Schedule(timeout=0.15, attempts=1)
LATER = b"451 4.4.3"


class FaultCase(RemoteWireCase):
    """Fresh names and ports for each row of a table."""

    def setUp(self) -> None:
        super().setUp()
        self.clients: list[RawClient] = []

    def names_anew(self, **options: Any) -> None:
        old = self.names
        self.names = NameServer(self.reactor, **options)
        self.addCleanup(lambda: spawn(old.stop()))
        self.adapters = replace(self.adapters, resolver=self.names.resolver(Random(1), schedule=IMPATIENT))
        self.port, self.smtp = free_port(), free_port()

    async def client(self) -> RawClient:
        self.clients.append(await super().client())
        return self.clients[-1]

    async def end(self, *hops: NextHop) -> None:
        """Of a row."""
        while self.clients:
            await self.clients.pop().close()
        assert self.gateway is not None
        await self.gateway.stop()
        for hop in hops:
            await hop.close()

    async def heard(self, *lines: str) -> bytes:
        """What the client hears in the end, or at RCPT."""
        await self.start(*lines)
        replies = await self.send(b"u@d.test")
        return b"250" if codes(replies)[-1] == b"250" else statuses(replies[:2])[-1]


class DnsFaultTests(FaultCase):
    async def test_each_fault_of_each_question(self) -> None:
        for action in (
            Action.SERVFAIL,
            Action.REFUSED,
            Action.BOGUS,
            Action.LAME,
            Action.GARBAGE,
            Action.SILENCE,
            Action.FORMERR,
        ):
            for name, kind in (("d.test", "MX"), ("mx.d.test", "A")):
                self.names_anew()
                self.names.add("d.test", "MX", "10 mx.d.test.")
                hop = self.host("mx.d.test", "127.0.0.11")
                self.names.script(name, kind, action)
                self.assertEqual(await self.heard(), LATER, f"{action} {kind}")
                self.assertEqual(hop.connections, [])
                await self.end(hop)

    async def test_truncation_with_tcp_down(self) -> None:
        for tcp, expected in ((False, LATER), (True, b"250")):
            self.names_anew(tcp=tcp)
            self.names.add("d.test", "MX", "10 mx.d.test.")
            hop = self.host("mx.d.test", "127.0.0.11")
            self.names.script("d.test", "MX", Action.TRUNCATE)
            self.assertEqual(await self.heard(), expected)
            await self.end(hop)

    async def test_aliases_in_a_circle(self) -> None:
        for name in ("d.test", "mx.d.test"):
            self.names_anew()
            self.names.add("d.test", "MX", "10 mx.d.test.")
            self.names.remove(name, "MX")
            self.names.add(name, "CNAME", "round.test.")
            self.names.add("round.test", "CNAME", f"{name}.")
            self.assertEqual(await self.heard(), LATER, name)
            await self.end()

    async def test_spoofed_answers_raced(self) -> None:
        self.names_anew()
        self.names.add("d.test", "MX", "10 mx.d.test.")
        hop = self.host("mx.d.test", "127.0.0.11")
        for name, kind in (("d.test", "MX"), ("mx.d.test", "A")):
            self.names.script(name, kind, Action.SPOOF)
        self.assertEqual(await self.heard(), b"250")
        self.assertEqual(len(hop.transactions), 1)

    async def test_no_ipv4_can_be_asked_for_and_there_is_no_ipv6(self) -> None:
        for implicit in (False, True):
            self.names_anew()
            host = "d.test" if implicit else "mx.d.test"
            if not implicit:
                self.names.add("d.test", "MX", "10 mx.d.test.")
            self.names.add(host, "TXT", '"exists"')
            self.names.script(host, "A", Action.SERVFAIL)
            self.assertEqual(await self.heard(), LATER)
            await self.end()

    async def test_a_denial_by_both_families_is_for_good(self) -> None:
        self.names_anew()
        self.names.add("d.test", "TXT", '"exists"')
        self.assertEqual(await self.heard(), b"550 5.4.4")

    async def test_one_host_that_cannot_be_asked_for_leaves_the_others(self) -> None:
        self.names_anew()
        self.names.add("d.test", "MX", "10 mx1.d.test.", "20 mx2.d.test.")
        self.names.script("mx1.d.test", "A", Action.SERVFAIL)
        hop = self.host("mx2.d.test", "127.0.0.12")
        self.assertEqual(await self.heard(), b"250")
        self.assertEqual(len(hop.transactions), 1)


class MxListTests(FaultCase):
    def three(self, *scripts: Any) -> list[NextHop]:
        self.names.add("d.test", "MX", "30 mx3.d.test.", "10 mx1.d.test.", "20 mx2.d.test.")
        return [self.host(f"mx{number}.d.test", f"127.0.0.1{number}", script=script) for number, script in enumerate(scripts, 1)]

    async def test_in_the_order_of_preference(self) -> None:
        self.names_anew()
        hops = self.three(None, None, None)
        self.assertEqual(await self.heard(), b"250")
        self.assertEqual([len(hop.connections) for hop in hops], [1, 0, 0])

    async def test_equal_preferences_are_shuffled(self) -> None:
        self.names_anew()
        self.names.add("d.test", "MX", *(f"10 mx{number}.d.test." for number in (1, 2, 3)))
        hops = [self.host(f"mx{number}.d.test", f"127.0.0.1{number}") for number in (1, 2, 3)]
        await self.start("max_idle 0")
        for _ in range(30):
            self.assertEqual(codes(await self.send(b"u@d.test"))[-1], b"250")
        counts = [len(hop.transactions) for hop in hops]
        self.assertEqual(sum(counts), 30)
        self.assertGreater(min(counts), 2, counts)

    async def test_a_host_that_fails_before_the_envelope_leads_to_the_next(self) -> None:
        for name, script in (
            ("banner 554", {Step.BANNER: say(b"554 no", then_drop=True)}),
            ("banner 421", {Step.BANNER: say(b"421 4.3.2 no", then_drop=True)}),
            ("ehlo 421", {Step.HELLO: say(b"421 4.3.2 no", then_drop=True)}),
            ("mail 421", {Step.MAIL: say(b"421 4.3.2 no", then_drop=True)}),
            ("rcpt 421", {Step.RCPT: say(b"421 4.3.2 no", then_drop=True)}),
            ("data 421", {Step.DATA: say(b"421 4.3.2 no", then_drop=True)}),
        ):
            self.names_anew()
            hops = self.three(script, None, None)
            self.assertEqual(await self.heard(), b"250", name)
            self.assertEqual([len(hop.transactions) for hop in hops], [0, 1, 0], name)
            await self.end(*hops)

    async def test_421_to_the_dot_is_the_answer(self) -> None:
        self.names_anew()
        hops = self.three({Step.DOT: say(b"421 4.3.2 no", then_drop=True)}, None, None)
        await self.start()
        self.assertEqual(statuses(await self.send(b"u@d.test"))[-1], b"451 4.3.2")
        self.assertEqual([len(hop.connections) for hop in hops[1:]], [0, 0])

    async def test_null_and_implicit_mx(self) -> None:
        self.names_anew()
        self.names.add("d.test", "MX", "0 .")
        hop = self.host("d.test", "127.0.0.11")
        self.assertEqual(await self.heard(), b"556 5.1.10")
        self.assertEqual(hop.connections, [])
        await self.end(hop)
        self.names_anew()
        hop = self.host("d.test", "127.0.0.11")
        self.assertEqual(await self.heard(), b"250")
        self.assertEqual(len(hop.transactions), 1)

    async def test_our_own_name_in_the_list(self) -> None:
        for records, expected in (
            (("10 gateway.test.", "20 mx1.d.test."), b"554 5.4.6"),
            (("10 gateway.test.", "10 mx1.d.test."), b"554 5.4.6"),
            (("10 mx1.d.test.", "20 gateway.test.", "30 mx2.d.test."), LATER[:3]),
        ):
            self.names_anew()
            self.names.add("d.test", "MX", *records)
            self.names.add("mx1.d.test", "A", "127.0.0.11")  # nobody listens there
            behind = self.host("mx2.d.test", "127.0.0.12")
            heard = await self.heard()
            self.assertEqual(heard[: len(expected)], expected, records)
            self.assertEqual(behind.connections, [])
            await self.end(behind)

    async def test_ipv6_that_is_broken(self) -> None:
        for address in ("::1", "2001:db8::1"):
            self.names_anew()
            hop = self.host("d.test", "127.0.0.11")
            self.names.add("d.test", "AAAA", address)
            self.assertEqual(await self.heard("ip_strategy ipv6_then_ipv4", "fallback_delay 200ms"), b"250", address)
            self.assertEqual(len(hop.transactions), 1)
            await self.end(hop)


POLICY = b"version: STSv1\nmode: enforce\nmx: mx.d.test\nmax_age: 604800\n"


class MtaStsTests(FaultCase):
    """A policy host and the hosts of the domain, each on an address of its own; certificates are real."""

    def setUp(self) -> None:
        super().setUp()
        before = self.reactor.nameResolver
        self.addCleanup(lambda: self.reactor.installNameResolver(before))

    def publish(self, resource: PolicyResource, certificate: Leaf, identity: str = "1") -> None:
        self.names.add("_mta-sts.d.test", "TXT", f'"v=STSv1; id={identity};"', ttl=0)
        self.names.add("mta-sts.d.test", "A", "127.0.0.80")
        tls = TLSMemoryBIOFactory(certificate.server, False, Site(resource))
        port = self.reactor.listenTCP(0, tls, interface="127.0.0.80")
        self.addCleanup(port.stopListening)
        number = port.getHost().port
        self.patch(remote, "PolicyHosts", lambda reactor, root_ca: PolicyHosts(reactor, root_ca, number))

    async def begin(self) -> None:
        self.reactor.installNameResolver(HostnameResolver(self.adapters.resolver))
        ca = authority().path
        await self.start(f"tls_client {{\n root_ca {ca}\n}}", f"mx_auth {{\n mtasts\n mtasts_root_ca {ca}\n}}", "max_idle 0")

    async def outcome(self) -> bytes:
        replies = await self.send(b"u@d.test")
        return b"250" if codes(replies)[-1] == b"250" else statuses(replies[:2])[-1]

    async def test_table(self) -> None:
        good, nobodys = leaf("mta-sts.d.test"), authority("nobody's").issue("mx.d.test")
        rows: list[tuple[str, PolicyResource, Leaf, Callable[[], dict[str, Any]], bytes]] = [
            ("enforce", PolicyResource(POLICY), good, lambda: {"tls": leaf("mx.d.test").server}, b"250"),
            ("wrong name", PolicyResource(POLICY), good, lambda: {"tls": leaf("other.test").server}, b"451 4.7.5"),
            (
                "untrusted",
                PolicyResource(POLICY),
                good,
                lambda: {"tls": nobodys.server},
                b"451 4.7.5",
            ),
            ("no starttls", PolicyResource(POLICY), good, dict, b"451 4.7.4"),
            ("host not named", PolicyResource(POLICY.replace(b"mx.d", b"mx9.d")), good, dict, b"451 4.7.5"),
            ("testing", PolicyResource(POLICY.replace(b"enforce", b"testing")), good, dict, b"250"),
            ("none", PolicyResource(POLICY.replace(b"enforce", b"none")), good, dict, b"250"),
            ("redirect", PolicyResource(POLICY, 302), good, dict, b"250"),
            ("oversize", PolicyResource(POLICY + b"x: " + b"y" * (64 << 10) + b"\n"), good, dict, b"250"),
            ("its certificate for another name", PolicyResource(POLICY), leaf("other.test"), dict, b"250"),
            ("its certificate untrusted", PolicyResource(POLICY), authority("nobody's").issue("mta-sts.d.test"), dict, b"250"),
            ("404", PolicyResource(POLICY, 404), good, dict, b"250"),
        ]
        for name, resource, certificate, options, expected in rows:
            self.names_anew()
            self.names.add("d.test", "MX", "10 mx.d.test.")
            self.publish(resource, certificate)
            hop = self.host("mx.d.test", "127.0.0.11", **options())
            await self.begin()
            self.assertEqual(await self.outcome(), expected, name)
            self.assertEqual(len(hop.transactions), int(expected == b"250"), name)
            if name == "host not named":
                self.assertEqual(hop.connections, [])
            await self.end(hop)
            for kept in self.directory.glob("mta-sts/*"):
                kept.unlink()

    async def test_a_new_id_whose_policy_cannot_be_had_leaves_the_old_one_in_force(self) -> None:
        self.names_anew()
        self.names.add("d.test", "MX", "10 evil.test.", "20 mx.d.test.")
        resource = PolicyResource(POLICY)
        self.publish(resource, leaf("mta-sts.d.test"))
        evil = self.host("evil.test", "127.0.0.12")
        good = self.host("mx.d.test", "127.0.0.11", tls=leaf("mx.d.test").server)
        await self.begin()
        self.assertEqual(await self.outcome(), b"250")
        resource.code = 500
        self.names.add("_mta-sts.d.test", "TXT", '"v=STSv1; id=2;"', ttl=0)
        self.adapters.resolver.forget()
        self.assertEqual(await self.outcome(), b"250")
        self.assertEqual((len(evil.connections), len(good.transactions), len(resource.asked)), (0, 2, 2))
