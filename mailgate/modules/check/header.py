"""check.header: fields that must be there, and patterns that none may match.

A value is unfolded and decoded (RFC 2047), and its first 4,000 characters are compared: patterns may take long on long texts, and
everybody may write these.
"""

from __future__ import annotations

import re
from email.header import decode_header, make_header
from typing import Any

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Directive
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.modules.check._action import ActingCheck
from mailgate.pipeline.check import MessageCheck
from mailgate.pipeline.lookup import Kept
from mailgate.registry import ModuleContext
from mailgate.smtp.reply import Reply

LONGEST = 4000
_NAME = re.compile(r"[!-9;-~]+\Z")


class State(MessageCheck):
    def body(self, message: Message) -> Any:
        self.check.judge(self.envelope, Header(message.header))


class HeaderRules(ActingCheck):
    """A message without one of these fields, or with one that matches a pattern, is refused with 550 5.7.1."""

    name = "check.header"
    kept = Kept.IN_CONFIGURATION
    message_state = State
    refusal = Reply(550, "5.7.1", "The header of the message is not accepted")

    required = Directive("require", v.Strings("FIELD"), default=(), doc="Fields that must be there.", origin="maddy")
    matches = Directive(
        "match", v.Args(v.String("FIELD"), v.String("REGEX")), repeatable=True, doc="A field, and what it must not hold."
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._patterns: list[tuple[str, re.Pattern[str]]] = []

    def configure(self, report: Report) -> None:
        if not self.required and not self.matches:
            report.error(self.span, "no rule for any field", code="E0769", hint='match Subject "(?i)lottery"')
        for name in (*self.required, *(name for name, _ in self.matches)):
            if not _NAME.match(name):
                report.error(self.span, f"`{name}` is no name of a field", code="E0769")
        for name, pattern in self.matches:
            try:
                self._patterns.append((name, re.compile(pattern)))
            except re.error as error:
                report.error(self.span, f"`{pattern}` is no regular expression: {error}", code="E0769")

    def judge(self, envelope: Any, header: Header) -> None:
        """:raises MailError: the message is refused."""
        for name in self.required:
            if not header.values(name):
                self.failed(envelope, f"{name} is missing")
                return
        for name, pattern in self._patterns:
            if any(pattern.search(decoded(value)) for value in header.values(name)):
                self.failed(envelope, f"{name} matches {pattern.pattern}")
                return


def decoded(value: bytes) -> str:
    text = value[: 4 * LONGEST].decode("utf-8", "replace")
    try:
        text = str(make_header(decode_header(text)))
    except (ValueError, LookupError):
        pass  # as it stands
    return text[:LONGEST]
