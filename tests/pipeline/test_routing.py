"""Precedence of rules, against a table and against an oracle that knows only lists."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.net.waiting import begin
from mailgate.pipeline.router import Branch, Discard, Rules, Side
from mailgate.pipeline.routing import Routing
from mailgate.smtp.address import rule_keys
from tests.pipeline.fakes import FakeTable, address


def named(name: str) -> Branch:
    branch = Branch(Discard())
    NAMES[branch] = name
    return branch


NAMES: dict[Branch, str] = {}


def chosen(rules: Rules, text: str) -> str:
    branch = begin(Routing().choose(rules, address(text)))
    assert isinstance(branch, Branch)
    return NAMES[branch]


class PrecedenceTests(SynchronousTestCase):
    def test_tables_then_address_then_domain_then_the_longest_suffix_then_the_default(self) -> None:
        rules = Rules(
            Side.DESTINATION,
            named("default"),
            (
                (FakeTable({"t@a.test": ("",), "u@a.test": ("",)}), named("first")),
                (FakeTable({"u@a.test": ("",)}), named("second")),
            ),
            {"t@a.test": named("exact t"), "x@a.test": named("exact x"), "postmaster": named("postmaster")},
            {"a.test": named("domain"), "deep.sub.b.test": named("deep")},
            {"b.test": named(".b"), "sub.b.test": named(".sub.b"), "test": named(".test")},
        )
        for text, name in {
            "t@a.test": "first",
            "U@A.TEST": "first",
            "x@a.test": "exact x",
            '"x"@a.test': "exact x",
            "y@a.test": "domain",
            "y@z.a.test": ".test",
            "y@b.test": ".test",
            "y@c.b.test": ".b",
            "y@sub.b.test": ".b",
            "y@c.sub.b.test": ".sub.b",
            "y@deep.sub.b.test": "deep",
            "y@test": "default",
            "y@other.example": "default",
            "Postmaster": "postmaster",
            "": "default",
        }.items():
            self.assertEqual(chosen(rules, text), name, text)

    def test_international_domains_match_in_either_form(self) -> None:
        rules = Rules(Side.SOURCE, named("default"), domains={"bücher.test": named("books")})
        for text in ("a@bücher.test", "a@BÜCHER.test", "a@xn--bcher-kva.test", "a@XN--BCHER-KVA.TEST", "a@bu\u0308cher.test"):
            self.assertEqual(chosen(rules, text), "books", text)

    def test_ten_thousand_rules_cost_as_ten(self) -> None:
        """Counted, not timed: a lookup asks dictionaries only, once for each label."""

        class Counting(dict[str, Any]):
            asked = 0

            def get(self, key: str, default: Any = None) -> Any:
                Counting.asked += 1
                return super().get(key, default)

            def __iter__(self) -> Any:
                raise AssertionError("a lookup that looks through all rules")

        rules = Rules(
            Side.DESTINATION,
            named("default"),
            domains=Counting({f"d{number}.test": named(str(number)) for number in range(10_000)}),
            suffixes=Counting({f"s{number}.test": named(str(number)) for number in range(10_000)}),
        )
        self.assertEqual(chosen(rules, "a@d9999.test"), "9999")
        self.assertEqual(chosen(rules, "a@x.y.z.example"), "default")
        self.assertLessEqual(Counting.asked, 6)


LABELS = st.sampled_from(["a", "b", "c", "test"])
DOMAINS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
ADDRESSES = st.tuples(st.sampled_from(["x", "Y", "z"]), DOMAINS).map("@".join)
RULES = st.lists(st.one_of(ADDRESSES, DOMAINS, DOMAINS.map(lambda domain: "." + domain)), unique_by=str.lower, max_size=12)


def oracle(rules: list[str], tables: list[list[str]], text: str) -> str:
    """The rules of docs/configuration.md, said with lists."""
    text = text.lower()
    domain = text.partition("@")[2]
    for number, table in enumerate(tables):
        if text in [key.lower() for key in table]:
            return f"table {number}"
    for rule in rules:
        if rule.lower() == text:
            return rule
    for rule in rules:
        if rule == domain:
            return rule
    fitting = [rule for rule in rules if rule.startswith(".") and domain.endswith(rule)]
    return max(fitting, key=len, default="default")


class OracleTests(SynchronousTestCase):
    @settings(max_examples=200, deadline=None)
    @given(RULES, st.lists(st.lists(ADDRESSES, max_size=4), max_size=2), ADDRESSES)
    def test_the_router_is_the_oracle(self, words: list[str], tables: list[list[str]], text: str) -> None:
        rules = Rules(
            Side.DESTINATION,
            named("default"),
            tuple(
                (FakeTable({rule_keys(address(key))[0]: ("",) for key in table}), named(f"table {number}"))
                for number, table in enumerate(tables)
            ),
            {rule_keys(address(word))[0]: named(word) for word in words if "@" in word},
            {word: named(word) for word in words if "@" not in word and not word.startswith(".")},
            {word[1:]: named(word) for word in words if word.startswith(".")},
        )
        self.assertEqual(chosen(rules, text), oracle(words, tables, text))
