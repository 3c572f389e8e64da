"""check.structure: how large a message may be, how deep its parts may nest, and how many there may be."""

from __future__ import annotations

from mailgate.config import values as v
from mailgate.config.schema import Directive
from mailgate.message.message import Message
from mailgate.modules.check._action import ActingCheck
from mailgate.modules.check._content import scanned
from mailgate.pipeline.check import MessageCheck
from mailgate.pipeline.lookup import Kept
from mailgate.smtp.reply import Reply

TOO_LARGE = Reply(552, "5.3.4", "Message is too large")


class State(MessageCheck):
    async def body(self, message: Message) -> None:
        check = self.check
        if check.max_size and message.size > check.max_size:
            check.failed(self.envelope, f"{message.size} octets", TOO_LARGE)
            return
        scan = await scanned(message)
        if scan.depth > check.max_depth:
            check.failed(self.envelope, f"its parts nest {scan.depth} deep")
        elif scan.count > check.max_parts:
            check.failed(self.envelope, f"it has {scan.count} parts")


class Structure(ActingCheck):
    """A message with too many or too deeply nested parts is refused with 554 5.6.0, one that is too large with 552 5.3.4."""

    name = "check.structure"
    kept = Kept.IN_CONFIGURATION
    message_state = State
    refusal = Reply(554, "5.6.0", "The structure of the message is not accepted")

    max_depth = Directive("max_depth", v.Integer(minimum=0, maximum=99), default=20, doc="How deep parts may nest.")
    max_parts = Directive("max_parts", v.Integer(minimum=1), default=1000, doc="How many parts there may be.")
    max_size = Directive("max_size", v.Size(), default=0, doc="How large the message may be for these recipients; 0: any size.")
