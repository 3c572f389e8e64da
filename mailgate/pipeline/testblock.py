"""`test "name" { … }`: an envelope, and what must become of it, beside the rules that decide it.

A test asks the same router as mail does (explain.py), without any I/O: what a table would answer that is not part of the
configuration is said by `given`, and a question that no `given` answers is an error. Checks that ask the network are taken to
pass.

    recipients   The envelope has all `rcpt` of the test, in their order: a test can show what `on_split` does.
    expect       One for all recipients, or one for each, in their order. It is about the end: a message refused after the dot
                 is refused. `accept` may name the targets, all of them.

`run_tests` runs those of a whole configuration: `mailgate check` does, and a reload can. A test that fails is an error at its
`expect`: E0901. E0902: a table without an answer. E0903: a test that can't be run.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from mailgate.config import values as v
from mailgate.config.diagnostics import Diagnostic, Problem, Report
from mailgate.config.lexer import Token
from mailgate.config.line import Line, List, Value
from mailgate.config.references import ReferenceTo
from mailgate.config.schema import REQUIRED, Argument, Directive, Item
from mailgate.config.text_forms import table_key
from mailgate.interfaces import ITable
from mailgate.net.waiting import begin
from mailgate.pipeline.compile import NamedPipeline
from mailgate.pipeline.explain import (
    DEFAULT_HELO,
    DEFAULT_IP,
    Explanation,
    Question,
    RecipientStep,
    Step,
    describe,
    explain,
    find_listener,
    read_address,
)
from mailgate.pipeline.lookup import Answers, Kept, Lookups, not_asked
from mailgate.registry import Configuration, Module
from mailgate.smtp.address import AddressError
from mailgate.smtp.reply import Reply

WITHOUT_GIVEN = frozenset((Kept.IN_CONFIGURATION,))
"""Tables that a test asks: what they say is part of what is tested."""

_CODE = re.compile(r"[45]\d\d\Z")
_ENHANCED = re.compile(r"[45]\.\d{1,3}\.\d{1,3}\Z")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A reply as far as a test says it: 0 and "" stand for any."""

    code: int = 0
    enhanced: str = ""
    text: str = ""

    def fits(self, reply: Reply) -> bool:
        return self.code in (0, reply.code) and self.enhanced in ("", reply.enhanced) and self.text in ("", reply.text)


class WantedReply(Value):
    """Code, enhanced code, text: each optional, in this order."""

    metavar = "[CODE] [ENHANCED] [TEXT]"

    def __init__(self, digit: str) -> None:
        self._digit = digit

    def parse_element(self, line: Line) -> Wanted:
        code, enhanced, text = 0, "", ""
        if (word := self._next(line, _CODE)) is not None:
            code = int(word.text)
        if (word := self._next(line, _ENHANCED)) is not None:
            enhanced = word.text
        if not line.exhausted:
            text = line.next("").text
        return Wanted(code, enhanced, text)

    def _next(self, line: Line, form: re.Pattern[str]) -> Token | None:
        word = line.peek()
        if word is None or word.quoted or not form.match(word.text):
            return None
        if word.text[0] != self._digit:
            raise Problem(word.span, f"`{word.shown}` is not of class {self._digit}", code="E0509")
        return line.next("")


class Given(Value):
    """``&table KEY = VALUE…``, ``= none`` for no match, ``*`` for every other key. The value: (table, key or None, values)."""

    metavar = "&TABLE KEY|* = VALUE…|none"

    def parse_element(self, line: Line) -> tuple[Any, str | None, tuple[str, ...]]:
        table = ReferenceTo("table").parse_word(line.next("&TABLE"), line.scope)
        key = line.next("KEY or *")
        equals = line.next("=")
        if equals.text != "=" or equals.quoted:
            raise Problem(equals.span, "`=` is needed here", code="E0404", hint="`given &table KEY = VALUE`")
        first = line.next("VALUE or none")
        rest = line.rest()
        is_none = first.text == "none" and not first.quoted
        if is_none and rest:
            raise Problem(rest[0].span, "nothing comes behind `none`", code="E0405")
        return (
            table,
            None if key.text == "*" and not key.quoted else key.text,
            (() if is_none else (first.text, *(word.text for word in rest))),
        )


