"""`copy_to`: what was accepted goes into a queue too, after the answer and without a say in it.

A copy that can't be kept is a line in the log (`copy.failed`). Nothing here raises but a cancellation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from twisted.internet.defer import CancelledError

from mailgate.events import Event, EventLog
from mailgate.message.body import Body
from mailgate.message.envelope import Envelope, Recipient
from mailgate.pipeline.answers import NO_ANSWER
from mailgate.pipeline.content import Content
from mailgate.pipeline.downstream import Accepted
from mailgate.pipeline.modifiers import envelope_for, modified
from mailgate.pipeline.notices import NEVER
from mailgate.pipeline.routing import Plan
from mailgate.smtp.parameters import RcptParameters
from mailgate.smtp.reply import Reply, reply_for

_log = EventLog("mailgate.pipeline")


def copies_of(accepted: Sequence[Accepted], added: Sequence[Accepted], answers: Sequence[Reply]) -> list[Plan]:
    """Those of recipients that were accepted, and of those that a filter added. ``answers``: one, or one for each accepted."""
    each = answers if len(answers) == len(accepted) else [answers[0]] * len(accepted)
    plans = [plan for one, answer in zip(accepted, each, strict=True) if answer.is_success for plan in one.copies]
    if any(answer.is_success for answer in answers):
        plans += [plan for one in added for plan in one.copies]
    return plans


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
            await _copy(message_id, content, group)
    finally:
        for body in bodies:
            body.release()


def _unnoticed(recipient: Recipient) -> Recipient:
    """Senders know nothing of copies, and hear nothing of what becomes of them."""
    return Recipient(recipient.address, RcptParameters(frozenset({NEVER})), recipient.original)


def _envelope(content: Content, plan: Plan) -> Envelope:
    """With the sender that a filter wants."""
    sender, envelope = content.judgement(plan.marks).sender, plan.envelope
    if sender is None:
        return envelope
    return replace(envelope, sender=sender.address, parameters=sender.parameters(envelope.parameters))


async def _copy(message_id: str, content: Content, plans: Sequence[Plan]) -> None:
    target, modifiers = plans[0].target, plans[0].body_modifiers
    made: list[Body] = []
    try:
        message = await modified(modifiers, content.variant(plans[0].marks), made)
        delivery = target.open(envelope_for(modifiers, _envelope(content, plans[0])))
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
