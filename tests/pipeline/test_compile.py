"""Pipelines from text: every structural mistake at its place, and what a good one becomes."""

from __future__ import annotations

import textwrap
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.pipeline.grammar import Split
from mailgate.pipeline.router import Deliver, DeliverTo, Discard, Reject, Rules, Through
from mailgate.pipeline.rules import Kind, Rule, RuleError, Side, read_rule
from mailgate.registry import Built, build

PRELUDE = """\
state_dir /nonexistent
local_domains local.test
target.maildir store ./Maildir
target.maildir other ./Other
"""
FIRST = PRELUDE.count("\n") + 2
"""The line of the first directive in the listener's block."""


def build_pipeline(pipeline: str, rest: str = "") -> Built:
    body = textwrap.indent(textwrap.dedent(pipeline).strip("\n"), "    ")
    return build(f"{PRELUDE}smtp tcp://127.0.0.1:2525 {{\n{body}\n}}\n{textwrap.dedent(rest)}", environment={})


def found(built: Built) -> list[tuple[str, int, str]]:
    """(code, line within the listener's block, message) of every error, and of our own warnings."""
    return [
        (one.code, one.span.line - FIRST + 1 if one.span else 0, one.message)
        for one in built.diagnostics
        if one.is_error or one.code.startswith("W08")
    ]


MISTAKES: list[tuple[str, str, list[tuple[str, int]]]] = [
    ("an empty pipeline", "", [("E0801", 0)]),
    ("a pipeline that only checks nothing", "modify { replace_rcpt static { entry a@b.test c@d.test } }", [("E0801", 0)]),
    ("an empty destination block", "destination a.test { }\ndefault_destination { discard }", [("E0801", 1)]),
    ("an empty source block", "default_source { }", [("E0801", 1)]),
    ("an empty reroute", "reroute { }", [("E0801", 1)]),
    (
        "handling beside rules",
        "deliver_to &store\ndestination a.test { discard }\ndefault_destination { discard }",
        [("E0802", 2)],
    ),
    ("rules beside handling", "default_destination { discard }\ndiscard", [("E0802", 2)]),
    (
        "sources beside destinations",
        "default_destination { discard }\ndefault_source { discard }",
        [("E0802", 2)],
    ),
    ("reject beside deliver_to", "deliver_to &store\nreject", [("E0802", 2)]),
    ("discard beside reject", "discard\nreject", [("E0802", 2)]),
    ("two rejects", "reject 550\nreject 450", [("W0802", 0), ("E0802", 2)]),
    ("two discards", "discard\ndiscard", [("E0802", 2)]),
    ("reroute beside deliver_to", "deliver_to &store\nreroute { discard }", [("E0802", 2)]),
    ("no default_destination", "destination a.test { discard }", [("E0803", 1)]),
    ("no default_source", "source a.test { discard }", [("E0803", 1)]),
    (
        "no default_destination in a source block",
        "source a.test {\n    destination b.test { discard }\n}\ndefault_source { discard }",
        [("E0803", 2)],
    ),
    ("two defaults", "default_destination { discard }\ndefault_destination { reject }", [("E0804", 2)]),
    (
        "a rule twice",
        "destination a.test { discard }\ndestination b.test A.test. { reject }\ndefault_destination { discard }",
        [("E0804", 2)],
    ),
    (
        "the same domain in A-labels",
        "destination bücher.test { discard }\ndestination xn--bcher-kva.test { reject }\ndefault_destination { discard }",
        [("E0804", 2)],
    ),
    (
        "the same address with needless quotes",
        'destination a@b.test { discard }\ndestination "\\"a\\"@b.test" { reject }\ndefault_destination { discard }',
        [("E0804", 2)],
    ),
    (
        "the same table twice",
        "destination_in &people { discard }\ndestination_in &people { reject }\ndefault_destination { discard }",
        [("E0804", 2)],
    ),
    (
        "an address that a table takes",
        "destination a@b.test { discard }\ndestination_in &people { reject }\ndefault_destination { discard }",
        [("E0804", 1)],
    ),
    (
        "rules behind a table that matches everything",
        "destination_in identity { discard }\ndestination_in &people { reject }\ndestination c.test { reject }\n"
        "default_destination { discard }",
        [("E0804", 2), ("E0804", 3)],
    ),
    ("a wildcard", "destination *.a.test { discard }\ndefault_destination { discard }", [("E0805", 1)]),
    ("a domain written with @", "destination @a.test { discard }\ndefault_destination { discard }", [("E0805", 1)]),
    ("no domain at all", "destination a..b { discard }\ndefault_destination { discard }", [("E0805", 1)]),
    ("<> as a destination", "destination <> { discard }\ndefault_destination { discard }", [("E0805", 1)]),
    ("postmaster as a source", "source postmaster { discard }\ndefault_source { discard }", [("E0805", 1)]),
    ("two irrevocable copies", "deliver_to &store\ndeliver_to &other", [("E0806", 2)]),
    ("the same target twice", "on_split allow\ndeliver_to &store\ndeliver_to &store", [("W0801", 1), ("E0804", 3)]),
    ("copies are a risk that is taken", "on_split allow\ndeliver_to &store\ndeliver_to &other", [("W0801", 1)]),
    ("only a queue keeps what was split", "on_split queue &store\ndeliver_to &store", [("E0808", 1)]),
    ("copies go into a queue", "deliver_to &store\ncopy_to &other", [("E0814", 2)]),
    ("after_body within after_body", "after_body {\n    after_body {\n        discard\n    }\n}", [("E0408", 2)]),
    ("after_body beside another decision", "after_body { discard }\ndiscard", [("E0802", 2)]),
    (
        "after_body with two targets",
        "after_body {\n    when size > 5 { deliver_to &store }\n    deliver_to &other\n}",
        [("E0816", 3)],
    ),
    (
        "after_body with a copy",
        "on_split allow\nafter_body {\n    deliver_to &store\n    deliver_to &other\n}",
        [("W0801", 1), ("E0816", 4)],
    ),
    (
        "after_body through other pipelines",
        "after_body {\n    when tls { deliver_to &store }\n    reroute {\n        deliver_to &other\n    }\n}",
        [("E0816", 4)],
    ),
    ("always the same target", "after_body {\n    when size > 5 { deliver_to &store }\n    deliver_to &store\n}", []),
    (
        "refused for a recipient only",
        "after_body {\n    destination a.test { reject 552 }\n    default_destination { discard }\n}",
        [("E0817", 2)],
    ),
    (
        "refused by a condition on recipients",
        'after_body {\n    default_destination {\n        when rcpt == "a@b.test" { discard }\n        reject 552\n    }\n}',
        [("E0817", 4)],
    ),
    ("refused for all", 'after_body {\n    when header("X-Bad") == "yes" { reject 554 }\n    discard\n}', []),
    ("after_body that misses a default", "after_body {\n    destination a.test { discard }\n}", [("E0803", 2)]),
    ("a bad directive hides no other mistake", "deliver_too &store\ndefault_source { }", [("E0401", 1), ("E0801", 2)]),
    ("what only follows is not said", "deliver_too &store", [("E0401", 1)]),
    (
        "a refused postmaster",
        "destination a.test { deliver_to &store }\ndefault_destination { reject }",
        [("W0802", 0)],
    ),
    ("a postmaster with a rule", "destination postmaster { deliver_to &store }\ndefault_destination { reject }", []),
    (
        "a postmaster refused on every way",
        "source a.test { reject }\ndefault_source {\n    reroute {\n        default_destination { reject }\n    }\n}",
        [("W0802", 0)],
    ),
]

