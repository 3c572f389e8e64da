"""`after_body` beside what filters change: recipients, header, body, sender. The filter stands before it, or within."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from twisted.web.server import Site

from mailgate.message.body import Body
from mailgate.message.edits import Add, Change
from mailgate.message.findings import AddedRecipient, Findings, NewSender
from mailgate.modules.check.require_auth import RequireAuth
from mailgate.modules.check.require_tls import RequireTls
from mailgate.pipeline.check import MessageCheck
from mailgate.smtp.address import parse_address
from mailgate.testing.nexthop import NextHop, Step, say
from tests.support import milter as filters
from tests.support.milter import ScriptedMilter
from tests.support.scenario import LMTP, SMTP, codes, statuses
from tests.wire.test_after_body import SMALL, AfterBodyCase
from tests.wire.test_rspamd import Filter

FILTER = "check {\nrequire_tls\n}\n"
OTHER_CHECK = "check {\nheader {\nmatch Subject .\n}\n}\n"
OKS = [b"250 2.0.0 ok"] * 2
PLACES = ("before", "within")
WAYS = (("before", "next_queue"), ("before", "next"), ("within", "next_queue"))
ALONE = ("within", "next")
"""For one recipient at a time: what it is answered is decided for it alone."""
Change_ = Callable[[Findings, Any], None]


def added(*addresses: str) -> Change_:
    return lambda found, _: found.added.extend(AddedRecipient(parse_address(one)) for one in addresses)


def removed(*addresses: str) -> Change_:
    return lambda found, _: found.removed.extend(map(parse_address, addresses))


def discarded(found: Findings, _: Any) -> None:
    found.discarded = True


def quarantined(found: Findings, _: Any) -> None:
    found.quarantined = True


def another_sender(found: Findings, _: Any) -> None:
    found.sender = NewSender(parse_address("new@x.test"))


def another_header(found: Findings, _: Any) -> None:
    found.edits += [Add(b"X-Spam", b"yes"), Change(b"Subject", 1, b"changed")]


def another_body(found: Findings, message: Any) -> None:
    found.body = message.body.sibling()
    found.body.append(b"\r\n" + b"longer line\r\n" * 400)
    found.body.finish()


class FilteredCase(AfterBodyCase):
    """Two places for the filter: `before` after_body, in the listener's block, or `within` it."""

    def filtered(
        self, change: Change_, place: str, hops: dict[str, NextHop], rules: str, *, head: str = "", more: str = "", **options: Any
    ) -> None:
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
        before, within = FILTER if place == "before" else "", FILTER if place == "within" else ""
        self.listening(hops, within + rules, more=more + before, head=head, **options)

    @staticmethod
    def paths(hop: NextHop) -> list[list[bytes]]:
        """Recipients of each content that came."""
        return [sorted(one.paths) for one in hop.transactions if one.complete]


