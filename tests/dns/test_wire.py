"""Responses as octets: what is ours, what is dropped, and that no octets whatever do harm."""

from __future__ import annotations

import dns.message
import dns.rdatatype
import dns.rrset
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.dns.resolver import MX, TXT, parse_name
from mailgate.dns.wire import IN, MAX_RECORDS, Malformed, NotOurs, Question, decode


def question(name: str = "example.org", rdtype: int = MX) -> Question:
    parsed = parse_name(name)
    assert parsed is not None
    return Question(parsed, rdtype)


def response(name: str = "example.org", *records: str, kind: str = "MX") -> bytes:
    query = dns.message.from_wire(question(name, int(dns.rdatatype.from_text(kind))).encode(7))
    answer = dns.message.make_response(query, recursion_available=True)
    if records:
        answer.answer.append(dns.rrset.from_text(name + ".", 300, "IN", kind, *records))
    return answer.to_wire(max_size=65535)


GOOD = response("example.org", "10 mx1.example.org.", "20 mx2.example.org.")


class QuestionTests(SynchronousTestCase):
    def test_it_is_what_dnspython_reads(self) -> None:
        message = dns.message.from_wire(question().encode(4711))
        self.assertEqual((message.id, message.payload, message.edns), (4711, 1232, 0))
        self.assertEqual(message.question[0].to_text(), "example.org. IN MX")
        self.assertEqual(dns.message.from_wire(question().encode(1, edns=False)).edns, -1)


class OursTests(SynchronousTestCase):
    def test_the_response(self) -> None:
        found = decode(GOOD, question(), 7)
        self.assertEqual([str(record.data) for record in found.records], [str(r) for r in dns.message.from_wire(GOOD).answer[0]])

    def test_case_does_not_matter(self) -> None:
        self.assertEqual(len(decode(GOOD.replace(b"example", b"eXamPle", 1), question(), 7).records), 2)

    def test_what_is_not_ours(self) -> None:
        query = question().encode(7)
        for name, wire in {
            "another id": b"\0\x08" + GOOD[2:],
            "the question itself": query,
            "another opcode": GOOD[:2] + b"\xa1" + GOOD[3:],
            "another name": response("example.net", "10 mx1.example.org."),
            "another type": response("example.org", '"x"', kind="TXT"),
            "another class": GOOD.replace(b"\0\x0f\0\x01", b"\0\x0f\0\x03", 1),
            "no question": GOOD[:4] + b"\0\0" + GOOD[6:],
            "two questions": GOOD[:4] + b"\0\x02" + GOOD[6:],
            "nothing": b"",
            "half a header": GOOD[:11],
        }.items():
            self.assertRaises(NotOurs, decode, wire, question(), 7)
            self.assertTrue(name)

    def test_a_server_that_fails_may_leave_the_question_out(self) -> None:
        self.assertEqual(decode(b"\0\x07\x81\x82" + bytes(8), question(), 7).rcode, 2)

    def test_every_cut_is_malformed_or_not_ours(self) -> None:
        for length in range(len(GOOD)):
            self.assertRaises((NotOurs, Malformed), decode, GOOD[:length], question(), 7)

    def test_many_records_are_bounded(self) -> None:
        wire = response("example.org", *(f'"{number}"' for number in range(1000)), kind="TXT")
        found = decode(wire, question(rdtype=TXT), 7)
        self.assertEqual((len(found.records), found.more), (MAX_RECORDS, True))

    def test_ttls_with_the_highest_bit_are_zero(self) -> None:
        position = GOOD.index(b"\0\0\x01\x2c")
        found = decode(GOOD[:position] + b"\xff\xff\xff\xff" + GOOD[position + 4 :], question(), 7)
        self.assertEqual(found.records[0].ttl, 0)

    def test_compression_loops(self) -> None:
        head = GOOD[: 12 + len(question().wire)]
        loop = b"\xc0" + bytes([len(head)]) + b"\0\x0f" + int(IN).to_bytes(2, "big") + bytes(4)
        for owner_loop in (loop + b"\0\x04\0\x0a" + b"\xc0" + bytes([len(head)]), loop + b"\0\0"):
            wire = head[:6] + b"\0\x01" + head[8:] + owner_loop
            self.assertRaises(Malformed, decode, wire, question(), 7)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
    def test_damaged_octets_do_no_harm(self, changes: list[tuple[int, int]]) -> None:
        wire = bytearray(GOOD)
        for position, octet in changes:
            wire[position] = octet
        try:
            decode(bytes(wire), question(), 7)
        except (NotOurs, Malformed):
            pass

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=200))
    def test_any_octets_behind_the_question_do_no_harm(self, tail: bytes) -> None:
        wire = b"\0\x07\x81\x80\0\x01\0\x02\0\x02\0\x02" + question().wire + tail
        try:
            decode(wire, question(), 7)
        except Malformed:
            pass
