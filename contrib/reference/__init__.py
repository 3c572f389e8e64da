"""Everything that is written from the declarations: docs/reference, the manual pages, the words that editors highlight."""

from __future__ import annotations

from pathlib import Path

from contrib.reference.editors import textmate_grammar, vim_syntax
from contrib.reference.manual import command_manual, configuration_manual
from contrib.reference.pages import pages

ROOT = Path(__file__).parents[2]


def generated() -> dict[Path, str]:
    """The text of every generated file, by its path."""
    return {
        **{ROOT / "docs" / "reference" / name: text for name, text in pages(ROOT / "docs" / "reference" / "examples").items()},
        ROOT / "docs" / "man" / "mailgate.conf.5": configuration_manual(),
        ROOT / "docs" / "man" / "mailgate.1": command_manual(),
        ROOT / "contrib" / "vim" / "syntax" / "mailgate.vim": vim_syntax(),
        ROOT / "contrib" / "vscode" / "syntaxes" / "mailgate.tmLanguage.json": textmate_grammar(),
    }
