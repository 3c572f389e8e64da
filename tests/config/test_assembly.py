"""From text to modules: declarations, names, references, inline modules, blocks that belong to somebody."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.diagnostics import render
from mailgate.config.schema import default_block
from mailgate.registry import Built, Checks, Group, Modifiers, ModuleContext, Unavailable, assembly, build
from tests.config.modules import CLASSES, Health, Listener, Louder, Target


def find_in_tests(name: str) -> Any:
    if name == "table.broken":
        raise Unavailable("`table.broken` needs the Python library `brokenlib`, which is not installed", "pip install it")
    return {**CLASSES, "checks": Checks, "modifiers": Modifiers}.get(name)


class AssemblyCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(assembly, "find", find_in_tests)
        self.patch(assembly, "known_names", lambda: [*CLASSES, "checks", "modifiers"])
        self.patch(assembly, "WORDS", {"listen": "", "checks": "", "modifiers": ""})

    def build(self, text: str) -> Built:
        return build(text + "\n", environment={})

    def good(self, text: str) -> Any:
        built = self.build(text)
        self.assertIsNotNone(built.configuration, render(built.diagnostics))
        return built.configuration

    def codes(self, text: str) -> list[tuple[str, int]]:
        return [(d.code, d.span.line) for d in self.build(text).diagnostics if d.span]


class DeclarationTests(AssemblyCase):
    def test_values_and_defaults(self) -> None:
        target = self.good("target.fake a {\n targets tcp://x tls://y:1\n timeout 5s\n}").instances["a"]
        self.assertEqual([str(e) for e in target.targets], ["tcp://x:25", "tls://y:1"])
        self.assertEqual((target.timeout, target.debug, target.inline, target.probe), (5.0, False, (), None))
        self.assertEqual((target.health.failures, target.health.interval), (3, 60.0))
        self.assertEqual(target.seen_in_init, (5.0, False))
        self.assertEqual((str(target.span_of("timeout")), target.span_of("debug")), ("<text>:3:2", None))
        self.assertEqual([(item.name, item.span.line) for item in target.items], [("targets", 2), ("timeout", 3)])

    def test_blocks_have_values_of_their_own_line(self) -> None:
        target = self.good("target.fake a {\n endpoint tcp://x:1 { weight 5 }\n endpoint tcp://y:2\n probe { }\n}").instances["a"]
        self.assertEqual([(str(e.value), e.weight) for e in target.endpoint], [("tcp://x:1", 5), ("tcp://y:2", 1)])
        self.assertEqual((target.probe.failures, target.probe.span.line), (3, 4))

    def test_a_subclass_replaces_and_removes(self) -> None:
        self.assertEqual(self.good("target.louder a").instances["a"].timeout, 5.0)
        self.assertNotIn("probe", Louder.directives)
        self.assertEqual(self.codes("target.louder a { probe { } }")[-1], ("E0401", 1))

    def test_directives_are_collected_over_all_bases(self) -> None:
        self.assertLessEqual({"modify", "deliver_to", "match", "trusted"}, set(Listener.directives))
        self.assertIs(Listener.directives["match"].block, Listener.directives["again"].block)

    def test_inheritance_is_from_the_declaration_and_only_of_what_is_written(self) -> None:
        for text, expected in (("", False), ("debug yes\n", True), ("debug no\n", False)):
            self.assertEqual(self.good(text + "target.fake a").instances["a"].debug, expected)
        self.assertFalse(self.good("debug yes\ntarget.fake a { debug no }").instances["a"].debug)

    def test_a_module_made_without_a_file_has_its_defaults(self) -> None:
        target = Target(ModuleContext())
        self.assertEqual((target.timeout, target.inline, target.health.failures, target.endpoint), (300.0, (), 3, ()))
        self.assertEqual(default_block(Health).failures, 3)

    def test_mistakes_in_a_block(self) -> None:
        cases = [
            ("target.fake a { timeot 5s }", [("E0401", 1)]),
            ("target.fake a {\n timeout 5s\n timeout 6s\n}", [("E0402", 3)]),
            ("modifiers m { tag }", [("E0403", 1)]),
            ("modifiers m {\n tag { txt a }\n}", [("E0403", 2), ("E0401", 2)]),
            ("target.fake a { timeout 5s { } }", [("E0406", 1)]),
            ("listen tcp://*:1 { match fake }", [("E0407", 1)]),
            ("target.fake a { forward }", [("E0408", 1)]),
            ("target.fake", [("E0404", 1)]),
            ("target.fake 5", [("E0602", 1)]),
            ("listen", [("E0404", 1)]),
            ("table.fake t /x /y", [("E0405", 1)]),
            ("target.fake a {\n timeout 13s\n}", [("E0700", 2)]),
            ("target.fake a { timeout 14s }", [("E0799", 1)]),
            ("target.fake a { timeout 14 }", [("E0502", 1)]),
            ("target.fake a {\n endpoint tcp://x:0 {\n  weihgt 5\n }\n}", [("E0506", 2), ("E0401", 3)]),
            ("target.fake a {\n endpoint $(x) {\n  weihgt 5\n }\n}", [("E0301", 2), ("E0401", 3)]),
        ]
        for text, expected in cases:
            found = [code for code in self.codes(text) if code[0] != "W0601"]
            self.assertEqual(found, expected, text)

    def test_every_module_is_checked_though_others_are_wrong(self) -> None:
        text = "target.nope a\ntarget.fake b { x }\ntable.broken c\ntarget.fake d { timeout 13s }\ntarget.fake e { timeout soon }"
        found = [code for code in self.codes(text) if code[0] != "W0601"]
        self.assertEqual(found, [("E0601", 1), ("E0401", 2), ("E0605", 3), ("E0700", 4), ("E0502", 5)])

    def test_a_missing_library_is_named_with_what_to_do(self) -> None:
        (diagnostic,) = self.build("table.broken c").diagnostics
        self.assertIn("brokenlib", diagnostic.message)
        self.assertEqual(diagnostic.hint, "pip install it")


class ReferenceTests(AssemblyCase):
    def test_before_and_after_and_in_a_circle(self) -> None:
        made = self.good("listen tcp://*:1 { deliver_to &a }\ntarget.fake a { backup &b }\ntarget.fake b { backup &a }").instances
        self.assertIs(made["a"].backup, made["b"])
        self.assertIs(made["b"].backup, made["a"])
        self.assertTrue(made["a"].configured)

    def test_inside_of_blocks_items_and_choices(self) -> None:
        text = "target.fake a\nlisten tcp://*:1 {\n split queue &a\n again { again { deliver_to &a } }\n deliver_to &a\n}"
        configuration = self.good(text)
        (listener,) = configuration.listeners
        a = configuration.instances["a"]
        self.assertEqual((listener.split.word, listener.split.value), ("queue", a))
        self.assertEqual(listener.again[0].again[0].deliver_to, (a,))
        self.assertEqual([item.value for item in listener.items if item.name == "deliver_to"], [a])

    def test_mistakes(self) -> None:
        cases = [
            ("listen tcp://*:1 { deliver_to &nope }", [("E0602", 1)]),
            ("listen tcp://*:1 { deliver_to &t }\ntable.fake t", [("E0604", 1)]),
            ("listen tcp://*:1 { deliver_to &a &a }\ntarget.fake a", [("E0405", 1)]),
            ("listen tcp://*:1 { deliver_to &a { timeout 5s } }\ntarget.fake a", [("E0406", 1)]),
            ("target.fake a\ntable.fake a", [("E0603", 2)]),
            ("target.fake a", [("W0601", 1), ("W0606", 1)]),
            ("listen tcp://*:1 { modify &g }\nmodifiers g { tag { text x } }\ntarget.fake g", [("E0603", 3)]),
            ("listen tcp://*:1 { modify tag }", [("E0512", 1)]),
            ("listen tcp://*:1 { modify }", [("E0407", 1)]),
        ]
        for text, expected in cases:
            self.assertEqual(self.codes(text), expected, text)

    def test_the_nearest_name_of_the_right_kind_is_suggested(self) -> None:
        text = (
            "listen tcp://*:1 { deliver_to &stroe }\ntarget.fake store\ntable.fake stroee\nlisten tcp://*:2 { match &stroee { } }"
        )
        (diagnostic,) = self.build(text).diagnostics
        self.assertEqual(diagnostic.hint, "did you mean `&store`?")

    def test_what_cannot_be_made_is_not_called_unknown_besides(self) -> None:
        text = "listen tcp://*:1 {\n deliver_to &a\n deliver_to &b\n}\ntarget.nope a\ntarget.fake b { timeout 0 }"
        self.assertEqual(self.codes(text), [("E0601", 5), ("E0511", 6)])
        text = "tabel.fake people { }\nlsiten p { }\nlisten tcp://*:1 {\n match &people { }\n deliver_to &p\n}"
        self.assertEqual(self.codes(text), [("E0601", 1), ("E0401", 2)])


class InlineTests(AssemblyCase):
    def listener(self, inside: str) -> Any:
        return self.good(f"listen tcp://*:1 {{\n{inside}\n}}").listeners[0]

    def test_the_position_gives_the_namespace_and_the_full_name_works_too(self) -> None:
        for kind in ("fake", "target.fake"):
            (target,) = self.listener(f"deliver_to {kind} tcp://x:1 tcp://y {{\n timeout 9s\n}}").deliver_to
            self.assertEqual(([str(e) for e in target.inline], target.timeout), (["tcp://x:1", "tcp://y:25"], 9.0))
            self.assertEqual((target.label, target.context.name), ("fake tcp://x:1", ""))

    def test_a_block_belongs_to_the_last_inline_module_of_the_line(self) -> None:
        (rewrite, tag) = self.listener("modify {\n rewrite fake { entry a b }\n tag { text x }\n}").modify[0]
        self.assertEqual((rewrite.table.entries, rewrite.strict, tag.text), ((("a", ("b",)),), False, "x"))

    def test_or_to_the_module_where_its_argument_is_a_reference(self) -> None:
        configuration = self.good("table.fake t\nlisten tcp://*:1 { modify { rewrite &t { strict } } }")
        (rewrite,) = configuration.listeners[0].modify[0]
        self.assertEqual((rewrite.strict, rewrite.table), (True, configuration.instances["t"]))

    def test_or_to_the_directive_where_the_declaration_says_so(self) -> None:
        (match,) = self.listener("match fake /etc/x { deliver_to fake tcp://x }").match
        self.assertEqual((match.value.path, match.deliver_to[0].label), ("/etc/x", "fake tcp://x"))

    def test_groups_take_their_place(self) -> None:
        text = "modifiers g {\n tag { text a }\n tag { text b }\n}\nlisten tcp://*:1 { modify &g\n modify { tag { text c } } }"
        configuration = self.good(text)
        self.assertEqual([[m.text for m in group] for group in configuration.listeners[0].modify], [["a", "b"], ["c"]])
        self.assertIsInstance(configuration.instances["g"], Group)

    def test_every_instance_is_listed_those_inside_first(self) -> None:
        configuration = self.good("listen tcp://*:1 {\n deliver_to fake tcp://x\n modify { rewrite fake }\n}")
        self.assertEqual([m.name for m in configuration.modules], ["target.fake", "table.fake", "modify.rewrite", "listen"])
        self.assertEqual(len(configuration.instances), 4)

    def test_mistakes(self) -> None:
        cases = [
            ("deliver_to fkae", ("E0601", "did you mean `fake`?")),
            ("deliver_to a", ("E0601", "")),
            ("deliver_to table.fake", ("E0601", "")),
            ('deliver_to "fake"', ("E0601", "did you mean `fake`?")),
            ("modify { tga { text x } }", ("E0601", "did you mean `tag`?")),
        ]
        for inside, expected in cases:
            found = [(d.code, d.hint) for d in self.build(f"listen tcp://*:1 {{ {inside} }}").diagnostics]
            self.assertEqual(found, [expected], inside)


class GlobalTests(AssemblyCase):
    def test_paths_are_relative_to_state_dir_wherever_it_stands(self) -> None:
        configuration = self.good("tls file a.pem b.pem\ntable.fake t x\nstate_dir /srv/mail\nruntime_dir /srv/run")
        self.assertEqual(configuration.globals.tls.files, ("/srv/mail/a.pem", "/srv/mail/b.pem"))
        self.assertEqual(configuration.instances["t"].path, "/srv/mail/x")
        self.assertEqual(configuration.instances["t"].context.runtime_dir, "/srv/run")

    def test_the_contexts_are_outfitted_by_the_runtime(self) -> None:
        built = build("body_spool_limit 2M\ntarget.fake a\n", outfit=lambda g: {"spool": g.body_spool_limit})
        assert built.configuration is not None
        self.assertEqual(built.configuration.instances["a"].context.spool, 2 << 20)

    def test_mistakes(self) -> None:
        self.assertEqual(
            self.codes("hostname a\nhostname b\ndebg\nbody_spool_limit 1K"), [("E0402", 2), ("E0401", 3), ("E0511", 4)]
        )


class FollowOnTests(SynchronousTestCase):
    def test_what_a_wrong_line_refers_to_is_not_called_unused(self) -> None:
        built = build("tls off\ntarget.maildir inbox ./m\nsmtp tcp://127.0.0.1:2525 {\n    deliver_too &inbox\n}\n")
        self.assertEqual([diagnostic.code for diagnostic in built.diagnostics], ["E0401"])


class NulTests(SynchronousTestCase):
    def test_nul_in_an_import_is_a_diagnostic(self) -> None:
        built = build("import a\0b\nimport *\0\n")
        self.assertIn("E0108", [diagnostic.code for diagnostic in built.diagnostics])


class FuzzTests(AssemblyCase):
    TEXT = """debug
target.fake a { timeout 5s
 endpoint tcp://x:1 { weight 2 } }
table.fake t { entry a b }
(s) { deliver_to &a }
$(m) = 1 x
listen tcp://*:1 {
 match &t { import s }
 modify { rewrite fake { entry $(m) } }
 split queue &a
}
"""

    def test_the_file_itself_is_sound(self) -> None:
        self.assertEqual(self.build(self.TEXT).diagnostics, [])

    @given(st.data())
    @settings(max_examples=150, deadline=None)
    def test_a_damaged_file_gives_diagnostics_and_never_a_traceback(self, data: st.DataObject) -> None:
        text = self.TEXT
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(text)))
            end = data.draw(st.integers(start, min(len(text), start + 8)))
            text = text[:start] + data.draw(st.text(alphabet='{}"&$()[]=;#\\ \na1:/\x00\u202e', max_size=4)) + text[end:]
        built = self.build(text)
        render(built.diagnostics)
        self.assertEqual([d for d in built.diagnostics if d.code == "E0799"], [])
        self.assertEqual(built.configuration is None, any(d.is_error for d in built.diagnostics))
