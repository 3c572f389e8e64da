"""modify.dkim: what leaves is signed, by whom it should be, and never unsigned because something broke."""

from __future__ import annotations

from pathlib import Path

import dkim

from mailgate.mailauth.dkim_keys import ED25519_SHA256, RSA_SHA256, PrivateKey, new_key
from tests.support.interpreters import needs_nacl
from tests.support.scenario import SMTP, SimulatedCase, statuses

ED, RSA = new_key(ED25519_SHA256), new_key(RSA_SHA256)
RECORDS = {b"ed": ED.record.encode(), b"rsa": RSA.record.encode()}


class SigningCase(SimulatedCase):
    def stage(self, *lines: str, table: str = "") -> None:
        for name, key in (("ed", ED), ("rsa", RSA)):
            self.put(f"{name}.pem", key)
        self.next_hop = self.hop()
        modify = "\n".join(lines)
        deliver_to = f"deliver_to smtp {self.next_hop.endpoint}"
        self.gateway(f"{table}\nsmtp {SMTP} {{\ntls off\nmodify {{\n{modify}\n}}\n{deliver_to}\n}}\n")

    def put(self, name: str, key: PrivateKey) -> None:
        path = Path(self.directory) / name
        path.write_bytes(key.pem)
        path.chmod(0o600)

    def line(self, selector: str = "ed", *more: str) -> str:
        return f"dkim example.org {selector} {{\nkey ./{selector}.pem\nexpire 20000d\n{chr(10).join(more)}\n}}"

    def send(self, content: bytes) -> bytes:
        client = self.client()
        status = statuses(self.deliver(client, b"b@y.test", content=content))[-1]
        self.reactor.run(client.quit())
        return status

    def sent(self) -> bytes:
        return bytes(self.next_hop.transactions[-1].content)

    def signatures(self) -> list[tuple[str, str, bool]]:
        """Domain and selector of each, and whether dkimpy finds it good."""
        verifier = dkim.DKIM(self.sent())
        found = []
        for number in range(sum(name.lower() == b"dkim-signature" for name, _ in verifier.headers)):
            names: list[bytes] = []

            def record(name: bytes, timeout: int = 5, names: list[bytes] = names) -> bytes:
                names.append(name)
                return RECORDS[name.partition(b".")[0]]

            good = verifier.verify(number, dnsfunc=record)
            selector, _, domain = names[0].decode().rstrip(".").partition("._domainkey.")
            found.append((domain, selector, good))
        return found


def mail(sender: bytes, text: bytes = b"Hello,\r\n\r\n.. dots  and spaces \r\n\r\n\r\n") -> bytes:
    return b"From: Ann <" + sender + b">\r\nSubject: Hello\r\n\tBen\r\n\r\n" + text


class ModifyDkim(SigningCase):
    @needs_nacl
    def test_both_kinds_of_key_over_small_large_and_spooled_bodies(self) -> None:
        self.stage(self.line("ed"), self.line("rsa"))
        for text in (b"", b"\r\n", b"Hello \t \r\n\r\n", b"long  line \r\n" * 10_000, b"longer line\r\n\r\n" * 100_000):
            self.assertEqual(self.send(mail(b"ann@example.org", text)), b"250 2.0.0")
            self.assertEqual(self.signatures(), [("example.org", "rsa", True), ("example.org", "ed", True)])

    @needs_nacl
    def test_who_signs(self) -> None:
        table = "table.static hosted {\nentry example.net\nentry shop.test example.org\n}"
        self.stage(self.line("ed", "domains &hosted", "subdomains yes"), table=table)
        for sender, domain in (
            (b"ann@EXAMPLE.org", "example.org"),
            (b"ann@a.example.org", "example.org"),
            (b"ann@example.net", "example.net"),
            (b"ann@shop.test", "example.org"),
            (b"ann@other.test", ""),
            (b"ann@notexample.org", ""),
        ):
            self.assertEqual(self.send(mail(sender)), b"250 2.0.0")
            self.assertEqual([one[0] for one in self.signatures()], [domain] if domain else [])

    @needs_nacl
    def test_names_and_comments_are_no_addresses(self) -> None:
        self.stage(self.line())
        for value, signed in (
            (b'"ann@example.org" <eve@other.test>', 0),
            (b"eve@other.test (ann@example.org (or so))", 0),
            (b'"a b"@example.org', 1),
            (b"eve@other.test, ann@example.org", 1),
        ):
            self.send(b"From: " + value + b"\r\n\r\nHi\r\n")
            self.assertEqual(len(self.signatures()), signed)

    def test_several_from_fields_are_refused(self) -> None:
        self.stage(self.line())
        self.assertEqual(self.send(b"From: eve@other.test\r\n" + mail(b"ann@example.org")), b"554 5.6.0")
        self.assertEqual(self.next_hop.transactions, [])

    def test_what_can_not_be_signed_is_not_sent(self) -> None:
        self.stage(self.line("ed", "domains static {\nentry example.net not..a..domain\n}"))
        self.assertEqual(self.send(mail(b"ann@example.net")), b"451 4.3.5")
        self.assertEqual(self.next_hop.transactions, [])
