"""The log's lines and destinations: bounded, escaped, and never in the way of mail."""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mailgate.events import Event, EventLog
from mailgate.logs.destinations import PATIENCE, CannotLog, Descriptor, LogFile, Syslog
from mailgate.logs.lines import CUT, MAX_LINE, MAX_LINES, JsonFormat, SyslogFormat, TextFormat
from mailgate.logs.outputs import Output, Outputs


def caught(write: Any) -> dict[str, Any]:
    """The event that ``write(log)`` makes, at a known time."""
    events: list[dict[str, Any]] = []
    write(EventLog("test", observer=events.append))
    return {**events[0], "log_time": 1_800_000_000.25}


def foreign(text: str, level: Any = LogLevel.info) -> dict[str, Any]:
    return {"log_time": 1_800_000_000.25, "log_level": level, "log_namespace": "lib", "log_format": "{text}", "text": text}


DONE = caught(lambda log: log.info(Event.MESSAGE_DONE, message="1a", reply='250 "ok"\r\n', size=7, seconds=0.5, target=None))
_texts = st.text(max_size=6000)


class Text(SynchronousTestCase):
    def test_an_event(self) -> None:
        line = 'Z info message.done message=1a reply="250 \\"ok\\"\\x0d\\x0a" size=7 seconds=0.500'
        self.assertEqual(TextFormat()(DONE), f"2027-01-15T08:00:00{line}\n")
        self.assertEqual(TextFormat("mx1")(DONE), f"2027-01-15T08:00:00{line} component=mx1\n")
        self.assertEqual(SyslogFormat()(DONE), line.partition("info ")[2] + "\n")

    def test_what_others_log_is_indented_behind_its_first_line(self) -> None:
        self.assertEqual(TextFormat()(foreign("a\nb")), "2027-01-15T08:00:00Z info [lib] a\n    b\n")
        self.assertEqual(TextFormat()(foreign("")), "")

    def test_control_characters_of_others_are_escaped(self) -> None:
        line = TextFormat()(foreign("a\x1b[31m\rb\0\x9b"))
        self.assertEqual(line, "2027-01-15T08:00:00Z info [lib] a\\x1b[31m\\x0db\\x00\\x9b\n")

    @given(_texts)
    @settings(max_examples=80)
    def test_whatever_is_said_every_line_is_bounded(self, text: str) -> None:
        for event in (foreign(text), caught(lambda log: log.warn(Event.SESSION_OPEN, **dict.fromkeys("abcdefghij", text)))):
            for form in (TextFormat("n"), SyslogFormat()):
                octets = form(event).encode("utf-8", "backslashreplace")
                self.assertLessEqual(max(map(len, octets.splitlines(keepends=True)), default=0), MAX_LINE)
                self.assertFalse(any(code < 32 and code != 10 for code in octets))

    def test_a_cut_is_marked(self) -> None:
        line = TextFormat()(foreign("ä" * 9000))
        self.assertTrue(line.endswith(f"ä{CUT}\n"))
        many = TextFormat()(foreign("x\n" * 1000))
        self.assertEqual((many.count("\n"), many.endswith(f"    {CUT}\n")), (MAX_LINES + 1, True))


class Json(SynchronousTestCase):
    def test_an_event(self) -> None:
        self.assertEqual(
            JsonFormat("mx1")(DONE),
            '{"time":"2027-01-15T08:00:00.250Z","level":"info","component":"mx1","event":"message.done","message":"1a",'
            '"reply":"250 \\"ok\\"\\r\\n","size":7,"seconds":0.5}\n',
        )

    def test_what_others_log(self) -> None:
        found = json.loads(JsonFormat("mx1")(foreign("a\nb", LogLevel.error)))
        self.assertEqual((found["event"], found["source"], found["text"], found["level"]), ("log", "lib", "a\nb", "error"))

    @given(_texts)
    @settings(max_examples=80)
    def test_whatever_is_said_a_line_is_one_bounded_object(self, text: str) -> None:
        fields = dict.fromkeys("abcdefghij", text)
        for event in (foreign(text), caught(lambda log: log.warn(Event.SESSION_OPEN, **fields))):
            line = JsonFormat("n")(event)
            if not line:
                continue
            self.assertLessEqual(len(line), MAX_LINE)
            self.assertEqual(line.count("\n"), 1)
            self.assertTrue(line.isascii())
            self.assertIn("event", json.loads(line))

    def test_no_event_has_a_field_of_the_line_itself(self) -> None:
        """They would take the place of what every line has."""
        source = Path(__file__).parents[1] / "mailgate" / "events.py"
        for line in source.read_text().splitlines():
            name, _, comment = line.partition("  # ")
            if ' = "' in name:
                words = comment.replace(",", " ").replace(":", " ").split()
                self.assertEqual({"time", "level", "component"} & set(words), set(), line)


