"""MTA-STS (RFC 8461) without I/O: the record that announces a policy, the policy, and which hosts it allows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

MAX_AGE = 31557600
"""Section 3.2: about a year."""
MAX_POLICY = 64 << 10
"""Octets of a policy (section 3.3)."""
MAX_HOSTS = 500
_VERSION = "STSv1"
_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_HOST = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?\.?\Z")


class Mode(Enum):
    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class Trouble(Enum):
    """Why there is no policy although one is announced, by the names of RFC 8460 4.3.2.2."""

    FETCH = "sts-policy-fetch-error"
    WEBPKI = "sts-webpki-invalid"
    INVALID = "sts-policy-invalid"


class BadPolicy(Exception):
    """What was fetched is no policy."""


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """``hosts`` are names, or ``*.`` and a name, in lower case."""

    mode: Mode
    hosts: tuple[str, ...] = ()
    max_age: int = 0

    def allows(self, host: str) -> bool:
        """Whether the policy names this host; ``*.`` stands for exactly one label (section 4.1)."""
        name = host.lower().rstrip(".")
        return name in self.hosts or "*." + name.partition(".")[2] in self.hosts


def policy_id(texts: Iterable[bytes]) -> str:
    """The id that the TXT records of ``_mta-sts.DOMAIN`` announce; "" without exactly one record that is well-formed (3.1)."""
    announced = [text for text in texts if text.startswith(b"v=STSv1;") or text == b"v=STSv1"]
    if len(announced) != 1:
        return ""
    fields = dict(_pairs(announced[0].decode("ascii", "replace")))
    identity = fields.get("id", "")
    return identity if _ID.match(identity) else ""


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    for field in text.split(";"):
        name, equals, value = field.strip().partition("=")
        if equals:
            yield name, value


def parse_policy(content: bytes) -> StsPolicy:
    """:raises BadPolicy: it is none (section 3.2)."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadPolicy("it is not UTF-8") from error
    fields: dict[str, str] = {}
    hosts: list[str] = []
    for line in text.split("\n"):
        name, colon, value = line.removesuffix("\r").partition(":")
        name, value = name.strip(), value.strip()
        if not colon:
            if line.strip():
                raise BadPolicy("a line without a colon")
            continue
        if name == "mx":
            host = value.lower().rstrip(".")
            if not _HOST.match(host):
                raise BadPolicy(f"no host name: {value[:80]!r}")
            hosts.append(host)
        else:
            fields.setdefault(name, value)
    if fields.get("version") != _VERSION:
        raise BadPolicy("it is of another version")
    try:
        mode = Mode(fields.get("mode", ""))
    except ValueError as error:
        raise BadPolicy("it has no mode") from error
    age = fields.get("max_age", "")
    if not re.fullmatch(r"[0-9]{1,10}", age):
        raise BadPolicy("it has no max_age")
    if mode is not Mode.NONE and not hosts:
        raise BadPolicy("it names no host")
    return StsPolicy(mode, tuple(dict.fromkeys(hosts))[:MAX_HOSTS], min(int(age), MAX_AGE))
