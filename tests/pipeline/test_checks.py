"""Asking checks: all of a stage at once, the first refusal in written order, nothing passes because something broke."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.envelope import Envelope
from mailgate.net.waiting import Wait, start
from mailgate.pipeline.check import Check, MessageCheck, SessionCheck, stages_of
from mailgate.pipeline.checks import OpenCheck, ask, ask_each
from mailgate.pipeline.session_checks import SessionChecks, close
from mailgate.registry import ModuleContext
from mailgate.smtp.address import NULL_ADDRESS
from mailgate.smtp.reply import MailError, Reply
from tests.pipeline.fakes import FakeCheck, make_session

NO = Reply(550, "5.7.1", "no")
LATER = Reply(450, "4.7.1", "later")


def envelope() -> Envelope:
    return Envelope("m1", NULL_ADDRESS, make_session())


class Slow:
    """Answers when the test says so."""

    span = None

    def __init__(self) -> None:
        self.cancelled = False
        self.answer: Deferred[Any] = Deferred(lambda _: setattr(self, "cancelled", True))

    def open(self, envelope: Any) -> Slow:
        return self

    def sender(self, envelope: Any) -> Any:
        return self.answer

    def close(self) -> None: ...


class AskTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[Any] = []

    def open(self, *checks: Any) -> list[OpenCheck]:
        return [OpenCheck(check, envelope()) for check in checks]

    def asked(self, *checks: Any) -> Any:
        """What asking them gives at once, or the `Wait`."""
        return start(ask(self.open(*checks), "sender", envelope()))

    def refusal(self, waiting: Any) -> Reply:
        return self.assertRaises(MailError, waiting.result).reply

    def test_nobody_who_refuses_is_a_pass_without_a_wait(self) -> None:
        self.assertIsNone(self.asked(FakeCheck(self.events), FakeCheck(self.events)))

    def test_all_are_asked_before_any_is_waited_for(self) -> None:
        slow = Slow()
        waiting = self.asked(slow, FakeCheck(self.events, "second"))
        self.assertIn(("second", "sender", ""), self.events)
        self.assertFalse(waiting.done)
        slow.answer.callback(None)
        self.assertIsNone(waiting.result())

    def test_the_first_in_written_order_counts_however_late(self) -> None:
        first, second = Slow(), Slow()
        waiting = self.asked(first, second)
        second.answer.callback(NO)
        self.assertFalse(waiting.done)
        first.answer.callback(LATER)
        self.assertEqual(self.refusal(waiting), LATER)

    def test_an_answer_at_once_waits_for_those_written_before(self) -> None:
        slow = Slow()
        waiting = self.asked(slow, FakeCheck(self.events, sender=NO), FakeCheck(self.events, "third"))
        self.assertFalse(waiting.done)
        self.assertNotIn(("third", "sender", ""), self.events, "behind a refusal nobody counts")
        slow.answer.callback(None)
        self.assertEqual(self.refusal(waiting), NO)

    def test_the_others_are_cancelled(self) -> None:
        slow, slower = Slow(), Slow()
        waiting = self.asked(slow, slower)
        slow.answer.callback(NO)
        self.assertEqual(self.refusal(waiting), NO)
        self.assertTrue(slower.cancelled)

    def test_cancelling_cancels_all(self) -> None:
        checks = [Slow(), Slow()]
        waiting = self.asked(*checks)
        waiting.cancel()
        self.assertRaises(CancelledError, waiting.result)
        self.assertEqual([check.cancelled for check in checks], [True, True])

    def test_what_breaks_never_passes(self) -> None:
        for answer in (OSError("gone"), "yes", True, Reply(250, "2.0.0", "fine"), Reply(354, "", "go on")):
            with self.subTest(answer=answer):
                self.assertRaises(
                    OSError if isinstance(answer, OSError) else TypeError, self.asked, FakeCheck(self.events, sender=answer)
                )

    def test_what_breaks_later_never_passes(self) -> None:
        slow = Slow()
        waiting = self.asked(slow, FakeCheck(self.events))
        slow.answer.errback(OSError("gone"))
        self.assertRaises(OSError, waiting.result)

    def test_an_exception_has_its_turn(self) -> None:
        slow = Slow()
        waiting = self.asked(slow, FakeCheck(self.events, sender=OSError("gone")))
        slow.answer.callback(NO)
        self.assertEqual(self.refusal(waiting), NO)

    def test_each_answers_for_itself(self) -> None:
        slow = Slow()
        checks = self.open(FakeCheck(self.events, sender=NO), slow, FakeCheck(self.events, sender=OSError("gone")))
        waiting = start(ask_each(checks, "sender", envelope()))
        assert isinstance(waiting, Wait)
        slow.answer.callback(None)
        found = waiting.result()
        self.assertEqual([type(found.get(check)) for check in checks], [MailError, type(None), OSError])


class OnlyRcpt(MessageCheck):
    def rcpt(self, recipient: Any) -> Any:
        return NO


class OnlyTls(SessionCheck):
    closed = 0

    def tls(self) -> Any:
        return LATER

    def close(self) -> None:
        type(self).closed += 1


class RcptCheck(Check):
    name = "check.test_rcpt"
    message_state = OnlyRcpt


class TlsCheck(Check):
    name = "check.test_tls"
    session_state = OnlyTls


class OwnStates(Check):
    name = "check.test_own"

    def open(self, envelope: Envelope) -> Any:
        return MessageCheck(self, envelope)


class Inherited(RcptCheck, TlsCheck):
    name = "check.test_both"


class StageTests(SynchronousTestCase):
    def test_a_class_takes_part_in_what_it_overrides(self) -> None:
        table = {
            Check: set(),
            RcptCheck: {"rcpt"},
            TlsCheck: {"tls"},
            Inherited: {"rcpt", "tls"},
            OwnStates: {"sender", "rcpt", "refused", "body", "verdict"},
        }
        self.assertEqual({declared: set(stages_of(declared(ModuleContext()))) for declared in table}, table)

    def test_a_class_that_does_not_say_is_asked_about_messages(self) -> None:
        self.assertEqual(stages_of(FakeCheck([])), {"sender", "rcpt", "body"})

    def test_other_stages_are_not_asked(self) -> None:
        check = RcptCheck(ModuleContext())
        opened = [OpenCheck(check, envelope())]
        self.assertIsNone(start(ask(opened, "sender", envelope())))
        self.assertRaises(MailError, start, ask(opened, "rcpt", None))

    def test_states_of_a_session_live_as_long_as_it(self) -> None:
        session = make_session()
        before = OnlyTls.closed
        checks = SessionChecks([RcptCheck(ModuleContext()), TlsCheck(ModuleContext())])
        self.assertEqual([bool(checks.steps(stage)) for stage in ("connection", "tls", "auth")], [False, True, False])
        for _ in range(2):
            self.assertRaises(MailError, start, checks.ask("tls", session))
        assert session.check_states is not None
        self.assertEqual(len(session.check_states), 1)
        assert session.at_end is not None
        self.assertEqual(len(session.at_end), 1)
        session.at_end[0]()
        close(session)
        self.assertEqual(OnlyTls.closed - before, 1)

    def test_a_message_knows_its_session(self) -> None:
        session = make_session()
        check = TlsCheck(ModuleContext())
        message = MessageCheck(check, Envelope("m1", NULL_ADDRESS, session))
        self.assertIsNone(message.of_session)
        self.assertRaises(MailError, start, SessionChecks([check]).ask("tls", session))
        self.assertIsInstance(message.of_session, OnlyTls)
