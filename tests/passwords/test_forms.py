"""Stored secrets: which form it is, what is refused when it is read, whether a password fits."""

from __future__ import annotations

import argon2
import bcrypt
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.passwords import Form, PasswordError, read_secret
from mailgate.passwords.system_crypt import crypt
from mailgate.smtp.scram import ScramKeys

# The examples of Drepper's specification of SHA-crypt.
SHA512 = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
SHA256 = "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"
BCRYPT = "$2b$04$" + "a" * 53


class Read(SynchronousTestCase):
    def test_forms(self) -> None:
        for text, form in (
            ("secret", Form.PLAIN),
            ("two words", Form.PLAIN),
            ("{PLAIN}$6$looks like one", Form.PLAIN),
            (SHA512, Form.SHA512_CRYPT),
            ("{SHA512-CRYPT}" + SHA512, Form.SHA512_CRYPT),
            ("{crypt}" + SHA256, Form.SHA256_CRYPT),
            (SHA256, Form.SHA256_CRYPT),
            (BCRYPT, Form.BCRYPT),
            (BCRYPT.replace("2b", "2y"), Form.BCRYPT),
            ("{BLF-CRYPT}" + BCRYPT, Form.BCRYPT),
            ("$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", Form.ARGON2),
            (str(ScramKeys.derive("x", b"0123456789abcdef")), Form.SCRAM),
        ):
            with self.subTest(text):
                self.assertIs(form, read_secret(text).form)

    def test_refused(self) -> None:
        for text, reason in (
            ("", "empty"),
            ("{PLAIN}", "empty"),
            ("$apr1$salt$hash", "MD5"),
            ("$1$salt$hash", "MD5"),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
            ("{SSHA}abc", "SHA-1"),
            ("{NONSENSE}abc", "not known"),
            ("{CRYPT}abJnggxhB/yWI", "no known form"),
            ("$7$x", "no known form"),
            (SHA512[:-1], "damaged"),
            (SHA512 + "x", "damaged"),
            (SHA512 + "\n", "damaged"),
            ("$6$rounds=999999999$salt$" + "a" * 86, "damaged, or asks for too much"),
            ("$2b$31$" + "a" * 53, "damaged, or asks for too much"),
            ("$argon2id$v=19$m=99999999,t=3,p=4$c2FsdA$aGFzaA", "damaged, or asks for too much"),
            ("{BLF-CRYPT}" + SHA512, "not what stands in front"),
            ("SCRAM-SHA-256$1:c2FsdA==$AAAA:AAAA", "iterations"),
            ("SCRAM-SHA-256$x", "needed"),
        ):
            with self.subTest(text):
                error = str(self.assertRaises(PasswordError, read_secret, text))
                self.assertIn(reason, error)
                if len(text) > 12:
                    self.assertNotIn(text, error)

    def test_a_secret_is_not_shown(self) -> None:
        self.assertNotIn("hush", repr(read_secret("hush")))


class Verify(SynchronousTestCase):
    def check(self, text: str, password: str) -> None:
        stored = read_secret(text)
        self.assertTrue(stored.verify(password))
        for other in (password + "x", password[:-1], password.upper(), "", password + "\0"):
            self.assertFalse(stored.verify(other), other)

    def test_specified_examples(self) -> None:
        self.check(SHA512, "Hello world!")
        self.check(SHA256, "Hello world!")

    def test_libraries(self) -> None:
        self.check(argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("pässword"), "pässword")
        self.check(bcrypt.hashpw("pässword".encode(), bcrypt.gensalt(4)).decode(), "pässword")
        self.check(str(ScramKeys.derive("password", b"0123456789abcdef")), "password")
        self.check("password", "password")

    def test_bcrypt_reads_no_more_than_it_hashes(self) -> None:
        stored = read_secret(bcrypt.hashpw(b"a" * 72, bcrypt.gensalt(4)).decode())
        self.assertTrue(stored.verify("a" * 72))
        self.assertFalse(stored.verify("a" * 73))

    @given(st.text(min_size=1, max_size=20), st.text(max_size=20))
    @settings(max_examples=50, deadline=None)
    def test_only_the_password_fits(self, password: str, other: str) -> None:
        try:
            hashed = crypt(password, "$5$rounds=1000$saltsalt")
        except (ValueError, UnicodeEncodeError):
            return
        assert hashed is not None
        self.assertEqual(password == other and "\0" not in other, read_secret(hashed).verify(other))

    def test_a_method_that_the_system_does_not_know(self) -> None:
        self.assertIsNone(crypt("x", "$nonsense$salt"))
        self.assertRaises(ValueError, crypt, "a\0b", "$6$salt")
