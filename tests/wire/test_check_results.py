"""What every check promises alike: its result goes into Authentication-Results where there is a method for it, into `when`, and
into the log; and what came in under our name is gone."""

from __future__ import annotations

from mailgate.testing.names import Action
from tests.support.checked import CLIENT, PTR, CheckedCase
from tests.support.scenario import statuses
from tests.wire.test_authorize_sender import FROM, TABLE
from tests.wire.test_logins import LoginCase

OK = b"250 2.0.0"
FORGED = b"Authentication-Results: gateway.test; auth=pass; iprev=pass; dnswl=pass\r\nX-Mailgate-Quarantine: no\r\n"
CONTENT = FORGED + b"From: ann@sender.test\r\nSubject: hi\r\n\r\nhi\r\n"
FAILING = {
    "require_tls": "require_tls",
    "require_auth": "require_auth",
    "require_reverse_dns": "require_reverse_dns",
    "matching_helo": "matching_helo",
    "require_mx": "require_mx",
    "dnsbl": "dnsbl bl.test",
    "authorize_sender": "authorize_sender",
    "header": 'header {\nmatch Subject "hi"',
    "attachment": "attachment {\ndeny_type text/plain",
    "structure": "structure {\nmax_size 1B",
    "spf": "spf",
    "dkim": "dkim {\non_none ACTION",
    "dmarc": "dmarc {\non_reject ACTION",
}
"""Checks that this message fails, as far as the brace of their block."""
METHODS = {
    "require_reverse_dns": b"iprev=permerror",
    "authorize_sender": b'auth=none reason="no login" smtp.mailfrom=ann@sender.test',
    "spf": b"spf=fail",
    "dkim": b"dkim=none",
    "dmarc": b"dmarc=fail",
}


class EveryCheckTests(CheckedCase):
    def setUp(self) -> None:
        super().setUp()
        self.names.add("7.2.0.192.bl.test", "A", "127.0.0.2")
        self.names.add("sender.test", "TXT", '"v=spf1 -all"')
        self.names.add("_dmarc.sender.test", "TXT", '"v=DMARC1; p=reject"')

    def check(self, name: str, action: str) -> str:
        head = FAILING[name].replace("ACTION", action)
        if name in ("dkim", "dmarc"):
            return f"{head}\n}}"
        return f"{head}\non_fail {action}\n}}" if "{" in head else f"{head} {{\non_fail {action}\n}}"

    def test_marks_in_the_message_and_in_the_log(self) -> None:
        for name in FAILING:
            for action, field, logged in (
                ("score 3", b"X-Mailgate-Score: 3\r\n", "score=3"),
                ("tag noted", b"X-Mailgate-Tag: noted\r\n", "verdict=tag"),
                ("quarantine", b"X-Mailgate-Quarantine: yes\r\n", "verdict=quarantine"),
            ):
                with self.subTest(name=name, action=action):
                    running = self.checked(self.check(name, action), relay=True)
                    self.assertEqual(self.whole(content=CONTENT), OK)
                    self.assertIn(field, self.header)
                    self.assertNotIn(b"iprev=pass", self.header)
                    self.assertNotIn(b"dnswl=pass", self.header)
                    self.assertNotIn(b"X-Mailgate-Quarantine: no", self.header)
                    (done,) = running.logged("message.done")
                    self.assertIn(logged, done)
                    (ignored,) = running.logged("check.ignored")
                    self.assertIn(f"check=check.{name}", ignored)
                    if name in METHODS:
                        self.assertIn(METHODS[name], self.header)
                        self.assertIn(METHODS[name].split(b" ")[0].decode(), done)

    def test_routes_by_it(self) -> None:
        target = "target.queue good {{\ntarget &{0}\nbounce {{\ndiscard\n}}\n}}\n"
        for name in FAILING:
            for action, condition in (("score 3", "score >= 3"), ("quarantine", 'verdict == "quarantine"')):
                with self.subTest(name=name, action=action):
                    self._strike()
                    self._raise()
                    rules = f"after_body {{\nwhen {condition} {{\nreject 550 5.7.99\n}}\ndeliver_to &good\n}}"
                    top = "target.smtp next {\ntargets tcp://127.0.0.1:2599\n}\n" + target.format("next")
                    self.checked(self.check(name, action), top=top, listener="", rest=rules)
                    self.assertEqual(self.whole(content=CONTENT), b"550 5.7.99")


