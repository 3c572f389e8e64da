"""Body and Message against their definition, however the content was cut, in memory and on disk."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.adapters import Adapters
from mailgate.message.body import WRITE_SIZE, Body, Spool, SpoolFull
from mailgate.message.message import Message


class Threads:
    """A thread pool of the test's own: jobs run at once, or when `work` says so."""

    def __init__(self, at_once: bool = True) -> None:
        self.at_once = at_once
        self.jobs: list[Callable[[], None]] = []

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        if self.at_once:
            return maybeDeferred(function, *args)
        done: Deferred[Any] = Deferred()
        self.jobs.append(lambda: maybeDeferred(function, *args).chainDeferred(done))
        return done

    def work(self) -> None:
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


def make_spool(threads: Threads | None = None, limit: int = 1 << 30) -> Spool:
    return Spool(limit, Adapters(Clock(), lambda: 0.0, (threads or Threads()).run, random.Random(1)))


def result(test: SynchronousTestCase, answer: Any) -> Any:
    """The value of what is maybe awaitable, when nothing is left to wait for."""
    if answer is None or isinstance(answer, bytes):
        return answer
    return test.successResultOf(ensureDeferred(answer) if not isinstance(answer, Deferred) else answer)


def cut(content: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(content) + 1) for place in places), len(content)]
    return [content[start:end] for start, end in itertools.pairwise(borders)]


CONTENTS = st.lists(
    st.sampled_from([b"\r\n", b"\r\n\r\n", b".", b"A: b", b"x" * 7, b"\xc3\xa9", b" ", b"\r\n."]), max_size=12
).map(b"".join)


def header_of(content: bytes) -> bytes:
    """The definition, written another way: lines up to the first empty one."""
    lines = []
    for line in content.splitlines(keepends=True):
        if line == b"\r\n":
            break
        lines.append(line)
    return b"".join(lines)


class BodyEverywhereTests(SynchronousTestCase):
    def check_body(self, content: bytes, places: list[int], memory_limit: int) -> None:
        body = Body(make_spool(), memory_limit)
        for piece in cut(content, places):
            result(self, body.append(piece))
        result(self, body.finish())
        header = header_of(content)
        self.assertEqual(body.size, len(content))
        self.assertEqual(body.header_length, len(header))
        self.assertEqual(body.header, header if header.endswith(b"\r\n") or not header else header + b"\r\n")
        self.assertEqual(body.eight_bit, not content.isascii())
        self.assertEqual(body.has_dots, content.startswith(b".") or b"\r\n." in content)
        self.assertEqual(body.ends_with_newline, not content or content.endswith(b"\r\n"))
        self.assertEqual(body.data, content if len(content) <= memory_limit else None)
        self.assertEqual(result(self, body.read(0, len(content) + 10)), content)
        message = Message(b"Received: x\r\n" + body.header, body)
        whole = b"Received: x\r\n" + body.header + content[len(header) :]
        self.assertEqual(message.size, len(whole))
        self.assertEqual(message.data(), whole if body.data is not None else None)
        self.assertEqual(message.has_dots, b"\r\n." in whole)
        self.assertEqual(message.eight_bit, not whole.isascii())
        self.assertEqual(message.ends_with_newline, whole.endswith(b"\r\n"))
        for offset in range(0, len(whole) + 2, 3):
            for size in (1, 5, 14, len(whole)):
                self.assertEqual(result(self, message.read(offset, size)), whole[offset : offset + size])
        body.release()

    @settings(max_examples=150, deadline=None)
    @given(CONTENTS, st.lists(st.integers(0, 200), max_size=6))
    def test_in_memory(self, content: bytes, places: list[int]) -> None:
        self.check_body(content, places, 1 << 20)

    @settings(max_examples=100, deadline=None)
    @given(CONTENTS, st.lists(st.integers(0, 200), max_size=6), st.integers(0, 20))
    def test_on_disk(self, content: bytes, places: list[int], memory_limit: int) -> None:
        self.check_body(content, places, memory_limit)

    def test_every_cut_of_an_empty_line_and_a_dot(self) -> None:
        content = b"A: b\r\n\r\n.c\r\n"
        for place in range(len(content) + 1):
            for limit in (0, 5, 100):
                self.check_body(content, [place], limit)

    def test_a_variant_with_another_header_section_is_judged_by_itself(self) -> None:
        body = Body(make_spool())
        body.append(b"Subject: \xc3\xa9\r\n.x: y\r\n\r\nclean\r\n")
        body.finish()
        self.assertTrue(Message(body.header, body).utf8_header)
        self.assertTrue(Message(body.header, body).has_dots)
        clean = Message(body.header, body).with_header(b"Subject: e\r\n")
        self.assertEqual((clean.utf8_header, clean.eight_bit, clean.has_dots), (False, False, False))
        self.assertEqual(clean.data(), b"Subject: e\r\n\r\nclean\r\n")


