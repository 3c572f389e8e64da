"""Tokens to a tree of `Node`: names, arguments, blocks. Knows nothing of what any name means.

    file      := { directive | macro | snippet }
    directive := NAME argument* [ "{" directive* "}" ]
    macro     := "$(NAME)" "=" value+          snippet := "(NAME)" "{" directive* "}"

A directive ends with its line; behind a ``}`` another may follow. When the braces of a file do not balance, the layout decides
which one is missing or too many: a line that starts no deeper than the block's own line is taken to be outside of the block. The
guess only serves to read the rest of the file; the mistake itself is always an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from mailgate.config.diagnostics import Report
from mailgate.config.lexer import Kind, Token, tokenize
from mailgate.config.source import Source, Span

MAX_DEPTH = 60
"""Blocks within blocks, imports included; bounds the recursion of everything behind."""

NAME = re.compile(r"[^\W\d][\w.-]*\Z")
MACRO_NAME = re.compile(r"\$\(([^\W\d][\w.-]*)\)\Z")
SNIPPET_NAME = re.compile(r"\(([^\W\d][\w.-]*)\)\Z")


class NodeKind(Enum):
    DIRECTIVE = "directive"
    MACRO = "macro"
    SNIPPET = "snippet"
    BROKEN = "broken"
    """Something stands here that could not be read; it has been reported."""


@dataclass(slots=True)
class Node:
    """One directive (or definition): ``block`` is None without braces. ``opened`` and ``closed`` are the braces' places."""

    kind: NodeKind
    name: Token
    arguments: list[Token] = field(default_factory=list)
    block: list[Node] | None = None
    opened: Span | None = None
    closed: Span | None = None

    @property
    def span(self) -> Span:
        return self.name.span

    @property
    def last(self) -> Span:
        """The last word before the block."""
        return self.arguments[-1].span if self.arguments else self.name.span


def parse(source: Source, report: Report) -> list[Node]:
    """The tree of one source; errors go to the report and leave BROKEN nodes or nothing."""
    return _Parser(tokenize(source, report), report).directives(None, 0)


