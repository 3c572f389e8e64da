"""TLS towards next hops, every mode against everything a next hop can do wrong, from one table.

The cells say what becomes of a message, `Outcome`, and so what its record says; whatever else happens, where TLS is required
nothing of MAIL, RCPT, DATA or AUTH is ever said in clear text. docs/behaviour.md has the table for operators.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from mailgate.outbound import handshake
from mailgate.outbound.record import AttemptRecord
from mailgate.outbound.target import Downstream
from mailgate.registry import build
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS, MailParameters
from mailgate.testing.nexthop import GARBAGE, HANG, RESET, NextHop, Step, say
from mailgate.testing.tls import CertificateServer
from mailgate.tls import verification
from mailgate.tls.pairs import KeyPair, self_signed
from tests.outbound.support import CONTENT, envelope, make_message, recipient
from tests.support.adapters import real_adapters
from tests.tls.authority import Authority, dns, pem, raw_dns

NAME = "mx.example.org"
SAID_IN_CLEAR = re.compile(rb"(?mi)^(MAIL|RCPT|DATA|BDAT|AUTH)\b")
KEYWORDS = (b"PIPELINING", b"8BITMIME", b"ENHANCEDSTATUSCODES", b"REQUIRETLS", b"AUTH PLAIN")


class Outcome(Enum):
    CLEAR = "delivered in clear text"
    AGAIN = "delivered in clear text over a second connection, after TLS had failed"
    TLS = "delivered over TLS"
    NO_TLS = "451 4.7.4"
    BAD_TLS = "451 4.7.5"
    BOUNCED = "550 5.7.10"


CLEAR, AGAIN, TLS, NO_TLS, BAD_TLS, BOUNCED = Outcome


class Mode(NamedTuple):
    """How the target is configured, and whether TLS is required then."""

    settings: str
    required: bool = False
    requiretls: bool = False


DISABLED = Mode("tls disabled")
OPTIONAL = Mode("tls optional")
VERIFY = Mode("tls optional_verify")
FALLBACK = Mode("tls optional_verify\nverify_failure clear")
REQUIRE = Mode("tls require", True)
STRICT = Mode("tls require_verify", True)
PASSWORD = Mode("auth plain user secret", True)
MARKED = Mode("tls optional", True, requiretls=True)
MODES = {
    "disabled": DISABLED,
    "optional": OPTIONAL,
    "optional_verify": VERIFY,
    "optional_verify_with_fallback": FALLBACK,
    "require": REQUIRE,
    "require_verify": STRICT,
    "with_a_password": PASSWORD,
    "for_a_requiretls_message": MARKED,
}


class Peer(NamedTuple):
    """A next hop. ``certificate``: what it shows; ``code``: OpenSSL's number for what is wrong with that; ``reference``: the name
    we look for."""

    make: Callable[[], dict[str, Any]]
    code: int = 0
    reference: str = NAME


@cache
def root() -> Authority:
    return Authority("Matrix root")


@cache
def root_path() -> Path:
    return root().write(Path(mkdtemp(prefix="mailgate-matrix-")) / "root.pem")


@cache
def pair(kind: str) -> KeyPair:
    match kind:
        case "good":
            return root().issue([dns(NAME)])
        case "self-signed":
            return self_signed([NAME])
        case "expired":
            return root().issue([dns(NAME)], begins=timedelta(days=-9), ends=timedelta(days=-1))
        case "wrong name":
            return root().issue([dns("mx.example.net")])
        case "partial wildcard":
            return root().issue([raw_dns("m*.example.org")])
        case "two-label wildcard":
            return root().issue([raw_dns("*.org"), dns("*.example.net")])
        case "wildcard two labels up":
            return root().issue([dns("*.example.org")])
        case "common name":
            return root().issue(common_name=NAME)
        case "address as a name":
            return root().issue([raw_dns("127.0.0.1")])
        case "unknown authority":
            return Authority("Nobody knows").issue([dns(NAME)])
    raise AssertionError(kind)


def _shows(kind: str, adjust: Any = None) -> Callable[[], dict[str, Any]]:
    return lambda: {"tls": CertificateServer(*pem(pair(kind)), adjust)}


def _after_220(action: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"extensions": (*KEYWORDS, b"STARTTLS"), "script": {Step.HANDSHAKE: action}}


def _alert(context: Any) -> None:
    """No suite goes with the certificate: a fatal alert answers the ClientHello."""
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"AES128-SHA")


PEERS = {
    "good": Peer(_shows("good")),
    "no_starttls": Peer(dict),
    "454": Peer(lambda: {**_shows("good")(), "script": {Step.STARTTLS: say(b"454 4.7.0 not now")}}),
    "garbage_after_220": Peer(_after_220(GARBAGE)),
    "injected_plaintext": Peer(lambda: {**_shows("good")(), "script": {Step.STARTTLS: say(b"220 go", b"250 injected")}}),
    "reset": Peer(_after_220(RESET)),
    "alert": Peer(_shows("good", _alert)),
    "stall": Peer(_after_220(HANG)),
    "self_signed": Peer(_shows("self-signed"), 18),
    "expired": Peer(_shows("expired"), 10),
    "wrong_name": Peer(_shows("wrong name"), 62),
    "partial_wildcard": Peer(_shows("partial wildcard"), 62),
    "wildcard_of_a_top_level_domain": Peer(_shows("two-label wildcard"), 1),
    "two_label_wildcard": Peer(_shows("wildcard two labels up"), 62, "a.mx.example.org"),
    "common_name_only": Peer(_shows("common name"), 62),
    "address_as_a_name": Peer(_shows("address as a name"), 1, "127.0.0.1"),
    "unknown_authority": Peer(_shows("unknown authority"), 20),
}

NOT_OFFERED = {
    DISABLED: CLEAR,
    OPTIONAL: CLEAR,
    VERIFY: CLEAR,
    FALLBACK: CLEAR,
    REQUIRE: NO_TLS,
    STRICT: NO_TLS,
    PASSWORD: NO_TLS,
    MARKED: BOUNCED,
}
HANDSHAKE = {
    DISABLED: CLEAR,
    OPTIONAL: AGAIN,
    VERIFY: AGAIN,
    FALLBACK: AGAIN,
    REQUIRE: BAD_TLS,
    STRICT: BAD_TLS,
    PASSWORD: BAD_TLS,
    MARKED: BOUNCED,
}
INJECTED = {
    DISABLED: CLEAR,
    OPTIONAL: BAD_TLS,
    VERIFY: BAD_TLS,
    FALLBACK: BAD_TLS,
    REQUIRE: BAD_TLS,
    STRICT: BAD_TLS,
    PASSWORD: BAD_TLS,
    MARKED: BOUNCED,
}
CERTIFICATE = {
    DISABLED: CLEAR,
    OPTIONAL: TLS,
    VERIFY: BAD_TLS,
    FALLBACK: AGAIN,
    REQUIRE: TLS,
    STRICT: BAD_TLS,
    PASSWORD: BAD_TLS,
    MARKED: BOUNCED,
}
TABLE = {
    "good": {mode: CLEAR if mode is DISABLED else TLS for mode in MODES.values()},
    "no_starttls": NOT_OFFERED,
    "454": NOT_OFFERED,
    "garbage_after_220": HANDSHAKE,
    "injected_plaintext": INJECTED,
    "reset": HANDSHAKE,
    "alert": HANDSHAKE,
    "stall": HANDSHAKE,
    **dict.fromkeys([name for name, peer in PEERS.items() if peer.code], CERTIFICATE),
}


class _Matrix(TestCase):
    kind = "smtp"

    patience = "20s"
    """For the handshake."""

    async def target(self, hop: NextHop, mode: Mode, peer: Peer, more: str = "") -> Downstream:
        """Started, in this mode, with ``hop`` as its next hop."""
        patience = "200ms" if peer is PEERS["stall"] or peer is PEERS["garbage_after_220"] else self.patience
        configuration = build(
            f"hostname gw.example\ntarget.{self.kind} next {hop.endpoint} {{\n{mode.settings}\n"
            f"tls_client {{\nroot_ca {root_path()}\n}}\ntls_verify_host no\ntls_verify_name {peer.reference}\ntls_sni {NAME}\n"
            f"timeouts {{\ntls {patience}\nrset 1s\nquit 1s\n}}\n{more}\n}}\n",
            real_adapters(),
        ).configuration
        assert configuration is not None
        (target,) = [module for module in configuration.modules if isinstance(module, Downstream)]
        await target.start()
        return target

    async def pass_on(self, target: Downstream, *, requiretls: bool = False) -> tuple[Any, list[AttemptRecord]]:
        """The last reply about one message, and its records."""
        records: list[AttemptRecord] = []
        offered = envelope(MailParameters(requiretls=True) if requiretls else NO_MAIL_PARAMETERS)
        offered.on_attempt = records.append
        delivery = target.open(offered)
        reply = await delivery.rcpt(recipient())
        if reply.is_success:
            (reply,) = await delivery.send(make_message())
        else:
            delivery.abort()
        return reply, records

    async def send(self, hop: NextHop, mode: Mode, peer: Peer, more: str = "") -> tuple[Any, list[AttemptRecord]]:
        target = await self.target(hop, mode, peer, more)
        try:
            return await self.pass_on(target, requiretls=mode.requiretls)
        finally:
            await target.stop()

    async def check(self, peer_name: str, mode: Mode) -> None:
        peer = PEERS[peer_name]
        hop = NextHop(**{"extensions": KEYWORDS, **peer.make()}, lmtp=self.kind == "lmtp").listen(reactor)
        self.addCleanup(hop.close)
        expected = TABLE[peer_name][mode]
        reply, records = await self.send(hop, mode, peer)
        (record,) = records
        if mode.required:
            for connection in hop.connections:
                self.assertIsNone(SAID_IN_CLEAR.search(bytes(connection.clear)), bytes(connection.clear))
        if expected in (NO_TLS, BAD_TLS, BOUNCED):
            self.check_refused(expected, reply, record, hop)
        else:
            self.check_delivered(expected, reply, record, hop)
        tls = record.connection.tls
        if tls is not None:
            self.assertEqual((tls.verified, tls.code), (not peer.code, peer.code), tls.reason)
            self.assertEqual(tls.matched_name, "" if peer.code else NAME)
            self.assertEqual(tls.sni, NAME)
        elif peer.code:  # only where nobody shook hands, or not on the connection that took the message
            self.assertIn(expected, (CLEAR, AGAIN))

    def check_refused(self, expected: Outcome, reply: Any, record: AttemptRecord, hop: NextHop) -> None:
        self.assertEqual(f"{reply.code} {reply.enhanced}", expected.value)
        self.assertEqual((hop.mail_count, record.stage), (0, "starttls"))
        self.assertTrue(record.error or record.reply)
        self.assertEqual(record.connection.remote, hop.endpoint.partition("//")[2])

    def check_delivered(self, expected: Outcome, reply: Any, record: AttemptRecord, hop: NextHop) -> None:
        self.assertEqual((reply.code, record.stage, record.reply), (250, "dot", reply))
        (transaction,) = hop.transactions
        self.assertEqual((transaction.content, transaction.secure), (CONTENT, expected is TLS))
        self.assertEqual(len(hop.connections), 2 if expected is AGAIN else 1)
        self.assertEqual(record.connection.tls is not None, expected is TLS)
        self.assertEqual(bool(record.connection.tls_error), expected is AGAIN)
        if expected is AGAIN:
            self.assertNotIn(b"STARTTLS", hop.connections[1].verbs)
        if expected is TLS:
            self.assertEqual(hop.connections[0].verbs[:2], [b"LHLO" if self.kind == "lmtp" else b"EHLO", b"STARTTLS"])


class SmtpMatrix(_Matrix):
    """Every cell."""


class LmtpMatrix(_Matrix):
    """The rows that differ by more than the certificate."""

    kind = "lmtp"


def _cell(peer_name: str, mode: Mode) -> Any:
    async def test(self: _Matrix) -> None:
        await self.check(peer_name, mode)

    return test


_LMTP_ROWS = ("good", "no_starttls", "454", "garbage_after_220", "injected_plaintext", "reset", "wrong_name", "self_signed")
for _row in TABLE:
    for _mode_name, _mode in MODES.items():
        setattr(SmtpMatrix, f"test_{_mode_name}_{_row}", _cell(_row, _mode))
        if _row in _LMTP_ROWS:
            setattr(LmtpMatrix, f"test_{_mode_name}_{_row}", _cell(_row, _mode))


class ImplicitMatrix(_Matrix):
    """tls:// endpoints: TLS from the first byte in every mode, and clear text in none."""

    ROWS: dict[str, tuple[Callable[[], dict[str, Any]], Outcome, Outcome]] = {
        # what the peer is, outcome without verification, outcome with it
        "good": (_shows("good"), TLS, TLS),
        "wrong name": (_shows("wrong name"), TLS, BAD_TLS),
        "expired": (_shows("expired"), TLS, BAD_TLS),
        "unknown authority": (_shows("unknown authority"), TLS, BAD_TLS),
        "alert": (_shows("good", _alert), BAD_TLS, BAD_TLS),
        "a plain greeting": (dict, BAD_TLS, BAD_TLS),
        "reset": (lambda: {"script": {Step.CONNECT: RESET}}, BAD_TLS, BAD_TLS),
        "stall": (lambda: {"script": {Step.BANNER: HANG}}, BAD_TLS, BAD_TLS),
    }

    async def test_every_mode(self) -> None:
        for row, (make, unverified, verified) in self.ROWS.items():
            self.patience = "200ms" if row in ("stall", "garbage_after_220") else "20s"
            for mode, expected in ((OPTIONAL, unverified), (REQUIRE, unverified), (VERIFY, verified), (STRICT, verified)):
                given = make()
                hop = NextHop(extensions=KEYWORDS, implicit_tls="tls" in given, **given).listen(reactor)
                hop.endpoint = hop.endpoint.replace("tcp:", "tls:")
                reply, records = await self.send(hop, mode, PEERS["good"])
                if expected is TLS:
                    self.assertEqual((reply.code, hop.transactions[0].secure), (250, True), row)
                    self.assertEqual(records[0].connection.tls is not None, True)
                else:
                    self.assertEqual((f"{reply.code} {reply.enhanced}", hop.mail_count), (expected.value, 0), row)
                for connection in hop.connections:
                    self.assertIsNone(SAID_IN_CLEAR.search(bytes(connection.clear)), row)
                await hop.close()


