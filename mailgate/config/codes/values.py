"""Values: E05, W05."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry, lmtp

_TARGET = "target.smtp next {{\n    targets tcp://10.0.0.1:25\n    tls disabled\n    {}\n}}\n"
_NEXT = "deliver_to &next"
_RELAY = "target.smtp next {{\n    targets tcp://mx.example.net:587\n    auth plain gateway {}\n}}\n"

_CHOSEN = "target.smtp next {{\n    targets tcp://10.0.0.1:25\n    tls disabled\n    hostname {}\n}}\n"


def _choice(title: str, text: str, bad: str, good: str) -> Entry:
    """Of a dynamic setting."""
    return Entry(title, text, lmtp(_NEXT, _CHOSEN.format(bad)), lmtp(_NEXT, _CHOSEN.format(good)))


_TWO = "{{\n        if retry_num == 0 then a.example\n        {}\n    }}"
_ONE = "{{\n        {}\n        else b.example\n    }}"


def _value(title: str, text: str, bad: str, good: str) -> Entry:
    """Of one directive of a listener."""
    return Entry(title, text, lmtp(f"{bad}\ndiscard"), lmtp(f"{good}\ndiscard"))


CODES = {
    "E0501": _value(
        "neither yes nor no",
        "Booleans are yes or no, on or off, true or false, 1 or 0; the name of the directive alone means yes.",
        "announce_size maybe",
        "announce_size no",
    ),
    "E0502": _value(
        "no duration",
        "Numbers with units: `90s`, `1h30m`, `1.5s`; units are w d h m s ms us. Only 0 needs none.",
        "read_timeout 300",
        "read_timeout 5m",
    ),
    "E0503": _value(
        "no size",
        "Numbers with units: `32M`, `512K`; units are G M K B, each 1024 times the next.",
        "max_message_size 32MB",
        "max_message_size 32M",
    ),
    "E0504": _value(
        "no number",
        "A whole number in digits, without a unit and without thousands separators.",
        "max_recipients 1,000",
        "max_recipients 1000",
    ),
    "E0505": _value(
        "not one of the possible words",
        "The setting is a choice; the note lists the words there are.",
        "nul refuse",
        "nul reject",
    ),
    "E0506": Entry(
        "no endpoint",
        "`tcp://host:port`, `tls://host:port` or `unix:///path`, IPv6 addresses in brackets. To listen, an IP address or `*`, and"
        " a port.",
        bad="lmtp tcp://localhost:2524 {\n    discard\n}\n",
        good=lmtp("discard"),
    ),
    "E0507": _value(
        "no network",
        "An address, or a network such as `10.0.0.0/8` or `2001:db8::/32`, with no bits set behind its mask.",
        "relay_from 10.0.0.1/8",
        "relay_from 10.0.0.0/8",
    ),
    "E0508": Entry(
        "a secret can't be had",
        "A secret is written there, or in a file (`file:/path`), or in the environment (`env:NAME`). The file must be there, not"
        " empty, UTF-8, and readable for the user that checks.",
        bad=lmtp(_NEXT, _RELAY.format("file:./missing")),
        good=lmtp(_NEXT, _RELAY.format("file:./secret")),
        files={"secret": "s3cret\n"},
    ),
    "W0508": Entry(
        "others can read a secret",
        "Everybody on this machine can read or write the file of a secret or of a private key. The service reads it before it"
        " drops its privileges: mode 0600 is enough.",
        bad=lmtp(_NEXT, _RELAY.format("file:./public")),
        good=lmtp(_NEXT, _RELAY.format("file:./private")),
        files={"public": "s3cret\n", "private": "s3cret\n"},
        modes={"public": 0o644},
    ),
    "E0509": Entry(
        "no reply to refuse with",
        "A code from 400 to 599, an enhanced code of the same class, and a text in quotes; each may be left out.",
        bad=lmtp("reject 550 4.7.1"),
        good=lmtp("destination postmaster {\n    discard\n}\ndefault_destination {\n    reject 550 5.7.1\n}"),
    ),
    "E0510": Entry(
        "no path",
        "A path is not empty and has no NUL in it.",
        bad='state_dir ""\n' + lmtp("discard"),
        good="state_dir /var/lib/mailgate\n" + lmtp("discard"),
    ),
    "E0511": _value(
        "out of range",
        "The value is of the right kind, but too large or too small; the message says what is possible.",
        "max_recipients 0",
        "max_recipients 100",
    ),
    "E0512": Entry(
        "a reference is needed",
        "What stands here is named elsewhere: `&name`.",
        bad=lmtp("modify common\ndiscard", "modifiers common {\n    replace_rcpt static\n}\n").replace(
            "modifiers common {\n    replace_rcpt static\n}\n", ""
        ),
        good=lmtp("modify {\n    replace_rcpt static {\n        entry a b\n    }\n}\ndiscard"),
    ),
    "E0513": Entry(
        "no local domain",
        "`local_domains` takes domains, one a word, or one table that has them as keys.",
        bad="local_domains ann@example.org\n" + lmtp("discard"),
        good="local_domains example.org\n" + lmtp("discard"),
    ),
    "E0514": Entry(
        "a text that can't be said in a reply",
        "Replies are printable ASCII (RFC 5321 4.2): whatever else stood in one, clients would be shown something different.",
        bad=lmtp('banner "für Post"\ndiscard'),
        good=lmtp('banner "for mail"\ndiscard'),
    ),
    "E0521": Entry(
        "an expression that can't be read",
        "Strings stand in double quotes, networks and addresses do not; `==` compares. A regular expression must compile.",
        bad=lmtp('when helo = "mx" {\n    reject\n}\ndiscard'),
        good=lmtp('when helo == "mx" {\n    reject\n}\ndiscard'),
    ),
    "E0522": Entry(
        "a name that does not exist here",
        "The variables of an expression depend on where it stands: recipients exist in destination blocks only.",
        bad=lmtp('when heloo == "mx" {\n    reject\n}\ndiscard'),
        good=lmtp('when helo == "mx" {\n    reject\n}\ndiscard'),
    ),
    "E0523": Entry(
        "types that don't go together",
        "Nothing is converted: a text is compared with a text, an address with a network by `in`. A variable that can never be"
        " equal to what it is compared with is a mistake too.",
        bad=lmtp("when helo == 5 {\n    reject\n}\ndiscard"),
        good=lmtp('when helo == "5" {\n    reject\n}\ndiscard'),
    ),
    "E0531": _choice(
        "a choice without `else`",
        "A setting that is chosen by `if` has a value in every case: its last line is `else VALUE`.",
        _TWO.format("if retry_num > 5 then b.example"),
        _TWO.format("else b.example"),
    ),
    "E0532": _choice(
        "something else where a choice is written",
        "In the block of a dynamic setting stand lines `if EXPR then VALUE`, tried in order, and `else VALUE` last; nothing else,"
        " and no `else if`.",
        _ONE.format("a.example\n        if retry_num == 0 then c.example"),
        _ONE.format("if retry_num == 0 then c.example"),
    ),
    "E0533": _choice(
        "half a line of a choice",
        "`if EXPR then VALUE`, or `else VALUE`: the condition, `then`, or the value is missing.",
        _ONE.format("if retry_num == 0 a.example"),
        _ONE.format("if retry_num == 0 then a.example"),
    ),
    "E0534": _choice(
        "a value that can't be computed so",
        "A computed value is one expression in one pair of parentheses. Not every setting can be computed; each that is dynamic"
        " can be chosen by `if`.",
        "(lower(sender_domain)) (rcpt_domain)",
        "(lower(sender_domain))",
    ),
    "W0531": _choice(
        "a condition that nothing changes",
        "It is always true, so what stands below it is never used; or never, so its own value is not.",
        _ONE.format('if "live" == "test" then test.example'),
        _ONE.format('if sender == "" then test.example'),
    ),
}
