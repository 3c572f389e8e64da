"""The PROXY protocol, versions 1 and 2: the header in which a proxy names the client that it speaks for.

`HeaderParser.feed` takes bytes as they come and gives a `Header` once it is complete; what came behind it is ``rest``. `encode`
writes one. Whom to believe is not decided here. The contract:

- Every cut of the input gives the same header and the same rest. A header is bounded: 107 octets in version 1, `MAX_HEADER` in
  version 2. What can be no header is refused as soon as its first octets show it.
- What is understood is checked: addresses, ports, lengths, the CRC-32C. What is not is passed over, as the protocol asks: values
  of unknown types, everything in a LOCAL header or behind UNKNOWN.
- ``client`` is an address only where the header says one that counts: LOCAL, UNSPEC, UNKNOWN and unix sockets leave the real
  peer. An IPv4 address in IPv6 clothes (``::ffff:``) is taken out of them.

Refused (`ProxyError`): another protocol (`NotProxy`); leading zeros, zones and anything else that is no plain address; datagrams;
the same value twice, for who could say which one counts; control characters in texts.

The protocol is HAProxy's: https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

SIGNATURE_1 = b"PROXY "
SIGNATURE_2 = b"\r\n\r\n\0\r\nQUIT\n"
MAX_LINE = 107
"""Of version 1, with its CRLF: the longest that two IPv6 addresses can make."""
MAX_HEADER = 16 << 10
"""Of version 2. The protocol allows 64 KiB; a real one has less than 4, client certificate included."""

_FIXED = struct.Struct("!12sBBH")
_SSL = struct.Struct("!BI")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_LINE = re.compile(rb"PROXY (?:UNKNOWN(?: .*)?|TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) ([0-9]+) ([0-9]+))\r\n", re.DOTALL)
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]*")


class ProxyError(Exception):
    """No header that can be used; the text is for the log."""


class NotProxy(ProxyError):
    """Something else than a header came first."""


class Family(Enum):
    """What kind of connection the proxy speaks for."""

    LOCAL = "LOCAL"
    """The proxy's own: a health check."""
    UNKNOWN = "UNKNOWN"
    """Of a kind that the proxy can't say (UNSPEC in version 2)."""
    TCP4 = "TCP4"
    TCP6 = "TCP6"
    UNIX = "UNIX"


@dataclass(frozen=True, slots=True)
class ProxyTls:
    """What the proxy says of the TLS session that it terminated."""

    version: str = ""
    """As OpenSSL says it: ``TLSv1.3``."""
    cipher: str = ""
    certificate: bool = False
    """The client showed a certificate, on this connection or when the TLS session began."""
    verified: bool = False
    """It was verified. False without one, whatever the header says."""
    common_name: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """One header. Addresses are in their shortest form; a unix socket's path stands in ``source`` and ``destination``."""

    family: Family
    source: str = ""
    destination: str = ""
    source_port: int = 0
    destination_port: int = 0
    authority: str = ""
    """The host name that the client asked for (TLS SNI)."""
    alpn: str = ""
    unique_id: bytes = b""
    tls: ProxyTls | None = None
    """None where the client spoke in clear, or the header does not say."""
    version: int = 2

    @property
    def client(self) -> str:
        """The client's address, or "" where the real peer's is to be kept."""
        return self.source if self.family in (Family.TCP4, Family.TCP6) else ""


class HeaderParser:
    """Reads one header."""

    __slots__ = ("_data", "rest")

    def __init__(self) -> None:
        self._data = b""
        self.rest = b""
        """What came behind the header, or, after `NotProxy`, all that came."""

    def feed(self, data: bytes) -> Header | None:
        """The header once it is complete.

        :raises NotProxy: something else comes.
        :raises ProxyError: a header comes that can't be used.
        """
        data = self._data = self._data + data
        if data.startswith(SIGNATURE_1):
            end = data.find(b"\n", 0, MAX_LINE) + 1
            read: Callable[[bytes], Header] = _read_line
            if not end and len(data) >= MAX_LINE:
                raise ProxyError("the line is too long")
        elif data.startswith(SIGNATURE_2):
            end = _FIXED.size + int.from_bytes(data[14:16], "big") if len(data) >= _FIXED.size else 0
            read = _read_binary
            if end > MAX_HEADER:
                raise ProxyError(f"the header has {end} octets")
        elif SIGNATURE_1.startswith(data) or SIGNATURE_2.startswith(data):
            return None
        else:
            self.rest = data
            raise NotProxy("no PROXY header came")
        if not end or len(data) < end:
            return None
        self.rest = data[end:]
        return read(data[:end])


