"""Transactions against fake targets: cut-through, "Delivering once", content, abort."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mailgate.interfaces import Finality
from mailgate.message.envelope import TlsFacts
from mailgate.net.waiting import Wait
from mailgate.pipeline.grammar import Split
from mailgate.pipeline.modifiers import Modifier
from mailgate.pipeline.router import Deliver, Discard, Reject, Router, Rules, Side, Through
from mailgate.pipeline.transaction import Transaction
from mailgate.smtp.parameters import MailParameters
from mailgate.smtp.reply import PermanentError, Reply
from tests.pipeline.fakes import (
    DONE,
    FakeCheck,
    FakeModifier,
    FakeTable,
    FakeTarget,
    address,
    branch,
    deliver,
    make_adapters,
    make_session,
    make_transaction,
)

CONTENT = b"Subject: x\r\n\r\nbody\r\n"
MAILBOX_FULL = Reply(452, "4.2.2", "Mailbox full")
UNKNOWN = Reply(550, "5.1.1", "No such user")


def by_domain(side: Side = Side.DESTINATION, default: Any = None, **domains: Any) -> Rules:
    """Rules of ``name.test`` domains."""
    rules = {f"{name}.test": branch(handling) for name, handling in domains.items()}
    return Rules(side, branch(default or Reject(Reply(550, "5.7.1", "relaying denied"))), domains=rules)


def later(answer: Any) -> Deferred[Any]:
    """An answer that must be waited for, as trial knows it."""
    assert isinstance(answer, Wait)
    return answer.as_deferred()


class TransactionTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[Any] = []
        self.logged: list[Any] = []
        globalLogPublisher.addObserver(self._observe)
        self.addCleanup(globalLogPublisher.removeObserver, self._observe)

    def _observe(self, event: Any) -> None:
        if "fields" in event:
            self.logged.append((event["event"].value, event["fields"]))

    def fields(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.logged if event == name]

    def target(self, label: str = "store", finality: Finality = Finality.TRANSACTION) -> FakeTarget:
        return FakeTarget(self.events, label, finality)

    def lmtp(self, label: str = "store") -> FakeTarget:
        return self.target(label, Finality.RECIPIENT)

    def accept(self, transaction: Transaction, *recipients: str, sender: str = "s@x.test") -> None:
        self.assertEqual(transaction.mail(address(sender)).code, 250)  # type: ignore[union-attr]
        for recipient in recipients:
            self.assertEqual(transaction.rcpt(address(recipient)).code, 250, recipient)  # type: ignore[union-attr]

    def finish(self, transaction: Transaction, content: bytes = CONTENT) -> Any:
        self.assertIsNone(transaction.data())
        self.assertIsNone(transaction.append(content))
        return transaction.end()

    def codes(self, transaction: Transaction, *recipients: str) -> list[int]:
        return [transaction.rcpt(address(one)).code for one in recipients]  # type: ignore[union-attr]


class OneTargetTests(TransactionTestCase):
    def test_everything_is_answered_at_once_and_the_dot_carries_our_id(self) -> None:
        target = self.target()
        transaction = make_transaction(Router(deliver(target)))
        self.accept(transaction, "a@y.test", "b@y.test")
        self.assertEqual(self.finish(transaction), [Reply(250, "2.0.0", "Ok: s1.1 queued as X1")])
        self.assertEqual(
            self.events,
            [
                ("store", "open", "s@x.test"),
                ("store", "rcpt", "a@y.test"),
                ("store", "rcpt", "b@y.test"),
                ("store", "send", "a@y.test", "b@y.test"),
            ],
        )
        done = self.fields("message.done")
        self.assertEqual(len(done), 1)
        self.assertEqual(done[0]["from"], "<s@x.test>")
        self.assertEqual(done[0]["to"], "<a@y.test>,<b@y.test>")
        self.assertEqual(done[0]["target"], "store")

    def test_the_client_hears_the_next_hops_answer_for_each_recipient(self) -> None:
        target = self.target()
        target.refuse["b@y.test"] = UNKNOWN
        target.refuse["c@y.test"] = Reply(421, "4.3.2", "closing")
        target.refuse["d@y.test"] = Reply(354, "", "go ahead")
        transaction = make_transaction(Router(deliver(target)))
        self.accept(transaction, "a@y.test")
        self.assertEqual(transaction.rcpt(address("b@y.test")), UNKNOWN)
        self.assertEqual(transaction.rcpt(address("c@y.test")), Reply(451, "4.3.2", "closing"))
        self.assertEqual(self.codes(transaction, "d@y.test"), [451])
        self.finish(transaction)
        self.assertIn(("store", "send", "a@y.test"), self.events)
        refused = self.fields("recipient.refused")
        self.assertEqual([fields["to"] for fields in refused], ["<b@y.test>", "<c@y.test>", "<d@y.test>"])

    def test_a_refusal_of_the_dot_is_passed_up_with_our_id(self) -> None:
        target = self.target()
        transaction = make_transaction(Router(deliver(target)))
        self.accept(transaction, "a@y.test")
        target.final = Reply(552, "5.3.4", "too big for me")
        self.assertEqual(self.finish(transaction), [Reply(552, "5.3.4", "too big for me (s1.1)")])

    def test_answers_that_come_later(self) -> None:
        target = self.target()
        target.wait = True
        transaction = make_transaction(Router(deliver(target)))
        self.accept(transaction)
        asked = later(transaction.rcpt(address("a@y.test")))
        self.assertNoResult(asked)
        target.pending.pop().answer()  # type: ignore[attr-defined]
        self.assertEqual(self.successResultOf(asked).code, 250)
        ending = later(self.finish(transaction))
        self.assertNoResult(ending)
        target.pending.pop().answer()  # type: ignore[attr-defined]
        self.assertEqual(self.successResultOf(ending), [Reply(250, "2.0.0", "Ok: s1.1 queued as X1")])

    def test_missing_replies_are_refusals(self) -> None:
        target = self.target()
        target.final = []
        transaction = make_transaction(Router(deliver(target)), per_recipient=True)
        self.accept(transaction, "a@y.test", "b@y.test")
        self.assertEqual([reply.code for reply in self.finish(transaction)], [451, 451])

    def test_data_without_a_recipient_is_refused(self) -> None:
        target = self.target()
        target.refuse["a@y.test"] = UNKNOWN
        transaction = make_transaction(Router(deliver(target)))
        self.accept(transaction)
        self.codes(transaction, "a@y.test")
        reply = transaction.data()
        assert reply is not None
        self.assertEqual(reply.code, 554)

    def test_replies_that_disagree_within_one_transaction_never_make_250(self) -> None:
        """A replay on another endpoint took only some of those who had heard 250."""
        target = self.target()
        transaction = make_transaction(Router(deliver(target)))
        self.accept(transaction, "a@y.test", "b@y.test")
        target.final = {"b@y.test": Reply(451, "4.3.0", "refused on replay")}
        self.assertEqual([reply.code for reply in self.finish(transaction)], [451])


class DeliveringOnceTests(TransactionTestCase):
    """on_split defer."""

    def test_smtp_depends_on_one_transaction(self) -> None:
        one, other = self.target("one"), self.target("other")
        router = Router(by_domain(one=deliver(one), other=deliver(other)))
        transaction = make_transaction(router)
        self.accept(transaction, "a@one.test")
        reply = transaction.rcpt(address("b@other.test"))
        self.assertEqual((reply.code, reply.enhanced), (452, "4.5.3"))  # type: ignore[union-attr]
        self.assertEqual(self.codes(transaction, "c@one.test"), [250])
        self.assertEqual([event for event in self.events if event[0] == "other"], [])
        self.finish(transaction)
        self.events.clear()
        following = make_transaction(router)
        self.accept(following, "b@other.test")
        self.assertEqual(self.finish(following)[0].code, 250)

    def test_smtp_into_lmtp_depends_on_one_recipient(self) -> None:
        store = self.lmtp()
        transaction = make_transaction(Router(deliver(store)))
        self.accept(transaction, "a@y.test")
        self.assertEqual(self.codes(transaction, "b@y.test", "c@y.test"), [452, 452])
        self.finish(transaction)
        self.assertIn(("store", "send", "a@y.test"), self.events)

    def test_a_refused_recipient_uses_nothing_up(self) -> None:
        one, other = self.target("one"), self.lmtp("other")
        one.refuse["a@one.test"] = UNKNOWN
        transaction = make_transaction(Router(by_domain(one=deliver(one), other=deliver(other))))
        self.accept(transaction)
        self.assertEqual(self.codes(transaction, "a@one.test", "b@other.test"), [550, 250])
        self.assertIn(("one", "abort"), self.events)  # nobody can need it any more
        self.assertEqual(self.finish(transaction)[0].code, 250)
        self.assertNotIn(("one", "send"), self.events)

    def test_lmtp_depends_on_one_answer_for_each_recipient(self) -> None:
        store, relay = self.lmtp(), self.target("relay")
        store.final = {"b@one.test": MAILBOX_FULL, "c@one.test": UNKNOWN}
        transaction = make_transaction(Router(by_domain(one=deliver(store), other=deliver(relay))), per_recipient=True)
        self.accept(transaction, "a@one.test", "b@one.test", "d@other.test", "c@one.test", "a@one.test")
        replies = self.finish(transaction)
        self.assertEqual([reply.code for reply in replies], [250, 452, 250, 550, 250])
        self.assertEqual(replies[1].text, "Mailbox full (s1.1)")
        self.assertIn(("store", "send", "a@one.test", "b@one.test", "c@one.test", "a@one.test"), self.events)

    def test_lmtp_refuses_an_address_behind_which_are_several_lmtp_recipients(self) -> None:
        store = self.lmtp()
        team = FakeModifier(rcpt={"team@y.test": ["a@y.test", "b@y.test"]})
        for per_recipient in (True, False):
            transaction = make_transaction(Router(deliver(store), rcpt_modifiers=(team,)), per_recipient=per_recipient)
            self.accept(transaction)
            reply = transaction.rcpt(address("team@y.test"))
            self.assertEqual((reply.code, reply.enhanced), (451, "4.3.5"))  # type: ignore[union-attr]
        self.assertEqual(self.events, [])

    def test_an_expansion_within_one_transaction_is_one_answer(self) -> None:
        relay = self.target()
        team = FakeModifier(rcpt={"team@y.test": ["a@y.test", "b@y.test"]})
        transaction = make_transaction(Router(deliver(relay), rcpt_modifiers=(team,)))
        self.accept(transaction, "team@y.test", "c@y.test")
        self.assertEqual(len(self.finish(transaction)), 1)
        self.assertIn(("store", "send", "a@y.test", "b@y.test", "c@y.test"), self.events)

    def test_if_one_of_an_expansion_is_refused_the_others_are_withdrawn(self) -> None:
        relay = self.target()
        relay.refuse["b@y.test"] = UNKNOWN
        team = FakeModifier(rcpt={"team@y.test": ["a@y.test", "b@y.test", "c@y.test"]})
        transaction = make_transaction(Router(deliver(relay), rcpt_modifiers=(team,)))
        self.accept(transaction, "d@y.test")
        self.assertEqual(transaction.rcpt(address("team@y.test")), UNKNOWN)
        self.assertIn(("store", "withdraw", "a@y.test"), self.events)
        self.assertNotIn(("store", "rcpt", "c@y.test"), self.events)
        self.finish(transaction)
        self.assertIn(("store", "send", "d@y.test"), self.events)

    def test_a_delivery_left_for_nobody_is_aborted(self) -> None:
        relay = self.target()
        relay.refuse["b@y.test"] = UNKNOWN
        team = FakeModifier(rcpt={"team@y.test": ["a@y.test", "b@y.test"]})
        transaction = make_transaction(Router(deliver(relay), rcpt_modifiers=(team,)))
        self.accept(transaction)
        self.codes(transaction, "team@y.test")
        self.assertEqual(self.events[-1], ("store", "abort"))
        self.assertEqual(self.codes(transaction, "c@y.test"), [250])
        self.assertEqual(self.events[-2], ("store", "open", "s@x.test"))

    def test_other_senders_and_other_content_are_other_transactions(self) -> None:
        relay = self.target()
        rules = Rules(
            Side.DESTINATION,
            branch(deliver(relay)),
            domains={
                "sender.test": branch(deliver(relay), sender_modifiers=(FakeModifier(sender={"s@x.test": "t@x.test"}),)),
                "content.test": branch(deliver(relay), body_modifiers=(FakeModifier(header=b"X-Added: 1\r\n"),)),
            },
        )
        for other in ("a@sender.test", "a@content.test"):
            transaction = make_transaction(Router(rules))
            self.accept(transaction, "a@y.test")
            self.assertEqual(self.codes(transaction, other, "b@y.test"), [452, 250])
        transaction = make_transaction(Router(rules), split=Split.ALLOW)
        self.accept(transaction, "a@y.test", "a@sender.test", "a@content.test")
        self.finish(transaction)
        self.assertEqual([str(envelope.sender) for envelope in relay.envelopes[-3:]], ["s@x.test", "t@x.test", "s@x.test"])
        self.assertEqual([b"X-Added" in content for content in relay.sent], [False, False, True])

    def test_the_same_sender_rewritten_on_two_ways_shares_a_transaction(self) -> None:
        relay = self.target()
        rewrite = FakeModifier(sender={"s@x.test": "t@x.test"})
        one = Router(deliver(relay), sender_modifiers=(rewrite,))
        other = Router(deliver(relay), sender_modifiers=(FakeModifier(sender={"s@x.test": "t@x.test"}),))
        transaction = make_transaction(Router(by_domain(one=Deliver((Through(one),)), other=Deliver((Through(other),)))))
        self.accept(transaction, "a@one.test", "b@other.test")
        self.assertEqual([event for event in self.events if event[1] == "open"], [("store", "open", "t@x.test")])

    def test_the_rules_reach_through_nested_pipelines(self) -> None:
        one, other = self.target("one"), self.target("other")
        nested = Router(by_domain(one=deliver(one), other=deliver(other)))
        transaction = make_transaction(Router(Deliver((Through(nested),))))
        self.accept(transaction, "a@one.test")
        self.assertEqual(self.codes(transaction, "b@other.test", "c@one.test"), [452, 250])

    def test_discard_needs_no_answer(self) -> None:
        relay = self.target()
        router = Router(by_domain(one=deliver(relay), bin=Discard()))
        transaction = make_transaction(router)
        self.accept(transaction, "x@bin.test", "a@one.test", "y@bin.test")
        self.assertEqual(self.finish(transaction), [Reply(250, "2.0.0", "Ok: s1.1 queued as X1")])
        self.assertEqual([fields["to"] for fields in self.fields("message.discarded")], ["<x@bin.test>", "<y@bin.test>"])

    def test_what_is_discarded_does_not_soften_a_refusal(self) -> None:
        relay = self.target()
        transaction = make_transaction(Router(by_domain(one=deliver(relay), bin=Discard())))
        self.accept(transaction, "x@bin.test", "a@one.test")
        relay.final = Reply(554, "5.6.0", "spam")
        self.assertEqual(self.finish(transaction), [Reply(554, "5.6.0", "spam (s1.1)")])
        self.assertEqual(self.fields("message.discarded"), [])

    def test_only_discarded(self) -> None:
        transaction = make_transaction(Router(Discard()))
        self.accept(transaction, "x@bin.test")
        self.assertEqual(self.finish(transaction), [Reply(250, "2.0.0", "Ok: s1.1")])


class AllowTests(TransactionTestCase):
    """on_split allow."""

    def three(self, *finals: Reply, **settings: Any) -> Transaction:
        self.targets = [self.target(name) for name in ("one", "two", "three")]
        for target, final in zip(self.targets, finals, strict=True):
            target.final = final
        one, two, three = self.targets
        router = Router(by_domain(one=deliver(one), two=deliver(two), three=deliver(three)))
        transaction = make_transaction(router, split=Split.ALLOW, **settings)
        self.accept(transaction, "a@one.test", "b@two.test", "c@three.test")
        return transaction

    def test_all_are_sent_at_once(self) -> None:
        transaction = self.three(DONE, DONE, DONE)
        for target in self.targets:
            target.wait = True
        ending = later(self.finish(transaction))
        self.assertEqual([event[0] for event in self.events if event[1] == "send"], ["one", "two", "three"])
        for target in reversed(self.targets):
            self.assertNoResult(ending)
            target.pending.pop().answer()  # type: ignore[attr-defined]
        self.assertEqual([reply.code for reply in self.successResultOf(ending)], [250])

    def test_anything_temporary_makes_it_temporary(self) -> None:
        reply = self.finish(self.three(DONE, UNKNOWN, MAILBOX_FULL))[0]
        self.assertEqual((reply.code, reply.enhanced), (451, "4.3.0"))

    def test_an_unknown_outcome_is_temporary(self) -> None:
        self.assertEqual(self.finish(self.three(DONE, UNKNOWN, Reply(354, "", "?")))[0].code, 451)

    def test_otherwise_anything_permanent_names_the_recipients(self) -> None:
        reply = self.finish(self.three(DONE, UNKNOWN, DONE))[0]
        self.assertEqual((reply.code, reply.enhanced), (554, "5.0.0"))
        self.assertIn("<b@two.test>", reply.text)
        self.assertNotIn("<a@one.test>", reply.text)
        self.assertIn("s1.1", reply.text)

    def test_lmtp_folds_only_what_is_behind_one_recipient(self) -> None:
        store, other = self.lmtp("store"), self.lmtp("other")
        team = FakeModifier(rcpt={"team@one.test": ["a@one.test", "b@other.test"]})
        rules = by_domain(one=deliver(store), other=deliver(other))
        transaction = make_transaction(Router(rules, rcpt_modifiers=(team,)), split=Split.ALLOW, per_recipient=True)
        self.accept(transaction, "c@one.test", "team@one.test")
        other.final = MAILBOX_FULL
        self.assertEqual([reply.code for reply in self.finish(transaction)], [250, 451])

    def test_copies_to_two_targets(self) -> None:
        one, two = self.target("one"), self.target("two")
        transaction = make_transaction(Router(deliver(one, two)), split=Split.ALLOW)
        self.accept(transaction, "a@y.test")
        two.refuse["b@y.test"] = UNKNOWN
        self.assertEqual(self.codes(transaction, "b@y.test"), [550])
        self.assertIn(("one", "withdraw", "b@y.test"), self.events)
        self.finish(transaction)
        sends = [event for event in self.events if event[1] == "send"]
        self.assertEqual(sends, [("one", "send", "a@y.test"), ("two", "send", "a@y.test")])

    def test_a_send_that_raises_is_no_success_and_does_not_stop_the_others(self) -> None:
        transaction = self.three(DONE, ZeroDivisionError("bug"), DONE)  # type: ignore[arg-type]
        reply = self.finish(transaction)[0]
        self.assertEqual(reply.code, 451)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn(("three", "send", "c@three.test"), self.events)


class SenderTests(TransactionTestCase):
    def test_a_refused_sender_is_told_at_rcpt(self) -> None:
        router = Router(by_domain(Side.SOURCE, default=deliver(self.target()), spam=Reject(Reply(550, "5.7.1", "no"))))
        transaction = make_transaction(router)
        self.assertEqual(transaction.mail(address("s@spam.test")).code, 250)  # type: ignore[union-attr]
        self.assertEqual(self.codes(transaction, "a@y.test", "b@y.test"), [550, 550])
        self.assertEqual(self.events, [])
        self.assertEqual(len(self.fields("sender.refused")), 1)

    def test_or_at_mail(self) -> None:
        router = Router(by_domain(Side.SOURCE, default=deliver(self.target()), spam=Reject(Reply(550, "5.7.1", "no"))))
        transaction = make_transaction(router, defer_sender_reject=False)
        self.assertEqual(transaction.mail(address("s@spam.test")), Reply(550, "5.7.1", "no"))

    def test_a_table_that_fails_is_451_and_never_no_match(self) -> None:
        target = self.target()
        broken = FakeTable(OSError("database gone"))
        for side in Side:
            rules = Rules(side, branch(deliver(target)), tables=((broken, branch(deliver(target))),))
            transaction = make_transaction(Router(rules))
            self.accept(transaction)
            reply = transaction.rcpt(address("a@y.test"))
            self.assertEqual((reply.code, reply.enhanced), (451, "4.3.0"))  # type: ignore[union-attr]
            self.assertNotIn("database", reply.text)  # type: ignore[union-attr]
        self.assertEqual(self.events, [])
        self.assertEqual(len(self.fields("table.failed")), 2)

    def test_modifiers_run_before_the_rules(self) -> None:
        target = self.target()
        rules = by_domain(Side.SOURCE, good=deliver(target))
        router = Router(rules, sender_modifiers=(FakeModifier(sender={"s@x.test": "s@good.test"}),))
        transaction = make_transaction(router)
        self.accept(transaction, "a@y.test")
        self.assertEqual(self.events[0], ("store", "open", "s@good.test"))

    def test_a_table_that_makes_one_wait(self) -> None:
        table = FakeTable({"a@y.test": ("",)}, wait=True)
        target = self.target()
        reject = branch(Reject(Reply(550, "5.1.1", "who")))
        transaction = make_transaction(Router(Rules(Side.DESTINATION, reject, tables=((table, branch(deliver(target))),))))
        self.accept(transaction)
        asked = later(transaction.rcpt(address("A@Y.test")))
        self.assertEqual(table.asked, ["a@y.test"])
        table.pending.pop().answer()  # type: ignore[attr-defined]
        self.assertEqual(self.successResultOf(asked).code, 250)
        self.assertEqual(self.events[-1], ("store", "rcpt", "A@Y.test"))


class CheckTests(TransactionTestCase):
    def test_checks_run_before_the_next_hop_hears_anything(self) -> None:
        check = FakeCheck(self.events, rcpt=lambda recipient: UNKNOWN if str(recipient.address) == "b@y.test" else None)
        transaction = make_transaction(Router(deliver(self.target()), checks=(check,)))
        self.accept(transaction, "a@y.test")
        self.assertEqual(self.codes(transaction, "b@y.test"), [550])
        self.finish(transaction)
        self.assertEqual(
            self.events,
            [
                ("check", "open"),
                ("check", "sender", "s@x.test"),
                ("check", "rcpt", "a@y.test"),
                ("store", "open", "s@x.test"),
                ("store", "rcpt", "a@y.test"),
                ("check", "rcpt", "b@y.test"),
                ("check", "body"),
                ("store", "send", "a@y.test"),
                ("check", "close"),
            ],
        )

    def test_only_none_passes(self) -> None:
        for answer in (DONE, "yes", ZeroDivisionError("bug")):
            for stage in ("sender", "rcpt", "body"):
                check = FakeCheck(self.events, **{stage: answer})
                transaction = make_transaction(Router(deliver(self.target()), checks=(check,)))
                self.accept(transaction)
                codes = self.codes(transaction, "a@y.test")
                if codes == [250]:
                    codes = [self.finish(transaction)[0].code]
                self.assertEqual(codes, [451], (answer, stage))
        self.assertNotIn(("store", "send", "a@y.test"), self.events)
        self.assertEqual(len(self.flushLoggedErrors(TypeError, ZeroDivisionError)), 9)

    def test_a_refused_content_is_not_sent(self) -> None:
        check = FakeCheck(self.events, body=Reply(554, "5.7.1", "spam"))
        transaction = make_transaction(Router(deliver(self.target()), checks=(check,)))
        self.accept(transaction, "a@y.test")
        self.assertEqual(self.finish(transaction), [Reply(554, "5.7.1", "spam (s1.1)")])
        self.assertEqual(self.events[-2:], [("store", "abort"), ("check", "close")])

    def test_a_check_of_one_block_refuses_its_recipients_alone_in_lmtp(self) -> None:
        check = FakeCheck(self.events, body=Reply(554, "5.7.1", "spam"))
        store = self.lmtp()
        rules = Rules(Side.DESTINATION, branch(deliver(store)), domains={"strict.test": branch(deliver(store), checks=(check,))})
        transaction = make_transaction(Router(rules), per_recipient=True)
        self.accept(transaction, "a@y.test", "b@strict.test", "c@y.test")
        self.assertEqual([reply.code for reply in self.finish(transaction)], [250, 554, 250])
        self.assertIn(("store", "send", "a@y.test", "c@y.test"), self.events)
        self.assertEqual(self.events.count(("check", "open")), 1)

    def test_a_module_with_its_own_error_says_it(self) -> None:
        check = FakeCheck(self.events, rcpt=PermanentError("not you", code=550, enhanced="5.7.1"))
        transaction = make_transaction(Router(deliver(self.target()), checks=(check,)))
        self.accept(transaction)
        self.assertEqual(transaction.rcpt(address("a@y.test")), Reply(550, "5.7.1", "not you"))

    def test_a_check_that_fails_to_close_is_logged_and_harms_nobody(self) -> None:
        check = FakeCheck(self.events)
        check.close = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        transaction = make_transaction(Router(deliver(self.target()), checks=(check,)))
        self.accept(transaction, "a@y.test")
        self.assertEqual(self.finish(transaction)[0].code, 250)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class ContentTests(TransactionTestCase):
    def sent(self, content: bytes, *recipients: str, session: Any = None, **settings: Any) -> bytes:
        target = self.target()
        transaction = make_transaction(Router(deliver(target)), session=session, **settings)
        self.accept(transaction, *(recipients or ("a@y.test",)))
        self.assertEqual(self.finish(transaction, content)[0].code, 250)
        return target.sent[0]

    def test_received_is_put_in_front_and_nothing_else_changes(self) -> None:
        session = make_session(
            helo="client.test",
            client_ip="192.0.2.1",
            client_name="rdns.test",
            protocol="ESMTP",
            tls=TlsFacts("TLS1.3", "TLS_AES_256_GCM_SHA384"),
        )
        content = b"Return-Path: <old@x.test>\r\nSubject: a\r\n b\r\n\r\n.dot\r\n"
        self.assertEqual(
            self.sent(content, session=session),
            b"Received: from client.test (rdns.test [192.0.2.1])\r\n"
            b"\tby mx.test with ESMTPS (TLS1.3 TLS_AES_256_GCM_SHA384)\r\n"
            b"\tid s1.1\r\n\tfor <a@y.test>;\r\n\tSun, 9 Sep 2001 01:46:40 +0000\r\n" + content,
        )

    def test_several_recipients_do_not_learn_of_each_other(self) -> None:
        self.assertNotIn(b"for <", self.sent(CONTENT, "a@y.test", "b@y.test"))

    def test_forgeries_are_removed(self) -> None:
        content = (
            b"Authentication-Results: MX.test; spf=pass\r\nX-Mailgate-Quarantine: no\r\n"
            b"Authentication-Results: (a (nested) comment) other.test; spf=fail\r\nSubject: x\r\n\r\nX-mailgate-y: stays\r\n"
        )
        kept = b"Authentication-Results: (a (nested) comment) other.test; spf=fail\r\nSubject: x\r\n\r\nX-mailgate-y: stays\r\n"
        self.assertTrue(self.sent(content).endswith(b"+0000\r\n" + kept))

    def test_a_loop_is_refused(self) -> None:
        target = self.target()
        for count, code in ((5, 250), (6, 554)):
            transaction = make_transaction(Router(deliver(target)), max_received=5)
            self.accept(transaction, "a@y.test")
            reply = self.finish(transaction, b"Received: x\r\n" * (count - 1) + b"RECEIVED : y\r\n\r\n")[0]
            self.assertEqual(reply.code, code)
        self.assertEqual((reply.enhanced, len(target.sent)), ("5.4.6", 1))
        self.assertIn(("store", "abort"), self.events)

    def test_a_full_spool_is_answered_at_the_end(self) -> None:
        target = self.target()
        adapters = make_adapters()
        transaction = make_transaction(Router(deliver(target)), adapters=adapters, memory_limit=10, spool_limit=100)
        self.accept(transaction, "a@y.test")
        self.assertIsNone(transaction.data())
        for _ in range(30):
            self.assertIsNone(transaction.append(b"x" * 10))
        replies = transaction.end()
        self.assertEqual([(reply.code, reply.enhanced) for reply in replies], [(452, "4.3.1")])  # type: ignore[union-attr]
        self.assertEqual(target.sent, [])
        self.assertIn(("store", "abort"), self.events)

    def test_the_spool_gets_its_room_back(self) -> None:
        transaction = make_transaction(Router(deliver(self.target())), memory_limit=10)
        spool = transaction._settings.spool
        self.accept(transaction, "a@y.test")
        transaction.data()
        transaction.append(b"x" * 100)
        self.assertEqual(spool.used, 100)
        transaction.end()
        self.assertEqual(spool.used, 0)


class AbortTests(TransactionTestCase):
    def test_while_a_recipient_is_asked_for(self) -> None:
        target = self.target()
        target.wait = True
        transaction = make_transaction(Router(deliver(target)))
        self.accept(transaction)
        asked = later(transaction.rcpt(address("a@y.test")))
        transaction.abort("client gone")
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.events[-2:], [("store", "cancelled"), ("store", "abort")])

    def test_while_a_table_is_asked(self) -> None:
        table = FakeTable({}, wait=True)
        target = self.target()
        rules = Rules(Side.DESTINATION, branch(deliver(target)), tables=((table, branch(deliver(target))),))
        transaction = make_transaction(Router(rules))
        self.accept(transaction)
        asked = later(transaction.rcpt(address("a@y.test")))
        transaction.abort()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.events, [])

    def test_while_an_expansion_is_half_accepted(self) -> None:
        target = self.target()
        team = FakeModifier(rcpt={"team@y.test": ["a@y.test", "b@y.test"]})
        transaction = make_transaction(Router(deliver(target), rcpt_modifiers=(team,)))
        self.accept(transaction)
        target.wait = True
        asked = later(transaction.rcpt(address("team@y.test")))
        target.pending.pop().answer()  # type: ignore[attr-defined]
        transaction.abort()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.events.count(("store", "abort")), 1)
        self.assertNotIn(("store", "withdraw", "a@y.test"), self.events)

    def test_while_it_is_sent(self) -> None:
        one, two = self.target("one"), self.target("two")
        router = Router(by_domain(one=deliver(one), two=deliver(two)))
        for recipients in (["a@one.test"], ["a@one.test", "b@two.test"]):
            self.events.clear()
            self.logged.clear()
            one.wait = two.wait = False
            transaction = make_transaction(router, split=Split.ALLOW, memory_limit=1)
            self.accept(transaction, *recipients)
            one.wait = two.wait = True
            ending = later(self.finish(transaction))
            transaction.abort("client gone")
            self.failureResultOf(ending, CancelledError)
            self.assertEqual(self.events.count(("one", "cancelled")), 1)
            self.assertEqual(self.events.count(("one", "abort")), 1)
            self.assertEqual(transaction._settings.spool.used, 0)
            self.assertEqual(self.fields("message.done"), [])
            self.assertEqual([fields["stage"] for fields in self.fields("message.aborted")], ["end"])

    def test_a_target_that_answers_its_cancellation_changes_nothing(self) -> None:
        gone = Reply(451, "4.3.0", "aborted")
        for answer in (gone, [gone]):
            self.logged.clear()
            target = self.target()
            transaction = make_transaction(Router(deliver(target)))
            self.accept(transaction, "a@y.test")
            pending: Deferred[Any] = Deferred(partial(Deferred.callback, result=answer))
            target.answer = lambda _, pending=pending: pending  # type: ignore[assignment, misc, method-assign]
            asked: Any = transaction.rcpt(address("b@y.test")) if answer is gone else self.finish(transaction)
            waiting = later(asked)
            self.assertNoResult(waiting)
            transaction.abort()
            self.successResultOf(waiting)
            self.assertEqual([event for event, _ in self.logged], ["message.aborted"])

    def test_between_commands_and_twice(self) -> None:
        check = FakeCheck(self.events)
        transaction = make_transaction(Router(deliver(self.target()), checks=(check,)))
        self.accept(transaction, "a@y.test")
        transaction.data()
        transaction.append(CONTENT)
        transaction.abort()
        transaction.abort()
        self.assertEqual(self.events[-2:], [("store", "abort"), ("check", "close")])

    def test_after_the_end_it_is_nothing(self) -> None:
        transaction = make_transaction(Router(deliver(self.target())))
        self.accept(transaction, "a@y.test")
        self.finish(transaction)
        transaction.abort()
        self.assertNotIn(("store", "abort"), self.events)
        self.assertEqual(self.fields("message.aborted"), [])


class OtherTests(TransactionTestCase):
    def test_a_bug_in_a_target_is_an_incident_and_the_next_recipient_is_served(self) -> None:
        target = self.target()
        target.refuse["a@y.test"] = ZeroDivisionError("bug")
        transaction = make_transaction(Router(deliver(target)))
        self.accept(transaction)
        reply = transaction.rcpt(address("a@y.test"))
        self.assertEqual((reply.code, reply.enhanced), (451, "4.3.0"))  # type: ignore[union-attr]
        incident = self.fields("incident")[0]["incident"]
        self.assertIn(incident, reply.text)  # type: ignore[union-attr]
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.codes(transaction, "b@y.test"), [250])

    def test_two_aliases_that_meet_are_one_delivery(self) -> None:
        target = self.target()
        team = FakeModifier(rcpt={"team@y.test": ["a@y.test", "A@y.test", "b@y.test"]})
        transaction = make_transaction(Router(deliver(target), rcpt_modifiers=(team,)))
        self.accept(transaction, "team@y.test")
        self.finish(transaction)
        self.assertIn(("store", "send", "a@y.test", "b@y.test"), self.events)

    def test_an_expansion_without_end_is_refused(self) -> None:
        target = self.target()
        bomb = FakeModifier(rcpt={f"a{n}@y.test": [f"a{n * 50 + m}@y.test" for m in range(50)] for n in range(60)})
        transaction = make_transaction(Router(deliver(target), rcpt_modifiers=(bomb, bomb)))
        self.accept(transaction)
        self.assertEqual(self.codes(transaction, "a0@y.test"), [451])
        self.assertEqual(self.events, [])

    def test_parameters_and_originals_go_along(self) -> None:
        target = self.target()
        alias = FakeModifier(rcpt={"a@y.test": ["b@y.test"]})
        transaction = make_transaction(Router(deliver(target), rcpt_modifiers=(alias,)))
        parameters = MailParameters(size=5, smtputf8=True)
        transaction.mail(address("s@x.test"), parameters)
        transaction.rcpt(address("a@y.test"))
        self.assertIs(target.envelopes[0].parameters, parameters)
        plan = transaction._offers.accepted[0].plans[0]
        self.assertEqual(str(plan.recipient.original), "a@y.test")
        self.assertEqual([str(one.address) for one in target.envelopes[0].recipients], ["a@y.test"])

    def test_the_time_is_in_the_outcome(self) -> None:
        clock = Clock()
        target = self.target()
        transaction = make_transaction(Router(deliver(target)), adapters=make_adapters(clock))
        self.accept(transaction, "a@y.test")
        clock.advance(3)
        self.finish(transaction)
        self.assertEqual(self.fields("message.done")[0]["seconds"], 3.0)

    def test_a_modifier_only_takes_part_where_it_overrides(self) -> None:
        from mailgate.pipeline.modifiers import takes_part

        class OnlySender(Modifier):
            def sender(self, envelope: Any) -> Any:
                return envelope.sender

        modifier = OnlySender.__new__(OnlySender)
        self.assertEqual([takes_part(modifier, stage) for stage in ("sender", "rcpt", "body")], [True, False, False])
        self.assertTrue(takes_part(FakeModifier(), "body"))
