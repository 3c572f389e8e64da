"""Throughput, CPU and memory of the gateway beside Postfix, on this machine, in one run.

For every workload the relays take turns, so that whatever else the machine does meets them all; each turn sends the same
messages through a relay to a sink, and counts there what arrived: a message lost or doubled fails the benchmark. Load generator
(smtp-source) and sink (smtp-sink) run on the same cores as the relay.

    python -m contrib.bench                           # everything, 3 rounds, about 10 minutes; prints a table
    python -m contrib.bench --write docs/performance.md
    python -m contrib.bench --workload reused --relay mailgate --runs 1 --scale 0.1
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from .checked import CHECKED_RELAYS, message_file, own_network
from .postgres import MailgatePostgres
from .probe import idle_memory, latency
from .processes import NotReady, PeakMemory
from .servers import Direct, Mailgate, MailgateQueue, MailgateQueueTwo, MailgateTwo, PostfixProxy, PostfixQueue, Relay, Sink, tool
from .tls import TLS_RELAYS, TlsSink

SESSIONS = 20
WARM_UP = 10
"""The part of a turn that is one step of the warm-up."""
STEADY = 3
"""Steps that bring nothing more, and the warm-up is over."""
NO_FASTER = 1.03
MAX_WARM_UPS = 30
RELAYS: dict[str, type[Relay]] = {
    "direct": Direct,
    "postfix-proxy": PostfixProxy,
    "postfix-queue": PostfixQueue,
    "mailgate": Mailgate,
    "mailgate-2": MailgateTwo,
    "mailgate-queue": MailgateQueue,
    "mailgate-queue-2": MailgateQueueTwo,
    "mailgate-postgres": MailgatePostgres,
}
REFERENCE = PostfixProxy.name
BARE = (Direct, PostfixProxy, PostfixQueue, Mailgate)
"""What the gateway with checks is compared with."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What smtp-source sends. ``messages`` is sized so that Postfix needs a few seconds."""

    title: str
    messages: int
    size: int
    reuse: bool
    recipients: int = 1
    tls: bool = False
    """On both sides, between other relays than those of the rest (tls.py)."""
    checked: bool = False
    """Signed messages, for the gateway with checks too (checked.py)."""
    file: Path | None = None
    """The message itself, where it's one of those."""

    def command(self, relay: Relay, messages: int) -> list[str]:
        return [
            *(tool("smtp-source"), "-s", str(min(SESSIONS, messages)), "-m", str(messages)),
            *(("-F", str(self.file)) if self.file else ("-l", str(self.size))),
            *("-r", str(self.recipients), "-M", "source.bench.test", "-f", "sender@bench.test", "-t", "rcpt@bench.test"),
            *(("-d",) if self.reuse else ()),
            f"inet:{relay.host}:{relay.port}",
        ]


WORKLOADS = {
    "single": Workload("5 KiB, one message per connection", 8_000, 5 << 10, reuse=False),
    "reused": Workload("5 KiB, reused connections", 12_000, 5 << 10, reuse=True),
    "100k": Workload("100 KiB, reused connections", 5_000, 100 << 10, reuse=True),
    "10m": Workload("10 MiB, reused connections", 80, 10 << 20, reuse=True),
    "tls": Workload("5 KiB, TLS on both sides, one message per connection", 2_000, 5 << 10, reuse=False, tls=True),
    "checked": Workload("5 KiB with a DKIM signature, reused connections", 6_000, 5 << 10, reuse=True, checked=True),
    "rcpts": Workload("5 KiB, 10 recipients, reused connections", 5_000, 5 << 10, reuse=True, recipients=10),
}


@dataclass(slots=True)
class Series:
    """The turns of one relay at one workload."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Milliseconds per message."""
    base: list[int] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)


class Miscounted(Exception):
    """Messages were lost or doubled."""


def turn(relay: Relay, sink: Sink, workload: Workload, messages: int, series: Series) -> None:
    """Send once and add what was measured to ``series``."""
    before = sink.count
    used = relay.server.cpu_seconds() if relay.server else 0.0
    with PeakMemory(relay.server) as memory:
        began = time.monotonic()
        source = subprocess.run(workload.command(relay, messages), capture_output=True, text=True, timeout=600)
        if source.returncode != 0:
            raise Miscounted(f"{relay.name}: smtp-source failed: {source.stderr.strip()}")
        arrived = sink.wait_for(before + messages) - before
        seconds = time.monotonic() - began
    if arrived != messages:
        raise Miscounted(f"{relay.name}: {messages} sent, {arrived} arrived")
    series.rates.append(messages / seconds)
    if relay.server:
        series.cpu.append((relay.server.cpu_seconds() - used) / messages * 1000)
        series.base.append(memory.base)
        series.peak.append(memory.peak)