class Destinations(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)

    def pipe(self) -> tuple[int, Output]:
        read_end, write_end = os.pipe()
        self.addCleanup(os.close, read_end)
        self.addCleanup(os.close, write_end)
        return read_end, Output(Descriptor(write_end), TextFormat())

    def test_a_level_is_the_lowest_that_is_shown(self) -> None:
        output = Output(LogFile(str(self.home / "log")), SyslogFormat(), "warn")
        self.addCleanup(output.close)
        for level in (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical):
            output(foreign(level.name, level))
        self.assertEqual((self.home / "log").read_text(), "[lib] warn\n[lib] error\n[lib] critical\n")

    def test_a_reader_that_has_stopped_holds_nobody_up_for_long(self) -> None:
        read_end, output = self.pipe()
        os.set_blocking(read_end, False)
        begin = time.monotonic()
        for number in range(500):
            output(foreign(f"{number} " + "x" * 500))
        self.assertLess(time.monotonic() - begin, PATIENCE + 1.0)
        kept = os.read(read_end, 1 << 20).splitlines()
        output(foreign("again"))
        said = os.read(read_end, 1 << 20).decode().splitlines()
        self.assertEqual(said[0].partition("Z ")[2], f"warn log.lost events={500 - len(kept)}")
        self.assertTrue(said[1].endswith("[lib] again"))
        self.assertTrue(all(line.endswith(b"x" * 500) for line in kept))  # no half of a line

    def test_a_socket_takes_whole_lines_after_a_pause(self) -> None:
        """What systemd gives a service for its standard output."""
        ours, journal = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(journal.close)
        output = Output(Descriptor(ours.fileno()), SyslogFormat())
        for number in range(3000):
            output(foreign(f"{number} " + "x" * 500))
        journal.setblocking(False)
        kept = b""
        while True:
            try:
                kept += journal.recv(1 << 20)
            except BlockingIOError:
                break
        output(foreign("again"))
        lines = (kept + journal.recv(1 << 20)).decode().splitlines()
        self.assertTrue(lines[-2].startswith("log.lost events="))
        self.assertEqual(lines[-1], "[lib] again")
        self.assertEqual([line for line in lines[:-2] if not re.fullmatch(r"\[lib\] \d+ x{500}", line)], [])

    def test_the_descriptor_itself_is_left_as_it_is(self) -> None:
        read_end, output = self.pipe()
        output(foreign("x"))
        self.assertTrue(os.get_blocking(read_end))
        self.assertTrue(os.get_blocking(output._destination._descriptor))  # type: ignore[attr-defined]

    def test_a_closed_log_does_not_stop_the_gateway(self) -> None:
        read_end, write_end = os.pipe()
        os.close(read_end)
        output = Output(Descriptor(write_end), TextFormat())
        output(foreign("nobody reads"))
        os.close(write_end)
        output(foreign("nor is it there"))

    def test_a_full_disk_loses_lines_and_says_how_many(self) -> None:
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        output = Output(LogFile("/dev/full"), SyslogFormat())
        self.addCleanup(output.close)
        output(foreign("one"))
        output(foreign("two"))
        output._destination = LogFile(str(self.home / "log"))
        output(foreign("three"))
        self.assertEqual((self.home / "log").read_text(), "log.lost events=2\n[lib] three\n")

    def test_reopen_writes_to_a_new_file_of_the_name(self) -> None:
        path = self.home / "log"
        outputs = Outputs()
        outputs.use([Output(LogFile(str(path)), SyslogFormat())])
        self.addCleanup(outputs.use, [])
        outputs(foreign("before"))
        path.rename(self.home / "log.1")
        outputs(foreign("between"))
        outputs.reopen()
        outputs(foreign("after"))
        self.assertEqual((self.home / "log.1").read_text(), "[lib] before\n[lib] between\n")
        self.assertEqual(path.read_text(), "[lib] after\n")
        self.assertEqual(path.stat().st_mode & 0o777 & ~0o640, 0)

    def test_a_file_that_can_not_be_reopened_is_written_on_to(self) -> None:
        directory = self.home / "gone"
        directory.mkdir()
        outputs = Outputs()
        outputs.use([Output(LogFile(str(directory / "log")), SyslogFormat())])
        self.addCleanup(outputs.use, [])
        directory.rename(self.home / "moved")
        outputs.reopen()
        outputs(foreign("still"))
        self.assertEqual((self.home / "moved" / "log").read_text(), "[lib] still\n")

    def test_a_file_that_can_not_be_had(self) -> None:
        error = self.assertRaises(CannotLog, LogFile, str(self.home / "no" / "log"))
        self.assertEqual(str(error), f"cannot write to the log {self.home}/no/log: No such file or directory")

    def test_what_is_used_no_longer_is_closed_and_the_rest_stays_open(self) -> None:
        one, two = (Output(LogFile(str(self.home / name)), SyslogFormat()) for name in ("one", "two"))
        outputs = Outputs()
        outputs.use([one, two])
        outputs.use([two])
        self.addCleanup(outputs.use, [])
        one(foreign("closed"))
        two(foreign("open"))
        self.assertEqual(((self.home / "one").read_text(), (self.home / "two").read_text()), ("", "[lib] open\n"))


