"""The recipients of one transaction and their next hops: who is offered where, who was taken, and how that is taken back.

`Offers.offer` routes a recipient and passes it through, plan by plan, so that the client hears the next hop's own answer. All of
a recipient's plans are taken or none is: a refusal in the middle withdraws what was taken before it. Plans with one key, of
whichever recipient, share one `Downstream`. Filters add recipients the same way; the client hears of those only where they fail.

Refused before anything is said to a next hop: what can't be promised with the answers there will be (answers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailgate.message.envelope import Envelope, Recipient
from mailgate.pipeline.answers import DISCARDED, NO_ANSWER, RCPT_OK, FinalAnswers, passed_up
from mailgate.pipeline.downstream import Accepted, Downstream
from mailgate.pipeline.notices import Notices, quiet
from mailgate.pipeline.routing import Path, Plan, Routing
from mailgate.smtp.parameters import NO_RCPT_PARAMETERS
from mailgate.smtp.reply import MailError, Reply


class Offers:
    """See the module's docstring. ``reports``: to whom success is reported where nobody else does (notices.py)."""

    __slots__ = ("_answers", "_reports", "_routing", "accepted", "added", "closed", "deliveries", "has_copies", "notices")

    def __init__(self, routing: Routing, answers: FinalAnswers, reports: Callable[[Envelope], Any] | None) -> None:
        self._routing = routing
        self._answers = answers
        self._reports = reports
        self.deliveries: dict[tuple[Any, ...], Downstream] = {}
        """By the key of the plans that share one."""
        self.accepted: list[Accepted] = []
        self.added: list[Accepted] = []
        """Of filters' making."""
        self.has_copies = False
        self.notices: Notices | None = None
        self.closed = False
        """The transaction is over and aborts what is open: nothing is taken back any more."""

    async def offer(self, path: Path, envelope: Envelope, recipient: Recipient) -> tuple[Accepted, Reply]:
        """Route one recipient and offer it to its next hops. :raises Exception: it is refused, and nothing is left of it."""
        reply = RCPT_OK
        offered: list[Plan] = []
        try:
            plans = await self._routing.plan(path, recipient)
            for plan in plans:
                if plan.is_grouped:
                    await plan.find_group()
            is_alone = len(plans) == 1
            copies = [] if is_alone else [plan for plan in plans if plan.copy]
            if copies:
                plans = [plan for plan in plans if not plan.copy]
                is_alone = len(plans) == 1
            expanded = not is_alone and recipient.parameters is not NO_RCPT_PARAMETERS and quiet(plans)
            self._answers.admit(plans)
            for plan in plans:
                if plan.target is None:
                    continue
                delivery = self.deliveries.get(plan.key)
                if delivery is None:
                    delivery = self.deliveries[plan.key] = Downstream(plan)
                answer = delivery.delivery.rcpt(plan.recipient)
                reply = answer if answer.__class__ is Reply else await answer
                if reply.code // 100 != 2:
                    raise MailError(passed_up(reply), f"refused by {plan.target.label}: {reply}", plan.where)
                delivery.accepted.append(plan.recipient)
                plan.delivery = delivery
                offered.append(plan)
        except BaseException:
            for plan in offered:
                self.withdraw(plan)
            raise
        self._answers.accepted(plans)
        if len(self.deliveries) > 1 and self._answers.is_taken:
            self.drop_unused()
        if copies:
            self.has_copies = True
        accepted = Accepted(str(recipient.address), plans, copies)
        if recipient.parameters is not NO_RCPT_PARAMETERS and self._reports is not None:
            self.note(envelope, accepted, recipient, expanded=expanded)
        return accepted, reply if is_alone and reply.code == 250 and reply.enhanced else RCPT_OK

    def note(self, envelope: Envelope, accepted: Accepted, recipient: Recipient, *, expanded: bool) -> None:
        """Whoever asked to hear of success may have to hear it from us."""
        if self._reports is None:
            return
        if self.notices is None:
            self.notices = Notices(self._reports, envelope)
        self.notices.add(accepted, recipient, accepted.plans, expanded=expanded)

    @property
    def everybody(self) -> list[Accepted]:
        """Whom clients and filters have named."""
        return [*self.accepted, *self.added]

    def drop_unused(self) -> list[Downstream]:
        """Deliveries that refused everybody they were offered give their connections back; the others are returned."""
        for key in [*self.deliveries]:
            delivery = self.deliveries[key]
            if not delivery.accepted:
                del self.deliveries[key]
                delivery.delivery.abort()
        return list(self.deliveries.values())

    def withdraw(self, plan: Plan) -> None:
        """Take one address out again; a delivery that is left for nobody gives its connection back."""
        if self.closed:
            return
        delivery, plan.delivery = plan.delivery, None
        if delivery.accepted == [plan.recipient]:
            del self.deliveries[plan.key]
            delivery.delivery.abort()
        else:
            delivery.withdraw(plan.recipient)

    def withdraw_all(self, one: Accepted) -> None:
        """Take a recipient out with all it became."""
        for plan in one.plans:
            if plan.target is not None and plan.delivery is not None:
                self.withdraw(plan)

    def replies_for(self, one: Accepted, refused: dict[Accepted, MailError]) -> list[Reply]:
        """The final answers for one recipient, now that everything was sent."""
        if one in refused:
            return [refused[one].reply]
        return [DISCARDED if plan.target is None else plan.delivery.replies.get(plan.recipient, NO_ANSWER) for plan in one.plans]
