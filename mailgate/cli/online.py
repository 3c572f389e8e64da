"""`mailgate check --online`: is each next hop there, and does it speak as the configuration wants it to?

Every endpoint of every target is resolved, connected to, greeted, and taken through TLS as a delivery would be (the target's own
`Decision`, trust anchors and names; the dialogue is `ClientSession`'s), then QUIT: no MAIL, no AUTH, nothing is changed anywhere.
All at once, in threads of their own, each address with a deadline, the whole with another; a name server that never answers
leaves a thread behind, not us.

An endpoint without which its target could still deliver is a warning, a target without any that works is an error at each.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from OpenSSL import SSL

from mailgate.config.diagnostics import Diagnostic, Report
from mailgate.config.source import Span
from mailgate.dns.blocking import lookup
from mailgate.outbound.endpoint_settings import EndpointSettings
from mailgate.outbound.target import Downstream
from mailgate.outbound.tls_policy import OnFailure, Start
from mailgate.registry import Configuration
from mailgate.registry.names import ResolverBlock
from mailgate.smtp.client import ClientSession, Step
from mailgate.smtp.reply import Reply
from mailgate.smtp.sasl import Offer, SaslError
from mailgate.tls.pairs import explain
from mailgate.tls.verification import verify_chain, verify_peer

SECONDS = 10.0
"""For one address, from the first packet to QUIT."""
TOTAL = 20.0
"""For everything."""
GOODBYE = 2.0
"""For the answer to QUIT."""
MAX_ADDRESSES = 8
"""Addresses of one name that are tried."""
MAX_THREADS = 32
_READ = 1 << 16
_IN_CLEAR = "; mail goes over a new connection in plain text"


class Unusable(Exception):
    """This connection can't be used. ``otherwise``: mail would go over another one."""

    def __init__(self, text: str, *, otherwise: bool = False) -> None:
        super().__init__(text)
        self.otherwise = otherwise


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one address of an endpoint; ``usable``: mail would pass all the same."""

    address: str
    text: str
    usable: bool


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, each once. Blocking. :raises OSError: it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


def _ask(block: ResolverBlock, host: str, port: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return lookup(block, host)


def connect(host: str, port: int, seconds: float) -> Any:
    return socket.create_connection((host, port), seconds)


def connect_unix(path: str, seconds: float) -> Any:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(seconds)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def check_online(configuration: Configuration, *, seconds: float = SECONDS, total: float = TOTAL) -> list[Diagnostic]:
    """Try every endpoint; what is wrong, at its place."""
    targets = [module for module in configuration.modules if isinstance(module, Downstream)]
    jobs = [(target, settings) for target in targets for settings in target.endpoint_settings]
    block = configuration.globals.resolver
    names = resolve if block is None else partial(_ask, block)
    results = _in_threads([partial(probe, settings, seconds, names) for _, settings in jobs], total)
    by_target: dict[int, list[tuple[EndpointSettings, list[Finding]]]] = {}
    for (target, settings), findings in zip(jobs, results, strict=True):
        late = [Finding(settings.label, f"no result within {total:g} seconds", False)]
        by_target.setdefault(id(target), []).append((settings, late if findings is None else findings))
    report = Report()
    for target in targets:
        tried = by_target.get(id(target), [])
        works = any(all(finding.usable for finding in findings) for _, findings in tried)
        for settings, findings in tried:
            for finding in findings:
                _tell(report, endpoint_span(target, settings), finding, works=works)
    return report.diagnostics


def _tell(report: Report, place: Span | None, finding: Finding, *, works: bool) -> None:
    message = f"{finding.address}: {finding.text}"
    if finding.usable:
        report.warning(place, message, code="W0740", hint="mail would still be handed over, without that")
    elif works:
        report.warning(place, message, code="W0740", hint="another endpoint of the target works")
    else:
        report.error(place, message, code="E0740", hint="no endpoint of this target works now")


def endpoint_span(target: Downstream, settings: EndpointSettings) -> Span | None:
    """Where an endpoint is written: its word, or its directive if a macro wrote it."""
    words = [f"{settings.scheme}://{f'[{settings.host}]' if ':' in settings.host else settings.host}"]
    if settings.scheme == "unix":
        words = [f"unix://{path}" for path in (settings.path, os.path.relpath(settings.path, target.context.runtime_dir))]
    places = [item.span for item in target.items if item.name in ("targets", "endpoint")]
    for place in (*places, target.span):
        if place is None or place.source is None:
            continue
        line = place.source.line(place.line)
        found = max(line.find(word, place.column - 1) for word in words)
        if found >= 0:
            end = min((line.find(mark, found) for mark in (" ", "\t") if line.find(mark, found) >= 0), default=len(line))
            return place.source.span(place.source.line_start(place.line) + found, place.source.line_start(place.line) + end)
    return places[0] if places else target.span


def _in_threads(jobs: Sequence[Callable[[], list[Finding]]], total: float) -> list[list[Finding] | None]:
    """The result of each, None for what takes longer than ``total`` seconds in all."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, list[Finding]]] = queue.SimpleQueue()
    for number in range(len(jobs)):
        waiting.put(number)

    def work() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, jobs[number]()))
            except Exception as error:
                done.put((number, [Finding("", f"{type(error).__name__}: {error}", False)]))

    for _ in range(min(MAX_THREADS, len(jobs))):
        threading.Thread(target=work, daemon=True).start()
    results: list[list[Finding] | None] = [None] * len(jobs)
    end = time.monotonic() + total
    for _ in jobs:
        try:
            number, findings = done.get(timeout=max(end - time.monotonic(), 0))
        except queue.Empty:
            break
        results[number] = findings
    return results


