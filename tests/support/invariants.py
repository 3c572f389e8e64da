"""I4 to I8 of the trust page, checked on what a next hop kept and on what a gateway left behind.

`check_wire` takes the raw bytes of a connection and reads them anew, by a parser of its own, so that neither the gateway's nor
`NextHop`'s opinion of where a content ends is taken on trust.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from mailgate.testing.nexthop import Connection, NextHop

COMMAND = re.compile(
    rb"(?:EHLO|LHLO|HELO) \S+|MAIL FROM:<[^\r\n<>]*>(?: [^\r\n<>\s]+)*|RCPT TO:<[^\r\n<>]+>(?: [^\r\n<>\s]+)*"
    rb"|DATA|BDAT \d+(?: LAST)?|RSET|NOOP|QUIT|STARTTLS|AUTH (?:PLAIN|LOGIN|EXTERNAL)(?: \S+)?",
    re.DOTALL,
)
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
ADDED = re.compile(rb"\A(?:(?:Received|Return-Path):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)+")
TROUBLE = ("Traceback", "Unhandled", "incident ", "never retrieved", "never awaited")


@dataclass(slots=True)
class Said:
    """What the raw bytes of one connection parse to."""

    commands: list[bytes]
    contents: list[bytes]
    """As sent, dots stuffed (DATA), or the chunks joined (BDAT)."""
    abandoned: int = 0
    """Transactions that were begun and then reset."""


def parse(data: bytes) -> Said:
    """Read a client's side of a dialogue in which every command was answered favourably.

    :raises AssertionError: it isn't one: a line that is no command of ours, a bare CR, LF or NUL, a content without its end.
    """
    said = Said([], [])
    at = 0
    chunks: list[bytes] = []
    begun = False
    while at < len(data):
        end = data.find(b"\r\n", at)
        assert end >= 0, f"I4: an unfinished line: {data[at:][:200]!r}"
        line = data[at:end]
        assert COMMAND.fullmatch(line), f"I4: not a command we send: {line[:200]!r}"
        said.commands.append(line)
        at = end + 2
        if line[:4] == b"MAIL":
            assert not begun, f"I4: a second MAIL within a transaction: {line!r}"
            begun = True
        elif line in (b"RSET", b"QUIT"):
            said.abandoned += begun
            begun = False
        if line == b"DATA":
            if data[at : at + 3] == b".\r\n":
                content, at = b"", at + 3
            else:
                end = data.find(b"\r\n.\r\n", at)
                assert end >= 0, f"I5: a content without its end: {data[at:][-200:]!r}"
                content, at = data[at : end + 2], end + 5
            said.contents.append(content)
            begun = False
        elif line[:4] == b"BDAT":
            size = int(line.split()[1])
            chunks.append(data[at : at + size])
            at += size
            if line.endswith(b"LAST"):
                said.contents.append(b"".join(chunks))
                chunks = []
                begun = False
    said.abandoned += begun
    return said


def check_wire(connection: Connection) -> int:
    """I4 and I5 for one connection, in clear and within TLS; returns the number of contents. Only for connections whose
    MAIL and DATA were never refused: a refusal is in the replies, which this parser doesn't see."""
    contents = 0
    for data in (bytes(connection.clear), bytes(connection.secured)):
        said = parse(data)
        contents += len(said.contents)
        mails = sum(command[:4] == b"MAIL" for command in said.commands)
        assert mails == len(said.contents) + said.abandoned, f"I4: {mails} MAIL, {len(said.contents)} contents"
        for content in said.contents:
            bare = BARE.search(content)
            assert bare is None, f"I5: {content[max(bare.start() - 40, 0) : bare.end() + 40]!r} has a bare CR, LF or NUL"
    seen = sum(transaction.complete for transaction in connection.transactions)
    assert contents == seen, f"I4: {contents} contents on the wire, {seen} as the next hop reads it"
    return contents


def check_hop(hop: NextHop, transactions: int | None = None) -> None:
    """I4 and I5 for everything that came to a next hop; ``transactions`` is how many we meant to send."""
    contents = sum(check_wire(connection) for connection in hop.connections)
    if transactions is not None:
        assert contents == transactions, f"I4: {contents} contents, {transactions} transactions"


def without_trace(content: bytes) -> bytes:
    """The content without the fields that the gateway puts on top."""
    added = ADDED.match(content)
    return content[added.end() :] if added else content


def check_content(arrived: bytes, sent: bytes) -> None:
    """I5: what arrived, unstuffed, is what was sent but for the Received (and Return-Path) on top."""
    assert ADDED.match(arrived), f"no Received on top: {arrived[:100]!r}"
    inner = without_trace(arrived)
    # What the client itself put on top looks the same as what we add: ours is only what exceeds it.
    expected = without_trace(sent)
    assert inner == expected, f"I5: arrived {_difference(inner, expected)}"


def _difference(one: bytes, other: bytes) -> str:
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"{one[max(at - 30, 0) : at + 30]!r} where {other[max(at - 30, 0) : at + 30]!r} was sent (octet {at})"


def check_log(log: str) -> None:
    """I8: nothing unforeseen happened."""
    for line in log.splitlines():
        assert not any(word in line for word in TROUBLE), f"I8: the log says: {line}\n{log[-4000:]}"


def open_descriptors(pid: int | str = "self") -> int:
    """Of a process, for I7 and I8 (Linux); 0 where that can't be told."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return 0
