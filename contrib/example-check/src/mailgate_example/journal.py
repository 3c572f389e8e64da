"""`target.journal`: each message is a line in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import ClassVar

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.schema import Argument
from mailgate.interfaces import Finality, IDelivery, ITarget
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.registry import Module
from mailgate.smtp.reply import Reply

TAKEN = Reply(250, "2.1.5", "Recipient ok")
WRITTEN = Reply(250, "2.0.0", "written")
CANNOT_WRITE = Reply(451, "4.3.0", "The journal can't be written")


@implementer(ITarget)
class Journal(Module):
    """Appends a line of JSON for each message, and answers when it is on the disk."""

    name = "target.journal"
    finality: ClassVar[Finality] = Finality.TRANSACTION
    """One answer for all recipients, which nobody takes back."""
    path = Argument("PATH", v.Path(), doc="The file; it is made if it is not there.")

    def open(self, envelope: Envelope) -> Delivery:
        return Delivery(self, envelope)


@implementer(IDelivery)
class Delivery:
    """One message. What is known of it lives here, never on the module."""

    def __init__(self, journal: Journal, envelope: Envelope) -> None:
        self._journal = journal
        self._envelope = envelope
        self._recipients: list[Recipient] = []

    def rcpt(self, recipient: Recipient) -> Reply:
        self._recipients.append(recipient)
        return TAKEN

    def withdraw(self, recipients: Sequence[Recipient]) -> None:
        self._recipients = [one for one in self._recipients if one not in recipients]

    async def send(self, message: Message) -> list[Reply]:
        fields = {
            "id": self._envelope.id,
            "from": str(self._envelope.sender),
            "to": [str(one.address) for one in self._recipients],
            "size": message.size,
        }
        adapters = self._journal.context.adapters
        assert adapters is not None
        try:
            # The event loop never waits for a disk.
            await adapters.run_in_thread(_append, self._journal.path, json.dumps(fields) + "\n")
        except OSError:
            return [CANNOT_WRITE] * len(self._recipients)
        return [WRITTEN] * len(self._recipients)

    def abort(self) -> None:
        """Nothing is held that had to be given back."""


def _append(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
