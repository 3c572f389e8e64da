"""Direct delivery in a whole gateway, on a simulated network with a simulated DNS: what goes where, in what order, and what is
said when it can't."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.modules.target.remote import RemoteTarget
from mailgate.smtp.address import parse_address
from mailgate.smtp.parameters import MailParameters
from mailgate.smtp.reply import Reply
from mailgate.testing.client import RawClient
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.names import Action, MemoryNames
from mailgate.testing.network import adapters_for
from mailgate.testing.nexthop import DROP, HANG, NextHop, Step, say
from mailgate.testing.script import Script
from tests.support.ledger import message
from tests.support.scenario import LMTP, SMTP, SimulatedCase, codes, statuses


class RemoteCase(SimulatedCase):
    """``self.names`` is the DNS. Hosts listen on addresses of their own, port 25."""

    def setUp(self) -> None:
        super().setUp()
        self.names = MemoryNames(self.reactor)

    def host(self, name: str, *addresses: str, script: Script | None = None, listens: bool = True, **options: Any) -> NextHop:
        """A host with these addresses; it listens on all of them."""
        kinds: dict[str, list[str]] = {}
        for address in addresses:
            kinds.setdefault("AAAA" if ":" in address else "A", []).append(address)
        for kind, found in kinds.items():
            self.names.add(name, kind, *found)
        hop = NextHop(script=script, **options)
        for address in addresses if listens else ():
            hop.listen(self.reactor, port=25, interface=address)
        self.hops.append(hop)
        return hop

    def mx(self, domain: str, *records: str) -> None:
        self.names.add(domain, "MX", *records)

    def direct(self, *lines: str, listener: str = "") -> WholeGateway:
        inner = "\n".join(lines)
        text = (
            f"hostname gateway.test\ntarget.remote direct {{\n{inner}\n}}\n"
            f"smtp {SMTP} {{\n tls off\n reverse_lookup no\n{listener}\n deliver_to &direct\n}}\n"
            f"lmtp {LMTP} {{\n tls off\n reverse_lookup no\n{listener}\n deliver_to &direct\n}}\n"
        )
        adapters = replace(adapters_for(self.reactor), resolver=self.names.resolver())
        self.running = WholeGateway(text, adapters, self.directory)
        self.reactor.run(self.running.start())
        return self.running

    def send(self, *recipients: bytes, client: RawClient | None = None) -> list[bytes]:
        return self.deliver(client or self.client(), *recipients)

    def connects(self) -> list[str]:
        """The addresses that were dialled on port 25, in their order, the clients' own aside."""
        return [key[0] for _, key in self.reactor.connects if isinstance(key, tuple) and key[1] == 25 and key[0] != "127.0.0.1"]

    def attempts(self) -> list[str]:
        assert self.running is not None
        return self.running.logged("delivery.attempt")

    def offered(self, parameters: MailParameters, *, tls_required_no: bool = False) -> Reply:
        """What the target says to one recipient, u@d.test, of a message with these parameters of MAIL: a listener without TLS
        would not take all of them."""
        assert self.running is not None
        target: Any = next(one for one in self.running.configuration.modules if isinstance(one, RemoteTarget))
        session = Session("s", "test", "gateway.test")
        envelope = Envelope("m.1", parse_address("a@x.test"), session, parameters, tls_required_no=tls_required_no)
        delivery = target.open(envelope)
        reply: Reply = self.reactor.run(delivery.rcpt(Recipient(parse_address("u@d.test"))), limit=3600)
        delivery.abort()
        self.reactor.settle(5)
        return reply


