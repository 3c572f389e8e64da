"""Directives and their lines: E04."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry, lmtp

CODES = {
    "E0401": Entry(
        "an unknown directive",
        "No directive of this name is allowed in this block. The note lists those that are, the hint has the nearest.",
        bad=lmtp("discrad\ndiscard"),
        good=lmtp("discard"),
    ),
    "E0402": Entry(
        "a directive is given twice",
        "Only some directives may be repeated; of the others the second would silently win or lose.",
        bad=lmtp("banner one\nbanner two\ndiscard"),
        good=lmtp("banner one\ndiscard"),
    ),
    "E0403": Entry(
        "a directive is missing",
        "This block can't do without it: it has no default.",
        bad='test "a" {\n    from a@example.org\n    expect discard\n}\n' + lmtp("discard"),
        good='test "a" {\n    from a@example.org\n    rcpt b@example.org\n    expect discard\n}\n' + lmtp("discard"),
    ),
    "E0404": Entry(
        "an argument is missing",
        "The directive needs another value; the message says of what kind.",
        bad=lmtp("max_message_size\ndiscard"),
        good=lmtp("max_message_size 32M\ndiscard"),
    ),
    "E0405": Entry(
        "too many arguments",
        "The note says what the directive takes. A value with spaces in it is written in quotes.",
        bad=lmtp("banner good day\ndiscard"),
        good=lmtp('banner "good day"\ndiscard'),
    ),
    "E0406": Entry(
        "a block where none belongs",
        "This directive has values only.",
        bad=lmtp("banner hello {\n}\ndiscard"),
        good=lmtp("banner hello\ndiscard"),
    ),
    "E0407": Entry(
        "a block is missing",
        "This directive is nothing without its block.",
        bad=lmtp("destination example.org\ndefault_destination {\n    discard\n}"),
        good=lmtp("destination example.org {\n    reject\n}\ndefault_destination {\n    discard\n}"),
    ),
    "E0408": Entry(
        "a word that this version does not have",
        "The language knows the word, this version of mailgate does not have it yet. The note says why, or what to use.",
        bad=lmtp("after_body {\n        after_body {\n            discard\n        }\n        discard\n    }"),
        good=lmtp("discard"),
    ),
    "E0409": Entry(
        "a number that is too small for the workers",
        "What the whole gateway may is divided among its workers, and each needs at least one: with more of them than the number"
        " says, the limit could not be kept. Said by `mailgate check --workers N`, and at start and reload.",
        needs="several workers",
    ),
}
