"""What an editor asks of one configuration text: what is wrong, what may stand here, what is this, where is it defined.

No protocol here (lsp.py has it), no state: a `Document` is one text at one path. Places are offsets and `Span`, in characters.
Files that it imports are read from the disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from mailgate.cli.doc import facts, usage
from mailgate.config import load_text
from mailgate.config.checker import arguments_syntax
from mailgate.config.diagnostics import Diagnostic, Report, in_order
from mailgate.config.dynamic import ELSE, IF, THEN
from mailgate.config.expand import read_source
from mailgate.config.expression_types import FUNCTIONS, SPECIAL_FUNCTIONS
from mailgate.config.lexer import Kind, Token, tokenize
from mailgate.config.line import List, Value
from mailgate.config.parser import NAME, Node, NodeKind, parse
from mailgate.config.references import ModuleLine, ReferenceTo
from mailgate.config.schema import Block, Directive
from mailgate.config.source import Source, Span
from mailgate.pipeline.testblock import run_tests
from mailgate.registry import Module, build
from mailgate.registry.outline import TOP, Body, Row, kinds_of, module_class, outline, read_row

_MEANT = re.compile(r"did you mean `([^`]+)`\?")
_MACRO = re.compile(r"\$\(([^\W\d][\w.-]*)\)")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One completion. ``kind`` is "directive", "module", "value" or "reference"; ``doc`` is Markdown."""

    label: str
    kind: str
    detail: str = ""
    doc: str = ""


_CHOICE_LINES = {IF: "if EXPRESSION then VALUE", ELSE: "else VALUE"}


class NotPossible(Exception):
    """Something can't be renamed; the text says why."""