class WhereTests(RemoteCase):
    def test_the_most_preferred_host_gets_it(self) -> None:
        first, second = self.host("mx1.d.test", "192.0.2.1"), self.host("mx2.d.test", "192.0.2.2")
        self.mx("d.test", "20 mx2.d.test.", "10 mx1.d.test.")
        self.direct()
        self.assertEqual(codes(self.send(b"a@D.test"))[-1], b"250")
        self.assertEqual((len(first.transactions), len(second.transactions)), (1, 0))
        self.assertIn("mx=mx1.d.test", self.attempts()[0])
        self.assertIn("endpoint=mx1.d.test[192.0.2.1]:25", self.attempts()[0])

    def test_equal_preferences_share_the_mail(self) -> None:
        hosts = [self.host(f"mx{number}.d.test", f"192.0.2.{number}") for number in (1, 2)]
        self.mx("d.test", "10 mx1.d.test.", "10 mx2.d.test.")
        self.direct()
        for _ in range(30):
            self.send(b"a@d.test")
        self.assertGreater(min(len(host.transactions) for host in hosts), 5)

    def test_implicit_mx(self) -> None:
        host = self.host("d.test", "192.0.2.1")
        self.direct()
        self.assertEqual(codes(self.send(b"a@d.test"))[-1], b"250")
        self.assertEqual(len(host.transactions), 1)

    def test_an_alias_is_followed(self) -> None:
        host = self.host("mx.real.test", "192.0.2.1")
        self.names.add("alias.test", "CNAME", "real.test.")
        self.mx("real.test", "10 mx.real.test.")
        self.direct()
        self.assertEqual(codes(self.send(b"a@alias.test"))[-1], b"250")
        self.assertEqual(len(host.transactions), 1)

    def test_u_labels_are_asked_for_as_a_labels(self) -> None:
        host = self.host("mx.d.test", "192.0.2.1")
        self.mx("xn--bcher-kva.test", "10 mx.d.test.")
        self.direct()
        client = self.client()
        replies = self.say(client, b"MAIL FROM:<a@x.test> SMTPUTF8", "RCPT TO:<a@bücher.test>".encode(), b"DATA")
        self.assertEqual(codes(replies), [b"250", b"250", b"354"])
        self.say(client, b"Subject: x\r\n\r\nx\r\n.")
        self.assertEqual(len(host.transactions), 1)

    def test_address_literals(self) -> None:
        host = self.host("x.test", "192.0.2.1")
        self.direct()
        self.assertEqual(statuses(self.send(b"a@[192.0.2.1]")[:2])[-1], b"550 5.1.2")
        self.reactor.run(self.running.stop())  # type: ignore[union-attr]
        self.direct("address_literals yes")
        self.assertEqual(codes(self.send(b"a@[192.0.2.1]"))[-1], b"250")
        self.assertEqual(len(host.transactions), 1)
        self.assertEqual(statuses(self.send(b"a@[127.0.0.1]")[:2])[-1], b"550 5.4.4")

    def test_a_connection_is_used_again_for_another_domain(self) -> None:
        host = self.host("mx.hoster.test", "192.0.2.1")
        self.mx("a.test", "10 mx.hoster.test.")
        self.mx("b.test", "5 mx.hoster.test.")
        self.direct()
        for recipient in (b"x@a.test", b"x@b.test", b"y@a.test"):
            self.assertEqual(codes(self.send(recipient))[-1], b"250")
        self.assertEqual((len(host.transactions), len(host.connections)), (3, 1))


class RefusalTests(RemoteCase):
    """What the DNS says before any host is asked: to RCPT, with the classes of delivery.md."""

    def refused(self, recipient: bytes) -> bytes:
        client = self.client()
        replies = self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<" + recipient + b">")
        self.assertEqual(self.connects(), [])
        return statuses(replies)[-1]

    def test_table(self) -> None:
        self.mx("null.test", "0 .")
        self.mx("self.test", "10 gateway.test.", "20 mx.other.test.")
        self.mx("dead.test", "10 nowhere.dead.test.")
        self.mx("loop.test", "10 localhost.")
        self.mx("multi.test", "10 m.multi.test.")
        self.names.add("m.multi.test", "A", "224.0.0.5", "0.0.0.0")
        self.mx("half.test", "10 h.half.test.")
        self.names.script("h.half.test", "A", Action.SERVFAIL)
        self.names.add("h.half.test", "TXT", '"exists"')
        self.names.add("text.test", "TXT", '"no host"')
        for name, action in (
            ("servfail.test", Action.SERVFAIL),
            ("bogus.test", Action.BOGUS),
            ("silent.test", Action.SILENCE),
        ):
            self.names.script(name, "MX", action)
        self.names.add("c1.test", "CNAME", "c2.test.")
        self.names.add("c2.test", "CNAME", "c1.test.")
        self.direct()
        for domain, expected in (
            ("nowhere.test", b"550 5.1.2"),
            ("null.test", b"556 5.1.10"),
            ("self.test", b"554 5.4.6"),
            ("dead.test", b"550 5.4.4"),
            ("text.test", b"550 5.4.4"),
            ("loop.test", b"550 5.4.4"),
            ("multi.test", b"550 5.4.4"),
            ("half.test", b"451 4.4.3"),
            ("servfail.test", b"451 4.4.3"),
            ("bogus.test", b"451 4.4.3"),
            ("silent.test", b"451 4.4.3"),
            ("c1.test", b"451 4.4.3"),
        ):
            self.assertEqual(self.refused(b"a@" + domain.encode()), expected, domain)

    def test_hosts_behind_us_are_not_asked(self) -> None:
        before, behind = self.host("a.test", "192.0.2.1"), self.host("b.test", "192.0.2.2")
        self.mx("d.test", "10 a.test.", "20 gateway.test.", "30 b.test.")
        self.reactor.refuse("192.0.2.1", 25)
        self.direct()
        self.assertEqual(statuses(self.send(b"x@d.test")[:2])[-1], b"451 4.4.1")
        self.assertEqual((before.connections, behind.connections), ([], []))

    def test_the_name_of_the_target_is_ours_too(self) -> None:
        self.mx("d.test", "10 out.gateway.test.")
        self.direct("hostname out.gateway.test")
        self.assertEqual(self.refused(b"x@d.test"), b"554 5.4.6")

    def test_one_host_that_fails_in_the_dns_leaves_the_others(self) -> None:
        host = self.host("mx2.d.test", "192.0.2.2")
        self.mx("d.test", "10 mx1.d.test.", "20 mx2.d.test.")
        self.names.script("mx1.d.test", "A", Action.SERVFAIL)
        self.names.script("mx1.d.test", "AAAA", Action.SERVFAIL)
        self.direct()
        self.assertEqual(codes(self.send(b"x@d.test"))[-1], b"250")
        self.assertEqual(len(host.transactions), 1)


