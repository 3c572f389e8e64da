"""What a `tls` directive comes to: contexts, with every mistake at its own place.

Listeners that inherit one directive share its contexts, and so what is wrong with it is said once. Certificates are read here, in
`mailgate check` too; files that change later are `tls.live`'s business.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from OpenSSL import SSL

from mailgate.config.source import Span
from mailgate.registry import Report
from mailgate.registry.certificates import ListenerTls, SniBlock
from mailgate.tls.advice import advise_keys
from mailgate.tls.live import LiveContexts, PairFiles, SitePlan
from mailgate.tls.options import SERVER_DEFAULTS, TlsError, TlsOptions, parse_protocols
from mailgate.tls.pairs import KeyPair, load_certificates, self_signed
from mailgate.tls.server import ClientAuth

WARN_BEFORE = timedelta(days=14)
"""A certificate that ends sooner is warned of: by then its renewal, a month before as a rule, has failed for a while."""


def contexts_of(listener: Any, report: Report) -> LiveContexts | None:
    """The contexts of a listener; None without TLS, or (reported) where they can't be had."""
    block: ListenerTls | None = listener.tls
    if block is None:
        return None
    key = listener.hostname if block.word == "self_signed" else ""
    if key not in block.made:
        block.made[key] = _Reader(block, listener, report).read()
    made: LiveContexts | None = block.made[key]
    return made


class _Reader:
    """One directive, read once."""

    def __init__(self, block: ListenerTls, listener: Any, report: Report) -> None:
        self._block = block
        self._hostname: str = listener.hostname
        self._context = listener.context
        self._report = report
        self._place: Span | None = block.span

    def read(self) -> LiveContexts | None:
        block, report = self._block, self._report
        if block.word == "off":
            if block.items:
                report.warning(
                    block.items[0].span, f"`{block.items[0].name}` has no effect here", code="W0714", hint="TLS is off"
                )
            return None
        errors = report.error_count
        main = SitePlan(self._main_pairs(), *self._clients(block, block.client_auth, block.client_ca))
        sites = [self._site(sni) for sni in self._distinct()]
        options = self._options()
        if not block.word and not sites and block.sni_lookup is None and not block.damaged:
            message = "this `tls` has no certificate"
            report.error(self._place, message, code="E0721", hint="`file CERTIFICATE KEY` before the block, or `sni` in it")
        if report.error_count > errors or block.damaged or any(sni.damaged for sni in block.sni):
            return None
        try:
            contexts = LiveContexts(main, sites, options, block.sni_lookup, self._context.state_dir)
        except TlsError as error:
            report.error(self._place, str(error), code="E0720")
            return None
        self._advise(contexts)
        return contexts

    # what is shown

    def _main_pairs(self) -> tuple[PairFiles | KeyPair, ...]:
        if self._block.word == "self_signed":
            return (self_signed([self._hostname]),)
        return self._pairs(self._block.files, self._place)

    def _pairs(self, files: tuple[str, ...], place: Span | None) -> tuple[PairFiles, ...]:
        """Pairs that can be read; the others are reported."""
        if len(files) % 2:
            message = "`file` takes pairs: the file of a certificate, then the file of its key"
            self._report.error(place, message, code="E0720")
            return ()
        advise_keys(files[1::2], place, self._report)
        found = []
        for number in range(0, len(files), 2):
            pair = PairFiles(*files[number : number + 2])
            try:
                KeyPair.load(pair.certificate, pair.key)
            except TlsError as error:
                self._report.error(place, str(error), code="E0720")
            else:
                found.append(pair)
        return tuple(found)

    def _distinct(self) -> list[SniBlock]:
        first: dict[str, SniBlock] = {}
        for sni in self._block.sni:
            if sni.damaged:
                continue
            before = first.setdefault(sni.server_name, sni)
            if before is not sni:
                notes = (f"the first is at {before.span}",)
                self._report.error(sni.span, f"`sni {sni.server_name}` is there twice", code="E0723", notes=notes)
        return list(first.values())

    def _site(self, sni: SniBlock) -> SitePlan:
        place = sni.span_of("file") or sni.span
        pairs = self._pairs(sni.file, place)
        for files in pairs:
            if not _covers(KeyPair.load(files.certificate, files.key).names, sni.server_name):
                message = f"the certificate in {files.certificate} is not for {sni.server_name}"
                self._report.warning(place, message, code="W0723", hint="clients that verify it will refuse it")
        auth, authorities = sni.client_auth or self._block.client_auth, sni.client_ca or self._block.client_ca
        return SitePlan(pairs, *self._clients(sni, auth, authorities), name=sni.server_name)

    # clients and options

    def _clients(self, block: Any, auth: str, authorities: str | None) -> tuple[ClientAuth, str]:
        place = block.span_of("client_auth") or block.span
        mode = ClientAuth[auth.upper()]
        if mode is ClientAuth.OFF:
            if block.span_of("client_ca") is not None:
                hint = "`client_auth optional` or `required` asks for certificates"
                self._report.warning(block.span_of("client_ca"), "`client_ca` has no effect here", code="W0714", hint=hint)
            return mode, ""
        if authorities is None:
            hint = "add `client_ca FILE`"
            self._report.error(place, f"`client_auth {auth}` needs to know whom to trust", code="E0722", hint=hint)
            return ClientAuth.OFF, ""
        try:
            load_certificates(authorities)
        except TlsError as error:
            self._report.error(block.span_of("client_ca") or place, str(error), code="E0720")
        return mode, authorities

    def _options(self) -> TlsOptions:
        """Each by itself first, so that a mistake has the place of its directive."""
        block = self._block
        values: dict[str, Any] = {}
        readers: dict[str, Callable[[tuple[str, ...]], Any]] = {"protocols": parse_protocols, "ciphers": tuple, "curves": tuple}
        for name, read in readers.items():
            words = getattr(block, name)
            if not words:
                continue
            try:
                value = read(words)
                TlsOptions(**{name: value}).apply(SSL.Context(SSL.TLS_SERVER_METHOD))
                values[name] = value
            except TlsError as error:
                self._report.error(block.span_of(name) or self._place, str(error), code="E0720")
        return TlsOptions(
            values.get("protocols", SERVER_DEFAULTS.protocols),
            values.get("ciphers", SERVER_DEFAULTS.ciphers),
            values.get("curves", SERVER_DEFAULTS.curves),
        )

    # warnings

    def _advise(self, contexts: LiveContexts) -> None:
        adapters = self._context.adapters
        now = datetime.fromtimestamp(adapters.wall_time() if adapters is not None else time.time(), UTC)
        for pair, from_file in contexts.pairs:
            if not from_file or pair.expires - now > WARN_BEFORE:
                continue
            tense = "has expired" if pair.expires <= now else "expires"
            self._report.warning(
                self._place,
                f"the certificate in {pair.source} {tense} on {pair.expires:%Y-%m-%d %H:%M} UTC",
                code="W0722",
                hint="write a new one to the same file: it is taken over while the gateway runs",
            )


def _covers(names: tuple[str, ...], wanted: str) -> bool:
    """Whether a certificate with these names is one for ``wanted``, itself perhaps a wildcard."""
    return wanted in names or f"*.{wanted.partition('.')[2]}" in names
