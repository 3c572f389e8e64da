"""require_reverse_dns, matching_helo, require_mx: what names say of a client and a sender, and nobody passes unasked."""

from __future__ import annotations

from typing import Any

from mailgate.inbound import client_names
from mailgate.net.waiting import begin
from mailgate.pipeline.explain import Explanation, Question, explain, read_address
from mailgate.pipeline.lookup import WITHOUT_IO, Lookups
from mailgate.pipeline.trace_tree import Kind
from mailgate.testing.names import Action, MemoryNames
from tests.support.checked import CLIENT, OK, PTR, CheckedCase

UNANSWERED = b"451 4.4.3"
V6 = "2001:db8::7"
PTR6 = "7" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa"


class ReverseDnsTests(CheckedCase):
    def setUp(self) -> None:
        super().setUp()
        self.names.add(PTR, "PTR", "liar.example.net.", "mail.example.org.")
        self.names.add("liar.example.net", "A", "198.51.100.1")
        self.names.add("mail.example.org", "A", "192.0.2.6", CLIENT)
        self.names.add(PTR6, "PTR", "mail6.example.org.")
        self.names.add("mail6.example.org", "AAAA", "2001:DB8:0::7")
        self.names.add("8.2.0.192.in-addr.arpa", "PTR", "liar.example.net.")

    def test_names_that_lead_back(self) -> None:
        self.checked("require_reverse_dns")
        for source, expected in ((CLIENT, OK), (V6, OK), ("192.0.2.8", b"550 5.7.25"), ("192.0.2.9", b"550 5.7.25")):
            self.assertEqual(self.verdict(source), expected, source)

    def test_any_name(self) -> None:
        self.checked("require_reverse_dns", "verify no")
        self.assertEqual((self.verdict("192.0.2.8"), self.verdict("192.0.2.9")), (OK, b"550 5.7.25"))

    def test_no_answer_is_no_pass(self) -> None:
        for action in (Action.SERVFAIL, Action.SILENCE, Action.BOGUS):
            self.names.script(PTR, "PTR", action)
            self.checked("require_reverse_dns")
            self.assertEqual(self.verdict(), UNANSWERED, action)
        self.names.script(PTR, "PTR", Action.ANSWER)
        self.names.script("mail.example.org", "A", Action.SERVFAIL)
        self.checked("require_reverse_dns")
        self.assertEqual(self.verdict(), UNANSWERED, "the one that would have confirmed it")

    def test_one_name_fails_and_another_confirms(self) -> None:
        self.names.script("liar.example.net", "A", Action.SERVFAIL)
        self.checked("require_reverse_dns")
        self.assertEqual(self.verdict(), OK)

    def test_what_is_done_without_an_answer(self) -> None:
        self.names.script(PTR, "PTR", Action.SERVFAIL)
        for line, expected in (
            ("on_error reject", b"550 5.7.25"),
            ('on_error reject 554 5.7.9 "no"', b"554 5.7.9"),
            ("on_error ignore", OK),
        ):
            running = self.checked("require_reverse_dns", line)
            self.assertEqual(self.verdict(), expected, line)
            self.assertEqual(len(running.logged("check.ignored")), expected == OK)

    def test_the_listeners_own_resolver_is_asked(self) -> None:
        def build_resolver(block: Any, adapters: Any) -> Any:
            self.own = MemoryNames(adapters.reactor)
            self.own.add("9.2.0.192.in-addr.arpa", "PTR", "own.example.org.")
            self.own.add("own.example.org", "A", "192.0.2.9")
            return self.own.resolver()

        self.patch(client_names, "build_resolver", build_resolver)
        self.checked("require_reverse_dns", listener="resolver {\nservers 192.0.2.53\n}")
        self.assertEqual((self.verdict("192.0.2.9"), self.verdict()), (OK, b"550 5.7.25"))
        self.assertEqual(self.names.queries, [])

    def test_a_dry_run_asks_nobody(self) -> None:
        (listener,) = self.checked("require_reverse_dns").configuration.listeners
        question = Question(read_address("a@x.test"), (read_address("b@y.test"),), ip="192.0.2.9")
        with Lookups([], WITHOUT_IO) as lookups:
            found = begin(explain(listener, question, lookups))
        assert isinstance(found, Explanation)
        told = {node.reason for step in found.steps() for node in step.tree.walk() if node.kind is Kind.CHECK}
        self.assertEqual(told, {"sender: not asked, taken to pass"})
        self.assertEqual(self.names.queries, [])


