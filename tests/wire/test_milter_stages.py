"""check.milter: when its filter is asked what, and that nobody passes whom it was not asked about."""

from __future__ import annotations

from typing import Any

from mailgate.modules.check._milter_talk import mail_words
from mailgate.smtp.parameters import BodyType, DeliverBy, MailParameters
from mailgate.testing.client import RawClient, connect
from mailgate.testing.tls import TrustingClient
from tests.support import milter as say
from tests.support.milter import ScriptedMilter
from tests.support.scenario import SMTP, statuses
from tests.wire.test_content import CONTENT
from tests.wire.test_milter import OK, TEMPORARY, MilterCase

REFUSED_TOO = 0x800
"""SMFIP_RCPT_REJ."""


class ConnectionTests(MilterCase):
    def test_it_hears_of_who_says_nothing(self) -> None:
        self.filtered()
        client = self.client()
        self.assertEqual(self.milter.commands(), b"ODC")
        self.reactor.run(client.close())
        self.reactor.settle(1)
        self.assertEqual(self.milter.commands(), b"ODCQ")

    def test_what_it_says_of_a_client(self) -> None:
        for packet, expected in (
            (say.CONTINUE, b"220 "),
            (say.ACCEPT, b"220 "),
            (say.REJECT, b"554 5.7.1 Rejected by a filter"),
            (say.TEMPFAIL, b"421 4.7.1 A filter asks to try again later"),
            (say.SHUTDOWN, b"421 4.7.0 A filter closes the connection"),
            (b"f", b"421 4.7.0 A filter closes the connection"),
            (say.reply(b"550-5.7.9 not from here\r\n550 5.7.9 nor ever"), b"554-5.7.9 not from here"),
            (say.reply(b"421 4.3.2 full"), b"421 4.3.2 full"),
        ):
            self.assertTrue(self.greeted(packet).startswith(expected), packet)
        self.assertEqual(self.greeted(say.REJECT, lines=('on_fail reject 550 5.7.9 "no"',)), b"554 5.7.9 no")
        assert self.running is not None
        self.assertIn("stage=connection", self.running.logged("session.refused")[0])

    def test_what_it_may_not_say_of_a_client_is_asked_again_with_mail(self) -> None:
        for packet in (say.DISCARD, say.SKIP, b"Z", say.DROP, say.HANG):
            lines = ("command_timeout 1s",)
            self.assertEqual(self.greeted(packet, lines=lines)[:4], b"220 ", packet)
            self.assertEqual(self.answered(b"C", packet, lines=lines)[1], TEMPORARY, packet)
            self.assertEqual(self.milter.commands().count(b"C"), 2)
            self.assertEqual(self.answered(b"C", packet, lines=(*lines, "on_error ignore"))[-1], OK, packet)

    def test_whom_it_accepts_it_hears_no_more_of(self) -> None:
        self.assertEqual(self.answered(b"C", say.ACCEPT)[-1], OK)
        self.assertEqual(self.milter.commands(), b"ODCQ")

    def test_later_where_that_is_wanted_or_its_word_is_not_the_last(self) -> None:
        for lines, expected in (
            (("at_connection no",), b"550 5.7.1"),
            (("on_fail quarantine",), b"250 2.1.5"),
        ):
            self.assertEqual(self.answered(b"C", say.REJECT, lines=lines)[1], expected, lines)
            self.reactor.settle(1)
            self.assertEqual(self.milter.commands().replace(b"D", b""), b"OCQ")
        self.assertIn(b"X-Mailgate-Quarantine: yes\r\n", self.content())

    def test_one_that_wants_to_hear_nothing_of_it(self) -> None:
        self.filtered(steps=0x1)
        for _ in range(2):
            self.assertEqual(self.send(), [OK])
        self.reactor.settle(1)
        self.assertEqual(self.milter.commands().count(b"O"), 2)
        client = self.client()
        self.assertEqual(self.milter.commands().count(b"O"), 2)
        self.reactor.run(client.quit())

    def test_a_hanging_filter_holds_three_greetings(self) -> None:
        self.filtered("command_timeout 5s")
        self.milter.answers[b"C"] = [say.HANG]
        waited = []
        for _ in range(4):
            before = self.reactor.seconds()
            client = self.client()
            waited.append(self.reactor.seconds() - before >= 5)
            self.reactor.run(client.close())
        self.assertEqual(waited, [True, True, True, False])

    def test_who_goes_while_it_is_asked_about_him(self) -> None:
        self.filtered()
        self.milter.answers[b"C"] = [say.HANG]
        for _ in range(5):
            client = self.reactor.run(connect(self.reactor, SMTP))
            self.reactor.settle(0.5)
            self.reactor.run(client.close())
            self.reactor.settle(0.5)
            self.assertEqual([one for one in self.milter.connections if one.transport.connected], [])  # type: ignore[union-attr]
        self.milter.answers.clear()
        self.assertEqual(self.send(), [OK])  # no failures of the filter's, so nobody leaves it alone

    def test_another_client_by_xclient(self) -> None:
        self.filtered(listener="tls off\nxclient {\ntrust 127.0.0.1\n}")
        client = self.client()
        self.assertEqual(self.ask(client, b"XCLIENT ADDR=192.0.2.7 NAME=seven.test")[:3], b"220")
        self.assertEqual(self.milter.commands().replace(b"D", b""), b"OCQOC")
        self.assertTrue(self.milter.data(b"C")[1].endswith(b"192.0.2.7\0"))
        self.milter.answers[b"C"] = [say.reply(b"550 5.7.9 not her")]
        self.assertEqual(self.ask(client, b"XCLIENT ADDR=192.0.2.8"), b"554 5.7.9 not her")
        self.reactor.settle(10)

    def test_in_a_block_for_recipients(self) -> None:
        """Nothing is known of recipients yet."""
        rules = "destination y.test {\ncheck {\nmilter tcp://127.0.0.1:8891\n}\ndeliver_to &next\n}\n"
        self.filtered(checks=" ", rules=rules + "default_destination {\ndeliver_to &next\n}")
        self.milter.answers[b"C"] = [say.REJECT]
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>")
        self.assertEqual(self.milter.commands(), b"")
        self.assertEqual(self.ask(client, b"RCPT TO:<b@y.test>")[:9], b"550 5.7.1")
        self.assertEqual(self.ask(client, b"RCPT TO:<b@z.test>")[:3], b"250")
        self.assertEqual(self.ask(client, b"RCPT TO:<c@y.test>")[:9], b"550 5.7.1")
        self.assertEqual(self.milter.commands().count(b"C"), 1)
        self.reactor.run(client.quit())


