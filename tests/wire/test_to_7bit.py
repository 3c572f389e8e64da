"""modify.to_7bit: next hops without 8BITMIME get what they can take; those that have it hear of no other body than they get."""

from __future__ import annotations

import random
import re
import tempfile
from dataclasses import replace
from email import message_from_bytes
from math import inf
from pathlib import Path
from typing import Any

import dkim
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgate.adapters import Adapters
from mailgate.mailauth.dkim_keys import ED25519_SHA256, new_key
from mailgate.message.body import Body, Spool
from mailgate.message.message import Message
from mailgate.message.seven_bit import MAX_PARTS
from mailgate.testing.client import connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.nexthop import NextHop, Step, say
from tests.modules.support import instance
from tests.support.adapters import real_adapters
from tests.support.interpreters import needs_nacl
from tests.support.scenario import LMTP, SMTP, SimulatedCase, statuses

PLAIN = (b"PIPELINING", b"ENHANCEDSTATUSCODES", b"SIZE 0")
EIGHT = (*PLAIN, b"8BITMIME")
BINARY = (*EIGHT, b"CHUNKING", b"BINARYMIME")
WORDS = "Grüße aus dem schönen Münster, und bis bald!\r\n.\r\n..dots \r\n".encode()
TEXT = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + WORDS
ASCII = b"Subject: x\r\n\r\n.\r\nHello, as it is: =E9 \r\n"
SIGNED = (
    b"MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\ncaf\xe9\r\n"
    b"--s\r\nContent-Type: text/plain\r\n\r\nsignature\r\n--s--\r\n"
)
RECODE = "modify {\nto_7bit\n}"


class To7bitCase(SimulatedCase):
    def stage(self, extensions: tuple[bytes, ...] = PLAIN, *, listener: str = RECODE, lmtp: bool = False) -> NextHop:
        hop = self.hop(extensions=extensions, lmtp=lmtp)
        self.relay(hop, listener=listener)
        return hop

    def transaction(self, content: bytes, body: bytes = b"", *recipients: bytes, endpoint: str = SMTP) -> bytes:
        """Status of the last answer; BINARYMIME comes by BDAT."""
        client = self.client(endpoint)
        recipients = recipients or (b"b@y.test",)
        self.assertEqual(self.ask(client, b"MAIL FROM:<a@x.test>" + body)[:3], b"250")
        for recipient in recipients:
            self.assertEqual(self.ask(client, b"RCPT TO:<" + recipient + b">")[:3], b"250")
        if b"BINARYMIME" in body:
            client.send(b"BDAT %d LAST\r\n" % len(content) + content)
        else:
            self.ask(client, b"DATA")
            client.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        replies = [self.reactor.run(client.reply(), limit=600) for _ in (recipients if endpoint == LMTP else (1,))]
        self.reactor.run(client.quit())
        return statuses(replies)[-1]

    @property
    def spool(self) -> Spool:
        assert self.running is not None
        return self.running.live._assembler.spool

    def received(self, hop: NextHop, number: int = -1) -> tuple[bytes, bytes]:
        """What MAIL said of the body, and the content behind our trace field."""
        transaction = hop.transactions[number]
        words = [word for word in transaction.mail.split(b" ")[1:] if not word.startswith(b"SIZE=")]
        return b"".join(b" " + word for word in words), re.split(rb"\r\n(?![ \t])", bytes(transaction.content), maxsplit=1)[1]


def decoded(content: bytes) -> bytes:
    payload: Any = message_from_bytes(content).get_payload(decode=True)
    return bytes(payload)


