"""The forms of a stored secret: which it is, whether it is well made, whether a password fits.

    $argon2id$…                            argon2 (RFC 9106), by argon2-cffi
    $2b$… $2y$… $2a$…                      bcrypt, by bcrypt; passwords over 72 octets fit none
    $6$… $5$… $y$…                         sha512-crypt, sha256-crypt, yescrypt, by the system's crypt
    SCRAM-SHA-256$4096:salt$key:key        as PostgreSQL keeps it; the only hash that SCRAM can use
    {SCHEME}…                              one of these with Dovecot's or LDAP's word in front; {PLAIN} for a password that begins
                                           like a hash
    anything else                          the password itself

Hashes that are no protection any more (MD5, SHA-1, DES) are refused by their name. A hash that asks for more memory or rounds
than a login may cost is refused when it is read, not when somebody logs in. ``verify`` computes what is slow on purpose, so it
belongs into a thread; the libraries let go of the interpreter's lock meanwhile.
"""

from __future__ import annotations

import hmac
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

from mailgate.passwords.system_crypt import NoSystemCrypt, crypt
from mailgate.smtp.scram import ScramKeys


class Form(Enum):
    """Each with the word that the configuration has for it."""

    ARGON2 = "argon2"
    BCRYPT = "bcrypt"
    SHA512_CRYPT = "sha512-crypt"
    SHA256_CRYPT = "sha256-crypt"
    YESCRYPT = "yescrypt"
    SCRAM = "scram-sha-256"
    PLAIN = "plain"


class PasswordError(Exception):
    """A stored secret can't be used; the text says why, and never what it is."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored secret."""

    form: Form
    text: str = field(repr=False)

    def verify(self, password: str) -> bool:
        """Whether it is this password. Blocking, except for a plain one."""
        return _FORMS[self.form].verify(self.text, password)


@dataclass(frozen=True, slots=True)
class _Row:
    """What is known of a form."""

    pattern: re.Pattern[str]
    verify: Callable[[str, str], bool]
    library: str = ""
    crypt: bool = False


def _verify_plain(stored: str, password: str) -> bool:
    return hmac.compare_digest(stored.encode(), password.encode())


def _verify_argon2(stored: str, password: str) -> bool:
    argon2 = _library("argon2")
    try:
        argon2.PasswordHasher().verify(stored, password)
    except argon2.exceptions.VerifyMismatchError:
        return False
    return True


def _verify_bcrypt(stored: str, password: str) -> bool:
    secret = password.encode()
    if len(secret) > MAX_BCRYPT or b"\0" in secret:  # the rest would not count
        return False
    return bool(_library("bcrypt").checkpw(secret, stored.encode()))


def _verify_crypt(stored: str, password: str) -> bool:
    if "\0" in password:
        return False
    computed = crypt(password, stored)
    if computed is None:
        raise PasswordError("the system's crypt does not know this hash")
    return hmac.compare_digest(computed.encode(), stored.encode())


def _verify_scram(stored: str, password: str) -> bool:
    return ScramKeys.parse(stored).fits(password)


MAX_BCRYPT = 72
_SHA_CRYPT = r"(?:rounds=[1-9][0-9]{3,6}\$)?[^$:\s]{0,16}\$[./0-9A-Za-z]"
_FORMS: Mapping[Form, _Row] = {
    Form.ARGON2: _Row(
        re.compile(r"\$argon2(?:id|i|d)\$(?:v=\d+\$)?m=\d{1,6},t=\d{1,2},p=\d{1,2}\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+"),
        _verify_argon2,
        library="argon2",
    ),
    Form.BCRYPT: _Row(re.compile(r"\$2[aby]\$(?:0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}"), _verify_bcrypt, library="bcrypt"),
    Form.SHA512_CRYPT: _Row(re.compile(rf"\$6\${_SHA_CRYPT}{{86}}"), _verify_crypt, crypt=True),
    Form.SHA256_CRYPT: _Row(re.compile(rf"\$5\${_SHA_CRYPT}{{43}}"), _verify_crypt, crypt=True),
    Form.YESCRYPT: _Row(
        re.compile(r"\$y\$[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{0,86}\$[./A-Za-z0-9]{43}"), _verify_crypt, crypt=True
    ),
    Form.SCRAM: _Row(re.compile(r"SCRAM-SHA-256\$.*"), _verify_scram),
    Form.PLAIN: _Row(re.compile(".+", re.DOTALL), _verify_plain),
}
"""The patterns bound what one login may cost: argon2 1 GiB, bcrypt 2^16 rounds (four seconds), crypt ten million rounds."""

