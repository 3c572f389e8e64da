"""Where the interpreters of Python differ: CPython and PyPy.

CPython looks at every object that is alive whenever enough new ones were made, and can be told what to leave alone: most are a
configuration's, which lives for days. PyPy chooses for itself. And PyPy has not everything that Linux has to offer.
"""

from __future__ import annotations

import gc
import os
import platform
import socket
import sys
from pathlib import Path

THRESHOLD = 10_000
"""Objects between two collections. Messages make few cycles: Python's 700 spends 2 % of the time to find none."""

_CHOOSES = hasattr(gc, "freeze")

_GENERIC = ("x86_64", "i686", "aarch64", "s390x", "riscv64")
"""Machines on which Linux has the usual numbers of socket options."""

SO_PEERCRED: int | None = getattr(socket, "SO_PEERCRED", None)
"""The option of a unix socket that says who is at the other end; None where there is none."""
if SO_PEERCRED is None and sys.platform == "linux" and platform.machine() in _GENERIC:
    SO_PEERCRED = 17


def collect() -> None:
    """Find the garbage of a start, or of a configuration that was replaced, and look at what is left no more: it is there for
    as long as its configuration is."""
    if _CHOOSES:
        gc.unfreeze()
    gc.collect()
    if _CHOOSES:
        gc.freeze()


def collect_seldom() -> None:
    """Between messages, from now on."""
    if _CHOOSES:
        gc.set_threshold(THRESHOLD, 50, 50)


def processors() -> int:
    """How many of the machine's this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return os.cpu_count() or 1
    return _allowed(status) or os.cpu_count() or 1


def _allowed(status: str) -> int:
    """The processors of a line like ``Cpus_allowed: ff,ffffffff``; 0 without one."""
    for line in status.splitlines():
        name, _, mask = line.partition(":")
        if name == "Cpus_allowed":
            return int(mask.replace(",", ""), 16).bit_count()
    return 0


def socket_of(descriptor: int) -> socket.socket:
    """The socket of a descriptor, the caller's to close. PyPy alone would have it block from then on, in all that share it."""
    blocking = os.get_blocking(descriptor)
    made = socket.socket(fileno=descriptor)
    os.set_blocking(descriptor, blocking)
    return made
