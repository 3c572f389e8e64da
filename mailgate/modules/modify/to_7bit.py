"""`modify.to_7bit`: for next hops that have no 8BITMIME, a body with octets above 127 is recoded, part by part (RFC 6152 3).

What is done to which part is said in `message.seven_bit`. A message that is 7 bit already passes without a look at its content.
One that is not, or came as BINARYMIME, is read twice and written once into a body of its own, which goes to disk like any other;
all that is kept in memory is a list of what changes.

Whatever is left that needs more than 7 bits, a signed part say, still asks the next hop for 8BITMIME or BINARYMIME: it is never
sent where that is not offered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailgate.adapters import Adapters
from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.message.body import Body
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.message.seven_bit import Edit, Rewriter, Survey, TooComplex
from mailgate.modules._hashing import PIECE, SMALL, feed
from mailgate.net.waiting import begin
from mailgate.pipeline.modifiers import Modifier
from mailgate.pipeline.router import place
from mailgate.smtp.reply import MailError, Reply

TOO_COMPLEX = Reply(550, "5.6.3", "The message has too many parts to be recoded")
_SIGNATURES = frozenset({"dkim-signature", "arc-message-signature"})


class To7bit(Modifier):
    """Recodes a body with octets above 127, or that came as BINARYMIME, to quoted-printable or base64, part by part. Signed and
    encrypted parts stay as they are."""

    name = "modify.to_7bit"
    makes_seven_bit = True

    dkim_signed = Directive(
        "dkim_signed",
        v.Choice("recode", "leave"),
        default="recode",
        doc="A message that others have signed with DKIM, or sealed with ARC: `recode` breaks that; `leave` does not, and a next"
        " hop without 8BITMIME does not get it (550 5.6.3).",
    )

    def body(self, message: Message) -> Any:
        if not (message.body.rest_eight_bit or message.binary):
            return message
        if self.dkim_signed == "leave" and any(field.name in _SIGNATURES for field in Header(message.header).fields):
            return message
        return begin(self._recoded(message))

    async def _recoded(self, message: Message) -> Message:
        adapters = self.context.adapters
        assert adapters is not None
        survey = Survey(message.header, binary=message.binary)
        try:
            await feed(survey.feed, message, adapters)
            survey.finish()
        except TooComplex as error:
            raise MailError(TOO_COMPLEX, str(error), place(self.span)) from error
        if not survey.edits and survey.leaves_binary == message.binary:
            return message
        body = message.body.sibling()
        body.binary = survey.leaves_binary
        try:
            await _write(survey.edits, message, body, adapters)
        except BaseException:
            body.release()
            raise
        return Message(body.header, body)


async def _write(edits: list[Edit], message: Message, body: Body, adapters: Adapters) -> None:
    """The message with these edits, a piece at a time; what takes longer than a moment in threads."""
    rewriter = Rewriter(edits)
    rewrite: Callable[[bytes], Any] = rewriter.feed
    if message.size > SMALL:
        rewrite = lambda piece: adapters.run_in_thread(rewriter.feed, piece)  # noqa: E731
    offset = 0
    while offset < message.size:
        piece = message.read(offset, PIECE)
        piece = piece if isinstance(piece, bytes) else await piece
        offset += len(piece)
        rewritten = rewrite(piece)
        rewritten = rewritten if isinstance(rewritten, bytes) else await rewritten
        waiting = body.append(rewritten)
        if waiting is not None:
            await waiting
    waiting = body.append(rewriter.finish())
    if waiting is not None:
        await waiting
    finishing = body.finish()
    if finishing is not None:
        await finishing
