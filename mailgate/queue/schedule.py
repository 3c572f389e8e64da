"""When an attempt is made again, when its sender hears of the delay, and when it is given up: pure functions of a recipient.

`judge` makes the next row of a recipient from its last one and the reply it got. The rules (docs/queue.md):

- 2yz: done. 5yz: failed for good. Anything else is tried again.
- The n-th retry comes after the n-th step of ``retry``, the last step repeats; each is spread by 10 %, so that what failed
  together does not come back together. A peer that says "try again in 300 seconds" is believed, up to an hour.
- The class of the failure (`class_of`) bends the step: greylisting is over after minutes, so its first retries come sooner; a
  peer that limits our rate gets at least `RATE_PAUSE`.
- Waiting for a limit of our own (a connection, a rate) is no attempt: it comes back soon, and nothing is counted.
- A recipient is given up when it is older than ``expire`` and this attempt was a real one. So a clock that jumps expires nothing
  by itself: somebody was asked, now, and said no.
- A report that is refused for now follows the same steps, and is given up when it was refused for as long as ``expire``.
- The k-th report of delay is due when the recipient is older than the k-th step of ``notify`` and an attempt has just failed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from mailgate.outbound.failure import Kind, Trouble, kind_of
from mailgate.outbound.limited import LOCAL_LIMIT
from mailgate.outbound.routes import NOT_ALLOWED
from mailgate.queue.entry import NO_WAY, Fate, LastTry, Standing, Waiting, Way
from mailgate.smtp.parameters import MailParameters
from mailgate.smtp.reply import Reply
from mailgate.values import value

RETRY = (120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0)
NOTIFY = (86400.0, 3 * 86400.0)
EXPIRE = 5 * 86400.0

SPREAD = 0.1
BELIEVED = 3600.0
"""Seconds up to which a peer's own idea of when to come again is followed."""
GREYLIST_STEPS = (60.0, 300.0, 600.0)
"""What greylisting asks for: minutes, then the usual schedule."""
RATE_PAUSE = 300.0
LOCAL_PAUSE = 10.0
"""After a limit of our own."""
RETRY_AT_ONCE = Reply(451, "4.3.2", "Waiting for a limit of this gateway")

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_LATER = re.compile(
    r"(?:try(?:ing)?|retry|come back|again|wait|delayed|expires?)\b[^0-9]{0,40}?"
    r"(\d{1,6})\s*(s|m|h)(?:ecs?|econds?|ins?|inutes?|rs?|ours?)?\b",
    re.IGNORECASE,
)


class Class(Enum):
    """Classes of temporary failure (docs/delivery.md); the value stands in rows and logs."""

    CONNECTION = "connection"
    TLS = "tls"
    DANE = "dane"
    MTA_STS = "mta-sts"
    DNS = "dns"
    AUTH = "auth"
    MAILBOX = "mailbox"
    GREYLIST = "greylist"
    RATE = "rate"
    SYSTEM = "system"
    LOCAL = "local"
    """A limit of our own: not an attempt."""


