"""What the rooms of the house know of each other.

These interfaces are the whole contract between the pipeline and the modules that the language can name. A *module*
object is configuration and lives as long as the configuration; a *delivery* object is one message and holds all of its
state. Nothing here imports another room.

"Maybe awaitable" below means: the method returns the answer itself when it has it already, else an awaitable (a
coroutine or a Deferred) of it. An answer that is there at once costs no turn of the event loop; a caller tests
``isinstance(answer, Reply)`` first and awaits only what is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from zope.interface import Attribute, Interface


class Finality(Enum):
    """How a target's answers to the final dot come about (docs/architecture.md, "Delivering once")."""

    TRANSACTION = "transaction"
    """One irrevocable answer for all recipients of the delivery (target.smtp)."""
    RECIPIENT = "recipient"
    """One irrevocable answer for each recipient (target.lmtp, target.maildir)."""
    GROUP = "group"
    """One irrevocable answer for the recipients of each group, which `IGroupingTarget.group` tells (target.remote)."""
    TWO_PHASE = "two-phase"
    """Prepared durably first, then committed or aborted (target.queue)."""
    DISCARD = "discard"
    """Nothing is kept and nothing can fail (the word `discard`)."""


class ITarget(Interface):
    """Where mail goes: what `deliver_to` names."""

    finality: Finality = Attribute("When and how its answer becomes irrevocable.")
    label: str = Attribute("Its name in logs and replies: `store`, or `lmtp unix:///run/x` for an inline one.")

    def open(envelope: Any) -> Any:
        """Begin one delivery: returns an IDelivery for this `message.envelope.Envelope`. Opens no connection."""


class IGroupingTarget(ITarget):
    """A target whose finality is GROUP: what it does with a message is one transaction for each group of recipients."""

    def group(envelope: Any, recipient: Any) -> Any:
        """Maybe awaitable hashable value: recipients of the envelope with equal ones share a transaction and its answer.

        :raises MailError: (or fails) this recipient can't be delivered to."""


class IDelivery(Interface):
    """One downstream transaction of one message to one target.

    The order is ``rcpt`` one or more times, then ``send`` once or ``abort``. Calls do not overlap: the caller waits
    for one answer before the next call, except that ``abort`` may come at any time.
    """

    def rcpt(recipient: Any) -> Any:
        """Offer one `message.envelope.Recipient`. Maybe awaitable `Reply`; 2yz means it is part of the delivery."""

    def withdraw(recipients: Any) -> None:
        """Take recipients that were accepted out again (by identity), before `send`. The next hop must not get
        the message for them: what was said downstream is reset and said again without them."""

    def send(message: Any) -> Any:
        """Hand over a `message.message.Message`. Maybe awaitable list of one `Reply` per accepted recipient, in the
        order they were accepted. A failure of any kind is a reply in that list, never an exception; cancelling
        the awaitable aborts whatever was not yet irrevocable."""

    def abort() -> None:
        """Forget the transaction: RSET or close downstream, release every lease and limit. May be called at any
        time and more than once; after the final dot went out it only stops waiting for nothing, the answer is still
        read and logged."""


class IWholeDelivery(IDelivery):
    """A delivery that can be told everything at once, by whoever has all of it: a queue."""

    def offer(recipients: Any, message: Any) -> Any:
        """In place of ``rcpt`` for each: awaitable list of one `Reply` for each of the recipients. The next hop may have
        been asked for the content with them; ``send`` has to follow with the same message, or ``abort``."""


class ITwoPhaseDelivery(IDelivery):
    """A delivery of a target whose finality is TWO_PHASE. ``send`` is ``prepare`` and ``commit`` in one step."""

    def prepare(message: Any) -> Any:
        """Make it durable. Maybe awaitable list of replies as for `send`; nothing is delivered before `commit`, and what was
        not committed is forgotten by `abort`, or at the next start."""

    def commit(recipients: Any) -> Any:
        """Let it go, for these of the accepted recipients; the others are forgotten. Awaitable of None.

        :raises Exception: (or fails) nothing was let go."""


class ITable(Interface):
    """A mapping from strings to lists of strings."""

    def lookup(key: str) -> Any:
        """Maybe awaitable tuple of values: a hit without value is ``("",)``, no match is ``()``.

        :raises Exception: (or fails) when the table can't answer: the caller makes that 451, never "no match".
        """


class ICounter(Interface):
    """Counts for several processes and nodes together (`limits { shared … }`)."""

    def take(asks: Any) -> Any:
        """Awaitable `limits.shared.Taken` for a sequence of `limits.shared.Ask`: of all of them, or of none.

        :raises Exception: (fails) when it can't count."""

    def give_back(taken: Any) -> None:
        """The slots of a `Taken` are free again; returns at once."""


class ICertificateSource(Interface):
    """Certificates by name, for `sni_lookup`: what a table of file names is not enough for."""

    def certificate(name: str) -> Any:
        """The certificate for a server name in lower case, or for ``*.example.org``: maybe awaitable tuple of two byte strings
        in PEM form, the certificate with its intermediates and the key, or None if there is none. It is kept for a minute.

        :raises Exception: (or fails) when it can't be said: the handshake ends, another certificate is not shown.
        """


