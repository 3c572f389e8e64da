"""What every line of a tree is by its declarations, whether or not the file is sound.

`assembly` makes instances and needs a sound file; editors, the tests of the documentation and everything else that only wants
to know "which declaration does this word belong to" ask here. Nothing is made, nothing reported; what can't be known is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mailgate.config.dynamic import ELSE, IF, THEN
from mailgate.config.lexer import Token
from mailgate.config.line import Args, List, OneOf, Value
from mailgate.config.parser import Node
from mailgate.config.references import BlockOrReference, ModuleLine, ModuleList, is_reference
from mailgate.config.schema import Argument, Block, Directive
from mailgate.registry.catalogue import Unavailable, find, known_names
from mailgate.registry.module import Globals, Module


@dataclass(frozen=True, slots=True)
class Body:
    """What may stand between braces: the directives of a block, or (``namespace``) inline modules, or the lines by which a
    dynamic directive is chosen (``choice``). The top level has directives, and modules by their full names."""

    block: type[Block] | None = None
    namespace: str = ""
    choice: Directive | None = None

    @property
    def is_top(self) -> bool:
        return self.block is Globals

    def names(self) -> list[str]:
        """Every word that a line in it may begin with."""
        if self.choice is not None:
            return [IF, ELSE]
        names = list(self.block.directives) if self.block is not None else []
        if self.is_top:
            names += known_names()
        return names + kinds_of(self.namespace)

    def refused(self) -> list[str]:
        return list(self.block.refusals) if self.block is not None else []


TOP = Body(Globals)


@dataclass(frozen=True, slots=True)
class ModuleWord:
    """A word that names a module, and what it stands for."""

    word: Token
    module: type[Module]


@dataclass(frozen=True, slots=True)
class Row:
    """One directive of a tree, read against what its block declares."""

    node: Node
    place: Body
    directive: Directive | None = None
    modules: tuple[ModuleWord, ...] = ()
    """What its words name: its own name (at the top level, or in a list of modules), and inline modules."""
    choices: tuple[tuple[Token, tuple[str, ...]], ...] = ()
    """Words that are of a closed set, and the set."""
    body: Body | None = None
    """What may stand in its block; None if it has none or nobody knows."""

    @property
    def instance_name(self) -> Token | None:
        """The word that names the instance, of a line of the top level that makes one."""
        if not self.place.is_top or self.directive is not None or not self.node.arguments:
            return None
        if self.modules and self.modules[0].module.is_nameless:
            return None
        return self.node.arguments[0]


def outline(nodes: list[Node], place: Body = TOP) -> Iterator[Row]:
    """Every line of a tree that has been expanded, each before those in its block."""
    for node in nodes:
        row = read_row(node, place)
        yield row
        if node.block and row.body is not None:
            yield from outline(node.block, row.body)


def read_row(node: Node, place: Body) -> Row:
    """One line against the block it stands in."""
    if place.choice is not None:
        return _read_choice(node, place, place.choice)
    name = node.name.text
    directive = place.block.directives.get(name) if place.block is not None else None
    if directive is not None:
        found = _Words(node.arguments)
        if directive.type is not None:
            found.read(directive.type)
        elif directive.block is not None:
            found.arguments(directive.block.arguments)
        body = found.body or (Body(directive.block) if directive.block is not None else None)
        if directive.dynamic is not None:
            body = Body(choice=directive)
        return Row(node, place, directive, tuple(found.modules), tuple(found.choices), body)
    namespace = place.namespace or (place.block.members if place.block is not None else "")
    full = name if place.is_top or name.startswith(namespace + ".") else f"{namespace}.{name}"
    module = module_class(full) if place.is_top or namespace else None
    if module is None:
        return Row(node, place)
    words = node.arguments[1:] if place.is_top and not module.is_nameless else node.arguments
    found = _Words(words)
    found.arguments(module.arguments)
    modules = (ModuleWord(node.name, module), *found.modules)
    return Row(node, place, None, modules, tuple(found.choices), found.body or Body(module, module.members))


def _read_choice(node: Node, place: Body, directive: Directive) -> Row:
    """An `if` or `else` line: its value is read as the directive's."""
    words = node.arguments
    if node.name.text == IF:
        words = words[next((n for n, word in enumerate(words) if word.text == THEN), len(words)) + 1 :]
    found = _Words(words)
    if directive.type is not None:
        found.read(directive.type)
    return Row(node, place, None, (), tuple(found.choices))


class _Words:
    """Walks along the words of a line as its types would, but gives up instead of complaining."""

    def __init__(self, words: list[Token]) -> None:
        self.words = words
        self.position = 0
        self.modules: list[ModuleWord] = []
        self.choices: list[tuple[Token, tuple[str, ...]]] = []
        self.body: Body | None = None

    def next(self) -> Token | None:
        if self.position >= len(self.words):
            return None
        self.position += 1
        return self.words[self.position - 1]

    def arguments(self, arguments: tuple[Argument, ...]) -> None:
        for argument in arguments:
            before = -1
            while self.position < len(self.words) and self.position != before:
                before = self.position
                self.read(argument.type)
                if not argument.rest:
                    break

    def read(self, type_: Value) -> None:
        if isinstance(type_, ModuleLine):
            self._module(type_)
        elif isinstance(type_, ModuleList):
            self.body = None if self.next() else Body(None, type_.namespace)
        elif isinstance(type_, BlockOrReference):
            if self.next() is None:
                self.body = Body(module_class(type_.word))
        elif isinstance(type_, Args):
            for element in type_.elements:
                self.read(element)
        elif isinstance(type_, List):
            while self.position < len(self.words):
                self.read(type_.element)
        elif isinstance(type_, OneOf):
            self._one_of(type_)
        else:
            word = self.next()
            if word is not None and type_.words and not word.text.endswith(")"):  # computed, or hash(…)
                self.choices.append((word, type_.words))

    def _one_of(self, type_: OneOf) -> None:
        word = self.next()
        if word is None:
            return
        form = type_.forms.get(word.text)
        if form is None and "" in type_.forms:
            self.position -= 1
            self.read(type_.forms[""])
            return
        if "" not in type_.forms:
            self.choices.append((word, type_.words))
        if form is not None:
            self.read(form)

    def _module(self, type_: ModuleLine) -> None:
        word = self.next()
        if word is None or is_reference(word) or word.quoted:
            return
        name = word.text
        module = module_class(name if name.startswith(type_.namespace + ".") else f"{type_.namespace}.{name}")
        if module is None:
            return
        self.modules.append(ModuleWord(word, module))
        self.arguments(module.arguments)
        if type_.block == "module" and self.body is None:
            self.body = Body(module, module.members)


def module_class(name: str) -> type[Module] | None:
    """The class of a module or top-level word; None if there is none that can be loaded."""
    try:
        return find(name)
    except Unavailable:
        return None


def kinds_of(namespace: str) -> list[str]:
    """The kinds of a namespace, as inline modules are named."""
    if not namespace:
        return []
    return [name.partition(".")[2] for name in known_names() if name.startswith(namespace + ".")]
