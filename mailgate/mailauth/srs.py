"""SRS: reverse-paths of a forwarder's own that lead back to the sender (the Sender Rewriting Scheme, as Mail::SRS and postsrsd
have it).

    SRS0=HASH=DAY=source.test=ann@forwarder.test                         of ann@source.test
    SRS1=HASH=forwarder.test==HASH=DAY=source.test=ann@next.test         of that, at the next forwarder

A forwarder's domain may send from the forwarder, so SPF passes again; a bounce comes back to it and is turned round. The hash
keeps others from bouncing through us to whomever they like; the day (of 1024, in base 32) ends that after a while. SRS1 has the
hash of the first forwarder inside, who alone can tell; ours only says that we made it. So an address grows no further than this.

Several secrets: the first makes hashes, all are good to come back: that is how one is replaced. Hashes compare without regard to
case, as hosts on the way may not keep it. HMAC-SHA1 in base64, cut to four characters, is what the other implementations do; an
address may be guessed in some million tries.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence

HASH_LENGTH = 4
"""Characters of a hash we make; that many or more are accepted."""
_DAY = 86400
_DAYS = 1024
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_FIRST = re.compile(r"SRS0([=+-])([^=]*)=([^=]*)=([^=]*)=(.*)\Z", re.IGNORECASE | re.DOTALL)
_NEXT = re.compile(r"SRS1([=+-])([^=]*)=([^=]*)=([=+-].*)\Z", re.IGNORECASE | re.DOTALL)


class NotOurs(ValueError):
    """An address that we have not made, or too long ago; the text says why."""


def is_rewritten(local_part: str) -> bool:
    """Whether it claims to be such an address."""
    return local_part[:4].upper() in ("SRS0", "SRS1") and local_part[4:5] in ("=", "+", "-")


class Rewriter:
    """The secrets of one forwarder. ``most_days`` is how long an address leads back."""

    def __init__(self, secrets: Sequence[str], most_days: int) -> None:
        self._secrets = [secret.encode() for secret in secrets]
        self._most_days = most_days

    def forward(self, local_part: str, domain: str, now: float) -> str:
        """The local part, at our domain, of an address that leads back to this one."""
        if match := _FIRST.match(local_part):
            rest = local_part[4:]
            return f"SRS1={self._hash(domain, rest)}={domain}={rest}"
        if match := _NEXT.match(local_part):
            return f"SRS1={self._hash(match[3], match[4])}={match[3]}={match[4]}"
        day = _day(now)
        return f"SRS0={self._hash(day, domain, local_part)}={day}={domain}={local_part}"

    def reverse(self, local_part: str, now: float) -> tuple[str, str]:
        """Local part and domain that a rewritten address leads to.

        :raises NotOurs:
        """
        if match := _FIRST.match(local_part):
            _, claimed, day, domain, original = match.groups()
            self._verify(claimed, day, domain, original)
            self._verify_day(day, now)
        elif match := _NEXT.match(local_part):
            _, claimed, domain, rest = match.groups()
            self._verify(claimed, domain, rest)
            original = f"SRS0{rest}"
        else:
            raise NotOurs("it is not rewritten")
        if not original or not domain:
            raise NotOurs("nobody is left in it")
        return original, domain

    def _hash(self, *parts: str) -> str:
        return self._hashes(parts)[0][:HASH_LENGTH]

    def _hashes(self, parts: Sequence[str]) -> list[str]:
        data = "".join(parts).lower().encode()
        return [base64.b64encode(hmac.digest(secret, data, "sha1")).decode() for secret in self._secrets]

    def _verify(self, claimed: str, *parts: str) -> None:
        if len(claimed) < HASH_LENGTH:
            raise NotOurs("its hash is too short")
        good = [
            hmac.compare_digest(whole[: len(claimed)].lower().encode(), claimed.lower().encode()) for whole in self._hashes(parts)
        ]
        if not any(good):
            raise NotOurs("its hash is wrong")

    def _verify_day(self, day: str, now: float) -> None:
        if len(day) != 2 or any(digit not in _DIGITS for digit in day.upper()):
            raise NotOurs("its day is damaged")
        then = _DIGITS.index(day[0].upper()) * 32 + _DIGITS.index(day[1].upper())
        if (int(now // _DAY) - then) % _DAYS > self._most_days:
            raise NotOurs("it has expired")


def _day(now: float) -> str:
    number = int(now // _DAY) % _DAYS
    return _DIGITS[number // 32] + _DIGITS[number % 32]
