"""Every diagnostic code: what it means, a file that has it, and the same file put right.

One table, in parts by the hundreds of the codes: `syntax` (01 to 03), `directives` (04), `values` (05), `modules` (06, 07),
`queues` (076), `logins` (078), `pipelines` (08, 09), `directories` (083), `databases` (084). `mailgate help CODE`
prints an entry, and SARIF names it as a rule. A test runs each example and looks for each code of the source here: a code
without an entry, or an entry that does not hold, fails.

Codes are stable: one that is out of use is not used again.
"""

from __future__ import annotations

from mailgate.config.codes import (
    administration,
    databases,
    directives,
    directories,
    logins,
    mailauth,
    modules,
    pipelines,
    queues,
    syntax,
    values,
)
from mailgate.config.codes.entry import Entry

__all__ = ["CODES", "Entry"]

CODES: dict[str, Entry] = {
    code: entry
    for part in (
        administration.CODES,
        syntax.CODES,
        directives.CODES,
        values.CODES,
        modules.CODES,
        mailauth.CODES,
        logins.CODES,
        pipelines.CODES,
        directories.CODES,
        databases.CODES,
        queues.CODES,
    )
    for code, entry in part.items()
}
