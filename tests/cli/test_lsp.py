"""`mailgate lsp` as an editor meets it: the command as a process, an LSP client on its standard input and output."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from lsprotocol import types
from pygls import uris
from pygls.exceptions import JsonRpcException
from pygls.lsp.client import LanguageClient
from twisted.trial.unittest import SynchronousTestCase

from tests.support.examples import ROOT

TEXT = """\
hostname mx.example.org
tls off
$(domains) = example.org
import targets.conf
(no_relay) {
    default_destination {
        reject
    }
}
table.static people {
    entry "häß😀" x
}
smtp tcp://127.0.0.1:2525 {
    destination_in &people {
        deliver_to &store
    }
    destination $(domains) {
        deliver_to &store
    }
    import no_relay
}
"""
TARGETS = "target.lmtp store {\n    targets unix:///run/store\n}\n"
DEADLINE = 60


class Editor:
    """A client with one open document."""

    def __init__(self, client: LanguageClient, directory: Path) -> None:
        self.client = client
        self.directory = directory
        self.published: dict[str, list[types.Diagnostic]] = {}
        self.version = 0
        self.news = asyncio.Event()

        @client.feature(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def keep(parameters: types.PublishDiagnosticsParams) -> None:
            self.published[parameters.uri] = list(parameters.diagnostics)
            self.news.set()

    def uri(self, name: str = "mailgate.conf") -> str:
        found = uris.from_fs_path(str(self.directory / name))
        assert found is not None
        return found

    @property
    def document(self) -> types.TextDocumentIdentifier:
        return types.TextDocumentIdentifier(self.uri())

    async def open(self, text: str) -> list[types.Diagnostic]:
        self.text = text
        item = types.TextDocumentItem(self.uri(), "mailgate", 0, text)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))
        return await self.diagnostics()

    async def change(self, text: str) -> list[types.Diagnostic]:
        self.text = text
        self.version += 1
        self.client.text_document_did_change(
            types.DidChangeTextDocumentParams(
                types.VersionedTextDocumentIdentifier(self.version, self.uri()),
                [types.TextDocumentContentChangeWholeDocument(text)],
            )
        )
        return await self.diagnostics()

    async def diagnostics(self) -> list[types.Diagnostic]:
        self.news.clear()
        await asyncio.wait_for(self.news.wait(), DEADLINE)
        return self.published[self.uri()]

    def at(self, text: str, shift: int = 1) -> types.Position:
        """Within the first occurrence, in UTF-16 units as the protocol counts."""
        offset = self.text.index(text) + shift
        line = self.text.count("\n", 0, offset)
        before = self.text[self.text.rfind("\n", 0, offset) + 1 : offset]
        return types.Position(line, len(before.encode("utf-16-le")) // 2)

    def written(self, range_: types.Range, text: str | None = None) -> str:
        """What stands at a range of one line."""
        line = (text or self.text).split("\n")[range_.start.line].encode("utf-16-le")
        return line[range_.start.character * 2 : range_.end.character * 2].decode("utf-16-le")

    async def complete(self, position: types.Position) -> dict[str, types.CompletionItem]:
        found = await self.client.text_document_completion_async(types.CompletionParams(self.document, position))
        assert isinstance(found, list)
        return {item.label: item for item in found}


class LspTests(SynchronousTestCase):
    def with_editor(self, scenario: Callable[[Editor], Awaitable[None]]) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / "targets.conf").write_text(TARGETS)

        async def run() -> None:
            client = LanguageClient("test", "1")
            editor = Editor(client, directory)
            await client.start_io(sys.executable, "-c", "from mailgate.cli import main; main()", "lsp", cwd=ROOT)
            try:
                await client.initialize_async(types.InitializeParams(types.ClientCapabilities(), root_uri=editor.uri("")))
                client.initialized(types.InitializedParams())
                await scenario(editor)
                await client.shutdown_async(None)
            finally:
                client.exit(None)
                await client.stop()

        asyncio.run(asyncio.wait_for(run(), DEADLINE))

    def test_diagnostics_come_and_go(self) -> None:
        async def scenario(editor: Editor) -> None:
            self.assertEqual(await editor.open(TEXT), [])
            (found,) = await editor.change(TEXT.replace("    import no_relay", "    import no_rely"))
            self.assertEqual((found.severity, found.code, found.source), (types.DiagnosticSeverity.Error, "E0312", "mailgate"))
            self.assertEqual(editor.written(found.range), "no_rely")
            self.assertEqual(await editor.change(TEXT), [])

        self.with_editor(scenario)

    def test_diagnostics_in_an_imported_file_are_shown_there(self) -> None:
        async def scenario(editor: Editor) -> None:
            (editor.directory / "targets.conf").write_text(TARGETS.replace("targets", "tagets"))
            await editor.open(TEXT)
            while not editor.published.get(editor.uri("targets.conf")):
                await editor.diagnostics()
            found = editor.published[editor.uri("targets.conf")]
            self.assertEqual([d.code for d in found], ["E0401"])
            (editor.directory / "targets.conf").write_text(TARGETS)
            await editor.change(TEXT + "\n")
            while editor.published[editor.uri("targets.conf")]:
                await editor.diagnostics()

        self.with_editor(scenario)

    def test_the_quick_fix(self) -> None:
        async def scenario(editor: Editor) -> None:
            (found,) = await editor.open(TEXT.replace('entry "häß😀" x', '"häß😀" x').replace('"häß😀" x', "entri häß😀 x"))
            context = types.CodeActionContext([found])
            parameters = types.CodeActionParams(editor.document, found.range, context)
            (action,) = await editor.client.text_document_code_action_async(parameters) or []
            assert isinstance(action, types.CodeAction)
            assert action.edit is not None
            assert action.edit.changes is not None
            (edit,) = action.edit.changes[editor.uri()]
            self.assertEqual((action.title, editor.written(edit.range), edit.new_text), ("Write `entry`", "entri", "entry"))

        self.with_editor(scenario)

    def test_completion(self) -> None:
        async def scenario(editor: Editor) -> None:
            await editor.open(TEXT.replace("deliver_to &store", "deliver_to "))
            targets = await editor.complete(editor.at("deliver_to ", 11))
            self.assertLessEqual({"&store", "lmtp", "smtp"}, set(targets))
            self.assertNotIn("&people", targets)

            await editor.change(TEXT.replace("        deliver_to &store", "        del"))
            directives = await editor.complete(editor.at("        del", 11))
            self.assertIn("deliver_to", directives)
            self.assertNotIn("hostname", directives)
            documentation = directives["deliver_to"].documentation
            assert isinstance(documentation, types.MarkupContent)
            self.assertIn("Deliver to this target.", documentation.value)
            edit = directives["deliver_to"].text_edit
            assert isinstance(edit, types.TextEdit)
            self.assertEqual((editor.written(edit.range), edit.new_text), ("del", "deliver_to"))

            await editor.change("tls \n" + TEXT)
            self.assertLessEqual({"off", "file"}, set(await editor.complete(types.Position(0, 4))))
            await editor.change("\n" + TEXT)
            self.assertLessEqual({"hostname", "smtp", "target.lmtp", "import"}, set(await editor.complete(types.Position(0, 0))))
            await editor.change("# tls \n" + TEXT)
            self.assertEqual(await editor.complete(types.Position(0, 6)), {})

        self.with_editor(scenario)

    def test_hover(self) -> None:
        async def said(editor: Editor, position: types.Position) -> str:
            found = await editor.client.text_document_hover_async(types.HoverParams(editor.document, position))
            assert found is not None
            assert isinstance(found.contents, types.MarkupContent)
            return found.contents.value

        async def scenario(editor: Editor) -> None:
            await editor.open(TEXT)
            self.assertIn("default:", await said(editor, editor.at("tls off")))
            self.assertIn("**table.static**", await said(editor, editor.at("table.static")))
            self.assertIn("targets.conf:1", await said(editor, editor.at("&store")))
            nothing = types.HoverParams(editor.document, types.Position(4, 0))
            self.assertIsNone(await editor.client.text_document_hover_async(nothing))

        self.with_editor(scenario)

    def test_definitions(self) -> None:
        async def scenario(editor: Editor) -> None:
            await editor.open(TEXT)
            for text, shift, name, place in [
                ("&people", 3, "mailgate.conf", (9, 13)),
                ("&store", 2, "targets.conf", (0, 12)),
                ("destination $(domains)", 15, "mailgate.conf", (2, 0)),
                ("    import no_relay", 13, "mailgate.conf", (4, 0)),
                ("import targets.conf", 9, "targets.conf", (0, 0)),
            ]:
                parameters = types.DefinitionParams(editor.document, editor.at(text, shift))
                found = await editor.client.text_document_definition_async(parameters)
                assert isinstance(found, types.Location), text
                start = found.range.start
                self.assertEqual((found.uri, (start.line, start.character)), (editor.uri(name), place), text)
            nothing = types.DefinitionParams(editor.document, editor.at("hostname"))
            self.assertIsNone(await editor.client.text_document_definition_async(nothing))

        self.with_editor(scenario)

    def test_rename(self) -> None:
        async def scenario(editor: Editor) -> None:
            await editor.open(TEXT)
            position = editor.at("&store", 3)
            prepared = await editor.client.text_document_prepare_rename_async(
                types.PrepareRenameParams(editor.document, position)
            )
            assert isinstance(prepared, types.PrepareRenamePlaceholder)
            self.assertEqual((prepared.placeholder, editor.written(prepared.range)), ("store", "store"))
            edit = await editor.client.text_document_rename_async(types.RenameParams(editor.document, position, "attic"))
            assert edit is not None
            assert edit.changes is not None
            changed = {
                uri: sorted((e.range.start.line, e.range.start.character) for e in edits) for uri, edits in edit.changes.items()
            }
            self.assertEqual(changed, {editor.uri(): [(14, 20), (17, 20)], editor.uri("targets.conf"): [(0, 12)]})
            for taken in ("people", "no name"):
                with self.assertRaises(JsonRpcException):
                    await editor.client.text_document_rename_async(types.RenameParams(editor.document, position, taken))

        self.with_editor(scenario)

    def test_formatting(self) -> None:
        async def scenario(editor: Editor) -> None:
            await editor.open(TEXT.replace("    ", "  "))
            options = types.FormattingOptions(tab_size=8, insert_spaces=False)
            parameters = types.DocumentFormattingParams(editor.document, options)
            (edit,) = await editor.client.text_document_formatting_async(parameters) or []
            self.assertEqual(edit.new_text, TEXT)
            await editor.change(TEXT + "a {\n")
            self.assertFalse(await editor.client.text_document_formatting_async(parameters))

        self.with_editor(scenario)


class WithoutTheExtraTests(SynchronousTestCase):
    def test_it_says_what_to_install(self) -> None:
        code = "import sys; sys.modules['pygls'] = None; from mailgate.cli import main; main(['lsp'])"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("pip install 'mailgate[lsp]'", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
