"""What `debug yes` shows of AUTH: that it happened, never what was said, by any mechanism and in any encoding."""

from __future__ import annotations

from base64 import b64encode

from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.client import ClientSession
from mailgate.smtp.sasl import CHOICES, Offer

USER, SECRET = "gateway-user", "s3cret-passw0rd-of-some-length"
MECHANISMS = frozenset({"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"})


class TraceTest(SynchronousTestCase):
    def shown(self, choice: str, *challenges: bytes) -> tuple[list[str], bytes]:
        """The trace of one exchange, and the bytes that went out."""
        trace: list[str] = []
        session = ClientSession("gw.example", trace=lambda direction, text: trace.append(f"{direction} {text}"))
        session.receive(b"220 hop\r\n")
        session.auth(CHOICES[choice](Offer(MECHANISMS, {}, "fyko+d2lbbFgONRv9qkxdawL"), USER, SECRET))
        said = session.output()
        for challenge in challenges:
            session.receive(b"334 " + b64encode(challenge) + b"\r\n")
            said += session.output()
        return trace, said

    def test_each_mechanism(self) -> None:
        for choice in CHOICES:
            trace, said = self.shown(choice, b"User:", b"Password:")
            text = "\n".join(trace)
            self.assertIn("> AUTH ", text)
            # Every word of what went out, but the command and the mechanism, is missing from what was shown.
            words = [word for line in said.split(b"\r\n") for word in line.split() if word not in (b"AUTH", b"*", b"=")]
            secrets = [word.decode() for word in words if word.decode() not in MECHANISMS]
            self.assertEqual([word for word in (*secrets, USER, SECRET) if word in text], [], (choice, text))

    def test_it_is_a_test(self) -> None:
        """What went out has the password in it: there was something to hide."""
        _, said = self.shown("plain")
        self.assertIn(b64encode(f"\0{USER}\0{SECRET}".encode()), said)