_PREFIXES: Mapping[str, Form] = {
    "$argon2": Form.ARGON2,
    "$2a$": Form.BCRYPT,
    "$2b$": Form.BCRYPT,
    "$2y$": Form.BCRYPT,
    "$6$": Form.SHA512_CRYPT,
    "$5$": Form.SHA256_CRYPT,
    "$y$": Form.YESCRYPT,
    "SCRAM-SHA-256$": Form.SCRAM,
}
_SCHEMES: Mapping[str, Form | None] = {
    "PLAIN": Form.PLAIN,
    "CLEARTEXT": Form.PLAIN,
    "ARGON2I": Form.ARGON2,
    "ARGON2ID": Form.ARGON2,
    "BLF-CRYPT": Form.BCRYPT,
    "SHA512-CRYPT": Form.SHA512_CRYPT,
    "SHA256-CRYPT": Form.SHA256_CRYPT,
    "CRYPT": None,
}
"""Words in braces; None: what follows says it itself."""
_WEAK: Mapping[str, str] = {
    "$apr1$": "MD5 (apr1)",
    "$1$": "MD5",
    "$md5": "MD5",
    "{SHA}": "SHA-1",
    "{SSHA}": "SHA-1",
    "{MD5}": "MD5",
}

_SCHEME = re.compile(r"\{([A-Za-z0-9.-]+)\}")


def read_secret(text: str) -> Stored:
    """:raises PasswordError: it is a hash that can't be used here, or no hash and no password either."""
    for prefix, method in _WEAK.items():
        if text.upper().startswith(prefix.upper()):
            raise PasswordError(f"{method} is no protection for passwords any more")
    scheme = _SCHEME.match(text)
    wanted: Form | None = None
    if scheme is not None:
        if scheme[1].upper() not in _SCHEMES:
            raise PasswordError(f"the scheme {{{scheme[1]}}} is not known here")
        wanted, text = _SCHEMES[scheme[1].upper()], text[scheme.end() :]
        if wanted is Form.PLAIN:
            return _plain(text)
    form = next((form for prefix, form in _PREFIXES.items() if text.startswith(prefix)), None)
    if form is None and not (scheme or text.startswith("$")):
        return _plain(text)
    if form is None:
        raise PasswordError("the hash is of no known form; a password that begins like one is written {PLAIN}…")
    if wanted not in (None, form):
        raise PasswordError(f"the hash is {form.value}, not what stands in front of it")
    _check(form, text)
    return Stored(form, text)


def _plain(text: str) -> Stored:
    if not text:
        raise PasswordError("the password is empty")
    return Stored(Form.PLAIN, text)


def _check(form: Form, text: str) -> None:
    row = _FORMS[form]
    if not row.pattern.fullmatch(text):
        raise PasswordError(f"the {form.value} hash is damaged, or asks for too much")
    if row.library:
        _library(row.library)
    if row.crypt and not _system_knows(text[: text.rindex("$")]):
        raise PasswordError(f"this system's crypt does not know {form.value}")
    if form is Form.SCRAM:
        try:
            ScramKeys.parse(text)
        except ValueError as error:
            raise PasswordError(str(error)) from error


@cache
def _library(name: str) -> Any:
    """argon2 or bcrypt, or why it can't be had."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PasswordError(f"{name} hashes need a library: pip install 'mailgate[passwords]'") from error


def _system_knows(setting: str) -> bool:
    return _method_known(setting.split("$")[1])


@cache
def _method_known(method: str) -> bool:
    probe = {"y": "$y$j75$F5Jx5fExrKuPp53xLKQ..1", "6": "$6$rounds=1000$testsalt", "5": "$5$rounds=1000$testsalt"}[method]
    try:
        return crypt("probe", probe) is not None
    except NoSystemCrypt:
        return False
