"""What of an envelope goes on to a next hop, by what it announced (docs/behaviour.md): pure functions.

MAIL and RCPT parameters go through where they are offered. What can't be left out without changing the message refuses it at
this endpoint, and the next one is asked (attempts.py): SMTPUTF8 where an address or the header section needs it (550 5.6.7), an
8-bit body (550 5.6.3), REQUIRETLS (550 5.7.30), a size over the announced limit (552 5.3.4). DSN parameters that are not
offered are left out; over LMTP they always are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import idna

from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.smtp.address import Address
from mailgate.smtp.client import Capabilities
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS, NO_RCPT_PARAMETERS, BodyType, MailParameters, RcptParameters
from mailgate.smtp.reply import MailError, PermanentError, Reply

NO_SMTPUTF8 = Reply(550, "5.6.7", "The next hop does not take internationalized mail")
TRACE_ALLOWANCE = 1024
"""What our trace fields add to the size that a client declared, at most about this."""

_BODY_WORDS = {BodyType.EIGHT_BIT: "BODY=8BITMIME", BodyType.BINARY: "BODY=BINARYMIME"}


@dataclass(frozen=True, slots=True)
class Needs:
    """What the content, as far as it is known, and the addresses ask of the next hop."""

    size: int | None = None
    """Exact when ``exact``, else what the client declared."""
    exact: bool = False
    body: BodyType | None = None
    """None: 7 bit."""
    utf8: bool = False


NO_NEEDS = Needs()


def find_needs(envelope: Envelope, recipients: Sequence[Recipient], message: Message | None) -> Needs:
    """What goes into MAIL: from the content when it is here, else from what the client said."""
    given = envelope.parameters
    sender = envelope.sender
    utf8 = not (sender.local_part.isascii() and sender.domain.isascii()) and needs_utf8(sender)
    for recipient in recipients:
        address = recipient.address
        if not (address.local_part.isascii() and address.domain.isascii()):
            utf8 = utf8 or needs_utf8(address)
    if message is None:
        if given is NO_MAIL_PARAMETERS and not utf8:
            return NO_NEEDS
        return Needs(given.size, False, None if given.body is BodyType.SEVEN_BIT else given.body, utf8)
    binary = message.binary or given.body is BodyType.BINARY
    body = BodyType.BINARY if binary else BodyType.EIGHT_BIT if message.eight_bit else None
    return Needs(message.size, True, body, utf8 or (given.smtputf8 and message.utf8_header))


def needs_utf8(address: Address) -> bool:
    """Whether A-labels do not suffice for this address (RFC 6531 3.2)."""
    if address.local_part.isascii():
        return not address.domain.isascii() and _a_labels(address.domain) is None
    return True


def wire_address(address: Address, *, utf8: bool) -> Address:
    """The address as it goes out: as it is under SMTPUTF8, else with A-labels."""
    if utf8 or address.domain.isascii():
        return address
    return Address(address.local_part, _a_labels(address.domain) or address.domain)


def _a_labels(domain: str) -> str | None:
    if domain.isascii():
        return domain
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        return None


def mail_parameters(
    given: MailParameters, needs: Needs, offered: Capabilities, *, lmtp: bool, trusted: bool = False
) -> tuple[str, ...]:
    """The parameters of MAIL; ``trusted``: the client has logged in, so what it says in AUTH= is passed on (RFC 4954 5).

    :raises MailError: when the message can't go this way."""
    if needs is NO_NEEDS and given is NO_MAIL_PARAMETERS:
        return ()
    words = []
    if needs.size is not None and offered.size is not None:
        if offered.size and needs.size > offered.size:
            raise PermanentError(f"The next hop takes at most {offered.size} octets", code=552, enhanced="5.3.4")
        size = needs.size if needs.exact else needs.size + TRACE_ALLOWANCE
        words.append(f"SIZE={size if needs.exact or not offered.size else min(size, offered.size)}")
    if needs.body is BodyType.BINARY and not (offered.binary and offered.chunking):
        raise PermanentError("The next hop does not take BINARYMIME", code=550, enhanced="5.6.3")
    if needs.body is not None:
        if not offered.eight_bit and needs.body is BodyType.EIGHT_BIT:
            if needs.exact:
                raise PermanentError("The next hop does not take 8-bit content", code=550, enhanced="5.6.3")
        elif needs.body in _BODY_WORDS:
            words.append(_BODY_WORDS[needs.body])
    if needs.utf8:
        if not offered.smtputf8:
            raise MailError(NO_SMTPUTF8)
        words.append("SMTPUTF8")
    if given.requiretls:
        if not offered.requiretls:
            raise PermanentError("The next hop does not support REQUIRETLS", code=550, enhanced="5.7.30")
        words.append("REQUIRETLS")
    if offered.dsn and not lmtp:
        words += [f"RET={given.ret}"] * (given.ret is not None) + [f"ENVID={given.envid}"] * (given.envid is not None)
    if given.priority is not None and offered.priority:
        words.append(f"MT-PRIORITY={given.priority}")
    if given.by is not None and not lmtp:
        if offered.deliver_by:
            words.append(f"BY={given.by}")
        elif given.by.returns:  # RFC 2852 4.2: nobody would return it
            raise PermanentError("The next hop does not support DELIVERBY", code=550, enhanced="5.3.3")
    if given.auth is not None and offered.mechanisms:
        words.append(f"AUTH={given.auth if trusted else '<>'}")
    return tuple(words)


def is_relayed(given: MailParameters, recipients: Sequence[Recipient], offered: Capabilities, *, lmtp: bool) -> bool:
    """Whether DSN was asked for and ends here, because this next hop does not do it (RFC 3461 5.2.2)."""
    if lmtp or offered.dsn or not recipients:
        return False
    if given is not NO_MAIL_PARAMETERS and (given.ret is not None or given.envid is not None):
        return True
    return any([recipient.parameters is not NO_RCPT_PARAMETERS for recipient in recipients])  # noqa: C419  # one call, not one each


def rcpt_parameters(given: RcptParameters, offered: Capabilities, *, lmtp: bool) -> tuple[str, ...]:
    """The parameters of RCPT."""
    if given is NO_RCPT_PARAMETERS or lmtp or not offered.dsn:
        return ()
    words = []
    if given.notify:
        words.append("NOTIFY=" + ",".join(sorted(given.notify)))
    if given.orcpt is not None:
        words.append(f"ORCPT={given.orcpt}")
    return tuple(words)
