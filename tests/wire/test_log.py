"""`log` and `log_name` of a running gateway: where lines go, in which form, what a reload and SIGUSR1 change."""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.registry import build
from tests.support.ports import free_port
from tests.support.process import GatewayProcess, twistd
from tests.support.scenario import SMTP, SimulatedCase, codes

DEADLINE = 20.0
OUTCOMES = ("message.done", "message.aborted", "sender.refused", "recipient.refused", "message.refused")


class LogCase(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="mailgate-log-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.config = self.home / "mailgate.conf"
        self.port = free_port()

    def write(self, log: str) -> None:
        self.config.write_text(
            f"hostname gateway.test\nstate_dir {self.home}\nruntime_dir {self.home}\ntls off\n{log}\n"
            f"smtp tcp://127.0.0.1:{self.port} {{\n discard\n}}\n"
        )

    def start(self, log: str, *options: str) -> GatewayProcess:
        self.write(f"log stdout\n{log}")
        gateway = GatewayProcess(self.config, *options)
        self.addCleanup(gateway.stop)
        return gateway.wait_until_ready()

    def deliver(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=20) as client:
            client.sendmail("a@x.test", ["b@y.test"], b"Subject: x\r\n\r\nx\r\n")

    def lines(self, name: str) -> list[str]:
        path = self.home / name
        return path.read_text().splitlines() if path.exists() else []

    def wait(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            self.assertLess(time.monotonic(), end, "it did not happen")
            time.sleep(0.02)


class Destinations(LogCase):
    def test_log_file_stdout_and_json_at_once(self) -> None:
        gateway = self.start("log file text.log\nlog json file lines.json\nlog_name mx7")
        self.deliver()
        self.wait(lambda: any("message.done" in line for line in self.lines("lines.json")))
        gateway.stop()
        text = [line for line in self.lines("text.log") if "message.done" in line]
        self.assertEqual(len(text), 1)
        self.assertRegex(text[0], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ info message\.done message=\S+ .* component=mx7$")
        self.assertIn(text[0], gateway.log)
        found = [json.loads(line) for line in self.lines("lines.json")]
        (done,) = (line for line in found if line["event"] == "message.done")
        self.assertEqual((done["component"], done["level"], done["from"]), ("mx7", "info", "<a@x.test>"))
        self.assertTrue(all({"time", "level", "component", "event"} <= set(line) for line in found))
        self.assertIn("gateway.start", [line["event"] for line in found])

    def test_log_stderr(self) -> None:
        self.write("log json stderr\nlog stderr {\n level warn\n}")
        process = subprocess.Popen(
            [twistd(), "-n", "--pidfile=", "mailgate", "-c", str(self.config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.addCleanup(process.kill)
        assert process.stderr is not None
        line = b""
        while b"gateway.start" not in line:
            line = process.stderr.readline()
            self.assertTrue(line, "it ended")
        json.loads(line)
        process.terminate()
        output, _ = process.communicate(timeout=20)
        self.assertEqual(output, b"")

    def test_level(self) -> None:
        self.start("log file all.log {\n level debug\n}\nlog file bad.log {\n level warn\n}")
        self.deliver()
        self.wait(lambda: any("session.open" in line for line in self.lines("all.log")))
        self.assertEqual(self.lines("bad.log"), [])

    def test_debug_on_the_command_line(self) -> None:
        self.start("log file all.log\nlog file some.log {\n level info\n}", "--debug")
        self.deliver()
        self.wait(lambda: any("session.open" in line for line in self.lines("all.log")))
        self.assertEqual([line for line in self.lines("some.log") if " debug " in line], [])

    def test_a_log_that_can_not_be_written_stops_the_start(self) -> None:
        self.write("log file nowhere/x.log")
        done = subprocess.run(
            [twistd(), "-n", "--pidfile=", "mailgate", "-c", str(self.config)], capture_output=True, text=True, timeout=30
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"error: cannot write to the log {self.home}/nowhere/x.log: No such file or directory", done.stderr)

    def test_twistds_own_logfile_goes_on(self) -> None:
        self.write("log json file lines.json")
        process = subprocess.Popen(
            [twistd(), "-n", "--pidfile=", f"--logfile={self.home}/twistd.log", "mailgate", "-c", str(self.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(process.kill)
        self.wait(lambda: any("gateway.start" in line for line in self.lines("twistd.log")))
        self.wait(lambda: any('"gateway.start"' in line for line in self.lines("lines.json")))
        os.kill(process.pid, signal.SIGUSR1)  # twistd's rotates, ours begins anew
        self.wait(lambda: (self.home / "twistd.log.1").exists())
        process.terminate()
        process.wait(20)

    def test_a_daemon_logs_where_the_file_says(self) -> None:
        self.write("log file mailgate.log")
        pid = self.home / "pid"
        command = [twistd(), f"--pidfile={pid}", f"--rundir={self.home}", "mailgate", "-c", str(self.config)]
        subprocess.run(command, check=True, timeout=30, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait(lambda: any("gateway.start" in line for line in self.lines("mailgate.log")))
        self.deliver()
        os.kill(int(pid.read_text()), signal.SIGTERM)
        self.wait(lambda: not pid.exists())
        self.assertTrue(any("message.done" in line for line in self.lines("mailgate.log")))
        self.assertFalse((self.home / "twistd.log").exists())


class Changes(LogCase):
    def test_sigusr1_opens_the_files_anew(self) -> None:
        gateway = self.start("log file mailgate.log")
        self.deliver()
        (self.home / "mailgate.log").rename(self.home / "mailgate.log.1")
        os.kill(gateway.pid, signal.SIGUSR1)
        self.wait(lambda: (self.home / "mailgate.log").exists())
        self.deliver()
        self.wait(lambda: any("message.done" in line for line in self.lines("mailgate.log")))
        for name in ("mailgate.log", "mailgate.log.1"):
            self.assertEqual(sum("message.done" in line for line in self.lines(name)), 1)

    def test_a_reload_changes_the_destinations(self) -> None:
        gateway = self.start("log file one.log")
        self.write("log stdout\nlog file two.log")
        os.kill(gateway.pid, signal.SIGHUP)
        self.wait(lambda: any(" gateway.reload " in line for line in self.lines("two.log")))
        before = len(self.lines("one.log"))
        self.deliver()
        self.wait(lambda: any("message.done" in line for line in self.lines("two.log")))
        self.assertEqual(len(self.lines("one.log")), before)

    def test_a_reload_with_a_log_that_can_not_be_had_changes_nothing(self) -> None:
        gateway = self.start("log file one.log")
        self.write("log stdout\nlog file nowhere/two.log")
        os.kill(gateway.pid, signal.SIGHUP)
        self.wait(lambda: any("gateway.reload_refused" in line for line in self.lines("one.log")))
        self.deliver()
        self.wait(lambda: any("message.done" in line for line in self.lines("one.log")))


class OneMessage(SimulatedCase):
    """What a message leaves in the log: one outcome with its id, four lines at most."""

    def log_of(self, *recipients: bytes, sender: bytes = b"sender@client.test", pipeline: str = "deliver_to &next") -> list[str]:
        hop = self.hop()
        running = self.gateway(
            f"target.smtp next {{\n targets {hop.endpoint}\n tls disabled\n}}\nsmtp {SMTP} {{\n tls off\n{pipeline}\n}}\n"
        )
        client = self.client()
        before = len(running.log)
        self.replies = self.deliver(client, *recipients, sender=sender)
        self.reactor.run(client.quit())
        return [str(line) for line in running.log[before:]]

    def test_a_delivered_message(self) -> None:
        lines = self.log_of(b"one@y.test", b"two@y.test")
        self.assertLessEqual(len(lines), 4, lines)
        outcomes = [line for line in lines if line.startswith(OUTCOMES)]
        self.assertEqual(len(outcomes), 1, lines)
        identifier = re.search(rb"Ok: (\S+)", self.replies[-1])
        assert identifier is not None
        self.assertIn(f"message={identifier.group(1).decode()} ", outcomes[0])

    def test_a_refused_sender(self) -> None:
        lines = self.log_of(b"one@y.test", pipeline='defer_sender_reject no\nreject 550 5.7.1 "no"')
        self.assertEqual(codes(self.replies), [b"550"])
        self.assertEqual(len([line for line in lines if line.startswith(OUTCOMES)]), 1, lines)

    def test_what_a_peer_says_is_never_a_line_of_its_own(self) -> None:
        lines = self.log_of(b'"a\x7fb message.done"@y.test', b"x=y@y.test")
        self.assertTrue(all(line.isprintable() for line in lines), lines)


class Mistakes(SynchronousTestCase):
    def test_they_are_told_at_load(self) -> None:
        for line, code in (
            ("log", "E0404"),
            ("log /var/log/mail.log", "E0505"),
            ("log file", "E0404"),
            ("log json", "E0404"),
            ("log json json stderr", "E0505"),
            ("log stderr loud", "E0405"),
            ("log stderr {\n level loud\n}", "E0505"),
        ):
            built = build(f"{line}\nlmtp tcp://127.0.0.1:24 {{\n tls off\n discard\n}}\n")
            self.assertEqual([one.code for one in built.diagnostics], [code], line)
