"""modify.srs: who gets another sender, and how a bounce finds its way back."""

from __future__ import annotations

from mailgate.registry import build
from tests.support.scenario import SMTP, SimulatedCase, statuses

SECRETS = "secret newer-secret\nsecret older-secret"


class ModifySrs(SimulatedCase):
    def stage(self, *lines: str, top: str = "local_domains example.org") -> None:
        self.next_hop = self.hop()
        block = "\n".join((SECRETS, *lines))
        deliver_to = f"deliver_to smtp {self.next_hop.endpoint}"
        self.gateway(f"{top}\nsmtp {SMTP} {{\ntls off\nmodify {{\nsrs srs.example.org {{\n{block}\n}}\n}}\n{deliver_to}\n}}\n")

    def send(self, sender: bytes, recipient: bytes = b"b@y.test") -> bytes:
        client = self.client()
        replies = statuses(self.deliver(client, recipient, sender=sender))
        self.reactor.run(client.quit())
        return next((status for status in replies if status[:1] in b"45"), replies[-1])

    def sent(self) -> tuple[bytes, list[bytes]]:
        last = self.next_hop.transactions[-1]
        return bytes(last.sender), list(last.recipients)

    def test_there_and_back(self) -> None:
        self.stage()
        self.assertEqual(self.send(b"Ann@Source.test"), b"250 2.0.0")
        sender, recipients = self.sent()
        self.assertRegex(sender, rb"^SRS0=.{4}=[A-Z2-7]{2}=Source\.test=Ann@srs\.example\.org$")
        self.assertEqual(recipients, [b"<b@y.test>"])
        self.assertEqual(self.send(b"", sender), b"250 2.0.0")
        self.assertEqual(self.sent(), (b"", [b"<Ann@Source.test>"]))

    def test_who_keeps_their_name(self) -> None:
        table = "table.static ours {\nentry example.net\n}\nlocal_domains &ours"
        for top, kept in (("local_domains example.org", b"ann@example.org"), (table, b"ann@example.net")):
            self.stage(top=top) if self.running is None else self.restage(top)
            for sender in (kept, b"x@SRS.example.org", b'"a b"@source.test'):
                self.assertEqual(self.send(sender), b"250 2.0.0")
                self.assertEqual(self.sent()[0], sender)
            self.assertEqual(self.send(b""), b"250 2.0.0")
            self.assertEqual(self.sent()[0], b"")
            self.send(b"ann@other.test")
            self.assertIn(b"SRS0=", self.sent()[0])

    def restage(self, top: str) -> None:
        self._strike()
        self._raise()
        self.stage(top=top)

    def test_what_does_not_lead_back(self) -> None:
        self.stage()
        for address in (b"SRS0=abcd=G3=victim.test=ann@srs.example.org", b"SRS1=abcd=victim.test==x@srs.example.org"):
            self.assertEqual(self.send(b"", address), b"550 5.1.1")
        self.assertEqual(self.send(b"", b"postmaster@srs.example.org"), b"250 2.0.0")
        self.assertEqual(self.send(b"", b"SRS0=abcd=G3=x.test=ann@elsewhere.test"), b"250 2.0.0")

    def test_one_way_only(self) -> None:
        self.stage("rewrite recipient")
        self.send(b"ann@source.test")
        self.assertEqual(self.sent()[0], b"ann@source.test")
        self.restage_with("rewrite sender")
        self.assertEqual(self.send(b"", b"SRS0=abcd=G3=x.test=ann@srs.example.org"), b"250 2.0.0")

    def restage_with(self, line: str) -> None:
        self._strike()
        self._raise()
        self.stage(line)

    def test_mistakes_at_load(self) -> None:
        for srs in ("srs example {\nsecret long-enough\n}", "srs srs.example.org {\nsecret short\n}", "srs srs.example.org"):
            text = f"smtp {SMTP} {{\ntls off\nmodify {{\n{srs}\n}}\ndiscard\n}}\n"
            self.assertEqual([found.code for found in build(text).diagnostics if found.is_error], ["E0829"], srs)