PEOPLE = "table.static people { entry a@b.test }\n"


class MistakeTests(SynchronousTestCase):
    def test_each_mistake_is_an_error_at_its_place(self) -> None:
        for title, pipeline, expected in MISTAKES:
            built = build_pipeline(pipeline, PEOPLE)
            self.assertEqual([(code, line) for code, line, _ in found(built)], expected, f"{title}: {found(built)}")
            self.assertEqual(built.configuration is None, any(code[0] == "E" for code, _ in expected), title)

    def test_both_places_are_named(self) -> None:
        built = build_pipeline("destination a.test { discard }\ndestination a.test { reject }\ndefault_destination { discard }")
        (error,) = [one for one in built.diagnostics if one.is_error]
        self.assertEqual(error.span and error.span.line, FIRST + 1)
        self.assertTrue(any(f":{FIRST}:" in note for note in error.notes), error.notes)

    def test_a_circle_of_pipelines(self) -> None:
        circle = """
            msgpipeline a { deliver_to &b }
            msgpipeline b {
                default_destination { deliver_to &a }
            }
        """
        built = build_pipeline("deliver_to &a", circle)
        errors = found(built)
        self.assertEqual([code for code, _, _ in errors], ["E0807"])
        self.assertIn("leads back to itself", errors[0][2])

    def test_a_pipeline_that_is_only_itself(self) -> None:
        built = build_pipeline("deliver_to &a", "msgpipeline a { deliver_to &a }\n")
        self.assertEqual([code for code, _, _ in found(built)], ["E0807"])

    def test_copies_through_a_pipeline_count(self) -> None:
        built = build_pipeline("deliver_to &store\ndeliver_to &a", "msgpipeline a { deliver_to &other }\n")
        self.assertEqual([(code, line) for code, line, _ in found(built)], [("E0806", 2)])
        built = build_pipeline("deliver_to &store\ndeliver_to &a", "msgpipeline a { discard }\n")
        self.assertEqual(found(built), [])


