"""What modifiers that sign have in common: names and keys as the configuration gives them, and the thread that RSA is worth.

RSA costs more than a millisecond; Ed25519 is done at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailgate.config.diagnostics import Report
from mailgate.config.source import Span
from mailgate.dns.resolver import parse_name
from mailgate.mailauth.dkim_keys import RSA_SHA256, BadKey, PrivateKey, load_private_key
from mailgate.message.message import Message
from mailgate.net.waiting import begin
from mailgate.pipeline.modifiers import Modifier
from mailgate.pipeline.router import place
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


class SigningModifier(Modifier):
    """The base of those that sign the whole message: `signed_message` does."""

    # Declared by each, with what it means there.
    domain: Any
    selector: Any
    key: Any

    _key: PrivateKey | None = None

    def configure(self, report: Report) -> None:
        check_names(self.domain, self.selector, self.span, report)
        self._key = read_key(self.key, self.span_of("key"), report)

    @property
    def private_key(self) -> PrivateKey:
        """After `configure`."""
        assert self._key is not None
        return self._key

    @property
    def signing_key(self) -> SigningKey:
        """After `configure`."""
        return SigningKey(signing_name(self.domain), signing_name(self.selector), self.private_key, place(self.span))

    def body(self, message: Message) -> Any:
        return begin(self.signed_message(message))

    async def signed_message(self, message: Message) -> Message:
        """:raises MailError: it can't be signed."""
        raise NotImplementedError

    async def sign(self, function: Callable[..., bytes], *arguments: Any) -> bytes:
        """What signs, in a thread if that is worth one."""
        if self.private_key.algorithm != RSA_SHA256:
            return function(*arguments)
        adapters = self.context.adapters
        assert adapters is not None
        fields: bytes = await adapters.run_in_thread(function, *arguments)
        return fields


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
