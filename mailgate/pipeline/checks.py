"""Running checks: a refusal, an exception or nonsense refuses; only None passes (docs/trust.md, I6)."""

from __future__ import annotations

from typing import Any

from mailgate.message.envelope import Envelope, Recipient
from mailgate.pipeline.router import place
from mailgate.smtp.reply import MailError, Reply


class OpenCheck:
    """One check's state of one message, and the place where the check is written."""

    __slots__ = ("_body_done", "_body_refusal", "_state", "where")

    def __init__(self, check: Any, envelope: Envelope) -> None:
        self.where = place(getattr(check, "span", None))
        self._state = check.open(envelope)
        self._body_done = False
        self._body_refusal: MailError | None = None

    async def sender(self, envelope: Envelope) -> None:
        """:raises MailError: the sender is refused."""
        self._judge(await _settled(self._state.sender(envelope)))

    async def rcpt(self, recipient: Recipient) -> None:
        """:raises MailError: the recipient is refused."""
        self._judge(await _settled(self._state.rcpt(recipient)))

    async def body(self, message: Any) -> MailError | None:
        """The judgement of the content, asked for once however many recipients it concerns."""
        if not self._body_done:
            try:
                self._judge(await _settled(self._state.body(message)))
            except MailError as refusal:
                self._body_refusal = refusal
            self._body_done = True
        return self._body_refusal

    def close(self) -> None:
        self._state.close()

    def _judge(self, answer: object) -> None:
        if answer is None:
            return
        if not isinstance(answer, Reply) or not (answer.is_temporary or answer.is_permanent):
            raise TypeError(f"a check answered {answer!r}")
        raise MailError(answer, "refused by a check", self.where)


async def _settled(answer: Any) -> Any:
    return answer if answer is None or isinstance(answer, Reply) else await answer