def measure(options: argparse.Namespace) -> str:
    """Everything that was asked for, as Markdown."""
    chosen = {name: WORKLOADS[name] for name in options.workload or WORKLOADS}
    plain = {name: workload for name, workload in chosen.items() if not (workload.tls or workload.checked)}
    tls = {name: workload for name, workload in chosen.items() if workload.tls}
    checked = {name: workload for name, workload in chosen.items() if workload.checked}
    if checked:
        own_network()
    with tempfile.TemporaryDirectory(prefix="mailgate-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        sink = Sink(directory)
        tables = []
        relays: list[Relay] = []
        try:
            if plain or checked or options.probes:
                for wanted in (name for name in options.relay or RELAYS if name in RELAYS):
                    relays.append(RELAYS[wanted](sink, directory))
            if plain:
                tables.append(throughput(options, plain, relays, sink))
            if tls:
                tables.append(under_tls(options, tls, sink, directory))
            if checked:
                tables.append(with_checks(options, checked, relays, sink, directory))
            if options.probes:
                tables.append(probes(relays, sink, directory))
            return "\n".join(tables)
        finally:
            for relay in relays:
                relay.stop()
            sink.stop()


def under_tls(options: argparse.Namespace, workloads: dict[str, Workload], sink: Sink, directory: Path) -> str:
    """The workloads under TLS, with relays of their own."""
    behind = TlsSink.before(sink, directory)
    relays: list[Relay] = []
    try:
        for wanted in options.relay or TLS_RELAYS:
            if wanted in TLS_RELAYS:
                relays.append(TLS_RELAYS[wanted](behind, directory))
        return throughput(options, workloads, relays, sink)
    finally:
        for relay in relays:
            relay.stop()
        behind.stop()


def with_checks(
    options: argparse.Namespace, workloads: dict[str, Workload], relays: list[Relay], sink: Sink, directory: Path
) -> str:
    """The workloads with signed messages: the gateway that checks beside those of ``relays`` that it is compared with."""
    file = message_file(directory)
    signed = {name: replace(workload, file=file) for name, workload in workloads.items()}
    compared = [relay for relay in relays if type(relay) in BARE]
    checking: list[Relay] = []
    try:
        for wanted in options.relay or CHECKED_RELAYS:
            if wanted in CHECKED_RELAYS:
                checking.append(CHECKED_RELAYS[wanted](sink, directory))
        return throughput(options, signed, [*compared, *checking], sink)
    finally:
        for relay in checking:
            relay.stop()


def warm_up(relay: Relay, sink: Sink, workload: Workload, messages: int) -> None:
    """Until it gets no faster: pools and caches fill, and PyPy compiles what it has seen often enough."""
    series = Series()
    while len(series.rates) < MAX_WARM_UPS:
        turn(relay, sink, workload, messages, series)
        if len(series.rates) > STEADY and max(series.rates[-STEADY:]) <= max(series.rates[:-STEADY]) * NO_FASTER:
            return


def throughput(options: argparse.Namespace, workloads: dict[str, Workload], relays: list[Relay], sink: Sink) -> str:
    results: dict[tuple[str, str], Series] = {}
    for name, workload in workloads.items():
        messages = max(SESSIONS, int(workload.messages * options.scale))
        for relay in relays:
            warm_up(relay, sink, workload, max(SESSIONS, messages // WARM_UP))
        for number in range(options.runs):
            for relay in relays[number % len(relays) :] + relays[: number % len(relays)]:
                series = results.setdefault((name, relay.name), Series())
                turn(relay, sink, workload, messages, series)
                print(f"{name:8} {number + 1}/{options.runs} {relay.name:16} {series.rates[-1]:10,.0f}/s", file=sys.stderr)
    for relay in relays:
        relay.confirm()
    return table(results, list(workloads), [relay.name for relay in relays])


def table(results: dict[tuple[str, str], Series], workloads: list[str], relays: list[str]) -> str:
    """Medians; the ratio is to Postfix's proxy in the same run."""
    lines = [
        f"| workload | relay | messages/s | range | × {REFERENCE} | CPU ms/message | memory base → peak, MiB |",
        "|---|---|---:|---|---:|---:|---|",
    ]
    for name in workloads:
        reference = results.get((name, REFERENCE))
        for relay in relays:
            series = results[name, relay]
            rate = median(series.rates)
            ratio = f"{rate / median(reference.rates):.2f}" if reference else ""
            cpu = f"{median(series.cpu):.2f}" if series.cpu else ""
            memory = f"{median(series.base) / 2**20:.0f} → {max(series.peak) / 2**20:.0f}" if series.peak else ""
            spread = f"{min(series.rates):,.0f}–{max(series.rates):,.0f}"
            lines.append(f"| {WORKLOADS[name].title} | {relay} | {rate:,.0f} | {spread} | {ratio} | {cpu} | {memory} |")
    return "\n".join(lines) + "\n"


def probes(relays: list[Relay], sink: Sink, directory: Path) -> str:
    """Latency of all; memory of the gateway, each on a process that has done nothing else."""
    lines = ["| probe | relay | result |", "|---|---|---|"]
    for relay in relays:
        times = latency(relay.port, rate=100, seconds=5)
        half, worst = times[len(times) // 2], times[int(len(times) * 0.99)]
        lines.append(f"| latency at 100 messages/s | {relay.name} | p50 {half * 1000:.1f} ms, p99 {worst * 1000:.1f} ms |")
    if any(isinstance(relay, Mailgate) for relay in relays):
        for name, probe in (("idle", idle_connections), ("large", large_bodies)):
            home = directory / name
            home.mkdir()
            fresh = Mailgate(sink, home)
            try:
                lines.append(probe(fresh, sink))
            finally:
                fresh.stop()
    return "\n".join(lines) + "\n"


def idle_connections(relay: Mailgate, sink: Sink) -> str:
    each, greeting = idle_memory(relay.running, relay.port, connections=900)
    return (
        f"| 900 idle connections | {relay.name} | {each / 1024:.1f} KiB each, "
        f"one more client is greeted after {greeting * 1000:.1f} ms |"
    )


def large_bodies(relay: Mailgate, sink: Sink) -> str:
    workload = WORKLOADS["10m"]
    turn(relay, sink, WORKLOADS["reused"], SESSIONS * 10, Series())
    series = Series()
    turn(relay, sink, workload, SESSIONS * 2, series)
    growth = (series.peak[0] - series.base[0]) / SESSIONS
    return f"| memory while {SESSIONS} × 10 MiB pass at once | {relay.name} | grows by {growth / 2**20:.2f} MiB for each |"


def machine() -> str:
    """One sentence about where this was measured."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{os.cpu_count()} cores ({model.group(1) if model else platform.machine()}), Linux {platform.release()}, "
        f"{_interpreter()}, {time.strftime('%Y-%m-%d')}; {SESSIONS} sessions, everything on loopback."
    )


def _interpreter() -> str:
    name, python = platform.python_implementation(), platform.python_version()
    if name == "CPython":
        return f"Python {python}"
    return f"{name} {'.'.join(str(part) for part in sys.implementation.version[:3])} (Python {python})"


INTERPRETER = platform.python_implementation()
BEGIN, END = f"<!-- measured, {INTERPRETER}: begin -->", f"<!-- measured, {INTERPRETER}: end -->"
"""Each interpreter has a place of its own for its tables."""


def write(path: Path, report: str, command: str) -> None:
    """Put the report between the marks in ``path``, which are added at its end if they're missing."""
    text = path.read_text() if path.exists() else "# Performance\n"
    if BEGIN not in text:
        text += f"\n{BEGIN}\n{END}\n"
    section = f"{BEGIN}\n{machine()} Printed by `{command}`.\n\n{report}{END}"
    path.write_text(text[: text.index(BEGIN)] + section + text[text.index(END) + len(END) :])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--relay",
        action="append",
        choices=list(dict.fromkeys([*RELAYS, *TLS_RELAYS, *CHECKED_RELAYS])),
        help="only these (repeatable)",
    )
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="only these (repeatable)")
    parser.add_argument("--runs", type=int, default=3, help="turns of each relay at each workload (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of messages")
    parser.add_argument("--no-probes", dest="probes", action="store_false", help="neither latency nor idle connections")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this Markdown file")
    options = parser.parse_args()
    try:
        report = measure(options)
    except (Miscounted, NotReady) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report)
    if options.write:
        write(options.write, report, " ".join(["python -m contrib.bench", *sys.argv[1:]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
