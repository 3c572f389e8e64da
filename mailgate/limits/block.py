"""`limits { … }`: how much mail may come in or go out, in a listener or a target, or named at the top level and shared."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import Directive, Item
from mailgate.config.source import Span
from mailgate.limits.limits import Kind, Limits, Line, Scope
from mailgate.limits.shared import Shared
from mailgate.registry import Module, Report

_PREFIXES = (v.Integer(minimum=1, maximum=32), v.Integer(minimum=1, maximum=128))
_COUNT = v.Integer(minimum=1)
_PERIOD = v.Duration(minimum=0.001)
_WAIT = v.Duration()
_KINDS = v.Choice(*(kind.value for kind in Kind))
_THEN = v.Choice("wait")


class LimitValue(v.Value):
    """``rate N T [wait T]`` or ``concurrency N [wait T]``; of networks with the lengths of their prefixes in front."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        prefixes = "V4 V6 " if scope is Scope.NETWORK else ""
        self.metavar = f"{prefixes}rate N DURATION [wait DURATION] | {prefixes}concurrency N [wait DURATION]"

    def parse_element(self, line: v.Line) -> Line:
        prefixes = (0, 0)
        if self._scope is Scope.NETWORK:
            prefixes = (_PREFIXES[0].parse_element(line), _PREFIXES[1].parse_element(line))
        kind = Kind(_KINDS.parse_element(line))
        count = _COUNT.parse_element(line)
        period = _PERIOD.parse_element(line) if kind is Kind.RATE else 0.0
        wait = None
        if not line.exhausted:
            _THEN.parse_element(line)
            wait = _WAIT.parse_element(line)
        return Line(self._scope, kind, count, period, wait, prefixes)

    def show(self, value: Any) -> str:
        words = [*(str(length) for length in value.prefixes if length), value.kind.value, str(value.count)]
        if value.kind is Kind.RATE:
            words.append(_PERIOD.show(value.period))
        if value.wait is not None:
            words += ["wait", _WAIT.show(value.wait)]
        return " ".join(words)


def _scope(scope: Scope, doc: str) -> Directive:
    return Directive(scope.value, LimitValue(scope), repeatable=True, doc=doc, origin="maddy" if scope in _MADDY else "mailgate")


_MADDY = (Scope.ALL, Scope.IP, Scope.SOURCE, Scope.DESTINATION)


class LimitsBlock(Module):
    """Limits on messages: how many in a time (`rate`, a token bucket), and how many at once (`concurrency`). Without `wait`
    what is too much is refused at once, in targets after lease_timeout."""

    name = "limits"

    everything = _scope(Scope.ALL, "All messages together.")
    ip = _scope(Scope.IP, "Messages from each client: an IPv4 address, or the /64 of an IPv6 address.")
    network = _scope(Scope.NETWORK, "Messages from each network of clients, by the lengths of its prefix for IPv4 and for IPv6.")
    user = _scope(Scope.USER, "Messages of each user who has logged in.")
    source = _scope(Scope.SOURCE, "Messages of each domain of senders; the null sender is not counted.")
    destination = _scope(
        Scope.DESTINATION, "Messages to each domain of recipients: however many recipients there, a message counts once."
    )
    helo = _scope(Scope.HELO, "Messages from clients with the same name in EHLO, HELO or LHLO.")

    shared = Directive(
        "shared",
        v.ModuleLine("counter"),
        doc="Who counts for several workers and nodes together; each refers to it in a block of the same name. The numbers hold"
        " for all of them, and are not divided.",
    )
    on_failure = Directive(
        "on_failure",
        v.Choice("local", "refuse"),
        doc="What holds while the counter can't be asked: `local` counts in each process, with its part of the numbers, `refuse`"
        " lets nobody in. Needed with `shared`.",
    )

    _limits: Limits | None = None
    _before: Limits | None = None

    @property
    def lines(self) -> list[Line]:
        """As written."""
        return [item.value for item in self.items if isinstance(item.value, Line)]

    @property
    def _written(self) -> list[Item]:
        return [item for item in self.items if isinstance(item.value, Line)]

    @property
    def limits(self) -> Limits:
        """At work: one for all who refer to the block."""
        if self._limits is None:
            assert self.context.adapters is not None
            shared = None
            if self.shared is not None:
                shared = Shared(self.shared, self.context.name, refuses=self.on_failure == "refuse")
            reactor = self.context.adapters.reactor
            self._limits = Limits(self.lines, reactor, self._before, workers=self.context.workers, shared=shared)
            self._before = None
        return self._limits

    def configure(self, report: Report) -> None:
        first: dict[str, Item] = {}
        for item in self._written:
            before = first.setdefault(item.value.subject, item)
            if before is not item:
                report.error(
                    item.span,
                    f"`{item.value.subject}` is given twice",
                    code="E0751",
                    hint="one of them",
                    notes=(f"the first is at {before.span}",),
                )
        workers = self.context.workers
        for item in () if self.shared is not None else self._written:
            if item.value.kind is Kind.CONCURRENCY and item.value.count < workers:
                report.error(
                    item.span,
                    f"`{item.value.name}` can't be divided among {workers} workers",
                    code="E0409",
                    hint=f"at least {workers}, or fewer workers",
                )
        if not self._written and not self.damaged:
            report.error(self.span, "`limits` limits nothing", code="E0752", hint="such as `ip rate 20 1m`")

        self._check_shared(report)

    def _check_shared(self, report: Report) -> None:
        if self.shared is None:
            if self.on_failure:
                report.error(self.span_of("on_failure"), "`on_failure` is for limits that are shared", code="E0753")
            return
        place = self.span_of("shared")
        if not self.on_failure:
            text = "what holds while the counter can't be asked?"
            report.error(place, text, code="E0753", hint="`on_failure local` or `on_failure refuse`")
        if not self.context.name:
            text = "limits that are shared need a name: it is what the others count under"
            report.error(place, text, code="E0753", hint="`limits NAME { … }` at the top level")

    def inherit_state(self, old: Module) -> None:
        if self.context.name and isinstance(old, LimitsBlock):
            self._before = old._limits

    def inherit_inline(self, old: Any) -> None:
        """The same for a block without a name, by its owner, who knows what its predecessor had: a block, or None."""
        if not self.context.name and isinstance(old, LimitsBlock) and not old.context.name:
            self._before = old._limits

    def check_place(self, place: str, effective: Collection[Scope], span: Span | None, report: Report) -> None:
        """Report the scopes that can't have an effect where the block is used: in ``place``, by the line at ``span``."""
        possible = ", ".join(scope.value for scope in Scope if scope in effective)
        for item in self._written:
            scope: Any = item.value.scope
            if scope not in effective:
                used = () if span == self.span else (f"the block is used by the {place} at {span}",)
                report.error(
                    item.span,
                    f"`{scope.value}` limits nothing in a {place}",
                    code="E0750",
                    notes=(*used, f"scopes with an effect there: {possible}"),
                )
