"""From the checked tree of a pipeline to its `Router`, with every structural mistake reported at its place.

Grammar alone does not make a pipeline: a block must decide (and only once), a level of rules must end in a default, no rule may
stand where it can never match, copies must not need two irrevocable answers, and no msgpipeline may lead back to
itself. All of that is said here, at load and in `mailgate check`, so that a message never meets a hole at run time.

What a table holds is not known here, with two exceptions that a table states itself: ``static_keys`` (all its keys, if they
are written in the configuration) and ``matches_all``.

Diagnostics: E0801 empty block, E0802 decisions that exclude each other, E0803 rules without a default, E0804 duplicate or
shadowed rule, E0805 no rule at all (spelling), E0806 copies, E0807 cycle, E0808 and E0814 `on_split queue` and `copy_to` without
a queue, E0816 and E0817 `after_body` that promises what it can't keep; W0801 `on_split allow`, W0802 postmaster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.domains import NOTHING_LOCAL, LocalDomains
from mailgate.config.expression import tokenize
from mailgate.config.schema import Block, Item
from mailgate.config.source import Span
from mailgate.interfaces import Finality
from mailgate.pipeline.check import SESSION_STAGES, has_message_stage, has_session_stage, stages_of
from mailgate.pipeline.grammar import PipelineBlock, PipelineRules, Split
from mailgate.pipeline.modifiers import takes_part
from mailgate.pipeline.reach import branches
from mailgate.pipeline.review import Hole, report_hole, report_relays
from mailgate.pipeline.router import (
    AfterBody,
    Branch,
    Condition,
    Deliver,
    DeliverTo,
    Discard,
    Handling,
    Reject,
    RelayRule,
    Router,
    Rules,
    Side,
    Through,
    irrevocable_copies,
)
from mailgate.pipeline.rules import RuleError, RuleSet, read_rule
from mailgate.pipeline.tour import RCPT_NAMES
from mailgate.smtp.reply import Reply

HANDLING = ("deliver_to", "reroute", "after_body", "reject", "discard")
RULES = {
    Side.SOURCE: ("source_in", "source", "default_source"),
    Side.DESTINATION: ("destination_in", "destination", "default_destination"),
}

_DECIDING = (*HANDLING, *RULES[Side.SOURCE], *RULES[Side.DESTINATION])

_NOT_CONFIGURED = Reply(451, "4.3.5", "Not configured")
_BROKEN = Reject(_NOT_CONFIGURED)
"""In place of what was reported: a configuration with errors is never run."""


class NamedPipeline(PipelineRules):
    """What `deliver_to &name` may name beside targets: its router is made when first asked for."""

    _router: Router | None = None

    def router(self, report: Report, local: LocalDomains, chain: tuple[NamedPipeline, ...] = ()) -> Router:
        """``chain``: the named pipelines that led here."""
        if self._router is None:
            self._router = _Compiler(report, (*chain, self), local).whole(self, self.title)
        return self._router

    @property
    def title(self) -> str:
        """How diagnostics call it."""
        raise NotImplementedError


def compile_pipeline(block: PipelineBlock, report: Report, local: LocalDomains = NOTHING_LOCAL) -> Router:
    """The router of a listener; what is wrong goes to ``report``. ``local`` are the gateway's own domains."""
    errors = report.error_count
    router = _Compiler(report, (), local).whole(block, getattr(block, "name", "") or "pipeline")
    if block.split is Split.ALLOW:
        report.warning(
            block.span_of("on_split"),
            "`on_split allow` may deliver a message twice",
            code="W0801",
            notes=("when one of several next hops refuses after the others accepted, the client sends to all of them again",),
        )
    elif block.split is Split.QUEUE:
        if getattr(block.split_queue, "keeper", None) is None:
            report.error(block.span_of("on_split"), "`on_split queue` needs a target.queue", code="E0808")
    else:
        _report_copies(router, report)
    if not getattr(block, "lmtp", False):
        _report_rejects(router, report)
    if _refuses_postmaster(router):
        report.warning(
            block.span,
            "mail to <postmaster> is refused here",
            code="W0802",
            notes=("RFC 5321 4.5.1 wants it accepted: `destination postmaster { … }`",),
        )
    if not block.damaged and report.error_count == errors:
        report_relays(router, block, local, report)
    return router


