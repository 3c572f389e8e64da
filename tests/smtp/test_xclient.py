"""XCLIENT and XFORWARD: the grammar of their values both ways, and what they do to a session of the engine."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.events import Event, Hello, Mail, XClient, XForward
from mailgate.smtp.reply import MailError, Reply
from mailgate.smtp.server import ServerSession
from mailgate.smtp.settings import ServerSettings
from mailgate.smtp.xclient import MAX_LINE, MAX_VALUE, NOTHING, XCLIENT, XFORWARD, Identity, encode, parse

OK = Reply(250, "2.0.0", "Ok")
LOGIN = ServerSettings("mx.test", xclient=True, xforward=True, auth_required=True, auth_mechanisms=("PLAIN",), insecure_auth=True)


class Grammar(SynchronousTestCase):
    def test_values(self) -> None:
        for argument, values in {
            b"NAME=Client.Test ADDR=192.0.2.7": {"NAME": "client.test", "ADDR": "192.0.2.7"},
            b"addr=ipv6:2001:DB8::0:7": {"ADDR": "2001:db8::7"},
            b"ADDR=2001:db8::7": {"ADDR": "2001:db8::7"},
            b"ADDR=IPV6:::ffff:192.0.2.7": {"ADDR": "192.0.2.7"},
            b"ADDR=[UNAVAILABLE] NAME=[tempunavail]  PORT=0": {"ADDR": "", "NAME": "", "PORT": "0"},
            b"PROTO=esmtp HELO=h+C3+A9llo+20there": {"PROTO": "ESMTP", "HELO": "h\xe9llo there"},
            b"LOGIN=a+2Bb+3Dc@x.test": {"LOGIN": "a+b=c@x.test"},
            b"HELO=+5BUNAVAILABLE]": {"HELO": "[UNAVAILABLE]"},
            b"DESTADDR=198.51.100.1 DESTPORT=65535": {"DESTADDR": "198.51.100.1", "DESTPORT": "65535"},
        }.items():
            with self.subTest(argument=argument):
                self.assertEqual(values, dict(parse("XCLIENT", argument).values))
        self.assertEqual({"SOURCE": "LOCAL", "IDENT": "4abc"}, dict(parse("XFORWARD", b"source=local IDENT=4abc").values))

    def test_refused(self) -> None:
        for argument in (
            b"",
            b"   ",
            b"ADDR",
            b"ADDR=",
            b"=1",
            b"ADDR=192.0.2.7 ADDR=192.0.2.8",
            b"ADDR=192.0.2.300",
            b"ADDR=192.0.02.7",
            b"ADDR=IPV6:fe80::1%eth0",
            b"ADDR=IPV6:fe80::1+25eth0",
            b"ADDR=mx.test",
            b"PORT=65536",
            b"PORT=-1",
            b"PORT=+30+31",
            b"PORT=25x",
            b"PROTO=HTTP",
            b"NAME=a+20b",
            b"NAME=a..",
            b"NAME=-",
            b"NAME=a(b)",
            b"HELO=a+0D+0Ab",
            b"HELO=a+00",
            b"HELO=a+7F",
            b"HELO=a+C2+85",
            b"HELO=a+E2+80+A8b",
            b"HELO=a+",
            b"HELO=a+4",
            b"HELO=a+GG",
            b"HELO=a=b",
            b"HELO=\xc3\xa9",
            b"HELO=+C3",
            b"HELO=" + b"x" * (MAX_VALUE + 1),
            b"LOGIN=a+0A",
            b"IDENT=1",
            b"SOURCE=LOCAL",
            b"WHAT=1",
            b"ADDR=192.0.2.7\tPORT=x",
        ):
            with self.subTest(argument=argument):
                error = self.assertRaises(MailError, parse, "XCLIENT", argument)
                self.assertEqual((501, "5.5.4"), (error.reply.code, error.reply.enhanced))
        for argument in (b"LOGIN=alice", b"DESTADDR=192.0.2.7", b"SOURCE=BOTH", b"IDENT=a+20b"):
            self.assertRaises(MailError, parse, "XFORWARD", argument)

    def test_only_what_is_offered_is_said(self) -> None:
        identity = Identity({"ADDR": "2001:db8::7", "NAME": "", "LOGIN": "a b+=", "HELO": "[UNAVAILABLE]"})
        self.assertEqual(
            [b"XCLIENT NAME=[UNAVAILABLE] HELO=+5BUNAVAILABLE] LOGIN=a+20b+2B+3D ADDR=IPV6:2001:db8::7"],
            encode("XCLIENT", identity, XCLIENT),
        )
        self.assertEqual([b"XCLIENT ADDR=IPV6:2001:db8::7"], encode("XCLIENT", identity, {"ADDR", "PORT"}))
        self.assertEqual([], encode("XCLIENT", identity, ()))

    def test_long_values_are_several_commands(self) -> None:
        identity = Identity({"NAME": "x" * 250, "HELO": "y" * 250, "LOGIN": "z" * 250, "ADDR": "192.0.2.7"})
        lines = encode("XCLIENT", identity, XCLIENT)
        self.assertEqual(3, len(lines))
        self.assertTrue(all(len(line) <= MAX_LINE for line in lines))
        self.assertTrue(lines[-1].endswith(b" ADDR=192.0.2.7"))


names = st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,10}){0,3}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=40)
addresses = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None).map(str)
ports = st.integers(0, 65535).map(str)
said = {
    "NAME": names,
    "ADDR": addresses,
    "PORT": ports,
    "PROTO": st.sampled_from(["SMTP", "ESMTP", "LMTP"]),
    "HELO": texts,
    "LOGIN": texts,
    "DESTADDR": addresses,
    "DESTPORT": ports,
    "IDENT": names,
    "SOURCE": st.sampled_from(["LOCAL", "REMOTE"]),
}


def identities(known: Any) -> st.SearchStrategy[Identity]:
    return st.fixed_dictionaries({}, optional={name: st.just("") | said[name] for name in known}).map(Identity)


class Properties(SynchronousTestCase):
    @given(st.sampled_from(["XCLIENT", "XFORWARD"]), st.data())
    def test_what_is_written_is_read(self, verb: str, data: st.DataObject) -> None:
        known = XCLIENT if verb == "XCLIENT" else XFORWARD
        identity = data.draw(identities(known))
        read = NOTHING
        for line in encode(verb, identity, known):
            word, _, argument = line.partition(b" ")
            self.assertEqual(verb.encode(), word)
            self.assertTrue(line.isascii() and line.decode().isprintable())
            read = read.with_more(parse(verb, argument))
        self.assertEqual(identity, read)

    @given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda noise: b"HELO=" + noise))
    def test_nothing_unprintable_comes_through(self, argument: bytes) -> None:
        try:
            identity = parse("XCLIENT", argument)
        except MailError:
            return
        self.assertTrue(
            all(ord(character) >= 32 and character != "\x7f" for text in identity.values.values() for character in text)
        )


class _Engine(SynchronousTestCase):
    def start(self, settings: ServerSettings = LOGIN, **options: Any) -> ServerSession:
        self.engine = ServerSession(settings, greeted=True, **options)
        return self.engine

    def say(self, line: bytes, *answers: Reply) -> tuple[list[Event], bytes]:
        events = self.engine.receive(line + b"\r\n")
        for answer in answers:
            events += self.engine.reply(answer)
        return events, self.engine.output()

    def code(self, line: bytes, *answers: Reply) -> bytes:
        return self.say(line, *answers)[1].splitlines()[-1][:9].rstrip()


class Trust(_Engine):
    def test_strangers(self) -> None:
        self.start(ServerSettings("mx.test"))
        for line in (b"XCLIENT ADDR=192.0.2.7", b"XCLIENT", b"XFORWARD ADDR=192.0.2.7"):
            self.assertEqual(b"550 5.7.0", self.code(line))
        _, hello = self.say(b"EHLO client.test")
        self.assertNotIn(b"XCLIENT", hello)
        self.assertNotIn(b"XFORWARD", hello)
        self.assertEqual(b"550 5.7.0", self.code(b"XCLIENT ADDR=192.0.2.7"))
        self.assertEqual(b"250 2.1.0", self.code(b"MAIL FROM:<a@x.test>", Reply(250, "2.1.0", "Ok")))
        self.assertEqual(b"550 5.7.0", self.code(b"XCLIENT ADDR=192.0.2.7"))

    def test_each_is_a_power_of_its_own(self) -> None:
        self.start(ServerSettings("mx.test", xforward=True))
        _, hello = self.say(b"EHLO client.test")
        self.assertNotIn(b"XCLIENT", hello)
        self.assertIn(b"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n", hello)
        self.assertEqual(b"550 5.7.0", self.code(b"XCLIENT ADDR=192.0.2.7"))

    def test_announced(self) -> None:
        self.start()
        _, hello = self.say(b"EHLO client.test")
        self.assertIn(b"250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n", hello)

    def test_not_to_those_who_say_helo(self) -> None:
        self.start()
        self.assertNotIn(b"XCLIENT", self.say(b"HELO client.test")[1])


class XClientCommand(_Engine):
    def test_a_new_greeting_and_everything_forgotten(self) -> None:
        self.start(ServerSettings("mx.test", xclient=True, banner="hello"))
        self.say(b"EHLO client.test")
        events, output = self.say(b"XCLIENT ADDR=192.0.2.7 NAME=c.test", OK)
        self.assertEqual([XClient(Identity({"ADDR": "192.0.2.7", "NAME": "c.test"}))], events)
        self.assertEqual(b"220 mx.test ESMTP hello\r\n", output)
        self.assertEqual(b"503 5.5.1", self.code(b"MAIL FROM:<a@x.test>"))
        self.assertEqual([Hello], [type(event) for event in self.say(b"EHLO client.test")[0]])

    def test_not_in_a_transaction(self) -> None:
        self.start(ServerSettings("mx.test", xclient=True, xforward=True))
        self.say(b"EHLO client.test")
        self.say(b"MAIL FROM:<a@x.test>", Reply(250, "2.1.0", "Ok"))
        for line in (b"XCLIENT ADDR=192.0.2.7", b"XCLIENT nonsense", b"XFORWARD ADDR=192.0.2.7"):
            self.assertEqual(b"503 5.5.1", self.code(line))
        self.assertTrue(self.engine.in_transaction)

    def test_all_or_nothing(self) -> None:
        self.start()
        for line in (b"XCLIENT ADDR=192.0.2.7 PORT=x", b"XCLIENT LOGIN=a ADDR=bad", b"XCLIENT", b"XCLIENT ADDR=192.0.2.7 WHAT=1"):
            events, output = self.say(line)
            self.assertEqual(([], b"501 5.5.4"), (events, output[:9]))
        self.assertFalse(self.engine.authenticated)

    def test_login(self) -> None:
        self.start()
        self.say(b"EHLO client.test")
        self.assertEqual(b"530 5.7.0", self.code(b"MAIL FROM:<a@x.test>"))
        self.say(b"XCLIENT LOGIN=alice", OK)
        self.assertTrue(self.engine.authenticated)
        self.say(b"EHLO client.test")
        self.assertEqual(b"250 2.1.0", self.code(b"MAIL FROM:<a@x.test>", Reply(250, "2.1.0", "Ok")))

    def test_a_login_of_before_is_forgotten(self) -> None:
        self.start()
        self.say(b"EHLO client.test")
        self.assertEqual(b"235 2.7.0", self.code(b"AUTH PLAIN AGEAYg==", Reply(235, "2.7.0", "Ok")))
        self.say(b"XCLIENT ADDR=192.0.2.7", OK)
        self.assertFalse(self.engine.authenticated)

    def test_several_add_up_until_there_was_a_transaction(self) -> None:
        self.start()
        self.say(b"XCLIENT LOGIN=alice", OK)
        events, _ = self.say(b"XCLIENT ADDR=192.0.2.7", OK)
        self.assertEqual([XClient(Identity({"LOGIN": "alice", "ADDR": "192.0.2.7"}))], events)
        self.assertTrue(self.engine.authenticated)
        self.say(b"EHLO client.test")
        self.say(b"MAIL FROM:<a@x.test>", Reply(250, "2.1.0", "Ok"))
        self.say(b"RSET")
        events, _ = self.say(b"XCLIENT ADDR=192.0.2.8", OK)
        self.assertEqual([XClient(Identity({"ADDR": "192.0.2.8"}))], events)
        self.assertFalse(self.engine.authenticated)

    def test_a_login_said_in_clear_ends_with_starttls(self) -> None:
        self.start(ServerSettings("mx.test", xclient=True, starttls=True, auth_required=True, auth_mechanisms=("PLAIN",)))
        self.say(b"XCLIENT LOGIN=alice NAME=c.test", OK)
        self.say(b"EHLO client.test")
        self.say(b"STARTTLS")
        self.engine.tls_started()
        self.assertFalse(self.engine.authenticated)
        events, _ = self.say(b"XCLIENT ADDR=192.0.2.7", OK)
        self.assertEqual([XClient(Identity({"NAME": "c.test", "ADDR": "192.0.2.7"}))], events)
        self.assertFalse(self.engine.authenticated)

    def test_a_refusal_stands_in_place_of_the_greeting_and_closes(self) -> None:
        for refusal in (Reply(554, "5.7.1", "Not you"), Reply(421, "4.7.0", "Not now"), Reply(450, "4.7.1", "Later")):
            self.start()
            events, output = self.say(b"XCLIENT ADDR=192.0.2.7", refusal)
            self.assertEqual(refusal.encode(), output)
            self.assertTrue(self.engine.is_closed)
            self.assertEqual(2, len(events))

    def test_counts_begin_again(self) -> None:
        self.start(ServerSettings("mx.test", xclient=True, max_errors=3))
        for _ in range(4):
            self.assertEqual(b"500 5.5.1", self.code(b"JUNK"))
            self.assertEqual(b"500 5.5.1", self.code(b"JUNK"))
            self.say(b"XCLIENT ADDR=192.0.2.7", OK)
        self.assertFalse(self.engine.is_closed)

    def test_what_is_pipelined_behind_waits(self) -> None:
        self.start()
        events = self.engine.receive(b"XCLIENT ADDR=192.0.2.7\r\nEHLO client.test\r\n")
        self.assertEqual([XClient], [type(event) for event in events])
        self.assertEqual(b"", self.engine.output())
        self.assertEqual([Hello], [type(event) for event in self.engine.reply(OK)])
        self.assertEqual(b"220 mx.test", self.engine.output()[:11])

    def test_also_in_lmtp(self) -> None:
        self.start(ServerSettings("mx.test", xclient=True, lmtp=True))
        self.assertIn(b"XCLIENT", self.say(b"LHLO client.test")[1])
        self.assertEqual(b"220 mx.test LMTP\r\n", self.say(b"XCLIENT ADDR=192.0.2.7", OK)[1])


class XForwardCommand(_Engine):
    def test_told_and_answered(self) -> None:
        self.start()
        events, output = self.say(b"XFORWARD NAME=c.test ADDR=192.0.2.7 IDENT=4abc SOURCE=REMOTE")
        expected = Identity({"NAME": "c.test", "ADDR": "192.0.2.7", "IDENT": "4abc", "SOURCE": "REMOTE"})
        self.assertEqual(([XForward(expected)], b"250 2.0.0 Ok\r\n"), (events, output))

    def test_several_add_up(self) -> None:
        self.start()
        self.say(b"XFORWARD NAME=c.test")
        events, _ = self.say(b"XFORWARD ADDR=192.0.2.7")
        self.assertEqual([XForward(Identity({"NAME": "c.test", "ADDR": "192.0.2.7"}))], events)

    def test_for_one_transaction(self) -> None:
        ends = {
            "RSET": [b"RSET"],
            "hello": [b"EHLO other.test"],
            "a message": [b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@x.test>", b"DATA", b"\r\n."],
            "RSET in a transaction": [b"MAIL FROM:<a@x.test>", b"RSET"],
        }
        for name, lines in ends.items():
            with self.subTest(end=name):
                self.start(ServerSettings("mx.test", xforward=True))
                self.say(b"EHLO client.test")
                self.say(b"XFORWARD NAME=c.test")
                events: list[Event] = []
                for line in lines:
                    self.assertNotIn(XForward(NOTHING), events)
                    events += self.say(line)[0]
                    while self.engine.is_waiting:
                        kind = events[-1]
                        events += self.engine.reply(Reply(250, "2.1.0", "Ok") if isinstance(kind, Mail) else OK)
                self.assertIn(XForward(NOTHING), events)

    def test_not_forgotten_with_a_refused_sender(self) -> None:
        self.start(ServerSettings("mx.test", xforward=True))
        self.say(b"EHLO client.test")
        self.say(b"XFORWARD NAME=c.test")
        events, _ = self.say(b"MAIL FROM:<a@x.test>", Reply(550, "5.7.1", "No"))
        self.assertEqual([Mail], [type(event) for event in events])
