"""The CPU of the gateway's own code per message, without sockets: what a profile of the hot path should look at.

One client sends small messages over one connection, one next hop answers; both are canned bytes, both transports are
lists. What is left is parsing, routing, the delivery and the log line, and the figure hardly depends on the machine's load:
the least of several batches is printed.

    python -m contrib.bench.hot_path              # microseconds per message
    python -m contrib.bench.hot_path --profile    # where they go
    python -m contrib.bench.hot_path --calls      # Python calls per message: the same on every machine
    python -m contrib.bench.hot_path --recipients 10
    python -m contrib.bench.hot_path --check spf --check dkim --check dmarc     # with answers out of the cache
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogBeginner

from mailgate.adapters import Adapters
from mailgate.interpreter import collect
from mailgate.logs.destinations import Descriptor
from mailgate.logs.lines import TextFormat
from mailgate.logs.outputs import Output
from mailgate.message.body import Spool
from mailgate.registry import build
from mailgate.runtime import Gateway
from mailgate.testing.names import MemoryNames

from .content import ADDRESSES, HEADER, TEXT, TEXTS, quoted, signed
from .content import CLIENT as CLIENT_IP

WARM_UP = 2000
"""Messages before the first that counts: caches fill, and PyPy compiles what it has seen often enough."""

CONFIG = """\
hostname gateway.bench.test
tls off
target.smtp sink {
    targets tcp://127.0.0.1:25
}
smtp tcp://127.0.0.1:2525 {
    {checks}
    source bench.test {
        destination bench.test {
            deliver_to &sink
        }
        default_destination {
            reject 550 5.7.1 "relaying denied"
        }
    }
    default_source {
        reject 553 5.7.1 "not for us"
    }
}
"""
CLIENT = IPv4Address("TCP", CLIENT_IP, 50000)
HOP = IPv4Address("TCP", "127.0.0.1", 25)
SERVER = IPv4Address("TCP", "127.0.0.1", 2525)
SENDER = b"MAIL FROM:<sender@bench.test>\r\n"


class Transport:
    """Writes go to a list."""

    disconnecting = False

    def __init__(self, peer: IPv4Address) -> None:
        self.peer = peer
        self.protocol: Any = None
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writeSequence(self, pieces: Any) -> None:
        self.written.extend(pieces)

    def taken(self) -> bytes:
        data = b"".join(self.written)
        self.written.clear()
        return data

    def getPeer(self) -> IPv4Address:
        return self.peer

    def getHost(self) -> IPv4Address:
        return SERVER

    def setTcpNoDelay(self, enabled: bool) -> None: ...
    def setTcpKeepAlive(self, enabled: bool) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def registerProducer(self, producer: Any, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...


class Reactor(Clock):
    """Keeps the listener's factory and connects every connection to the one next hop."""

    def __init__(self) -> None:
        super().__init__()
        self.factory: Any = None
        self.hop_transport = Transport(HOP)
        self.greeted = True

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        self.factory = factory
        return Port()

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any:
        self.hop_transport = Transport(HOP)
        self.greeted = False
        hop = factory.buildProtocol(HOP)
        self.hop_transport.protocol = hop  # whom it gives what it reads; the dialer puts the connection itself there
        hop.makeConnection(self.hop_transport)


class Port:
    def getHost(self) -> IPv4Address:
        return SERVER

    def stopListening(self) -> Any:
        return succeed(None)

    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def startReading(self) -> None: ...
    def stopReading(self) -> None: ...


