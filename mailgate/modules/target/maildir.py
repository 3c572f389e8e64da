"""`target.maildir`: one file for each recipient in a Maildir, on disk before anybody hears 250.

A file is written under ``tmp/``, fsynced, renamed into ``new/``, and that directory is fsynced, all in the thread pool; only
then is the recipient answered. Each recipient has an answer of its own. When any of it fails the file is removed again
and the answer is 4yz: 452 4.3.1 for a full disk or quota, else 451. A process that dies leaves at most a file under
``tmp/``, which every Maildir reader ignores and sweeps.

What is stored is the message as it came, octet for octet, CRLF line ends included, with two differences: a Return-Path with
the envelope's sender is put in front, and Return-Path fields that came with the message are removed (RFC 5321 4.4: the
final delivery is where it is written, and it must be the only one). Received is the transaction's. Line ends are kept because
signatures and archives are judged by octets; every current Maildir reader takes both.

The path may have ``{user}`` and ``{domain}`` in it: the recipient's local part and domain, case-folded, without quotes. One
that would leave its place in the path (a slash, a leading dot, too long, empty) is refused with 550 5.1.1, never
rewritten: two users must not meet in one Maildir. https://cr.yp.to/proto/maildir.html.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.adapters import Adapters
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.events import Event, EventLog
from mailgate.interfaces import Finality, IDelivery, ITarget
from mailgate.message.envelope import Envelope, Recipient
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.registry import Module, ModuleContext
from mailgate.smtp.address import NULL_ADDRESS, Address, encode_path, match_key
from mailgate.smtp.reply import Reply

ACCEPTED = Reply(250, "2.1.5", "Recipient ok")
NO_SUCH_USER = Reply(550, "5.1.1", "No such user")
STORED = Reply(250, "2.0.0", "stored")
DISK_FULL = Reply(452, "4.3.1", "Insufficient system storage")
FAILED = Reply(451, "4.3.0", "The message could not be stored")

_PIECE = 1 << 18
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAX_NAME = 255
_counter = itertools.count()
_log = EventLog("mailgate.target.maildir")


class _Withdrawn(Exception):
    """The delivery was aborted before its file was published."""


class MaildirFile:
    """One file on its way into a Maildir. Blocking: for the thread pool. The lock is for a removal that comes while a job
    nobody waits for any more is still at work."""

    def __init__(self, directory: str, name: str, *, create: bool) -> None:
        self._directory = directory
        self._create = create
        self._new = os.path.join(directory, "new")
        self._temporary = os.path.join(directory, "tmp", name)
        self._final = os.path.join(self._new, name)
        self._file = -1
        self._over = False
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._over:
                raise _Withdrawn
            if self._file < 0:
                if self._create:
                    make_maildir(self._directory)
                self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]

    def publish(self) -> None:
        """On disk, then visible, then its being visible on disk. An fsync that fails leaves nothing that can be trusted."""
        with self._lock:
            if self._over:
                raise _Withdrawn
            try:
                os.fsync(self._file)
                os.rename(self._temporary, self._final)
                sync_directory(self._new)
            except BaseException:
                self._unlink(self._final)
                raise
            self._close()

    def remove(self) -> None:
        """Forget it, unless it is published."""
        with self._lock:
            if not self._over:
                self._close()
                self._unlink(self._temporary)

    def _close(self) -> None:
        self._over = True
        if self._file >= 0:
            os.close(self._file)

    def _unlink(self, path: str) -> None:
        try:
            os.unlink(path)
        except OSError:
            pass  # never made, or the disk is beyond help


def make_maildir(directory: str) -> None:
    """Make what is missing of it. Blocking."""
    missing = [path for path in (os.path.join(directory, part) for part in ("tmp", "new", "cur")) if not os.path.isdir(path)]
    for path in missing:
        os.makedirs(path, 0o700, exist_ok=True)
    if missing:
        sync_directory(directory)
        sync_directory(os.path.dirname(directory) or ".")


def sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def path_word(text: str) -> str | None:
    """``text`` as one component of a path, or None if it can't be one."""
    if not text or text.startswith(".") or "/" in text or "\0" in text or len(os.fsencode(text)) > _MAX_NAME:
        return None
    return text


