"""MTA-STS policies of domains: found by DNS, fetched by HTTPS, kept on disk as long as they hold (RFC 8461).

    no record, a bad one, or it can't be asked for    what is kept and still holds goes on; else there is no policy
    a record with the id that is kept                 what is kept
    another id                                        fetched; if that fails, what is kept and still holds goes on

- A policy that holds is never dropped because a fetch failed, nor by a restart: whoever can keep us from the policy host could
  otherwise have mail in clear text. Without one, failing to fetch is as no policy, and is not tried again for `PAUSE`.
- A policy that is in use is fetched anew before it ends: each day, or when half of its time is over, without anybody waiting.
- The certificate of the policy host is verified against the system's authorities and its name; there are no redirects, no more
  than 64 KiB, no more than ``patience`` seconds (section 3.3).
- A domain is asked about once at a time, whoever waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from mailgate.adapters import Adapters
from mailgate.dns.answer import Status
from mailgate.dns.failure import DnsFailure
from mailgate.dns.resolver import Resolver, texts
from mailgate.events import Event, EventLog
from mailgate.net.waiting import DeadlineExceeded, Wait, spawn, within
from mailgate.outbound.sts_policy import BadPolicy, Mode, StsPolicy, Trouble, parse_policy, policy_id

PAUSE = 300.0
"""Seconds before a domain is tried again whose policy could not be fetched."""
REFRESH = 86400.0
MAX_KEPT = 10_000
"""Domains in memory; what was not used for longest goes first, and is found on disk again."""


class FetchFailed(Exception):
    """There is no policy where one was announced."""

    def __init__(self, reason: str, trouble: Trouble = Trouble.FETCH) -> None:
        super().__init__(reason)
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class Missing:
    """The policy of a domain could not be had."""

    trouble: Trouble
    reason: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A policy that was fetched."""

    policy: StsPolicy
    identity: str
    content: str
    since: float
    """Wall time of the fetch."""

    @property
    def until(self) -> float:
        return self.since + self.policy.max_age


class PolicyFiles:
    """Policies on disk, one file for each domain. Blocking: called in threads."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def _path(self, domain: str) -> str:
        return os.path.join(self._directory, hashlib.sha256(domain.encode()).hexdigest()[:40] + ".json")

    def load(self, domain: str) -> Kept | None:
        """What was kept; whatever is wrong with the file, it is as if there were none."""
        try:
            with open(self._path(domain), encoding="utf-8") as file:
                found = json.load(file)
            if found["domain"] != domain:
                return None
            content = str(found["policy"])
            return Kept(parse_policy(content.encode()), str(found["id"]), content, float(found["since"]))
        except (OSError, ValueError, KeyError, TypeError, BadPolicy):
            return None

    def save(self, domain: str, kept: Kept) -> None:
        """:raises OSError: it can't be written."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        text = json.dumps({"domain": domain, "id": kept.identity, "since": kept.since, "policy": kept.content})
        handle, path = tempfile.mkstemp(dir=self._directory, prefix="new-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(path, self._path(domain))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise

    def sweep(self, now: float) -> None:
        """Remove what holds no more."""
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(self._directory)):
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError, BadPolicy):
                    with open(entry.path, encoding="utf-8") as file:
                        found = json.load(file)
                    if float(found["since"]) + parse_policy(str(found["policy"]).encode()).max_age <= now:
                        os.unlink(entry.path)


class WithoutFiles(PolicyFiles):
    """For those who only look: what was kept in a directory is read ("": nothing was), nothing is written."""

    def load(self, domain: str) -> Kept | None:
        return super().load(domain) if self._directory else None

    def save(self, domain: str, kept: Kept) -> None:
        pass

    def sweep(self, now: float) -> None:
        pass


