"""Who was told what, and what came out: I1 (no loss), I2 (no ghost), I3 (bounded duplicates) of the trust page.

A message is known by a token that stands in its content; the client side books every reply to a recipient's final answer, the
sink side every delivery and every answer that was lost on its way back. `check` compares.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from mailgate.testing.nexthop import NextHop, Transaction

NO_ANSWERS = (b"220", b"221")
"""Replies that begin with a 2 and still say nothing about a content."""
_TOKEN = re.compile(rb"^X-Token: (\S+)\r$", re.MULTILINE)


def message(token: str, *, body: bytes = b"Hello.\r\n", fields: bytes = b"") -> bytes:
    """A message that carries its token; dot-stuffing is the caller's."""
    return b"X-Token: " + token.encode() + b"\r\nSubject: test\r\n" + fields + b"\r\n" + body


def token_of(content: bytes) -> str:
    found = _TOKEN.search(content.partition(b"\r\n\r\n")[0] + b"\r\n")
    if found is None:
        raise AssertionError(f"a message without a token: {content[:200]!r}")
    return found.group(1).decode()


@dataclass
class Ledger:
    """One test's bookkeeping. Keys are (token, recipient)."""

    answers: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    """The last reply the client heard; b"" if the connection ended before it."""
    deliveries: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    lost_answers: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    unrecorded: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    """Our process died between saying the final dot and noting its answer."""
    settled: set[tuple[str, bytes]] = field(default_factory=set)
    """Accepted and accounted for otherwise: a logged discard, one DSN, waiting in a queue."""

    def answered(self, token: str, recipient: bytes, reply: bytes) -> None:
        self.answers[token, recipient] = reply

    def book(self, *hops: NextHop) -> Ledger:
        """Book everything that came to these next hops."""
        for hop in hops:
            for transaction in hop.transactions:
                self._book(transaction, lmtp=hop.lmtp)
        return self

    def _book(self, transaction: Transaction, *, lmtp: bool) -> None:
        token = token_of(transaction.content)
        for recipient, reply in transaction.outcome(lmtp=lmtp):
            if reply[:1] == b"2" and reply[:3] not in NO_ANSWERS:
                self.deliveries[token, recipient] += 1
            elif reply[:1] not in (b"4", b"5"):
                self.lost_answers[token, recipient] += 1

    def problems(self) -> list[str]:
        found = []
        for key, reply in self.answers.items():
            name = f"{key[0]} for {key[1].decode()}"
            arrived, uncertain = self.deliveries[key], self.lost_answers[key]
            if reply[:1] == b"2" and not arrived and key not in self.settled:
                found.append(f"I1: {name} was answered {reply!r} and is nowhere")
            if reply[:1] in (b"4", b"5") and arrived and not uncertain:
                found.append(f"I2: {name} was refused with {reply!r} and was delivered")
            if arrived > 1 + self.unrecorded[key]:
                found.append(f"I3: {name} was delivered {arrived} times, {uncertain} answers lost")
        for token, recipient in self._unasked():
            found.append(f"I2: {token} reached {recipient.decode()}, whom no client named")
        return found

    def _unasked(self) -> Iterable[tuple[str, bytes]]:
        return sorted(key for key in self.deliveries if key not in self.answers)

    def check(self) -> None:
        problems = self.problems()
        if problems:
            raise AssertionError("\n".join(problems))
