"""The configuration language: text to a checked tree. No Twisted, no input or output but reading files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mailgate.config.diagnostics import Diagnostic, Report
from mailgate.config.expand import expand, read_source, undecodable
from mailgate.config.files import DISK, Files
from mailgate.config.parser import Node
from mailgate.config.source import Source, Span

__all__ = ["Loaded", "load", "load_text"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The tree of a configuration with everything replaced, and what is wrong with its syntax."""

    source: Source
    tree: list[Node]
    diagnostics: list[Diagnostic]


def load(path: str, *, report: Report | None = None, environment: Mapping[str, str] | None = None, files: Files = DISK) -> Loaded:
    """Read a configuration file and what it imports.

    :raises OSError: the file itself can't be read.
    """
    report = report or Report()
    try:
        source = read_source(path, files)
    except UnicodeDecodeError as error:
        what, line, column, hint = undecodable(error)
        report.error(Span(path, line, column, 1), f"the file is not UTF-8: {what}", code="E0102", hint=hint)
        return Loaded(Source(path, ""), [], report.diagnostics)
    if "\r" in source.text and "\n" not in source.text:
        report.error(Span(path, 1, 1, 1), "the lines of the file end in CR alone", code="E0108", hint="save it with LF, or CRLF")
        return Loaded(Source(path, ""), [], report.diagnostics)
    loaded = _loaded(source, os.path.dirname(path), report, environment, files)
    if not loaded.tree and not report.error_count:
        report.error(Span(path, 1, 1, 1), "the file says nothing", code="E0208", hint="at least a listener is needed")
    return replace(loaded, diagnostics=report.diagnostics)


def load_text(
    text: str, path: str = "<text>", *, report: Report | None = None, environment: Mapping[str, str] | None = None
) -> Loaded:
    """The same for a text that is not in a file; it imports relative to ``path``."""
    return _loaded(Source(path, text), os.path.dirname(path), report or Report(), environment)


def _loaded(source: Source, directory: str, report: Report, environment: Mapping[str, str] | None, files: Files = DISK) -> Loaded:
    tree = expand(source, report, os.environ if environment is None else environment, directory, files)
    return Loaded(source, tree, report.diagnostics)
