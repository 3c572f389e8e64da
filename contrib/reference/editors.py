"""The words of the language for editors: a syntax file for Vim, a TextMate grammar for VS Code and others.

Which words there are comes from the declarations; how a comment, a string, a macro looks is written here, twice.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from mailgate.cli.doc import named_blocks, walk
from mailgate.config.expression import KEYWORDS
from mailgate.config.expression_types import FUNCTIONS, SPECIAL_FUNCTIONS
from mailgate.config.line import Args, Choice, List, OneOf, Value

DEFINITIONS = ("import",)
EXPRESSIONS = ("when", "if", "else")
BOOLEANS = ("yes", "no", "on", "off", "true", "false")
_ALSO = frozenset({"true", "false", *EXPRESSIONS})


@dataclass(frozen=True, slots=True)
class Words:
    """Every word of the language, by what it is."""

    modules: tuple[str, ...]
    """``namespace.kind``, top-level words, and kinds as they stand inline."""
    directives: tuple[str, ...]
    values: tuple[str, ...]
    operators: tuple[str, ...]
    functions: tuple[str, ...]


def words() -> Words:
    modules: set[str] = set()
    directives: set[str] = set(DEFINITIONS)
    values: set[str] = set()
    for name, block in named_blocks():
        if block.directives or "." in name or name in ("checks", "modifiers"):
            modules |= {name, name.rpartition(".")[2]} - {"global"}
        for argument in block.arguments:
            values |= choices(argument.type)
        for _, directive in walk(block):
            directives.add(directive.name)
            values |= choices(directive.type)
    directives -= set(EXPRESSIONS)
    values -= modules | directives
    return Words(
        tuple(sorted(modules - directives)),
        tuple(sorted(directives)),
        tuple(sorted(values | set(BOOLEANS))),
        tuple(sorted((KEYWORDS - _ALSO) | set(EXPRESSIONS))),
        tuple(sorted({*FUNCTIONS, *SPECIAL_FUNCTIONS})),
    )


def choices(type_: Value | None) -> set[str]:
    """The words of closed sets that a type accepts anywhere."""
    if isinstance(type_, Choice):
        return set(type_.words)
    if isinstance(type_, OneOf):
        return set(type_.words).union(*(choices(form) for form in type_.forms.values()))
    if isinstance(type_, Args):
        return set().union(*(choices(element) for element in type_.elements))
    return choices(type_.element) if isinstance(type_, List) else set()


def vim_syntax() -> str:
    found = words()

    def keywords(group: str, names: tuple[str, ...]) -> str:
        rows: list[str] = []
        for name in names:
            if rows and len(rows[-1]) + len(name) < 110:
                rows[-1] += f" {name}"
            else:
                rows.append(f"syntax keyword {group} {name}")
        return "\n".join(rows)

    functions = "\\|".join(found.functions)
    return f"""\
" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\\%(^\\|[{{}}]\\s\\)\\s*\\zs[A-Za-z_][A-Za-z0-9_.-]*"
{keywords("mailgateDirective", found.directives)}
{keywords("mailgateModule", found.modules)}
{keywords("mailgateValue", found.values)}
{keywords("mailgateOperator", found.operators)}
syntax match mailgateFunction "\\<\\%({functions}\\)\\ze("

