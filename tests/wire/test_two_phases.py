"""The second phase of accepting, while the client goes away: what a disk has begun to write is delivered, not left lying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from mailgate.queue.store import Unavailable
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.nexthop import NextHop, Step, say
from tests.support.ledger import message
from tests.support.scenario import SMTP, SimulatedCase


class Slow:
    """A method of a store whose work is done at once and whose answer comes when `done` says so."""

    def __init__(self, store: Any, name: str, error: Exception | None = None) -> None:
        self.called = False
        self._waiting: Deferred[None] = Deferred()
        self._original: Callable[..., Any] = getattr(store, name)
        self._error = error
        self._store, self._name = store, name
        setattr(store, name, self)

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.called = True
        setattr(self._store, self._name, self._original)
        result = await self._original(*arguments, **named) if self._error is None else None
        await self._waiting
        if self._error is not None:
            raise self._error
        return result

    def done(self) -> None:
        self._waiting.callback(None)


class GoneTests(SimulatedCase):
    def store(self, gateway: WholeGateway, name: str) -> Any:
        queue: Any = gateway.configuration.instances[name]
        return queue.queue.store

    def copies(self, hop: NextHop, archive: NextHop) -> WholeGateway:
        return self.gateway(
            f"target.smtp next {{\n    targets {hop.endpoint}\n}}\ntarget.smtp archive {{\n    targets {archive.endpoint}\n}}\n"
            "target.queue copies {\n    target &archive\n    bounce {\n        discard\n    }\n}\n"
            f"smtp {SMTP} {{\n    tls off\n    deliver_to &next\n    deliver_to &copies\n}}\n"
        )

    def leave_during(self, slow: Slow) -> None:
        client = self.client()
        self.assertEqual(self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"DATA")[-1][:3], b"354")
        client.send(message("one") + b".\r\n")
        self.reactor.settle(1)
        self.assertTrue(slow.called)
        client.drop(reset=True)
        self.reactor.settle(1)

    def test_what_is_being_committed_is_delivered(self) -> None:
        hop, archive = self.hop(), self.hop()
        gateway = self.copies(hop, archive)
        slow = Slow(self.store(gateway, "copies"), "commit")
        self.leave_during(slow)
        slow.done()
        self.reactor.settle(5)
        self.assertEqual([len(one.transactions) for one in (hop, archive)], [1, 1])
        self.assertEqual(self.reactor.run(self.store(gateway, "copies").browse(0, 10)), [])

    def test_what_could_not_be_committed_is_forgotten(self) -> None:
        hop, archive = self.hop(), self.hop()
        gateway = self.copies(hop, archive)
        slow = Slow(self.store(gateway, "copies"), "commit", Unavailable("a test says so"))
        self.leave_during(slow)
        slow.done()
        self.reactor.settle(60)
        self.assertEqual([len(one.transactions) for one in (hop, archive)], [1, 0])
        store = self.store(gateway, "copies")
        self.assertEqual(
            self.reactor.run(store._read(lambda connection: connection.execute("SELECT * FROM entry").fetchall())), []
        )

    def test_what_a_split_has_to_keep_is_kept(self) -> None:
        first, second = self.hop(lmtp=True), self.hop(lmtp=True, script={Step.DOT: [say(b"452 4.2.2 full")]})
        gateway = self.gateway(
            f"target.lmtp one {{\n    targets {first.endpoint}\n}}\ntarget.lmtp two {{\n    targets {second.endpoint}\n}}\n"
            "target.queue rest {\n    target &one\n    bounce {\n        discard\n    }\n}\n"
            f"smtp {SMTP} {{\n    tls off\n    on_split queue &rest\n"
            "    destination one.test {\n        deliver_to &one\n    }\n"
            "    default_destination {\n        deliver_to &two\n    }\n}\n"
        )
        store = self.store(gateway, "rest")
        original, calls = store.settle, []
        waiting: Deferred[None] = Deferred()

        async def slow(*arguments: Any) -> None:
            calls.append(arguments)
            await original(*arguments)
            if len(calls) == 2:
                await waiting

        store.settle = slow
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@one.test>", b"RCPT TO:<b@two.test>", b"DATA")
        client.send(message("one") + b".\r\n")
        self.reactor.settle(1)
        self.assertEqual(len(calls), 2)
        client.drop(reset=True)
        self.reactor.settle(1)
        waiting.callback(None)
        self.reactor.settle(600)
        self.assertEqual([len(hop.transactions) for hop in (first, second)], [1, 2])