class Document:
    """One text, read once."""

    def __init__(self, text: str, path: str) -> None:
        self.path = path
        self.text = text
        self._report = Report()
        self._loaded = load_text(text + "\n", path, report=self._report)

    # What is wrong

    def diagnostics(self) -> list[Diagnostic]:
        """As `mailgate check` says it."""
        built = build(self.text + "\n", at=self.path)
        if built.configuration is None:
            return built.diagnostics
        return in_order([*built.diagnostics, *run_tests(built.configuration)])

    # What it is made of

    @cached_property
    def rows(self) -> list[Row]:
        return list(outline(self._loaded.tree))

    @cached_property
    def sources(self) -> list[Source]:
        """This text, and the files it imports."""
        found = {self.path: self._loaded.source}
        for path in self._report.files:
            if path not in found:
                try:
                    found[path] = read_source(path)
                except (OSError, UnicodeDecodeError):
                    continue
        return list(found.values())

    @cached_property
    def instances(self) -> dict[str, Row]:
        """Named blocks of the top level, imported ones included."""
        return {row.instance_name.text: row for row in reversed(self.rows) if row.instance_name is not None}

    def _definitions(self, kind: NodeKind) -> Iterator[Node]:
        for source in self.sources:
            yield from (node for node in parse(source, Report()) if node.kind is kind)

    def _row_at(self, offset: int) -> tuple[Row, Token] | None:
        """The line and the word at a place of this text."""
        for row in self.rows:
            for word in (row.node.name, *row.node.arguments):
                span = word.span
                if span.path == self.path and span.start <= offset <= span.end:
                    return row, word
        return None

    def _body_at(self, offset: int) -> Body | None:
        """What may stand at a place: of the innermost block around it; None if nobody knows."""
        best: tuple[int, Body | None] = (-1, TOP)
        for row in self.rows:
            opened, closed = row.node.opened, row.node.closed
            if opened is None or opened.path != self.path or not best[0] < opened.start < offset:
                continue
            if closed is None or offset <= closed.start:
                best = (opened.start, row.body)
        return best[1]

    # What may stand here

    def complete(self, offset: int) -> list[Suggestion]:
        """For the word that ends at ``offset``."""
        start = max(self.text.rfind("\n", 0, offset), -1) + 1
        line = [token for token in tokenize(Source("", self.text[start:offset]), Report()) if token.kind is not Kind.END]
        if any(token.kind is Kind.COMMENT for token in line):
            return []
        words: list[Token] = []
        for token in line:
            words = [*words, token] if token.kind is Kind.WORD else []
        body = self._body_at(offset)
        begun = bool(words) and not self.text[offset - 1].isspace()
        if body is None:
            return []
        if len(words) == begun:
            return list(self._first_words(body))
        row = read_row(Node(NodeKind.DIRECTIVE, words[0], words[1 : len(words) - begun]), body)
        return list(dict.fromkeys(self._further_words(row, words[-1].text if begun else "")))

    @staticmethod
    def _first_words(body: Body) -> Iterator[Suggestion]:
        directives = body.block.directives if body.block is not None else {}
        for name in body.names():
            directive = directives.get(name)
            if body.choice is not None:
                yield Suggestion(name, "directive", _CHOICE_LINES[name], _about_directive(body.choice))
                continue
            if directive is not None:
                yield Suggestion(name, "directive", usage(directive), _about_directive(directive))
                continue
            module = module_class(name if body.is_top or not body.namespace else f"{body.namespace}.{name}")
            if module is not None:
                yield Suggestion(name, "module", (module.__doc__ or "").partition("\n")[0], _about_module(module))
        if body.names() and body.choice is None:
            yield Suggestion("import", "directive", "import SNIPPET | PATH", "Puts a snippet, a file or files in.")

    def _further_words(self, row: Row, begun: str) -> Iterator[Suggestion]:
        if row.place.choice is not None:
            yield from _choice_words(row.node, row.place.choice)
            return
        types: list[Value] = []
        if row.directive is not None and row.directive.type is not None and not row.modules:
            types.append(row.directive.type)
        if row.modules:
            types += [argument.type for argument in row.modules[-1].module.arguments]
        doc = _about_directive(row.directive) if row.directive is not None else ""
        for type_ in types:
            type_ = type_.element if isinstance(type_, List) else type_
            if isinstance(type_, (ModuleLine, ReferenceTo)):
                namespace = type_.namespace if isinstance(type_, ModuleLine) else type_.provides
                yield from self._references(namespace)
                if isinstance(type_, ModuleLine) and not begun.startswith("&"):
                    yield from (Suggestion(kind, "module") for kind in kinds_of(namespace))
            for word in type_.words:
                yield Suggestion(word, "value", "", doc)

    def _references(self, namespace: str) -> Iterator[Suggestion]:
        for name, row in self.instances.items():
            module = row.modules[0].module if row.modules else None
            provides = (module.provides if module is not None else ()) or (row.node.name.text.partition(".")[0],)
            if namespace in provides:
                yield Suggestion(f"&{name}", "reference", row.node.name.text)

    # What is this

    def hover(self, offset: int) -> tuple[Span, str] | None:
        """Markdown about the word at a place."""
        found = self._row_at(offset)
        if found is None:
            return None
        row, word = found
        for used in row.modules:
            if used.word is word:
                return word.span, _about_module(used.module)
        if word.text.startswith("&") and word.text[1:] in self.instances:
            named = self.instances[word.text[1:]]
            return word.span, f"`{named.node.name.text} {word.text[1:]}`, {named.node.span.place}"
        if row.directive is not None:
            return word.span, _about_directive(row.directive)
        if row.place.choice is not None:
            return word.span, _about_choice(
                row.place.choice, self.text[word.span.start : word.span.end], offset - word.span.start
            )
        return None

    # Where is it defined

    def definition(self, offset: int) -> Span | None:
        """Of a reference, a macro, a snippet or an imported file."""
        word = self._written_at(offset)
        if word is None:
            return None
        name, node = word
        macro = next((match for match in _MACRO.finditer(name.text) if self._covers(name, match, offset)), None)
        if macro is not None:
            return self._named(NodeKind.MACRO, macro.group())
        if name.text.startswith("&"):
            row = self.instances.get(name.text[1:])
            return row.instance_name.span if row is not None and row.instance_name is not None else None
        if node.name.text == "import" and name is not node.name:
            snippet = self._named(NodeKind.SNIPPET, f"({name.text})")
            path = os.path.join(os.path.dirname(self.path), name.text)
            return snippet or (Source(path, "").span(0, 0) if os.path.isfile(path) else None)
        return None

    @staticmethod
    def _covers(word: Token, match: re.Match[str], offset: int) -> bool:
        return word.span.start + match.start() <= offset <= word.span.start + match.end()

    def _named(self, kind: NodeKind, text: str) -> Span | None:
        return next((node.span for node in self._definitions(kind) if node.name.text == text), None)

    def _written_at(self, offset: int) -> tuple[Token, Node] | None:
        """A word as it was written, nothing replaced, and its directive."""

        def walk(nodes: list[Node]) -> Iterator[tuple[Token, Node]]:
            for node in nodes:
                yield from ((word, node) for word in (node.name, *node.arguments))
                yield from walk(node.block or [])

        for word, node in walk(parse(self._loaded.source, Report())):
            if word.span.start <= offset <= word.span.end:
                return word, node
        return None

    # Change it

    def name_at(self, offset: int) -> tuple[Span, str] | None:
        """The name of a block at a place, where it is defined or referred to."""
        for source in self.sources:
            for name in self.instances:
                for span in self._uses(source, name):
                    if span.path == self.path and span.start <= offset <= span.end:
                        return span, name
        return None

    def rename(self, name: str, new: str) -> list[Span]:
        """Every place of the name, in this text and in the files it imports.

        :raises NotPossible: the new name is none, or taken.
        """
        if not NAME.match(new):
            raise NotPossible(f"`{new}` is no name: a letter, then letters, digits, `.`, `_` and `-`")
        if new in self.instances and new != name:
            raise NotPossible(f"the name `{new}` is used already, at {self.instances[new].node.span.place}")
        return [span for source in self.sources for span in self._uses(source, name)]

    def _uses(self, source: Source, name: str) -> Iterator[Span]:
        reference = re.compile(rf"(?<![\w&])(?:&|pki:){re.escape(name)}(?![\w.-])")
        defined = self.instances[name].instance_name if name in self.instances else None
        for token in tokenize(source, Report()):
            if token.kind is not Kind.WORD or token.quoted:
                continue
            if defined is not None and (token.span.path, token.span.start) == (defined.span.path, defined.span.start):
                yield token.span
            for match in reference.finditer(token.text):
                yield token.span.part(match.end() - len(name), match.end())


