"""Every setting of Halon's outbound server array has its name here, and loads: one row of the feature table after the other."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgate.outbound.target import Downstream
from mailgate.registry import build
from tests.support.certificates import authority, leaf

CA = authority().path
PAIR = leaf("gw.example")
TLS_CLIENT = f"tls_client {{\nroot_ca {CA}\n}}"

ROWS: dict[str, tuple[str, ...]] = {
    # their name: values of ours, each in a target and in an endpoint block
    "helo": ("hostname relay.example", "hostname [192.0.2.1]", "hostname (lower(sender_domain))"),
    "sourceip": ("source_ip 192.0.2.1", "source_ip 192.0.2.1 2001:db8::1"),
    "sourceipid": ("source_ip &mailout", "source_ip &mailout 192.0.2.9"),
    "nonlocal_source": ("source_ip 192.0.2.1\nnonlocal_source yes", "source_ip 192.0.2.1\nnonlocal_source no"),
    "saslusername, saslpassword": tuple(
        f"auth {word} user secret" for word in ("auto", "plain", "login", "cram-md5", "scram-sha-256", "xoauth2", "oauthbearer")
    ),
    "tls": (
        *(f"tls {mode}" for mode in ("disabled", "optional", "optional_verify", "require", "require_verify")),
        "require_tls yes",
        "attempt_starttls no",
    ),
    "tls_sni": ("tls_sni mail.example", "tls_sni yes", "tls_sni no"),
    "tls_protocols": (
        "tls_protocols !SSLv2,!SSLv3",
        "tls_protocols !SSLv2,!SSLv3,!TLSv1,!TLSv1.1",
        "tls_protocols TLSv1.2,TLSv1.3",
        'tls_protocols "TLSv1.2, TLSv1.3"',
        "tls_protocols tlsv1.3",
    ),
    "tls_ciphers": ("tls_ciphers HIGH:!aNULL", "tls_ciphers ECDHE+AESGCM:TLS_AES_256_GCM_SHA384"),
    "tls_verify_host": (
        "tls require_verify\ntls_verify_host yes",
        "tls require_verify\ntls_verify_host no\ntls_verify_name a.test",
    ),
    "tls_verify_name": ("tls require_verify\ntls_verify_name mx.example .example.net 192.0.2.1",),
    "tls_default_ca": ("tls require_verify\ntls_default_ca yes", f"tls require_verify\ntls_default_ca no\n{TLS_CLIENT}"),
    "tls_client_cert": ("tls require\ntls_client_cert pki:ours", "tls require\ntls_client_cert &ours"),
    "tls_capture_peer_cert": ("tls_capture_peer_cert yes", "tls_capture_peer_cert no"),
    "xclient": ("xclient {\naddr client_ip\nname client_name\nhelo helo\nlogin auth_user\n}",),
    "timeout": ("connect_timeout 30s", "timeouts {\ngreeting 1m\nfinal_dot 10m\n}"),
}
PLACES = (
    "target.smtp next {\ntargets tcp://192.0.2.25\n%s\n}",
    "target.lmtp next {\ntargets tcp://192.0.2.25\n%s\n}",
    "target.smtp next {\nendpoint tcp://mx.example.net {\n%s\n}\n}",
    "target.lmtp next {\nendpoint tls://store.example.net:24 {\n%s\n}\n}",
)
BEFORE = (
    "hostname gw.example\n"
    f"pki ours {{\ncertificate {PAIR.chain_path}\nprivate_key {PAIR.key_path}\n}}\n"
    "source_address mailout {\naddress 192.0.2.7 2001:db8::7\nhostname mailout.example\n}\n"
)


class HalonSettings(SynchronousTestCase):
    def test_each_row_loads_in_a_target_and_in_an_endpoint(self) -> None:
        failed = []
        for name, values in ROWS.items():
            for value in values:
                for place in PLACES:
                    if "tls://" in place and value in ("tls disabled", "attempt_starttls no"):
                        continue  # there is TLS from the first byte
                    result = build(BEFORE + place % value + "\n")
                    errors = [str(diagnostic.message) for diagnostic in result.diagnostics if diagnostic.is_error]
                    if errors:
                        failed.append((name, value, place.partition(" ")[0], errors))
        self.assertEqual(failed, [])

    def test_host_port_and_protocol(self) -> None:
        text = (
            "target.smtp next {\ntargets tcp://mx.example.net tcp://[2001:db8::1]:2525\n"
            "endpoint tls://mx.example.net\nendpoint tcp://store.example.net {\nprotocol lmtp\n}\n"
            "endpoint unix:///run/lmtp {\nprotocol lmtp\n}\n}\n"
        )
        configuration = build(BEFORE + text).configuration
        assert configuration is not None
        (target,) = [module for module in configuration.modules if isinstance(module, Downstream)]
        self.assertEqual(
            [settings.label for settings in target.endpoint_settings],
            [
                "tcp://mx.example.net:25",
                "tcp://[2001:db8::1]:2525",
                "tls://mx.example.net:465",
                "tcp://store.example.net:24",
                "unix:///run/lmtp",
            ],
        )
