"""`limits { … }` and `refuse_clients` of listeners on the wire: what a client hears by scope, and that nothing stays taken."""

from __future__ import annotations

from typing import Any

from mailgate.testing.client import RawClient, connect
from mailgate.testing.nexthop import HANG, NextHop, Step
from tests.support.scenario import LMTP, SMTP, SimulatedCase, codes

HOP = "    targets {hop}\n    command_timeout 1h\n    failover {{\n        total 1h\n    }}\n"


class _Case(SimulatedCase):
    def limited(self, *lines: str, listener: str = "", extra: str = "", hop: NextHop | None = None) -> Any:
        block = "".join(f"        {line}\n" for line in lines)
        limits = f"    limits {{\n{block}    }}\n" if lines else ""
        self.next = hop or self.hop()
        return self.gateway(
            f"{extra}target.smtp next {{\n{HOP.format(hop=self.next.endpoint)}}}\n"
            f"smtp {SMTP} {{\n    tls off\n{limits}{listener}    deliver_to &next\n}}\n"
            f"lmtp {LMTP} {{\n    tls off\n{limits}{listener}    deliver_to &next\n}}\n"
        )

    def open(self, source: str = "192.0.2.1", endpoint: str = SMTP) -> tuple[RawClient, bytes]:
        """A connection from this address, and the first thing it hears."""
        client = self.reactor.run(connect(self.reactor, endpoint, source=source))
        client.patience = 3600.0
        return client, self.reactor.run(client.reply())

    def greeted(self, source: str = "192.0.2.1", hello: bytes = b"EHLO client.test") -> RawClient:
        client, greeting = self.open(source)
        self.assertEqual(greeting[:4], b"220 ", greeting)
        self.assertEqual(self.ask(client, hello)[:3], b"250")
        return client

    def mail(self, client: RawClient, sender: bytes = b"a@client.test") -> bytes:
        return self.ask(client, b"MAIL FROM:<" + sender + b">")

    def assert_closed(self, client: RawClient) -> None:
        self.reactor.run(client.wait_closed())

    def logged_limits(self) -> list[str]:
        assert self.running is not None
        return self.running.logged("limit.refused")


