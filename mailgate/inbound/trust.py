"""Who may speak for others: the directives `proxy_protocol`, `xclient` and `xforward`, and what a listener makes of them.

Trust is a matter of networks. Whose PROXY header is believed is judged on the peer of the TCP connection; whose XCLIENT and
XFORWARD, on the client as it is known then, and never on one that XCLIENT has named. A peer on a unix socket is one that the
permissions of the socket let in, and is believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypeAlias

from mailgate.config import values as v
from mailgate.config.schema import REQUIRED, Block, Directive

Networks: TypeAlias = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Peers:
    """A set of peers: those in some networks, and those on unix sockets."""

    networks: Networks = ()

    def include(self, client: str) -> bool:
        """Whether an address ("" is a unix socket's) is among them."""
        return not client or within(client, self.networks)


def within(client: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether an address is in one of the networks."""
    address = ip_address(client.partition("%")[0])
    return any(address in network for network in networks)


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What one listener makes of the PROXY protocol."""

    trusted: Peers
    required: bool = True
    """Whether a connection without a header is closed."""
    accept_tls: bool = False
    """Whether TLS that the proxy terminated counts as ours."""


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """Everything here for one listener; None where nobody is trusted."""

    proxy: ProxySettings | None = None
    xclient: Peers | None = None
    xforward: Peers | None = None


NO_TRUST = TrustSettings()


def _trust(what: str) -> Directive:
    return Directive("trust", v.List(v.Network()), default=REQUIRED, doc=f"The networks whose {what}.")


class ProxyProtocol(Block):
    """How connections are taken that come through a proxy which says whose they are (PROXY protocol, versions 1 and 2)."""

    trust = _trust("PROXY headers are believed; peers on unix sockets are, too")
    required = Directive(
        "required",
        v.Boolean(),
        default=True,
        doc="Whether a connection without a header is closed. With `no`, peers that are not trusted are served as themselves, and"
        " trusted ones too if they send none: on a tcp:// address they are greeted after a second of silence.",
    )
    tls = Directive(
        "tls",
        v.Choice("ignore", "accept"),
        default="ignore",
        doc="Whether TLS that the proxy has terminated, as its header says, counts as TLS with us (`accept`): for AUTH,"
        " conditions and Received. TLS behind the header is a matter of the listener's own `tls`.",
    )

    @property
    def settings(self) -> ProxySettings:
        return ProxySettings(Peers(self.trust), self.required, self.tls == "accept")


class XClient(Block):
    """Who may put another client in its own place (Postfix's XCLIENT)."""

    trust = _trust("XCLIENT is obeyed; peers on unix sockets may give it, too")


class XForward(Block):
    """Who may say for the log where a message came from (Postfix's XFORWARD)."""

    trust = _trust("XFORWARD is recorded; peers on unix sockets may give it, too")


class TrustDirectives(Block):
    """The directives of a listener."""

    proxy_protocol = Directive(
        "proxy_protocol",
        block=ProxyProtocol,
        block_required=True,
        doc="Take the client's address from the header of a proxy in front.",
        origin="maddy",
    )
    xclient = Directive(
        "xclient",
        block=XClient,
        block_required=True,
        doc="Let these clients say by XCLIENT for whom they speak; it is announced to them alone.",
        origin="smtp-server",
    )
    xforward = Directive(
        "xforward",
        block=XForward,
        block_required=True,
        doc="Let these clients say by XFORWARD where a message came from: for the log, never for access.",
        origin="smtp-server",
    )

    @property
    def trust_settings(self) -> TrustSettings:
        proxy, xclient, xforward = self.proxy_protocol, self.xclient, self.xforward
        if proxy is None and xclient is None and xforward is None:
            return NO_TRUST
        return TrustSettings(
            None if proxy is None else proxy.settings,
            None if xclient is None else Peers(xclient.trust),
            None if xforward is None else Peers(xforward.trust),
        )
