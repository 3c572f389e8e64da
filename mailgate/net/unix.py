"""Files of unix sockets: one that was left behind is removed, but only a socket, and only when nobody listens on it any more."""

from __future__ import annotations

import errno
import os
import socket
import stat


def remove_stale(path: str) -> None:
    """:raises OSError: something is in the way, and stays there."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file that is not a socket is in the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # a full queue: somebody is there
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
