"""Every type of value: what it accepts, and where and how it refuses."""

from __future__ import annotations

import ipaddress
import os
import pickle
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.config import values as v
from mailgate.config.diagnostics import render
from mailgate.config.scalars import quote
from mailgate.smtp.reply import Reply
from tests.config.reading import read_value

E = v.EndpointAddress
DELIVER, LISTEN = v.Endpoint(), v.Endpoint(listen=True)

ACCEPTED: list[tuple[v.Value, str, Any]] = [
    (v.Boolean(), "", True),
    *((v.Boolean(), word, True) for word in ("yes", "on", "true", "1", "Yes")),
    *((v.Boolean(), word, False) for word in ("no", "off", "false", "0", "OFF")),
    (v.Duration(), "0", 0.0),
    (v.Duration(), "1h5m", 3900.0),
    (v.Duration(), "1h 5m", 3900.0),
    (v.Duration(), "1.5s", 1.5),
    (v.Duration(), "1w2d", 777600.0),
    (v.Duration(), "250ms", 0.25),
    (v.Duration(), "10us", 0.00001),
    (v.Duration(minimum=1, maximum=60), "60s", 60.0),
    (v.List(v.Duration()), "2m 5m 1h", (120.0, 300.0, 3600.0)),
    (v.Size(), "0", 0),
    (v.Size(), "32M", 33554432),
    (v.Size(), "3m 5K", 3150848),
    (v.Size(), "1G512M", 1610612736),
    (v.Size(), "100b", 100),
    (v.Integer(), "-5", -5),
    (v.Float(), "1.25", 1.25),
    (v.String(), '"a b"', "a b"),
    (v.Strings(), "a b", ("a", "b")),
    (v.Strings(minimum=0), "", ()),
    (v.Args(v.String("KEY"), v.Strings("VALUE", minimum=0)), "k", ("k", ())),
    (v.Args(v.String("KEY"), v.Strings("VALUE", minimum=0)), "k a b", ("k", ("a", "b"))),
    (v.Choice("off", "plain"), "plain", "plain"),
    (v.OneOf({"off": v.Nothing(), "plain": v.Args(v.String(), v.String())}), "off", v.Chosen("off")),
    (v.OneOf({"off": v.Nothing(), "plain": v.Args(v.String(), v.String())}), "plain u p", v.Chosen("plain", ("u", "p"))),
    (v.OneOf({"off": v.Nothing(), "": v.Duration()}), "5m", v.Chosen("", 300.0)),
    (DELIVER, "tcp://mx.example.org", E("tcp", "mx.example.org")),
    (DELIVER, "tcp://mx.example.org.:25", E("tcp", "mx.example.org.", 25)),
    (DELIVER, "tcp://[2001:DB8::1]:25", E("tcp", "2001:db8::1", 25)),
    (DELIVER, "tls://192.0.2.1:465", E("tls", "192.0.2.1", 465)),
    (DELIVER, "tcp://bücher.example:25", E("tcp", "xn--bcher-kva.example", 25)),
    (DELIVER, "unix:///run/x.sock", E("unix", path="/run/x.sock")),
    (DELIVER, "unix://x.sock", E("unix", path="/run/mailgate/x.sock")),
    (v.Endpoint(default_port=24), "tcp://store", E("tcp", "store", 24)),
    (v.Endpoint(default_port=25), "tls://store", E("tls", "store", 465)),
    (v.Endpoint(schemes=("tcp", "mx")), "mx://example.org", E("mx", "example.org")),
    (LISTEN, "tcp://127.0.0.1:25", E("tcp", "127.0.0.1", 25)),
    (LISTEN, "tls://[::]:465", E("tls", "::", 465)),
    (LISTEN, "tcp://*:25", E("tcp", "*", 25)),
    (LISTEN, "fd://smtp", E("fd", "smtp")),
    (LISTEN, "unix://lmtp.sock", E("unix", path="/run/mailgate/lmtp.sock")),
    (v.OpenedEndpoint(schemes=("tcp",)), "tcp://*:25", E("tcp", "*", 25)),
    (v.OwnName(), "mx.example.org", "mx.example.org"),
    (v.OwnName(), "bücher.example", "xn--bcher-kva.example"),
    (v.OwnName(), "[192.0.2.1]", "[192.0.2.1]"),
    (v.OwnName(), "[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
    (v.Network(), "10.0.0.0/8", ipaddress.ip_network("10.0.0.0/8")),
    (v.Network(), "192.0.2.1", ipaddress.ip_network("192.0.2.1/32")),
    (v.Network(), "2001:db8::/32", ipaddress.ip_network("2001:db8::/32")),
    (v.Network(), "::ffff:10.0.0.0/104", ipaddress.ip_network("10.0.0.0/8")),
    (v.Network(), "::ffff:192.0.2.1", ipaddress.ip_network("192.0.2.1/32")),
    (v.Secret(), "hunter2", v.SecretText("hunter2")),
    (v.Secret(), "env:SECRET", v.SecretText("from the environment")),
    (v.Path(), "/etc/x", "/etc/x"),
    (v.Path(), "x/y", "/var/lib/mailgate/x/y"),
    (v.Path(), "../y", "/var/lib/y"),
    (v.ReplyCode(), "", Reply(550, "5.7.1", "rejected by policy")),
    (v.ReplyCode(), '550 5.1.1 "no such user"', Reply(550, "5.1.1", "no such user")),
    (v.ReplyCode(), "450", Reply(450, "4.7.1", "try again later")),
    (v.ReplyCode(), "4.2.2", Reply(450, "4.2.2", "try again later")),
    (v.ReplyCode(), "5.1.1", Reply(550, "5.1.1", "rejected by policy")),
    (v.ReplyCode(), '"go away"', Reply(550, "5.7.1", "go away")),
    (v.ReplyCode(), '421 "bye"', Reply(421, "4.7.1", "bye")),
    (v.ReplyCode(), '553 "not your domain"', Reply(553, "5.7.1", "not your domain")),
]

# Type, arguments, (column, length, code), a part of what is said. `x ` stands before the arguments: they begin in column 3.
REFUSED: list[tuple[v.Value, str, tuple[int, int, str], str]] = [
    (v.Boolean(), "yess", (3, 4, "E0501"), "did you mean `yes`?"),
    (v.Boolean(), "yes no", (7, 2, "E0405"), "too many"),
    (v.Duration(), "5", (3, 1, "E0502"), "`5s` for seconds"),
    (v.Duration(), "-5s", (3, 3, "E0502"), "never negative"),
    (v.Duration(), "5minutes", (4, 7, "E0502"), "did you mean `5m`?"),
    (v.Duration(), "5x", (4, 1, "E0502"), "no unit of time"),
    (v.Duration(), "1h5", (3, 3, "E0502"), "no unit"),
    (v.Duration(), "soon", (3, 4, "E0502"), "no duration"),
    (v.Duration(), '""', (3, 2, "E0502"), "no duration"),
    (v.Duration(minimum=1), "0", (3, 1, "E0511"), "at least 1s"),
    (v.Duration(maximum=60), "1h", (3, 2, "E0511"), "at most 1m"),
    (v.List(v.Duration()), "1h x 5m y", (6, 1, "E0502"), "no duration"),
    (v.Size(), "32", (3, 2, "E0503"), "`32B` for bytes"),
    (v.Size(), "32MB", (5, 2, "E0503"), "did you mean `32M`?"),
    (v.Size(), "1.5M", (3, 4, "E0503"), "no"),
    (v.Size(minimum=1 << 20), "1K", (3, 2, "E0511"), "at least 1M"),
    (v.Integer(), "ten", (3, 3, "E0504"), "no whole number"),
    (v.Integer(), "9" * 5000, (3, 5000, "E0504"), "no whole number"),
    (v.Integer(), "١", (3, 1, "E0504"), "no whole number"),
    (v.Integer(minimum=1, maximum=9), "10", (3, 2, "E0511"), "between 1 and 9"),
    (v.Integer(minimum=1), "0", (3, 1, "E0511"), "1 or more"),
    (v.Float(), "1e9", (3, 3, "E0504"), "no number"),
    (v.String(), "", (2, 1, "E0404"), "needs TEXT"),
    (v.String(), "a b", (5, 1, "E0405"), "too many"),
    (v.Strings("NAME"), "", (2, 1, "E0404"), "needs NAME"),
    (v.Args(v.String("A"), v.String("B")), "a", (4, 1, "E0404"), "needs B"),
    (v.Choice("defer", "allow"), "dfer", (3, 4, "E0505"), "did you mean `defer`?"),
    (v.Choice("defer", "allow"), "Defer", (3, 5, "E0505"), "did you mean `defer`?"),
    (v.Choice("defer", v.Refused("queue", "there is none")), "queue", (3, 5, "E0408"), "not available in this version"),
    (v.OneOf({"off": v.Nothing(), "plain": v.String("USER")}), "plian u", (3, 5, "E0505"), "did you mean `plain`?"),
    (v.OneOf({"off": v.Nothing(), "forward": v.Refused("forward")}), "forward", (3, 7, "E0408"), "not available"),
    (v.OneOf({"off": v.Nothing()}), "off u", (7, 1, "E0405"), "too many"),
    (DELIVER, "store:25", (3, 8, "E0506"), "did you mean `tcp://store:25`?"),
    (DELIVER, "/run/x", (3, 6, "E0506"), "did you mean `unix:///run/x`?"),
    (DELIVER, "tcp:store:25", (3, 12, "E0506"), "did you mean `tcp://store:25`?"),
    (DELIVER, "smtp://store:25", (3, 4, "E0506"), "did you mean `tcp`?"),
    (DELIVER, "tpc://store:25", (3, 3, "E0506"), "did you mean `tcp`?"),
    (DELIVER, "tcp://store:0", (15, 1, "E0506"), "1 to 65535"),
    (DELIVER, "tcp://store:65536", (15, 5, "E0506"), "1 to 65535"),
    (DELIVER, "tcp://store:smtp", (15, 4, "E0506"), "`smtp` is no port"),
    (DELIVER, "tcp://store:", (15, 1, "E0506"), "no port"),
    (DELIVER, "tcp://", (9, 1, "E0506"), "a host is needed"),
    (DELIVER, "tcp://2001:db8::1:25", (9, 14, "E0506"), "did you mean `tcp://[2001:db8::1]:25`?"),
    (DELIVER, "tcp://[mx]:25", (9, 4, "E0506"), "no IPv6 address"),
    (DELIVER, "tcp://300.1.1.1:25", (9, 9, "E0506"), "no IPv4 address"),
    (DELIVER, "tcp://a..b:25", (9, 4, "E0506"), "no host name"),
    (DELIVER, "tcp://-a:25", (9, 2, "E0506"), "no host name"),
    (DELIVER, "tcp://user@host:25", (9, 12, "E0506"), "no address"),
    (DELIVER, "unix://", (10, 1, "E0506"), "path of a socket"),
    (DELIVER, "unix:///" + "x" * 107, (10, 108, "E0506"), "107 octets"),
    (DELIVER, "mx://example.org", (3, 2, "E0506"), "not possible here"),
    (v.Endpoint(schemes=("mx",)), "mx://example.org:25", (8, 11, "E0506"), "domain alone"),
    (LISTEN, "tcp://localhost:25", (9, 9, "E0506"), "an IP address is needed"),
    (LISTEN, "tcp://127.0.0.1", (18, 1, "E0506"), "a port is needed"),
    (LISTEN, "tcp://:25", (9, 1, "E0506"), "`*` means all addresses"),
    (LISTEN, "fd://", (3, 5, "E0506"), "name of a descriptor"),
    (v.OwnName(), '"our gateway"', (3, 13, "E0736"), "can't be said in EHLO"),
    (v.OwnName(), "mx..example", (3, 11, "E0736"), "a domain, such as"),
    (v.OwnName(), "[mx]", (3, 4, "E0736"), "can't be said in EHLO"),
    (v.Network(), "10.0.0.5/8", (3, 10, "E0507"), "did you mean `10.0.0.0/8`?"),
    (v.Network(), "10.0.0", (3, 6, "E0507"), "neither an address nor a network"),
    (v.Secret(), '""', (3, 2, "E0508"), "empty"),
    (v.Secret(), "env:NONE", (3, 8, "E0508"), "no `NONE`"),
    (v.Secret(), "file:/nowhere/x", (3, 15, "E0508"), "No such file"),
    (v.Secret(), "file:", (3, 5, "E0508"), "no path"),
    (v.Path(), '""', (3, 2, "E0510"), "empty"),
    (v.ReplyCode(), "250", (3, 3, "E0509"), "400 to 599"),
    (v.ReplyCode(), "5500", (3, 4, "E0509"), "400 to 599"),
    (v.ReplyCode(), "450 5.7.1", (7, 5, "E0509"), "did you mean `4.7.1`?"),
    (v.ReplyCode(), "550 5.7", (7, 3, "E0509"), "no enhanced code"),
    (v.ReplyCode(), "550 2.0.0", (7, 5, "E0509"), "no enhanced code"),
    (v.ReplyCode(), "no such user", (3, 2, "E0509"), "in quotes"),
    (v.ReplyCode(), '550 "a" "b"', (11, 3, "E0405"), "too many"),
    (v.ReferenceTo("target"), "store", (3, 5, "E0512"), "did you mean `&store`?"),
]


class ValueTests(SynchronousTestCase):
    def test_accepted(self) -> None:
        for type_, text, expected in ACCEPTED:
            value, diagnostics = read_value(type_, text, state_dir="/var/lib/mailgate", runtime_dir="/run/mailgate")
            self.assertEqual((value, diagnostics), (expected, []), f"{type(type_).__name__} {text}")

    def test_an_address_is_opened_once(self) -> None:
        pairs = [
            ("tcp://127.0.0.1:25", "tls://127.0.0.1:25", True),
            ("tcp://*:25", "tcp://[::1]:25", True),
            ("tcp://192.0.2.1:25", "tcp://*:25", True),
            ("tcp://0.0.0.0:25", "tcp://192.0.2.1:25", True),
            ("tcp://[::]:25", "tcp://0.0.0.0:25", False),
            ("tcp://[::]:25", "tcp://127.0.0.1:25", False),
            ("tcp://[2001:db8::1]:25", "tcp://[2001:db8:0::1]:25", True),
            ("tcp://127.0.0.1:25", "tcp://127.0.0.2:25", False),
            ("tcp://127.0.0.1:25", "tcp://127.0.0.1:26", False),
            ("unix://a.sock", "unix:///run/mailgate/a.sock", True),
            ("unix://a.sock", "unix://b.sock", False),
        ]
        for first, second, collide in pairs:
            type_ = v.List(v.OpenedEndpoint(schemes=("tcp", "tls", "unix")))
            _, diagnostics = read_value(type_, f"{first} {second}", runtime_dir="/run/mailgate")
            self.assertEqual(["E0725"] * collide, [one.code for one in diagnostics], f"{first} {second}")

    def test_a_path_of_a_text_without_a_file_begins_at_the_working_directory(self) -> None:
        self.assertEqual(read_value(v.Path(), "./x", state_dir="/var/lib/mailgate")[0], os.path.abspath("x"))

    def test_refused_with_a_caret_and_a_reason(self) -> None:
        for type_, text, place, said in REFUSED:
            _, diagnostics = read_value(type_, text, runtime_dir="/run/mailgate")
            name = f"{type(type_).__name__} {text}"
            self.assertTrue(diagnostics, name)
            first = diagnostics[0]
            assert first.span is not None
            self.assertEqual((first.span.column, first.span.length, first.code), place, name)
            self.assertIn(said, render([first]), name)

    def test_each_wrong_word_of_a_list_is_reported(self) -> None:
        _, diagnostics = read_value(v.List(v.Integer()), "1 a 2 b c")
        self.assertEqual([d.span.column for d in diagnostics if d.span], [5, 9, 11])

    def test_an_endpoint_reads_back(self) -> None:
        for text in ("tcp://[2001:db8::1]:25", "tls://mx.example.org:465", "unix:///run/x", "tcp://mx.example.org"):
            value, _ = read_value(DELIVER, text)
            self.assertEqual(str(value), text)

    @given(st.integers(0, 10**15))
    @settings(max_examples=200, deadline=None)
    def test_durations_and_sizes_read_back(self, number: int) -> None:
        seconds = number / 1_000_000
        value, _ = read_value(v.Duration(), v.format_duration(seconds))
        self.assertEqual(value, seconds)
        value, _ = read_value(v.Size(), v.format_size(number))
        self.assertEqual(value, number)

    @given(st.text(st.characters(blacklist_categories=("C",), blacklist_characters="\\"), max_size=20))
    @settings(max_examples=200, deadline=None)
    def test_a_quoted_text_reads_back(self, text: str) -> None:
        value, diagnostics = read_value(v.String(), quote(text))
        self.assertEqual((value, diagnostics), (text, []))

    @given(st.text(st.characters(blacklist_characters='"\\', blacklist_categories=("Cs", "Cc", "Cf")), max_size=30))
    @settings(max_examples=150, deadline=None)
    def test_any_word_is_a_value_or_a_diagnostic(self, text: str) -> None:
        types = [
            *(v.Boolean(), v.Duration(), v.Size(), v.Integer(), v.Float(), v.Network(), v.ReplyCode(), v.Choice("a", "b")),
            *(DELIVER, LISTEN, v.Path(), v.Endpoint(schemes=("tcp", "mx"))),
        ]
        for type_ in types:
            value, diagnostics = read_value(type_, f'"{text}"')
            self.assertEqual(value == "ABSENT", any(d.is_error for d in diagnostics))
            render(diagnostics)

    @given(st.from_regex(r"(tcp|tls|unix|mx|fd)://[\[\]a-z0-9.:@/*%-]{0,20}", fullmatch=True))
    @settings(max_examples=200, deadline=None)
    def test_an_endpoint_that_is_accepted_reads_back_the_same(self, text: str) -> None:
        for type_ in (DELIVER, LISTEN, v.Endpoint(25, schemes=("tcp", "tls", "mx"))):
            value, diagnostics = read_value(type_, f'"{text}"', runtime_dir="/run")
            if not diagnostics:
                self.assertEqual(read_value(type_, f'"{value}"', runtime_dir="/run"), (value, []))


class SecretTests(SynchronousTestCase):
    def test_a_secret_shows_itself_to_nobody(self) -> None:
        secret = v.SecretText("hunter2")
        self.assertEqual((str(secret), repr(secret), f"{secret}", repr([secret])), ("***", "***", "***", "[***]"))
        self.assertEqual(secret.reveal(), "hunter2")
        self.assertRaises(TypeError, pickle.dumps, secret)

    def test_a_literal_secret_is_blanked_in_the_diagnostics_of_its_line(self) -> None:
        type_ = v.Args(v.String("USER"), v.Secret("PASSWORD"))
        _, diagnostics = read_value(type_, "gw hunter2 extra")
        text = render(diagnostics)
        self.assertNotIn("hunter2", text)
        self.assertIn("1 | x gw *** extra\n  |          ^^^^^\n", text)

    def test_a_secret_from_a_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text("hunter2\n")
        path.chmod(0o640)
        self.assertEqual(read_value(v.Secret(), f"file:{path.resolve()}"), (v.SecretText("hunter2"), []))
        path.chmod(0o644)
        value, diagnostics = read_value(v.Secret(), f"file:{path.resolve()}")
        self.assertEqual(([d.code for d in diagnostics], value.reveal()), (["W0508"], "hunter2"))
        path.write_text("\n")
        self.assertEqual([d.code for d in read_value(v.Secret(), f"file:{path.resolve()}")[1]], ["E0508"])
