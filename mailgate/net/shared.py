"""One answer for several who want it: asked for once, when the first of them does."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError

from mailgate.net.waiting import Wait, start

T = TypeVar("T")


class Shared(Generic[T]):
    """``await shared.get()`` is what ``ask()`` answers, or raises what it raises. Who stops waiting does not stop the others;
    when the last one does, the question is given up, and would be asked anew."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._ask = ask
        self._task: Wait[T] | None = None
        self._waiting: list[Wait[T]] = []
        self._answer: Callable[[], T] | None = None

    async def get(self) -> T:
        if self._answer is not None:
            return self._answer()
        if self._task is None:
            task = start(self._ask())
            if not isinstance(task, Wait):
                answer: T = task
                self._answer = lambda: answer
                return answer
            self._task = task
            task.when_done(self._done)
            if self._answer is not None:
                return self._answer()
        wait: Wait[T] = Wait(lambda: self._leave(wait))
        self._waiting.append(wait)
        return await wait

    def _leave(self, wait: Wait[T]) -> None:
        if wait in self._waiting:
            self._waiting.remove(wait)
        if not self._waiting and self._task is not None:
            self._task.cancel()

    def _done(self) -> None:
        task, self._task = self._task, None
        assert task is not None
        waiting, self._waiting = self._waiting, []
        try:
            answer = task.result()
        except CancelledError:
            return
        except Exception as error:
            for wait in waiting:
                if not wait.done:
                    wait.fail(error)
            return
        self._answer = task.result
        for wait in waiting:
            if not wait.done:
                wait.fire(answer)
