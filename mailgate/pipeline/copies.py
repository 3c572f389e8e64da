"""`copy_to`: what was accepted goes into a queue too, after the answer and without a say in it.

A copy that can't be kept is a line in the log (`copy.failed`). Nothing here raises but a cancellation.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import CancelledError

from mailgate.events import Event, EventLog
from mailgate.message.body import Body
from mailgate.message.envelope import Recipient
from mailgate.message.message import Message
from mailgate.pipeline.answers import NO_ANSWER
from mailgate.pipeline.content import Content
from mailgate.pipeline.modifiers import envelope_for, modified
from mailgate.pipeline.notices import NEVER
from mailgate.pipeline.routing import Plan
from mailgate.smtp.parameters import RcptParameters
from mailgate.smtp.reply import Reply, reply_for

_log = EventLog("mailgate.pipeline")


async def copy(message_id: str, content: Content, plans: Sequence[Plan]) -> None:
    """Make the copies, those with the same target, sender, checks and modifiers together. Bodies are held until they are made."""
    groups: dict[object, list[Plan]] = {}
    for plan in plans:
        groups.setdefault(plan.key, []).append(plan)
    bodies = [content.message.body, *(content.variant(group[0].marks).body for group in groups.values())]
    for body in bodies:
        body.hold()
    try:
        for group in groups.values():
            await _copy(message_id, content.variant(group[0].marks), group)
    finally:
        for body in bodies:
            body.release()


def _unnoticed(recipient: Recipient) -> Recipient:
    """Senders know nothing of copies, and hear nothing of what becomes of them."""
    return Recipient(recipient.address, RcptParameters(frozenset({NEVER})), recipient.original)


async def _copy(message_id: str, message: Message, plans: Sequence[Plan]) -> None:
    target, modifiers = plans[0].target, plans[0].body_modifiers
    made: list[Body] = []
    try:
        message = await modified(modifiers, message, made)
        delivery = target.open(envelope_for(modifiers, plans[0].envelope))
        for plan in plans:
            answer = delivery.rcpt(_unnoticed(plan.recipient))
            reply = answer if isinstance(answer, Reply) else await answer
            if not reply.is_success:
                delivery.abort()
                break
        else:
            replies = delivery.send(message)
            replies = replies if isinstance(replies, list) else await replies
            reply = next((one for one in replies if not one.is_success), replies[0] if replies else NO_ANSWER)
    except CancelledError:
        raise
    except Exception as error:
        reply = reply_for(error, message_id)
    finally:
        for body in made:
            body.release()
    if not reply.is_success:
        to = ",".join(f"<{plan.recipient.address}>" for plan in plans)
        _log.warn(Event.COPY_FAILED, message=message_id, target=target.label, to=to, reply=reply)
