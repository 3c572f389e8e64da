"""Diagnostics as SARIF 2.1.0 (OASIS), which code hosts and editors show in place."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import metadata
from typing import Any
from urllib.parse import quote

from mailgate.config.codes import CODES
from mailgate.config.diagnostics import Diagnostic
from mailgate.config.source import Span

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def as_sarif(diagnostics: Sequence[Diagnostic], exit_code: int) -> str:
    """One run with a result for each diagnostic, and a rule for each code among them."""
    codes = sorted({diagnostic.code for diagnostic in diagnostics})
    run = {
        "tool": {
            "driver": {
                "name": "mailgate",
                "version": metadata.version("mailgate"),
                "rules": [_rule(code) for code in codes],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "exitCode": exit_code}],
        "results": [_result(diagnostic, codes.index(diagnostic.code)) for diagnostic in diagnostics],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _rule(code: str) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "id": code,
        "defaultConfiguration": {"level": "error" if code.startswith("E") else "warning"},
    }
    entry = CODES.get(code)
    if entry is not None:
        rule["shortDescription"] = {"text": entry.title}
        rule["fullDescription"] = {"text": entry.text}
        rule["help"] = {"text": f"mailgate help {code}"}
    return rule


def _result(diagnostic: Diagnostic, index: int) -> dict[str, Any]:
    text = diagnostic.message + (f" ({diagnostic.hint})" if diagnostic.hint else "")
    result: dict[str, Any] = {
        "ruleId": diagnostic.code,
        "ruleIndex": index,
        "level": diagnostic.severity.value,
        "message": {"text": "\n".join((text, *diagnostic.notes))},
    }
    span = diagnostic.span
    if span is not None:
        result["locations"] = [_location(span)]
        steps = span.via.chain() if span.via is not None else ()
        if steps:
            result["relatedLocations"] = [
                {"id": number, "message": {"text": f"{step.kind} {step.name}"}, **_location(step.span)}
                for number, step in enumerate(steps, 1)
            ]
    return result


def _location(span: Span) -> dict[str, Any]:
    path = span.path.replace(os.sep, "/")
    region = {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.line,
        "endColumn": span.column + max(span.length, 1),
    }
    uri = ("file://" if path.startswith("/") else "") + quote(path)
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}