syntax match mailgateNumber "\\<\\d\\+\\%(\\.\\d\\+\\)\\=\\%(ms\\|us\\|[wdhmsGMKBgkb]\\)\\=\\>"
syntax match mailgateAddress "\\<\\%(tcp\\|tls\\|unix\\|mx\\|fd\\)://\\S*"
syntax match mailgateReference "\\%(^\\|\\s\\)\\zs&[A-Za-z_][A-Za-z0-9_.-]*"
syntax match mailgateMacro "\\$([A-Za-z_][A-Za-z0-9_.-]*)" containedin=mailgateAddress
syntax match mailgateSnippet "^\\s*([A-Za-z_][A-Za-z0-9_.-]*)"
syntax match mailgateEnvironment "{{env:[^}}]*}}" containedin=mailgateString,mailgateAddress
syntax match mailgateJoin "\\s\\zs\\\\$"
syntax region mailgateString start=+\\%(^\\|[[:space:](\\[,]\\)\\zs"+ skip=+\\\\"+ end=+"+
syntax match mailgateComment "\\%(^\\|\\s\\)\\zs#.*$" contains=@Spell

highlight default link mailgateDirective Keyword
highlight default link mailgateModule Type
highlight default link mailgateValue Constant
highlight default link mailgateOperator Operator
highlight default link mailgateFunction Function
highlight default link mailgateNumber Number
highlight default link mailgateAddress Identifier
highlight default link mailgateReference Identifier
highlight default link mailgateMacro PreProc
highlight default link mailgateSnippet PreProc
highlight default link mailgateEnvironment PreProc
highlight default link mailgateJoin Special
highlight default link mailgateString String
highlight default link mailgateComment Comment

let b:current_syntax = "mailgate"
"""


def textmate_grammar() -> str:
    found = words()
    here = r"(?<![\w.$&/-])"
    end = r"(?![\w.:/@-])"

    def any_of(names: tuple[str, ...]) -> str:
        return "|".join(re.escape(name).replace(r"\-", "-") for name in sorted(names, key=lambda name: (-len(name), name)))

    patterns = [
        {"include": "#comment"},
        {"include": "#string"},
        {"include": "#environment"},
        {"name": "entity.name.function.preprocessor.mailgate", "match": r"\$\([A-Za-z_][\w.-]*\)|^\s*\([A-Za-z_][\w.-]*\)"},
        {"name": "variable.other.mailgate", "match": r"(?<!\S)&[A-Za-z_][\w.-]*"},
        {"name": "string.unquoted.address.mailgate", "match": r"\b(?:tcp|tls|unix|mx|fd)://[^\s{]*"},
        {"name": "support.function.mailgate", "match": rf"\b(?:{any_of(found.functions)})(?=\()"},
        {"name": "keyword.operator.word.mailgate", "match": f"{here}(?:{any_of(found.operators)}){end}"},
        {"name": "keyword.other.directive.mailgate", "match": f"{here}(?:{any_of(found.directives)}){end}"},
        {"name": "entity.name.type.module.mailgate", "match": f"{here}(?:{any_of(found.modules)}){end}"},
        {"name": "constant.language.mailgate", "match": f"{here}(?:{any_of(found.values)}){end}"},
        {"name": "constant.numeric.mailgate", "match": rf"{here}\d+(?:\.\d+)?(?:ms|us|[wdhmsGMKBgkb])?{end}"},
        {"name": "keyword.operator.mailgate", "match": r"==|!=|<=|>=|\|\||&&|\?\?|<(?!\S*>)|(?<!\S)[>!%*/+-](?=\s)"},
        {"name": "constant.character.escape.mailgate", "match": r"(?<=\s)\\$"},
    ]
    grammar = {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "mailgate",
        "comment": "Written by `make docs` from the declarations.",
        "scopeName": "source.mailgate",
        "fileTypes": ["mailgate.conf"],
        "patterns": patterns,
        "repository": {
            "comment": {"name": "comment.line.number-sign.mailgate", "match": r"(?<!\S)#.*$"},
            "environment": {"name": "variable.other.environment.mailgate", "match": r"\{env:[^{}]*\}"},
            "string": {
                "name": "string.quoted.double.mailgate",
                "begin": r"(?<![^\s(\[,])\"",
                "end": '"',
                "patterns": [{"name": "constant.character.escape.mailgate", "match": r"\\\""}, {"include": "#environment"}],
            },
        },
    }
    return json.dumps(grammar, indent=2, ensure_ascii=False) + "\n"
