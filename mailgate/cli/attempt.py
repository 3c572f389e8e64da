"""`mailgate try`: a fake session. What would this client hear, and which line of the file says so?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
from twisted.internet.defer import Deferred

from mailgate.adapters import Adapters
from mailgate.cli.common import UNREADABLE, config_option, json_option
from mailgate.cli.explain import AddressType, with_crlf, with_session_options
from mailgate.cli.rehearse import ONLINE, ONLINE_TIME, TEMPORARY, adapters, choose_listener, fail, load, run, tables
from mailgate.config.diagnostics import printable
from mailgate.inbound.dialogue import Dialogue
from mailgate.inbound.sessions import Sessions
from mailgate.message.envelope import Session
from mailgate.pipeline.explain import Outcome, Question, describe, outcomes_of, place_of, tls_facts
from mailgate.pipeline.lookup import WITHOUT_IO, Kept, Lookups
from mailgate.pipeline.reception import receive
from mailgate.pipeline.rehearsal import Rehearsal, spool
from mailgate.pipeline.trace_tree import Kind, Node
from mailgate.smtp.address import NULL_ADDRESS, Address

JSON_VERSION = 1
SITTING = 8 * 3600.0
"""Seconds for a session that somebody types."""


_VERBS = ("MAIL", "RCPT", "DATA", "BDAT")
"""Commands that the pipeline answers."""


@dataclass(slots=True)
class Exchange:
    """What the client said, what it heard, and why: ``places`` are the lines of the file that decided."""

    said: str
    heard: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    reason: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    """After the dot: where the message would go."""


class _Wire:
    """The connection of a dialogue that nobody is connected to."""

    def __init__(self) -> None:
        self.output = b""
        self.upgrading = False
        self.closed = False
        self.quiet: Deferred[None] | None = None
        """Fires when a dialogue that waits has gone on."""

    def write(self, data: bytes) -> None:
        self.output += data

    def readdress(self, client: str) -> None: ...

    def channel_bindings(self) -> dict[str, bytes]:
        return {}

    def start_tls(self) -> None:
        self.upgrading = True

    def finish(self, reason: str, *, at_once: bool = False) -> None:
        self.closed = True
        self._go_on()

    def wait(self) -> None: ...

    def hold(self) -> None: ...

    def settled(self, output: bytes, progressed: bool) -> None:
        self.output += output
        self._go_on()

    def taken(self) -> list[str]:
        output, self.output = self.output, b""
        return output.decode("utf-8", "replace").splitlines()

    def _go_on(self) -> None:
        if self.quiet is not None:
            quiet, self.quiet = self.quiet, None
            quiet.callback(None)


class Attempt:
    """One fake session on a listener: lines in, exchanges out; no message leaves it."""

    def __init__(self, listener: Any, session: Session, lookups: Lookups, may_ask: frozenset[Kept], outside: Adapters) -> None:
        self._listener = listener
        self._lookups = lookups
        self._may_ask = may_ask
        self._settings = listener.transaction_settings(outside, spool(outside))
        self._wire = _Wire()
        self._rehearsal: Rehearsal | None = None
        self._root = Node(Kind.PIPELINE, "")
        sessions = Sessions(listener.server_settings(), listener.connection_settings(), self._open, outside, label=listener.label)
        self._sessions = sessions
        self._session = session
        self._refused = False
        self._dialogue = Dialogue(sessions, session, self._wire)

    @property
    def in_content(self) -> bool:
        return self._dialogue.content_since >= 0

    @property
    def is_over(self) -> bool:
        return self._wire.closed or self._refused

    async def greet(self) -> Exchange:
        """What the client hears first."""
        root = Node(Kind.PIPELINE, "")
        refusal = await receive(self._listener, self._session, root, self._may_ask)
        greeting = self._sessions.greeting if refusal is None else self._sessions.encode(refusal.reply)
        exchange = Exchange("", greeting.decode("utf-8", "replace").splitlines())
        if refusal is not None:
            self._refused = True
            exchange.places = [refusal.where] if refusal.where else []
            exchange.reason = refusal.reason
        return exchange

    async def say(self, line: bytes, said: str) -> Exchange:
        """Send one line, or with ``DATA`` accepted the content up to its dot; ``said`` is how it is shown."""
        self._root = Node(Kind.PIPELINE, "")
        rehearsal = self._rehearsal
        if rehearsal is not None:
            rehearsal.next_root(self._root)
        was_content = self.in_content
        self._dialogue.receive(line + b"\r\n")
        if self._dialogue.is_waiting:
            self._wire.quiet = Deferred()
            await self._wire.quiet
        exchange = Exchange(said, self._wire.taken())
        if self._wire.upgrading:
            self._wire.upgrading = False
            self._dialogue.tls_started(tls_facts())
        if self._rehearsal is not None and (was_content or said[:4].upper() in _VERBS):
            self._explain(self._rehearsal, exchange)
        if rehearsal is not None and was_content and any(reply.startswith("2") for reply in exchange.heard):
            exchange.outcomes = [one for plans in rehearsal.all_plans for one in outcomes_of(plans)]
        if self._dialogue.is_idle:
            self._rehearsal = None
        return exchange

    def _open(self, session: Session, message_id: str) -> Rehearsal:
        self._rehearsal = Rehearsal(
            self._listener.router, session, self._settings, message_id, self._lookups, self._root, self._may_ask
        )
        return self._rehearsal

    def _explain(self, rehearsal: Rehearsal, exchange: Exchange) -> None:
        if not exchange.heard:
            return
        refusal = rehearsal.refusal
        if refusal is not None:
            exchange.places = [refusal.where] if refusal.where else []
            exchange.reason = refusal.reason
        else:
            exchange.places = self._root.decided()


@click.command("try")
@click.argument("script", type=click.File("rb"), required=False)
@config_option
@click.option("--from", "sender", type=AddressType(), help="The sender of a message file; <> is the null sender.")
@click.option("--rcpt", "recipients", type=AddressType(), multiple=True, help="A recipient of a message file; may be repeated.")
@with_session_options
@json_option
def attempt(
    script: Any,
    path: str,
    sender: Address | None,
    recipients: tuple[Address, ...],
    ip: str,
    helo: str,
    auth_user: str,
    tls: bool,
    listener: str,
    online: bool,
    as_json: bool,
) -> None:
    """Hold a session with the rules of a file: nothing listens, nothing is delivered, next hops are taken to accept.

    SCRIPT has the lines that a client says, `#` starts a comment; or, with --from and --rcpt, it is a message. Without a SCRIPT
    the lines come from standard input. Beside each reply stands the line of the configuration that decided it.

    Exit status: 0 the session went to its end; 1 the file has errors, or an answer depends on a table that was not asked
    (--online asks it); 2 wrong usage, or a file can't be read; 75 a table could not answer.
    """
    if bool(recipients) != (sender is not None):
        fail("a message needs --from and --rcpt", UNREADABLE)
    if script is not None and script.name.endswith(".eml") and sender is None:
        fail(f"{script.name} is a message: it needs --from and --rcpt", UNREADABLE)
    outside = adapters(online=online)
    configuration = load(path, outside, names=online)
    chosen = choose_listener(configuration, listener, path)
    session = Question(NULL_ADDRESS, (), ip, helo, auth_user, tls, listener).session(chosen)
    source = script or sys.stdin.buffer
    typed = script is None and sys.stdin.isatty()
    if sender is not None:
        lines: Iterable[bytes] = message_script(source.read(), sender, recipients, helo, lmtp=chosen.lmtp)
    else:
        lines = prompted() if typed else source
    may_ask = ONLINE if online else WITHOUT_IO
    show = (lambda exchange: None) if as_json else Painter(sys.stdout, echo=not typed).show

    async def session_held() -> tuple[list[Exchange], bool]:
        with Lookups(tables(configuration), may_ask) as lookups:
            attempted = Attempt(chosen, session, lookups, may_ask, outside)
            exchanges = await hold(attempted, lines, show, typed=typed)
            return exchanges, lookups.unanswered

    if not as_json:
        click.echo(f"{chosen.label}  {place_of(chosen)}")
    exchanges, unanswered = run(
        [configuration], session_held(), outside, online=online, seconds=SITTING if typed else ONLINE_TIME
    )
    if as_json:
        click.echo(json.dumps(_as_dict(path, chosen.label, exchanges), indent=2, ensure_ascii=False))
    sys.exit((TEMPORARY if online else 1) if unanswered else 0)


async def hold(attempted: Attempt, lines: Iterable[bytes], show: Any, *, typed: bool) -> list[Exchange]:
    """Say line after line until the session ends; the exchanges, the greeting first."""
    exchanges = [await attempted.greet()]
    show(exchanges[0])
    if attempted.is_over:
        return exchanges
    for line in lines:
        text = line.rstrip(b"\r\n")
        if not attempted.in_content and (text.startswith(b"#") or not (text or typed)):
            continue
        exchange = await attempted.say(text, text.decode("utf-8", "replace"))
        show(exchange)
        exchanges.append(exchange)
        if attempted.is_over:
            break
    return exchanges


def message_script(content: bytes, sender: Address, recipients: Sequence[Address], helo: str, *, lmtp: bool) -> Iterator[bytes]:
    """The lines of a client that sends one message."""
    yield f"{'LHLO' if lmtp else 'EHLO'} {helo}".encode()
    yield f"MAIL FROM:<{sender}>".encode()
    for address in recipients:
        yield f"RCPT TO:<{address}>".encode()
    yield b"DATA"
    for line in with_crlf(content).removesuffix(b"\r\n").split(b"\r\n"):
        yield b"." + line if line.startswith(b".") else line
    yield b"."
    yield b"QUIT"


def prompted() -> Iterator[bytes]:
    """What somebody types, up to the end of the input."""
    while True:
        try:
            yield input("C: ").encode()
        except EOFError:
            return


class Painter:
    """Exchanges as text. ``echo``: the client's lines too."""

    def __init__(self, stream: Any, *, echo: bool) -> None:
        self._colored = stream.isatty()
        self._echo = echo
        self._in_content = False

    def show(self, exchange: Exchange) -> None:
        if self._echo and exchange.said and not (self._in_content and exchange.said != "."):
            click.echo(f"C: {printable(exchange.said)}")
        for number, reply in enumerate(exchange.heard):
            self._in_content = reply.startswith("354")
            line = f"S: {printable(reply)}"
            if number == len(exchange.heard) - 1:
                line += self._why(exchange)
            click.echo(line)
        for outcome in exchange.outcomes:
            click.echo(f"   {describe(outcome)}  {self._dim(outcome.where)}")

    def _why(self, exchange: Exchange) -> str:
        why = " ".join(filter(None, (", ".join(exchange.places), printable(exchange.reason))))
        return f"  {self._dim(f'[{why}]')}" if why else ""

    def _dim(self, text: str) -> str:
        return click.style(text, dim=True) if self._colored and text else text


def _as_dict(path: str, listener: str, exchanges: Sequence[Exchange]) -> dict[str, Any]:
    return {
        "version": JSON_VERSION,
        "file": path,
        "listener": listener,
        "exchanges": [
            {
                "client": exchange.said or None,
                "server": exchange.heard,
                "where": exchange.places,
                "reason": exchange.reason or None,
                "deliveries": [
                    {
                        "target": outcome.target or None,
                        "endpoint": outcome.endpoint or None,
                        "sender": outcome.sender,
                        "address": outcome.address,
                        "where": outcome.where or None,
                    }
                    for outcome in exchange.outcomes
                ],
            }
            for exchange in exchanges
            if exchange.heard
        ],
    }
