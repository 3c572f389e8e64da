"""`test` blocks: what they accept, how they fail, and that they ask nobody."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import Diagnostic
from mailgate.pipeline.testblock import run_tests
from mailgate.registry import build

RULES = """hostname mx.test
tls off
target.lmtp store {
    targets unix:///run/store.sock
}
target.lmtp spare {
    targets unix:///run/spare.sock
}
table.static aliases {
    entry sales@a.test ann@a.test
}
msgpipeline inner {
    deliver_to &spare
}
smtp tcp://127.0.0.1:2525 {
    modify {
        replace_rcpt &aliases
    }
    when tls and helo == "friend.test" {
        deliver_to &inner
    }
    source <> {
        discard
    }
    default_source {
        destination a.test {
            deliver_to &store
        }
        destination b.test {
            deliver_to &spare
        }
        destination late.test {
            reject 450 4.2.1 "come back"
        }
        default_destination {
            reject 550 5.7.1 "relaying denied"
        }
    }
}
lmtp tcp://127.0.0.1:2524 {
    discard
}
"""
FIRST = RULES.count("\n") + 1
"""The line of a test that is written behind the rules."""


def found(test: str, rules: str = RULES) -> list[Diagnostic]:
    built = build(rules + test, environment={})
    if built.configuration is None:
        return built.diagnostics
    return run_tests(built.configuration)


def of(*lines: str) -> str:
    return 'test "it" {\n' + "".join(f"    {line}\n" for line in lines) + "}\n"


class TestBlockTests(SynchronousTestCase):
    def test_what_holds(self) -> None:
        for lines in (
            ("from a@x.test", "rcpt sales@a.test", "expect accept &store"),
            ("from a@x.test", "rcpt sales@a.test", "expect accept"),
            ("from a@x.test", "rcpt c@c.test", "expect reject"),
            ("from a@x.test", "rcpt c@c.test", "expect reject 550"),
            ("from a@x.test", "rcpt c@c.test", "expect reject 5.7.1"),
            ("from a@x.test", "rcpt c@c.test", 'expect reject 550 5.7.1 "relaying denied"'),
            ("from a@x.test", "rcpt c@late.test", "expect defer 450 4.2.1"),
            ("from <>", "rcpt c@late.test", "expect discard"),
            ("from a@x.test", "rcpt c@c.test", "tls", "helo friend.test", "expect accept &spare"),
            ("listener tcp://127.0.0.1:2524", "from a@x.test", "rcpt c@c.test", "expect discard"),
            ("from a@x.test", "rcpt a@a.test", "rcpt b@b.test", "expect accept &store", "expect defer 452 4.5.3"),
            ("from a@x.test", "rcpt c@c.test", "rcpt d@c.test", "expect reject"),
            ("from a@x.test", "rcpt d@a.test", "given &aliases d@A.test = c@b.test", "expect accept &spare"),
            ("from a@x.test", "rcpt sales@a.test", "given &aliases sales@a.test = none", "expect accept &store"),
            ("ip 2001:db8::1", "auth ann", "header Subject hello", "from a@x.test", "rcpt a@a.test", "expect accept"),
        ):
            self.assertEqual(list(map(str, found(of(*lines)))), [], lines)

    def test_what_fails_is_said_at_its_expect(self) -> None:
        for lines, line, message in (
            (("from a@x.test", "rcpt c@c.test", "expect accept"), 3, "<c@c.test> hears 550 5.7.1 relaying denied"),
            (("from a@x.test", "rcpt a@a.test", "expect reject"), 3, "goes <a@a.test> to store (unix:///run/store.sock)"),
            (("from a@x.test", "rcpt a@a.test", "expect accept &spare"), 3, "goes <a@a.test> to store"),
            (("from a@x.test", "rcpt a@a.test", "expect accept &store &spare"), 3, "goes <a@a.test> to store"),
            (("from <>", "rcpt a@a.test", "expect accept"), 3, "<a@a.test> is discarded"),
            (("from a@x.test", "rcpt a@a.test", "expect discard"), 3, "goes <a@a.test> to store"),
            (("from a@x.test", "rcpt c@c.test", "expect reject 551"), 3, "hears 550"),
            (("from a@x.test", "rcpt c@c.test", "expect defer"), 3, "hears 550"),
            (("from a@x.test", "rcpt c@c.test", 'expect reject "no"'), 3, "hears 550"),
            (("from a@x.test", "rcpt a@a.test", "rcpt c@c.test", "expect accept", "expect accept"), 5, "<c@c.test> hears"),
        ):
            (diagnostic,) = found(of(*lines))
            assert diagnostic.span is not None
            self.assertEqual((diagnostic.code, diagnostic.span.line, diagnostic.span.column), ("E0901", FIRST + line, 5), lines)
            self.assertIn(message, diagnostic.message)

    def test_a_failure_names_the_rule_and_the_way(self) -> None:
        (diagnostic,) = found(of("from a@x.test", "rcpt sales@a.test", "expect reject"))
        self.assertEqual(diagnostic.hint, "decided at <text>:27")
        self.assertIn("<text>:17: replace_rcpt &aliases (<sales@a.test> becomes <ann@a.test>)", diagnostic.notes)
        self.assertIn("<text>:26: destination a.test (the domain a.test)", diagnostic.notes)

    def test_tests_that_cannot_be_run(self) -> None:
        for lines, line, code in (
            (("ip 300.1.1.1", "from a@x.test", "rcpt a@a.test", "expect accept"), 1, "E0903"),
            (("from a@", "rcpt a@a.test", "expect accept"), 1, "E0903"),
            (("from a@x.test", "rcpt <>", "expect accept"), 2, "E0903"),
            (("from a@x.test", "rcpt a@a.test", "expect accept", "expect accept"), 4, "E0903"),
            (("from a@x.test", "rcpt a@a.test", "expect accept &inner"), 3, "E0903"),
            (("listener tcp://127.0.0.1:25", "from a@x.test", "rcpt a@a.test", "expect accept"), 1, "E0903"),
            (("rcpt a@a.test", "expect accept"), 0, "E0403"),
            (("from a@x.test", "expect accept"), 0, "E0403"),
            (("from a@x.test", "rcpt a@a.test"), 0, "E0403"),
            (("from a@x.test", "rcpt a@a.test", "expect bounce"), 3, "E0505"),
            (("from a@x.test", "rcpt a@a.test", "expect reject 450"), 3, "E0509"),
            (("from a@x.test", "rcpt a@a.test", "expect accept &nobody"), 3, "E0602"),
            (("from a@x.test", "rcpt a@a.test", "given &aliases a b", "expect accept"), 3, "E0404"),
            (("from a@x.test", "rcpt a@a.test", "given &aliases a = none b", "expect accept"), 3, "E0405"),
            (("from a@x.test", "rcpt a@a.test", "given &store a = b", "expect accept"), 3, "E0604"),
        ):
            diagnostics = [one for one in found(of(*lines)) if one.is_error]
            places = [(one.code, one.span.line if one.span else 0) for one in diagnostics]
            self.assertEqual(places, [(code, FIRST + line)], lines)


class GivenTests(SynchronousTestCase):
    """A table that is no part of the configuration is not asked."""

    def setUp(self) -> None:
        path = Path(self.mktemp())
        path.write_text("sales@a.test: ann@b.test\n")
        self.rules = RULES.replace(
            "table.static aliases {\n    entry sales@a.test ann@a.test\n}\n", f"table.file aliases {path.resolve()}\n\n\n"
        )

    def test_a_question_without_an_answer_is_an_error_that_says_what_to_write(self) -> None:
        (diagnostic,) = found(of("from a@x.test", "rcpt sales@a.test", "expect accept"), self.rules)
        self.assertEqual((diagnostic.code, diagnostic.span.line if diagnostic.span else 0), ("E0902", FIRST))
        self.assertIn("no `given` says what aliases has for `sales@a.test`", diagnostic.message)
        self.assertIn("`given &aliases sales@a.test = none`", diagnostic.hint)

    def test_given_answers(self) -> None:
        for lines in (
            ("given &aliases * = none", "expect accept &store"),
            ("given &aliases sales@a.test = x@b.test", "expect accept &spare"),
            ("given &aliases sales@a.test = x@b.test", "given &aliases * = none", "expect accept &spare"),
            ('given &aliases * = "none"', "expect accept &store"),
        ):
            self.assertEqual(list(map(str, found(of("from a@x.test", "rcpt sales@a.test", *lines), self.rules))), [], lines)


class ContentTests(SynchronousTestCase):
    RULES = """hostname mx.test
tls off
target.lmtp store {
    targets unix:///run/store.sock
}
target.queue bulk {
    target &store
    bounce {
        discard
    }
}
target.queue quick {
    target &store
    bounce {
        discard
    }
}
smtp tcp://127.0.0.1:2525 {
    after_body {
        when header("X-Spam") == "yes" {
            reject 554 5.7.1
        }
        when header("List-Id") {
            deliver_to &bulk
        }
        destination gone.test {
            discard
        }
        default_destination {
            deliver_to &quick
        }
    }
}
"""

    def test_the_content_decides(self) -> None:
        for header, rcpt, expected in (
            ("", "b@y.test", "accept &quick"),
            ('header List-Id "<a.b>"', "b@y.test", "accept &bulk"),
            ("header X-Spam yes", "b@y.test", "reject 554"),
            ("header X-Spam no", "b@gone.test", "discard"),
        ):
            test = f'test "content" {{\n    from a@x.test\n    rcpt {rcpt}\n    {header}\n    expect {expected}\n}}\n'
            self.assertEqual([str(one) for one in found(test, self.RULES)], [], expected)
            wrong = test.replace(f"expect {expected}", "expect defer")
            self.assertEqual([one.code for one in found(wrong, self.RULES)], ["E0901"])
