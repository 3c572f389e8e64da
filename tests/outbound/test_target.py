"""target.smtp and target.lmtp as the configuration writes them: values, contradictions, warnings, a message through it."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgate.config.diagnostics import Diagnostic
from mailgate.interfaces import Finality, IDelivery, ITarget
from mailgate.outbound.delivery import Delivery
from mailgate.outbound.target import Downstream
from mailgate.outbound.tls_policy import OnFailure, Start
from mailgate.registry import build
from mailgate.testing.nexthop import NextHop
from tests.outbound.support import CONTENT, envelope, make_message, recipient
from tests.support.adapters import real_adapters
from tests.support.certificates import authority, leaf


def built(text: str, adapters: Any = None) -> tuple[Any, list[Diagnostic]]:
    result = build(f"hostname gw.example\n{text}\n", adapters)
    return result.configuration, [
        d for d in result.diagnostics if "nothing refers" not in d.message and "listener" not in d.message
    ]


def target(text: str) -> Downstream:
    configuration, diagnostics = built(text)
    assert configuration is not None, [str(diagnostic) for diagnostic in diagnostics]
    found = [module for module in configuration.modules if isinstance(module, Downstream)]
    return found[0]


class ValuesTest(SynchronousTestCase):
    def test_the_defaults_of_the_seed(self) -> None:
        relay = target("target.smtp relay tcp://127.0.0.1")
        (settings,) = relay._endpoints
        timeouts = settings.timeouts
        self.assertEqual((timeouts.connect, timeouts.rcpt_to, timeouts.final_dot), (300, 300, 720))
        self.assertEqual((settings.label, settings.hostname, settings.lmtp), ("tcp://127.0.0.1:25", "gw.example", False))
        self.assertEqual((settings.decision.start, settings.decision.on_handshake), (Start.OFFERED, OnFailure.CLEAR))
        self.assertIs(relay.finality, Finality.TRANSACTION)
        self.assertTrue(ITarget.providedBy(relay))

    def test_lmtp_differs_by_port_verb_and_starttls(self) -> None:
        store = target("target.lmtp store tcp://127.0.0.1 unix:///run/lmtp")
        self.assertEqual([e.label for e in store._endpoints], ["tcp://127.0.0.1:24", "unix:///run/lmtp"])
        self.assertEqual([e.lmtp for e in store._endpoints], [True, True])
        self.assertEqual([e.decision.start for e in store._endpoints], [Start.NEVER, Start.NEVER])
        self.assertIs(store.finality, Finality.RECIPIENT)

    def test_endpoints_in_order_with_settings_of_their_own(self) -> None:
        relay = target(
            """
            target.smtp relay tcp://10.0.0.2 {
                targets tcp://10.0.0.1
                command_timeout 1m
                endpoint tls://backup.example.net {
                    command_timeout 2m
                    auth plain gw secret
                    tls_sni other.example.net
                    tls_verify_name .example.net
                }
                endpoint tcp://10.0.0.3
            }"""
        )
        self.assertEqual(
            [(e.label, e.timeouts.mail_from) for e in relay._endpoints],
            [
                ("tcp://10.0.0.1:25", 60),
                ("tcp://10.0.0.2:25", 60),
                ("tls://backup.example.net:465", 120),
                ("tcp://10.0.0.3:25", 60),
            ],
        )
        backup = relay._endpoints[2]
        self.assertEqual((backup.decision.start, backup.decision.on_bad_peer), (Start.IMPLICIT, OnFailure.NEXT))
        self.assertEqual(backup.decision.names, ("backup.example.net", ".example.net"))
        self.assertEqual(backup.decision.sni, "other.example.net")
        self.assertIsNone(relay._endpoints[0].credentials)
        self.assertNotIn("secret", repr(backup))

    def test_timeouts_step_by_step_and_the_endpoints_own(self) -> None:
        relay = target(
            """
            target.smtp relay tcp://10.0.0.1 {
                command_timeout 1m
                timeouts {
                    connect 20s
                    data_block 30s
                    total 2m
                }
                endpoint tcp://10.0.0.2 {
                    connect_timeout 5s
                    timeouts {
                        greeting 7s
                        final_dot 9m
                    }
                }
            }"""
        )
        first, second = (settings.timeouts for settings in relay._endpoints)
        steps = ("connect", "greeting", "tls", "ehlo", "auth", "mail_from", "rcpt_to", "data", "data_block", "final_dot", "total")
        self.assertEqual([getattr(first, step) for step in steps], [20, 60, 60, 60, 60, 60, 60, 60, 30, 720, 120])
        self.assertEqual([getattr(second, step) for step in steps], [5, 7, 60, 60, 60, 60, 60, 60, 30, 540, 120])

    def test_tls_client_by_reference_and_by_block(self) -> None:
        pair = leaf("gw.example")
        text = f"root_ca {authority().path}\ncert {pair.chain_path}\nkey {pair.key_path}\nprotocols tls1.2 tls1.3"
        for form in (f"tls_client {{\n{text}\n}}", "tls_client &strict"):
            relay = target(f"tls_client strict {{\n{text}\n}}\ntarget.smtp relay tcp://127.0.0.1 {{\n{form}\n}}")
            self.assertEqual(len(relay._endpoints), 1)


REFUSED = [
    ("", "no endpoint"),
    ("targets tcp://10.0.0.1\nrequire_tls yes\nattempt_starttls no", "contradicts"),
    ("targets tcp://10.0.0.1\nrequire_tls yes\ntls disabled", "contradicts"),
    ("targets unix:///run/x\nrequire_tls yes", "unix"),
    ("targets tls://x.example\ntls disabled", "without TLS"),
    ("targets tcp://10.0.0.1\nauth plain u p\ntls optional", "verified name"),
    ("targets tcp://10.0.0.1\nauth external", "needs a certificate"),
    ("targets tcp://10.0.0.1\nauth kerberos", "not possible"),
    ("targets tcp://10.0.0.1\nbalance randomly", "`randomly` is not possible"),
    ("targets tcp://10.0.0.1\nbalance hash(retry_num)", "there is no `retry_num` here"),
    ("targets tcp://10.0.0.1\nbalance hash(client_ip)", "hash needs a string"),
    ("targets tcp://10.0.0.1\nbalance hash", "`hash` is not possible"),
    ("targets tcp://10.0.0.1\nendpoint tcp://10.0.0.2 {\nweight 2\n}", "`balance ordered` has no weights"),
    ("balance hash(rcpt)\nendpoint tcp://10.0.0.2 {\nweight 2\n}", "`balance hash` has no weights"),
    ("balance random\nendpoint tcp://10.0.0.2 {\nweight 0\n}", "out of range"),
    ("targets tcp://10.0.0.1\nxclient", "needs a block"),
    ("targets tcp://10.0.0.1\nxclient {\naddr mx.example.org\n}", "can't be said as ADDR"),
    ("targets tcp://10.0.0.1\nxclient {\nport (client_ip)\nwhat 1\n}", "unknown directive"),
    ("targets tcp://10.0.0.1\nxforward {\nsource BOTH\n}", "can't be said as SOURCE"),
    ("targets tcp://10.0.0.1\nproxy_protocol v3", "`v3` is not possible"),
    ("targets tcp://10.0.0.1\ntls_client {\ncert /nowhere\n}", "belong together"),
    ("targets tcp://10.0.0.1\ntls_client {\nroot_ca /nowhere\n}", "/nowhere"),
    ("targets tcp://10.0.0.1\ntls_client {\nprotocols ssl9\n}", "ssl9"),
    ("targets tcp://10.0.0.1\ntls_protocols TLSv1.4", "TLSv1.4"),
    ("targets tcp://10.0.0.1\ntls_protocols TLSv1.2 TLSv1.3", "separated by commas"),
    ("targets tcp://10.0.0.1\ntls_protocols !TLSv1,!TLSv1.1,!TLSv1.2,!TLSv1.3", "no protocol version"),
    ("targets tcp://10.0.0.1\ntls_protocols SSLv3", "not there any more"),
    ("targets tcp://10.0.0.1\ntls_ciphers NOTHING", "NOTHING"),
    ("targets tcp://10.0.0.1\ntls_ciphers HIGH:!ALL", "selects no cipher"),
    ("targets tcp://10.0.0.1\ntls_protocols TLSv1.3\ntls_client {\nprotocols tls1.2\n}", "both"),
    ("targets tcp://10.0.0.1\ntls_ciphers HIGH\ntls_client {\nciphers HIGH\n}", "both"),
    ("targets tcp://10.0.0.1\ntls require_verify\ntls_verify_name *.example.org", "*.example.org"),
    ('targets tcp://10.0.0.1\ntls require_verify\ntls_verify_name "a b"', "a b"),
    ("targets tcp://10.0.0.1\ntls_sni 192.0.2.1", "192.0.2.1"),
    ("targets tcp://10.0.0.1\ntls require_verify\ntls_default_ca no", "trusts nobody"),
    ("targets tcp://10.0.0.1\nauth plain u p\ntls_verify_host no", "verified name"),
    ("targets tcp://10.0.0.1\nconnect_timeout 1s\ntimeouts {\nconnect 1s\n}", "`connect_timeout`"),
    ("targets tcp://10.0.0.1\ncommand_timeout 1s\ntimeouts {\nehlo 1s\n}", "`command_timeout`"),
    ("targets tcp://10.0.0.1\nsubmission_timeout 1s\ntimeouts {\nfinal_dot 1s\n}", "`submission_timeout`"),
    ("targets tcp://10.0.0.1\nhealth {\nbackoff 5m 5s\n}", "shorter"),
    ("targets tcp://10.0.0.1\nhealth {\nprobe 0\n}", "at least 100ms is needed"),
]

NOTHING_LISTENS = "W0606"
"""Said of every file here: they are targets only."""

WARNED = [
    ("targets tcp://8.8.8.8", "plain text"),
    ("targets tcp://10.0.0.1\ntls require_verify\ntls_verify_host no", "any trusted certificate"),
    ("targets tcp://10.0.0.1\ntls require\nrequire_tls yes", "not verified"),
    ("targets tcp://10.0.0.1\ntls_protocols TLSv1.1,TLSv1.3", "between two others"),
]


class DiagnosticsTest(SynchronousTestCase):
    def test_contradictions_are_errors_at_their_place(self) -> None:
        for body, words in REFUSED:
            configuration, diagnostics = built(f"target.smtp relay {{\n{body}\n}}")
            self.assertIsNone(configuration, body)
            errors = [d for d in diagnostics if d.is_error]
            self.assertEqual(len(errors), 1, (body, [d.message for d in errors]))
            self.assertIn(words, errors[0].message)
            self.assertIsNotNone(errors[0].span)

    def test_warnings(self) -> None:
        for body, words in WARNED:
            configuration, diagnostics = built(f"target.smtp relay {{\n{body}\n}}")
            self.assertIsNotNone(configuration, body)
            said = [d.message for d in diagnostics if d.code != NOTHING_LISTENS]
            self.assertEqual([words in message for message in said], [True], (body, said))

    def test_nothing_to_say_about_an_ordinary_one(self) -> None:
        for text in ("target.smtp relay tcp://127.0.0.1", "target.lmtp store unix:///run/lmtp"):
            self.assertEqual([d.code for d in built(text)[1]], [NOTHING_LISTENS])


class LifeTest(TestCase):
    async def test_a_message_through_a_target(self) -> None:
        hop = NextHop().listen(reactor)
        self.addCleanup(hop.close)
        configuration, _ = built(f"target.smtp relay {hop.endpoint} {{\nmax_idle 1\n}}", real_adapters())
        (relay,) = [module for module in configuration.modules if isinstance(module, Downstream)]
        await relay.start()
        delivery = relay.open(envelope())
        self.assertTrue(IDelivery.providedBy(delivery))
        assert isinstance(delivery, Delivery)
        self.assertEqual((await delivery.rcpt(recipient())).code, 250)
        self.assertEqual([reply.code for reply in await delivery.send(make_message())], [250])
        self.assertEqual(hop.transactions[0].content, CONTENT)
        self.assertEqual(hop.connections[0].commands[0], b"EHLO gw.example")
        await relay.stop()
        self.assertEqual(hop.connections[0].verbs[-1], b"QUIT")

    async def test_require_tls_and_a_certificate(self) -> None:
        for name, code in (("localhost", 250), ("elsewhere.example", 451)):
            hop = NextHop(tls=leaf(name).server).listen(reactor)
            self.addCleanup(hop.close)
            text = f"require_tls yes\ntls_client {{\nroot_ca {authority().path}\n}}"
            configuration, _ = built(f"target.smtp relay tcp://localhost:{hop.port} {{\n{text}\n}}", real_adapters())
            (relay,) = [module for module in configuration.modules if isinstance(module, Downstream)]
            await relay.start()
            delivery = relay.open(envelope())
            self.assertEqual((await delivery.rcpt(recipient())).code, code)
            self.assertEqual(hop.mail_count, int(code == 250))
            delivery.abort()
            await relay.stop()
