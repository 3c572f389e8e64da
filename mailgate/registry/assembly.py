"""From a tree to a `Configuration`: names first, then every instance, then references, then each configures itself.

A module that can't be used is reported and the others are checked all the same; only what depends on it is left alone, so that
one mistake is one diagnostic. Nothing is opened, bound, resolved or written here: `mailgate check` runs just this.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mailgate import config
from mailgate.adapters import Adapters
from mailgate.config.checker import Body, arguments_syntax, check_body, listed, read_arguments
from mailgate.config.diagnostics import Diagnostic, Problem, Report
from mailgate.config.files import DISK, Files
from mailgate.config.lexer import Token
from mailgate.config.line import Line, Scope
from mailgate.config.parser import Node, NodeKind
from mailgate.config.references import Reference, settle
from mailgate.config.schema import Block, Item, bind
from mailgate.config.source import Source, Span
from mailgate.config.suggest import did_you_mean, nearest
from mailgate.registry.catalogue import LISTENERS, WORDS, Unavailable, find, known_names
from mailgate.registry.module import Globals, Module, ModuleContext

_DIRECTORIES = ("state_dir", "runtime_dir")
_WITH_MODULES = ("local_domains", "tls")
"""Globals whose values may hold modules."""

_INSTANCE_NAME = re.compile(r"[^\W\d][\w.-]*\Z")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration that may run. ``instances`` has every module, named ones by their name, inline ones by label and place;
    ``modules`` all of them, what is referred to inside a line before the line itself."""

    globals: Globals
    instances: dict[str, Module]
    modules: list[Module]
    listeners: list[Module]
    context: ModuleContext
    """What every module's begins with."""


@dataclass(frozen=True, slots=True)
class Built:
    """``configuration`` is None if there are errors."""

    configuration: Configuration | None
    diagnostics: list[Diagnostic]


def build(
    path_or_text: str | os.PathLike[str],
    adapters: Adapters | None = None,
    *,
    at: str = "<text>",
    environment: Mapping[str, str] | None = None,
    outfit: Callable[[Globals], Mapping[str, Any]] | None = None,
    files: Files = DISK,
    workers: int = 1,
) -> Built:
    """Build the configuration of a file, or of a text (a string with a line end in it) that stands ``at`` a path.

    ``outfit`` gives, from the global settings, what the modules' contexts have besides: ``spool``, ``log``, and
    ``adapters`` in place of those given. ``workers`` are as many as ``adapters`` say, if there are any.

    :raises OSError: the file itself can't be read.
    """
    report = Report()
    environment = os.environ if environment is None else environment
    if isinstance(path_or_text, str) and "\n" in path_or_text:
        loaded = config.load_text(path_or_text, at, report=report, environment=environment)
    else:
        loaded = config.load(os.fspath(path_or_text), report=report, environment=environment, files=files)
    workers = adapters.workers if adapters is not None else workers
    configuration = _Assembly(report, environment, adapters, outfit, workers).run(loaded.source, loaded.tree)
    return Built(None if report.error_count else configuration, report.diagnostics)


@dataclass(slots=True)
class _Named:
    """A top-level instance: its name's word, what it is (None if that can't be loaded), and the instance once made."""

    word: Token
    type: type[Module] | None
    kind: str
    instance: Module | None = None
    used: bool = False


@dataclass(slots=True)
class _Made:
    """An instance, whether its own lines are in order, and what it needs to be configured."""

    instance: Module
    intact: bool
    needs: list[Reference] = field(default_factory=list)


