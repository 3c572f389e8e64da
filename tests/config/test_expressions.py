"""Expressions: what each means, what each mistake says and where, and that no text makes more trouble than a diagnostic."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.evaluation import EvaluationError, ExpressionError, compile_expression
from mailgate.config.expression import MAX_DEPTH, MAX_TOKENS
from mailgate.config.expression_types import (
    BOOLEAN,
    FLOAT,
    STRING,
    WORD,
)
from tests.config.expressions import VALUES, Table, run, scope, value_of

RESULTS: list[tuple[str, Any]] = [
    # literals
    ('"a\\"b\\\\c"', 'a"b\\\\c'),
    ('"a\n#b"', "a\n#b"),
    ("42", 42),
    ("1.5", 1.5),
    ("1h30m", 5400.0),
    ("250ms", 0.25),
    ("1w2d", 777600.0),
    ("true", True),
    ("192.0.2.1", ip_address("192.0.2.1")),
    ("2001:db8::1", ip_address("2001:db8::1")),
    ("::ffff:192.0.2.1", ip_address("::ffff:192.0.2.1")),
    ("[]", ()),
    ("[1, 2.5,]", (1, 2.5)),
    (".example.org", ".example.org"),
    ("ipv4_only", "ipv4_only"),
    # operators and their precedence
    ("1 + 2 * 3", 7),
    ("(1 + 2) * 3", 9),
    ("7 % 4 - 1", 2),
    ("-count", -3),
    ("- - 2", 2),
    ("1 / 2", 0.5),
    ("count / 2", 1.5),
    ("5m + 30s", 330.0),
    ("2 * 5m", 600.0),
    ("10m / 5m", 2.0),
    ("10m / 4", 150.0),
    ("10m % 4m", 120.0),
    ('"a" + "b"', "ab"),
    ("1 < 2 and 2 < 3", True),
    ("not 1 < 2", False),
    ("not true or true", True),
    ("true or false and false", True),
    ("(true || false) && !true", False),
    ("false or false or tls or false", True),
    ("tls and tls and count == 4", False),
    ("1 == 1.0", True),
    ("count <= 3 and count >= 3 and count != 4 and count > 2", True),
    ('"a" < "b"', True),
    ("90s == age", True),
    ("true == tls", True),
    # membership
    ("2 in [1, 2]", True),
    ("2 not in [1, 2]", False),
    ("count in []", False),
    ('name in ["Bob", "Ann"]', True),
    ("ip in 192.0.2.0/24", True),
    ("ip in [10.0.0.0/8, 2001:db8::/32]", False),
    ("ip in [10.0.0.0/8, 192.0.2.7]", True),
    ("ip == 192.0.2.7", True),
    ("ip in 2001:db8::/32", False),
    ('"mx.example.org" in .example.org', True),
    ('"example.org" in .example.org', False),
    ('"badexample.org" in ".example.org"', False),
    ('"example.org" in "example.org"', True),
    ('"a.b.test" in ["x.test", ".b.test"]', True),
    ("ipv4_only in [ipv4_only, ipv6_only]", True),
    # normal forms
    ('folded == "Example.ORG"', True),
    ('"Example.ORG" == folded', True),
    ('folded in ["Example.ORG"]', True),
    ('"mx." + folded in .Example.org', False),
    ('has_suffix(folded, "ORG")', True),
    ('folded matches "^EXAMPLE"', True),
    ('name matches "^ann"', False),
    ('name not matches "^ann"', True),
    ('domain("a@EXAMPLE.org") == "Example.Org"', True),
    # unset
    ("user ?? name", "Ann"),
    ("user ?? user ?? name", "Ann"),
    ('(user ?? "x") + "y"', "xy"),
    ('user == "x"', False),
    ('user != "x"', True),
    ("score < 5", False),
    ("not (score < 5)", True),
    ("peer in 10.0.0.0/8", False),
    ("peer in [10.0.0.0/8]", False),
    ('user in ["x"]', False),
    ('user in "x"', False),
    ('user matches "."', False),
    ("score in [1]", False),
    ("not user", True),
    ("user or tls", True),
    ("flag or flag", False),
    # if
    ("(if tls then 1 else 2)", 1),
    ("(if user then 1 else 2.5)", 2.5),
    ("(if tls and count > 5 then ipv4_only else ipv6_only)", "ipv6_only"),
    ("1 + (if false then 1 else (if tls then 2 else 3))", 3),
    # functions
    ("lower(name) + upper(name)", "annANN"),
    ("len(name) + len([1, 2])", 5),
    ('localpart("a@b@c.test")', "a@b"),
    ('localpart("a")', "a"),
    ('domain("a@b@C.test")', "c.test"),
    ('domain("a")', ""),
    ('has_prefix(name, "A") and has_suffix(name, "nn") and contains(name, "n")', True),
    ('split("a,b,,c", ",")', ("a", "b", "", "c")),
    ('"b" in split("a,b", ",")', True),
    ("hash(name, 1)", 0),
    ("hash(name, 7) == hash(name, 7)", True),
    ('lookup(&people, "ann")', "1st"),
    ('lookup(&people, "ANN")', "1st"),
    ('lookup(&people, "bob")', None),
    ('lookup(&people, "bob") ?? name', "Ann"),
    ('lookup(&people, lookup(&people, "bob") ?? "ann") == "1st"', True),
    ('len(lookup(&people, "ann") ?? "") + 1', 4),
    ('(if lookup(&people, "bob") then "yes" else "no")', "no"),
    ("is_local(folded)", True),
    ('is_local("other.test")', False),
    # text that reads unusually
    ("tls\\\n and # why\n tls", True),
    ("tls&&!tls", False),
    ('name=="Ann"', True),
    ("count-1", 2),
    ("count -1", 2),
    ("count/2", 1.5),
]

MISTAKES: list[tuple[str, str, str, str]] = [
    # text, what is marked, a part of the message, a part of the hint
    ("", "", "an expression is expected", ""),
    ("tls and", "", "the expression ends here; a value", ""),
    ("(tls", "", "`)` is expected", ""),
    ("[1, 2", "", "`,` or `]`", ""),
    ("[1 2]", "2", "`,` or `]`", ""),
    ("tls tls", "tls", "an operator", ""),
    ("tls an tls", "an", "an operator", "did you mean `and`?"),
    ("tls AND tls", "AND", "an operator", "did you mean `and`?"),
    ("count = 3", "=", "means nothing", "write =="),
    ("name == 'Ann'", "'Ann'", "means nothing", "double quotes"),
    ("tls | tls", "|", "means nothing", "||"),
    ("tls & tls", "&", "means nothing", "&&"),
    ('name == "Ann', '"', "this quote is never closed", "close it"),
    ("name == user@example.org", "user@example.org", "means nothing", '"user@example.org"'),
    ("name == example.org", "example.org", "means nothing", '"example.org"'),
    ("1 < 2 < 3", "<", "do not chain", "a < b and b < c"),
    ("count not 3", "3", "`in` or `matches` behind `not`", ""),
    ("if tls then 1 else 2", "if", "needs parentheses", "(if a then b else c)"),
    ("(if tls then 1)", ")", "`else`", ""),
    ("ip == 300.1.1.1", "300.1.1.1", "no address", ""),
    ("ip in 10.0.0.1/8", "10.0.0.1/8", "no address or network", "10.0.0.0/8"),
    ("count == 12345678901234567890", "12345678901234567890", "18 digits", ""),
    ("nmae == name", "nmae", "unknown name", "did you mean `name`?"),
    ("xyz", "xyz", "unknown name", "known here: age, count"),
    ("lower", "lower", "unknown name", "lower(…)"),
    ("rcpt == name", "rcpt", "there is no `rcpt` here", "not yet"),
    ("lowr(name)", "lowr", "unknown function", "did you mean `lower`?"),
    ("frobnicate(name)", "frobnicate", "unknown function", "functions: contains"),
    ("lower(name, name)", "lower(name, name)", "takes 1 argument, not 2", ""),
    ("lower(count)", "count", "this is an integer, `lower` needs a string", ""),
    ("lower(user)", "user", "may be unset", "??"),
    ("len(count)", "count", "`len` needs a string", ""),
    ('name == "1" and count == "1"', 'count == "1"', "can't compare an integer with a string", "without quotes"),
    ('ip == "192.0.2.1"', 'ip == "192.0.2.1"', "an address with a string", "without quotes"),
    ('ip in ["192.0.2.1"]', 'ip in ["192.0.2.1"]', "a list of strings", "without quotes"),
    ("ip == 10.0.0.0/8", "ip == 10.0.0.0/8", "with a network", "write `in`"),
    ("count == [1]", "count == [1]", "a list of integers", "write `in`"),
    ("name == ipv4_only", "name == ipv4_only", "with a word", "in quotes"),
    ("count in [name]", "count in [name]", "`in` can't compare", ""),
    ("[1, name]", "name", "a list holds one type", ""),
    ("[user]", "user", "always set", ""),
    ("[[1]]", "[1]", "always set", ""),
    ("tls < tls", "tls < tls", "has no order", ""),
    ("count matches name", "count", "only a string can match", ""),
    ("name matches name", "name", "regular expression in quotes", ""),
    ('name matches "a(b"', "(b", "bad regular expression", ""),
    ("name ?? name", "name", "always set", ""),
    ("user ?? count", "count", "what stands before `??` a string", ""),
    ("name + count", "name + count", "does not work with a string and an integer", ""),
    ("-name", "-name", "does not work", ""),
    ("count + score", "score", "may be unset", "??"),
    ("count / 0", "0", "division by zero", ""),
    ("1 / (2 - 2)", "2 - 2", "division by zero", ""),
    ("hash(name, 0)", "0", "one bucket", ""),
    ('split(name, "")', '""', "a separator", ""),
    ("(if tls then 1 else name)", "name", "behind `then`", ""),
    ("(if count then 1 else 2)", "count", "a condition is needed", "compare it"),
    ("not name", "name", "a condition is needed here, this is a string", "compare it"),
    ("&people", "&people", "only in lookup", ""),
    ("lookup(name, name)", "lookup(name, name)", "lookup(&table, key)", ""),
    ("lookup(&poeple, name)", "&poeple", "nothing is called", "did you mean `&people`?"),
    ("lookup(&people, count)", "count", "needs a string", ""),
    ('folded == ""', '""', "never empty", "leave it out"),
    ('folded in ["x", ""]', '""', "never empty", "leave it out"),
    ('lower(name) == "Ann"', '"Ann"', "never gives an upper-case letter", 'did you mean "ann"?'),
]


class ValueTests(SynchronousTestCase):
    def test_results(self) -> None:
        for text, expected in RESULTS:
            value = value_of(text)
            self.assertEqual((value, type(value)), (expected, type(expected)), text)

    def test_optional_values_are_conditions(self) -> None:
        self.assertIs(value_of("user", BOOLEAN), False)
        self.assertIs(value_of("user", BOOLEAN, user="x"), True)
        self.assertIs(value_of("flag", BOOLEAN, flag=False), False)
        self.assertIs(value_of('lookup(&people, "ann")', BOOLEAN), True)

    def test_hash_never_changes(self) -> None:
        self.assertEqual([value_of("hash(name, 100)", name=name) for name in ("ann", "bob", "ü", "")], [70, 50, 28, 52])

    def test_a_result_of_another_type_is_an_error(self) -> None:
        for text, expected in (("count", STRING), ('"x"', WORD), ("name", BOOLEAN), ("user", STRING)):
            with self.assertRaises(ExpressionError, msg=text):
                compile_expression(text, scope(), expected)
        self.assertEqual(value_of("count", FLOAT), 3)

    def test_failures_at_run_time(self) -> None:
        for text in ("1 / (count - 3)", "1 % (count - 3)", "hash(name, count - 3)", 'split(name, user ?? "")'):
            with self.assertRaises(EvaluationError, msg=text):
                value_of(text)

    def test_without_local_domains_is_local_is_an_error(self) -> None:
        with self.assertRaises(ExpressionError) as caught:
            compile_expression("is_local(name)", scope(is_local=None))
        self.assertIn("local_domains", caught.exception.hint)


class ConstantTests(SynchronousTestCase):
    CONSTANT = (
        ("1 + 1 == 2", True),
        ('lower("A") == "a"', True),
        ("ip in []", False),
        ("tls and false", False),
        ("tls or 1 < 2", True),
        ('lookup(&people, "ann") or true', True),
        ("not (tls and false)", True),
        ("(if true then 1 else 2) == 1", True),
    )

    def test_constants_are_computed_at_load(self) -> None:
        for text, value in self.CONSTANT:
            expression = compile_expression(text, scope(), BOOLEAN)
            self.assertEqual((expression.constant, expression.value, expression.waits), (True, value, False), text)

    def test_what_depends_is_no_constant(self) -> None:
        for text in ("tls", "tls or false", "count == 3", 'is_local("example.org")', 'lookup(&people, "ann")'):
            self.assertFalse(compile_expression(text, scope(), BOOLEAN).constant, text)

    def test_only_lookups_wait(self) -> None:
        for text, expected in RESULTS:
            self.assertEqual(compile_expression(text, scope()).waits, "lookup" in text, f"{text} {expected!r}")
        self.assertTrue(compile_expression("is_local(name)", scope(local_waits=True)).waits)


class LookupTests(SynchronousTestCase):
    def test_tables_that_wait(self) -> None:
        table = Table(waits=True)
        self.assertEqual(value_of('lookup(&people, lower(name)) ?? "none"', table=table), "1st")
        self.assertEqual(table.asked, ["ann"])

    def test_no_more_is_looked_up_than_needed(self) -> None:
        for text in (
            'tls or lookup(&people, "x")',
            'not tls and lookup(&people, "x")',
            '(if tls then "a" else lookup(&people, "x"))',
        ):
            table = Table()
            value_of(text, table=table)
            self.assertEqual(table.asked, [], text)

    def test_a_table_that_fails_is_no_answer(self) -> None:
        for text in ('lookup(&people, "bad") == "x"', 'not lookup(&people, "bad")', 'lookup(&people, "bad") ?? "x"'):
            with self.assertRaises(EvaluationError, msg=text) as caught:
                value_of(text)
            self.assertIn("table &people", str(caught.exception))

    def test_local_domains_that_wait(self) -> None:
        async def judge(domain: str) -> bool:
            if domain == "bad.test":
                raise OSError("gone")
            return domain == "example.org"

        waiting = scope(is_local=judge, local_waits=True)
        self.assertIs(run(compile_expression('is_local("example.org") and tls', waiting)), True)
        with self.assertRaises(EvaluationError):
            run(compile_expression('is_local("bad.test")', waiting))


class MistakeTests(SynchronousTestCase):
    def test_each_is_at_its_place_with_a_hint(self) -> None:
        for text, marked, message, hint in MISTAKES:
            with self.assertRaises(ExpressionError, msg=text) as caught:
                compile_expression(text, scope())
            error = caught.exception
            self.assertEqual(text[error.start : error.end], marked, f"{text}: {error.message}")
            self.assertIn(message, error.message, text)
            self.assertIn(hint, error.hint, text)
            self.assertEqual(bool(hint), bool(error.hint), f"{text}: {error.hint}")

    def test_codes(self) -> None:
        for text, code in (
            ("1 +", "E0521"),
            ('name matches "("', "E0521"),
            ("x", "E0522"),
            ("lookup(&x, name)", "E0602"),
            ("-name", "E0523"),
        ):
            with self.assertRaises(ExpressionError, msg=text) as caught:
                compile_expression(text, scope())
            self.assertEqual(caught.exception.code, code, text)

    def test_the_right_one_of_two_equal_parts_is_marked(self) -> None:
        with self.assertRaises(ExpressionError) as caught:
            compile_expression("name == name and name", scope(), BOOLEAN)
        self.assertEqual((caught.exception.start, caught.exception.end), (17, 21))

    def test_endless_expressions_are_refused(self) -> None:
        deep = MAX_DEPTH * 40
        for text in (
            "(" * deep + "tls" + ")" * deep,
            "not " * deep + "tls",
            "- " * deep + "1",
            "[" * deep,
            "1" + " + 1" * (MAX_DEPTH + 1),
            "lower(" * deep + "name" + ")" * deep,
            "user" + " ?? user" * (MAX_DEPTH + 1),
            " or ".join(["tls"] * MAX_TOKENS),
        ):
            with self.assertRaises(ExpressionError, msg=text[:20]):
                compile_expression(text, scope())

    def test_a_long_chain_of_or_is_fine(self) -> None:
        chain = " or ".join(f"count == {number}" for number in range(400))
        self.assertIs(value_of(chain, count=399), True)
        self.assertIs(value_of(chain, count=400), False)


class PartTests(SynchronousTestCase):
    def test_the_conditions_that_are_joined(self) -> None:
        text = 'tls and (count == 4 or not user) and lookup(&people, "ann") == "1st"'
        expression = compile_expression(text, scope(), BOOLEAN)
        self.assertEqual(
            [(text[part.node.start : part.node.end], part.waits) for part in expression.parts],
            [("tls", False), ("count == 4", False), ("user", False), ('lookup(&people, "ann") == "1st"', True)],
        )
        env = SimpleNamespace(**VALUES)
        self.assertEqual([part.call(env) for part in expression.parts if not part.waits], [True, False, False])
        self.assertEqual(expression.names, {"tls", "count", "user"})