class OrderTests(RemoteCase):
    """Which address comes after which fault."""

    def two_hosts(self, script: Script | None = None) -> tuple[NextHop, NextHop]:
        self.mx("d.test", "10 mx1.d.test.", "20 mx2.d.test.")
        first = self.host("mx1.d.test", "192.0.2.1", "192.0.2.11", script=script)
        return first, self.host("mx2.d.test", "192.0.2.2")

    def test_a_connect_fault_leads_to_the_next_address(self) -> None:
        first, second = self.two_hosts()
        self.reactor.refuse("192.0.2.1", 25)
        self.direct()
        self.assertEqual(codes(self.send(b"x@d.test"))[-1], b"250")
        self.assertEqual(self.connects(), ["192.0.2.1", "192.0.2.11"])
        self.assertEqual((len(first.transactions), len(second.transactions)), (1, 0))

    def test_trouble_in_the_dialogue_leads_to_the_next_host(self) -> None:
        for script in (
            {Step.BANNER: say(b"554 go away", then_drop=True)},
            {Step.BANNER: say(b"421 4.3.2 busy", then_drop=True)},
            {Step.BANNER: DROP},
            {Step.HELLO: say(b"421 4.3.2 busy", then_drop=True)},
            {Step.MAIL: say(b"421 4.3.2 busy", then_drop=True)},
            {Step.MAIL: DROP},
            {Step.RCPT: say(b"421 4.3.2 busy", then_drop=True)},
        ):
            with self.row(str(script)):
                self.names = MemoryNames(self.reactor)
                first, second = self.two_hosts(script)
                self.direct()
                self.assertEqual(codes(self.send(b"x@d.test"))[-1], b"250")
                self.assertEqual(self.connects(), ["192.0.2.1", "192.0.2.2"])
                self.assertEqual((len(first.transactions), len(second.transactions)), (0, 1))

    def test_what_is_said_of_the_message_is_the_answer(self) -> None:
        for step, line in (
            (Step.MAIL, b"550 5.7.1 not you"),
            (Step.MAIL, b"450 4.7.1 greylisted"),
            (Step.RCPT, b"550 5.1.1 nobody"),
            (Step.RCPT, b"450 4.7.1 greylisted"),
        ):
            with self.row(f"{step} {line!r}"):
                self.names = MemoryNames(self.reactor)
                first, second = self.two_hosts({step: say(line)})
                self.direct()
                self.assertEqual(statuses(self.send(b"x@d.test")[:2])[-1], line[:9])
                self.assertEqual((len(first.connections), len(second.connections)), (1, 0))

    def test_failover_tempfail(self) -> None:
        _, second = self.two_hosts({Step.RCPT: say(b"450 4.7.1 greylisted")})
        self.direct("failover {\n tempfail yes\n}")
        self.assertEqual(codes(self.send(b"x@d.test"))[-1], b"250")
        self.assertEqual(len(second.transactions), 1)

    def test_the_failure_that_says_most_is_kept(self) -> None:
        for first, second, expected in (
            (b"554 blocked", None, b"mx1.d.test said: 554 blocked"),
            (b"421 busy", b"554 blocked", b"mx2.d.test said: 554 blocked"),
            (b"554 blocked", b"421 busy", b"mx1.d.test said: 554 blocked"),
            (None, None, b"can't be reached"),
        ):
            with self.row(f"{first!r} {second!r}"):
                self.names = MemoryNames(self.reactor)
                self.mx("d.test", "10 mx1.d.test.", "20 mx2.d.test.")
                for number, line in ((1, first), (2, second)):
                    script: Script | None = None if line is None else {Step.BANNER: say(line, then_drop=True)}
                    self.host(f"mx{number}.d.test", f"192.0.2.{number}", script=script, listens=line is not None)
                self.direct()
                reply = self.send(b"x@d.test")[1]
                self.assertEqual(reply[:3], b"451")
                self.assertIn(expected, reply)

    def test_a_dead_first_host_costs_its_time_once(self) -> None:
        self.mx("d.test", "10 mx1.d.test.", "20 mx2.d.test.")
        self.host("mx1.d.test", "192.0.2.1", listens=False)
        self.reactor.black_hole("192.0.2.1", 25)
        second = self.host("mx2.d.test", "192.0.2.2")
        self.direct()
        waits = []
        for _ in range(2):
            before = self.reactor.seconds()
            self.assertEqual(codes(self.send(b"x@d.test"))[-1], b"250")
            waits.append(self.reactor.seconds() - before)
        self.assertTrue(2.9 < waits[0] < 4 and waits[1] < 1, waits)
        self.assertEqual(len(second.transactions), 2)

    def test_limits(self) -> None:
        self.mx("d.test", *(f"{number} mx{number}.d.test." for number in range(1, 10)))
        for number in range(1, 10):
            addresses = [f"192.0.{number}.{n}" for n in range(1, 5)]
            self.host(f"mx{number}.d.test", *addresses, listens=False)
        self.direct("mx_limit 7", "multihomed_limit 2", "fallback_delay 0")
        self.assertEqual(codes(self.send(b"x@d.test")[:2])[-1], b"451")
        self.assertEqual(self.connects(), [f"192.0.{number}.{n}" for number in range(1, 8) for n in (1, 2)])

    def test_ipv6_that_is_broken_does_not_keep_ipv4_away(self) -> None:
        self.mx("d.test", "10 mx.d.test.")
        host = self.host("mx.d.test", "192.0.2.1")
        self.names.add("mx.d.test", "AAAA", "2001:db8::1", "2001:db8::2", "2001:db8::3")
        self.direct("ip_strategy ipv6_then_ipv4")
        self.assertEqual(codes(self.send(b"x@d.test"))[-1], b"250")
        self.assertEqual(self.connects(), ["2001:db8::1", "192.0.2.1"])
        self.assertEqual(len(host.transactions), 1)