class EnvelopeTests(FilteredCase):
    def test_recipients_that_are_taken_out(self) -> None:
        for place, target in WAYS:
            with self.row(f"{place} {target}"):
                hop = self.hop()
                self.filtered(removed("b@y.test"), place, {"next": hop}, f"deliver_to &{target}\n")
                self.assertEqual(codes(self.sent(SMALL, b"a@y.test", b"b@y.test"))[-1], b"250")
                self.assertEqual(self.paths(hop), [[b"a@y.test"]])
                assert self.running is not None
                self.assertEqual(len(self.running.logged("message.discarded")), 1)

    def test_all_of_them(self) -> None:
        for change in (removed("a@y.test"), discarded):
            for place, target in (*WAYS, ALONE):
                with self.row(f"{change} {place} {target}"):
                    hop = self.hop()
                    self.filtered(change, place, {"next": hop}, f"deliver_to &{target}\n")
                    self.assertEqual(codes(self.sent(SMALL, b"a@y.test"))[-1], b"250")
                    self.assertEqual(self.paths(hop), [])

    def test_one_that_is_taken_out_and_added_again(self) -> None:
        def again(found: Findings, message: Any) -> None:
            removed("a@y.test")(found, message)
            added("a@y.test")(found, message)

        for place, target in WAYS:
            with self.row(f"{place} {target}"):
                hop = self.hop()
                self.filtered(again, place, {"next": hop}, f"deliver_to &{target}\n")
                self.assertEqual(codes(self.sent(SMALL, b"a@y.test"))[-1], b"250")
                self.assertEqual(self.paths(hop), [[b"a@y.test"]])

    def test_recipients_that_are_added(self) -> None:
        for place, target in WAYS:
            with self.row(f"{place} {target}"):
                hop = self.hop()
                self.filtered(added("c@y.test", "A@y.test"), place, {"next": hop}, f"deliver_to &{target}\n")
                self.assertEqual(codes(self.sent(SMALL, b"a@y.test"))[-1], b"250")
                self.assertEqual(self.paths(hop), [[b"a@y.test", b"c@y.test"]])

    def test_one_answer_can_not_be_for_one_who_is_added(self) -> None:
        """Checks of its own between RCPT and an irrevocable target: recipients come one at a time, and so can't be added."""
        hop = self.hop()
        self.filtered(added("c@y.test"), "within", {"next": hop}, "deliver_to &next\n")
        self.assertEqual(codes(self.sent(SMALL, b"a@y.test"))[-1], b"452")
        self.assertEqual(self.paths(hop), [])

    def test_one_that_is_added_and_refused_by_after_body(self) -> None:
        rules = (
            "destination z.test {\nreject 550 5.1.1\n}\ndestination y.test {\ndeliver_to &next_queue\n}\n"
            "default_destination {\ndiscard\n}\n"
        )
        for place in PLACES:
            with self.row(place):
                hop = self.hop()
                self.filtered(added("c@z.test"), place, {"next": hop}, rules, listener=LMTP)
                replies = self.sent(SMALL, b"a@y.test", b"b@y.test", listener=LMTP)
                self.assertEqual(codes(replies)[-2:], [b"550", b"550"])
                self.assertEqual(self.paths(hop), [])

    def test_one_that_is_added_and_refused_by_the_next_hop(self) -> None:
        hop = self.hop(script={Step.RCPT: [say(b"250 2.1.5 ok"), say(b"550 5.1.1 nobody")]})
        self.filtered(added("c@z.test"), "before", {"next": hop}, "deliver_to &next\n")
        self.assertEqual(statuses(self.sent(SMALL, b"a@y.test"))[-1], b"550 5.1.1")
        self.assertEqual(self.paths(hop), [])

    def test_checks_judge_the_content_for_who_is_added(self) -> None:
        rules = f"destination z.test {{\n{OTHER_CHECK}deliver_to &next_queue\n}}\n"
        rules += "default_destination {\ndeliver_to &next_queue\n}\n"
        subject = b"Subject: no\r\n" + SMALL
        for place in PLACES:
            with self.row(place):
                hop = self.hop()
                self.filtered(added("c@z.test"), place, {"next": hop}, rules)
                self.assertEqual(codes(self.sent(subject, b"a@y.test"))[-1], b"550")
                self.assertEqual(self.paths(hop), [])

    def test_another_sender(self) -> None:
        for place, target in (*WAYS, ALONE):
            with self.row(f"{place} {target}"):
                hop = self.hop()
                self.filtered(another_sender, place, {"next": hop}, f"deliver_to &{target}\n")
                recipients = [b"a@y.test"] if (place, target) == ALONE else [b"a@y.test", b"b@y.test"]
                self.assertEqual(codes(self.sent(SMALL, *recipients))[-1], b"250")
                self.assertEqual([one.sender for one in hop.transactions if one.complete], [b"new@x.test"])
                self.assertEqual(self.paths(hop), [recipients])

    def test_in_the_block_of_one_who_is_added(self) -> None:
        """A filter that only somebody added comes to: it takes out, adds, and marks for them, and nobody else."""
        rules = (
            "destination z.test {\ncheck {\nrequire_tls\n}\ndeliver_to &next_queue\n}\n"
            "destination y.test {\ncheck {\nrequire_auth\n}\ndeliver_to &next_queue\n}\n"
            "default_destination {\ndeliver_to &next_queue\n}\n"
        )
        hop = self.hop()

        class Adding(MessageCheck):
            def body(self, _: Any) -> None:
                added("c@z.test")(self.envelope.findings_of(self.check), None)

        self.patch(RequireAuth, "open", lambda check, envelope: Adding(check, envelope))
        self.patch(RequireAuth, "marks", True)
        self.patch(RequireAuth, "stages", frozenset({"body"}))

        def both(found: Findings, message: Any) -> None:
            added("d@w.test")(found, message)
            another_header(found, message)

        self.filtered(both, "nowhere", {"next": hop}, rules)
        self.assertEqual(codes(self.sent(SMALL, b"a@y.test"))[-1], b"250")
        found = {one.paths[0]: b"X-Spam: yes" in bytes(one.content) for one in hop.transactions}
        self.assertEqual(found, {b"a@y.test": False, b"c@z.test": True, b"d@w.test": False})


