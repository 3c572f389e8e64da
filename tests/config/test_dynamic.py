"""Dynamic settings: constants cost nothing, choices and computed values are typed at load, mistakes are said at their places."""

from __future__ import annotations

import asyncio
import os
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli.doc import facts
from mailgate.config import values as v
from mailgate.config.diagnostics import render
from mailgate.config.dynamic import Dynamic, alternatives
from mailgate.config.dynamic_variables import BALANCE_VARIABLES, OUTBOUND_VARIABLES, Stage, outbound
from mailgate.config.evaluation import compile_expression
from mailgate.config.expression_types import BOOLEAN, Scope
from mailgate.config.formatter import format_text
from mailgate.config.references import Reference, settle
from mailgate.config.schema import Directive
from mailgate.registry.fingerprint import fingerprint
from mailgate.smtp.reply import TemporaryError
from tests.config.expressions import Table
from tests.config.settings import Settings, read

MISTAKES = Path(__file__).parent / "dynamic" / "mistakes.conf"

MESSAGE: dict[str, Any] = {
    "sender": "ann@example.org",
    "sender_domain": "example.org",
    "client_ip": None,
    "auth_user": None,
    "source": "client",
    "size": None,
    "priority": 0,
    "retry_num": 0,
    "notify_num": 0,
    "expires_in": None,
    "queue_age": 0.0,
    "last_status": None,
    "last_error": None,
    "last_code": None,
    "rcpt": "bob@example.net",
    "rcpt_domain": "example.net",
    "recipients": ("bob@example.net",),
    "mx": "mx.example.net",
    "remote_ip": ip_address("192.0.2.25"),
    "local_ip": None,
}


def message(**values: Any) -> Any:
    return SimpleNamespace(**{**MESSAGE, **values})


