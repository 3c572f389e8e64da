"""A milter that answers as a test says: the other end of the protocol, written on its own."""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.protocol import Factory, Protocol

CONTINUE, ACCEPT, REJECT, TEMPFAIL, DISCARD, SKIP, PROGRESS, SHUTDOWN = (b"c", b"a", b"r", b"t", b"d", b"s", b"p", b"4")
HANG, DROP = b"HANG", b"DROP"
QUIET = {b"C": 0x1000, b"H": 0x2000, b"M": 0x4000, b"R": 0x8000, b"T": 0x10000, b"L": 0x80, b"N": 0x40000, b"B": 0x80000}


def add_header(name: bytes, value: bytes) -> bytes:
    return b"h" + name + b"\0" + value + b"\0"


def insert_header(index: int, name: bytes, value: bytes) -> bytes:
    return b"i" + struct.pack("!I", index) + name + b"\0" + value + b"\0"


def change_header(number: int, name: bytes, value: bytes) -> bytes:
    return b"m" + struct.pack("!I", number) + name + b"\0" + value + b"\0"


def add_rcpt(address: bytes) -> bytes:
    return b"+" + address + b"\0"


def delete_rcpt(address: bytes) -> bytes:
    return b"-" + address + b"\0"


def change_from(address: bytes) -> bytes:
    return b"e" + address + b"\0"


def replace_body(piece: bytes) -> bytes:
    return b"b" + piece


def reply(text: bytes) -> bytes:
    return b"y" + text + b"\0"


class ScriptedMilter(Factory):
    """``answers`` has, for a command, the packets that are said; else `c`. ``heard`` is (command, data) of all connections."""

    noisy = False

    def __init__(self, *, version: int = 6, actions: int = 0x1FF, steps: int = 0, macros: bytes = b"") -> None:
        self.version = version
        self.actions = actions
        self.steps = steps
        self.macros = macros
        self.answers: dict[bytes, list[bytes]] = {}
        self.heard: list[tuple[bytes, bytes]] = []
        self.connections: list[_Connection] = []

    def buildProtocol(self, addr: Any) -> Protocol:
        connection = _Connection(self)
        self.connections.append(connection)
        return connection

    def commands(self) -> bytes:
        """What was heard, a letter each."""
        return b"".join(command for command, _ in self.heard)

    def data(self, command: bytes) -> list[bytes]:
        return [data for heard, data in self.heard if heard == command]


class _Connection(Protocol):
    def __init__(self, milter: ScriptedMilter) -> None:
        self._milter = milter
        self._buffer = b""

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:
            (size,) = struct.unpack("!I", self._buffer[:4])
            if len(self._buffer) < 4 + size:
                break
            packet, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
            self._hear(packet[:1], packet[1:])

    def _hear(self, command: bytes, data: bytes) -> None:
        milter = self._milter
        milter.heard.append((command, data))
        if command == b"O":
            offered = struct.unpack("!III", data)
            assert offered[0] == 6, offered
            negotiated = struct.pack("!III", milter.version, milter.actions & offered[1], milter.steps & offered[2])
            for packet in milter.answers.get(b"O", [b"O" + negotiated + milter.macros]):
                self.say(packet)
        elif command in b"DAK":
            pass
        elif command == b"Q":
            self.transport.loseConnection()  # type: ignore[union-attr]
        elif not milter.steps & QUIET.get(command, 0):
            for packet in milter.answers.get(command, [CONTINUE]):
                self.say(packet)

    def say(self, packet: bytes) -> None:
        transport: Any = self.transport
        if packet == DROP:
            transport.abortConnection()
        elif packet != HANG:
            transport.write(struct.pack("!I", len(packet)) + packet)
