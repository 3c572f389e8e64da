"""`pki` and `tls_client_cert`: the certificate that is named is the one that the next hop sees, and whom it makes us trust."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from mailgate.outbound.endpoint_settings import EndpointSettings
from mailgate.tls.verification import verify_peer
from tests.outbound.test_target import built, target
from tests.support.certificates import authority, leaf


def pki(name: str = "ours", certificate: str = "gw.example", ca: str = "") -> str:
    pair = leaf(certificate)
    return f"pki {name} {{\ncertificate {pair.chain_path}\nprivate_key {pair.key_path}\n{f'ca {ca}' if ca else ''}\n}}\n"


def shake_hands(settings: EndpointSettings, server_name: str = "hop.example") -> tuple[Any, Any]:
    """(client's connection, certificate that the server saw)."""
    pair = leaf(server_name)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_chain_file(str(pair.chain_path))
    context.use_privatekey_file(str(pair.key_path))
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    server = SSL.Connection(context, None)
    server.set_accept_state()
    client = settings.tls_context.connection_creator(server_name).clientConnectionForTLS(None)
    client.set_connect_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            try:
                one.do_handshake()
            except SSL.WantReadError:
                pass
            try:
                other.bio_write(one.bio_read(1 << 16))
            except SSL.WantReadError:
                pass
    return client, server.get_peer_certificate()


def serial(certificate: str) -> int:
    with open(leaf(certificate).chain_path, "rb") as file:
        return crypto.load_certificate(crypto.FILETYPE_PEM, file.read()).get_serial_number()


class PkiTests(SynchronousTestCase):
    def test_the_next_hop_sees_the_certificate(self) -> None:
        for reference in ("&ours", "pki:ours"):
            relay = target(f"{pki()}target.smtp relay tcp://127.0.0.1 {{\ntls_client_cert {reference}\n}}")
            _, seen = shake_hands(relay._endpoints[0])
            self.assertEqual(seen.get_serial_number(), serial("gw.example"))

    def test_without_it_none_is_shown(self) -> None:
        _, seen = shake_hands(target("target.smtp relay tcp://127.0.0.1")._endpoints[0])
        self.assertIsNone(seen)

    def test_of_one_endpoint(self) -> None:
        relay = target(
            f"""{pki()}{pki("other", "other.example")}target.smtp relay {{
                tls_client_cert &ours
                targets tcp://10.0.0.1
                endpoint tcp://10.0.0.2 {{
                    tls_client_cert &other
                }}
            }}"""
        )
        seen = [shake_hands(settings)[1].get_serial_number() for settings in relay._endpoints]
        self.assertEqual(seen, [serial("gw.example"), serial("other.example")])

    def test_whom_to_trust(self) -> None:
        for ca, client, trusted in (
            (str(authority().path), "", True),
            ("", "", False),
            (str(authority("stranger").path), "", False),
            ("", f"tls_client {{\nroot_ca {authority().path}\n}}", True),
            (str(authority("stranger").path), f"tls_client {{\nroot_ca {authority().path}\n}}", True),
        ):
            relay = target(f"{pki(ca=ca)}target.smtp relay tcp://127.0.0.1 {{\ntls_client_cert &ours\n{client}\n}}")
            settings = relay._endpoints[0]
            connection, _ = shake_hands(settings)
            self.assertEqual(verify_peer(connection, settings.tls_context, ("hop.example",)).ok, trusted, (ca, client))

    def test_it_is_enough_for_external(self) -> None:
        target(f"{pki()}target.smtp relay tcp://127.0.0.1 {{\ntls require_verify\ntls_client_cert &ours\nauth external\n}}")


class MistakeTests(SynchronousTestCase):
    def said(self, text: str) -> list[tuple[str, str]]:
        configuration, diagnostics = built(text)
        self.assertIsNone(configuration, text)
        return [(one.code, one.span.text if one.span else "") for one in diagnostics if one.is_error]

    def test_each_is_said_once_at_its_place(self) -> None:
        pair, other = leaf("gw.example"), leaf("other.example")
        used = "target.smtp relay tcp://127.0.0.1 {\ntls_client_cert &ours\n}\n"
        twice = used + used.replace("relay", "second")
        both = f"tls_client_cert &ours\ntls_client {{\ncert {pair.chain_path}\nkey {pair.key_path}\n}}"
        for text, expected in (
            (f"pki ours {{\ncertificate {pair.chain_path}\n}}\n{used}", [("E0403", "pki")]),
            (f"pki ours {{\ncertificate {pair.chain_path}\nprivate_key /nowhere\n}}\n{twice}", [("E0720", "certificate")]),
            (f"pki ours {{\ncertificate {pair.chain_path}\nprivate_key {other.key_path}\n}}\n{used}", [("E0720", "certificate")]),
            (f"{twice}{pki(ca='/nowhere')}", [("E0720", "ca")]),
            (f"{pki()}target.smtp relay tcp://127.0.0.1 {{\n{both}\n}}", [("E0730", "tls_client_cert")]),
            (f"{pki()}{used.replace('&ours', '&oars')}", [("E0602", "&oars")]),
            (f"{pki()}{used.replace('&ours', 'pki:oars')}", [("E0602", "pki:oars")]),
            (f"{pki()}{used.replace('&ours', 'ours')}", [("E0512", "ours")]),
            (f"{pki()}{used.replace('&ours', '&relay')}", [("E0604", "&relay")]),
        ):
            self.assertEqual(self.said(text), expected, text)
