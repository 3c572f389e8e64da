"""Deliveries over real sockets to scripted next hops: reuse, order, pipelining, parameters, replay, abort."""

from __future__ import annotations

import gc
import tempfile
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults
from twisted.trial.unittest import TestCase

from mailgate.net.waiting import spawn
from mailgate.outbound.delivery import Delivery
from mailgate.outbound.health import State
from mailgate.outbound.pool import PoolSettings
from mailgate.smtp.address import Address
from mailgate.smtp.parameters import BodyType, MailParameters
from mailgate.testing.nexthop import DEAF, HANG, NextHop, Step, say
from tests.outbound.support import (
    CONTENT,
    Observed,
    deliver,
    endpoint_settings,
    envelope,
    fill,
    make_hops,
    make_message,
    recipient,
    timeouts,
    until,
)
from tests.support.adapters import real_adapters
from tests.support.interpreters import needs_tracemalloc
from tests.support.invariants import check_hop

BASIC = (b"PIPELINING", b"ENHANCEDSTATUSCODES")


class _Hops(TestCase):
    def hop(self, path: str = "", **settings: Any) -> NextHop:
        hop = NextHop(**settings).listen(reactor, path=path)
        self.addCleanup(hop.close)
        return hop

    def engine(self, *hops: NextHop, observed: Observed | None = None, **settings: Any) -> Any:
        of_endpoint = {name: settings.pop(name) for name in ("lmtp", "timeouts", "debug") if name in settings}
        engine = make_hops(
            reactor, *[endpoint_settings(hop.endpoint, **of_endpoint) for hop in hops], observed=observed, **settings
        )
        self.addCleanup(engine.pool.close)
        return engine


class ReuseTest(_Hops):
    async def test_messages_share_one_connection(self) -> None:
        hop = self.hop()
        engine = self.engine(hop)
        for _ in range(3):
            heard, replies = await deliver(engine)
            self.assertEqual([reply.code for reply in (*heard, *replies)], [250, 250])
        self.assertEqual(len(hop.connections), 1)
        self.assertEqual([t.content for t in hop.transactions], [CONTENT] * 3)
        check_hop(hop, transactions=3)

    async def test_over_a_unix_socket(self) -> None:
        hop = self.hop(path=tempfile.mkdtemp() + "/lmtp", lmtp=True)
        _, replies = await deliver(self.engine(hop, lmtp=True), recipient("b"), recipient("c"))
        self.assertEqual([reply.code for reply in replies], [250, 250])
        self.assertEqual(hop.connections[0].verbs[0], b"LHLO")

    async def test_at_the_same_time_they_have_one_each(self) -> None:
        hop = self.hop()
        engine = self.engine(hop)
        await gatherResults([spawn(deliver(engine)) for _ in range(4)])
        self.assertEqual(len(hop.connections), 4)
        self.assertEqual((engine.pool.open_count, engine.pool.idle_count), (4, 4))

    async def test_no_more_than_max_connections(self) -> None:
        hop = self.hop()
        engine = self.engine(hop, pool=PoolSettings(max_connections=2))
        results = await gatherResults([spawn(deliver(engine)) for _ in range(9)])
        self.assertEqual([replies[0].code for _, replies in results], [250] * 9)
        self.assertEqual(len(hop.connections), 2)
        check_hop(hop, transactions=9)

    async def test_max_idle(self) -> None:
        hop = self.hop()
        engine = self.engine(hop, pool=PoolSettings(max_idle=1))
        for _ in range(3):  # those beyond it outlast the lull between two bursts
            await gatherResults([spawn(deliver(engine)) for _ in range(3)])
        self.assertEqual(len(hop.connections), 3)
        await hop.when(lambda: hop.open_connections == 1)
        self.assertEqual(engine.pool.idle_count, 1)


