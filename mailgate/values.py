"""Values: dataclasses that are not changed once made, for the path that every message takes.

A frozen dataclass goes through `object.__setattr__` for each of its fields whenever one is made, four times the price of an
assignment; a queued message makes a hundred of such fields. So here the type checker alone forbids to change one, and at run time
there is nothing to pay. They have slots, compare by their fields, and hash by them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(of: type[T]) -> type[T]:
    """In place of ``@dataclass(frozen=True, slots=True)``."""
    return dataclass(slots=True, unsafe_hash=True)(of)
