"""`after_body`: the way of one recipient, decided when the content is here and its checks are done.

The recipient has heard 250 at RCPT. What its pipeline decides now is done at once: it takes the place of the plan that waited, is
offered to its delivery, and its message goes out with the others. A refusal is the answer to the dot: in LMTP for this recipient,
in SMTP for the message, of which nothing has been sent yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.pipeline.answers import passed_up
from mailgate.pipeline.checks import ask
from mailgate.pipeline.conditions import ContentFacts
from mailgate.pipeline.content import Content
from mailgate.pipeline.downstream import Accepted, Downstream
from mailgate.pipeline.notices import quiet
from mailgate.pipeline.routing import Plan, Routing
from mailgate.smtp.reply import MailError, Reply


class ContentRoutes:
    """Of one message. ``deliveries`` are the open ones by key; ``withdraw(plan)`` takes an address out of its delivery again."""

    def __init__(
        self,
        routing: Routing,
        content: Content,
        deliveries: dict[tuple[Any, ...], Downstream],
        withdraw: Callable[[Plan], None],
    ) -> None:
        self._routing = routing
        self._content = content
        self._deliveries = deliveries
        self._withdraw = withdraw

    async def finish_all(
        self,
        accepted: Iterable[Accepted],
        refused: dict[Accepted, MailError],
        refusal: Callable[[BaseException], MailError] | None,
    ) -> list[tuple[Accepted, Plan, bool]]:
        """Finish them all: who had something open, the plan that waited, whether it became several addresses. ``refusal`` makes
        of an exception what goes into ``refused``; None where one refusal is for all.

        :raises Exception: that refusal."""
        finished = []
        for one in accepted:
            try:
                found = await self._finish(one)
            except CancelledError:
                raise
            except Exception as error:
                if refusal is None:
                    raise
                refused[one] = refusal(error)
                continue
            if found is not None:
                finished.append((one, *found))
        return finished

    async def _finish(self, one: Accepted) -> tuple[Plan, bool] | None:
        """Decide what a recipient has left open, and offer it. Where it is refused nothing of it is left at a next hop."""
        waiting = next((plan for plan in one.plans if plan.after is not None), None)
        if waiting is None:
            return None
        plans: list[Plan] = []
        expanded = False
        try:
            for plan in one.plans:
                if plan.after is None:
                    plans.append(plan)
                    continue
                decided = await self._decide(plan)
                expanded = quiet(decided) or expanded
                one.copies += [each for each in decided if each.copy]
                for each in decided:
                    if each.copy:
                        continue
                    plans.append(each)
                    if each.target is not None:
                        await self._offer(each)
        except BaseException:
            for plan in dict.fromkeys((*one.plans, *plans)):
                if plan.delivery is not None:
                    self._withdraw(plan)
            raise
        one.plans = plans
        return waiting, expanded

    async def _decide(self, waiting: Plan) -> list[Plan]:
        """The plans that take the place of one that waited. :raises MailError: refused."""
        sender = self._content.judgement(waiting.marks).sender  # by a filter
        if sender is not None:
            waiting.envelope = self._routing.from_sender(
                waiting.envelope, sender.address, sender.parameters(waiting.envelope.parameters)
            )
        opened = len(self._routing.opened)
        plans = await self._routing.finish(waiting, self._facts)
        await ask(self._routing.opened[opened:], "body", self._content.message)
        for plan in plans:
            if plan.is_grouped:
                await plan.find_group()
        return plans

    def _facts(self, marks: Sequence[Any]) -> ContentFacts:
        return ContentFacts(self._content.variant(marks), self._content.judgement(marks))

    async def _offer(self, plan: Plan) -> None:
        """Say one more recipient to its delivery. :raises MailError: it is refused."""
        delivery = self._deliveries.get(plan.key)
        if delivery is None:
            delivery = self._deliveries[plan.key] = Downstream(plan)
        answer = delivery.delivery.rcpt(plan.recipient)
        reply = answer if isinstance(answer, Reply) else await answer
        if not reply.is_success:
            raise MailError(passed_up(reply), f"refused by {plan.target.label}: {reply}", plan.where)
        delivery.accepted.append(plan.recipient)
        plan.delivery = delivery
