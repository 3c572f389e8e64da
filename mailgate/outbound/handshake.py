"""From a transport that is connected to a connection that takes mail: greeting, hello, STARTTLS, verification, AUTH.

What TLS has to be is the `Decision`'s affair; what is done here is asked of it and of nothing else. Before TLS our client says
EHLO (or LHLO) with its name and STARTTLS, nothing else, where the decision does not allow clear text.
"""

from __future__ import annotations

from mailgate.net.transport import send
from mailgate.outbound.auth_settings import Credentials
from mailgate.outbound.connection import Connection
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.identity_settings import own_header
from mailgate.outbound.tls_policy import OnFailure, Policy, Start
from mailgate.smtp.client import Step
from mailgate.smtp.proxy_protocol import encode
from mailgate.smtp.reply import Reply
from mailgate.smtp.sasl import Offer, SaslError
from mailgate.smtp.xclient import Identity
from mailgate.tls.bindings import channel_bindings
from mailgate.tls.capture import peer_facts
from mailgate.tls.dane import verify_dane
from mailgate.tls.verification import Verdict, verify_chain, verify_peer

_BY_POLICY: dict[Policy, dict[Kind, Kind]] = {
    Policy.OURS: {},
    Policy.DANE: {Kind.TLS: Kind.DANE, Kind.NO_TLS: Kind.DANE},
    Policy.MTA_STS: {Kind.TLS: Kind.STS, Kind.NO_TLS: Kind.STS_NO_TLS},
}


class TlsFailed(AttemptFailed):
    """The handshake or the peer's certificate; ``clear`` when the decision allows a new connection in clear text."""

    def __init__(self, reason: str, *, clear: bool, kind: Kind = Kind.TLS) -> None:
        super().__init__(kind, Step.STARTTLS, reason)
        self.clear = clear
        self.host = ""
        """The address it happened with."""


async def make_ready(connection: Connection) -> None:
    """:raises AttemptFailed: when this connection can't be used; the caller closes it."""
    decision = connection.link.decision
    settings = connection.settings
    if settings.proxy_version:
        send(connection.transport, encode(connection.link.key.proxy or own_header(settings.proxy_version)))
    start = Start.NEVER if connection.tls_error else decision.start
    if start is Start.IMPLICIT:
        await _start_tls(connection)
    await _expect(connection, Step.GREETING, 220)
    identity = connection.link.key.xclient
    needs_extensions = bool(start is Start.ALWAYS or settings.credentials is not None or settings.lmtp or identity)
    await _hello(connection, needs_extensions=needs_extensions)
    if start in (Start.OFFERED, Start.ALWAYS):
        await _starttls(connection, required=not decision.allow_clear, needs_extensions=needs_extensions)
    if identity:
        await _become(connection, Identity(dict(identity)), needs_extensions=needs_extensions)
    if settings.credentials is not None:
        await _authenticate(connection, settings.credentials)


async def _ask(connection: Connection, step: Step) -> Reply:
    answers = await connection.exchange()
    if connection.trouble is not None:
        if connection.trouble is Kind.TLS and connection.tls is not None:
            # In TLS 1.3 the server's refusal of our certificate or of the versions comes behind our own end of the handshake.
            raise _handshake_failed(connection)
        raise AttemptFailed(connection.trouble, step, connection.reason)
    return answers[0].reply


async def _expect(connection: Connection, step: Step, code: int, kind: Kind = Kind.SESSION) -> None:
    reply = await _ask(connection, step)
    if reply.code != code:
        raise AttemptFailed(kind, step, str(reply), reply)


async def _hello(connection: Connection, *, needs_extensions: bool) -> None:
    connection.session.hello()
    reply = await _ask(connection, Step.HELLO)
    if reply.is_permanent and not needs_extensions:
        connection.session.helo()
        reply = await _ask(connection, Step.HELLO)
    if not reply.is_success:
        raise AttemptFailed(Kind.SESSION, Step.HELLO, str(reply), reply)


