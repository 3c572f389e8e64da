"""What takes log lines: a descriptor, a file, syslog. None of them may hold up the gateway for long.

A pipe, a terminal or a socket can be full because its reader has stopped. It is written to without waiting; if there is no room,
the event loop waits up to `PATIENCE` for it, once, and then lines are lost (and counted, `outputs.Output`) until there is room
again. A file is written to directly: the kernel takes it into memory. It should lie on a local disk; one that is full loses
lines, it does not stop the mail.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from mailgate.interpreter import socket_of

PATIENCE = 0.1
"""Seconds that the event loop waits for a reader that has stopped: a journal that starts again, not one that hangs."""
FILE_MODE = 0o640

_SYSLOG = ("/dev/log", "/var/run/syslog", "/var/run/log")
_FACILITY_MAIL = 2
_SEVERITIES = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}


class CannotLog(Exception):
    """A destination can't be had; the text is for the operator."""


class Destination(Protocol):
    """One place for lines."""

    def write(self, lines: str, level: str) -> bool:
        """Take them; False if they are lost."""

    def reopen(self) -> None:
        """Begin anew under the same name: somebody has moved the file. :raises CannotLog: the old one stays."""

    def close(self) -> None:
        """Nothing is written any more."""


class Descriptor:
    """Standard output or error, whatever they are. It is not ours to close, and it is left as it is: others may have it too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._put = _without_waiting(descriptor)
        self._stalled = False
        self._rest = b""
        """Of a line that a socket took in part."""

    def write(self, lines: str, level: str) -> bool:
        if len(lines) <= 1000:
            return self._write(lines.encode("utf-8", "backslashreplace"))
        taken = True
        for line in lines.splitlines(keepends=True):
            taken = self._write(line.encode("utf-8", "backslashreplace")) and taken
        return taken

    def _write(self, data: bytes) -> bool:
        data = self._rest + data
        for _ in range(2):
            try:
                sent = self._put(data)
            except BlockingIOError:
                if self._stalled or not _has_room(self._descriptor):
                    break
            except OSError:
                return False  # nobody reads any more: a lost line must not stop the mail
            else:
                self._stalled, self._rest = False, data[sent:]
                return True
        self._stalled = True
        return False

    def reopen(self) -> None:
        """It has no name."""

    def close(self) -> None:
        """It is not ours."""


def _without_waiting(descriptor: int) -> Callable[[bytes], int]:
    """A write that raises BlockingIOError where there is no room, without a change to the descriptor: its flags are shared."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        mode = 0
    if stat.S_ISSOCK(mode):
        shared = socket_of(os.dup(descriptor))
        return lambda data: shared.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            return partial(os.write, own)
        except OSError:  # no such file system, or not our pipe
            return lambda data: _write_if_room(descriptor, data)
    return partial(os.write, descriptor)


def _write_if_room(descriptor: int, data: bytes) -> int:
    if not _has_room(descriptor, 0.0):
        raise BlockingIOError
    return os.write(descriptor, data)


class LogFile:
    """A file that is appended to.

    :raises CannotLog: it can't be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = self._open()

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise CannotLog(f"cannot write to the log {self._path}: {error.strerror}") from error

    def write(self, lines: str, level: str) -> bool:
        data = lines.encode("utf-8", "backslashreplace")
        try:
            return os.write(self._descriptor, data) == len(data)
        except OSError:
            return False

    def reopen(self) -> None:
        before, self._descriptor = self._descriptor, self._open()
        os.close(before)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Syslog:
    """The system's log, by its socket (RFC 3164, as local daemons take it): facility mail, one datagram a line.

    :raises CannotLog: there is none.
    """

    def __init__(self, ident: str, paths: tuple[str, ...] = _SYSLOG) -> None:
        self._ident = ident
        self._paths = paths
        self._socket: socket.socket | None = None
        self._stalled = False
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        for path in self._paths:
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            opened.setblocking(False)
            try:
                opened.connect(path)
            except OSError:
                opened.close()
                continue
            return opened
        raise CannotLog(f"there is no syslog at {' or '.join(self._paths)}")

    def write(self, lines: str, level: str) -> bool:
        priority = _FACILITY_MAIL << 3 | _SEVERITIES[level]
        head = f"<{priority}>{time.strftime('%b %e %H:%M:%S')} {self._ident}[{os.getpid()}]: "
        taken = True
        for line in lines.splitlines():
            taken = self._send((head + line).encode("utf-8", "backslashreplace")) and taken
        return taken

    def _send(self, data: bytes) -> bool:
        for _ in range(2):
            try:
                if self._socket is None:
                    self._socket = self._connect()
                self._socket.send(data)
            except BlockingIOError:
                if self._stalled or not _has_room(self._socket):
                    break
            except (OSError, CannotLog):  # the daemon was started anew
                self.close()
            else:
                self._stalled = False
                return True
        self._stalled = True
        return False

    def reopen(self) -> None:
        fresh = self._connect()
        self.close()
        self._socket = fresh

    def close(self) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()


def _has_room(opened: int | socket.socket | None, patience: float = PATIENCE) -> bool:
    """Whether there is, or will be before it is at an end."""
    if opened is None:
        return False
    poll = select.poll()
    poll.register(opened, select.POLLOUT)
    return bool(poll.poll(patience * 1000))
