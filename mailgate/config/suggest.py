"""The nearest known word, for "did you mean": optimal string alignment distance (Damerau-Levenshtein, adjacent swaps)."""

from __future__ import annotations

from collections.abc import Iterable

MAX_WORD = 64
"""Longer words get no suggestion: the comparison is quadratic."""


def distance(left: str, right: str, limit: int) -> int:
    """Edits (insert, delete, replace, swap neighbours) from one to the other; anything above ``limit`` is ``limit + 1``."""
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before_before, before, row = before, row, [i] + [0] * len(right)
        for j, b in enumerate(right, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before_before[j - 2] + 1)
            row[j] = cost
        if min(row) > limit:
            return limit + 1
    return row[-1] if row[-1] <= limit else limit + 1


def nearest(word: str, candidates: Iterable[str], *, most: int = 3) -> list[str]:
    """The candidates that ``word`` is likely to mean, best first: none when nothing is near.

    Case, and ``-`` for ``_``, cost nothing. Equal distances go to the candidate that shares the longer beginning."""
    if not word or len(word) > MAX_WORD:
        return []
    folded = _fold(word)
    limit = max(1, (len(folded) + 1) // 3)
    ranked = []
    for candidate in dict.fromkeys(candidates):
        other = _fold(candidate)
        edits = distance(folded, other, limit)
        if edits <= limit:
            ranked.append((edits, -_shared(folded, other), abs(len(folded) - len(other)), candidate))
        elif len(folded) >= 4 and (other.startswith(folded) or other.endswith("_" + folded)):
            ranked.append((limit + 1, -_shared(folded, other), len(other), candidate))
    ranked.sort()
    return [candidate for *_, candidate in ranked[:most]]


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A hint such as "did you mean `deliver_to`?", or ""."""
    found = nearest(word, candidates, most=1)
    return f"did you mean `{found[0]}`?" if found else ""


def _fold(word: str) -> str:
    return word.casefold().replace("-", "_")


def _shared(left: str, right: str) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count
