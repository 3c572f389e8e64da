"""What a pool and a delivery do at the edges: simulated."""

from typing import Any

from mailgate.net.waiting import spawn
from mailgate.outbound import pool as pool_module
from mailgate.outbound.delivery import Delivery
from mailgate.outbound.failure import AttemptFailed, Kind
from mailgate.outbound.pool import PoolSettings
from mailgate.testing.nexthop import Step, say
from tests.outbound.support import envelope, make_message, recipient
from tests.outbound.test_pool import _Simulated


class EdgeTest(_Simulated):
    def test_places_that_fail_at_once(self) -> None:
        good = self.hop()
        engine = self.engine(good, "tcp://127.0.0.1:24", pool=PoolSettings(max_connections=1))
        held = self.reactor.run(self.lease(engine))

        async def refuse(*_: Any) -> None:
            raise AttemptFailed(Kind.SOURCE, "connect", "no address")

        self.patch(pool_module, "dial", refuse)
        waiting = [spawn(engine.pool.lease(engine.endpoints[1].link)) for _ in range(3)]
        held.quit()
        self.reactor.settle(1)
        for one in waiting:
            self.failureResultOf(one, AttemptFailed)
        self.assertEqual((engine.pool.open_count, engine.pool.waiting), (0, 0))

    def test_an_idle_one_that_nobody_who_waits_can_use_goes_in_time(self) -> None:
        engine = self.engine(
            self.hop(25),
            self.hop(26),
            pool=PoolSettings(max_connections=9, max_connections_per_endpoint=1, idle_timeout=20, lease_timeout=100),
        )
        other = self.reactor.run(spawn(engine.pool.lease(engine.endpoints[1].link)))
        held = self.reactor.run(self.lease(engine))
        waiting = spawn(engine.pool.lease(engine.endpoints[1].link))
        engine.pool.give_back(held)
        self.reactor.settle(21)
        self.reactor.settle(1)
        self.assertEqual((engine.pool.idle_count, engine.pool.open_count), (0, 1))
        engine.pool.give_back(other)
        self.successResultOf(waiting)

    def test_one_that_refuses_rset_is_left_for_a_fresh_one(self) -> None:
        """What it says to the MAIL behind it is about the transaction that it did not end."""
        for port, refusal in enumerate((b"500 5.5.1 what", b"451 4.3.0 no", b"421 4.3.2 bye"), 30):

            def nested(step: Step, connection: Any, line: bytes, refusal: bytes = refusal) -> Any:
                if step is Step.RSET:
                    return say(refusal)
                again = step is Step.MAIL and connection.verbs.count(b"MAIL") > 1
                return say(b"503 5.5.1 nested MAIL") if again else None

            hop = self.hop(port, script=nested)
            delivery = Delivery(self.engine(hop), envelope())
            one, two = recipient(), recipient("c")
            self.assertEqual([self.reactor.run(delivery.rcpt(each)).code for each in (one, two)], [250, 250])
            delivery.withdraw([two])
            self.assertEqual([reply.code for reply in self.reactor.run(delivery.send(make_message()))], [250], refusal)
            self.assertEqual([t.recipients for t in hop.transactions], [[b"<b@y.example>"]])
            self.assertEqual(len(hop.connections), 2)

    def test_one_recipients_4xx_is_not_the_others(self) -> None:
        hop = self.hop(25, script={Step.RCPT: [say(b"450 4.2.2 full")]})
        engine = self.engine(hop, "tcp://127.0.0.1:24")
        delivery = Delivery(engine, envelope())
        self.assertEqual(self.reactor.run(delivery.rcpt(recipient())).code, 450)
        self.assertEqual(self.reactor.run(delivery.rcpt(recipient("c"))).code, 250)
        self.assertEqual([r.code for r in self.reactor.run(delivery.send(make_message()))], [250])

    def test_nor_where_all_are_offered_together(self) -> None:
        def script(step: Step, connection: Any, line: bytes) -> Any:
            if step is Step.RCPT:
                return say(b"450 4.2.2 full" if b"<b@" in line else b"550 5.1.1 unknown")
            return None

        delivery = Delivery(self.engine(self.hop(25, script=script), "tcp://127.0.0.1:24"), envelope())
        replies = self.reactor.run(delivery.offer([recipient(), recipient("c")], make_message()))
        self.assertEqual([reply.code for reply in replies], [450, 550])

    def test_replies_that_come_too_early_are_nobodys_answers(self) -> None:
        """In one read with those that were asked for."""
        for port, (script, heard, codes) in enumerate(
            (
                ({Step.DATA: say(b"354 go", b"250 2.0.0 thanks")}, [250, 250], [451, 451]),
                ({Step.DATA: say(b"354 go", b"554 5.7.1 no", b"250 2.0.0 thanks")}, [250, 250], [554, 554]),
                ({Step.DATA: say(b"554 5.7.1 no", b"421 4.3.2 bye")}, [250, 250], [554, 554]),
                ({Step.DATA: say(b"451 4.7.1 no", b"421 4.3.2 bye")}, [250, 250], [451, 451]),
            ),
            30,
        ):
            hop = self.hop(port, script=script)
            delivery = Delivery(self.engine(hop), envelope())
            message = make_message()
            replies = self.reactor.run(delivery.offer([recipient(), recipient("c")], message))
            self.assertEqual([reply.code for reply in replies], heard, script)
            replies = self.reactor.run(delivery.send(message))
            self.assertEqual([reply.code for reply in replies], codes, script)
            self.assertEqual(hop.transactions, [])

    def test_nor_is_a_421_behind_the_last_answer(self) -> None:
        hop = self.hop(script={Step.RCPT: [None] * 4 + [say(b"550 5.1.1 no", b"421 bye")]})
        delivery = Delivery(self.engine(hop), envelope())
        every = [recipient(), recipient("c"), recipient("d")]
        self.assertEqual([self.reactor.run(delivery.rcpt(each)).code for each in every], [250] * 3)
        delivery.withdraw(every[2:])
        replies = self.reactor.run(delivery.send(make_message()))
        self.assertEqual([(reply.code, reply.enhanced) for reply in replies], [(451, "4.3.0")] * 2)
        self.assertEqual(hop.transactions, [])
