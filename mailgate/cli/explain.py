"""`mailgate explain`: what happens to mail from A to B, rule by rule, without sending any."""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import click

from mailgate.cli.common import UNREADABLE, config_option, json_option
from mailgate.cli.rehearse import ONLINE, TEMPORARY, adapters, choose_listener, fail, load, run, tables
from mailgate.config.diagnostics import printable
from mailgate.pipeline.explain import (
    DEFAULT_HELO,
    DEFAULT_IP,
    JSON_VERSION,
    Change,
    Explanation,
    Question,
    Step,
    as_dict,
    changes,
    describe,
    read_address,
)
from mailgate.pipeline.explain import explain as explain_envelope
from mailgate.pipeline.lookup import WITHOUT_IO, Lookups
from mailgate.pipeline.trace_tree import Node
from mailgate.smtp.address import Address, AddressError


class AddressType(click.ParamType):  # type: ignore[type-arg]
    """A mail address, with or without brackets."""

    name = "ADDRESS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        try:
            return value if isinstance(value, Address) else read_address(value)
        except AddressError as error:
            self.fail(f"{value!r} is no address: {error}", param, ctx)


class WordType(click.ParamType):  # type: ignore[type-arg]
    """What a client says in one word or line: nothing that would break the line it is printed in."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).isprintable():
            self.fail(f"{value!r} holds control characters", param, ctx)
        return str(value)


class IpType(click.ParamType):  # type: ignore[type-arg]
    """An IP address."""

    name = "IP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            self.fail(f"{value!r} is no IP address", param, ctx)


session_options: Sequence[Any] = (
    click.option("--ip", type=IpType(), default=DEFAULT_IP, show_default=True, help="The client's address."),
    click.option(
        "--helo", type=WordType(), default=DEFAULT_HELO, show_default=True, metavar="NAME", help="The name it greets with."
    ),
    click.option("--auth", "auth_user", type=WordType(), default="", metavar="USER", help="Whom it has authenticated as."),
    click.option("--tls", is_flag=True, help="It speaks over TLS."),
    click.option(
        "--listener", default="", metavar="ADDRESS", help="The listener's address as in the file; by default the first."
    ),
    click.option("--online", is_flag=True, help="Ask tables and checks that need the network."),
)


def with_session_options(command: Any) -> Any:
    """The options of `explain` and `try` that describe the client."""
    for option in reversed(session_options):
        command = option(command)
    return command


@click.command()
@config_option
@click.option("--from", "sender", type=AddressType(), required=True, help="The sender; <> is the null sender.")
@click.option("--rcpt", "recipients", type=AddressType(), required=True, multiple=True, help="A recipient; may be repeated.")
@with_session_options
@click.option("--message", type=click.File("rb"), help="A message, for the checks of the content; - is standard input.")
@click.option("--against", metavar="FILE", help="Another configuration: show what would change for this envelope.")
@json_option
def explain(
    path: str,
    sender: Address,
    recipients: tuple[Address, ...],
    ip: str,
    helo: str,
    auth_user: str,
    tls: bool,
    listener: str,
    online: bool,
    message: Any,
    against: str | None,
    as_json: bool,
) -> None:
    """Show what happens to mail from A to B: every rule on its way, and the answers at RCPT and after the dot.

    Next hops are not asked, they are taken to accept.

    Exit status: 0 explained; 1 the file has errors, or an answer depends on a table that was not asked (--online asks it), or
    with --against something changes; 2 wrong usage, or a file can't be read; 75 a table could not answer.
    """
    if any(address.is_null for address in recipients):
        fail("a recipient is never null", UNREADABLE)
    question = Question(sender, recipients, ip, helo, auth_user, tls, listener)
    if message is not None:
        question = replace(question, content=with_crlf(message.read()))
    explanations = explain_files([path, *([against] if against else [])], question, online=online)
    found = changes(*explanations) if against else None
    if as_json:
        answer: dict[str, Any] = {"version": JSON_VERSION, "file": path, **as_dict(explanations[0])}
        if found is not None:
            answer["against"] = {"file": against, **as_dict(explanations[1])}
            answer["changes"] = [
                {"party": change.party, "what": change.what, "before": change.before, "after": change.after} for change in found
            ]
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    elif found is None:
        click.echo(Painter(sys.stdout).explanation(explanations[0]))
    else:
        click.echo(Painter(sys.stdout).comparison(explanations[1], found, path, str(against)))
    sys.exit(_status(explanations, bool(found), online=online))


def explain_files(paths: Sequence[str], question: Question, *, online: bool) -> list[Explanation]:
    """One envelope, explained by each of several files. Exits if one can't be used."""
    outside = adapters(online=online)
    may_ask = ONLINE if online else WITHOUT_IO
    configurations = [load(path, outside, names=online) for path in paths]
    listeners = [choose_listener(one, question.listener, path) for one, path in zip(configurations, paths, strict=True)]

    async def explained() -> list[Explanation]:
        found = []
        for configuration, listener in zip(configurations, listeners, strict=True):
            with Lookups(tables(configuration), may_ask) as lookups:
                found.append(await explain_envelope(listener, question, lookups, may_ask, outside))
        return found

    return run(configurations, explained(), outside, online=online)


