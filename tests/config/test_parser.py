"""Tokens to trees, and macros, snippets, imports and the environment on top."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.config import Loaded, load, load_text
from mailgate.config.parser import Node, NodeKind

ENVIRONMENT = {"NAME": "mx", "EMPTY": "", "TWO": "a b", "TRICK": "$(x) {env:NAME}"}


def shape(nodes: list[Node]) -> str:
    """A tree on one line: ``a b c(d; e f())``."""
    return "; ".join(
        " ".join([node.name.text if node.kind is not NodeKind.BROKEN else "!", *(f"<{a.text}>" for a in node.arguments)])
        + ("" if node.block is None else f"({shape(node.block)})")
        for node in nodes
    )


def parsed(text: str, path: str = "main.conf") -> Loaded:
    return load_text(text, path, environment=ENVIRONMENT)


def codes(loaded: Loaded) -> list[tuple[str, int, int]]:
    return [(d.code, d.span.line, d.span.column) for d in loaded.diagnostics if d.span]


TREES = [
    ("a", "a"),
    ("a b\nc", "a <b>; c"),
    ("a { }", "a()"),
    ("a {\n}", "a()"),
    ("a b { c d }", "a <b>(c <d>)"),
    ("a { b { c } } d", "a(b(c)); d"),
    ("a {\n b\n # x\n\n c { d }\n}\ne", "a(b; c(d)); e"),
    ("a \\\n b \\\n c\nd", "a <b> <c>; d"),
    ("x.y_z-1 q", "x.y_z-1 <q>"),
    ("$(m) = 1 2\na $(m) x$(m2)", "!"),
    ("$(m) = 1 2\na $(m) z", "a <1> <2> <z>"),
    ("$(m) = 1\n$(n) = 2\na $(m)-$(n)$(m).x", "a <1-21.x>"),
    ('$(m) = ""\na x$(m)y $(m)', "a <xy> <>"),
    ("$(m) = 1\n$(n) = $(m) 2\na $(n)", "a <1> <2>"),
    ('$(m) = 1\na "$(m)" $(1) $1', "a <$(m)> <$(1)> <$1>"),
    ('$(m) = 1\na f("$(m)", $(m))', 'a <f("$(m)", 1)>'),
    ('a {env:NAME} "x {env:NAME}" {env:TWO}', "a <mx> <x mx> <a b>"),
    ("a {env:NONE:-b} {env:NONE:-} {env:EMPTY:-z} {env:NAME}{env:NAME}", "a <b> <> <> <mxmx>"),
    ("a {env:TRICK}", "a <$(x) {env:NAME}>"),
    ("$(m) = {env:NAME}\na $(m)", "a <mx>"),
    ("(s) {\n b\n c d\n}\na { import s }\nimport s", "a(b; c <d>); b; c <d>"),
    ("a { import s }\n(s) { b }", "a(b)"),
    ("$(m) = 1\n(s) { b $(m) }\nimport s", "b <1>"),
    ("import none/*.conf\na", "a"),
]

MISTAKES = [
    ("1a b", [("E0201", 1, 1)]),
    ('a\n"b" c', [("E0201", 2, 1)]),
    ("a/b c", [("E0201", 1, 1)]),
    ("a\n{ b }", [("E0202", 2, 1)]),
    ("{ b }", [("E0202", 1, 1)]),
    ("a {\n b", [("E0203", 1, 3)]),
    ("a {\n  b {\n    c\n}\nd", [("E0203", 2, 5)]),
    ("a {\n  b\n\nc {\n  d\n}\ne", [("E0203", 1, 3)]),
    ("a }", [("E0204", 1, 3)]),
    ("a {\n  b\n  }\n  c\n}\nd", [("E0204", 3, 3)]),
    ("$(m) =", [("E0303", 1, 7)]),
    ("$(m)=1", [("E0303", 1, 1)]),
    ("$(m) x", [("E0303", 1, 1)]),
    ("a $(nome)", [("E0301", 1, 3)]),
    ("a x$(no)y$(no)", [("E0301", 1, 4)]),
    ("a $(m)\n$(m) = 1", [("E0301", 1, 3)]),
    ("$(m) = 1 2\na x$(m)", [("E0302", 2, 4)]),
    ("$(m) = 1\n$(m) = 2", [("E0304", 2, 1)]),
    ("a { $(m) = 1 }", [("E0305", 1, 5)]),
    ("(s) { a }\n(s) { b }", [("E0314", 2, 1)]),
    ("(s) x { a }", [("E0314", 1, 5)]),
    ("(s)", [("E0314", 1, 1)]),
    ("a { (s) { b } }", [("E0314", 1, 5)]),
    ("(s) { import s }\nimport s", [("E0313", 1, 14)]),
    ("import", [("E0311", 1, 7)]),
    ("import a b", [("E0311", 1, 10)]),
    ("import nothing.conf", [("E0312", 1, 8)]),
    ("a {env:NONE}", [("E0321", 1, 3)]),
    ('a "x {env:NONE}"', [("E0321", 1, 6)]),
    ("a {env:NAME", [("E0322", 1, 3)]),
    ("a {env:1x}", [("E0322", 1, 3)]),
    ("a $(x) {env:NONE}\nb $(y)", [("E0301", 1, 3), ("E0321", 1, 8), ("E0301", 2, 3)]),
]


class TreeTests(SynchronousTestCase):
    def test_trees(self) -> None:
        for text, expected in TREES:
            loaded = parsed(text)
            if expected == "!":
                self.assertEqual([node.kind for node in loaded.tree], [NodeKind.BROKEN])
                continue
            self.assertEqual((shape(loaded.tree), loaded.diagnostics), (expected, []), repr(text))

    def test_mistakes_are_placed_and_nothing_is_invented(self) -> None:
        for text, expected in MISTAKES:
            self.assertEqual(codes(parsed(text)), expected, repr(text))

    def test_a_forgotten_brace_does_not_swallow_the_rest(self) -> None:
        loaded = parsed("a {\n  b {\n    c\n  d\n}\ne {\n  f\n}\n")
        self.assertEqual(codes(loaded), [("E0203", 2, 5)])
        self.assertEqual(shape(loaded.tree), "a(b(c); d); e(f)")

    def test_a_surplus_brace_does_not_end_the_outer_block(self) -> None:
        loaded = parsed("a {\n  b {\n    c\n  }\n  }\n  d\n}\ne\n")
        self.assertEqual(codes(loaded), [("E0204", 5, 3)])
        self.assertEqual(shape(loaded.tree), "a(b(c); d); e")

    def test_depth_is_bounded(self) -> None:
        loaded = parsed("a {\n" * 5000 + "}\n" * 5000)
        self.assertEqual([d.code for d in loaded.diagnostics], ["E0206"])

    def test_expansion_is_bounded(self) -> None:
        bomb = (
            "(s0) { a }\n" + "".join(f"(s{n}) {{\nimport s{n - 1}\nimport s{n - 1}\n}}\n" for n in range(1, 40)) + "import s39\n"
        )
        self.patch(__import__("mailgate.config.expand", fromlist=["x"]), "MAX_NODES", 2000)
        self.assertEqual([d.code for d in parsed(bomb).diagnostics], ["E0315"])
        values = "$(m0) = x x\n" + "".join(f"$(m{n}) = $(m{n - 1}) $(m{n - 1})\n" for n in range(1, 16))
        self.assertIn("E0315", [d.code for d in parsed(values).diagnostics])

    @given(st.text(alphabet='ab1"\\{}()$=#; \n,[]', max_size=120))
    @settings(max_examples=200, deadline=None)
    def test_any_text_gives_a_tree_and_diagnostics(self, text: str) -> None:
        for diagnostic in parsed(text).diagnostics:
            self.assertIsNotNone(diagnostic.span)


class ImportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        (self.directory / "conf.d").mkdir(parents=True)

    def write(self, name: str, text: str | bytes) -> str:
        path = self.directory / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    def test_files_come_in_sorted_and_relative_to_the_importing_file(self) -> None:
        self.write("conf.d/b.conf", "b")
        self.write("conf.d/a.conf", "a\nimport ./sub.inc")
        self.write("conf.d/sub.inc", "sub $(m)")
        loaded = load(self.write("main.conf", "$(m) = 1\nimport conf.d/*.conf\nblock { import conf.d/b.conf }"))
        self.assertEqual((shape(loaded.tree), loaded.diagnostics), ("a; sub <1>; b; block(b)", []))

    def test_definitions_of_an_imported_file_are_visible_below(self) -> None:
        self.write("common.conf", "$(m) = 1\n(s) { x }")
        loaded = load(self.write("main.conf", "import common.conf\na $(m)\nimport s"))
        self.assertEqual((shape(loaded.tree), loaded.diagnostics), ("a <1>; x", []))

    def test_every_word_knows_how_it_was_reached(self) -> None:
        self.write("inner.conf", "$(m) = 1\na $(m)")
        self.write("outer.conf", "\nimport inner.conf")
        main = self.write("main.conf", "\n\n  import outer.conf")
        (node,) = load(main).tree
        assert node.name.span.via is not None
        steps = [(step.kind, os.path.basename(step.name), step.span.line) for step in node.name.span.via.chain()]
        self.assertEqual(steps, [("import", "inner.conf", 2), ("import", "outer.conf", 3)])
        word = node.arguments[0].span
        assert word.via is not None
        self.assertEqual((word.line, word.column, word.via.kind, word.via.span.line, word.via.span.column), (2, 3, "macro", 1, 8))

    def test_a_cycle_is_one_error_with_its_chain(self) -> None:
        self.write("a.conf", "import b.conf")
        self.write("b.conf", "import a.conf")
        loaded = load(self.write("main.conf", "import a.conf\nx"))
        self.assertEqual([d.code for d in loaded.diagnostics], ["E0313"])
        self.assertIn("a.conf → b.conf → a.conf", loaded.diagnostics[0].message)
        self.assertEqual(shape([node for node in loaded.tree if node.kind is NodeKind.DIRECTIVE]), "x")

    def test_a_file_that_imports_itself(self) -> None:
        loaded = load(self.write("main.conf", "import main.conf"))
        self.assertEqual([d.code for d in loaded.diagnostics], ["E0313"])

    def test_what_cannot_be_read_is_placed_at_the_import(self) -> None:
        self.write("latin.conf", b"a \xe9")
        loaded = load(self.write("main.conf", "import latin.conf\nimport conf.d\nimport mian.conf"))
        self.assertEqual(codes(loaded), [("E0102", 1, 8), ("E0312", 2, 8), ("E0312", 3, 8)])
        self.assertIn("main.conf", loaded.diagnostics[2].hint)

    def test_the_file_itself_in_another_encoding(self) -> None:
        loaded = load(self.write("main.conf", b"a \xff"))
        self.assertEqual(codes(loaded), [("E0102", 1, 3)])
        self.assertRaises(OSError, load, str(self.directory / "none.conf"))

    @given(st.lists(st.integers(0, 6), max_size=4))
    @settings(max_examples=60, deadline=None)
    def test_a_file_cut_into_imports_means_the_same(self, cuts: list[int]) -> None:
        lines = ["a 1", "$(m) = x y", "b {\n  c $(m)\n}", "d $(m)z", "e", "(s) { q }", "import s"]
        lines[3] = "d $(m)"
        whole = parsed("\n".join(lines))
        text, start = [], 0
        for number, cut in enumerate([*sorted(set(cuts)), len(lines)]):
            self.write(f"part{number}.conf", "\n".join(lines[start:cut]))
            text.append(f"import part{number}.conf")
            start = cut
        loaded = load(self.write("main.conf", "\n".join(text)))
        self.assertEqual((shape(loaded.tree), loaded.diagnostics), (shape(whole.tree), []))
