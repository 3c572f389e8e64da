"""Questions and responses as octets: the part of a DNS message that a stub resolver needs.

Names and records are dnspython's classes, read by its own code. What is ours is the walk through a message: dnspython's
`Message` builds every section, record set and index, and costs three times as much (docs/performance.md). A response is
read only as far as the question asks: records of the type and CNAMEs, the SOA of the authority section, the OPT record.

A datagram that is not the response to the question (id, flags, question) is `NotOurs`: nobody who is off the path can make us
take it, and whoever waits goes on waiting. One that is ours and broken is `Malformed`: its server has failed.

RFC 1035, 2308 (negative answers), 6891 (EDNS), 8914 (why SERVFAIL), 6840 5.7 (AD in a question asks for AD in its answer).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire
from dns.rdatatype import RdataType

IN = dns.rdataclass.IN
CNAME, NS, SOA, OPT = int(RdataType.CNAME), int(RdataType.NS), int(RdataType.SOA), int(RdataType.OPT)

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
_WITHOUT_QUESTION = (FORMERR, SERVFAIL, NOTIMP, REFUSED)
"""A server that fails may leave the question out."""

UDP_PAYLOAD = 1232
"""What fits into an unfragmented IPv6 packet (DNS flag day 2020)."""

MAX_RECORDS = 256
"""Records of an answer that are read. 64 KiB hold 4,000 addresses, and nobody needs so many."""

QR, AA, TC, RD, RA, AD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020
_OPCODE = 0x7800
_HEADER = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")
_OPTION = struct.Struct("!HH")
_OPT_RECORD = b"\0" + _FIXED.pack(OPT, UDP_PAYLOAD, 0, 0)
_EDE = 15
BOGUS_CODES = frozenset(range(6, 13))
"""RFC 8914: bogus, signature expired, not yet valid, DNSKEY missing, RRSIGs missing, no zone key bit, NSEC missing."""


class NotOurs(Exception):
    """Not the response to the question; it is dropped."""


class Malformed(Exception):
    """The response to the question, and no message."""


@cache
def kind_of(rdtype: int) -> str:
    """``MX``"""
    return dns.rdatatype.to_text(RdataType.make(rdtype))


@cache
def _class_of(rdtype: int) -> Any:
    return dns.rdata.get_rdata_class(IN, RdataType.make(rdtype))  # type: ignore[no-untyped-call]


class Question:
    """One name and type, ready to be sent."""

    __slots__ = ("name", "rdtype", "wire")

    def __init__(self, name: dns.name.Name, rdtype: int) -> None:
        self.name = name
        self.rdtype = rdtype
        self.wire: bytes = name.to_wire() + struct.pack("!HH", rdtype, IN)  # type: ignore[operator]

    @property
    def text(self) -> str:
        return self.name.to_text(omit_final_dot=True)

    @property
    def kind(self) -> str:
        return kind_of(self.rdtype)

    def encode(self, ident: int, *, edns: bool = True) -> bytes:
        header = _HEADER.pack(ident, RD | AD, 1, 0, 0, 1 if edns else 0)
        return header + self.wire + _OPT_RECORD if edns else header + self.wire


@dataclass(frozen=True, slots=True)
class Record:
    owner: dns.name.Name
    rdtype: int
    ttl: int
    data: dns.rdata.Rdata


@dataclass(slots=True)
class Response:
    """``records`` are the answer section's, of the type asked for and CNAMEs; ``more`` says that some were left out."""

    rcode: int
    flags: int
    size: int
    records: tuple[Record, ...] = ()
    more: bool = False
    negative_ttl: int | None = None
    """How long the denial holds, by the SOA of the authority section; None without one."""
    delegates: bool = False
    """There are NS records in the authority section: without SOA, a referral."""
    extended: frozenset[int] = frozenset()
    """RFC 8914 codes."""

    @property
    def truncated(self) -> bool:
        return bool(self.flags & TC)

    @property
    def authentic(self) -> bool:
        return bool(self.flags & AD)

    @property
    def bogus(self) -> bool:
        return self.rcode == SERVFAIL and not self.extended.isdisjoint(BOGUS_CODES)

    @property
    def lame(self) -> bool:
        """Neither an answer nor a denial: the server sends us elsewhere, or does not recurse."""
        if self.rcode != NOERROR or self.records or self.negative_ttl is not None or self.flags & AA:
            return False
        return self.delegates or not self.flags & RA


