"""Mail of our own through a pipeline: reports, which no client's connection stands behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mailgate.adapters import Adapters
from mailgate.message.envelope import Attempt, Session
from mailgate.pipeline.router import Router
from mailgate.pipeline.settings import TransactionSettings
from mailgate.pipeline.transaction import Transaction
from mailgate.smtp.address import Address
from mailgate.smtp.parameters import NO_RCPT_PARAMETERS, MailParameters, RcptParameters
from mailgate.smtp.reply import Reply

MAX_RECEIVED = 50


@dataclass(frozen=True, slots=True)
class Submission:
    """One message to one address. ``source`` is who made it, for settings that ask: dsn, report."""

    sender: Address
    to: Address
    content: bytes
    source: str
    parameters: MailParameters
    to_parameters: RcptParameters = NO_RCPT_PARAMETERS


async def submit(
    submission: Submission, router: Router, adapters: Adapters, *, spool: Any, hostname: str, listener: str
) -> Reply:
    """The answer to the dot, or what refused it before. ``listener`` stands for where it comes from in logs."""
    session_id = f"{adapters.random.getrandbits(48):012x}"
    session = Session(session_id, listener, hostname, helo=hostname, protocol="ESMTP")
    settings = TransactionSettings(
        spool=spool, adapters=adapters, hostname=hostname, max_received=MAX_RECEIVED, attempt=Attempt(source=submission.source)
    )
    transaction = Transaction(router, session, settings, f"{session_id}.1")
    try:
        for step in (
            lambda: transaction.mail(submission.sender, submission.parameters),
            lambda: transaction.rcpt(submission.to, submission.to_parameters),
            transaction.data,
        ):
            answer = step()
            reply = answer if answer is None or isinstance(answer, Reply) else await answer
            if reply is not None and not reply.is_success:
                transaction.abort("refused")
                return reply
        waiting = transaction.append(submission.content)
        if waiting is not None:
            await waiting
        answers = transaction.end()
        return (answers if isinstance(answers, list) else await answers)[0]
    except BaseException:
        transaction.abort("failed")
        raise
