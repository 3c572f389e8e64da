"""What MAIL may say: which of its parameters a listener takes, and how far, before the sender is judged.

RFC 1870, 3030, 4865 (FUTURERELEASE), 2852 (DELIVERBY), 6531, 6710 (MT-PRIORITY), 8689.
"""

from __future__ import annotations

from dataclasses import replace

from mailgate.smtp import replies
from mailgate.smtp.address import Address
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS, BodyType, DeliverBy, MailParameters
from mailgate.smtp.reply import Reply
from mailgate.smtp.settings import ServerSettings


def granted(parameters: MailParameters, priority: int, settings: ServerSettings) -> MailParameters:
    """The priority as far as the listener gives it (RFC 6710 4.1)."""
    most = settings.max_priority or 0
    return parameters if priority <= most else replace(parameters, priority=most, priority_lowered=True)


def refusal_of_mail(
    address: Address, parameters: MailParameters, settings: ServerSettings, accepted: frozenset[str], *, tls: bool
) -> Reply | None:
    """Why MAIL is refused, if it is. ``accepted`` are the extensions whose parameters may be used."""
    if not address.domain and address.local_part:
        return replies.BAD_SENDER
    if parameters is NO_MAIL_PARAMETERS:
        return None if address.is_ascii else replies.NEEDS_SMTPUTF8
    if not (parameters.smtputf8 or address.is_ascii):
        return replies.NEEDS_SMTPUTF8
    if parameters.size is not None and parameters.size > settings.max_message_size:
        return replies.TOO_BIG
    if parameters.requiretls and not tls:
        return replies.NEEDS_TLS
    if parameters.body is BodyType.BINARY and "BINARYMIME" not in accepted:
        return replies.BAD_BODY
    if (parameters.hold_for is not None or parameters.hold_until is not None) and _is_too_long(parameters, settings):
        return replies.BAD_HOLD
    return replies.BAD_BY if _is_too_short(parameters.by, settings) else None


def _is_too_long(parameters: MailParameters, settings: ServerSettings) -> bool:
    """RFC 4865 4: one of the two, and within what was announced; a time that is over holds nothing."""
    seconds = float(parameters.hold_for or 0)
    if parameters.hold_until is not None:
        seconds = settings.max_hold + 1.0 if seconds else parameters.hold_until - settings.wall_time()
    return seconds > settings.max_hold


def _is_too_short(by: DeliverBy | None, settings: ServerSettings) -> bool:
    return by is not None and by.returns and by.seconds < (settings.min_deliver_by or 0)