def fix_of(diagnostic: Diagnostic) -> str:
    """What to put in place of the word at a diagnostic; "" if nothing was suggested."""
    meant = _MEANT.search(diagnostic.hint)
    return meant.group(1) if meant is not None and diagnostic.span is not None else ""


def _about_directive(directive: Directive) -> str:
    return f"```\n{usage(directive)}\n```\n\n{directive.doc}\n\n*{'; '.join(facts(directive))}*"


def _choice_words(line: Node, directive: Directive) -> Iterator[Suggestion]:
    """Behind `if`: what its condition may name, until `then`; then, and behind `else`, the words of the setting."""
    if line.name.text == ELSE or any(word.text == THEN for word in line.arguments):
        yield from (Suggestion(word, "value") for word in (directive.type.words if directive.type is not None else ()))
        return
    for variable in directive.dynamic.known.values() if directive.dynamic is not None else ():
        yield Suggestion(variable.name, "value", str(variable.type), variable.doc)
    yield from (Suggestion(name, "value", "", function.doc) for name, function in FUNCTIONS.items())
    yield from (Suggestion(name, "value", "", about) for name, about in SPECIAL_FUNCTIONS.items())
    yield from (Suggestion(word, "value") for word in (THEN, "and", "or", "not", "in", "matches"))


def _about_choice(directive: Directive, word: str, offset: int) -> str:
    """Of a word in the lines of a choice: the variable there, else the directive."""
    name = next((match.group() for match in re.finditer(r"\w+", word) if match.start() <= offset <= match.end()), "")
    variable = directive.dynamic.known.get(name) if directive.dynamic is not None else None
    return _about_directive(directive) if variable is None else f"`{name}`: {variable.type}\n\n{variable.doc}"


def _about_module(module: type[Module] | type[Block]) -> str:
    name = getattr(module, "name", "")
    lines = [f"**{name}** {arguments_syntax(module.arguments)}".rstrip(), (module.__doc__ or "").strip().partition("\n\n")[0]]
    lines += [f"- `{argument.metavar}`: {argument.doc}" for argument in module.arguments]
    return "\n\n".join(lines)