class GoodTests(SynchronousTestCase):
    def router(self, pipeline: str, rest: str = "") -> Any:
        built = build_pipeline(pipeline, rest)
        assert built.configuration is not None, found(built)
        return built.configuration.listeners[0]._router  # type: ignore[attr-defined]

    def test_every_kind_of_rule(self) -> None:
        router = self.router(
            """
            on_split defer
            source <> a.test { discard }
            source .a.test b@a.test { reject 450 }
            default_source {
                destination_in &people { deliver_to &store }
                destination Ann@Example.test .example.test postmaster { deliver_to &other }
                default_destination { reject 550 5.1.1 "who?" }
            }
            """,
            PEOPLE,
        )
        sources = router.route
        self.assertEqual(set(sources.exact), {"", "b@a.test"})
        self.assertEqual((set(sources.domains), set(sources.suffixes)), ({"a.test"}, {"a.test"}))
        self.assertIsInstance(sources.find("", "").route, Discard)
        rules = sources.default.route
        assert isinstance(rules, Rules)
        self.assertEqual(len(rules.tables), 1)
        self.assertEqual(set(rules.exact), {"ann@example.test", "postmaster", "postmaster@local.test"})
        self.assertEqual(rules.default.route.reply.text, "who?")  # type: ignore[union-attr]
        self.assertEqual(rules.default.route.span.line, FIRST + 6)  # type: ignore[union-attr]

    def test_a_postmaster_with_a_rule_of_its_own_keeps_it(self) -> None:
        rules = self.router(
            """
            destination postmaster { deliver_to &store }
            destination postmaster@local.test { discard }
            default_destination { reject }
            """
        ).route
        self.assertIsInstance(rules.exact["postmaster@local.test"].route, Discard)

    def test_pipelines_in_pipelines(self) -> None:
        router = self.router(
            """
            modify { replace_rcpt static { entry a@b.test c@d.test } }
            reroute {
                destination d.test { deliver_to &inner }
                default_destination { reject }
            }
            """,
            "msgpipeline inner { deliver_to &store }\n",
        )
        self.assertEqual((len(router.sender_modifiers), len(router.rcpt_modifiers), len(router.body_modifiers)), (0, 1, 0))
        through = router.route.steps[0]
        inner = through.router.route.domains["d.test"].route.steps[0]
        self.assertIsInstance(inner, Through)
        self.assertIsInstance(inner.router.route.steps[0], DeliverTo)

    def test_a_group_of_modifiers(self) -> None:
        router = self.router(
            "modify &common\nmodify { replace_sender static { entry a@b.test c@d.test } }\ndiscard",
            "modifiers common { replace_rcpt static { entry a@b.test c@d.test } }\n",
        )
        self.assertEqual((len(router.sender_modifiers), len(router.rcpt_modifiers)), (1, 1))

    def test_inline_targets_and_split(self) -> None:
        built = build_pipeline("on_split allow\ndeliver_to maildir ./x")
        assert built.configuration is not None
        listener: Any = built.configuration.listeners[0]
        self.assertIs(listener.split, Split.ALLOW)
        self.assertIsInstance(listener._router.route, Deliver)

    def test_reject_without_words(self) -> None:
        route = self.router("destination a.test { discard }\ndefault_destination { reject }").route.default.route
        assert isinstance(route, Reject)
        self.assertEqual(str(route.reply), "550 5.7.1 rejected by policy")


class ReadRuleTests(SynchronousTestCase):
    def test_rules(self) -> None:
        for word, rule in {
            "Example.ORG": Rule(Kind.DOMAIN, "example.org"),
            ".Example.org.": Rule(Kind.SUFFIX, "example.org"),
            "A.b@Example.org": Rule(Kind.EXACT, "a.b@example.org"),
            "<a@b.c>": Rule(Kind.EXACT, "a@b.c"),
            "PostMaster": Rule(Kind.EXACT, "postmaster"),
            "localhost": Rule(Kind.DOMAIN, "localhost"),
            "[192.0.2.1]": Rule(Kind.DOMAIN, "[192.0.2.1]"),
        }.items():
            self.assertEqual(read_rule(word, Side.DESTINATION), rule, word)

    def test_hints(self) -> None:
        for word, hint in {"*.a.test": ".a.test", "*@a.test": "a.test", "@a.test": "a.test"}.items():
            error = self.assertRaises(RuleError, read_rule, word, Side.SOURCE)
            self.assertIn(f"`{hint}`", error.hint)
