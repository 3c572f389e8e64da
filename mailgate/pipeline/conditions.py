"""What `when` sees: the variables of its expressions, from which stage on each exists, and their values for one message.

In a pipeline or source block a condition is decided at MAIL, in a recipient block once for each recipient. Addresses are as
rewritten so far and in the form in which rules compare them (`rule_keys`): ``sender == "Ann@Example.ORG"`` finds ann@example.org.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from mailgate.config import values as v
from mailgate.config.closures import EvaluationError
from mailgate.config.expression_types import ADDRESS, BOOLEAN, FLOAT, INTEGER, STRING, Function, Type, Variable
from mailgate.config.text_forms import address, domain, folded, one_of, table_key, text_type
from mailgate.message.envelope import Envelope
from mailgate.message.findings import Judgement, Verdict
from mailgate.message.header import Header
from mailgate.message.message import Message
from mailgate.pipeline.router import Condition, place
from mailgate.smtp.address import NULL_ADDRESS, Address, domain_key, rule_keys
from mailgate.smtp.reply import TemporaryError


def _variables(*variables: Variable) -> dict[str, Variable]:
    return {variable.name: variable for variable in variables}


SENDER_VARIABLES = _variables(
    Variable("client_ip", Type(ADDRESS.kind, optional=True), "Address of the client; unset on a unix socket."),
    Variable("client_name", text_type(domain, optional=True), "Its verified reverse name; unset without one."),
    Variable("helo", text_type(folded), "What it said behind EHLO, HELO or LHLO."),
    Variable("listener", STRING, 'The listener\'s address as written: "tcp://0.0.0.0:25".'),
    Variable("protocol", text_type(one_of("SMTP", "ESMTP", "LMTP")), '"SMTP", "ESMTP" or "LMTP".'),
    Variable("tls", BOOLEAN, "Whether the connection is encrypted."),
    Variable(
        "tls_version", text_type(one_of("TLS1", "TLS1.1", "TLS1.2", "TLS1.3"), optional=True), '"TLS1.3"; unset without TLS.'
    ),
    Variable("client_cert_name", text_type(folded, optional=True), "The verified name of the client's certificate."),
    Variable("auth_user", text_type(optional=True), "The user who logged in; unset before."),
    Variable("sender", text_type(address), 'The sender\'s address, "" for <>.'),
    Variable("sender_domain", text_type(domain), 'Its domain, "" for <>.'),
)
RCPT_VARIABLES = {
    **SENDER_VARIABLES,
    **_variables(
        Variable("rcpt", text_type(address), "The recipient's address."),
        Variable("rcpt_domain", text_type(domain), 'Its domain, "" for <Postmaster>.'),
    ),
}
CONTENT_VARIABLES = _variables(
    Variable("size", INTEGER, "Octets of the whole message, as it will be sent on."),
    Variable(
        "verdict",
        text_type(one_of(*(verdict.value for verdict in Verdict))),
        'The gravest thing that checks have asked for: "pass", "tag" or "quarantine".',
    ),
    Variable("score", FLOAT, "What checks have counted, in sum."),
    Variable("quarantined", BOOLEAN, "Whether a check has asked for quarantine."),
)


def _field_name(text: str) -> str:
    if not re.fullmatch(r"[!-9;-~]+", text):
        raise ValueError("this is no name of a header field")
    return text.lower()


CONTENT_QUESTIONS = {
    "header": Function(
        (STRING,), Type(STRING.kind, optional=True), _field_name, "The first header field of that name; unset without one."
    )
}
CONTENT_NAMES = frozenset(CONTENT_VARIABLES) | frozenset(CONTENT_QUESTIONS)
_CONTENT = "the content has not come when this is decided: write it in `after_body { … }`"
_OUTBOUND = "it belongs to the settings of targets and queues"
_ELSEWHERE = {
    **dict.fromkeys(CONTENT_NAMES, _CONTENT),
    **dict.fromkeys(("recipients", "retry_num", "notify_num", "expires_in", "last_status", "last_error", "last_code"), _OUTBOUND),
    **dict.fromkeys(("priority", "queue_age", "source", "mx", "remote_ip", "local_ip"), _OUTBOUND),
}
_RCPT = dict.fromkeys(("rcpt", "rcpt_domain"), "this is decided at MAIL; recipients exist in destination blocks")

AT_MAIL = v.ConditionValue(SENDER_VARIABLES, {**_ELSEWHERE, **_RCPT}, table_key=table_key)
AT_RCPT = v.ConditionValue(RCPT_VARIABLES, _ELSEWHERE, table_key=table_key)

_AFTER = {name: why for name, why in _ELSEWHERE.items() if name not in CONTENT_NAMES}
_ALL_AFTER = dict.fromkeys(
    ("rcpt", "rcpt_domain"), "this is decided once for the message; recipients exist in destination blocks"
)
AFTER_BODY = v.ConditionValue(
    {**SENDER_VARIABLES, **CONTENT_VARIABLES}, {**_AFTER, **_ALL_AFTER}, table_key=table_key, questions=CONTENT_QUESTIONS
)
AFTER_BODY_RCPT = v.ConditionValue(
    {**RCPT_VARIABLES, **CONTENT_VARIABLES}, _AFTER, table_key=table_key, questions=CONTENT_QUESTIONS
)


class View:
    """The variables of one message, or of one of its recipients: the attributes that expressions read."""

    __slots__ = ("_envelope", "_rcpt", "_session")

    def __init__(self, envelope: Envelope, rcpt: Address = NULL_ADDRESS) -> None:
        self._envelope = envelope
        self._session = envelope.session
        self._rcpt = rcpt

    @property
    def client_ip(self) -> IPv4Address | IPv6Address | None:
        return client_address(self._session.client_ip)

    @property
    def client_name(self) -> str | None:
        return domain_key(self._session.client_name) or None

    @property
    def helo(self) -> str:
        return folded(self._session.helo)

    @property
    def listener(self) -> str:
        return self._session.listener

    @property
    def protocol(self) -> str:
        return self._session.protocol

    @property
    def tls(self) -> bool:
        return self._session.tls is not None

    @property
    def tls_version(self) -> str | None:
        return self._session.tls.version if self._session.tls is not None else None

    @property
    def client_cert_name(self) -> str | None:
        return folded(self._session.tls.peer_name) or None if self._session.tls is not None else None

    @property
    def auth_user(self) -> str | None:
        return self._session.auth_user or None

    @property
    def sender(self) -> str:
        return rule_keys(self._envelope.sender)[0]

    @property
    def sender_domain(self) -> str:
        return rule_keys(self._envelope.sender)[1]

    @property
    def rcpt(self) -> str:
        return rule_keys(self._rcpt)[0]

    @property
    def rcpt_domain(self) -> str:
        return rule_keys(self._rcpt)[1]


class ContentFacts:
    """What is known of a message once it is here, for those recipients who have passed the same checks."""

    __slots__ = ("_fields", "judgement", "message")

    def __init__(self, message: Message, judgement: Judgement) -> None:
        self.message = message
        self.judgement = judgement
        self._fields: Header | None = None

    def header(self, name: str) -> str | None:
        """The first field of that name, unfolded."""
        if self._fields is None:
            self._fields = Header(self.message.header)
        values = self._fields.values(name)
        return values[0].decode("utf-8", "replace") if values else None


class ContentView(View):
    """The same with the content."""

    __slots__ = ("_content",)

    def __init__(self, envelope: Envelope, rcpt: Address, content: ContentFacts) -> None:
        super().__init__(envelope, rcpt)
        self._content = content

    @property
    def size(self) -> int:
        return self._content.message.size

    @property
    def verdict(self) -> str:
        return self._content.judgement.verdict.value

    @property
    def score(self) -> float:
        return self._content.judgement.score

    @property
    def quarantined(self) -> bool:
        return self._content.judgement.quarantined

    def header(self, name: str) -> str | None:
        return self._content.header(name)


def client_address(text: str) -> IPv4Address | IPv6Address | None:
    """The client's address without its zone; None on a unix socket."""
    return ip_address(text.partition("%")[0]) if text else None


async def holds(condition: Condition, view: View) -> bool:
    """Whether a condition is true.

    :raises MailError: it has no value: 451, with the place of the condition."""
    expression = condition.test.expression
    try:
        value = expression.call(view)
        return bool(await value if expression.waits else value)
    except EvaluationError as error:
        raise TemporaryError(
            "Temporary lookup failure", reason=f"`when {condition.test}`: {error}", where=place(condition.span)
        ) from error
