"""`table.regexp`: keys by a regular expression, values from what it matched."""

from __future__ import annotations

import re
from collections.abc import Iterable

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.interfaces import ITable
from mailgate.pipeline.lookup import Kept
from mailgate.pipeline.samples import regexp_samples
from mailgate.registry import Module, ModuleContext

_PLACEHOLDER = re.compile(r"\$(?:(\$)|(\d+)|\{(\w+)\}|\((\w+)\))")


@implementer(ITable)
class RegexpTable(Module):
    """Keys that a regular expression matches; values are made of its groups, or empty without a replacement."""

    name = "table.regexp"
    kept = Kept.IN_CONFIGURATION
    pattern = Argument("REGEXP", v.String("REGEXP"), doc="A Python regular expression.", origin="maddy")
    replacements = Argument(
        "REPLACEMENT",
        v.String("REPLACEMENT"),
        rest=True,
        doc="Values: $1, ${1} or ${name} stand for groups, $$ for a dollar. Without any, a match is an empty value.",
        origin="maddy",
    )
    full_match = Directive("full_match", v.Boolean(), default=True, doc="The whole key must match, not a part.", origin="maddy")
    case_insensitive = Directive("case_insensitive", v.Boolean(), default=True, doc="Ignore case.", origin="maddy")
    expand_placeholders = Directive(
        "expand_placeholders", v.Boolean(), default=True, doc="Replace $1 and its like; no: values as written.", origin="maddy"
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._regexp: re.Pattern[str] = re.compile(r"(?!)")

    def configure(self, report: Report) -> None:
        try:
            self._regexp = re.compile(self.pattern, re.IGNORECASE if self.case_insensitive else 0)
        except re.error as error:
            report.error(self.span, f"no regular expression: {error}", code="E0811")
            return
        if self.expand_placeholders:
            for word in (word for text in self.replacements for word in _PLACEHOLDER.finditer(text)):
                if not word[1] and self._group(word) is None:
                    hint = f"the expression has {self._regexp.groups}"
                    report.error(self.span, f"`{word[0]}`: there is no such group", code="E0811", hint=hint)

    def sample_keys(self, stranger: str) -> Iterable[str]:
        """Some keys that match, with the stranger's domain wherever it fits."""
        return regexp_samples(self._regexp, stranger)

    def lookup(self, key: str) -> tuple[str, ...]:
        match = self._regexp.fullmatch(key) if self.full_match else self._regexp.search(key)
        if match is None:
            return ()
        if not self.replacements:
            return ("",)
        if not self.expand_placeholders:
            return tuple(self.replacements)
        return tuple(_PLACEHOLDER.sub(lambda word: self._expanded(word, match), text) for text in self.replacements)

    def _expanded(self, word: re.Match[str], match: re.Match[str]) -> str:
        if word[1]:
            return "$"
        group = self._group(word)
        return "" if group is None else match[group] or ""  # a group that took no part is empty

    def _group(self, word: re.Match[str]) -> int | None:
        name = word[2] or word[3] or word[4]
        number = int(name) if name.isdigit() else self._regexp.groupindex.get(name)
        return number if number is not None and number <= self._regexp.groups else None