class HelloTests(MilterCase):
    def test_a_refused_hello_is_the_answer_to_every_mail_until_another(self) -> None:
        self.filtered()
        self.milter.answers[b"H"] = [say.reply(b"550 5.7.7 who?")]
        client = self.client()
        for _ in range(2):
            self.say(client, b"MAIL FROM:<a@x.test>")
            self.assertEqual(self.ask(client, b"RCPT TO:<b@y.test>"), b"550 5.7.7 who?")
            self.say(client, b"RSET")
        self.assertEqual(self.milter.commands().count(b"H"), 1)
        del self.milter.answers[b"H"]
        self.ask(client, b"EHLO other.test")
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], OK)
        self.reactor.run(client.quit())

    def test_after_starttls_it_is_told_with_what_is_known_then(self) -> None:
        self.filtered(listener="tls self_signed")
        client = self.client()
        self.reactor.run(client.secure(TrustingClient()))
        self.ask(client, b"EHLO secure.test")
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], OK)
        self.reactor.run(client.quit())
        self.assertEqual(self.milter.data(b"H"), [b"secure.test\0"])
        told = [data.split(b"\0") for data in self.milter.data(b"D") if data[:1] == b"H"]
        self.assertEqual(told[0][0], b"H{tls_version}")
        self.assertEqual(told[0][1], b"TLSv1.3")
        self.assertEqual(told[0][2:6:2], [b"{cipher}", b"{cipher_bits}"])

    def test_given_macros(self) -> None:
        self.filtered("macro daemon_name ORIGINATING", "macro {site} north")
        self.assertEqual(self.send(), [OK])
        (told,) = [data[1:].split(b"\0") for data in self.milter.data(b"D") if data[:1] == b"C"]
        values = dict(zip(told[::2], told[1::2], strict=False))
        self.assertEqual((values[b"{daemon_name}"], values[b"{site}"]), (b"ORIGINATING", b"north"))
        self.assertEqual((values[b"{client_addr}"], values[b"{client_name}"]), (b"127.0.0.1", b"unknown"))


