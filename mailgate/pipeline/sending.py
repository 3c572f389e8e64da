"""The message on its way to the deliveries of one transaction: each as its modifiers and checks make it, all at once.

A `Downstream` has its replies when these are done, one for each recipient; a failure that nobody foresaw is a reply of the
class 4yz too. Nothing but a cancellation gets out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, DeferredList

from mailgate.message.message import Message
from mailgate.net.waiting import as_deferred
from mailgate.pipeline.content import Content
from mailgate.pipeline.downstream import Downstream
from mailgate.smtp.reply import MailError

Refusal = Callable[[BaseException], MailError]
"""What an exception is for the client; it logs what nobody foresaw."""


async def modified(delivery: Downstream, message: Message, content: Content | None) -> Message:
    """The message as it goes to these recipients."""
    if delivery.marks and content is not None:
        message = content.variant(delivery.marks)
    return await delivery.modified(message) if delivery.body_modifiers else message


async def send(delivery: Downstream, message: Message, content: Content | None, refusal: Refusal) -> None:
    """Send to one of them."""
    try:
        if delivery.body_modifiers or delivery.marks:
            message = await modified(delivery, message, content)
        replies = delivery.delivery.send(message)
        if replies.__class__ is not list:
            replies = list(await replies)
    except CancelledError:
        raise
    except Exception as error:
        # A modifier, or against the contract of IDelivery.send: nothing is known of what became of the message.
        delivery.delivery.abort()
        replies = [refusal(error).reply] * len(delivery.accepted)
    delivery.replies = dict(zip(delivery.accepted, replies, strict=False))


async def send_all(deliveries: Sequence[Downstream], message: Message, content: Content | None, refusal: Refusal) -> None:
    """Send to all at once; returns when all have answered."""
    sending = [as_deferred(send(delivery, message, content, refusal)) for delivery in deliveries]
    outcomes: list[tuple[bool, Any]] = await DeferredList(sending, consumeErrors=True)
    for sent, failure in outcomes:
        if not sent:
            failure.raiseException()  # a cancellation: nothing else gets out of send
