"""Codes of the durable queue, 076, and of reports of TLS, 077."""

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
        "a rate on a queue",
        "What a queue limits is how many deliveries are under way to one destination. How many there are in a minute is a matter"
        " of the target, which many queues may use.",
        bad=_queue(*_BOUNCE, "limits {", "    destination rate 10 1m", "}"),
        good=_queue(*_BOUNCE, "limits {", "    destination concurrency 10", "}"),
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
    "E0770": Entry(
        "no address for reports of TLS",
        "`from` of a `tls_report` is who sends reports by mail, and its domain is the one that reports. It must be an address.",
        bad=_report("tls-reports"),
        good=_report("tls-reports@example.org"),
    ),
}