class _Compiler:
    def __init__(self, report: Report, chain: tuple[NamedPipeline, ...], local: LocalDomains) -> None:
        self._report = report
        self._chain = chain
        self._local = local
        self._holes: list[Hole] = []

    def whole(self, block: PipelineRules, title: str) -> Router:
        """The router of a pipeline that is entered from outside."""
        router = self.router(block, title)
        for hole in self._holes:
            report_hole(hole, router, self._local, self._report)
        return router

    def _hole(self, hole: Hole) -> Reject:
        self._holes.append(hole)
        return hole.end

    def router(self, block: PipelineRules, title: str) -> Router:
        listed, modifiers = self._checks(block), _listed(block, "modify")
        checks = tuple(filter(has_message_stage, listed))
        sides = (Side.SOURCE, Side.DESTINATION)
        conditions = self._conditions(block, sides, checks)
        route = self._route(block, title, sides, checks)
        session_checks = tuple(filter(has_session_stage, listed)) if isinstance(block, PipelineBlock) else ()
        return Router(route, block.span, checks, *_by_stage(modifiers), conditions, self._relay(block), session_checks)

    def _relay(self, block: PipelineRules) -> RelayRule | None:
        if not isinstance(block, PipelineBlock) or not block.relay_from:
            return None
        return RelayRule(block.relay_from, self._local, block.span_of("relay_from"))

    def _branch(self, block: Block, title: str, sides: tuple[Side, ...], outer: tuple[Any, ...]) -> Branch:
        """``outer`` are the checks of the blocks around: one check judges once."""
        checks = tuple(check for check in self._checks(block) if check not in outer and has_message_stage(check))
        conditions = self._conditions(block, sides, outer + checks)
        route = self._route(block, title, sides, outer + checks)
        return Branch(route, block.span, checks, *_by_stage(_listed(block, "modify")), conditions)

    def _checks(self, block: Block) -> tuple[Any, ...]:
        """The checks of a block; those that would never be asked in it are reported."""
        if not isinstance(block, PipelineBlock):
            for item in block.items:
                for check in item.value if item.name == "check" else ():
                    if check is not None and has_session_stage(check):
                        self._report_session_stage(check, item.span)
        return _listed(block, "check")

    def _report_session_stage(self, check: Any, span: Span) -> None:
        stages = " and ".join(stage for stage in SESSION_STAGES if stage in stages_of(check))
        hint = "put it at the top of the listener's block"
        notes = ("what belongs to the connection is judged before any rule is asked",)
        if has_message_stage(check):
            message = f"`{check.label}` does not judge its stage {stages} here"
            self._report.warning(span, message, code="W0809", hint=hint, notes=notes)
        else:
            message = f"`{check.label}` judges nothing here: its stage is {stages}"
            self._report.error(span, message, code="E0809", hint=hint, notes=notes)

    def _conditions(self, block: Block, sides: tuple[Side, ...], outer: tuple[Any, ...]) -> tuple[Condition, ...]:
        """The `when` blocks of a block. One that is always true is an error if anything stands behind it, which would never
        be reached; one that is never true, or that asks again what was asked above, always is."""
        conditions: list[Condition] = []
        asked: dict[str, Item] = {}
        for item in block.items:
            if item.name != "when":
                continue
            test: v.Condition = item.value.value
            before = asked.setdefault(_spelling(test), item)
            if before is not item:
                notes = (f"the same is asked at {before.span}",)
                self._report.error(
                    item.span, "this block is never taken: its condition was asked above", code="E0804", notes=notes
                )
            elif test.always is False:
                place = test.place(test.expression.node)
                self._report.error(
                    item.span, "this block is never taken", code="E0804", notes=(f"its condition is false: {place}",)
                )
            elif test.always:
                self._report_unreached(block, item)
            branch = self._branch(item.value, "when", sides, outer)
            conditions.append(Condition(test, branch, item.span))
        return tuple(conditions)

    def _report_unreached(self, block: Block, always: Item) -> None:
        place = always.value.value.place(always.value.value.expression.node)
        number = block.items.index(always)
        behind = [item for item in block.items[number + 1 :] if item.name == "when"]
        behind += [item for item in block.items if item.name in _DECIDING]
        if behind:
            notes = (f"the condition at {place} is always true",)
            self._report.error(behind[0].span, f"this `{behind[0].name}` is never reached", code="E0804", notes=notes)
        else:
            hint = "write what is in the block without `when`"
            self._report.error(place, "this condition is always true", code="E0804", hint=hint)

    def _route(self, block: Block, title: str, sides: tuple[Side, ...], outer: tuple[Any, ...]) -> Handling | Rules:
        handling = [item for item in block.items if item.name in HANDLING]
        by_side = {side: [item for item in block.items if item.name in RULES[side]] for side in sides}
        kinds = [items for items in (handling, *by_side.values()) if items]
        if not kinds:
            if not block.damaged:
                hint = "mail is thrown away only by the word `discard`"
                return self._hole(Hole(Reject(_NOT_CONFIGURED), block.span, f"`{title}` decides nothing", "E0801", hint))
            return _BROKEN
        if len(kinds) > 1:
            first, second = sorted((items[0] for items in kinds), key=lambda item: block.items.index(item))[:2]
            self._report.error(
                second.span,
                f"`{second.name}` cannot stand beside `{first.name}`",
                code="E0802",
                hint="one of them in each block",
                notes=(f"`{first.name}` is at {first.span}",),
            )
        copies = [item for item in block.items if item.name == "copy_to"]
        if copies and (not handling or handling[0].name not in ("deliver_to", "reroute")):
            hint = "`deliver_to &QUEUE`, if it is to get all of the mail"
            self._report.error(copies[0].span, "`copy_to` stands beside `deliver_to` or `reroute`", code="E0802", hint=hint)
        if handling:
            return self._handling(handling, copies)
        side, items = next((side, items) for side, items in by_side.items() if items)
        return self._rules(block, title, side, items, outer)

    # Handling

    def _handling(self, items: list[Item], copies: list[Item]) -> Handling:
        first = items[0]
        for item in items[1:]:
            if item.name != first.name or item.name != "deliver_to":
                message = f"`{item.name}` beside `{first.name}`" if item.name != first.name else f"`{item.name}` is given twice"
                notes = (f"`{first.name}` is at {first.span}",)
                self._report.error(item.span, message, code="E0802", hint="a block decides once", notes=notes)
        if first.name == "reject":
            return Reject(first.value, first.span)
        if first.name == "discard":
            return Discard(first.span)
        if first.name == "after_body":
            router = self.router(first.value, "after_body")
            return AfterBody(router, first.span, *self._irrevocable(router))
        if first.name == "reroute":
            return Deliver((Through(self.router(first.value, "reroute"), first.span), *self._copies(copies)), first.span)
        return Deliver((*self._steps(items), *self._copies(copies)), first.span)

    def _irrevocable(self, router: Router) -> tuple[Any, bool]:
        """The target that an `after_body` ends in, if it is not queues, and whether all come to it in the same way. What a
        client was told at RCPT must hold whatever the content turns out to be."""
        for check in dict.fromkeys(check for branch in branches(router) for check in branch.checks):
            if "verdict" in stages_of(check):
                self._report.error(
                    check.span,
                    f"`{check.label}` judges nothing in `after_body`",
                    code="E0818",
                    hint="put it outside: the sum is judged before `after_body` decides by it",
                )
        steps = [step for branch in branches(router) for step in _delivers(branch) if not step.copy]
        steps.sort(key=lambda step: (step.span.path, step.span.start) if step.span is not None else ("", 0))
        first = next((step for step in steps if step.is_irrevocable), None)
        if first is None:
            return None, False
        for step in steps:
            if step.target is not first.target:
                self._report.error(
                    step.span,
                    f"`after_body` delivers to {first.target.label} or to {step.target.label}",
                    code="E0816",
                    hint="to queues only, or always to the same target",
                    notes=(f"the other is at {first.span}", "recipients hear 250 before the content has decided"),
                )
                break
        plain = all(
            not (one.checks or one.sender_modifiers or one.rcpt_modifiers or one.body_modifiers) for one in branches(router)
        )
        return first.target, plain

    def _copies(self, items: list[Item]) -> Iterator[DeliverTo]:
        for item in items:
            if getattr(item.value, "finality", None) is not Finality.TWO_PHASE:
                self._report.error(item.span, "`copy_to` needs a target.queue", code="E0814")
            else:
                yield DeliverTo(item.value, item.span, copy=True)

    def _steps(self, items: list[Item]) -> Iterator[DeliverTo | Through]:
        seen: dict[int, Item] = {}
        for item in items:
            if item.name != "deliver_to" or item.value is None:  # None: reported already
                continue
            before = seen.setdefault(id(item.value), item)
            if before is not item:
                notes = (f"the other is at {before.span}",)
                self._report.error(item.span, "two copies to the same target", code="E0804", notes=notes)
            elif isinstance(item.value, NamedPipeline):
                yield Through(self._named(item.value, item.span), item.span)
            else:
                yield DeliverTo(item.value, item.span)

    def _named(self, pipeline: NamedPipeline, span: Span) -> Router:
        if pipeline not in self._chain:
            return pipeline.router(self._report, self._local, self._chain)
        circle = (*self._chain[self._chain.index(pipeline) :], pipeline)
        self._report.error(
            span,
            f"{pipeline.title} leads back to itself",
            code="E0807",
            notes=(" → ".join(one.title for one in circle),),
        )
        return Router(_BROKEN, span)

    # Rules

    def _rules(self, block: Block, title: str, side: Side, items: list[Item], outer: tuple[Any, ...]) -> Rules:
        table_word, rule_word, default_word = RULES[side]
        inner = (Side.DESTINATION,) if side is Side.SOURCE else ()
        rules = RuleSet(self._report)
        default: Branch | None = None
        default_item: Item | None = None
        for item in items:
            words = item.value.value if item.name == rule_word else ()
            heading = " ".join((item.name, *words[:1]))
            branch = self._branch(item.value, heading, inner, outer)
            if item.name == table_word:
                rules.add_table(item.value.value, branch, item.span)
            elif item.name == rule_word:
                for word in words:
                    try:
                        rules.add(read_rule(word, side), branch, item.span, word)
                    except RuleError as error:
                        hint = error.hint or _rule_hint(word)
                        place = _word_place(item.span, word)
                        self._report.error(place, f"`{word}` is no rule: {error}", code="E0805", hint=hint)
            elif default_item is not None:
                notes = (f"the first is at {default_item.span}",)
                self._report.error(item.span, f"`{default_word}` is given twice", code="E0804", notes=notes)
            else:
                default, default_item = branch, item
        end = _BROKEN
        if default is None and not block.damaged:
            hint = f"what no rule matches needs a decision: `{default_word} {{ … }}`"
            end = Reject(_NOT_CONFIGURED)
            self._hole(Hole(end, items[-1].span, f"`{title}` has no `{default_word}`", "E0803", hint))
        return rules.compiled(side, default or Branch(end, block.span), self._local)