class DynamicTests(SynchronousTestCase):
    def one(self, text: str, **known: Any) -> Any:
        values, report = read(text, **known)
        self.assertEqual(render(report.diagnostics), "")
        return values[text.split(maxsplit=1)[0]]

    def test_a_constant_is_its_plain_value(self) -> None:
        self.assertEqual(self.one("hostname mx.example.org"), "mx.example.org")
        self.assertEqual(self.one('hostname "(lower(sender))"'), "(lower(sender))")
        self.assertEqual(self.one("connect 1m 30s"), 90.0)

    def test_the_first_true_line_decides(self) -> None:
        name = self.one(
            "hostname {\n if local_ip == 192.0.2.11 then mx2.example.org\n if retry_num > 2 then mx3\n else mx.example.org\n}"
        )
        self.assertEqual(name.value(message()), "mx.example.org")
        self.assertEqual(name.value(message(retry_num=3)), "mx3")
        self.assertEqual(name.value(message(local_ip=ip_address("192.0.2.11"), retry_num=3)), "mx2.example.org")
        self.assertEqual(name.names, {"local_ip", "retry_num"})
        self.assertFalse(name.waits or name.is_computed)
        self.assertEqual([value for value, _ in alternatives(name)], ["mx2.example.org", "mx3", "mx.example.org"])
        self.assertEqual([place.line for _, place in alternatives(name) if place], [2, 3, 4])

    def test_values_stand_in_the_settings_own_syntax(self) -> None:
        source = self.one('source_ip {\n if rcpt_domain == "example.org" then 192.0.2.1\n else 192.0.2.2 2001:db8::1\n}')
        self.assertEqual(source.value(message()), (ip_address("192.0.2.2"), ip_address("2001:db8::1")))
        waits = self.one("connect {\n if retry_num > 0 then 1m 30s\n else 1m\n}")
        self.assertEqual(waits.value(message(retry_num=1)), 90.0)

    def test_computed_values_of_every_type(self) -> None:
        for text, value in [
            ("hostname (lower(sender_domain))", "example.org"),
            ('hostname ("mx." + sender_domain)', "mx.example.org"),
            ("ip_strategy (if retry_num == 0 then ipv6_only else ipv4_only)", "ipv6_only"),
            ("source_ip (client_ip ?? 192.0.2.1)", (ip_address("192.0.2.1"),)),
            (
                "source_ip (if retry_num == 0 then [192.0.2.1, 192.0.2.2] else [192.0.2.3])",
                tuple(map(ip_address, ("192.0.2.1", "192.0.2.2"))),
            ),
            ('names (split(sender, "@"))', ("ann", "example.org")),
            ("connect (5s * (retry_num + 1))", 5.0),
            ("size ((size ?? 10) * 1024)", 10240),
            ("flag (size)", False),
            ('flag (sender in ["ann@EXAMPLE.org", "x@y.z"])', True),
        ]:
            self.assertEqual(self.one(text).value(message()), value, text)

    def test_recipients_are_compared_as_addresses(self) -> None:
        flag = self.one('hostname {\n if "Bob@EXAMPLE.net" in recipients and len(recipients) == 1 then one\n else many\n}')
        self.assertEqual(flag.value(message()), "one")
        self.assertEqual(flag.value(message(recipients=("bob@example.net", "x@y.z"))), "many")

    def test_strings_stand_within_words_of_a_condition(self) -> None:
        name = self.one('hostname {\n if sender=="a@x.y"||rcpt_domain=="example.net" then "a b"\n else x\n}')
        self.assertEqual(name.value(message()), "a b")

    def test_what_nothing_changes_is_constant(self) -> None:
        values, report = read("$(stage) = 1\nhostname {\n if 1 == $(stage) then a\n else b\n}\nconnect (5s * 12)")
        self.assertEqual(render(report.diagnostics), "")
        self.assertEqual((values["hostname"], values["connect"]), ("a", 60.0))

    def test_a_table_makes_it_awaitable(self) -> None:
        table = Table(waits=True)
        name = self.one(
            'hostname {\n if retry_num > 0 then (lookup(&people, localpart(sender)) ?? "none")\n else x\n}', people=table
        )
        self.assertTrue(name.waits)
        self.assertEqual(asyncio.run(name.value(message())), "x")
        self.assertEqual(table.asked, [])
        self.assertEqual(asyncio.run(name.value(message(retry_num=1))), "1st")
        self.assertEqual(asyncio.run(name.value(message(retry_num=1, sender="zoe@x.y"))), "none")

    def test_a_failing_table_is_temporary_and_says_where(self) -> None:
        name = self.one('hostname {\n if lookup(&people, "bad") == "x" then a\n else b\n}', people=Table())
        with self.assertRaises(TemporaryError) as caught:
            asyncio.run(name.value(message()))
        self.assertEqual((caught.exception.reply.code, caught.exception.where), (451, "dynamic.conf:1"))
        self.assertIn("hostname", caught.exception.reason)

    def test_a_result_that_is_not_possible_is_temporary(self) -> None:
        for text, values in [
            ("connect (5s * retry_num)", {"retry_num": 0}),
            ("connect (5s * retry_num)", {"retry_num": 1000}),
            ("connect (60s / retry_num)", {"retry_num": 0}),
            ("limit (retry_num - 5)", {}),
        ]:
            with self.assertRaises(TemporaryError):
                self.one(text).value(message(**values))

    def test_references_in_it_are_settled(self) -> None:
        near, far = Reference("near"), Reference("far")
        where = self.one("target {\n if priority > 0 then &near\n else &far\n}", near=near, far=far)
        near.target, far.target = "NEAR", "FAR"
        settled = settle(where)
        self.assertEqual([settled.value(message(priority=priority)) for priority in (1, 0)], ["NEAR", "FAR"])
        plain = self.one("hostname {\n if priority > 0 then a\n else b\n}")
        self.assertIs(settle(plain), plain)

    def test_each_stage_sees_what_is_known_by_then(self) -> None:
        seen = [set(outbound(stage).known) for stage in Stage]
        for earlier, later in pairwise(seen):
            self.assertLess(earlier, later)
        for stage in Stage:
            self.assertEqual(set(outbound(stage).known) & set(outbound(stage).absent), set())
            self.assertLessEqual(set(OUTBOUND_VARIABLES.known), set(outbound(stage).known) | set(outbound(stage).absent))
        self.assertEqual(set(MESSAGE), set(OUTBOUND_VARIABLES.known))
        self.assertEqual(set(BALANCE_VARIABLES.known), {"sender", "rcpt", "rcpt_domain", "client_ip", "auth_user"})

    def test_a_dynamic_directive_has_a_type_and_no_block(self) -> None:
        for keywords in ({"block": Settings}, {"repeatable": True}):
            with self.assertRaises(TypeError):
                Directive("x", v.String(), dynamic=OUTBOUND_VARIABLES, **keywords)  # type: ignore[arg-type]
        with self.assertRaises(TypeError):
            Directive("x", dynamic=OUTBOUND_VARIABLES)

    def test_its_documentation_names_the_variables(self) -> None:
        said = "; ".join(facts(Settings.hostname))
        self.assertIn("dynamic", said)
        for name in OUTBOUND_VARIABLES.known:
            self.assertIn(name, said)

    def test_the_formatter_keeps_what_it_means(self) -> None:
        text = 'hostname {\nif   retry_num==0   then    "a  b"\n  else   x  # last\n}\n'
        formatted, _ = format_text(text)
        self.assertEqual(formatted, 'hostname {\n    if retry_num==0 then "a  b"\n    else x  # last\n}\n')


