"""Deliveries over real sockets to scripted next hops: reuse, order, pipelining, answers."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from mailgate.testing.nexthop import NextHop
from tests.outbound.support import CONTENT, deliver, endpoint_settings, make_hops, recipient
from tests.support.invariants import check_hop


class ReuseTest(TestCase):
    async def test_messages_share_one_connection(self) -> None:
        hop = NextHop().listen(reactor)
        self.addCleanup(hop.close)
        hops = make_hops(reactor, endpoint_settings(hop.endpoint))
        for _ in range(3):
            heard, replies = await deliver(hops)
            self.assertEqual(([reply.code for reply in heard], [reply.code for reply in replies]), ([250], [250]))
        self.assertEqual(len(hop.connections), 1)
        self.assertEqual([t.content for t in hop.transactions], [CONTENT] * 3)
        check_hop(hop, transactions=3)
        await hops.pool.close()

    async def test_several_recipients_each_hear_their_answer(self) -> None:
        hop = NextHop().listen(reactor)
        self.addCleanup(hop.close)
        hops = make_hops(reactor, endpoint_settings(hop.endpoint))
        heard, replies = await deliver(hops, recipient("b"), recipient("c"))
        self.assertEqual([reply.code for reply in (*heard, *replies)], [250] * 4)
        self.assertEqual(hop.transactions[0].paths, [b"b@y.example", b"c@y.example"])
        await hops.pool.close()
