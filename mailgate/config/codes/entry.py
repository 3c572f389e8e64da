"""What there is to know of one diagnostic code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Entry:
    """``bad`` and ``good`` are complete files; ``files`` stand beside them (path to text), with the mode of ``modes`` or
    0600. ``needs`` says what no example can show; there is none then."""

    title: str
    text: str
    bad: str = ""
    good: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    needs: str = ""


def lmtp(body: str, top: str = "") -> str:
    """A file with one listener."""
    inner = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{top}lmtp tcp://127.0.0.1:2524 {{\n{inner}}}\n"