class RouteTest(Module):
    """An envelope and what must become of it: `mailgate check` runs it, without asking anybody."""

    name = "test"
    is_nameless = True

    title = Argument("NAME", v.String("NAME"), doc="What the test shows, in a few words.")
    listener = Directive(
        "listener",
        v.Endpoint(listen=True, schemes=("tcp", "tls", "unix")),
        doc="The listener that the client comes to, by one of its addresses; the first in the file by default.",
    )
    ip = Directive("ip", v.String("IP"), default=DEFAULT_IP, doc="The client's address.")
    helo = Directive("helo", v.String("NAME"), default=DEFAULT_HELO, doc="The name that the client greets with.")
    auth = Directive("auth", v.String("USER"), default="", doc="Whom the client has authenticated as; nobody by default.")
    tls = Directive("tls", v.Boolean(), default=False, doc="Whether the client speaks over TLS.")
    sender = Directive("from", v.String("ADDRESS"), default=REQUIRED, doc="The sender; <> is the null sender.")
    rcpt = Directive("rcpt", v.String("ADDRESS"), default=REQUIRED, repeatable=True, doc="A recipient of the message.")
    header = Directive(
        "header", v.Args(v.String("NAME"), v.String("VALUE")), repeatable=True, doc="A header field of the message."
    )
    given = Directive(
        "given",
        Given(),
        repeatable=True,
        doc="What a table answers for a key; `*` is every other key, `none` no match. Tables that are not written in the"
        " configuration itself are not asked.",
    )
    expect = Directive(
        "expect",
        v.OneOf(
            {
                "accept": List(ReferenceTo("target"), minimum=0),
                "reject": WantedReply("5"),
                "defer": WantedReply("4"),
                "discard": v.Nothing(),
            }
        ),
        default=REQUIRED,
        repeatable=True,
        doc="What becomes of the message: one for all recipients, or one for each, in their order. `accept` with targets: for"
        " these and no others.",
    )

    def configure(self, report: Report) -> None:
        for item in self.items:
            try:
                if item.name == "ip":
                    ipaddress.ip_address(item.value)
                elif item.name in ("from", "rcpt") and read_address(item.value).is_null and item.name == "rcpt":
                    raise AddressError("no recipient is null")
            except ValueError as error:
                report.error(item.span, f"`{item.value}` is no {_NOUN[item.name]}: {error}", code="E0903")
            if item.name == "expect" and item.value.word == "accept":
                for target in item.value.value:
                    if isinstance(target, NamedPipeline):
                        hint = "name the target that its rules lead to"
                        report.error(item.span, f"{target.title} delivers nowhere itself", code="E0903", hint=hint)
        expected, recipients = self._items("expect"), self._items("rcpt")
        if len(expected) not in (1, len(recipients)):
            report.error(
                expected[-1].span if expected else self.span,
                f"{len(expected)} `expect` for {len(recipients)} `rcpt`",
                code="E0903",
                hint="one for all recipients, or one for each",
            )

    def run(self, configuration: Configuration, report: Report) -> None:
        """Run it; what is not as expected goes to the report."""
        listener = find_listener(configuration.listeners, str(self.listener) if self.listener else "")
        if listener is None:
            known = ", ".join(address for one in configuration.listeners for address in one.addresses)  # type: ignore[attr-defined]
            hint = f"there is {known}" if known else "the file has none"
            report.error(self.span_of("listener") or self.span, "no listener there", code="E0903", hint=hint)
            return
        explanation = self._explanation(configuration, listener)
        missing = next(filter(None, (not_asked(step.refusal) for step in explanation.steps())), None)
        if missing is not None:
            name = missing.table.context.name if isinstance(missing.table, Module) else ""
            report.error(
                self.span,
                f"test `{self.title}`: no `given` says what {missing.label} has for `{missing.key}`",
                code="E0902",
                hint=f"add `given &{name} {missing.key} = none` or a value"
                if name
                else "give the table a name, for `given &NAME`",
                notes=(f"the table is at {missing.where}", "tests ask nobody"),
            )
            return
        expected = self._items("expect")
        for number in range(len(self.rcpt)):
            self._judge(explanation, number, expected[number if len(expected) > 1 else 0], report)

    def _explanation(self, configuration: Configuration, listener: Any) -> Explanation:
        fields = "".join(f"{name}: {value}\r\n" for name, value in self.header)
        question = Question(
            read_address(self.sender),
            tuple(map(read_address, self.rcpt)),
            self.ip,
            self.helo,
            self.auth,
            self.tls,
            str(self.listener) if self.listener else "",
            (fields or "From: <test@example.com>\r\nSubject: test\r\n").encode() + b"\r\n",
        )
        given: dict[int, dict[str | None, tuple[str, ...]]] = {}
        for table, key, values in self.given:
            given.setdefault(id(table), {})[None if key is None else table_key(key)] = values
        answers: dict[int, Answers] = dict(given)
        tables = [module for module in configuration.modules if ITable.providedBy(module)]
        with Lookups(tables, WITHOUT_GIVEN, answers) as lookups:
            explanation = begin(explain(listener, question, lookups, WITHOUT_GIVEN))
        assert isinstance(explanation, Explanation), "something waits in a test"
        return explanation

    def _judge(self, explanation: Explanation, number: int, expected: Item, report: Report) -> None:
        one = explanation.recipients[number] if explanation.sender.reply.is_success else None
        step = explanation.sender if one is None else one.step
        reply = one.final if one is not None and one.final is not None else step.reply
        if one is not None and one.final is not None and not one.final.is_success and explanation.content is not None:
            step = explanation.content
        if _FITS[expected.value.word](expected.value.value, reply, one):
            return
        found = _found(reply, one)
        places = _places(step, one)
        report.error(
            expected.span,
            f"test `{self.title}`: <{self.rcpt[number]}> {found}",
            code="E0901",
            hint=f"decided at {', '.join(places)}" if places else found,
            notes=_way(step),
        )

    def _items(self, name: str) -> list[Item]:
        return [item for item in self.items if item.name == name]


