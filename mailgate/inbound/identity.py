"""What XCLIENT makes of a session, and what XFORWARD leaves in it.

A session is always what its connection is by itself, overlaid with what XCLIENT has said of this client: nothing is kept from an
earlier one. The address decides what a client may do, so one that nobody knows is never the proxy's own, nor
that of a unix socket: it is `UNKNOWN_ADDRESS`, which is in no network that an operator would trust.
"""

from __future__ import annotations

from dataclasses import replace

from mailgate.message.envelope import Session
from mailgate.smtp.xclient import UNKNOWN_ADDRESS, Identity


def client_address(own: Session, identity: Identity) -> str:
    """The address of the client for whom the peer of ``own`` speaks."""
    address = identity.get("ADDR")
    return own.client_ip if address is None else address or UNKNOWN_ADDRESS


def own_facts(session: Session) -> Session:
    """A session as its connection is by itself, before XCLIENT."""
    return replace(session, at_end=None)


def become(session: Session, own: Session, identity: Identity) -> None:
    """``session`` is another client's from here on, as after its greeting."""
    values = identity.values
    named = "ADDR" in values
    session.client_ip = client_address(own, identity)
    session.client_port = int(values.get("PORT") or 0) if named or "PORT" in values else own.client_port
    session.client_name = values.get("NAME", "" if named else own.client_name)
    session.local_ip = values.get("DESTADDR") or own.local_ip
    session.local_port = int(values.get("DESTPORT") or own.local_port)
    session.helo = values.get("HELO", "")
    session.auth_user = values.get("LOGIN", "")
    session.auth_mechanism = "XCLIENT" if session.auth_user else ""
    session.credentials = None
    session.xclient = identity
    session.xforward = None


def log_fields(identity: Identity) -> dict[str, str]:
    """What was said, for a line of the log."""
    return {name.lower(): value or "unavailable" for name, value in identity.values.items()}
