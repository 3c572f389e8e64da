"""What happens between accept and greeting, and after STARTTLS: steps, refusals, failures, what is given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailgate.events import Event
from mailgate.inbound.sessions import ConnectionSettings
from mailgate.inbound.welcome import PATIENCE, give_back
from mailgate.message.envelope import Session
from mailgate.smtp.reply import Reply, TemporaryError
from mailgate.testing.client import RawClient
from mailgate.testing.tls import TrustingClient

from .scripted import Simulation

UNWELCOME = Reply(554, "5.7.1", "Not you")
BUSY = Reply(421, "4.7.0", "Not now")


class Seen:
    """A step that notes its sessions and answers what it was told."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.sessions: list[Session] = []
        self.given_back: list[str] = []

    def __call__(self, session: Session) -> Any:
        self.sessions.append(session)
        session.at_end = [*(session.at_end or []), lambda: self.given_back.append(session.id)]
        answer = self.answer() if callable(self.answer) else self.answer
        if isinstance(answer, Exception):
            raise answer
        return answer


def welcome(*steps: Callable[[Session], Any], **options: Any) -> Simulation:
    return Simulation(steps={"welcome": steps}, **options)


class _Steps(SynchronousTestCase):
    def assertRefused(self, simulation: Simulation, reply: bytes) -> RawClient:
        client = simulation.connect()
        self.assertEqual(reply, simulation.reply(client)[: len(reply)])
        simulation.reactor.run(client.wait_closed())
        simulation.reactor.settle()
        self.assertEqual(0, len(simulation.lab.sessions))
        return client


class BeforeTheGreeting(_Steps):
    def test_without_steps_there_is_no_session_before_the_first_byte(self) -> None:
        simulation = Simulation()
        simulation.reply(simulation.connect())
        (connection,) = simulation.lab.sessions._open
        self.assertEqual("", connection.id)

    def test_steps_see_the_session_that_transactions_get(self) -> None:
        step = Seen()
        simulation = welcome(step)
        client = simulation.greeted()
        simulation.deliver(client)
        self.assertIs(step.sessions[0], simulation.transaction.session)
        self.assertEqual(("127.0.0.1", None), (step.sessions[0].client_ip, step.sessions[0].tls))
        self.assertTrue(simulation.transaction.id.startswith(step.sessions[0].id + "."))

    def test_the_first_refusal_ends_the_row(self) -> None:
        first, second, third = Seen(), Seen(UNWELCOME), Seen()
        simulation = welcome(first, second, third)
        client = self.assertRefused(simulation, b"554 5.7.1 Not you")
        self.assertNotIn(b"220", client.received)
        self.assertEqual([1, 1, 0], [len(step.sessions) for step in (first, second, third)])
        self.assertEqual([1, 1], [len(step.given_back) for step in (first, second)])

    def test_a_step_that_takes_its_time(self) -> None:
        answer: Deferred[Reply | None] = Deferred()
        simulation = welcome(Seen(answer), Seen())
        client = simulation.connect()
        simulation.reactor.settle(10)
        self.assertEqual(b"", bytes(client.received))
        answer.callback(None)
        self.assertEqual(b"220", simulation.reply(client)[:3])

    def test_a_late_refusal(self) -> None:
        answer: Deferred[Reply | None] = Deferred()
        simulation = welcome(Seen(answer))
        simulation.reactor.callLater(3, answer.callback, BUSY)
        self.assertRefused(simulation, b"421 4.7.0 Not now")

    def test_a_failure_lets_nobody_in(self) -> None:
        for answer in (ValueError("broken"), lambda: Deferred.fromCoroutine(_fail()), 250, Reply(250, "2.0.0", "fine")):
            with self.subTest(answer=answer):
                simulation = welcome(Seen(answer))
                self.assertRefused(simulation, b"421 4.3.0 Internal error, incident ")
                for kind in (ValueError, AttributeError, TypeError):
                    self.flushLoggedErrors(kind)

    def test_an_exception_that_is_a_reply(self) -> None:
        self.assertRefused(welcome(Seen(TemporaryError("Wait", code=450, enhanced="4.7.1"))), b"450 4.7.1 Wait")

    def test_a_step_that_never_ends(self) -> None:
        cancelled: list[Any] = []
        simulation = welcome(Seen(lambda: Deferred(cancelled.append)))
        client = simulation.connect()
        client.patience = PATIENCE + 10
        self.assertEqual(b"421 4.3.0", simulation.reply(client)[:9])
        self.assertEqual(1, len(cancelled))
        self.flushLoggedErrors()

    def test_a_client_that_leaves_ends_the_wait(self) -> None:
        cancelled: list[Any] = []
        step, after = Seen(lambda: Deferred(cancelled.append)), Seen()
        simulation = welcome(step, after)
        client = simulation.connect()
        simulation.reactor.settle()
        client.drop()
        simulation.reactor.settle()
        self.assertEqual((1, 1, 0), (len(cancelled), len(step.given_back), len(after.sessions)))
        self.assertEqual(0, len(simulation.lab.sessions))

    def test_what_is_said_meanwhile_is_early(self) -> None:
        cancelled: list[Any] = []
        simulation = welcome(Seen(lambda: Deferred(cancelled.append)))
        client = simulation.connect()
        client.send(b"EHLO client.test\r\n")
        self.assertEqual(b"421 4.7.0", simulation.reply(client)[:9])
        simulation.reactor.run(client.wait_closed())
        self.assertEqual(1, len(cancelled))

    def test_early_words_may_be_kept(self) -> None:
        answer: Deferred[Reply | None] = Deferred()
        simulation = welcome(Seen(answer), settings=ConnectionSettings(reject_early_talkers=False))
        client = simulation.connect()
        client.send(b"EHLO client.test\r\nNOOP\r\n")
        simulation.reactor.settle()
        self.assertEqual(b"", bytes(client.received))
        answer.callback(None)
        self.assertEqual([b"220", b"250", b"250"], [simulation.reply(client)[:3] for _ in range(3)])

    def test_the_delay_counts_from_accept(self) -> None:
        answer: Deferred[Reply | None] = Deferred()
        simulation = welcome(Seen(answer), settings=ConnectionSettings(greeting_delay=10))
        client = simulation.connect()
        simulation.reactor.callLater(8, answer.callback, None)
        simulation.reactor.settle(9.9)
        self.assertEqual(b"", bytes(client.received))
        simulation.reactor.settle(0.2)
        self.assertEqual(b"220", simulation.reply(client)[:3])

    def test_a_drain_does_not_wait_for_them(self) -> None:
        simulation = welcome(Seen(lambda: Deferred()))
        client = simulation.connect()
        simulation.reactor.settle()
        done = simulation.lab.sessions.drain(100)
        self.assertEqual(b"421 4.3.2", simulation.reply(client)[:9])
        simulation.reactor.settle()
        self.successResultOf(done)