class RecipientTests(MilterCase):
    def envelope(self, *addresses: bytes) -> tuple[RawClient, list[bytes]]:
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test>")
        return client, [self.ask(client, b"RCPT TO:<%s>" % address) for address in addresses]

    def test_a_filter_that_dies_at_one_recipient_lets_none_pass(self) -> None:
        for packet in (say.DROP, say.HANG, b"Z"):
            self.filtered("command_timeout 1s")
            self.milter.answers[b"R"] = [packet]
            client, replies = self.envelope(b"b@y.test")
            del self.milter.answers[b"R"]
            replies.append(self.ask(client, b"RCPT TO:<c@y.test>"))
            self.assertEqual([reply[:9] for reply in replies], [TEMPORARY, TEMPORARY], packet)
            self.assertEqual(self.ask(client, b"DATA")[:3], b"503")
            self.reactor.run(client.quit())

    def test_nor_one_that_dies_behind_one(self) -> None:
        self.filtered()
        client, _ = self.envelope(b"b@y.test")
        self.milter.answers[b"R"] = [say.DROP]
        self.assertEqual(self.ask(client, b"RCPT TO:<c@y.test>")[:9], TEMPORARY)
        self.assertEqual(self.ask(client, b"DATA")[:3], b"354")
        self.assertEqual(self.ask(client, CONTENT + b".")[:9], TEMPORARY)
        self.assertEqual([one for one in self.next_hop.transactions if one.content], [])
        self.reactor.run(client.quit())

    def test_a_question_that_another_check_cuts_short(self) -> None:
        """What is left of the message is judged all the same."""
        both = "check {\nmilter tcp://127.0.0.1:8892\nmilter tcp://127.0.0.1:8891\n}"
        for late, expected in ((say.CONTINUE, b"550 5.6.9"), (say.REJECT, b"550 5.6.9"), (say.ACCEPT, OK), (b"Z", TEMPORARY)):
            self.filtered(checks=both)
            other = ScriptedMilter()
            self.reactor.listenTCP(8892, other, interface="127.0.0.1")
            other.answers[b"R"] = self.milter.answers[b"R"] = [say.HANG]
            self.milter.answers[b"E"] = [say.reply(b"550 5.6.9 seen")]
            client = self.client()
            self.say(client, b"MAIL FROM:<a@x.test>")
            client.send(b"RCPT TO:<b@y.test>\r\n")
            self.reactor.settle(1)
            other.connections[-1].say(say.REJECT)
            self.assertEqual(self.reactor.run(client.reply())[:9], b"550 5.7.1")
            self.milter.connections[-1].say(late)
            other.answers[b"R"] = self.milter.answers[b"R"] = [say.CONTINUE]
            replies = [self.ask(client, b"RCPT TO:<c@y.test>")]
            if replies[0][:3] == b"250":
                replies += [self.ask(client, b"DATA"), self.ask(client, CONTENT + b".")]
            self.assertEqual(replies[-1][:9], expected, late)
            self.reactor.run(client.quit())

    def test_it_may_hear_of_those_whom_others_refuse(self) -> None:
        rules = 'destination z.test {\nreject 550 5.1.2 "not here"\n}\ndefault_destination {\ndeliver_to &next\n}'
        self.filtered(steps=REFUSED_TOO, rules=rules)
        client, replies = self.envelope(b"b@z.test", b"c@y.test")
        self.assertEqual([reply[:3] for reply in replies], [b"550", b"250"])
        self.assertEqual(self.milter.data(b"R"), [b"<b@z.test>\0", b"<b@z.test>\0", b"<c@y.test>\0"])
        told = [data[1:].split(b"\0") for data in self.milter.data(b"D") if data[:1] == b"R"]
        values = dict(zip(told[1][::2], told[1][1::2], strict=False))
        self.assertEqual(values[b"{rcpt_mailer}"], b"error")
        self.assertEqual(values[b"{rcpt_host}"], b"5.1.2")
        self.assertEqual(values[b"{rcpt_addr}"], b"not here")
        self.reactor.run(client.quit())

    def test_nothing_that_it_says_of_them_counts_but_its_own_refusals_are_not_told(self) -> None:
        self.filtered(steps=REFUSED_TOO)
        self.milter.answers[b"R"] = [say.REJECT]
        client, _ = self.envelope(b"b@y.test")
        self.assertEqual(len(self.milter.data(b"R")), 1)
        self.milter.answers[b"R"] = [say.ACCEPT]
        self.reactor.run(client.quit())

    def test_parameters(self) -> None:
        self.filtered(listener="tls off\nreports &store", top="target.queue store {\ntarget &next\n}")
        client = self.client()
        self.say(client, b"MAIL FROM:<a@x.test> SIZE=500 BODY=8BITMIME RET=HDRS ENVID=42")
        self.say(client, b"RCPT TO:<b@y.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b@y.test")
        self.reactor.run(client.quit())
        words = b"SIZE=500\0BODY=8BITMIME\0RET=HDRS\0ENVID=42\0"
        self.assertEqual(self.milter.data(b"M"), [b"<a@x.test>\0" + words])
        self.assertEqual(self.milter.data(b"R"), [b"<b@y.test>\0NOTIFY=FAILURE,SUCCESS\0ORCPT=rfc822;b@y.test\0"])

    def test_all_parameters_of_a_sender(self) -> None:
        given = MailParameters(
            10, BodyType.BINARY, True, True, "FULL", "x", "<>", -3, hold_for=60, hold_until=1e9, by=DeliverBy(120, True, True)
        )
        words = "SIZE=10 BODY=BINARYMIME RET=FULL ENVID=x AUTH=<> MT-PRIORITY=-3 HOLDFOR=60 HOLDUNTIL=2001-09-09T01:46:40Z"
        self.assertEqual(mail_words(given), [*words.split(), "BY=120;RT", "SMTPUTF8", "REQUIRETLS"])


