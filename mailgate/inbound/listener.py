"""What `smtp` and `lmtp` blocks have in common: their directives, and the life of a listener.

The order of a life: ``configure`` (also in `mailgate check`) compiles the pipeline and reads certificates, ``bind`` opens the
ports while the process may still be root, ``start`` begins to accept, ``stop`` closes the ports and drains the sessions. The
directives and the engine's settings of the same name meet in `Listener.server_settings`; nothing else reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Any, ClassVar

from twisted.internet.defer import Deferred, succeed

from mailgate.adapters import Adapters
from mailgate.config import values as v
from mailgate.config.schema import Argument, Directive
from mailgate.events import Event, EventLog
from mailgate.inbound.admission import AdmissionBlock
from mailgate.inbound.advice import advise
from mailgate.inbound.client_names import NamesBlock
from mailgate.inbound.crowd import CrowdDirectives
from mailgate.inbound.login_settings import LoginDirectives
from mailgate.inbound.mail_options import MailOptions
from mailgate.inbound.ports import CannotBind, Port, place_of
from mailgate.inbound.sessions import Census, ConnectionSettings, Sessions, TransactionLike
from mailgate.inbound.tls_settings import contexts_of
from mailgate.inbound.trust import TrustDirectives
from mailgate.inbound.unix_sockets import SocketDirectives
from mailgate.message.body import Spool
from mailgate.message.envelope import Session
from mailgate.message.tally import Tally
from mailgate.pipeline.compile import compile_pipeline
from mailgate.pipeline.grammar import PipelineBlock
from mailgate.pipeline.reach import enforces_requiretls
from mailgate.pipeline.router import Router
from mailgate.pipeline.session_checks import SessionChecks
from mailgate.pipeline.settings import TransactionSettings
from mailgate.pipeline.transaction import Transaction
from mailgate.registry import Globals, Module, ModuleContext, Report
from mailgate.registry.certificates import LINE as LISTENER_TLS
from mailgate.registry.certificates import ListenerTls
from mailgate.smtp.settings import ServerSettings
from mailgate.tls.live import LiveContexts
from mailgate.tls.pairs import KeyPair

_events = EventLog("mailgate.inbound")

KEYWORDS = (
    "STARTTLS",
    "PIPELINING",
    "8BITMIME",
    "SMTPUTF8",
    "ENHANCEDSTATUSCODES",
    "CHUNKING",
    "BINARYMIME",
    "SIZE",
    "DSN",
    "LIMITS",
    "REQUIRETLS",
    "MT-PRIORITY",
    "FUTURERELEASE",
    "DELIVERBY",
)
"""What `hide` takes: every keyword that the engine may announce in this version."""


class Listener(
    LoginDirectives,
    AdmissionBlock,
    NamesBlock,
    CrowdDirectives,
    TrustDirectives,
    SocketDirectives,
    MailOptions,
    PipelineBlock,
    Module,
):
    """Accepts mail on one or more addresses and passes it through the pipeline in its block."""

    is_listener = True
    configure_damaged = True
    lmtp: ClassVar[bool] = False

    endpoints = Argument(
        "ADDRESS",
        v.OpenedEndpoint(schemes=("tcp", "tls", "unix")),
        rest=True,
        minimum=1,
        doc="Where to listen: tcp://ADDRESS:PORT, tls://ADDRESS:PORT (TLS from the first byte), unix://PATH; * is every address.",
        origin="maddy",
    )
    hostname_override = Directive(
        "hostname",
        v.OwnName(),
        default="",
        inherit=Globals.hostname,
        doc="Our name in the greeting, the hello reply and Received.",
        origin="maddy",
    )
    authserv_id = Directive(
        "authserv_id",
        v.String("NAME"),
        default="",
        inherit=Globals.authserv_id,
        doc="The name under which results of checks stand in Authentication-Results; our hostname by default. Fields with this"
        " name or that one that come in are removed.",
    )
    tls = Directive(
        "tls",
        LISTENER_TLS,
        block=ListenerTls,
        inherit=Globals.tls,
        doc="Certificates for STARTTLS and tls:// addresses: pairs of certificate and key file, chosen by the name that the"
        " client asks for, the first being the default; self_signed is made in memory, for laboratories.",
        origin="maddy",
    )
    tls_start = Directive(
        "tls_start",
        v.Boolean(),
        default=False,
        doc="TLS from the first byte on tcp:// addresses too (behind the PROXY header, if there is one), in place of STARTTLS.",
        origin="smtp-server",
    )
    banner = Directive("banner", v.ReplyText(), default="", doc="Text behind our name in the greeting.", origin="smtp-server")
    helo_response = Directive(
        "helo_response",
        v.ReplyText(),
        default="%s greets %s",
        doc="First line of the hello reply; the two %s are our name and the client's.",
        origin="smtp-server",
    )
    max_message_size = Directive(
        "max_message_size", v.Size(minimum=1), default=32 << 20, doc="Largest message, announced as SIZE.", origin="maddy"
    )
    announce_size = Directive(
        "announce_size", v.Boolean(), default=True, doc="Whether SIZE names the limit; it holds anyway.", origin="smtp-server"
    )
    hide = Directive(
        "hide",
        v.List(v.Choice(*KEYWORDS)),
        default=(),
        doc="Keywords not announced in the hello reply, nor what rests on them: BINARYMIME on CHUNKING, SMTPUTF8 on 8BITMIME.",
        origin="smtp-server",
    )
    disable_commands = Directive(
        "disable_commands",
        v.List(v.Choice("AUTH", "BDAT", "EXPN", "HELP", "STARTTLS", "VRFY")),
        default=(),
        doc="Commands answered 502.",
        origin="smtp-server",
    )
    max_connections = Directive(
        "max_connections",
        v.Integer(minimum=1),
        default=1000,
        divided=True,
        doc="Connections at once; more hear 421.",
        origin="smtp-server",
    )
    max_connections_per_ip = Directive(
        "max_connections_per_ip",
        v.Integer(minimum=1),
        default=100,
        divided=True,
        doc="Connections at once from one address, of IPv6 from one /64; loopback and relay_from are not counted.",
    )
    read_timeout = Directive(
        "read_timeout", v.Duration(minimum=1), default=300.0, doc="For one whole command, and for silence.", origin="maddy"
    )
    data_timeout = Directive(
        "data_timeout", v.Duration(minimum=1), default=600.0, doc="For the content of a message; longer at 500 octets/s or more."
    )
    handshake_timeout = Directive("handshake_timeout", v.Duration(minimum=1), default=30.0, doc="For a TLS handshake.")
    session_timeout = Directive(
        "session_timeout",
        v.OneOf({"off": v.Nothing(), "": v.Duration(minimum=1)}),
        default=None,
        doc="For a whole session; off by default.",
    )
    shutdown_timeout = Directive(
        "shutdown_timeout",
        v.Duration(),
        inherit=Globals.shutdown_timeout,
        default=180.0,
        doc="How long running messages may take to finish when the gateway stops.",
        origin="smtp-server",
    )
    early_talker = Directive(
        "early_talker",
        v.Choice("reject", "ignore"),
        default="reject",
        doc="What happens to clients that speak before the greeting.",
    )
    greeting_delay = Directive("greeting_delay", v.Duration(maximum=60), default=0.0, doc="Pause before the greeting.")
    strict_line_endings = Directive(
        "strict_line_endings",
        v.Choice("reject", "normalize"),
        default="reject",
        doc="What happens to content with bare CR or LF: refused, or turned into CRLF.",
    )
    nul = Directive("nul", v.Choice("reject", "strip"), default="reject", doc="What happens to NUL in content.")
    smtp_max_line_length = Directive(
        "smtp_max_line_length", v.Integer(minimum=998), default=4000, doc="Longest line of content.", origin="maddy"
    )
    max_header_size = Directive(
        "max_header_size", v.Size(minimum=1), default=1 << 20, doc="Largest header section.", origin="maddy"
    )
    max_header_count = Directive("max_header_count", v.Integer(minimum=1), default=1000, doc="Most header fields.")
    max_received = Directive(
        "max_received",
        v.Integer(minimum=1),
        default=50,
        doc="Most Received fields: beyond it the message is in a loop.",
        origin="maddy",
    )
    max_command_length = Directive(
        "max_command_length", v.Integer(minimum=512), default=4096, doc="Longest command line.", origin="smtp-server"
    )
    max_recipients = Directive(
        "max_recipients", v.Integer(minimum=1), default=1000, doc="Most recipients of one message.", origin="maddy"
    )
    max_errors = Directive("max_errors", v.Integer(minimum=1), default=10, doc="The reply 500 to 504 that ends the session.")
    max_rejected_recipients = Directive(
        "max_rejected_recipients", v.Integer(minimum=1), default=50, doc="The refused recipient that ends the session."
    )
    strict_addresses = Directive(
        "strict_addresses",
        v.Boolean(),
        default=True,
        doc="Only addresses as RFC 5321 writes them; no: also without brackets, with spaces, over-long.",
        origin="smtp-server",
    )
    defer_sender_reject = Directive(
        "defer_sender_reject",
        v.Boolean(),
        default=True,
        doc="Refuse a sender at the first recipient, so that the log knows both.",
        origin="maddy",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self.hostname = self.hostname_override or context.hostname
        self._router: Router | None = None
        self._contexts: LiveContexts | None = None
        self._watching = False
        self._sessions: Sessions | None = None
        self._census: Census | None = None
        self.tally = Tally()
        self._ports: list[Port] = []

    @property
    def label(self) -> str:
        return " ".join([self.name, *self.addresses])

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, as written."""
        return tuple(str(endpoint) for endpoint in self.endpoints)

    @property
    def ports(self) -> tuple[Port, ...]:
        """Open after `bind`."""
        return tuple(self._ports)

    @property
    def certificates(self) -> list[KeyPair]:
        """What it shows to clients; those of a lookup are not among them."""
        return [] if self._contexts is None else [pair for pair, _ in self._contexts.pairs]

    @property
    def session_count(self) -> int:
        """Connections that are open now."""
        return 0 if self._sessions is None else len(self._sessions)

    # life

    def configure(self, report: Report) -> None:
        self._router = compile_pipeline(self, report, self.context.local_domains)
        advise(self, report)
        self.check_logins(report)
        self.check_admission(report)
        self.check_sockets(report)
        self.check_mail_options(report)
        self.check_queues(self._router, report)
        self._contexts = contexts_of(self, report)
        if self.damaged or (self.tls is not None and self.tls.word != "off"):
            return  # what is wrong with `tls` has been said
        for endpoint in self.endpoints:
            if self.is_tls_from_start(endpoint):
                report.error(
                    self.span,
                    f"`{endpoint}` needs a certificate",
                    code="E0721",
                    hint="add `tls file CERTIFICATE KEY` to this block or to the top level",
                )

    def is_tls_from_start(self, endpoint: v.EndpointAddress) -> bool:
        """Whether clients of this address begin with TLS."""
        return endpoint.scheme == "tls" or (endpoint.scheme == "tcp" and self.tls_start)

    def inherit_state(self, old: Module) -> None:
        if isinstance(old, Listener) and old._sessions is not None:
            self._census = old._sessions.census
            self.tally = old.tally
            self.inherit_admission(old)

    def bind(self, predecessors: dict[Any, Port] | None = None) -> None:
        """Open every address of the block, or none. ``predecessors``: ports that are open already, by their keys; those that
        are taken over are taken out, and are closed by nobody.

        :raises CannotBind: the text names the address, and the block's file and line.
        """
        inherited = predecessors if predecessors is not None else {}
        adapters = self.context.adapters
        if adapters is None:
            raise RuntimeError("made for a check only")
        checks = SessionChecks(self.router.session_checks)
        self._sessions = Sessions(
            self.server_settings(),
            self.connection_settings(),
            self._transaction_opener(adapters),
            adapters,
            tls=self._contexts,
            label=self.label,
            census=self._census,
            tally=self.tally,
            logins=self.logins(adapters, checks.steps("auth")),
            logged_in=checks.steps("auth"),
            trust=self.trust_settings,
            welcome=[*self.admission_steps(self.label), *self.name_steps(adapters), *checks.steps("connection")],
            secured=checks.steps("tls"),
        )
        try:
            for endpoint in self.endpoints:
                place = (endpoint.scheme, endpoint.host, endpoint.port, endpoint.path)
                inherits = place_of(*place) in inherited
                given = None if adapters.listening is None or inherits else adapters.listening(place_of(*place))
                port = Port(
                    self._sessions,
                    *place,
                    str(endpoint),
                    inherited.pop(place_of(*place), None),
                    implicit_tls=self.is_tls_from_start(endpoint),
                    access=self.socket_access,
                    given=given,
                )
                self._ports.append(port)
                _events.debug(Event.LISTENER_OPEN, listener=self.name, address=port.address)
        except CannotBind as error:
            for port in self._ports:
                port.close()
            self._ports.clear()
            raise CannotBind(f"{self.span.place}: {error}" if self.span else str(error)) from error

    async def start(self) -> None:
        self.accept()

    def accept(self) -> None:
        """Serve from this moment on."""
        if self._sessions is None:
            raise RuntimeError("bind comes before start")
        self._watch()
        self._sessions.accepting = True
        for port in self._ports:
            port.accept()

    def _watch(self) -> None:
        if self._contexts is not None and not self._watching and self.context.adapters is not None:
            self._watching = True
            self._contexts.watch(self.context.adapters)

    def superseded(self) -> None:
        """The ports that nobody took over are closed; the sessions go on."""
        self._close_ports()

    def emptied(self) -> Deferred[None]:
        """Fires when there is no session, whether or not it is time to go."""
        return succeed(None) if self._sessions is None else self._sessions.emptied()

    async def stop(self) -> None:
        """Stop listening, then wait until every session has ended; see `Sessions.drain`."""
        if self._sessions is None:
            return
        for waiting in self._close_ports():
            await waiting
        await self._sessions.drain(self.shutdown_timeout)
        if self._contexts is not None and self._watching:
            self._watching = False
            self._contexts.stop()

    def _close_ports(self) -> list[Deferred[None]]:
        if self._sessions is not None:
            self._sessions.accepting = False
        closing = [waiting for port in self._ports for waiting in port.close()]
        self._ports.clear()
        return closing

    # settings

    def server_settings(self) -> ServerSettings:
        return ServerSettings(
            hostname=self.hostname,
            replies=self.tally.replies,
            lmtp=self.lmtp,
            banner=self.banner,
            helo_response=self.helo_response,
            max_message_size=self.max_message_size,
            announce_size=self.announce_size,
            hide=frozenset(self.hide),
            disable_commands=frozenset(self.disable_commands),
            strict_line_endings=self.strict_line_endings,
            nul=self.nul,
            max_line_length=self.smtp_max_line_length,
            max_header_size=self.max_header_size,
            max_header_count=self.max_header_count,
            max_command_length=self.max_command_length,
            max_recipients=self.max_recipients,
            max_errors=self.max_errors,
            max_rejected_recipients=self.max_rejected_recipients,
            strict_addresses=self.strict_addresses,
            refuse_early_talkers=self.early_talker == "reject",
            **self.login_settings(),
            **self.mail_option_settings(),
            wall_time=self.context.adapters.wall_time if self.context.adapters is not None else time,
            starttls=self._contexts is not None,
            requiretls=enforces_requiretls(self.router),
        )

    def connection_settings(self) -> ConnectionSettings:
        return ConnectionSettings(
            read_timeout=self.read_timeout,
            data_timeout=self.data_timeout,
            handshake_timeout=self.handshake_timeout,
            session_timeout=(self.session_timeout.value or 0.0) if self.session_timeout else 0.0,
            greeting_delay=self.greeting_delay,
            reject_early_talkers=self.early_talker == "reject",
            max_connections=self.max_connections,
            max_connections_per_ip=self.max_connections_per_ip,
            uncounted=self.relay_from,
            **self.crowd_settings(self.max_connections, self.context.workers),
        )

    @property
    def router(self) -> Router:
        """The compiled pipeline; there is one after `configure`."""
        assert self._router is not None
        return self._router

    def transaction_settings(self, adapters: Adapters, spool: Spool) -> TransactionSettings:
        return TransactionSettings(
            spool=spool,
            adapters=adapters,
            hostname=self.hostname,
            authserv_id=self.authserv_id,
            own_names=self._own_names(),
            split=self.split,
            keeper=self.split_queue.keeper if self.split_queue is not None else None,
            reports=self.reports.ledger if self.reports is not None else None,
            tally=self.tally,
            per_recipient=self.lmtp,
            max_received=self.max_received,
            defer_sender_reject=self.defer_sender_reject,
        )

    def _own_names(self) -> frozenset[str]:
        """All names that modules of this gateway speak as in Authentication-Results: one that only another listener uses, or that
        `modify.arc` seals, must not come in from outside either."""
        names = {self.context.hostname}
        for module in self.context.instances.values():
            names |= {getattr(module, "authserv_id", ""), module.hostname if isinstance(module, Listener) else ""}
        return frozenset(filter(None, names))

    def _transaction_opener(self, adapters: Adapters) -> Callable[[Session, str], TransactionLike]:
        settings = self.transaction_settings(adapters, self.context.spool)
        router = self.router

        def open_transaction(session: Session, message_id: str) -> Transaction:
            return Transaction(router, session, settings, message_id)

        return self.under_limits(open_transaction, self.label)
