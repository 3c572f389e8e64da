"""check.rspamd: the content, with its envelope, is judged by rspamd (POST /checkv2).

rspamd answers with an action and a score. The action is done as the operator says (`reject_action`, `greylist_action`, …); the
score, times `score_factor`, counts for `check.score`. What rspamd wants changed is changed whatever the action, as its milter
does: fields that its modules add or remove, a signature, a new subject, sender or recipients.

- rspamd sees the message as the client sent it, without our own Received: address, name and hello of the client go along as
  fields of the request, as do the user, the recipients that were accepted so far, and TLS.
- The message is streamed, piece by piece as rspamd reads it; the answer is read up to 1 MiB.
- What rspamd's modules say for its own milter (`milter` in the answer) is done as that does it: rejected mail thrown away or
  quarantined instead, no action at all (`no_action`, with X-Rspamd-Action in its place), other fields for spam (`spam_header`).
- Greylisting is done by rspamd's module, which says `soft reject`. The action `greylist` is left where nobody does it: it passes.
- No answer, an answer that is none, or an action that nobody has heard of: `on_error`, 451 unless it says otherwise. After three
  such in a row rspamd is left alone for some seconds (`clients.breaker`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from mailgate.clients.web import NoAuthority, WebAnswer, WebClient, WebFailure, authorities
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.events import Event, EventLog
from mailgate.message.edits import Add, BadField, Change, Edit, Insert, RemoveAll, field
from mailgate.message.envelope import Envelope
from mailgate.message.findings import AddedRecipient, NewSender
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.modules.check._action import ACTION, AskingCheck, take
from mailgate.net.waiting import spawn
from mailgate.pipeline.check import MessageCheck
from mailgate.registry import ModuleContext
from mailgate.smtp.address import NULL_ADDRESS, Address, AddressError, parse_address
from mailgate.smtp.reply import Reply

PIECE = 1 << 16
MAX_ANSWER = 1 << 20
MAX_SYMBOLS = 20
"""Symbols of an answer in the log."""
MAX_TEXT = 200
SPAM = Reply(554, "5.7.1", "Spam message rejected")
LATER = Reply(451, "4.7.1", "Try again later")
_PASSED = Reply(250, "2.0.0", "Passed")

_log = EventLog("mailgate.checks")


class BadAnswer(Exception):
    """What rspamd says can't be understood."""


class State(MessageCheck):
    async def body(self, message: Message) -> None:
        await self.check.ask(self.envelope, message)


