"""Reads a block of test declarations without any module around it."""

from __future__ import annotations

from typing import Any

from mailgate.config import load_text
from mailgate.config.checker import Body, check_body
from mailgate.config.diagnostics import Diagnostic, Report
from mailgate.config.line import Line, Scope, Value
from mailgate.config.schema import Block, Directive

ENVIRONMENT = {"SECRET": "from the environment"}


class NoModules:
    """Nothing can be named."""

    def inline(self, namespace: str, kind: Any, line: Line, *, takes_block: bool) -> Any:
        raise AssertionError("no modules here")

    def reference(self, name: Any, provides: str) -> Any:
        raise AssertionError("no modules here")

    def word(self, word: str, line: Line) -> Any:
        raise AssertionError("no modules here")


def read_block(declared: type[Block], text: str, **settings: Any) -> tuple[Body, list[Diagnostic]]:
    """What is read of ``text`` as the inside of a block."""
    report = Report()
    loaded = load_text(text, "test.conf", report=report, environment=ENVIRONMENT)
    scope = Scope(report, NoModules(), ENVIRONMENT, **settings)
    body = check_body(declared, loaded.tree, scope, "test", loaded.source.span(0, 0))
    return body, report.diagnostics


def read_value(type_: Value, text: str, **settings: Any) -> tuple[Any, list[Diagnostic]]:
    """The value of the directive `x` with these arguments."""

    class OneDirective(Block):
        """For a test."""

        x = Directive("x", type_, default="ABSENT")

    body, diagnostics = read_block(OneDirective, f"x {text}".rstrip(), **settings)
    return body.values["x"], diagnostics
