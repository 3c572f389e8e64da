"""A target's engine in front of scripted next hops, and messages for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.task import deferLater

from mailgate.events import Event, EventLog
from mailgate.message.body import Body, Spool
from mailgate.message.envelope import Envelope, Recipient, Session
from mailgate.message.message import Message
from mailgate.outbound.attempts import DeliverySettings, NextHops
from mailgate.outbound.balance import Balance, Method, ordered
from mailgate.outbound.delivery import Delivery
from mailgate.outbound.endpoint import Endpoint
from mailgate.outbound.endpoint_settings import EndpointSettings, Timeouts
from mailgate.outbound.health import Circuit, HealthSettings
from mailgate.outbound.pool import Pool, PoolSettings
from mailgate.smtp.address import Address
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS, MailParameters, RcptParameters

SENDER = Address("a", "x.example")
CONTENT = b"Subject: test\r\n\r\nHello.\r\n.dots\r\n"


class Observed:
    """An EventLog's observer that keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        if "event" in event:
            self.events.append((Event(event["event"]).value, event["fields"]))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.events if event == name]


def make_endpoint(
    reactor: Any, settings: EndpointSettings, health: HealthSettings | None = None, changed: Any = None
) -> Endpoint:
    return Endpoint(settings, Circuit(health or HealthSettings(), reactor, random.Random(0), changed))


def timeouts(command: float = 300.0, **steps: float) -> Timeouts:
    """``command`` for every step between connecting and the final dot that is not given."""
    every = ("greeting", "tls", "ehlo", "auth", "mail_from", "rcpt_to", "data", "data_block")
    return Timeouts(**{**dict.fromkeys(every, command), **steps})


def endpoint_settings(endpoint: str, **settings: Any) -> EndpointSettings:
    """Of ``tcp://127.0.0.1:4711`` or ``unix:///path``."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "unix":
        return EndpointSettings("unix", endpoint, path=rest, **settings)
    host, _, port = rest.rpartition(":")
    return EndpointSettings(scheme, endpoint, host=host, port=int(port), **settings)


def make_hops(
    reactor: Any,
    *endpoints: EndpointSettings,
    pool: PoolSettings | None = None,
    health: HealthSettings | None = None,
    observed: Observed | None = None,
    balance: Method = ordered,
    **settings: Any,
) -> NextHops:
    log = EventLog("mailgate.outbound", observed)
    made = [make_endpoint(reactor, endpoint, health) for endpoint in endpoints]
    return NextHops(
        DeliverySettings(label="relay", **settings),
        made,
        Pool(pool or PoolSettings(), made, reactor, log, "relay"),
        reactor,
        log,
        Balance(made, random.Random(1), balance),
    )


def envelope(parameters: MailParameters = NO_MAIL_PARAMETERS, sender: Address = SENDER) -> Envelope:
    return Envelope("m1", sender, Session("s1", "tcp://127.0.0.1:25", "gw.example"), parameters)


def recipient(name: str = "b", domain: str = "y.example", **parameters: Any) -> Recipient:
    if parameters:
        return Recipient(Address(name, domain), RcptParameters(**parameters))
    return Recipient(Address(name, domain))


def make_message(content: bytes = CONTENT, adapters: Any = None, memory_limit: int = 1 << 20) -> Any:
    """A Message; with ``adapters`` and a low ``memory_limit`` the caller awaits `fill` instead."""
    body = Body(Spool(1 << 30, adapters), memory_limit)
    body.append(content)
    body.finish()
    return Message(body.header, body)


async def fill(content: bytes, adapters: Any, memory_limit: int = 1 << 16) -> Message:
    """A message whose body is on disk."""
    body = Body(Spool(1 << 30, adapters), memory_limit)
    for start in range(0, len(content), 1 << 16):
        waiting = body.append(content[start : start + (1 << 16)])
        if waiting is not None:
            await waiting
    waiting = body.finish()
    if waiting is not None:
        await waiting
    return Message(body.header, body)


async def deliver(
    hops: NextHops, *recipients: Recipient, message: Any = None, parameters: MailParameters = NO_MAIL_PARAMETERS
) -> Any:
    """One whole delivery: (replies to RCPT, replies to the content)."""
    delivery = Delivery(hops, envelope(parameters))
    heard = [await delivery.rcpt(one) for one in recipients or (recipient(),)]
    if not any(reply.is_success for reply in heard):
        delivery.abort()
        return heard, []
    return heard, await delivery.send(message or make_message())


async def until(condition: Callable[[], bool], deadline: float = 20.0) -> None:
    """Let the real reactor turn until ``condition()`` holds. It rests a little between the turns, so that threads get theirs."""
    from twisted.internet import reactor

    end = reactor.seconds() + deadline
    while not condition():
        if reactor.seconds() > end:
            raise AssertionError("it never came to that")
        await deferLater(reactor, 0.001)