def may_be_header(data: bytes) -> bool:
    """Whether ``data`` begins as a header does, and as no command could."""
    return data.startswith((SIGNATURE_1, SIGNATURE_2[:5]))


# version 1


def _read_line(line: bytes) -> Header:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ProxyError("the line is malformed")
    if match[1] is None:
        return Header(Family.UNKNOWN, version=1)
    version = int(match[1])
    source, destination, source_port, destination_port = (group.decode() for group in match.groups()[1:])
    return Header(
        Family.TCP4 if version == 4 else Family.TCP6,
        _address(source, version),
        _address(destination, version),
        _port(source_port),
        _port(destination_port),
        version=1,
    )


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ProxyError("an address is malformed") from None
    if address.version != version:
        raise ProxyError("an address is of the other family")
    return plain_address(address)


def plain_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """In its shortest form, and out of IPv6 clothes if it is an IPv4 address (RFC 4291 2.5.5.2)."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ProxyError("a port is malformed")
    return int(text)


# version 2


@dataclass(frozen=True, slots=True)
class _Layout:
    """The addresses of one family: a struct of source, destination and, if there are any, ports."""

    family: Family
    layout: struct.Struct
    text: Callable[[bytes], str]
    """An address from the wire."""
    wire: Callable[[str], bytes]
    """The other way."""


def _unix_path(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "backslashreplace")


def _inet6(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


_LAYOUTS = {
    0x11: _Layout(
        Family.TCP4,
        struct.Struct("!4s4sHH"),
        lambda data: str(ipaddress.IPv4Address(data)),
        lambda text: ipaddress.IPv4Address(text).packed,
    ),
    0x21: _Layout(Family.TCP6, struct.Struct("!16s16sHH"), lambda data: plain_address(ipaddress.IPv6Address(data)), _inet6),
    0x31: _Layout(Family.UNIX, struct.Struct("!108s108s"), _unix_path, str.encode),
}
"""By the octet of family and transport: streams only, for a header for datagrams has no business on a stream."""
_BYTES = {layout.family: (number, layout) for number, layout in _LAYOUTS.items()}
_UNSPEC = 0x00
_VERSION_AND_LOCAL, _VERSION_AND_PROXY = 0x20, 0x21


class _Type(Enum):
    """Types of the values behind the addresses (TLVs)."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    UNIQUE_ID = 0x05
    SSL = 0x20


_SSL_VERSION, _SSL_CN, _SSL_CIPHER = 0x21, 0x22, 0x23
_CLIENT_SSL, _CLIENT_CERT_CONN, _CLIENT_CERT_SESS = 0x01, 0x02, 0x04
_MAX_UNIQUE_ID = 128


def _read_binary(data: bytes) -> Header:
    _, version_command, transport, _ = _FIXED.unpack_from(data)
    if version_command == _VERSION_AND_LOCAL:
        return Header(Family.LOCAL)
    if version_command != _VERSION_AND_PROXY:
        raise ProxyError("version or command is unknown")
    if transport == _UNSPEC:
        header, position = Header(Family.UNKNOWN), _FIXED.size
    else:
        layout = _LAYOUTS.get(transport)
        if layout is None:
            raise ProxyError("the family is unknown, or the header is for datagrams")
        position = _FIXED.size + layout.layout.size
        if len(data) < position:
            raise ProxyError("the addresses are cut off")
        source, destination, *ports = layout.layout.unpack_from(data, _FIXED.size)
        header = Header(layout.family, layout.text(source), layout.text(destination), *ports)
    return _with_values(header, data, position)


def _with_values(header: Header, data: bytes, position: int) -> Header:
    seen: set[int] = set()
    for kind, value, at in _values(data, position):
        if kind not in (known.value for known in _Type):
            continue
        if kind in seen:
            raise ProxyError("a value stands there twice")
        seen.add(kind)
        match _Type(kind):
            case _Type.ALPN:
                header = replace(header, alpn=_text(value))
            case _Type.AUTHORITY:
                header = replace(header, authority=_text(value))
            case _Type.UNIQUE_ID:
                if len(value) > _MAX_UNIQUE_ID:
                    raise ProxyError("the unique id is too long")
                header = replace(header, unique_id=value)
            case _Type.SSL:
                header = replace(header, tls=_tls(value))
            case _Type.CRC32C:
                if len(value) != 4 or int.from_bytes(value, "big") != crc32c(data[:at] + bytes(4) + data[at + 4 :]):
                    raise ProxyError("the checksum is wrong")
    return header


