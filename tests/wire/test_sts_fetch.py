"""Policies of MTA-STS fetched over HTTPS, from a server of our own on a real socket."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from mailgate.dns.service import HostnameResolver
from mailgate.net.waiting import as_deferred, spawn
from mailgate.outbound.mta_sts import FetchFailed
from mailgate.outbound.sts_fetch import PolicyHosts
from mailgate.testing.names import NameServer
from tests.support.adapters import real_adapters
from tests.support.certificates import Leaf, authority, leaf

POLICY = b"version: STSv1\nmode: enforce\nmx: mx.d.test\nmax_age: 604800\n"


class PolicyResource(Resource):
    isLeaf = True

    def __init__(self, content: bytes, code: int = 200, kind: bytes = b"text/plain; charset=utf-8") -> None:
        super().__init__()
        self.content, self.code, self.kind = content, code, kind
        self.asked: list[bytes] = []

    def render_GET(self, request: Any) -> bytes:
        self.asked.append(request.uri)
        request.setResponseCode(self.code)
        request.setHeader(b"content-type", self.kind)
        if self.code == 302:
            request.setHeader(b"location", b"/elsewhere")
        return self.content


class FetchTests(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.reactor: Any = real_adapters().reactor
        self.names = NameServer(self.reactor)
        self.names.add("mta-sts.d.test", "A", "127.0.0.80")
        self.addCleanup(lambda: spawn(self.names.stop()))
        before = self.reactor.installNameResolver(HostnameResolver(self.names.resolver(Random(1))))
        self.addCleanup(self.reactor.installNameResolver, before)

    def serve(self, factory: Any, certificate: Leaf) -> PolicyHosts:
        tls = TLSMemoryBIOFactory(certificate.server, False, factory)
        port = self.reactor.listenTCP(0, tls, interface="127.0.0.80")
        self.addCleanup(port.stopListening)
        return PolicyHosts(self.reactor, [authority().path], port.getHost().port)

    def policy(self, resource: PolicyResource, name: str = "mta-sts.d.test") -> PolicyHosts:
        return self.serve(Site(resource), leaf(name))

    async def refused(self, hosts: PolicyHosts) -> str:
        failure: Any = await self.assertFailure(as_deferred(hosts.fetch("d.test")), FetchFailed)
        return str(failure)

    async def test_a_policy(self) -> None:
        resource = PolicyResource(POLICY)
        self.assertEqual(await self.policy(resource).fetch("d.test"), POLICY)
        self.assertEqual(resource.asked, [b"/.well-known/mta-sts.txt"])

    async def test_a_redirect_is_not_followed(self) -> None:
        resource = PolicyResource(POLICY, 302)
        self.assertIn("302", await self.refused(self.policy(resource)))
        self.assertEqual(len(resource.asked), 1)

    async def test_another_answer(self) -> None:
        self.assertIn("404", await self.refused(self.policy(PolicyResource(POLICY, 404))))

    async def test_another_type(self) -> None:
        self.assertIn("text/plain", await self.refused(self.policy(PolicyResource(POLICY, kind=b"text/html"))))

    async def test_more_than_64_kib(self) -> None:
        self.assertIn("too large", await self.refused(self.policy(PolicyResource(POLICY + b"x: y\n" * 20000))))

    async def test_a_certificate_for_another_name(self) -> None:
        resource = PolicyResource(POLICY)
        await self.refused(self.policy(resource, "d.test"))
        self.assertEqual(resource.asked, [])

    async def test_an_authority_that_is_not_trusted(self) -> None:
        resource = PolicyResource(POLICY)
        await self.refused(self.serve(Site(resource), authority("untrusted").issue("mta-sts.d.test")))
        self.assertEqual(resource.asked, [])

    async def test_a_common_name_is_none(self) -> None:
        resource = PolicyResource(POLICY)
        await self.refused(self.serve(Site(resource), authority().issue("other.test", common_name="mta-sts.d.test")))
        self.assertEqual(resource.asked, [])

    async def test_nobody_there(self) -> None:
        await self.refused(PolicyHosts(self.reactor, [authority().path], 1))
        self.names.remove("mta-sts.d.test", "A")

    async def test_one_that_says_nothing_can_be_left(self) -> None:
        factory = Factory.forProtocol(Protocol)
        factory.noisy = False
        waiting = as_deferred(self.serve(factory, leaf("mta-sts.d.test")).fetch("d.test"))
        await deferLater(self.reactor, 0.2)
        waiting.cancel()
        await self.assertFailure(waiting, CancelledError, FetchFailed)
