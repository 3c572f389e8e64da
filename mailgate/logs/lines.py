"""An event as one line: text for people, or a JSON object.

Ours (mailgate/events.py) is formatted from its fields. What Twisted and libraries log becomes text with the name of its
source, and as text a traceback has its further lines indented, so that an unindented line always begins an event. The contract
of both forms:

- Nothing but the line end of the line itself is a control character; what a peer sent is escaped.
- No line is longer than `MAX_LINE`, which a pipe takes whole; a mark says what was cut. A text of many lines has at most
  `MAX_LINES`.

Twisted's own formatting of a date costs 45 microseconds per event; here it is formatted once a second.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from twisted.logger import eventAsText

from mailgate.events import MAX_FIELD

MAX_LINE = 4000
"""Octets with the line end: below PIPE_BUF, so that lines of several processes do not mix."""
MAX_LINES = 200
CUT = "...[cut]"

Format: TypeAlias = Callable[[dict[str, Any]], str]
"""An event as its lines, each ended; "" for one that says nothing."""

_CONTROL = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class Stamp:
    """The time of an event, formatted once a second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def of(self, moment: float) -> str:
        """``2026-11-22T01:02:03``, UTC."""
        second = int(moment)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return self._text


class TextFormat:
    """``2026-11-22T01:02:03Z info message.done message=… from=…``; with a name of the component ``component=…`` at the end."""

    def __init__(self, name: str = "") -> None:
        self._stamp = Stamp()
        self._suffix = f" component={name}\n" if name else "\n"

    def __call__(self, event: dict[str, Any]) -> str:
        text = str(event["event_text"]) if "event_text" in event else event_text(event)
        if not text:
            return ""
        level = event["log_level"].name if "log_level" in event else "info"  # `level_of`, without the call
        line = f"{self._stamp.of(event['log_time'])}Z {level} {text}"
        # Nearly always; a character has at most four octets.
        return line + self._suffix if len(line) < MAX_LINE // 4 and "\n" not in line else _cut(line, self._suffix)


class SyslogFormat:
    """The event alone: syslog has time, level and name of its own."""

    def __call__(self, event: dict[str, Any]) -> str:
        return _cut(event_text(event), "\n")


class RelayFormat:
    """For another process, which logs it: the level before each line, and no time."""

    def __call__(self, event: dict[str, Any]) -> str:
        text = event_text(event)
        level = level_of(event)
        return _cut("\n".join(f"{level} {line}" for line in text.split("\n")), "\n") if text else ""


class JsonFormat:
    """``{"time":"2026-11-22T01:02:03.456Z","level":"info","component":"mailgate","event":"message.done","message":"…"}``."""

    def __init__(self, name: str) -> None:
        self._stamp = Stamp()
        self._name = name

    def __call__(self, event: dict[str, Any]) -> str:
        moment = event["log_time"]
        fields: dict[str, Any] = {
            "time": f"{self._stamp.of(moment)}.{int(moment % 1 * 1000):03d}Z",
            "level": level_of(event),
            "component": self._name,
        }
        ours = event.get("event")
        if ours is not None:
            fields["event"] = ours.value
            fields.update((name, _plain(value)) for name, value in event["fields"].items() if value not in (None, ""))
        else:
            text = foreign_text(event)
            if not text:
                return ""
            fields["event"] = "log"
            fields["source"] = event.get("log_namespace", "-")
            fields["text"] = text
        line = json.dumps(fields, separators=(",", ":"))
        return (line if len(line) < MAX_LINE else _smaller(fields)) + "\n"


def _plain(value: Any) -> Any:
    if value.__class__ is float:
        return round(value, 6)
    if value.__class__ in (int, bool):
        return value
    text = str(value)
    return text if len(text) <= MAX_FIELD else text[:MAX_FIELD] + CUT


def _smaller(fields: dict[str, Any]) -> str:
    """Texts are cut until it fits: each to the same length. An escaped character takes at most twelve octets."""
    for most in (500, 100, 20):
        shorter = {
            name: value[:most] + CUT if isinstance(value, str) and len(value) > most else value for name, value in fields.items()
        }
        line = json.dumps({**shorter, "cut": True}, separators=(",", ":"))
        if len(line) < MAX_LINE:
            return line
    kept = {name: fields[name] for name in ("time", "level", "component", "event")}
    return json.dumps({**kept, "cut": True}, separators=(",", ":"))


def level_of(event: dict[str, Any]) -> str:
    name: str = event["log_level"].name if "log_level" in event else "info"
    return name


def event_text(event: dict[str, Any]) -> str:
    """Without time and level; further lines are indented."""
    ours = event.get("event_text")
    if ours is not None:
        return str(ours)
    text = foreign_text(event)
    return f"[{event.get('log_namespace', '-')}] " + text.replace("\n", "\n    ") if text else ""


def foreign_text(event: dict[str, Any]) -> str:
    """What somebody else logs: control characters escaped but for line ends."""
    text = eventAsText(event, includeTimestamp=False, includeSystem=False).rstrip("\n")
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def _cut(text: str, end: str) -> str:
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"    {CUT}"]
    return "\n".join(_cut_line(line, MAX_LINE - len(end)) for line in lines) + end


def _cut_line(line: str, most: int) -> str:
    octets = line.encode("utf-8", "backslashreplace")
    if len(octets) <= most:
        return line
    return octets[: most - len(CUT)].decode("utf-8", "ignore") + CUT
