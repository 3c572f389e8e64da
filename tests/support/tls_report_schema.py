"""Is this a report of TLS-RPT? The form of RFC 8460 4.4, read strictly: no key it does not know, every value of its kind."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

RESULT_TYPES = frozenset(
    {"starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted"}
    | {"validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required"}
    | {"sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid"}
)
POLICY_TYPES = frozenset({"tlsa", "sts", "no-policy-found"})
_TLSA = re.compile(r"[0-9]{1,3} [0-9]{1,3} [0-9]{1,3} [0-9a-f]+")
_STS = re.compile(r"(version: STSv1|mode: (enforce|testing|none)|mx: (\*\.)?[a-z0-9.-]+|max_age: [0-9]{1,10})")
_DOMAIN = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9])?)*")
_MOMENT = "%Y-%m-%dT%H:%M:%SZ"


def checked(content: bytes) -> dict[str, Any]:
    """The report. :raises AssertionError: it is none."""
    report: dict[str, Any] = json.loads(content.decode("utf-8"))
    _keys(
        report,
        {"organization-name": _text, "date-range": _range, "contact-info": _text, "report-id": _text, "policies": _policies},
    )
    return report


def _keys(
    found: Any, required: dict[str, Callable[[Any], None]], optional: dict[str, Callable[[Any], None]] | None = None
) -> None:
    assert isinstance(found, dict), found
    known = {**required, **(optional or {})}
    assert required.keys() <= found.keys() <= known.keys(), sorted(found)
    for key, value in found.items():
        known[key](value)


def _text(value: Any) -> None:
    assert isinstance(value, str), value
    assert value


def _count(value: Any) -> None:
    assert type(value) is int, value
    assert value >= 0, value


def _domain(value: Any) -> None:
    assert isinstance(value, str), value
    assert _DOMAIN.fullmatch(value), value


def _address(value: Any) -> None:
    ipaddress.ip_address(value)


def _range(value: Any) -> None:
    _keys(value, {"start-datetime": _text, "end-datetime": _text})
    start, end = (datetime.strptime(value[key], _MOMENT) for key in ("start-datetime", "end-datetime"))
    assert (end - start).total_seconds() == 86399, value


def _policies(value: Any) -> None:
    assert isinstance(value, list), value
    assert value
    for entry in value:
        _keys(entry, {"policy": _policy, "summary": _summary}, {"failure-details": _details})
        failed = entry["summary"]["total-failure-session-count"]
        assert sum(one["failed-session-count"] for one in entry.get("failure-details", [])) == failed, entry


def _policy(value: Any) -> None:
    _keys(value, {"policy-type": _text, "policy-domain": _domain}, {"policy-string": _strings, "mx-host": _strings})
    kind = value["policy-type"]
    assert kind in POLICY_TYPES, kind
    pattern = {"tlsa": _TLSA, "sts": _STS}.get(kind)
    for line in value.get("policy-string", []):
        assert pattern is not None, value
        assert pattern.fullmatch(line), line
    assert kind == "sts" or "mx-host" not in value, value


def _strings(value: Any) -> None:
    assert isinstance(value, list), value
    assert value
    for one in value:
        _text(one)


def _summary(value: Any) -> None:
    _keys(value, {"total-successful-session-count": _count, "total-failure-session-count": _count})


def _details(value: Any) -> None:
    assert isinstance(value, list), value
    assert value
    optional = {
        "sending-mta-ip": _address,
        "receiving-mx-hostname": _domain,
        "receiving-mx-helo": _text,
        "receiving-ip": _address,
        "additional-information": _text,
        "failure-reason-code": _text,
    }
    for one in value:
        _keys(one, {"result-type": _text, "failed-session-count": _count}, optional)
        assert one["result-type"] in RESULT_TYPES, one
