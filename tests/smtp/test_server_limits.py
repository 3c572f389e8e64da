"""Every limit of the server engine, at its edge and beyond, and each reply that closes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.dialogue import READ_AHEAD, RECIPIENT_OVERSHOOT
from mailgate.smtp.events import Auth, Closed, CloseReason, ContentEnd, Data, Hello, Mail, Rcpt, StartTls
from mailgate.smtp.reply import Reply
from mailgate.smtp.server import Phase, ServerSession
from mailgate.smtp.settings import ServerSettings

from .conversation import LMTP, Conversation, Transcript, converse, converse_all_ways

GREETED = b"EHLO client\r\n"
ENVELOPE = b"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n"
MESSAGE = ENVELOPE + b"DATA\r\nx\r\n.\r\n"


def settings(**values: object) -> ServerSettings:
    return ServerSettings("mx.example", **values)  # type: ignore[arg-type]


class LimitTestCase(SynchronousTestCase):
    def assert_closed(self, transcript: Transcript, reason: CloseReason, reply: str) -> None:
        self.assertEqual(transcript.events[-1], Closed(reason))
        self.assertEqual(transcript.codes[-1], reply)

    def assert_open(self, transcript: Transcript) -> None:
        self.assertNotIsInstance(transcript.events[-1], Closed)


class Lines(LimitTestCase):
    def test_a_line_of_the_maximum_length_is_a_command(self) -> None:
        transcript = converse(b"NOOP " + b"x" * 4091 + b"\r\n")
        self.assertEqual(transcript.codes, ["250 2.0.0"])

    def test_longer_lines_are_refused_by_length_alone(self) -> None:
        for length in (4097, 4 * 4096):
            self.assertEqual(converse(b"x" * length + b"\r\nNOOP\r\n").codes, ["500 5.5.2", "250 2.0.0"], str(length))
            self.assertEqual(converse([b"x" * length, b"\r", b"\n", b"NOOP\r\n"]).codes, ["500 5.5.2", "250 2.0.0"], str(length))

    def test_runaway_lines_close_with_and_without_end(self) -> None:
        for sent in (b"x" * (4 * 4096 + 1) + b"\r\n", b"x" * (4 * 4096 + 1)):
            transcript = converse(sent)
            self.assertEqual(transcript.events, [Closed(CloseReason.RUNAWAY_LINE)])
            self.assertEqual(transcript.codes, ["421 4.7.0"])

    def test_length_limits_at_every_cut(self) -> None:
        small = settings(max_command_length=8)
        for length, codes in ((8, ["500 5.5.1"]), (9, ["500 5.5.2"]), (32, ["500 5.5.2"]), (33, ["421 4.7.0"])):
            self.assertEqual(converse_all_ways(b"x" * length + b"\r\n", small).codes, codes, str(length))
            self.assertEqual(converse_all_ways(b"x" * length + b"\n", small).codes[0][:3], codes[0][:3], str(length))

    def test_plain_envelopes_keep_to_a_small_limit_too(self) -> None:
        self.assertEqual(
            converse(b"HELO x\r\nMAIL FROM:<a@a.example>\r\n", settings(max_command_length=22)).codes[-1], "500 5.5.2"
        )

    def test_bare_line_ends_and_nul_refuse_a_command(self) -> None:
        for sent in (b"NOOP\n", b"NO\rOP\r\n", b"NOOP\r\r\n", b"NOOP x\0\r\n", b"\n", b"\0\r\n"):
            for line_endings in ("reject", "normalize"):
                transcript = converse_all_ways(sent + b"NOOP\r\n", settings(strict_line_endings=line_endings))
                self.assertEqual(transcript.codes, ["500 5.5.2", "250 2.0.0"], repr(sent))

    def test_an_unfinished_command_is_not_obeyed(self) -> None:
        conversation = Conversation().greet()
        self.assertEqual(conversation.say(b"QUIT\r"), b"")
        self.assertEqual(conversation.session.close(), [Closed(CloseReason.ENDED)])
        self.assertEqual(conversation.session.output(), b"")

    def test_http_requests_close(self) -> None:
        for request in (b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"CONNECT mx.example:25 HTTP/1.1", b"PRI * HTTP/2.0"):
            self.assert_closed(converse_all_ways(request + b"\r\nHost: x\r\n"), CloseReason.HTTP, "421 4.7.0")
        self.assertEqual(converse(b"GET / else\r\n").codes, ["500 5.5.1"])


class Errors(LimitTestCase):
    def test_the_tenth_error_is_the_last(self) -> None:
        transcript = converse_all_ways(GREETED + 10 * b"WHAT\r\n" + b"NOOP\r\n")
        self.assertEqual(transcript.codes[1:], 9 * ["500 5.5.1"] + ["421 4.7.0"])
        self.assert_closed(transcript, CloseReason.ERRORS, "421 4.7.0")

    def test_all_of_500_to_504_are_errors(self) -> None:
        lines = {
            b"WHAT\r\n": "500 5.5.1",
            b"RSET x\r\n": "501 5.5.4",
            b"EXPN x\r\n": "502 5.5.1",
            b"RCPT TO:<a@a.example>\r\n": "503 5.5.1",
        }
        for line, code in lines.items():
            transcript = converse(GREETED + 2 * line, settings(max_errors=2))
            self.assertEqual(transcript.codes[1:], [code, "421 4.7.0"])
            self.assert_closed(transcript, CloseReason.ERRORS, "421 4.7.0")

    def test_a_delivered_message_clears_the_count(self) -> None:
        transcript = converse(GREETED + 3 * (9 * b"WHAT\r\n" + MESSAGE))
        self.assert_open(transcript)

    def test_a_refused_message_does_not(self) -> None:
        transcript = converse(
            GREETED + 2 * (9 * b"WHAT\r\n" + MESSAGE), answers={ContentEnd: lambda event: Reply(550, "5.7.1", "no")}
        )
        self.assert_closed(transcript, CloseReason.ERRORS, "421 4.7.0")

    def test_refusals_of_content_are_no_errors(self) -> None:
        transcript = converse(GREETED + 20 * MESSAGE, answers={ContentEnd: lambda event: Reply(500, "5.5.1", "odd")})
        self.assertEqual(transcript.codes.count("500 5.5.1"), 20)


class Recipients(LimitTestCase):
    def test_max_recipients(self) -> None:
        transcript = converse_all_ways(
            GREETED + ENVELOPE + 2 * b"RCPT TO:<b@b.example>\r\n" + b"DATA\r\n.\r\n" + ENVELOPE, settings(max_recipients=2)
        )
        self.assertEqual(
            transcript.codes[1:],
            ["250 2.1.0", "250 2.1.5", "250 2.1.5", "452 4.5.3", "354", "250 2.0.0", "250 2.1.0", "250 2.1.5"],
        )
        self.assertEqual(sum(isinstance(event, Rcpt) for event in transcript.events), 3)

    def test_the_fiftieth_rejected_recipient_is_the_last(self) -> None:
        refuse = {Rcpt: lambda event: Reply(550, "5.1.1", "unknown")}
        transcript = converse(GREETED + b"MAIL FROM:<>\r\n" + 50 * b"RCPT TO:<b@b.example>\r\n", answers=refuse)
        self.assertEqual(transcript.codes[2:], 49 * ["550 5.1.1"] + ["421 4.7.0"])
        self.assert_closed(transcript, CloseReason.REJECTED_RECIPIENTS, "421 4.7.0")

    def test_recipients_put_off_by_452_are_not_rejected(self) -> None:
        later = {Rcpt: lambda event: Reply(452, "4.5.3", "next transaction")}
        transcript = converse(GREETED + b"MAIL FROM:<>\r\n" + RECIPIENT_OVERSHOOT * b"RCPT TO:<b@b.example>\r\n", answers=later)
        self.assert_open(transcript)
        transcript = converse(
            GREETED + b"MAIL FROM:<>\r\n" + (RECIPIENT_OVERSHOOT + 1) * b"RCPT TO:<b@b.example>\r\n", answers=later
        )
        self.assert_closed(transcript, CloseReason.REJECTED_RECIPIENTS, "421 4.7.0")


class IdleCommands(LimitTestCase):
    def test_a_hundred_and_no_more(self) -> None:
        for line in (b"NOOP\r\n", b"RSET\r\n", b"EHLO client\r\n", b"HELP\r\n", b"VRFY x\r\n", b"XCLIENT ADDR=x\r\n"):
            self.assert_open(converse(GREETED + 99 * line))
            self.assert_closed(converse(GREETED + 100 * line), CloseReason.IDLE_COMMANDS, "421 4.7.0")

    def test_a_delivered_message_clears_the_count(self) -> None:
        self.assert_open(converse(GREETED + 3 * (90 * b"NOOP\r\n" + MESSAGE)))

    def test_refused_steps_of_transactions_count(self) -> None:
        no = Reply(550, "5.7.1", "no")
        for question, sent in ((Mail, b"MAIL FROM:<>\r\n"), (Data, ENVELOPE + b"DATA\r\nRSET\r\n")):
            transcript = converse(GREETED + 101 * sent, answers={question: lambda event: no})
            self.assert_closed(transcript, CloseReason.IDLE_COMMANDS, "421 4.7.0")

    def test_refused_chunks_count(self) -> None:
        later = Reply(450, "4.2.0", "later")
        sent = ENVELOPE + b"BDAT 4 LAST\r\nNOOP"
        transcript = converse(GREETED + 101 * sent, answers={Data: lambda event: later})
        self.assert_closed(transcript, CloseReason.IDLE_COMMANDS, "421 4.7.0")

    def test_logins_that_are_not_listened_to_count(self) -> None:
        offers = settings(auth_mechanisms=("PLAIN",))
        in_clear = converse(GREETED + 99 * b"AUTH PLAIN AGEAYg==\r\n", offers)
        self.assertEqual("538 5.7.11", in_clear.codes[-1])
        in_clear = converse(GREETED + 101 * b"AUTH PLAIN AGEAYg==\r\n", offers)
        self.assert_closed(in_clear, CloseReason.IDLE_COMMANDS, "421 4.7.0")
        insecure = settings(auth_mechanisms=("PLAIN",), insecure_auth=True)
        for reply in (Reply(454, "4.7.0", "later"), Reply(550, "5.7.1", "a check says no")):
            trouble = converse(GREETED + 101 * b"AUTH PLAIN AGEAYg==\r\n", insecure, {Auth: lambda event, reply=reply: reply})
            self.assert_closed(trouble, CloseReason.IDLE_COMMANDS, "421 4.7.0")

    def test_commands_that_wait_for_a_login_count(self) -> None:
        locked = settings(auth_mechanisms=("PLAIN",), auth_required=True, max_unauthenticated_commands=0)
        for line in (b"MAIL FROM:<>\r\n", b"RCPT TO:<a@a.example>\r\n", b"BDAT 2\r\nab"):
            self.assert_open(converse(GREETED + 99 * line, locked))
            self.assert_closed(converse(GREETED + 101 * line, locked), CloseReason.IDLE_COMMANDS, "421 4.7.0")

    def test_empty_chunks_count(self) -> None:
        self.assert_closed(converse(GREETED + ENVELOPE + 101 * b"BDAT 0\r\n"), CloseReason.IDLE_COMMANDS, "421 4.7.0")


class Chunks(LimitTestCase):
    def test_a_size_that_cannot_be_read_closes(self) -> None:
        for size in (b"", b" x", b" -1", b" +1", b" 1_0", b" 9223372036854775808", b" 99999999999999999999", b" LAST"):
            for start in (b"", GREETED, GREETED + ENVELOPE):
                transcript = converse_all_ways(start + b"BDAT" + size + b"\r\nQUIT\r\n")
                self.assert_closed(transcript, CloseReason.BAD_CHUNK_SIZE, "501 5.5.4")

    def test_a_huge_chunk_is_drained_in_constant_memory(self) -> None:
        conversation = Conversation().greet()
        conversation.say(b"BDAT 9223372036854775807\r\n")
        for _ in range(10):
            self.assertEqual(conversation.say(b"QUIT\r\n" * 1000), b"")
        self.assertTrue(conversation.session.in_data)
        self.assertEqual(conversation.transcript.events, [])


class Tls(LimitTestCase):
    OFFERED = settings(starttls=True, requiretls=True)

    def test_all_is_forgotten(self) -> None:
        conversation = Conversation(self.OFFERED).greet()
        self.assertIn(b"250 STARTTLS\r\n", conversation.say(GREETED))
        self.assertEqual(conversation.say(b"STARTTLS\r\n"), b"220 2.0.0 Ready to start TLS\r\n")
        self.assertEqual(conversation.transcript.events[-1], StartTls())
        conversation.session.tls_started()
        self.assertTrue(conversation.session.tls)
        self.assertEqual(conversation.say(b"MAIL FROM:<>\r\n"), b"503 5.5.1 Say EHLO first\r\n")
        hello = conversation.say(GREETED)
        self.assertNotIn(b"STARTTLS", hello)
        self.assertIn(b"250 REQUIRETLS\r\n", hello)
        self.assertEqual(conversation.say(b"STARTTLS\r\n"), b"503 5.5.1 TLS is already active\r\n")
        self.assertEqual(conversation.say(b"MAIL FROM:<> REQUIRETLS\r\n"), b"250 2.1.0 Sender ok\r\n")

    def test_bytes_behind_starttls_are_an_injection(self) -> None:
        for behind in (b"NOOP\r\n", b"N", b"\n"):
            transcript = converse(GREETED + b"STARTTLS\r\n" + behind, self.OFFERED)
            self.assert_closed(transcript, CloseReason.INJECTION, "554 5.5.1")
            transcript = converse([GREETED + b"STARTTLS\r\n", behind], self.OFFERED)
            self.assert_closed(transcript, CloseReason.INJECTION, "220 2.0.0")

    def test_where_it_may_not_be(self) -> None:
        cases = {
            b"STARTTLS\r\n": "503 5.5.1",
            GREETED + b"STARTTLS now\r\n": "501 5.5.4",
            GREETED + b"MAIL FROM:<>\r\nSTARTTLS\r\n": "503 5.5.1",
        }
        for sent, code in cases.items():
            self.assertEqual(converse_all_ways(sent, self.OFFERED).codes[-1], code)
        self.assertEqual(converse_all_ways(GREETED + b"STARTTLS\r\n").codes[-1], "502 5.5.1")
        self.assertEqual(converse_all_ways(GREETED + b"STARTTLS\r\n", self.OFFERED, tls=True).codes[-1], "503 5.5.1")

    def test_requiretls_in_clear_or_not_offered(self) -> None:
        sent = GREETED + b"MAIL FROM:<> REQUIRETLS\r\n"
        self.assertEqual(converse_all_ways(sent, self.OFFERED).codes[-1], "530 5.7.0")
        self.assertEqual(converse_all_ways(sent).codes[-1], "530 5.7.0")
        self.assertEqual(converse_all_ways(sent, tls=True).codes[-1], "555 5.5.4")

    def test_counts_survive_the_handshake(self) -> None:
        conversation = Conversation(self.OFFERED).greet()
        conversation.say(GREETED + 9 * b"WHAT\r\n" + b"STARTTLS\r\n")
        conversation.session.tls_started()
        self.assertEqual(conversation.say(b"WHAT\r\n"), b"421 4.7.0 Too many errors\r\n")


class Greeting(LimitTestCase):
    def test_greetings(self) -> None:
        for chosen, greeting in (
            (settings(), b"220 mx.example ESMTP\r\n"),
            (settings(banner="ready for you"), b"220 mx.example ESMTP ready for you\r\n"),
            (LMTP, b"220 mx.example LMTP\r\n"),
        ):
            session = ServerSession(chosen)
            self.assertEqual(session.greet(), [])
            self.assertEqual(session.output(), greeting)
            self.assertEqual(session.output(), b"")

    def test_early_talkers_are_sent_away(self) -> None:
        session = ServerSession(settings())
        self.assertEqual(session.receive(b"E"), [Closed(CloseReason.EARLY_TALKER)])
        self.assertEqual(session.output(), b"421 4.7.0 You talk before the greeting\r\n")
        self.assertEqual((session.greet(), session.receive(b"HLO x\r\n"), session.output()), ([], [], b""))

    def test_or_heard_after_the_greeting(self) -> None:
        session = ServerSession(settings(refuse_early_talkers=False))
        self.assertEqual(session.receive(b"HELO client\r\n"), [])
        self.assertEqual(session.output(), b"")
        self.assertEqual(session.greet(), [Hello("HELO", "client", False)])
        self.assertEqual(session.output(), b"220 mx.example ESMTP\r\n250 mx.example greets client\r\n")


class Driving(LimitTestCase):
    def test_input_behind_a_question_waits_and_asks_for_a_pause(self) -> None:
        session = ServerSession(settings())
        session.greet()
        events = session.receive(GREETED + ENVELOPE)
        self.assertIsInstance(events[-1], Mail)
        self.assertTrue(session.is_waiting)
        self.assertFalse(session.wants_pause)
        self.assertEqual(session.receive(b"NOOP\r\n" * (READ_AHEAD // 6 + 1)), [])
        self.assertTrue(session.wants_pause)
        self.assertIsInstance(session.reply(Reply(250, "2.1.0", "ok"))[-1], Rcpt)
        self.assertEqual(session.reply(Reply(250, "2.1.5", "ok"))[-1], Closed(CloseReason.IDLE_COMMANDS))
        self.assertFalse(session.wants_pause)

    def test_phases(self) -> None:
        conversation = Conversation().greet()
        session = conversation.session
        for sent, phase, in_transaction, in_data in (
            (b"", Phase.CONNECTED, False, False),
            (GREETED, Phase.GREETED, False, False),
            (b"MAIL FROM:<>\r\n", Phase.SENDER, True, False),
            (b"RCPT TO:<b@b.example>\r\n", Phase.RECIPIENTS, True, False),
            (b"BDAT 1\r\na", Phase.CHUNKS, True, False),
            (b"BDAT 2 LAST\r\na", Phase.CHUNKS, True, True),
            (b"b" + ENVELOPE + b"DATA\r\n", Phase.RECIPIENTS, True, True),
            (b".\r\n", Phase.GREETED, False, False),
        ):
            conversation.say(sent)
            self.assertEqual(
                (session.phase, session.in_transaction, session.in_data), (phase, in_transaction, in_data), repr(sent)
            )

    def test_answers_to_nothing_are_our_mistake(self) -> None:
        session = ServerSession(settings())
        session.greet()
        self.assertRaises(RuntimeError, session.reply, Reply(250))
        self.assertRaises(RuntimeError, session.reply_each, [Reply(250)])

    def test_too_few_or_too_many_replies_are_our_mistake(self) -> None:
        for chosen, hello in ((settings(), GREETED), (LMTP, b"LHLO client\r\n")):
            session = Conversation(chosen, {ContentEnd: lambda event: []}).greet()
            self.assertRaises(ValueError, session.say, hello + MESSAGE)
            self.assertTrue(session.session.is_waiting)
            self.assertEqual(session.session.reply_each([Reply(250, "2.0.0", "Ok")]), [])

    def test_unusable_replies_become_451(self) -> None:
        for code in (354, 100, 199, 600, 0):
            transcript = converse(GREETED + MESSAGE, answers={ContentEnd: lambda event, code=code: Reply(code, "", "?")})
            self.assertEqual(transcript.codes[-1], "451 4.3.0", str(code))
        self.assertEqual(converse(GREETED + ENVELOPE, answers={Mail: lambda event: None}).codes[1], "451 4.3.0")

    def test_enhanced_codes_are_there_once_and_of_the_right_class(self) -> None:
        for given, written in (
            (Reply(250, "", "x"), b"250 2.0.0 x"),
            (Reply(550, "2.1.5", "x"), b"550 5.0.0 x"),
            (Reply(450, "4.2.1", "x"), b"450 4.2.1 x"),
        ):
            transcript = converse(GREETED + ENVELOPE, answers={Mail: lambda event, given=given: given})
            self.assertIn(b"\r\n" + written + b"\r\n", transcript.output)

    def test_closing_from_outside(self) -> None:
        conversation = Conversation().greet()
        conversation.say(GREETED + ENVELOPE + b"DATA\r\nhalf a mess")
        self.assertEqual(conversation.session.close(Reply(421, "4.4.2", "Timeout")), [Closed(CloseReason.ENDED)])
        self.assertEqual(conversation.session.output(), b"421 4.4.2 Timeout\r\n")
        self.assertTrue(conversation.session.is_closed)
        self.assertFalse(conversation.session.in_data)
        self.assertEqual(conversation.session.close(), [])
        self.assertEqual(conversation.session.receive(b"age\r\n.\r\n"), [])

    def test_an_answer_that_comes_after_the_close_is_dropped(self) -> None:
        session = ServerSession(settings())
        session.greet()
        session.receive(GREETED + ENVELOPE)
        session.output()
        session.close()
        self.assertEqual(session.reply(Reply(250, "2.1.0", "ok")), [])
        self.assertEqual(session.reply_each([Reply(250, "2.1.0", "ok")]), [])
        self.assertEqual(session.output(), b"")