class NextEndpoint(_Matrix):
    """Where the table says that an endpoint is of no use, the next one gets the message."""

    async def test_each_refusal_moves_on(self) -> None:
        for row, mode in (
            ("no_starttls", STRICT),
            ("454", REQUIRE),
            ("reset", REQUIRE),
            ("wrong_name", STRICT),
            ("expired", VERIFY),
        ):
            peer = PEERS[row]
            bad = NextHop(**{"extensions": KEYWORDS, **peer.make()}).listen(reactor)
            good = NextHop(extensions=KEYWORDS, **_shows("good")()).listen(reactor)
            reply, records = await self.send(bad, mode, peer, f"endpoint {good.endpoint}")
            self.assertEqual((reply.code, bad.mail_count, len(good.transactions)), (250, 0, 1), row)
            self.assertEqual(
                [(record.endpoint, record.stage) for record in records], [(bad.endpoint, "starttls"), (good.endpoint, "dot")]
            )
            await bad.close()
            await good.close()


def _broken(*_: Any, **__: Any) -> Any:
    raise LookupError("broken on purpose")


class FailsClosed(_Matrix):
    """Whatever goes wrong while the peer is judged, it is not trusted."""

    PLACES = (
        (handshake, "verify_peer"),
        (handshake, "peer_facts"),
        (verification, "verify_chain"),
        (verification, "_patterns"),
        (verification, "check_purpose"),
        (verification, "check_strength"),
        (verification, "_matches"),
        (verification.crypto, "X509StoreContext"),
        (SSL.Connection, "get_peer_certificate"),
        (SSL.Connection, "get_peer_cert_chain"),
        (SSL.Connection, "get_protocol_version_name"),
    )

    async def test_an_exception_in_verification_refuses(self) -> None:
        for owner, name in self.PLACES:
            hop = NextHop(extensions=KEYWORDS, **_shows("good")()).listen(reactor)
            patched = self.patch(owner, name, _broken)
            reply, _ = await self.send(hop, STRICT, PEERS["good"])
            patched.restore()
            self.assertEqual((reply.code, hop.mail_count), (451, 0), name)
            await hop.close()


