"""A message for several deliveries of which some can be taken back: prepare, send what can't, then commit.

What a queue keeps is prepared first, durably; then the irrevocable deliveries are sent; only then the prepared ones are let go,
for exactly those recipients whose client hears 2yz. So nobody is told of a failure while a copy is on its way, and nobody of a
success while one is missing. The one gap is a commit that fails after a next hop said 2yz: the client hears 451 and will send
again, and the log says `possible duplicate`. See docs/architecture.md, "Delivering once".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError

from mailgate.events import Event, EventLog
from mailgate.interfaces import Finality
from mailgate.message.envelope import Recipient
from mailgate.pipeline.answers import NO_ANSWER
from mailgate.pipeline.routing import Plan
from mailgate.smtp.reply import Reply

NOT_COMMITTED = Reply(451, "4.3.0", "The message could not be kept, try again later")
NOT_TRIED = Reply(451, "4.3.0", "Not tried: a copy could not be kept")

_log = EventLog("mailgate.pipeline")


class Delivering(Protocol):
    """One open downstream transaction: `transaction._Delivery`."""

    target: Any
    delivery: Any
    accepted: list[Recipient]
    replies: dict[Recipient, Reply]


class Accepted(Protocol):
    """One recipient that heard 250, and all it became."""

    plans: list[Plan]


def is_two_phase(delivery: Delivering) -> bool:
    return delivery.target.finality is Finality.TWO_PHASE


class TwoPhases:
    """One message. ``send(deliveries)`` sends irrevocable ones and fills their replies; ``modified(delivery)`` is the message as
    that delivery's modifiers make it; ``refusal(error)`` is the reply to an exception."""

    def __init__(
        self,
        message_id: str,
        deliveries: Iterable[Delivering],
        send: Callable[[list[Any]], Awaitable[None]],
        modified: Callable[[Any], Awaitable[Any]],
        refusal: Callable[[BaseException], Reply],
    ) -> None:
        self._id = message_id
        self._send = send
        self._modified = modified
        self._refusal = refusal
        self._revocable: list[Delivering] = []
        self._irrevocable: list[Delivering] = []
        for delivery in deliveries:
            (self._revocable if is_two_phase(delivery) else self._irrevocable).append(delivery)

    async def run(self, accepted: Sequence[Accepted], *, per_recipient: bool) -> None:
        """Afterwards every delivery has its replies."""
        if not await self._prepare():
            self._give_up()
            return
        try:
            if self._irrevocable:
                await self._send(self._irrevocable)
        except BaseException:
            self._abort(self._revocable)
            raise
        await self._commit(self._standing(accepted, per_recipient=per_recipient))

    async def _prepare(self) -> bool:
        """Whether everything was prepared; replies say what was not."""
        prepared = True
        for delivery in self._revocable:
            try:
                replies = delivery.delivery.prepare(await self._modified(delivery))
                if not isinstance(replies, list):
                    replies = list(await replies)
            except CancelledError:
                self._abort(self._revocable)
                raise
            except Exception as error:
                replies = [self._refusal(error)] * len(delivery.accepted)
            delivery.replies = dict(zip(delivery.accepted, replies, strict=False))
            if any(not delivery.replies.get(one, NO_ANSWER).is_success for one in delivery.accepted):
                prepared = False
                break
        return prepared

    def _give_up(self) -> None:
        """Nothing was sent, and nothing will be."""
        self._abort(self._revocable)
        for delivery in self._revocable:
            failed = {one: reply for one, reply in delivery.replies.items() if not reply.is_success}
            delivery.replies = {one: failed.get(one, NOT_TRIED) for one in delivery.accepted}
        for delivery in self._irrevocable:
            delivery.delivery.abort()
            delivery.replies = dict.fromkeys(delivery.accepted, NOT_TRIED)

    @staticmethod
    def _abort(deliveries: Iterable[Delivering]) -> None:
        for delivery in deliveries:
            delivery.delivery.abort()

    def _standing(self, accepted: Sequence[Accepted], *, per_recipient: bool) -> set[Recipient]:
        """The addresses whose client will hear 2yz if they are committed now. In SMTP there is one answer: all or none."""
        answers = {id(delivery.delivery): delivery.replies for delivery in self._irrevocable}

        def stands(one: Accepted) -> bool:
            sent = [(plan, answers[id(plan.delivery.delivery)]) for plan in one.plans if _is_of(plan, answers)]
            return all(replies.get(plan.recipient, NO_ANSWER).is_success for plan, replies in sent)

        kept = [one for one in accepted if stands(one)]
        if not per_recipient and len(kept) < len(accepted):
            return set()
        return {plan.recipient for one in kept for plan in one.plans}

    async def _commit(self, standing: set[Recipient]) -> None:
        for delivery in self._revocable:
            kept = [one for one in delivery.accepted if one in standing]
            if not kept:
                delivery.delivery.abort()
                delivery.replies = dict.fromkeys(delivery.accepted, NOT_TRIED)
                continue
            try:
                await delivery.delivery.commit(kept)
            except CancelledError:
                self._abort(self._revocable)
                raise
            except Exception as error:
                self._refusal(error)
                delivery.delivery.abort()
                delivery.replies = dict.fromkeys(delivery.accepted, NOT_COMMITTED)
                self._warn(kept, error)

    def _warn(self, kept: Sequence[Recipient], error: BaseException) -> None:
        """A client that hears 451 sends again what others have taken."""
        if len(self._revocable) + len(self._irrevocable) > 1:
            _log.warn(
                Event.POSSIBLE_DUPLICATE,
                message=self._id,
                target=",".join(delivery.target.label for delivery in (*self._irrevocable, *self._revocable)),
                recipients=", ".join(f"<{one.address}>" for one in kept),
                reason=f"taken by others, but not kept: {error}",
            )


def _is_of(plan: Plan, answers: dict[int, Any]) -> bool:
    return plan.delivery is not None and id(plan.delivery.delivery) in answers
