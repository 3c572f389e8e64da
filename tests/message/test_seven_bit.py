"""Messages that become 7 bit: what is recoded, what stays, and that every part says what it said."""

from __future__ import annotations

from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message as Parsed

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.mime import MAX_HEADER, MAX_PARTS
from mailgate.message.seven_bit import Rewriter, Survey, TooComplex

WORDS = "Grüße aus dem schönen Münster, und bis zum nächsten Mal!\r\n".encode()
QUOTED = b"Gr=C3=BC=C3=9Fe aus dem sch=C3=B6nen M=C3=BCnster, und bis zum n=C3=A4chste=\r\nn Mal!\r\n"


def survey(message: bytes, *, binary: bool = False, size: int = 0) -> Survey:
    header_end = 0 if message.startswith(b"\r\n") else message.find(b"\r\n\r\n") + 2
    found = Survey(message[:header_end], binary=binary)
    rest = message[header_end + 2 :]
    for at in range(0, len(rest), size or len(rest) or 1):
        found.feed(rest[at : at + (size or len(rest))])
    found.finish()
    return found


def recoded(message: bytes, *, binary: bool = False, size: int = 0) -> bytes:
    """``size``: of the pieces that it comes in; 0: in one."""
    rewriter = Rewriter(survey(message, binary=binary, size=size).edits)
    pieces = [message[at : at + (size or len(message))] for at in range(0, len(message), size or len(message) or 1)]
    return b"".join([rewriter.feed(piece) for piece in pieces]) + rewriter.finish()


def lines(*text: str | bytes) -> bytes:
    return b"".join((line if isinstance(line, bytes) else line.encode()) + b"\r\n" for line in text)


def part(head: str, content: bytes) -> bytes:
    return head.replace("\n", "\r\n").encode() + b"\r\n" * (2 if head else 1) + content


MIME = "MIME-Version: 1.0\nContent-Type: "


