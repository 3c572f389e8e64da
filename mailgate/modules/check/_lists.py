"""What a list in the DNS (RFC 5782) says by the addresses it answers with, and what that counts.

- Without `responses` and `response` all of 127.0.0.0/8 is a listing; addresses outside are a domain that somebody has parked.
- 127.255.255.0/24 is how large lists say that they do not answer the likes of us, whatever `responses` says: that is no answer,
  neither listed nor not. Lists that speak for a client say it by 127.0.0.255 besides (DNSWL), which must let nobody in.
- Each `response` line that has one of the addresses counts, once; an address that no line has counts `score` if it is in
  `responses`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from mailgate.config import values as v
from mailgate.config.schema import REQUIRED, Block, Directive, default_block
from mailgate.dns.failure import ServerFailure

_LISTED = ipaddress.ip_network("127.0.0.0/8")
_NOT_ANSWERED = ipaddress.ip_network("127.255.255.0/24")
_NOT_ANSWERED_IN_FAVOUR = ipaddress.ip_address("127.0.0.255")
SUBJECTS = ("client_ip", "helo", "sender_domain")


@dataclass(frozen=True, slots=True)
class Listing:
    """``name`` is what was asked under which an answer was found; ``text`` what the operator says of that answer, or ""."""

    name: str
    score: float
    text: str = ""


class ResponseBlock(Block):
    """What such an answer counts."""

    score = Directive("score", v.Float(), default=REQUIRED, doc="What it counts; below zero for the client.", origin="maddy")
    message = Directive(
        "message", v.ReplyText("TEXT"), default="", doc="What is said in place of the list's own text.", origin="maddy"
    )


class QuestionBlock(Block):
    """What a list is asked, and which answers are a listing."""

    ask = Directive("ask", v.List(v.Choice(*SUBJECTS)), default=("client_ip",), doc="What the list is asked for.")
    responses = Directive(
        "responses",
        v.List(v.Network()),
        default=(),
        doc="Which addresses in its answer are a listing; by default 127.0.0.0/8, or with `response` lines none but theirs."
        " 127.255.255.0/24 never is.",
        origin="maddy",
    )
    favours = True
    """Whether it may speak for a client."""

    def listing(self, name: str, addresses: tuple[str, ...]) -> Listing | None:
        """:raises DnsFailure: it says that it does not answer."""
        found = [ipaddress.ip_address(address) for address in addresses]
        if any(address in _NOT_ANSWERED or (self.favours and address == _NOT_ANSWERED_IN_FAVOUR) for address in found):
            raise ServerFailure(name, "A", f"the list does not answer us: {', '.join(addresses)}")
        return self.judged(name, found)

    def judged(self, name: str, found: list[Any]) -> Listing | None:
        raise NotImplementedError


class AllowBlock(QuestionBlock):
    """How a list is asked whose members pass."""

    def judged(self, name: str, found: list[Any]) -> Listing | None:
        return Listing(name, 0.0) if _any_in(found, self.responses or (_LISTED,)) else None


class ListBlock(QuestionBlock):
    """How one list is asked, and what it counts."""

    score = Directive(
        "score",
        v.Float(),
        default=1.0,
        doc="What a listing counts; below zero it speaks for the client (DNSWL).",
        origin="maddy",
    )
    response = Directive(
        "response",
        v.List(v.Network(), minimum=1),
        block=ResponseBlock,
        repeatable=True,
        doc="What answers with one of these addresses count; lines add up.",
        origin="maddy",
    )

    def __init__(self) -> None:
        lines: Any = self.response
        self._usual = self.responses or (() if lines else (_LISTED,))
        given: Any = [*(line.score for line in lines), *((self.score,) if self._usual else ())]
        scores: list[float] = [score for score in given if score is not None]  # None: it could not be read, which was said
        self.most = sum(score for score in scores if score > 0)
        self.least = sum(score for score in scores if score < 0)
        self.favours = self.least < 0

    def judged(self, name: str, found: list[Any]) -> Listing | None:
        lines: Any = self.response
        hit = [line for line in lines if _any_in(found, line.value)]
        rest = [address for address in found if not any(_any_in([address], line.value) for line in hit)]
        others = _any_in(rest, self._usual)
        if not hit and not others:
            return None
        score = sum(line.score for line in hit) + (self.score if others else 0)
        return Listing(name, score, next((line.message for line in hit if line.message), ""))


PLAIN: Any = default_block(ListBlock)
"""A list that is named on the line."""


def _any_in(addresses: list[Any], networks: Any) -> bool:
    return any(address in network for address in addresses for network in networks)
