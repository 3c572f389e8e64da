"""From which of our addresses connections are made, and under which name: as the configuration writes it.

Constant addresses are chosen from for each new connection. What depends on the message (a dynamic `source_ip` or `hostname`,
`source_selection hash(…)`) is put into the key of the connection, so that no message goes over one that was made for another.

A name is the target's `hostname`, else that of the `source_address`, else the gateway's. Where it depends on ``local_ip`` and the
endpoint is given by name, so that its family is not known yet, there is one name for the address of each family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from random import Random
from typing import Any

from mailgate.config import values as v
from mailgate.config.dynamic import Dynamic, alternatives
from mailgate.config.dynamic_variables import Stage, outbound
from mailgate.config.schema import Block, Directive
from mailgate.outbound.choice_or_hash import ChoiceOrHash
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.host_names import is_ehlo_name
from mailgate.outbound.source_address import SourceWord, sources_of
from mailgate.outbound.source_policy import SourcePolicy
from mailgate.outbound.sources import Selection, Source, choose
from mailgate.outbound.written import Written
from mailgate.registry import Report
from mailgate.smtp.reply import TemporaryError

_FAMILIES = ("0.0.0.0", "::")
"""Stand for any address of theirs."""


class SourceSettings(Block):
    """From where connections are made, and under which name."""

    hostname = Directive(
        "hostname",
        v.String("NAME"),
        dynamic=outbound(Stage.SOURCE),
        doc="The name we say in EHLO or LHLO; that of the `source_address`, or the gateway's, by default.",
        origin="maddy",
    )
    source_ip = Directive(
        "source_ip",
        v.List(SourceWord()),
        default=(),
        dynamic=outbound(Stage.ADDRESS),
        doc="Our addresses, one of which each new connection is made from: one of the family that it goes to. The system chooses"
        " by default.",
        origin="halon",
    )
    source_selection = Directive(
        "source_selection",
        ChoiceOrHash("random", "round_robin"),
        default=v.Chosen("random"),
        doc="Which of several source addresses: by lot, in turn, or always the same for the same text, of sender, rcpt,"
        " rcpt_domain, client_ip, auth_user.",
        origin="stalwart",
    )
    source_ip_fallback = Directive(
        "source_ip_fallback",
        v.Boolean(),
        default=False,
        doc="Let the system choose for a family of which `source_ip` lists no address; otherwise such addresses are not used.",
    )
    nonlocal_source = Directive(
        "nonlocal_source",
        v.Boolean(),
        default=False,
        doc="`source_ip` may be an address that this host does not have: IP_TRANSPARENT where that is allowed, else IP_FREEBIND.",
        origin="halon",
    )


@dataclass(frozen=True, slots=True)
class EndpointSource:
    """``vary`` completes the keys of connections where something depends on the message."""

    policy: SourcePolicy | None
    hostname: str
    vary: tuple[Callable[[Any, Any], Any], ...] = ()


def report_source(block: SourceSettings, report: Report) -> bool:
    """What is wrong within one block, whatever else is written; False if something is."""
    fine = True
    for name, place in alternatives(block.hostname, block.span_of("hostname")):
        if name is not None and not is_ehlo_name(name):
            report.error(place, f"`{name}` can't be said in EHLO", code="E0736", hint="a domain, or an address in brackets")
            fine = False
    return fine


def endpoint_source(written: Written, scheme: str, hostname: str, random: Random) -> EndpointSource:
    """Of one endpoint of a target; ``hostname`` is the gateway's."""
    name = written.value("hostname")
    words = () if scheme == "unix" else written.value("source_ip")
    vary: list[Callable[[Any, Any], Any]] = []
    policy = None
    by_address = isinstance(name, Dynamic) and "local_ip" in name.names
    if words:
        selection = written.value("source_selection")
        maker = _Maker(written.value("nonlocal_source"), has_name=name is not None)
        policy = SourcePolicy(
            () if isinstance(words, Dynamic) else maker(words),
            Selection(selection.word),
            written.value("source_ip_fallback"),
            random,
        )
        text = selection.value.expression.call if selection.value is not None else None
        if isinstance(words, Dynamic) or text is not None or by_address:
            vary.append(_Sources(policy, words, maker, text, one_each=by_address or text is not None))
    if isinstance(name, Dynamic):
        vary.append(_Names(name, by_address=by_address))
        name = None
    return EndpointSource(policy, name or hostname, tuple(vary))