class SyslogLines(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = str(Path(directory.name) / "log")
        self.daemon = self.listen()

    def listen(self) -> socket.socket:
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        daemon.bind(self.path)
        daemon.setblocking(False)
        self.addCleanup(daemon.close)
        return daemon

    def test_priority_name_and_text(self) -> None:
        output = Output(Syslog("mx1", (self.path,)), SyslogFormat())
        self.addCleanup(output.close)
        output(DONE)
        output(foreign("a\nb", LogLevel.error))
        pattern = rf"^<{{}}>\w{{{{3}}}} [ \d]\d \d\d:\d\d:\d\d mx1\[{os.getpid()}\]: {{}}$"
        self.assertRegex(self.daemon.recv(4096).decode(), pattern.format(22, "message.done message=1a .*"))
        self.assertRegex(self.daemon.recv(4096).decode(), pattern.format(19, r"\[lib\] a"))
        self.assertRegex(self.daemon.recv(4096).decode(), pattern.format(19, "    b"))

    def test_a_daemon_that_is_started_anew(self) -> None:
        output = Output(Syslog("mx1", (self.path,)), SyslogFormat())
        self.addCleanup(output.close)
        self.daemon.close()
        os.unlink(self.path)
        output(foreign("lost"))
        daemon = self.listen()
        output(foreign("found"))
        self.assertTrue(daemon.recv(4096).endswith(b"log.lost events=1"))
        self.assertTrue(daemon.recv(4096).endswith(b"[lib] found"))

    def test_a_daemon_that_hangs(self) -> None:
        output = Output(Syslog("mx1", (self.path,)), SyslogFormat())
        self.addCleanup(output.close)
        begin = time.monotonic()
        for _ in range(2000):
            output(foreign("x" * 900))
        self.assertLess(time.monotonic() - begin, PATIENCE + 1.0)

    def test_none_at_all(self) -> None:
        self.assertIn("there is no syslog", str(self.assertRaises(CannotLog, Syslog, "mx1", (self.path + "x",))))


class Sources(SynchronousTestCase):
    def test_a_traceback_of_an_incident_is_said(self) -> None:
        events: list[dict[str, Any]] = []
        try:
            raise ValueError("boom")
        except ValueError as error:
            EventLog("test", observer=events.append).incident("abc123", error, where="here")
        text = "".join(map(TextFormat(), events))
        self.assertIn("critical incident incident=abc123", text)
        self.assertIn("\n    builtins.ValueError: boom", text.replace("exceptions.", "builtins."))

    def test_a_format_that_fails_is_no_line_of_ours(self) -> None:
        events: list[dict[str, Any]] = []
        Logger("lib", observer=events.append).info("{missing}")
        self.assertEqual(TextFormat()(events[0]).count("\n"), TextFormat()(events[0]).count("\n    ") + 1)
