"""`check.scripted`: a check of a test that answers as its lines say, and writes down what it is asked."""

from __future__ import annotations

import importlib.metadata
from typing import Any, ClassVar
from unittest import TestCase

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.pipeline.check import Check, MessageCheck, SessionCheck
from mailgate.pipeline.lookup import Kept
from mailgate.registry import catalogue
from mailgate.smtp.reply import Reply


class Connection(SessionCheck):
    def __init__(self, check: Any, session: Any) -> None:
        super().__init__(check, session)
        check.note("open", session.client_ip)

    def connection(self) -> Any:
        return self.check.answer("connection", self.session.client_ip)

    def tls(self) -> Any:
        return self.check.answer("tls", self.session.tls.version)

    def auth(self) -> Any:
        return self.check.answer("auth", self.session.auth_user)

    def close(self) -> None:
        self.check.note("close", self.session.client_ip)


class Message(MessageCheck):
    def sender(self, envelope: Any) -> Any:
        return self.check.answer("sender", str(envelope.sender))

    def rcpt(self, recipient: Any) -> Any:
        return self.check.answer("rcpt", str(recipient.address))

    def body(self, message: Any) -> Any:
        return self.check.answer("body", "session" if self.of_session is not None else "no session")

    def close(self) -> None:
        self.check.note("close", "message")


class Scripted(Check):
    """Answers each stage with its reply, if it has one; ``break`` stages raise."""

    name = "check.scripted"
    kept = Kept.IN_CONFIGURATION
    session_state = Connection
    message_state = Message
    notes: ClassVar[list[tuple[str, str]]] = []

    on = Directive("on", v.Args(v.String("STAGE"), v.ReplyCode()), repeatable=True, doc="What a stage answers.")
    fails = Directive("break", v.String("STAGE"), repeatable=True, doc="Which stage raises.")

    def note(self, stage: str, what: str) -> None:
        self.notes.append((stage, what))

    def answer(self, stage: str, what: str) -> Reply | None:
        self.note(stage, what)
        if stage in self.fails:
            raise OSError(f"{stage} broke")
        return next((reply for name, reply in self.on if name == stage), None)


class ScriptedSession(Scripted):
    """The same for the stages of the session alone."""

    name = "check.scripted_session"
    message_state = MessageCheck


def install(case: TestCase) -> list[tuple[str, str]]:
    """Make the language know these checks for one test; returns what they note."""
    group = catalogue.ENTRY_POINTS
    points = {
        name: importlib.metadata.EntryPoint(name, f"tests.support.checks:{declared}", group)
        for name, declared in {"check.scripted": "Scripted", "check.scripted_session": "ScriptedSession"}.items()
    }
    before = catalogue._plugins
    catalogue._plugins = lambda: points  # type: ignore[assignment]
    catalogue.find.cache_clear()

    def undo() -> None:
        catalogue._plugins = before
        catalogue.find.cache_clear()

    case.addCleanup(undo)
    Scripted.notes.clear()
    return Scripted.notes
