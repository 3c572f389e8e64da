"""The judges can convict: the ledger and the wire checks find each kind of wrong, and only that."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgate.testing.nexthop import Connection, NextHop, Transaction
from tests.support.invariants import check_content, check_log, check_wire, parse
from tests.support.ledger import Ledger, message, token_of


def delivered(token: str, recipient: bytes, answer: bytes = b"250 ok\r\n") -> Transaction:
    return Transaction(b"<a@x>", False, [b"<" + recipient + b">"], via="DATA", wire=message(token), complete=True, answer=answer)


class LedgerTests(SynchronousTestCase):
    def problems(self, reply: bytes, *transactions: Transaction) -> list[str]:
        hop = NextHop()
        hop.transactions += transactions
        ledger = Ledger()
        ledger.answered("t", b"r@y", reply)
        return [problem[:2] for problem in ledger.book(hop).problems()]

    def test_verdicts(self) -> None:
        once, lost = delivered("t", b"r@y"), delivered("t", b"r@y", b"")
        self.assertEqual(self.problems(b"250 ok", once), [])
        self.assertEqual(self.problems(b"250 ok"), ["I1"])
        self.assertEqual(self.problems(b"250 ok", lost), ["I1"])
        self.assertEqual(self.problems(b"550 no", once), ["I2"])
        self.assertEqual(self.problems(b"451 unknown", lost), [])
        self.assertEqual(self.problems(b"451 unknown", delivered("t", b"r@y", b"221 bye\r\n")), [])
        self.assertEqual(self.problems(b"250 ok", once, once), ["I3"])
        self.assertEqual(self.problems(b"250 ok", lost, once), [])
        self.assertEqual(self.problems(b"250 ok", once, delivered("other", b"r@y")), ["I2"])
        self.assertEqual(self.problems(b"250 ok", once, delivered("t", b"victim@y")), ["I2"])

    def test_tokens(self) -> None:
        self.assertEqual(token_of(message("abc")), "abc")
        with self.assertRaises(AssertionError):
            token_of(b"Subject: x\r\n\r\nX-Token: body\r\n")


class WireTests(SynchronousTestCase):
    def convict(self, data: bytes) -> str:
        with self.assertRaises(AssertionError) as caught:
            check_wire(Connection(0, clear=bytearray(data)))
        return str(caught.exception)[:2]

    def test_a_clean_dialogue(self) -> None:
        said = parse(
            b"EHLO g.test\r\nMAIL FROM:<a@x> SIZE=9\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<b@y>\r\nDATA\r\n..\r\n.\r\n"
            b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nBDAT 3\r\n.\r\nBDAT 0 LAST\r\nQUIT\r\n"
        )
        self.assertEqual((said.contents, said.abandoned), ([b"..\r\n", b".\r\n"], 1))

    def test_each_wrong_is_found(self) -> None:
        begin = b"EHLO g\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n"
        for wrong, verdict in (
            (b"EHLO g\r\nVRFY x\r\n", "I4"),
            (b"MAIL FROM:<a@x>\nRCPT TO:<b@y>\r\n", "I4"),
            (b"MAIL FROM:<a@x>\r\nMAIL FROM:<a@x>\r\n", "I4"),
            (begin + b"no end\r\n", "I5"),
            (begin + b"bare\nline\r\n.\r\n", "I5"),
            (begin + b"bare\rline\r\n.\r\n", "I5"),
            (begin + b"nul\0\r\n.\r\n", "I5"),
            (begin + b"one\r\n.\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<c@y>\r\nDATA\r\ntwo\r\n.\r\n", "I4"),
        ):
            self.assertEqual(self.convict(wrong), verdict, wrong)

    def test_contents_are_compared_below_our_trace_fields(self) -> None:
        sent = message("t")
        check_content(b"Received: from x\r\n\tby y; date\r\n" + sent, sent)
        for arrived in (sent, b"Received: x\r\n" + sent + b"more", b"Received: x\r\n" + sent.replace(b"Hello", b"Hallo")):
            with self.assertRaises(AssertionError):
                check_content(arrived, sent)

    def test_a_traceback_in_the_log_is_trouble(self) -> None:
        check_log("gateway.start\nmessage.done reply=250")
        with self.assertRaises(AssertionError):
            check_log("message.done\nTraceback (most recent call last):")