class MistakeTests(SynchronousTestCase):
    """After a change: ``GOLDEN=write pytest tests/config/test_dynamic.py``."""

    def test_what_is_said(self) -> None:
        _, report = read(MISTAKES.read_text(), "mistakes.conf")
        text = render(one for one in report.diagnostics if one.code != "E0402") + "\n"
        expected = MISTAKES.with_suffix(".txt")
        if os.environ.get("GOLDEN") == "write":
            expected.write_text(text)
        self.assertEqual(text, expected.read_text())

    def test_a_condition_that_nothing_changes_is_warned_of(self) -> None:
        for text, line in [("if 1 == 2 then a\n else b", "b"), ("if 1 == 1 then a\n else b", "a")]:
            values, report = read(f"hostname {{\n {text}\n}}")
            self.assertEqual(([one.code for one in report.diagnostics], values["hostname"]), (["W0531"], line))

    def test_a_broken_line_is_reported_once(self) -> None:
        _, report = read('hostname {\n "if" x then y\n else z\n}\n')
        self.assertEqual([one.code for one in report.diagnostics], ["E0201"])


CONDITIONS = st.sampled_from(
    [
        "retry_num == 0",
        "retry_num > 2",
        "size > 10",
        "size",
        'sender_domain in [".example.org", "example.com"]',
        "auth_user",
        'last_error == "tls" and not size',
        "client_ip in 192.0.2.0/24",
        "(size ?? 0) + retry_num < 12",
    ]
)
VALUES = st.one_of(st.integers(0, 99).map(str), st.just("(retry_num * 2)"), st.just("(if size then 7 else len(sender))"))


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(st.tuples(CONDITIONS, VALUES), max_size=5),
        VALUES,
        st.fixed_dictionaries(
            {
                "retry_num": st.integers(0, 5),
                "size": st.none() | st.integers(0, 20),
                "sender_domain": st.sampled_from(["example.com", "a.example.org", "example.org", ""]),
                "auth_user": st.none() | st.just("ann"),
                "last_error": st.none() | st.just("tls"),
                "client_ip": st.none() | st.just(ip_address("192.0.2.9")),
            }
        ),
    )
    def test_it_is_what_its_expressions_are(self, lines: list[tuple[str, str]], last: str, values: dict[str, Any]) -> None:
        """Against the evaluator: the first true condition, and its value; and the same as one nested expression."""
        env = message(**values)
        scope = Scope(OUTBOUND_VARIABLES.known)
        text = "limit {\n" + "".join(f" if {test} then {value}\n" for test, value in lines) + f" else {last}\n}}"
        setting, report = read(text)
        self.assertEqual(report.diagnostics, [], text)
        chosen = next((value for test, value in lines if compile_expression(test, scope, BOOLEAN)(env)), last)
        wanted = compile_expression(chosen, scope)(env)
        found = setting["limit"]
        self.assertEqual(found.value(env) if isinstance(found, Dynamic) else found, wanted, text)
        nested = last
        for test, value in reversed(lines):
            nested = f"(if {test} then {value} else {nested})"
        self.assertEqual(compile_expression(nested, scope)(env), wanted, nested)


class FingerprintTests(SynchronousTestCase):
    """A reload carries over what was told the same."""

    def of(self, text: str, **known: Any) -> Any:
        values, report = read(text, **known)
        self.assertEqual(render(report.diagnostics), "")
        block = Settings()
        block.__dict__.update(values)
        return fingerprint(block)

    def test_the_same_choice_is_the_same(self) -> None:
        text = (
            "hostname {\n if retry_num == 0 then a\n else (lower(sender_domain))\n}\nsource_ip {\n if size then ::1\n else ::2\n}"
        )
        self.assertEqual(self.of(text), self.of(text.replace("  ", " ")))
        for old, new in (("== 0", "== 1"), ("then a", "then b"), ("lower", "upper"), ("::2", "::3"), ("if size", "if not size")):
            self.assertNotEqual(self.of(text), self.of(text.replace(old, new)), (old, new))

    def test_what_asks_a_table_is_as_the_table(self) -> None:
        text = 'hostname {\n if lookup(&people, sender) == "x" then a\n else b\n}'
        one, other = Table(), Table()
        self.assertEqual(self.of(text, people=one), self.of(text, people=one))
        self.assertNotEqual(self.of(text, people=one), self.of(text, people=other))
