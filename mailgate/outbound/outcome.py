"""From the next hop's last words to the answers of the recipients: pure functions, one place.

To the final dot 2yz, except 220 and 221, is success and 4yz and 5yz are what they say. Everything else (1yz, 3yz, 220, 221,
garbage, nothing) is an unknown outcome: the message may have been taken, so nobody else gets it, and the client hears 451 4.4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mailgate.outbound.failure import UNKNOWN_OUTCOME
from mailgate.smtp.client import Answer
from mailgate.smtp.reply import Reply, default_enhanced
from mailgate.values import value

_FINAL = (2, 4, 5)
_NO_SUCCESS = (220, 221)


def handed_up(reply: Reply) -> Reply:
    """A reply about the message as our own client hears it: with an enhanced code, and never 421, which is about a
    connection that is not the client's."""
    if reply.enhanced and reply.code != 421:
        return reply
    code = 451 if reply.code == 421 else reply.code
    return replace(reply, code=code, enhanced=reply.enhanced or default_enhanced(code))


@value
class Outcome:
    """One reply for each recipient that was on the wire, and how many of them, from the end, are unknown. ``closing``: a 421
    was among them, so the connection is of no further use."""

    replies: tuple[Reply, ...]
    unknown: int = 0
    closing: bool = False


def outcome(answers: Sequence[Answer], recipients: int, *, lmtp: bool) -> Outcome:
    """Of one transaction: LMTP has an answer for each recipient, SMTP one for all."""
    replies = []
    closing = False
    for answer in answers[: recipients if lmtp else 1]:
        reply = answer.reply
        code = reply.code
        if code // 100 not in _FINAL or code in _NO_SUCCESS:
            break
        closing = closing or code == 421
        replies.append(handed_up(reply))
    if replies and not lmtp:
        replies *= recipients
    unknown = recipients - len(replies)
    return Outcome((*replies, *[UNKNOWN_OUTCOME] * unknown), unknown, closing)
