"""Parameters of MAIL and RCPT: each row of the tables, good values, bad ones, and what is not offered."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.address import Address
from mailgate.smtp.parameters import (
    MAIL_PARAMETERS,
    NO_MAIL_PARAMETERS,
    NO_RCPT_PARAMETERS,
    RCPT_PARAMETERS,
    BodyType,
    MailParameters,
    RcptParameters,
    decode_unitext,
    decode_xtext,
    is_xtext,
    orcpt_of,
    parse_mail_parameters,
    parse_rcpt_parameters,
)
from mailgate.smtp.reply import PermanentError

ALL = frozenset(row.extension for table in (MAIL_PARAMETERS, RCPT_PARAMETERS) for row in table.values())

MAIL_GOOD = {
    "": NO_MAIL_PARAMETERS,
    " ": NO_MAIL_PARAMETERS,
    " SIZE=0": MailParameters(size=0),
    " size=12345678901234567890": MailParameters(size=12345678901234567890),
    " BODY=7bit": MailParameters(body=BodyType.SEVEN_BIT),
    " BODY=8BITMIME": MailParameters(body=BodyType.EIGHT_BIT),
    " BODY=BINARYMIME": MailParameters(body=BodyType.BINARY),
    "  SMTPUTF8  REQUIRETLS ": MailParameters(smtputf8=True, requiretls=True),
    " RET=full ENVID=QQ314159": MailParameters(ret="FULL", envid="QQ314159"),
    " RET=HDRS ENVID=a+2Bb+3D": MailParameters(ret="HDRS", envid="a+2Bb+3D"),
    " AUTH=<>": MailParameters(auth="<>"),
    " AUTH=e+3Dmc2@example.com": MailParameters(auth="e+3Dmc2@example.com"),
}
MAIL_BAD_VALUE = (
    "SIZE", "SIZE=", "SIZE=-1", "SIZE=+1", "SIZE=abc", "SIZE=1 SIZE=1", "SIZE=123456789012345678901", "SIZE=1_0", "SIZE=٣",
    "BODY", "BODY=", "BODY=9BIT", "SMTPUTF8=x", "SMTPUTF8=", "SMTPUTF8 SMTPUTF8", "REQUIRETLS=yes", "RET", "RET=ALL", "ENVID",
    "ENVID=a+b", "ENVID=+2b", "ENVID=+0A", "ENVID=+7F", "ENVID=a=b", "ENVID=" + 101 * "a", "AUTH", "AUTH=", "AUTH=+0D",
    "AUTH=ü", "=1", "SI!ZE=1", "-SIZE=1", "SIZE\t=1", "SIZE=1\x7f", "SIZE=1\0", "BODY==7BIT", "ü",
)  # fmt: skip
MAIL_UNKNOWN = ("FOO", "FOO=bar", "X-A=1", "NOTIFY=NEVER", "ORCPT=rfc822;a", "SIZES=1", "1A")

RCPT_GOOD = {
    "": NO_RCPT_PARAMETERS,
    " NOTIFY=NEVER": RcptParameters(notify=frozenset({"NEVER"})),
    " NOTIFY=success,Failure,DELAY": RcptParameters(notify=frozenset({"SUCCESS", "FAILURE", "DELAY"})),
    " ORCPT=rfc822;a+2Bb@c": RcptParameters(orcpt="rfc822;a+2Bb@c"),
}
RCPT_BAD_VALUE = (
    "NOTIFY", "NOTIFY=", "NOTIFY=NEVER,DELAY", "NOTIFY=SOON", "NOTIFY=DELAY,", "NOTIFY=DELAY,DELAY", "ORCPT", "ORCPT=",
    "ORCPT=a@b", "ORCPT=;a", "ORCPT=rfc822;", "ORCPT=rfc822;a+b", "ORCPT=rfc822;+0Aa", "ORCPT=rf c822;a",
    "ORCPT=rfc822;" + 500 * "a", "ORCPT=rfc822;a ORCPT=rfc822;a",
)  # fmt: skip


class MailTable(SynchronousTestCase):
    def test_good(self) -> None:
        for text, expected in MAIL_GOOD.items():
            self.assertEqual(parse_mail_parameters(text, ALL), expected, text)

    def test_bad_values(self) -> None:
        for text in MAIL_BAD_VALUE:
            error = self.assertRaises(PermanentError, parse_mail_parameters, " " + text, ALL)
            self.assertEqual((error.reply.code, error.reply.enhanced), (501, "5.5.4"), text)

    def test_unknown(self) -> None:
        for text in MAIL_UNKNOWN:
            error = self.assertRaises(PermanentError, parse_mail_parameters, " " + text, ALL)
            self.assertEqual((error.reply.code, error.reply.enhanced), (555, "5.5.4"), text)

    def test_not_offered(self) -> None:
        for text in list(MAIL_GOOD)[2:]:
            error = self.assertRaises(PermanentError, parse_mail_parameters, text, frozenset())
            self.assertEqual((error.reply.code, error.reply.enhanced), (555, "5.5.4"), text)


class RcptTable(SynchronousTestCase):
    def test_good(self) -> None:
        for text, expected in RCPT_GOOD.items():
            self.assertEqual(parse_rcpt_parameters(text, ALL), expected, text)

    def test_bad_values(self) -> None:
        for text in RCPT_BAD_VALUE:
            error = self.assertRaises(PermanentError, parse_rcpt_parameters, " " + text, ALL)
            self.assertEqual((error.reply.code, error.reply.enhanced), (501, "5.5.4"), text)

    def test_unknown_or_not_offered(self) -> None:
        for text, offered in (("FOO=1", ALL), ("SIZE=1", ALL), ("NOTIFY=NEVER", frozenset({"SIZE"}))):
            error = self.assertRaises(PermanentError, parse_rcpt_parameters, " " + text, offered)
            self.assertEqual((error.reply.code, error.reply.enhanced), (555, "5.5.4"), text)


class AnyText(SynchronousTestCase):
    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.text(alphabet=string.printable + "ü", max_size=12),
                st.builds("{}={}".format, st.sampled_from(sorted([*MAIL_PARAMETERS, *RCPT_PARAMETERS])), st.text(max_size=12)),
            ),
            max_size=4,
        ).map(" ".join)
    )
    def test_is_parsed_or_refused(self, text: str) -> None:
        """Only the documented error, and nothing stored that could not be said to the next hop again."""
        for parse in (parse_mail_parameters, parse_rcpt_parameters):
            try:
                parsed = parse(text, ALL)
            except PermanentError as error:
                self.assertIn(error.reply.code, (501, 555))
                self.assertTrue(error.reply.text.isprintable())
                continue
            for name in ("envid", "auth", "orcpt"):
                value = getattr(parsed, name, None)
                self.assertTrue(value is None or (value.isascii() and value.isprintable() and " " not in value))

    def test_xtext(self) -> None:
        for text, good in (
            ("", True),
            ("abc", True),
            ("+2B", True),
            ("+2b", False),
            ("+", False),
            ("a b", False),
            ("a=", False),
            ("+00", False),
        ):
            self.assertEqual(is_xtext(text), good, text)


class OriginalRecipients(SynchronousTestCase):
    def test_unicode_is_kept_in_ascii(self) -> None:
        given = parse_rcpt_parameters(" ORCPT=UTF-8;bü@y.test", ALL)
        self.assertEqual(given.orcpt, r"UTF-8;b\x{FC}@y.test")
        for text in (" ORCPT=rfc822;bü@y.test", " ORCPT=utf-8;b\x85@y.test", " NOTIFY=ü"):
            error = self.assertRaises(PermanentError, parse_rcpt_parameters, text, ALL)
            self.assertEqual((error.reply.code, error.reply.enhanced), (501, "5.5.4"), text)

    @settings(max_examples=150)
    @given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=30))
    def test_what_is_written_is_read_again(self, local: str) -> None:
        address = Address(local, "y.test")
        kind, _, value = orcpt_of(address).partition(";")
        self.assertTrue(value.isascii() and " " not in value and "=" not in value)
        decode = decode_xtext if kind == "rfc822" else decode_unitext
        self.assertEqual(decode(value), str(address))

    def test_control_characters_stay_encoded(self) -> None:
        self.assertEqual(decode_unitext(r"a\x{0D}\x{0A}\x{85}\x{D800}\x{110000}b"), r"a\x{0D}\x{0A}\x{85}\x{D800}\x{110000}b")
        self.assertEqual(decode_xtext("a+FFb"), "a+FFb")