def _delivers(branch: Branch) -> Iterator[DeliverTo]:
    if isinstance(branch.route, Deliver):
        yield from (step for step in branch.route.steps if isinstance(step, DeliverTo))


def _report_rejects(router: Router, report: Report) -> None:
    """Of a listener with one answer for all recipients: what the content is refused for must not be one of them."""
    for branch in branches(router):
        if isinstance(branch.route, AfterBody):
            for reject in _of_some(branch.route.router, by_recipient=False):
                report.error(
                    reject.span,
                    "this refuses the content for some recipients",
                    code="E0817",
                    hint="refuse recipients at RCPT, outside of `after_body`",
                    notes=("SMTP has one answer to a message, for all of its recipients",),
                )


def _of_some(branch: Branch, *, by_recipient: bool) -> Iterator[Reject]:
    """The rejects in it that one recipient may meet and another not."""
    for condition in branch.conditions:
        by_recipient = by_recipient or bool(condition.test.expression.names & RCPT_NAMES)
        yield from _of_some(condition.branch, by_recipient=by_recipient)
    route = branch.route
    if isinstance(route, Rules):
        inner = by_recipient or route.side is Side.DESTINATION
        for one in dict.fromkeys(route.branches()):
            yield from _of_some(one, by_recipient=inner)
    elif isinstance(route, Deliver):
        for step in route.steps:
            if isinstance(step, Through):
                yield from _of_some(step.router, by_recipient=by_recipient)
    elif isinstance(route, Reject) and by_recipient and route.reply is not _NOT_CONFIGURED:
        yield route


