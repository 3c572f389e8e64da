"""What checks find goes with the message: to those recipients who passed the check, in our name alone, and into the log."""

from __future__ import annotations

from typing import Any

from mailgate.message.envelope import Envelope
from mailgate.message.findings import MethodResult
from mailgate.modules.check.require_tls import RequireTls
from mailgate.pipeline.check import MessageCheck
from tests.support.scenario import LMTP, SMTP, SimulatedCase, statuses

CONTENT = b"From: a@x.test\r\nAuthentication-Results: gateway.test; spf=pass\r\nX-Mailgate-Score: -9\r\nSubject: hi\r\n\r\nhi\r\n"
FAILS = "require_tls {\non_fail %s\n}"


class FindingsTests(SimulatedCase):
    def relayed(self, checks: str, *, rest: str = "", listener: str = "", top: str = "") -> None:
        self.next_hop = self.hop()
        target = f"target.smtp next {{\ntargets {self.next_hop.endpoint}\n}}\n"
        rules = rest or "deliver_to &next"
        self.gateway(f"{top}\n{target}smtp {SMTP} {{\ntls off\n{listener}\ncheck {{\n{checks}\n}}\n{rules}\n}}\n")

    def header(self, number: int = 0) -> bytes:
        content = bytes(self.next_hop.transactions[number].content)
        return content.partition(b"\r\n\r\n")[0] + b"\r\n"

    def send(self, *recipients: bytes, content: bytes = CONTENT) -> bytes:
        client = self.client()
        status = statuses(self.deliver(client, *(recipients or (b"b@y.test",)), content=content))[-1]
        self.reactor.run(client.quit())
        return status

    def test_marks_and_the_log(self) -> None:
        checks = "\n".join(FAILS % action for action in ("quarantine", "score 2.5", 'tag "in the clear"', "tag"))
        self.relayed(checks)
        self.assertEqual(self.send(), b"250 2.0.0")
        self.assertTrue(
            self.header().startswith(
                b"X-Mailgate-Tag: in the clear\r\nX-Mailgate-Tag: require_tls\r\nX-Mailgate-Score: 2.5\r\n"
                b"X-Mailgate-Quarantine: yes\r\nReceived: "
            ),
            self.header(),
        )
        self.assertNotIn(b"-9", self.header())
        (line,) = self.running.logged("message.done")  # type: ignore[union-attr]
        self.assertIn(" score=2.500 verdict=quarantine", line)

    def test_what_is_ignored_leaves_no_mark(self) -> None:
        self.relayed(FAILS % "ignore")
        self.assertEqual(self.send(), b"250 2.0.0")
        self.assertTrue(self.header().startswith(b"Received: "))
        (line,) = self.running.logged("message.done")  # type: ignore[union-attr]
        self.assertNotIn("verdict", line)

    def test_a_check_in_a_block_for_recipients_marks_theirs_alone(self) -> None:
        block = f"destination y.test {{\ncheck {{\n{FAILS % 'quarantine'}\n}}\ndeliver_to &next\n}}\n"
        rest = block + "default_destination {\ndeliver_to &next\n}"
        self.relayed("require_tls {\non_fail tag all\n}", rest=rest, listener="on_split allow")
        self.assertEqual(self.send(b"b@y.test", b"c@z.test", b"d@y.test"), b"250 2.0.0")
        marked = {
            tuple(sorted(transaction.recipients)): b"X-Mailgate-Quarantine: yes\r\n" in bytes(transaction.content)
            for transaction in self.next_hop.transactions
        }
        self.assertEqual(marked, {(b"<b@y.test>", b"<d@y.test>"): True, (b"<c@z.test>",): False})
        self.assertTrue(all(b"X-Mailgate-Tag: all\r\n" in bytes(one.content) for one in self.next_hop.transactions))

    def test_results_in_our_name_and_forged_ones(self) -> None:
        for setting, ours in (("", b"gateway.test"), ("authserv_id mail.example.org", b"mail.example.org")):
            for listener, top in ((setting, ""), ("", setting)):
                with self.row(f"{setting} {listener}"):
                    self.results_in_our_name(listener, top, ours)

    def results_in_our_name(self, listener: str, top: str, ours: bytes) -> None:
        class Finding(MessageCheck):
            def body(self, message: Any) -> None:
                found = self.envelope.findings_of(self.check)
                found.results.append(MethodResult("spf", "fail", "", (("smtp.mailfrom", "a@x.test"),)))
                found.add_field("X-Found", "it\r\nX-Bad: y")

        # Any check may find something: here one of ours does what a third party's would.
        self.patch(RequireTls, "open", lambda check, envelope: Finding(check, envelope))
        self.patch(RequireTls, "marks", True)
        self.patch(RequireTls, "stages", frozenset({"body"}))
        self.relayed("require_tls", listener=listener, top=top)
        forged = b"".join(b"Authentication-Results: %s; spf=pass\r\n" % name for name in (b"gateway.test", ours, b"other.test"))
        self.assertEqual(self.send(content=forged + CONTENT), b"250 2.0.0")
        expected = (
            b"Authentication-Results: %s;\r\n\tspf=fail smtp.mailfrom=a@x.test\r\nX-Found: it??X-Bad: y\r\nReceived: " % ours
        )
        self.assertTrue(self.header().startswith(expected), self.header())
        self.assertEqual(self.header().count(b"Authentication-Results: "), 2)
        self.assertIn(b"Authentication-Results: other.test; spf=pass\r\n", self.header())
        (line,) = self.running.logged("message.done")  # type: ignore[union-attr]
        self.assertIn(' auth="spf=fail" verdict=pass', line)

    def test_by_lmtp_and_into_copies(self) -> None:
        self.next_hop = self.hop()
        store, check = self.next_hop.endpoint, f"check {{\n{FAILS % 'quarantine'}\n}}"
        queues = f"target.queue kept {{\ntarget smtp {store}\nbounce {{\ndiscard\n}}\n}}\n"
        self.gateway(f"{queues}lmtp {LMTP} {{\ntls off\n{check}\ndeliver_to smtp {store}\ncopy_to &kept\n}}\n")
        client = self.client(LMTP)
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], b"250 2.0.0")
        self.reactor.run(client.quit())
        self.reactor.settle(30)
        self.assertEqual(len(self.next_hop.transactions), 2)
        self.assertTrue(all(bytes(one.content).startswith(b"X-Mailgate-Quarantine: ") for one in self.next_hop.transactions))


class UnmarkedEnvelope(SimulatedCase):
    def test_nobody_pays_for_what_nobody_finds(self) -> None:
        hop = self.hop()
        self.relay(hop)
        made: list[object] = []
        original = Envelope.findings_of
        self.patch(Envelope, "findings_of", lambda envelope, check: made.append(check) or original(envelope, check))
        client = self.client()
        self.deliver(client, b"b@y.test", content=CONTENT)
        self.reactor.run(client.quit())
        self.assertEqual(made, [])
