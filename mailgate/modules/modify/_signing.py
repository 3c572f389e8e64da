"""What modifiers that sign have in common: names and keys as the configuration gives them."""

from __future__ import annotations

from dataclasses import dataclass

from mailgate.config.diagnostics import Report
from mailgate.config.source import Span
from mailgate.dns.resolver import parse_name
from mailgate.mailauth.dkim_keys import BadKey, PrivateKey, load_private_key
from mailgate.tls.advice import advise_keys

_MOST = 1 << 16
"""Octets of a key file."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What a module signs with, for `mailgate dkim check`: its attribute ``signing_key``."""

    domain: str
    selector: str
    key: PrivateKey
    where: str


def signing_name(name: str) -> str:
    """A domain or selector as it stands in a signature: A-labels, lower case; "" if it can't be one."""
    parsed = parse_name(name.rstrip("."))
    return parsed.to_text(omit_final_dot=True).lower() if parsed is not None else ""


def check_names(domain: str, selector: str, span: Span | None, report: Report) -> None:
    if "." not in signing_name(domain):
        report.error(span, f"`{domain}` is no domain that can sign", code="E0793")
    if not signing_name(selector):
        report.error(span, f"`{selector}` is no selector", code="E0793")


def read_key(path: str, span: Span | None, report: Report) -> PrivateKey | None:
    """None: reported."""
    try:
        with open(path, "rb") as file:
            key = load_private_key(file.read(_MOST))
    except OSError as error:
        report.error(span, f"the key in `{path}` can't be read: {error.strerror}", code="E0793")
    except BadKey as error:
        report.error(span, f"the key in `{path}` can't be used: {error}", code="E0793")
    else:
        advise_keys((path,), span, report)
        return key
    return None
