"""What a server said lately, and one question at a time for the same key.

A hit costs a look into a dictionary. Who asks for what is being asked already waits for that answer; who stops waiting does not
stop the others. Failures are told to all who wait and are not kept: how often a server that is down is asked is its breaker's
matter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.python.failure import Failure

from mailgate.net.waiting import Wait, spawn

T = TypeVar("T")


class Cache(Generic[T]):
    """``found`` and ``missing`` are the seconds for which answers are kept that are true, and those that are false (an empty
    tuple, say); ``size`` is how many, the one that was not asked for longest going first."""

    def __init__(self, seconds: Callable[[], float], *, size: int, found: float, missing: float) -> None:
        self._seconds = seconds
        self._size = size
        self._found = found
        self._missing = missing
        self._kept: OrderedDict[str, tuple[T, float]] = OrderedDict()
        self._asked: dict[str, list[Wait[T]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str, ask: Callable[[str], Coroutine[Any, Any, T]]) -> T | Wait[T]:
        """What is known, else a wait for what ``ask`` says."""
        kept = self._kept.get(key)
        if kept is not None:
            if self._seconds() < kept[1]:
                self._kept.move_to_end(key)
                return kept[0]
            del self._kept[key]
        wait: Wait[T] = Wait()
        waiting = self._asked.get(key)
        if waiting is not None:
            waiting.append(wait)
            return wait
        self._asked[key] = [wait]
        spawn(ask(key)).addCallbacks(self._answered, self._failed, callbackArgs=(key,), errbackArgs=(key,))
        return wait

    def _answered(self, answer: T, key: str) -> None:
        lifetime = self._found if answer else self._missing
        if lifetime > 0:
            self._kept[key] = (answer, self._seconds() + lifetime)
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        for wait in self._asked.pop(key):
            if not wait.done:
                wait.fire(answer)

    def _failed(self, failure: Failure, key: str) -> None:
        assert failure.value is not None
        for wait in self._asked.pop(key):
            if not wait.done:
                wait.fail(failure.value)
