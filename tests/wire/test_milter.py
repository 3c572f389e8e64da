"""check.milter against a filter that answers as the rows say: what it hears, what its answers do, and what its silence does."""

from __future__ import annotations

import struct
from typing import Any

from mailgate.registry import build
from mailgate.testing.client import RawClient, connect
from tests.support import milter as say
from tests.support.milter import ScriptedMilter
from tests.support.scenario import SMTP, statuses
from tests.wire.test_content import CONTENT, ContentCase

OK = b"250 2.0.0"
TEMPORARY = b"451 4.3.0"
NO_STEPS = {b"C": 0x1, b"H": 0x2, b"M": 0x4, b"R": 0x8, b"B": 0x10, b"L": 0x20, b"N": 0x40, b"T": 0x200}


class MilterCase(ContentCase):
    def filtered(
        self,
        *lines: str,
        hop: dict[str, Any] | None = None,
        rules: str = "deliver_to &next",
        top: str = "",
        listener: str = "tls off",
        checks: str = "",
        **options: Any,
    ) -> None:
        """A gateway that asks `milter`; ``lines`` are settings of its check, ``checks`` takes the place of that."""
        self._strike()
        self._raise()
        self.milter = ScriptedMilter(**options)
        self.reactor.listenTCP(8891, self.milter, interface="127.0.0.1")
        self.next_hop = self.hop(**(hop or {}))
        block = "\n".join(lines)
        checks = checks or f"check {{\nmilter tcp://127.0.0.1:8891 {{\n{block}\n}}\n}}"
        self.gateway(
            f"target.smtp next {{\ntargets {self.next_hop.endpoint}\n}}\n{top}\n"
            f"smtp {SMTP} {{\n{listener}\n{checks}\n{rules}\n}}\n"
            f"smtp tcp://127.0.0.1:2626 {{\ntls off\ndeliver_to &next\n}}\n"
        )

    def rest_of_header(self) -> bytes:
        """What stands behind our own Received."""
        header = self.content().partition(b"\r\n\r\n")[0]
        return header[header.index(b"\r\nFrom") + 2 :] if b"\r\nFrom" in header else header

    def greeted(self, *packets: bytes, lines: tuple[str, ...] = (), **options: Any) -> bytes:
        """What a client hears at first if the filter says this of its connection."""
        self.filtered(*lines, **options)
        self.milter.answers[b"C"] = list(packets)
        client = self.reactor.run(connect(self.reactor, SMTP))
        greeting: bytes = self.reactor.run(client.reply())
        if greeting[:3] != b"220":
            self.reactor.run(client.wait_closed())
        self.reactor.run(client.close())
        self.reactor.settle(1)
        return greeting

    def answered(self, command: bytes, *packets: bytes, lines: tuple[str, ...] = (), **options: Any) -> list[bytes]:
        """All that a client hears, from MAIL's reply on."""
        self.filtered(*lines, **options)
        self.milter.answers[command] = list(packets)
        client = self.client()
        found = statuses(self.deliver(client, b"b@y.test", content=CONTENT))
        self.reactor.run(client.quit())
        return found


