"""What asks a Redis server: how it is reached."""

from __future__ import annotations

import ipaddress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailgate.clients.redis_link import RedisAccess, RedisLink
from mailgate.clients.threads import Threads
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Directive
from mailgate.registry import Module, ModuleContext

if TYPE_CHECKING:
    from mailgate.config.places import EndpointAddress

PORT = 6379


class RedisModule(Module):
    """Directives of whatever asks a Redis server."""

    server = Directive(
        "server",
        v.Endpoint(PORT, schemes=("tcp", "tls", "unix")),
        default=None,
        doc="The server, tcp://127.0.0.1:6379 by default. The certificate of a tls:// server is verified.",
    )
    login = Directive(
        "login", v.Args(v.String("USER"), v.Secret("PASSWORD")), default=None, doc='Who we are to it; "" is the default user.'
    )
    database = Directive("database", v.Integer(minimum=0), default=0, doc="The number of the database.")
    root_ca = Directive("root_ca", v.Path(), default=None, doc="A file with the certificates to trust (PEM).")
    connections = Directive(
        "connections",
        v.Integer(minimum=1, maximum=64),
        default=4,
        divided=True,
        doc="Connections at most, and threads that use them.",
    )
    timeout = Directive("timeout", v.Duration(minimum=0.1, maximum=60), default=2.0, doc="For connecting, and for each answer.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self.access = access_of(self, self.server)
        self._threads: Threads[RedisLink] | None = None

    def configure(self, report: Report) -> None:
        check_access(self, self.access, self.span_of("server"), report)

    @property
    def threads(self) -> Threads[RedisLink]:
        """Made when it is asked first: while a file is only checked there is no outside world."""
        if self._threads is None:
            assert self.context.adapters is not None
            self._threads = Threads(
                self.label,
                partial(RedisLink, self.access),
                self.context.adapters,
                links=self.connections,
                deadline=3 * self.timeout,
            )
        return self._threads

    async def stop(self) -> None:
        if self._threads is not None:
            await self._threads.stop()


def access_of(block: Any, server: EndpointAddress | None) -> RedisAccess:
    """What the directives of ``block`` say: `login`, `database`, `root_ca`, `timeout`."""
    user, password = block.login or ("", None)
    return RedisAccess(
        host=server.host if server is not None else "127.0.0.1",
        port=(server.port if server is not None else 0) or PORT,
        path=server.path if server is not None else "",
        tls=server is not None and server.scheme == "tls",
        root_ca=str(block.root_ca or ""),
        database=block.database,
        user=user,
        password=password,
        timeout=block.timeout,
    )


def check_access(block: Any, access: RedisAccess, server: Any, report: Report) -> None:
    """``server`` is where it is named."""
    if access.root_ca and not (access.tls and Path(access.root_ca).is_file()):
        text = f"{access.root_ca} is no file" if access.tls else "`root_ca` is for a tls:// server"
        report.error(block.span_of("root_ca"), text, code="E0844")
    if access.password is not None and not access.tls and not access.path and not _is_loopback(access.host):
        report.warning(server, "the password goes over the network in clear", code="W0840", hint="tls://")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
