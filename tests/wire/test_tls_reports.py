"""Reports of TLS-RPT on their way: posted over HTTPS to a server of our own on a real socket, or mailed and signed."""

from __future__ import annotations

import gzip
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import dkim
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from mailgate.dns.service import HostnameResolver
from mailgate.events import EventLog
from mailgate.mailauth.dkim_keys import ED25519_SHA256, new_key
from mailgate.net.waiting import spawn
from mailgate.outbound import tls_report_post
from mailgate.outbound.daily_reports import SPREAD
from mailgate.outbound.report_mail import Author
from mailgate.outbound.tls_counts import CountFile
from mailgate.outbound.tls_report import AppliedPolicy, PolicyType, SessionFailure
from mailgate.outbound.tls_report_post import Poster
from mailgate.outbound.tls_reporter import TlsReporter, Ways
from mailgate.smtp.address import Address
from mailgate.testing.names import NameServer
from tests.outbound.test_tls_report import ReportCase
from tests.support.adapters import real_adapters
from tests.support.certificates import Leaf, authority, leaf
from tests.support.interpreters import needs_nacl
from tests.support.tls_report_schema import checked

NONE = AppliedPolicy(PolicyType.NONE, "d.test")


class _Reports(Resource):
    isLeaf = True

    def __init__(self, code: int = 201) -> None:
        super().__init__()
        self.code = code
        self.posted: list[tuple[bytes, bytes, bytes]] = []

    def render_POST(self, request: Any) -> Any:
        self.posted.append((request.uri, request.getHeader(b"content-type"), request.content.read()))
        if not self.code:
            return NOT_DONE_YET
        request.setResponseCode(self.code)
        if self.code == 302:
            request.setHeader(b"location", b"/elsewhere")
        return b"thank you"


