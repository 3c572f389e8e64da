"""How an endpoint is spoken to: the directives that hold for a target and for each of its `endpoint { }` blocks.

Loading turns what is written into `EndpointSettings`, where every contradiction is an error at its place; nothing is opened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive
from mailgate.outbound.advice import LINK_DIRECTIVES, LinkFacts, warnings_of
from mailgate.outbound.auth_settings import AuthSettings, authentication
from mailgate.outbound.dane import dane_vary
from mailgate.outbound.endpoint_settings import EndpointSettings
from mailgate.outbound.identity_settings import IdentitySettings, endpoint_identity
from mailgate.outbound.pki import PkiError
from mailgate.outbound.source_settings import SourceSettings, endpoint_source, report_source
from mailgate.outbound.timeout_settings import TimeoutSettings, report_steps_set_twice, timeouts
from mailgate.outbound.tls_policy import PolicyError, TlsMode
from mailgate.outbound.tls_settings import TlsSettings, endpoint_tls, report_tls
from mailgate.outbound.written import Written
from mailgate.registry import Report
from mailgate.smtp.sasl import SaslError
from mailgate.tls.options import TlsError


class Protocol(NamedTuple):
    port: int
    mode: TlsMode
    """Of TLS, where nothing is said."""


PROTOCOLS = {"smtp": Protocol(25, TlsMode.OPTIONAL), "lmtp": Protocol(24, TlsMode.DISABLED)}
SUBMISSIONS = 465
"""The port of tls:// where none is written (RFC 8314)."""


class LinkSettings(TlsSettings, AuthSettings, TimeoutSettings, SourceSettings, IdentitySettings):
    """How an endpoint is spoken to."""


class EndpointBlock(LinkSettings):
    """One endpoint with settings of its own; what is not written here is the target's."""

    protocol = Directive(
        "protocol",
        v.Choice(*PROTOCOLS),
        doc="How this one is spoken to, and so its port where none is written and its default of `tls`; the target's by default.",
        origin="halon",
    )
    weight = Directive(
        "weight",
        v.Integer(minimum=1, maximum=1000),
        default=1,
        doc="Its part of the messages, in proportion to the others' weights; with `balance` random, round_robin or least_busy.",
    )


@dataclass(frozen=True, slots=True)
class LinkDefaults:
    """What the target brings: its protocol, the TLS mode of that, the gateway's name, whether dialogues are logged."""

    lmtp: bool
    mode: TlsMode
    hostname: str
    debug: bool
    random: Random
    resolver: Any = None


def report_block(block: LinkSettings, report: Report) -> bool:
    """What is wrong within one block, of a target or of an endpoint, whatever else is written; False if something is."""
    return report_tls(block, report) & report_steps_set_twice(block, report) & report_source(block, report)


def endpoint_settings(
    address: v.EndpointAddress, block: Block, target: Block, defaults: LinkDefaults, report: Report
) -> EndpointSettings | None:
    """The settings of one endpoint; None after an error was reported."""
    written = Written(block, target)
    try:
        return _settings(address, written, defaults, report)
    except PolicyError as error:
        report.error(written.place(error.directive), str(error), code="E0730")
    except PkiError as error:
        report.error(error.span, str(error), code="E0720")
    except TlsError as error:
        report.error(written.place("tls_client"), str(error), code="E0720")
    except SaslError as error:
        report.error(written.place("auth"), str(error), code="E0731")
    return None


def _settings(address: v.EndpointAddress, written: Written, defaults: LinkDefaults, report: Report) -> EndpointSettings:
    """:raises PolicyError, TlsError, SaslError: for what can't be."""
    lmtp = defaults.lmtp
    mode = defaults.mode
    if isinstance(written.block, EndpointBlock) and written.block.protocol:
        lmtp = written.block.protocol == "lmtp"
        mode = PROTOCOLS[written.block.protocol].mode
    if not address.port and address.scheme != "unix":
        address = replace(address, port=SUBMISSIONS if address.scheme == "tls" else PROTOCOLS["lmtp" if lmtp else "smtp"].port)
    auth = authentication(written, defaults.random)
    identity = endpoint_identity(written)
    tls = endpoint_tls(written, address, auth, mode)
    source = endpoint_source(written, address.scheme, defaults.hostname, defaults.random)
    directives = {name for name in LINK_DIRECTIVES if written.has(name)}
    for found in warnings_of(address, LinkFacts(tls.mode, tls.names, auth.sends_secret, directives)):
        report.warning(written.place(found.directive), found.message, code=found.code, hint=found.hint)
    return EndpointSettings(
        scheme=address.scheme,
        label=str(address),
        host=address.host,
        port=address.port,
        path=address.path,
        lmtp=lmtp,
        hostname=source.hostname,
        source=source.policy,
        vary=(*source.vary, *identity.vary, *auth.vary, *dane_vary(tls.dane, defaults.resolver, address.port)),
        decision=tls.decision,
        requiretls_decision=tls.requiretls,
        tls_context=tls.context,
        capture_peer=tls.capture,
        credentials=auth.credentials,
        forwards_logins=auth.forwards,
        proxy_version=identity.proxy,
        xclient_required=identity.xclient_required,
        xforward=identity.xforward,
        timeouts=timeouts(written),
        debug=defaults.debug,
    )