class Loop:
    """One client's connection, driven to the end of each message."""

    def __init__(self, recipients: int = 1, checks: Sequence[str] = ()) -> None:
        addresses = [b"rcpt@bench.test", *(b"rcpt%d@bench.test" % number for number in range(1, recipients))]
        self.dialogue = (SENDER, *(b"RCPT TO:<%s>\r\n" % address for address in addresses), b"DATA\r\n", _message(checks))
        self.reactor = Reactor()
        adapters = Adapters(self.reactor, time.time, deferToThread, random.Random(1), _names(self.reactor) if checks else None)
        block = "reverse_lookup no\ncheck {\n" + "\n".join(checks) + "\n}" if checks else ""
        built = build(
            CONFIG.replace("{checks}", block),
            adapters,
            outfit=lambda settings: {"spool": Spool(settings.body_spool_limit, adapters)},
        )
        assert built.configuration is not None, built.diagnostics
        gateway = Gateway(built.configuration)
        gateway.bind()
        _run(gateway.start())
        self.client = self.reactor.factory.buildProtocol(CLIENT)
        self.client_transport = Transport(CLIENT)
        self.client.makeConnection(self.client_transport)
        self.reactor.advance(0)
        self.client.dataReceived(b"EHLO client.bench.test\r\n")
        self.client_transport.taken()

    def message(self) -> None:
        for command in self.dialogue:
            self.client.dataReceived(command)
            while not self.client_transport.written:
                self._hop_answers()
            reply = self.client_transport.taken()
            if reply[:1] not in b"23":
                raise AssertionError(f"{command[:20]!r} heard {reply!r}")

    def _hop_answers(self) -> None:
        said = self.reactor.hop_transport.taken()
        if not said:
            if not self.reactor.greeted:
                self.reactor.greeted = True
                self.reactor.hop_transport.protocol.dataReceived(b"220 sink ESMTP\r\n")
                return
            self.reactor.advance(0.001)
            return
        if said.startswith(b"EHLO"):
            answer = b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
        elif said.startswith(b"MAIL"):
            answer = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n"
        elif said.startswith(b"RCPT"):
            answer = b"250 2.1.5 Ok\r\n"
        elif said.startswith(b"DATA"):
            answer = b"354 End data with <CR><LF>.<CR><LF>\r\n"
        else:
            answer = b"250 2.0.0 Ok\r\n"
        self.reactor.hop_transport.protocol.dataReceived(answer)


def _message(checks: Sequence[str]) -> bytes:
    """What follows DATA: with a signature where something is checked."""
    return (signed() if checks else HEADER + b"\r\n" + TEXT) + b".\r\n"


def _names(reactor: Reactor) -> Any:
    names = MemoryNames(reactor)
    for name, text in TEXTS.items():
        names.add(name, "TXT", quoted(text))
    for name, address in ADDRESSES.items():
        names.add(name, "A", address)
    return names.resolver()


def _run(coroutine: Any) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the start waits for something")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--calls", action="store_true", help="print Python calls per message")
    parser.add_argument("--messages", type=int, default=1000, help="in one batch")
    parser.add_argument("--batches", type=int, default=9)
    parser.add_argument("--recipients", type=int, default=1, help="of each message")
    parser.add_argument("--check", action="append", default=[], help="of the listener: spf, dkim, dmarc, arc; may be repeated")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="mailgate-hot-")
    with (Path(directory) / "log").open("wb") as log:
        globalLogBeginner.beginLoggingTo([Output(Descriptor(log.fileno()), TextFormat())], redirectStandardIO=False)
        loop = Loop(options.recipients, options.check)
        for _ in range(WARM_UP):
            loop.message()
        collect()
        if options.profile or options.calls:
            _profile(loop, options)
            return
        print(f"{min(_batch(loop, options.messages) for _ in range(options.batches)):.1f} microseconds per message")


def _batch(loop: Loop, messages: int) -> float:
    began = time.process_time()
    for _ in range(messages):
        loop.message()
    return (time.process_time() - began) / messages * 1e6


def _profile(loop: Loop, options: argparse.Namespace) -> None:
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(options.messages):
        loop.message()
    profile.disable()
    statistics = pstats.Stats(profile)
    if options.calls:
        print(f"{statistics.total_calls / options.messages:.0f} calls per message")  # type: ignore[attr-defined]
        return
    statistics.sort_stats("tottime").print_stats(60)


if __name__ == "__main__":
    main()
