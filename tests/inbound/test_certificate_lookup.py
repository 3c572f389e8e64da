"""Certificates from a source that takes its time: the handshake waits, one question serves all, failures show nothing."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailgate.interfaces import ICertificateSource
from mailgate.testing.client import RawClient, connect
from mailgate.testing.network import adapters_for
from mailgate.testing.tls import TrustingClient
from mailgate.tls.live import LiveContexts, SitePlan
from mailgate.tls.lookup import KEPT, MOST_ASKED, PATIENCE
from tests.tls.authority import Authority, dns, pem

from .scripted import Simulation

ROOT = Authority()
DEFAULT, TENANT, WILD = (ROOT.issue([dns(name)]) for name in ("mx.test", "tenant.test", "*.wild.test"))


@implementer(ICertificateSource)
class Source:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open: list[Deferred[Any]] = []

    def certificate(self, name: str) -> Any:
        self.asked.append(name)
        self.open.append(Deferred())
        return self.open[-1]


class LookupCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.source = Source()
        self.simulation = Simulation(tls=True)
        self.reactor = self.simulation.reactor
        self.contexts = LiveContexts(SitePlan((DEFAULT,)), source=self.source)
        adapters = adapters_for(self.reactor)
        self.contexts.watch(adapters)
        self.addCleanup(self.contexts.stop)
        self.simulation.lab.sessions.tls = self.contexts

    def begin(self, name: str) -> RawClient:
        """A client whose first message has come."""
        client = self.simulation.greeted()
        self.simulation.command(client, b"STARTTLS")
        client.start_tls(TrustingClient(name))
        self.reactor.advance(0.1)
        return client

    def answer(self, content: Any, number: int = -1) -> None:
        waiting = self.source.open[number]
        if isinstance(content, Exception):
            waiting.errback(content)
        else:
            waiting.callback(content)
        self.reactor.advance(1)

    def assert_shown(self, client: RawClient, pair: Any) -> None:
        self.assertEqual(self.simulation.command(client, b"EHLO x.test")[:3], b"250")
        self.assertEqual(client.transport.getPeerCertificate().to_cryptography(), pair.chain[0])

    def assert_gone(self, client: RawClient) -> None:
        self.reactor.run(client.wait_closed(5), limit=6)


class Waiting(LookupCase):
    def test_the_handshake_waits_and_other_clients_do_not(self) -> None:
        slow = self.begin("tenant.test")
        self.assert_shown(self.begin("mx.test"), DEFAULT)
        self.assert_shown(self.begin(""), DEFAULT)
        self.assertEqual(self.source.asked, ["tenant.test"])
        self.answer(pem(TENANT))
        self.assert_shown(slow, TENANT)

    def test_implicit_tls_waits_too(self) -> None:
        lab = Simulation(tls=True, scheme="tls")
        contexts = LiveContexts(SitePlan((DEFAULT,)), source=self.source)
        contexts.watch(adapters_for(lab.reactor))
        self.addCleanup(contexts.stop)
        lab.lab.sessions.tls = contexts
        client = lab.reactor.run(connect(lab.reactor, lab.lab.address, tls=TrustingClient("tenant.test")))
        lab.reactor.advance(1)
        self.source.open[0].callback(pem(TENANT))
        self.assertEqual(lab.reply(client)[:3], b"220")
        self.assertEqual(client.transport.getPeerCertificate().to_cryptography(), TENANT.chain[0])

    def test_one_question_for_all_who_wait_and_for_a_minute(self) -> None:
        clients = [self.begin("tenant.test") for _ in range(5)]
        self.answer(pem(TENANT))
        for client in [*clients, self.begin("tenant.test")]:
            self.assert_shown(client, TENANT)
        self.assertEqual(self.source.asked, ["tenant.test"])
        self.reactor.advance(KEPT)
        self.begin("tenant.test")
        self.assertEqual(self.source.asked, ["tenant.test", "tenant.test"])

    def test_the_wildcard_is_asked_for_next_and_then_the_default_is_shown(self) -> None:
        client = self.begin("a.wild.test")
        self.answer(None)
        self.answer(pem(WILD))
        self.assert_shown(client, WILD)
        other = self.begin("nobody.test")
        self.answer(None)
        self.answer(None)
        self.assert_shown(other, DEFAULT)
        self.assertEqual(self.source.asked, ["a.wild.test", "*.wild.test", "nobody.test", "*.test"])
        self.assert_shown(self.begin("nobody.test"), DEFAULT)
        self.assertEqual(len(self.source.asked), 4)

    def test_a_client_that_does_not_wait_disturbs_nobody(self) -> None:
        one, two = self.begin("tenant.test"), self.begin("tenant.test")
        one.drop(reset=True)
        self.reactor.advance(1)
        self.answer(pem(TENANT))
        self.assert_shown(two, TENANT)


class Failing(LookupCase):
    def test_an_answer_that_can_not_be_had_or_used_ends_the_handshake(self) -> None:
        for content in (
            RuntimeError("directory down"),
            (b"no certificate", b"no key"),
            (pem(TENANT)[0], pem(DEFAULT)[1]),
            pem(TENANT) * 2,
            (b"", b""),
        ):
            client = self.begin("tenant.test")
            self.answer(content)
            self.assert_gone(client)
        client = self.begin("tenant.test")  # nothing of it is kept
        self.answer(pem(TENANT))
        self.assert_shown(client, TENANT)

    def test_an_answer_that_does_not_come(self) -> None:
        client = self.begin("tenant.test")
        self.reactor.advance(PATIENCE)
        self.assert_gone(client)

    def test_a_certificate_that_was_there_stays_while_the_source_is_down(self) -> None:
        client = self.begin("tenant.test")
        self.answer(pem(TENANT))
        self.assert_shown(client, TENANT)
        self.reactor.advance(KEPT)
        client = self.begin("tenant.test")
        self.answer(RuntimeError("directory down"))
        self.assert_shown(client, TENANT)

    def test_a_flood_of_names_asks_so_many_questions_at_once(self) -> None:
        for number in range(MOST_ASKED):
            self.begin(f"n{number}.test")
        self.assert_gone(self.begin("one.too.many.test"))
        self.assertEqual(len(self.source.asked), MOST_ASKED)
        self.assert_shown(self.begin("mx.test"), DEFAULT)