def probe(
    settings: EndpointSettings, seconds: float = SECONDS, names: Callable[[str, int], list[str]] | None = None
) -> list[Finding]:
    """What is wrong with one endpoint, by the addresses of its name. Blocking."""
    if settings.scheme == "unix":
        return _probe(settings, settings.label, partial(connect_unix, settings.path, seconds), seconds)
    try:
        addresses = (names or resolve)(settings.host, settings.port)
    except OSError as error:
        return [Finding(settings.label, f"the name does not resolve: {error.strerror or error}", False)]
    findings: list[Finding] = []
    for address in addresses[:MAX_ADDRESSES]:
        label = settings.label if address == settings.host else f"{settings.label} ({address})"
        findings += _probe(settings, label, partial(connect, address, settings.port, seconds), seconds)
    if any(not finding.usable for finding in findings) and len({f.address for f in findings if not f.usable}) < len(addresses):
        findings = [replace(finding, usable=True) for finding in findings]  # a delivery goes on to the next address
    return findings


def _probe(settings: EndpointSettings, label: str, dial: Callable[[], Any], seconds: float) -> list[Finding]:
    try:
        dialogue = _Dialogue(settings, dial(), time.monotonic() + seconds)
    except OSError as error:
        return [Finding(label, f"can't connect: {_reason(error)}", False)]
    try:
        dialogue.run()
    except Unusable as error:
        return [*dialogue.findings(label), Finding(label, str(error), error.otherwise)]
    except OSError as error:
        return [*dialogue.findings(label), Finding(label, f"{dialogue.step}: {_reason(error)}", False)]
    finally:
        dialogue.close()
    return list(dialogue.findings(label))


def _reason(error: OSError) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error.strerror or error or type(error).__name__)


