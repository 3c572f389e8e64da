"""What happens between a client and a pipeline: order, waiting, failing, going away. On a simulated network."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from mailgate.smtp.reply import PermanentError, Reply, TemporaryError

from .scripted import TAKEN, Simulation

CONTENT = b"Subject: x\r\n\r\nhello\r\n"
MESSAGE = b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n"


LATER = "fails a second later"


class _Broken(Exception):
    """Nobody foresaw this."""


class Order(SynchronousTestCase):
    def test_a_message(self) -> None:
        simulation = Simulation()
        replies = simulation.deliver(simulation.greeted(), CONTENT)
        self.assertEqual(b"250 2.0.0 Ok: taken", replies[-1])
        transaction = simulation.transaction
        self.assertEqual([("mail", "a@client.test"), ("rcpt", "b0@mx.test"), ("data",), ("end",)], transaction.log)
        self.assertEqual(CONTENT, transaction.content)
        self.assertEqual(("client.test", "ESMTP"), (transaction.session.helo, transaction.session.protocol))

    def test_message_ids_count_within_the_session(self) -> None:
        simulation = Simulation()
        client = simulation.greeted()
        simulation.deliver(client)
        simulation.deliver(client)
        first, second = (transaction.id for transaction in simulation.lab.transactions)
        session = simulation.transaction.session.id
        self.assertEqual((f"{session}.1", f"{session}.2"), (first, second))
        self.assertRegex(first, r"\A[0-9a-z.]+\Z")

    def test_everything_pipelined_is_answered_in_order(self) -> None:
        simulation = Simulation()
        client = simulation.greeted()
        client.send(MESSAGE)
        self.assertEqual([b"250", b"250", b"354"], [simulation.reply(client)[:3] for _ in range(3)])
        client.send(CONTENT + b".\r\n" + MESSAGE)
        self.assertEqual([b"250", b"250", b"250", b"354"], [simulation.reply(client)[:3] for _ in range(4)])

    def test_replies_to_one_read_are_one_write(self) -> None:
        simulation = Simulation()
        client = simulation.greeted()
        pieces: list[bytes] = []
        keep = client.dataReceived
        client.dataReceived = lambda data: (pieces.append(data), keep(data))  # type: ignore[method-assign,assignment]
        client.send(b"NOOP\r\n" * 5 + MESSAGE)
        simulation.reactor.settle()
        self.assertEqual([8], [piece.count(b"\r\n") for piece in pieces])

    def test_an_answer_that_waits_holds_back_what_comes_behind(self) -> None:
        answer: Deferred[Reply] = Deferred()
        simulation = Simulation(script={"rcpt": lambda address: answer})
        client = simulation.greeted()
        client.send(MESSAGE)
        self.assertEqual(b"250", simulation.reply(client)[:3])
        simulation.reactor.settle()
        self.assertEqual([("mail", "a@client.test"), ("rcpt", "b@mx.test")], simulation.transaction.log)
        answer.callback(Reply(250, "2.1.5", "late"))
        self.assertEqual([b"250 2.1.5 late", b"354"], [simulation.reply(client), simulation.reply(client)[:3]])

    def test_content_that_waits_holds_back_its_end(self) -> None:
        disk: Deferred[None] = Deferred()
        simulation = Simulation(script={"append": lambda content: disk})
        client = simulation.greeted()
        client.send(MESSAGE + CONTENT + b".\r\n")
        simulation.reactor.settle()
        self.assertNotIn(("end",), simulation.transaction.log)
        disk.callback(None)
        self.assertEqual(b"250 2.0.0 Ok: taken", [simulation.reply(client) for _ in range(4)][-1])

    def test_many_answers_that_are_awaitable_and_ready_do_not_pile_up(self) -> None:
        async def at_once(address: Any) -> Reply:
            return Reply(250, "2.1.5", "ok")

        simulation = Simulation(script={"rcpt": at_once})
        client = simulation.greeted()
        client.send(b"MAIL FROM:<a@client.test>\r\n" + b"RCPT TO:<b@mx.test>\r\n" * 900 + b"DATA\r\n")
        simulation.reactor.settle()
        self.assertEqual(902, bytes(client.received).count(b"\r\n") - 1 - _hello_lines(client))

    def test_a_deferred_that_has_fired(self) -> None:
        simulation = Simulation(script={"mail": lambda sender: succeed(Reply(250, "2.1.0", "ready"))})
        client = simulation.greeted()
        self.assertEqual(b"250 2.1.0 ready", simulation.command(client, b"MAIL FROM:<a@client.test>"))


def _hello_lines(client: Any) -> int:
    text = bytes(client.received)
    return text[: text.index(b"250 STARTTLS" if b"250 STARTTLS" in text else b"250 LIMITS")].count(b"\r\n")


class Lmtp(SynchronousTestCase):
    def test_one_reply_for_each_recipient(self) -> None:
        answers = [TAKEN, Reply(452, "4.2.2", "full"), Reply(550, "5.1.1", "unknown")]
        simulation = Simulation(lmtp=True, script={"end": lambda transaction: answers})
        client = simulation.greeted(b"LHLO client.test")
        replies = simulation.deliver(client, CONTENT, recipients=3)
        self.assertEqual([b"250 2.0.0 Ok: taken", b"452 4.2.2 full", b"550 5.1.1 unknown"], replies[-3:])
        self.assertEqual("LMTP", simulation.transaction.session.protocol)

    def test_a_refused_recipient_gets_no_reply_after_the_dot(self) -> None:
        def rcpt(address: Any) -> Reply:
            return Reply(550, "5.1.1", "no") if str(address).startswith("b1") else Reply(250, "2.1.5", "ok")

        simulation = Simulation(lmtp=True, script={"rcpt": rcpt, "end": lambda transaction: [TAKEN, TAKEN]})
        client = simulation.greeted(b"LHLO client.test")
        replies = simulation.deliver(client, CONTENT, recipients=3)
        self.assertEqual([b"250", b"250", b"550", b"250", b"354", b"250", b"250"], [reply[:3] for reply in replies])

    def test_a_wrong_number_of_answers_is_no_success(self) -> None:
        for answers in ([], [TAKEN], [TAKEN] * 3):
            with self.subTest(len(answers)):
                simulation = Simulation(lmtp=True, script={"end": lambda transaction, answers=answers: answers})
                client = simulation.greeted(b"LHLO client.test")
                replies = simulation.deliver(client, CONTENT, recipients=2)
                self.assertEqual([b"451 4.3.0"] * 2, [reply[:9] for reply in replies[-2:]])
                self.assertEqual(1, len(self.flushLoggedErrors()))


class Faults(SynchronousTestCase):
    def _answers(self, script: dict[str, Any]) -> list[bytes]:
        simulation = Simulation(script=script)
        if LATER in script.values():
            script |= dict.fromkeys(script, lambda *arguments: deferLater(simulation.reactor, 1, _break))
        client = simulation.greeted()
        replies = simulation.deliver(client, CONTENT)
        simulation.lab.script.clear()
        simulation.command(client, b"RSET")
        self.assertEqual(b"250 2.0.0 Ok: taken", simulation.deliver(client, CONTENT)[-1], "the session goes on")
        return replies

    def test_an_exception_at_any_step_is_451_with_an_incident(self) -> None:
        for step in ("mail", "rcpt", "data", "append", "end"):
            for label, answer in (
                ("raised", _Broken()),
                ("failed", lambda *arguments: fail(_Broken())),
                ("failed later", LATER),
            ):
                with self.subTest(f"{step} {label}"):
                    last = self._answers({step: answer})[-1]
                    self.assertRegex(last, rb"\A(451 4.3.0 Internal error, incident [0-9a-f]{12}|503|354)")
                    self.assertGreater(len(self.flushLoggedErrors(_Broken)), 0)

    def test_an_exception_that_is_a_reply_is_that_reply(self) -> None:
        self.assertEqual(b"450 4.7.1 later", self._answers({"mail": TemporaryError("later", code=450, enhanced="4.7.1")})[-1])
        self.assertEqual(b"550 5.6.0 no", self._answers({"end": PermanentError("no", enhanced="5.6.0")})[-1])

    def test_content_that_could_not_be_kept_is_refused_at_its_end(self) -> None:
        replies = self._answers({"append": _Broken()})
        self.assertEqual([b"250", b"250", b"354", b"451"], [reply[:3] for reply in replies])
        self.flushLoggedErrors(_Broken)

    def test_a_transaction_that_fails_to_abort(self) -> None:
        simulation = Simulation(script={"abort": _Broken()})
        client = simulation.greeted()
        simulation.command(client, b"MAIL FROM:<a@client.test>")
        self.assertEqual(b"250", simulation.command(client, b"RSET")[:3])
        self.assertEqual(1, len(self.flushLoggedErrors(_Broken)))

    def test_an_engine_that_fails_ends_the_session_and_no_other(self) -> None:
        simulation = Simulation()
        client, other = simulation.greeted(), simulation.greeted()
        simulation.command(client, b"MAIL FROM:<a@client.test>")

        def receive(data: bytes) -> Any:
            raise _Broken

        connection = simulation.lab.sessions
        dialogues = [held._dialogue for held in connection._open]  # type: ignore[attr-defined]
        broken = next(dialogue for dialogue in dialogues if not dialogue.is_idle)
        broken._engine = _Engine(broken._engine, receive)
        self.assertRegex(simulation.command(client, b"NOOP"), rb"\A421 4.3.0 Internal error, incident ")
        simulation.reactor.run(client.wait_closed())
        self.assertEqual("internal error", simulation.lab.transactions[0].aborted)
        self.assertEqual(b"250", simulation.command(other, b"NOOP")[:3])
        self.assertEqual(1, len(self.flushLoggedErrors(_Broken)))

    def test_421_of_the_pipeline_closes(self) -> None:
        simulation = Simulation(script={"rcpt": Reply(421, "4.7.0", "go away")})
        client = simulation.greeted()
        simulation.command(client, b"MAIL FROM:<a@client.test>")
        self.assertEqual(b"421 4.7.0 go away", simulation.command(client, b"RCPT TO:<b@mx.test>"))
        simulation.reactor.run(client.wait_closed())
        self.assertIsNotNone(simulation.transaction.aborted)


class _Engine:
    """The real one, but for `receive`."""

    def __init__(self, engine: Any, receive: Any) -> None:
        self._engine = engine
        self.receive = receive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def _break() -> None:
    raise _Broken


class Endings(SynchronousTestCase):
    def test_a_transaction_is_aborted_exactly_once(self) -> None:
        for label, last in (("RSET", b"RSET\r\n"), ("EHLO", b"EHLO again\r\n"), ("QUIT", b"QUIT\r\n"), ("gone", b"")):
            with self.subTest(label):
                simulation = Simulation()
                client = simulation.greeted()
                simulation.command(client, b"MAIL FROM:<a@client.test>")
                client.send(last)
                simulation.reactor.settle()
                client.drop()
                simulation.reactor.settle()
                self.assertEqual(1, len([step for step in simulation.transaction.log if step[0] == "abort"]))
                self.assertEqual(0, len(simulation.lab.sessions))

    def test_a_finished_transaction_is_not_aborted(self) -> None:
        simulation = Simulation()
        client = simulation.greeted()
        simulation.deliver(client)
        client.drop()
        simulation.reactor.settle()
        self.assertIsNone(simulation.transaction.aborted)

    def test_a_client_that_leaves_while_we_wait(self) -> None:
        answer: Deferred[Reply] = Deferred()
        simulation = Simulation(script={"rcpt": lambda address: answer, "abort": lambda reason: answer.cancel()})
        client = simulation.greeted()
        client.send(MESSAGE)
        simulation.reply(client)
        client.drop(reset=True)
        simulation.reactor.settle()
        self.assertEqual(("client gone", 0), (simulation.transaction.aborted, len(simulation.lab.sessions)))

    def test_a_late_answer_for_a_client_that_left(self) -> None:
        answer: Deferred[Any] = Deferred()
        simulation = Simulation(script={"end": lambda transaction: answer})
        client = simulation.greeted()
        client.send(MESSAGE + CONTENT + b".\r\n")
        simulation.reactor.settle()
        client.drop(reset=True)
        simulation.reactor.settle()
        answer.callback([TAKEN])
        simulation.reactor.settle()
        self.assertEqual(0, len(simulation.lab.sessions))

    def test_a_failure_for_a_client_that_left_is_logged(self) -> None:
        answer: Deferred[Any] = Deferred()
        simulation = Simulation(script={"end": lambda transaction: answer})
        client = simulation.greeted()
        client.send(MESSAGE + CONTENT + b".\r\n")
        simulation.reactor.settle()
        client.drop(reset=True)
        simulation.reactor.settle()
        answer.errback(_Broken())
        self.assertEqual(1, len(self.flushLoggedErrors(_Broken)))

    def test_a_refused_sender_leaves_no_transaction(self) -> None:
        simulation = Simulation(script={"mail": Reply(550, "5.7.1", "no")})
        client = simulation.greeted()
        simulation.command(client, b"MAIL FROM:<a@client.test>")
        self.assertIsNotNone(simulation.transaction.aborted)
        self.assertEqual(b"503", simulation.command(client, b"RCPT TO:<b@mx.test>")[:3])

    def test_refused_content_aborts(self) -> None:
        simulation = Simulation()
        self.assertEqual(b"550", simulation.deliver(simulation.greeted(), b"bare\nline feed\r\n")[-1][:3])
        self.assertIsNotNone(simulation.transaction.aborted)
        self.assertNotIn(("end",), simulation.transaction.log)
