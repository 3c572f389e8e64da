"""Macros, snippets, imports and the environment: from the tree of one file to the tree that is meant.

- ``$(name) = value…`` is known below its definition, in imported files too. As a whole word it becomes as many words as it has
  values, inside a longer word it must have one. Quoted words are left alone, and so is ``$(1)``.
- ``import name`` puts a snippet in, ``import path`` a file, ``import dir/*.conf`` many, relative to the file it stands in.
- ``{env:NAME}`` and ``{env:NAME:-fallback}`` are replaced in any word, never split.

What a replacement brings is not expanded again. Every word keeps the way it came (`Via`). Refused: what is undefined or defined
twice, cycles (with their chain), and expansions beyond `MAX_NODES`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mailgate.config.diagnostics import Problem, Report
from mailgate.config.files import DISK, Files
from mailgate.config.lexer import Token
from mailgate.config.parser import MACRO_NAME, MAX_DEPTH, Node, NodeKind, parse
from mailgate.config.source import Source, Span, Via
from mailgate.config.suggest import did_you_mean

MAX_TEXT = 4 << 20
"""Characters of one file: to read that takes some seconds, and nobody writes it by hand."""
MAX_NODES = 500_000
"""Directives of one configuration after expansion: a few lines that import each other can ask for billions."""

MAX_MACRO_VALUES = 20_000

_REPLACED = re.compile(r"\$\(([^\W\d][\w.-]*)\)|\{env:([^{}]*)(\}?)")
_REPLACED_IN_QUOTES = re.compile(r"()\{env:([^{}]*)(\}?)")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_INNER_QUOTE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


@dataclass(frozen=True, slots=True)
class _Snippet:
    node: Node
    directory: str


def read_source(path: str, files: Files = DISK) -> Source:
    """Read one file.

    :raises OSError: when it can't be read. :raises UnicodeDecodeError: when it is not UTF-8.
    """
    return Source(path, files.read(path))


def undecodable(error: UnicodeDecodeError) -> tuple[str, int, int, str]:
    """Of a file that is not UTF-8: what stands there, in which line and column, and what the file may be instead."""
    data = bytes(error.object)
    begin = data.rfind(b"\n", 0, error.start) + 1
    line, column = data.count(b"\n", 0, error.start) + 1, len(data[begin : error.start].decode("utf-8", "replace")) + 1
    for mark, kind in ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\x1f\x8b", "compressed")):
        if data.startswith(mark):
            return f"it is {kind}", 1, 1, "save it as plain UTF-8 text"
    return f"byte 0x{data[error.start]:02x} in line {line}, column {column}", line, column, "save it as UTF-8"


def expand(
    source: Source, report: Report, environment: Mapping[str, str], directory: str = "", files: Files = DISK
) -> list[Node]:
    """Parse ``source`` and everything it imports, relative to ``directory``."""
    expander = _Expander(report, environment, files)
    return expander.file(source, directory, None, (os.path.realpath(source.path),))


class _Expander:
    def __init__(self, report: Report, environment: Mapping[str, str], files: Files) -> None:
        self.report = report
        self.environment = environment
        self.files = files
        self.macros: dict[str, Node] = {}
        self.snippets: dict[str, _Snippet] = {}
        self.later: dict[str, Node] = {}
        self.misdefined: set[str] = set()
        """Macros whose definition has been reported: that they are undefined is no further mistake."""
        self.count = 0

    def file(self, source: Source, directory: str, via: Via | None, trail: tuple[str, ...], *, top: bool = True) -> list[Node]:
        self.report.files.append(source.path)
        if len(source.text) > MAX_TEXT:
            hint = "what there is much of belongs into tables"
            self.report.error(source.span(0, 1, via), f"a file of more than {MAX_TEXT >> 20} MiB", code="E0315", hint=hint)
            return []
        nodes = parse(source, self.report)
        for node in nodes:
            if node.kind is NodeKind.SNIPPET and top:
                self._define_snippet(node, directory, via)
            elif node.kind is NodeKind.MACRO:
                self.later.setdefault(node.name.text[2:-1], node)
            elif node.kind is NodeKind.BROKEN and MACRO_NAME.match(node.name.text):
                self.misdefined.add(node.name.text[2:-1])
        return self.nodes(nodes, directory, via, trail, top=top)

    def nodes(self, nodes: list[Node], directory: str, via: Via | None, trail: tuple[str, ...], *, top: bool) -> list[Node]:
        expanded: list[Node] = []
        for node in nodes:
            self.count += 1
            if self.count > MAX_NODES:
                if self.count == MAX_NODES + 1:
                    self.report.error(node.span, f"the imports make more than {MAX_NODES} directives", code="E0315")
                break
            if node.kind is NodeKind.MACRO:
                self._define_macro(node, via, top)
            elif node.kind is NodeKind.SNIPPET:
                if not top:
                    self.report.error(node.span, "a snippet is defined at the top level of a file only", code="E0314")
            elif node.kind is NodeKind.DIRECTIVE and node.name.text == "import":
                expanded += self._import(node, directory, via, trail, top)
            else:
                expanded.append(self._directive(node, directory, via, trail))
        return expanded

    def _directive(self, node: Node, directory: str, via: Via | None, trail: tuple[str, ...]) -> Node:
        name = _through(node.name, via)
        arguments, intact = self.words(node.arguments, via)
        kind = node.kind if intact else NodeKind.BROKEN
        block = None if node.block is None else self.nodes(node.block, directory, via, trail, top=False)
        opened, closed = node.opened, node.closed
        if via is not None:
            opened, closed = (place and replace(place, via=via) for place in (opened, closed))
        return Node(kind, name, arguments, block, opened, closed)

    # Words

    def words(self, tokens: list[Token], via: Via | None) -> tuple[list[Token], bool]:
        """The words of one line with everything replaced, and whether that went well; else those before the first mistake."""
        words: list[Token] = []
        intact = True
        for token in tokens:
            try:
                replaced = self._word(token, via)
            except Problem as problem:
                if problem.code:
                    self.report.problem(problem)
                intact = False
            if intact:
                words += replaced
        return words, intact

    def _word(self, token: Token, via: Via | None) -> list[Token]:
        if "$(" not in token.text and "{env:" not in token.text:
            return [_through(token, via)]
        macro = None if token.quoted else MACRO_NAME.match(token.text)
        if macro is None:
            return [self._pieces(token, via)]
        step = macro.group(0)
        return [
            Token(
                value.kind, value.text, replace(token.span, via=Via("macro", step, value.span, via)), value.quoted, value.literal
            )
            for value in self._macro(token, macro.group(1), via).arguments
        ]

    def _pieces(self, token: Token, via: Via | None) -> Token:
        pieces: list[str] = []
        position = 0
        literal = True
        step = via
        quotes = [] if token.quoted else [match.span() for match in _INNER_QUOTE.finditer(token.text)]
        for match in (_REPLACED_IN_QUOTES if token.quoted else _REPLACED).finditer(token.text):
            name = match.group(1)
            if name and any(start < match.start() < end for start, end in quotes if token.text[0] != '"'):
                continue
            pieces.append(token.text[position : match.start()])
            position = match.end()
            if not name:
                pieces.append(self._environment(token, match, via))
                literal = False
                continue
            definition = self._macro(token, name, via)
            if len(definition.arguments) != 1:
                message = f"`$({name})` has {len(definition.arguments)} values, inside a word it must have one"
                notes = (f"it is defined at {definition.span}",)
                raise Problem(_place(token, match, via), message, code="E0302", notes=notes)
            value = definition.arguments[0]
            pieces.append(value.text)
            literal = literal and value.literal
            step = Via("macro", f"$({name})", value.span, via)
        pieces.append(token.text[position:])
        return Token(token.kind, "".join(pieces), replace(token.span, via=step), token.quoted, literal)

    def _macro(self, token: Token, name: str, via: Via | None) -> Node:
        definition = self.macros.get(name)
        if definition is not None:
            return definition
        if name in self.misdefined:
            raise Problem(None, "its definition has been reported", code="")
        later = self.later.get(name)
        hint = "" if later else did_you_mean(f"$({name})", [f"$({known})" for known in self.macros])
        notes = (f"it is defined below its use, at {later.span}",) if later else ()
        start = token.text.find(f"$({name})")
        place = token.span if token.quoted else token.span.part(start, start + len(name) + 3)
        raise Problem(replace(place, via=via), f"undefined macro `$({name})`", code="E0301", hint=hint, notes=notes)

    def _environment(self, token: Token, match: re.Match[str], via: Via | None) -> str:
        place = _place(token, match, via)
        name, dash, fallback = match.group(2).partition(":-")
        if not match.group(3):
            notes = ("a fallback with spaces needs quotes around the whole word",)
            raise Problem(place, "this `{env:` is never closed", code="E0322", hint="write `{env:NAME}`", notes=notes)
        if not _ENVIRONMENT_NAME.match(name):
            raise Problem(place, f"`{name}` is no name of an environment variable", code="E0322", hint="write `{env:NAME}`")
        value = self.environment.get(name)
        if value is not None:
            return value
        if not dash:
            notes = (f"`{{env:{name}:-…}}` gives a fallback, `{{env:{name}:-}}` says empty",)
            raise Problem(place, f"the environment has no `{name}`", code="E0321", notes=notes)
        return fallback

    # Definitions

    def _define_macro(self, node: Node, via: Via | None, top: bool) -> None:
        name = node.name.text[2:-1]
        if not top:
            self.report.error(node.span, "a macro is defined at the top level of a file only", code="E0305")
            return
        if name in self.macros:
            notes = (f"the first definition is at {self.macros[name].span}",)
            self.report.error(node.span, f"macro `$({name})` is defined twice", code="E0304", notes=notes)
            return
        values, _ = self.words(node.arguments, via)
        if len(values) > MAX_MACRO_VALUES:
            self.report.error(node.span, f"a macro of more than {MAX_MACRO_VALUES} values", code="E0315")
            values = []
        self.macros[name] = Node(NodeKind.MACRO, _through(node.name, via), values)

    def _define_snippet(self, node: Node, directory: str, via: Via | None) -> None:
        name = node.name.text[1:-1]
        if name in self.snippets:
            notes = (f"the first definition is at {self.snippets[name].node.span}",)
            place = _through(node.name, via).span
            self.report.error(place, f"snippet `({name})` is defined twice", code="E0314", notes=notes)
            return
        self.snippets[name] = _Snippet(node, directory)

    # Imports

    def _import(self, node: Node, directory: str, via: Via | None, trail: tuple[str, ...], top: bool) -> list[Node]:
        arguments, intact = self.words(node.arguments, via)
        try:
            if not intact:
                return [Node(NodeKind.BROKEN, _through(node.name, via))]
            if len(arguments) != 1 or node.block is not None:
                place = arguments[1].span if len(arguments) > 1 else node.opened or node.last.behind()
                raise Problem(place, "`import` takes one snippet, path or pattern", code="E0311")
            return self._imported(node, arguments[0], directory, via, trail, top)
        except Problem as problem:
            self.report.problem(problem)
            return [Node(NodeKind.BROKEN, _through(node.name, via))]

    def _imported(
        self, node: Node, what: Token, directory: str, via: Via | None, trail: tuple[str, ...], top: bool
    ) -> list[Node]:
        here = _through(node.name, via).span
        snippet = self.snippets.get(what.text)
        if snippet is not None:
            key = f"({what.text})"
            _refuse_cycle(what, key, trail)
            step = Via("snippet", key, here)
            return self.nodes(snippet.node.block or [], snippet.directory, step, (*trail, key), top=False)
        if "\0" in what.text:  # the lexer has complained; no call of the system takes it
            return []
        path = os.path.join(directory, what.text)
        if not glob.has_magic(what.text):
            return self._read(what, path, Via("import", path, here), trail, top)
        nodes: list[Node] = []
        for match in self.files.matches(path):
            nodes += self._read(what, match, Via("import", match, here), trail, top)
        return nodes

    def _read(self, what: Token, path: str, step: Via, trail: tuple[str, ...], top: bool) -> list[Node]:
        key = os.path.realpath(path)
        _refuse_cycle(what, key, trail)
        try:
            source = read_source(path, self.files)
        except UnicodeDecodeError as error:
            raise Problem(what.span, f"{path} is not UTF-8: {undecodable(error)[0]}", code="E0102") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            hint = did_you_mean(what.text, [*self.snippets, *_neighbours(path, what.text)])
            raise Problem(what.span, f"can't import {path}: {reason}", code="E0312", hint=hint) from None
        return self.file(source, os.path.dirname(path), step, (*trail, key), top=top)


def _refuse_cycle(what: Token, key: str, trail: tuple[str, ...]) -> None:
    if key in trail:
        chain = " → ".join(os.path.basename(step) for step in (*trail[trail.index(key) :], key))
        raise Problem(what.span, f"this import leads back to itself: {chain}", code="E0313")
    if len(trail) > MAX_DEPTH:
        raise Problem(what.span, f"more than {MAX_DEPTH} imports within each other", code="E0313")


def _neighbours(path: str, written: str) -> list[str]:
    try:
        return [os.path.join(os.path.dirname(written), name) for name in os.listdir(os.path.dirname(path) or ".")]
    except (OSError, ValueError):
        return []


def _through(token: Token, via: Via | None) -> Token:
    return token if via is None else replace(token, span=replace(token.span, via=via))


def _place(token: Token, match: re.Match[str], via: Via | None) -> Span:
    """Where in its source a match in the text of a token stands."""
    shift = 1 if token.quoted else 0
    place = (
        token.span if token.quoted and '\\"' in token.span.text else token.span.part(match.start() + shift, match.end() + shift)
    )
    return replace(place, via=via)
