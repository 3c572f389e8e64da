"""A server whose library blocks, asked in threads of its own.

`Threads` is one configuration's. A question is a function that gets a link (a connection, as the caller's ``connect`` makes it)
in a thread and returns its answer. The contract:

- There are as many links as threads, and at most `WAITING` questions wait for one; beyond it a question fails at once.
- A link on which anything was raised is closed. If it was an idle one, the question is put once more on a new one: servers
  forget idle connections. The server may have done what it was asked the first time; a question that changes something there
  bears that, or knows itself again.
- After failures in a row nobody asks for a while (`Breaker`). Whatever happens, who asked hears `NoAnswer` and never an empty
  answer, and hears it after ``deadline`` seconds; a thread whose question nobody waits for any more has its link aborted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from mailgate.adapters import Adapters
from mailgate.clients.breaker import Breaker
from mailgate.net.waiting import DeadlineExceeded, within

T = TypeVar("T")

WAITING = 256
IDLE = 30.0
"""Seconds for which a link is kept that nobody uses."""
STOPPING = 5.0
"""Seconds for threads to come to an end whose questions were aborted."""


class NoAnswer(Exception):
    """The server could not say."""


class Unanswerable(Exception):
    """The server has answered, and nothing can be made of it for this question: no outage, so that nobody who chooses what is
    asked can have the server left alone."""


class Link(Protocol):
    """What ``connect`` makes. It is used by one thread at a time; `abort` comes from another."""

    def close(self) -> None: ...

    def abort(self) -> None:
        """End what it is doing, if that can be done from outside."""


L = TypeVar("L", bound=Link)


class Threads(Generic[L]):
    """See the module's docstring. ``connect()`` is called in a thread; ``run_in_thread(function)`` is a test's."""

    def __init__(
        self,
        label: str,
        connect: Callable[[], L],
        adapters: Adapters,
        *,
        links: int,
        deadline: float,
        run_in_thread: Callable[[Callable[[], Any]], Any] | None = None,
    ) -> None:
        self.label = label
        self._connect = connect
        self._adapters = adapters
        self._links = links
        self.deadline = deadline
        """Seconds after which nobody waits for an answer, nor asks again."""
        self._run = run_in_thread or self._run_in_pool
        self._threads: ThreadPool | None = None
        self._breaker = Breaker(adapters.reactor.seconds)
        self._idle: list[tuple[L, float]] = []
        self._busy: set[_Question[L, Any]] = set()
        self._under_way = 0

    async def ask(self, work: Callable[[L], T]) -> T:
        """What ``work``, called in a thread, makes of a link.

        :raises NoAnswer: nobody could say."""
        if self._under_way >= WAITING + self._links:
            raise NoAnswer(f"{self.label}: too many questions wait for an answer")
        if not self._breaker.begin():
            raise NoAnswer(f"{self.label}: left alone for a while, since it failed")
        self._under_way += 1
        question = _Question(self, work)
        self._busy.add(question)
        try:
            answer: T = await within(self._run(question.put), self.deadline, self._adapters.reactor)
        except CancelledError:
            self._breaker.gave_up()
            question.abort()
            raise
        except Unanswerable as error:
            self._breaker.succeeded()
            raise NoAnswer(f"{self.label}: {error}") from error
        except Exception as error:
            self._breaker.failed()
            question.abort()
            text = "no answer in time" if isinstance(error, DeadlineExceeded) else str(error).strip() or type(error).__name__
            raise NoAnswer(f"{self.label}: {text}") from error
        finally:
            self._under_way -= 1
            self._busy.discard(question)
        self._breaker.succeeded()
        return answer

    async def stop(self) -> None:
        """Close all links; whoever waits for an answer hears a failure."""
        for question in self._busy:
            question.abort()
        if self._threads is not None:
            threads, self._threads = self._threads, None
            try:
                await within(self._ended(threads), STOPPING, self._adapters.reactor)
            except DeadlineExceeded:
                pass  # a library that can't be interrupted: its threads end when it returns, or with the process
        while self._idle:
            self._idle.pop()[0].close()

    def _ended(self, threads: ThreadPool) -> Deferred[None]:
        """Its threads have come to their ends, each with its question. A thread of its own waits for them, since that may take
        for ever."""
        ended: Deferred[None] = Deferred()

        def wait() -> None:
            threads.stop()
            self._adapters.reactor.callFromThread(ended.callback, None)  # cancelled, it ignores that once

        Thread(target=wait, name=f"mailgate-{self.label}-end", daemon=True).start()
        return ended

    def _run_in_pool(self, function: Callable[[], Any]) -> Any:
        if self._threads is None:
            self._threads = ThreadPool(0, self._links, f"mailgate-{self.label}")
            self._threads.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
            self._threads.start()
        return deferToThreadPool(self._adapters.reactor, self._threads, function)

    # In threads

    def connect(self) -> L:
        return self._connect()

    def take(self) -> L | None:
        """The link that was used last; None if there is none of use."""
        while True:
            try:
                link, since = self._idle.pop()
            except IndexError:
                return None
            if self._adapters.reactor.seconds() < since + IDLE:
                return link
            link.close()

    def give_back(self, link: L) -> None:
        self._idle.append((link, self._adapters.reactor.seconds()))


class _Question(Generic[L, T]):
    """`put` is called in a thread, `abort` by the reactor."""

    def __init__(self, threads: Threads[L], work: Callable[[L], T]) -> None:
        self._threads = threads
        self._work = work
        self._link: L | None = None
        self._is_aborted = False

    def put(self) -> T:
        idle = self._threads.take()
        if idle is not None:
            try:
                return self._ask(idle)
            except Unanswerable:
                raise
            except Exception:
                if self._is_aborted:
                    raise
        return self._ask(self._threads.connect())

    def _ask(self, link: L) -> T:
        self._link = link
        try:
            if self._is_aborted:
                raise NoAnswer("nobody waits for the answer any more")
            answer = self._work(link)
        except BaseException:  # whatever it is: this link is not used again
            self._link = None
            link.close()
            raise
        self._link = None
        if self._is_aborted:
            link.close()
        else:
            self._threads.give_back(link)
        return answer

    def abort(self) -> None:
        self._is_aborted = True
        link = self._link
        if link is not None:
            link.abort()
