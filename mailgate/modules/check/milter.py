"""check.milter: a filter that speaks the milter protocol, with us in the place of the MTA.

The filter hears all of a message: connection, hello, sender and each recipient as they come, then the content. What it answers is
done: it may refuse at any step with words of its own, take the message as it is, throw it away, mark it for quarantine, change
fields, the body, the sender and the recipients (`pipeline.content` does that).

- The filter has a connection for each client, over which all its messages go (`clients.milter`). It hears of the client before
  the greeting, and what it refuses then is refused there: 554, or 421 where it says later, and the connection is closed. So it is
  for a check at the top of a listener's block; any other, one with `at_connection no` and one whose `on_fail` lets mail pass asks
  with the first MAIL, and what the filter refuses is the answer to all messages of the client.
- The hello is told with MAIL, when it is final. A refusal is the answer to every MAIL until another hello, as with Postfix and
  Sendmail, which accept the hello itself.
- A filter that can't be asked before the greeting is asked again with MAIL: `on_error` is a matter of messages.
- A recipient that a filter refuses is refused alone. One that comes behind the filter and is refused by others stays in the
  filter's list, as it does with Sendmail, but a filter that wants to hear of those (SMFIP_RCPT_REJ) does.
- The filter does not see our own Received. It counts fields without it, but 0 is a place above it.
- A new body is kept in memory or the spool as any other is, up to `max_replacement`, with lines that end in CRLF.
- No answer in time, no connection, or nonsense: `on_error`, 451 unless it says otherwise, for this and all later steps.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.clients.milter import Client, ConnectionGone, Milter, MilterFailure, Times
from mailgate.clients.milter_wire import Command, MilterError, Response
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.message.envelope import Session
from mailgate.modules.check._action import AskingCheck
from mailgate.modules.check._milter_message import REJECTED, State, refusal_of
from mailgate.modules.check._milter_talk import Talk, unexpected
from mailgate.pipeline.check import SessionCheck
from mailgate.registry import ModuleContext
from mailgate.smtp.reply import Reply


class SessionState(SessionCheck):
    async def connection(self) -> Reply | None:
        """Ask about the client. What can't be asked now is asked with its first message."""
        if not self.check.asks_at_connection:
            return None
        talk = Talk(self.check, self.session, self.check.client_of(self.session))
        try:
            await talk.begin()
            try:
                return await self._introduce(talk)
            except ConnectionGone:
                if not talk.open_link.is_used:
                    raise
                await talk.begin_anew()
                return await self._introduce(talk)
        except (MilterFailure, MilterError):
            talk.give_up(failed=True)
            return None
        except CancelledError:
            talk.give_up(failed=False)
            raise

    async def _introduce(self, talk: Talk) -> Reply | None:
        link = talk.open_link
        said = await talk.connect()
        reply = refusal_of(said)
        if reply is None and said not in (Response.CONTINUE, Response.ACCEPT):
            raise unexpected(said, Command.CONNECT)
        talk.client.is_accepted = said is Response.ACCEPT
        link.is_introduced = said is Response.CONTINUE
        talk.end(in_message=False, goes_on=link.is_introduced)
        return None if reply is None else _greeting(self.check.on_fail.value or reply)


def _greeting(reply: Reply) -> Reply:
    """A refusal in place of the greeting (RFC 5321 3.1, 3.8): 554, or 421 for now."""
    code = 421 if reply.is_temporary else 554
    return Reply(code, reply.enhanced, reply.text)


class MilterCheck(AskingCheck):
    """A milter hears of each message, and its answers and changes are done. A refusal has the filter's own words, unless
    `on_fail` gives others."""

    name = "check.milter"
    session_state = SessionState
    message_state = State
    refusal = REJECTED

    endpoint = Argument("ENDPOINT", v.Endpoint(schemes=("tcp", "unix")), doc="Where the filter listens.", origin="maddy")
    connect_timeout = Directive(
        "connect_timeout",
        v.Duration(minimum=0.1, maximum=300),
        default=10.0,
        doc="For a connection, or a place in the line.",
    )
    command_timeout = Directive(
        "command_timeout",
        v.Duration(minimum=0.1, maximum=600),
        default=30.0,
        doc="For each answer before the message's end.",
    )
    content_timeout = Directive(
        "content_timeout",
        v.Duration(minimum=0.1, maximum=3600),
        default=120.0,
        doc="For each answer at the end of the message; the content as a whole has five times as long.",
    )
    connections = Directive(
        "connections", v.Integer(minimum=1, maximum=10_000), default=100, divided=True, doc="Messages at the same time."
    )
    max_replacement = Directive(
        "max_replacement",
        v.Size(minimum=1024),
        default=64 << 20,
        doc="How large a filter's own body may be.",
    )
    at_connection = Directive(
        "at_connection",
        v.Boolean(),
        default=True,
        doc="Whether the filter hears of a client when it connects, and may refuse it in place of the greeting; else with its"
        " first message. At the top of a listener's block only.",
    )
    macros = Directive(
        "macro",
        v.Args(v.String("NAME"), v.String("VALUE")),
        repeatable=True,
        doc="The value of a macro in place of ours, such as `daemon_name`, which some filters choose their settings by; one that"
        " we do not have is told with the connection.",
        origin="Postfix",
    )
    reuse = Directive(
        "reuse",
        v.Boolean(),
        default=False,
        doc="Whether a connection serves one client after the other (version 6, QUIT_NC); most filters can't.",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self.filter: Any = None
        asks_first = self.at_connection and getattr(self.on_fail, "word", "reject") == "reject"
        if not asks_first:
            self.stages = self.stages - {"connection"}
        self._clients: dict[str, Client] = {}
        self.given_macros = {name.strip("{}"): value for name, value in self.macros}
        self.times = Times(self.connect_timeout, self.command_timeout, self.content_timeout, self.content_timeout * 5)

    @property
    def marks(self) -> bool:
        """What a filter wants changed is known only when it says so."""
        return True

    def configure(self, report: Report) -> None:
        if self.endpoint.scheme == "tcp" and not self.endpoint.port:
            report.error(self.span, "milters have no port of their own: which one?", code="E0797", hint="tcp://127.0.0.1:8891")

    @property
    def asks_at_connection(self) -> bool:
        """Not of a filter that is known to want to hear nothing of connections, nor where its refusal lets mail pass."""
        known = self.filter.agreement
        return "connection" in self.stages and (known is None or known.wants(Command.CONNECT))

    async def start(self) -> None:
        assert self.context.adapters is not None
        place = self.endpoint
        self.filter = Milter(
            f"milter {place}",
            place.path,
            place.host,
            place.port,
            self.context.adapters,
            self.times,
            self.connections,
            reuse=self.reuse,
        )

    async def stop(self) -> None:
        if self.filter is not None:
            self.filter.stop()

    def client_of(self, session: Session) -> Client:
        """What the filter knows of a client, until it is gone."""
        client = self._clients.get(session.id)
        if client is None:
            client = self._clients[session.id] = Client(self.filter)
            session.at_end = [*(session.at_end or ()), lambda: self._gone(session.id)]
        return client

    def _gone(self, session_id: str) -> None:
        self._clients.pop(session_id).gone()
