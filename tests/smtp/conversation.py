"""Drives a `ServerSession` as a driver would, with scripted answers, and writes down what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mailgate.smtp.events import Content, ContentEnd, ContentRefused, Data, Mail, Rcpt
from mailgate.smtp.reply import Reply
from mailgate.smtp.server import ServerSession
from mailgate.smtp.settings import ServerSettings

SENDER_OK = Reply(250, "2.1.0", "Sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient ok")
DELIVERED = Reply(250, "2.0.0", "Ok: 1")

Answers = Mapping[type, Callable[[Any], Reply | list[Reply] | None]]

SETTINGS = ServerSettings("mx.example")
LMTP = ServerSettings("mx.example", lmtp=True)


@dataclass
class Transcript:
    """Events with neighbouring `Content` joined (and those of refused content left out), and all output."""

    events: list[Any] = field(default_factory=list)
    output: bytes = b""

    def add(self, event: Any) -> None:
        if isinstance(event, Content) and self.events and isinstance(self.events[-1], Content):
            self.events[-1] = Content(self.events[-1].data + event.data)
            return
        if isinstance(event, ContentRefused) and self.events and isinstance(self.events[-1], Content):
            self.events.pop()
        self.events.append(event)

    @property
    def lines(self) -> list[str]:
        return self.output.decode().splitlines()

    @property
    def codes(self) -> list[str]:
        """Code and enhanced code of each reply, of the last line where there are several."""
        return [
            " ".join(word for word in line.replace("-", " ", 1).split(" ")[:2] if word[0].isdigit())
            for line in self.lines
            if line[3:4] != "-"
        ]

    @property
    def content(self) -> list[bytes]:
        return [event.data for event in self.events if isinstance(event, Content)]


class Conversation:
    """One session and its answers; `Mail`, `Rcpt`, `Data` and `ContentEnd` are welcome unless told otherwise."""

    def __init__(self, settings: ServerSettings = SETTINGS, answers: Answers | None = None, *, tls: bool = False) -> None:
        self.session = ServerSession(settings, tls=tls)
        self.transcript = Transcript()
        self.answers: dict[type, Callable[[Any], Any]] = {
            Mail: lambda event: SENDER_OK,
            Rcpt: lambda event: RECIPIENT_OK,
            Data: lambda event: None,
            ContentEnd: lambda event: DELIVERED,
            **(answers or {}),
        }

    def greet(self) -> Conversation:
        self._follow(self.session.greet())
        self.session.output()
        return self

    def say(self, data: bytes) -> bytes:
        """Send, and return what was written in answer."""
        self._follow(self.session.receive(data))
        return self._flush()

    def _flush(self) -> bytes:
        output = self.session.output()
        self.transcript.output += output
        return output

    def _follow(self, events: list[Any]) -> None:
        while True:
            for event in events:
                self.transcript.add(event)
            if not self.session.is_waiting:
                return
            answer = self.answers[type(events[-1])](events[-1])
            events = self.session.reply_each(answer) if isinstance(answer, list) else self.session.reply(answer)


def converse(
    data: bytes | Iterable[bytes], settings: ServerSettings = SETTINGS, answers: Answers | None = None, *, tls: bool = False
) -> Transcript:
    """The transcript of a session that is sent ``data`` (or these pieces) after the greeting."""
    conversation = Conversation(settings, answers, tls=tls).greet()
    for piece in [data] if isinstance(data, bytes) else data:
        conversation.say(piece)
    return conversation.transcript


def cuts(data: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Every way of sending that a table is held to: whole, octet by octet, and in two at each place."""
    yield "whole", [data]
    yield "octet by octet", [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield f"cut at {at}", [data[:at], data[at:]]


def converse_all_ways(
    data: bytes, settings: ServerSettings = SETTINGS, answers: Answers | None = None, *, tls: bool = False
) -> Transcript:
    """`converse`, and proof that the cuts of the input change nothing."""
    expected = converse(data, settings, answers, tls=tls)
    for name, pieces in cuts(data):
        transcript = converse(pieces, settings, answers, tls=tls)
        assert transcript == expected, f"{name}: {transcript} instead of {expected}"
    return expected
