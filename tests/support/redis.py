"""A Redis server of Debian's package, in memory only; `kill` it and `start` it as often as you like."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.support.ports import free_port
from tests.support.servers import Server, tool

PASSWORD = "of the gateway"


class RedisServer:
    """On a port of 127.0.0.1 and a unix socket; the user ``gateway`` may read only, with `PASSWORD`."""

    def __init__(self) -> None:
        self._program = tool("redis-server", "redis-server")
        self._directory = tempfile.TemporaryDirectory(prefix="mailgate-redis-")
        self.home = Path(self._directory.name)
        self.port = free_port()
        self.path = str(self.home / "socket")
        self._server: Server | None = None
        (self.home / "redis.conf").write_text(
            f'bind 127.0.0.1\nport {self.port}\nunixsocket {self.path}\nsave ""\ndir {self.home}\n'
            f'user gateway on ">{PASSWORD}" ~* +@read +@connection\n'
        )
        self.start()

    def start(self) -> None:
        command = [self._program, str(self.home / "redis.conf")]
        self._server = Server(command, self.port, self.home / "log", asks=b"PING\r\n")

    def kill(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def close(self) -> None:
        self.kill()
        self._directory.cleanup()