class RateTests(_Case):
    def test_all(self) -> None:
        self.limited("all rate 2 1m")
        one, other = self.greeted("192.0.2.1"), self.greeted("192.0.2.2")
        self.assertEqual(codes(self.deliver(one, b"b@y.test"))[-1], b"250")
        self.assertEqual(codes(self.deliver(other, b"b@y.test"))[-1], b"250")
        self.assertEqual(self.mail(one), b"451 4.3.2 Too much mail at present, try again later")
        self.assertEqual(self.ask(one, b"NOOP")[:3], b"250")
        third, greeting = self.open("192.0.2.3")
        self.assertEqual(greeting, b"421 4.3.2 Too much mail at present, try again later")
        self.assert_closed(third)
        self.reactor.advance(30)
        self.assertEqual(codes(self.deliver(one, b"b@y.test"))[-1], b"250")
        self.assertEqual(self.mail(other)[:9], b"451 4.3.2")
        expected = f'limit.refused place="smtp {SMTP}" limit="all rate 2 1m" key=* refused=1'
        self.assertEqual(self.logged_limits()[0], expected)

    def test_ip(self) -> None:
        self.limited("ip rate 2 1m")
        client = self.greeted("192.0.2.1")
        for _ in range(2):
            self.deliver(client, b"b@y.test")
        self.assertEqual(self.mail(client), b"421 4.7.0 Too much mail from your address, try again later")
        self.assert_closed(client)
        again, greeting = self.open("192.0.2.1")
        self.assertEqual(greeting, b"421 4.7.0 Too much mail from your address, try again later")
        self.assert_closed(again)
        self.assertEqual(codes(self.deliver(self.greeted("192.0.2.2"), b"b@y.test"))[-1], b"250")
        self.reactor.advance(30)
        self.assertEqual(codes(self.deliver(self.greeted("192.0.2.1"), b"b@y.test"))[-1], b"250")
        self.assertEqual(len(self.next.transactions), 4)

    def test_network(self) -> None:
        self.limited("network 24 64 rate 1 1m")
        self.deliver(self.greeted("192.0.2.1"), b"b@y.test")
        self.assertEqual(self.open("192.0.2.200")[1], b"421 4.7.0 Too much mail from your network, try again later")
        self.assertEqual(codes(self.deliver(self.greeted("192.0.3.1"), b"b@y.test"))[-1], b"250")

    def test_source(self) -> None:
        self.limited("source rate 1 1m")
        client = self.greeted()
        self.assertEqual(self.mail(client, b"a@one.test")[:3], b"250")
        self.ask(client, b"RSET")
        self.assertEqual(self.mail(client, b"b@ONE.test"), b"450 4.7.0 Too much mail from this domain, try again later")
        self.assertEqual(self.mail(client, b"a@two.test")[:3], b"250")
        self.ask(client, b"RSET")
        for _ in range(3):  # the null sender is not counted
            self.assertEqual(self.mail(client, b"")[:3], b"250")
            self.ask(client, b"RSET")

    def test_helo(self) -> None:
        self.limited("helo rate 1 1m")
        client = self.greeted("192.0.2.1", b"EHLO one.test")
        self.deliver(client, b"b@y.test")
        other = self.greeted("192.0.2.2", b"EHLO One.Test")
        self.assertEqual(self.mail(other), b"450 4.7.0 Too much mail from a client of this name, try again later")
        self.ask(other, b"EHLO two.test")
        self.assertEqual(self.mail(other)[:3], b"250")

    def test_destination(self) -> None:
        self.limited("destination rate 1 1m")
        client = self.greeted()
        self.mail(client)
        self.assertEqual(self.ask(client, b"RCPT TO:<a@y.test>")[:3], b"250")
        self.assertEqual(self.ask(client, b"RCPT TO:<b@Y.test>")[:3], b"250", "one message to a domain counts once")
        self.assertEqual(self.ask(client, b"RCPT TO:<a@z.test>")[:3], b"250")
        self.ask(client, b"RSET")
        self.mail(client)
        refused = self.ask(client, b"RCPT TO:<c@y.test>")
        self.assertEqual(refused, b"450 4.7.0 Too much mail to this domain, try again later")
        self.assertEqual(self.ask(client, b"RCPT TO:<c@w.test>")[:3], b"250")

    def test_lmtp(self) -> None:
        self.limited("source rate 1 1m")
        client = self.client(LMTP)
        self.assertEqual(codes(self.deliver(client, b"a@y.test", b"b@y.test"))[-2:], [b"250", b"250"])
        self.assertEqual(self.mail(client, b"sender@client.test")[:9], b"450 4.7.0")

    def test_wait(self) -> None:
        """Who may wait does, and is not refused at the greeting."""
        self.limited("ip rate 1 10s wait 15s")
        one, two, three = self.greeted(), self.greeted(), self.greeted()
        before = self.reactor.seconds()
        self.assertEqual(self.mail(one)[:3], b"250")
        for client in (two, three):
            client.send(b"MAIL FROM:<a@client.test>\r\n")
        replies = [self.reactor.run(client.reply(60)) for client in (two, three)]
        self.assertEqual(sorted(codes(replies)), [b"250", b"421"])
        self.assertGreater(self.reactor.seconds() - before, 9.9)

    def test_who_leaves_while_waiting_takes_nothing(self) -> None:
        self.limited("all rate 1 10s wait 30s")
        first, second = self.greeted(), self.greeted()
        self.mail(first)
        second.send(b"MAIL FROM:<a@client.test>\r\n")
        self.reactor.settle(1)
        second.drop(reset=True)
        self.reactor.settle(0.5)
        third = self.greeted()
        before = self.reactor.seconds()
        self.assertEqual(self.mail(third)[:3], b"250")
        self.assertLess(self.reactor.seconds() - before, 9.0)


