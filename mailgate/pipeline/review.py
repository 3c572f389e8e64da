"""What is said of a whole pipeline once it is compiled: what `proof` shows, as diagnostics."""

from __future__ import annotations

from dataclasses import dataclass

from mailgate.config.diagnostics import Report
from mailgate.config.domains import LocalDomains
from mailgate.config.source import Span
from mailgate.pipeline.grammar import PipelineBlock
from mailgate.pipeline.proof import find_hole, find_relays, is_exempt
from mailgate.pipeline.router import Reject, Router


@dataclass(frozen=True, slots=True)
class Hole:
    """A decision that is missing, and the mistake to report. ``end`` stands in its place."""

    end: Reject
    span: Span | None
    message: str
    code: str
    hint: str


def report_hole(hole: Hole, router: Router, local: LocalDomains, report: Report) -> None:
    """``router`` is the pipeline that is entered from outside."""
    envelope = find_hole(router, hole.end, local)
    notes = (f"shown by: {envelope}: nothing decides",) if envelope is not None else ()
    report.error(hole.span, hole.message, code=hole.code, hint=hole.hint, notes=notes)


def report_relays(router: Router, block: PipelineBlock, local: LocalDomains, report: Report) -> None:
    """Warn of an open relay (docs/configuration.md, "Diagnostics"), at each target that strangers reach."""
    listeners = [str(endpoint) for endpoint in getattr(block, "endpoints", ()) if not is_exempt(endpoint)]
    if not listeners or getattr(block, "login_required", False):
        return
    for relay in find_relays(router, local, listeners, lmtp=getattr(block, "lmtp", False)):
        report.warning(
            relay.step.span,
            "an open relay: anybody may send mail through here to other domains",
            code="W0803",
            hint="strangers come here with a recipient outside local_domains",
            notes=(
                f"shown by: {relay.envelope}: accepted at {block.span}",
                "`relay_from NETWORK…` says who may; `default_destination { reject 550 5.7.1 }` refuses what no rule names",
            ),
        )