class ContentTests(FilteredCase):
    def test_the_content_goes_out_changed(self) -> None:
        for change, expected in ((another_header, b"X-Spam: yes\r\n"), (another_body, b"longer line\r\n" * 400)):
            for place, target in (*WAYS, ALONE):
                with self.row(f"{place} {target}"):
                    hop = self.hop()
                    self.filtered(change, place, {"next": hop}, f"deliver_to &{target}\n")
                    self.assertEqual(codes(self.sent(SMALL))[-1], b"250")
                    (one,) = hop.transactions
                    self.assertIn(expected, bytes(one.content), target)

    def test_conditions_see_what_the_filter_made(self) -> None:
        for change, condition in (
            (another_header, 'header("X-Spam") == "yes"'),
            (another_header, 'header("Subject") == "changed"'),
            (another_body, "size > 3000"),
            (quarantined, "quarantined"),
        ):
            with self.row(condition):
                hops = {"good": self.hop(), "bad": self.hop()}
                rules = f"when {condition} {{\ndeliver_to &bad_queue\n}}\ndeliver_to &good_queue\n"
                self.filtered(change, "before", hops, rules)
                self.sent(b"Subject: one\r\n" + SMALL)
                self.assertEqual([len(self.paths(hop)) for hop in hops.values()], [0, 1])


class CopyTests(FilteredCase):
    def copied(self, change: Change_, place: str, *recipients: bytes) -> tuple[list[list[bytes]], list[list[bytes]]]:
        """What came at the target, and what in the log."""
        hops = {"next": self.hop(), "log": self.hop()}
        self.filtered(change, place, hops, "deliver_to &next_queue\ncopy_to &log_queue\n")
        self.assertEqual(codes(self.sent(SMALL, *recipients))[-1], b"250")
        return self.paths(hops["next"]), self.paths(hops["log"])

    def test_copies_follow_the_envelope(self) -> None:
        for change, expected in (
            (another_header, [[b"a@y.test", b"b@y.test"]]),
            (removed("b@y.test"), [[b"a@y.test"]]),
            (discarded, []),
            (added("c@y.test"), [[b"a@y.test", b"b@y.test", b"c@y.test"]]),
        ):
            for place in PLACES:
                with self.row(place):
                    went, copied = self.copied(change, place, b"a@y.test", b"b@y.test")
                    self.assertEqual((went, copied), (expected, expected))

    def test_copies_are_of_the_changed_message(self) -> None:
        for place in PLACES:
            with self.row(place):
                hops = {"next": self.hop(), "log": self.hop()}
                self.filtered(another_header, place, hops, "deliver_to &next_queue\ncopy_to &log_queue\n")
                self.sent(SMALL)
                for hop in hops.values():
                    self.assertIn(b"X-Spam: yes", bytes(hop.transactions[0].content))


class SplitTests(FilteredCase):
    def test_on_split_queue(self) -> None:
        for change, expected in (
            (removed("b@y.test"), [[b"a@y.test", b"c@y.test"], [b"c@y.test"]]),
            (added("d@y.test"), [[b"a@y.test", b"b@y.test", b"c@y.test", b"d@y.test"], [b"b@y.test"]]),
            (another_sender, [[b"a@y.test", b"b@y.test", b"c@y.test"], [b"b@y.test"]]),
        ):
            for place in PLACES:
                with self.row(place):
                    hop = self.hop(
                        lmtp=True, script={Step.DOT: [say(b"250 2.0.0 ok", b"452 4.2.2 full", *[b"250 2.0.0 ok"] * 2)]}
                    )
                    self.filtered(change, place, {"next": hop}, "deliver_to &next\n", more="on_split queue &next_queue\n")
                    self.assertEqual(codes(self.sent(SMALL, b"a@y.test", b"b@y.test", b"c@y.test"))[-1], b"250")
                    self.reactor.settle(600)
                    self.assertEqual(self.paths(hop), expected)

    def test_lmtp_answers_each(self) -> None:
        for change, script, expected in (
            (removed("b@y.test"), [b"250 2.0.0 ok", b"452 4.2.2 full"], [b"250", b"250", b"452"]),
            (another_sender, [b"250 2.0.0 ok", b"452 4.2.2 full", b"250 2.0.0 ok"], [b"250", b"452", b"250"]),
            (another_body, [b"250 2.0.0 ok", b"550 5.7.1 no", b"250 2.0.0 ok"], [b"250", b"550", b"250"]),
            (discarded, [], [b"250", b"250", b"250"]),
        ):
            for place in PLACES:
                with self.row(place):
                    hop = self.hop(lmtp=True, script={Step.DOT: [say(*script)]} if script else None)
                    self.filtered(change, place, {"next": hop}, "deliver_to &next\n", listener=LMTP)
                    replies = self.sent(SMALL, b"a@y.test", b"b@y.test", b"c@y.test", listener=LMTP)
                    self.assertEqual(codes(replies)[-3:], expected)