class _Parser:
    def __init__(self, tokens: list[Token], report: Report) -> None:
        self.tokens = [token for token in tokens if token.kind not in (Kind.COMMENT, Kind.JOIN)]
        self.report = report
        self.position = 0
        self.missing, self.surplus = _imbalance(self.tokens)
        self.indents: dict[int, int] = {}
        for token in reversed(tokens):
            self.indents[token.span.line] = _indent(token.span)

    def directives(self, opener: Node | None, depth: int) -> list[Node]:
        """Everything up to the ``}`` of ``opener``, which is consumed, or to the end of the file."""
        nodes: list[Node] = []
        while True:
            token = self.tokens[self.position]
            if token.kind is Kind.NEWLINE:
                self.position += 1
            elif opener is not None and self._lies_outside(token, opener, nodes):
                self._never_closed(opener)
                return nodes
            elif token.kind is Kind.END:
                if opener is not None:
                    self._never_closed(opener)
                return nodes
            elif token.kind is Kind.CLOSE:
                self.position += 1
                if opener is None or self._is_surplus(token, opener):
                    if self._never_opened(token, nodes):
                        continue
                    self.report.error(token.span, "this `}` closes nothing", code="E0204")
                    continue
                opener.closed = token.span
                return nodes
            elif token.kind is Kind.OPEN:
                self._stray_open(token, nodes, depth)
            else:
                nodes.append(self._directive(depth))

    def _directive(self, depth: int) -> Node:
        node = self._head()
        token = self.tokens[self.position]
        if token.kind is Kind.OPEN:
            self._block(node, token, depth)
        elif node.kind is NodeKind.SNIPPET:
            self._broken(node, "a snippet needs a block", "E0314", f"write `{node.name.text} {{ … }}`")
        return node

    def _head(self) -> Node:
        words = []
        while self.tokens[self.position].kind is Kind.WORD:
            words.append(self.tokens[self.position])
            self.position += 1
        name, *arguments = words
        node = Node(NodeKind.DIRECTIVE, name, arguments)
        if name.quoted:
            self._broken(node, "the name of a directive is not quoted", "E0201")
        elif name.text.startswith("$("):
            self._macro(node)
        elif name.text.startswith("("):
            node.kind = NodeKind.SNIPPET
            if not SNIPPET_NAME.match(name.text):
                self._broken(node, f"`{name.text}` is no name for a snippet", "E0314", "write `(name) { … }`")
            elif arguments:
                self._broken(node, "a snippet has no arguments", "E0314", place=arguments[0].span)
        elif not NAME.match(name.text):
            self._broken(node, f"`{name.text}` is no name for a directive", "E0201", _name_hint(name.text))
        return node

    def _macro(self, node: Node) -> None:
        node.kind = NodeKind.MACRO
        equals = node.arguments[0] if node.arguments else None
        if not MACRO_NAME.match(node.name.text):
            hint = "put spaces around `=`" if "=" in node.name.text else "write `$(name) = value`"
            self._broken(node, f"`{node.name.text}` is no name for a macro", "E0303", hint)
        elif equals is None or equals.quoted or equals.text != "=":
            self._broken(node, "a line that begins with a macro defines it", "E0303", "write `$(name) = value`")
        elif len(node.arguments) < 2:
            self._broken(node, "a macro needs a value", "E0303", 'an empty one is written `""`', place=equals.span.behind())
        else:
            del node.arguments[0]

    def _block(self, node: Node, token: Token, depth: int) -> None:
        self.position += 1
        node.opened = token.span
        if depth >= MAX_DEPTH:
            self._broken(node, f"more than {MAX_DEPTH} blocks within each other", "E0206", place=token.span)
            self._skip_block()
            return
        node.block = self.directives(node, depth + 1)
        if node.kind is NodeKind.MACRO:
            self._broken(node, "a macro has no block", "E0303", place=token.span)

    def _skip_block(self) -> None:
        depth = 1
        while depth and self.tokens[self.position].kind is not Kind.END:
            kind = self.tokens[self.position].kind
            depth += (kind is Kind.OPEN) - (kind is Kind.CLOSE)
            self.position += 1

    def _stray_open(self, token: Token, nodes: list[Node], depth: int) -> None:
        owner = nodes[-1] if nodes and nodes[-1].block is None else None
        hint = "put it at the end of the directive's line" if owner else "a block follows a directive on its line"
        self.report.error(token.span, "this `{` belongs to no directive", code="E0202", hint=hint)
        self._block(owner or Node(NodeKind.BROKEN, token), token, depth)

    def _broken(self, node: Node, message: str, code: str, hint: str = "", *, place: Span | None = None) -> None:
        if node.kind is not NodeKind.BROKEN:
            node.kind = NodeKind.BROKEN
            self.report.error(place or node.name.span, message, code=code, hint=hint)

    # Braces that do not balance

    def _lies_outside(self, token: Token, opener: Node, nodes: list[Node]) -> bool:
        if not self.missing or token.kind not in (Kind.WORD, Kind.CLOSE) or not self._begins_line(token):
            return False
        base = self._base(opener)
        if token.kind is Kind.CLOSE:
            return _indent(token.span) < base
        is_laid_out = not nodes or _indent(nodes[0].name.span) > base
        return is_laid_out and _indent(token.span) <= base

    def _is_surplus(self, token: Token, opener: Node) -> bool:
        if not self.surplus or not self._begins_line(token) or _indent(token.span) <= self._base(opener):
            return False
        self.surplus -= 1
        return True

    def _never_opened(self, token: Token, nodes: list[Node]) -> bool:
        """Whether a line above, as deep as this ``}``, lacks its ``{``: what is written deeper between them is its block."""
        indent = _indent(token.span)
        outer = [number for number, node in enumerate(nodes) if _indent(node.name.span) <= indent]
        if not outer or outer[-1] == len(nodes) - 1 or not self._begins_line(token):
            return False
        owner = nodes[outer[-1]]
        if owner.block is not None or _indent(owner.name.span) != indent or not self._begins_line(owner.name):
            return False
        owner.block = nodes[outer[-1] + 1 :]
        owner.opened, owner.closed = owner.last.behind(), token.span
        del nodes[outer[-1] + 1 :]
        if owner.kind is not NodeKind.BROKEN:
            notes = (f"the `}}` at {token.span} belongs to it, by the layout",)
            self.report.error(owner.opened, "this block is never opened", code="E0207", hint="its `{` is missing", notes=notes)
        return True

    def _never_closed(self, opener: Node) -> None:
        self.missing -= 1
        self.report.error(opener.opened, "this block is never closed", code="E0203", hint="its `}` is missing")

    def _base(self, opener: Node) -> int:
        return self.indents[opener.opened.line] if opener.opened else 0

    def _begins_line(self, token: Token) -> bool:
        return _indent(token.span) == self.indents[token.span.line]


def _name_hint(word: str) -> str:
    if word.startswith(("//", "/*")):
        return "a comment begins with `#`"
    if word.startswith(("<<<<", "====", ">>>>")):
        return "a merge has left this here"
    if word.endswith((":", "=")) and NAME.match(word[:-1]):
        return f"write `{word[:-1]}` alone, and its value behind it"
    return "a name begins with a letter" if word[0].isdigit() else "letters, digits, `.`, `_` and `-` only"


def _indent(span: Span) -> int:
    if span.source is None:
        return span.column - 1
    return len(span.source.text[span.start - span.column + 1 : span.start].expandtabs(8))


def _imbalance(tokens: list[Token]) -> tuple[int, int]:
    """How many closing braces are missing, and how many are too many."""
    depth = surplus = 0
    for token in tokens:
        if token.kind is Kind.OPEN:
            depth += 1
        elif token.kind is Kind.CLOSE and depth:
            depth -= 1
        elif token.kind is Kind.CLOSE:
            surplus += 1
    return depth, surplus
