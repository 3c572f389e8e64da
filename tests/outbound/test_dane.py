"""DANE in deliveries: what is published, what is decided, and that nothing goes out in clear where a record is."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.net.waiting import as_deferred
from mailgate.outbound.dane import Dane, DanePolicy, Lookup, LookupFailed, Published, apply, policy_of
from mailgate.outbound.failure import AttemptFailed
from mailgate.outbound.tls_policy import Decision, OnFailure, Policy, Start, TlsMode, decide
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.names import Action, MemoryNames
from mailgate.testing.network import adapters_for
from mailgate.testing.nexthop import NextHop, Step, say
from mailgate.tls.dane import Tlsa
from tests.outbound.test_remote import RemoteCase
from tests.support.certificates import Leaf, leaf
from tests.support.scenario import SMTP, codes, statuses

EE, TA = Tlsa(3, 1, 1, bytes(32)), Tlsa(2, 0, 1, bytes(32))
HOST, DOMAIN = "mx.d.test", "d.test"


class ApplyTests(SynchronousTestCase):
    """The table of the module, row by row."""

    def test_nothing_published(self) -> None:
        nothing = DanePolicy(Published.NOTHING)
        for dane, mode in ((Dane.TRY, TlsMode.OPTIONAL), (Dane.PREFER, TlsMode.REQUIRE_VERIFY)):
            before = decide(mode, names=(HOST,), sni=HOST)
            self.assertEqual(apply(dane, nothing, before, HOST), before)
        self.assertRaises(AttemptFailed, apply, Dane.REQUIRE, nothing, decide(TlsMode.REQUIRE_VERIFY), HOST)

    def test_none_usable(self) -> None:
        unusable = DanePolicy(Published.UNUSABLE, HOST)
        decision = apply(Dane.TRY, unusable, decide(TlsMode.OPTIONAL, names=(HOST,), sni=HOST), HOST)
        self.assertEqual((decision.start, decision.allow_clear), (Start.ALWAYS, False))
        self.assertEqual((decision.on_handshake, decision.on_bad_peer), (OnFailure.NEXT, OnFailure.IGNORE))
        strict = decide(TlsMode.REQUIRE_VERIFY, names=(HOST,), sni=HOST)
        self.assertEqual(apply(Dane.PREFER, unusable, strict, HOST), strict)
        self.assertRaises(AttemptFailed, apply, Dane.REQUIRE, unusable, strict, HOST)

    def test_usable(self) -> None:
        for dane, mode in (
            (Dane.TRY, TlsMode.OPTIONAL),
            (Dane.REQUIRE, TlsMode.REQUIRE_VERIFY),
            (Dane.PREFER, TlsMode.REQUIRE_VERIFY),
        ):
            for records, names in (((EE,), ()), ((TA, EE), ("base.test", HOST, DOMAIN))):
                policy = policy_of("base.test", records)
                found = apply(dane, policy, decide(mode, names=(HOST,), sni=HOST), HOST, DOMAIN)
                expected = Decision(
                    Start.ALWAYS, False, OnFailure.NEXT, OnFailure.NEXT, names, "base.test", "", policy.records, Policy.DANE
                )
                self.assertEqual(found, expected)
                self.assertFalse(found.clear_retry)

    def test_requiretls_keeps_its_version(self) -> None:
        before = decide(TlsMode.OPTIONAL, requiretls=True, names=(HOST,), sni=HOST)
        self.assertEqual(apply(Dane.TRY, policy_of(HOST, (EE,)), before, HOST).min_version, "TLS1.2")
        self.assertEqual(apply(Dane.TRY, DanePolicy(Published.UNUSABLE), before, HOST), before)


class LookupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.names = MemoryNames(self.clock)
        self.names.add(HOST, "A", "192.0.2.1")

    def policy(self, host: str = HOST) -> Any:
        waiting = as_deferred(Lookup(self.names.resolver()).policy(host, 25))
        self.clock.pump([0.1] * 80)
        return waiting

    def published(self, host: str = HOST) -> DanePolicy:
        found: DanePolicy = self.successResultOf(self.policy(host))
        return found

    def test_records(self) -> None:
        self.names.add("_25._tcp.mx.d.test", "TLSA", "3 1 1 " + "00" * 32, "1 1 1 " + "00" * 32)
        self.assertEqual(self.published(), DanePolicy(Published.USABLE, HOST, (EE,)))

    def test_no_records(self) -> None:
        self.assertIs(self.published().published, Published.NOTHING)

    def test_no_usable_records(self) -> None:
        self.names.add("_25._tcp.mx.d.test", "TLSA", "0 1 1 " + "00" * 32)
        self.assertIs(self.published().published, Published.UNUSABLE)

    def test_an_insecure_host_is_not_asked_about(self) -> None:
        self.names.secure = False
        self.names.add("_25._tcp.mx.d.test", "TLSA", "3 1 1 " + "00" * 32)
        self.assertIs(self.published().published, Published.NOTHING)
        self.assertEqual(self.names.asked("_25._tcp.mx.d.test"), 0)

    def test_what_fails_is_not_absent(self) -> None:
        for name, kind in (("_25._tcp.mx.d.test", "TLSA"), (HOST, "A")):
            for action in (Action.SERVFAIL, Action.BOGUS, Action.SILENCE):
                self.names.script(name, kind, action)
                self.names.script(HOST, "AAAA", action if kind == "A" else Action.ANSWER)
                self.failureResultOf(self.policy(), LookupFailed)
                self.names.script(name, kind, Action.ANSWER)

    def test_the_end_of_the_aliases_first_then_the_host(self) -> None:
        self.names.add("alias.d.test", "CNAME", "mx.d.test.")
        self.names.add("_25._tcp.alias.d.test", "TLSA", "2 0 1 " + "00" * 32)
        self.assertEqual(self.published("alias.d.test"), DanePolicy(Published.USABLE, "alias.d.test", (TA,)))
        self.names.add("_25._tcp.mx.d.test", "TLSA", "3 1 1 " + "00" * 32)
        self.assertEqual(self.published("alias.d.test"), DanePolicy(Published.USABLE, HOST, (EE,)))


def key_digest(pair: Leaf) -> str:
    key = load_pem_x509_certificate(pair.chain).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


class DeliveryTests(RemoteCase):
    def tls_host(self, name: str = "other.example", *, tlsa: str = "", **options: Any) -> NextHop:
        """The one host of d.test, with a certificate for ``name``."""
        self.mx("d.test", "10 mx.d.test.")
        if tlsa:
            self.names.add("_25._tcp.mx.d.test", "TLSA", tlsa)
        return self.host("mx.d.test", "192.0.2.1", tls=leaf(name).server, **options)

    def sent(self, hop: NextHop, mode: str) -> bytes:
        """What the client hears in the end; and nothing of the message is in clear."""
        self.direct(f"tls {mode}")
        replies = self.send(b"u@d.test")
        for connection in hop.connections:
            self.assertNotIn(b"MAIL", connection.clear)
        return statuses(replies)[-1] if codes(replies)[-1] == b"250" else statuses(replies[:2])[-1]

    def test_a_record_of_the_key(self) -> None:
        for mode in ("dane", "dane_require", "dane_fallback_require_verify"):
            with self.row(mode):
                self.names = MemoryNames(self.reactor)
                hop = self.tls_host(tlsa=f"3 1 1 {key_digest(leaf('other.example'))}")
                self.assertEqual(self.sent(hop, mode)[:3], b"250")
                self.assertTrue(hop.connections[0].tls)
                self.assertIn('verified="TLSA 3 1 1', self.attempts()[0])

    def test_a_record_of_another_key(self) -> None:
        for mode in ("dane", "dane_require", "dane_fallback_require_verify"):
            with self.row(mode):
                self.names = MemoryNames(self.reactor)
                hop = self.tls_host("mx.d.test", tlsa="3 1 1 " + "00" * 32)
                self.assertEqual(self.sent(hop, mode), b"451 4.7.5")

    def test_no_record(self) -> None:
        for mode, name, expected in (
            ("dane", "other.example", b"250"),
            ("dane_require", "mx.d.test", b"451 4.7.5"),
            ("dane_fallback_require_verify", "other.example", b"451 4.7.5"),
        ):
            with self.row(mode):
                self.names = MemoryNames(self.reactor)
                self.assertEqual(self.sent(self.tls_host(name), mode)[: len(expected)], expected)

    def test_records_of_no_use_ask_for_tls_alone(self) -> None:
        hop = self.tls_host(tlsa="1 1 1 " + "00" * 32)
        self.assertEqual(self.sent(hop, "dane")[:3], b"250")
        self.assertTrue(hop.connections[0].tls)

    def test_starttls_that_is_stripped_or_refused(self) -> None:
        """All failures of DANE are 4.7.5, whether the records can be used or only ask for TLS."""
        good = f"3 1 1 {key_digest(leaf('other.example'))}"
        refusing = {Step.STARTTLS: say(b"454 4.7.0 not now")}
        for record, tls, script in (
            (good, None, None),
            (good, leaf("other.example").server, refusing),
            ("1 1 1 " + "00" * 32, None, None),
            ("1 1 1 " + "00" * 32, leaf("other.example").server, refusing),
        ):
            with self.row(f"{record} {script}"):
                self.names = MemoryNames(self.reactor)
                self.mx("d.test", "10 mx.d.test.")
                self.names.add("_25._tcp.mx.d.test", "TLSA", record)
                hop = self.host("mx.d.test", "192.0.2.1", tls=tls, script=script)
                self.assertEqual(self.sent(hop, "dane"), b"451 4.7.5")
                self.assertEqual(hop.transactions, [])

    def test_records_that_cannot_be_asked_for(self) -> None:
        for action in (Action.SERVFAIL, Action.BOGUS, Action.SILENCE):
            with self.row(action.value):
                self.names = MemoryNames(self.reactor)
                hop = self.tls_host()
                self.names.script("_25._tcp.mx.d.test", "TLSA", action)
                self.assertEqual(self.sent(hop, "dane"), b"451 4.7.5")
                self.assertEqual(hop.connections, [])

    def test_the_next_host_is_asked_where_the_first_fails(self) -> None:
        first = self.tls_host(tlsa="3 1 1 " + "00" * 32)
        self.mx("d.test", "10 mx.d.test.", "20 mx2.d.test.")
        second = self.host("mx2.d.test", "192.0.2.2")
        self.direct("tls dane")
        self.assertEqual(codes(self.send(b"u@d.test"))[-1], b"250")
        self.assertEqual((len(first.transactions), len(second.transactions)), (0, 1))

    def test_a_resolver_that_does_not_validate_is_told_of(self) -> None:
        for secure in (True, False):
            with self.row(str(secure)):
                self.names = MemoryNames(self.reactor, secure=secure)
                self.names.add("", "NS", "a.root-servers.net.")
                running = self.direct("tls dane")
                self.reactor.settle(1)
                self.assertEqual(bool(running.logged("dnssec.missing")), not secure)

    def test_a_target_that_names_its_host_checks_its_resolver_too(self) -> None:
        for secure, mode in ((True, "dane"), (False, "dane"), (False, "dane_require"), (False, "require")):
            with self.row(f"{mode} {secure}"):
                self.names = MemoryNames(self.reactor, secure=secure)
                self.names.add("", "NS", "a.root-servers.net.")
                text = (
                    f"hostname gateway.test\nsmtp {SMTP} {{\n tls off\n reverse_lookup no\n"
                    f" deliver_to smtp tcp://mx.d.test:25 {{\n tls {mode}\n}}\n}}\n"
                )
                adapters = replace(adapters_for(self.reactor), resolver=self.names.resolver())
                self.running = WholeGateway(text, adapters, self.directory)
                self.reactor.run(self.running.start())
                self.reactor.settle(1)
                missing = not secure and mode != "require"
                self.assertEqual(bool(self.running.logged("dnssec.missing")), missing)

    def test_a_target_that_names_its_host(self) -> None:
        for record, expected in ((key_digest(leaf("other.example")), b"250"), ("00" * 32, b"451")):
            with self.row(record):
                self.names = MemoryNames(self.reactor)
                hop = self.tls_host(tlsa=f"3 1 1 {record}")
                self.reactor.hosts["mx.d.test"] = "192.0.2.1"
                text = (
                    f"hostname gateway.test\nsmtp {SMTP} {{\n tls off\n reverse_lookup no\n"
                    " deliver_to smtp tcp://mx.d.test:25 {\n tls dane_require\n}\n}\n"
                )
                adapters = replace(adapters_for(self.reactor), resolver=self.names.resolver())
                self.running = WholeGateway(text, adapters, self.directory)
                self.reactor.run(self.running.start())
                self.assertEqual(codes(self.send(b"u@y.test"))[1 if expected != b"250" else -1], expected)
                self.assertEqual(len(hop.transactions), int(expected == b"250"))

    def test_dane_require_wants_secure_mx_records(self) -> None:
        hop = self.tls_host(tlsa=f"3 1 1 {key_digest(leaf('other.example'))}")
        self.names.secure = False
        self.assertEqual(self.sent(hop, "dane_require"), b"451 4.7.5")
        self.assertEqual(hop.connections, [])
