"""Logging in at next hops: every mechanism, both ends ours; the client's own login passed on; what never goes in clear."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID

from mailgate.smtp.sasl import CHOICES
from mailgate.testing.client import RawClient
from mailgate.testing.gateway import Misconfigured
from mailgate.testing.nexthop import NextHop, Say, Step
from mailgate.testing.tls import TrustingClient
from tests.support.certificates import authority, leaf
from tests.support.scenario import SMTP, SimulatedCase, codes, statuses
from tests.tls.authority import Authority, dns, write_pair

ROOT = Authority()
MX = ROOT.issue([dns("mx.test")])
PARTNER = ROOT.issue([dns("gw.partner.test")], usage=(ExtendedKeyUsageOID.CLIENT_AUTH,))
INNER = "tls://127.0.0.1:4650"

BOTH = """\
pki partner {{
    certificate {partner}
    private_key {partner_key}
}}
target.smtp next {{
    targets {inner}
    auth {auth}
    tls_client {{
        root_ca {ca}
    }}
    tls_verify_name mx.test
    {more}
}}
smtp {smtp} {{
    tls off
    deliver_to &next
}}
smtp {inner} {{
    tls file {mx} {{
        client_auth optional
        client_ca {ca}
    }}
    auth static {{
        entry "gate,way=1" s3cret-word
    }}
    auth external
    {listener}
    auth_required yes
    deliver_to smtp {hop}
}}
"""


class BothEndsOurs(SimulatedCase):
    def chain(self, auth: str, listener: str = "", more: str = "") -> tuple[Any, NextHop]:
        directory = Path(self.directory)
        hop = self.hop()
        partner = write_pair(PARTNER, directory, "partner")
        running = self.gateway(
            BOTH.format(
                auth=auth,
                more=more,
                listener=listener,
                inner=INNER,
                smtp=SMTP,
                hop=hop.endpoint,
                partner=partner[0],
                partner_key=partner[1],
                mx=" ".join(map(str, write_pair(MX, directory, "mx"))),
                ca=ROOT.write(directory / "ca.pem"),
            )
        )
        return running, hop

    def test_every_mechanism(self) -> None:
        for word in CHOICES:
            with self.row(word):
                running, hop = self.chain(f'{word} "gate,way=1" s3cret-word')
                self.assertEqual(b"250", self.deliver(self.client(), b"b@y.test")[-1][:3])
                expected = {"auto": "SCRAM-SHA-256-PLUS", "scram-sha-256": "SCRAM-SHA-256-PLUS"}.get(word, word.upper())
                self.assertIn(f'user="gate,way=1" mechanism={expected}', running.logged("auth.ok")[0])
                self.assertIn(b"with ESMTPSA", hop.transactions[0].content)
                self.assertNotIn("s3cret", running.log_text)

    def test_a_certificate(self) -> None:
        running, _ = self.chain("external", more="tls_client_cert pki:partner")
        self.assertEqual(b"250", self.deliver(self.client(), b"b@y.test")[-1][:3])
        self.assertIn("user=gw.partner.test mechanism=EXTERNAL", running.logged("auth.ok")[0])

    def test_auto_takes_the_strongest_that_is_offered(self) -> None:
        for offered, expected in (
            ("LOGIN", "LOGIN"),
            ("PLAIN LOGIN", "PLAIN"),
            ("CRAM-MD5 PLAIN", "CRAM-MD5"),
            ("SCRAM-SHA-256 CRAM-MD5", "SCRAM-SHA-256"),
        ):
            with self.row(offered):
                running, _ = self.chain('auto "gate,way=1" s3cret-word', f"auth_mechanisms {offered}")
                self.deliver(self.client(), b"b@y.test")
                self.assertIn(f"mechanism={expected}", running.logged("auth.ok")[0])

    def test_only_the_mechanism_that_was_asked_for(self) -> None:
        running, _ = self.chain('cram-md5 "gate,way=1" s3cret-word', "auth_mechanisms PLAIN")
        self.assertEqual([b"451 4.7.0"], statuses(self.deliver(self.client(), b"b@y.test"))[1:2])
        self.assertEqual([], running.logged("auth.ok") + running.logged("auth.failed"))

    def test_a_wrong_password_is_temporary(self) -> None:
        running, _ = self.chain("scram-sha-256 gateway wrong")
        self.assertEqual([b"451 4.7.0"], statuses(self.deliver(self.client(), b"b@y.test"))[1:2])
        self.assertIn("wrong credentials", running.logged("auth.failed")[0])


FORWARD = """\
auth.static people {{
    entry alice "in wonderland"
    entry bob builder
}}
target.smtp next {{
    targets {hop}
    auth forward
    tls_client {{
        root_ca {ca}
    }}
    {target}
}}
smtp {smtp} {{
    tls self_signed
    insecure_auth yes
    auth &people
    {listener}
    deliver_to &next
}}
"""


class Forward(SimulatedCase):
    def relayed(self, *, script: Any = None, target: str = "", listener: str = "") -> tuple[Any, NextHop]:
        hop = self.hop(tls=leaf("127.0.0.1").server, extensions=(b"AUTH PLAIN",), script=script)
        running = self.gateway(FORWARD.format(hop=hop.endpoint, ca=authority().path, target=target, listener=listener, smtp=SMTP))
        return running, hop

    def logged_in(self, user: bytes, password: bytes) -> RawClient:
        client = self.client()
        reply = self.ask(client, b"AUTH PLAIN " + b64encode(b"\0" + user + b"\0" + password))
        self.assertEqual(b"235", reply[:3])
        return client

    def logins(self, hop: NextHop) -> list[tuple[bytes, int]]:
        """What each connection said behind AUTH PLAIN, and how many messages it carried."""
        found = []
        for connection in hop.connections:
            lines = [line for line in connection.commands if line.upper().startswith(b"AUTH ")]
            found.append((b64decode(lines[0].split()[-1]) if lines else b"", len(connection.transactions)))
        return found

    def test_two_users_never_share_a_connection(self) -> None:
        _, hop = self.relayed()
        alice, bob = self.logged_in(b"alice", b"in wonderland"), self.logged_in(b"bob", b"builder")
        for _ in range(3):
            for client in (alice, bob):
                self.assertEqual(b"250", self.deliver(client, b"b@y.test")[-1][:3])
        self.assertEqual([(b"\0alice\0in wonderland", 3), (b"\0bob\0builder", 3)], self.logins(hop))

    def test_a_client_without_login(self) -> None:
        _, hop = self.relayed()
        self.assertEqual([b"530 5.7.0"], statuses(self.deliver(self.client(), b"b@y.test"))[1:2])
        self.assertEqual([], list(hop.connections))

    def test_plain_and_login_are_all_that_is_offered(self) -> None:
        self.relayed()
        self.assertIn(b"AUTH PLAIN LOGIN\r\n", self.ask(self.client(), b"EHLO c.test") + b"\r\n")

    def test_a_login_that_the_next_hop_refuses_is_that_users_trouble(self) -> None:
        refused = b64encode(b"\0bob\0builder")

        def judge(step: Any, connection: Any, line: bytes) -> Any:
            return Say(b"535 5.7.8 no\r\n") if step is Step.AUTH and refused in line else None

        self.relayed(script=judge)
        bob = self.logged_in(b"bob", b"builder")
        for _ in range(5):  # more than would open the circuit
            self.assertEqual(b"451 4.7.0", statuses(self.deliver(bob, b"b@y.test"))[1])
            self.ask(bob, b"RSET")
        self.assertEqual(b"250", self.deliver(self.logged_in(b"alice", b"in wonderland"), b"b@y.test")[-1][:3])

    def test_after_starttls_the_password_is_forgotten(self) -> None:
        self.relayed()
        client = self.logged_in(b"alice", b"in wonderland")
        self.reactor.run(client.secure(TrustingClient("x.test")))
        self.ask(client, b"EHLO c.test")
        self.assertEqual([b"250", b"530"], codes(self.deliver(client, b"b@y.test"))[:2])

    def test_at_load(self) -> None:
        for target, listener, complaint in (
            ("tls optional", "", "auth_insecure"),
            ("", "auth_mechanisms SCRAM-SHA-256", "`auth forward` needs the client's password"),
            ("auth_insecure yes\ntls disabled", "", ""),
        ):
            with self.subTest(complaint):
                try:
                    self.relayed(target=target, listener=listener)
                except Misconfigured as error:
                    self.assertTrue(complaint and complaint in str(error), error)
                else:
                    self.assertEqual("", complaint)


class NeverInClear(SimulatedCase):
    """Credentials and a next hop without TLS: not one octet of AUTH, for any mechanism."""

    def test_each_mechanism(self) -> None:
        for word in CHOICES:
            with self.row(word):
                hop = self.hop(extensions=(b"AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2 OAUTHBEARER",))
                self.relay(hop, target=f"    auth {word} gateway secret\n")
                self.assertEqual(b"451", self.deliver(self.client(), b"b@y.test")[1][:3])
                said = b"".join(bytes(connection.clear + connection.secured) for connection in hop.connections)
                self.assertNotIn(b"AUTH", said.upper())


ELSEWHERE = """\
target.smtp store {{
    targets {inner}
    tls require_verify
    tls_client {{
        root_ca {ca}
    }}
    tls_verify_name mx.test
}}
auth.smtp users &store {{
    cache {cache}
}}
smtp {smtp} {{
    tls off
    insecure_auth yes
    auth &users
    discard
}}
"""
STORE = """\
smtp {inner} {{
    tls file {mx}
    auth static {{
        entry alice secret
    }}
    discard
}}
"""


class AuthSmtp(SimulatedCase):
    def ask_elsewhere(self, cache: str = "1m", store: bool = True) -> Any:
        directory = Path(self.directory)
        text = ELSEWHERE + (STORE if store else "")
        names = {"mx": " ".join(map(str, write_pair(MX, directory, "mx"))), "ca": ROOT.write(directory / "ca.pem")}
        return self.gateway(text.format(inner=INNER, smtp=SMTP, cache=cache, **names))

    def log_in(self, password: bytes = b"secret", client: RawClient | None = None) -> bytes:
        return self.ask(client or self.client(), b"AUTH PLAIN " + b64encode(b"\0alice\0" + password))[:9]

    def asked(self, running: Any) -> int:
        return len([line for line in running.log if line.startswith("auth.") and "mechanism=SCRAM-SHA-256-PLUS" in line])

    def test_right_and_wrong(self) -> None:
        running = self.ask_elsewhere()
        client = self.client()
        self.assertIn(b"AUTH PLAIN LOGIN\r\n", self.ask(client, b"EHLO c.test") + b"\r\n")
        self.assertEqual(b"535 5.7.8", self.log_in(b"wrong", client))
        self.assertEqual(b"235 2.7.0", self.log_in(b"secret", client))
        self.assertEqual(2, self.asked(running))
        self.assertNotIn("secret", running.log_text)

    def test_a_right_one_is_remembered_for_a_while(self) -> None:
        running = self.ask_elsewhere("30s")
        for _ in range(3):
            self.assertEqual(b"235 2.7.0", self.log_in())
        self.assertEqual(1, self.asked(running))
        self.assertEqual(b"535 5.7.8", self.log_in(b"wrong"))
        self.reactor.settle(31)
        self.assertEqual(b"235 2.7.0", self.log_in())
        self.assertEqual(3, self.asked(running))

    def test_always_asking(self) -> None:
        running = self.ask_elsewhere("0s")
        for _ in range(2):
            self.assertEqual(b"235 2.7.0", self.log_in())
        self.assertEqual(2, self.asked(running))

    def test_nobody_there(self) -> None:
        running = self.ask_elsewhere(store=False)
        self.assertEqual(b"454 4.7.0", self.log_in())
        self.assertIn("provider=users", running.logged("auth.trouble")[0])
        self.assertEqual([], running.logged("auth.failed"))

    def test_what_is_neither_right_nor_wrong(self) -> None:
        hop = self.hop(
            tls=leaf("mx.test").server,
            extensions=(b"AUTH PLAIN",),
            script={Step.AUTH: [Say(b"454 4.7.0 later\r\n"), Say(b"534 5.7.9 weak\r\n"), Say(b"535 5.7.8 no\r\n")]},
        )
        text = ELSEWHERE.format(inner=hop.endpoint, smtp=SMTP, cache="0s", ca=authority().path)
        self.gateway(text)
        self.assertEqual([b"454 4.7.0", b"454 4.7.0", b"535 5.7.8", b"235 2.7.0"], [self.log_in() for _ in range(4)])
        self.assertEqual([[b"EHLO", b"STARTTLS", b"EHLO", b"AUTH", b"QUIT"]] * 4, [one.verbs for one in hop.connections])

    def test_at_load(self) -> None:
        for line in ("tls optional", "tls require"):
            text = f"target.smtp store {{\n targets tcp://mx.test\n {line}\n}}\nauth.smtp users &store\n"
            text += f"smtp {SMTP} {{\n insecure_auth yes\n auth &users\n discard\n}}\n"
            self.assertIn("not be safe", str(self.assertRaises(Misconfigured, self.gateway, text)))
