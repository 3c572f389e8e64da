"""An endpoint that was down is tried by one message when its back-off is over; all others go elsewhere meanwhile."""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults

from mailgate.net.waiting import spawn
from mailgate.testing.client import RawClient
from mailgate.testing.network import SimulatedReactor
from tests.support.scenario import SimulatedCase

TARGET = """
    hold_timeout 5m
    health {
        backoff 10s 10s
    }
"""


class Counting(SimulatedReactor):
    """Counts who is being connected to."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.dialled: list[int] = []

    def connectTCP(self, host: str, port: int, *arguments: object, **options: object) -> object:  # type: ignore[override]
        self.dialled.append(port)
        return super().connectTCP(host, port, *arguments, **options)  # type: ignore[arg-type]


class OneTrialTests(SimulatedCase):
    def setUp(self) -> None:
        super().setUp()
        self.reactor: Counting = Counting(self.seed)
        self.first, self.second = self.hop(), self.hop()
        self.relay(self.first, self.second, target=TARGET)
        self.old = self.opened()
        self.reactor.black_hole("127.0.0.1", self.port)
        self.reactor.run(self.opened().quit())  # finds out; the second has it
        self.reactor.settle(13)
        self.reactor.dialled.clear()

    @property
    def port(self) -> int:
        return self.first.port

    def opened(self) -> RawClient:
        """A client in the middle of its transaction."""
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>")
        return client

    def begin(self, client: RawClient) -> Deferred[list[bytes]]:
        return spawn(client.say(b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>"))

    def trials(self) -> int:
        return self.reactor.dialled.count(self.port)

    def mails(self) -> int:
        """How many transactions the first has seen."""
        return sum(connection.verbs.count(b"MAIL") for connection in self.first.connections)

    def test_of_many_at_once_one_tries_it(self) -> None:
        clients = [self.client() for _ in range(8)]
        started = self.reactor.seconds()
        answers = gatherResults([self.begin(client) for client in clients])
        self.reactor.settle(1)
        self.assertEqual(self.trials(), 1)
        for replies in self.reactor.run(answers):
            self.assertEqual([reply[:3] for reply in replies], [b"250", b"250"])
        self.assertLess(self.reactor.seconds() - started, 5)
        self.assertEqual(self.trials(), 1)

    def test_who_ends_meanwhile_lets_nobody_else_try_it(self) -> None:
        """A transaction from before it was down that its client gives up has learnt nothing, and was not the trial."""
        trial = self.client()
        self.begin(trial)
        self.reactor.settle(0.5)
        self.assertEqual(self.trials(), 1)
        self.say(self.old, b"RSET")
        self.reactor.settle(0.2)
        mails = self.mails()
        other = self.client()
        self.reactor.run(self.begin(other), limit=1)
        self.assertEqual((self.trials(), self.mails()), (1, mails))

    def test_who_gives_the_trial_up_lets_another_try_it(self) -> None:
        trial = self.client()
        self.begin(trial).addErrback(lambda failure: None)
        self.reactor.settle(0.5)
        trial.drop(reset=True)
        self.reactor.settle(0.5)
        self.reactor.heal("127.0.0.1", self.port)
        before = len(self.first.connections)
        self.opened()
        self.assertEqual((self.trials(), len(self.first.connections)), (2, before + 1))

    def test_a_trial_whose_client_pauses_is_still_the_only_one(self) -> None:
        self.reactor.heal("127.0.0.1", self.port)
        paused = self.opened()
        self.assertEqual(self.trials(), 1)
        mails = self.mails()
        self.say(self.old, b"RSET")
        for _ in range(3):
            self.opened()
        self.assertEqual((self.trials(), self.mails()), (1, mails))
        replies = self.say(paused, b"DATA")
        self.assertEqual(replies[-1][:3], b"354")
        paused.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
        self.assertEqual(self.reactor.run(paused.reply())[:3], b"250")
        self.assertEqual(len(self.running.logged("endpoint.up")), 1)  # type: ignore[union-attr]