class PipeliningTest(_Hops):
    async def test_mail_and_the_first_rcpt_in_one_write(self) -> None:
        hop = self.hop()
        seen: list[int] = []
        hop._script = lambda step, connection, line: seen.append(len(connection.commands)) if step is Step.MAIL else None
        engine = self.engine(hop)
        delivery = Delivery(engine, envelope())
        self.assertEqual((await delivery.rcpt(recipient())).code, 250)
        self.assertEqual(hop.connections[0].commands[1:], [b"MAIL FROM:<a@x.example>", b"RCPT TO:<b@y.example>"])
        delivery.abort()

    async def test_a_server_without_pipelining_gets_one_at_a_time(self) -> None:
        hop = self.hop(extensions=(), script=_only_when_answered)
        _, replies = await deliver(self.engine(hop), recipient("b"), recipient("c"))
        self.assertEqual([reply.code for reply in replies], [250, 250])

    async def test_a_refused_mail_is_the_answer_to_rcpt_and_rcpt_is_not_said(self) -> None:
        hop = self.hop(extensions=(), script={Step.MAIL: say(b"550 5.7.1 not you")})
        heard, _ = await deliver(self.engine(hop), recipient("b"), recipient("c"))
        self.assertEqual([str(reply) for reply in heard], ["550 5.7.1 not you"] * 2)
        self.assertNotIn(b"RCPT", hop.connections[0].verbs)
        self.assertEqual(hop.mail_count, 1)


def _only_when_answered(step: Step, connection: Any, line: bytes) -> Any:
    """Commands arrive one by one: nothing stands behind the line that is being answered."""
    said = bytes(connection.clear)
    return None if step is Step.BODY or step is Step.DOT or not line or said.endswith(line + b"\r\n") else say(b"500 pipelined")


class RecipientTest(_Hops):
    async def test_a_refused_recipient_hears_it_and_the_others_get_the_message(self) -> None:
        hop = self.hop(script={Step.RCPT: [None, say(b"550 5.1.1 nobody"), say(b"452 4.2.2 full"), None]})
        heard, replies = await deliver(self.engine(hop), *[recipient(name) for name in "abcd"])
        self.assertEqual([reply.code for reply in heard], [250, 550, 452, 250])
        self.assertEqual([reply.code for reply in replies], [250, 250])
        self.assertEqual(hop.transactions[0].paths, [b"a@y.example", b"d@y.example"])

    async def test_a_4xx_first_recipient_moves_to_the_next_endpoint(self) -> None:
        first = self.hop(script={Step.RCPT: say(b"450 4.2.0 greylisted")})
        second = self.hop()
        engine = self.engine(first, second)
        _, replies = await deliver(engine)
        self.assertEqual((replies[0].code, len(second.transactions)), (250, 1))
        await first.when(lambda: b"RSET" in first.connections[0].verbs)
        self.assertIs(engine.endpoints[0].circuit.state, State.CLOSED)

    async def test_not_with_tempfail_no(self) -> None:
        first = self.hop(script={Step.RCPT: say(b"450 4.2.0 greylisted")})
        second = self.hop()
        heard, _ = await deliver(self.engine(first, second, tempfail=False))
        self.assertEqual((heard[0].code, second.mail_count), (450, 0))

    async def test_4xx_everywhere_is_the_last_one_heard(self) -> None:
        hops = [self.hop(script={Step.RCPT: say(b"450 4.2.%d no" % number)}) for number in (1, 2)]
        heard, _ = await deliver(self.engine(*hops))
        self.assertEqual((heard[0].code, heard[0].enhanced), (450, "4.2.2"))

    async def test_what_a_server_said_counts_more_than_a_dead_one(self) -> None:
        said = self.hop(script={Step.MAIL: say(b"451 4.7.1 greylisted")})
        dead = self.hop(script={Step.BANNER: say(b"554 5.3.2 no service")})
        heard, _ = await deliver(self.engine(said, dead))
        self.assertEqual((heard[0].code, heard[0].enhanced), (451, "4.7.1"))

    async def test_one_that_the_replay_refuses_fails_the_message_over_smtp(self) -> None:
        first = self.hop(script={Step.DATA: say(b"421 4.3.2 bye", then_drop=True)})
        second = self.hop(script={Step.RCPT: [None, say(b"550 5.1.1 nobody")]})
        _, replies = await deliver(self.engine(first, second), recipient("b"), recipient("c"))
        self.assertEqual([(reply.code, reply.enhanced) for reply in replies], [(451, "4.3.0")] * 2)
        self.assertNotIn(b"DATA", second.connections[0].verbs)

    async def test_one_that_the_replay_refuses_fails_alone_over_lmtp(self) -> None:
        first = self.hop(lmtp=True, script={Step.DATA: say(b"421 4.3.2 bye", then_drop=True)})
        second = self.hop(lmtp=True, script={Step.RCPT: [None, say(b"550 5.1.1 nobody")]})
        _, replies = await deliver(self.engine(first, second, lmtp=True), *[recipient(name) for name in "bcd"])
        self.assertEqual([reply.code for reply in replies], [250, 451, 250])
        self.assertEqual(second.transactions[0].paths, [b"b@y.example", b"d@y.example"])

    async def test_withdrawn_recipients_do_not_get_the_message(self) -> None:
        hop = self.hop()
        delivery = Delivery(self.engine(hop), envelope())
        recipients = [recipient(name) for name in "abc"]
        for one in recipients:
            await delivery.rcpt(one)
        delivery.withdraw(recipients[1:2])
        replies = await delivery.send(make_message())
        self.assertEqual([reply.code for reply in replies], [250, 250])
        self.assertEqual([t.paths for t in hop.transactions], [[b"a@y.example", b"c@y.example"]])
        self.assertEqual(len(hop.connections), 1)

    async def test_an_address_that_would_break_out_of_its_command(self) -> None:
        hop = self.hop()
        engine = self.engine(hop)
        for name in ("b>\r\nRSET", "b> X=1", "b\0", "b c", 'b"c'):
            heard, _ = await deliver(engine, recipient(name))
            self.assertEqual((heard[0].code, heard[0].enhanced), (553, "5.1.3"), name)
        await deliver(engine)
        check_hop(hop, transactions=1)


