"""What an explanation tells: branches, checks, failures, the content; and that it leaves nothing behind."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.interfaces import ITable
from mailgate.net.waiting import begin
from mailgate.pipeline.explain import Explanation, Question, as_dict, changes, explain, read_address
from mailgate.pipeline.lookup import Kept, Lookups
from mailgate.pipeline.router import Router
from mailgate.pipeline.settings import TransactionSettings
from mailgate.pipeline.trace import MAX_SHOWN
from mailgate.pipeline.trace_tree import Kind, Node
from mailgate.registry import Configuration, build
from mailgate.smtp.reply import Reply
from tests.pipeline.fakes import FakeCheck, FakeTable, FakeTarget, deliver

HEAD = "hostname mx.test\ntls off\ntarget.lmtp store {\n    targets unix:///run/store.sock\n}\n"
ONLY_STATIC = frozenset((Kept.IN_CONFIGURATION,))


class Listener:
    """As much of a listener as an explanation asks for, around a router of the test."""

    span = None
    label = "smtp test"
    hostname = "mx.test"
    lmtp = False
    addresses = ("tcp://127.0.0.1:25",)

    def __init__(self, router: Router) -> None:
        self.router = router

    def client_rules(self) -> list[Any]:
        return []

    def transaction_settings(self, adapters: Any, spool: Any) -> TransactionSettings:
        return TransactionSettings(spool=spool, adapters=adapters, hostname=self.hostname)


def ask(listener: Any, sender: str, *recipients: str, tables: Any = (), may_ask: Any = ONLY_STATIC) -> Explanation:
    question = Question(read_address(sender), tuple(map(read_address, recipients)))
    with Lookups(tables, may_ask) as lookups:
        found = begin(explain(listener, question, lookups, may_ask))
    assert isinstance(found, Explanation)
    return found


def configured(text: str) -> Configuration:
    configuration = build(HEAD + text, environment={}).configuration
    assert configuration is not None
    return configuration


def ask_file(text: str, sender: str, *recipients: str, may_ask: Any = ONLY_STATIC) -> Explanation:
    configuration = configured(text)
    tables = [module for module in configuration.modules if ITable.providedBy(module)]
    return ask(configuration.listeners[0], sender, *recipients, tables=tables, may_ask=may_ask)


def lines(node: Node) -> list[tuple[str, bool, str]]:
    return [(one.text, one.taken, one.reason) for one in node.walk() if one is not node]


class TreeTests(SynchronousTestCase):
    def test_long_levels_are_cut_around_the_rule_that_matches(self) -> None:
        rules = "".join(f"    destination d{number}.test {{\n        discard\n    }}\n" for number in range(100))
        text = f"smtp tcp://127.0.0.1:25 {{\n{rules}    default_destination {{\n        reject\n    }}\n}}\n"
        tree = ask_file(text, "a@x.test", "b@d70.test").recipients[0].step.tree
        shown = [node for node in tree.children if node.kind is Kind.RULE]
        self.assertEqual([node.text for node in shown if node.taken], ["destination d70.test"])
        self.assertEqual((len(shown), shown[-1].text), (MAX_SHOWN + 2, f"{99 - MAX_SHOWN} more rules"))

    def test_reroute_is_a_tree_within_the_tree(self) -> None:
        text = """smtp tcp://127.0.0.1:25 {
    reroute {
        source x.test {
            reject 550 5.7.1 "not you"
        }
        default_source {
            deliver_to &store
        }
    }
}
"""
        refused = ask_file(text, "a@x.test", "b@y.test").recipients[0]
        self.assertEqual((str(refused.step.reply), refused.step.where), ("550 5.7.1 not you", "<text>:9"))
        self.assertEqual(refused.step.tree.children[0].text, "reroute")
        self.assertEqual(lines(refused.step.tree)[1], ("source x.test", True, "the domain x.test"))
        passed = ask_file(text, "a@z.test", "b@y.test").recipients[0]
        self.assertEqual(
            lines(passed.step.tree),
            [
                ("reroute", True, ""),
                ("source x.test", False, "not a@z.test"),
                ("default_source", True, "nothing else matches"),
                ("deliver_to &store", True, "to unix:///run/store.sock"),
            ],
        )

    def test_a_condition_that_asks_a_table_that_may_not_be_asked_is_unknown(self) -> None:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("a@x.test: yes\n")
        text = f"""table.file vips ./{path}
