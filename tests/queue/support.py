"""What the tests of the queue share: drafts, and a store's world with a wall clock that stands where it is put."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet import reactor, threads

from mailgate.adapters import Adapters
from mailgate.message.body import Body, Spool
from mailgate.message.message import Message
from mailgate.queue.entry import Draft, Origin, Waiting
from mailgate.smtp.address import Address, parse_address
from mailgate.smtp.parameters import NO_MAIL_PARAMETERS, MailParameters

NOW = 1_800_000_000.0


class World:
    """Real threads and files, our own time."""

    def __init__(self, seed: int = 1) -> None:
        self.now = NOW
        self.adapters = Adapters(reactor, lambda: self.now, threads.deferToThread, random.Random(seed))
        self.spool = Spool(1 << 30, self.adapters)

    async def message(self, content: bytes, header: bytes | None = None) -> Message:
        """A message over a finished body; ``header`` replaces the header section of the content."""
        body = Body(self.spool, memory_limit=1 << 20)
        for start in range(0, len(content), 100_000):
            waiting = body.append(content[start : start + 100_000])
            if waiting is not None:
                await waiting
        finishing = body.finish()
        if finishing is not None:
            await finishing
        return Message(body.header if header is None else header, body)

    async def draft(
        self,
        message_id: str = "m1",
        *to: str,
        content: bytes = b"Subject: x\r\n\r\nhello\r\n",
        message: Message | None = None,
        due: float | None = None,
        target: str = "relay",
        parameters: MailParameters = NO_MAIL_PARAMETERS,
        origin: Origin = Origin(),  # noqa: B008 - it is frozen
        sender: str = "a@sender.test",
    ) -> Draft:
        addresses = [parse_address(one) for one in to or ("b@one.test",)]
        return Draft(
            message_id,
            target,
            parse_address(sender) if sender else Address("", ""),
            parameters,
            origin,
            self.now,
            message or await self.message(content),
            tuple(
                Waiting(number, address, address.domain, due=self.now if due is None else due)
                for number, address in enumerate(addresses)
            ),
        )


async def content_of(message: Any) -> bytes:
    """All of it, read in odd pieces."""
    whole = b""
    while len(whole) < message.size:
        reading = message.read(len(whole), 70_001)
        whole += reading if isinstance(reading, bytes) else await reading
    return whole
