"""Connections differ by key: what depends on the message is part of it, and no two keys share a connection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mailgate.message.envelope import Envelope, Session
from mailgate.outbound.delivery import Delivery
from mailgate.outbound.endpoint import MAX_LINKS, LinkKey
from mailgate.outbound.pool import PoolSettings
from mailgate.outbound.tls_policy import IN_CLEAR
from mailgate.outbound.variables import DeliveryVariables
from mailgate.smtp.reply import PermanentError, TemporaryError
from mailgate.testing.nexthop import NextHop
from tests.outbound.support import SENDER, deliver, endpoint_settings, envelope, make_hops, make_message, recipient
from tests.outbound.test_pool import _Simulated


def by_login(key: LinkKey, variables: Any) -> LinkKey:
    return replace(key, login=variables.auth_user)


def by_recipient(key: LinkKey, variables: Any) -> LinkKey:
    return replace(key, hostname=f"{variables.rcpt_domain}.gw.example")


async def later(key: LinkKey, variables: Any) -> LinkKey:
    return replace(key, xclient=(("ADDR", str(variables.client_ip)),))


class LinkTest(_Simulated):
    def varied(self, *vary: Any, pool: PoolSettings | None = None, hops: int = 1) -> tuple[list[NextHop], Any]:
        made = [self.hop(25 + number) for number in range(hops)]
        found = [endpoint_settings(hop.endpoint, vary=vary, xclient_required=False) for hop in made]
        return made, make_hops(self.reactor, *found, observed=self.observed, pool=pool)

    def send(self, engine: Any, user: str = "", domain: str = "y.example") -> int:
        session = Session("s1", "tcp://127.0.0.1:25", "gw.example", client_ip="192.0.2.9", auth_user=user)
        delivery = Delivery(engine, Envelope("m1", SENDER, session))
        heard = self.reactor.run(delivery.rcpt(recipient("b", domain)))
        if not heard.is_success:
            delivery.abort()
            return heard.code
        return int(self.reactor.run(delivery.send(make_message()))[0].code)

    def test_two_logins_never_share_a_connection(self) -> None:
        (hop,), engine = self.varied(by_login)
        for user in ("ann", "bob", "ann", "bob", "ann"):
            self.assertEqual(self.send(engine, user), 250)
        self.assertEqual([len(connection.transactions) for connection in hop.connections], [3, 2])

    def test_our_name_follows_the_message(self) -> None:
        (hop,), engine = self.varied(by_recipient)
        for domain in ("a.example", "b.example", "a.example"):
            self.assertEqual(self.send(engine, domain=domain), 250)
        self.assertEqual(
            [connection.commands[0] for connection in hop.connections],
            [b"EHLO a.example.gw.example", b"EHLO b.example.gw.example"],
        )

    def test_several_things_of_a_key_and_some_that_are_waited_for(self) -> None:
        (hop,), engine = self.varied(by_login, later, by_recipient)
        for user in ("ann", "bob", "ann"):
            self.assertEqual(self.send(engine, user), 250)
        self.assertEqual(len(hop.connections), 2)
        keys = {key for key, link in engine.endpoints[0].links.items() if link.open_count}
        addresses = (("ADDR", "192.0.2.9"),)
        self.assertEqual(
            keys, {LinkKey(IN_CLEAR, "y.example.gw.example", login=user, xclient=addresses) for user in ("ann", "bob")}
        )

    def test_the_idle_one_used_longest_ago_makes_room_for_another_key(self) -> None:
        (hop,), engine = self.varied(by_login, pool=PoolSettings(max_connections=2))
        for user in ("ann", "bob", "ann", "zoe"):
            self.assertEqual(self.send(engine, user), 250)
            self.reactor.settle(1)
        self.assertEqual([connection.verbs[-1] == b"QUIT" for connection in hop.connections], [False, True, False])
        self.assertEqual(engine.pool.open_count, 2)

    def test_for_each_who_waits_one_is_sent_away(self) -> None:
        (hop,), engine = self.varied(by_login, pool=PoolSettings(max_connections=3))
        for user in ("ann", "bob", "cid"):
            self.assertEqual(self.send(engine, user), 250)
        self.assertEqual(self.send(engine, "zoe"), 250)
        self.reactor.settle(1)
        self.assertEqual(sum(connection.verbs[-1] == b"QUIT" for connection in hop.connections), 1)

    def test_within_the_limit_of_an_endpoint_too(self) -> None:
        hops, engine = self.varied(by_login, pool=PoolSettings(max_connections_per_endpoint=1), hops=2)
        for user in ("ann", "bob"):
            self.assertEqual(self.send(engine, user), 250)
        self.assertEqual([len(hop.connections) for hop in hops], [2, 0])

    def test_links_nobody_is_connected_by_are_forgotten(self) -> None:
        _, engine = self.varied(by_login, pool=PoolSettings(max_idle=0))
        for number in range(MAX_LINKS + 20):
            self.assertEqual(self.send(engine, f"user{number}"), 250)
        self.assertLess(len(engine.endpoints[0].links), MAX_LINKS + 1)

    def test_a_lookup_that_fails_is_this_endpoints_alone_and_no_fault_of_it(self) -> None:
        def fails(key: LinkKey, variables: Any) -> LinkKey:
            raise TemporaryError("Temporary lookup failure", reason="the table is gone")

        hop = self.hop(25)
        bad = endpoint_settings("tcp://127.0.0.1:24", vary=(fails,))
        engine = make_hops(self.reactor, bad, endpoint_settings(hop.endpoint), observed=self.observed)
        for _ in range(5):
            self.assertEqual(self.deliver(engine), 250)
        self.assertTrue(engine.endpoints[0].circuit.closed)
        self.assertIn("the table is gone", str(self.observed.named("delivery.attempt")[0]))
        alone = make_hops(self.reactor, bad, observed=self.observed)
        heard, _ = self.reactor.run(deliver(alone))
        self.assertEqual((heard[0].code, heard[0].enhanced), (451, "4.3.0"))

    def test_a_message_that_may_not_pass_is_refused_at_once(self) -> None:
        def refuses(key: LinkKey, variables: Any) -> LinkKey:
            raise PermanentError("Authentication required", code=530, enhanced="5.7.0")

        hop = self.hop(25)
        engine = make_hops(
            self.reactor, endpoint_settings("tcp://127.0.0.1:24", vary=(refuses,)), endpoint_settings(hop.endpoint)
        )
        heard, _ = self.reactor.run(deliver(engine))
        self.assertEqual((heard[0].code, heard[0].enhanced, hop.connections), (530, "5.7.0", []))

    def test_variables_are_those_of_the_message(self) -> None:
        seen: list[Any] = []

        def look(key: LinkKey, variables: Any) -> LinkKey:
            seen.append((variables.sender, variables.rcpt, variables.recipients, variables.mx, str(variables.remote_ip)))
            return key

        _, engine = self.varied(look)
        self.assertEqual(self.send(engine), 250)
        self.assertEqual(seen, [("a@x.example", "b@y.example", ("b@y.example",), "127.0.0.1", "127.0.0.1")])

    def test_requiretls_has_a_link_of_its_own(self) -> None:
        protected = replace(IN_CLEAR, allow_clear=False)
        hop = self.hop()
        engine = make_hops(self.reactor, endpoint_settings(hop.endpoint, requiretls_decision=protected, vary=(by_login,)))
        endpoint = engine.endpoints[0]
        variables = DeliveryVariables(envelope(), [recipient()])
        self.assertIsNot(endpoint.link_for(variables, requiretls=True), endpoint.link_for(variables, requiretls=False))
        self.assertIs(endpoint.link_for(variables, requiretls=True), endpoint.link_for(variables, requiretls=True))

    def test_probes_leave_out_what_depends_on_messages(self) -> None:
        (hop,), engine = self.varied(by_recipient)
        self.assertTrue(self.reactor.run(engine.pool.probe(engine.endpoints[0].link)))
        self.assertEqual([connection.commands[0] for connection in hop.connections], [b"EHLO localhost"])