class HeloTests(CheckedCase):
    def setUp(self) -> None:
        super().setUp()
        self.names.add("mail.example.org", "A", CLIENT)
        self.names.add(PTR, "PTR", "Nat.example.org.")
        self.names.add("other.example.org", "A", "198.51.100.1")

    def test_whose_name_it_is(self) -> None:
        self.checked("matching_helo")
        for helo, expected in (
            (b"mail.example.org", OK),
            (b"nat.example.ORG", OK),
            (b"[192.0.2.7]", OK),
            (b"other.example.org", b"550 5.7.1"),
            (b"nowhere.example.org", b"550 5.7.1"),
            (b"localhost", b"550 5.7.1"),
            (b"[192.0.2.8]", b"550 5.7.1"),
            (b"192.0.2.7", b"550 5.7.1"),
        ):
            self.assertEqual(self.verdict(helo=helo), expected, helo)
        self.assertEqual(self.verdict(V6, b"[IPv6:2001:db8:0::7]"), OK)

    def test_no_answer_is_no_pass(self) -> None:
        self.names.script("other.example.org", "A", Action.SERVFAIL)
        self.names.script("slow.example.org", "A", Action.SILENCE)
        self.names.script("nat.example.org", "A", Action.SERVFAIL)
        self.checked("matching_helo")
        for helo, expected in ((b"other.example.org", UNANSWERED), (b"slow.example.org", UNANSWERED), (b"nat.example.org", OK)):
            self.assertEqual(self.verdict(helo=helo), expected, helo)

    def test_either_answer_may_be_missing(self) -> None:
        self.names.script(PTR, "PTR", Action.SERVFAIL)
        self.checked("matching_helo")
        self.assertEqual(self.verdict(helo=b"mail.example.org"), OK)
        self.assertEqual(self.verdict(helo=b"other.example.org"), UNANSWERED)


class MxTests(CheckedCase):
    def test_domains(self) -> None:
        self.names.add("mx.test", "MX", "10 mail.mx.test.")
        self.names.add("null.test", "MX", "0 .")
        self.names.add("plain.test", "A", "198.51.100.1")
        self.names.add("six.test", "AAAA", "2001:db8::1")
        self.names.add("empty.test", "TXT", '"no mail here"')
        self.names.script("broken.test", "MX", Action.SERVFAIL)
        self.names.script("silent.test", "MX", Action.SILENCE)
        self.names.add("half.test", "TXT", '"x"')
        self.names.script("half.test", "A", Action.SERVFAIL)
        self.checked("require_mx")
        for sender, expected in (
            (b"a@mx.test", OK),
            (b"a@plain.test", OK),
            (b"a@six.test", OK),
            (b"", OK),
            (b"a@[192.0.2.1]", OK),
            (b"a@null.test", b"550 5.7.27"),
            (b"a@empty.test", b"550 5.1.8"),
            (b"a@gone.example", b"550 5.1.8"),
            (b"a@broken.test", UNANSWERED),
            (b"a@silent.test", UNANSWERED),
            (b"a@half.test", UNANSWERED),
        ):
            self.assertEqual(self.verdict(sender=sender), expected, sender)

    def test_a_client_that_leaves_takes_its_question_with_it(self) -> None:
        self.names.script("silent.test", "MX", Action.SILENCE)
        self.checked("require_mx")
        client = self.from_()
        client.send(b"MAIL FROM:<a@silent.test>\r\nRCPT TO:<b@y.test>\r\n")
        self.reactor.settle(1)
        client.drop(reset=True)
        self.reactor.settle(10)
        self.assertEqual(self.names.asked("silent.test", "MX"), 1)
