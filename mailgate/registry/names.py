"""The `resolver` block: which DNS servers are asked, and how patiently. dns/service.py makes a resolver of it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from mailgate.config import values as v
from mailgate.config.diagnostics import Problem
from mailgate.config.lexer import Token
from mailgate.config.line import Scope, Value
from mailgate.config.schema import REQUIRED, Block, Directive

_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([0-9.]+)):([0-9]{1,5})\Z")
_BRACKETED = re.compile(r"\[(.+)\]\Z")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    host: str
    port: int = 53

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and self.port != 53 else self.host
        return host if self.port == 53 else f"{host}:{self.port}"


class DnsServer(Value):
    """An address, or ``address:port``; an IPv6 address with a port stands in brackets."""

    metavar = "ADDRESS"

    def parse_word(self, word: Token, scope: Scope) -> ServerAddress:
        host, port = word.text, 53
        if match := _WITH_PORT.match(word.text):
            host, port = match.group(1) or match.group(2), int(match.group(3))
        elif match := _BRACKETED.match(word.text):
            host = match.group(1)
        try:
            ipaddress.ip_address(host)
        except ValueError:
            hint = "such as `127.0.0.1`, `127.0.0.1:5353` or `[::1]:5353`"
            raise Problem(word.span, f"`{word.shown}` is no address of a DNS server", code="E0506", hint=hint) from None
        if not 0 < port < 65536:
            raise Problem(word.span, f"`{port}` is no port", code="E0506", hint="1 to 65535")
        return ServerAddress(host, port)


class ResolverBlock(Block):
    """The DNS servers to ask."""

    servers = Directive(
        "servers",
        v.List(DnsServer(), minimum=1),
        default=REQUIRED,
        doc="Recursive servers, ADDRESS or ADDRESS:PORT, asked in this order.",
        origin="smtp-server",
    )
    timeout = Directive(
        "timeout",
        v.Duration(minimum=0.1, maximum=30.0),
        default=5.0,
        doc="How long one server is waited for before the next is asked.",
        origin="smtp-server",
    )
    attempts = Directive(
        "attempts", v.Integer(minimum=1, maximum=5), default=2, doc="How often each server is asked.", origin="smtp-server"
    )
    cache = Directive(
        "cache",
        v.Size(),
        default=16 << 20,
        doc="Memory for answers, kept as long as they hold; 0 keeps none.",
        origin="smtp-server",
    )
    trusted = Directive(
        "trusted",
        v.Boolean(),
        default=False,
        doc="Believe these servers that an answer is secure (the AD bit): they validate, and the way to them is safe. Servers on"
        " loopback are believed anyway.",
    )
