"""The one table of what comes of a next hop's failures: every step of the dialogue × every way to fail (trust page, class 6).

A second endpoint stands behind the failing one, and the failure happens once. What a client hears who waits, and what becomes of
a message in a queue, which was answered 250 before:

              cut-through                                          queue
    moved     the second endpoint gets it, once: 250               the same, in the first attempt
    same      the first gets it all the same, over another         the same, in the first attempt
              connection: 250, and it counts as no failure
    answer    what was said; the second hears nothing of it        4yz: tried again later, and delivered once; 5yz: reported, once
    helo      SMTP goes on with HELO, since nothing is asked for   the same
              that needs EHLO; LMTP has no other word: moved
    unknown   the final dot was written: 451 4.4.2, recorded as a  recorded as a possible duplicate, tried again later
              possible duplicate, no second delivery
    .         it can't be

Our client says neither NOOP nor VRFY, so they have no row. A queue never waits for a client: its RSET comes behind a refused
recipient.
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


class Fate(Enum):
    """Of a message in a queue."""

    DELIVERED = "delivered"
    RETRIED = "retried"
    REPORTED = "reported"
    REPEATED = "repeated"


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


def fate_of(action: str, outcome: Outcome) -> Fate:
    if outcome is Outcome.UNKNOWN:
        return Fate.REPEATED
    if outcome is Outcome.ANSWER:
        return Fate.REPORTED if action == "5xx" else Fate.RETRIED
    return Fate.DELIVERED


def action_at(step: str, action: str) -> Action:
    return DEAF if (step, action) == ("body", "hang") else ACTIONS[action]