class _Assembly:
    """One build. It is also the `Modules` that the types of values ask (config/line.py)."""

    def __init__(
        self,
        report: Report,
        environment: Mapping[str, str],
        adapters: Adapters | None,
        outfit: Callable[[Globals], Mapping[str, Any]] | None,
        workers: int,
    ) -> None:
        self.report = report
        self.scope = Scope(report, self, environment, workers=workers)
        self.adapters = adapters
        self.outfit = outfit
        self.named: dict[str, _Named] = {}
        self.made: list[_Made] = []
        self.references: list[tuple[Reference, _Named]] = []
        self.needs: list[list[Reference]] = [[]]
        self.instances: dict[str, Module] = {}
        self.context = ModuleContext(adapters, instances=self.instances)

    def run(self, source: Source, tree: list[Node]) -> Configuration:
        blocks = [(node, self._declared(node)) for node in tree if node.name.text not in Globals.directives]
        for node, declared in blocks:
            self._register(node, declared)
        settings = self._globals([node for node in tree if node.name.text in Globals.directives])
        for node, declared in blocks:
            if declared is not None and node.kind is NodeKind.BROKEN:
                check_body(declared, node.block or [], self.scope, declared.name, node.span)
            elif declared is not None:
                self._top_level(node, declared)
        self._settle()
        self._configure()
        self._unused()
        configuration = self._configuration(settings)
        if not configuration.listeners and not self.report.error_count:
            self._nothing_listens(source)
        return configuration

    # The top level

    def _declared(self, node: Node) -> type[Module] | None:
        """The class that a top-level block names; None, reported, if there is none."""
        name = node.name.text
        if node.kind is NodeKind.BROKEN:
            return self._of_broken(name)
        try:
            declared = self._find(name, node.span)
            if declared is not None:
                return declared
            if name in Globals.refusals:
                raise Globals.refusals[name].problem(node.span)
            modules = [known for known in known_names() if "." in known]
            if "." in name:
                hint = did_you_mean(name, modules)
                notes = (f"modules of this version: {listed(modules) or 'none'}",)
                raise Problem(node.span, f"unknown module `{name}`", code="E0601", hint=hint, notes=notes)
            words = [*Globals.directives, *WORDS]
            notes = (f"allowed at the top level: {listed(words)}, and modules such as target.smtp",)
            hint = did_you_mean(name, [*words, *modules, *Globals.refusals, "import"]) or "not known here"
            raise Problem(node.span, f"unknown directive `{name}`", code="E0401", hint=hint, notes=notes)
        except Problem as problem:
            self.report.problem(problem)
            return None

    @staticmethod
    def _of_broken(name: str) -> type[Module] | None:
        """What a line that has been reported already was going to be, so that its block is checked all the same."""
        try:
            return find(name)
        except Unavailable:
            return None

    def _find(self, name: str, place: Span) -> type[Module] | None:
        try:
            return find(name)
        except Unavailable as error:
            raise Problem(place, str(error), code="E0605", hint=error.hint) from None

    def _register(self, node: Node, declared: type[Module] | None) -> None:
        """Take down the name of an instance, before anything refers to it."""
        kind = node.name.text
        if declared is not None:
            has_name = not declared.is_nameless
        else:
            has_name = kind not in LISTENERS and ("." in kind or node.block is not None)
        if not has_name or not node.arguments:
            return
        word = node.arguments[0]
        before = self.named.get(word.text)
        if before is not None:
            notes = (f"the first is `{before.kind} {word.text}` at {before.word.span}",)
            self.report.error(word.span, f"the name `{word.text}` is used twice", code="E0603", notes=notes)
            return
        self.named[word.text] = _Named(word, declared, kind)

    def _globals(self, nodes: list[Node]) -> Globals:
        """What others begin with is read first: paths are relative to directories that are globals themselves, and a table
        among the globals is a module, which needs its context."""
        directories = self._global_values([node for node in nodes if node.name.text in _DIRECTORIES]).values
        self.scope.state_dir, self.scope.runtime_dir = directories["state_dir"], directories["runtime_dir"]
        plain = self._global_values([node for node in nodes if node.name.text not in _WITH_MODULES])
        settings = Globals()
        bind(settings, plain.values, plain.items)
        self.context = ModuleContext(
            instances=self.instances,
            hostname=settings.hostname or socket.gethostname(),
            state_dir=settings.state_dir,
            workers=self.scope.workers,
            runtime_dir=settings.runtime_dir,
            resolver=settings.resolver,
            **{"adapters": self.adapters, **(self.outfit(settings) if self.outfit else {})},
        )
        others = self._global_values([node for node in nodes if node.name.text in _WITH_MODULES])
        late = {attribute: others.values[attribute] for attribute in _WITH_MODULES}
        bind(settings, {**plain.values, **late}, (*plain.items, *others.items))
        written = {item.directive for item in settings.items}
        self.scope.inherited = {d: getattr(settings, d.attribute) for d in Globals.directives.values() if d in written}
        self.scope.local_domains = settings.local_domains
        self.context = replace(self.context, local_domains=settings.local_domains)
        return settings

    def _global_values(self, nodes: list[Node]) -> Body:
        return check_body(Globals, nodes, self.scope, "the top level", None)

    def _top_level(self, node: Node, declared: type[Module]) -> None:
        line = Line(node, self.scope)
        name = ""
        errors = self.report.error_count
        try:
            if not declared.is_nameless:
                word = line.next("NAME")
                name = word.text
                if not _INSTANCE_NAME.match(name):
                    hint = "an inline module stands where it is used" if "/" in name or "&" in name else ""
                    raise Problem(word.span, f"`{word.shown}` is no name for an instance", code="E0602", hint=hint)
        except Problem as problem:
            self.report.problem(problem)
        label = name or " ".join([node.name.text, *(token.shown for token in node.arguments[:1])])
        instance = self._make(declared, line, name, label, takes_block=True, errors=errors)
        registered = self.named.get(name)
        if registered is not None and registered.word is (node.arguments[0] if node.arguments else None):
            registered.instance = instance

    # Making instances

    def _make(
        self, declared: type[Module], line: Line, name: str, label: str, *, takes_block: bool, errors: int | None = None
    ) -> Module | None:
        """An instance of what stands on a line. Everything wrong is reported; None if there is nothing to be had.
        ``errors``: how many there were before the line."""
        errors = self.report.error_count if errors is None else errors
        self.needs.append([])
        values: dict[str, Any] = {}
        try:
            values = read_arguments(declared, line)
            line.finish(arguments_syntax(declared.arguments))
        except Problem as problem:
            self.report.problem(problem)
            line.rest()
        nodes: list[Node] = []
        if takes_block and line.has_block:
            nodes = line.node.block or []
            line.block_taken = True
        heading = declared.name + (f" {name}" if name else "")
        body = check_body(declared, nodes, self.scope, heading, line.node.span)
        instance = declared.__new__(declared)
        bind(instance, {**body.values, **values}, body.items, line.node.span, None)
        instance.damaged = body.damaged
        context = replace(self.context, name=name, label=label)
        needs = self.needs.pop()
        self.needs[-1] += needs
        try:
            instance.__init__(context)  # type: ignore[misc]
        except Problem as problem:
            self.report.problem(problem)
            return None
        except Exception as error:
            self._crashed(instance, error, errors)
            return None
        self.scope.blocks.append(instance)
        self.made.append(_Made(instance, self.report.error_count == errors, needs))
        return instance

    def _crashed(self, instance: Module, error: Exception, errors_before: int) -> None:
        """A module that raises: its own bug, unless it had only half of its values."""
        if self.report.error_count == errors_before:
            message = f"`{type(instance).name}` failed to read its configuration: {type(error).__name__}: {error}"
            self.report.error(instance.span, message, code="E0799", hint="this is a bug in the module")

    # What the types of values ask

    def inline(self, namespace: str, kind: Token, line: Line, *, takes_block: bool) -> Module | None:
        full = kind.text if kind.text.startswith(namespace + ".") else f"{namespace}.{kind.text}"
        declared = None if kind.quoted else self._find(full, kind.span)
        if declared is None:
            line.rest()
            raise self._no_module(namespace, kind)
        if line.node.name is kind:
            words = line.node.arguments
        else:
            words = line.node.arguments[line.node.arguments.index(kind) + 1 :]
        label = " ".join([full.partition(".")[2], *(word.shown for word in words[:1])])
        instance = self._make(declared, line, "", label, takes_block=takes_block)
        if instance is None:
            self.needs[-1].append(Reference(label))
        return instance

    def knows(self, namespace: str, kind: str) -> bool:
        return f"{namespace}.{kind}" in known_names()

    def _no_module(self, namespace: str, kind: Token) -> Problem:
        kinds = [name.partition(".")[2] for name in known_names() if name.startswith(namespace + ".")]
        notes = [f"{namespace} modules of this version: {listed(kinds) or 'none'}"]
        found = nearest(kind.text.removeprefix(namespace + "."), kinds, most=1)
        if kind.text in self.named:
            hint = f"did you mean `&{kind.text}`?"
        elif kind.text.lstrip("$@%*") in self.named:
            hint = f"did you mean `&{kind.text.lstrip('$@%*')}`?"
        elif "://" in kind.text and "smtp" in kinds:
            hint = f"did you mean `smtp {kind.shown}`?"
        else:
            hint = f"did you mean `{found[0]}`?" if found else ""
        return Problem(kind.span, f"unknown {namespace} `{kind.shown}`", code="E0601", hint=hint, notes=notes)

    def reference(self, name: Token, provides: str) -> Reference:
        wanted = name.text[1:]
        named = self.named.get(wanted)
        fitting = [other for other, known in self.named.items() if _provides(known, provides)]
        if named is None:
            near = nearest(wanted, fitting, most=1)
            for meant in near:
                self.named[meant].used = True  # or else it would be called unused besides
            hint = f"did you mean `&{near[0]}`?" if near else ""
            there = f"there is {listed('&' + other for other in fitting)}" if fitting else "nothing of this kind has a name"
            raise Problem(name.span, f"nothing is called `{wanted}`", code="E0602", hint=hint, notes=(there,))
        named.used = True
        if not _provides(named, provides):
            hint = did_you_mean(wanted, fitting).replace("`", "`&", 1)
            notes = (f"it is `{named.kind} {wanted}` at {named.word.span}",)
            raise Problem(name.span, f"`{wanted}` is no {provides}", code="E0604", hint=hint, notes=notes)
        reference = Reference(wanted)
        self.references.append((reference, named))
        self.needs[-1].append(reference)
        return reference

    def word(self, word: str, line: Line) -> Module | None:
        declared = self._find(word, line.node.span)
        if declared is None:
            raise Problem(line.node.span, f"unknown directive `{word}`", code="E0401")
        return self._make(declared, line, "", word, takes_block=True)

    # When all instances exist

    def _settle(self) -> None:
        for reference, named in self.references:
            reference.target = named.instance
        for block in self.scope.blocks:
            _settle_block(block)

    def _configure(self) -> None:
        """Listeners last: their pipelines look into tables and targets."""
        unfit = self._unfit()
        for made in sorted(self.made, key=lambda made: made.instance.is_listener):
            ready = all(reference.target is not None for reference in made.needs)
            if not ready or (id(made.instance) in unfit and not made.instance.configure_damaged):
                continue
            errors = self.report.error_count if made.intact else -1
            try:
                made.instance.configure(self.report)
            except Problem as problem:
                self.report.problem(problem)
            except Exception as error:
                self._crashed(made.instance, error, errors)

    def _unfit(self) -> set[int]:
        """The instances (by id) with mistakes in their own lines, or in those of what they need."""
        unfit = {id(made.instance) for made in self.made if not made.intact}
        while unfit:
            needing = {id(made.instance) for made in self.made if any(id(one.target) in unfit for one in made.needs)}
            if needing <= unfit:
                break
            unfit |= needing
        return unfit

    def _unused(self) -> None:
        if self.report.error_count:  # what is unused may be what a line that is wrong was to name
            return
        for name, named in self.named.items():
            if not named.used and named.type is not None:
                self.report.warning(named.word.span, f"nothing refers to `{named.kind} {name}`", code="W0601")

    def _nothing_listens(self, source: Source) -> None:
        """At the end of the file: it may have been cut off there."""
        end = len(source.text.rstrip())
        span = source.span(max(end - 1, 0), end)
        hint = "is the whole file there?"
        self.report.warning(span, "nothing listens: no smtp, submission or lmtp block", code="W0606", hint=hint)

    def _configuration(self, settings: Globals) -> Configuration:
        instances = self.instances
        for made in self.made:
            instance = made.instance
            key = instance.context.name or f"{instance.label} ({instance.span})"
            instances[key if key not in instances else f"{key} #{len(instances)}"] = instance
        modules = [made.instance for made in self.made]
        listeners = [module for module in modules if module.is_listener]
        return Configuration(settings, instances, modules, listeners, self.context)


def _provides(named: _Named, wanted: str) -> bool:
    """Whether a reference to it can stand for what is wanted. What nobody knows, and has been reported, may be anything."""
    if named.type is not None:
        return wanted in (named.type.provides or (named.kind.partition(".")[0],))
    namespace = named.kind.partition(".")[0]
    known = {name.partition(".")[0] for name in known_names()}
    return wanted == namespace or namespace not in known


def _settle_block(block: Block) -> None:
    for name, value in list(vars(block).items()):
        settled = settle(value)
        if settled is not value:
            setattr(block, name, settled)
    if any(settle(item.value) is not item.value for item in block.items):
        block.items = tuple(Item(item.directive, settle(item.value), item.span) for item in block.items)
