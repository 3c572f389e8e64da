"""SASL mechanisms of the server: every exchange, everything that is wrong with one, and scramp as the other end of SCRAM."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from typing import Any

import scramp
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.interfaces import Identity
from mailgate.smtp.sasl_server import (
    MECHANISMS,
    Challenge,
    CheckCertificate,
    CheckPassword,
    CheckToken,
    FindKeys,
    FindSecret,
    Malformed,
    Proved,
    Refusal,
    Scene,
    decode,
)
from mailgate.smtp.saslprep import saslprep
from mailgate.smtp.scram import ClientFirst, ScramError, ScramKeys, decoy_keys, read_first

ALICE = Identity("alice")
BOSS = Identity("boss", frozenset({"alice", "bob"}))
SCENE = Scene("mx.example", nonce="n0nce", time=1700000000)
KEYS = ScramKeys.derive("pencil", b"0123456789abcdef")
BINDINGS = {"tls-exporter": b"\x01" * 32, "tls-server-end-point": b"\x02" * 32}


def answer(question: Any) -> Any:
    """A user data base: alice knows `secret` (and `pencil` for SCRAM), boss may act as others."""
    if isinstance(question, CheckPassword):
        return {("alice", "secret"): ALICE, ("boss", "secret"): BOSS}.get((question.user, question.password))
    if isinstance(question, FindSecret):
        return (ALICE, "secret") if question.user == "alice" else None
    if isinstance(question, FindKeys):
        return (ALICE, KEYS) if question.user == "alice" else (None, decoy_keys(question.user, b"x"))
    if isinstance(question, CheckToken):
        return ALICE if question.token == "t0ken" and question.user in ("", "alice") else None
    assert isinstance(question, CheckCertificate)
    return BOSS


def run(mechanism: str, *responses: bytes, scene: Scene = SCENE) -> tuple[list[Challenge], Any]:
    """The challenges, and who it is: `Proved`, None, or "unfinished"."""
    exchange = MECHANISMS[mechanism].exchange(scene)
    said = []
    waiting = list(responses)
    value: Any = None
    while True:
        try:
            step = exchange.send(value)
        except StopIteration as stop:
            return said, stop.value
        if isinstance(step, Challenge):
            said.append(step)
            if not waiting:
                return said, "unfinished"
            value = waiting.pop(0)
        else:
            value = answer(step)


def cram(user: str, password: str) -> bytes:
    challenge = b"<n0nce.1700000000@mx.example>"
    return f"{user} {hmac.digest(password.encode(), challenge, 'md5').hex()}".encode()


EXCHANGES: list[tuple[str, list[bytes], str | None]] = [
    # mechanism, responses, whose session it is then (None: refused)
    ("PLAIN", [b"\0alice\0secret"], "alice"),
    ("PLAIN", [b"alice\0alice\0secret"], "alice"),
    ("PLAIN", [b"alice\0\0secret"], "alice"),
    ("PLAIN", [b"\0alice\0wrong"], None),
    ("PLAIN", [b"\0nobody\0secret"], None),
    ("PLAIN", [b"bob\0alice\0secret"], None),
    ("PLAIN", [b"bob\0boss\0secret"], "bob"),
    ("PLAIN", [b"carol\0boss\0secret"], None),
    ("PLAIN", [b"\0alice\0"], None),
    ("PLAIN", [b"\0\0secret"], None),
    ("PLAIN", [b"\0alice\r\nMAIL FROM:<x>\0secret"], None),
    ("PLAIN", [b"\0alice\n\0secret"], None),
    ("PLAIN", [b"a\rb\0alice\0secret"], None),
    ("PLAIN", [b"\0" + b"a" * 256 + b"\0secret"], None),
    ("LOGIN", [b"alice", b"secret"], "alice"),
    ("LOGIN", [b"alice", b"wrong"], None),
    ("LOGIN", [b"alice", b""], None),
    ("LOGIN", [b"", b"secret"], None),
    ("LOGIN", [b"ali\nce", b"secret"], None),
    ("CRAM-MD5", [cram("alice", "secret")], "alice"),
    ("CRAM-MD5", [cram("alice", "secret").replace(b"alice", b"al ice")], None),
    ("CRAM-MD5", [cram("alice", "secret").upper().replace(b"ALICE", b"alice")], "alice"),
    ("CRAM-MD5", [cram("alice", "wrong")], None),
    ("CRAM-MD5", [cram("nobody", "secret")], None),
    ("CRAM-MD5", [cram("nobody", "n0nce")], None),
    ("XOAUTH2", [b"user=alice\x01auth=Bearer t0ken\x01\x01"], "alice"),
    ("XOAUTH2", [b"user=alice\x01auth=bearer t0ken\x01\x01"], "alice"),
    ("XOAUTH2", [b"user=alice\x01auth=Bearer wrong\x01\x01", b""], None),
    ("XOAUTH2", [b"user=bob\x01auth=Bearer t0ken\x01\x01", b""], None),
    ("OAUTHBEARER", [b"n,a=alice,\x01host=x\x01port=587\x01auth=Bearer t0ken\x01\x01"], "alice"),
    ("OAUTHBEARER", [b"n,,\x01auth=Bearer t0ken\x01\x01"], "alice"),
    ("OAUTHBEARER", [b"y,a=alice,\x01auth=Bearer t0ken\x01\x01"], "alice"),
    ("OAUTHBEARER", [b"n,a=alice,\x01auth=Bearer wrong\x01\x01", b"\x01"], None),
    ("OAUTHBEARER", [b"n,a=alice,\x01auth=Basic t0ken\x01\x01", b"\x01"], None),
    ("EXTERNAL", [b""], "boss"),
    ("EXTERNAL", [b"boss"], "boss"),
    ("EXTERNAL", [b"bob"], "bob"),
    ("EXTERNAL", [b"carol"], None),
    ("EXTERNAL", [b"bo\rss"], None),
]  # fmt: skip

MALFORMED: list[tuple[str, list[bytes]]] = [
    ("PLAIN", [b""]),
    ("PLAIN", [b"alice secret"]),
    ("PLAIN", [b"\0alice\0sec\0ret"]),
    ("PLAIN", [b"\0alice\0\xff"]),
    ("LOGIN", [b"\xff", b"x"]),
    ("CRAM-MD5", [b"alice"]),
    ("CRAM-MD5", [b"\xff 0123"]),
    ("SCRAM-SHA-256", [b"n,,n=alice"]),
    ("SCRAM-SHA-256", [b"n,,m=ext,n=alice,r=abc"]),
    ("SCRAM-SHA-256", [b"n,,n=ali=ce,r=abc"]),
    ("SCRAM-SHA-256", [b"n,,n=alice,r="]),
    ("SCRAM-SHA-256", [b"n,,n=alice,r=abc", b"nonsense"]),
    ("SCRAM-SHA-256", [b"n,,n=alice,r=abc", b"c=biws,r=abcn0nce,p=AAAA"]),
    ("XOAUTH2", [b"alice t0ken"]),
    ("XOAUTH2", [b"user=alice\x01auth=Bearer t0ken\x01"]),
    ("OAUTHBEARER", [b"n,a=alice,"]),
    ("OAUTHBEARER", [b"p=tls-exporter,a=alice,\x01auth=Bearer t0ken\x01\x01"]),
]  # fmt: skip


class Exchanges(SynchronousTestCase):
    def test_table(self) -> None:
        for mechanism, responses, user in EXCHANGES:
            with self.subTest(f"{mechanism} {responses}"):
                _, proved = run(mechanism, *responses)
                self.assertEqual(user, proved.user if isinstance(proved, Proved) else proved)

    def test_what_is_no_message_of_the_mechanism(self) -> None:
        for mechanism, responses in MALFORMED:
            with self.subTest(f"{mechanism} {responses}"):
                self.assertRaises(Malformed, run, mechanism, *responses)

    def test_prompts(self) -> None:
        self.assertEqual([b"Username:", b"Password:"], [one.data for one in run("LOGIN", b"a")[0]])
        self.assertEqual([b"<n0nce.1700000000@mx.example>"], [one.data for one in run("CRAM-MD5")[0]])

    def test_a_refused_token_is_explained_in_json_and_then_refused(self) -> None:
        said, proved = run("XOAUTH2", b"user=alice\x01auth=Bearer wrong\x01\x01")
        self.assertIsInstance(said[-1], Refusal)
        self.assertEqual("401", json.loads(said[-1].data)["status"])
        self.assertEqual("unfinished", proved)
        said, _ = run("OAUTHBEARER", b"n,a=alice,\x01auth=Bearer wrong\x01\x01")
        self.assertEqual("invalid_token", json.loads(said[-1].data)["status"])

    def test_every_mechanism_has_a_row_here_or_below(self) -> None:
        rows = {mechanism for mechanism, _, _ in EXCHANGES}
        self.assertEqual(set(MECHANISMS), rows | {"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"})

    def test_base64(self) -> None:
        self.assertEqual(b"", decode(b"=", initial=True))
        self.assertEqual(b"", decode(b"", initial=False))
        self.assertEqual(b"alice", decode(b"YWxpY2U=", initial=False))
        for wrong, initial in ((b"=", False), (b"YWxpY2U", True), (b"Y W x", True), (b"\xff", True), (b"====", True)):
            self.assertRaises(Malformed, decode, wrong, initial=initial)

    @given(st.sampled_from(sorted(MECHANISMS)), st.lists(st.binary(max_size=60), max_size=4))
    @settings(max_examples=150, deadline=None)
    def test_nothing_but_malformed_is_raised(self, mechanism: str, responses: list[bytes]) -> None:
        try:
            _, proved = run(mechanism, *responses, scene=Scene("mx", "n", bindings=BINDINGS, plus_offered=True))
        except Malformed:
            return
        self.assertTrue(proved in (None, "unfinished") or mechanism == "EXTERNAL", proved)


def scram(client: Any, plus: bool = False, scene: Scene | None = None) -> Any:
    """Our server against a client with scramp's methods; returns who it is."""
    scene = scene or Scene("mx", "servernonce", bindings=BINDINGS, plus_offered=True)
    exchange = MECHANISMS["SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256"].exchange(scene)
    exchange.send(None)
    question: Any = exchange.send(client.get_client_first().encode())
    challenge: Any = exchange.send(answer(question))
    client.set_server_first(challenge.data.decode())
    final: Any = exchange.send(client.get_client_final().encode())
    client.set_server_final(final.data.decode())
    try:
        exchange.send(b"")
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the exchange goes on")