class WhatItHears(MilterCase):
    def test_everything(self) -> None:
        self.filtered()
        self.assertEqual(self.send(b"b@y.test", b"c@y.test"), [OK])
        self.reactor.settle(5)
        heard = [(command, data) for command, data in self.milter.heard if command != b"D"]
        self.assertEqual(b"".join(command for command, _ in heard), b"OCHMRRTLLLNBEQ")
        said = dict(heard)
        (port,) = struct.unpack("!H", said[b"C"][-12:-10])
        self.assertEqual(said[b"C"], b"[127.0.0.1]\x004" + struct.pack("!H", port) + b"127.0.0.1\0")
        self.assertGreater(port, 0)
        self.assertEqual(said[b"H"], b"client.test\0")
        self.assertEqual(said[b"M"], b"<sender@client.test>\0")
        self.assertEqual(self.milter.data(b"R"), [b"<b@y.test>\0", b"<c@y.test>\0"])
        self.assertEqual(self.milter.data(b"L"), [b"From\0a@x.test\0", b"Subject\0one\0", b"Subject\0two\0"])
        self.assertEqual(said[b"B"], b"hello\r\n")

    def test_macros(self) -> None:
        wanted = b"".join(
            struct.pack("!I", stage) + names + b"\0" for stage, names in ((2, b"{mail_addr} {unknown}"), (5, b"i j"))
        )
        self.filtered(macros=wanted)
        self.assertEqual(self.send(), [OK])
        told = {data[:1]: data[1:].split(b"\0") for data in self.milter.data(b"D")}
        self.assertEqual(told[b"M"], [b"{mail_addr}", b"sender@client.test", b""])
        self.assertEqual(told[b"R"][2:6], [b"{rcpt_addr}", b"b@y.test", b"{rcpt_host}", b"y.test"])
        self.assertEqual(told[b"E"][2:], [b"j", b"gateway.test", b""])
        self.assertIn(b"{daemon_name}", told[b"C"])

    def test_what_it_does_not_want(self) -> None:
        for letter, flag in NO_STEPS.items():
            self.filtered(steps=flag)
            self.assertEqual(self.send(), [OK], letter)
            self.assertNotIn(letter, self.milter.commands(), letter)
            self.assertIn(b"E", self.milter.commands())
        self.filtered(steps=sum(NO_STEPS.values()))
        self.assertEqual(self.send(), [OK])
        self.reactor.settle(1)
        self.assertEqual(self.milter.commands().replace(b"D", b""), b"OEQ")

    def test_what_it_does_not_answer(self) -> None:
        self.filtered(steps=sum(say.QUIET.values()))
        self.assertEqual(self.send(), [OK])
        self.reactor.settle(1)
        self.assertEqual(self.milter.commands().replace(b"D", b""), b"OCHMRTLLLNBEQ")

    def test_leading_spaces(self) -> None:
        self.filtered(steps=0x100000)
        self.assertEqual(self.send(), [OK])
        self.assertEqual(self.milter.data(b"L")[0], b"From\0 a@x.test\0")

    def test_a_body_in_pieces_and_enough_of_it(self) -> None:
        long = CONTENT + b"0123456789abcde\r\n" * 20_000
        for answer, pieces in ((say.CONTINUE, 6), (say.SKIP, 1)):
            self.filtered()
            self.milter.answers[b"B"] = [answer]
            client = self.client()
            self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=long))[-1], OK)
            self.reactor.run(client.quit())
            self.assertEqual(len(self.milter.data(b"B")), pieces)
            if answer == say.CONTINUE:
                self.assertEqual(b"".join(self.milter.data(b"B")), long.partition(b"\r\n\r\n")[2])


class Answers(MilterCase):
    def test_refusals_at_each_step(self) -> None:
        for packet, expected in (
            (say.REJECT, b"550 5.7.1"),
            (say.TEMPFAIL, b"451 4.7.1"),
            (say.reply(b"554 5.6.9 not this one"), b"554 5.6.9"),
            (say.reply(b"450 later"), b"450 4.7.1"),
        ):
            self.assertEqual(self.greeted(packet)[:9], (b"554" if packet[:2] in (b"r", b"y5") else b"421") + expected[3:])
            self.assertEqual(self.milter.commands().replace(b"D", b""), b"OCQ")
            for command in (b"C", b"H", b"M", b"R"):
                found = self.answered(command, packet, lines=("at_connection no",))
                self.assertEqual(found[1], expected, (command, packet))
            for command in (b"T", b"L", b"N", b"B", b"E"):
                self.assertEqual(self.answered(command, packet)[-1], expected, (command, packet))
                self.assertEqual([one for one in self.next_hop.transactions if one.content], [])

    def test_a_filter_that_shuts_down(self) -> None:
        self.assertEqual(self.answered(b"E", say.SHUTDOWN)[-1], b"451 4.7.0")
        self.filtered()
        self.milter.answers[b"M"] = [say.SHUTDOWN]
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>")
        self.assertEqual(self.ask(client, b"RCPT TO:<b@y.test>")[:9], b"421 4.7.0")
        self.reactor.run(client.wait_closed())

    def test_its_words_may_be_replaced(self) -> None:
        self.filtered('on_fail reject 550 5.7.9 "no"')
        self.milter.answers[b"E"] = [say.REJECT]
        self.assertEqual(self.send(), [b"550 5.7.9"])
        self.filtered("on_fail quarantine")
        self.milter.answers[b"E"] = [say.REJECT]
        self.assertEqual(self.send(), [OK])
        self.assertIn(b"X-Mailgate-Quarantine: yes\r\n", self.content())

    def test_one_recipient_is_refused(self) -> None:
        self.filtered()
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>")
        self.milter.answers[b"R"] = [say.reply(b"550 5.1.1 not her")]
        self.assertEqual(self.ask(client, b"RCPT TO:<b@y.test>")[:9], b"550 5.1.1")
        del self.milter.answers[b"R"]
        self.assertEqual(self.ask(client, b"RCPT TO:<c@y.test>")[:3], b"250")
        self.finish(client)
        self.assertEqual(self.next_hop.transactions[-1].recipients, [b"<c@y.test>"])

    def finish(self, client: RawClient) -> None:
        self.assertEqual(self.ask(client, b"DATA")[:3], b"354")
        self.assertEqual(self.ask(client, CONTENT + b".")[:3], b"250")
        self.reactor.run(client.quit())

    def test_accepted_and_thrown_away(self) -> None:
        for command in (b"C", b"H", b"M", b"R", b"T", b"L", b"B"):
            self.assertEqual(self.answered(command, say.ACCEPT)[-1], OK, command)
            self.assertNotIn(b"E", self.milter.commands())
            self.assertEqual(len([one for one in self.next_hop.transactions if one.content]), 1)
        for command in (b"M", b"R", b"L", b"E"):
            self.assertEqual(self.answered(command, say.DISCARD)[-1], OK, command)
            self.assertEqual([one for one in self.next_hop.transactions if one.content], [], command)

    def test_at_work(self) -> None:
        self.assertEqual(self.answered(b"E", say.PROGRESS, say.PROGRESS, say.CONTINUE)[-1], OK)


