"""AUTH in the engine: order, long lines, what waits for a login, counts. Tables are fed whole, octet by octet, cut anywhere."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.events import Auth, Closed, CloseReason
from mailgate.smtp.extensions import announcement
from mailgate.smtp.reply import Reply
from mailgate.smtp.server import ServerSession
from mailgate.smtp.settings import ServerSettings
from tests.smtp.conversation import Conversation, converse, converse_all_ways

ALL = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "EXTERNAL")
SETTINGS = ServerSettings("mx.example", starttls=True, auth_mechanisms=ALL)
INSECURE = replace(SETTINGS, insecure_auth=True)
REQUIRED = replace(INSECURE, auth_required=True)
EHLO = b"EHLO c.example\r\n"
MAIL = b"MAIL FROM:<a@a.example>\r\n"
RCPT = b"RCPT TO:<b@b.example>\r\n"


def judge(event: Auth) -> Reply:
    if event.response in (b"good", b"MAIL FROM:<a@a.example>"):
        return Reply(235, "2.7.0", "Welcome")
    if event.response == b"more":
        return Reply(334, "", "")
    if event.response == b"down":
        return Reply(454, "4.7.0", "Later")
    return Reply(334, "", "VXNlcm5hbWU6") if event.response is None else Reply(535, "5.7.8", "Wrong")


TABLE: list[tuple[ServerSettings, bytes, list[str]]] = [
    # settings, what is said after EHLO, codes of the replies to it
    (INSECURE, b"AUTH PLAIN good\r\n", ["235 2.7.0"]),
    (INSECURE, b"auth pLaIn good\r\n", ["235 2.7.0"]),
    (INSECURE, b"AUTH PLAIN bad\r\nAUTH PLAIN good\r\n", ["535 5.7.8", "235 2.7.0"]),
    (INSECURE, b"AUTH PLAIN good\r\nAUTH PLAIN good\r\n", ["235 2.7.0", "503 5.5.1"]),
    (INSECURE, b"AUTH PLAIN good\r\nEHLO x\r\nAUTH PLAIN good\r\n", ["235 2.7.0", "250", "503 5.5.1"]),
    (INSECURE, b"AUTH PLAIN down\r\n" * 5, ["454 4.7.0"] * 5),
    (INSECURE, MAIL + b"AUTH PLAIN good\r\n", ["250 2.1.0", "503 5.5.1"]),
    (INSECURE, b"AUTH LOGIN\r\n*\r\nNOOP\r\n", ["334", "501 5.7.0", "250 2.0.0"]),
    (INSECURE, b"AUTH LOGIN\r\nMAIL FROM:<a@a.example>\r\nNOOP\r\n", ["334", "235 2.7.0", "250 2.0.0"]),
    (INSECURE, b"AUTH LOGIN\r\n\0\r\nNOOP\r\n", ["334", "500 5.5.2", "250 2.0.0"]),
    (INSECURE, b"AUTH LOGIN\r\na\nNOOP\r\n", ["334", "500 5.5.2", "250 2.0.0"]),
    (INSECURE, b"AUTH\r\n", ["501 5.5.4"]),
    (INSECURE, b"AUTH PLAIN a b\r\n", ["501 5.5.4"]),
    (INSECURE, b"AUTH GSSAPI\r\n", ["504 5.5.4"]),
    (INSECURE, b"AUTH SCRAM-SHA-256-PLUS\r\nAUTH EXTERNAL =\r\n", ["504 5.5.4", "504 5.5.4"]),
    (SETTINGS, b"AUTH PLAIN good\r\n", ["538 5.7.11"]),
    (replace(INSECURE, disable_commands=frozenset({"AUTH"})), b"AUTH PLAIN good\r\n", ["502 5.5.1"]),
    (replace(INSECURE, auth_mechanisms=()), b"AUTH PLAIN good\r\n", ["502 5.5.1"]),
    (INSECURE, b"AUTH PLAIN bad\r\nAUTH PLAIN bad\r\nAUTH PLAIN bad\r\n", ["535 5.7.8", "535 5.7.8", "421 4.7.0"]),
    (replace(INSECURE, max_auth_failures=1), b"AUTH PLAIN bad\r\n", ["421 4.7.0"]),
    (REQUIRED, MAIL + RCPT + b"DATA\r\n", ["530 5.7.0"] * 3),
    (REQUIRED, b"BDAT 4\r\nNOOPNOOP\r\n", ["530 5.7.0", "250 2.0.0"]),
    (REQUIRED, b"NOOP\r\nRSET\r\nVRFY x\r\nHELP\r\nQUIT\r\n", ["250 2.0.0", "250 2.0.0", "252 2.1.5", "214 2.0.0", "221 2.0.0"]),
    (REQUIRED, b"AUTH PLAIN good\r\n" + MAIL + RCPT, ["235 2.7.0", "250 2.1.0", "250 2.1.5"]),
    (REQUIRED, b"NOOP\r\n" * 10, ["250 2.0.0"] * 9 + ["421 4.7.0"]),
    (REQUIRED, b"AUTH PLAIN down\r\n" * 9 + b"NOOP\r\n", ["454 4.7.0"] * 9 + ["250 2.0.0"]),
    (REQUIRED, b"NOOP\r\n" * 9 + b"QUIT\r\n", ["250 2.0.0"] * 9 + ["221 2.0.0"]),
    (REQUIRED, b"AUTH PLAIN good\r\n" + b"NOOP\r\n" * 20, ["235 2.7.0"] + ["250 2.0.0"] * 20),
    (replace(REQUIRED, max_unauthenticated_commands=0), b"NOOP\r\n" * 20, ["250 2.0.0"] * 20),
    (replace(REQUIRED, auth_required_message="Log in"), MAIL, ["530 5.7.0"]),
    (replace(REQUIRED, lmtp=True), b"", []),
]  # fmt: skip


class Tables(SynchronousTestCase):
    def test_table(self) -> None:
        for settings, said, codes in TABLE:
            with self.subTest(f"{said[:60]!r}"):
                hello = EHLO.replace(b"EHLO", b"LHLO") if settings.lmtp else EHLO
                transcript = converse_all_ways(hello + said, settings, {Auth: judge})
                self.assertEqual(codes, transcript.codes[1:])

    def test_before_the_hello(self) -> None:
        self.assertEqual(["503 5.5.1"], converse(b"AUTH PLAIN good\r\n", INSECURE, {Auth: judge}).codes)
        self.assertEqual(["503 5.5.1"], converse(MAIL, REQUIRED).codes)

    def test_a_challenge_is_one_line_with_its_space(self) -> None:
        transcript = converse(EHLO + b"AUTH PLAIN more\r\n", INSECURE, {Auth: judge})
        self.assertTrue(transcript.output.endswith(b"\r\n334 \r\n"))
        long = converse(EHLO + b"AUTH PLAIN x\r\n", INSECURE, {Auth: lambda event: Reply(334, "", "QUFB" * 300)})
        self.assertTrue(long.output.endswith(b"\r\n334 " + b"QUFB" * 300 + b"\r\n"))

    def test_the_text_of_530(self) -> None:
        transcript = converse(EHLO + MAIL, replace(REQUIRED, auth_required_message="Log in, please"))
        self.assertEqual("530 5.7.0 Log in, please", transcript.lines[-1])


class LongLines(SynchronousTestCase):
    """RFC 4954 4: 12288 octets."""

    def codes(self, said: bytes, settings: ServerSettings = INSECURE) -> list[str]:
        whole = converse(EHLO + said, settings, {Auth: judge})
        pieces = [said[at : at + 500] for at in range(0, len(said), 500)]
        self.assertEqual(whole, converse([EHLO, *pieces], settings, {Auth: judge}))
        return whole.codes[1:]

    def line(self, length: int) -> bytes:
        return b"AUTH PLAIN ".ljust(length, b"A") + b"\r\n"

    def test_an_auth_line(self) -> None:
        self.assertEqual(["535 5.7.8"], self.codes(self.line(12288)))
        self.assertEqual(["500 5.5.6", "250 2.0.0"], self.codes(self.line(12289) + b"NOOP\r\n"))
        self.assertEqual(["500 5.5.6"], self.codes(self.line(16384)))
        self.assertEqual(["421 4.7.0"], self.codes(self.line(16385)))
        self.assertEqual(["421 4.7.0"], self.codes(b"AUTH ".ljust(20000, b"A")))

    def test_a_response(self) -> None:
        self.assertEqual(["334", "535 5.7.8"], self.codes(b"AUTH LOGIN\r\n" + b"A" * 12288 + b"\r\n"))
        said = b"AUTH LOGIN\r\n" + b"A" * 12289 + b"\r\nNOOP\r\n"
        self.assertEqual(["334", "500 5.5.6", "250 2.0.0"], self.codes(said))

    def test_commands_keep_their_limit(self) -> None:
        self.assertEqual(["500 5.5.2"], self.codes(b"NOOP ".ljust(4097, b"A") + b"\r\n"))
        self.assertEqual(["500 5.5.2"], self.codes(self.line(4097), replace(INSECURE, auth_mechanisms=())))

    def test_where_commands_are_short_auth_is_not(self) -> None:
        short = replace(INSECURE, max_command_length=512)
        self.assertEqual(["535 5.7.8"], self.codes(self.line(12288), short))
        self.assertEqual(["421 4.7.0"], self.codes(self.line(16385), short))
        self.assertEqual(["421 4.7.0"], self.codes(b"NOOP ".ljust(2049, b"A") + b"\r\n", short))


class Sessions(SynchronousTestCase):
    def test_mechanisms_by_what_the_connection_has(self) -> None:
        for lacking, keywords in (
            (frozenset({"SCRAM-SHA-256-PLUS", "EXTERNAL"}), "AUTH SCRAM-SHA-256 PLAIN LOGIN"),
            (frozenset({"EXTERNAL"}), "AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"),
            (frozenset(), "AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN EXTERNAL"),
        ):
            self.assertIn(keywords, announcement(SETTINGS, True, lacking))

    def test_auth_is_not_announced_without_a_mechanism(self) -> None:
        only = replace(SETTINGS, auth_mechanisms=("EXTERNAL",))
        self.assertFalse([line for line in announcement(only, True) if line.startswith("AUTH")])
        self.assertFalse([line for line in announcement(SETTINGS, False) if line.startswith("AUTH")])

    def test_starttls_forgets_a_login_but_not_the_failures(self) -> None:
        conversation = Conversation(INSECURE, {Auth: judge}).greet()
        conversation.say(EHLO + b"AUTH PLAIN bad\r\n")
        conversation.say(b"AUTH PLAIN bad\r\n")
        conversation.say(b"STARTTLS\r\n")
        conversation.session.tls_started(lacking=frozenset())
        self.assertIn(b"EXTERNAL", conversation.say(EHLO))
        self.assertTrue(conversation.say(b"AUTH PLAIN bad\r\n").startswith(b"421 4.7.0"))
        self.assertEqual(Closed(CloseReason.AUTH_FAILURES), conversation.transcript.events[-1])

    def test_a_login_ends_with_starttls(self) -> None:
        conversation = Conversation(REQUIRED, {Auth: judge}).greet()
        conversation.say(EHLO + b"AUTH PLAIN good\r\n")
        self.assertTrue(conversation.session.authenticated)
        conversation.say(b"STARTTLS\r\n")
        conversation.session.tls_started()
        conversation.say(EHLO)
        self.assertFalse(conversation.session.authenticated)
        self.assertTrue(conversation.say(MAIL).startswith(b"530 5.7.0"))

    def test_events(self) -> None:
        transcript = converse(EHLO + b"AUTH LOGIN\r\nx\r\n", INSECURE, {Auth: judge})
        self.assertEqual(
            [Auth("LOGIN", None, initial=True), Auth("LOGIN", b"x", initial=False)],
            [event for event in transcript.events if isinstance(event, Auth)],
        )

    def test_the_reasons_for_closing(self) -> None:
        for said, reason in (
            (b"NOOP\r\n" * 10, CloseReason.UNAUTHENTICATED),
            (b"AUTH PLAIN x\r\n" * 3, CloseReason.AUTH_FAILURES),
        ):
            self.assertEqual(Closed(reason), converse(EHLO + said, REQUIRED, {Auth: judge}).events[-1])

    def test_an_answer_that_is_none(self) -> None:
        session = ServerSession(INSECURE)
        session.greet()
        session.receive(EHLO + b"AUTH PLAIN x\r\n")
        session.output()
        session.reply(Reply(354, "", "what?"))
        self.assertTrue(session.output().startswith(b"451 4.3.0"))
