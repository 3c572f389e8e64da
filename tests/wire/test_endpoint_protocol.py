"""`protocol` of an endpoint: SMTP and LMTP within one target, each with its own greeting, port, TLS and answers."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgate.interfaces import Finality
from mailgate.outbound.target import Downstream
from mailgate.outbound.tls_policy import Start
from mailgate.registry import build
from mailgate.testing.nexthop import NextHop, Step, say
from tests.outbound.support import envelope, make_message, recipient
from tests.support.adapters import real_adapters


def target(text: str, adapters: Any = None) -> Downstream:
    configuration = build(f"hostname gw.example\n{text}\n", adapters).configuration
    assert configuration is not None
    (found,) = [module for module in configuration.modules if isinstance(module, Downstream)]
    return found


class Settings(SynchronousTestCase):
    def test_ports_and_tls_follow_the_protocol(self) -> None:
        for kind, protocol, ports in (("smtp", "lmtp", (25, 24, 465)), ("lmtp", "smtp", (24, 25, 465))):
            made = target(
                f"target.{kind} next tcp://a.test {{\nendpoint tcp://b.test {{\nprotocol {protocol}\n}}\n"
                f"endpoint tls://c.test {{\nprotocol {protocol}\n}}\n}}"
            )
            settings = made.endpoint_settings
            self.assertEqual(tuple(one.port for one in settings), ports)
            self.assertEqual([one.lmtp for one in settings], [kind == "lmtp", protocol == "lmtp", protocol == "lmtp"])
            starts = {"smtp": Start.OFFERED, "lmtp": Start.NEVER}
            self.assertEqual([one.decision.start for one in settings[:2]], [starts[kind], starts[protocol]])
            self.assertIs(made.finality, Finality.RECIPIENT)

    def test_without_it_nothing_changes(self) -> None:
        made = target("target.smtp next {\nendpoint tcp://b.test\nendpoint tcp://c.test:26\n}")
        self.assertEqual([one.label for one in made.endpoint_settings], ["tcp://b.test:25", "tcp://c.test:26"])
        self.assertIs(made.finality, Finality.TRANSACTION)


class Wire(TestCase):
    async def test_a_store_behind_a_relay_that_is_down(self) -> None:
        relay = NextHop(script={Step.BANNER: say(b"421 4.3.2 closed")}).listen(reactor)
        store = NextHop(lmtp=True, script={Step.DOT: say(b"250 2.1.5 one", b"452 4.2.2 full")}).listen(reactor)
        self.addCleanup(relay.close)
        self.addCleanup(store.close)
        made = target(
            f"target.smtp next {relay.endpoint} {{\nendpoint {store.endpoint} {{\nprotocol lmtp\n}}\n}}", real_adapters()
        )
        await made.start()
        self.addCleanup(made.stop)
        delivery = made.open(envelope())
        for name in ("one", "two"):
            self.assertEqual((await delivery.rcpt(recipient(name))).code, 250)
        self.assertEqual([reply.code for reply in await delivery.send(make_message())], [250, 452])
        self.assertEqual(store.connections[0].verbs[0], b"LHLO")