class OnePartTests(SynchronousTestCase):
    def test_labels(self) -> None:
        for before, after in {
            MIME + "text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\nSubject: x": (
                MIME + "text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\nSubject: x"
            ),
            MIME + "text/plain; charset=utf-8\ncontent-transfer-encoding:\n 7BIT (a lie)": (
                MIME + "text/plain; charset=utf-8\ncontent-transfer-encoding: quoted-printable"
            ),
            MIME + "text/html; charset=utf-8": (
                MIME + "text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable"
            ),
            "Subject: x": "Subject: x\n" + MIME + "text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable",
            "": MIME + "text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable",
            "Content-Type: text/plain": (
                "Content-Type: text/plain\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable"
            ),
        }.items():  # fmt: skip
            self.assertEqual(recoded(part(before, WORDS)), part(after, QUOTED))

    def test_what_is_left_as_it_is(self) -> None:
        for head in (
            MIME + "multipart/signed; boundary=b",
            MIME + "multipart/encrypted; boundary=b",
            MIME + "multipart/mixed",
            MIME + "message/partial; id=x; number=1",
            MIME + "message/external-body; access-type=x-none",
            MIME + "message/rfc822\nContent-Transfer-Encoding: base64",
            MIME + "text/plain\nContent-Transfer-Encoding: quoted-printable",
            MIME + "text/plain\nContent-Transfer-Encoding: x-uuencode",
            MIME + "text/plain\nContent-Transfer-Encoding: 8bit\nContent-Transfer-Encoding: 7bit",
            MIME + "text/plain\nContent-Type: text/html",
        ):
            message = part(head, WORDS)
            self.assertEqual(recoded(message), message, head)
            self.assertFalse(survey(message).leaves_binary)
            self.assertTrue(survey(message + b"\0").leaves_binary)

    def test_seven_bits_are_not_touched(self) -> None:
        for message in (part("Subject: x", b"Hello\r\n"), part("Subject: x", b"y" * 5000), b"Subject: x\r\n", b"", b"\r\n"):
            self.assertEqual(recoded(message), message)

    def test_a_label_that_asks_for_more_than_there_is(self) -> None:
        head = MIME + "text/plain\nContent-Transfer-Encoding: %s"
        for label in ("8bit", "binary", "Binary (really)"):
            self.assertEqual(recoded(part(head % label, b"Hello\r\n")), part(head % "7bit", b"Hello\r\n"))
        long = part(head % "binary", b"y" * 999 + b"\r\n")
        self.assertEqual(recoded(long), long)

    def test_the_shorter_encoding(self) -> None:
        for content, kind, encoding in (
            (b"a" * 50 + b"\xe9" * 10, "text/plain", "quoted-printable"),
            (b"a" * 50 + b"\xe9" * 11, "text/plain", "base64"),
            (b"a" * 99 + b"\xe9", "application/x", "base64"),
            (b"a" * 99 + b"\xe9", "message/global", "base64"),
            (b"a" * 99 + b"\xe9", "message/delivery-status", "quoted-printable"),
            ("привет".encode("utf-16"), "text/plain; charset=utf-16", "base64"),
        ):
            parsed = message_from_bytes(recoded(part(MIME + kind, content)))
            self.assertEqual(parsed["Content-Transfer-Encoding"], encoding)

    def test_charset_of_text_without_a_type(self) -> None:
        for content, charset in (
            (WORDS, "utf-8"),
            (b"caf\xe9, and much more of it\r\n", "unknown-8bit"),
            (WORDS + b"\xc3", "unknown-8bit"),
        ):
            self.assertEqual(message_from_bytes(recoded(part("Subject: x", content))).get_content_charset(), charset)

    def test_binary(self) -> None:
        for content, kind, encoding in (
            (b"a\0b", "application/x", "base64"),
            (b"bare\nline ends\r, and some more text\r\n", "text/plain", "quoted-printable"),
            (b"y" * 999, "text/plain", "quoted-printable"),
            (b"y" * 998 + b"\r\n", "text/plain", None),
        ):
            message = part(MIME + kind, content)
            parsed = message_from_bytes(recoded(message, binary=True))
            self.assertEqual(parsed["Content-Transfer-Encoding"], encoding)
            self.assertEqual(parsed.get_payload(decode=True), content)
            self.assertFalse(survey(message, binary=True).leaves_binary)
        for size in (1, 999, 1000, 1001, 4096):
            self.assertEqual(survey(part(MIME + "text/plain", (b"y" * 998 + b"\r\n") * 9), binary=True, size=size).edits, [])


def multipart(kind: str, boundary: str, *parts: bytes, more: str = "", before: bytes = b"", after: bytes = b"") -> bytes:
    head = part(f'{MIME}multipart/{kind}; boundary="{boundary}"{more}', before)
    delimiter = b"\r\n--" + boundary.encode()
    return head + b"".join(delimiter + b"\r\n" + one for one in parts) + delimiter + b"--" + b"\r\n" + after