_NOUN = {"ip": "IP address", "from": "address", "rcpt": "address"}


def _accepted(targets: tuple[Any, ...], reply: Reply, one: RecipientStep | None) -> bool:
    if one is None or not reply.is_success or all(not outcome.target for outcome in one.outcomes):
        return False
    reached = {outcome.module for outcome in one.outcomes if outcome.module is not None}
    return not targets or reached == set(targets)


def _discarded(_: object, reply: Reply, one: RecipientStep | None) -> bool:
    return one is not None and reply.is_success and all(not outcome.target for outcome in one.outcomes)


_FITS = {
    "accept": _accepted,
    "reject": lambda wanted, reply, _: reply.is_permanent and wanted.fits(reply),
    "defer": lambda wanted, reply, _: reply.is_temporary and wanted.fits(reply),
    "discard": _discarded,
}


def _found(reply: Reply, one: RecipientStep | None) -> str:
    if not reply.is_success or one is None:
        return f"hears {reply}"
    if all(not outcome.target for outcome in one.outcomes):
        return "is discarded"
    return "goes " + "; ".join(map(describe, one.outcomes))


def _places(step: Step, one: RecipientStep | None) -> list[str]:
    found = [step.where] if step.where else [outcome.where for outcome in one.outcomes] if one is not None else []
    return [place for place in dict.fromkeys(found) if place]


def _way(step: Step) -> tuple[str, ...]:
    """The branches that were taken, with their places."""
    return tuple(
        f"{node.where}: {node.text}" + (f" ({node.reason})" if node.reason else "")
        for node in step.tree.walk()
        if node.taken and node is not step.tree and node.where
    )


def run_tests(configuration: Configuration) -> list[Diagnostic]:
    """Run every test of a configuration; without any it costs nothing. The diagnostics of those that fail, by place."""
    report = Report()
    for module in configuration.modules:
        if isinstance(module, RouteTest):
            module.run(configuration, report)
    return report.diagnostics