class Rspamd(AskingCheck):
    """rspamd judges the content. What its actions lead to is said by one line for each; without them spam is refused, what is
    to be seen later hears 451, and what is only suspicious passes with X-Mailgate-Quarantine."""

    name = "check.rspamd"
    message_state = State
    refusal = SPAM
    on_fail = None  # each action of rspamd has a line of its own

    url = Argument(
        "URL", v.String("URL"), default="http://127.0.0.1:11333", doc="Where rspamd's normal worker listens.", origin="maddy"
    )
    reject_action = Directive(
        "reject_action", ACTION, default=v.Chosen("reject"), doc="What spam meets; 554 5.7.1 with rspamd's text.", origin="maddy"
    )
    soft_reject_action = Directive(
        "soft_reject_action",
        ACTION,
        default=v.Chosen("reject"),
        doc="What a message meets that rspamd wants to see later (greylisting, limits): 451 4.7.1 with rspamd's text.",
        origin="maddy",
    )
    greylist_action = Directive(
        "greylist_action",
        ACTION,
        default=v.Chosen("ignore"),
        doc="What a message meets whose score asks for greylisting, which rspamd's module would do if it were on; `reject` is 451"
        " for ever.",
    )
    add_header_action = Directive(
        "add_header_action",
        ACTION,
        default=v.Chosen("quarantine"),
        doc="What probable spam meets, which gets `X-Spam: Yes` besides.",
        origin="maddy",
    )
    rewrite_subject_action = Directive(
        "rewrite_subject_action",
        ACTION,
        default=v.Chosen("quarantine"),
        doc="What probable spam meets, whose subject is rewritten besides.",
        origin="maddy",
    )
    actions = Directive(
        "action",
        v.Args(v.String("NAME"), ACTION),
        repeatable=True,
        doc="What an action of rspamd's own configuration meets; without a line it is an answer that nobody understands.",
    )
    score_factor = Directive(
        "score_factor",
        v.Float(),
        default=1.0,
        doc="What rspamd's score counts for in X-Mailgate-Score and `score`; 0: nothing.",
    )
    password = Directive("password", v.Secret("SECRET"), doc="The password of rspamd's worker, if it asks for one.")
    settings_id = Directive("settings_id", v.String("ID"), default="", doc="Which of rspamd's settings hold.", origin="maddy")
    tag = Directive("tag", v.String("TAG"), default="mailgate", doc="How we call ourselves (MTA-Tag).", origin="maddy")
    pass_all = Directive("pass_all", v.Boolean(), default=False, doc="All of rspamd's filters run, even if the verdict is clear.")
    max_size = Directive(
        "max_size", v.Size(), default=50 << 20, doc="Larger messages pass unseen; rspamd itself refuses them (max_message)."
    )
    root_ca = Directive(
        "root_ca", v.List(v.Path()), default=(), doc="Files with the certificates to trust (PEM), in place of the system's."
    )
    connections = Directive(
        "connections", v.Integer(minimum=1, maximum=1000), default=20, divided=True, doc="Questions at the same time."
    )
    timeout = Directive("timeout", v.Duration(minimum=0.1, maximum=600), default=30.0, doc="For the whole answer.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._client: WebClient | None = None
        self._actions: Mapping[str, tuple[v.Chosen | None, Reply]] = {
            "no action": (None, _PASSED),
            "reject": (self.reject_action, SPAM),
            "soft reject": (self.soft_reject_action, LATER),
            "greylist": (self.greylist_action, LATER),
            "add header": (self.add_header_action, SPAM),
            "rewrite subject": (self.rewrite_subject_action, SPAM),
            "quarantine": (v.Chosen("quarantine"), SPAM),
            "discard": (None, _PASSED),
        }
        self._own_actions = {name: (action, SPAM) for name, action in self.actions}

    @property
    def marks(self) -> bool:
        """What rspamd's modules want changed is known only when they answer."""
        return True

    def configure(self, report: Report) -> None:
        try:
            parts = urlsplit(self.url)
            wrong = (
                parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.port == 0
            )
        except ValueError:
            wrong = True
        if wrong or not self.url.isascii():
            report.error(self.span, f"`{self.url}` is no address of rspamd", code="E0797", hint="http://127.0.0.1:11333")
        for name in self._own_actions.keys() & self._actions.keys():
            report.error(self.span, f"`{name}` is an action of rspamd's that has a line of its own, or none", code="E0797")
        try:
            authorities(self.root_ca)
        except NoAuthority as error:
            report.error(self.span_of("root_ca"), str(error), code="E0797")

    async def start(self) -> None:
        assert self.context.adapters is not None
        self._client = WebClient(
            f"rspamd {self.url}",
            self.context.adapters,
            timeout=self.timeout,
            connections=self.connections,
            max_body=MAX_ANSWER,
            root_ca=self.root_ca,
        )

    async def stop(self) -> None:
        if self._client is not None:
            await self._client.stop()

    async def ask(self, envelope: Envelope, message: Message) -> None:
        """:raises MailError: the message is refused."""
        offset = end_of_trace(message.header)
        if message.size - offset > self.max_size:
            take(self, v.Chosen("ignore"), _PASSED, envelope, "larger than max_size")
            return
        assert self._client is not None
        url = self.url.rstrip("/") + "/checkv2"
        try:
            answer = await self._client.ask("POST", url, self._fields(envelope), Content(message, offset))
            verdict = Verdict(answer)
            action, reply = self._chosen(verdict)
            edits = verdict.edits()
            sender, added, removed = verdict.envelope()
        except (WebFailure, BadAnswer) as error:
            self.unable(envelope, str(error))
            return
        findings = envelope.findings_of(self)
        findings.edits += edits
        findings.sender = sender
        findings.added += added
        findings.removed += removed
        findings.discarded = verdict.done == "discard"
        if self.score_factor:
            findings.count(verdict.score * self.score_factor)
        self._log(envelope, verdict)
        if action is not None:
            take(
                self, action, reply.with_text(verdict.text or reply.text), envelope, f"{verdict.action}, score {verdict.score:g}"
            )

    def _chosen(self, verdict: Verdict) -> tuple[v.Chosen | None, Reply]:
        """What is done, and what is said where it refuses. :raises BadAnswer: nobody has heard of the action."""
        chosen = self._actions.get(verdict.done) or self._own_actions.get(verdict.done)
        if chosen is None:
            raise BadAnswer(f"an action that is not known: {verdict.done!r}")
        return chosen

    def _log(self, envelope: Envelope, verdict: Verdict) -> None:
        fields = {"message": envelope.id, "session": envelope.session.id, "check": self.name}
        _log.info(
            Event.CHECK_ANSWERED, **fields, answer=verdict.action, score=verdict.score, symbols=",".join(verdict.symbols) or None
        )

    def _fields(self, envelope: Envelope) -> dict[str, list[str]]:
        """What rspamd is told beside the content."""
        session = envelope.session
        single = {
            "Queue-Id": envelope.id,
            "IP": session.client_ip.partition("%")[0],
            "Hostname": session.client_name or ("unknown" if session.client_ip else ""),
            "Helo": session.helo,
            "From": str(envelope.sender) or "<>",
            "User": session.auth_user,
            "TLS-Version": session.tls.version if session.tls is not None else "",
            "TLS-Cipher": session.tls.cipher if session.tls is not None else "",
            "MTA-Name": session.hostname,
            "MTA-Tag": self.tag,
            "Settings-ID": self.settings_id,
            "Pass": "all" if self.pass_all else "",
            "Password": self.password.reveal() if self.password is not None else "",
        }
        fields = {name: [value] for name, value in single.items() if value}
        recipients = [str(recipient.address) for recipient in envelope.recipients]
        return fields | ({"Rcpt": recipients, "Deliver-To": recipients[:1]} if recipients else {})


class Verdict:
    """rspamd's answer. :raises BadAnswer: it is none."""

    def __init__(self, answer: WebAnswer) -> None:
        if answer.code != 200:
            raise BadAnswer(f"the answer is {answer.code}")
        try:
            found = json.loads(answer.body)
        except ValueError as error:
            raise BadAnswer("the answer is no JSON") from error
        if not isinstance(found, dict) or not isinstance(found.get("action"), str):
            raise BadAnswer("an answer without an action")
        self._found = found
        self.action: str = found["action"]
        self.score = float(self._of(found, "score", (int, float), 0.0))
        if not isfinite(self.score):
            raise BadAnswer("a score that is none")
        symbols = self._of(found, "symbols", dict, {})
        self.symbols = [str(name)[:60] for name in sorted(symbols)[:MAX_SYMBOLS]]
        messages = found.get("messages")
        text = messages.get("smtp_message") if isinstance(messages, dict) else None
        self.text = "".join(c if " " <= c <= "~" else "?" for c in text)[:MAX_TEXT] if isinstance(text, str) else ""
        self._milter = self._of(found, "milter", dict, {})
        self.done = self._done()
        """The action that counts."""

    def _done(self) -> str:
        instead = self._milter.get("reject")
        if self._milter.get("no_action") is True:
            return "no action"
        return instead if self.action == "reject" and instead in ("discard", "quarantine") else self.action

    @staticmethod
    def _of(found: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
        value = found.get(name, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BadAnswer(f"an answer whose {name} is none")
        return value

    def edits(self) -> list[Edit]:
        """What is to become of the header. :raises BadAnswer:"""
        edits: list[Edit] = []
        for name, numbers in self._of(self._milter, "remove_headers", dict, {}).items():
            for number in _listed(numbers):
                edits.append(Change(_octets(name), _number(number), None) if number else RemoveAll(_octets(name)))
        for name, values in self._of(self._milter, "add_headers", dict, {}).items():
            edits += [_added(name, value) for value in _listed(values)]
        signatures = enumerate(_listed(self._found.get("dkim-signature", [])), 1)
        edits += [Insert(place, b"DKIM-Signature", _octets(value)) for place, value in signatures]
        edits += self._marks()
        try:
            for edit in edits:
                if not isinstance(edit, RemoveAll):
                    field(edit.name, edit.value or b"")
        except BadField as error:
            raise BadAnswer(str(error)) from error
        return edits

    def _marks(self) -> list[Edit]:
        """What tells of the action. Nobody outside has said so before."""
        if self._milter.get("no_action") is True:
            return [Add(b"X-Rspamd-Action", _octets(self.action))]
        edits: list[Edit] = []
        if self.action in ("add header", "rewrite subject"):
            said = self._milter.get("spam_header", "Yes") if self.action == "add header" else "Yes"
            for name, value in (said if isinstance(said, dict) else {"X-Spam": said}).items():
                edits += [RemoveAll(_octets(name)), Add(_octets(name), _octets(value))]
        if self.action == "rewrite subject" and isinstance(self._found.get("subject"), str):
            edits += [RemoveAll(b"Subject"), Add(b"Subject", _octets(self._found["subject"]))]
        return edits

    def envelope(self) -> tuple[NewSender | None, list[AddedRecipient], list[Address]]:
        """Another sender, recipients to add, and to remove. :raises BadAnswer:"""
        sender = self._addresses("change_from")
        added, removed = self._addresses("add_rcpt"), self._addresses("del_rcpt")
        if len(sender) > 1 or NULL_ADDRESS in added:
            raise BadAnswer("an envelope that is none")
        return NewSender(sender[0]) if sender else None, [AddedRecipient(one) for one in added], removed

    def _addresses(self, name: str) -> list[Address]:
        texts = [str(one).removeprefix("<").removesuffix(">") for one in _listed(self._milter.get(name, []))]
        try:
            return [parse_address(text) if text else NULL_ADDRESS for text in texts]
        except AddressError as error:
            raise BadAnswer(f"an address that is none: {error}") from error


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _octets(value: Any) -> bytes:
    if not isinstance(value, str):
        raise BadAnswer(f"{value!r} in place of a text")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise BadAnswer("half a character") from error


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadAnswer(f"{value!r} in place of a number")
    return value


def _added(name: str, value: Any) -> Edit:
    """A field at the place that is asked for, else at the end."""
    if not isinstance(value, dict):
        return Add(_octets(name), _octets(value))
    text = _octets(value.get("value"))
    order = value.get("order", value.get("index"))
    return Add(_octets(name), text) if order is None else Insert(_number(order), _octets(name), text)


def end_of_trace(section: bytes) -> int:
    """Where our own Received ends, the first field of what checks see."""
    fields: Iterable[Any] = Header(section).fields
    return next((int(one.end) for one in fields), 0)


@implementer(IBodyProducer)
class Content:
    """A message from some octet on, as the body of a request. Nobody reads ahead of who takes it."""

    def __init__(self, message: Message, offset: int) -> None:
        self._message = message
        self._offset = offset
        self.length = message.size - offset
        self._consumer: Any = None
        self._writing: Deferred[None] | None = None
        self._resumed: Deferred[None] | None = None
        self._is_paused = False

    def startProducing(self, consumer: Any) -> Deferred[None]:
        self._consumer = consumer
        self._writing = spawn(self._write())
        return self._writing

    async def _write(self) -> None:
        offset = self._offset
        while offset < self._message.size:
            if self._is_paused:
                self._resumed = Deferred()
                await self._resumed
            piece = self._message.read(offset, PIECE)
            piece = piece if isinstance(piece, bytes) else await piece
            self._consumer.write(piece)
            offset += len(piece)

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def stopProducing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.addErrback(lambda failure: failure.trap(CancelledError))
            writing.cancel()
