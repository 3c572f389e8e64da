"""Clients that close their sending side behind their last command: they hear what they are owed, and nothing else comes of it.

Each step of the dialogue over real sockets, TCP and unix, SMTP and LMTP; and what must not come of it: a message whose end was
never seen, a truncated TLS stream, an answer for somebody who is gone.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred

from mailgate.inbound.sessions import ConnectionSettings
from mailgate.smtp.reply import Reply
from mailgate.testing.client import RawClient
from mailgate.testing.script import Step, say
from mailgate.testing.tls import TrustingClient
from tests.inbound.scripted import RECIPIENT_OK, TAKEN, Lab
from tests.support.ledger import message
from tests.support.scenario import LMTP, SMTP, SimulatedCase
from tests.wire.test_inbound_listener import CONTENT, DATA, _Wire

MESSAGE = DATA + CONTENT + b".\r\n"
SENDER = b"MAIL FROM:<a@client.test>\r\n"
RECIPIENT = b"RCPT TO:<b@mx.test>\r\n"

ANSWERED = {
    "after EHLO": (b"", []),
    "after NOOP": (b"NOOP\r\n", [b"250"]),
    "after a mistake": (b"HURRY\r\n", [b"500"]),
    "after MAIL": (SENDER, [b"250"]),
    "after RCPT": (SENDER + RECIPIENT, [b"250", b"250"]),
    "after DATA": (DATA, [b"250", b"250", b"354"]),
    "within the content": (DATA + CONTENT, [b"250", b"250", b"354"]),
    "within the dot": (DATA + CONTENT + b".\r", [b"250", b"250", b"354"]),
    "within a command": (SENDER + b"RCPT TO:<b@mx.te", [b"250"]),
    "behind a chunk": (SENDER + RECIPIENT + b"BDAT 4\r\nab\r\n", [b"250", b"250", b"250"]),
    "within a chunk": (SENDER + RECIPIENT + b"BDAT 9 LAST\r\nab\r\n", [b"250", b"250"]),
    "after AUTH began": (b"AUTH PLAIN\r\n", [b"502"]),
    "after the dot": (MESSAGE, [b"250", b"250", b"354", b"250"]),
    "after the last chunk": (SENDER + RECIPIENT + b"BDAT 4 LAST\r\nab\r\n", [b"250", b"250", b"250"]),
    "after two messages": (2 * MESSAGE, 2 * [b"250", b"250", b"354", b"250"]),
    "after QUIT": (MESSAGE + b"QUIT\r\n", [b"250", b"250", b"354", b"250", b"221"]),
}
"""What is said after the hello, and what is heard before we close."""
TAKEN_WHOLE = {"after the dot": 1, "after the last chunk": 1, "after two messages": 2, "after QUIT": 1}


class HalfClosed(_Wire):
    async def heard(self, client: RawClient) -> list[bytes]:
        """The codes of everything that comes until we close."""
        await client.wait_closed()
        heard = []
        while client._reply_length():
            heard.append((await client.reply())[:3])
        self.assertEqual(b"", bytes(client._unread))
        return heard

    def assertOutcome(self, lab: Lab, name: str) -> None:
        taken = TAKEN_WHOLE.get(name, 0)
        ended = [transaction for transaction in lab.transactions if ("end",) in transaction.log]
        self.assertEqual([None] * taken, [transaction.aborted for transaction in ended], name)
        for transaction in lab.transactions:
            if transaction not in ended:
                self.assertEqual("client gone", transaction.aborted, name)

    async def each_step(self, lmtp: bool, scheme: str, waiting: bool) -> None:
        for name, (said, expected) in ANSWERED.items():
            held: list[Deferred[Any]] = []

            def later(answer: Any, held: list[Deferred[Any]] = held) -> Any:
                held.append(Deferred())
                return held[-1].addCallback(lambda _: answer)

            script: dict[str, Any] = {}
            if waiting:
                script = {
                    "rcpt": lambda address, later=later: later(RECIPIENT_OK),
                    "end": lambda transaction, later=later: later([TAKEN]),
                }
            path = str(self.directory / f"{len(self.labs)}")
            lab = self.lab(lmtp=lmtp, scheme=scheme, path=path if scheme == "unix" else "", script=script)
            client = await self.client(lab, hello=b"LHLO client.test" if lmtp else b"EHLO client.test")
            client.send(said)
            client.end()
            while not client.closed:
                await self.until(lambda client=client, held=held: client.closed or held)
                if held:
                    held.pop().callback(None)
            self.assertEqual(expected, await self.heard(client), name)
            await self.until(lambda lab=lab: not len(lab.sessions))
            self.assertOutcome(lab, name)

    async def test_smtp(self) -> None:
        await self.each_step(lmtp=False, scheme="tcp", waiting=False)

    async def test_smtp_while_each_step_must_be_waited_for(self) -> None:
        await self.each_step(lmtp=False, scheme="tcp", waiting=True)

    async def test_lmtp_while_each_step_must_be_waited_for(self) -> None:
        await self.each_step(lmtp=True, scheme="unix", waiting=True)

    async def test_before_the_greeting(self) -> None:
        lab = self.lab(settings=ConnectionSettings(greeting_delay=30))
        client = await self.client(lab, hello=b"")
        client.end()
        self.assertEqual([], await self.heard(client))

    async def test_early_talk_that_is_allowed(self) -> None:
        lab = self.lab(settings=ConnectionSettings(greeting_delay=0.1, reject_early_talkers=False))
        client = await self.client(lab, hello=b"")
        client.send(b"EHLO client.test\r\n" + MESSAGE + b"QUIT\r\n")
        client.end()
        self.assertEqual([b"220", b"250", b"250", b"250", b"354", b"250", b"221"], await self.heard(client))

    async def test_answers_in_the_tarpit(self) -> None:
        lab = self.lab(settings=ConnectionSettings(tarpit=0.05, tarpit_limit=0.1))
        client = await self.client(lab)
        client.send(b"HURRY\r\nNOOP\r\n")
        client.end()
        self.assertEqual([b"500", b"250"], await self.heard(client))

    async def test_a_client_that_reads_slowly(self) -> None:
        """More answers than the socket takes: none is lost."""
        lab = self.lab(max_idle_commands=10**9)
        client = await self.client(lab)
        client.stop_reading()
        client.send(b"VRFY someone\r\n" * 100_000)
        connection: Any = next(iter(lab.sessions._open))
        await self.until(lambda: connection._blocked)
        client.end()
        client.resume_reading()
        await client.wait_closed()
        self.assertEqual(100_000, client.received.count(b"\r\n252 "))

    async def test_a_reset_while_the_recipient_is_asked_for(self) -> None:
        """Half of a close, then the whole: nothing more is to be done for it."""
        for scheme in ("tcp", "unix"):
            answer: Deferred[Reply] = Deferred()
            script = {"rcpt": lambda address, answer=answer: answer, "abort": lambda reason, answer=answer: answer.cancel()}
            lab = self.lab(scheme=scheme, path=str(self.directory / "reset") if scheme == "unix" else "", script=script)
            client = await self.client(lab)
            client.send(MESSAGE)
            client.end()
            connection: Any = next(iter(lab.sessions._open))
            await self.until(lambda connection=connection: connection._vigil)
            self.assertIsNone(lab.transactions[0].aborted)
            client.drop(reset=True)
            await self.until(lambda lab=lab: not len(lab.sessions))
            self.assertEqual("client gone", lab.transactions[0].aborted, scheme)
            self.assertNotIn(("end",), lab.transactions[0].log)

    async def test_a_unix_client_that_closed_is_gone_at_once(self) -> None:
        """There a close can be told from half of one."""
        answer: Deferred[Reply] = Deferred()
        script = {"rcpt": lambda address: answer, "abort": lambda reason: answer.cancel()}
        lab = self.lab(scheme="unix", path=str(self.directory / "closed"), script=script)
        client = await self.client(lab)
        client.send(MESSAGE)
        await self.until(lambda: lab.transactions and lab.transactions[0].recipients)
        client.drop()
        await self.until(lambda: not len(lab.sessions), deadline=0.9)
        self.assertEqual("client gone", lab.transactions[0].aborted)

    async def test_starttls_behind_the_end(self) -> None:
        """There is nobody to shake hands with."""
        lab = self.lab(tls=True)
        client = await self.client(lab)
        client.send(b"STARTTLS\r\n")
        client.end()
        self.assertEqual([b"220"], await self.heard(client))
        await self.until(lambda: not len(lab.sessions))

    async def test_a_truncated_tls_stream_is_a_lost_client(self) -> None:
        await self.under_tls(lambda client: client.end())

    async def test_close_notify_is_the_end_of_both_directions(self) -> None:
        await self.under_tls(lambda client: client.drop())

    async def under_tls(self, close: Any) -> None:
        answer: Deferred[Reply] = Deferred()
        script = {"rcpt": lambda address: answer, "abort": lambda reason: answer.cancel()}
        lab = self.lab(tls=True, scheme="tls", script=script)
        client = await self.client(lab, tls=TrustingClient("mx.test"))
        client.send(MESSAGE)
        await self.until(lambda: lab.transactions and lab.transactions[0].recipients)
        close(client)
        await self.until(lambda: not len(lab.sessions))
        self.assertEqual("client gone", lab.transactions[0].aborted)
        self.assertNotIn(("end",), lab.transactions[0].log)

    async def test_under_tls_what_was_answered_at_once_is_heard(self) -> None:
        lab = self.lab(tls=True, scheme="tls")
        client = await self.client(lab, tls=TrustingClient("mx.test"))
        client.send(MESSAGE)
        client.drop()
        await self.until(lambda: lab.transactions and ("end",) in lab.transactions[0].log)
        await self.until(lambda: not len(lab.sessions))
        self.assertIsNone(lab.transactions[0].aborted)

    async def test_descriptors_are_given_back(self) -> None:
        lab = self.lab()
        counts = []
        for _ in range(20):
            client = await self.client(lab)
            client.send(MESSAGE)
            client.end()
            await client.wait_closed()
            await self.until(lambda: not len(lab.sessions))
            counts.append(len(os.listdir("/proc/self/fd")))
        self.assertEqual(counts[1], counts[-1])


class CutThrough(SimulatedCase):
    """The whole gateway: the FIN comes while the next hop is asked."""

    def heard(self, said: bytes, endpoint: str = SMTP) -> list[bytes]:
        client = self.client(endpoint)
        before = len(client.received)
        client.send(said)
        client.end()
        self.reactor.run(client.wait_closed(), limit=600)
        return [line[:3] for line in bytes(client.received[before:]).split(b"\r\n") if line]

    def test_each_step_with_a_next_hop(self) -> None:
        content = message("half")
        begun = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nRCPT TO:<c@y.test>\r\n"
        for endpoint in (SMTP, LMTP):
            finals = [b"250"] * (2 if endpoint == LMTP else 1)
            for name, said, expected, delivered in (
                ("mail", begun[:22], [b"250"], 0),
                ("recipients", begun, [b"250"] * 3, 0),
                ("data", begun + b"DATA\r\n", [b"250"] * 3 + [b"354"], 0),
                ("content", begun + b"DATA\r\n" + content, [b"250"] * 3 + [b"354"], 0),
                ("chunk", begun + b"BDAT 4\r\nab\r\n", [b"250"] * 4, 0),
                ("dot", begun + b"DATA\r\n" + content + b".\r\n", [b"250"] * 3 + [b"354", *finals], 1),
                ("quit", begun + b"DATA\r\n" + content + b".\r\nQUIT\r\n", [b"250"] * 3 + [b"354", *finals, b"221"], 1),
            ):
                with self.row(f"{endpoint} {name}"):
                    hop = self.hop(lmtp=endpoint == LMTP)
                    gateway = self.relay(hop)
                    self.assertEqual(expected, self.heard(said, endpoint))
                    self.reactor.settle(5)
                    self.assertEqual(delivered, len(hop.transactions))
                    aborted = gateway.logged("message.aborted")
                    self.assertEqual(0 if delivered or name == "mail" else 1, len(aborted), aborted)
                    self.assertTrue(all('reason="client gone"' in line for line in aborted), aborted)

    def test_a_refusal_of_the_next_hop_is_heard(self) -> None:
        hop = self.hop(script={Step.RCPT: [say(b"550 5.1.1 nobody")], Step.DOT: [say(b"554 5.7.1 no")]})
        self.relay(hop)
        begun = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n"
        self.assertEqual([b"250", b"550"], self.heard(begun))
        rest = b"RCPT TO:<c@y.test>\r\nDATA\r\n" + message("half") + b".\r\n"
        self.assertEqual([b"250", b"250", b"250", b"354", b"554"], self.heard(begun + rest))
