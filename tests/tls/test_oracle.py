"""Generated certificates: what the standard library's ssl refuses, we refuse. (Not the other way round: we are stricter.)"""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import event, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.tls.client import ClientContext
from mailgate.tls.server import ServerContexts
from mailgate.tls.verification import verify_peer

from .authority import Authority, dns, handshake, oracle_refusal, raw_dns

PRESENTED = (
    "mx.example.net",
    "MX.EXAMPLE.NET",
    "mx.example.net.",
    "*.example.net",
    "m*.example.net",
    "*x.example.net",
    "*.*.example.net",
    "mx.*.net",
    "*.net",
    "*",
    "*.",
    ".example.net",
    "mx..example.net",
    "xn--mller-kva.example",
    "*.xn--mller-kva.example",
    "192.0.2.1",
    "mx.example.net\0.evil.example",
    " mx.example.net",
    "",
)
REFERENCES = (
    "mx.example.net",
    "a.mx.example.net",
    "example.net",
    "xn--mller-kva.example",
    "a.xn--mller-kva.example",
    "192.0.2.1",
    "2001:db8::1",
)
ADDRESSES = ("192.0.2.1", "192.0.2.2", "2001:db8::1")
PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


def mostly(good: Any, *others: Any) -> st.SearchStrategy[Any]:
    """One thing that is wrong at a time is the interesting case."""
    return st.sampled_from([good] * 6 + list(others))


names = st.one_of(
    st.just([dns("mx.example.net"), dns("*.mx.example.net"), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]),
    st.lists(
        st.one_of(
            st.sampled_from(PRESENTED).map(raw_dns),
            st.sampled_from(ADDRESSES).map(lambda text: x509.IPAddress(ipaddress.ip_address(text))),
            st.sampled_from(["postmaster@example.net"]).map(x509.RFC822Name),
        ),
        max_size=3,
    ),
)
key_usages = mostly(
    None,
    *(
        x509.KeyUsage(signs, False, encrypts, False, agrees, True, False, False, False)
        for signs in (True, False)
        for encrypts in (True, False)
        for agrees in (True, False)
    ),
)
SERVER, CLIENT, ANY = PURPOSES
usages = mostly([SERVER], None, [CLIENT], [ANY], [SERVER, CLIENT], [CLIENT, ANY])


@cache
def authority(kind: str) -> Authority:
    if kind == "middle":
        return Authority("Intermediate", authority("root"))
    if kind == "clients only":
        return Authority("Clients only", authority("root"), usage=[ExtendedKeyUsageOID.CLIENT_AUTH])
    return Authority(f"The {kind}")


@cache
def key(kind: str) -> Any:
    match kind:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "short rsa":
            return rsa.generate_private_key(65537, 1024)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


@cache
def context() -> ClientContext:
    with TemporaryDirectory() as directory:
        return ClientContext([authority("root").write(Path(directory) / "root.pem")])


class Oracle(SynchronousTestCase):
    @pytest.mark.slow
    @settings(max_examples=1500, deadline=None)
    @given(
        names=names,
        common_name=st.sampled_from(["host", "mx.example.net", "*.example.net"]),
        dates=mostly((-1, 30), (-40, -2), (1, 30)),
        usage=usages,
        issuer=mostly("root", "middle", "clients only", "stranger", "self"),
        complete=mostly(True, False),
        kind=mostly("ec", "rsa", "short rsa", "ed25519"),
        key_usage=key_usages,
        reference=st.sampled_from(REFERENCES),
    )
    def test_we_refuse_what_it_refuses(self, names: Any, reference: str, issuer: str, kind: str, **more: Any) -> None:
        begins, ends = more["dates"]
        pair = authority(issuer).issue(
            names,
            common_name=more["common_name"],
            begins=timedelta(days=begins),
            ends=timedelta(days=ends),
            usage=more["usage"],
            with_intermediates=more["complete"],
            key=key(kind),
            key_usage=more["key_usage"],
        )
        try:
            server = ServerContexts([pair]).connection_creator()
            client, _ = handshake(
                context().connection_creator(reference).clientConnectionForTLS(None), server.serverConnectionForTLS(None)
            )
        except Exception:  # the server won't have it, or no handshake comes about: nothing to judge
            event("no handshake")
            return
        verdict = verify_peer(client, context(), [reference])
        refusal = oracle_refusal(server.serverConnectionForTLS(None), authority("root"), reference)
        event("both accept" if verdict.ok else "only we refuse" if not refusal else "both refuse")
        self.assertFalse(verdict.ok and refusal, refusal)

    def test_something_passes(self) -> None:
        """The generator's good case is one: the test above is not empty."""
        pair = authority("middle").issue([dns("mx.example.net")])
        server = ServerContexts([pair]).connection_creator().serverConnectionForTLS(None)
        client, _ = handshake(context().connection_creator("mx.example.net").clientConnectionForTLS(None), server)
        self.assertTrue(verify_peer(client, context(), ["mx.example.net"]).ok)