class NextHopTests(To7bitCase):
    def test_a_next_hop_without_8bitmime(self) -> None:
        for body in (b"", b" BODY=8BITMIME", b" BODY=7BIT", b" BODY=8BITMIME SIZE=200"):
            for endpoint in (SMTP, LMTP):
                with self.row(f"{body!r} {endpoint}"):
                    hop = self.stage(lmtp=endpoint == LMTP)
                    self.assertEqual(self.transaction(TEXT, body, endpoint=endpoint), b"250 2.0.0")
                    mail, content = self.received(hop)
                    self.assertEqual(mail, b"")
                    self.assertTrue(content.isascii())
                    self.assertEqual(decoded(content), WORDS)
                    self.assertEqual(hop.mail_count, 1)

    def test_without_it_the_message_is_refused(self) -> None:
        hop = self.stage(listener="")
        self.assertEqual(self.transaction(TEXT, b" BODY=8BITMIME"), b"550 5.6.3")
        self.assertEqual(hop.transactions, [])

    def test_a_next_hop_with_8bitmime_hears_of_the_body_that_it_gets(self) -> None:
        hop = self.stage(BINARY)
        for body in (b"", b" BODY=8BITMIME"):
            self.assertEqual(self.transaction(TEXT, body), b"250 2.0.0")
            mail, content = self.received(hop)
            self.assertEqual((mail, decoded(content)), (b"", WORDS))

    def test_seven_bits_pass_octet_for_octet(self) -> None:
        hop = self.stage()
        for body in (b"", b" BODY=8BITMIME"):
            self.assertEqual(self.transaction(ASCII, body), b"250 2.0.0")
            self.assertEqual(self.received(hop), (b"", ASCII))

    def test_what_is_left_asks_for_8bitmime_all_the_same(self) -> None:
        plain = self.stage()
        self.assertEqual(self.transaction(SIGNED, b" BODY=8BITMIME"), b"550 5.6.3")
        self.assertEqual(plain.transactions, [])
        self._strike()
        self._raise()
        hop = self.stage(EIGHT)
        self.assertEqual(self.transaction(SIGNED, b" BODY=8BITMIME"), b"250 2.0.0")
        self.assertEqual(self.received(hop), (b" BODY=8BITMIME", SIGNED))

    def test_messages_that_others_have_signed(self) -> None:
        signed = b"DKIM-Signature: v=1; d=x.test\r\n" + TEXT
        hop = self.stage(EIGHT, listener="modify {\nto_7bit {\ndkim_signed leave\n}\n}")
        self.assertEqual(self.transaction(signed), b"250 2.0.0")
        self.assertEqual(self.received(hop), (b" BODY=8BITMIME", signed))
        self.assertEqual(self.transaction(TEXT), b"250 2.0.0")
        self.assertEqual(decoded(self.received(hop)[1]), WORDS)
        self._strike()
        self._raise()
        hop = self.stage(EIGHT)
        self.assertEqual(self.transaction(signed), b"250 2.0.0")
        self.assertEqual(decoded(self.received(hop)[1]), WORDS)

    def test_large_messages_go_through_the_spool(self) -> None:
        hop = self.stage()
        content = WORDS * 60_000
        self.assertEqual(self.transaction(TEXT[: -len(WORDS)] + content, b" BODY=8BITMIME"), b"250 2.0.0")
        self.assertEqual(decoded(self.received(hop)[1]), content)
        self.reactor.settle(1)
        self.assertEqual(self.spool.used, 0)

    def test_a_spool_that_is_full(self) -> None:
        hop = self.hop(extensions=PLAIN)
        self.relay(hop, listener=RECODE)
        self.spool.limit = 4 << 20
        content = TEXT[: -len(WORDS)] + b"\xe9\xe9\xe9 words\r\n" * 250_000
        self.assertEqual(self.transaction(content), b"452 4.3.1")
        self.assertEqual(hop.transactions, [])
        self.reactor.settle(1)
        self.assertEqual(self.spool.used, 0)
        self.assertEqual(self.transaction(TEXT), b"250 2.0.0")

    def test_too_many_parts(self) -> None:
        hop = self.stage()
        head = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        self.assertEqual(self.transaction(head + b"--b\r\n\r\n\xe9\r\n" * (MAX_PARTS + 1)), b"550 5.6.3")
        self.assertEqual(hop.transactions, [])


