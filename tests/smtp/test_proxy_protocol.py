"""PROXY headers, both versions: what is read, what is refused, every cut, and back again."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.proxy_protocol import (
    MAX_HEADER,
    MAX_LINE,
    SIGNATURE_2,
    Family,
    Header,
    HeaderParser,
    NotProxy,
    ProxyError,
    ProxyTls,
    crc32c,
    encode,
    may_be_header,
)

TLS = ProxyTls("TLSv1.3", "TLS_AES_256_GCM_SHA384", True, True, "client.test")
CLIENT = Header(Family.TCP4, "192.0.2.7", "198.51.100.1", 40000, 25)


def read(data: bytes, cuts: tuple[int, ...] = ()) -> tuple[Header | None, bytes]:
    parser = HeaderParser()
    edges = [0, *cuts, len(data)]
    header = None
    for start, end in pairwise(edges):
        if header is not None:
            return header, parser.rest + data[start:]
        header = parser.feed(data[start:end])
    return header, parser.rest


def binary(version_command: int = 0x21, transport: int = 0x11, body: bytes = b"", length: int | None = None) -> bytes:
    return SIGNATURE_2 + struct.pack("!BBH", version_command, transport, len(body) if length is None else length) + body


def value(kind: int, content: bytes) -> bytes:
    return struct.pack("!BH", kind, len(content)) + content


IPV4 = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 40000, 25)


class Lines(SynchronousTestCase):
    def test_headers(self) -> None:
        for line, header in {
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n": replace(CLIENT, version=1),
            b"PROXY TCP6 2001:DB8::0:7 2001:db8::1 0 65535\r\n": Header(
                Family.TCP6, "2001:db8::7", "2001:db8::1", 0, 65535, version=1
            ),
            b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c633:6401 40000 25\r\n": replace(CLIENT, family=Family.TCP6, version=1),
            b"PROXY UNKNOWN\r\n": Header(Family.UNKNOWN, version=1),
            b"PROXY UNKNOWN 192.0.2.7 198.51.100.1 40000 25\r\n": Header(Family.UNKNOWN, version=1),
            b"PROXY UNKNOWN \xff\x00 whatever\r\n": Header(Family.UNKNOWN, version=1),
        }.items():
            with self.subTest(line=line):
                self.assertEqual((header, b"EHLO x"), read(line + b"EHLO x"))
                for cut in range(len(line)):
                    self.assertEqual((header, b"EHLO x"), read(line + b"EHLO x", (cut,)))

    def test_the_longest_line(self) -> None:
        address = b"ffff:f...f:ffff:ffff:ffff:ffff:ffff:ffff".replace(b"f...f", b"ffff")
        line = b"PROXY UNKNOWN " + address + b" " + address + b" 65535 65535\r\n"
        self.assertEqual(MAX_LINE, len(line))
        self.assertEqual(Header(Family.UNKNOWN, version=1), read(line)[0])
        self.assertRaises(ProxyError, read, line.replace(b"65535\r", b"655350\r"))

    def test_refused(self) -> None:
        for line in (
            b"PROXY TCP4 not-an-ip 198.51.100.1 40000 25\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25 \r\n",
            b"PROXY TCP4  192.0.2.7 198.51.100.1 40000 25\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 25\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 040 25\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 25\r\n",
            b"PROXY TCP4 192.0.02.7 198.51.100.1 40000 25\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 25\r\n",
            b"PROXY TCP6 192.0.2.7 198.51.100.1 40000 25\r\n",
            b"PROXY TCP6 fe80::1%eth0 2001:db8::1 40000 25\r\n",
            b"PROXY tcp4 192.0.2.7 198.51.100.1 40000 25\r\n",
            b"PROXY TCP4\r\n",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 40000 25\r\n",
            b"PROXY UNKNOWNX\r\n",
            b"PROXY UNKNOWN\r",
            b"PROXY " + b"x" * MAX_LINE,
        ):
            with self.subTest(line=line):
                whole = line if line.endswith(b"\n") else line + b"x" * MAX_LINE
                self.assertRaises(ProxyError, read, whole)
                self.assertRaises(ProxyError, read, whole, tuple(range(1, len(whole))))

    def test_something_else_comes(self) -> None:
        for data in (b"EHLO client.test\r\n", b"proxy TCP4", b"PROXX", b"\r\n\r\nEHLO", b"\x16\x03\x01", b"GET / HTTP/1.1"):
            with self.subTest(data=data):
                self.assertRaises(NotProxy, read, data)
                parser = HeaderParser()
                with self.assertRaises(NotProxy):
                    for at in range(len(data)):
                        parser.feed(data[at : at + 1])
                self.assertEqual(data[: len(parser.rest)], parser.rest)

    def test_what_may_be_a_header(self) -> None:
        for data in (b"PROXY TCP4 x", SIGNATURE_2, SIGNATURE_2[:5]):
            self.assertTrue(may_be_header(data), data)
        for data in (b"", b"PROX", b"\r\n\r\n", b"EHLO PROXY TCP4", b"PROXYING\r\n"):
            self.assertFalse(may_be_header(data), data)


class Binary(SynchronousTestCase):
    def test_families(self) -> None:
        ipv6 = bytes.fromhex("20010db8" + "0" * 22 + "07" + "20010db8" + "0" * 22 + "01") + struct.pack("!HH", 1, 2)
        mapped = (b"\0" * 10 + b"\xff\xff" + IPV4[:4]) + (b"\0" * 10 + b"\xff\xff" + IPV4[4:8]) + IPV4[8:]
        for data, header, client in (
            (binary(body=IPV4), CLIENT, "192.0.2.7"),
            (binary(transport=0x21, body=ipv6), Header(Family.TCP6, "2001:db8::7", "2001:db8::1", 1, 2), "2001:db8::7"),
            (binary(transport=0x21, body=mapped), replace(CLIENT, family=Family.TCP6), "192.0.2.7"),
            (binary(transport=0x31, body=b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0")), Header(Family.UNIX, "/a", "/b"), ""),
            (binary(transport=0, body=b""), Header(Family.UNKNOWN), ""),
            (binary(0x20, 0x11, IPV4), Header(Family.LOCAL), ""),
            (binary(0x20, 0xFF, b"whatever"), Header(Family.LOCAL), ""),
        ):
            with self.subTest(header=header):
                self.assertEqual((header, b"EHLO x"), read(data + b"EHLO x"))
                self.assertEqual(client, header.client)

    def test_values(self) -> None:
        ssl = struct.pack("!BI", 7, 0) + value(0x21, b"TLSv1.3") + value(0x22, b"client.test") + value(0x23, TLS.cipher.encode())
        body = IPV4 + value(0x01, b"smtp") + value(0x02, b"mx.test") + value(0x05, b"id\0\xff") + value(0x20, ssl)
        body += value(0x04, b"\0\0\0") + value(0xEE, b"unknown") + value(0xEE, b"unknown") + value(0x30, b"netns")
        header, rest = read(binary(body=body))
        self.assertEqual(replace(CLIENT, alpn="smtp", authority="mx.test", unique_id=b"id\0\xff", tls=TLS), header)
        self.assertEqual(b"", rest)

    def test_tls_facts(self) -> None:
        for flags, verify, expected in (
            (0, 0, None),
            (6, 0, None),
            (1, 0, ProxyTls()),
            (1, 1, ProxyTls()),
            (3, 0, ProxyTls(certificate=True, verified=True)),
            (5, 0, ProxyTls(certificate=True, verified=True)),
            (3, 18, ProxyTls(certificate=True)),
        ):
            with self.subTest(flags=flags, verify=verify):
                header, _ = read(binary(body=IPV4 + value(0x20, struct.pack("!BI", flags, verify))))
                assert header is not None
                self.assertEqual(expected, header.tls)

    def test_checksum(self) -> None:
        self.assertEqual(0xE3069283, crc32c(b"123456789"))
        good = encode(replace(CLIENT, authority="mx.test", unique_id=b"1"))
        self.assertEqual("mx.test", getattr(read(good)[0], "authority", None))
        for at in range(16, len(good)):
            damaged = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            self.assertRaises(ProxyError, read, damaged + bytes(300))
        self.assertRaises(ProxyError, read, binary(body=IPV4 + value(0x03, b"123")))

    def test_refused(self) -> None:
        for data in (
            binary(0x11, body=IPV4),
            binary(0x22, body=IPV4),
            binary(0x2F, body=IPV4),
            binary(transport=0x12, body=IPV4),
            binary(transport=0x41, body=IPV4),
            binary(body=IPV4[:-1]),
            binary(transport=0x21, body=IPV4),
            binary(body=IPV4 + b"\x02"),
            binary(body=IPV4 + b"\x02\x00\x05mx"),
            binary(body=IPV4 + value(0x02, b"\xff")),
            binary(body=IPV4 + value(0x02, b"mx\r\n.test")),
            binary(body=IPV4 + value(0x02, b"a") + value(0x02, b"b")),
            binary(body=IPV4 + value(0x05, bytes(129))),
            binary(body=IPV4 + value(0x20, b"\x01")),
            binary(body=IPV4 + value(0x20, struct.pack("!BI", 1, 0) + value(0x22, b"a\0"))),
            binary(body=IPV4 + value(0x20, struct.pack("!BI", 1, 0) + value(0x22, b"a") + value(0x22, b"b"))),
            binary(body=IPV4 + value(0x20, struct.pack("!BI", 1, 0) + b"\x22\x00")),
            binary(length=MAX_HEADER),
        ):
            with self.subTest(data=data):
                self.assertRaises(ProxyError, read, data)
                self.assertRaises(ProxyError, read, data, tuple(range(1, len(data))))

    def test_a_header_is_bounded(self) -> None:
        longest = binary(body=IPV4 + value(0xEE, bytes(MAX_HEADER - 16 - len(IPV4) - 3)))
        self.assertEqual(MAX_HEADER, len(longest))
        self.assertEqual((CLIENT, b"x"), read(longest + b"x"))

    def test_what_can_not_be_written(self) -> None:
        for header in (
            replace(CLIENT, source="x"),
            replace(CLIENT, source="2001:db8::1"),
            replace(CLIENT, source_port=65536),
            Header(Family.UNIX, "/" * 109, "/b"),
        ):
            self.assertRaises(ValueError, encode, header)
        self.assertRaises(ValueError, encode, replace(CLIENT, source="2001:db8::1", version=1))
        self.assertRaises(ValueError, encode, replace(CLIENT, source_port=65536, version=1))


text = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)
ports = st.integers(0, 65535)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None).map(str)
tls_values = st.booleans().flatmap(
    lambda certificate: st.builds(
        ProxyTls, text, text, st.just(certificate), st.booleans() if certificate else st.just(False), text
    )
)
values = {"authority": text, "alpn": text, "unique_id": st.binary(max_size=128), "tls": st.none() | tls_values}
headers = st.one_of(
    st.builds(Header, st.just(Family.TCP4), ipv4, ipv4, ports, ports, **values),
    st.builds(Header, st.just(Family.TCP6), ipv6 | ipv4, ipv6 | ipv4, ports, ports, **values),
    st.builds(Header, st.just(Family.UNIX), st.just("/run/a"), st.just("/run/b"), **values),
    st.builds(Header, st.just(Family.UNKNOWN), **values),
    st.just(Header(Family.LOCAL)),
    st.just(Header(Family.UNKNOWN, version=1)),
    st.builds(Header, st.just(Family.TCP4), ipv4, ipv4, ports, ports, version=st.just(1)),
    st.builds(Header, st.just(Family.TCP6), ipv6 | ipv4, ipv6 | ipv4, ports, ports, version=st.just(1)),
)


class Properties(SynchronousTestCase):
    @given(headers, st.booleans(), st.binary(max_size=20))
    def test_what_is_written_is_read(self, header: Header, checksum: bool, rest: bytes) -> None:
        self.assertEqual((header, rest), read(encode(header, checksum=checksum) + rest))

    @given(headers, st.data())
    def test_every_cut_gives_the_same(self, header: Header, data: st.DataObject) -> None:
        stream = encode(header) + b"EHLO x\r\n"
        cuts = tuple(sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8))))
        self.assertEqual((header, b"EHLO x\r\n"), read(stream, cuts))

    @given(st.binary(max_size=200), st.sampled_from([b"", b"PROXY ", SIGNATURE_2, SIGNATURE_2 + b"\x21\x11\x00\x20"]))
    def test_nothing_but_its_own_exceptions(self, noise: bytes, start: bytes) -> None:
        outcomes = []
        for cuts in ((), tuple(range(len(start) + len(noise)))):
            try:
                outcomes.append(read(start + noise, cuts))
            except ProxyError as error:
                outcomes.append((None, type(error).__name__.encode()))
        self.assertEqual(outcomes[0], outcomes[1])