class ConcurrencyTests(_Case):
    def ends(self) -> dict[str, Any]:
        """Every way in which a transaction ends."""
        return {
            "delivered": lambda client: self.say(client, b"RCPT TO:<b@y.test>", b"DATA", b"Subject: x\r\n\r\nx\r\n."),
            "RSET": lambda client: self.ask(client, b"RSET"),
            "EHLO": lambda client: self.ask(client, b"EHLO again.test"),
            "QUIT": lambda client: self.reactor.run(client.quit()),
            "reset connection": lambda client: client.drop(reset=True),
            "idle": lambda client: self.reactor.run(client.wait_closed(700), limit=800),
            "too many errors": lambda client: self.say(client, *[b"NONSENSE"] * 10),
            "refused content": lambda client: self.say(client, b"RCPT TO:<b@y.test>", b"DATA", b"bare\nLF\r\n."),
        }

    def test_released_however_the_transaction_ends(self) -> None:
        for name in self.ends():
            with self.row(name):
                self.limited("ip concurrency 1")
                client = self.greeted()
                other = self.greeted()
                self.assertEqual(self.mail(client)[:3], b"250")
                self.assertEqual(self.mail(other)[:9], b"421 4.7.0")
                self.ends()[name](client)
                self.reactor.settle(0.5)
                self.assertEqual(self.mail(self.greeted())[:3], b"250")

    def test_each_scope(self) -> None:
        table = {
            "all": ("all concurrency 1", b"451 4.3.2"),
            "ip": ("ip concurrency 1", b"421 4.7.0"),
            "network": ("network 24 64 concurrency 1", b"421 4.7.0"),
            "source": ("source concurrency 1", b"450 4.7.0"),
            "helo": ("helo concurrency 1", b"450 4.7.0"),
        }
        for name, (line, expected) in table.items():
            with self.row(name):
                self.limited(line)
                first, second = self.greeted(), self.greeted()
                self.assertEqual(self.mail(first)[:3], b"250")
                self.assertEqual(self.mail(second)[:9], expected)

    def test_destination(self) -> None:
        self.limited("destination concurrency 1")
        first, second = self.greeted(), self.greeted()
        for client in (first, second):
            self.mail(client)
        self.assertEqual(self.ask(first, b"RCPT TO:<b@y.test>")[:3], b"250")
        self.assertEqual(self.ask(second, b"RCPT TO:<b@y.test>")[:9], b"450 4.7.0")
        self.ask(first, b"RSET")
        self.assertEqual(self.ask(second, b"RCPT TO:<b@y.test>")[:3], b"250")

    def test_wait_is_fair(self) -> None:
        self.limited("all concurrency 1 wait 1m")
        first, second, third = (self.greeted(f"192.0.2.{number}") for number in range(1, 4))
        self.mail(first)
        for client in (second, third):
            client.send(b"MAIL FROM:<a@client.test>\r\n")
            self.reactor.settle(1)
        self.ask(first, b"RSET")
        self.assertEqual(self.reactor.run(second.reply())[:3], b"250")
        self.assertNotIn(b"250 2.1.0", bytes(third.received))
        self.ask(second, b"RSET")
        self.assertEqual(self.reactor.run(third.reply())[:3], b"250")

    def test_a_client_that_vanishes_before_the_dot_gives_its_slot_back(self) -> None:
        self.limited("all concurrency 1", hop=self.hop(script={Step.RCPT: [HANG]}))
        client = self.greeted()
        self.mail(client)
        client.send(b"RCPT TO:<b@y.test>\r\n")
        self.reactor.settle(1)
        client.drop(reset=True)
        self.reactor.settle(1)
        self.assertEqual(codes(self.deliver(self.greeted(), b"b@y.test"))[-1], b"250")

    def test_a_message_is_counted_to_its_answer(self) -> None:
        self.limited("all concurrency 1", hop=self.hop(script={Step.DOT: [HANG]}))
        client, other = self.greeted(), self.greeted()
        self.say(client, b"MAIL FROM:<a@client.test>", b"RCPT TO:<b@y.test>", b"DATA")
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        self.reactor.settle(1)
        self.assertEqual(self.mail(other)[:9], b"451 4.3.2")
        self.hops[0].drop_connections()
        self.assertEqual(self.reactor.run(client.reply())[:9], b"451 4.4.2")
        self.assertEqual(self.mail(other)[:3], b"250")