class BinaryTests(To7bitCase):
    octets = b"\0\n\r\x80" * 50

    def message(self, kind: bytes = b"application/x") -> bytes:
        head = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: " + kind
        return head + b"\r\nContent-Transfer-Encoding: binary\r\n\r\n" + self.octets

    def test_binarymime_becomes_seven_bit(self) -> None:
        for extensions in (PLAIN, BINARY):
            with self.row(repr(extensions)):
                hop = self.stage(extensions)
                self.assertEqual(self.transaction(self.message(), b" BODY=BINARYMIME"), b"250 2.0.0")
                mail, content = self.received(hop)
                self.assertEqual((mail, decoded(content)), (b"", self.octets))
                self.assertEqual(hop.transactions[0].via, "DATA")

    def test_binarymime_that_is_none(self) -> None:
        hop = self.stage()
        self.assertEqual(self.transaction(ASCII, b" BODY=BINARYMIME"), b"250 2.0.0")
        self.assertEqual(self.received(hop), (b"", ASCII))

    def test_what_is_left_goes_out_as_binarymime_or_not_at_all(self) -> None:
        left = SIGNED.replace(b"\xe9", b"\0\n")
        for extensions, status in ((PLAIN, b"550 5.6.3"), (EIGHT, b"550 5.6.3"), (BINARY, b"250 2.0.0")):
            with self.row(repr(extensions)):
                hop = self.stage(extensions)
                self.assertEqual(self.transaction(left, b" BODY=BINARYMIME"), status)
                if status == b"250 2.0.0":
                    self.assertEqual(self.received(hop), (b" BODY=BINARYMIME", left))
                    self.assertEqual(hop.transactions[0].via, "BDAT")
                else:
                    self.assertEqual(hop.transactions, [])

    def test_what_is_left_in_a_queue(self) -> None:
        """What was BINARYMIME when it came in is so still when the queue delivers it."""
        left = SIGNED.replace(b"\xe9", b"\0\n")
        for extensions, arrives in ((BINARY, True), (EIGHT, False)):
            with self.row(repr(extensions)):
                hop = self.queued(extensions)
                self.assertEqual(self.transaction(left, b" BODY=BINARYMIME"), b"250 2.0.0")
                self.reactor.settle(60)
                self.assertEqual([one.content.endswith(left) for one in hop.transactions], [True] if arrives else [])

    def queued(self, extensions: tuple[bytes, ...]) -> NextHop:
        hop = self.hop(extensions=extensions)
        self.gateway(
            f"target.smtp next {{\ntargets {hop.endpoint}\n}}\ntarget.queue later {{\ntarget &next\nbounce {{\ndiscard\n}}\n}}\n"
            f"smtp {SMTP} {{\ntls off\n{RECODE}\ndeliver_to &later\n}}\n"
        )
        return hop

    def test_a_queue(self) -> None:
        large = TEXT.replace(WORDS, WORDS * 40_000)
        for content, body in ((TEXT, b" BODY=8BITMIME"), (self.message(), b" BODY=BINARYMIME"), (large, b"")):
            with self.row(f"{len(content)} {body!r}"):
                hop = self.queued(PLAIN)
                self.assertEqual(self.transaction(content, body), b"250 2.0.0")
                self.reactor.settle(60)
                mail, found = self.received(hop)
                self.assertEqual(mail.partition(b" SIZE=")[0], b"")
                self.assertEqual(decoded(found), content.partition(b"\r\n\r\n")[2])
                self.assertEqual(self.spool.used, 0)


