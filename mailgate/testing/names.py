"""A name server in memory, on real UDP and TCP sockets: what it says is written by the test, and so is how it misbehaves.

    server = NameServer(reactor)
    server.add("example.org", "MX", "10 mx1.example.org.", "20 mx2.example.org.")
    server.add("mx1.example.org", "A", "127.0.0.11")
    server.script("bad.example.org", "MX", Action.SERVFAIL)
    resolver = server.resolver(random)
    await server.stop()

It answers as a recursive server does: aliases are followed, a name without data is denied with an SOA. ``queries`` has what
was asked. A script's actions are done one per question, the last one for ever.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from mailgate.dns.failure import Bogus, ServerFailure, Timeout
from mailgate.dns.resolver import Resolver
from mailgate.dns.system import NO_HOSTS, Hosts
from mailgate.dns.txdnspython import Reply, Schedule, Server, Transport
from mailgate.dns.wire import Question, decode
from mailgate.net.waiting import Wait

NEGATIVE_TTL = 60
DEFAULT_SCHEDULE = Schedule()
SILENCE = 5.0
"""Seconds after which `MemoryNames` gives up where nothing comes."""


class Action(Enum):
    """What a scripted question meets."""

    ANSWER = "as usual"
    SILENCE = "nothing comes"
    SERVFAIL = "SERVFAIL"
    REFUSED = "REFUSED"
    FORMERR = "FORMERR"
    BOGUS = "SERVFAIL, with the reason that validation failed"
    LAME = "a referral"
    TRUNCATE = "a truncated response by UDP, the whole one by TCP"
    SPOOF = "wrong ids and wrong questions first, then the answer"
    FLOOD = "wrong ids without end"
    GARBAGE = "the right id and question, and then nonsense"
    NO_SOA = "NODATA without SOA"
    OPEN_ALIAS = "the first alias alone"


_RCODES = {
    Action.SERVFAIL: dns.rcode.SERVFAIL,
    Action.REFUSED: dns.rcode.REFUSED,
    Action.FORMERR: dns.rcode.FORMERR,
    Action.BOGUS: dns.rcode.SERVFAIL,
}
_FLOOD = 100
_SPOOFS = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """One question as it came."""

    name: str
    kind: str
    by: str
    """udp or tcp"""
    ident: int
    port: int
    """The client's."""
    edns: bool


class Zone:
    """What is known, and what was asked. ``secure`` sets AD in the answers."""

    def __init__(self, *, secure: bool = False) -> None:
        self.secure = secure
        self.queries: list[Asked] = []
        self._records: dict[tuple[str, str], dns.rrset.RRset] = {}
        self._names: set[str] = set()
        self._scripts: dict[tuple[str, str], list[Action]] = {}

    def add(self, name: str, kind: str, *records: str, ttl: int = 300) -> None:
        """Records in the form of a zone file; names in them end in a dot."""
        self._records[name.lower(), kind] = dns.rrset.from_text(name + ".", ttl, "IN", kind, *records)
        labels = name.lower().split(".")
        self._names.update(".".join(labels[number:]) for number in range(len(labels)))

    def remove(self, name: str, kind: str) -> None:
        self._records.pop((name.lower(), kind), None)

    def script(self, name: str, kind: str, *actions: Action) -> None:
        self._scripts[name.lower(), kind] = list(actions)

    def asked(self, name: str, kind: str = "") -> int:
        """How often it was asked."""
        return sum(query.name == name.lower() and kind in ("", query.kind) for query in self.queries)

    def respond(self, wire: bytes, by: str, port: int) -> list[bytes]:
        """The datagrams that answer one."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        self.queries.append(Asked(name, kind, by, query.id, port, query.edns >= 0))
        script = self._scripts.get((name, kind), [Action.ANSWER])
        action = script.pop(0) if len(script) > 1 else script[0]
        response = dns.message.make_response(query, recursion_available=action is not Action.LAME)
        if action is Action.SILENCE:
            return []
        if action in _RCODES:
            response.set_rcode(_RCODES[action])
            if action is Action.BOGUS:
                response.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS)])
            return [response.to_wire()]
        if action is Action.LAME:
            response.authority.append(dns.rrset.from_text("org.", 300, "IN", "NS", "a.gtld.example."))
            return [response.to_wire()]
        self._fill(response, question.name, kind, action)
        whole = response.to_wire(max_size=65535, want_shuffle=False)
        limit = max(query.payload, 512)
        if by == "udp" and (action is Action.TRUNCATE or len(whole) > limit):
            response.flags |= dns.flags.TC
            response.answer.clear()
            return [response.to_wire()]
        if action is Action.GARBAGE:
            return [whole[: 12 + len(name) + 6] + b"\xc0"]
        if action in (Action.SPOOF, Action.FLOOD) and by == "udp":
            wrong = _wrong(whole, _FLOOD if action is Action.FLOOD else _SPOOFS)
            return wrong if action is Action.FLOOD else [*wrong, whole]
        return [whole]

    def _fill(self, response: dns.message.Message, name: dns.name.Name, kind: str, action: Action) -> None:
        if self.secure:
            response.flags |= dns.flags.AD
        text = name.to_text(omit_final_dot=True).lower()
        for _ in range(16):
            if rrset := self._records.get((text, kind)):
                response.answer.append(rrset)
                return
            alias = self._records.get((text, "CNAME"))
            if alias is None:
                break
            response.answer.append(alias)
            if action is Action.OPEN_ALIAS:
                return
            text = alias[0].target.to_text(omit_final_dot=True).lower()
        else:
            return
        if text not in self._names:
            response.set_rcode(dns.rcode.NXDOMAIN)
        if action is not Action.NO_SOA:
            soa = f"ns.example. hostmaster.example. 1 7200 3600 604800 {NEGATIVE_TTL}"
            response.authority.append(dns.rrset.from_text(".", 3600, "IN", "SOA", soa))


class NameServer(Zone):
    """See the module's docstring; a `Zone` on sockets. Every answer comes ``delay`` seconds late."""

    def __init__(
        self, reactor: Any, host: str = "127.0.0.1", *, tcp: bool = True, secure: bool = False, delay: float = 0.0
    ) -> None:
        super().__init__(secure=secure)
        self.host = host
        self.delay = delay
        self._reactor = reactor
        self._ports: list[Any] = []
        self._pending: set[Any] = set()
        self.port = self._listen(tcp)

    def _listen(self, tcp: bool) -> int:
        for _ in range(20):
            datagrams = self._reactor.listenUDP(0, _Datagrams(self), interface=self.host)
            port: int = datagrams.getHost().port
            self._ports = [datagrams]
            if not tcp:
                return port
            factory = Factory.forProtocol(_Stream)
            factory.noisy = False
            factory.server = self  # type: ignore[attr-defined]
            try:
                self._ports.append(self._reactor.listenTCP(port, factory, interface=self.host))
            except CannotListenError:
                datagrams.stopListening()
                continue
            return port
        raise RuntimeError("no port is free for both UDP and TCP")

    @property
    def server(self) -> Server:
        return Server(self.host, self.port, trusted=self.secure)

    def resolver(
        self, random: Random, *, schedule: Schedule = DEFAULT_SCHEDULE, cache: int = 1 << 20, hosts: Hosts = NO_HOSTS
    ) -> Resolver:
        """A resolver that asks this server alone."""
        transport = Transport([self.server], self._reactor, random, schedule)
        return Resolver(transport, self._reactor.seconds, cache=cache, hosts=hosts)

    async def stop(self) -> None:
        for call in self._pending:
            if call.active():
                call.cancel()
        ports, self._ports = self._ports, []
        for port in ports:
            await port.stopListening()

    # inside

    def later(self, send: Any, wires: list[bytes]) -> None:
        for wire in wires:
            if self.delay:
                self._pending.add(self._reactor.callLater(self.delay, send, wire))
            else:
                send(wire)