class BrokenTlsIsRemembered(_Matrix):
    async def test_only_the_first_message_pays(self) -> None:
        hop = NextHop(extensions=(*KEYWORDS, b"STARTTLS"), script={Step.HANDSHAKE: RESET}).listen(reactor)
        self.addCleanup(hop.close)
        target = await self.target(hop, OPTIONAL, PEERS["good"], "max_idle 0")
        self.addCleanup(target.stop)
        for _ in range(3):
            reply, (record,) = await self.pass_on(target)
            self.assertEqual(reply.code, 250)
            self.assertTrue(record.connection.tls_error)
        self.assertEqual([b"STARTTLS" in connection.verbs for connection in hop.connections], [True, False, False, False])

    async def test_a_message_that_needs_tls_does_not_go_by_it(self) -> None:
        hop = NextHop(extensions=(*KEYWORDS, b"STARTTLS"), script={Step.HANDSHAKE: RESET}).listen(reactor)
        self.addCleanup(hop.close)
        target = await self.target(hop, OPTIONAL, PEERS["good"], "max_idle 0")
        self.addCleanup(target.stop)
        await self.pass_on(target)
        reply, _ = await self.pass_on(target, requiretls=True)
        self.assertEqual(f"{reply.code} {reply.enhanced}", BOUNCED.value)
        self.assertEqual(hop.mail_count, 1)