def _spelling(test: v.Condition) -> str:
    """The same for conditions that differ in white space only."""
    return " ".join(token.text for token in tokenize(test.expression.text))


def _listed(block: Block, word: str) -> tuple[Any, ...]:
    """The checks or modifiers of a block, in written order; the same one twice is one."""
    return tuple(dict.fromkeys(module for item in block.items if item.name == word for module in item.value if module))


def _by_stage(modifiers: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    sender, rcpt, body = (
        tuple(modifier for modifier in modifiers if takes_part(modifier, stage)) for stage in ("sender", "rcpt", "body")
    )
    return sender, rcpt, body


def _report_copies(router: Router, report: Report) -> None:
    for branch in branches(router):
        handling = branch.route
        if isinstance(handling, Deliver) and len(handling.steps) > 1 and irrevocable_copies(handling) > 1:
            report.error(
                handling.steps[1].span,
                "several copies with an irrevocable answer each",
                code="E0806",
                hint="one client, one answer",
                notes=(
                    "if one is refused after the other was accepted, no answer is true for both",
                    "at most one target of a block may be anything but a queue, unless the listener has `on_split allow`",
                ),
            )


def _refuses_postmaster(branch: Branch) -> bool:
    """Whether ``<postmaster>`` without a domain is refused whoever sends it. Tables and modifiers: not known, so no."""
    route = branch.route
    if branch.rcpt_modifiers or not all(_refuses_postmaster(condition.branch) for condition in branch.conditions):
        return False
    if isinstance(route, Rules):
        if route.side is Side.SOURCE:
            return all(_refuses_postmaster(inner) for inner in set(route.branches()))
        return not route.tables and _refuses_postmaster(route.find("postmaster", ""))
    if isinstance(route, Deliver):
        return any(isinstance(step, Through) and _refuses_postmaster(step.router) for step in route.steps)
    return isinstance(route, Reject) and route.reply is not _NOT_CONFIGURED


def _word_place(place: Span | None, word: str) -> Span | None:
    """Where a word stands on the line of its directive; the directive's own place if it came from elsewhere."""
    if place is None or place.source is None:
        return place
    found = place.source.line(place.line).find(word, place.column - 1 + place.length)
    start = place.source.line_start(place.line) + found
    return place if found < 0 else place.source.span(start, start + len(word), place.via)


def _rule_hint(word: str) -> str:
    if word.startswith("$"):
        return "a macro is written `$(name)`"
    return "rules stand apart with spaces, without commas" if word.endswith(",") else ""
