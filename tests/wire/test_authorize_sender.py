"""check.authorize_sender: whose addresses somebody may write with who has logged in."""

from __future__ import annotations

from base64 import b64encode

from mailgate.testing.client import RawClient
from tests.support.scenario import statuses
from tests.wire.test_logins import LoginCase

FROM = b"From: %s\r\nTo: b@y.test\r\n\r\nhi\r\n"
NOT_MINE = b"553 5.7.1"
NOT_IN_HEADER = b"550 5.7.1"
NO_AUTHOR = b"550 5.6.0"
DEFERRED = b"451 4.3.0"
OK = b"250 2.0.0"
TABLE = """user_to_email static {
entry alice alice@x.test "Sales@X.test" bücher.test
entry bob *
}"""


class AuthorizeSenderTests(LoginCase):
    def authorize(self, *lines: str, top: str = "", listener: str = "", login: str = "alice", secret: str = "secret") -> None:
        """A listener with the check; whoever was logged in before is forgotten."""
        self._strike()
        self._raise()
        block = "\n".join(lines)
        users = f"auth static {{\n entry {login} {secret}\n}}"
        self.listen(users, listener, pipeline=f"check {{\nauthorize_sender {{\n{block}\n}}\n}}\ndiscard", top=top)
        self.user = self.logged_in(login, secret)

    def logged_in(self, login: str, secret: str) -> RawClient:
        client = self.secure()
        initial = b64encode(f"\0{login}\0{secret}".encode())
        self.assertEqual(self.ask(client, b"AUTH PLAIN " + initial)[:3], b"235")
        return client

    def sends(self, sender: bytes, author: bytes = b"", content: bytes = b"") -> bytes:
        """What the user hears: at RCPT if refused there, else after the dot."""
        content = content or FROM % (author or sender)
        replies = self.deliver(self.user, b"b@y.test", sender=sender, content=content)
        last = replies[-1] if replies[1][:1] == b"2" else replies[1]
        self.say(self.user, b"RSET")
        return statuses([last])[0]

    def test_addresses_domains_and_any(self) -> None:
        self.authorize(TABLE)
        for sender, expected in {
            b"alice@x.test": OK,
            b"ALICE@X.TEST": OK,
            b"sales@x.test": OK,
            b"anybody@xn--bcher-kva.test": OK,
            b"bob@x.test": NOT_MINE,
            b"alice@sub.x.test": NOT_MINE,
            b"alice+a@x.test": NOT_MINE,
        }.items():
            self.assertEqual(self.sends(sender), expected, sender)
        self.authorize(TABLE, login="bob")
        self.assertEqual(self.sends(b"who@ever.test"), OK)
        self.authorize(TABLE, login="carol")
        self.assertEqual(self.sends(b"carol@x.test"), NOT_MINE)

    def test_without_a_table(self) -> None:
        self.authorize(login="alice@x.test")
        self.assertEqual(self.sends(b"alice@x.test"), OK)
        self.assertEqual(self.sends(b"alice@y.test"), NOT_MINE)
        self.authorize(top="local_domains x.test y.test")
        self.assertEqual(self.sends(b"alice@x.test"), OK)
        self.assertEqual(self.sends(b"Alice@y.test"), OK)
        self.assertEqual(self.sends(b"alice@z.test"), NOT_MINE)
        self.assertEqual(self.sends(b"bob@x.test"), NOT_MINE)
        self.authorize(top="local_domains static {\n entry x.test 1\n}")
        self.assertEqual(self.sends(b"alice@x.test"), OK)
        self.assertEqual(self.sends(b"alice@z.test"), NOT_MINE)

    def test_from(self) -> None:
        self.authorize(TABLE)
        for author, expected in {
            b"Alice <alice@x.test>": OK,
            b'"bob@x.test" <alice@x.test>': OK,
            b"alice@x.test, sales@x.test": OK,
            b"bob@x.test": NOT_IN_HEADER,
            b"alice@x.test, bob@x.test": NOT_IN_HEADER,
            b"Alice <bob@x.test> (alice@x.test)": NOT_IN_HEADER,
            b"alice@x.test <bob@x.test>": NO_AUTHOR,
            b"group: alice@x.test;": NO_AUTHOR,
            b"alice": NO_AUTHOR,
            b"alice@x.test\r\nFROM: bob@x.test": NO_AUTHOR,
        }.items():
            self.assertEqual(self.sends(b"alice@x.test", author), expected, author)
        self.assertEqual(self.sends(b"alice@x.test", content=b"Subject: x\r\n\r\nhi\r\n"), NO_AUTHOR)
        self.assertEqual(self.sends(b"", b"alice@x.test"), OK)
        self.assertEqual(self.sends(b"", b"bob@x.test"), NOT_IN_HEADER)
        self.authorize(TABLE, "check_header no")
        self.assertEqual(self.sends(b"alice@x.test", b"bob@x.test"), OK)

    def test_the_field_sender(self) -> None:
        both = b"bob@x.test\r\nSender: %s"
        self.authorize(TABLE)
        self.assertEqual(self.sends(b"alice@x.test", both % b"alice@x.test"), NOT_IN_HEADER)
        self.authorize(TABLE, "accept_sender_field yes")
        self.assertEqual(self.sends(b"alice@x.test", both % b"alice@x.test"), OK)
        for field in (b"carol@x.test", b"alice@x.test, sales@x.test", b"alice@x.test\r\nSender: alice@x.test", b"?"):
            self.assertEqual(self.sends(b"alice@x.test", both % field), NOT_IN_HEADER, field)

    def test_sub_addresses(self) -> None:
        self.authorize(TABLE, "delimiter +-")
        for sender in (b"alice+lists@x.test", b"alice-a+b@x.test"):
            self.assertEqual(self.sends(sender), OK, sender)
        for sender in (b"bob+alice@x.test", b"+alice@x.test", b"alice+@y.test", b'"alice+"@y.test'):
            self.assertEqual(self.sends(sender), NOT_MINE, sender)

    def test_aliases_are_judged_as_what_they_lead_to(self) -> None:
        entries = ("info@x.test alice@x.test", "all@x.test alice@x.test bob@x.test", "bad@x.test a@@b")
        alias = "prepare_email static {\n" + "".join(f"entry {entry}\n" for entry in entries) + "}"
        self.authorize(TABLE, alias)
        self.assertEqual(self.sends(b"info@x.test"), OK)
        self.assertEqual(self.sends(b"all@x.test"), NOT_MINE)
        self.assertEqual(self.sends(b"bad@x.test"), DEFERRED)

    def test_nobody_has_logged_in(self) -> None:
        self.listen("auth static {\n entry a b\n}", pipeline=f"check {{\nauthorize_sender {{\n{TABLE}\n}}\n}}\ndiscard")
        self.user = self.secure()
        self.assertEqual(self.sends(b"alice@x.test"), b"530 5.7.0")

    def test_a_table_that_does_not_answer(self) -> None:
        def broken(key: str) -> tuple[str, ...]:
            raise OSError("no table today")

        for action, expected in {"defer": DEFERRED, "reject": NOT_MINE, "ignore": OK}.items():
            self.authorize("user_to_email &users", f"on_error {action}", top="table.static users {\nentry alice alice@x.test\n}")
            assert self.running is not None
            self.running.configuration.instances["users"].lookup = broken
            self.assertEqual(self.sends(b"alice@x.test"), expected, action)

    def test_on_trial(self) -> None:
        self.authorize(TABLE, "on_fail ignore")
        self.assertEqual(self.sends(b"bob@x.test"), OK)
        assert self.running is not None
        (first, second) = self.running.logged("check.ignored")
        self.assertIn("<bob@x.test> is not alice's", first)
        self.assertIn("in From", second)