class VerdictTests(AfterBodyCase):
    def test_quarantine_that_is_decided_after_the_body(self) -> None:
        """A check within marks the message of those who passed it, and of nobody else."""
        check = "check {\nrequire_tls {\non_fail quarantine\n}\n}\n"
        rules = f"destination q.test {{\n{check}deliver_to &next_queue\n}}\ndefault_destination {{\ndeliver_to &next_queue\n}}\n"
        hop = self.hop()
        running = self.listening({"next": hop}, rules)
        self.assertEqual(codes(self.sent(SMALL, b"a@q.test", b"b@y.test"))[-1], b"250")
        marked = {one.paths[0]: b"X-Mailgate-Quarantine: yes" in bytes(one.content) for one in hop.transactions}
        self.assertEqual(marked, {b"a@q.test": True, b"b@y.test": False})
        self.assertIn("verdict=quarantine", running.logged("message.done")[0])


class RealFilterTests(AfterBodyCase):
    """The filters themselves, before and within, in front of queues and of one target: what they change is there, once."""

    CHECKS: ClassVar = {
        "milter": "milter tcp://127.0.0.1:8891",
        "rspamd": "rspamd http://127.0.0.1:11333",
        "both": "milter tcp://127.0.0.1:8891\nrspamd http://127.0.0.1:11333",
    }

    def asked(self, name: str, place: str, target: str, *, listener: str = SMTP, lmtp: bool = False, more: str = "") -> NextHop:
        changing = name != "both"
        self.milter = ScriptedMilter()
        packets = [filters.add_header(b"X-New", b"1"), filters.replace_body(b"other\r\n"), b"qodd\0"]
        if changing:
            packets += [filters.add_rcpt(b"<c@y.test>"), filters.delete_rcpt(b"<b@y.test>"), filters.change_from(b"<new@x.test>")]
        self.milter.answers[b"E"] = [*packets, filters.CONTINUE]
        self.reactor.listenTCP(8891, self.milter, interface="127.0.0.1")
        self.rspamd = Filter()
        envelope = {"change_from": "new@x.test", "add_rcpt": ["c@y.test"], "del_rcpt": ["<b@y.test>"]}
        added = {"add_headers": {"X-New": "1"}} if name == "rspamd" else {}
        self.rspamd.answer = {"action": "quarantine", "score": 7, "milter": {**envelope, **added}}
        self.reactor.listenTCP(11333, Site(self.rspamd, reactor=self.reactor), interface="127.0.0.1")
        hop = self.hop(lmtp=lmtp)
        check = f"check {{\n{self.CHECKS[name]}\n}}\n"
        before, within = (check, "") if place == "before" else ("", check)
        self.listening({"next": hop}, f"{within}deliver_to &{target}\n", more=more + before, listener=listener)
        return hop

    def test_everything_at_once(self) -> None:
        for name in self.CHECKS:
            for place, target in WAYS:
                with self.row(f"{name} {place} {target}"):
                    hop = self.asked(name, place, target)
                    self.assertEqual(codes(self.sent(SMALL, b"a@y.test", b"b@y.test"))[-1], b"250")
                    (one,) = [one for one in hop.transactions if one.complete]
                    self.assertEqual((one.sender, sorted(one.paths)), (b"new@x.test", [b"a@y.test", b"c@y.test"]))
                    content = bytes(one.content)
                    self.assertEqual(content.count(b"X-New: 1\r\n"), 1)
                    self.assertIn(b"X-Mailgate-Quarantine: yes\r\n", content)
                    self.assertEqual(content.endswith(b"\r\n\r\nother\r\n"), name != "rspamd")
                    self.assertEqual(len(self.rspamd.asked), int(name != "milter"))

    def test_lmtp_and_on_split(self) -> None:
        for listener in (LMTP, SMTP):
            for place in PLACES:
                with self.row(f"{listener} {place}"):
                    more = "" if listener == LMTP else "on_split queue &next_queue\n"
                    hop = self.asked("both", place, "next", listener=listener, lmtp=True, more=more)
                    replies = self.sent(SMALL, b"a@y.test", b"b@y.test", listener=listener)
                    self.assertEqual(set(codes(replies)[4:]), {b"250"})
                    (one,) = [one for one in hop.transactions if one.complete]
                    self.assertEqual((one.sender, sorted(one.paths)), (b"new@x.test", [b"a@y.test", b"c@y.test"]))

    def test_one_that_does_not_answer_is_no_pass(self) -> None:
        for name in ("milter", "rspamd"):
            for place, target in (*WAYS, ALONE):
                with self.row(f"{name} {place} {target}"):
                    hop = self.asked(name, place, target)
                    self.rspamd.answer = b"nonsense"
                    self.milter.answers[b"E"] = [filters.DROP]
                    self.assertEqual(statuses(self.sent(SMALL, b"a@y.test"))[-1], b"451 4.3.0")
                    self.reactor.settle(60)
                    self.assertEqual([one for one in hop.transactions if one.complete], [])
