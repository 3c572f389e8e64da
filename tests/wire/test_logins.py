"""Logging in on the wire: every mechanism with every provider, what a login opens, who is stopped from guessing."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID

from mailgate.passwords.system_crypt import crypt
from mailgate.smtp.sasl import CHOICES, Offer, SaslClient
from mailgate.smtp.sasl_server import MECHANISMS
from mailgate.smtp.scram import ScramKeys
from mailgate.testing.client import RawClient, connect
from mailgate.testing.gateway import Misconfigured
from mailgate.testing.tls import TrustingClient
from mailgate.tls.bindings import channel_bindings
from tests.support.scenario import SMTP, SimulatedCase, codes, statuses
from tests.tls.authority import Authority, dns, write_pair

TLS = "tls://127.0.0.1:465"
ROOT = Authority()
SERVER = ROOT.issue([dns("mx.test")])
CLIENT_AUTH = (ExtendedKeyUsageOID.CLIENT_AUTH,)
PARTNER = ROOT.issue([dns("gw1.partner.test"), dns("gw2.partner.test")], usage=CLIENT_AUTH)
STRANGER = ROOT.issue([dns("stranger.test")], usage=CLIENT_AUTH)
PASSWORD_MECHANISMS = {
    "PLAIN": "plain", "LOGIN": "login", "CRAM-MD5": "cram-md5", "SCRAM-SHA-256": "scram-sha-256",
    "SCRAM-SHA-256-PLUS": "scram-sha-256", "XOAUTH2": "xoauth2", "OAUTHBEARER": "oauthbearer",
}  # fmt: skip


class LoginCase(SimulatedCase):
    def listen(self, *lines: str, word: str = "smtp", pipeline: str = "discard", top: str = "") -> Any:
        directory = Path(self.directory)
        pair = " ".join(map(str, write_pair(SERVER, directory, "mx")))
        body = "\n".join(lines).replace("{pair}", pair).replace("{ca}", str(ROOT.write(directory / "ca.pem")))
        if not any(line.startswith("tls") for line in lines):
            body = f"tls file {pair}\n{body}"
        return self.gateway(f"{top}\n{word} {SMTP} {TLS} {{\n{body}\n{pipeline}\n}}\n")

    def static(self, secret: str, *lines: str, **options: Any) -> Any:
        return self.listen(f'auth static {{\n entry alice "{secret}"\n}}', *lines, **options)

    def secure(self, adjust: Any = None, hello: bytes = b"EHLO client.test") -> RawClient:
        client = self.reactor.run(connect(self.reactor, TLS, tls=TrustingClient("mx.test", adjust)))
        self.assertEqual(self.reactor.run(client.reply())[:3], b"220")
        self.hello = self.ask(client, hello)
        self.assertEqual(self.hello[:3], b"250")
        return client

    def offered(self) -> list[str]:
        lines = self.hello.decode().splitlines()
        return next((line[9:].split() for line in lines if line[4:9] == "AUTH "), [])

    def offer(self, client: RawClient, *mechanisms: str, binds: bool = True) -> Offer:
        handle = client.transport.getHandle()  # type: ignore[union-attr]
        return Offer(frozenset(mechanisms), channel_bindings(handle, server=False) if binds else {}, "c1ient")

    def log_in(self, client: RawClient, mechanism: SaslClient) -> bytes:
        """The last reply of an exchange."""
        initial = mechanism.initial()
        line = f"AUTH {mechanism.name}".encode()
        reply = self.ask(client, line if initial is None else line + b" " + (b64encode(initial) or b"="))
        while reply[:4] == b"334 ":
            reply = self.ask(client, b64encode(mechanism.respond(b64decode(reply[4:]))))
        if reply[:3] == b"235":
            mechanism.accepted()
        return reply

    def by_name(self, client: RawClient, name: str, secret: str = "secret") -> bytes:
        return self.log_in(
            client, CHOICES[PASSWORD_MECHANISMS[name]](self.offer(client, name, binds=name.endswith("-PLUS")), "alice", secret)
        )


def hashes() -> dict[str, str]:
    """The password `secret` in every form that is a hash, cheap to compute."""
    import argon2
    import bcrypt

    made = {
        "argon2": argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("secret"),
        "bcrypt": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode(),
        "sha512-crypt": crypt("secret", "$6$rounds=1000$saltsalt"),
        "sha256-crypt": crypt("secret", "$5$rounds=1000$saltsalt"),
        "yescrypt": crypt("secret", "$y$j75$F5Jx5fExrKuPp53xLKQ..1"),
        "scram-sha-256": str(ScramKeys.derive("secret", b"0123456789abcdef")),
    }
    return {form: text for form, text in made.items() if text}  # a system need not know yescrypt


class EveryMechanism(LoginCase):
    def test_with_a_password_in_plain(self) -> None:
        running = self.static("secret")
        for name in PASSWORD_MECHANISMS:
            with self.subTest(name):
                client = self.secure()
                self.assertIn(name, self.offered())
                self.assertEqual(b"235 2.7.0", self.by_name(client, name)[:9])
                self.assertEqual(b"503 5.5.1", self.ask(client, b"AUTH PLAIN")[:9])
                self.reactor.run(client.quit())
                client = self.secure()
                self.assertEqual(b"535 5.7.8", self.by_name(client, name, "wrong")[:9])
                self.assertEqual(b"235 2.7.0", self.by_name(client, name)[:9])
                self.reactor.run(client.quit())
        for name in PASSWORD_MECHANISMS:
            self.assertEqual(2, len([line for line in running.logged("auth.ok") if f"mechanism={name}" in line.split()]))
            self.assertEqual(1, len([line for line in running.logged("auth.failed") if f"mechanism={name}" in line.split()]))
        self.assertNotIn("secret", running.log_text)
        self.assertNotIn("wrong ", running.log_text.replace("wrong credentials", ""))

    def test_every_mechanism_is_tried_here(self) -> None:
        self.assertEqual(set(MECHANISMS), {*PASSWORD_MECHANISMS, "EXTERNAL"})

    def test_in_clear_nothing_that_needs_tls_is_offered(self) -> None:
        self.static("secret", "insecure_auth yes")
        client = self.client()
        hello = self.ask(client, b"EHLO client.test").decode()
        self.assertIn("AUTH SCRAM-SHA-256 OAUTHBEARER XOAUTH2 CRAM-MD5 PLAIN LOGIN", hello)
        self.assertEqual(b"504 5.5.4", self.ask(client, b"AUTH SCRAM-SHA-256-PLUS")[:9])

    def test_after_starttls(self) -> None:
        self.static("secret")
        client = self.client()
        self.assertEqual(b"538 5.7.11", self.ask(client, b"AUTH PLAIN AGFsaWNlAHNlY3JldA==")[:10])
        self.reactor.run(client.secure(TrustingClient("mx.test")))
        self.hello = self.ask(client, b"EHLO client.test")
        self.assertIn("SCRAM-SHA-256-PLUS", self.offered())
        self.assertEqual(b"235 2.7.0", self.by_name(client, "SCRAM-SHA-256-PLUS")[:9])

    def test_a_binding_to_another_connection_is_refused(self) -> None:
        self.static("secret")
        client, other = self.secure(), self.secure()
        mechanism = CHOICES["scram-sha-256"](self.offer(other, "SCRAM-SHA-256-PLUS"), "alice", "secret")
        self.assertEqual(b"535 5.7.8", self.log_in(client, mechanism)[:9])

    def test_a_stripped_offer_is_noticed(self) -> None:
        self.static("secret")
        client = self.secure()
        mechanism = CHOICES["scram-sha-256"](self.offer(client, "SCRAM-SHA-256"), "alice", "secret")
        self.assertTrue(mechanism.initial().startswith(b"y,,"))  # type: ignore[union-attr]
        self.assertEqual(b"535 5.7.8", self.log_in(client, mechanism)[:9])

    def test_lines(self) -> None:
        self.static("secret", "max_auth_failures 20", "max_errors 20")
        for lines, expected in (
            ([b"AUTH PLAIN", b"AGFsaWNlAHNlY3JldA=="], b"235 2.7.0"),
            ([b"AUTH LOGIN YWxpY2U=", b"c2VjcmV0"], b"235 2.7.0"),
            ([b"AUTH LOGIN", b"YWxpY2U=", b"c2VjcmV0"], b"235 2.7.0"),
            ([b"AUTH PLAIN ="], b"501 5.5.2"),
            ([b"AUTH PLAIN AGFsaWNl"], b"501 5.5.2"),
            ([b"AUTH PLAIN not-base64!"], b"501 5.5.2"),
            ([b"AUTH LOGIN", b"*"], b"501 5.7.0"),
            ([b"AUTH CRAM-MD5 YWxpY2U="], b"501 5.5.4"),
            ([b"AUTH PLAIN " + b64encode(b"\0alice\0")], b"535 5.7.8"),
            ([b"AUTH PLAIN " + b64encode(b"\0ali\r\nce\0secret")], b"535 5.7.8"),
            ([b"AUTH PLAIN " + b64encode(b"root\0alice\0secret")], b"535 5.7.8"),
            ([b"AUTH PLAIN " + b64encode(b"alice\0\0secret")], b"235 2.7.0"),
            ([b"AUTH XOAUTH2 " + b64encode(b"user=alice\x01auth=Bearer no\x01\x01")], b"334 eyJzdGF0dXMi"),
            ([b"AUTH XOAUTH2 " + b64encode(b"user=alice\x01auth=Bearer no\x01\x01"), b""], b"535 5.7.8"),
            ([b"AUTH PLAIN " + b"A" * 12300], b"500 5.5.6"),
        ):  # fmt: skip
            with self.subTest(f"{lines}"[:80]):
                client = self.secure()
                self.assertTrue(self.say(client, *lines)[-1].startswith(expected))
                client.drop()


class EveryForm(LoginCase):
    def test_hashes_in_the_configuration(self) -> None:
        for form, text in hashes().items():
            with self.row(form):
                self.static(text)
                client = self.secure()
                scram = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"] if form == "scram-sha-256" else []
                self.assertEqual([*scram, "PLAIN", "LOGIN"], self.offered())
                for name in self.offered():
                    client = self.secure()
                    self.assertEqual(b"535 5.7.8", self.by_name(client, name, "wrong")[:9])
                    self.assertEqual(b"235 2.7.0", self.by_name(client, name)[:9])

    def file(self, *lines: str) -> Path:
        path = Path(self.directory) / "users"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def test_a_file_of_all_of_them(self) -> None:
        made = hashes()
        path = self.file("# people", "", *(f"{form}:{text}" for form, text in made.items()))
        self.listen(f"auth file {path}")
        for user in made:
            client = self.secure()
            self.assertEqual(["PLAIN", "LOGIN"], self.offered())
            plain = CHOICES["plain"](self.offer(client, "PLAIN"), user, "secret")
            self.assertEqual(b"235 2.7.0", self.log_in(client, plain)[:9], user)

    def test_a_file_of_passwords_must_be_asked_for(self) -> None:
        path = self.file("alice:secret")
        error = str(self.assertRaises(Misconfigured, self.listen, f"auth file {path}"))
        self.assertIn(f"{path}:1: the secret of `alice` is plain, which `schemes` does not have", error)
        self.listen(f"auth file {path} {{\n schemes plain\n}}")
        self.assertEqual(b"235 2.7.0", self.by_name(self.secure(), "CRAM-MD5")[:9])

    def test_each_bad_line_is_named(self) -> None:
        path = self.file("alice", "bob:$apr1$x$y", ":secret", "carol:$6$damaged", "carol:$zz$1", "dave:{MD5}xx")
        error = str(self.assertRaises(Misconfigured, self.listen, f"auth file {path}"))
        for number in range(1, 7):
            self.assertIn(f"{path}:{number}: ", error)
        self.assertNotIn("damaged|", error)

    def test_a_changed_file_counts_and_a_broken_one_does_not(self) -> None:
        path = self.file(f"alice:{hashes()['bcrypt']}")
        running = self.listen(f"auth file {path} {{\n reload_interval 1s\n}}")
        bob = crypt("secret", "$6$rounds=1000$saltsalt")
        (path.parent / "new").write_text(f"bob:{bob}\n")
        os.replace(path.parent / "new", path)
        self.reactor.settle(3)
        client = self.secure()
        self.assertEqual(b"535 5.7.8", self.by_name(client, "PLAIN")[:9])
        self.assertEqual(1, len(running.logged("accounts.reloaded")))
        path.write_text("nonsense\n")
        self.reactor.settle(3)
        plain = CHOICES["plain"](self.offer(client, "PLAIN"), "bob", "secret")
        self.assertEqual(b"235 2.7.0", self.log_in(client, plain)[:9])
        self.assertEqual(1, len(running.logged("accounts.failed")))


class Certificates(LoginCase):
    TLS_LINE = "tls file {pair} {\n client_auth optional\n client_ca {ca}\n}"

    def external(self, client: RawClient, authzid: bytes = b"") -> bytes:
        return self.ask(client, b"AUTH EXTERNAL " + (b64encode(authzid) or b"="))

    def test_the_names_in_a_certificate(self) -> None:
        running = self.listen(self.TLS_LINE, "auth external")
        for authzid, expected in ((b"", b"235"), (b"gw2.partner.test", b"235"), (b"gw3.partner.test", b"535")):
            client = self.secure(PARTNER.install)
            self.assertEqual(["EXTERNAL"], self.offered())
            self.assertEqual(expected, self.external(client, authzid)[:3])
            self.reactor.run(client.quit())
        users = [line.partition("user=")[2].split()[0] for line in running.logged("auth.ok")]
        self.assertEqual(["gw1.partner.test", "gw2.partner.test"], users)

    def test_a_table_of_users(self) -> None:
        running = self.listen(self.TLS_LINE, "auth external {\n users static {\n entry gw2.partner.test partner boss\n}\n}")
        client = self.secure(PARTNER.install)
        self.assertEqual(b"235", self.external(client)[:3])
        self.assertIn("user=partner ", running.logged("auth.ok")[0])
        self.assertEqual(b"235", self.external(self.secure(PARTNER.install), b"boss")[:3])
        self.assertEqual(b"535", self.external(self.secure(STRANGER.install))[:3])

    def test_fingerprints_and_subjects(self) -> None:
        from cryptography.hazmat.primitives import hashes as digests

        fingerprint = PARTNER.chain[0].fingerprint(digests.SHA256()).hex()
        self.listen(
            self.TLS_LINE, f"auth external {{\n match fingerprint\n users static {{\n entry {fingerprint} partner\n}}\n}}"
        )
        self.assertEqual(b"235", self.external(self.secure(PARTNER.install))[:3])
        self.assertEqual(b"535", self.external(self.secure(STRANGER.install))[:3])

    def test_without_a_certificate_it_is_not_offered(self) -> None:
        self.listen(self.TLS_LINE, "auth external", "auth static {\n entry alice secret\n}", "auth_mechanisms PLAIN EXTERNAL")
        client = self.secure()
        self.assertEqual(["PLAIN"], self.offered())
        self.assertEqual(b"504 5.5.4", self.external(client)[:9])


class WhatALoginOpens(LoginCase):
    def test_relaying_conditions_and_received(self) -> None:
        hop = self.hop()
        self.static(
            "secret",
            "relay_from 10.0.0.0/8",
            pipeline='when auth_user == "alice" {\n deliver_to &next\n}\nreject 550 5.7.1 "not you"',
            top=f"local_domains mx.test\ntarget.smtp next {{\n targets {hop.endpoint}\n}}",
        )
        client = self.secure()
        self.assertEqual([b"250", b"550"], codes(self.deliver(client, b"b@elsewhere.test")[:2]))
        self.ask(client, b"RSET")
        self.by_name(client, "PLAIN")
        self.assertEqual(b"250", self.deliver(client, b"b@elsewhere.test")[-1][:3])
        self.assertIn(b" with ESMTPSA (TLS1.3 ", hop.transactions[0].content)

    def test_a_login_in_clear_is_esmtpa(self) -> None:
        hop = self.hop()
        self.static("secret", "insecure_auth yes", pipeline=f"deliver_to smtp {hop.endpoint}")
        client = self.client()
        self.ask(client, b"AUTH PLAIN AGFsaWNlAHNlY3JldA==")
        self.deliver(client, b"b@y.test")
        self.assertIn(b" with ESMTPA\r\n", hop.transactions[0].content)

    def test_several_providers_in_order(self) -> None:
        self.listen(
            "auth static {\n entry alice secret\n}", f"auth static {{\n entry bob {hashes()['bcrypt']}\n entry alice other\n}}"
        )
        for user, password, expected in (
            ("alice", "secret", b"235"), ("alice", "other", b"235"), ("bob", "secret", b"235"), ("bob", "other", b"535"),
        ):  # fmt: skip
            client = self.secure()
            plain = CHOICES["plain"](self.offer(client, "PLAIN"), user, password)
            self.assertEqual(expected, self.log_in(client, plain)[:3], (user, password))

    def test_a_session_goes_on_without_a_login_where_none_is_required(self) -> None:
        self.static("secret")
        client = self.secure()
        self.assertEqual(b"250", self.deliver(client, b"b@y.test")[-1][:3])

    def test_what_is_piped_behind_a_required_login(self) -> None:
        self.static("secret", "auth_required yes")
        client = self.secure()
        client.send(b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n")
        self.assertEqual([b"235", b"250", b"250"], codes(self.reactor.run(client.replies(3))))
        client = self.secure()
        client.send(b"AUTH PLAIN AGFsaWNlAHdyb25n\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n")
        replies = self.reactor.run(client.replies(4))
        self.assertEqual([b"535 5.7.8", b"530 5.7.0", b"530 5.7.0", b"530 5.7.0"], statuses(replies))


class Guessing(LoginCase):
    def test_over_connections_by_address(self) -> None:
        running = self.static("secret")
        for _ in range(10):  # an address may fail 20 times
            client = self.secure()
            for _ in range(2):
                self.assertEqual(b"535", self.by_name(client, "PLAIN", "wrong")[:3])
        client = self.secure()
        self.assertEqual(b"454 4.7.0", self.by_name(client, "PLAIN")[:9])  # a right password tells nothing
        self.assertIn('reason="too many failed logins"', running.logged("auth.failed")[-1])
        self.reactor.settle(700)
        self.assertEqual(b"235", self.by_name(self.secure(), "PLAIN")[:3])

    def test_a_token_is_counted_though_the_client_breaks_off(self) -> None:
        running = self.static("secret")
        client = self.secure()
        self.ask(client, b"AUTH XOAUTH2 " + b64encode(b"user=alice\x01auth=Bearer no\x01\x01"))
        self.assertEqual(b"501", self.ask(client, b"*")[:3])
        self.assertEqual(1, len(running.logged("auth.failed")))

    def test_who_is_not_listened_to_is_not_answered_for_ever(self) -> None:
        running = self.static("secret")
        client = self.client(hello=b"EHLO client.test")
        replies = [self.ask(client, b"AUTH PLAIN AGFsaWNlAHNlY3JldA==") for _ in range(100)]  # in clear
        self.assertEqual([b"538 5.7.11"] * 99 + [b"421 4.7.0 "], [reply[:10] for reply in replies])
        self.reactor.settle(10)
        self.assertIn('reason="too many commands without a message"', running.logged("session.close")[-1])

    def test_a_session_ends_with_its_third_failure(self) -> None:
        running = self.static("secret")
        client = self.secure()
        replies = [self.by_name(client, "PLAIN", "wrong") for _ in range(3)]
        self.assertEqual([b"535 5.7.8", b"535 5.7.8", b"421 4.7.0"], statuses(replies))
        self.reactor.settle(10)
        self.assertIn('reason="too many failed logins"', running.logged("session.close")[-1])


class Submission(LoginCase):
    MESSAGE = b"From: Alice <alice@x.test>\r\nTo: b@y.test\r\n\r\nhello\r\n"

    def submit(self, content: bytes, *lines: str) -> tuple[list[bytes], Any]:
        hop = self.hop()
        self.static("secret", *lines, word="submission", pipeline=f"deliver_to smtp {hop.endpoint}")
        client = self.secure(hello=b"EHLO [192.168.1.5]")
        self.assertEqual(b"530 5.7.0", self.ask(client, b"MAIL FROM:<a@x.test>")[:9])
        self.by_name(client, "PLAIN")
        return self.deliver(client, b"b@y.test", content=content), hop

    def test_what_is_missing_is_added(self) -> None:
        replies, hop = self.submit(self.MESSAGE)
        self.assertEqual(b"250", replies[-1][:3])
        content = hop.transactions[0].content
        self.assertRegex(
            content, rb"\r\nDate: \w{3}, \d+ \w{3} \d{4} [\d:]{8} \+0000\r\nMessage-ID: <\w+\.1@gateway\.test>\r\n\r\nhello"
        )

    def test_what_is_there_stays(self) -> None:
        own = b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@x>\r\n" + self.MESSAGE
        _, hop = self.submit(own)
        self.assertTrue(hop.transactions[0].content.endswith(own))

    def test_a_wrong_field_is_named(self) -> None:
        for content, expected in (
            (b"To: b@y.test\r\n\r\nx\r\n", b"554 5.6.0 The header field From is missing"),
            (b"From: alice\r\n\r\nx\r\n", b"554 5.6.0 The header field From has an address without a domain"),
            (b"From: a@x.test\r\nFrom: b@x.test\r\n\r\nx\r\n", b"554 5.6.0 The header field From stands twice"),
            (b"From: a@x.test, b@x.test\r\n\r\nx\r\n", b"554 5.6.0 The header field Sender is missing"),
            (b"From: a@x.test\r\nReply-To: <b@\r\n\r\nx\r\n", b"554 5.6.0 The header field Reply-To has a domain"),
        ):
            with self.row(str(content)):
                replies, hop = self.submit(content)
                self.assertTrue(replies[-1].startswith(expected), replies[-1])
                self.assertEqual([], hop.transactions)

    def test_the_client_is_hidden(self) -> None:
        _, hop = self.submit(self.MESSAGE, "hide_client yes")
        trace = hop.transactions[0].content.partition(b"From:")[0]
        self.assertIn(b"from unknown (local)\r\n\tby gateway.test with ESMTPSA", trace)
        for word in (b"127.0.0.1", b"192.168.1.5", b"192.0.2"):
            self.assertNotIn(word, trace)

    def test_received_names_the_client_by_default(self) -> None:
        _, hop = self.submit(self.MESSAGE)
        self.assertIn(b"from [192.168.1.5] (", hop.transactions[0].content)
