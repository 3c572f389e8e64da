"""What a list's answers count, for every set of addresses: always within what the list can count, in whatever order they come."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.config.schema import default_block
from mailgate.dns.failure import ServerFailure
from mailgate.modules.check._lists import AllowBlock, ListBlock, Listing

_NETWORKS = ("127.0.0.2/32", "127.0.0.4/30", "127.0.0.0/24", "127.0.0.0/8", "127.255.255.0/24", "198.51.100.0/24")
_ADDRESSES = ("127.0.0.2", "127.0.0.4", "127.0.0.7", "127.0.0.255", "127.1.0.1", "127.255.255.254", "198.51.100.1")
networks = st.lists(st.sampled_from(_NETWORKS).map(ipaddress.ip_network), min_size=1, max_size=2)
scores = st.sampled_from([-3.0, -0.5, 0.0, 1.0, 2.5])
addresses = st.lists(st.sampled_from(_ADDRESSES), min_size=1, max_size=5, unique=True)


def block(score: float = 1.0, responses: Any = (), lines: Any = ()) -> ListBlock:
    made: Any = default_block(ListBlock)
    made.score, made.responses = score, tuple(responses)
    made.response = tuple(SimpleNamespace(value=value, score=counts, message="") for value, counts in lines)
    made.__init__()
    return made  # type: ignore[no-any-return]


def found(one: Any, answers: list[str]) -> Listing | str | None:
    try:
        listing: Listing | None = one.listing("name", tuple(answers))
    except ServerFailure:
        return "no answer"
    return listing


class ListTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None)
    @given(scores, st.just([]) | networks, st.lists(st.tuples(networks, scores), max_size=3), addresses)
    def test_every_answer(self, score: float, responses: Any, lines: Any, answers: list[str]) -> None:
        one = block(score, responses, lines)
        listing = found(one, answers)
        self.assertEqual(listing, found(one, answers[::-1]))
        refused = "127.255.255.254" in answers or (one.least < 0 and "127.0.0.255" in answers)
        self.assertEqual(listing == "no answer", refused)
        if isinstance(listing, Listing):
            self.assertTrue(one.least <= listing.score <= one.most, (one.least, listing.score, one.most))
            known = [network for value, _ in lines for network in value] + list(
                responses or () if lines else responses or _DEFAULT
            )
            self.assertTrue(any(ipaddress.ip_address(address) in network for address in answers for network in known))

    def test_who_is_allowed(self) -> None:
        allow: Any = default_block(AllowBlock)
        for answers, expected in (
            (["127.0.5.1"], True),
            (["198.51.100.1"], False),
            (["127.0.0.255"], "no answer"),
            (["127.0.5.1", "127.255.255.255"], "no answer"),
        ):
            heard = found(allow, answers)
            self.assertEqual(heard if heard == "no answer" else heard is not None, expected, answers)


_DEFAULT = [ipaddress.ip_network("127.0.0.0/8")]
