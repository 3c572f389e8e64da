"""What checks find and filters change, all the way to the next hop: scores and their thresholds, headers, bodies, envelopes."""

from __future__ import annotations

from typing import Any

from mailgate.message.body import Body
from mailgate.message.edits import Add, BadField, Change, Insert
from mailgate.message.findings import AddedRecipient, NewSender
from mailgate.modules.check.require_tls import RequireTls
from mailgate.pipeline import transaction
from mailgate.pipeline.check import MessageCheck
from mailgate.smtp.address import parse_address
from mailgate.testing.script import Step, say
from tests.support.scenario import LMTP, SMTP, SimulatedCase, statuses

CONTENT = b"From: a@x.test\r\nSubject: one\r\nSubject: two\r\n\r\nhello\r\n"
FAILS = "require_tls {\non_fail %s\n}"
SPAM = "score {\nreject_threshold 6 554 5.7.9 spammy\nquarantine_threshold 4\ntag_threshold 2\n}".replace("spammy", '"spammy"')


def added(address: str) -> AddedRecipient:
    return AddedRecipient(parse_address(address))


class ContentCase(SimulatedCase):
    def relayed(self, checks: str, rest: str = "", listener: str = "", **options: Any) -> None:
        """Everything to one next hop, whose transactions are kept in ``next_hop``."""
        self._strike()
        self._raise()
        self.next_hop = self.hop(**options)
        kind = "lmtp" if self.next_hop.lmtp else "smtp"
        rules = rest or "deliver_to &next"
        word, address = ("lmtp", LMTP) if self.next_hop.lmtp else ("smtp", SMTP)
        self.gateway(
            f"target.{kind} next {{\ntargets {self.next_hop.endpoint}\n}}\n"
            f"{word} {address} {{\ntls off\n{listener}\ncheck {{\n{checks}\n}}\n{rules}\n}}\n"
        )

    def send(self, *recipients: bytes, sender: bytes = b"sender@client.test") -> list[bytes]:
        client = self.client(LMTP if self.next_hop.lmtp else SMTP)
        recipients = recipients or (b"b@y.test",)
        found = statuses(self.deliver(client, *recipients, content=CONTENT, sender=sender))
        self.reactor.run(client.quit())
        return found[len(recipients) + 2 :]

    def content(self, number: int = 0) -> bytes:
        return bytes(self.next_hop.transactions[number].content)


class ScoreTests(ContentCase):
    def test_sums_meet_thresholds(self) -> None:
        for scores, status, field in (
            ((), b"250 2.0.0", b""),
            ((1.5,), b"250 2.0.0", b"X-Mailgate-Score: 1.5"),
            ((1, 1), b"250 2.0.0", b"X-Mailgate-Tag: score"),
            ((1.5, 2.5), b"250 2.0.0", b"X-Mailgate-Quarantine: yes"),
            ((9, -6), b"250 2.0.0", b"X-Mailgate-Tag: score"),
            ((3, 2, 1), b"554 5.7.9", b""),
        ):
            self.relayed("\n".join([SPAM, *(FAILS % f"score {score}" for score in scores)]))
            self.assertEqual(self.send(), [status], scores)
            if status[:1] == b"5":
                self.assertEqual(self.next_hop.mail_count, 1)
                self.assertEqual([one for one in self.next_hop.transactions if one.content], [])
            else:
                self.assertIn(field, self.content(), scores)
                self.assertEqual(b"X-Mailgate-Tag" in self.content(), sum(scores) >= 2, scores)
                self.assertEqual(b"X-Mailgate-Quarantine" in self.content(), sum(scores) >= 4, scores)

    def test_a_block_counts_for_its_recipients(self) -> None:
        block = f"destination bad.test {{\ncheck {{\n{FAILS % 'score 4'}\n}}\ndeliver_to &next\n}}\n"
        rest = block + "default_destination {\ndeliver_to &next\n}"
        self.relayed(f"{SPAM}\n{FAILS % 'score 3'}", rest=rest, lmtp=True, listener="on_split allow")
        self.assertEqual(self.send(b"a@good.test", b"b@bad.test", b"c@good.test"), [b"250 2.0.0", b"554 5.7.9", b"250 2.0.0"])
        self.assertIn(b"X-Mailgate-Score: 3\r\n", self.content(-1))

    def test_a_score_without_consequences_is_a_mistake(self) -> None:
        self.relayed(SPAM)
        self.assertRaises(AssertionError, self.relayed, "score")


