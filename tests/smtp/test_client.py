"""The client's engine: what it says, what it makes of replies, at every cut of the input."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.address import NULL_ADDRESS, Address
from mailgate.smtp.client import (
    Capabilities,
    ClientSession,
    CommandError,
    Step,
    parse_capabilities,
)
from mailgate.smtp.reply import Reply
from mailgate.smtp.reply_parser import MAX_REPLY_LINES, MAX_REPLY_SIZE, Fault, ReplyParser
from mailgate.smtp.sasl import External, Login, Plain, SaslError

A, B = Address("a", "x.example"), Address("b", "y.example")

REPLIES: list[tuple[bytes, list[Reply], Fault | None]] = [
    (b"250 ok\r\n", [Reply(250, "", "ok")], None),
    (b"250\r\n", [Reply(250, "", "")], None),
    (b"250 \r\n", [Reply(250, "", "")], None),
    (b"250 2.1.5 Ok\r\n", [Reply(250, "2.1.5", "Ok")], None),
    (b"250 2.1.5\r\n", [Reply(250, "2.1.5", "")], None),
    (b"550 2.1.5 liar\r\n", [Reply(550, "", "liar")], None),
    (b"250 ok\n", [Reply(250, "", "ok")], None),
    (b"250-one\r\n250 two\r\n", [Reply(250, "", "one\ntwo")], None),
    (b"550-5.1.1 one\r\n550-5.1.1 two\r\n550 5.1.1 three\r\n", [Reply(550, "5.1.1", "one\ntwo\nthree")], None),
    (b"250-\r\n250\r\n", [Reply(250, "", "\n")], None),
    (b"354 go\r\n250 2.0.0 done\r\n", [Reply(354, "", "go"), Reply(250, "2.0.0", "done")], None),
    (b"150 wait\r\n", [Reply(150, "", "wait")], None),
    (b"550 n\xc3\xb6\x00\x07\tx\r\n", [Reply(550, "", "n??? x")], None),
    (b"550 a\rb\r\n", [Reply(550, "", "a?b")], None),
    (b"250 ok\r\n250", [Reply(250, "", "ok")], None),
    (b"", [], None),
    (b"\r\n", [], Fault.NOT_A_REPLY),
    (b"hello\r\n", [], Fault.NOT_A_REPLY),
    (b"25 ok\r\n", [], Fault.NOT_A_REPLY),
    (b"2500 ok\r\n", [], Fault.NOT_A_REPLY),
    (b"250_ok\r\n", [], Fault.NOT_A_REPLY),
    (b"050 ok\r\n", [], Fault.NOT_A_REPLY),
    (b"650 ok\r\n", [], Fault.NOT_A_REPLY),
    (b"\xb2\xb2\xb2 ok\r\n", [], Fault.NOT_A_REPLY),
    (b" 250 ok\r\n", [], Fault.NOT_A_REPLY),
    (b"2x0-a\r\n2x0 b\r\n", [], Fault.NOT_A_REPLY),
    (b"250 ok\r\ngarbage\r\n250 ok\r\n", [Reply(250, "", "ok")], Fault.NOT_A_REPLY),
    (b"250-one\r\n251 two\r\n", [], Fault.CODES_DIFFER),
    (b"250-one\r\ngarbage\r\n", [], Fault.CODES_DIFFER),
    (b"250-x\r\n" * MAX_REPLY_LINES + b"250 x\r\n", [], Fault.TOO_MANY_LINES),
    (b"250 " + b"x" * MAX_REPLY_SIZE + b"\r\n", [], Fault.TOO_LONG),
    (b"x" * (MAX_REPLY_SIZE + 1), [], Fault.TOO_LONG),
]


def _fed(pieces: list[bytes]) -> tuple[list[Reply], Fault | None]:
    parser = ReplyParser()
    replies = [reply for piece in pieces for reply in parser.feed(piece)]
    return replies, parser.fault


class ReplyParserTest(SynchronousTestCase):
    def test_whole(self) -> None:
        for data, replies, fault in REPLIES:
            self.assertEqual(_fed([data]), (replies, fault), data[:60])

    def test_at_every_cut(self) -> None:
        for data, replies, fault in REPLIES:
            if len(data) < 100:
                for cut in range(len(data)):
                    self.assertEqual(_fed([data[:cut], data[cut:]]), (replies, fault), (data, cut))

    def test_octet_by_octet(self) -> None:
        for data, replies, fault in REPLIES:
            if len(data) < 2000:
                self.assertEqual(_fed([data[at : at + 1] for at in range(len(data))]), (replies, fault), data[:60])

    def test_as_many_lines_as_allowed(self) -> None:
        replies, fault = _fed([b"250-x\r\n" * (MAX_REPLY_LINES - 1) + b"250 x\r\n"])
        self.assertEqual((len(replies), fault), (1, None))

    def test_the_limits_are_of_each_reply(self) -> None:
        line = b"250 " + b"x" * 60_000 + b"\r\n"
        replies, fault = _fed([line[:5], line[5:] + line, line])
        self.assertEqual((len(replies), fault), (3, None))

    def test_a_long_reply_is_given_up_at_the_same_octet_however_it_is_cut(self) -> None:
        for size, fault in ((MAX_REPLY_SIZE, None), (MAX_REPLY_SIZE + 1, Fault.TOO_LONG)):
            data = b"250 " + b"x" * (size - 6) + b"\r\n"
            for cut in (1, 5, size - 2, size - 1):
                self.assertEqual(_fed([data[:cut], data[cut:]])[1], fault)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.one_of(st.sampled_from([row[0] for row in REPLIES if len(row[0]) < 100]), st.binary(max_size=40)), max_size=6
        ).map(b"".join),
        st.lists(st.integers(0, 200), max_size=8),
    )
    def test_any_input_at_any_cuts(self, data: bytes, cuts: list[int]) -> None:
        places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
        pieces = [data[start:end] for start, end in itertools.pairwise(places)] or [b""]
        self.assertEqual(_fed(pieces), _fed([data]))


class CapabilitiesTest(SynchronousTestCase):
    def test_table(self) -> None:
        for text, expected in [
            ("hop", Capabilities()),
            ("hop\nPIPELINING\nsize 1000", Capabilities(pipelining=True, size=1000)),
            ("hop\nSIZE", Capabilities(size=0)),
            ("hop\nSIZE x", Capabilities(size=0)),
            ("PIPELINING\nDSN", Capabilities(dsn=True)),
            ("hop\nAUTH plain LOGIN\nAUTH=CRAM-MD5", Capabilities(mechanisms=frozenset({"PLAIN", "LOGIN", "CRAM-MD5"}))),
            ("hop\n\nX-OTHER 1\nSTARTTLS", Capabilities(starttls=True)),
            ("hop\n8BITMIME\nSMTPUTF8\nCHUNKING", Capabilities(eight_bit=True, smtputf8=True, chunking=True)),
            ("hop\nBINARYMIME\nREQUIRETLS", Capabilities(binary=True, requiretls=True)),
        ]:
            self.assertEqual(parse_capabilities(text), expected, text)


def ready(*extensions: str, lmtp: bool = False, trace: Any = None) -> ClientSession:
    """A session behind its hello."""
    session = ClientSession("gw.example", lmtp=lmtp, trace=trace)
    session.receive(b"220 hi\r\n")
    session.hello()
    session.output()
    lines = ["hop", *extensions]
    session.receive("".join(f"250{' ' if at == len(lines) - 1 else '-'}{line}\r\n" for at, line in enumerate(lines)).encode())
    return session


class DialogueTest(SynchronousTestCase):
    def test_a_pipelined_message(self) -> None:
        session = ready("PIPELINING")
        session.mail(A, ("SIZE=5",))
        session.rcpt(B)
        session.data()
        self.assertEqual(session.output(), b"MAIL FROM:<a@x.example> SIZE=5\r\nRCPT TO:<b@y.example>\r\nDATA\r\n")
        answers = session.receive(b"250 a\r\n250 b\r\n354 c\r\n")
        self.assertEqual([(a.step, a.reply.code) for a in answers], [(Step.MAIL, 250), (Step.RCPT, 250), (Step.DATA, 354)])
        self.assertTrue(session.content_open)
        session.content(b"x\r\n")
        session.end_content(b".\r\n")
        self.assertEqual(session.output(), b"x\r\n.\r\n")
        self.assertEqual([a.step for a in session.receive(b"250 ok\r\n")], [Step.DOT])
        self.assertFalse(session.pending or session.in_transaction or session.content_open)

    def test_without_pipelining_each_waits(self) -> None:
        session = ready()
        session.mail(A)
        session.rcpt(B)
        session.data()
        said = []
        for reply in (b"250 a\r\n", b"250 b\r\n", b"354 c\r\n"):
            said.append(session.output())
            session.receive(reply)
        self.assertEqual(said, [b"MAIL FROM:<a@x.example>\r\n", b"RCPT TO:<b@y.example>\r\n", b"DATA\r\n"])

    def test_nothing_follows_data_in_its_group(self) -> None:
        session = ready("PIPELINING")
        session.mail(A)
        session.data()
        session.quit()
        self.assertEqual(session.output(), b"MAIL FROM:<a@x.example>\r\nDATA\r\n")

    def test_what_was_held_behind_a_refused_mail_is_dropped(self) -> None:
        session = ready()
        session.mail(A)
        session.rcpt(B)
        session.data()
        session.output()
        self.assertEqual([a.reply.code for a in session.receive(b"550 no\r\n")], [550])
        self.assertEqual((session.output(), session.pending), (b"", deque()))

    def test_the_null_sender(self) -> None:
        session = ready()
        session.mail(NULL_ADDRESS)
        self.assertEqual(session.output(), b"MAIL FROM:<>\r\n")

    def test_nothing_may_be_said_before_the_answer_to_the_dot(self) -> None:
        session = self.in_content()
        session.end_content(b".\r\n")
        for say in (session.quit, session.rset, session.noop, lambda: session.mail(A)):
            self.assertRaises(RuntimeError, say)

    def test_no_command_inside_the_content(self) -> None:
        self.assertRaises(RuntimeError, self.in_content().quit)

    def test_no_content_outside_of_data(self) -> None:
        self.assertRaises(RuntimeError, ready().content, b"x")
        self.assertRaises(RuntimeError, ready().end_content, b".\r\n")

    def in_content(self, lmtp: bool = False) -> ClientSession:
        session = ready("PIPELINING", lmtp=lmtp)
        session.mail(A)
        session.rcpt(B)
        session.rcpt(B)
        session.rcpt(B)
        session.data()
        session.output()
        session.receive(b"250 a\r\n250 b\r\n550 c\r\n250 d\r\n354 go\r\n")
        return session

    def test_lmtp_has_one_answer_for_each_accepted_recipient(self) -> None:
        session = self.in_content(lmtp=True)
        session.end_content(b".\r\n")
        self.assertEqual([a.reply.code for a in session.receive(b"250 one\r\n452 two\r\n")], [250, 452])
        self.assertFalse(session.pending)

    def test_a_surplus_answer_is_a_fault(self) -> None:
        session = self.in_content(lmtp=True)
        session.end_content(b".\r\n")
        self.assertEqual(len(session.receive(b"250 1\r\n250 2\r\n250 3\r\n")), 2)
        self.assertIs(session.fault, Fault.UNASKED)

    def test_an_answer_before_the_dot_is_told_apart(self) -> None:
        session = self.in_content()
        self.assertEqual([a.step for a in session.receive(b"451 no\r\n")], [Step.BODY])

    def test_421_while_idle(self) -> None:
        session = ready()
        self.assertEqual([(a.step, a.reply.code) for a in session.receive(b"421 bye\r\n")], [(Step.IDLE, 421)])

    def test_anything_else_while_idle_is_a_fault(self) -> None:
        session = ready()
        self.assertEqual(session.receive(b"250 ok\r\n"), [])
        self.assertIs(session.fault, Fault.UNASKED)

    def test_rset_ends_the_transaction(self) -> None:
        session = ready("PIPELINING")
        session.mail(A)
        session.receive(b"250 ok\r\n")
        self.assertTrue(session.in_transaction)
        session.rset()
        session.receive(b"250 ok\r\n")
        self.assertFalse(session.in_transaction)

    def test_chunks(self) -> None:
        session = ready("PIPELINING", "CHUNKING", lmtp=True)
        session.mail(A)
        session.rcpt(B)
        session.rcpt(B)
        session.output()
        session.receive(b"250 a\r\n250 b\r\n250 c\r\n")
        session.chunk(b"abc", last=False)
        self.assertEqual(session.output(), b"BDAT 3\r\nabc")
        self.assertEqual([a.step for a in session.receive(b"250 3 octets\r\n")], [Step.CHUNK])
        session.chunk(b"", last=True)
        self.assertEqual(session.output(), b"BDAT 0 LAST\r\n")
        self.assertEqual([a.step for a in session.receive(b"250 a\r\n250 b\r\n")], [Step.DOT, Step.DOT])

    def test_every_cut_of_a_dialogue(self) -> None:
        data = b"250 a\r\n250-b\r\n250 b\r\n550 c\r\n250 d\r\n354 go\r\n421 no\r\n"
        for cut in range(len(data) + 1):
            session = ready("PIPELINING")
            session.mail(A)
            for _ in range(3):
                session.rcpt(B)
            session.data()
            answers = [*session.receive(data[:cut]), *session.receive(data[cut:])]
            self.assertEqual([a.reply.code for a in answers], [250, 250, 550, 250, 354, 421], cut)
            self.assertIs(answers[-1].step, Step.BODY)


class StartTlsTest(SynchronousTestCase):
    def start(self) -> ClientSession:
        session = ready("STARTTLS", "SIZE 1")
        session.starttls()
        self.assertEqual(session.output(), b"STARTTLS\r\n")
        return session

    def test_what_was_announced_before_is_forgotten(self) -> None:
        session = self.start()
        self.assertEqual([a.step for a in session.receive(b"220 go\r\n")], [Step.STARTTLS])
        session.tls_started()
        self.assertEqual(session.capabilities, Capabilities())

    def test_bytes_behind_the_220(self) -> None:
        for behind in (b"250 x\r\n", b"2", b"250 x\r\n250 y\r\n", b"\x16\x03\x01"):
            session = self.start()
            self.assertEqual([a.reply.code for a in session.receive(b"220 go\r\n" + behind)], [220])
            self.assertIs(session.fault, Fault.INJECTION, behind)

    def test_the_same_reply_twice_behind_it(self) -> None:
        session = self.start()
        session.receive(b"220 go\r\n220 go\r\n")
        self.assertIs(session.fault, Fault.INJECTION)

    def test_bytes_behind_a_refusal_are_judged_as_ever(self) -> None:
        session = self.start()
        session.receive(b"454 no\r\n250 x\r\n")
        self.assertIs(session.fault, Fault.UNASKED)


class AuthTest(SynchronousTestCase):
    def test_plain(self) -> None:
        session = ready("AUTH PLAIN")
        session.auth(Plain("u", "p"))
        self.assertEqual(session.output(), b"AUTH PLAIN AHUAcA==\r\n")
        self.assertEqual([(a.step, a.reply.code) for a in session.receive(b"235 2.7.0 ok\r\n")], [(Step.AUTH, 235)])

    def test_a_long_secret_waits_for_the_challenge(self) -> None:
        session = ready("AUTH PLAIN")
        session.auth(Plain("u", "p" * 500))
        self.assertEqual(session.output(), b"AUTH PLAIN\r\n")
        self.assertEqual(session.receive(b"334 \r\n"), [])
        self.assertTrue(session.output().startswith(b"AHUAcHBw"))

    def test_login_does_not_read_its_prompts(self) -> None:
        session = ready("AUTH LOGIN")
        session.auth(Login("u", "p"))
        said = [session.output()]
        for prompt in (b"334 VXNlcm5hbWU6\r\n", b"334 \r\n"):
            self.assertEqual(session.receive(prompt), [])
            said.append(session.output())
        self.assertEqual(said, [b"AUTH LOGIN\r\n", b"dQ==\r\n", b"cA==\r\n"])
        self.assertEqual([a.reply.code for a in session.receive(b"535 no\r\n")], [535])

    def test_external(self) -> None:
        session = ready("AUTH EXTERNAL")
        session.auth(External())
        self.assertEqual(session.output(), b"AUTH EXTERNAL =\r\n")

    def test_a_challenge_without_an_answer_cancels(self) -> None:
        for challenge in (b"334 \r\n", b"334 !!\r\n"):
            session = ready("AUTH PLAIN")
            session.auth(Plain("u", "p"))
            session.output()
            session.receive(challenge)
            self.assertEqual(session.output(), b"*\r\n")
            self.assertEqual([a.reply.code for a in session.receive(b"501 cancelled\r\n")], [501])

    def test_an_endless_server_is_not_answered_for_ever(self) -> None:
        session = ready("AUTH LOGIN")
        session.auth(Login("u", "p"))
        for _ in range(4):
            answers = session.receive(b"334 \r\n")
        self.assertEqual([a.reply.code for a in answers], [334])

    def test_nul_in_credentials(self) -> None:
        self.assertRaises(SaslError, Plain, "u\0x", "p")
        self.assertRaises(SaslError, Login, "u", "p\0")

    def test_the_trace_has_no_secrets(self) -> None:
        seen: list[str] = []
        session = ready("AUTH LOGIN PLAIN", trace=lambda direction, text: seen.append(text))
        session.auth(Plain("user", "password"))
        session.receive(b"535 no\r\n")
        session.auth(Login("user", "password"))
        session.receive(b"334 \r\n")
        session.receive(b"334 \r\n")
        self.assertEqual(
            [text for text in seen if "AUTH" in text or "*" in text][-4:], ["AUTH PLAIN ***", "AUTH LOGIN", "***", "***"]
        )


HOSTILE = [
    "a\r\nRSET",
    "a\nb",
    "a\rb",
    "a\0b",
    "a>b",
    "a<b",
    "a b",
    "a\tb",
    'a"b',
    "a\\b",
    "a@b",
    '"a',
    '"a"b"',
    '"a\r"',
    "\x7f",
    '"\\\r"',
]


class InjectionTest(SynchronousTestCase):
    """Nothing a client wrote leaves its place in a command."""

    def test_addresses(self) -> None:
        for local_part in HOSTILE:
            session = ready("PIPELINING")
            for say in (session.mail, session.rcpt):
                self.assertRaises(CommandError, say, Address(local_part, "x.example"))
                self.assertRaises(CommandError, say, Address("a", local_part))
            self.assertEqual((session.output(), session.pending), (b"", deque()), local_part)

    def test_parameters(self) -> None:
        for value in ("X=\r\n", "X=a b", "X=\0", "X=\x7f", "", "X=ä"):
            session = ready()
            self.assertRaises(CommandError, session.mail, A, (value,))
            self.assertRaises(CommandError, session.rcpt, A, (value,))
            self.assertEqual(session.output(), b"")

    def test_a_hostname(self) -> None:
        self.assertRaises(CommandError, ClientSession, "gw\r\nX")

    def test_addresses_that_are_odd_but_harmless(self) -> None:
        for address in (Address('"a b"', "x"), Address('"a\\"b"', "x"), Address("a", "[IPv6:::1]"), Address("Postmaster", "")):
            session = ready()
            session.rcpt(address)
            self.assertEqual(session.output(), f"RCPT TO:<{address}>\r\n".encode())

    def test_internationalized(self) -> None:
        session = ready()
        session.mail(Address("bü", "bücher.example"))
        self.assertEqual(session.output(), "MAIL FROM:<bü@bücher.example>\r\n".encode())
        self.assertRaises(CommandError, ready().mail, Address("\udc80", "x"))

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=10))
    def test_one_line_or_nothing(self, local_part: str, domain: str, parameter: str) -> None:
        session = ready()
        try:
            session.rcpt(Address(local_part, domain), (parameter,))
        except CommandError:
            self.assertEqual(session.output(), b"")
            return
        said = session.output()
        self.assertEqual((said.count(b"\r"), said.count(b"\n"), said.count(b"\0")), (1, 1, 0))
        self.assertTrue(said.endswith(b"\r\n"))
        self.assertEqual(said.count(b">") - (b">" in parameter.encode()) * parameter.count(">"), 1 + _quoted(local_part, ">"))


def _quoted(local_part: str, character: str) -> int:
    return local_part.count(character) if local_part.startswith('"') else 0