class ICheck(Interface):
    """A judgement on connections and messages; `pipeline.check.Check` is the base to begin with, and says when what is called."""

    stages: frozenset[str] = Attribute("Which stages it takes part in; those of messages, if it has no such attribute.")
    marks: bool = Attribute("Whether it writes findings into messages (`message.findings`); not, if it has no such attribute.")

    def open_session(session: Any) -> Any:
        """An ISessionCheckState for one connection; asked for only if it takes part in connection, tls or auth."""

    def open(envelope: Any) -> Any:
        """An ICheckState for one transaction."""


class ISessionCheckState(Interface):
    """One connection's judgement. Each stage is maybe awaitable: None to go on, or a `Reply` (4yz, 5yz) to refuse."""

    def connection() -> Any:
        """Judge who connects, before the greeting."""

    def tls() -> Any:
        """Judge the TLS of the connection."""

    def auth() -> Any:
        """Judge a login that was right."""

    def close() -> None:
        """The connection is over, or another client's."""


class ICheckState(Interface):
    """One message's judgement. Each stage is maybe awaitable: None to go on, or a `Reply` (4yz, 5yz) to refuse."""

    def sender(envelope: Any) -> Any:
        """Judge the reverse-path (and all that is known of the session)."""

    def rcpt(recipient: Any) -> Any:
        """Judge one recipient."""

    def refused(refused: Any) -> Any:
        """Hear of a recipient who was refused: a `pipeline.check.Refused`. Not asked of who does not have it."""

    def body(message: Any) -> Any:
        """Judge the content."""

    def verdict(found: Any) -> Any:
        """Judge what all checks of a recipient have found: a `pipeline.content.Sum`. Not asked of who does not have it."""

    def close() -> None:
        """The transaction is over."""


class IModifier(Interface):
    """Rewrites the envelope or the message. Each method is maybe awaitable."""

    def sender(envelope: Any) -> Any:
        """The `Address` to use from here on as the reverse-path."""

    def rcpt(recipient: Any) -> Any:
        """Tuple of `Address` that take the recipient's place (one or more)."""

    def body(message: Any) -> Any:
        """The `Message` to send."""


class Proof(Enum):
    """What a client may show of itself; each SASL mechanism needs one of these to be judged."""

    PASSWORD = "password"
    """The password itself (PLAIN, LOGIN)."""
    SECRET = "secret"
    """That it knows the password, by computing with it; we must have it in plain (CRAM-MD5)."""
    KEYS = "keys"
    """The same, computed with what is stored (SCRAM), or with a password in plain."""
    TOKEN = "token"
    """A bearer token (XOAUTH2, OAUTHBEARER)."""
    CERTIFICATE = "certificate"
    """The certificate that TLS has verified (EXTERNAL)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who has proved who they are: ``user`` stands in logs, in `auth_user` and in what next hops are told. ``others``
    are names that they may act as besides, if the client asks for one (SASL's authorization identity)."""

    user: str
    others: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Account:
    """What is kept of a user: the identity, and a secret in one of the forms of `passwords.forms` (plain, or a hash)."""

    identity: Identity
    secret: str = field(repr=False)


class IAuthenticator(Interface):
    """Knows users. ``proofs`` says what it can judge, and so which mechanisms a listener can offer; it provides those of the
    interfaces below that go with them. Their methods are called with names that have no control characters, and are maybe
    awaitable.

    :raises Exception: (or fails) when it can't judge: the caller makes that 454, never "wrong".
    """

    proofs: frozenset[Proof] = Attribute("What it can judge.")
    label: str = Attribute("Its name in logs.")


class IAccountStore(IAuthenticator):
    """Keeps passwords or hashes of them, which are compared for it, in threads (PASSWORD, and maybe SECRET and KEYS)."""

    decoy: str = Attribute("A secret of the usual form: unknown users are compared with it, so that it takes as long.")

    def account(user: str) -> Any:
        """`Account`, None for an unknown user."""


class IPasswordJudge(IAuthenticator):
    """Says itself whether a password is right (PASSWORD)."""

    def check_password(user: str, password: str, client_ip: str) -> Any:
        """`Identity` or None; ``client_ip`` is where the client is, "" on a unix socket."""


class ITokenJudge(IAuthenticator):
    """Knows bearer tokens (TOKEN)."""

    def check_token(user: str, token: str) -> Any:
        """`Identity` or None; ``user`` is "" if the client gave no name."""


class ICertificateJudge(IAuthenticator):
    """Knows whose a client's certificate is (CERTIFICATE)."""

    def check_certificate(facts: Any) -> Any:
        """`Identity` or None for the `message.envelope.TlsFacts` of the connection; nobody has asked yet whether there is a
        verified certificate."""


class IQueueStore(Interface):
    """Durable storage of messages that wait (docs: queue)."""
