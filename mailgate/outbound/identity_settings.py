"""Telling the next hop for whom we speak: `xclient`, `xforward` and `proxy_protocol` of a target.

Each value is a variable of the session (`addr client_ip`), a parenthesised expression over them, or a literal. What a session
does not have is said to be unavailable, never filled with something of ours.

XCLIENT and PROXY are said once for a connection, so what they say stands in the key of the link: no connection is ever used for
two clients. XFORWARD is said with each message; what the client itself said by XFORWARD is passed on in place of what we know.

Refused: a literal that the attribute can't have, an expression that asks a table. What a message makes of an expression is
checked as if a client had said it; what can't be the attribute's value is unavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, ClassVar

from mailgate.config import values as v
from mailgate.config.conditions import compile_words
from mailgate.config.diagnostics import Problem
from mailgate.config.evaluation import EvaluationError
from mailgate.config.expression_types import STRING, Kind, Scope, Type, Variable
from mailgate.config.line import Line, Value
from mailgate.config.schema import Block, Directive
from mailgate.config.text_forms import text_type
from mailgate.message.envelope import Envelope, Session
from mailgate.outbound.written import Written
from mailgate.smtp import xclient
from mailgate.smtp.proxy_protocol import Family, Header
from mailgate.smtp.xclient import UNKNOWN_ADDRESS, Identity

_TEXT = text_type(optional=True)
_ADDRESS = Type(Kind.ADDRESS, optional=True)
_NUMBER = Type(Kind.INTEGER, optional=True)

VARIABLES: Mapping[str, Variable] = {
    variable.name: variable
    for variable in (
        Variable("client_ip", _ADDRESS, "Address of the client; unset on a unix socket and where nobody knows it."),
        Variable("client_port", _NUMBER, "Its port."),
        Variable("client_name", _TEXT, "Its verified reverse name; unset without one."),
        Variable("helo", text_type(), "What it called itself."),
        Variable("protocol", STRING, "SMTP, ESMTP or LMTP."),
        Variable("auth_user", _TEXT, "The user who logged in; unset before."),
        Variable("local_ip", _ADDRESS, "Our address that it came to."),
        Variable("local_port", _NUMBER, "Our port."),
        Variable("message_id", STRING, "Our id of the message."),
    )
}
"""What `xclient` and `xforward` may say."""


class SessionVariables:
    """Their values for one message."""

    __slots__ = ("_envelope", "_session")

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._session = envelope.session

    @property
    def client_ip(self) -> IPv4Address | IPv6Address | None:
        return _address(self._session.client_ip)

    @property
    def client_port(self) -> int | None:
        return self._session.client_port or None

    @property
    def client_name(self) -> str | None:
        return self._session.client_name or None

    @property
    def helo(self) -> str:
        return self._session.helo

    @property
    def protocol(self) -> str:
        return self._session.protocol

    @property
    def auth_user(self) -> str | None:
        return self._session.auth_user or None

    @property
    def local_ip(self) -> IPv4Address | IPv6Address | None:
        return _address(self._session.local_ip)

    @property
    def local_port(self) -> int | None:
        return self._session.local_port or None

    @property
    def message_id(self) -> str:
        return self._envelope.id


def _address(text: str) -> IPv4Address | IPv6Address | None:
    if not text or text == UNKNOWN_ADDRESS:
        return None
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


class AttributeValue(Value):
    """A variable, a parenthesised expression, or a literal that the attribute may have. The value is a function of
    `SessionVariables` that gives a text, "" for what there is not."""

    metavar = "VARIABLE|(EXPRESSION)|VALUE"

    def __init__(self, attribute: str, known: xclient.Attributes) -> None:
        self._read = known[attribute]
        self._attribute = attribute

    def parse_element(self, line: Line) -> Said:
        first = line.next(self.metavar)
        if first.quoted or not (first.text in VARIABLES or first.text.startswith("(")):
            text = xclient.checked(first.text, self._read)
            if text is None:
                known = ", ".join(VARIABLES)
                raise Problem(
                    first.span,
                    f"`{first.shown}` can't be said as {self._attribute}",
                    code="E0505",
                    notes=(f"variables: {known}",),
                )
            return Said(first.shown, lambda variables: text)
        test = compile_words([first, *line.rest()], Scope(VARIABLES), line.scope, None)
        if test.expression.waits or test.expression.type.kind is Kind.LIST:
            raise Problem(first.span, "one value is needed that asks no table", code="E0523")
        evaluate, read = test.expression.call, self._read

        def say(variables: Any) -> str:
            try:
                value = evaluate(variables)
            except EvaluationError:
                return ""
            return "" if value is None else xclient.checked(str(value), read) or ""

        return Said(str(test), say)

    def show(self, value: Said) -> str:
        return value.text


@dataclass(frozen=True, slots=True)
class Said:
    """One value as it is written, and what says it."""

    text: str
    say: Callable[[Any], str]


class _IdentityBlock(Block):
    known: ClassVar[xclient.Attributes] = {}

    def identity_of(self) -> Callable[[Envelope], Identity] | None:
        """What is said of a message; None where nothing is."""
        said = [(name, value.say) for name in self.known if (value := getattr(self, name.lower())) is not None]
        if not said:
            return None

        def identity(envelope: Envelope) -> Identity:
            variables = SessionVariables(envelope)
            return Identity({name: say(variables) for name, say in said})

        return identity


class XClientBlock(_IdentityBlock):
    """What XCLIENT says of the client, once for each connection."""

    known = xclient.XCLIENT

    name = Directive("name", AttributeValue("NAME", xclient.XCLIENT), doc="Its host name: `client_name`.")
    addr = Directive("addr", AttributeValue("ADDR", xclient.XCLIENT), doc="Its address: `client_ip`.")
    port = Directive("port", AttributeValue("PORT", xclient.XCLIENT), doc="Its port: `client_port`.")
    proto = Directive("proto", AttributeValue("PROTO", xclient.XCLIENT), doc="SMTP, ESMTP or LMTP: `protocol`.")
    helo = Directive("helo", AttributeValue("HELO", xclient.XCLIENT), doc="What it calls itself: `helo`.")
    login = Directive("login", AttributeValue("LOGIN", xclient.XCLIENT), doc="The user who has logged in: `auth_user`.")
    destaddr = Directive("destaddr", AttributeValue("DESTADDR", xclient.XCLIENT), doc="Where it went to: `local_ip`.")
    destport = Directive("destport", AttributeValue("DESTPORT", xclient.XCLIENT), doc="Its port there: `local_port`.")


class XForwardBlock(_IdentityBlock):
    """What XFORWARD says of the origin of each message."""

    known = xclient.XFORWARD

    name = Directive("name", AttributeValue("NAME", xclient.XFORWARD), doc="The client's host name: `client_name`.")
    addr = Directive("addr", AttributeValue("ADDR", xclient.XFORWARD), doc="Its address: `client_ip`.")
    port = Directive("port", AttributeValue("PORT", xclient.XFORWARD), doc="Its port: `client_port`.")
    proto = Directive("proto", AttributeValue("PROTO", xclient.XFORWARD), doc="SMTP, ESMTP or LMTP: `protocol`.")
    helo = Directive("helo", AttributeValue("HELO", xclient.XFORWARD), doc="What it calls itself: `helo`.")
    ident = Directive("ident", AttributeValue("IDENT", xclient.XFORWARD), doc="Our id of the message: `message_id`.")
    source = Directive("source", AttributeValue("SOURCE", xclient.XFORWARD), doc="LOCAL or REMOTE.")


class IdentitySettings(Block):
    """For whom we speak to an endpoint."""

    xclient = Directive(
        "xclient",
        block=XClientBlock,
        block_required=True,
        doc="Tell the next hop by XCLIENT whose mail it is: it treats us as that client. Each client then has connections of its"
        " own.",
        origin="halon",
    )
    xclient_required = Directive(
        "xclient_required",
        v.Boolean(),
        default=True,
        doc="Send no mail to a next hop that does not take every attribute of `xclient`; `no`: it is told those that it takes.",
    )
    xforward = Directive(
        "xforward",
        block=XForwardBlock,
        block_required=True,
        doc="Tell the next hop by XFORWARD, where it offers that, from where each message comes: for its log.",
    )
    proxy_protocol = Directive(
        "proxy_protocol",
        v.Choice("off", "v1", "v2"),
        default="off",
        doc="Begin each connection with a PROXY header that names the client. Each client then has connections of its own.",
    )


@dataclass(frozen=True, slots=True)
class EndpointIdentity:
    """Of one endpoint. ``vary`` completes the keys of its links."""

    vary: tuple[Callable[[Any, Any], Any], ...] = ()
    xclient_required: bool = True
    proxy: int = 0
    """The version of the header; 0 for none."""
    xforward: Callable[[Envelope], Identity] | None = None


def endpoint_identity(written: Written) -> EndpointIdentity:
    client, forward = written.value("xclient"), written.value("xforward")
    version = {"off": 0, "v1": 1, "v2": 2}[written.value("proxy_protocol")]
    vary: list[Callable[[Any, Any], Any]] = []
    said = client.identity_of() if client is not None else None
    if said is not None:
        vary.append(lambda key, variables: replace(key, xclient=tuple(said(variables.envelope).values.items())))
    if version:
        vary.append(lambda key, variables: replace(key, proxy=header_of(variables.envelope.session, version)))
    return EndpointIdentity(
        tuple(vary), written.value("xclient_required"), version, forward.identity_of() if forward is not None else None
    )


def header_of(session: Session, version: int) -> Header:
    """The PROXY header for a session: UNKNOWN for a client without an address, on a unix socket, say."""
    client, local = _address(session.client_ip), _address(session.local_ip)
    if client is None:
        return Header(Family.UNKNOWN, version=version)
    if local is None:
        local = ip_address("0.0.0.0" if client.version == 4 else "::")
    family = Family.TCP4 if client.version == local.version == 4 else Family.TCP6
    return Header(family, str(client), str(local), session.client_port, session.local_port, version=version)


def own_header(version: int) -> Header:
    """For connections that are nobody's but ours: probes."""
    return Header(Family.LOCAL if version == 2 else Family.UNKNOWN, version=version)
