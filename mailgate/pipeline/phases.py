"""A message for several deliveries of which some can be taken back: prepare, send what can't, then commit.

What a queue keeps is prepared first, durably; then the irrevocable deliveries are sent; only then the prepared ones are let go,
for exactly those recipients whose client hears 2yz. So nobody is told of a failure while a copy is on its way, and nobody of a
success while one is missing. The one gap is a commit that fails after a next hop said 2yz: the client hears 451 and will send
again, and the log says `possible duplicate`. See docs/architecture.md, "Delivering once".

With a *keeper* (`on_split queue &name`) every irrevocable delivery is prepared in that queue too. What its next hop then takes is
forgotten there, what it does not take is kept: tried again after 4yz or silence, reported after 5yz. So everybody hears 2yz.
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
    """One open downstream transaction: `downstream.Downstream`."""

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
        keeper: Callable[[Any], Any] | None = None,
    ) -> None:
        self._keeper = keeper
        self._kept: list[tuple[Delivering, Any]] = []
        self.kept: frozenset[Recipient] = frozenset()
        """Those that the keeper's queue delivers from here on."""
        self._unkept = NOT_TRIED
        """What those hear whose message was not tried."""
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
            self._abort_kept()
            raise
        for delivery, kept in self._kept:
            await self._keep_rest(delivery, kept)
        await self._commit(self._failures(accepted, per_recipient=per_recipient))

    async def _prepare(self) -> bool:
        """Whether everything was prepared; replies say what was not."""
        prepared = await self._prepare_kept()
        if not prepared:
            return False
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

    async def _prepare_kept(self) -> bool:
        if self._keeper is None:
            return True
        for delivery in self._irrevocable:
            kept = self._keeper(delivery)
            self._kept.append((delivery, kept))
            for recipient in delivery.accepted:
                kept.rcpt(recipient)
            try:
                replies = await kept.prepare(await self._modified(delivery))
            except CancelledError:
                self._abort_kept()
                raise
            except Exception as error:
                replies = [self._refusal(error)]
            refused = next((reply for reply in replies if not reply.is_success), None)
            if refused is not None or not replies:
                self._unkept = refused or NO_ANSWER
                return False
        return True

    async def _keep_rest(self, delivery: Delivering, kept: Any) -> None:
        """What the next hop has not taken is the queue's from here on. Where that fails its answers stand."""
        replies = [delivery.replies.get(one, NO_ANSWER) for one in delivery.accepted]
        try:
            delivery.replies = dict(zip(delivery.accepted, await kept.keep(replies), strict=True))
            self.kept |= {one for one, reply in zip(delivery.accepted, replies, strict=True) if not reply.is_success}
        except CancelledError:
            self._abort_kept()
            raise
        except Exception as error:
            self._refusal(error)
            kept.abort()
            if any(not reply.is_success for reply in replies):
                self._warn(delivery.accepted, error)

    def _abort_kept(self) -> None:
        for _, kept in self._kept:
            kept.abort()

    def _give_up(self) -> None:
        """Nothing was sent, and nothing will be."""
        self._abort(self._revocable)
        self._abort_kept()
        for delivery in self._revocable:
            failed = {one: reply for one, reply in delivery.replies.items() if not reply.is_success}
            delivery.replies = {one: failed.get(one, NOT_TRIED) for one in delivery.accepted}
        for delivery in self._irrevocable:
            delivery.delivery.abort()
            delivery.replies = dict.fromkeys(delivery.accepted, self._unkept)

    @staticmethod
    def _abort(deliveries: Iterable[Delivering]) -> None:
        for delivery in deliveries:
            delivery.delivery.abort()

    def _failures(self, accepted: Sequence[Accepted], *, per_recipient: bool) -> dict[Recipient, Reply]:
        """The addresses whose client will not hear 2yz, with what it hears instead. In SMTP there is one answer: all or none."""
        answers = {id(delivery.delivery): delivery.replies for delivery in self._irrevocable}
        failures: dict[Recipient, Reply] = {}
        for one in accepted:
            sent = [
                answers[id(plan.delivery.delivery)].get(plan.recipient, NO_ANSWER) for plan in one.plans if _is_of(plan, answers)
            ]
            refused = next((reply for reply in sent if not reply.is_success), None)
            if refused is not None:
                others = [one] if per_recipient else accepted
                failures.update((plan.recipient, refused) for other in others for plan in other.plans)
        return failures

    async def _commit(self, failures: dict[Recipient, Reply]) -> None:
        for delivery in self._revocable:
            kept = [one for one in delivery.accepted if one not in failures]
            delivery.replies.update((one, failures[one]) for one in delivery.accepted if one in failures)
            if not kept:
                delivery.delivery.abort()
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