class GroupTests(RemoteCase):
    """One transaction for each set of hosts, and what a client hears who has one reply for several."""

    def setUp(self) -> None:
        super().setUp()
        self.first = self.host("mx.one.test", "192.0.2.1")
        self.second = self.host("mx.two.test", "192.0.2.2")
        self.mx("a.test", "10 mx.one.test.")
        self.mx("b.test", "10 mx.one.test.")
        self.mx("c.test", "10 mx.two.test.")

    def test_domains_with_the_same_hosts_share_a_transaction(self) -> None:
        self.direct()
        replies = self.send(b"x@a.test", b"y@b.test")
        self.assertEqual(codes(replies), [b"250", b"250", b"250", b"354", b"250"])
        self.assertEqual(self.first.transactions[0].paths, [b"x@a.test", b"y@b.test"])

    def test_another_group_is_for_the_next_transaction(self) -> None:
        self.direct()
        replies = self.send(b"x@a.test", b"y@c.test", b"z@b.test")
        self.assertEqual(statuses(replies)[2], b"452 4.5.3")
        self.assertEqual(codes(replies), [b"250", b"250", b"452", b"250", b"354", b"250"])
        self.assertEqual(self.first.transactions[0].paths, [b"x@a.test", b"z@b.test"])
        self.assertEqual(self.second.connections, [])
        self.assertEqual(codes(self.send(b"y@c.test"))[-1], b"250")

    def test_on_split_allow(self) -> None:
        self.direct(listener=" on_split allow")
        replies = self.send(b"x@a.test", b"y@c.test", b"z@b.test")
        self.assertEqual(codes(replies), [b"250"] * 4 + [b"354", b"250"])
        self.assertEqual(self.first.transactions[0].paths, [b"x@a.test", b"z@b.test"])
        self.assertEqual(self.second.transactions[0].paths, [b"y@c.test"])

    def test_lmtp_has_a_reply_for_each(self) -> None:
        self.second._script = {Step.DOT: say(b"552 5.2.2 full")}
        self.direct()
        replies = self.send(b"x@a.test", b"y@c.test", b"z@b.test", client=self.client(LMTP))
        self.assertEqual(codes(replies), [b"250"] * 4 + [b"354", b"250", b"552", b"250"])

    def test_settings_that_see_the_domain_keep_domains_apart(self) -> None:
        self.direct('hostname {\n if rcpt_domain == "a.test" then a.gateway.test\n else gateway.test\n}')
        replies = self.send(b"x@a.test", b"y@b.test")
        self.assertEqual(codes(replies), [b"250", b"250", b"452", b"354", b"250"])

    def test_a_refused_recipient_leaves_its_group(self) -> None:
        self.first._script = {Step.RCPT: say(b"550 5.1.1 nobody")}
        self.direct()
        replies = self.send(b"x@a.test", b"y@c.test")
        self.assertEqual(codes(replies), [b"250", b"550", b"250", b"354", b"250"])
        self.assertEqual(self.second.transactions[0].paths, [b"y@c.test"])


