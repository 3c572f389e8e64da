"""The one table of what comes of a next hop's failures: every step of the dialogue × every way to fail (trust page, class 6).

A second endpoint stands behind the failing one, and the failure happens once.

    moved     the second endpoint gets the message, once; the client hears 250
    same      the first gets it all the same, over another connection; the client hears 250, and it counts as no failure
    answer    what was said is the client's answer; the second endpoint hears nothing of it
    helo      SMTP goes on with HELO, since nothing is asked for that needs EHLO, so it is the same; LMTP has no other word: moved
    unknown   the final dot was written: 451 4.4.2, recorded as a possible duplicate, no second delivery
    .         it can't be
"""

from __future__ import annotations

from enum import Enum

from mailgate.testing.nexthop import DEAF, DROP, ENDLESS, GARBAGE, HANG, RESET, Action, Step, say


class Outcome(Enum):
    MOVED = "moved"
    SAME = "same"
    HELO = "helo"
    ANSWER = "answer"
    UNKNOWN = "unknown"


STEPS = {
    "connect": Step.CONNECT,
    "banner": Step.BANNER,
    "ehlo": Step.HELLO,
    "starttls": Step.STARTTLS,
    "auth": Step.AUTH,
    "mail": Step.MAIL,
    "rcpt": Step.RCPT,
    "data": Step.DATA,
    "body": Step.BODY,
    "dot": Step.DOT,
    "rset": Step.RSET,
    "idle": Step.IDLE,
}

ACTIONS: dict[str, Action] = {
    "refuse": RESET,
    "hang": HANG,
    "drop": DROP,
    "421": say(b"421 4.3.2 going down", then_drop=True),
    "4xx": say(b"450 4.2.0 later"),
    "5xx": say(b"550 5.1.1 no"),
    "garbage": GARBAGE,
    "endless": ENDLESS,
    "220": say(b"220 hello"),
    "221": say(b"221 2.0.0 bye"),
    "354": say(b"354 go on"),
}
"""Refused is a reset, but for connecting; to hang in the middle of a body is to stop reading."""

_TABLE = """
            refuse   hang     drop     421      4xx      5xx      garbage  endless  220      221      354
connect     moved    moved    moved    .        .        .        .        .        .        .        .
banner      moved    moved    moved    moved    moved    moved    moved    moved    .        moved    moved
ehlo        moved    moved    moved    moved    moved    helo     moved    moved    .        .        moved
starttls    moved    moved    moved    moved    moved    moved    moved    moved    .        moved    moved
auth        moved    moved    moved    moved    moved    moved    moved    moved    moved    moved    moved
mail        moved    moved    moved    moved    moved    answer   moved    moved    .        .        moved
rcpt        moved    moved    moved    moved    moved    answer   moved    moved    .        .        moved
data        moved    moved    moved    moved    moved    answer   moved    moved    moved    moved    .
body        moved    moved    moved    moved    moved    answer   moved    moved    moved    moved    moved
dot         unknown  unknown  unknown  answer   answer   answer   unknown  unknown  unknown  unknown  unknown
rset        same     same     same     same     same     same     same     same     .        .        same
idle        same     moved    same     same     same     same     same     same     same     same     same
"""


def _read(text: str) -> dict[str, dict[str, Outcome]]:
    head, *rows = [line.split() for line in text.strip().splitlines()]
    return {
        step: {action: Outcome(cell) for action, cell in zip(head, cells, strict=True) if cell != "."} for step, *cells in rows
    }


TABLE = _read(_TABLE)


def outcome_of(step: str, action: str, *, lmtp: bool) -> Outcome:
    outcome = TABLE[step][action]
    if outcome is not Outcome.HELO:
        return outcome
    return Outcome.MOVED if lmtp else Outcome.SAME


def action_at(step: str, action: str) -> Action:
    return DEAF if (step, action) == ("body", "hang") else ACTIONS[action]
