"""Addresses to try on a pipeline: a few for each rule, table and modifier, so that every way through it has one that takes it.

What is made here is tried on the real rules and tables (proof.py); a sample that misses its rule does no harm. The name of a
stranger is in no rule, so whoever delivers to it delivers to anybody.

A table that can tell gives its own: ``static_keys`` (all its keys), ``sample_keys(stranger)`` (some of what it matches).
Only what `answers_offline` is ever asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice, product
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

from mailgate.config.expression import Call, Conditional, ListOf, Literal, Node, Operation
from mailgate.pipeline.lookup import WITHOUT_IO, kept, quoted_local_part
from mailgate.pipeline.router import AfterBody, Branch, Deliver, Router, Rules, Side, Through
from mailgate.smtp.address import Address

STRANGER = "stranger"
"""The local part of an address that nobody has named."""

MAX_SAMPLES = 256
"""Of one regular expression."""

MAX_REPEAT = 64
"""Characters that a bounded repetition is filled with at most."""


def strange_domain(router: Router) -> str:
    """A domain that no rule, table or condition names, nor one above or below it."""
    taken = set(_named(router))
    number = 0
    while True:
        label = f"elsewhere{number or ''}"
        if not any(label in name for name in taken):
            return f"{label}.test"
        number += 1


def answers_offline(module: Any, within: frozenset[int] = frozenset()) -> bool:
    """Whether asking a table (or a modifier) now opens nothing: it has its answers already, and so has every table behind it."""
    if not hasattr(module, "lookup"):
        return bool(getattr(module, "answers_offline", False))
    if kept(module) not in WITHOUT_IO or id(module) in within:
        return False
    behind = [item.value for item in getattr(module, "items", ()) if hasattr(item.value, "lookup")]
    return all(answers_offline(table, within | {id(module)}) for table in behind)


def table_keys(table: Any, domain: str) -> Iterator[str]:
    """Keys that a table may match; ``domain`` is the stranger's. Local parts alone come with domains too."""
    keys: Iterable[str] = getattr(table, "static_keys", ())
    if not keys and hasattr(table, "sample_keys"):
        keys = table.sample_keys(domain)
    for key in keys:
        yield key
        if "@" not in key:
            yield f"{key}@{domain}"


def chained_keys(keys: Iterable[str], domain: str) -> Iterator[str]:
    """The same for a key that reaches the table rewritten: whatever its domain was before."""
    for key in keys:
        yield key
        local_part, at, _ = key.rpartition("@")
        if at:
            yield f"{local_part}@{domain}"


def branches_below(top: Branch) -> Iterator[Branch]:
    """The branch and all within it, other pipelines' too, each once."""
    seen: set[int] = set()
    waiting = [top]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += one.inner()
        if isinstance(one.route, AfterBody):
            waiting.append(one.route.router)
        elif isinstance(one.route, Deliver):
            waiting += [step.router for step in one.route.steps if isinstance(step, Through)]


def _named(router: Router) -> Iterator[str]:
    for branch in branches_below(router):
        yield from condition_texts(branch)
        if isinstance(branch.route, Rules):
            yield from branch.route.domains
            yield from branch.route.suffixes
            yield from branch.route.exact
            for table, _ in branch.route.tables:
                yield from getattr(table, "static_keys", ())