def _values(data: bytes, position: int) -> Iterator[tuple[int, bytes, int]]:
    """Type, value, and where the value begins."""
    while position < len(data):
        length = int.from_bytes(data[position + 1 : position + 3], "big")
        end = position + 3 + length
        if end > len(data) or position + 3 > len(data):
            raise ProxyError("a value is cut off")
        yield data[position], data[position + 3 : end], position + 3
        position = end


def _tls(data: bytes) -> ProxyTls | None:
    if len(data) < _SSL.size:
        raise ProxyError("the TLS values are cut off")
    client, verify = _SSL.unpack_from(data)
    texts: dict[int, str] = {}
    for kind, value, _ in _values(data, _SSL.size):
        if kind in (_SSL_VERSION, _SSL_CN, _SSL_CIPHER):
            if kind in texts:
                raise ProxyError("a value stands there twice")
            texts[kind] = _text(value)
    if not client & _CLIENT_SSL:
        return None
    certificate = bool(client & (_CLIENT_CERT_CONN | _CLIENT_CERT_SESS))
    return ProxyTls(
        texts.get(_SSL_VERSION, ""),
        texts.get(_SSL_CIPHER, ""),
        certificate,
        certificate and verify == 0,
        texts.get(_SSL_CN, ""),
    )


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ProxyError("a text is not UTF-8") from None
    if not _TEXT.fullmatch(text):
        raise ProxyError("a text has control characters")
    return text


# the other way


def encode(header: Header, *, checksum: bool = True) -> bytes:
    """The header on the wire; ``checksum`` (version 2) adds a CRC-32C. Version 1 can say neither LOCAL nor unix sockets, which it
    turns into UNKNOWN, nor any of the values.

    :raises ValueError: an address or a port is none.
    """
    return _line(header) if header.version == 1 else _binary(header, checksum)


def _line(header: Header) -> bytes:
    if header.family not in (Family.TCP4, Family.TCP6):
        return b"PROXY UNKNOWN\r\n"
    source, destination = ipaddress.ip_address(header.source), ipaddress.ip_address(header.destination)
    if header.family is Family.TCP6:
        source, destination = (_in_ipv6(address) for address in (source, destination))
    if not source.version == destination.version == (4 if header.family is Family.TCP4 else 6):
        raise ValueError("addresses of two families")
    for port in (header.source_port, header.destination_port):
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port}")
    return f"PROXY {header.family.value} {source} {destination} {header.source_port} {header.destination_port}\r\n".encode()


def _in_ipv6(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv6Address(f"::ffff:{address}") if address.version == 4 else address


def _binary(header: Header, checksum: bool) -> bytes:
    if header.family in (Family.LOCAL, Family.UNKNOWN):
        transport, addresses = _UNSPEC, b""
    else:
        transport, layout = _BYTES[header.family]
        ends = [layout.wire(header.source), layout.wire(header.destination)]
        if header.family is Family.UNIX:
            if any(len(path) > 108 for path in ends):
                raise ValueError("the path of a unix socket is too long")
        else:
            ends += [header.source_port, header.destination_port]  # type: ignore[list-item]
        try:
            addresses = layout.layout.pack(*ends)
        except struct.error as error:
            raise ValueError(str(error)) from None
    command = _VERSION_AND_LOCAL if header.family is Family.LOCAL else _VERSION_AND_PROXY
    body = addresses + _encode_values(header)
    if checksum:
        body += _value(_Type.CRC32C.value, bytes(4))
    data = _FIXED.pack(SIGNATURE_2, command, transport, len(body)) + body
    return data[:-4] + crc32c(data).to_bytes(4, "big") if checksum else data


def _encode_values(header: Header) -> bytes:
    values = [
        (_Type.ALPN, header.alpn.encode()),
        (_Type.AUTHORITY, header.authority.encode()),
        (_Type.UNIQUE_ID, header.unique_id),
        (_Type.SSL, b"" if header.tls is None else _encode_tls(header.tls)),
    ]
    return b"".join(_value(kind.value, value) for kind, value in values if value)


def _encode_tls(tls: ProxyTls) -> bytes:
    texts = [(_SSL_VERSION, tls.version), (_SSL_CN, tls.common_name), (_SSL_CIPHER, tls.cipher)]
    return _SSL.pack(
        _CLIENT_SSL | (_CLIENT_CERT_CONN | _CLIENT_CERT_SESS if tls.certificate else 0),
        0 if tls.verified else 1,
    ) + b"".join(_value(kind, text.encode()) for kind, text in texts if text)


def _value(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720 appendix B.4)."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for octet in data:
        crc = crc >> 8 ^ table[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF
