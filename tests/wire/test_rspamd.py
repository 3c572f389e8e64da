"""check.rspamd against a server that answers as rspamd does: its actions, what it changes, and what it leaves unanswered."""

from __future__ import annotations

import json
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from mailgate.registry import build
from tests.wire.test_content import CONTENT, ContentCase

TEMPORARY = b"451 4.3.0"
OK = b"250 2.0.0"


class Filter(Resource):
    """``answer`` is what it says: a dictionary, octets, or None for nothing at all."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answer: Any = {"action": "no action", "score": 0}
        self.code = 200
        self.asked: list[tuple[Any, bytes]] = []

    def render(self, request: Any) -> Any:
        self.asked.append((request, request.content.read()))
        if self.answer is None:
            return NOT_DONE_YET
        request.setResponseCode(self.code)
        return self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()


class RspamdTests(ContentCase):
    def judged(self, *lines: str, **answer: Any) -> bytes:
        """What a client hears, with these settings of the check and this answer."""
        self._strike()
        self._raise()
        self.filter = Filter()
        self.filter.answer = {"action": "no action", "score": 1.5, **answer}
        self.reactor.listenTCP(11333, Site(self.filter, reactor=self.reactor), interface="127.0.0.1")
        self.next_hop = self.hop()
        block = "\n".join(lines)
        self.gateway(
            f"target.smtp next {{\ntargets {self.next_hop.endpoint}\n}}\nsmtp tcp://127.0.0.1:25 {{\ntls off\n"
            f"check {{\nrspamd {{\n{block}\n}}\n}}\ndeliver_to &next\n}}\n"
        )
        return self.send()[0]

    def header(self) -> bytes:
        return self.content().partition(b"\r\n\r\n")[0]

    def test_what_it_is_told(self) -> None:
        self.assertEqual(self.judged("settings_id mx", "pass_all yes", "password secret"), OK)
        ((request, content),) = self.filter.asked
        self.assertEqual(content, CONTENT)
        told = {name.lower(): values for name, values in request.requestHeaders.getAllRawHeaders()}
        expected = {
            b"ip": [b"127.0.0.1"],
            b"helo": [b"client.test"],
            b"from": [b"sender@client.test"],
            b"rcpt": [b"b@y.test"],
            b"deliver-to": [b"b@y.test"],
            b"mta-name": [b"gateway.test"],
            b"mta-tag": [b"mailgate"],
            b"settings-id": [b"mx"],
            b"pass": [b"all"],
            b"password": [b"secret"],
            b"content-length": [b"%d" % len(CONTENT)],
        }
        self.assertEqual({name: told.get(name) for name in expected}, expected)
        self.assertEqual((request.method, request.uri), (b"POST", b"/checkv2"))
        self.assertEqual(len(told[b"queue-id"]), 1)
        assert self.running is not None
        self.assertIn('answer="no action" score=1.5', self.running.logged("check.answered")[0])

    def test_actions(self) -> None:
        for action, lines, status, field in (
            ("no action", "", OK, b"X-Mailgate-Score: 1.5"),
            ("no action", "score_factor 2", OK, b"X-Mailgate-Score: 3"),
            ("reject", "", b"554 5.7.1", b""),
            ("reject", "reject_action quarantine", OK, b"X-Mailgate-Quarantine: yes"),
            ("reject", 'reject_action reject 550 5.7.9 "no"', b"550 5.7.9", b""),
            ("soft reject", "", b"451 4.7.1", b""),
            ("soft reject", "soft_reject_action ignore", OK, b""),
            ("greylist", "", OK, b""),
            ("greylist", "greylist_action reject", b"451 4.7.1", b""),
            ("discard", "", OK, None),
            ("phishing", "action phishing reject 550 5.7.8", b"550 5.7.8", b""),
            ("phishing", "action phishing tag fishy", OK, b"X-Mailgate-Tag: fishy"),
            ("add header", "", OK, b"X-Mailgate-Quarantine: yes"),
            ("add header", "add_header_action tag spam", OK, b"X-Mailgate-Tag: spam"),
            ("add header", "add_header_action ignore", OK, b"X-Spam: Yes"),
            ("quarantine", "", OK, b"X-Mailgate-Quarantine: yes"),
            ("dance", "", TEMPORARY, b""),
        ):
            self.assertEqual(self.judged(lines, action=action), status, (action, lines))
            if status == OK and field is not None:
                self.assertIn(field, self.header(), (action, lines))
            else:
                self.assertEqual([one for one in self.next_hop.transactions if one.content], [])

    def test_its_text_is_said(self) -> None:
        self.judged(action="reject", messages={"smtp_message": "Gtube\r\n250 pattern"})
        client = self.client()
        self.assertEqual(self.deliver(client, b"b@y.test", content=CONTENT)[-1][:28], b"554 5.7.1 Gtube??250 pattern")
        self.reactor.run(client.quit())

    def test_fields_and_subject(self) -> None:
        milter = {
            "add_headers": {"X-A": {"value": "1", "order": 1}, "X-B": "2", "X-C": [{"value": "3"}, "4\nX-Evil: 5"]},
            "remove_headers": {"subject": 2, "FROM": 0},
        }
        self.assertEqual(self.judged(action="no action", milter=milter, **{"dkim-signature": "v=1;\n a=x"}), OK)
        rest = self.header().partition(b"DKIM-Signature: ")
        expected = b"v=1;\r\n\ta=x\r\nX-A: 1\r\nSubject: one\r\nX-B: 2\r\nX-C: 3\r\nX-C: 4\r\n\tX-Evil: 5"
        self.assertEqual(rest[2], expected)
        self.assertEqual(self.judged(action="rewrite subject", subject="[SPAM] one"), OK)
        self.assertEqual(self.header().count(b"Subject: "), 1)
        self.assertIn(b"\r\nSubject: [SPAM] one", self.header())

    def fields(self, **answer: Any) -> list[bytes]:
        """Of the header, below our own Received."""
        self.assertEqual(self.judged("score_factor 0", **answer), OK)
        lines = self.header().split(b"\r\n")
        return [line for line in lines if not line.startswith((b"\t", b"Received:", b"X-Mailgate-Q"))]

    def test_places(self) -> None:
        came = [b"From: a@x.test", b"Subject: one", b"Subject: two"]
        for order, place in ((0, 0), (1, 0), (2, 1), (4, 3), (9, 3), (-1, 3), (-2, 2), (-4, 0), (-9, 0)):
            for word in ("order", "index"):
                found = self.fields(milter={"add_headers": {"X-A": {"value": "1", word: order}}})
                self.assertEqual(found, [*came[:place], b"X-A: 1", *came[place:]], (order, word))
        for number, left in ((1, 1), (2, 0), (-1, 0), (-2, 1)):
            found = self.fields(milter={"remove_headers": {"Subject": number}})
            self.assertEqual(found, [came[0], came[1 + left]], number)
        self.assertEqual(self.fields(milter={"remove_headers": {"Subject": 3, "X-None": 1, "From": -2}}), came)
        found = self.fields(**{"dkim-signature": ["a", "b"]})
        self.assertEqual(found, [b"DKIM-Signature: a", b"DKIM-Signature: b", *came])

    def test_what_its_milter_would_do(self) -> None:
        for instead, field in (("quarantine", b"X-Mailgate-Quarantine: yes"), ("discard", None)):
            self.assertEqual(self.judged(action="reject", milter={"reject": instead}), OK)
            if field is None:
                self.assertEqual([one for one in self.next_hop.transactions if one.content], [])
            else:
                self.assertIn(field, self.header())
        self.assertEqual(self.judged(action="reject", milter={"reject": "reject"}), b"554 5.7.1")
        self.assertEqual(self.judged(action="no action", milter={"reject": "discard"}), OK)
        self.assertEqual(len([one for one in self.next_hop.transactions if one.content]), 1)
        self.assertEqual(self.fields(action="reject", milter={"no_action": True})[-1], b"X-Rspamd-Action: reject")
        self.assertEqual(self.fields(action="add header", milter={"spam_header": "Very"})[-1], b"X-Spam: Very")
        found = self.fields(action="add header", milter={"spam_header": {"Subject": "spam", "X-Y": "2"}})
        self.assertEqual(found, [b"From: a@x.test", b"Subject: spam", b"X-Y: 2"])

    def test_a_mark_from_outside_goes(self) -> None:
        for action in ("add header", "rewrite subject"):
            self.judged(action=action)
            client = self.client()
            self.deliver(client, b"b@y.test", content=b"X-Spam: No\r\n" + CONTENT)
            self.reactor.run(client.quit())
            self.assertEqual([line for line in self.header().split(b"\r\n") if line[:7] == b"X-Spam:"], [b"X-Spam: Yes"])

    def test_soft_rejects_say_why(self) -> None:
        self.judged(action="soft reject", messages={"smtp_message": "Try again in 5 minutes"})
        client = self.client()
        self.assertEqual(self.deliver(client, b"b@y.test", content=CONTENT)[-1][:32], b"451 4.7.1 Try again in 5 minutes")
        self.reactor.run(client.quit())

    def test_no_sender_is_said(self) -> None:
        self.judged()
        self.send(sender=b"")
        self.assertEqual(self.filter.asked[-1][0].requestHeaders.getRawHeaders(b"from"), [b"<>"])

    def test_the_envelope(self) -> None:
        milter = {"change_from": "new@x.test", "add_rcpt": ["c@y.test"], "del_rcpt": ["<b@y.test>"]}
        self.assertEqual(self.judged(milter=milter), OK)
        last = self.next_hop.transactions[-1]
        self.assertEqual((last.sender, last.recipients), (b"new@x.test", [b"<c@y.test>"]))
        self.assertEqual(self.judged(action="discard"), OK)
        self.assertEqual([one for one in self.next_hop.transactions if one.content], [])

    def test_no_answer_is_no_pass(self) -> None:
        for answer in (
            b'{"action": "reject", "score": NaN}',
            b"",
            b"<html>",
            b"[]",
            b'{"score": 1}',
            b'{"action": "no action", "score": "1"}',
            b"x" * (2 << 20),
        ):
            self.judged()
            self.filter.answer = answer
            self.assertEqual(self.send(), [TEMPORARY], answer[:40])
        for wrong in (
            {"add_headers": {"X A": "1"}},
            {"add_headers": {"X": 5}},
            {"remove_headers": {"X": "a"}},
            {"add_rcpt": ["@"]},
            {"add_rcpt": ["<>"]},
            {"change_from": ["a@x.test", "b@x.test"]},
            {"add_headers": {"X": "\ud800"}},
            {"add_headers": {"X": {"value": "1", "order": "1"}}},
        ):
            self.assertEqual(self.judged(milter=wrong), TEMPORARY, wrong)
        self.judged()
        self.filter.code = 403
        self.assertEqual(self.send(), [TEMPORARY])
        self.assertEqual(self.judged("on_error ignore", action="dance"), OK)

    def test_silence_ends_and_trips_the_breaker(self) -> None:
        self.judged("timeout 5s")
        self.filter.answer = None
        before = self.reactor.seconds()
        for _ in range(3):
            self.assertEqual(self.send(), [TEMPORARY])
        self.assertGreater(self.reactor.seconds(), before + 15)
        asked, before = len(self.filter.asked), self.reactor.seconds()
        self.assertEqual(self.send(), [TEMPORARY])
        self.assertEqual(len(self.filter.asked), asked)
        self.assertLess(self.reactor.seconds(), before + 1)
        self.filter.answer = {"action": "no action"}
        self.reactor.advance(20)
        self.assertEqual(self.send(), [OK])

    def test_what_is_too_large_is_not_asked_about(self) -> None:
        self.assertEqual(self.judged("max_size 10B"), OK)
        self.assertEqual(self.filter.asked, [])
        assert self.running is not None
        self.assertEqual(len(self.running.logged("check.ignored")), 1)

    def test_mistakes(self) -> None:
        for url in ("127.0.0.1:11333", "unix:///run/rspamd", "http://", "http://h:99999", "http://h/?a"):
            text = f"smtp tcp://127.0.0.1:25 {{\ntls off\ncheck {{\nrspamd {url}\n}}\ndiscard\n}}\n"
            self.assertEqual([one.code for one in build(text).diagnostics if one.is_error], ["E0797"], url)
        text = "smtp tcp://127.0.0.1:25 {\ntls off\ncheck {\nrspamd {\naction reject ignore\n}\n}\ndiscard\n}\n"
        self.assertEqual([one.code for one in build(text).diagnostics if one.is_error], ["E0797"])