class MethodTests(CheckedCase):
    def test_iprev(self) -> None:
        self.names.add(PTR, "PTR", "mail.example.org.")
        self.names.add("mail.example.org", "A", CLIENT)
        self.names.add("8.2.0.192.in-addr.arpa", "PTR", "mail.example.org.")
        self.names.script("6.2.0.192.in-addr.arpa", "PTR", *[Action.SERVFAIL] * 9)
        for source, expected in (
            (CLIENT, b"iprev=pass policy.iprev=192.0.2.7"),
            ("192.0.2.8", b"iprev=fail"),
            ("192.0.2.9", b"iprev=permerror"),
            ("192.0.2.6", b"iprev=temperror"),
        ):
            self.checked("require_reverse_dns", "on_fail ignore", "on_error ignore", relay=True)
            self.assertEqual(self.whole(source, content=CONTENT), OK)
            self.assertIn(expected, self.header)
        self.checked("require_reverse_dns", "verify no", relay=True)
        self.whole(content=CONTENT)
        self.assertNotIn(b"iprev", self.header)

    def test_dnswl(self) -> None:
        self.names.add("7.2.0.192.good.test", "A", "127.0.10.1")
        self.names.script("6.2.0.192.good.test", "A", *[Action.SERVFAIL] * 9)
        for source, expected in ((CLIENT, b"pass"), ("192.0.2.8", b"none"), ("192.0.2.6", b"temperror")):
            self.checked("dnsbl bl.test", "allow good.test", relay=True)
            self.assertEqual(self.whole(source, content=CONTENT), OK)
            self.assertIn(b"dnswl=" + expected + b" dns.zone=good.test", self.header)


class AuthTests(LoginCase):
    def sent(self, *lines: str, sender: bytes = b"alice@x.test", author: bytes = b"", login: str = "alice") -> bytes:
        """The header of what the next hop has got."""
        self._strike()
        self._raise()
        hop = self.hop()
        block = "\n".join(lines)
        self.listen(
            f"auth static {{\n entry {login} secret\n}}",
            pipeline=f"check {{\nauthorize_sender {{\n{block}\n}}\n}}\ndeliver_to smtp {hop.endpoint}",
        )
        client = self.secure()
        self.assertEqual(self.by_name(client, "PLAIN")[:3], b"235")
        content = FORGED + FROM % (author or sender)
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", sender=sender, content=content))[-1], OK)
        self.reactor.run(client.quit())
        return bytes(hop.transactions[-1].content).partition(b"\r\n\r\n")[0]

    def test_auth(self) -> None:
        mine, table = b"smtp.mailfrom=alice@x.test", b"auth="
        for lines, mail, expected in (
            ((TABLE,), {}, table + b"pass " + mine),
            ((TABLE,), {"sender": b"", "author": b"alice@x.test"}, table + b"pass\r\n"),
            ((TABLE, "on_fail tag"), {"sender": b"bob@x.test"}, table + b'fail reason="another\'s reverse-path"'),
            ((TABLE, "on_fail score 1"), {"author": b"bob@x.test"}, table + b'fail reason="another\'s address in From"'),
            ((TABLE, "on_fail ignore", "check_header no"), {"author": b"bob@x.test"}, table + b"pass " + mine),
        ):
            header = self.sent(*lines, **mail)
            self.assertIn(expected, header)
            self.assertEqual(header.count(b"auth="), 1, header)

    def test_the_log_has_it(self) -> None:
        self.sent(TABLE)
        assert self.running is not None
        (done,) = self.running.logged("message.done")
        self.assertIn("auth=auth=pass", done.replace('"', ""))
