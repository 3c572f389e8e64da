"""The header section that a message goes on with: ours in front, without what claims to be ours (RFC 5321 4.4, RFC 8601 5)."""

from __future__ import annotations

from dataclasses import replace

from mailgate.message.envelope import Session
from mailgate.message.header import sendable
from mailgate.message.received import received
from mailgate.pipeline.settings import TransactionSettings
from mailgate.smtp.reply import MailError, Reply

TOO_MANY_HOPS = Reply(554, "5.4.6", "Too many hops, this looks like a mail loop")


def own_section(
    section: bytes, settings: TransactionSettings, session: Session, message_id: str, only: str, *, utf8: bool
) -> bytes:
    """``only`` is the recipient, if there is one alone.

    :raises MailError: a loop.
    """
    names = (settings.hostname, settings.authserv_id, *settings.own_names)
    kept = sendable(section, names, settings.max_received)
    if kept is None:
        raise MailError(TOO_MANY_HOPS, "max_received")
    when = settings.adapters.wall_time()
    if settings.prepare is not None:
        kept = settings.prepare(kept, message_id, settings.hostname, when)
    if settings.hide_client:
        session = replace(session, helo="", client_ip="", client_name="")
    return received(session, settings.hostname, message_id, only, when, utf8=utf8) + kept
