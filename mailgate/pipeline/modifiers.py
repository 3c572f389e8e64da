"""What modifiers are made of: the base class of `modify.*` modules, and which stages one takes part in.

A modifier rewrites the reverse-path, a forward-path (one to any number), or the message. It is configuration and
keeps nothing of a message. A class overrides the stages it has something to do in; the others are not even called.
"""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from mailgate.interfaces import IModifier
from mailgate.message.envelope import Envelope, Recipient
from mailgate.registry import Module

STAGES = ("sender", "rcpt", "body")


@implementer(IModifier)
class Modifier(Module):
    """Changes nothing."""

    def sender(self, envelope: Envelope) -> Any:
        return envelope.sender

    def rcpt(self, recipient: Recipient) -> Any:
        return (recipient.address,)

    def body(self, message: Any) -> Any:
        return message


def takes_part(modifier: Any, stage: str) -> bool:
    """Whether a modifier may change anything in a stage: unknown classes may."""
    return getattr(type(modifier), stage, None) is not getattr(Modifier, stage)