def sample_addresses(top: Branch, side: Side, stranger: str, *, deep: bool = True, refused: bool = False) -> Iterator[Address]:
    """Addresses that make a difference within a branch: keys of rules and tables, what modifiers look for, what conditions
    compare with. ``deep`` no: only the modifiers of the branch itself. ``refused``: also of rules that only refuse."""
    texts: list[str] = []
    for branch in branches_below(top) if deep else (top,):
        modifiers = branch.rcpt_modifiers if side is Side.DESTINATION else branch.sender_modifiers
        for modifier in modifiers:
            if hasattr(modifier, "sample_keys"):
                texts += modifier.sample_keys(stranger)
        if not deep:
            continue
        texts += condition_samples(branch, stranger)
        route = branch.route
        if not isinstance(route, Rules) or route.side is not side:
            continue
        for table, _ in route.tables:
            texts += table_keys(table, stranger)
        # The postmaster's rule stands once for each local domain; it is asked about by its own name.
        postmaster = route.exact.get("postmaster")
        texts += [key for key, inner in route.exact.items() if inner is not postmaster and (refused or _may_deliver(inner))]
        texts += [f"{STRANGER}@{domain}" for domain, inner in route.domains.items() if refused or _may_deliver(inner)]
        label = stranger.partition(".")[0]
        texts += [f"{STRANGER}@{label}.{suffix}" for suffix, inner in route.suffixes.items() if refused or _may_deliver(inner)]
    for text in texts:
        local_part, at, domain = text.rpartition("@")
        if at and local_part and _is_domain(domain):
            yield Address(quoted_local_part(local_part), domain)


def _may_deliver(branch: Branch) -> bool:
    return bool(branch.conditions) or isinstance(branch.route, Rules | Deliver | AfterBody)


def _is_domain(text: str) -> bool:
    return bool(text) and (text.startswith("[") or all(text.split("."))) and not any(c in text for c in ' \t<>()@,;:"/\\')


# Conditions


def literals(node: Node) -> Iterator[Literal]:
    """Every literal of an expression."""
    waiting = [node]
    while waiting:
        match waiting.pop():
            case Literal() as found:
                yield found
            case Operation(operands=inner) | ListOf(elements=inner) | Call(arguments=inner):
                waiting += inner
            case Conditional(condition=condition, then=then, otherwise=otherwise):
                waiting += (condition, then, otherwise)
            case _:
                pass


def condition_texts(branch: Branch) -> Iterator[str]:
    """Every string that the conditions of a block compare with."""
    for condition in branch.conditions:
        for literal in literals(condition.test.expression.node):
            if literal.kind == "string":
                yield literal.value


def condition_samples(branch: Branch, stranger: str) -> Iterator[str]:
    """Addresses for which conditions may be true: each of their strings as an address, a domain, a suffix, a pattern; and the
    keys of the tables that they ask."""
    label = stranger.partition(".")[0]
    for text in condition_texts(branch):
        bare = text.lstrip(".")
        yield from (text, f"{STRANGER}@{bare}", f"{STRANGER}@{label}.{bare}", f"{STRANGER}{text}", f"{bare}@{stranger}")
        if re.search(r"[\\*+?\[({|^$]", text):
            with suppress(re.error):
                for sample in regexp_samples(re.compile(text, re.IGNORECASE), stranger):
                    yield from (sample,) if "@" in sample else (f"{STRANGER}@{sample}", f"{STRANGER}@{sample}.{stranger}")
    for condition in branch.conditions:
        for table in condition.test.expression.tables:
            for key in table_keys(table, stranger):
                yield from (key, f"{STRANGER}@{key}")


# Regular expressions


def regexp_samples(pattern: re.Pattern[str], domain: str) -> Iterator[str]:
    """Strings that ``pattern`` finds a match in, with as much of the stranger's address in them as there is room for."""
    try:
        tree = sre_parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)
    except (re.error, RecursionError):
        return
    fills = (f"{STRANGER}@{domain}", domain, STRANGER, domain.partition(".")[0], "1", ".", "x")
    slots = _slots(tree)
    choices = [[fill for fill in fills if slot(fill)] or [_plain(slot)] for slot in slots[:4]]
    rest = [next((fill for fill in fills[2:] if slot(fill)), "") or _plain(slot) for slot in slots[4:]]
    seen: set[str] = set()
    for chosen in islice(product(*choices), MAX_SAMPLES):
        for branch in range(3):
            text = _Writer([*chosen, *rest], branch).write(tree)
            for whole in (text, f"{text}@{domain}" if "@" not in text else f"{text}.{domain}"):
                if whole not in seen and pattern.search(whole):
                    seen.add(whole)
                    yield whole