ENVELOPE, CONTENT_STEPS = (b"H", b"M", b"R"), (b"T", b"L", b"N", b"B", b"E")


class EveryAnswerTests(MilterCase):
    """The table of docs/filters.md, behind the connection."""

    def ends(self, command: bytes, *packets: bytes) -> bytes:
        """How the client's message ends."""
        found = self.answered(command, *packets, lines=("command_timeout 2s",))
        return next((one for one in found if one[:1] in b"45"), found[-1])

    def delivered(self) -> int:
        return len([one for one in self.next_hop.transactions if one.content])

    def test_what_passes(self) -> None:
        for command in (*ENVELOPE, *CONTENT_STEPS):
            for packets in ((say.CONTINUE,), (say.ACCEPT,), (say.PROGRESS, say.PROGRESS, say.CONTINUE)):
                self.assertEqual((self.ends(command, *packets), self.delivered()), (OK, 1), (command, packets))
            if command != b"H":
                self.assertEqual((self.ends(command, say.DISCARD), self.delivered()), (OK, 0), command)

    def test_what_ends_the_connection(self) -> None:
        for packet in (say.SHUTDOWN, b"f"):
            for command in ENVELOPE:
                self.filtered()
                self.milter.answers[command] = [packet]
                client = self.client()
                self.say(client, b"MAIL FROM:<a@x.test>")
                self.assertEqual(self.ask(client, b"RCPT TO:<b@y.test>")[:9], b"421 4.7.0", (command, packet))
                self.reactor.run(client.wait_closed())
            for command in CONTENT_STEPS:
                self.assertEqual((self.ends(command, packet), self.delivered()), (b"451 4.7.0", 0), (command, packet))

    def test_what_is_not_understood(self) -> None:
        early = (say.add_header(b"X", b"1"), say.replace_body(b"x"), say.change_from(b"<>"), b"qodd\0", b"O" + bytes(12), b"cc")
        for command in (*ENVELOPE, *CONTENT_STEPS[:-1]):
            for packet in (*early, *((say.SKIP,) if command != b"B" else ())):
                self.assertEqual((self.ends(command, packet), self.delivered()), (TEMPORARY, 0), (command, packet))
        self.assertEqual((self.ends(b"H", say.DISCARD), self.delivered()), (TEMPORARY, 0))
        self.assertEqual((self.ends(b"E", say.SKIP), self.delivered()), (TEMPORARY, 0))
        self.assertEqual((self.ends(b"B", say.SKIP), self.delivered()), (OK, 1))