@implementer(ITarget)
class MaildirTarget(Module):
    """Stores mail in a Maildir, one file for each recipient."""

    name = "target.maildir"
    finality = Finality.RECIPIENT
    enforces_requiretls: ClassVar[bool] = True
    """Final delivery: there is no further hop that RFC 8689 could ask anything of."""

    path = Argument("DIRECTORY", v.Path("DIRECTORY"), doc="The Maildir; `{user}` and `{domain}` are the recipient's.")
    create = Directive("create", v.Boolean(), default=True, doc="Make a Maildir that is missing; no: 550 5.1.1.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._is_template = "{user}" in self.path or "{domain}" in self.path

    def configure(self, report: Report) -> None:
        rest = self.path.replace("{user}", "").replace("{domain}", "")
        if "{" in rest or "}" in rest:
            report.error(
                self.span, f"`{self.path}` has an unknown placeholder", code="E0820", hint="there are {user} and {domain}"
            )

    async def start(self) -> None:
        if self.create and not self._is_template:
            await self.adapters.run_in_thread(make_maildir, self.path)

    @property
    def adapters(self) -> Adapters:
        assert self.context.adapters is not None  # only while checking
        return self.context.adapters

    def open(self, envelope: Envelope) -> MaildirDelivery:
        return MaildirDelivery(self, envelope)

    def directory(self, address: Address) -> str | None:
        """The Maildir of a recipient, None if it can have none."""
        path: str = self.path
        if not self._is_template:
            return path
        user, domain = (path_word(word) for word in match_key(address))
        if user is None or (domain is None and "{domain}" in path):
            return None
        return path.replace("{domain}", domain or "").replace("{user}", user)

    def file_name(self) -> str:
        """Unique on this host: time, process, a counter, and chance."""
        adapters = self.adapters
        now = adapters.wall_time()
        host = self.context.hostname.replace("/", "\\057").replace(":", "\\072")
        unique = f"M{int(now % 1 * 1_000_000)}P{os.getpid()}Q{next(_counter)}R{adapters.random.getrandbits(32):08x}"
        return f"{int(now)}.{unique}.{host}"


@implementer(IDelivery)
class MaildirDelivery:
    """One message on its way into Maildirs."""

    def __init__(self, target: MaildirTarget, envelope: Envelope) -> None:
        self._target = target
        self._envelope = envelope
        self._recipients: list[tuple[Recipient, str]] = []
        self._aborted = False

    def rcpt(self, recipient: Recipient) -> Any:
        directory = self._target.directory(recipient.address)
        if directory is None:
            return NO_SUCH_USER
        if self._target.create:
            self._recipients.append((recipient, directory))
            return ACCEPTED
        return self._look_for(recipient, directory)

    async def _look_for(self, recipient: Recipient, directory: str) -> Reply:
        if not await self._target.adapters.run_in_thread(os.path.isdir, os.path.join(directory, "new")):
            return NO_SUCH_USER
        self._recipients.append((recipient, directory))
        return ACCEPTED

    def withdraw(self, recipients: list[Recipient]) -> None:
        self._recipients = [(one, directory) for one, directory in self._recipients if one not in recipients]

    def abort(self) -> None:
        self._aborted = True

    async def send(self, message: Message) -> list[Reply]:
        header = self._header(message)
        message = message.with_header(header)
        message.body.hold()
        try:
            return [await self._store(message, recipient, directory) for recipient, directory in self._recipients]
        finally:
            message.body.release()

    def _header(self, message: Message) -> bytes:
        sender = self._envelope.sender
        path = b"<>" if sender == NULL_ADDRESS else encode_path(sender, smtputf8=True)
        kept = Header(message.header).without(lambda field: field.name == "return-path")
        return b"Return-Path: " + path + b"\r\n" + kept

    async def _store(self, message: Message, recipient: Recipient, directory: str) -> Reply:
        started = self._target.adapters.reactor.seconds()
        try:
            await self._write(message, directory)
            reply, error = STORED, ""
        except CancelledError:
            raise
        except _Withdrawn:
            return FAILED
        except Exception as failed:  # of the disk, or of the body under way
            full = isinstance(failed, OSError) and failed.errno in _FULL
            reply, error = DISK_FULL if full else FAILED, f"{type(failed).__name__}: {failed}"
        log = _log.warn if error else _log.info
        log(
            Event.DELIVERY_ATTEMPT,
            message=self._envelope.id,
            target=self._target.label,
            endpoint=directory,
            to=f"<{recipient.address}>",
            stage="dot",
            reply=reply,
            error=error,
            seconds=self._target.adapters.reactor.seconds() - started,
        )
        return reply

    async def _write(self, message: Message, directory: str) -> None:
        file = MaildirFile(directory, self._target.file_name(), create=self._target.create)
        data = message.data()
        if data is not None:
            await self._in_thread(self._publish, file, data)
            return
        try:
            for offset in range(0, message.size, _PIECE):
                piece: bytes | Awaitable[bytes] = message.read(offset, _PIECE)
                await self._in_thread(file.write, piece if isinstance(piece, bytes) else await piece)
            await self._in_thread(self._publish, file, b"")
        except BaseException:
            # Not waited for: after a cancellation there is nobody to wait.
            self._target.adapters.run_in_thread(file.remove)
            raise

    def _publish(self, file: MaildirFile, last: bytes) -> None:
        try:
            file.write(last)
            if self._aborted:
                raise _Withdrawn
            file.publish()
        except BaseException:
            file.remove()
            raise

    def _in_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Like run_in_thread, but a job whose waiting was cancelled is heard to its end: a thread can't be stopped."""
        waiting: Deferred[Any] = Deferred()

        def done(result: Any) -> None:
            if not waiting.called:
                waiting.callback(result)
            elif not isinstance(result, Failure) and function == self._publish:
                _log.info(Event.DELIVERY_LATE, message=self._envelope.id, target=self._target.label, reply=STORED)

        self._target.adapters.run_in_thread(function, *args).addBoth(done)
        return waiting