class Captured(_Matrix):
    """`tls_capture_peer_cert`: the record has what the peer showed, also where it was refused."""

    async def test_the_chain_and_its_fingerprints(self) -> None:
        for kind, mode in (("good", STRICT), ("wrong name", STRICT)):
            hop = NextHop(extensions=KEYWORDS, **_shows(kind)()).listen(reactor)
            _, (record,) = await self.send(hop, mode, PEERS["good"], "tls_capture_peer_cert yes")
            tls = record.connection.tls
            assert tls is not None
            assert tls.peer is not None
            leaf = pair(kind).chain[0]
            self.assertEqual(tls.peer.chain[0], leaf.public_bytes(Encoding.DER))
            self.assertEqual(tls.peer.fingerprint, leaf.fingerprint(SHA256()).hex())
            self.assertEqual(tls.verified, kind == "good")
            self.assertEqual(len(tls.peer.chain), 2)  # to the anchor
            await hop.close()

    async def test_not_without_it(self) -> None:
        hop = NextHop(extensions=KEYWORDS, **_shows("good")()).listen(reactor)
        self.addCleanup(hop.close)
        _, (record,) = await self.send(hop, STRICT, PEERS["good"])
        assert record.connection.tls is not None
        self.assertIsNone(record.connection.tls.peer)
