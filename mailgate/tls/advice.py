"""Warnings about the files of keys."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from mailgate.config.diagnostics import Report
from mailgate.config.source import Span


def advise_keys(files: Iterable[str], place: Span | None, report: Report) -> None:
    """Warn of key files that others than their owner and group can use."""
    for path in files:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue  # an error elsewhere
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            report.warning(place, f"everybody can read or write the key in {path}", code="W0508", hint=f"chmod o-rwx {path}")
