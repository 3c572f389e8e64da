"""Where the text of a configuration comes from: the disk; or what was read from it once, for processes that must all have the
same, whatever becomes of the files meanwhile.

A `Recorder` reads the disk and keeps what it read; `Recorded` is that again, and knows nothing else. Texts only: certificates,
secrets and tables that a configuration names are read where they are used.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Mapping
from typing import Any

MAX_FILE_SIZE = 64 << 20


class Files:
    """The disk."""

    def read(self, path: str) -> str:
        """:raises OSError: it can't be read. :raises UnicodeDecodeError: it is not UTF-8."""
        with open(path, "rb") as file:
            if not os.path.isfile(path):
                raise OSError(f"{path} is not a regular file")
            data = file.read(MAX_FILE_SIZE + 1)
        if len(data) > MAX_FILE_SIZE:
            raise OSError(f"{path} is larger than {MAX_FILE_SIZE >> 20} MiB")
        return data.decode("utf-8")

    def matches(self, pattern: str) -> list[str]:
        """The files that a pattern names, in order."""
        return [match for match in sorted(glob.glob(pattern)) if os.path.isfile(match)]


DISK = Files()


class Recorder(Files):
    """The disk; ``record`` is what it gave so far."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {"texts": {}, "patterns": {}}

    def read(self, path: str) -> str:
        text = super().read(path)
        self.record["texts"][path] = text
        return text

    def matches(self, pattern: str) -> list[str]:
        found = super().matches(pattern)
        self.record["patterns"][pattern] = found
        return found


class Recorded(Files):
    """A `Recorder`'s record."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._texts: Mapping[str, str] = record["texts"]
        self._patterns: Mapping[str, list[str]] = record["patterns"]

    def read(self, path: str) -> str:
        if path not in self._texts:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._texts[path]

    def matches(self, pattern: str) -> list[str]:
        return list(self._patterns.get(pattern, ()))
