"""The tree that tells what one message met: what `trace` builds, and `explain` shows.

Every node has the place where its line is written, and the line itself as it stands there, without its secrets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mailgate.config.source import Span
from mailgate.pipeline.router import DeliverTo, place
from mailgate.smtp.reply import Reply


class Kind(Enum):
    """What a node of the tree stands for."""

    PIPELINE = "pipeline"
    CONDITION = "condition"
    RULE = "rule"
    CHECK = "check"
    REWRITE = "rewrite"
    DELIVER = "deliver"
    REJECT = "reject"
    DISCARD = "discard"


@dataclass(slots=True, eq=False)
class Node:
    """One line of the tree: ``text`` as it is written in the file, ``where`` its ``file:line``, ``reason`` why it is taken or
    not. ``entry`` is the ``file:line`` of the table entry behind it, ``target`` and ``endpoint`` are a delivery's."""

    kind: Kind
    text: str
    where: str = ""
    reason: str = ""
    taken: bool = True
    entry: str = ""
    target: str = ""
    endpoint: str = ""
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            yield from child.walk()

    def decided(self) -> list[str]:
        """The places that decided: of what becomes of the mail if that is known here, else of the innermost block."""
        taken = [node for node in self.walk() if node.taken and node.where and node is not self]
        final = [node.where for node in taken if node.kind in _FINAL]
        blocks = [node.where for node in taken if node.kind in (Kind.CONDITION, Kind.RULE)]
        return list(dict.fromkeys(final)) or blocks[-1:]


_FINAL = (Kind.DELIVER, Kind.REJECT, Kind.DISCARD)


class Trace:
    """The tree under construction: what is added stands in the innermost open node."""

    __slots__ = ("_open",)

    def __init__(self, root: Node) -> None:
        self._open = [root]

    def add(self, node: Node) -> Node:
        self._open[-1].children.append(node)
        return node

    def enter(self, node: Node) -> None:
        """Open a node that was added, up to the end of the `level` around it."""
        self._open.append(node)

    @contextmanager
    def level(self, *nodes: Node) -> Iterator[None]:
        depth = len(self._open)
        self._open += nodes
        try:
            yield
        finally:
            del self._open[depth:]


def check_node(check: Any, stage: str, verdict: object) -> Node:
    """What a check said: None, a `Reply`, or that it failed."""
    passes = getattr(check, "passes", "passes")
    reason = str(verdict) if isinstance(verdict, Reply) else "failed" if verdict is not None else passes
    return Node(Kind.CHECK, heading_of(check), place(getattr(check, "span", None)), f"{stage}: {reason}", verdict is None)


def delivery_node(step: DeliverTo) -> Node:
    """A target, and the endpoint that would serve: the first one, as long as it is well, or one of those that share the load."""
    endpoint = first_endpoint(step.target)
    reason = f"to {endpoint}" if endpoint else ""
    return Node(
        Kind.DELIVER,
        word_of("copy_to" if step.copy else "deliver_to", step.span),
        place(step.span),
        reason,
        target=step.target.label,
        endpoint=endpoint,
    )


def first_endpoint(target: Any) -> str:
    """The endpoint that a target tries first, or those of which it chooses one; "" for a target that has none (maildir)."""
    labels: Sequence[str] = getattr(target, "endpoint_labels", ())
    if len(labels) > 1 and getattr(target, "shares_load", False):
        return f"one of {', '.join(labels)}"
    return labels[0] if labels else ""


def heading(span: Span | None) -> str:
    """A directive as it is written, up to its block, on its first line; literal secrets are blanked."""
    if span is None or span.source is None:
        return ""
    source = span.source
    text = source.line(span.line)[span.column - 1 :]
    first = span.start
    for start, end in source.secrets:
        if first <= start < first + len(text):
            text = text[: start - first] + "***"[: end - start].ljust(end - start, "\0") + text[end - first :]
    quoted = False
    for number, character in enumerate(text):
        if character == '"' and text[number - 1 : number] != "\\":
            quoted = not quoted
        elif not quoted and (character in "{#" and text[number - 1 : number].isspace()):
            text = text[:number]
            break
    return text.replace("\0", "").rstrip()


def word_of(word: str, span: Span | None) -> str:
    return heading(span) or word


def heading_of(module: Any) -> str:
    return heading(getattr(module, "span", None)) or str(getattr(module, "label", "") or type(module).__name__)
