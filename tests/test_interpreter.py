"""What CPython has and PyPy has not, seen from either."""

import gc
import os
import socket
import struct
import sys
import unittest
import weakref

from twisted.trial.unittest import TestCase

from mailgate import interpreter


class InterpreterTests(TestCase):
    def test_processors_of_a_mask(self) -> None:
        self.assertEqual(interpreter._allowed("Name:\ttwistd\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n"), 2)
        self.assertEqual(interpreter._allowed("Cpus_allowed:\tff,ffffffff\n"), 40)
        self.assertEqual(interpreter._allowed("Name:\ttwistd\n"), 0)

    @unittest.skipUnless(sys.platform == "linux", "the mask is Linux's")
    def test_the_mask_says_what_the_system_says(self) -> None:
        with open("/proc/self/status") as status:
            self.assertEqual(interpreter._allowed(status.read()), interpreter.processors())

    def test_without_affinity(self) -> None:
        if hasattr(os, "sched_getaffinity"):
            told = interpreter.processors()
            self.patch(os, "sched_getaffinity", None)
            del os.sched_getaffinity
            self.assertEqual(interpreter.processors(), told)
        self.assertGreaterEqual(interpreter.processors(), 1)

    @unittest.skipUnless(sys.platform == "linux", "SO_PEERCRED is Linux's")
    def test_the_other_end_of_a_unix_socket(self) -> None:
        one, other = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        assert interpreter.SO_PEERCRED is not None
        said = one.getsockopt(socket.SOL_SOCKET, interpreter.SO_PEERCRED, 12)
        self.assertEqual(struct.unpack("3i", said), (os.getpid(), os.getuid(), os.getgid()))

    def test_a_socket_of_a_descriptor_blocks_no_one_else(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        listening.setblocking(False)
        made = interpreter.socket_of(os.dup(listening.fileno()))
        self.addCleanup(made.close)
        self.assertFalse(os.get_blocking(listening.fileno()))
        self.assertRaises(BlockingIOError, made.accept)

    def test_collecting(self) -> None:
        class Knot:
            pass

        knot = Knot()
        knot.itself = knot  # type: ignore[attr-defined]
        gone: list[int] = []
        weakref.finalize(knot, gone.append, 1)
        del knot
        interpreter.collect()
        self.addCleanup(getattr(gc, "unfreeze", gc.collect))
        self.assertEqual(gone, [1])