class Changes(MilterCase):
    def changed(self, *packets: bytes, **options: Any) -> list[bytes]:
        self.filtered(**options)
        self.milter.answers[b"E"] = [*packets, say.CONTINUE]
        return self.send()

    def test_headers_body_and_recipients(self) -> None:
        packets = (
            say.add_header(b"X-Last", b"1\n\t2"),
            say.insert_header(1, b"X-First", b"0"),
            say.change_header(2, b"Subject", b"second"),
            say.change_header(1, b"Subject", b""),
            say.replace_body(b"new\nbo"),
            say.replace_body(b"dy\r"),
            say.replace_body(b"\n.end"),
            say.add_rcpt(b"<c@y.test>"),
            say.delete_rcpt(b"<b@y.test>"),
            say.change_from(b"<bounces@x.test>"),
            b"qlooks odd\0",
        )
        self.assertEqual(self.changed(*packets), [OK])
        header, _, body = self.content(-1).partition(b"\r\n\r\n")
        self.assertTrue(header.endswith(b"X-First: 0\r\nFrom: a@x.test\r\nSubject: second\r\nX-Last: 1\r\n\t2"), header)
        self.assertEqual(body, b"new\r\nbody\r\n.end\r\n")
        self.assertTrue(header.startswith(b"X-Mailgate-Quarantine: yes\r\nReceived: "))
        last = self.next_hop.transactions[-1]
        self.assertEqual((last.sender, last.recipients), (b"bounces@x.test", [b"<c@y.test>"]))
        assert self.running is not None
        self.assertIn('answer=quarantine reason="looks odd"', self.running.logged("check.answered")[0])

    def test_above_our_own_trace(self) -> None:
        self.assertEqual(self.changed(say.insert_header(0, b"X-Top", b"1")), [OK])
        self.assertTrue(self.content().startswith(b"X-Top: 1\r\nReceived: "))

    def test_changes_of_a_refused_message_do_nothing(self) -> None:
        self.filtered()
        self.milter.answers[b"E"] = [say.add_rcpt(b"c@y.test"), say.REJECT]
        self.assertEqual(self.send(), [b"550 5.7.1"])
        self.assertEqual([one for one in self.next_hop.transactions if one.content], [])

    def test_what_was_not_agreed_on_and_what_cannot_be(self) -> None:
        self.assertEqual(self.changed(say.add_header(b"X", b"1"), actions=0x2), [TEMPORARY])
        for packet in (say.add_header(b"X Y", b"1"), say.add_rcpt(b"<nobody@>"), b"h", b"m\0\0", b"Z", say.reply(b"200 ok")):
            self.assertEqual(self.changed(packet), [TEMPORARY], packet)
        self.filtered("max_replacement 1K")
        self.milter.answers[b"E"] = [say.replace_body(b"x" * 600), say.replace_body(b"x" * 600), say.CONTINUE]
        self.assertEqual(self.send(), [TEMPORARY])


