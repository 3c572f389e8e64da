"""Names: how many questions a second our resolver answers beside dnspython's own coroutine resolver.

    python -m contrib.bench.names [--questions 20000] [--at-once 20] [--runs 3]

Both ask the same server, a process of its own that answers from octets made beforehand, for names that were never asked before,
so many at once; neither has a cache. They take turns, and what is printed is the median of each.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import socket
import statistics
import sys
import time
from typing import Any

ANSWER = b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x01"
"""An A record for the name of the question."""


def serve(ready: Any) -> None:
    """Answer every question with one address."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    ready.send(sock.getsockname()[1])
    while True:
        data, peer = sock.recvfrom(4096)
        end = data.index(b"\0", 12) + 5
        sock.sendto(data[:2] + b"\x81\x80\0\x01\0\x01\0\0\0\0" + data[12:end] + ANSWER, peer)


def ours(port: int, questions: int, at_once: int) -> float:
    """Questions a second."""
    from twisted.internet import reactor as installed
    from twisted.internet.defer import DeferredList

    from mailgate.dns.resolver import A, Resolver
    from mailgate.dns.txdnspython import Server, Transport
    from mailgate.net.waiting import spawn

    reactor: Any = installed
    resolver = Resolver(Transport([Server("127.0.0.1", port)], reactor, random.SystemRandom()), reactor.seconds, cache=0)  # type: ignore[arg-type]
    numbers = iter(range(questions))
    took: list[float] = []

    async def ask() -> None:
        for number in numbers:
            (await resolver.query(f"host{number}.example.org", A)).require()

    def begin() -> None:
        start = time.perf_counter()

        def done(_: Any) -> None:
            took.append(time.perf_counter() - start)
            reactor.stop()

        DeferredList([spawn(ask()) for _ in range(at_once)]).addBoth(done)

    reactor.callWhenRunning(begin)
    reactor.run()
    return questions / took[0]


def theirs(port: int, questions: int, at_once: int) -> float:
    import dns.asyncresolver

    async def run() -> float:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port, resolver.cache = ["127.0.0.1"], port, None
        resolver.use_edns(0, 0, 1232)
        numbers = iter(range(questions))

        async def ask() -> None:
            for number in numbers:
                await resolver.resolve(f"host{number}.example.org.", "A", search=False)

        start = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(at_once)))
        return questions / (time.perf_counter() - start)

    return asyncio.run(run())


def _measure(which: str, port: int, questions: int, at_once: int, result: Any) -> None:
    result.send((ours if which == "ours" else theirs)(port, questions, at_once))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    receiving, sending = multiprocessing.Pipe(False)
    server = multiprocessing.Process(target=serve, args=(sending,), daemon=True)
    server.start()
    port = receiving.recv()
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(options.runs):
        for which, found in rates.items():
            client = multiprocessing.Process(target=_measure, args=(which, port, options.questions, options.at_once, sending))
            client.start()
            found.append(receiving.recv())
            client.join()
    server.terminate()
    mine, other = statistics.median(rates["ours"]), statistics.median(rates["theirs"])
    print(f"mailgate {mine:,.0f}/s, dnspython's asyncresolver {other:,.0f}/s: {mine / other:.2f} times")
    return 0 if mine >= 2.5 * other else 1


if __name__ == "__main__":
    sys.exit(main())
