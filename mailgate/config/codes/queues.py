"""Codes of the durable queue and of reports by mail: 076."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry


def _queue(*lines: str) -> str:
    block = "".join(f"    {line}\n" for line in lines)
    return (
        "hostname mx.example.org\n"
        "target.smtp relay {\n    targets tcp://127.0.0.1:2526\n}\n"
        f"target.queue outbound {{\n    target &relay\n{block}}}\n"
        "lmtp unix://lmtp.sock {\n    tls off\n    deliver_to &outbound\n}\n"
    )


def _report(sender: str) -> str:
    return (
        "hostname mx.example.org\n"
        f"tls_report reports {{\n    from {sender}\n}}\n"
        "target.remote direct {\n    tls_report &reports\n}\n"
        "lmtp unix://lmtp.sock {\n    tls off\n    deliver_to &direct\n}\n"
    )


_BOUNCE = ("bounce {", "    deliver_to &relay", "}")

CODES = {
    "W0760": Entry(
        "nobody hears of mail that a queue gives up",
        "A queue answers 250 before it has delivered. Where that fails for good the sender should be told, and for that the queue"
        " needs a way for its reports. Without one there is a line `message.undeliverable` in the log, and nothing else.",
        bad=_queue(),
        good=_queue(*_BOUNCE),
    ),
    "E0760": Entry(
        "a limit of a queue with `wait`",
        "What a limit holds back waits in the queue, where it waits for nobody's patience.",
        bad=_queue(*_BOUNCE, "limits {", "    destination rate 10 1m wait 5s", "}"),
        good=_queue(*_BOUNCE, "limits {", "    destination rate 10 1m", "}"),
    ),
    "E0762": Entry(
        "a lease of files",
        "`lease` says how long other gateways wait before they take over what one of them had. Files have one process, and no"
        " other one looks into them: there is nothing to wait for.",
        bad=_queue("store sqlite", "lease 30s", *_BOUNCE),
        good=_queue("store sqlite", *_BOUNCE),
    ),
    "E0763": Entry(
        "a DSN that can't be read",
        "`store postgres` takes what libpq takes: words such as `host=db.example.net dbname=mail`, quoted as one, or"
        " a URI, `postgresql://mailgate@db.example.net/mail`. What is wrong with it is not said here: it may hold a password.",
        bad=_queue('store postgres "host=db.example.net secret"', *_BOUNCE),
        good=_queue('store postgres "host=db.example.net dbname=mail"', *_BOUNCE),
    ),
    "E0764": Entry(
        "a queue's name that is too long for PostgreSQL",
        "The tables of a queue lie in a schema of its name, with `mailgate_` before it, and names in PostgreSQL have 63 octets.",
        bad=_queue('store postgres "dbname=mail"', *_BOUNCE).replace("outbound", "outbound_" * 7),
        good=_queue('store postgres "dbname=mail"', *_BOUNCE),
    ),
    "E0761": Entry(
        "a queue without a name",
        "The files of a queue lie in a directory of its name, and are found again by it: a queue written in the line that uses it"
        " would have none.",
        bad=(
            "hostname mx.example.org\n"
            "lmtp unix://lmtp.sock {\n    tls off\n    deliver_to queue {\n        target smtp tcp://127.0.0.1:2526\n"
            "        bounce {\n            discard\n        }\n    }\n}\n"
        ),
        good=_queue(*_BOUNCE),
    ),
    "E0768": Entry(
        "no address for reports",
        "`from` of a `tls_report` or `dmarc_report` is who sends reports by mail, and its domain is the one that reports. It must"
        " be an address.",
        bad=_report("tls-reports"),
        good=_report("tls-reports@example.org"),
    ),
}
