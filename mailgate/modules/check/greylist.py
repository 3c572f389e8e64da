"""check.greylist: who writes for the first time is asked to come back, which servers do and most spam does not (RFC 6647).

A triple of the client's network, sender and recipient hears 451 4.7.1 at RCPT for `delay`, and passes when it comes back within
`window`; then it is known for `lifetime`. A network that has shown `auto_allow` times that it comes back is not asked any more.

Clients that have logged in, on unix sockets, with private addresses, and in `allow` are not greylisted. What is known lies in a
file of SQLite's, which the processes of a machine share, or in Redis or PostgreSQL, for several machines. Where that can't be
asked, the message meets `on_error`.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any

from mailgate.clients.greylist import Seen, Waiting
from mailgate.clients.threads import NoAnswer
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import DEFAULTS, Directive
from mailgate.events import Event, EventLog
from mailgate.message.envelope import Recipient
from mailgate.modules.check._action import AskingCheck
from mailgate.modules.check._greylist_stores import STORE, Store, StoreBlock, check_store, make
from mailgate.modules.check.dnsbl import is_public
from mailgate.pipeline.check import MessageCheck
from mailgate.registry import ModuleContext
from mailgate.smtp.address import rule_keys
from mailgate.smtp.reply import Reply

_log = EventLog("mailgate.checks")


class State(MessageCheck):
    def rcpt(self, recipient: Recipient) -> Any:
        session = self.envelope.session
        if session.auth_user or not session.client_ip or not is_public(session.client_ip) or self.check.allows(session.client_ip):
            return None
        return self._ask(recipient)

    async def _ask(self, recipient: Recipient) -> None:
        check, envelope = self.check, self.envelope
        sender, to = rule_keys(envelope.sender)[0], rule_keys(recipient.address)[0]
        network = check.network_of(envelope.session.client_ip)
        try:
            seen: Seen = await check.shelf.seen(network, sender, to)
        except NoAnswer as error:
            check.unable(envelope, str(error))
            return
        if not seen.passes:
            check.failed(envelope, f"{network} writes for the first time from <{sender}> to <{to}>")
        elif seen is Seen.PASSED:
            fields = {"message": envelope.id, "session": envelope.session.id, "check": check.name}
            _log.info(Event.CHECK_ANSWERED, **fields, answer="passed", reason=f"{network} has come back for <{to}>")


class GreylistCheck(AskingCheck):
    """Who writes for the first time to somebody hears 451 4.7.1, and passes after a while."""

    name = "check.greylist"
    message_state = State
    refusal = Reply(451, "4.7.1", "Greylisted, please try again later")

    store = Directive(
        "store",
        STORE,
        block=StoreBlock,
        default=DEFAULTS,
        doc="Where it is kept who has written: `sqlite`, the file of `path`, by default; `redis tcp://HOST:PORT` (or tls://,"
        " unix://); `postgres` with what libpq knows how to reach a server by, or `file:PATH`, which holds that. Gateways with"
        " the same server greylist together.",
    )
    path = Directive("path", v.Path(), default="greylist.sqlite", doc="The file, in state_dir if relative.")
    delay = Directive("delay", v.Duration(minimum=1, maximum=86400), default=300.0, doc="How long a first try is refused.")
    window = Directive(
        "window",
        v.Duration(minimum=60),
        default=2 * 86400.0,
        doc="Until when, from the first try on, a sender must be back.",
    )
    lifetime = Directive(
        "lifetime",
        v.Duration(minimum=3600),
        default=36 * 86400.0,
        doc="How long who came back is known, from each message on.",
    )
    auto_allow = Directive(
        "auto_allow",
        v.Integer(minimum=0),
        default=10,
        doc="After so many a network is not asked any more; 0: never.",
    )
    networks = Directive(
        "networks",
        v.Args(v.Integer(minimum=8, maximum=32), v.Integer(minimum=16, maximum=128)),
        default=(24, 64),
        doc="How many bits of an IPv4 and of an IPv6 address make a network: large senders try again from another address.",
    )
    allow = Directive("allow", v.List(v.Network()), default=(), doc="Networks that are not greylisted.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._shelf: Store | None = None

    def configure(self, report: Report) -> None:
        if self.window <= self.delay:
            report.error(self.span_of("window"), "`window` ends before `delay` is over: nobody would pass", code="E0798")
        check_store(self, report)

    async def start(self) -> None:
        waiting = Waiting(self.delay, self.window, self.lifetime, self.auto_allow)
        self._shelf = make(self, self.store, os.path.join(self.context.state_dir, self.path), waiting)
        await self._shelf.start()

    async def stop(self) -> None:
        if self._shelf is not None:
            await self._shelf.stop()

    @property
    def shelf(self) -> Store:
        """Where it is kept."""
        assert self._shelf is not None
        return self._shelf

    def allows(self, address: str) -> bool:
        ip = ipaddress.ip_address(address.partition("%")[0])
        return any(ip in network for network in self.allow)

    def network_of(self, address: str) -> str:
        ip = ipaddress.ip_address(address.partition("%")[0])
        bits = self.networks[0 if ip.version == 4 else 1]
        return str(ipaddress.ip_network((ip, bits), strict=False))
