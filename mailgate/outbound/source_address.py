"""`source_address NAME { … }`: our addresses by name, with the name that goes with them in EHLO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mailgate.config import values as v
from mailgate.config.diagnostics import Problem
from mailgate.config.expression_types import Type
from mailgate.config.lexer import Token
from mailgate.config.references import is_reference
from mailgate.config.schema import REQUIRED, Directive
from mailgate.outbound.host_names import is_ehlo_name
from mailgate.outbound.sources import Source
from mailgate.registry import Module, Report


class SourceAddress(Module):
    """Addresses of ours that belong together, for `source_ip &NAME`."""

    name = "source_address"
    address = Directive("address", v.List(v.Address()), default=REQUIRED, doc="The addresses, of either family.", origin="halon")
    hostname = Directive(
        "hostname", v.String("NAME"), doc="What we say in EHLO from them, unless the target says `hostname`.", origin="halon"
    )

    def configure(self, report: Report) -> None:
        if self.hostname is not None and not is_ehlo_name(self.hostname):
            report.error(self.span_of("hostname"), f"`{self.hostname}` can't be said in EHLO", code="E0736")


class SourceWord(v.Value):
    """An address of ours, or a `source_address` by reference."""

    metavar = "ADDRESS | &SOURCE_ADDRESS"
    _address = v.Address()

    def parse_word(self, word: Token, scope: v.Scope) -> Any:
        if is_reference(word):
            return scope.modules.reference(word, SourceAddress.name)
        address = self._address.parse_word(word, scope)
        if address.is_multicast or address.is_unspecified:
            raise Problem(word.span, f"nothing can be sent from {address}", code="E0507")
        return address

    @property
    def result(self) -> Type | None:
        return self._address.result


def sources_of(words: Iterable[Any]) -> tuple[Source, ...]:
    """Of what `SourceWord` gives, each address once."""
    found: dict[str, Source] = {}
    for word in words:
        if isinstance(word, SourceAddress):
            for address in word.address:
                found.setdefault(str(address), Source(str(address), word.hostname or ""))
        else:
            found.setdefault(str(word), Source(str(word)))
    return tuple(found.values())
