"""`refuse_clients NETWORK… | &TABLE [CODE]`: whom a listener does not talk to.

They hear the refusal in place of the greeting (RFC 5321 3.1: 554, 421 where it may pass; RFC 7504: 521) and are gone. A table is
asked for the client's address as text; one that can't answer lets nobody in: 421.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from mailgate.config import values as v
from mailgate.config.diagnostics import Problem
from mailgate.config.references import is_reference
from mailgate.message.envelope import Session
from mailgate.pipeline.lookup import look_up
from mailgate.smtp.reply import MailError, Reply

ACCESS_DENIED = Reply(554, "5.7.1", "Access denied")
_CODES = (421, 521, 554)
_begins_code = re.compile(r"\d{3}\Z|[245]\.\d{1,3}\.\d{1,3}\Z").match
_NETWORK = v.Network()
_CODE = v.ReplyCode()


class ClientsValue(v.Value):
    """Networks or a table, and a reply: ``(networks | table, Reply)``."""

    metavar = 'NETWORK… | &TABLE [CODE] [ENHANCED] ["TEXT"]'

    def parse_element(self, line: v.Line) -> tuple[Any, Reply]:
        word = line.next("a network, or a table by reference")
        if is_reference(word):
            return line.scope.modules.reference(word, "table"), _reply(line)
        networks = [_NETWORK.parse_word(word, line.scope)]
        while (following := line.peek()) is not None and not following.quoted and not _begins_code(following.text):
            networks.append(_NETWORK.parse_word(line.next(""), line.scope))
        return tuple(networks), _reply(line)


def _reply(line: v.Line) -> Reply:
    word = line.peek()
    if word is None:
        return ACCESS_DENIED
    has_code = word.text.isdigit() and not word.quoted
    reply = _CODE.parse_element(line)
    if not has_code:
        code = 421 if reply.is_temporary else 554
        return Reply(code, reply.enhanced, reply.text)
    if reply.code not in _CODES:
        raise Problem(
            word.span,
            f"`{word.shown}` is no code to greet with",
            code="E0509",
            hint="554, or 421 if it may pass later",
            notes=("before the greeting RFC 5321 has 554 and 421, RFC 7504 adds 521",),
        )
    return reply


def refusal_step(rules: Sequence[tuple[Any, Reply]]) -> Callable[[Session], Any]:
    """What is asked about a client before its greeting; see `inbound.welcome`. ``rules`` are values of `ClientsValue`."""

    def in_networks(session: Session) -> Reply | None:
        client = _address_of(session)
        if client is not None:
            for networks, reply in rules:
                if any(client in network for network in networks):
                    return reply
        return None

    async def in_networks_or_tables(session: Session) -> Reply | None:
        client = _address_of(session)
        if client is None:
            return None
        for where, reply in rules:
            found = any(client in network for network in where) if isinstance(where, tuple) else await _is_key(where, str(client))
            if found:
                return reply
        return None

    return in_networks if all(isinstance(where, tuple) for where, _ in rules) else in_networks_or_tables


def _address_of(session: Session) -> Any:
    """None on a unix socket."""
    return ip_address(session.client_ip.partition("%")[0]) if session.client_ip else None


async def _is_key(table: Any, client: str) -> bool:
    try:
        return bool(await look_up(table, client))
    except MailError as error:
        raise MailError(Reply(421, "4.3.0", error.reply.text), error.reason, error.where) from error