class PolicyStore:
    """See the module's docstring. ``fetch(domain)`` gives an awaitable of the octets of a policy, and raises `FetchFailed`."""

    def __init__(
        self,
        resolver: Resolver,
        fetch: Callable[[str], Any],
        files: PolicyFiles,
        adapters: Adapters,
        log: EventLog,
        *,
        patience: float,
    ) -> None:
        self._resolver = resolver
        self._fetch = fetch
        self._files = files
        self._adapters = adapters
        self._log = log
        self._patience = patience
        self._kept: OrderedDict[str, Kept | None] = OrderedDict()
        """None: nothing is on disk either."""
        self._paused: OrderedDict[tuple[str, str], float] = OrderedDict()
        """Domain and id of what could not be fetched, and until when it is left."""
        self._missing: OrderedDict[str, Missing] = OrderedDict()
        self._asking: dict[str, list[Wait[StsPolicy | None]]] = {}
        self._tasks: set[Deferred[Any]] = set()

    async def policy(self, domain: str) -> StsPolicy | None:
        """The policy that holds for a domain, None without one."""
        waiting: Wait[StsPolicy | None] = Wait()
        if domain in self._asking:
            self._asking[domain].append(waiting)
        else:
            self._asking[domain] = [waiting]
            self._run(self._ask(domain))
        return await waiting

    def missing(self, domain: str) -> Missing | None:
        """What went wrong when its policy was fetched last; None if nothing did. `policy` was asked before."""
        return self._missing.get(domain)

    def sweep(self) -> None:
        """Remove files of policies that hold no more, some time."""
        self._run(self._in_thread(self._files.sweep, self._adapters.wall_time()))

    def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def _run(self, coroutine: Any) -> None:
        task = spawn(coroutine)
        self._tasks.add(task)

        def ended(result: Any) -> None:
            self._tasks.discard(task)
            if hasattr(result, "check") and not result.check(CancelledError):
                self._log.incident("mta-sts", result.value)

        task.addBoth(ended)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._adapters.run_in_thread(function, *args)

    async def _ask(self, domain: str) -> None:
        """On behalf of all who wait; their going away does not end it."""
        policy: StsPolicy | None = None
        error: BaseException | None = None
        try:
            policy = await self._find(domain)
        except BaseException as failure:
            error = failure
            raise
        finally:
            for waiting in self._asking.pop(domain):
                if waiting.done:
                    continue
                if error is None:
                    waiting.fire(policy)
                else:
                    waiting.fail(error)

    async def _find(self, domain: str) -> StsPolicy | None:
        now = self._adapters.wall_time()
        if domain in self._kept:
            kept = self._kept[domain]
        else:
            kept = await self._in_thread(self._files.load, domain)
        _remember(self._kept, domain, kept)
        if kept is not None and kept.until <= now:
            kept = None
        identity = await self._announced(domain)
        if not identity:
            self._missing.pop(domain, None)
        if kept is not None and identity == kept.identity:
            if now - kept.since > min(REFRESH, kept.policy.max_age / 2) and not self._is_paused(domain, identity):
                self._run(self._renew(domain, identity))
        elif identity and not self._is_paused(domain, identity):
            kept = await self._renew(domain, identity) or kept
        return None if kept is None else kept.policy

    def _is_paused(self, domain: str, identity: str) -> bool:
        return self._paused.get((domain, identity), 0.0) > self._adapters.wall_time()

    async def _announced(self, domain: str) -> str:
        try:
            answer = await self._resolver.txt(f"_mta-sts.{domain}")
        except DnsFailure as failure:
            self._log.info(Event.MTA_STS, domain=domain, result="not announced", reason=str(failure))
            return ""
        return policy_id(texts(answer)) if answer.status is Status.FOUND else ""

    async def _renew(self, domain: str, identity: str) -> Kept | None:
        """What is fetched is kept; None if there is nothing to be had."""
        try:
            content: bytes = await within(self._fetch(domain), self._patience, self._adapters.reactor)
            policy = parse_policy(content)
        except (FetchFailed, BadPolicy, DeadlineExceeded) as error:
            trouble = error.trouble if isinstance(error, FetchFailed) else Trouble.FETCH
            trouble = Trouble.INVALID if isinstance(error, BadPolicy) else trouble
            self._log.warn(Event.MTA_STS, domain=domain, result="not fetched", reason=str(error))
            _remember(self._missing, domain, Missing(trouble, str(error)))
            _remember(self._paused, (domain, identity), self._adapters.wall_time() + PAUSE)
            return None
        kept = Kept(policy, identity, content.decode(), self._adapters.wall_time())
        _remember(self._kept, domain, kept)
        self._missing.pop(domain, None)
        self._log.info(Event.MTA_STS, domain=domain, result=policy.mode.value, reason=f"id {identity}")
        try:
            await self._in_thread(self._files.save, domain, kept)
        except OSError as error:
            self._log.warn(Event.MTA_STS, domain=domain, result="not kept", reason=error.strerror or str(error))
        return kept


def _remember(known: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MAX_KEPT:
        known.popitem(last=False)


def enforced(policy: StsPolicy | None) -> StsPolicy | None:
    """The policy if it binds us."""
    return policy if policy is not None and policy.mode is Mode.ENFORCE else None
