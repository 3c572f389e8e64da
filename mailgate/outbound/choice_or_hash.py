"""The type of settings that choose among several by a method, of which one is `hash(EXPR)`."""

from __future__ import annotations

from dataclasses import replace

from mailgate.config import values as v
from mailgate.config.conditions import compile_words
from mailgate.config.diagnostics import Problem
from mailgate.config.dynamic_variables import BALANCE_VARIABLES
from mailgate.config.expression_types import Kind, Scope
from mailgate.config.line import Line
from mailgate.config.suggest import did_you_mean


class ChoiceOrHash(v.Choice):
    """A word, or `hash(EXPR)`: the value is `Chosen`, of "hash" with the compiled expression."""

    @property
    def syntax(self) -> str:
        return f"{super().syntax} | hash(EXPR)"

    def parse_element(self, line: Line) -> v.Chosen:  # type: ignore[override]
        word = line.next(f"one of {', '.join(self.words)}, hash(EXPR)")
        if word.text in self.words:
            return v.Chosen(word.text)
        if word.quoted or not (word.text.startswith("hash(") and word.text.endswith(")")):
            line.rest()
            hint = did_you_mean(word.text, self.words) or ("`hash(sender)`" if word.text.startswith("hash") else "")
            notes = (f"possible: {', '.join(self.words)}, hash(EXPR)",)
            raise Problem(word.span, f"`{word.shown}` is not possible here", code="E0505", hint=hint, notes=notes)
        inner = replace(word, text=word.text[5:-1], span=word.span.part(5, len(word.text) - 1))
        names = Scope(BALANCE_VARIABLES.known, absent=BALANCE_VARIABLES.absent, table_key=BALANCE_VARIABLES.table_key)
        test = compile_words([inner], names, line.scope, None)
        if test.expression.type.kind is not Kind.STRING or test.expression.waits:
            what = "a table can't be asked here" if test.expression.waits else f"this is {test.expression.type.named}"
            raise Problem(test.place(test.expression.node), f"{what}: hash needs a string", code="E0523")
        return v.Chosen("hash", test)

    def show(self, value: v.Chosen) -> str:
        return value.word if value.value is None else f"hash({value.value})"