class NestedTests(SynchronousTestCase):
    def test_each_part_by_itself(self) -> None:
        plain = part("Content-Type: text/plain; charset=utf-8", WORDS[:-2])
        quoted = part("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable", QUOTED[:-2])
        ascii_part = part("X-Odd:   one \nContent-Type: text/plain", b"  as it was\r\n\r\n--other\r\n")
        image = part("Content-Type: image/png", b"\x89PNG\r\n\x1a\n")
        encoded = part("Content-Type: image/png\nContent-Transfer-Encoding: base64", b"iVBORw0KGgo=")
        label = "\nContent-Transfer-Encoding: %s"
        for word in ("8bit", "binary"):
            before = multipart(
                "mixed", "a b", multipart("alternative", "x", plain, ascii_part, more=label % word), image, more=label % word
            )
            after = multipart(
                "mixed",
                "a b",
                multipart("alternative", "x", quoted, ascii_part, more=label % "7bit"),
                encoded,
                more=label % "7bit",
            )
            self.assertEqual(recoded(before), after)

    def test_signed_parts_stay_and_so_do_labels_around_them(self) -> None:
        signed = multipart(
            "signed", "s", part("Content-Type: text/plain", WORDS), part("Content-Type: application/pgp-signature", b"x")
        )
        label = "\nContent-Transfer-Encoding: 8bit"
        plain = part("", b"\xe9" + b" word" * 9)
        inner = multipart("mixed", "i", plain, more=label)
        message = multipart("mixed", "o", signed, inner, more=label)
        found = recoded(message)
        self.assertIn(signed, found)
        self.assertEqual(found.count(b"Content-Transfer-Encoding: 8bit"), 1)
        self.assertEqual(found.count(b"Content-Transfer-Encoding: 7bit"), 1)
        self.assertIn(b"=E9 word", found)

    def test_messages_in_messages(self) -> None:
        inner = part("Subject: inner", WORDS)
        forwarded = part("Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit", inner)
        digest = multipart("digest", "d", part("", part("Subject: one", WORDS)), part("", part("Subject: two", b"plain")))
        parsed = message_from_bytes(recoded(multipart("mixed", "m", forwarded, digest)))
        first, second = parsed.get_payload()  # type: ignore[misc]
        self.assertEqual(first["Content-Transfer-Encoding"], "7bit")  # type: ignore[index]
        for message in (first.get_payload(0), second.get_payload(0).get_payload(0)):  # type: ignore[union-attr]
            self.assertEqual(message["MIME-Version"], "1.0")
            self.assertEqual(message.get_payload(decode=True).rstrip(), WORDS.rstrip())
        self.assertIn(
            b"\r\n\r\nSubject: two\r\n\r\nplain\r\n", recoded(multipart("digest", "d", part("", part("Subject: two", b"plain"))))
        )

    def test_what_no_reader_shows(self) -> None:
        message = multipart("mixed", "m", part("", b"x"), before=b"caf\xe9\r\nplain", after=b"\xff\xff\r\n")
        masked = multipart("mixed", "m", part("", b"x"), before=b"caf?\r\nplain", after=b"??\r\n")
        self.assertEqual(recoded(message), masked)

    def test_structures_that_are_broken(self) -> None:
        head = part(MIME + "multipart/mixed; boundary=b", b"")
        high = b"\xe9 and some words"
        for body in (
            b"--b\r\n\r\n" + high,  # no end
            b"--b\r\nContent-Type: text/plain\r\n--b\r\n\r\n" + high + b"\r\n--b--",  # a header without an end
            b"--b\r\n--b\r\n\r\n" + high + b"\r\n--b--",  # nothing at all
            b"--b \t\r\n\r\n" + high + b"\r\n--b-- \r\n",  # white space behind delimiters
            b"--bb\r\n--b\r\n\r\n" + high + b"\r\n--b\r\nX: ",  # no content
            b"--b--\r\n--b\r\n\r\n" + high,  # the end first
        ):
            for size in (0, 1, 2, 3, 5, 17):
                found = recoded(head + body, size=size)
                self.assertTrue(found.isascii(), body)
                self.assertEqual(found, recoded(head + body), body)

    def test_a_header_that_is_too_long_is_left(self) -> None:
        long = b"X: " + b"y" * MAX_HEADER + b"\r\n\r\n" + WORDS
        message = multipart("mixed", "m", long, part("", b"\xe9 and some words"))
        found = recoded(message)
        self.assertIn(long, found)
        self.assertIn(b"=E9 and some words", found)
        for size in (4096, 70_001):
            self.assertEqual(recoded(message, size=size), found)

    def test_too_many_parts(self) -> None:
        self.assertRaises(TooComplex, survey, part(MIME + "multipart/mixed; boundary=b", b"--b\r\n\r\n\r\n" * (MAX_PARTS + 1)))

    def test_depth_is_bounded(self) -> None:
        message = part("Content-Type: message/rfc822", b"") * 150 + part("", WORDS)
        self.assertEqual(recoded(message), message)


