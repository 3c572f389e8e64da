"""Log lines: one event is one line, whatever a peer sent."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.events import MAX_FIELD, Event, EventLog, format_event


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


class LevelTests(SynchronousTestCase):
    def test_debug_events_are_made_only_when_asked_for(self) -> None:
        events: list[dict[str, Any]] = []
        log = EventLog("test", observer=events.append)
        log.debug(Event.SESSION_OPEN, session="hidden")
        self.patch(EventLog, "debugging", True)
        log.debug(Event.SESSION_OPEN, session="shown")
        self.assertEqual([str(event["event_text"]) for event in events], ["session.open session=shown"])
