"""Text, trees, macros and imports: E01 to E03."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry, lmtp

CODES = {
    "E0102": Entry(
        "a file is not UTF-8",
        "Configuration files are UTF-8 text, with or without a byte order mark. The message has the first byte that is not;"
        " `iconv -f latin1 -t utf-8` turns an old file into one.",
        bad="import ./names.conf\n" + lmtp("discard"),
        good="import ./good.conf\n" + lmtp("discard"),
        files={"names.conf": "# \udce9t\udce9\n", "good.conf": "# été\n"},
    ),
    "E0103": Entry(
        "a quote is never closed",
        'A text that begins with `"` goes on until the next `"`, over line ends too. A quote within it is written `\\"`.',
        bad=lmtp('banner "welcome\ndiscard'),
        good=lmtp('banner "welcome"\ndiscard'),
    ),
    "E0104": Entry(
        "text right behind a closing quote",
        "After a closing quote comes a space, a brace or the end of the line. Quote the whole word, or none of it.",
        bad=lmtp('banner "wel"come\ndiscard'),
        good=lmtp('banner "welcome"\ndiscard'),
    ),
    "E0105": Entry(
        "a bracket has no match on its line",
        "A word that begins with `(` or `[` belongs to its match on the same line. A lone bracket is written in quotes.",
        bad=lmtp("banner (hello\ndiscard"),
        good=lmtp('banner "(hello"\ndiscard'),
    ),
    "E0106": Entry(
        "`;` does not end a directive",
        "A directive ends with its line. A value that really ends in `;` is written in quotes.",
        bad=lmtp("discard;"),
        good=lmtp("discard"),
    ),
    "E0107": Entry(
        "a brace must stand alone",
        "`{` and `}` have white space around them, so that values may hold braces. A value that ends in one is quoted.",
        bad=lmtp("discard").replace("2524 {", "2524{"),
        good=lmtp("discard"),
    ),
    "E0108": Entry(
        "a control character in the file",
        "Other than tabs and line ends, control characters have no place in a configuration: a terminal would obey them.",
        bad=lmtp("banner a\x07b\ndiscard"),
        good=lmtp("banner ab\ndiscard"),
    ),
    "E0201": Entry(
        "no name for a directive",
        "The first word of a line names a directive: letters, digits, `.`, `_` and `-`, beginning with a letter.",
        bad=lmtp("1st discard\ndiscard"),
        good=lmtp("discard"),
    ),
    "E0202": Entry(
        "a `{` belongs to no directive",
        "A block opens on the line of its directive. A brace on a line of its own opens nothing.",
        bad="lmtp tcp://127.0.0.1:2524 {\n    discard\n}\n{\n}\n",
        good=lmtp("discard"),
    ),
    "E0203": Entry(
        "a block is never closed",
        "Every `{` has its `}`. The place is that of the block which, by the indentation, lost its own.",
        bad="lmtp tcp://127.0.0.1:2524 {\n    discard\n",
        good=lmtp("discard"),
    ),
    "E0204": Entry(
        "a `}` closes nothing",
        "There are more closing braces than open blocks.",
        bad=lmtp("discard") + "}\n",
        good=lmtp("discard"),
    ),
    "E0206": Entry(
        "too many blocks within each other",
        "Nesting is bounded: no configuration that a person can read comes near.",
        bad=lmtp("reroute { " * 60 + "discard" + " }" * 60),
        good=lmtp("reroute { " * 3 + "discard" + " }" * 3),
    ),
    "E0207": Entry(
        "a block is never opened",
        "A `}` and the lines above it belong to a directive without a `{`. Which one is judged by the layout.",
        bad=lmtp("when tls\n    discard\n}\ndiscard"),
        good=lmtp("when tls {\n    discard\n}\ndiscard"),
    ),
    "E0208": Entry(
        "an empty configuration",
        "A file that says nothing would close every listener. Usually something has failed while it was written.",
        bad="# to be written\n",
        good=lmtp("discard"),
    ),
    "E0301": Entry(
        "an undefined macro",
        "A macro is defined above its use, at the top level: `$(name) = value…`. It is visible in files imported below.",
        bad="local_domains $(domians)\n" + lmtp("discard"),
        good="$(domains) = example.org\nlocal_domains $(domains)\n" + lmtp("discard"),
    ),
    "E0302": Entry(
        "a macro with several values inside a word",
        "As a whole argument a macro becomes as many arguments as it has values; inside a longer word it must have one.",
        bad="$(names) = mx1 mx2\nhostname $(names).example.org\n" + lmtp("discard"),
        good="$(name) = mx1\nhostname $(name).example.org\n" + lmtp("discard"),
    ),
    "E0303": Entry(
        "a line that begins with a macro must define it",
        '`$(name) = value…`, with spaces around the `=`; an empty value is written `""`.',
        bad="$(domains) example.org\n" + lmtp("discard"),
        good="$(domains) = example.org\n" + lmtp("discard"),
    ),
    "E0304": Entry(
        "a macro is defined twice",
        "One name, one meaning: the second definition would change what is above or below it.",
        bad="$(name) = a\n$(name) = b\n" + lmtp("discard"),
        good="$(name) = a\n$(other) = b\n" + lmtp("discard"),
    ),
    "E0305": Entry(
        "a macro is defined inside a block",
        "Macros are defined at the top level of a file only.",
        bad=lmtp("$(name) = a\ndiscard"),
        good=lmtp("discard", "$(name) = a\n"),
    ),
    "E0311": Entry(
        "`import` takes one snippet, path or pattern",
        "Write one `import` line for each of them, without a block.",
        bad="import ./a.conf ./b.conf\n" + lmtp("discard"),
        good="import ./a.conf\nimport ./b.conf\n" + lmtp("discard"),
        files={"a.conf": "debug no\n", "b.conf": "shutdown_timeout 1m\n"},
    ),
    "E0312": Entry(
        "a file can't be imported",
        "The path is relative to the importing file. A pattern such as `conf.d/*.conf` may match nothing, a path may not.",
        bad="import ./missing.conf\n" + lmtp("discard"),
        good="import ./conf.d/*.conf\n" + lmtp("discard"),
    ),
    "E0313": Entry(
        "an import leads back to itself",
        "A file or snippet that imports itself, by whatever way, has no end. The chain is in the message.",
        bad="import ./a.conf\n" + lmtp("discard"),
        good="import ./b.conf\n" + lmtp("discard"),
        files={"a.conf": "import ./a.conf\n", "b.conf": "debug no\n"},
    ),
    "E0314": Entry(
        "a snippet in the wrong place, or twice",
        "`(name) { … }` stands at the top level of a file, once for each name.",
        bad="(rules) {\n    discard\n}\n(rules) {\n    reject\n}\n" + lmtp("import rules"),
        good="(rules) {\n    discard\n}\n" + lmtp("import rules"),
    ),
    "E0315": Entry(
        "imports and macros make too much",
        "What imports and macros make of a file is bounded, so that a few lines can't fill the memory.",
        bad="$(a) = 0 1 2 3 4 5 6 7 8 9\n"
        + "".join(f"$({new}) ={f' $({old})' * 10}\n" for old, new in zip("abcde", "bcdef", strict=True))
        + lmtp("discard"),
        good="$(a) = 0 1 2 3 4 5 6 7 8 9\n" + lmtp("discard"),
    ),
    "E0321": Entry(
        "a variable is not in the environment",
        "`{env:NAME}` needs the variable; `{env:NAME:-fallback}` says what counts without it, `{env:NAME:-}` says nothing.",
        bad="hostname {env:MAILGATE_EXAMPLE}\n" + lmtp("discard"),
        good="hostname {env:MAILGATE_EXAMPLE:-mx.example.org}\n" + lmtp("discard"),
    ),
    "E0322": Entry(
        "`{env:` is not written right",
        "The name of a variable has letters, digits and `_`; the brace is closed in the same word.",
        bad="hostname {env:MY-NAME}\n" + lmtp("discard"),
        good="hostname {env:MY_NAME:-mx.example.org}\n" + lmtp("discard"),
    ),
}
