"""Several workers and what surrounds a process: its log, its user, a .tac file."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredList
from twisted.internet.threads import deferToThread

from mailgate.net.waiting import spawn
from tests.support.ledger import message
from tests.support.process import twistd
from tests.test_service import ROOT
from tests.wire.test_workers import DEADLINE, WorkersCase

NOBODY = 65534


def everybody_can_run(program: str) -> bool:
    """Whether another user can: a Python in root's home is for root alone."""
    path = Path(program).resolve()
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


class LogTests(WorkersCase):
    async def send(self, count: int, name: str) -> None:
        async def some(number: int) -> None:
            client = await self.client()
            for one in range(count):
                await self.deliver(client, b"b@y.test", content=message(f"{name}{number}.{one}"))
            await client.quit()

        await DeferredList([spawn(some(number)) for number in range(8)], fireOnOneErrback=True, consumeErrors=True)

    async def test_lines_of_several_processes_do_not_mix_and_all_follow_a_file_that_is_moved(self) -> None:
        log, moved = self.home / "x.log", self.home / "x.log.1"
        hop = self.hop()
        gateway = self.start(f"log json file {log}\nlog stdout\n" + self.relaying(hop))
        await self.send(10, "first")
        log.rename(moved)
        gateway.signal(signal.SIGUSR1)
        await self.until(lambda _: log.exists())
        await self.send(10, "second")
        await gateway.stop_beside()
        done = [json.loads(line)["event"] == "message.done" for path in (moved, log) for line in path.read_text().splitlines()]
        self.assertEqual(sum(done), 160)
        self.assertGreaterEqual(log.read_text().count("message.done"), 80)

    async def test_twistds_own_log_has_what_workers_log(self) -> None:
        hop = self.hop()
        self.write(self.relaying(hop))
        log = self.home / "twistd.log"
        command = [
            twistd(),
            "-n",
            "--pidfile=",
            f"--logfile={log}",
            "mailgate",
            "-w",
            "2",
            "-c",
            str(self.home / "mailgate.conf"),
        ]
        with launched(command) as process:
            self.addCleanup(process.kill)
            await deferToThread(wait_for, log, "workers.start", process)
            await self.send(1, "m")
            await deferToThread(wait_for, log, "message.done", process)
            process.terminate()
            await deferToThread(process.wait, DEADLINE)
        text = log.read_text()
        self.assertEqual(text.count("message.done"), 8)
        self.assertIn("[mailgate.worker#info] message.done", text)


class UserTests(WorkersCase):
    async def test_workers_run_as_the_user_that_twistd_drops_to(self) -> None:
        if os.getuid() != 0 or not everybody_can_run(sys.executable):
            self.skipTest("needs root, and a Python that others can run")
        self.home.chmod(0o755)
        mail, state, run = (self.home / name for name in ("mail", "state", "run"))
        for directory in (mail, state, run):
            directory.mkdir()
            os.chown(directory, NOBODY, NOBODY)
        log = self.home / "x.log"
        (self.home / "mailgate.conf").write_text(
            f"hostname g.test\nstate_dir {state}\nruntime_dir {run}\ntls off\nlog file {log}\n"
            f"smtp tcp://127.0.0.1:{self.smtp} {{\n deliver_to maildir {mail}\n}}\n"
        )
        drop = [f"--uid={NOBODY}", f"--gid={NOBODY}"]
        command = [twistd(), "-n", "--pidfile=", *drop, "mailgate", "-w", "2", "-c", str(self.home / "mailgate.conf")]
        with launched(command) as process:
            self.addCleanup(process.kill)
            await deferToThread(wait_for, log, "workers.start", process)
            await deferToThread(send_one, self.smtp)
            process.terminate()
            await deferToThread(process.wait, DEADLINE)
        self.assertEqual({path.stat().st_uid for path in (mail / "new").iterdir()}, {NOBODY})
        self.assertEqual(log.stat().st_uid, NOBODY)


class TacTests(WorkersCase):
    async def test_a_tac_file_can_have_workers(self) -> None:
        hop = self.hop()
        self.write(self.relaying(hop))
        log = self.home / "out"
        environment = {**os.environ, "MAILGATE_CONFIG": str(self.home / "mailgate.conf"), "MAILGATE_WORKERS": "2"}
        command = [twistd(), "--pidfile=", "-ny", str(ROOT / "etc" / "mailgate.tac")]
        with log.open("wb") as output, launched(command, output, environment) as process:
            self.addCleanup(process.kill)
            await deferToThread(wait_for, log, "workers.start", process)
            await deferToThread(send_one, self.smtp)
            process.terminate()
            await deferToThread(process.wait, DEADLINE)
        self.assertEqual(len(hop.transactions), 1)


def launched(command: list[str], output: Any = subprocess.DEVNULL, environment: Any = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE
    while not log.exists() or text not in log.read_text():
        if time.monotonic() > end or process.poll() is not None:
            raise AssertionError(f"no {text} in:\n{log.read_text() if log.exists() else ''}")
        time.sleep(0.05)


def send_one(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.sendmail("a@x.test", ["b@y.test"], message("one"))
