"""What dynamic settings see: the variables of a delivery, and from which stage on each exists.

A setting is decided at one stage of a delivery, and sees what is known by then: ``hostname``, decided when the source address is
chosen, sees ``local_ip``; ``source_ip`` itself does not. Naming a variable that comes later is an error at load that says so.

    source_ip = Directive("source_ip", …, dynamic=outbound(Stage.ADDRESS), …)

The values are attributes of whatever object the setting is asked with (mailgate/outbound/variables.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from mailgate.config.expression_types import ADDRESS, DURATION, INTEGER, Kind, Normal, Type, Variable
from mailgate.config.text_forms import address, domain, folded, one_of, table_key, text_type


class Stage(IntEnum):
    """How far a delivery has come when a setting is decided."""

    ENVELOPE = 1
    RECIPIENT = 2
    HOST = 3
    ADDRESS = 4
    SOURCE = 5


_COMES = {
    Stage.ENVELOPE: "when the envelope is there",
    Stage.RECIPIENT: "when there is a recipient",
    Stage.HOST: "when a host is chosen",
    Stage.ADDRESS: "when an address of the host is chosen",
    Stage.SOURCE: "when the source address is chosen",
}


@dataclass(frozen=True, slots=True)
class Variables:
    """What the expressions of one setting may name; ``absent``: what exists elsewhere, and why not here."""

    known: Mapping[str, Variable]
    absent: Mapping[str, str] = field(default_factory=dict)
    table_key: Normal = table_key


def _optional(kind: Kind) -> Type:
    return Type(kind, optional=True)


LAST_ERRORS = ("connection", "tls", "dane", "mta-sts", "dns", "auth", "mailbox", "greylist", "rate", "system", "reply")
"""Classes of failure, as retries are scheduled by them."""

_OUTBOUND: dict[Stage, tuple[Variable, ...]] = {
    Stage.ENVELOPE: (
        Variable("sender", text_type(address), 'The sender\'s address, "" for <>.'),
        Variable("sender_domain", text_type(domain), 'Its domain, "" for <>.'),
        Variable("client_ip", _optional(Kind.ADDRESS), "Address of the client; unset on a unix socket and for our own mail."),
        Variable("auth_user", text_type(optional=True), "The user who logged in; unset before."),
        Variable("source", text_type(one_of("client", "dsn", "report")), 'Where it comes from: "client", "dsn" or "report".'),
        Variable("size", _optional(Kind.INTEGER), "Octets, as far as they are known; unset before the content, undeclared."),
        Variable("priority", INTEGER, "Its priority, 0 if none was asked for."),
        Variable("retry_num", INTEGER, "Attempts before this one."),
        Variable("notify_num", INTEGER, "Notices of delay that were sent."),
        Variable("expires_in", _optional(Kind.DURATION), "Until it is given up; unset without a queue."),
        Variable("queue_age", DURATION, "Since it was accepted into the queue; 0 without one."),
        Variable("last_status", text_type(one_of("temporary", "unknown"), optional=True), "How the last attempt ended."),
        Variable("last_error", text_type(one_of(*LAST_ERRORS), optional=True), "The class of its failure."),
        Variable("last_code", _optional(Kind.INTEGER), "The reply code of it; unset if there was none."),
    ),
    Stage.RECIPIENT: (
        Variable("rcpt", text_type(address), "The recipient's address; the first of several."),
        Variable("rcpt_domain", text_type(domain), "Its domain."),
        Variable("recipients", Type(Kind.LIST, Kind.STRING, normal=address), "The addresses of all recipients so far."),
    ),
    Stage.HOST: (Variable("mx", text_type(folded, optional=True), "The host, by name or address; unset for a unix socket."),),
    Stage.ADDRESS: (Variable("remote_ip", _optional(ADDRESS.kind), "Its address; unset for a unix socket, or by name."),),
    Stage.SOURCE: (Variable("local_ip", _optional(ADDRESS.kind), "Our address, where `source_ip` chose one."),),
}

_PIPELINE = ("client_name", "helo", "listener", "protocol", "tls", "tls_version", "client_cert_name")
_CONTENT = ("header", "verdict", "score", "quarantined")


def outbound(stage: Stage) -> Variables:
    """What a setting sees that is decided at this stage."""
    known = {variable.name: variable for when, variables in _OUTBOUND.items() if when <= stage for variable in variables}
    later = {
        variable.name: f"it is known only {_COMES[when]}, and this is decided before"
        for when, variables in _OUTBOUND.items()
        if when > stage
        for variable in variables
    }
    elsewhere = dict.fromkeys((*_PIPELINE, *_CONTENT), "it belongs to the conditions of pipelines")
    return Variables(known, {**elsewhere, **later})


OUTBOUND_VARIABLES = outbound(Stage.SOURCE)
"""All of them: for what is decided last."""

_BALANCE = ("sender", "rcpt", "rcpt_domain", "client_ip", "auth_user")
_whole = outbound(Stage.RECIPIENT)
BALANCE_VARIABLES = Variables(
    {name: _whole.known[name] for name in _BALANCE},
    {**_whole.absent, **dict.fromkeys(set(OUTBOUND_VARIABLES.known) - set(_BALANCE), "an endpoint is chosen without it")},
)
"""What `balance hash(…)` sees: what stays the same for those who should meet the same endpoint."""
