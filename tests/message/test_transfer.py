"""Quoted-printable and base64 piece by piece: what was there comes back, whatever the cuts."""

from __future__ import annotations

from base64 import b64decode
from binascii import a2b_qp
from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.transfer import Base64, Coder, Mask, QuotedPrintable

LONG_WORD = b"x" * 200
PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [b"\r\n", b" \r\n", b"\t\r\n", b" ", b"\r", b"\n", b"=", b".", b"plain words ", b"\xc3\xa9" * 30, LONG_WORD]
        ),
    ),
    max_size=12,
)


def coded(make: Callable[[], Coder], pieces: list[bytes]) -> bytes:
    coder = make()
    return b"".join([coder.feed(piece) for piece in pieces]) + coder.finish()


class QuotedPrintableTests(SynchronousTestCase):
    def test_rules(self) -> None:
        for content, expected in {
            b"": b"",
            b"a = b\r\n": b"a =3D b\r\n",
            b"caf\xe9\x00\x7f\r\n": b"caf=E9=00=7F\r\n",
            b"end \r\nend\t\r\nend  \r\n": b"end=20\r\nend=09\r\nend =20\r\n",
            b"no line end ": b"no line end=20",
            b"bare\rbare\nboth\r\n\r": b"bare=0Dbare=0Aboth\r\n=0D",
            b" \rx": b" =0Dx",
            b"y" * 76 + b"\r\n": b"y" * 76 + b"\r\n",
            b"y" * 77 + b"\r\n": b"y" * 75 + b"=\r\nyy\r\n",
            b"y" * 73 + b"\xe9\r\n": b"y" * 73 + b"=E9\r\n",
            b"y" * 74 + b"\xe9\r\n": b"y" * 74 + b"=\r\n=E9\r\n",
            b"y" * 73 + b"\xe9z\r\n": b"y" * 73 + b"=\r\n=E9z\r\n",
            b"y" * 72 + b"\xe9z\r\n": b"y" * 72 + b"=E9z\r\n",
            b"y" * 72 + b"\xe9zz\r\n": b"y" * 72 + b"=E9=\r\nzz\r\n",
        }.items():
            self.assertEqual(coded(QuotedPrintable, [content]), expected)

    @settings(max_examples=150, deadline=None)
    @given(PIECES)
    @example([b"y" * 74, b"\xe9", b"\r", b"\n"])
    @example([b" ", b"\r", b" ", b"\r\n"])
    def test_everything_comes_back_whatever_the_cuts(self, pieces: list[bytes]) -> None:
        content = b"".join(pieces)
        encoded = coded(QuotedPrintable, pieces)
        self.assertEqual(encoded, coded(QuotedPrintable, [content[at : at + 1] for at in range(len(content))]))
        self.assertEqual(a2b_qp(encoded), content)
        for line in encoded.split(b"\r\n"):
            self.assertLessEqual(len(line), 76)
            self.assertRegex(line, rb"\A(?:[!-~ \t]*[!-~])?\Z")


class Base64Tests(SynchronousTestCase):
    def test_line_ends(self) -> None:
        for size, ends, expected in (
            (0, True, b""),
            (57, False, b"eHh4" * 19),
            (57, True, b"eHh4" * 19 + b"\r\n"),
            (58, False, b"eHh4" * 19 + b"\r\neA=="),
            (58, True, b"eHh4" * 19 + b"\r\neA==\r\n"),
        ):
            self.assertEqual(coded(lambda ends=ends: Base64(ends=ends), [b"x" * size]), expected)  # type: ignore[misc]

    @settings(max_examples=100, deadline=None)
    @given(PIECES)
    def test_everything_comes_back_whatever_the_cuts(self, pieces: list[bytes]) -> None:
        content = b"".join(pieces)
        encoded = coded(lambda: Base64(ends=True), pieces)
        self.assertEqual(encoded, coded(lambda: Base64(ends=True), [content]))
        self.assertEqual(b64decode(encoded), content)
        self.assertTrue(all(len(line) <= 76 for line in encoded.split(b"\r\n")))


class MaskTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(PIECES)
    def test_only_what_can_not_pass_is_masked(self, pieces: list[bytes]) -> None:
        content = b"".join(pieces)
        masked = coded(Mask, pieces)
        self.assertEqual(len(masked), len(content))
        lines = b"\r\n".join(
            bytes(octet if octet < 128 and octet not in b"\0\r\n" else ord("?") for octet in line)
            for line in content.split(b"\r\n")
        )
        self.assertEqual(masked, lines)
