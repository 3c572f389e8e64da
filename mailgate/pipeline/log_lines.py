"""The log line of a message whose content was answered, and what it adds to the tally."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mailgate.events import Event, EventLog
from mailgate.message.envelope import Envelope
from mailgate.message.findings import judgement
from mailgate.message.tally import Tally
from mailgate.pipeline.checks import OpenCheck
from mailgate.pipeline.downstream import Accepted, Downstream
from mailgate.smtp.reply import Reply

_log = EventLog("mailgate.pipeline")


def log_outcome(
    envelope: Envelope,
    accepted: Sequence[Accepted],
    deliveries: Collection[Downstream],
    opened: Collection[OpenCheck],
    answers: Sequence[Reply],
    tally: Tally,
    size: int,
    seconds: float,
) -> None:
    """``answers`` are the client's, one for each of ``accepted`` or one for all; ``opened`` are the checks that were asked."""
    targets: dict[str, None] = {}
    tally.octets += size
    for delivery in deliveries:
        label = delivery.target.label
        targets[label] = None
        counts = tally.deliveries.get(label) or tally.answers_of(label)
        for reply in delivery.replies.values():
            counts[reply.code // 100] += 1
    discarded = False
    for one in accepted:
        for plan in one.plans:
            discarded = discarded or plan.target is None
    fields = {
        "message": envelope.id,
        "session": envelope.session.id,
        "from": f"<{envelope.sender}>",
        "to": ",".join([f"<{one.name}>" for one in accepted]),
        "size": size,
        "reply": str(answers[0]) if len(answers) == 1 else " | ".join(str(reply) for reply in dict.fromkeys(answers)),
        "target": ",".join(targets),
        "seconds": seconds,
    }
    if envelope.findings:
        judges = dict.fromkeys(one.check for one in opened)
        found = judgement(envelope.findings[check] for check in judges if check in envelope.findings)
        fields |= {"auth": " ".join(map(str, found.results)), "score": found.score or None, "verdict": found.verdict.value}
    _log.info(Event.MESSAGE_DONE, **fields)
    if discarded:
        _log_discarded(envelope.id, accepted, answers)


def _log_discarded(message_id: str, accepted: Sequence[Accepted], answers: Sequence[Reply]) -> None:
    for number, one in enumerate(accepted):
        if answers[number if len(answers) > 1 else 0].is_success:
            for plan in one.plans:
                if plan.target is None:
                    to = f"<{plan.recipient.address}>"
                    _log.info(Event.MESSAGE_DISCARDED, message=message_id, to=to, where=plan.where)