class FilterCase(ContentCase):
    def filtered(self, change: Any, **options: Any) -> None:
        """A gateway with a filter that does ``change(findings, message)``."""

        class Filter(MessageCheck):
            made: Body | None = None

            def body(self, message: Any) -> None:
                found = self.envelope.findings_of(self.check)
                change(found, message)
                self.made = found.body

            def close(self) -> None:
                if self.made is not None:
                    self.made.release()

        self.patch(RequireTls, "open", lambda check, envelope: Filter(check, envelope))
        self.patch(RequireTls, "marks", True)
        self.patch(RequireTls, "stages", frozenset({"body"}))
        self.relayed("require_tls", **options)


class FilterTests(FilterCase):
    def test_headers(self) -> None:
        edits = [
            Change(b"subject", 2, b"second"),
            Change(b"SUBJECT", 1, None),
            Insert(1, b"X-A", b"1"),
            Add(b"X-B", b"2\r\nX-C: 3"),
        ]
        self.filtered(lambda found, message: found.edits.extend(edits))
        self.assertEqual(self.send(), [b"250 2.0.0"])
        received, inserted, rest = self.content().partition(b"\r\n\r\n")[0].partition(b"X-A")
        self.assertEqual(received.count(b"\r\n"), received.count(b"\r\n\t") + 1, received)
        self.assertEqual(inserted + rest, b"X-A: 1\r\nFrom: a@x.test\r\nsubject: second\r\nX-B: 2\r\n\tX-C: 3")
        self.assertTrue(self.content().startswith(b"Received: "))

    def test_a_field_that_is_none_is_no_pass(self) -> None:
        self.expect_clean_log = False
        self.filtered(lambda found, message: found.edits.append(Add(b"X A", b"1")))
        self.assertEqual(self.send(), [b"451 4.3.0"])
        self.assertEqual(len(self.flushLoggedErrors(BadField)), 1)
        self.assertEqual([one for one in self.next_hop.transactions if one.content], [])

    def test_bodies(self) -> None:
        def replace(found: Any, message: Any) -> None:
            found.body = message.body.sibling()
            found.body.append(b"\r\n.another\r\n\r\nbody")
            found.body.finish()

        for options in ({}, {"lmtp": True}):
            self.filtered(replace, **options)
            self.assertEqual(self.send(), [b"250 2.0.0"])
            self.assertTrue(self.content().endswith(b"Subject: two\r\n\r\n.another\r\n\r\nbody\r\n"), self.content())

    def test_recipients_that_are_taken_out(self) -> None:
        self.filtered(lambda found, message: found.removed.append(parse_address("B@y.test")))
        self.assertEqual(self.send(b"a@y.test", b"b@y.test"), [b"250 2.0.0"])
        self.assertEqual(self.next_hop.transactions[-1].recipients, [b"<a@y.test>"])
        assert self.running is not None
        self.assertEqual(len(self.running.logged("message.discarded")), 1)
        self.filtered(lambda found, message: found.removed.append(parse_address("b@y.test")), lmtp=True)
        self.assertEqual(self.send(b"b@y.test", b"a@y.test"), [b"250 2.0.0", b"250 2.0.0"])

    def test_all_of_it_is_thrown_away(self) -> None:
        self.filtered(lambda found, message: setattr(found, "discarded", True))
        self.assertEqual(self.send(b"a@y.test", b"b@y.test"), [b"250 2.0.0"])
        self.assertEqual([one for one in self.next_hop.transactions if one.content], [])
        assert self.running is not None
        self.assertEqual(len(self.running.logged("message.discarded")), 2)

    def test_recipients_that_are_added(self) -> None:
        self.filtered(lambda found, message: found.added.extend(map(added, ("c@y.test", "A@y.test"))))
        self.assertEqual(self.send(b"a@y.test"), [b"250 2.0.0"])
        self.assertEqual(self.next_hop.transactions[-1].recipients, [b"<a@y.test>", b"<c@y.test>"])

    def test_one_that_is_added_and_refused(self) -> None:
        rules = "destination z.test {\nreject 550 5.1.1\n}\ndefault_destination {\ndeliver_to &next\n}"
        for options in ({}, {"lmtp": True}):
            self.filtered(lambda found, message: found.added.append(added("c@z.test")), rest=rules, **options)
            self.assertEqual(self.send(b"a@y.test"), [b"550 5.1.1"])
            self.assertEqual([one for one in self.next_hop.transactions if one.content], [])

    def test_one_that_is_added_is_judged_by_its_block(self) -> None:
        rules = (
            "destination z.test {\ncheck {\nheader {\nmatch Subject one\n}\n}\ndeliver_to &next\n}\n"
            "default_destination {\ndeliver_to &next\n}"
        )
        for options in ({}, {"lmtp": True}):
            self.filtered(lambda found, message: found.added.append(added("c@z.test")), rest=rules, **options)
            self.assertEqual([one[:3] for one in self.send(b"a@y.test")], [b"550"])
            self.assertEqual([one for one in self.next_hop.transactions if one.content], [])

    def test_a_filter_that_adds_without_end(self) -> None:
        self.patch(transaction, "MOST_ADDED", 3)
        for number, expected in ((3, b"250 2.0.0"), (4, b"554 5.5.3")):
            names = [f"c{one}@y.test" for one in range(number)]
            self.filtered(lambda found, message, names=names: found.added.extend(map(added, names)))  # type: ignore[misc]
            self.assertEqual(self.send(b"a@y.test"), [expected])

    def test_another_sender(self) -> None:
        self.filtered(lambda found, message: setattr(found, "sender", NewSender(parse_address("other@x.test"))))
        self.assertEqual(self.send(b"a@y.test", b"b@y.test"), [b"250 2.0.0"])
        last = self.next_hop.transactions[-1]
        self.assertEqual((last.sender, last.recipients), (b"other@x.test", [b"<a@y.test>", b"<b@y.test>"]))
        self.assertEqual(self.next_hop.mail_count, 2)

    def test_a_sender_that_the_next_hop_does_not_like(self) -> None:
        script = {Step.MAIL: [say(b"250 2.1.0 ok"), say(b"550 5.1.8 not from there")]}
        self.filtered(lambda found, message: setattr(found, "sender", NewSender(parse_address("other@x.test"))), script=script)
        self.assertEqual(self.send(b"a@y.test"), [b"550 5.1.8"])

    def test_a_recipient_that_is_not_taken_from_another_sender(self) -> None:
        """In LMTP that one alone is refused, with all that it was expanded to."""
        ok = say(b"250 2.1.5 ok")
        script = {Step.RCPT: [ok, ok, ok, ok, say(b"550 5.7.1 not from there"), ok]}
        self.filtered(
            lambda found, message: setattr(found, "sender", NewSender(parse_address("other@x.test"))), script=script, lmtp=True
        )
        self.assertEqual(self.send(b"a@y.test", b"b@y.test", b"c@y.test"), [b"250 2.0.0", b"550 5.7.1", b"250 2.0.0"])
        self.assertEqual(self.next_hop.transactions[-1].recipients, [b"<a@y.test>", b"<c@y.test>"])
