"""The content of one transaction: what its checks say of it, and how it goes out to whom.

All checks of the content are asked at the same time (stage body). Then, for each set of checks that some recipient has passed,
the findings of those are put together, and checks at stage verdict (`check.score`) judge the sum. What comes of it is a
`Judgement` and a variant of the message for each set: fields changed, the body replaced, results in front.

What filters change of the envelope is done by `amend`, before anything is sent:

- a recipient that is taken out, or a message that is discarded, is withdrawn at the next hop and logged as discarded;
- with another reverse-path, a transaction is begun anew at the next hop; a recipient that is refused there now is refused;
- a recipient that is added goes the way of any other, from checks to the next hop. If it is refused, so is the message: else
  somebody would be told that all got it.

Checks that are asked later, within `after_body` or in the block of somebody who was added, change the envelope of those who came
to them, and of nobody else: a filter that takes one out and adds the same again does not take it out a second time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.message.edits import edited
from mailgate.message.envelope import Recipient
from mailgate.message.findings import Findings, Judgement, judgement
from mailgate.message.message import Message
from mailgate.pipeline.checks import OpenCheck, ask, ask_each
from mailgate.pipeline.downstream import Accepted, Downstream
from mailgate.pipeline.routing import Plan
from mailgate.smtp.address import Address, rule_keys
from mailgate.smtp.reply import MailError

Marks = Sequence[Any]


class Content:
    """See the module's docstring. ``findings`` are those of the envelope, by check."""

    __slots__ = ("_authserv_id", "_findings", "_judgements", "_variants", "message")

    def __init__(self, message: Message, findings: Mapping[Any, Findings], authserv_id: str) -> None:
        self.message = message
        self._findings = findings
        self._authserv_id = authserv_id
        self._judgements: dict[tuple[Any, ...], Judgement] = {}
        self._variants: dict[tuple[Any, ...], Message] = {}

    def judgement(self, marks: Marks) -> Judgement:
        """What these checks have found."""
        key = tuple(marks)
        found = self._judgements.get(key)
        if found is None:
            found = self._judgements[key] = judgement(self._findings[check] for check in key if check in self._findings)
        return found

    def variant(self, marks: Marks) -> Message:
        """The message as it goes to those who have passed these checks. :raises BadField: it can't be made."""
        key = tuple(marks)
        if not key:
            return self.message
        found = self._variants.get(key)
        if found is None:
            found = self._variants[key] = self._changed(self.judgement(key))
        return found

    def _changed(self, found: Judgement) -> Message:
        header = self.message.header
        if any(found.edits):
            header = edited(header, found.edits)
        fields = found.header(self._authserv_id)
        if found.body is not None:
            return Message(fields + header, found.body)
        return self.message.with_header(fields + header) if fields or header is not self.message.header else self.message

    async def judge(
        self, accepted: Sequence[Accepted], refusal: Callable[[BaseException], MailError], *, per_recipient: bool
    ) -> dict[Accepted, MailError]:
        """Ask the checks of all who were accepted. In LMTP those who are refused are returned, with the reason; in SMTP one
        refusal is for all.

        :raises MailError: SMTP: refused.
        """
        checks = list(dict.fromkeys(check for one in accepted for plan in one.plans for check in plan.checks))
        if not per_recipient:
            await ask(checks, "body", self.message)
            refusals: dict[OpenCheck, MailError] = {}
        else:
            refusals = {check: refusal(error) for check, error in (await ask_each(checks, "body", self.message)).items()}
        refused: dict[Accepted, MailError] = {}
        for one in accepted:
            for plan in one.plans:
                for check in plan.checks:
                    if check in refusals:
                        refused.setdefault(one, refusals[check])
        if any(check.takes_part("verdict") for check in checks):
            await self._judge_sums([one for one in accepted if one not in refused], refused, refusal, per_recipient)
        return refused

    async def judge_added(
        self, one: Accepted, opened: Sequence[OpenCheck], refusal: Callable[[BaseException], MailError]
    ) -> None:
        """Ask the checks that nobody had come to before somebody was added. :raises MailError: refused."""
        await ask(opened, "body", self.message)
        await self._judge_sums([one], {}, refusal, False)

    async def _judge_sums(
        self,
        accepted: Sequence[Accepted],
        refused: dict[Accepted, MailError],
        refusal: Callable[[BaseException], MailError],
        per_recipient: bool,
    ) -> None:
        outcomes: dict[tuple[Any, ...], MailError | None] = {}
        for one in accepted:
            for plan in one.plans:
                key = tuple(plan.marks)
                if key not in outcomes:
                    outcomes[key] = await self._judge_sum(plan, refusal)
                found = outcomes[key]
                if found is not None:
                    if not per_recipient:
                        raise found
                    refused.setdefault(one, found)

    async def _judge_sum(self, plan: Plan, refusal: Callable[[BaseException], MailError]) -> MailError | None:
        """What the checks of stage verdict make of one sum: a refusal, or a graver judgement."""
        found = Sum(self.judgement(plan.marks))
        try:
            await ask(plan.checks, "verdict", found)
        except CancelledError:
            raise
        except Exception as error:
            return refusal(error)
        self._judgements[tuple(plan.marks)] = found.judgement
        return None


class Sum:
    """What stage verdict is asked about: it may make the judgement graver."""

    def __init__(self, found: Judgement) -> None:
        self.judgement = found

    @property
    def score(self) -> float:
        return self.judgement.score

    def quarantine(self) -> None:
        self.judgement = replace(self.judgement, quarantined=True)

    def tag(self, text: str) -> None:
        if text not in self.judgement.tags:
            self.judgement = replace(self.judgement, tags=(*self.judgement.tags, text))


async def amend(
    content: Content,
    accepted: Iterable[Accepted],
    asked: Collection[Any],
    deliveries: Callable[[], Iterable[Downstream]],
    withdraw: Callable[[Plan], None],
    offer: Callable[[Recipient], Awaitable[None]],
) -> dict[Recipient, MailError]:
    """Make the changes of the envelope that these checks want, which were ``asked`` just now. ``withdraw`` takes a plan out at
    its next hop; ``offer`` has one more recipient accepted, if it is not there already. Returns who is refused because of them.

    :raises MailError: one that was added is refused.
    """

    def wanted(plan: Plan) -> Judgement:
        return content.judgement([mark for mark in plan.marks if mark in asked])

    added: dict[str, Recipient] = {}
    for one in accepted:
        one.copies = [plan for plan in one.copies if not _is_out(plan, wanted(plan))]
        for plan in one.plans:
            found = wanted(plan)
            for more in found.added:
                added.setdefault(rule_keys(more.address)[0], Recipient(more.address, more.parameters))
            if plan.is_to_deliver and _is_out(plan, found):
                if plan.delivery is not None:
                    withdraw(plan)
                plan.target = plan.after = None
    for recipient in added.values():
        await offer(recipient)
    failed: dict[Recipient, MailError] = {}
    for delivery in deliveries():
        sender = content.judgement(delivery.marks).sender
        if sender is not None and not delivery.is_from(sender):
            failed |= await delivery.begin_again(sender)
    return failed


def _is_out(plan: Plan, found: Judgement) -> bool:
    return found.discarded or _is_among(plan, found.removed)


def _is_among(plan: Plan, addresses: Sequence[Address]) -> bool:
    if not addresses:
        return False
    keys = {rule_keys(address)[0] for address in addresses}
    recipient = plan.recipient
    return rule_keys(recipient.address)[0] in keys or (
        recipient.original is not None and rule_keys(recipient.original)[0] in keys
    )