_BY_STATUS = (
    ("4.4.3", Class.DNS),
    ("4.4.4", Class.DNS),
    ("4.4.", Class.CONNECTION),
    ("4.7.1", Class.GREYLIST),
    ("4.7.4", Class.TLS),
    ("4.7.5", Class.TLS),
    ("4.7.8", Class.AUTH),
    ("4.7.0", Class.RATE),
    ("4.2.", Class.MAILBOX),
    ("4.3.", Class.SYSTEM),
)
"""By the beginning of the enhanced code, the longest first."""
_BY_KIND = {
    **dict.fromkeys(
        (Kind.CONNECT, Kind.LOST, Kind.TIMEOUT, Kind.GARBAGE, Kind.CLOSING, Kind.SESSION, Kind.TOTAL), Class.CONNECTION
    ),
    **dict.fromkeys((Kind.TLS, Kind.NO_TLS), Class.TLS),
    Kind.DANE: Class.DANE,
    **dict.fromkeys((Kind.STS, Kind.STS_NO_TLS), Class.MTA_STS),
    **dict.fromkeys((Kind.AUTH, Kind.LOGIN, Kind.XCLIENT), Class.AUTH),
    Kind.LEASE: Class.LOCAL,
    **dict.fromkeys((Kind.LOCAL, Kind.SOURCE), Class.SYSTEM),
}
"""Failures before the envelope was answered, by what failed (docs/delivery.md)."""
_BY_IDENTITY = {id(RETRY_AT_ONCE): Class.LOCAL, id(LOCAL_LIMIT): Class.LOCAL, id(NOT_ALLOWED): Class.MTA_STS}
"""What else our own side says."""
_DESTINATION = frozenset({Class.CONNECTION, Class.TLS, Class.DANE, Class.MTA_STS, Class.DNS, Class.AUTH})
"""What says something about the way there, and so about every message to the same destination."""
_PERSONAL = frozenset({Kind.LOGIN, Kind.XCLIENT})
"""What a next hop holds against a client of ours, not against us."""


def class_of(reply: Reply) -> Class:
    """What a temporary reply is about."""
    ours = _BY_IDENTITY.get(id(reply))
    if ours is not None:
        return ours
    kind = kind_of(reply)
    if isinstance(reply, Trouble) and reply.answer.code == 421:
        return _class_of_421(reply.answer.enhanced)
    if kind is not None:
        return _BY_KIND.get(kind, Class.SYSTEM)
    status = reply.enhanced
    if reply.code == 450 and not status.startswith(("4.2.", "4.4.")):
        return Class.GREYLIST
    if reply.code == 421:
        return _class_of_421(status)
    for beginning, found in _BY_STATUS:
        if status == beginning or (beginning.endswith(".") and status.startswith(beginning)):
            return found
    return Class.SYSTEM


def _class_of_421(status: str) -> Class:
    """A host that closes because it is going down, or because we ask too much of it."""
    return Class.CONNECTION if status.startswith(("4.3.", "4.4.")) else Class.RATE


def is_about_the_way(reply: Reply, *, remote: bool) -> bool:
    """Whether others who wait for the same destination need not be tried now. What a next hop says of an envelope or a content,
    ``remote``, is about that, whatever its code: a sender whose domain it can't look up must not stop everybody's mail."""
    kind = kind_of(reply)
    if kind is not None:
        return kind not in _PERSONAL and _BY_KIND.get(kind) in _DESTINATION
    return not remote and reply.is_temporary and concerns_destination(class_of(reply))


def concerns_destination(kind: Class) -> bool:
    """Whether such a failure says something about the way there."""
    return kind in _DESTINATION


@value
class Plan:
    """The schedule of one message, as its settings say it now. Seconds."""

    retry: tuple[float, ...] = RETRY
    notify: tuple[float, ...] = NOTIFY
    expire: float = EXPIRE

    @property
    def quiet(self) -> float:
        """The age before which nobody hears of a recipient that just waits."""
        return min((*self.notify, self.expire))


def as_asked(plan: Plan, parameters: MailParameters) -> Plan:
    """The schedule as the message's own wishes bend it: what was held does not count (RFC 4865), and who wants it returned when
    it is late (RFC 2852), or wants to hear of that, need not wait for our own times."""
    held, by = float(parameters.hold_for or 0), parameters.by
    if held:
        plan = Plan(plan.retry, tuple(age + held for age in plan.notify), plan.expire + held)
    if by is not None and by.returns:
        return replace(plan, expire=min(plan.expire, float(by.seconds)))
    if by is not None:
        return replace(plan, notify=tuple(sorted({*plan.notify, max(float(by.seconds), 0.0)})))
    return plan


@value
class Verdict:
    """What becomes of a recipient. ``row`` is None when nothing is left to do; ``notify`` asks for a report of delay."""

    row: Waiting | None
    kind: Class | None = None
    fate: Fate | None = None
    expired: bool = False
    notify: bool = False
    until: float = 0.0
    """With ``notify``: when it will be given up."""


