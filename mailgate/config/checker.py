"""Trees against declarations: makes `Block` instances, and says everything that is wrong with a block at once.

A directive that can't be read is reported and left out; its own block is checked all the same, so that one mistake hides no
other, and what would only follow from it (a missing directive, say) is not reported again: the block is ``damaged``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mailgate.config.diagnostics import Problem
from mailgate.config.dynamic import IF, is_dynamic, read_dynamic
from mailgate.config.line import Line, Scope
from mailgate.config.parser import Node, NodeKind
from mailgate.config.schema import Argument, Block, Directive, Item, bind
from mailgate.config.source import Span
from mailgate.config.suggest import nearest

MAX_LISTED = 16
"""Names listed in a note."""


@dataclass(slots=True)
class Body:
    """What was read of a block."""

    values: dict[str, Any] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    damaged: bool = False

    def add(self, item: Item | None) -> None:
        if item is None:
            self.damaged = True
        else:
            self.items.append(item)


def title(node: Node) -> str:
    """How messages call a block: its name and first argument."""
    return " ".join(token.shown for token in (node.name, *node.arguments[:1]))


def check_body(declared: type[Block], nodes: list[Node], scope: Scope, heading: str, place: Span | None) -> Body:
    """Read the directives of a block. ``heading`` and ``place`` name it in messages."""
    body = Body()
    first: dict[str, Span] = {}
    for node in nodes:
        name = node.name.text
        directive = declared.directives.get(name)
        if directive is None:
            item = None
            if node.kind is NodeKind.BROKEN:
                pass
            elif declared.members and name not in declared.refusals:
                item = _member(declared.members, node, scope)
            else:
                scope.report.problem(_unknown(declared, node, heading, place))
            body.add(item)
            continue
        before = first.setdefault(directive.name, node.span)
        if before is not node.span and not directive.repeatable:
            notes = (f"the first is at {before}",)
            scope.report.error(node.span, f"`{name}` is given twice", code="E0402", notes=notes)
            body.damaged = True
        body.add(check_directive(directive, node, scope))
    _collect(declared, body, first, scope, heading, place)
    return body


def _collect(declared: type[Block], body: Body, written: dict[str, Span], scope: Scope, heading: str, place: Span | None) -> None:
    values: dict[str, list[Any]] = {}
    for item in body.items:
        values.setdefault(item.directive.name, []).append(item.value)
    for name, directive in declared.directives.items():
        given = values.get(name)
        if given:
            body.values[directive.attribute] = tuple(given) if directive.repeatable else given[0]
        elif directive.inherit is not None and directive.inherit in scope.inherited:
            body.values[directive.attribute] = scope.inherited[directive.inherit]
        else:
            body.values[directive.attribute] = directive.absent()
        if directive.divided and scope.workers > 1:
            body.values[directive.attribute] = _share(directive, body.values[directive.attribute], written.get(name), scope)
        if directive.required and name not in written:
            scope.report.error(place, f"`{heading}` needs `{name}`", code="E0403", notes=_explained(directive))
            body.damaged = True


def _share(directive: Directive, value: int | None, written: Span | None, scope: Scope) -> int | None:
    """One worker's part of a number for all. A default that is too small for them gives each one."""
    if value is None:
        return None
    if written is not None and 0 < value < scope.workers:
        message = f"`{directive.name} {value}` can't be divided among {scope.workers} workers"
        scope.report.error(written, message, code="E0409", hint=f"at least {scope.workers}, or fewer workers")
    return max(value // scope.workers, min(value, 1))


def check_directive(directive: Directive, node: Node, scope: Scope) -> Item | None:
    """Read one directive; None if it is wrong (and reported)."""
    block_type = directive.block
    if node.kind is NodeKind.BROKEN:
        if block_type is not None and node.block is not None:
            check_body(block_type, node.block, scope, title(node), node.span)
        return None
    line = Line(node, scope)
    value: Any = None
    values: dict[str, Any] = {}
    wrong = False
    try:
        if directive.dynamic is not None and directive.type is not None and is_dynamic(node):
            return Item(directive, read_dynamic(directive.name, directive.type, directive.dynamic, node, scope), node.span)
        if directive.type is not None:
            value = directive.type.parse(line)
            syntax = directive.type.syntax
        else:
            values = read_arguments(block_type, line) if block_type is not None else {}
            syntax = arguments_syntax(block_type.arguments) if block_type is not None else ""
        line.finish(syntax)
    except Problem as problem:
        scope.report.problem(problem)
        wrong = True
    if block_type is not None:
        if directive.block_required and not line.has_block and not line.block_taken and not wrong:
            scope.report.error(node.last.behind(), f"`{node.name.text}` needs a block", code="E0407", hint="`{ … }`")
            wrong = True
        value = make_block(block_type, node if line.has_block else None, scope, value, values, node)
    elif line.has_block and not wrong:
        chosen = bool(node.block) and node.block is not None and node.block[0].name.text == IF
        hint = "it can't be chosen by `if`: one value is needed" if chosen else "nothing belongs here"
        scope.report.error(node.opened, f"`{node.name.text}` has no block", code="E0406", hint=hint)
        wrong = True
    return None if wrong else Item(directive, value, node.span)


def make_block(
    declared: type[Block], body: Node | None, scope: Scope, value: Any, arguments: dict[str, Any], node: Node
) -> Block:
    """A block of ``declared``, from the braces of ``body`` (or as if they were empty)."""
    read = check_body(declared, (body.block if body else None) or [], scope, title(node), node.span)
    block = declared.__new__(declared)
    bind(block, {**read.values, **arguments}, read.items, node.span, value)
    block.damaged = read.damaged
    block.__init__()  # type: ignore[misc]
    scope.blocks.append(block)
    return block


def read_arguments(declared: type[Block], line: Line) -> dict[str, Any]:
    """The positional arguments of a block's own line. Raises `Problem` for the first that is wrong."""
    values: dict[str, Any] = {}
    for argument in declared.arguments:
        if argument.rest:
            values[argument.attribute] = _rest(argument, line)
        elif line.exhausted and not argument.required:
            values[argument.attribute] = argument.default
        elif line.exhausted:
            line.next(argument.metavar)
        else:
            values[argument.attribute] = argument.type.parse_element(line)
    return values


def _rest(argument: Argument, line: Line) -> tuple[Any, ...]:
    values: list[Any] = []
    failed: Problem | None = None
    if line.left < argument.minimum:
        line.rest()
        line.next(argument.metavar)
    while not line.exhausted:
        try:
            values.append(argument.type.parse_element(line))
        except Problem as problem:
            if failed is not None:
                line.scope.report.problem(failed)
            failed = problem
    if failed is not None:
        raise failed
    return tuple(values) or argument.default


def arguments_syntax(arguments: tuple[Argument, ...]) -> str:
    words = []
    for argument in arguments:
        word = f"{argument.metavar}…" if argument.rest else argument.metavar
        words.append(word if argument.required or argument.minimum else f"[{word}]")
    return " ".join(words)


def _member(namespace: str, node: Node, scope: Scope) -> Item | None:
    """One of a block that is a list of inline modules."""
    line = Line(node, scope)
    try:
        module = scope.modules.inline(namespace, node.name, line, takes_block=True)
        line.finish("")
    except Problem as problem:
        scope.report.problem(problem)
        return None
    return Item(Directive(node.name.text), module, node.span)


def _unknown(declared: type[Block], node: Node, heading: str, place: Span | None) -> Problem:
    name = node.name.text
    if name in declared.refusals:
        return declared.refusals[name].problem(node.span)
    found = nearest(name, [*declared.directives, *declared.refusals, "import"], most=1)
    where = f"in `{heading}`, line {place.line}" if place is not None else f"in `{heading}`"
    notes = (f"{where}; directives allowed here: {listed(declared.directives)}",)
    hint = f"did you mean `{found[0]}`?" if found else "not known here"
    return Problem(node.span, f"unknown directive `{name}`", code="E0401", hint=hint, notes=notes)


def listed(names: Any) -> str:
    """Names in order, as many as a note takes."""
    ordered = sorted(names)
    return ", ".join(ordered[:MAX_LISTED]) + (f", … ({len(ordered)} in all)" if len(ordered) > MAX_LISTED else "")


def _explained(directive: Directive) -> tuple[str, ...]:
    if directive.type is None:
        return (directive.doc,) if directive.doc else ()
    return (f"`{directive.name} {directive.type.syntax}`: {directive.doc}",)