class UnderTls(_Steps):
    def test_steps_follow_the_handshake_of_a_tls_port(self) -> None:
        first, second = Seen(), Seen()
        simulation = Simulation(steps={"welcome": [first], "secured": [second]}, scheme="tls", tls=True)
        client = simulation.connect(TrustingClient("mx.test"))
        self.assertEqual(b"220", simulation.reply(client)[:3])
        self.assertEqual([True, True], [step.sessions[0].tls is not None for step in (first, second)])

    def test_starttls_asks_before_the_next_answer(self) -> None:
        answer: Deferred[Reply | None] = Deferred()
        step = Seen(answer)
        simulation = Simulation(steps={"secured": [step]}, tls=True)
        client = simulation.greeted()
        self.assertEqual([], step.sessions)
        simulation.reactor.run(client.secure(TrustingClient("mx.test")))
        client.send(b"EHLO client.test\r\nNOOP\r\n")
        simulation.reactor.settle(5)
        before = bytes(client.received)
        answer.callback(None)
        simulation.reactor.settle()
        self.assertEqual(b"250", simulation.reply(client)[:3])
        self.assertEqual(b"250", simulation.reply(client)[:3])
        self.assertTrue(before.endswith(b"Ready to start TLS\r\n"), before)
        self.assertIsNotNone(step.sessions[0].tls)

    def test_a_refusal_is_the_answer_to_every_mail(self) -> None:
        simulation = Simulation(steps={"secured": [Seen(Reply(550, "5.7.1", "Weak cipher"))]}, tls=True)
        client = simulation.greeted()
        simulation.reactor.run(client.secure(TrustingClient("mx.test")))
        self.assertEqual(b"250", simulation.command(client, b"EHLO client.test")[:3])
        for _ in range(2):
            self.assertEqual(b"550 5.7.1 Weak cipher", simulation.command(client, b"MAIL FROM:<a@client.test>"))
        self.assertEqual([], simulation.lab.transactions)

    def test_a_closing_refusal(self) -> None:
        step = Seen(BUSY)
        simulation = Simulation(steps={"secured": [step]}, tls=True)
        client = simulation.greeted()
        simulation.reactor.run(client.secure(TrustingClient("mx.test")))
        self.assertEqual(b"421 4.7.0 Not now", simulation.reply(client))
        simulation.reactor.run(client.wait_closed())
        simulation.reactor.settle()
        self.assertEqual(1, len(step.given_back))


class GivingBack(SynchronousTestCase):
    def test_whatever_way_a_session_ends(self) -> None:
        def quit_(simulation: Simulation, client: RawClient) -> None:
            client.send(b"QUIT\r\n")

        def reset(simulation: Simulation, client: RawClient) -> None:
            client.drop(reset=True)

        def silence(simulation: Simulation, client: RawClient) -> None:
            simulation.reactor.settle(301)

        def junk(simulation: Simulation, client: RawClient) -> None:
            client.send(b"JUNK\r\n" * 20)

        for end in (quit_, reset, silence, junk):
            with self.subTest(end=end.__name__):
                step = Seen()
                simulation = welcome(step)
                client = simulation.greeted()
                end(simulation, client)
                simulation.reactor.settle(10)
                self.assertEqual([step.sessions[0].id], step.given_back)
                self.assertEqual(0, len(simulation.lab.sessions))

    def test_a_failure_keeps_nothing_back(self) -> None:
        called: list[int] = []

        def fail() -> None:
            called.append(1)
            raise ValueError("broken")

        session = Session("s", "tcp://x", "mx.test", at_end=[fail, lambda: called.append(2)])
        self.assertRaises(ValueError, give_back, session)
        self.assertEqual(([1, 2], None), (called, session.at_end))
        give_back(session)

    def test_the_line_that_ends_a_session_has_its_id(self) -> None:
        lines: list[Any] = []
        simulation = welcome(Seen(UNWELCOME))
        simulation.lab.sessions.events._observer = lines.append
        client = simulation.connect()
        simulation.reactor.run(client.wait_closed())
        simulation.reactor.settle()
        (closed,) = [line["fields"] for line in lines if line["event"] is Event.SESSION_CLOSE]
        self.assertEqual("refused: 554 5.7.1 Not you", closed["reason"])
        self.assertTrue(closed["session"])


async def _fail() -> None:
    raise ValueError("broken later")