class EnvelopeChanges(MilterCase):
    def changed(self, *packets: bytes, **options: Any) -> list[bytes]:
        self.filtered(hop={"extensions": (b"DSN",)}, **options)
        self.milter.answers[b"E"] = [*packets, say.CONTINUE]
        return self.send()

    def test_parameters_of_a_sender_and_a_recipient(self) -> None:
        self.assertEqual(self.changed(b"e<new@x.test>\0RET=HDRS ENVID=7 BODY=8BITMIME\0", b"2<c@y.test>\0NOTIFY=NEVER\0"), [OK])
        heard = [line for connection in self.next_hop.connections for line in connection.commands]
        self.assertTrue(any(line.startswith(b"MAIL FROM:<new@x.test>") and b" RET=HDRS ENVID=7" in line for line in heard), heard)
        self.assertIn(b"RCPT TO:<c@y.test> NOTIFY=NEVER", heard)

    def test_who_added_a_recipient_is_told_of_success(self) -> None:
        """By us, where the next hop does not do that."""
        for packet, count in ((b"2<c@y.test>\0NOTIFY=SUCCESS\0", 1), (b"+<c@y.test>\0", 0)):
            self.filtered(listener="tls off\nreports &back", top="target.queue back {\ntarget &next\n}")
            self.milter.answers[b"E"] = [packet, say.CONTINUE]
            self.assertEqual(self.send(), [OK])
            self.reactor.settle(60)
            told = [one for one in self.next_hop.transactions if one.recipients == [b"<sender@client.test>"]]
            self.assertEqual(len(told), count)
            for one in told:
                self.assertIn(b"Final-Recipient: rfc822; c@y.test\r\nAction: relayed", bytes(one.content).replace(b";c", b"; c"))

    def test_parameters_that_are_none(self) -> None:
        for packet in (b"e<new@x.test>\0RET=ALL\0", b"e<new@x.test>\0X=1\0", b"2<c@y.test>\0NOTIFY=NEVER,DELAY\0"):
            self.assertEqual(self.changed(packet), [TEMPORARY], packet)


class WorkTests(MilterCase):
    def test_work_has_an_end_at_every_step(self) -> None:
        self.filtered("command_timeout 2s")
        self.milter.answers[b"M"] = [say.HANG]
        client = self.client()
        before = self.reactor.seconds()
        client.send(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n")
        while not self.running.logged("sender.refused"):  # type: ignore[union-attr]
            self.milter.connections[-1].say(say.PROGRESS)
            self.reactor.advance(1)
            self.assertLess(self.reactor.seconds(), before + 15)
        self.assertGreater(self.reactor.seconds(), before + 8)
        self.assertEqual(self.reactor.run(client.reply())[:3], b"250")
        self.assertEqual(self.reactor.run(client.reply())[:9], TEMPORARY)

    def test_two_messages_at_a_time_of_one_client(self) -> None:
        """A check that stands in two blocks asks twice, and leaves one connection behind."""
        block = "destination %s {\ncheck &filter\ndeliver_to &next\n}\n"
        self.filtered(
            top="checks filter {\nmilter tcp://127.0.0.1:8891\n}",
            checks=" ",
            rules=block % "y.test" + block % "z.test" + "default_destination {\ndeliver_to &next\n}",
        )
        client = self.client()
        for _ in range(2):
            self.assertEqual(statuses(self.deliver(client, b"b@y.test", b"b@z.test", content=CONTENT))[-1], OK)
        self.assertGreater(len(self.milter.connections), 1)
        self.assertEqual(len([one for one in self.milter.connections if one.transport.connected]), 1)  # type: ignore[union-attr]
        self.reactor.run(client.quit())
        self.reactor.settle(1)
        self.assertEqual([one for one in self.milter.connections if one.transport.connected], [])  # type: ignore[union-attr]
