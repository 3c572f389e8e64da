"""The queue in the simulation of the whole gateway: failing next hops and disks, processes that are killed and started again.

One seed is one run: clients, outages, faults of the dialogue, the disk that is full, fails, or says that it failed though it did
not, kills in every moment. At the end all is well, the queue runs empty, and what every client was told is compared with what
came out: I1 to I3, I5, I8, and nothing left in the file. A failing seed is replayed by
`SEEDS=17 python -m pytest tests/wire/test_queue_simulation.py`.
"""

from __future__ import annotations

import gc
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import DeferredList
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from mailgate.net.waiting import spawn
from mailgate.queue.writer import run_batch
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.network import SimulatedReactor
from mailgate.testing.nexthop import NextHop
from mailgate.testing.process import SimulatedProcess
from tests.support.crashing import rows_left
from tests.support.invariants import check_log
from tests.support.ledger import token_of
from tests.support.scenario import LMTP, SMTP, SimulatedCase
from tests.wire.test_gateway_simulation import TARGET, Run, seeds

MOST_LAYERS = 20
"""Of garbage that the end of garbage leaves."""
HOUR = 3600.0
_TOKEN = re.compile(rb"^X-Token: (\S+)\r?$", re.MULTILINE)
_RECIPIENT = re.compile(rb"^Final-Recipient: rfc822; ?(\S+?)\r?$", re.MULTILINE)
_TO = re.compile(rb'"to":"([^"]+)"')


class Disk:
    """What a transaction meets: nothing, a disk that is full, one that fails, one that did it and says that it failed."""

    def __init__(self, run: QueueRun) -> None:
        self._run = run

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        of_writer = isinstance(function, partial) and function.func is run_batch
        if not of_writer or self._run.healthy or self._run.random.random() >= self._run.disk_trouble:
            return function
        code, name, done = self._run.random.choice(
            (
                (sqlite3.SQLITE_FULL, "SQLITE_FULL", False),
                (sqlite3.SQLITE_IOERR, "SQLITE_IOERR_WRITE", False),
                (sqlite3.SQLITE_IOERR, "SQLITE_IOERR_FSYNC", True),
            )
        )
        return lambda connection, *arguments: function(_Failing(connection, code, name, done), *arguments)


class _Failing:
    """A connection whose COMMIT fails."""

    def __init__(self, connection: sqlite3.Connection, code: int, name: str, done: bool) -> None:
        self._connection = connection
        self._code, self._name, self._done = code, name, done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: Any) -> Any:
        if statement != "COMMIT":
            return self._connection.execute(statement, *arguments)
        if self._done:
            self._connection.execute(statement)
        error = sqlite3.OperationalError("the disk of this simulation says no")
        error.sqlite_errorcode, error.sqlite_errorname = self._code, self._name
        raise error


class QueueRun(Run):
    """What one seed decides, and the processes that come and go."""

    def __init__(self, seed: int, case: QueueSimulation) -> None:
        super().__init__(seed, case)
        self.directory = Path(case.directory)
        self.disk = Disk(self)
        self.disk_trouble = self.random.choice((0.0, 0.0, 0.05, 0.2))
        self.kills = self.random.choice((0, 1, 3, 6))
        self.gateway: WholeGateway | None = None
        self.process: SimulatedProcess | None = None
        self.dead: list[WholeGateway] = []
        """Kept to the end, so that nothing of them is taken down in the middle of the run."""
        self.text = ""

    @property
    def file(self) -> Path:
        return self.directory / "queue" / "outbound" / "1.sqlite"

    async def start(self) -> None:
        process = self.process = SimulatedProcess(self.reactor, self.disk.around)
        gateway = self.gateway = WholeGateway(self.text, process.adapters(), str(self.directory))
        await gateway.start()

    def kill(self) -> None:
        """`kill -9`. Whose delivery may be under way is what the file says."""
        process, gateway = self.process, self.gateway
        assert process is not None
        assert gateway is not None
        process.kill()
        globalLogPublisher.removeObserver(gateway._keep)  # type: ignore[arg-type]
        self.dead.append(gateway)
        queue: Any = gateway.configuration.instances["outbound"]
        if queue._queue is not None and queue._queue.store._lock is not None:
            store = queue._queue.store
            store._close(store._writer._connection if store._writer is not None else None)
        self._book_open_intents()

    def _book_open_intents(self) -> None:
        if not self.file.exists():
            return
        connection = sqlite3.connect(self.file)
        for header, facts in connection.execute(
            "SELECT entry.header, recipient.facts FROM recipient JOIN entry ON entry.id = recipient.entry WHERE intent = 1"
        ):
            found = _TO.search(facts)
            assert found is not None
            self.ledger.unrecorded[token_of(header), found.group(1)] += 1
        connection.close()

    async def kill_again_and_again(self) -> None:
        for _ in range(self.kills):
            await deferLater(self.reactor, self.random.choice((0.01, 1.0, 30.0)) * self.random.random())
            self.kill()
            await deferLater(self.reactor, self.random.uniform(0, 10))
            starting = spawn(self.start())
            if self.random.random() < 0.7:
                await starting
            else:  # it is killed while it starts, if it is not very quick
                await deferLater(self.reactor, self.random.uniform(0, 0.05))

    async def client(self, number: int) -> None:
        try:
            await super().client(number)
        except ConnectError:
            return  # nobody listens just now

    def settle_reports(self, back: NextHop) -> Counter[tuple[str, bytes]]:
        """What reports say, each about one message."""
        reports: Counter[tuple[str, bytes]] = Counter()
        for transaction in back.transactions:
            token = _TOKEN.findall(transaction.content)[-1].decode()
            for recipient in _RECIPIENT.findall(transaction.content):
                if b"Action: failed" in transaction.content:
                    self.ledger.settled.add((token, recipient))
                    reports[token, recipient] += 1
        return reports


