"""Final answers: how many a transaction may depend on, and what many of them are together.

A *final answer* is one that a next hop can't take back: one for all recipients of a transaction (`Finality.TRANSACTION`), or
one for each recipient (`Finality.RECIPIENT`). SMTP has one reply after the dot, so what it says may depend on one final answer
only; LMTP has one for each recipient. See docs/architecture.md, "Delivering once".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mailgate.pipeline.grammar import Split
from mailgate.pipeline.routing import Plan
from mailgate.smtp.reply import MailError, Reply, TemporaryError

ONE_AT_A_TIME = Reply(452, "4.5.3", "Send this recipient in a transaction of its own")
NEEDS_QUEUE = Reply(451, "4.3.5", "This address needs several deliveries with one answer")
RCPT_OK = Reply(250, "2.1.5", "Recipient ok")
DISCARDED = Reply(250, "2.0.0", "")
NO_ANSWER = Reply(451, "4.3.0", "No answer of the next hop")
_NAMED = 20
"""Recipients that a reply names at most: a reply is for people."""


class FinalAnswers:
    """The final answers that one transaction depends on so far."""

    __slots__ = ("_limited_to_one", "_per_recipient", "_used", "are_several")

    def __init__(self, split: Split, *, per_recipient: bool) -> None:
        self._limited_to_one = split is Split.DEFER
        self._per_recipient = per_recipient
        self._used: object = None
        self.are_several = False
        """One reply of ours depends on several final answers."""

    @property
    def is_taken(self) -> bool:
        """No other delivery than the one in use can be needed any more."""
        return self._limited_to_one and not self._per_recipient and self._used is not None

    def admit(self, plans: Sequence[Plan]) -> None:
        """Whether one more recipient fits.

        :raises MailError: 452 4.5.3 if it does in a transaction of its own, 451 4.3.5 if not even there: that is an alias or a
            set of copies that needs a queue, and temporary because the operator can help, the sender can't.
        """
        if not self._limited_to_one:
            return
        needed: object = None
        for plan in plans:
            if plan.is_irrevocable:
                if needed is not None and plan.final_answer != needed:
                    raise MailError(NEEDS_QUEUE, "several irrevocable deliveries behind one address", plan.where)
                needed = plan.final_answer
                if needed != self._used and self._used is not None and not self._per_recipient:
                    raise MailError(ONE_AT_A_TIME, "a further irrevocable answer (on_split defer)", plan.where)

    def accepted(self, plans: Iterable[Plan]) -> None:
        first: object = None
        for plan in plans:
            if plan.is_irrevocable:
                answer = plan.final_answer
                before = first if self._per_recipient else self._used
                self.are_several = self.are_several or (before is not None and before != answer)
                self._used = first = answer


def passed_up(reply: Reply) -> Reply:
    """A next hop's refusal as ours. 421 would say that *we* close; anything that is neither 4yz nor 5yz refuses too."""
    if reply.code == 421:
        return Reply(451, reply.enhanced or "4.3.2", reply.text)
    if reply.is_temporary or reply.is_permanent:
        return reply if reply.enhanced else Reply(reply.code, f"{reply.code // 100}.0.0", reply.text)
    return Reply(451, "4.3.0", "Unexpected answer of the next hop")


def with_id(reply: Reply, message_id: str) -> Reply:
    """The reply to the dot: what the next hop said, and the id under which our log has the message."""
    if reply.code // 100 == 2:
        text = reply.text.replace("\n", " ")
        return Reply(250, reply.enhanced or "2.0.0", f"Ok: {message_id} {text}".rstrip())
    reply = passed_up(reply)
    return reply.with_text(f"{reply.text} ({message_id})".lstrip())


def fold(answers: Sequence[tuple[str, Sequence[Reply]]]) -> Reply:
    """One reply for all recipients: (address, its final answers) each. Answers that agree are passed on as they are.

    Otherwise: anything temporary or unknown: 451, else anything permanent: 554 with the recipients it concerns, else 250. What
    was discarded has no say where anything else was asked.
    """
    if len(answers) == 1 and len(answers[0][1]) == 1:
        return answers[0][1][0]
    counted = [(address, reply) for address, replies in answers for reply in replies if reply is not DISCARDED]
    if not counted:
        return DISCARDED if any(replies for _, replies in answers) else NO_ANSWER
    first = counted[0][1]
    for _, reply in counted:
        if reply is not first and reply != first:
            break
    else:
        return first
    refused = [(address, reply) for address, reply in counted if not reply.is_success]
    if not refused:
        return first
    for _, reply in refused:
        if not reply.is_permanent:
            return Reply(451, "4.3.0", f"Not delivered to all recipients: {passed_up(reply).text}")
    names = list(dict.fromkeys(f"<{address}>" for address, _ in refused))
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return Reply(554, "5.0.0", f"Not delivered to {listed}: {refused[0][1].text}")


def internal_error(incident: str) -> TemporaryError:
    return TemporaryError(f"Internal error, incident {incident}", reason=f"incident {incident}")
