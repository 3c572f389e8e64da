"""Reading the PROXY header of one connection, before anything else is read from it.

A header decides whose connection this is, so nothing is guessed: a peer whose header counts sends one as its first octets, or,
where the operator has said that it need not, something that is none, or nothing for `SILENCE`. A peer that nobody trusts has
no header, and what looks like one ends its connection: a proxy that was forgotten in the list should not go unnoticed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailgate.inbound.trust import ProxySettings
from mailgate.message.envelope import Session, TlsFacts
from mailgate.smtp.proxy_protocol import Header, HeaderParser, NotProxy, ProxyError, ProxyTls

SILENCE = 1.0
"""Where a header is not required and we speak first: how long a trusted peer is waited for. A header comes with the connection,
if it comes; one that is later still ends the connection instead of being taken for words of the proxy's own."""

_VERSION = re.compile(r"TLS1(?:\.[0-9])?")


@dataclass(frozen=True, slots=True)
class Opening:
    """How a connection begins: its header, if there is one, and what came behind it."""

    header: Header | None
    rest: bytes


class ProxyGate:
    """The beginning of one connection from a trusted peer. `receive` and `expire` give the opening once it is known, None while
    more must come, until ``deadline``.

    :raises ProxyError: both do, when the connection is to be closed.
    """

    __slots__ = ("_begun", "_end", "_parser", "_required", "deadline")

    def __init__(self, settings: ProxySettings, opened: float, timeout: float, *, client_speaks_first: bool) -> None:
        self._parser = HeaderParser()
        self._required = settings.required
        self._begun = False
        self._end = opened + timeout
        self.deadline = self._end if settings.required or client_speaks_first else opened + min(SILENCE, timeout)

    def receive(self, data: bytes) -> Opening | None:
        self._begun = True
        self.deadline = self._end
        try:
            header = self._parser.feed(data)
        except NotProxy:
            if self._required:
                raise
            return Opening(None, self._parser.rest)
        return None if header is None else Opening(header, self._parser.rest)

    def expire(self) -> Opening | None:
        """The deadline has come."""
        if self._required or self._begun or self.deadline == self._end:
            raise ProxyError("none came in time")
        return Opening(None, b"")


def enter_header(session: Session, header: Header, settings: ProxySettings | None) -> None:
    """What a header says, as facts of the session; its client is known already."""
    session.proxy = header
    if header.client:
        session.client_port = header.source_port
        session.local_ip, session.local_port = header.destination, header.destination_port
    if header.tls is not None and session.tls is None and settings is not None and settings.accept_tls:
        session.tls = facts_of(header.tls, header.authority)


def facts_of(tls: ProxyTls, authority: str) -> TlsFacts:
    """TLS that a proxy has terminated, as facts of the session."""
    version = tls.version.replace("TLSv", "TLS", 1)
    known = _VERSION.fullmatch(version)
    return TlsFacts(version if known else "TLS", tls.cipher, authority, tls.common_name if tls.verified else "")
