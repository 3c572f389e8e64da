"""Configurations of one file, made in a thread, with what all of them share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mailgate.adapters import Adapters
from mailgate.config.diagnostics import Diagnostic, in_order
from mailgate.config.files import DISK, Files
from mailgate.dns.service import HostnameResolver, with_names
from mailgate.inbound.authentication import Guard
from mailgate.message.body import Spool
from mailgate.pipeline.testblock import run_tests
from mailgate.registry import Built, Configuration, Globals, build
from mailgate.registry.effective import Change, differences, effective

SWITCH_INTERVAL = 0.0005
"""Seconds that reading a file may keep the interpreter from the event loop at a time."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that was read again. ``configuration`` is None if it has errors or its tests fail; ``changes`` is what it does
    differently."""

    configuration: Configuration | None
    diagnostics: tuple[Diagnostic, ...]
    changes: tuple[Change, ...] = ()


@contextmanager
def politely() -> Iterator[None]:
    """Let the event loop have the interpreter soon whenever it wants it. It gives it away with every system call, and would wait
    Python's usual 5 ms for it after each while this thread computes: a message that takes 20 of them, a tenth of a second."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


class Assembler:
    """Reads the file ``path``, as often as it is asked to. All its configurations share the disk for bodies and what is known
    of guessed passwords. ``files`` may be something else than the disk."""

    def __init__(self, path: str, adapters: Adapters) -> None:
        self.path = path
        self._absolute = os.path.abspath(path)  # a daemon changes its directory after the start
        self.spool = Spool(0, adapters)
        self.files: Files = DISK
        self._guard = Guard(adapters)
        self._adapters = adapters

    def assemble(self) -> Built:
        """The checked configuration in the file, which is read by its path as given. :raises OSError: it can't be read."""
        return self._build(self.path)

    def _build(self, path: str) -> Built:
        return build(path, self._adapters, outfit=self._outfit, files=self.files)

    def _outfit(self, settings: Globals) -> dict[str, Any]:
        return {"spool": self.spool, "guard": self._guard, "adapters": with_names(settings.resolver, self._adapters)}

    def read_again(self, current: Configuration) -> Candidate:
        """What would follow ``current``: checked, its `test` blocks run. Blocking, and no business of the event loop's.

        :raises OSError: the file can't be read.
        """
        with politely():
            return self._read_again(current)

    def _read_again(self, current: Configuration) -> Candidate:
        built = self._build(self._absolute)
        if built.configuration is None:
            return Candidate(None, tuple(built.diagnostics))
        diagnostics = in_order([*built.diagnostics, *run_tests(built.configuration)])
        failed = any(diagnostic.is_error for diagnostic in diagnostics)
        changes = differences(effective(current), effective(built.configuration))
        return Candidate(None if failed else built.configuration, tuple(diagnostics), tuple(changes))

    def adopt(self, configuration: Configuration) -> None:
        """This one serves from now on: its global limits count, and whatever connects by name asks its resolver."""
        self.spool.limit = configuration.globals.body_spool_limit
        resolver = configuration.context.adapters.resolver if configuration.context.adapters else None
        if resolver is not None:
            self._adapters.reactor.installNameResolver(HostnameResolver(resolver))