class _Dialogue:
    """One connection, from the greeting to QUIT."""

    def __init__(self, settings: EndpointSettings, made: Any, deadline: float) -> None:
        self._settings = settings
        self._socket = made
        self._deadline = deadline
        self._session = ClientSession(settings.hostname, lmtp=settings.lmtp)
        self._tls: Any = None
        self._shortcomings: list[str] = []
        self.step: str = "greeting"

    def findings(self, label: str) -> Iterator[Finding]:
        for text in self._shortcomings:
            yield Finding(label, text, True)

    def run(self) -> None:
        """:raises Unusable, OSError: mail could not be handed over."""
        decision = self._settings.decision
        if decision.start is Start.IMPLICIT:
            self._start_tls()
        self._expect(Step.GREETING, 220)
        self._hello()
        if decision.start in (Start.OFFERED, Start.ALWAYS):
            self._starttls()
        if self._settings.credentials is not None:
            try:
                self._settings.credentials(Offer(self._session.capabilities.mechanisms), None)
            except SaslError as error:
                raise Unusable(str(error)) from error
        self._session.quit()
        self._deadline = min(self._deadline, time.monotonic() + GOODBYE)
        with suppress(Unusable, OSError):  # who says goodbye badly takes mail all the same
            self._answer(Step.QUIT)

    def close(self) -> None:
        self._socket.close()

    def _starttls(self) -> None:
        if not self._session.capabilities.starttls:
            self._lacking("STARTTLS is not offered")
            return
        self._session.starttls()
        reply = self._answer(Step.STARTTLS)
        if reply.code != 220:
            self._lacking(f"STARTTLS is refused: {reply}")
            return
        self._start_tls()
        if self._tls is not None:
            self._session.tls_started()
            self._hello()

    def _lacking(self, text: str) -> None:
        if not self._settings.decision.allow_clear:
            raise Unusable(text)
        self._shortcomings.append(f"{text}: mail goes in plain text")

    def _start_tls(self) -> None:
        decision, context = self._settings.decision, self._settings.tls_context
        self.step = "TLS"
        connection = context.connection_creator(decision.sni).clientConnectionForTLS(None)
        connection.set_connect_state()
        try:
            self._shake_hands(connection)
        except (SSL.Error, OSError) as error:
            reason = explain(error) if isinstance(error, SSL.Error) else _reason(error)
            clear = decision.on_handshake is OnFailure.CLEAR
            raise Unusable(f"the TLS handshake fails: {reason}{_IN_CLEAR if clear else ''}", otherwise=clear) from error
        self._tls = connection
        verdict = verify_peer(connection, context, decision.names) if decision.names else verify_chain(connection, context)
        if verdict.ok:
            return
        if decision.on_bad_peer is not OnFailure.IGNORE:
            clear = decision.on_bad_peer is OnFailure.CLEAR
            raise Unusable(f"the certificate is refused: {verdict.reason}{_IN_CLEAR if clear else ''}", otherwise=clear)
        self._shortcomings.append(f"the certificate is not verified: {verdict.reason}")

    def _shake_hands(self, connection: Any) -> None:
        while True:
            try:
                connection.do_handshake()
            except SSL.WantReadError:
                self._flush(connection)
                connection.bio_write(self._receive())
                continue
            self._flush(connection)
            return

    def _hello(self) -> None:
        self._session.hello()
        reply = self._answer(Step.HELLO)
        if reply.is_permanent and not self._settings.lmtp and self._settings.decision.allow_clear:
            self._session.helo()
            reply = self._answer(Step.HELLO)
        if not reply.is_success:
            raise Unusable(f"hello is refused: {reply}")

    def _expect(self, step: Step, code: int) -> None:
        reply = self._answer(step)
        if reply.code != code:
            raise Unusable(f"{step}: {reply}")

    def _answer(self, step: Step) -> Reply:
        self.step = str(step.value)
        self._write(self._session.output())
        while True:
            data = self._read()
            if not data:
                raise Unusable(f"{self.step}: the connection is closed")
            answers = self._session.receive(data)
            if self._session.fault is not None:
                raise Unusable(f"{self.step}: {self._session.fault.value}")
            if answers:
                return answers[0].reply

    # Bytes

    def _write(self, data: bytes) -> None:
        if self._tls is None:
            self._patience()
            self._socket.sendall(data)
        elif data:
            self._tls.send(data)
            self._flush(self._tls)

    def _read(self) -> bytes:
        while self._tls is not None:
            try:
                return bytes(self._tls.recv(_READ))
            except SSL.WantReadError:
                data = self._receive()
                if not data:
                    return b""
                self._tls.bio_write(data)
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error as error:
                raise Unusable(f"{self.step}: TLS: {explain(error)}") from error
        return self._receive()

    def _receive(self) -> bytes:
        self._patience()
        data = bytes(self._socket.recv(_READ))
        if not data and self._tls is None and self.step == "TLS":
            raise ConnectionResetError(0, "the connection is closed")
        return data

    def _flush(self, connection: Any) -> None:
        try:
            data = connection.bio_read(1 << 20)
        except SSL.WantReadError:
            return
        self._patience()
        self._socket.sendall(data)

    def _patience(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
