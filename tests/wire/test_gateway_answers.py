"""What the client hears and what the next hop gets, through a whole gateway on a simulated network.

Each test is one promise: the answer is the next hop's own, per recipient where LMTP allows it; nothing is delivered twice; what
can't be one outcome goes in the client's next transaction. I1 to I8 are asserted besides.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from mailgate.testing.client import connect
from mailgate.testing.nexthop import DROP, Step, say
from tests.support.invariants import check_content, check_hop
from tests.support.ledger import Ledger, message
from tests.support.scenario import LMTP, SMTP, SimulatedCase, codes, statuses

LARGE = message("large", body=(b"x" * 998 + b"\r\n") * 3000)


class PerRecipientAnswers(SimulatedCase):
    def test_lmtp_to_lmtp_hears_each_recipients_own_answer_in_order(self) -> None:
        store = self.hop(lmtp=True, script={Step.DOT: say(b"250 2.1.5 one", b"452 4.2.2 two is full", b"550 5.2.1 three is off")})
        self.relay(store)
        client = self.client(LMTP)
        replies = self.deliver(client, b"one@y.test", b"two@y.test", b"three@y.test", content=message("m"))
        self.assertEqual(codes(replies), [b"250", b"250", b"250", b"250", b"354", b"250", b"452", b"550"])
        self.assertEqual(statuses(replies[-2:]), [b"452 4.2.2", b"550 5.2.1"])
        self.assertIn(b"two is full", replies[-2])
        ledger = Ledger()
        for recipient, reply in zip((b"one@y.test", b"two@y.test", b"three@y.test"), replies[-3:], strict=True):
            ledger.answered("m", recipient, reply)
        ledger.book(store).check()
        check_hop(store, 1)

    def test_the_same_recipient_twice_gets_two_answers(self) -> None:
        store = self.hop(lmtp=True, script={Step.DOT: say(b"250 2.1.5 first", b"450 4.2.1 second")})
        self.relay(store)
        replies = self.deliver(self.client(LMTP), b"one@y.test", b"one@y.test")
        self.assertEqual(codes(replies[-2:]), [b"250", b"450"])
        self.assertEqual(store.transactions[0].paths, [b"one@y.test"] * 2)

    def test_a_recipient_refused_downstream_is_refused_at_rcpt_and_not_answered_after_the_dot(self) -> None:
        store = self.hop(lmtp=True, script={Step.RCPT: [say(b"250 2.1.5 ok"), say(b"550 5.1.1 unknown")]})
        self.relay(store)
        replies = self.deliver(self.client(LMTP), b"one@y.test", b"two@y.test", b"three@y.test")
        self.assertEqual(codes(replies), [b"250", b"250", b"550", b"250", b"354", b"250", b"250"])
        self.assertEqual(store.transactions[0].paths, [b"one@y.test", b"three@y.test"])

    def test_missing_answers_are_unknown_for_their_recipients_only(self) -> None:
        store = self.hop(lmtp=True, script={Step.DOT: [say(b"250 2.1.5 ok", then_drop=True)]})
        self.relay(store)
        replies = self.deliver(self.client(LMTP), b"one@y.test", b"two@y.test", content=message("m"))
        self.assertEqual(statuses(replies[-2:])[1], b"451 4.4.2")
        self.assertEqual(codes(replies[-2:]), [b"250", b"451"])
        assert self.running is not None
        self.assertEqual(len(self.running.logged("delivery.possible_duplicate")), 1)
        check_hop(store, 1)

    def test_surplus_answers_close_the_connection(self) -> None:
        store = self.hop(lmtp=True, script={Step.DOT: [say(b"250 one", b"250 surplus")]})
        self.relay(store)
        client = self.client(LMTP)
        self.assertEqual(codes(self.deliver(client, b"one@y.test"))[-1], b"250")
        self.assertEqual(codes(self.deliver(client, b"two@y.test"))[-1], b"250")
        self.assertEqual(len(store.connections), 2)
        self.assertEqual([kept.paths for kept in store.transactions], [[b"one@y.test"], [b"two@y.test"]])


class OneOutcomePerTransaction(SimulatedCase):
    def test_smtp_to_lmtp_takes_the_second_recipient_in_the_next_transaction(self) -> None:
        store = self.hop(lmtp=True)
        self.relay(store)
        client = self.client(SMTP)
        replies = self.deliver(client, b"one@y.test", b"two@y.test", content=message("m"))
        self.assertEqual(statuses(replies)[2], b"452 4.5.3")
        self.assertEqual(codes(replies), [b"250", b"250", b"452", b"354", b"250"])
        again = self.deliver(client, b"two@y.test", content=message("m"))
        self.assertEqual(codes(again), [b"250", b"250", b"354", b"250"])
        ledger = Ledger()
        ledger.answered("m", b"one@y.test", replies[-1])
        ledger.answered("m", b"two@y.test", again[-1])
        ledger.book(store).check()
        check_hop(store, 2)

    def test_smtp_with_two_targets_takes_the_second_recipient_in_the_next_transaction(self) -> None:
        one, two = self.hop(), self.hop()
        self.gateway(
            f"target.smtp one {{\n targets {one.endpoint}\n}}\ntarget.smtp two {{\n targets {two.endpoint}\n}}\n"
            f"smtp {SMTP} {{\n tls off\n destination one.test {{\n  deliver_to &one\n }}\n"
            " destination two.test {\n  deliver_to &two\n }\n"
            ' default_destination {\n  reject 550 5.7.1 "relaying denied"\n }\n}\n'
        )
        client = self.client(SMTP)
        replies = self.deliver(client, b"a@one.test", b"b@two.test", b"c@three.test", content=message("m"))
        self.assertEqual(codes(replies), [b"250", b"250", b"452", b"550", b"354", b"250"])
        self.assertEqual(statuses(replies)[2:4], [b"452 4.5.3", b"550 5.7.1"])
        again = self.deliver(client, b"b@two.test", content=message("m"))
        self.assertEqual(codes(again), [b"250", b"250", b"354", b"250"])
        self.assertEqual([kept.paths for kept in one.transactions], [[b"a@one.test"]])
        self.assertEqual([kept.paths for kept in two.transactions], [[b"b@two.test"]])
        check_hop(one, 1)
        check_hop(two, 1)

    def test_recipients_of_one_target_share_a_transaction(self) -> None:
        hop = self.hop()
        self.relay(hop)
        self.deliver(self.client(), b"one@y.test", b"two@y.test", b"three@y.test")
        self.assertEqual([kept.paths for kept in hop.transactions], [[b"one@y.test", b"two@y.test", b"three@y.test"]])

    def test_on_split_allow_folds_the_answers(self) -> None:
        one, two = self.hop(), self.hop(script={Step.DOT: say(b"450 4.3.0 later")})
        self.gateway(
            f"target.smtp one {{\n targets {one.endpoint}\n}}\ntarget.smtp two {{\n targets {two.endpoint}\n}}\n"
            f"smtp {SMTP} {{\n tls off\n on_split allow\n destination one.test {{\n  deliver_to &one\n }}\n"
            " default_destination {\n  deliver_to &two\n }\n}\n"
        )
        replies = self.deliver(self.client(), b"a@one.test", b"b@two.test")
        self.assertEqual(codes(replies), [b"250", b"250", b"250", b"354", b"451"])


class Failover(SimulatedCase):
    def test_a_next_hop_killed_in_the_middle_of_data_gives_way_to_the_second_which_gets_it_once(self) -> None:
        first, second = self.hop(script={Step.BODY: DROP}), self.hop()
        self.relay(first, second)
        replies = self.deliver(self.client(), b"one@y.test", content=LARGE)
        self.assertEqual(codes(replies), [b"250", b"250", b"354", b"250"])
        self.assertEqual((len(first.transactions), len(second.transactions)), (0, 1))
        check_content(second.transactions[0].content, LARGE)
        check_hop(second, 1)

    def test_a_next_hop_killed_after_the_dot_is_451_and_no_second_delivery(self) -> None:
        first, second = self.hop(script={Step.DOT: DROP}), self.hop()
        self.relay(first, second)
        replies = self.deliver(self.client(), b"one@y.test", content=LARGE)
        self.assertEqual(statuses(replies[-1:]), [b"451 4.4.2"])
        self.assertEqual((len(first.transactions), len(second.transactions)), (1, 0))
        assert self.running is not None
        self.assertEqual(len(self.running.logged("delivery.possible_duplicate")), 1)

    def test_a_dead_endpoint_is_skipped_and_not_dialled_for_each_message(self) -> None:
        dead, alive = self.hop(), self.hop()
        port = dead.port
        self.relay(dead, alive)
        self.reactor.run(dead.stop_listening())
        client = self.client()
        for _ in range(5):
            self.assertEqual(codes(self.deliver(client, b"one@y.test"))[-1], b"250")
        self.assertEqual([key for _when, key in self.reactor.connects].count(("127.0.0.1", port)), 1)
        self.assertEqual(len(alive.transactions), 5)
        assert self.running is not None
        self.assertEqual(len(self.running.logged("endpoint.down")), 1)

    def test_an_endpoint_that_does_not_answer_is_overtaken(self) -> None:
        slow, second = self.hop(), self.hop()
        self.reactor.black_hole("127.0.0.1", slow.port)
        self.relay(slow, second)
        before = self.reactor.seconds()
        self.assertEqual(codes(self.deliver(self.client(), b"one@y.test"))[-1], b"250")
        self.assertLess(self.reactor.seconds() - before, 4.0)

    def test_an_endpoint_that_comes_back_is_used_again(self) -> None:
        first, second = self.hop(), self.hop()
        self.reactor.refuse("127.0.0.1", first.port)
        self.relay(first, second)
        client = self.client()
        self.deliver(client, b"one@y.test")
        self.reactor.heal("127.0.0.1", first.port)
        self.reactor.settle(60)
        self.deliver(client, b"one@y.test")
        self.deliver(client, b"one@y.test")
        self.assertGreaterEqual(len(first.transactions), 1)

    def test_all_endpoints_dead_is_a_deferral_with_the_reason_in_the_log(self) -> None:
        one, two = self.hop(), self.hop()
        self.relay(one, two)
        for hop in (one, two):
            self.reactor.refuse("127.0.0.1", hop.port)
        replies = self.deliver(self.client(), b"one@y.test")
        self.assertEqual(replies[1][:1], b"4", replies)
        assert self.running is not None
        self.assertIn("refused", self.running.log_text)

    def test_connections_are_reused(self) -> None:
        hop = self.hop()
        self.relay(hop)
        for number in range(5):
            client = self.client()
            self.assertEqual(codes(self.deliver(client, b"%d@y.test" % number))[-1], b"250")
            self.reactor.run(client.quit())
        self.assertEqual((len(hop.connections), len(hop.transactions)), (1, 5))


class ClientGone(SimulatedCase):
    def test_a_client_that_goes_in_the_middle_of_its_message_leaves_nothing_behind(self) -> None:
        hop = self.hop()
        self.relay(hop)
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"DATA")
        client.send(b"Subject: unfinished\r\n\r\nand then")
        self.reactor.settle(1)
        self.reactor.run(client.close())
        self.reactor.settle(5)
        self.assertEqual(hop.transactions, [])
        self.check_alive()
        self.assertEqual(len(hop.transactions), 1)

    def test_an_unfinished_message_is_not_delivered_when_the_client_closes_politely(self) -> None:
        hop = self.hop()
        self.relay(hop)
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"DATA")
        client.send(b"Subject: unfinished\r\n\r\nend\r\n.")
        client.drop()
        self.reactor.settle(30)
        self.assertEqual(hop.transactions, [])


class Limits(SimulatedCase):
    def test_an_idle_client_hears_421_and_is_closed(self) -> None:
        self.relay(self.hop(), listener="    read_timeout 30s")
        client = self.client()
        before = self.reactor.seconds()
        reply = self.reactor.run(client.reply(deadline=120))
        self.assertEqual(statuses([reply]), [b"421 4.4.2"])
        self.assertAlmostEqual(self.reactor.seconds() - before, 30, places=1)
        self.reactor.run(client.wait_closed())

    def test_one_connection_too_many_hears_421_at_once(self) -> None:
        self.relay(self.hop(), listener="    max_connections 3")
        clients = [self.client() for _ in range(3)]
        extra = self.reactor.run(connect(self.reactor, SMTP))
        self.assertEqual(statuses([self.reactor.run(extra.reply())]), [b"421 4.7.0"])
        self.reactor.run(extra.wait_closed())
        self.reactor.run(clients[0].quit())
        self.client()

    def test_a_message_too_large_is_refused_and_the_session_goes_on(self) -> None:
        hop = self.hop()
        self.relay(hop, listener="    max_message_size 64K")
        client = self.client()
        self.assertEqual(statuses(self.say(client, b"MAIL FROM:<a@x.test> SIZE=70000")), [b"552 5.3.4"])
        replies = self.deliver(
            client, b"b@y.test", content=message("big", body=b"x" * 998 + b"\r\n" + (b"y" * 998 + b"\r\n") * 70)
        )
        self.assertEqual(statuses(replies[-1:]), [b"552 5.3.4"])
        self.assertEqual(hop.transactions, [])
        self.assertEqual(codes(self.deliver(client, b"b@y.test"))[-1], b"250")

    def test_http_on_the_port_is_turned_away(self) -> None:
        hop = self.hop()
        self.relay(hop)
        client = self.client()
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n")
        self.reactor.run(client.wait_closed())
        self.assertEqual(hop.mail_count, 0)
        self.assertIn(b"421", bytes(client.received))


class Draining(SimulatedCase):
    def test_a_running_message_finishes_and_the_rest_hears_421(self) -> None:
        hop = self.hop()
        gateway = self.relay(hop)
        idle, busy = self.client(), self.client()
        self.say(busy, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"DATA")
        stopping = Deferred.fromCoroutine(gateway.stop())
        self.assertEqual(statuses([self.reactor.run(idle.reply())]), [b"421 4.3.2"])
        self.reactor.run(idle.wait_closed())
        self.assertFalse(stopping.called)
        busy.send(message("last") + b".\r\n")
        self.assertEqual(self.reactor.run(busy.reply())[:3], b"250")
        self.reactor.run(stopping, limit=30)
        self.running = None
        self.reactor.run(busy.wait_closed())
        self.assertEqual(len(hop.transactions), 1)