class BlockTests(To7bitCase):
    def test_a_block_of_recipients_alone(self) -> None:
        hop, other = self.hop(extensions=EIGHT), self.hop(extensions=PLAIN)
        self.gateway(
            f"smtp {SMTP} {{\ntls off\non_split allow\n"
            f"destination old.test {{\n{RECODE}\ndeliver_to smtp {other.endpoint}\n}}\n"
            f"default_destination {{\ndeliver_to smtp {hop.endpoint}\n}}\n}}\n"
        )
        self.assertEqual(self.transaction(TEXT, b" BODY=8BITMIME", b"a@new.test", b"b@old.test"), b"250 2.0.0")
        self.assertEqual(self.received(hop), (b" BODY=8BITMIME", TEXT))
        mail, content = self.received(other)
        self.assertEqual((mail, decoded(content)), (b"", WORDS))

    def test_source_and_after_body(self) -> None:
        rules = (
            f"default_source {{\n{RECODE}\ndeliver_to %s\n}}",
            f"after_body {{\ndefault_destination {{\n{RECODE}\ndeliver_to %s\n}}\n}}",
        )
        for rule in rules:
            with self.row(rule):
                hop = self.hop(extensions=PLAIN)
                self.gateway(f"target.smtp next {{\ntargets {hop.endpoint}\n}}\nsmtp {SMTP} {{\ntls off\n{rule % '&next'}\n}}\n")
                self.assertEqual(self.transaction(TEXT, b" BODY=8BITMIME"), b"250 2.0.0")
                mail, content = self.received(hop)
                self.assertEqual((mail, decoded(content)), (b"", WORDS))

    def test_what_a_queue_keeps_besides(self) -> None:
        """`on_split queue`: what a store does not take is kept as it was to be sent."""
        store = self.hop(extensions=PLAIN, lmtp=True, script={Step.DOT: [say(b"250 2.1.5 one", b"452 4.2.2 full")]})
        self.gateway(
            f"target.lmtp store {{\ntargets {store.endpoint}\n}}\n"
            "target.queue later {\ntarget &store\nretry 1m\nbounce {\ndiscard\n}\n}\n"
            f"smtp {SMTP} {{\ntls off\non_split queue &later\n{RECODE}\ndeliver_to &store\n}}\n"
        )
        self.assertEqual(self.transaction(TEXT, b" BODY=8BITMIME", b"a@y.test", b"b@y.test")[:3], b"250")
        self.reactor.settle(300)
        self.assertEqual([one.paths for one in store.transactions], [[b"a@y.test", b"b@y.test"], [b"b@y.test"]])
        self.assertEqual([decoded(bytes(one.content)) for one in store.transactions], [WORDS] * 2)
        self.assertEqual(self.spool.used, 0)

    def test_copies(self) -> None:
        hop = self.hop(extensions=PLAIN)
        self.gateway(
            f"target.smtp next {{\ntargets {hop.endpoint}\n}}\ntarget.queue copies {{\ntarget &next\nbounce {{\ndiscard\n}}\n}}\n"
            f"smtp {SMTP} {{\ntls off\n{RECODE}\ndeliver_to &next\ncopy_to &copies\n}}\n"
        )
        content = TEXT.replace(WORDS, WORDS * 40_000)
        self.assertEqual(self.transaction(content, b" BODY=8BITMIME"), b"250 2.0.0")
        self.reactor.settle(60)
        self.assertEqual([decoded(bytes(one.content)) for one in hop.transactions], [WORDS * 40_000] * 2)
        self.assertEqual(self.spool.used, 0)

    @needs_nacl
    def test_signed_by_us_behind_it(self) -> None:
        key = new_key(ED25519_SHA256)
        path = Path(self.directory) / "ed.pem"
        path.write_bytes(key.pem)
        path.chmod(0o600)
        hop = self.stage(listener="modify {\nto_7bit\ndkim example.org ed {\nkey ./ed.pem\nexpire 20000d\n}\n}")
        for content in (TEXT, TEXT.replace(WORDS, WORDS * 40_000)):
            self.assertEqual(self.transaction(b"From: a@example.org\r\n" + content, b" BODY=8BITMIME"), b"250 2.0.0")
            sent = bytes(hop.transactions[-1].content)
            self.assertTrue(sent.isascii())
            self.assertTrue(dkim.verify(sent, dnsfunc=lambda name, timeout=5: key.record.encode()))