def judge(
    row: Waiting,
    reply: Reply,
    plan: Plan,
    *,
    arrived: float,
    now: float,
    chance: random.Random,
    way: Way = NO_WAY,
    remote: bool = True,
) -> Verdict:
    """What one reply makes of one recipient."""
    if reply.is_success:
        return Verdict(None, fate=Fate.RELAYED)
    kind = None if reply.is_permanent else class_of(reply)
    if kind is Class.LOCAL:
        return Verdict(replace(row, due=now + _spread(LOCAL_PAUSE, chance)), kind)
    last = LastTry(now, reply.code, reply.enhanced, reply.text, kind.value if kind is not None else "", remote=remote, way=way)
    tried = replace(row, retries=row.retries + 1, last=last)
    if kind is None:
        return Verdict(replace(tried, standing=Standing.OWED, fate=Fate.FAILED, due=now), None, Fate.FAILED)
    age = now - arrived
    if age >= plan.expire:
        return Verdict(replace(tried, standing=Standing.OWED, fate=Fate.FAILED, due=now), kind, Fate.FAILED, expired=True)
    words = reply.answer.text if isinstance(reply, Trouble) else reply.text
    due = now + pause(tried.retries, kind, words, plan.retry, chance)
    # The last attempt comes when the time is over, not one step later: its sender should hear of it.
    due = min(due, max(arrived + plan.expire, now + plan.retry[0]))
    return Verdict(replace(tried, due=due), kind, notify=_is_late(row, age, plan.notify), until=arrived + plan.expire)


def judge_unasked(row: Waiting, last: LastTry, plan: Plan, *, arrived: float, now: float) -> Verdict | None:
    """What it means for a recipient that its destination was asked, for another one, and could not be reached; None: nothing.

    It was no attempt of its own, so nothing is counted; but neither does it wait for ever in a long line."""
    age = now - arrived
    if age >= plan.expire:
        return Verdict(
            replace(row, standing=Standing.OWED, fate=Fate.FAILED, due=now, last=last), None, Fate.FAILED, expired=True
        )
    if _is_late(row, age, plan.notify):
        return Verdict(replace(row, last=last), None, notify=True, until=arrived + plan.expire)
    return None


def judge_report(row: Waiting, reply: Reply, plan: Plan, *, now: float, chance: random.Random) -> Waiting:
    """What is left of a recipient whose report was refused for now: OWED later, or HELD, as long as a message would be tried."""
    since = row.owed_since or now
    tried = replace(row, reports=row.reports + 1, owed_since=since)
    if now - since >= plan.expire:
        return replace(tried, standing=Standing.HELD, reason=f"its report was refused too long: {reply}")
    due = now + pause(tried.reports, class_of(reply), reply.text, plan.retry, chance)
    return replace(tried, due=min(due, max(since + plan.expire, now + plan.retry[0])))


def pause(attempts: int, kind: Class, text: str, steps: Sequence[float], chance: random.Random) -> float:
    """Seconds until the next attempt, after so many."""
    told = told_to_wait(text)
    if told is not None:
        return told + _spread(1.0, chance)
    step = steps[min(attempts, len(steps)) - 1]
    if kind is Class.GREYLIST and attempts <= len(GREYLIST_STEPS):
        step = min(step, GREYLIST_STEPS[attempts - 1])
    elif kind is Class.RATE:
        step = max(step, RATE_PAUSE)
    return _spread(step, chance)


def told_to_wait(text: str) -> float | None:
    """The seconds that a reply asks us to wait, if it does and they are believable."""
    found = _LATER.search(text)
    if found is None:
        return None
    seconds = int(found.group(1)) * _UNITS[found.group(2).lower()]
    return seconds if 1 <= seconds <= BELIEVED else None


def _is_late(row: Waiting, age: float, notify: Sequence[float]) -> bool:
    return row.notified < len(notify) and age >= notify[row.notified]


def _spread(seconds: float, chance: random.Random) -> float:
    return seconds * (1 + SPREAD * (2 * chance.random() - 1))