smtp tcp://127.0.0.1:25 {{
    when lookup(&vips, sender) == "yes" {{
        deliver_to &store
    }}
    discard
}}
"""
        asked = ask_file(text, "a@x.test", "b@y.test", may_ask=frozenset(Kept))
        self.assertEqual((asked.unknown, asked.unanswered, asked.recipients[0].outcomes[0].target), ("", (), "store"))
        dry = ask_file(text, "a@x.test", "b@y.test")
        self.assertEqual(dry.unknown, "vips was not asked for 'a@x.test'")
        self.assertEqual(lines(dry.sender.tree), [('when lookup(&vips, sender) == "yes"', False, "no answer")])

    def test_secrets_are_not_shown(self) -> None:
        text = """smtp tcp://127.0.0.1:25 {
    deliver_to smtp unix:///run/hub {
        auth plain gateway hunter2
    }
}
"""
        explanation = ask_file(text, "a@x.test", "b@y.test")
        self.assertEqual(lines(explanation.recipients[0].step.tree)[0][0], "deliver_to smtp unix:///run/hub")
        self.assertNotIn("hunter2", str(as_dict(explanation)))


class CheckTests(SynchronousTestCase):
    def judged(
        self, may_ask: Any = ONLY_STATIC, kept: Any = Kept.IN_CONFIGURATION, **answers: Any
    ) -> tuple[Explanation, list[Any]]:
        events: list[Any] = []
        check = FakeCheck(events, "spam", **answers)
        check.kept = kept  # type: ignore[attr-defined]
        router = Router(deliver(FakeTarget(events)), checks=(check,))
        return ask(Listener(router), "a@x.test", "b@y.test", may_ask=may_ask), events

    def test_each_stage_of_a_check_is_told(self) -> None:
        explanation, events = self.judged()
        self.assertEqual([event[1] for event in events], ["open", "sender", "rcpt", "body", "close"])
        told = [node.reason for step in explanation.steps() for node in step.tree.walk() if node.kind is Kind.CHECK]
        self.assertEqual(told, ["sender: passes", "rcpt: passes", "body: passes"])

    def test_a_refusal_of_the_content_is_the_answer_to_the_dot(self) -> None:
        explanation, _ = self.judged(body=Reply(554, "5.7.1", "spam"))
        (one,) = explanation.recipients
        self.assertEqual((one.step.reply.code, str(one.final)), (250, "554 5.7.1 spam (dry)"))

    def test_a_refused_sender_is_said_at_rcpt(self) -> None:
        explanation, _ = self.judged(sender=Reply(450, "4.7.1", "later"))
        self.assertEqual((explanation.sender.reply.code, explanation.sender.reason), (250, "refused by a check"))
        self.assertEqual(str(explanation.recipients[0].step.reply), "450 4.7.1 later")
        self.assertIs(explanation.content, None)

    def test_an_exception_is_a_451_and_its_text_the_reason(self) -> None:
        explanation, _ = self.judged(rcpt=ValueError("bad index"))
        step = explanation.recipients[0].step
        self.assertEqual((step.reply.code, step.reason), (451, "ValueError: bad index"))

    def test_a_check_that_asks_the_network_is_not_asked(self) -> None:
        explanation, events = self.judged(kept=Kept.ELSEWHERE, rcpt=Reply(550, "5.7.1", "listed"))
        self.assertEqual((events, explanation.recipients[0].step.reply.code), ([], 250))
        told = {node.reason for step in explanation.steps() for node in step.tree.walk() if node.kind is Kind.CHECK}
        self.assertIn("rcpt: not asked, taken to pass", told)
        online, _ = self.judged(may_ask=frozenset(Kept), kept=Kept.ELSEWHERE, rcpt=Reply(550, "5.7.1", "listed"))
        self.assertEqual(online.recipients[0].step.reply.code, 550)


class TraceTests(SynchronousTestCase):
    def test_nothing_is_left_behind(self) -> None:
        """Targets see nothing, and tables are themselves again."""
        events: list[Any] = []
        table = FakeTable({"b@y.test": ("",)})
        listener = Listener(Router(deliver(FakeTarget(events))))
        ask(listener, "a@x.test", "b@y.test", tables=[table])
        self.assertEqual((events, "lookup" in vars(table)), ([], False))

    def test_a_table_that_fails_is_itself_again_too(self) -> None:
        table = FakeTable(OSError("down"))
        with Lookups([table], frozenset(Kept)) as lookups:
            self.assertRaises(OSError, lambda: begin(table.lookup("x")))
            self.assertTrue(lookups.unanswered)
        self.assertNotIn("lookup", vars(table))


class ChangesTests(SynchronousTestCase):
    def test_places_alone_are_no_change(self) -> None:
        text = "smtp tcp://127.0.0.1:25 {\n    deliver_to &store\n}\n"
        before, after = ask_file(text, "a@x.test", "b@y.test"), ask_file("\n\n" + text, "a@x.test", "b@y.test")
        self.assertNotEqual(before.recipients[0].outcomes[0].where, after.recipients[0].outcomes[0].where)
        self.assertEqual(changes(before, after), [])

    def test_another_way_is_a_change(self) -> None:
        before = ask_file("smtp tcp://127.0.0.1:25 {\n    deliver_to &store\n}\n", "a@x.test", "b@y.test")
        after = ask_file("smtp tcp://127.0.0.1:25 {\n    discard\n}\n", "a@x.test", "b@y.test")
        self.assertEqual(
            [(change.party, change.what, change.after) for change in changes(before, after)],
            [("b@y.test", "delivery", "<b@y.test> is discarded"), ("b@y.test", "the dot", "250 2.0.0 Ok: dry")],
        )