class Connections(MilterCase):
    def test_one_connection_for_the_messages_of_a_client(self) -> None:
        self.filtered()
        for _ in range(2):
            client = self.client()
            for _ in range(3):
                self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], OK)
            self.reactor.run(client.quit())
        self.reactor.settle(1)
        once = b"OCH" + b"MRTLLLNBE" * 3 + b"Q"
        self.assertEqual(self.milter.commands().replace(b"D", b""), once * 2)

    def test_another_hello(self) -> None:
        self.filtered()
        client = self.client()
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], OK)
        self.ask(client, b"EHLO other.test")
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], OK)
        self.reactor.run(client.quit())
        self.assertEqual(self.milter.data(b"H"), [b"client.test\0", b"other.test\0"])
        self.assertEqual(self.milter.commands().count(b"C"), 1)

    def test_a_client_that_is_accepted(self) -> None:
        for command in (b"C", b"H"):
            self.filtered()
            self.milter.answers[command] = [say.ACCEPT]
            client = self.client()
            for _ in range(2):
                self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], OK)
            self.reactor.run(client.quit())
            self.assertEqual(self.milter.commands().count(command), 1)
            self.assertNotIn(b"M", self.milter.commands())

    def test_one_connection_for_many_clients(self) -> None:
        self.filtered("reuse yes")
        for _ in range(3):
            self.assertEqual(self.send(), [OK])
        self.reactor.settle(1)
        self.assertEqual(len(self.milter.connections), 1)
        self.assertEqual(self.milter.commands().count(b"O"), 1)
        self.assertEqual(self.milter.commands().count(b"C"), 3)
        self.assertEqual(self.milter.commands().count(b"K"), 3)

    def test_old_filters_have_one_for_each(self) -> None:
        self.filtered("reuse yes", version=2)
        for _ in range(2):
            self.assertEqual(self.send(), [OK])
        self.assertEqual(len(self.milter.connections), 2)
        self.assertNotIn(b"T", self.milter.commands())
        self.assertNotIn(b"K", self.milter.commands())

    def test_one_that_was_closed_meanwhile(self) -> None:
        self.filtered()
        client = self.client()
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], OK)
        self.milter.connections[0].transport.loseConnection()  # type: ignore[union-attr]
        self.reactor.settle(1)
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], OK)
        self.reactor.run(client.quit())
        self.assertEqual(len(self.milter.connections), 2)

    def test_a_transaction_that_is_given_up(self) -> None:
        self.filtered()
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>", b"RCPT TO:<b@y.test>", b"RSET")
        self.reactor.settle(1)
        self.assertEqual(self.milter.commands()[-1:], b"A")
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], OK)
        self.reactor.run(client.quit())
        self.assertEqual(len(self.milter.connections), 1)

    def test_what_cannot_be_agreed_on(self) -> None:
        for options in ({"version": 1}, {"version": 7}, {}):
            self.filtered(**options)
            if not options:
                self.milter.answers[b"O"] = [say.CONTINUE]
            self.assertEqual(self.send_refused(), TEMPORARY, options)

    def send_refused(self) -> bytes:
        client = self.client()
        found = statuses(self.deliver(client, b"b@y.test", content=CONTENT))
        self.reactor.run(client.quit())
        return found[1] if found[1][:1] != b"2" else found[-1]

    def test_no_answer_is_no_pass(self) -> None:
        for command in (b"O", b"C", b"H", b"M", b"R", b"T", b"L", b"N", b"B", b"E"):
            for packet in (say.DROP, say.HANG, b"\xff", b"cc"):
                self.filtered("command_timeout 2s", "connect_timeout 1s", "content_timeout 3s")
                self.milter.answers[command] = [packet]
                self.assertEqual(self.send_refused(), TEMPORARY, (command, packet))
                self.assertEqual([one for one in self.next_hop.transactions if one.content], [])
        self.filtered("on_error ignore")
        self.milter.answers[b"E"] = [say.DROP]
        self.assertEqual(self.send_refused(), OK)

    def test_endless_progress_ends(self) -> None:
        self.filtered("content_timeout 1s")
        self.milter.answers[b"E"] = [say.PROGRESS]
        before = self.reactor.seconds()
        self.assertEqual(self.send_refused(), TEMPORARY)
        self.assertLess(self.reactor.seconds(), before + 10)

    def test_a_hanging_filter_trips_its_breaker_and_others_run_on(self) -> None:
        self.filtered("command_timeout 5s")
        self.milter.answers[b"M"] = [say.HANG]
        client = self.client()
        for _ in range(3):
            self.say(client, b"RSET", b"MAIL FROM:<a@x.test>")
            self.assertEqual(self.ask(client, b"RCPT TO:<b@y.test>")[:9], TEMPORARY)
        before, asked = self.reactor.seconds(), len(self.milter.connections)
        self.say(client, b"RSET", b"MAIL FROM:<a@x.test>")
        self.assertEqual(self.ask(client, b"RCPT TO:<b@y.test>")[:9], TEMPORARY)
        self.assertLess(self.reactor.seconds(), before + 0.5)
        self.assertEqual(len(self.milter.connections), asked)
        other = self.client("tcp://127.0.0.1:2626")
        self.assertEqual(statuses(self.deliver(other, b"b@y.test", content=CONTENT))[-1], OK)
        self.reactor.run(other.quit())
        del self.milter.answers[b"M"]
        self.reactor.advance(15)
        self.say(client, b"RSET")
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], OK)
        self.reactor.run(client.quit())

    def test_mistakes(self) -> None:
        for place, code in (("tcp://127.0.0.1", "E0797"), ("tls://127.0.0.1:1", "E0506")):
            text = f"smtp {SMTP} {{\ntls off\ncheck {{\nmilter {place}\n}}\ndiscard\n}}\n"
            self.assertEqual([one.code for one in build(text).diagnostics if one.is_error], [code], place)
