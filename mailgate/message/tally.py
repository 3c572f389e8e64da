"""What happened on one listener since the process began: plain numbers, counted where it happens, read by whoever asks.

A listener's successor after a reload counts on in the same tally, and so do the sessions that keep the old configuration. Lists
of numbers have the first digit of a reply for an index. What the keys of a dictionary come from is bounded: the configuration,
the versions of TLS; never what a peer says.
"""

from __future__ import annotations


def by_class() -> list[int]:
    """Counts by the first digit of a reply."""
    return [0] * 6


class Tally:
    """Read from another thread too: a number may be one too small, never wrong for long."""

    __slots__ = ("connections", "deliveries", "messages", "octets", "recipients", "refused", "replies", "senders", "tls")

    def __init__(self) -> None:
        self.connections = 0
        """That were accepted."""
        self.refused: dict[str, int] = {}
        """Connections that were not, by the limit they exceeded."""
        self.tls: dict[str, int] = {}
        """Finished handshakes, by version."""
        self.replies = by_class()
        """Everything that was said to clients after the greeting."""
        self.senders = by_class()
        """Answers to MAIL."""
        self.recipients = by_class()
        """Answers to RCPT."""
        self.messages = by_class()
        """Answers to content. A message of LMTP is accepted if one recipient was, else it is as the first."""
        self.octets = 0
        """Size of all content that was answered."""
        self.deliveries: dict[str, list[int]] = {}
        """Answers of targets, by the target's label: one for each recipient of each delivery."""

    def answers_of(self, target: str) -> list[int]:
        return self.deliveries.setdefault(target, by_class())