class QueueSimulation(SimulatedCase):
    expect_clean_log = True

    def simulate(self, seed: int) -> Counter[str]:
        run = QueueRun(seed, self)
        hops = [self.hop(lmtp=run.lmtp_store, script=run.script, idle_delay=0.5) for _ in range(run.random.randint(1, 2))]
        back = self.hop(idle_delay=0.5)
        kind = "lmtp" if run.lmtp_store else "smtp"
        run.text = (
            f"hostname gateway.test\ntarget.{kind} next {{\n    targets {' '.join(hop.endpoint for hop in hops)}\n{TARGET}}}\n"
            f"target.smtp back {{\n    targets {back.endpoint}\n}}\n"
            "target.queue outbound {\n    target &next\n    retry 30s 1m 2m\n    bounce {\n        deliver_to &back\n    }\n}\n"
            f"smtp {SMTP} {{\n    tls off\n    deliver_to &outbound\n}}\n"
            f"lmtp {LMTP} {{\n    tls off\n    deliver_to &outbound\n}}\n"
        )
        self.reactor.run(run.start())
        run.outages(hops)
        works = [spawn(run.client(number)) for number in range(run.random.randint(2, 8))]
        works.append(spawn(run.kill_again_and_again()))
        self.reactor.run(DeferredList(works, fireOnOneErrback=True, consumeErrors=True), limit=20_000)
        self.reactor.settle(300)
        run.healthy = True
        self.reactor.settle(4 * HOUR)
        self.running = run.gateway
        self.check_alive()
        self.reactor.settle(60)
        reports = run.settle_reports(back)
        run.ledger.answered("alive", b"alive@y.test", b"250")
        run.sent["alive"] = hops[0].transactions[-1].content
        run.ledger.book(*hops)
        run.ledger.check()
        for key, count in reports.items():
            self.assertLessEqual(count, 1 + run.kills, key)
        self.assertEqual(sum(rows_left(run.file).values()), 0, rows_left(run.file))
        for gateway in run.dead:
            check_log(gateway.log_text)
        accepted = sum(reply[:1] == b"2" for reply in run.ledger.answers.values())
        refused = sum(reply[:1] in (b"4", b"5") for reply in run.ledger.answers.values())
        doubled = sum(count - 1 for count in run.ledger.deliveries.values() if count > 1)
        return Counter(accepted=accepted, refused=refused, kills=len(run.dead), reports=reports.total(), doubled=doubled)

    def of_seeds(self, count: int, first: int) -> None:
        total: Counter[str] = Counter()
        self.addCleanup(gc.enable)
        self.addCleanup(self.bury)  # what the last run leaves, once all else is taken down
        gc.collect()
        if hasattr(gc, "freeze"):
            gc.freeze()  # `bury` need not look at it each time
            self.addCleanup(gc.unfreeze)
        gc.disable()  # nothing is taken down in the middle of a run
        for seed in seeds(count, first):
            with self.row(f"SEEDS={seed}"):
                total += self.simulate(seed)
            self.bury()
        print(f"\n{count} runs: {dict(total)}")
        self.assertGreater(total["accepted"], 0)

    def bury(self) -> None:
        """What was killed is taken down where nobody hears it: coroutines that Python closes do what is written for their end,
        and leave more to be taken down."""
        self.reactor = SimulatedReactor()
        self.hops = []
        observers = list(globalLogPublisher._observers)
        for observer in observers:
            globalLogPublisher.removeObserver(observer)
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # pytest's would keep what it hears of
        try:
            for _ in range(MOST_LAYERS):
                if not gc.collect():
                    break
        finally:
            sys.unraisablehook = hook
            for observer in observers:
                globalLogPublisher.addObserver(observer)

    def test_seeds(self) -> None:
        self.of_seeds(20, first=0)

    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_many_seeds(self) -> None:
        self.of_seeds(200, first=1000)