@dataclass
class Leaf:
    kind: str
    label: str
    content: bytes

    def render(self) -> bytes:
        label = f"\nContent-Transfer-Encoding: {self.label}" if self.label else ""
        return part(f"Content-Type: {self.kind}{label}", self.content)

    def check(self, test: SynchronousTestCase, parsed: Parsed) -> None:
        test.assertEqual(parsed.get_content_type(), self.kind)
        test.assertEqual(parsed.get_payload(decode=True), self.content)


@dataclass
class Tree:
    parts: list[Leaf | Tree]
    label: str
    depth: int = 0

    def render(self, level: int = 0) -> bytes:
        parts = [one.render(level + 1) if isinstance(one, Tree) else one.render() for one in self.parts]
        label = f"\nContent-Transfer-Encoding: {self.label}" if self.label else ""
        return multipart("mixed", f"=level{level}=", *parts, more=label)

    def check(self, test: SynchronousTestCase, parsed: Parsed) -> None:
        test.assertIn(parsed.get("Content-Transfer-Encoding", "7bit"), ("7bit",))
        children = parsed.get_payload()
        assert isinstance(children, list)
        for one, child in zip(self.parts, children, strict=True):
            one.check(test, child)  # type: ignore[arg-type]


LABELS = st.sampled_from(["", "8bit", "7bit", "binary"])
CONTENT = st.lists(
    st.one_of(
        st.binary(max_size=30), st.sampled_from([b"\r\n", b"words and words ", b"\xc3\xa9", b"\r\n--=level", b"-- ", b" \r\n"])
    ),
    max_size=8,
).map(b"".join)
TEXT = CONTENT.map(
    lambda content: content.replace(b"\0", b"").replace(b"\r\n", b"\n").replace(b"\r", b"").replace(b"\n", b"\r\n")
)


def trees(content: st.SearchStrategy[bytes]) -> st.SearchStrategy[Tree]:
    leaves = st.builds(Leaf, st.sampled_from(["text/plain", "text/html", "application/x", "image/png"]), LABELS, content)
    inner = st.recursive(leaves, lambda parts: st.builds(Tree, st.lists(parts, min_size=1, max_size=3), LABELS), max_leaves=5)
    return st.builds(Tree, st.lists(inner, min_size=1, max_size=3), LABELS)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(trees(TEXT), st.integers(1, 60))
    def test_every_part_says_what_it_said(self, tree: Tree, size: int) -> None:
        message = tree.render()
        found = recoded(message)
        self.assertTrue(found.isascii())
        tree.check(self, message_from_bytes(found))
        self.assertEqual(recoded(message, size=size), found)
        self.assertEqual(recoded(found), found)

    @settings(max_examples=100, deadline=None)
    @given(trees(CONTENT), st.integers(1, 60))
    def test_binary(self, tree: Tree, size: int) -> None:
        message = tree.render()
        found = recoded(message, binary=True)
        self.assertTrue(found.isascii())
        self.assertNotIn(b"\0", found)
        self.assertEqual(found.count(b"\r\n"), found.count(b"\n"))
        self.assertEqual(found.count(b"\r\n"), found.count(b"\r"))
        tree.check(self, message_from_bytes(found))
        self.assertEqual(recoded(message, binary=True, size=size), found)

    @settings(max_examples=100, deadline=None)
    @given(
        st.binary(max_size=60),
        st.lists(st.sampled_from([b"\r\n", b"--b", b"--", b"Content-Type: message/rfc822\r\n", b"\xe9", b"x"]), max_size=30),
        st.integers(1, 9),
    )
    def test_any_octets_whatever_the_cuts(self, some: bytes, pieces: list[bytes], size: int) -> None:
        message = part(MIME + "multipart/mixed; boundary=b", b"".join(pieces) + some)
        for binary in (False, True):
            self.assertEqual(recoded(message, binary=binary, size=size), recoded(message, binary=binary))
