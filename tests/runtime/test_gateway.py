"""The order of things in a running gateway, on the simulated network."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.body import Spool
from mailgate.registry import build
from mailgate.runtime import CannotBind, Gateway
from mailgate.testing.network import SimulatedReactor, adapters_for

CONFIG = """\
hostname gate.example
tls off
smtp tcp://127.0.0.1:2525 {
    deliver_to lmtp tcp://127.0.0.1:24
}
smtp tcp://127.0.0.1:2526 {
    deliver_to lmtp tcp://127.0.0.1:24
}
"""


class GatewayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = SimulatedReactor()
        adapters = adapters_for(self.reactor)
        built = build(CONFIG, adapters, outfit=lambda settings: {"spool": Spool(settings.body_spool_limit, adapters)})
        assert built.configuration is not None, built.diagnostics
        self.gateway = Gateway(built.configuration)

    def listening(self, port: int) -> bool:
        return self.reactor.find_port(("127.0.0.1", port)) is not None

    def test_started_and_stopped(self) -> None:
        self.gateway.bind()
        self.reactor.run(self.gateway.start())
        self.assertTrue(self.listening(2525) and self.listening(2526))
        self.reactor.run(self.gateway.stop())
        self.assertFalse(self.listening(2525) or self.listening(2526))
        self.reactor.run(self.gateway.stop())

    def test_a_port_that_is_taken_leaves_no_other_open(self) -> None:
        self.reactor.listenTCP(2526, Factory(), interface="127.0.0.1")
        with self.assertRaises(CannotBind) as caught:
            self.gateway.bind()
        self.assertIn(":6:", str(caught.exception))
        self.reactor.settle()
        self.assertFalse(self.listening(2525))

    def test_a_module_that_can_not_start_stops_the_others(self) -> None:
        stopped: list[Any] = []

        async def fails() -> None:
            raise KeyError("no")

        async def stop() -> None:
            stopped.append(True)

        first, second = (module for module in self.gateway.configuration.modules if not module.is_listener)
        first.stop = stop  # type: ignore[method-assign]
        second.start = fails  # type: ignore[method-assign]
        self.gateway.bind()
        with self.assertRaises(KeyError):
            self.reactor.run(self.gateway.start())
        self.assertEqual(stopped, [True])
        self.assertFalse(self.listening(2525))
