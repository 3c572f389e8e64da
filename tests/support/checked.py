"""A gateway with checks, on a simulated network with names: what one client hears who sends one message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mailgate.testing.client import RawClient, connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.names import MemoryNames
from mailgate.testing.network import adapters_for
from tests.support.scenario import SMTP, SimulatedCase, statuses

CLIENT = "192.0.2.7"
PTR = "7.2.0.192.in-addr.arpa"
OK = b"250 2.1.5"


class CheckedCase(SimulatedCase):
    def setUp(self) -> None:
        super().setUp()
        self.names = MemoryNames(self.reactor)

    def checked(
        self,
        check: str,
        *lines: str,
        listener: str = "",
        top: str = "",
        relay: bool = False,
        rest: str = "",
        before: Callable[[], None] | None = None,
    ) -> WholeGateway:
        """A gateway with this check, names and a listener of its own; what came before is taken down. What passes is thrown away,
        or with ``relay`` delivered to `next_hop`, or goes as ``rest`` says.
        ``before`` is called before it is built, to put files beside the rules."""
        self._strike()
        self._raise()
        names, self.names = self.names, MemoryNames(self.reactor)
        self.names._records, self.names._names, self.names._scripts = names._records, names._names, names._scripts
        if before is not None:
            before()
        if relay:
            self.next_hop = self.hop()
        rest = rest or (f"deliver_to smtp {self.next_hop.endpoint}" if relay else "discard")
        block = f" {{\n{chr(10).join(lines)}\n}}" if lines else ""
        text = (
            f"hostname gateway.test\n{top}\nsmtp {SMTP} {{\ntls self_signed\nreverse_lookup no\n{listener}\n"
            f"check {{\n{check}{block}\n}}\n{rest}\n}}\n"
        )
        adapters = replace(adapters_for(self.reactor), resolver=self.names.resolver())
        self.running = WholeGateway(text, adapters, self.directory)
        self.reactor.run(self.running.start())
        return self.running

    def from_(self, source: str = CLIENT, helo: bytes = b"client.test") -> RawClient:
        """A client with this address that has said hello."""
        client = self.reactor.run(connect(self.reactor, SMTP, source=source))
        client.patience = 60.0
        self.assertEqual(self.reactor.run(client.reply())[:3], b"220")
        self.assertEqual(self.ask(client, b"EHLO " + helo)[:3], b"250")
        return client

    def rcpt(self, client: RawClient, sender: bytes = b"ann@sender.test") -> bytes:
        """The whole reply to the RCPT of a transaction."""
        self.say(client, b"RSET", b"MAIL FROM:<" + sender + b">")
        return self.ask(client, b"RCPT TO:<bob@y.test>")

    def verdict(self, source: str = CLIENT, helo: bytes = b"client.test", sender: bytes = b"ann@sender.test") -> bytes:
        """Code and enhanced code of it, in a session of its own."""
        client = self.from_(source, helo)
        status = statuses([self.rcpt(client, sender)])[0]
        self.reactor.run(client.quit())
        return status

    def whole(
        self, source: str = CLIENT, helo: bytes = b"client.test", sender: bytes = b"ann@sender.test", content: bytes = b""
    ) -> bytes:
        """Code and enhanced code of the refusal of a whole message, or of the reply to its dot, in a session of its own."""
        client = self.from_(source, helo)
        replies = statuses(self.deliver(client, b"bob@y.test", content=content, sender=sender))
        self.reactor.run(client.quit())
        return next((status for status in replies if status[:1] in b"45"), replies[-1])

    @property
    def header(self) -> bytes:
        """The header section of what the next hop has got last."""
        return bytes(self.next_hop.transactions[-1].content).partition(b"\r\n\r\n")[0] + b"\r\n"
