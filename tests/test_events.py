"""Log lines: one event is one line, whatever a peer sent."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mailgate.events import MAX_FIELD, Event, EventLog, format_event
from mailgate.logs import LineObserver


class FormatTests(SynchronousTestCase):
    def test_fields_are_words_or_quoted(self) -> None:
        line = format_event(Event.MESSAGE_DONE, {"message": "1a", "reply": "250 2.0.0 Ok", "seconds": 0.12345})
        self.assertEqual(line, 'message.done message=1a reply="250 2.0.0 Ok" seconds=0.123')

    def test_absent_fields_are_left_out(self) -> None:
        self.assertEqual(format_event(Event.MESSAGE_DONE, {"a": None, "b": "", "c": 0}), "message.done c=0")

    def test_a_line_end_from_a_peer_stays_in_its_field(self) -> None:
        line = format_event(Event.SESSION_OPEN, {"helo": 'x\r\n2026 message.done "'})
        self.assertEqual(line, 'session.open helo="x\\x0d\\x0a2026 message.done \\""')

    def test_an_equals_sign_can_not_forge_a_field(self) -> None:
        self.assertEqual(format_event(Event.SESSION_OPEN, {"helo": "a=b"}), 'session.open helo="a=b"')

    @given(st.text())
    def test_any_text_is_one_line_of_printable_ascii(self, text: str) -> None:
        line = format_event(Event.SESSION_OPEN, {"helo": text})
        self.assertTrue(line.isascii() and line.isprintable())

    def test_long_fields_are_cut(self) -> None:
        self.assertLess(len(format_event(Event.SESSION_OPEN, {"helo": "x" * 100_000})), MAX_FIELD + 100)


class LineObserverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.read_end, write_end = os.pipe()
        self.addCleanup(os.close, self.read_end)
        self.addCleanup(os.close, write_end)
        self.observer = LineObserver(write_end)

    def written(self) -> bytes:
        return os.read(self.read_end, 65536)

    def test_an_event_is_one_line_with_time_and_level(self) -> None:
        EventLog("test", observer=self.observer).info(Event.GATEWAY_START, config="a.conf")
        self.assertRegex(self.written(), rb"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ info gateway\.start config=a\.conf\n$")

    def test_the_date_of_a_known_second(self) -> None:
        self.observer({"log_time": 0.9, "log_level": LogLevel.warn, "event_text": "x"})
        self.assertEqual(self.written(), b"1970-01-01T00:00:00Z warn x\n")

    def test_foreign_events_are_indented_behind_their_first_line(self) -> None:
        self.observer({"log_time": 0, "log_level": LogLevel.info, "log_namespace": "lib", "log_format": "a\nb"})
        self.assertEqual(self.written(), b"1970-01-01T00:00:00Z info [lib] a\n    b\n")

    def test_debug_events_are_made_only_when_asked_for(self) -> None:
        log = EventLog("test", observer=self.observer)
        log.debug(Event.SESSION_OPEN, session="hidden")
        self.patch(EventLog, "debugging", True)
        log.debug(Event.SESSION_OPEN, session="shown")
        self.assertIn(b"debug session.open session=shown\n", self.written())

    def test_an_incident_says_its_id_and_the_traceback(self) -> None:
        try:
            raise ValueError("boom")
        except ValueError as error:
            EventLog("test", observer=self.observer).incident("abc123", error, where="here")
        written = self.written()
        self.assertIn(b"critical incident incident=abc123", written)
        self.assertIn(b"ValueError: boom", written)

    def test_a_closed_log_does_not_stop_the_gateway(self) -> None:
        LineObserver(-1)({"log_time": 0, "log_level": LogLevel.info, "event_text": "x"})