class HoldTest(_Hops):
    async def test_a_client_that_pauses_gives_the_connection_back_and_the_envelope_is_replayed(self) -> None:
        hop = self.hop()
        engine = self.engine(hop, hold_timeout=0.02)
        delivery = Delivery(engine, envelope())
        await delivery.rcpt(recipient("b"))
        await until(lambda: engine.pool.idle_count == 1)
        self.assertEqual(hop.connections[0].verbs[-1], b"RSET")
        await delivery.rcpt(recipient("c"))
        await until(lambda: engine.pool.idle_count == 1)
        self.assertEqual(hop.connections[0].verbs.count(b"RSET"), 2)
        replies = await delivery.send(make_message())
        self.assertEqual([reply.code for reply in replies], [250, 250])
        self.assertEqual([t.paths for t in hop.transactions], [[b"b@y.example", b"c@y.example"]])
        self.assertEqual(len(hop.connections), 1)

    async def test_a_connection_that_is_lost_meanwhile_is_replaced(self) -> None:
        hop = self.hop()
        engine = self.engine(hop)
        delivery = Delivery(engine, envelope())
        await delivery.rcpt(recipient("b"))
        hop.drop_connections()
        await until(lambda: engine.pool.open_count == 0)
        self.assertEqual([reply.code for reply in await delivery.send(make_message())], [250])
        self.assertEqual(hop.transactions[0].paths, [b"b@y.example"])