class SharedTests(_Case):
    def test_two_listeners_share_a_block(self) -> None:
        self.hop()
        self.gateway(
            "limits shared {\n    source rate 1 1m\n}\n"
            f"smtp {SMTP} {{\n    tls off\n    limits &shared\n    discard\n}}\n"
            f"lmtp {LMTP} {{\n    tls off\n    limits &shared\n    discard\n}}\n"
        )
        self.assertEqual(codes(self.deliver(self.client(SMTP), b"b@y.test"))[-1], b"250")
        self.assertEqual(self.mail(self.client(LMTP), b"sender@client.test")[:9], b"450 4.7.0")

    def test_two_blocks_count_apart(self) -> None:
        self.limited("source rate 1 1m")
        self.assertEqual(codes(self.deliver(self.client(SMTP), b"b@y.test"))[-1], b"250")
        self.assertEqual(codes(self.deliver(self.client(LMTP), b"b@y.test"))[-1], b"250")


class ReloadTests(_Case):
    def text(self, *, rate: int, named: bool) -> str:
        block = f"{{\n    source rate {rate} 1h\n    all concurrency 2\n}}\n"
        return (
            f"{'limits shared ' + block if named else ''}"
            f"smtp {SMTP} {{\n    tls off\n    limits {'&shared' if named else block}\n    discard\n}}\n"
        )

    def test_what_is_counted_is_carried_over(self) -> None:
        for named in (True, False):
            with self.row(f"named: {named}"):
                running = self.gateway(self.text(rate=4, named=named))
                old, held = self.greeted(), self.greeted()
                for _ in range(2):
                    self.assertEqual(codes(self.deliver(old, b"b@y.test"))[-1], b"250")
                self.mail(held, b"")
                self.reactor.run(running.reload("hostname gateway.test\n" + self.text(rate=3, named=named)))
                new, other = self.greeted(), self.greeted()
                self.assertEqual(self.mail(new, b"sender@client.test")[:3], b"250", "two of three are taken")
                self.assertEqual(self.mail(other, b"")[:9], b"451 4.3.2", "one of the old sessions has a slot")
                self.ask(held, b"RSET")
                self.assertEqual(self.mail(other, b"sender@client.test")[:9], b"450 4.7.0")
                self.assertEqual(self.mail(other, b"")[:3], b"250")


class RefusedClientsTests(_Case):
    def refused(self, source: str, expected: bytes) -> None:
        client, greeting = self.open(source)
        self.assertEqual(greeting, expected)
        self.assert_closed(client)

    def test_networks(self) -> None:
        self.limited(listener="    refuse_clients 192.0.2.0/24 198.51.100.7\n")
        self.refused("192.0.2.9", b"554 5.7.1 Access denied")
        self.refused("198.51.100.7", b"554 5.7.1 Access denied")
        self.greeted("198.51.100.8")

    def test_codes(self) -> None:
        self.limited(
            listener="    refuse_clients 192.0.2.1 421\n"
            '    refuse_clients 192.0.2.2 421 4.3.2 "come back later"\n'
            '    refuse_clients 192.0.2.3 521 5.3.2 "no mail here"\n'
            '    refuse_clients 192.0.2.4 "not you"\n'
            '    refuse_clients 192.0.2.5 4.7.1 "not now"\n'
        )
        self.refused("192.0.2.1", b"421 4.7.1 service not available, closing")
        self.refused("192.0.2.2", b"421 4.3.2 come back later")
        self.refused("192.0.2.3", b"521 5.3.2 no mail here")
        self.refused("192.0.2.4", b"554 5.7.1 not you")
        self.refused("192.0.2.5", b"421 4.7.1 not now")

    def test_a_table(self) -> None:
        self.limited(
            listener="    refuse_clients &bad\n",
            extra='table.static bad {\n    entry 192.0.2.66 ""\n    entry 2001:db8::1 ""\n}\n',
        )
        self.refused("192.0.2.66", b"554 5.7.1 Access denied")
        self.greeted("192.0.2.67")

    def test_a_table_that_fails_lets_nobody_in(self) -> None:
        running = self.limited(listener="    refuse_clients &bad\n", extra='table.static bad {\n    entry 192.0.2.66 ""\n}\n')
        table = running.configuration.instances["bad"]

        def fail(key: str) -> None:
            raise OSError("gone")

        self.patch(table, "lookup", fail)
        self.refused("192.0.2.67", b"421 4.3.0 Temporary lookup failure")
        self.assertEqual(len(running.logged("table.failed")), 1)
