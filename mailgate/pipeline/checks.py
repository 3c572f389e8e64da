"""Running checks: a refusal, an exception or nonsense refuses; only None passes (docs/trust.md, I6).

The checks of one stage are asked at the same time. Their answers count in written order: the first refusal among them is the one,
however late it comes, and when it has come the others are cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError

from mailgate.message.envelope import Envelope
from mailgate.net.waiting import Wait, start
from mailgate.pipeline.check import stages_of
from mailgate.pipeline.router import place
from mailgate.smtp.reply import MailError, Reply


class Asked(Protocol):
    """A check's state, as it is asked."""

    @property
    def where(self) -> str:
        """``file:line`` of the check."""


_LATER = ("verdict", "refused")


class OpenCheck:
    """One check's state of one message, and the place where the check is written."""

    __slots__ = ("_stages", "_state", "check", "marks", "where")

    def __init__(self, check: Any, envelope: Envelope) -> None:
        self.check = check
        self.marks = getattr(check, "marks", False)
        self.where = place(getattr(check, "span", None))
        self._stages = stages_of(check)
        self._state = check.open(envelope)

    def takes_part(self, stage: str) -> bool:
        # Whose class does not say what it does is asked in every stage, and may be older than some.
        return stage in self._stages and (stage not in _LATER or hasattr(self._state, stage))

    def question(self, stage: str) -> Callable[[Any], Any]:
        """What asks it in a stage."""
        method: Callable[[Any], Any] = getattr(self._state, stage)
        return method

    def close(self) -> None:
        self._state.close()


async def ask(checks: Sequence[OpenCheck], stage: str, subject: Any) -> None:
    """Ask those that take part in a stage, all at once.

    :raises MailError: the first refusal in written order. What a check raises is raised in its turn.
    """
    questions = [(check, check.question(stage)) for check in checks if check.takes_part(stage)]
    if questions:
        await first_refusal([(check, lambda question=question: question(subject)) for check, question in questions])  # type: ignore[misc]


async def first_refusal(questions: Sequence[tuple[Asked, Callable[[], Any]]]) -> None:
    """Ask all at once. :raises MailError: see `ask`."""
    answers: list[Any] = []
    try:
        for _, question in questions:
            answer = _begun(question)
            answers.append(answer)
            if isinstance(answer, (Reply, Exception)):
                break  # whoever comes behind it does not count any more
        for (asked, _), answer in zip(questions, answers, strict=False):
            _judge(asked, await answer if isinstance(answer, Wait) else answer)
    finally:
        for answer in answers:
            if isinstance(answer, Wait):
                answer.cancel()


async def ask_each(checks: Iterable[OpenCheck], stage: str, subject: Any) -> dict[OpenCheck, Exception]:
    """Ask those that take part, all at once, and wait for all: the refusals and failures among their answers, by check."""
    taking = [check for check in checks if check.takes_part(stage)]
    answers: list[Any] = []
    refusals: dict[OpenCheck, Exception] = {}
    try:
        for check in taking:
            question = check.question(stage)
            answers.append(_begun(lambda question=question: question(subject)))  # type: ignore[misc]
        for check, answer in zip(taking, answers, strict=True):
            try:
                _judge(check, await answer if isinstance(answer, Wait) else answer)
            except CancelledError:
                raise
            except Exception as error:
                refusals[check] = error
    finally:
        for answer in answers:
            if isinstance(answer, Wait):
                answer.cancel()
    return refusals


def _begun(question: Callable[[], Any]) -> Any:
    """None, a Reply, or nonsense, if that is the answer at once; what was raised; or a `Wait`."""
    try:
        answer = question()
        if answer is None or isinstance(answer, Reply) or not hasattr(answer, "__await__"):
            return answer
        return answer if isinstance(answer, Wait) and not answer.done else start(_outcome_of(answer))
    except CancelledError:
        raise
    except Exception as error:
        return error


async def _outcome_of(awaitable: Any) -> Any:
    return await awaitable


def _judge(asked: Asked, answer: object) -> None:
    if answer is None:
        return
    if isinstance(answer, Exception):
        raise answer
    if not isinstance(answer, Reply) or not (answer.is_temporary or answer.is_permanent):
        raise TypeError(f"a check answered {answer!r}")
    raise MailError(answer, "refused by a check", asked.where)
