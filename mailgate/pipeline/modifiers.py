"""What modifiers are made of: the base class of `modify.*` modules, and which stages one takes part in.

A modifier rewrites the reverse-path, a forward-path (one to any number), or the message. It is configuration and
keeps nothing of a message. A class overrides the stages it has something to do in; the others are not even called.

In cut-through MAIL has gone out before there is content to modify. So a modifier that recodes says so (``makes_seven_bit``), and
the envelope of those deliveries does not speak of a body type or a size, which are those of what came in (`envelope_for`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from zope.interface import implementer

from mailgate.interfaces import IModifier
from mailgate.message.body import Body
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.registry import Module

STAGES = ("sender", "rcpt", "body")


@implementer(IModifier)
class Modifier(Module):
    """Changes nothing."""

    makes_seven_bit = False
    """What it leaves needs no 8BITMIME and no BINARYMIME, nearly always."""

    def sender(self, envelope: Envelope) -> Any:
        return envelope.sender

    def rcpt(self, recipient: Recipient) -> Any:
        return (recipient.address,)

    def body(self, message: Any) -> Any:
        return message


def takes_part(modifier: Any, stage: str) -> bool:
    """Whether a modifier may change anything in a stage: unknown classes may."""
    return getattr(type(modifier), stage, None) is not getattr(Modifier, stage)


def envelope_for(modifiers: Iterable[Any], envelope: Envelope) -> Envelope:
    """The envelope of a delivery whose content passes these modifiers."""
    given = envelope.parameters
    if given.body is None and given.size is None:
        return envelope
    if not any(getattr(modifier, "makes_seven_bit", False) for modifier in modifiers):
        return envelope
    return replace(envelope, parameters=replace(given, body=None, size=None))


async def modified(modifiers: Iterable[Any], message: Message, made: list[Body]) -> Message:
    """The message as these modifiers leave it. Bodies that have taken the place of its own are added to ``made``: whoever asks
    releases them when everything is sent."""
    for modifier in modifiers:
        body = message.body
        found = modifier.body(message)
        message = found if isinstance(found, Message) else await found
        if message.body is not body:
            made.append(message.body)
    return message