class AbortTest(_Hops):
    async def test_an_aborted_transaction_is_reset_and_the_connection_kept(self) -> None:
        hop = self.hop()
        engine = self.engine(hop)
        delivery = Delivery(engine, envelope())
        await delivery.rcpt(recipient())
        delivery.abort()
        delivery.abort()
        await until(lambda: engine.pool.idle_count == 1)
        self.assertEqual(hop.connections[0].verbs[-1], b"RSET")
        await deliver(engine)
        self.assertEqual((len(hop.connections), len(hop.transactions)), (1, 1))

    async def test_cancelled_while_waiting_for_rcpt(self) -> None:
        hop = self.hop(script={Step.RCPT: HANG})
        engine = self.engine(hop, timeouts=timeouts(rset=0.05, quit=0.05))
        waiting = spawn(Delivery(engine, envelope()).rcpt(recipient()))
        await hop.when(lambda: hop.connections != [] and b"RCPT" in hop.connections[0].verbs)
        waiting.cancel()
        await self.assertFailure(waiting, CancelledError)
        await hop.when(lambda: hop.open_connections == 0)
        self.assertEqual(engine.pool.open_count, 0)

    async def test_cancelled_while_connecting(self) -> None:
        hop = self.hop(script={Step.BANNER: HANG})
        engine = self.engine(hop)
        waiting = spawn(Delivery(engine, envelope()).rcpt(recipient()))
        await hop.when(lambda: hop.open_connections == 1)
        waiting.cancel()
        await self.assertFailure(waiting, CancelledError)
        await hop.when(lambda: hop.open_connections == 0)
        self.assertEqual(engine.pool.open_count, 0)

    async def test_in_the_middle_of_the_content_nothing_is_delivered(self) -> None:
        hop = self.hop(script={Step.DATA: HANG})
        engine = self.engine(hop, timeouts=timeouts(rset=0.05, quit=0.05))
        delivery = Delivery(engine, envelope())
        await delivery.rcpt(recipient())
        sending = spawn(delivery.send(make_message()))
        await hop.when(lambda: b"DATA" in hop.connections[0].verbs)
        delivery.abort()
        self.assertEqual([reply.code for reply in await sending], [451])
        await hop.when(lambda: hop.open_connections == 0)
        self.assertEqual(hop.transactions, [])

    async def test_after_the_dot_the_answer_is_read_and_logged(self) -> None:
        hop = self.hop(script=self.late)
        observed = Observed()
        engine = self.engine(hop, observed=observed)
        delivery = Delivery(engine, envelope())
        await delivery.rcpt(recipient())
        sending = spawn(delivery.send(make_message()))
        await hop.when(lambda: bytes(hop.connections[0].clear).endswith(b"\r\n.\r\n"))
        sending.cancel()
        await self.assertFailure(sending, CancelledError)
        self.held[0](b"250 2.0.0 ok\r\n")
        await until(lambda: engine.pool.idle_count == 1)
        await deliver(engine)
        events = observed.named("delivery.late")
        self.assertEqual([str(event["reply"]) for event in events], ["250 2.0.0 ok"])
        self.assertEqual(len(hop.connections), 1)

    async def test_a_354_that_comes_too_late_gets_no_content(self) -> None:
        self.late_step = Step.DATA
        hop = self.hop(script=self.late)
        engine = self.engine(hop)
        delivery = Delivery(engine, envelope())
        await delivery.rcpt(recipient())
        sending = spawn(delivery.send(make_message()))
        await hop.when(lambda: bytes(hop.connections[0].clear).endswith(b"DATA\r\n"))
        delivery.abort()
        self.assertEqual([reply.code for reply in await sending], [451])
        self.held[0](b"354 go\r\n")
        await hop.when(lambda: hop.open_connections == 0)
        self.assertTrue(bytes(hop.connections[0].clear).endswith(b"DATA\r\n"))
        self.assertEqual((hop.transactions, engine.pool.open_count), ([], 0))

    held: Any = ()
    late_step = Step.DOT

    def late(self, step: Step, connection: Any, line: bytes) -> Any:
        if step is self.late_step and not self.held:
            peer = next(iter(self.hops_open()))
            self.held = [peer.transport.write]
            return say()
        return None

    def hops_open(self) -> Any:
        return self._made._open

    def hop(self, path: str = "", **settings: Any) -> NextHop:
        self._made = super().hop(path, **settings)
        return self._made