class _Maker:
    """From the words of `source_ip` to sources. With a `hostname` of the target's own, those of its sources don't count."""

    def __init__(self, foreign: bool, *, has_name: bool) -> None:
        self._foreign = foreign
        self._has_name = has_name

    def __call__(self, words: Any) -> tuple[Source, ...]:
        found = sources_of(words)
        return tuple(replace(s, foreign=self._foreign, hostname="" if self._has_name else s.hostname) for s in found)


class _Sources:
    """Completes a key by the sources that a message may be sent from: all of them, or (``one_each``) one of each family that the
    connection may be of, chosen now."""

    def __init__(
        self, policy: SourcePolicy, words: Any, maker: _Maker, text: Callable[[Any], str | None] | None, *, one_each: bool
    ) -> None:
        self._policy = policy
        self._words = words
        self._maker = maker
        self._text = text
        self._one_each = one_each

    def __call__(self, key: Any, variables: Any) -> Any:
        words = self._words
        if not isinstance(words, Dynamic):
            return self._complete(key, variables, self._policy.sources)
        if words.waits:
            return self._later(key, variables)
        return self._complete(key, variables, self._maker(words.value(variables)))

    async def _later(self, key: Any, variables: Any) -> Any:
        return self._complete(key, variables, self._maker(await self._words.value(variables)))

    def _complete(self, key: Any, variables: Any, sources: tuple[Source, ...]) -> Any:
        """:raises AttemptFailed: there is none."""
        if not self._one_each:
            return replace(key, sources=sources)
        remote = variables.remote_ip
        chosen = [
            source
            for address in (_FAMILIES if remote is None else (str(remote),))
            if (source := self._choose(sources, address, variables)) is not None
        ]
        if not chosen and not self._policy.fallback:
            raise AttemptFailed(Kind.SOURCE, "settings", f"`source_ip` lists no address of the family of {remote}")
        if len(chosen) == 1:
            variables.local_ip = ip_address(chosen[0].address)
        return replace(key, sources=tuple(chosen))

    def _choose(self, sources: tuple[Source, ...], remote: str, variables: Any) -> Source | None:
        policy = self._policy
        text = "" if self._text is None else self._text(variables) or ""
        found = choose(sources, remote, policy.selection, random=policy.random, turns=policy.turns, text=text)
        return found if found is not None and found.address else None


class _Names:
    """Completes a key by what is said in EHLO."""

    def __init__(self, name: Dynamic, *, by_address: bool) -> None:
        self._name = name
        self._by_address = by_address

    def __call__(self, key: Any, variables: Any) -> Any:
        if self._name.waits:
            return self._later(key, variables)
        if not self._by_address or not key.sources:
            return replace(key, hostname=checked_name(self._name.value(variables)))
        named = []
        for source in key.sources:
            variables.local_ip = ip_address(source.address)
            named.append(replace(source, hostname=checked_name(self._name.value(variables))))
        return replace(key, sources=tuple(named))

    async def _later(self, key: Any, variables: Any) -> Any:
        if not self._by_address or not key.sources:
            return replace(key, hostname=checked_name(await self._name.value(variables)))
        named = []
        for source in key.sources:
            variables.local_ip = ip_address(source.address)
            named.append(replace(source, hostname=checked_name(await self._name.value(variables))))
        return replace(key, sources=tuple(named))


def checked_name(name: str) -> str:
    """:raises TemporaryError: a computed name can't be said."""
    if not is_ehlo_name(name):
        raise TemporaryError("Temporary lookup failure", reason=f"`hostname` gave {name!r}, which can't be said in EHLO")
    return name
