"""`counter.redis`: limits of several workers and nodes, counted by a Redis server.

A rate is one number, as in `limits.buckets`: the time at which its bucket will be full again. Slots are a sorted set of holders
with the time at which each ends unless it is renewed, so that those of a node that died are free again after `LIFE` seconds. A
script takes all lines of a question or none of them, by the server's clock; keys that nobody asks for expire. A question whose
answer was lost is put again (`clients.threads`); it is counted once, since what it took stands under its holder for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.internet.task import LoopingCall
from zope.interface import implementer

from mailgate.clients.redis_link import RedisLink
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Directive
from mailgate.events import Event, EventLog
from mailgate.interfaces import ICounter
from mailgate.limits.shared import Ask, Taken
from mailgate.modules._redis import RedisModule
from mailgate.net.waiting import spawn
from mailgate.registry import ModuleContext

LIFE = 60.0
"""Seconds after which a slot that nobody renews is free."""
RENEWAL = LIFE / 3
_MICRO = 1_000_000

# KEYS are those of the asks, and last that of this question; ARGV the holder, the life of a slot, then of each ask count, period
# and patience (0 for slots), and last for how long the question may be put again. Times are microseconds. Answers the number of
# the ask that is not met (1…) or 0, and the longest delay.
TAKE = """
local question = KEYS[#KEYS]
local taken = redis.call('GET', question)
if taken then return {0, taken} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local delay = 0
local full = {}
for i = 1, #KEYS - 1 do
    local key = KEYS[i]
    local count, period, patience = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
    if period > 0 then
        local at = math.min(tonumber(redis.call('GET', key) or 0), now + period + patience)
        at = math.max(at, now) + period / count
        local wait = at - now - period
        if wait > patience + period / count / 1000 then return {i, 0} end
        if wait > delay then delay = wait end
        full[i] = at
    else
        redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
        if redis.call('ZCARD', key) >= count then return {i, 0} end
    end
end
for i = 1, #KEYS - 1 do
    local key = KEYS[i]
    if full[i] then
        redis.call('SET', key, string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 1000) + 1)
    else
        redis.call('ZADD', key, now + ARGV[2], ARGV[1])
        redis.call('PEXPIRE', key, math.ceil(ARGV[2] / 1000))
    end
end
local answer = string.format('%.0f', delay)
redis.call('SET', question, answer, 'PX', math.ceil(ARGV[#ARGV] / 1000))
return {0, answer}
"""
RENEW = """
local time = redis.call('TIME')
local until_ = time[1] * 1000000 + time[2] + ARGV[2]
for _, key in ipairs(KEYS) do
    redis.call('ZADD', key, 'XX', until_, ARGV[1])
    redis.call('PEXPIRE', key, math.ceil(ARGV[2] / 1000))
end
return 0
"""

_log = EventLog("mailgate.limits")


@implementer(ICounter)
class RedisCounter(RedisModule):
    """Counts for `limits { shared … }`: all gateways that name the same server, database and prefix count together."""

    name = "counter.redis"
    prefix = Directive("prefix", v.String("TEXT"), default="mailgate", doc="What our keys begin with.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._held: dict[str, Taken] = {}
        self._renewing: LoopingCall | None = None

    def configure(self, report: Report) -> None:
        super().configure(report)
        if not self.prefix.isprintable() or not self.prefix or "{" in self.prefix or "}" in self.prefix:
            report.error(self.span_of("prefix"), "a prefix is printable text without braces", code="E0847")

    async def start(self) -> None:
        assert self.context.adapters is not None
        self._renewing = LoopingCall(self._renew)
        self._renewing.clock = self.context.adapters.reactor
        self._renewing.start(RENEWAL, now=False)

    async def stop(self) -> None:
        if self._renewing is not None and self._renewing.running:
            self._renewing.stop()
        await super().stop()

    async def take(self, asks: Sequence[Ask]) -> Taken:
        """See `ICounter`. The keys of one question are in one slot of a cluster: their prefix is the hash tag."""
        assert self.context.adapters is not None
        holder = f"{self.context.adapters.random.getrandbits(64):016x}"
        keys = [f"{{{self.prefix}}}:{ask.key}" for ask in asks]
        arguments: list[Any] = [holder, int(LIFE * _MICRO)]
        for ask in asks:
            arguments += [ask.count, int(ask.period * _MICRO), int(ask.patience * _MICRO)]
        arguments.append(int(self.threads.deadline * _MICRO))
        question = f"{{{self.prefix}}}:question {holder}"
        refused, delay = await self.threads.ask(partial(_evaluate, script=TAKE, keys=[*keys, question], arguments=arguments))
        if refused:
            return Taken(int(refused) - 1)
        slots = tuple(key for key, ask in zip(keys, asks, strict=True) if not ask.period)
        taken = Taken(-1, int(delay) / _MICRO, holder, slots)
        if slots:
            self._held[holder] = taken
        return taken

    def give_back(self, taken: Taken) -> None:
        """What can't be given back now is free after `LIFE` seconds, since nobody renews it."""
        if self._held.pop(taken.holder, None) is not None:
            spawn(self.threads.ask(partial(_give_back, taken=taken))).addErrback(self._failed)

    async def _renew_all(self) -> None:
        for holder, taken in list(self._held.items()):
            arguments = [holder, int(LIFE * _MICRO)]
            await self.threads.ask(partial(_evaluate, script=RENEW, keys=list(taken.keys), arguments=arguments))

    def _renew(self) -> None:
        if self._held:
            spawn(self._renew_all()).addErrback(self._failed)

    def _failed(self, failure: Any) -> None:
        _log.warn(Event.LIMITS_LATE, counter=self.label, reason=str(failure.value))


def _evaluate(link: RedisLink, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
    return link.script(script)(keys=keys, args=arguments)


def _give_back(link: RedisLink, taken: Taken) -> None:
    for key in taken.keys:
        link.client.zrem(key, taken.holder)