class ContentTest(_Hops):
    async def check(self, content: bytes, **settings: Any) -> NextHop:
        hop = self.hop(**settings)
        _, replies = await deliver(self.engine(hop), message=make_message(content))
        self.assertEqual(replies[0].code, 250)
        check_hop(hop, transactions=1)
        return hop

    async def test_dots(self) -> None:
        content = b".a: b\r\n\r\n.\r\n..\r\n.x\r\n"
        hop = await self.check(content)
        self.assertEqual(hop.transactions[0].content, content)

    async def test_an_empty_message(self) -> None:
        hop = await self.check(b"")
        self.assertEqual(hop.transactions[0].content, b"")

    async def test_a_missing_line_end_is_added(self) -> None:
        hop = await self.check(b"A: b\r\n\r\nno end")
        self.assertEqual(hop.transactions[0].content, b"A: b\r\n\r\nno end\r\n")

    async def test_from_disk_in_blocks(self) -> None:
        content = b"A: b\r\n\r\n" + b".dots at every border\r\n" * 50_000 + b"no end"
        for chunking in (False, True):
            hop = self.hop(extensions=(*BASIC, b"CHUNKING"))
            message = await fill(content, real_adapters())
            _, replies = await deliver(self.engine(hop, chunking=chunking), message=message)
            message.body.release()
            self.assertEqual(replies[0].code, 250)
            self.assertEqual(hop.transactions[0].content, content if chunking else content + b"\r\n")
            self.assertEqual(hop.transactions[0].via, "BDAT" if chunking else "DATA")
            check_hop(hop, transactions=1)

    async def test_chunking_where_it_is_not_offered(self) -> None:
        hop = self.hop()
        await deliver(self.engine(hop, chunking=True))
        self.assertEqual(hop.transactions[0].via, "DATA")

    async def test_a_refused_chunk_moves_on(self) -> None:
        content = b"A: b\r\n\r\n" + b"x" * 70 + b"\r\n"
        content += b"y\r\n" * 60_000
        bad = self.hop(extensions=(*BASIC, b"CHUNKING"), script={Step.BODY: say(b"451 4.3.0 no")})
        good = self.hop(extensions=(*BASIC, b"CHUNKING"))
        _, replies = await deliver(self.engine(bad, good, chunking=True), message=make_message(content))
        self.assertEqual(replies[0].code, 250)
        self.assertEqual([t.content for t in good.transactions], [content])

    @needs_tracemalloc
    async def test_large_messages_do_not_grow_memory(self) -> None:
        import tracemalloc

        """The next hop is deaf, so nothing leaves: what is held is what we read ahead, not the message."""
        hop = self.hop(script={Step.BODY: DEAF})
        engine = self.engine(hop)
        content = b"A: b\r\n\r\n" + (b"z" * 70 + b"\r\n") * (32 * 1024 * 1024 // 72)
        message = await fill(content, real_adapters())
        del content
        delivery = Delivery(engine, envelope())
        await delivery.rcpt(recipient())
        connection = delivery._transaction.connection
        assert connection is not None
        gc.collect()
        tracemalloc.start()
        sending = spawn(delivery.send(message))
        await until(lambda: connection.congested)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        delivery.abort()
        await sending
        message.body.release()
        self.assertLess(peak, 1536 * 1024)


class ParameterTest(_Hops):
    async def mail(self, parameters: MailParameters, *extensions: bytes, message: Any = None) -> bytes:
        hop = self.hop(extensions=(*BASIC, *extensions))
        heard, replies = await deliver(self.engine(hop), message=message, parameters=parameters)
        self.assertEqual((replies or heard)[0].code, 250)
        return hop.transactions[-1].mail

    async def refused(self, parameters: MailParameters, *extensions: bytes, message: Any = None) -> str:
        hop = self.hop(extensions=(*BASIC, *extensions))
        heard, replies = await deliver(self.engine(hop), message=message, parameters=parameters)
        self.assertEqual(hop.transactions, [])
        reply = (replies or heard)[0]
        return f"{reply.code} {reply.enhanced}"

    async def test_size(self) -> None:
        self.assertEqual(await self.mail(MailParameters(size=100), b"SIZE 100000"), b"<a@x.example> SIZE=1124")
        self.assertEqual(await self.mail(MailParameters(), b"SIZE"), b"<a@x.example>")
        self.assertEqual(await self.mail(MailParameters(size=100)), b"<a@x.example>")

    async def test_size_over_the_limit(self) -> None:
        self.assertEqual(await self.refused(MailParameters(size=1000), b"SIZE 500"), "552 5.3.4")
        large = make_message(CONTENT * 100)
        self.assertEqual(await self.refused(MailParameters(), b"SIZE 500", message=large), "552 5.3.4")

    async def test_eight_bit_content(self) -> None:
        eight = make_message("A: b\r\n\r\nä\r\n".encode())
        declared = MailParameters(body=BodyType.EIGHT_BIT)
        self.assertEqual(await self.mail(declared, b"8BITMIME", message=eight), b"<a@x.example> BODY=8BITMIME")
        self.assertEqual(await self.mail(MailParameters(), b"8BITMIME", message=eight), b"<a@x.example> BODY=8BITMIME")
        self.assertEqual(await self.mail(declared), b"<a@x.example>")
        self.assertEqual(await self.refused(declared, message=eight), "550 5.6.3")
        self.assertEqual(await self.refused(MailParameters(), message=eight), "550 5.6.3")

    async def test_binary(self) -> None:
        binary = MailParameters(body=BodyType.BINARY)
        message = make_message(b"A: b\r\n\r\n\x00\r\n")
        mail = await self.mail(binary, b"BINARYMIME", b"CHUNKING", message=message)
        self.assertEqual(mail, b"<a@x.example> BODY=BINARYMIME")
        self.assertEqual(await self.refused(binary, b"BINARYMIME", message=message), "550 5.6.3")

    async def test_internationalized(self) -> None:
        utf8 = MailParameters(smtputf8=True)
        header = make_message("Subject: ä\r\n\r\nx\r\n".encode())
        self.assertEqual(await self.mail(utf8, b"SMTPUTF8"), b"<a@x.example>")
        mail = await self.mail(utf8, b"SMTPUTF8", b"8BITMIME", message=header)
        self.assertEqual(mail, b"<a@x.example> BODY=8BITMIME SMTPUTF8")
        self.assertEqual(await self.refused(utf8, b"8BITMIME", message=header), "550 5.6.7")

    async def test_addresses(self) -> None:
        hop = self.hop(extensions=BASIC)
        engine = self.engine(hop)
        heard, _ = await deliver(engine, recipient("b", "bücher.example"))
        self.assertEqual(hop.transactions[0].paths, [b"b@xn--bcher-kva.example"])
        heard, _ = await deliver(engine, recipient("bü", "y.example"))
        self.assertEqual((heard[0].code, heard[0].enhanced), (550, "5.6.7"))

    async def test_a_later_recipient_that_needs_smtputf8(self) -> None:
        hop = self.hop()
        _, replies = await deliver(self.engine(hop), recipient("b"), recipient("bü"))
        self.assertEqual([reply.code for reply in replies], [250, 250])
        self.assertEqual(hop.transactions[-1].mail, b"<a@x.example> SMTPUTF8")
        self.assertEqual(hop.transactions[-1].paths, [b"b@y.example", "bü@y.example".encode()])

    async def test_dsn(self) -> None:
        given = MailParameters(ret="HDRS", envid="QQ314159")
        for lmtp, extensions, mail, rcpt in (
            (False, (b"DSN",), b" RET=HDRS ENVID=QQ314159", b" NOTIFY=DELAY,FAILURE ORCPT=rfc822;b@y.example"),
            (False, (), b"", b""),
            (True, (b"DSN",), b"", b""),
        ):
            hop = self.hop(lmtp=lmtp, extensions=(*BASIC, *extensions))
            one = recipient("b", notify=frozenset({"FAILURE", "DELAY"}), orcpt="rfc822;b@y.example")
            await deliver(self.engine(hop, lmtp=lmtp), one, parameters=given)
            self.assertEqual(hop.transactions[0].mail, b"<a@x.example>" + mail)
            self.assertEqual(hop.transactions[0].recipients, [b"<b@y.example>" + rcpt])

    async def test_the_null_sender(self) -> None:
        hop = self.hop()
        delivery = Delivery(self.engine(hop), envelope(sender=Address("", "")))
        await delivery.rcpt(recipient())
        await delivery.send(make_message())
        self.assertEqual(hop.transactions[0].mail, b"<>")


class WireLogTest(_Hops):
    async def test_the_dialogue_without_content(self) -> None:
        hop = self.hop()
        observed = Observed()
        await deliver(self.engine(hop, observed=observed, debug=True))
        lines = [f"{event['dir']} {event['line']}" for event in observed.named("wire")]
        self.assertEqual(lines[0][:5], "< 220")
        self.assertIn("> RCPT TO:<b@y.example>", lines)
        self.assertIn("> (content and final dot)", lines)
        self.assertNotIn("Hello", "".join(lines))