_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.-_@ABCDEFGHIJKLMNOPQRSTUVWXYZ%+!#$&'*/=?^`{|}~ "
_CLASSES: dict[Any, Callable[[str], bool]] = {
    sre.CATEGORY_DIGIT: str.isdigit,
    sre.CATEGORY_NOT_DIGIT: lambda c: not c.isdigit(),
    sre.CATEGORY_SPACE: str.isspace,
    sre.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    sre.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    sre.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
}
_WILD = frozenset({sre.ANY, sre.IN, sre.NOT_LITERAL})
_REPEATS = frozenset({sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT})


def _allows(operation: Any, argument: Any, character: str) -> bool:
    if operation is sre.ANY:
        return character != "\n"
    if operation is sre.LITERAL:
        return bool(ord(character) == argument)
    if operation is sre.NOT_LITERAL:
        return bool(ord(character) != argument)
    if operation is sre.RANGE:
        return bool(argument[0] <= ord(character) <= argument[1])
    if operation is sre.CATEGORY:
        return _CLASSES[argument](character)
    negated = argument[0][0] is sre.NEGATE
    return any(_allows(op, arg, character) for op, arg in argument[negated:]) is not negated


def _wildcard(operation: Any, argument: Any) -> tuple[int, int, Any, Any] | None:
    """(least, most, operation, argument) of a part that stands for any of several characters."""
    if operation in _WILD:
        return 1, 1, operation, argument
    if operation in _REPEATS and len(argument[2]) == 1 and argument[2][0][0] in _WILD:
        return int(argument[0]), int(argument[1]), *argument[2][0]
    return None


def _slots(tree: Any) -> list[Callable[[str], bool]]:
    """What fits into each wildcard, in the order in which `_Writer` comes to them."""
    found: list[Callable[[str], bool]] = []
    for operation, argument in tree:
        wild = _wildcard(operation, argument)
        if wild is not None:
            found.append(_fits(*wild))
        else:
            for inner in _inner(operation, argument):
                found += _slots(inner)
    return found


def _plain(slot: Callable[[str], bool]) -> str:
    """Something that fits, whatever it means."""
    lengths = (1, *range(2, MAX_REPEAT))
    return next((letter * length for length in lengths for letter in _ALPHABET if slot(letter * length)), "")


def _fits(least: int, most: int, operation: Any, argument: Any) -> Callable[[str], bool]:
    return lambda text: least <= len(text) <= most and all(_allows(operation, argument, character) for character in text)


def _inner(operation: Any, argument: Any) -> Sequence[Any]:
    """The parts of a part, in the order in which they are written."""
    if operation is sre.SUBPATTERN:
        return (argument[-1],)
    if operation is sre.BRANCH:
        return tuple(argument[1])
    if operation in _REPEATS:
        return (argument[2],)
    if operation is sre.ATOMIC_GROUP:
        return (argument,)
    return ()


class _Writer:
    """One string of an expression: wildcards as given, of alternatives the one whose turn it is."""

    def __init__(self, fills: list[str], branch: int) -> None:
        self._fills = iter(fills)
        self._branch = branch
        self._groups: dict[int, str] = {}

    def write(self, tree: Any) -> str:
        return "".join(self._one(operation, argument) for operation, argument in tree)

    def _one(self, operation: Any, argument: Any) -> str:
        if operation is sre.LITERAL:
            return chr(argument)
        if _wildcard(operation, argument) is not None:
            return next(self._fills, "")
        if operation is sre.GROUPREF:
            return self._groups.get(argument, "")
        written = [self.write(inner) for inner in _inner(operation, argument)]
        if not written:
            return ""
        if operation is sre.BRANCH:
            return written[self._branch % len(written)]
        if operation in _REPEATS:
            # A group that may be left out is, on every other turn.
            return written[0] * min(max(int(argument[0]), self._branch % 2), MAX_REPEAT)
        if operation is sre.SUBPATTERN and argument[0] is not None:
            self._groups[argument[0]] = written[0]
        return written[0]
