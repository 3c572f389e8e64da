"""`timeouts { … }` of a target or an endpoint, and the three names that set some of its steps at once."""

from __future__ import annotations

from collections.abc import Iterator

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive, Refused
from mailgate.config.source import Span
from mailgate.outbound.endpoint_settings import Timeouts
from mailgate.outbound.written import Written
from mailgate.registry import Report

_SECONDS = v.Duration(minimum=0.001)
_DEFAULT = Timeouts()


def _step(name: str, doc: str) -> Directive:
    return Directive(name, _SECONDS, default=getattr(_DEFAULT, name), doc=doc)


class TimeoutsBlock(Block):
    """How long each step of the dialogue with an endpoint may take."""

    connect = _step("connect", "To be connected.")
    greeting = _step("greeting", "For the greeting.")
    tls = _step("tls", "For the answer to STARTTLS, and again for the handshake.")
    ehlo = _step("ehlo", "For the answer to EHLO, LHLO or HELO.")
    auth = _step("auth", "For the whole of AUTH.")
    mail_from = _step("mail_from", "For the answer to MAIL.")
    rcpt_to = _step("rcpt_to", "For the answer to each RCPT.")
    data = _step("data", "For the answer to DATA.")
    data_block = _step("data_block", "For each piece of content to be taken, or its BDAT answered.")
    final_dot = _step("final_dot", "For the answer to the final dot; in LMTP, for all of them.")
    rset = _step("rset", "For the answer to RSET.")
    quit = _step("quit", "For the answer to QUIT, and to be closed.")
    total = Directive(
        "total",
        _SECONDS,
        doc="The whole attempt at one endpoint, from connecting (on a kept connection: from MAIL) to the answer to the final dot,"
        " without the client's own pauses; no limit by default. Before the final dot the next endpoint is tried; behind it nobody"
        " knows whether the message was taken: 451 4.4.2, and no other endpoint hears of it.",
    )
    mta_sts = Refused("mta_sts", "a next hop that is named has no MTA-STS policy to fetch")


class TimeoutSettings(Block):
    """How long an endpoint may take."""

    timeouts = Directive(
        "timeouts",
        block=TimeoutsBlock,
        block_required=True,
        doc="How long each step may take.",
        origin="stalwart",
    )
    connect_timeout = Directive(
        "connect_timeout", _SECONDS, default=300.0, doc="`connect` of `timeouts`: to be connected.", origin="maddy"
    )
    command_timeout = Directive(
        "command_timeout",
        _SECONDS,
        default=300.0,
        doc="The steps `greeting` to `data` of `timeouts`: for the answer to each command, and for the TLS handshake.",
        origin="maddy",
    )
    submission_timeout = Directive(
        "submission_timeout",
        _SECONDS,
        default=720.0,
        doc="`final_dot` of `timeouts`: for the answer to the final dot.",
        origin="maddy",
    )


_LONG_NAMES = {
    "connect_timeout": ("connect",),
    "command_timeout": ("greeting", "tls", "ehlo", "auth", "mail_from", "rcpt_to", "data"),
    "submission_timeout": ("final_dot",),
}


def timeouts(written: Written) -> Timeouts:
    """What stands in the endpoint's block counts for more than what stands in the target's, step by step."""
    steps: dict[str, float] = {}
    for block in (written.target, written.block):
        if isinstance(block, TimeoutSettings):
            steps.update(written_steps(block))
    return Timeouts(**steps)


def written_steps(block: TimeoutSettings) -> Iterator[tuple[str, float]]:
    """The steps that a block sets, by whichever name."""
    if block.span_of("timeouts"):
        for item in block.timeouts.items:
            yield item.name, item.value
    for name, steps in _LONG_NAMES.items():
        if block.span_of(name):
            seconds = getattr(block, name)
            yield from ((step, seconds) for step in steps)


def report_steps_set_twice(block: TimeoutSettings, report: Report) -> bool:
    """Whoever sets one step by two names meant one of them: False if somebody does."""
    if not block.span_of("timeouts"):
        return True
    fine = True
    for name, steps in _LONG_NAMES.items():
        if not block.span_of(name):
            continue
        for step in steps:
            place: Span | None = block.timeouts.span_of(step)
            if place:
                report.error(place, f"`{step}` is set here and by `{name}`", code="E0734", hint="leave one of them out")
                fine = False
    return fine
