"""The server name in a ClientHello: what real clients send, at every cut, and whatever else comes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from mailgate.tls.hello import MAX_HELLO, server_name
from mailgate.tls.options import VERSIONS


def client_hello(name: bytes | None, version: str = "TLSV1.3") -> bytes:
    """What OpenSSL sends first."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(VERSIONS[version][0])
    connection = SSL.Connection(context, None)
    if name is not None:
        connection.set_tlsext_host_name(name)
    connection.set_connect_state()
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        pass
    return connection.bio_read(1 << 16)


HELLO = client_hello(b"mx.example.org")
NAMELESS = client_hello(None)


def refragmented(hello: bytes, size: int) -> bytes:
    """The same message in records of ``size`` octets."""
    body = hello[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


class ServerName(SynchronousTestCase):
    def test_what_openssl_sends(self) -> None:
        for version in ("TLSV1.2", "TLSV1.3"):
            for sent, expected in (
                (b"mx.example.org", "mx.example.org"),
                (b"MX.Example.ORG", "mx.example.org"),
                (b"xn--mller-kva.example", "xn--mller-kva.example"),
                (b"_dmarc.example.org", "_dmarc.example.org"),
                (b"localhost", "localhost"),
                (None, ""),
            ):
                with self.subTest(f"{version} {sent!r}"):
                    self.assertEqual(server_name(client_hello(sent, version)), expected)

    def test_nothing_is_known_before_the_message_is_whole(self) -> None:
        for cut in range(len(HELLO)):
            self.assertIsNone(server_name(HELLO[:cut]), cut)
        self.assertEqual(server_name(HELLO), "mx.example.org")
        self.assertEqual(server_name(HELLO + b"early data"), "mx.example.org")

    def test_a_message_in_many_records(self) -> None:
        for size in (1, 3, 4, 100, len(HELLO)):
            with self.subTest(size):
                pieces = refragmented(HELLO, size)
                self.assertEqual(server_name(pieces), "mx.example.org")
                self.assertIsNone(server_name(pieces[:-1]))

    def test_what_is_no_client_hello_has_no_name(self) -> None:
        for data in (
            b"EHLO client.example\r\n",
            b"\x80\x2e\x01\x03\x01",  # the hello of SSL 2
            b"\x15\x03\x01\x00\x02\x02\x28",  # an alert
            b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # a ServerHello
            b"\x16\x03\x01\x00\x00",  # a record with nothing in it
            b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",  # an empty ClientHello
            HELLO[:9] + b"\xff" * (len(HELLO) - 9),
        ):
            with self.subTest(data[:9]):
                self.assertEqual(server_name(data), "")

    def test_a_name_that_is_none_is_not_passed_on(self) -> None:
        """A table may make a path of it."""
        for sent in (
            b"../../etc/x",
            b"a/b.example",
            b"a..b",
            b".a",
            b"*.example.org",
            b"a b",
            b"a\r\nb",
            b"\xff.example",
            b"-a.example",
            b"a" * 64 + b".example",
            b".".join([b"a" * 60] * 5),
        ):
            with self.subTest(sent[:20]):
                self.assertEqual(server_name(client_hello(sent)), "")

    def test_no_more_is_held_than_its_bound(self) -> None:
        endless = b"\x16\x03\x01\xff\xff\x01\xff\xff\xff"
        self.assertIsNone(server_name(endless + bytes(1000)))
        self.assertEqual(server_name(endless + bytes(MAX_HELLO)), "")

    @given(st.binary(max_size=300))
    @settings(max_examples=100)
    def test_anything_at_all(self, data: bytes) -> None:
        self.assertIn(server_name(data), (None, ""))

    @given(st.data())
    @settings(max_examples=150)
    def test_a_damaged_hello_never_raises(self, data: st.DataObject) -> None:
        damaged = bytearray(HELLO)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        name = server_name(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
        self.assertTrue(name is None or name == "" or all(c.isalnum() or c in "-_." for c in name))