class BodyOnDiskTests(SynchronousTestCase):
    def test_reading_pauses_while_the_disk_is_behind(self) -> None:
        threads = Threads(at_once=False)
        body = Body(make_spool(threads), 10)
        self.assertIsNone(body.append(b"x" * 11))  # begins the first job
        self.assertIsNone(body.append(b"y" * (WRITE_SIZE - 1)))
        waiting = body.append(b"z")
        assert waiting is not None
        paused = ensureDeferred(waiting)  # type: ignore[arg-type]
        self.assertNoResult(paused)
        threads.work()
        self.assertIsNone(self.successResultOf(paused))
        finishing = ensureDeferred(body.finish())  # type: ignore[arg-type]
        self.assertNoResult(finishing)
        threads.work()
        self.successResultOf(finishing)
        reading = body.read(9, 4)
        threads.work()
        self.assertEqual(result(self, reading), b"xxyy")
        body.release()
        threads.work()

    def test_over_the_spools_limit(self) -> None:
        spool = make_spool(limit=100)
        body = Body(spool, 10)
        body.append(b"x" * 90)
        self.assertRaises(SpoolFull, body.append, b"y" * 11)
        self.assertRaises(SpoolFull, body.append, b"")
        self.assertRaises(SpoolFull, body.finish)
        self.assertEqual(spool.used, 90)
        body.release()
        self.assertEqual(spool.used, 0)

    def test_a_full_disk_is_a_full_spool(self) -> None:
        spool = make_spool()
        body = Body(spool, 0)
        with mock.patch("tempfile.TemporaryFile", side_effect=OSError(errno.ENOSPC, "No space left on device")):
            self.assertRaises(SpoolFull, body.append, b"x")
        self.assertRaises(SpoolFull, body.finish)
        body.release()
        self.assertEqual(spool.used, 0)

    def test_a_disk_that_fails_later_fails_the_end(self) -> None:
        threads = Threads(at_once=False)
        body = Body(make_spool(threads), 0)
        body.append(b"x")
        finishing = ensureDeferred(body.finish())  # type: ignore[arg-type]
        with mock.patch("tempfile.TemporaryFile", side_effect=OSError(errno.EIO, "Input/output error")):
            threads.work()
        self.failureResultOf(finishing, OSError)

    def test_the_file_is_closed_by_the_last_holder(self) -> None:
        body = Body(make_spool(), 0)
        body.append(b"x")
        body.finish()
        body.hold()
        body.release()
        self.assertEqual(result(self, body.read(0, 1)), b"x")
        file = body._file
        assert file is not None
        body.release()
        self.assertTrue(file._file.closed)
        self.assertRaises(ValueError, body.read, 0, 1)

    def test_released_while_a_job_is_on_its_way(self) -> None:
        threads = Threads(at_once=False)
        spool = make_spool(threads)
        body = Body(spool, 0)
        body.append(b"x")
        body.release()
        threads.jobs.reverse()  # the close overtakes the write
        threads.work()
        self.assertEqual(spool.used, 0)

    def test_cancelled_while_the_disk_is_behind(self) -> None:
        threads = Threads(at_once=False)
        body = Body(make_spool(threads), 0)
        body.append(b"x")
        finishing = ensureDeferred(body.finish())  # type: ignore[arg-type]
        finishing.addErrback(lambda _: None)
        finishing.cancel()
        threads.work()
        body.release()
        threads.work()
        self.assertRaises(ValueError, body.append, b"y")
