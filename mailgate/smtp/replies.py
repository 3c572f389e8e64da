"""What the server engine says of its own accord: every reply that does not come from the driver, in one place."""

from __future__ import annotations

from collections.abc import Mapping

from mailgate.smtp.events import CloseReason
from mailgate.smtp.framing import TOO_BIG as TOO_BIG
from mailgate.smtp.reply import Reply

OK = Reply(250, "2.0.0", "Ok")
BYE = Reply(221, "2.0.0", "Bye")
HELP = Reply(214, "2.0.0", "See RFC 5321")
CANNOT_VRFY = Reply(252, "2.1.5", "Cannot verify, but will take the message and try")
GO_AHEAD = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")
UNKNOWN = Reply(500, "5.5.1", "Command not recognized")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
NOT_ALLOWED = Reply(550, "5.7.0", "Not allowed")
IN_TRANSACTION = Reply(503, "5.5.1", "A transaction is open")
NO_ARGUMENT = Reply(501, "5.5.4", "This command takes no argument")
BAD_HELLO = Reply(501, "5.5.4", "A host name or address literal is needed")
BAD_SENDER = Reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT = Reply(501, "5.1.3", "Bad recipient address syntax")
BAD_CHUNK = Reply(501, "5.5.4", "Bad argument of BDAT")
BINARY_NEEDS_BDAT = Reply(503, "5.5.1", "A BINARYMIME message comes by BDAT")
BAD_HOLD = Reply(501, "5.5.4", "HOLDFOR or HOLDUNTIL, and no later than announced")
BAD_BY = Reply(501, "5.5.4", "BY leaves less time than announced")
LOWER_PRIORITY = Reply(250, "2.3.6", "Sender ok, with a lower priority")
BAD_BODY = Reply(501, "5.5.4", "BODY=BINARYMIME needs BDAT")
NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "Non-ASCII address without SMTPUTF8")
NEEDS_TLS = Reply(530, "5.7.0", "REQUIRETLS needs TLS on this connection")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients in one transaction")
TLS_ACTIVE = Reply(503, "5.5.1", "TLS is already active")
AUTHENTICATED = Reply(503, "5.5.1", "Already authenticated")
AUTH_NEEDS_TLS = Reply(538, "5.7.11", "Authentication needs TLS")
AUTH_CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
BAD_AUTH = Reply(501, "5.5.4", "AUTH needs a mechanism and at most one initial response")
UNKNOWN_MECHANISM = Reply(504, "5.5.4", "Authentication mechanism not offered")
AUTH_LINE_TOO_LONG = Reply(500, "5.5.6", "Line of authentication too long")
INTERNAL_ERROR = Reply(451, "4.3.0", "Internal error")

CLOSING: Mapping[CloseReason, Reply] = {
    CloseReason.QUIT: BYE,
    CloseReason.EARLY_TALKER: Reply(421, "4.7.0", "You talk before the greeting"),
    CloseReason.HTTP: Reply(421, "4.7.0", "This is not a web server"),
    CloseReason.RUNAWAY_LINE: Reply(421, "4.7.0", "Line without end"),
    CloseReason.ERRORS: Reply(421, "4.7.0", "Too many errors"),
    CloseReason.REJECTED_RECIPIENTS: Reply(421, "4.7.0", "Too many rejected recipients"),
    CloseReason.IDLE_COMMANDS: Reply(421, "4.7.0", "Too many commands without a message"),
    CloseReason.AUTH_FAILURES: Reply(421, "4.7.0", "Too many failed logins"),
    CloseReason.UNAUTHENTICATED: Reply(421, "4.7.0", "Too many commands without authentication"),
    CloseReason.CONTENT_AFTER_REFUSAL: Reply(421, "4.7.0", "DATA was refused, content is not wanted"),
    CloseReason.BAD_CHUNK_SIZE: Reply(501, "5.5.4", "Bad chunk size"),
    CloseReason.INJECTION: Reply(554, "5.5.1", "Bytes behind STARTTLS"),
}
"""What the engine says when it closes by itself."""