class PostTests(TestCase):
    timeout = 30

    def setUp(self) -> None:
        adapters = real_adapters()
        self.reactor: Any = adapters.reactor
        self.names = NameServer(self.reactor)
        self.names.add("reports.d.test", "A", "127.0.0.80")
        self.addCleanup(lambda: spawn(self.names.stop()))
        resolver = self.names.resolver(Random(1))
        before = self.reactor.installNameResolver(HostnameResolver(resolver))
        self.addCleanup(self.reactor.installNameResolver, before)
        self.now = 1.7e9
        self.adapters = replace(adapters, resolver=resolver, wall_time=lambda: self.now)
        directory = tempfile.TemporaryDirectory(prefix="mailgate-test-")
        self.addCleanup(directory.cleanup)
        self.file = CountFile(str(Path(directory.name) / "counts.sqlite"))
        self.mailed: list[tuple[str, bytes]] = []
        self.log: list[str] = []

    def serve(self, resource: _Reports, certificate: Leaf, *, then: str = "") -> None:
        """Where the reports of d.test go; ``then`` are further places."""
        tls = TLSMemoryBIOFactory(certificate.server, False, Site(resource))
        port = self.reactor.listenTCP(0, tls, interface="127.0.0.80")
        self.addCleanup(port.stopListening)
        self.names.add("_smtp._tls.d.test", "TXT", f'"v=TLSRPTv1; rua=https://reports.d.test:{port.getHost().port}/in?a=b{then}"')

    async def mail(self, to: Address, content: bytes) -> str:
        self.mailed.append((str(to), content))
        return ""

    async def reported(self, *, mail: bool = True, private: bool = True) -> TlsReporter:
        """A day with two sessions, and what came of its report."""
        reporter = TlsReporter(
            self.file, self.adapters, EventLog("test", lambda event: self.log.append(str(event["event_text"])))
        )
        poster = Poster(self.reactor, self.adapters.resolver, [authority().path], allow_private=private)
        author = Author("Example", "postmaster@example.org", "example.org")
        reporter.adopt(self, Ways(author, "tls@example.org", poster.post, self.mail if mail else None))
        reporter.counts.add("d.test", NONE, None)
        reporter.counts.add("d.test", NONE, SessionFailure("starttls-not-supported", "192.0.2.9", "mx.d.test", "192.0.2.1"))
        self.now += 2 * 86400 + SPREAD
        await reporter.send_due()
        return reporter

    async def test_a_report_is_posted(self) -> None:
        resource = _Reports()
        self.serve(resource, leaf("reports.d.test"))
        for code in (200, 201, 202):
            resource.code = code
            resource.posted.clear()
            reporter = await self.reported()
            ((uri, kind, content),) = resource.posted
            self.assertEqual((uri, kind), (b"/in?a=b", b"application/tlsrpt+gzip"))
            report = checked(gzip.decompress(content))
            self.assertEqual(report["policies"][0]["failure-details"][0]["receiving-ip"], "192.0.2.1")
            self.assertEqual(report["policies"][0]["summary"]["total-successful-session-count"], 1)
            self.assertEqual((reporter.counts._days, self.mailed), ({}, []))

    async def test_what_is_not_taken_goes_to_the_next_place(self) -> None:
        for resource, certificate in (
            (_Reports(404), leaf("reports.d.test")),
            (_Reports(302), leaf("reports.d.test")),
            (_Reports(500), leaf("reports.d.test")),
            (_Reports(), leaf("other.test")),
            (_Reports(), authority("nobody's").issue("reports.d.test")),
        ):
            self.mailed.clear()
            self.serve(resource, certificate, then=",mailto:a@d.test")
            reporter = await self.reported()
            self.assertEqual([to for to, _ in self.mailed], ["a@d.test"])
            self.assertEqual(reporter.counts._days, {})

    async def test_it_is_kept_where_nobody_takes_it(self) -> None:
        self.serve(_Reports(500), leaf("reports.d.test"), then=",mailto:a@d.test")
        reporter = await self.reported(mail=False)
        self.assertEqual(len(reporter.counts._days), 1)
        self.assertIn("the answer is 500", " ".join(self.log))

    async def test_a_server_that_says_nothing(self) -> None:
        self.patch(tls_report_post, "PATIENCE", 0.3)
        resource = _Reports(0)
        self.serve(resource, leaf("reports.d.test"))
        reporter = await self.reported()
        self.assertEqual((len(resource.posted), len(reporter.counts._days)), (1, 1))
        self.assertIn("no answer in time", " ".join(self.log))

    async def test_an_address_that_is_not_public_is_not_posted_to(self) -> None:
        resource = _Reports()
        self.serve(resource, leaf("reports.d.test"))
        await self.reported(private=False)
        self.assertEqual(resource.posted, [])
        self.assertIn("not public", " ".join(self.log))

    async def test_stopping_in_the_middle_of_a_report(self) -> None:
        resource = _Reports(0)
        self.serve(resource, leaf("reports.d.test"))
        reporting = spawn(self.reported())
        while not resource.posted:
            await deferLater(self.reactor, 0.01)
        reporting.cancel()
        await self.assertFailure(reporting, CancelledError)
        self.assertEqual(self.log, [])


class SignedTests(ReportCase):
    @needs_nacl
    def test_a_report_by_mail_is_signed_by_the_pipeline(self) -> None:
        key = new_key(ED25519_SHA256)
        path = Path(self.directory) / "tlsrpt.pem"
        path.write_bytes(key.pem)
        path.chmod(0o600)
        self.names.add("_smtp._tls.d.test", "TXT", '"v=TLSRPTv1; rua=mailto:reports@r.test"')
        self.mx("r.test", "10 mx.r.test.")
        self.host("mx.d.test", "192.0.2.1", tls=leaf("mx.d.test").server)
        reports = self.host("mx.r.test", "192.0.2.9", tls=leaf("mx.r.test").server)
        modify = "modify {\n dkim example.org tlsrpt {\n key ./tlsrpt.pem\n expire 20000d\n}\n}"
        self.reporting(report=f"from tls@example.org\nmail {{\n{modify}\n deliver_to &direct\n}}")
        self.send(b"u@d.test")
        self.reactor.settle(2 * 86400)
        (letter,) = reports.transactions
        self.assertEqual(letter.sender, b"tls@example.org")
        self.assertTrue(dkim.DKIM(bytes(letter.content)).verify(0, dnsfunc=lambda name, timeout=5: key.record.encode()))
