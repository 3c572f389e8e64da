"""Where mail of a pipeline may come to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mailgate.pipeline.router import AfterBody, Branch, Deliver, DeliverTo, Router, Through


def branches(router: Router) -> Iterator[Branch]:
    """Every block that a message may come to, nested pipelines included, each once."""
    seen: set[Branch] = set()
    waiting: list[Branch] = [router]
    while waiting:
        branch = waiting.pop()
        if branch in seen:
            continue
        seen.add(branch)
        yield branch
        waiting += branch.inner()
        if isinstance(branch.route, AfterBody):
            waiting.append(branch.route.router)
        elif isinstance(branch.route, Deliver):
            waiting += [step.router for step in branch.route.steps if isinstance(step, Through)]


def targets(router: Router) -> Iterator[Any]:
    """Every target, each as often as a block names it."""
    for branch in branches(router):
        if isinstance(branch.route, Deliver):
            yield from (step.target for step in branch.route.steps if isinstance(step, DeliverTo))


def enforces_requiretls(router: Router) -> bool:
    """Whether RFC 8689 holds all the way: no target may take a message that asks for it and pass it on without."""
    return all(getattr(target, "enforces_requiretls", False) for target in targets(router))
