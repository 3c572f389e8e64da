"""The domains that a gateway is responsible for: written in the configuration, or the keys of a table."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any

from mailgate.config.diagnostics import Problem
from mailgate.config.lexer import Token
from mailgate.config.line import Line, Scope, Value
from mailgate.config.references import ModuleLine, Reference, is_reference
from mailgate.smtp.address import AddressError, domain_key, parse_address


class LocalDomains:
    """``domains`` are folded (`domain_key`); ``table``, if there is one, is asked besides and may make one wait. False if
    there are none at all."""

    __slots__ = ("_table", "domains")

    def __init__(self, domains: Iterable[str] = (), table: Any = None) -> None:
        self.domains = frozenset(map(domain_key, domains))
        self._table = table

    @property
    def table(self) -> Any:
        """An ITable, or None."""
        return self._table.target if isinstance(self._table, Reference) else self._table

    @property
    def waits(self) -> bool:
        """Whether only a table knows them all."""
        return self._table is not None

    def __bool__(self) -> bool:
        return bool(self.domains) or self.waits

    def judge(self, domain: str) -> bool | Awaitable[bool]:
        """Whether a domain is local. Raises what the table raises."""
        key = domain_key(domain)
        if key in self.domains:
            return True
        return self._ask(key) if self._table is not None else False

    async def _ask(self, key: str) -> bool:
        answer = self.table.lookup(key)
        return bool(answer if isinstance(answer, tuple) else await answer)


NOTHING_LOCAL = LocalDomains()


class DomainsOrTable(Value):
    """Domains, one a word; or one table, by reference or inline."""

    metavar = "DOMAIN… | TABLE"

    def __init__(self) -> None:
        self._table = ModuleLine("table")

    def parse_element(self, line: Line) -> LocalDomains:
        word = line.peek()
        if word is not None and (is_reference(word) or (not word.quoted and line.scope.modules.knows("table", word.text))):
            return LocalDomains(table=self._table.parse_element(line))
        words = [line.next("DOMAIN"), *line.rest()]
        problems = []
        for word in words:
            try:
                self.parse_word(word, line.scope)
            except Problem as problem:
                problems.append(problem)
        for earlier in problems[:-1]:
            line.scope.report.problem(earlier)
        if problems:
            raise problems[-1]
        return LocalDomains(word.text for word in words)

    def parse_word(self, word: Token, scope: Scope) -> str:
        if is_reference(word):
            raise Problem(word.span, "a table stands alone here", code="E0513", hint="either domains, or one table")
        try:
            parse_address(f"x@{word.text}")
        except AddressError as error:
            hint = f"did you mean `{word.text.lstrip('.*@')}`?" if word.text[:1] in (".", "*", "@") else ""
            raise Problem(word.span, f"`{word.shown}` is no domain: {error}", code="E0513", hint=hint) from None
        return word.text

    def show(self, value: Any) -> str:
        return " ".join(sorted(value.domains)) or "none"
