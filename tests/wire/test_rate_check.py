"""check.rate: what counts as one, what is too much, and when there is room again."""

from __future__ import annotations

from mailgate.testing.client import RawClient
from tests.support.checked import OK, CheckedCase

TOO_MUCH = b"450 4.7.1"


class RateTests(CheckedCase):
    def heard(self, client: RawClient, sender: bytes, *recipients: bytes) -> list[bytes]:
        """The answers to RCPT; a refused sender is told there."""
        self.ask(client, b"RSET")
        self.ask(client, b"MAIL FROM:<" + sender + b">")
        return [self.ask(client, b"RCPT TO:<" + recipient + b">")[:9] for recipient in recipients]

    def test_each_message_of_a_client(self) -> None:
        self.checked("rate 2 1m")
        client = self.from_()
        answers = [self.heard(client, b"a@x.test", b"b@y.test", b"c@y.test") for _ in range(3)]
        self.assertEqual(answers, [[OK, OK], [OK, OK], [TOO_MUCH, TOO_MUCH]])

    def test_there_is_room_again(self) -> None:
        self.checked("rate 2 1m")
        client = self.from_()
        for expected in (OK, OK, TOO_MUCH):
            self.assertEqual(self.heard(client, b"a@x.test", b"b@y.test"), [expected])
        self.reactor.advance(31)
        for expected in (OK, TOO_MUCH):
            self.assertEqual(self.heard(client, b"a@x.test", b"b@y.test"), [expected])

    def test_by_sender(self) -> None:
        self.checked("rate 1 1h", "key sender")
        client = self.from_()
        for sender, expected in (
            (b"a@x.test", OK),
            (b"A@X.test", TOO_MUCH),
            (b"b@x.test", OK),
            (b"", OK),
            (b"", OK),  # the null sender makes no key
        ):
            self.assertEqual(self.heard(client, sender, b"b@y.test"), [expected], sender)

    def test_an_ipv6_client_is_its_network(self) -> None:
        self.checked("rate 1 1h")
        for source, expected in (
            ("2001:db8::1", OK),
            ("2001:db8::2", TOO_MUCH),
            ("2001:db8:0:1::1", OK),
            ("192.0.2.1", OK),
            ("192.0.2.2", OK),
        ):
            self.assertEqual(self.heard(self.from_(source), b"a@x.test", b"b@y.test"), [expected], source)

    def test_by_client_and_domain_of_the_recipient(self) -> None:
        self.checked("rate 2 1h", "key client_ip rcpt_domain")
        client = self.from_()
        found = self.heard(client, b"a@x.test", b"a@y.test", b"b@Y.test", b"c@y.test", b"a@z.test")
        self.assertEqual(found, [OK, OK, TOO_MUCH, OK])

    def test_who_has_not_logged_in_makes_no_key_of_users(self) -> None:
        self.checked("rate 1 1h", "key auth_user")
        client = self.from_()
        for _ in range(3):
            self.assertEqual(self.heard(client, b"a@x.test", b"b@y.test"), [OK])

    def test_what_is_done_then_is_the_operators(self) -> None:
        running = self.checked("rate 1 1h", "on_fail ignore")
        client = self.from_()
        for _ in range(2):
            self.assertEqual(self.heard(client, b"a@x.test", b"b@y.test"), [OK])
        (line,) = running.logged("check.ignored")
        self.assertIn("more than 1", line)
