"""Fields that a gateway adds, replaces and removes, as the next hop sees them."""

from __future__ import annotations

from mailgate.message.header import Header
from tests.modules.support import errors
from tests.support.scenario import SMTP, SimulatedCase, statuses

CONTENT = b"Received: from elsewhere\r\nSubject: Hello\r\nX-Spam-Flag: YES\r\nX-Spam-Score: 7\r\n\r\nthe body\r\n"


class HeaderModifiers(SimulatedCase):
    def sent(self, *lines: str, routes: str = "") -> bytes:
        self.next_hop = self.hop()
        modify = "modify {\n" + "\n".join(lines) + "\n}\n" if lines else ""
        routes = routes.replace("HOP", self.next_hop.endpoint) or f"deliver_to smtp {self.next_hop.endpoint}"
        self.gateway(f"smtp {SMTP} {{\ntls off\n{modify}{routes}\n}}\n")
        client = self.client()
        self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=CONTENT))[-1], b"250 2.0.0")
        self.reactor.run(client.quit())
        return bytes(self.next_hop.transactions[-1].content)

    def test_all_of_them_in_their_order(self) -> None:
        sent = self.sent(
            "remove_header X-Spam-*", 'add_header X-Note "für alle"', "replace_header X-Spam-Flag NO", "subject_tag [external]"
        )
        section, _, body = sent.partition(b"\r\n\r\n")
        self.assertEqual(body, b"the body\r\n")
        self.assertTrue(section.startswith(b"Received: from "))
        tail = section[section.index(b"Received: from elsewhere") :]
        self.assertEqual(
            tail.split(b"\r\n"),
            [b"Received: from elsewhere", b"Subject: [external] Hello", b"X-Note: =?utf-8?b?ZsO8ciBhbGxl?=", b"X-Spam-Flag: NO"],
        )

    def test_our_own_received_stays(self) -> None:
        header = Header(self.sent("remove_header Received Subject").partition(b"\r\n\r\n")[0] + b"\r\n")
        self.assertEqual([one.name for one in header.fields], ["received", "x-spam-flag", "x-spam-score"])
        self.assertNotIn(b"elsewhere", header.section)

    def test_a_change_reaches_only_the_recipients_of_its_block(self) -> None:
        first, second = self.hop(), self.hop()
        self.gateway(
            f"smtp {SMTP} {{\ntls off\n"
            f"destination one@y.test {{\nmodify {{\nadd_header X-Seen one\n}}\ndeliver_to smtp {first.endpoint}\n}}\n"
            f"default_destination {{\ndeliver_to smtp {second.endpoint}\n}}\n}}\n"
        )
        for rcpt, hop, seen in ((b"one@y.test", first, True), (b"two@y.test", second, False)):
            client = self.client()
            self.assertEqual(statuses(self.deliver(client, rcpt, content=CONTENT))[-1], b"250 2.0.0")
            self.reactor.run(client.quit())
            self.assertEqual(b"X-Seen: one\r\n" in bytes(hop.transactions[-1].content), seen)

    def test_mistakes(self) -> None:
        for line in (
            'add_header "X Y" z',
            "add_header X: z",
            "add_header Received z",
            "replace_header Return-Path z",
            'add_header X "a\tb"',
            'remove_header ""',
            'remove_header "X Y*"',
            'subject_tag " "',
        ):
            self.assertEqual(errors(f"modifiers m {{\n {line}\n}}"), ["E0794 2"], line)
