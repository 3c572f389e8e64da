"""target.maildir: what is on disk when 250 is said, and what is not when it is not."""

from __future__ import annotations

import errno
import gc
import mailbox
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from mailgate.message.body import Body, Spool
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.message import Message
from mailgate.smtp.reply import Reply
from tests.modules.support import errors, instance
from tests.pipeline.fakes import address, make_adapters, make_session

CONTENT = b"Received: here\r\nReturn-Path: <forged@x.test>\r\n folded\r\nSubject: x\r\n\r\nReturn-Path: body\r\n.dot\r\n\xff\r\n"
STORED = b"Return-Path: <s@x.test>\r\nReceived: here\r\nSubject: x\r\n\r\nReturn-Path: body\r\n.dot\r\n\xff\r\n"


class Threads:
    """Jobs at once, or one by one when the test says so."""

    def __init__(self) -> None:
        self.at_once = True
        self.jobs: list[Callable[[], None]] = []

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        if self.at_once:
            return maybeDeferred(function, *args)
        done: Deferred[Any] = Deferred()
        self.jobs.append(lambda: maybeDeferred(function, *args).chainDeferred(done))
        return done


class MaildirTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        self.threads = Threads()
        self.adapters = make_adapters(run=self.threads.run)

    def target(self, path: str = "Maildir", block: str = "") -> Any:
        target = instance(f"target.maildir inbox {self.root}/{path}{block}", "inbox", self.adapters)
        self.successResultOf(ensureDeferred(target.start()))
        return target

    def message(self, content: bytes = CONTENT, memory_limit: int = 1 << 20) -> Message:
        body = Body(Spool(1 << 30, self.adapters), memory_limit)
        body.append(content)
        finishing: Any = body.finish()
        if finishing is not None:
            self.successResultOf(ensureDeferred(finishing))
        return Message(body.header, body)

    def deliver(self, target: Any, *recipients: str, message: Message | None = None, sender: str = "s@x.test") -> list[Reply]:
        delivery = target.open(Envelope("s.1", address(sender), make_session()))
        for recipient in recipients:
            self.assertEqual(delivery.rcpt(Recipient(address(recipient))).code, 250)
        replies: list[Reply] = self.successResultOf(ensureDeferred(delivery.send(message or self.message())))
        return replies

    def files(self, part: str = "new", path: str = "Maildir") -> list[bytes]:
        directory = os.path.join(self.root, path, part)
        contents = []
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), "rb") as file:
                contents.append(file.read())
        return contents

    def test_octet_for_octet_but_for_return_path(self) -> None:
        self.assertEqual([reply.code for reply in self.deliver(self.target(), "a@y.test")], [250])
        self.assertEqual(self.files(), [STORED])
        self.assertEqual(self.files("tmp"), [])
        (name,) = os.listdir(f"{self.root}/Maildir/new")
        self.assertEqual(stat.S_IMODE(os.stat(f"{self.root}/Maildir/new/{name}").st_mode), 0o600)
        (found,) = mailbox.Maildir(f"{self.root}/Maildir", create=False)
        self.assertEqual(found["Return-Path"], "<s@x.test>")

    def test_the_null_sender(self) -> None:
        self.deliver(self.target(), "a@y.test", sender="")
        self.assertTrue(self.files()[0].startswith(b"Return-Path: <>\r\n"))

    def test_a_body_in_the_spool(self) -> None:
        content = CONTENT + b"x" * 700_000
        self.deliver(self.target(), "a@y.test", message=self.message(content, memory_limit=1000))
        self.assertEqual(self.files(), [STORED + b"x" * 700_000])

    def test_each_recipient_has_a_file_and_an_answer(self) -> None:
        target = self.target("mail/{domain}/{user}")
        real = os.open

        def full_for_bob(path: Any, *args: Any, **keywords: Any) -> int:
            if "/bob/tmp/" in str(path):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, *args, **keywords)

        with mock.patch("os.open", full_for_bob):
            replies = self.deliver(target, "Ann@y.test", "bob@y.test", '"c d"@y.test')
        self.assertEqual([(reply.code, reply.enhanced) for reply in replies], [(250, "2.0.0"), (452, "4.3.1"), (250, "2.0.0")])
        self.assertEqual(self.files(path="mail/y.test/ann"), [STORED])
        self.assertEqual(self.files(path="mail/y.test/bob"), [])
        self.assertEqual(self.files(path="mail/y.test/c d"), [STORED])

    def test_nobody_leaves_his_place(self) -> None:
        target = self.target("mail/{user}")
        delivery = target.open(Envelope("s.1", address("s@x.test"), make_session()))
        for local_part in ("../up", "..", ".", "a/b", '"/etc"', '"."', '""', "x" * 300, "." + "x"):
            recipient = Recipient(address("x@y.test").__class__(local_part, "y.test"))
            self.assertEqual(delivery.rcpt(recipient).code, 550, local_part)

    def test_create_no(self) -> None:
        target = self.target("mail/{user}", " {\n create no\n}")
        delivery = target.open(Envelope("s.1", address("s@x.test"), make_session()))
        self.assertEqual(self.successResultOf(ensureDeferred(delivery.rcpt(Recipient(address("ann@y.test"))))).code, 550)
        os.makedirs(f"{self.root}/mail/ann/new")
        os.makedirs(f"{self.root}/mail/ann/tmp")
        self.assertEqual(self.successResultOf(ensureDeferred(delivery.rcpt(Recipient(address("ann@y.test"))))).code, 250)
        self.assertEqual(self.successResultOf(ensureDeferred(delivery.send(self.message())))[0].code, 250)
        self.assertEqual(len(self.files(path="mail/ann")), 1)

    def test_withdrawn_recipients_get_nothing(self) -> None:
        delivery = self.target().open(Envelope("s.1", address("s@x.test"), make_session()))
        recipients = [Recipient(address(text)) for text in ("a@y.test", "b@y.test", "a@y.test")]
        for recipient in recipients:
            delivery.rcpt(recipient)
        delivery.withdraw([recipients[0], recipients[1]])
        self.assertEqual(len(self.successResultOf(ensureDeferred(delivery.send(self.message())))), 1)
        self.assertEqual(len(self.files()), 1)

    def test_the_order_that_survives_a_crash(self) -> None:
        """fsync of the file, rename, fsync of the directory; and nothing is said before."""
        target = self.target()
        calls: list[str] = []
        real_fsync, real_rename = os.fsync, os.rename

        def fsync(descriptor: int) -> None:
            calls.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            real_fsync(descriptor)

        def rename(source: str, destination: str) -> None:
            calls.append("rename")
            real_rename(source, destination)

        with mock.patch("os.fsync", fsync), mock.patch("os.rename", rename):
            self.deliver(target, "a@y.test")
        self.assertEqual(calls, ["file", "rename", "directory"])

    def test_whatever_fails_nothing_stays_and_nobody_hears_250(self) -> None:
        target = self.target()
        for function in ("os.write", "os.fsync", "os.rename"):
            for memory_limit in (1 << 20, 10):
                message = self.message(memory_limit=memory_limit)
                for number, reply in ((errno.EIO, (451, "4.3.0")), (errno.ENOSPC, (452, "4.3.1"))):
                    with mock.patch(function, side_effect=OSError(number, "failed")):
                        (answer,) = self.deliver(target, "a@y.test", message=message)
                    self.assertEqual((answer.code, answer.enhanced), reply, function)
                    self.assertEqual((self.files(), self.files("tmp")), ([], []), function)

    def test_a_directory_that_cannot_be_synced_takes_the_file_back(self) -> None:
        target = self.target()
        with mock.patch("mailgate.modules.target.maildir.sync_directory", side_effect=OSError(errno.EIO, "failed")):
            self.assertEqual(self.deliver(target, "a@y.test")[0].code, 451)
        self.assertEqual((self.files(), self.files("tmp")), ([], []))

    def test_descriptors_are_closed(self) -> None:
        target = self.target()
        if not os.path.isdir("/proc/self/fd"):
            self.skipTest("needs /proc")
        gc.collect()  # what other tests left
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            self.deliver(target, "a@y.test")
            with mock.patch("os.rename", side_effect=OSError(errno.EIO, "failed")):
                self.deliver(target, "a@y.test")
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before)

    def sending(self, memory_limit: int = 1 << 20) -> tuple[Any, Deferred[Any]]:
        target = self.target()
        message = self.message(memory_limit=memory_limit)
        delivery = target.open(Envelope("s.1", address("s@x.test"), make_session()))
        delivery.rcpt(Recipient(address("a@y.test")))
        self.threads.at_once = False
        return delivery, ensureDeferred(delivery.send(message))

    def finish_jobs(self) -> None:
        while self.threads.jobs:
            self.threads.jobs.pop(0)()

    def test_aborted_before_it_is_published_it_is_gone(self) -> None:
        for memory_limit in (1 << 20, 10):
            self.threads.at_once = True
            delivery, sending = self.sending(memory_limit)
            delivery.abort()
            sending.cancel()
            self.failureResultOf(sending, CancelledError)
            self.finish_jobs()
            self.assertEqual((self.files(), self.files("tmp")), ([], []))

    def test_cancelled_while_it_is_published_it_stays(self) -> None:
        delivery, sending = self.sending()
        publish = self.threads.jobs.pop()
        sending.cancel()  # the thread is at work already
        self.failureResultOf(sending, CancelledError)
        publish()
        delivery.abort()
        self.finish_jobs()
        self.assertEqual(self.files(), [STORED])

    def test_unknown_placeholders(self) -> None:
        self.assertEqual(errors("target.maildir a ./x/{usr}"), ["E0820 1"])