def with_crlf(content: bytes) -> bytes:
    """A message as files keep it, with the line ends of the wire."""
    lines = content.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    return b"\r\n".join(lines) + b"\r\n"


def _status(explanations: Sequence[Explanation], changed: bool, *, online: bool) -> int:
    unanswered = any(explanation.unanswered for explanation in explanations)
    return TEMPORARY if unanswered and online else 1 if unanswered or changed else 0


class Painter:
    """Explanations as text: the tree in lines that a terminal of any kind shows, in colour only where it has colours."""

    def __init__(self, stream: Any) -> None:
        self._colored = stream.isatty()
        plain = "utf" not in (getattr(stream, "encoding", None) or "").lower()
        self._taken, self._not_taken = ("+", "-") if plain else ("✓", "✗")
        self._middle, self._last, self._bar = ("|- ", "`- ", "|  ") if plain else ("├─ ", "└─ ", "│  ")
        self._arrow = "=>" if plain else "→"

    def explanation(self, explanation: Explanation) -> str:
        session, question = explanation.session, explanation.question
        client = [session.client_ip, f"HELO {session.helo}", "over TLS" if session.tls else "in clear"]
        client += [f"as {session.auth_user}"] if session.auth_user else []
        parts = [f"{explanation.listener}  {self._dim(explanation.where)}\nclient {', '.join(client)}"]
        parts.append("\n".join(self._step(f"MAIL FROM:<{question.sender}>", explanation.sender)))
        for one in explanation.recipients:
            lines = self._step(f"RCPT TO:<{one.address}>", one.step)
            lines += [f"   {self._arrow} {describe(outcome)}  {self._dim(outcome.where)}" for outcome in one.outcomes]
            parts.append("\n".join(lines))
        if explanation.content is not None:
            finals = dict.fromkeys(one.final for one in explanation.recipients if one.final is not None)
            lines = self._step("after the dot", explanation.content, tree_only=True)
            lines += [f"   {self._paint(str(reply), reply.is_success)}" for reply in finals]
            parts.append("\n".join(lines))
        return "\n\n".join(parts)

    def comparison(self, new: Explanation, found: Sequence[Change], path: str, against: str) -> str:
        if not found:
            return f"{path} and {against} do the same with this envelope"
        lines = [f"{path} {self._arrow} {against}"]
        for change in found:
            lines.append(f"{printable(change.party)}: {change.what}")
            lines += [f"   {sign} {printable(text) or 'nothing'}" for sign, text in (("-", change.before), ("+", change.after))]
        return "\n".join(lines) + "\n\n" + self.explanation(new)

    def _step(self, title: str, step: Step, *, tree_only: bool = False) -> list[str]:
        lines = [self._bold(printable(title)), *self._branches(step.tree.children, "   ")]
        if step.unknown:
            lines.append(f"   {self._paint('unknown', False)}: {printable(step.unknown)}; --online asks it")
        elif not tree_only:
            why = f"  {self._dim(step.where)} {printable(step.reason)}".rstrip() if step.refusal else ""
            why += ", said at RCPT" if step.refusal and step.reply.is_success else ""
            lines.append(f"   {self._paint(str(step.reply), step.reply.is_success)}{why}")
        return lines

    def _branches(self, nodes: Sequence[Node], indent: str) -> Iterator[str]:
        for number, node in enumerate(nodes):
            is_last = number == len(nodes) - 1
            yield indent + (self._last if is_last else self._middle) + self._node(node)
            yield from self._branches(node.children, indent + ("   " if is_last else self._bar))

    def _node(self, node: Node) -> str:
        sign = self._paint(self._taken, True) if node.taken else self._paint(self._not_taken, False)
        reason = f": {printable(node.reason)}" if node.reason else ""
        places = ", ".join(place for place in (node.where, node.entry) if place)
        return f"{sign} {printable(node.text)}{reason}  {self._dim(places)}".rstrip()

    def _paint(self, text: str, good: bool) -> str:
        return click.style(printable(text), fg="green" if good else "red") if self._colored else printable(text)

    def _bold(self, text: str) -> str:
        return click.style(text, bold=True) if self._colored else text

    def _dim(self, text: str) -> str:
        return click.style(text, dim=True) if self._colored and text else text