class SettingsTests(RemoteCase):
    def hello(self, hop: NextHop) -> bytes:
        return next(line for line in hop.connections[-1].commands if line.startswith(b"EHLO"))

    def test_hostname(self) -> None:
        host = self.host("d.test", "192.0.2.1")
        self.direct("hostname out.gateway.test")
        self.send(b"x@d.test")
        self.assertEqual(self.hello(host), b"EHLO out.gateway.test")

    def test_hostname_follows_the_source(self) -> None:
        host = self.host("d.test", "192.0.2.1")
        self.direct(
            "source_ip 203.0.113.10 203.0.113.11",
            "source_selection round_robin",
            "max_idle 0",
            "hostname {\n if local_ip == 203.0.113.11 then mx2.gateway.test\n else mx.gateway.test\n}",
        )
        said = set()
        for _ in range(2):
            self.send(b"x@d.test")
            local = self.attempts()[-1].split("local=")[1].split(":")[0]
            said.add((local, self.hello(host)))
        expected = {("203.0.113.10", b"EHLO mx.gateway.test"), ("203.0.113.11", b"EHLO mx2.gateway.test")}
        self.assertEqual(said, expected)

    def test_a_family_without_a_source_is_not_used(self) -> None:
        host = self.host("d.test", "2001:db8::1", "192.0.2.1")
        self.direct("source_ip 203.0.113.10", "ip_strategy ipv6_then_ipv4")
        self.assertEqual(codes(self.send(b"x@d.test"))[-1], b"250")
        self.assertEqual((self.connects(), len(host.transactions)), (["192.0.2.1"], 1))

    def test_no_source_at_all_is_temporary_and_no_connect(self) -> None:
        self.host("d.test", "2001:db8::1")
        self.direct("source_ip 203.0.113.10")
        self.assertEqual(statuses(self.send(b"x@d.test")[:2])[-1], b"451 4.3.0")
        self.assertEqual(self.connects(), [])

    def test_strategy_by_retry_num(self) -> None:
        self.host("d.test", "2001:db8::1", "192.0.2.1")
        self.direct("ip_strategy {\n if retry_num == 0 then ipv6_only\n else ipv4_only\n}")
        self.send(b"x@d.test")
        self.assertEqual(self.connects(), ["2001:db8::1"])

    def test_limits_by_host(self) -> None:
        self.mx("d.test", "10 big.test.", "20 small.test.")
        self.host("big.test", "192.0.2.1", "192.0.2.2", "192.0.2.3", listens=False)
        self.host("small.test", "192.0.2.4", "192.0.2.5", listens=False)
        self.direct('multihomed_limit {\n if mx == "big.test" then 3\n else 1\n}', "fallback_delay 0")
        self.send(b"x@d.test")
        self.assertEqual(self.connects(), ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"])

    def test_timeouts(self) -> None:
        for step, directive, script in (
            ("greeting", "greeting 7s", {Step.BANNER: HANG}),
            ("ehlo", "ehlo 7s", {Step.HELLO: HANG}),
            ("mail_from", "mail_from 7s", {Step.MAIL: HANG}),
            ("rcpt_to", "rcpt_to 7s", {Step.RCPT: HANG}),
        ):
            with self.row(step):
                self.names = MemoryNames(self.reactor)
                self.host("d.test", "192.0.2.1", script=script)
                self.direct(f"timeouts {{\n {directive}\n}}")
                before = self.reactor.seconds()
                self.assertEqual(self.send(b"x@d.test")[1][:3], b"451")
                waited = self.reactor.seconds() - before
                self.assertTrue(6.9 < waited < 8, waited)

    def test_timeouts_by_host(self) -> None:
        self.mx("d.test", "10 slow.test.", "20 fast.test.")
        self.host("slow.test", "192.0.2.1", script={Step.BANNER: HANG})
        self.host("fast.test", "192.0.2.2", script={Step.BANNER: HANG})
        self.direct('timeouts {\n greeting {\n if mx == "slow.test" then 20s\n else 4s\n}\n}')
        before = self.reactor.seconds()
        self.assertEqual(self.send(b"x@d.test")[1][:3], b"451")
        waited = self.reactor.seconds() - before
        self.assertTrue(23.9 < waited < 25, waited)

    def test_connect_timeout(self) -> None:
        self.host("d.test", "192.0.2.1", listens=False)
        self.reactor.black_hole("192.0.2.1", 25)
        self.direct("timeouts {\n connect 7s\n}")
        before = self.reactor.seconds()
        self.assertEqual(statuses(self.send(b"x@d.test")[:2])[-1], b"451 4.4.1")
        self.assertTrue(6.9 < self.reactor.seconds() - before < 8)

    def test_a_client_that_leaves_while_names_are_looked_up(self) -> None:
        self.names.script("d.test", "MX", Action.SILENCE)
        self.direct()
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>")
        client.send(b"RCPT TO:<b@d.test>\r\n")
        self.reactor.settle(0.5)
        self.reactor.run(client.close())
        self.reactor.settle(20)
        assert self.running is not None
        resolver: Any = self.running.configuration.context.adapters.resolver  # type: ignore[union-attr]
        self.assertEqual(resolver._flights, {})

    def test_a_message_is_passed_on_as_it_is(self) -> None:
        host = self.host("d.test", "192.0.2.1")
        self.direct()
        content = message("direct")
        self.deliver(self.client(), b"x@d.test", content=content)
        self.assertTrue(host.transactions[0].content.endswith(content))


class QueuedCase(RemoteCase):
    """Behind a durable queue."""

    def queued(self, *lines: str) -> WholeGateway:
        inner = "\n".join(lines)
        text = (
            f"hostname gateway.test\ntarget.remote direct {{\n{inner}\n}}\n"
            "target.queue outbound {\n target &direct\n retry 2m\n}\n"
            f"smtp {SMTP} {{\n tls off\n reverse_lookup no\n deliver_to &outbound\n}}\n"
        )
        adapters = replace(adapters_for(self.reactor), resolver=self.names.resolver())
        self.running = WholeGateway(text, adapters, self.directory)
        self.reactor.run(self.running.start())
        return self.running


class QueuedTests(QueuedCase):
    def test_strategy_by_retry_num(self) -> None:
        """The example of the strategy, as it was asked for."""
        self.mx("d.test", "10 mx.d.test.")
        host = self.host("mx.d.test", "192.0.2.1")
        self.names.add("mx.d.test", "AAAA", "2001:db8::1")
        self.queued("ip_strategy {\n if retry_num == 0 then ipv6_only\n else ipv4_only\n}")
        self.assertEqual(codes(self.send(b"u@d.test"))[-1], b"250")
        self.reactor.settle(30)
        self.assertEqual((self.connects(), len(host.transactions)), (["2001:db8::1"], 0))
        self.reactor.settle(300)
        self.assertEqual((self.connects(), len(host.transactions)), (["2001:db8::1", "192.0.2.1"], 1))

    def test_one_message_to_several_sets_of_hosts(self) -> None:
        self.mx("a.test", "10 mx.one.test.")
        self.mx("b.test", "10 mx.two.test.")
        one, two = (
            self.host("mx.one.test", "192.0.2.1"),
            self.host("mx.two.test", "192.0.2.2", script={Step.RCPT: [say(b"450 4.2.0 later")]}),
        )
        self.queued()
        self.assertEqual(codes(self.send(b"u@a.test", b"u@b.test")), [b"250", b"250", b"250", b"354", b"250"])
        self.reactor.settle(600)
        self.assertEqual((len(one.transactions), len(two.transactions)), (1, 1))