class GivenUpTests(SynchronousTestCase):
    def test_nothing_is_left_wherever_the_client_goes_away(self) -> None:
        """Each job of a thread in turn is the one that is waited for when it does."""
        modifier = instance("modifiers m {\nto_7bit\n}", "m").modules[0]
        content = TEXT[: -len(WORDS)] + WORDS * 16_000
        number, was_given_up = 0, True
        while was_given_up:
            jobs = Jobs()
            modifier.context = replace(modifier.context, adapters=jobs.adapters)
            spool = Spool(1 << 30, jobs.adapters)
            body = Body(spool, 1 << 16)
            body.append(content)
            body.finish()
            jobs.left = number
            recoding = maybeDeferred(modifier.body, Message(body.header, body))
            jobs.left = inf
            was_given_up = not recoding.called
            if was_given_up:
                recoding.cancel()
                self.failureResultOf(recoding, CancelledError)
            else:
                self.successResultOf(recoding).body.release()
            body.release()
            self.assertEqual(spool.used, 0)
            number += 1
        self.assertGreater(number, 10)


class Jobs:
    """Threads in which jobs are done at once, but for one: when none are ``left`` it never ends."""

    def __init__(self) -> None:
        self.left = inf
        self.adapters = Adapters(Clock(), lambda: 0.0, self.run, random.Random(1))

    def run(self, job: Any, *arguments: Any) -> Deferred[Any]:
        self.left -= 1
        return Deferred() if self.left == -1 else maybeDeferred(job, *arguments)


class RealSocketTests(TestCase):
    """The same over sockets and threads of this machine."""

    def test_large_messages_at_once(self) -> Deferred[None]:
        return ensureDeferred(self._large_messages_at_once())

    async def _large_messages_at_once(self) -> None:
        from twisted.internet import reactor

        hop = NextHop(extensions=PLAIN).listen(reactor)
        self.addCleanup(lambda: ensureDeferred(hop.close()))
        directory = tempfile.TemporaryDirectory(prefix="mailgate-test-")
        self.addCleanup(directory.cleanup)
        inbound = f"unix://{directory.name}/in"
        text = f"hostname gateway.test\nsmtp {inbound} {{\ntls off\n{RECODE}\ndeliver_to smtp {hop.endpoint}\n}}\n"
        gateway = WholeGateway(text, real_adapters(), directory.name)
        await gateway.start()
        self.addCleanup(lambda: ensureDeferred(gateway.stop()))
        contents = [WORDS * 40_000, b"\xff\xfex" * 300 + b"\r\n" + WORDS]
        answers = await gatherResults([ensureDeferred(self._deliver(inbound, one)) for one in contents])
        self.assertEqual([answer[:9] for answer in answers], [b"250 2.0.0"] * 2)
        self.assertEqual({one.mail for one in hop.transactions}, {b"<a@x.test>"})
        found = {decoded(bytes(one.content)) for one in hop.transactions}
        self.assertEqual(found, set(contents))
        self.assertTrue(all(one.content.isascii() for one in hop.transactions))

    async def _deliver(self, endpoint: str, text: bytes) -> bytes:
        from twisted.internet import reactor

        client = await connect(reactor, endpoint)
        client.patience = 60.0
        await client.reply()
        await client.say(b"EHLO client.test", b"MAIL FROM:<a@x.test> BODY=8BITMIME", b"RCPT TO:<b@y.test>", b"DATA")
        client.send((TEXT[: -len(WORDS)] + text).replace(b"\r\n.", b"\r\n..") + b".\r\n")
        answer = await client.reply()
        await client.close()
        return answer