def decode(wire: bytes, question: Question, ident: int) -> Response:
    """The response in ``wire``.

    :raises NotOurs: it is not to this question.
    :raises Malformed: it is, and is broken.
    """
    if len(wire) < _HEADER.size:
        raise NotOurs("too short")
    found, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(wire)
    if found != ident or not flags & QR or flags & _OPCODE:
        raise NotOurs("another id, or no response")
    rcode = flags & 15
    position = _HEADER.size
    if questions == 1:
        end = position + len(question.wire)
        # The last four octets are type and class; only the name may differ in case.
        if wire[end - 4 : end] != question.wire[-4:] or wire[position : end - 4].lower() != question.wire[:-4].lower():
            raise NotOurs("another question")
        position = end
    elif questions or rcode not in _WITHOUT_QUESTION:
        raise NotOurs("no question")
    response = Response(rcode, flags, len(wire))
    if flags & TC:
        return response
    try:
        _read(wire, position, (answers, authorities, additionals), question, response)
    except Exception as error:  # whatever dnspython's classes stumble over
        raise Malformed(str(error) or type(error).__name__) from error
    return response


def _read(wire: bytes, position: int, counts: tuple[int, int, int], question: Question, response: Response) -> None:
    records: list[Record] = []
    wanted = question.rdtype
    for section, count in enumerate(counts):
        for _ in range(count):
            start = position
            position = _skip_name(wire, start)
            rdtype, rdclass, ttl, length = _FIXED.unpack_from(wire, position)
            position += _FIXED.size
            data, position = position, position + length
            if position > len(wire):
                raise Malformed("a record ends behind the message")
            if rdtype == OPT:
                if section == 2:
                    response.rcode |= ttl >> 24 << 4
                    response.extended |= _extended_errors(wire, data, position)
            elif rdclass != IN:
                continue
            elif section == 0 and rdtype in (wanted, CNAME):
                if len(records) == MAX_RECORDS:
                    response.more = True
                    continue
                rdata = _rdata(wire, rdtype, data, length)
                records.append(Record(_owner(wire, start, question), rdtype, 0 if ttl >> 31 else ttl, rdata))
            elif section == 1 and rdtype == SOA:
                response.negative_ttl = min(0 if ttl >> 31 else ttl, _rdata(wire, SOA, data, length).minimum)
            elif section == 1 and rdtype == NS:
                response.delegates = True
    response.records = tuple(records)


def _rdata(wire: bytes, rdtype: int, position: int, length: int) -> Any:
    """What `dns.rdata.from_wire` gives, without finding the class anew."""
    parser = dns.wire.Parser(wire, position)
    with parser.restrict_to(length):
        return _class_of(rdtype).from_wire_parser(IN, rdtype, parser, None)


def _skip_name(wire: bytes, position: int) -> int:
    """Where the name at ``position`` ends, without following its pointer."""
    while (length := wire[position]) != 0:
        if length >= 192:
            return position + 2
        if length >= 64:
            raise Malformed("a label of an unknown kind")
        position += 1 + length
    return position + 1


def _owner(wire: bytes, position: int, question: Question) -> dns.name.Name:
    if wire[position] == 192 and wire[position + 1] == _HEADER.size:  # a pointer to the question, as nearly always
        return question.name
    return dns.name.from_wire(wire, position)[0]


def _extended_errors(wire: bytes, position: int, end: int) -> frozenset[int]:
    codes = set()
    while position + _OPTION.size <= end:
        code, length = _OPTION.unpack_from(wire, position)
        position += _OPTION.size
        if code == _EDE and length >= 2:
            codes.add(int.from_bytes(wire[position : position + 2], "big"))
        position += length
    return frozenset(codes)