async def _starttls(connection: Connection, *, required: bool, needs_extensions: bool) -> None:
    session = connection.session
    if not session.capabilities.starttls:
        if required:
            raise AttemptFailed(_kind(connection, Kind.NO_TLS), Step.STARTTLS, "STARTTLS is not offered")
        return
    session.starttls()
    reply = await _ask(connection, Step.STARTTLS)
    if reply.code != 220:
        if required:
            raise AttemptFailed(_kind(connection, Kind.NO_TLS), Step.STARTTLS, str(reply), reply)
        if reply.code == 421 or not (reply.is_temporary or reply.is_permanent):
            raise AttemptFailed(Kind.SESSION, Step.STARTTLS, str(reply), reply)
        return
    await _start_tls(connection)
    await _hello(connection, needs_extensions=needs_extensions or required)


async def _become(connection: Connection, identity: Identity, *, needs_extensions: bool) -> None:
    """Be the client whose mail it is. What the peer thinks of that client says nothing of the endpoint."""
    session = connection.session
    missing = identity.values.keys() - session.capabilities.xclient
    if missing and connection.settings.xclient_required:
        raise AttemptFailed(Kind.XCLIENT, Step.XCLIENT, f"XCLIENT is not offered with {' '.join(sorted(missing))}")
    for _ in range(session.xclient(identity)):
        await _expect(connection, Step.XCLIENT, 220, Kind.XCLIENT)
    if missing < identity.values.keys():
        await _hello(connection, needs_extensions=needs_extensions)


async def _start_tls(connection: Connection) -> None:
    decision = connection.link.decision
    context = connection.settings.tls_context
    await connection.start_tls(context.connection_creator(decision.sni))
    if connection.trouble is not None:
        raise _handshake_failed(connection)
    verdict = _judge(connection)
    if not verdict.ok and decision.on_bad_peer is not OnFailure.IGNORE:
        raise TlsFailed(verdict.reason, clear=decision.on_bad_peer is OnFailure.CLEAR, kind=_kind(connection, Kind.TLS))


def _handshake_failed(connection: Connection) -> TlsFailed:
    clear = connection.link.decision.on_handshake is OnFailure.CLEAR
    return TlsFailed(connection.reason, clear=clear, kind=_kind(connection, Kind.TLS))


def _kind(connection: Connection, kind: Kind) -> Kind:
    """What fails of what others publish is a failure of that: their policy may be what is wrong, and change."""
    return _BY_POLICY[connection.link.decision.policy].get(kind, kind)


def _judge(connection: Connection) -> Verdict:
    """The verdict on the peer of a finished handshake; the facts are kept. Whatever goes wrong in here refuses."""
    decision, settings = connection.link.decision, connection.settings
    peer, context = connection.tls_connection, settings.tls_context
    try:
        if decision.tlsa:
            verdict = verify_dane(peer, decision.tlsa, decision.names)
        else:
            verdict = verify_peer(peer, context, decision.names) if decision.names else verify_chain(peer, context)
        connection.tls = peer_facts(peer, verdict, sni=decision.sni or "", capture=settings.capture_peer)
    except Exception as error:  # nothing is awaited in here
        raise TlsFailed(f"the peer can't be judged: {error or type(error).__name__}", clear=False) from error
    if connection.tls.version < decision.min_version:
        raise TlsFailed(f"{connection.tls.version} is too old: {decision.min_version} is asked for", clear=False)
    return verdict


async def _authenticate(connection: Connection, credentials: Credentials) -> None:
    """A client's own login that is refused says nothing of the endpoint."""
    login = connection.link.key.login
    kind = Kind.AUTH if login is None else Kind.LOGIN
    peer = connection.tls_connection if connection.tls is not None else None
    offer = Offer(
        connection.session.capabilities.mechanisms,
        channel_bindings(peer, server=False) if peer is not None else {},
    )
    try:
        mechanism = credentials(offer, login)
        if mechanism is None:
            return
        connection.session.auth(mechanism)
        await _expect(connection, Step.AUTH, 235, kind)
        mechanism.accepted()
    except SaslError as error:
        raise AttemptFailed(kind, Step.AUTH, str(error)) from error
