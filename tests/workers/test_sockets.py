"""The supervisor's sockets: one for each worker of an address, a unix socket for all, everything or nothing."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.inbound.ports import CannotBind, place_of
from mailgate.inbound.unix_sockets import SocketAccess
from mailgate.workers.sockets import Address, open_addresses
from tests.support.ports import free_port


@dataclass
class Endpoint:
    scheme: str = "tcp"
    host: str = "127.0.0.1"
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path or f'{self.host}:{self.port}'}"

    @property
    def place(self) -> tuple[str, int]:
        return place_of(self.scheme, self.host, self.port, self.path)


@dataclass
class Listener:
    endpoints: list[Endpoint]
    span: Any = None
    socket_access: SocketAccess = field(default_factory=SocketAccess)


class SocketTests(SynchronousTestCase):
    def opened(self, *endpoints: Endpoint, workers: int = 3, known: Any = ()) -> dict[Any, Address]:
        found = open_addresses([Listener(list(endpoints))], known, workers)
        for address in found.values():
            self.addCleanup(address.close)
        return found

    def test_each_worker_has_a_socket_of_its_own_and_all_get_some(self) -> None:
        (address,) = self.opened(Endpoint()).values()
        names = {one.getsockname() for (one,) in address.by_worker}
        self.assertEqual(len(names), 1)
        self.assertEqual(len({one.fileno() for (one,) in address.by_worker}), 3)
        clients = [socket.create_connection(names.copy().pop()) for _ in range(60)]
        counts = []
        for (one,) in address.by_worker:
            count = 0
            while True:
                try:
                    accepted, _ = one.accept()
                except BlockingIOError:
                    break
                accepted.close()
                count += 1
            counts.append(count)
        self.assertEqual(sum(counts), 60)
        self.assertTrue(all(counts), counts)
        for client in clients:
            client.close()

    def test_every_address_of_both_families(self) -> None:
        port = free_port()
        (address,) = self.opened(Endpoint(host="*", port=port)).values()
        families = {tuple(one.family for one in sockets) for sockets in address.by_worker}
        self.assertIn(families, ({(socket.AF_INET, socket.AF_INET6)}, {(socket.AF_INET,)}))
        for sockets in address.by_worker:
            for one in sockets:
                if one.family == socket.AF_INET6:
                    self.assertEqual(one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), 1)

    def test_somebody_else_is_there_even_if_they_would_share(self) -> None:
        port = free_port()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            error = self.assertRaises(CannotBind, self.opened, Endpoint(port=port))
        self.assertEqual(str(error), f"cannot listen on tcp://127.0.0.1:{port}: Address already in use")

    def test_all_or_none(self) -> None:
        free, taken = free_port(), free_port()
        with socket.socket() as other:
            other.bind(("127.0.0.1", taken))
            other.listen()
            self.assertRaises(CannotBind, self.opened, Endpoint(port=free), Endpoint(port=taken))
        with socket.socket() as probe:
            self.assertNotEqual(probe.connect_ex(("127.0.0.1", free)), 0)

    def test_what_is_open_already_is_left_alone(self) -> None:
        first = Endpoint(port=free_port())
        self.opened(first)
        self.assertEqual(self.opened(first, known=[first.place]), {})

    def test_a_unix_socket_is_one_for_all_with_its_mode_and_goes_with_its_file(self) -> None:
        path = Path(self.mktemp())
        (address,) = self.opened(Endpoint("unix", "", 0, str(path))).values()
        self.assertEqual(len({id(one) for (one,) in address.by_worker}), 1)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o660)
        error = self.assertRaises(CannotBind, self.opened, Endpoint("unix", "", 0, str(path)))
        self.assertIn("Address already in use", str(error))
        address.close()
        self.assertFalse(os.path.lexists(path))