class MemoryNames(Zone):
    """A `Zone` without sockets, for simulated reactors: give it to a `Resolver` in place of a transport."""

    def __init__(self, reactor: Any, *, secure: bool = True, latency: float = 0.01) -> None:
        super().__init__(secure=secure)
        self._reactor = reactor
        self._latency = latency

    @property
    def trusted(self) -> bool:
        return True

    def resolver(self, *, cache: int = 1 << 20, hosts: Hosts = NO_HOSTS) -> Resolver:
        return Resolver(self, self._reactor.seconds, cache=cache, hosts=hosts)

    def ask(self, question: Question) -> Wait[Reply]:
        waiting: Wait[Reply] = Wait()
        wires = self.respond(question.encode(1), "memory", 0)
        self._reactor.callLater(self._latency if wires else SILENCE, self._answer, waiting, question, wires)
        return waiting

    def _answer(self, waiting: Wait[Reply], question: Question, wires: list[bytes]) -> None:
        if waiting.done:
            return
        if not wires:
            waiting.fail(Timeout(question.text, question.kind, "no answer"))
            return
        response = decode(wires[-1], question, 1)
        if response.rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            waiting.fire(Reply(response, Server("127.0.0.1", trusted=True)))
        else:
            kind = Bogus if response.bogus else ServerFailure
            waiting.fail(kind(question.text, question.kind, dns.rcode.to_text(dns.rcode.Rcode.make(response.rcode))))


def _wrong(wire: bytes, count: int) -> list[bytes]:
    """Answers as a stranger guesses them: wrong ids, and the right id with another question."""
    ident = int.from_bytes(wire[:2], "big")
    guesses = [struct.pack("!H", (ident + number) % 65536) + wire[2:] for number in range(1, count)]
    return [*guesses, wire[:13] + b"X" + wire[14:]]


class _Datagrams(DatagramProtocol):
    noisy = False

    def __init__(self, server: NameServer) -> None:
        self._server = server

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        wires = self._server.respond(datagram, "udp", addr[1])
        self._server.later(lambda wire: self._send(wire, addr), wires)

    def _send(self, wire: bytes, addr: Any) -> None:
        if self.transport is not None:
            self.transport.write(wire, addr)


class _Stream(Protocol):
    _buffer = b""

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < 2 or len(self._buffer) < 2 + int.from_bytes(self._buffer[:2], "big"):
            return
        server: NameServer = self.factory.server
        wires = server.respond(self._buffer[2:], "tcp", self.transport.getPeer().port)  # type: ignore[union-attr]
        self._buffer = b""
        server.later(self._send, wires)

    def _send(self, wire: bytes) -> None:
        self.transport.write(struct.pack("!H", len(wire)) + wire)  # type: ignore[union-attr]