class Scram(SynchronousTestCase):
    def test_scramp_logs_in_at_our_server(self) -> None:
        client = scramp.ScramClient(["SCRAM-SHA-256"], "alice", "pencil")
        self.assertEqual("alice", scram(client).user)

    def test_scramp_with_a_channel_binding(self) -> None:
        binding = ("tls-server-end-point", BINDINGS["tls-server-end-point"])
        client = scramp.ScramClient(["SCRAM-SHA-256-PLUS"], "alice", "pencil", channel_binding=binding)
        self.assertEqual("alice", scram(client, plus=True).user)

    def test_our_client_at_scramps_server(self) -> None:
        mechanism = scramp.ScramMechanism("SCRAM-SHA-256")
        information = mechanism.make_auth_info("pencil")
        server = mechanism.make_server(lambda user: information if user == "us,er=" else None)
        client = ClientFirst("us,er=", "pencil", "clientnonce")
        server.set_client_first(client.message)
        server.set_client_final(client.final(server.get_server_first()))
        client.check(server.get_server_final())
        self.assertRaises(ScramError, client.check, "v=" + b64encode(b"x" * 32).decode())

    def test_our_client_at_our_server_with_each_binding(self) -> None:
        for name, data in BINDINGS.items():
            with self.subTest(name):
                client = ClientFirst("alice", "pencil", "clientnonce", (name, data))
                first = read_first(client.message, "servernonce", BINDINGS, plus=True, plus_offered=True)
                proof = first.verify(KEYS, client.final(first.challenge(KEYS)))
                assert proof is not None
                client.check(proof)

    def refused(self, client: ClientFirst, *, plus: bool, bindings: dict[str, bytes] = BINDINGS) -> None:
        try:
            first = read_first(client.message, "servernonce", bindings, plus=plus, plus_offered=bool(bindings))
        except ScramError:
            return
        self.assertIsNone(first.verify(KEYS, client.final(first.challenge(KEYS))))

    def test_what_binds_otherwise_is_refused(self) -> None:
        exporter = ("tls-exporter", BINDINGS["tls-exporter"])
        self.refused(ClientFirst("alice", "pencil", "c", ("tls-exporter", b"\x03" * 32)), plus=True)  # somebody in between
        self.refused(ClientFirst("alice", "pencil", "c", ("tls-unique", b"x")), plus=True)
        self.refused(ClientFirst("alice", "pencil", "c"), plus=True)
        self.refused(ClientFirst("alice", "pencil", "c", exporter), plus=False)
        self.refused(ClientFirst("alice", "pencil", "c", bindable=True), plus=False)  # -PLUS was stripped from the announcement
        self.refused(ClientFirst("alice", "wrong", "c", exporter), plus=True)

    def test_a_client_that_could_bind_may_say_so_where_nothing_was_offered(self) -> None:
        client = ClientFirst("alice", "pencil", "c", bindable=True)
        first = read_first(client.message, "s", {}, plus=False, plus_offered=False)
        self.assertIsNotNone(first.verify(KEYS, client.final(first.challenge(KEYS))))

    def test_an_unknown_user_gets_the_same_salt_each_time_and_fails(self) -> None:
        first, again = decoy_keys("nobody", b"s"), decoy_keys("nobody", b"s")
        self.assertEqual(first, again)
        self.assertNotEqual(first.salt, decoy_keys("somebody", b"s").salt)
        client = ClientFirst("nobody", "pencil", "c")
        message = read_first(client.message, "s", {}, plus=False, plus_offered=False)
        self.assertIsNone(message.verify(first, client.final(message.challenge(first))))

    def test_a_nonce_of_another_exchange_is_refused(self) -> None:
        client = ClientFirst("alice", "pencil", "c")
        old = read_first(client.message, "old", {}, plus=False, plus_offered=False)
        final = client.final(old.challenge(KEYS))
        new = read_first(client.message, "new", {}, plus=False, plus_offered=False)
        self.assertIsNone(new.verify(KEYS, final))

    def test_the_client_refuses_attacks(self) -> None:
        salt = b64encode(b"salt").decode()
        for challenge in (
            f"r=c,s={salt},i=4096",  # the nonce is all ours
            f"r=other,s={salt},i=4096",
            f"r=cs,s={salt},i=1",
            f"r=cs,s={salt},i=99999999",
            "e=unknown-user",
            f"m=x,r=cs,s={salt},i=4096",
        ):
            with self.subTest(challenge):
                self.assertRaises(ScramError, ClientFirst("alice", "pencil", "c").final, challenge)
        self.assertRaises(ScramError, ClientFirst("alice", "pencil", "c").check, "v=AAAA")

    @given(st.text(min_size=1, max_size=20), st.binary(min_size=1, max_size=24))
    @settings(max_examples=50, deadline=None)
    def test_stored_keys_survive_the_round_trip(self, password: str, salt: bytes) -> None:
        try:
            keys = ScramKeys.derive(password, salt)
        except ValueError:
            return
        self.assertEqual(keys, ScramKeys.parse(str(keys)))
        self.assertTrue(keys.fits(password))
        self.assertFalse(keys.fits(password + "x"))

    @given(st.text(max_size=80))
    @settings(max_examples=150, deadline=None)
    def test_any_text_is_a_message_or_an_error(self, text: str) -> None:
        for read in (
            lambda: read_first(text, "s", {}, plus=False, plus_offered=False),
            lambda: ClientFirst("alice", "pencil", "c").final(text),
        ):
            try:
                read()
            except ScramError:
                pass


class Saslprep(SynchronousTestCase):
    def test_table(self) -> None:
        for text, prepared in (
            ("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b"),
        ):  # fmt: skip
            self.assertEqual(prepared, saslprep(text))

    def test_prohibited(self) -> None:
        for text in ("\x07", "\u0627\u0031", "a\0b", "a\nb", "\ue000", "\u200eab"):
            self.assertRaises(ValueError, saslprep, text)

    @given(st.text(max_size=20))
    @settings(max_examples=150, deadline=None)
    def test_as_scramp_does_it(self, text: str) -> None:
        def outcome(function: Any) -> str | None:
            try:
                return str(function(text))
            except (ValueError, scramp.ScramException):
                return None

        self.assertEqual(outcome(scramp.utils.saslprep), outcome(saslprep))
