"""Each reply of the engine to one command, by what came before; and what EHLO announces."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.events import Auth, Hello
from mailgate.smtp.reply import Reply
from mailgate.smtp.server import COMMANDS, ServerSession
from mailgate.smtp.settings import ServerSettings

from .conversation import LMTP, SETTINGS, Conversation, converse, converse_all_ways

EHLO = b"EHLO client\r\n"
HELO = b"HELO client\r\n"
MAIL = EHLO + b"MAIL FROM:<a@a.example>\r\n"
RCPT = MAIL + b"RCPT TO:<b@b.example>\r\n"

DSN = ServerSettings("mx.example", dsn=True)
AUTH = ServerSettings("mx.example", starttls=True, auth_mechanisms=("PLAIN", "LOGIN"))

REPLIES = (
    # before the hello
    (b"", b"MAIL FROM:<a@a.example>", "503 5.5.1"),
    (b"", b"RCPT TO:<a@a.example>", "503 5.5.1"),
    (b"", b"DATA", "503 5.5.1"),
    (b"", b"AUTH PLAIN", "503 5.5.1"),
    (b"", b"NOOP", "250 2.0.0"),
    (b"", b"NOOP anything", "250 2.0.0"),
    (b"", b"RSET", "250 2.0.0"),
    (b"", b"HELP", "214 2.0.0"),
    (b"", b"HELP MAIL", "214 2.0.0"),
    (b"", b"VRFY someone", "252 2.1.5"),
    (b"", b"QUIT", "221 2.0.0"),
    # hello
    (b"", b"EHLO", "501 5.5.4"),
    (b"", b"EHLO ", "501 5.5.4"),
    (b"", b"HELO a b", "501 5.5.4"),
    (b"", b"EHLO a(b)", "501 5.5.4"),
    (b"", b"EHLO <a>", "501 5.5.4"),
    (b"", b"EHLO b\xc3\xbccher", "501 5.5.4"),
    (b"", b"EHLO " + b"a" * 256, "501 5.5.4"),
    (b"", b"HELO [192.0.2.1]", "250"),
    (b"", b"HELO under_score", "250"),
    (b"", b"HELO client ", "250"),
    # syntax
    (b"", b"", "500 5.5.1"),
    (b"", b" NOOP", "500 5.5.1"),
    (b"", b"NOOP\tx", "500 5.5.1"),
    (b"", b"WHAT", "500 5.5.1"),
    (b"", b"\xff\xfe", "500 5.5.1"),
    (b"", b"EXPN list", "502 5.5.1"),
    (b"", b"ETRN node", "502 5.5.1"),
    (b"", b"TURN", "500 5.5.1"),
    (b"", b"SEND FROM:<a@b>", "500 5.5.1"),
    (EHLO, b"RSET now", "501 5.5.4"),
    (EHLO, b"QUIT now", "501 5.5.4"),
    (RCPT, b"DATA now", "501 5.5.4"),
    (EHLO, b"AUTH PLAIN", "502 5.5.1"),
    (EHLO, b"XCLIENT NAME=x", "550 5.7.0"),
    (b"", b"XFORWARD NAME=x", "550 5.7.0"),
    # order
    (EHLO, b"RCPT TO:<b@b.example>", "503 5.5.1"),
    (EHLO, b"DATA", "503 5.5.1"),
    (MAIL, b"DATA", "503 5.5.1"),
    (MAIL, b"MAIL FROM:<a@a.example>", "503 5.5.1"),
    (MAIL, b"MAIL FROM:<a@a.example> SIZE=1", "503 5.5.1"),
    (RCPT, b"MAIL FROM:<>", "503 5.5.1"),
    (MAIL, b"AUTH PLAIN", "503 5.5.1"),
    # paths
    (EHLO, b"MAIL", "501 5.1.7"),
    (EHLO, b"MAIL FROM", "501 5.1.7"),
    (EHLO, b"MAIL FROM:", "501 5.1.7"),
    (EHLO, b"MAIL FROM:a@a.example", "501 5.1.7"),
    (EHLO, b"MAIL FROM: <a@a.example>", "501 5.1.7"),
    (EHLO, b"MAIL TO:<a@a.example>", "501 5.1.7"),
    (EHLO, b"MAIL FROM:<Postmaster>", "501 5.1.7"),
    (EHLO, b"MAIL FROM:<a@a.example\x01>", "501 5.1.7"),
    (EHLO, b"MAIL FROM:<\xff@a.example>", "501 5.1.7"),
    (EHLO, b"MAIL FROM:<>", "250 2.1.0"),
    (MAIL, b"RCPT TO:<>", "501 5.1.3"),
    (MAIL, b"RCPT TO:<b>", "501 5.1.3"),
    (MAIL, b"RCPT FROM:<b@b.example>", "501 5.1.3"),
    (MAIL, b"RCPT TO:<@x,@y:b@b.example>", "250 2.1.5"),
    (MAIL, b'RCPT TO:<"b c@d"@b.example>', "250 2.1.5"),
    (MAIL, b"RCPT TO:<b@[192.0.2.300]>", "501 5.1.3"),
    (EHLO, b"MAIL FROM:<\xc3\xbc@a.example>", "553 5.6.7"),
    (EHLO, b"MAIL FROM:<\xc3\xbc@a.example> SIZE=1", "553 5.6.7"),
    (EHLO, b"MAIL FROM:<\xc3\xbc@a.example> SMTPUTF8", "250 2.1.0"),
    (MAIL, b"RCPT TO:<b@b\xc3\xbccher.example>", "553 5.6.7"),
    # parameters
    (EHLO, b"MAIL FROM:<a@a.example> SIZE=33554432", "250 2.1.0"),
    (EHLO, b"MAIL FROM:<a@a.example> SIZE=33554433", "552 5.3.4"),
    (EHLO, b"MAIL FROM:<a@a.example> SIZE=abc", "501 5.5.4"),
    (EHLO, b"MAIL FROM:<a@a.example> BODY", "501 5.5.4"),
    (EHLO, b"MAIL FROM:<a@a.example> FOO=1", "555 5.5.4"),
    (EHLO, b"MAIL FROM:<a@a.example> AUTH=<>", "555 5.5.4"),
    (EHLO, b"MAIL FROM:<a@a.example> RET=FULL", "555 5.5.4"),
    (EHLO, b"MAIL FROM:<a@a.example>SIZE=1", "501 5.1.7"),
    (HELO, b"MAIL FROM:<a@a.example> SIZE=1", "555 5.5.4"),
    (HELO, b"MAIL FROM:<a@a.example> ", "250 2.1.0"),
    (MAIL, b"RCPT TO:<b@b.example> NOTIFY=NEVER", "555 5.5.4"),
)


class Replies(SynchronousTestCase):
    def test_table(self) -> None:
        for before, line, code in REPLIES:
            self.assertEqual(converse(before + line + b"\r\n").codes[-1], code, repr((before, line)))

    def test_table_at_every_cut(self) -> None:
        for before, line, code in REPLIES:
            if len(line) < 40:
                self.assertEqual(converse_all_ways(line + b"\r\n").codes, converse(line + b"\r\n").codes, repr(line))
            conversation = Conversation().greet()
            conversation.say(before)
            for at in range(len(line) + 1):
                conversation.say(line[at : at + 1])
            conversation.say(b"\r")
            conversation.say(b"\n")
            self.assertEqual(conversation.transcript.codes[-1], code, repr((before, line)))

    def test_dsn_parameters_where_offered(self) -> None:
        transcript = converse(EHLO + b"MAIL FROM:<a@a.example> RET=FULL\r\nRCPT TO:<b@b.example> NOTIFY=X\r\n", DSN)
        self.assertEqual(transcript.codes[1:], ["250 2.1.0", "501 5.5.4"])

    def test_no_dsn_or_other_parameters_after_helo(self) -> None:
        transcript = converse(HELO + b"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example> NOTIFY=NEVER\r\n", DSN)
        self.assertEqual(transcript.codes[1:], ["250 2.1.0", "555 5.5.4"])

    def test_disabled_commands(self) -> None:
        disabled = ServerSettings("mx.example", starttls=True, disable_commands=frozenset({"VRFY", "MAIL", "STARTTLS", "DATA"}))
        transcript = converse_all_ways(EHLO + b"VRFY x\r\nMAIL FROM:<a@a.example>\r\nSTARTTLS\r\nvrfy x\r\n", disabled)
        self.assertEqual(transcript.codes[1:], 4 * ["502 5.5.1"])
        self.assertNotIn(b"STARTTLS", transcript.output)
        self.assertEqual(converse(b"DATA\r\nSubject: x\r\n", disabled).codes, ["502 5.5.1", "421 4.7.0"])

    def test_every_command_has_its_row(self) -> None:
        self.assertEqual(set(COMMANDS), {row.verb.encode() for row in COMMANDS.values()})
        for verb, row in COMMANDS.items():
            if len(row.phases) < 5:
                self.assertTrue(row.out_of_order, verb)


class Announcement(SynchronousTestCase):
    def keywords(self, settings: ServerSettings, *, tls: bool = False) -> list[str]:
        transcript = converse((b"LHLO" if settings.lmtp else b"EHLO") + b" client\r\n", settings, tls=tls)
        return [line[4:] for line in transcript.lines[1:]]

    def test_plain(self) -> None:
        self.assertEqual(
            self.keywords(SETTINGS),
            [
                "PIPELINING",
                "SIZE 33554432",
                "8BITMIME",
                "SMTPUTF8",
                "ENHANCEDSTATUSCODES",
                "CHUNKING",
                "BINARYMIME",
                "LIMITS RCPTMAX=1000",
            ],
        )
        self.assertEqual(self.keywords(LMTP), self.keywords(SETTINGS))

    def test_size_is_kept_quiet(self) -> None:
        quiet = ServerSettings("mx.example", announce_size=False, max_message_size=10)
        self.assertIn("SIZE", self.keywords(quiet))
        self.assertEqual(converse(EHLO + b"MAIL FROM:<> SIZE=11\r\n", quiet).codes[-1], "552 5.3.4")

    def test_hidden_keywords_still_work(self) -> None:
        hidden = ServerSettings("mx.example", starttls=True, hide=frozenset({"STARTTLS", "8BITMIME", "CHUNKING"}))
        for keyword in hidden.hide:
            self.assertNotIn(keyword, self.keywords(hidden))
        self.assertEqual(converse(EHLO + b"MAIL FROM:<> BODY=8BITMIME\r\n", hidden).codes[-1], "250 2.1.0")
        self.assertEqual(converse(EHLO + b"STARTTLS\r\n", hidden).codes[-1], "220 2.0.0")

    def test_what_rests_on_a_hidden_keyword_is_not_announced(self) -> None:
        for hidden, with_it in (("CHUNKING", "BINARYMIME"), ("8BITMIME", "SMTPUTF8")):
            announced = self.keywords(ServerSettings("mx.example", hide=frozenset({hidden})))
            self.assertNotIn(with_it, announced)
            self.assertIn("PIPELINING", announced)

    def test_what_depends_on_tls(self) -> None:
        chosen = ServerSettings("mx.example", starttls=True, requiretls=True, auth_mechanisms=("PLAIN",))
        self.assertEqual(self.keywords(chosen)[-1:], ["STARTTLS"])
        self.assertEqual(self.keywords(chosen, tls=True)[-2:], ["REQUIRETLS", "AUTH PLAIN"])

    def test_hello_texts(self) -> None:
        for template, line in (
            ("%s greets %s", "mx.example greets client"),
            ("hi", "hi"),
            ("%s %s %s 100%", "mx.example client  100%"),
        ):
            self.assertEqual(converse(HELO, ServerSettings("mx.example", helo_response=template)).lines, [f"250 {line}"])


class Authentication(SynchronousTestCase):
    """The hook: order and safety are the engine's, credentials the driver's."""

    ANSWERS = {Auth: lambda event: Reply(235, "2.7.0", "Welcome") if event.response == b"good" else Reply(535, "5.7.8", "No")}

    def replies(self, lines: bytes, settings: ServerSettings = AUTH, *, tls: bool = True) -> list[str]:
        return converse_all_ways(EHLO + lines, settings, self.ANSWERS, tls=tls).codes[1:]

    def test_replies(self) -> None:
        for lines, codes in (
            (b"AUTH PLAIN good\r\n", ["235 2.7.0"]),
            (b"auth plain bad\r\nAUTH LOGIN good\r\n", ["535 5.7.8", "235 2.7.0"]),
            (b"AUTH PLAIN good\r\nAUTH PLAIN good\r\n", ["235 2.7.0", "503 5.5.1"]),
            (b"AUTH\r\n", ["501 5.5.4"]),
            (b"AUTH PLAIN a b\r\n", ["501 5.5.4"]),
            (b"AUTH CRAM-MD5\r\n", ["504 5.5.4"]),
            (b"AUTH \xff\r\n", ["504 5.5.4"]),
            (b"MAIL FROM:<>\r\nAUTH PLAIN good\r\n", ["250 2.1.0", "503 5.5.1"]),
            (b"MAIL FROM:<> AUTH=<>\r\n", ["250 2.1.0"]),
        ):
            self.assertEqual(self.replies(lines), codes, repr(lines))

    def test_not_in_clear(self) -> None:
        self.assertEqual(self.replies(b"AUTH PLAIN good\r\n", tls=False), ["538 5.7.11"])
        insecure = ServerSettings("mx.example", auth_mechanisms=("PLAIN",), insecure_auth=True)
        self.assertEqual(self.replies(b"AUTH PLAIN good\r\n", insecure, tls=False), ["235 2.7.0"])

    def test_challenges(self) -> None:
        asked = []

        def answer(event: Auth) -> Reply:
            asked.append(event)
            return (
                Reply(235, "2.7.0", "Welcome") if event.response == b"MAIL FROM:<a@a.example>" else Reply(334, "", "VXNlcm5hbWU6")
            )

        sent = EHLO + b"AUTH LOGIN\r\n*\r\nAUTH LOGIN\r\ndXNlcg==\r\nMAIL FROM:<a@a.example>\r\nNOOP\r\n"
        transcript = converse(sent, AUTH, {Auth: answer}, tls=True)
        self.assertEqual(transcript.codes[1:], ["334", "501 5.7.0", "334", "334", "235 2.7.0", "250 2.0.0"])
        self.assertEqual(
            asked,
            [
                Auth("LOGIN", None, initial=True),
                Auth("LOGIN", None, initial=True),
                Auth("LOGIN", b"dXNlcg==", initial=False),
                Auth("LOGIN", b"MAIL FROM:<a@a.example>", initial=False),
            ],
        )


class Pipelining(SynchronousTestCase):
    def test_replies_to_one_read_are_one_output_in_order(self) -> None:
        session = ServerSession(SETTINGS)
        session.greet()
        session.output()
        events = session.receive(b"HELO client\r\nMAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n")
        self.assertEqual(events[0], Hello("HELO", "client", False))
        session.reply(Reply(250, "2.1.0", "sender"))
        session.reply(Reply(250, "2.1.5", "recipient"))
        session.reply(None)
        self.assertEqual([line[:3] for line in session.output().split(b"\r\n")], [b"250", b"250", b"250", b"354", b""])

    def test_many_messages_in_one_read(self) -> None:
        message = b"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\nx\r\n.\r\n"
        transcript = converse(EHLO + 50 * message + b"QUIT\r\n")
        self.assertEqual(transcript.codes[1:], 50 * ["250 2.1.0", "250 2.1.5", "354", "250 2.0.0"] + ["221 2.0.0"])
        self.assertEqual(transcript.content, 50 * [b"x\r\n"])
