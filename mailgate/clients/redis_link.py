"""A connection to a Redis server (or Valkey), for `clients.threads`."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import redis

from mailgate.config.places import SecretText


@dataclass(frozen=True, slots=True)
class RedisAccess:
    """``path``: of a unix socket, in place of host and port."""

    host: str = "localhost"
    port: int = 6379
    path: str = ""
    tls: bool = False
    root_ca: str = ""
    database: int = 0
    user: str = ""
    password: SecretText | None = None
    timeout: float = 5.0

    @property
    def label(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class RedisLink:
    """One connection, logged in."""

    def __init__(self, access: RedisAccess) -> None:
        self._scripts: dict[str, Any] = {}
        password = access.password.reveal() if access.password is not None else None
        common: dict[str, Any] = {
            "db": access.database,
            "username": access.user or None,
            "password": password,
            "socket_timeout": access.timeout,
            "socket_connect_timeout": access.timeout,
            "decode_responses": True,
            "single_connection_client": True,
            "retry": None,
        }
        if access.path:
            self.client = redis.Redis(unix_socket_path=access.path, **common)
        else:
            if access.tls:
                authorities = access.root_ca or None
                common.update(ssl=True, ssl_cert_reqs="required", ssl_check_hostname=True, ssl_ca_certs=authorities)
            self.client = redis.Redis(host=access.host, port=access.port, **common)

    def script(self, text: str) -> Any:
        """A script of Lua, to be called with ``keys`` and ``args``; the server is told its text when it does not know it."""
        found = self._scripts.get(text)
        if found is None:
            found = self._scripts[text] = self.client.register_script(text)
        return found

    def close(self) -> None:
        self.client.close()

    def abort(self) -> None:
        """From another thread: whoever reads there hears the end."""
        connection = self.client.connection
        opened = getattr(connection, "_sock", None)
        if opened is not None:
            try:
                opened.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is gone already
