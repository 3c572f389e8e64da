"""The rules of one level on their way into dictionaries: their spelling, and which of them can never match."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from mailgate.config.diagnostics import Report
from mailgate.config.domains import NOTHING_LOCAL, LocalDomains
from mailgate.config.source import Span
from mailgate.pipeline.router import POSTMASTER, Branch, Rules, Side
from mailgate.smtp.address import AddressError, domain_key, parse_address, rule_keys


class Kind(Enum):
    EXACT = "address"
    DOMAIN = "domain"
    SUFFIX = "sub-domains"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule in the form in which it is compared."""

    kind: Kind
    key: str


class RuleError(ValueError):
    """A word that is no rule; ``hint`` says what may be meant."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def read_rule(word: str, side: Side) -> Rule:
    """``user@domain``, ``domain``, ``.domain``, ``postmaster`` (destinations), ``<>`` (sources).

    :raises RuleError: it is none of these.
    """
    if word == "<>":
        if side is Side.DESTINATION:
            raise RuleError("no recipient is null")
        return Rule(Kind.EXACT, "")
    if word.lower() == POSTMASTER:
        if side is Side.SOURCE:
            raise RuleError("no sender is without a domain", "postmaster is a rule for recipients; write a full address")
        return Rule(Kind.EXACT, POSTMASTER)
    if word.startswith(("@", "*@")):
        raise RuleError("not an address", f"for the whole domain write `{word.lstrip('*@')}`")
    if word.startswith("*"):
        raise RuleError("there are no wildcards", f"for all sub-domains write `{word.lstrip('*')}`" if word[1:2] == "." else "")
    if "@" in word:
        try:
            return Rule(Kind.EXACT, rule_keys(parse_address(word.removeprefix("<").removesuffix(">")))[0])
        except AddressError as error:
            raise RuleError(str(error)) from error
    name = word.removeprefix(".")
    try:
        parse_address(f"x@{name}")
    except AddressError as error:
        raise RuleError("not a domain") from error
    return Rule(Kind.SUFFIX if word.startswith(".") else Kind.DOMAIN, domain_key(name))


class RuleSet:
    """The rules of one level. The order of precedence is `Rules`'; here it tells what is never reached."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._tables: list[tuple[Any, Branch]] = []
        self._table_places: list[tuple[Any, Span]] = []
        self._branches: dict[Kind, dict[str, Branch]] = {kind: {} for kind in Kind}
        self._places: dict[Rule, tuple[Span, str]] = {}

    def add_table(self, table: Any, branch: Branch, span: Span) -> None:
        for other, place in self._table_places:
            if other is table or _same_content(other, table):
                self._never(span, "this table is asked above", place)
            elif getattr(other, "matches_all", False):
                self._never(span, "the table above it matches everything", place)
        self._tables.append((table, branch))
        self._table_places.append((table, span))

    def add(self, rule: Rule, branch: Branch, span: Span, word: str) -> None:
        known = self._places.get(rule)
        if known is not None:
            place, before = known
            same = f"`{word}`" if word == before else f"`{word}` (the same as `{before}`)"
            self._never(span, f"{same} has a rule already", place)
            return
        self._places[rule] = (span, word)
        self._branches[rule.kind][rule.key] = branch

    def compiled(self, side: Side, default: Branch, local: LocalDomains = NOTHING_LOCAL) -> Rules:
        """The postmaster rule is also that of the postmaster of each local domain, unless that one has a rule."""
        self._report_shadowed()
        kinds = self._branches
        exact = kinds[Kind.EXACT]
        rule = exact.get(POSTMASTER)
        if rule is not None:
            for domain in local.domains:
                exact.setdefault(f"{POSTMASTER}@{domain}", rule)
        asked = rule if local.waits else None
        return Rules(side, default, tuple(self._tables), exact, kinds[Kind.DOMAIN], kinds[Kind.SUFFIX], asked, local)

    def _report_shadowed(self) -> None:
        """Tables come before all other rules, wherever they stand."""
        for table, place in self._table_places:
            keys: frozenset[str] = getattr(table, "static_keys", frozenset())
            for rule, (span, word) in self._places.items():
                if getattr(table, "matches_all", False):
                    self._never(span, f"`{word}` comes after a table that matches everything", place)
                elif rule.kind is Kind.EXACT and rule.key in keys:
                    self._never(span, f"`{word}` is a key of a table, which comes first", place)

    def _never(self, span: Span, why: str, other: Span) -> None:
        self._report.error(span, f"this rule can never match: {why}", code="E0804", notes=(f"the other place is {other}",))


def _same_content(table: Any, other: Any) -> bool:
    keys = getattr(table, "static_keys", None)
    return bool(keys) and keys == getattr(other, "static_keys", None)
