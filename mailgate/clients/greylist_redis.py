"""What greylisting remembers, in a Redis server that several gateways share: the rules of `clients.greylist` as one script.

Triples are members of sorted sets, by the time of their first try (`pending`) or of their last message (`known`); networks have
such a set and their counts. A member is a digest, so that no addresses lie there. The script goes by the server's clock. Each
question removes some of what is over, and the oldest beyond `MOST`; all of it expires when nobody asks any more. A server that
has lost its memory knows nobody: everybody is asked to come back once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from mailgate.clients.greylist import MOST, Seen, Waiting
from mailgate.clients.redis_link import RedisLink

BATCH = 100
"""Members that one question removes at most, so that none takes long. It adds one."""

# KEYS: pending, known, networks, counts. ARGV: digest, network, delay, window, lifetime, allow_after, most, batch, and the time
# in a test.
SEEN = """
local pending, known, networks, counts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local digest, network = ARGV[1], ARGV[2]
local delay, window, lifetime = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local allow_after, most, batch = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local time = redis.call('TIME')
local now = tonumber(ARGV[9]) or time[1] + time[2] / 1000000

local function put(key, member, at)
    redis.call('ZADD', key, string.format('%.6f', at), member)
end

local function judged()
    local last = tonumber(redis.call('ZSCORE', networks, network) or nil)
    local passed = last and now < last + lifetime and tonumber(redis.call('HGET', counts, network)) or 0
    if allow_after > 0 and passed >= allow_after then
        put(networks, network, now)
        return 'allowed'
    end
    last = tonumber(redis.call('ZSCORE', known, digest) or nil)
    if last and now < last + lifetime then
        put(known, digest, now)
        return 'known'
    end
    local first = tonumber(redis.call('ZSCORE', pending, digest) or nil)
    if first then
        first = math.min(first, now)
        if now < first + delay then
            put(pending, digest, first)
            return 'early'
        end
        if now < first + window then
            redis.call('ZREM', pending, digest)
            put(known, digest, now)
            put(networks, network, now)
            redis.call('HSET', counts, network, passed + 1)
            return 'passed'
        end
    end
    put(pending, digest, now)
    return 'early'
end

local function remove(key, members)
    if #members > 0 then
        redis.call('ZREM', key, unpack(members))
        if key == networks then redis.call('HDEL', counts, unpack(members)) end
    end
    return #members
end

local function tidy(key, life)
    local over = string.format('(%.6f', now - life)
    remove(key, redis.call('ZRANGEBYSCORE', key, '-inf', over, 'LIMIT', 0, batch))
    redis.call('PEXPIRE', key, math.ceil(life * 1000))
end

local seen = judged()
tidy(pending, window)
tidy(known, lifetime)
tidy(networks, lifetime)
redis.call('PEXPIRE', counts, math.ceil(lifetime * 1000))
for _, key in ipairs({pending, known, networks}) do
    local excess = redis.call('ZCARD', key) - most
    if excess > 0 then remove(key, redis.call('ZRANGE', key, 0, math.min(excess, batch) - 1)) end
end
return seen
"""


class RedisGreylist:
    """``prefix`` begins all keys; who has the same one shares them. ``clock`` is a test's; the server's if there is none."""

    def __init__(self, prefix: str, waiting: Waiting, *, most: int = MOST, clock: Callable[[], float] | None = None) -> None:
        self._keys = [f"{{{prefix}}}:{name}" for name in ("pending", "known", "networks", "counts")]
        self._waiting = waiting
        self._most = most
        self._clock = clock

    def seen(self, link: RedisLink, network: str, sender: str, recipient: str) -> Seen:
        """In a thread."""
        waiting = self._waiting
        said = "\0".join((network, sender, recipient)).encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(said).hexdigest()[:32]
        times = (waiting.delay, waiting.window, waiting.lifetime, waiting.allow_after)
        now = repr(self._clock()) if self._clock is not None else ""
        arguments = [digest, network, *times, self._most, BATCH, now]
        return Seen(link.script(SEEN)(keys=self._keys, args=arguments))
