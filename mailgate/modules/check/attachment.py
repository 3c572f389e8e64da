"""check.attachment: parts of a message by their names and types.

Names are compared without regard to case, as a reader would show them; `*` stands for any characters. Nothing is unpacked: what
is in an archive is a filter's work.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Directive
from mailgate.message.message import Message
from mailgate.modules.check._action import ActingCheck
from mailgate.modules.check._content import scanned
from mailgate.pipeline.check import MessageCheck
from mailgate.pipeline.lookup import Kept
from mailgate.smtp.reply import Reply


class State(MessageCheck):
    async def body(self, message: Message) -> None:
        for part in (await scanned(message)).parts:
            found = self.check.denied(part.name, part.kind)
            if found:
                self.check.failed(self.envelope, f"a part is {found}")
                return


class Attachment(ActingCheck):
    """A message with a part of one of these names or types is refused with 550 5.7.1."""

    name = "check.attachment"
    kept = Kept.IN_CONFIGURATION
    message_state = State
    refusal = Reply(550, "5.7.1", "An attachment of this kind is not accepted")

    names = Directive("deny_name", v.Strings("PATTERN"), default=(), doc="Names of attachments: `*.exe`.")
    types = Directive("deny_type", v.Strings("TYPE"), default=(), doc="Types of parts: `application/x-msdownload`, `video/*`.")

    def configure(self, report: Report) -> None:
        if not self.names and not self.types:
            report.error(self.span, "nothing is denied", code="E0769", hint="deny_name *.exe")

    def denied(self, name: str, kind: str) -> str:
        """What makes it so, "" if nothing does."""
        folded = name.casefold()
        if folded and any(fnmatchcase(folded, pattern.casefold()) for pattern in self.names):
            return repr(name[:100])
        return kind if any(fnmatchcase(kind, pattern.lower()) for pattern in self.types) else ""
