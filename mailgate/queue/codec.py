"""Entries and recipients as text, and back: JSON with short keys, absent where a value is the default.

No pickle: what is read here may have lain on a disk for a week. Every text is stored with a checksum; what does not fit its
checksum, or does not parse, is `Damaged`. Addresses are parsed again on the way in: nothing a disk invents gets into a command.
"""

from __future__ import annotations

import json
import zlib
from operator import attrgetter
from typing import Any

from mailgate.queue.entry import NO_WAY, Fate, LastTry, Origin, Standing, Waiting, Way
from mailgate.queue.store import Damaged
from mailgate.smtp.address import NULL_ADDRESS, Address, AddressError, parse_address
from mailgate.smtp.parameters import BodyType, DeliverBy, MailParameters, RcptParameters

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode

_FLAGS = ("utf8", "requiretls", "ret", "envid", "auth", "hold", "priority")
_flags_of = attrgetter("smtputf8", "requiretls", "ret", "envid", "auth", "hold_for")
_ORIGIN = tuple(Origin.__dataclass_fields__)
_origin_of = attrgetter(*_ORIGIN)
_STATE = ("retries", "notified", "doubt", "reason", "reports", "since")
_state_of = attrgetter("retries", "notified", "in_doubt", "reason", "reports", "owed_since")


def checksum(*parts: bytes) -> int:
    """Of parts that belong together; it finds damage, not malice."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def encode_facts(sender: Address, parameters: MailParameters, origin: Origin, priority: int) -> bytes:
    """What an entry has besides its columns."""
    facts: dict[str, Any] = {"from": str(sender)}
    if parameters.size is not None:
        facts["size"] = parameters.size
    if parameters.body is not None:
        facts["body"] = parameters.body.value
    if parameters.priority is not None:
        facts["asked"] = parameters.priority
    if parameters.by is not None:
        facts["by"] = [parameters.by.seconds, parameters.by.returns, parameters.by.trace]
    for key, given in zip(_FLAGS, (*_flags_of(parameters), priority), strict=True):
        if given:
            facts[key] = given
    came = {name: known for name, known in zip(_ORIGIN, _origin_of(origin), strict=True) if known}
    if came:
        facts["origin"] = came
    return _dumps(facts).encode()


def decode_facts(text: bytes) -> tuple[Address, MailParameters, Origin, int]:
    """:raises Damaged: this is not what `encode_facts` made."""
    try:
        facts = json.loads(text)
        body = facts.get("body")
        parameters = MailParameters(
            size=facts.get("size"),
            body=BodyType(body) if body is not None else None,
            smtputf8=bool(facts.get("utf8", False)),
            requiretls=bool(facts.get("requiretls", False)),
            ret=facts.get("ret"),
            envid=facts.get("envid"),
            auth=facts.get("auth"),
            priority=facts.get("asked"),
            hold_for=facts.get("hold"),
            by=DeliverBy(*facts["by"]) if "by" in facts else None,
        )
        return _address(facts["from"]), parameters, Origin(**facts.get("origin", {})), int(facts.get("priority", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"unreadable facts: {error}") from error


def encode_recipient(row: Waiting) -> bytes:
    """What a recipient has besides its columns (number, destination, standing, due)."""
    facts: dict[str, Any] = {"to": str(row.address)}
    if row.parameters.notify:
        facts["notify"] = sorted(row.parameters.notify)
    if row.parameters.orcpt:
        facts["orcpt"] = row.parameters.orcpt
    if row.original is not None:
        facts["was"] = str(row.original)
    if row.last is not None:
        last = row.last
        facts["last"] = [last.at, last.code, last.status, last.text, last.kind, last.remote]
        if last.way is not NO_WAY:
            facts["way"] = [last.way.peer, last.way.address, last.way.local, last.way.tls, last.way.stage]
    if row.fate is not None:
        facts["fate"] = int(row.fate)
    if row.before is not None:
        facts["before"] = int(row.before)
    for key, given in zip(_STATE, _state_of(row), strict=True):
        if given:
            facts[key] = given
    return _dumps(facts).encode()


def decode_recipient(number: int, destination: str, standing: int, due: float, text: bytes) -> Waiting:
    """:raises Damaged: this is not what `encode_recipient` made."""
    try:
        facts = json.loads(text)
        last, original, fate, before = facts.get("last"), facts.get("was"), facts.get("fate"), facts.get("before")
        return Waiting(
            number=number,
            address=_address(facts["to"]),
            destination=destination,
            parameters=RcptParameters(frozenset(facts.get("notify", ())), facts.get("orcpt")),
            original=_address(original) if original else None,
            standing=Standing(standing),
            due=due,
            retries=int(facts.get("retries", 0)),
            notified=int(facts.get("notified", 0)),
            last=_last(last, facts.get("way")) if last else None,
            in_doubt=bool(facts.get("doubt", False)),
            fate=Fate(fate) if fate is not None else None,
            reason=facts.get("reason", ""),
            before=Standing(before) if before is not None else None,
            reports=int(facts.get("reports", 0)),
            owed_since=float(facts.get("since", 0.0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"unreadable recipient: {error}") from error


def _last(facts: list[Any], way: list[str] | None) -> LastTry:
    at, code, status, text, kind, remote = facts
    return LastTry(at, code, status, text, kind, remote, Way(*way) if way else NO_WAY)


def _address(text: str) -> Address:
    """Lenient in what a listener accepted leniently, strict about what can't go into a command."""
    if not text:
        return NULL_ADDRESS
    try:
        return parse_address(text, strict=False)
    except AddressError as error:
        raise ValueError(f"`{text}` is no address") from error
