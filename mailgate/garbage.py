"""Garbage collection, as far as the interpreter lets one choose: CPython's can be told what to leave alone, PyPy's chooses.

CPython looks at every object that is alive whenever enough new ones were made; most are a configuration's, which lives for days.
"""

from __future__ import annotations

import gc

THRESHOLD = 10_000
"""Objects between two collections. Messages make few cycles: Python's 700 spends 2 % of the time to find none."""

_CHOOSES = hasattr(gc, "freeze")


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
