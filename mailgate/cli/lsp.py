"""`mailgate lsp`: editing.py for editors, over the Language Server Protocol on standard input and output.

pygls is imported when the command runs: it is an extra of the package. Every open document is read as a whole configuration; what
it imports is read from the disk, and diagnostics in those files are shown there.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mailgate.cli.editing import Document, NotPossible, fix_of
from mailgate.config.diagnostics import Diagnostic
from mailgate.config.formatter import format_text
from mailgate.config.source import Span

if TYPE_CHECKING:
    from pygls.lsp.server import LanguageServer

SOURCE = "mailgate"


@click.command()
def lsp() -> None:
    """Serve an editor: diagnostics, completion, documentation, definitions, renaming, quick fixes, formatting.

    Speaks the Language Server Protocol on standard input and output. Needs pip install 'mailgate[lsp]'.
    """
    try:
        server = make_server()
    except ModuleNotFoundError as error:
        click.echo(f"error: `mailgate lsp` needs the Python library `{error.name}`; pip install 'mailgate[lsp]'", err=True)
        sys.exit(1)
    server.start_io()


def make_server() -> LanguageServer:
    """:raises ModuleNotFoundError: pygls is not installed."""
    from importlib.metadata import version

    from lsprotocol import types
    from pygls import uris
    from pygls.exceptions import JsonRpcInvalidParams
    from pygls.lsp.server import LanguageServer
    from pygls.workspace import ServerTextPosition, ServerTextRange, TextDocument

    server = LanguageServer("mailgate", version("mailgate"))
    shown: dict[str, set[str]] = {}
    """Files in which each document has diagnostics now."""

    def read(uri: str) -> tuple[Document, TextDocument]:
        document = server.workspace.get_text_document(uri)
        return Document(document.source, document.path), document

    def client_range(span: Span | None, document: TextDocument) -> types.Range:
        if span is None:
            return types.Range(types.Position(0, 0), types.Position(0, 0))
        start = ServerTextPosition(span.line - 1, span.column - 1)
        end = ServerTextPosition(span.line - 1, span.column - 1 + span.length)
        return document.range_to_client_units(ServerTextRange(start, end))

    def uri_of(path: str) -> str:
        return uris.from_fs_path(path) or path

    def as_lsp(found: Diagnostic, document: TextDocument) -> types.Diagnostic:
        text = "\n".join([found.message, *([found.hint] if found.hint else []), *found.notes])
        return types.Diagnostic(
            client_range(found.span, document),
            text,
            severity=types.DiagnosticSeverity.Error if found.is_error else types.DiagnosticSeverity.Warning,
            code=found.code,
            source=SOURCE,
            data=fix_of(found) or None,
        )

    def publish(uri: str) -> None:
        document, opened = read(uri)
        by_file: dict[str, list[types.Diagnostic]] = {uri: []}
        for found in document.diagnostics():
            where = uri if found.span is None or found.span.path == opened.path else uri_of(found.span.path)
            by_file.setdefault(where, []).append(as_lsp(found, server.workspace.get_text_document(where)))
        for where in shown.get(uri, set()) - set(by_file):
            by_file[where] = []
        shown[uri] = {where for where, diagnostics in by_file.items() if diagnostics}
        for where, diagnostics in by_file.items():
            server.text_document_publish_diagnostics(types.PublishDiagnosticsParams(where, diagnostics))

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def did_open(parameters: types.DidOpenTextDocumentParams) -> None:
        publish(parameters.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def did_change(parameters: types.DidChangeTextDocumentParams) -> None:
        publish(parameters.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def did_save(parameters: types.DidSaveTextDocumentParams) -> None:
        publish(parameters.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def did_close(parameters: types.DidCloseTextDocumentParams) -> None:
        for where in shown.pop(parameters.text_document.uri, set()):
            server.text_document_publish_diagnostics(types.PublishDiagnosticsParams(where, []))

    kinds = {
        "directive": types.CompletionItemKind.Property,
        "module": types.CompletionItemKind.Class,
        "value": types.CompletionItemKind.EnumMember,
        "reference": types.CompletionItemKind.Reference,
    }

    @server.feature(types.TEXT_DOCUMENT_COMPLETION, types.CompletionOptions(trigger_characters=["&", " "]))
    def completion(parameters: types.CompletionParams) -> list[types.CompletionItem]:
        document, opened = read(parameters.text_document.uri)
        offset = opened.offset_at_position(parameters.position)
        start = offset
        while start and not opened.source[start - 1].isspace():
            start -= 1
        line = opened.source.count("\n", 0, offset)
        first = opened.source.rfind("\n", 0, offset) + 1
        replaced = Span(opened.path, line + 1, start - first + 1, offset - start)
        return [
            types.CompletionItem(
                found.label,
                kind=kinds[found.kind],
                detail=found.detail or None,
                documentation=types.MarkupContent(types.MarkupKind.Markdown, found.doc) if found.doc else None,
                text_edit=types.TextEdit(client_range(replaced, opened), found.label),
            )
            for found in document.complete(offset)
        ]

    @server.feature(types.TEXT_DOCUMENT_HOVER)
    def hover(parameters: types.HoverParams) -> types.Hover | None:
        document, opened = read(parameters.text_document.uri)
        found = document.hover(opened.offset_at_position(parameters.position))
        if found is None:
            return None
        return types.Hover(types.MarkupContent(types.MarkupKind.Markdown, found[1]), client_range(found[0], opened))

    @server.feature(types.TEXT_DOCUMENT_DEFINITION)
    def definition(parameters: types.DefinitionParams) -> types.Location | None:
        document, opened = read(parameters.text_document.uri)
        span = document.definition(opened.offset_at_position(parameters.position))
        if span is None:
            return None
        uri = uri_of(span.path)
        return types.Location(uri, client_range(span, server.workspace.get_text_document(uri)))

    @server.feature(types.TEXT_DOCUMENT_PREPARE_RENAME)
    def prepare_rename(parameters: types.PrepareRenameParams) -> types.PrepareRenamePlaceholder | None:
        document, opened = read(parameters.text_document.uri)
        found = document.name_at(opened.offset_at_position(parameters.position))
        return None if found is None else types.PrepareRenamePlaceholder(client_range(found[0], opened), found[1])

    @server.feature(types.TEXT_DOCUMENT_RENAME, types.RenameOptions(prepare_provider=True))
    def rename(parameters: types.RenameParams) -> types.WorkspaceEdit | None:
        document, opened = read(parameters.text_document.uri)
        found = document.name_at(opened.offset_at_position(parameters.position))
        if found is None:
            return None
        changes: dict[str, Any] = {}
        try:
            for span in document.rename(found[1], parameters.new_name):
                uri = uri_of(span.path)
                edit = types.TextEdit(client_range(span, server.workspace.get_text_document(uri)), parameters.new_name)
                changes.setdefault(uri, []).append(edit)
        except NotPossible as error:
            raise JsonRpcInvalidParams(str(error)) from None
        return types.WorkspaceEdit(changes=changes)

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions(code_action_kinds=[types.CodeActionKind.QuickFix]))
    def code_action(parameters: types.CodeActionParams) -> list[types.CodeAction]:
        return [
            types.CodeAction(
                f"Write `{found.data}`",
                kind=types.CodeActionKind.QuickFix,
                diagnostics=[found],
                is_preferred=True,
                edit=types.WorkspaceEdit(changes={parameters.text_document.uri: [types.TextEdit(found.range, str(found.data))]}),
            )
            for found in parameters.context.diagnostics
            if found.source == SOURCE and found.data
        ]

    @server.feature(types.TEXT_DOCUMENT_FORMATTING)
    def formatting(parameters: types.DocumentFormattingParams) -> list[types.TextEdit] | None:
        _, opened = read(parameters.text_document.uri)
        formatted, _ = format_text(opened.source, opened.path)
        if formatted is None or formatted == opened.source:
            return None
        whole = types.Range(types.Position(0, 0), types.Position(opened.source.count("\n") + 1, 0))
        return [types.TextEdit(whole, formatted)]

    return server
