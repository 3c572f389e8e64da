"""Logging in: a listener's providers, run by the mechanisms of `smtp.sasl_server`.

`Guard` is one for the process, over all listeners and reloads: how often who has guessed, and the threads for hashes. `Logins`
is a listener's; `Login` is one AUTH exchange. The contract:

- Wrong credentials are 535 5.7.8, an answer that can't be had is 454 4.7.0, never the other way round. With several providers the
  first that says yes wins; nobody says "wrong" while one that might have said yes is out of order.
- Unknown user and wrong password take the same time and the same words: where a provider stores hashes, an unknown user's
  password is compared with its decoy.
- A name is normalised and looked up in the map before a provider hears it; one that the map does not have is nobody's, and takes
  as long as any other.
- Who has guessed too often, by address or by user, is not listened to (454), before any password is looked at.
- Hashes are computed in threads of their own, `THREADS` at a time, `WAITING` waiting; beyond it 454, so that a flood of logins
  costs neither the reactor nor the threads that write bodies. A provider that does not answer is given `PATIENCE`.
- The log names user, address and mechanism of each login and each failure, never what was said.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import CancelledError

from mailgate.adapters import Adapters
from mailgate.config.places import SecretText
from mailgate.events import Event, EventLog
from mailgate.interfaces import Account, IAccountStore, Identity, Proof
from mailgate.limits.guesses import Guesses
from mailgate.message.envelope import Session
from mailgate.net.waiting import within
from mailgate.passwords import Form, Stored, read_secret
from mailgate.pipeline.lookup import look_up
from mailgate.smtp.reply import MailError, Reply, TemporaryError
from mailgate.smtp.sasl_server import (
    MECHANISMS,
    Challenge,
    CheckCertificate,
    CheckPassword,
    CheckToken,
    Exchange,
    FindKeys,
    FindSecret,
    Malformed,
    Mechanism,
    Proved,
    Question,
    Refusal,
    Scene,
    decode,
)
from mailgate.smtp.scram import ScramKeys, decoy_keys

THREADS = 4
"""Hashes computed at once: argon2 takes 64 MiB and 50 ms of a core each."""
WAITING = 64
"""Hashes that wait for a thread: some seconds of work."""
PATIENCE = 60.0
"""For one answer of a provider: RFC 5321 has none, clients wait for minutes."""

AUTHENTICATED = Reply(235, "2.7.0", "Authentication successful")
WRONG = Reply(535, "5.7.8", "Authentication credentials invalid")
MALFORMED = Reply(501, "5.5.2", "This is no response of the mechanism")
NO_INITIAL = Reply(501, "5.5.4", "This mechanism takes no initial response")
UNAVAILABLE = Reply(454, "4.7.0", "Temporary authentication failure")
GUESSED = Reply(454, "4.7.0", "Too many failed logins, try again later")

_log = EventLog("mailgate.auth")


class Guard:
    """What all listeners share."""

    def __init__(self, adapters: Adapters) -> None:
        self.guesses = Guesses(adapters.reactor, workers=adapters.workers)
        self.secret = adapters.secret or adapters.random.getrandbits(256).to_bytes(32, "big")
        """What the salts of users without one are made of: for all workers the same, or the difference would tell who exists."""
        self._run_in_thread = adapters.hash_in_thread or adapters.run_in_thread
        self._under_way = 0

    async def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run what is slow on purpose in a thread. :raises TemporaryError: too much waits already."""
        if self._under_way >= THREADS + WAITING:
            raise TemporaryError("Too many logins at once", code=454, enhanced="4.7.0", reason="hashes wait")
        self._under_way += 1
        try:
            return await self._run_in_thread(function, *arguments)
        finally:
            self._under_way -= 1

    async def fits(self, stored: Stored, password: str) -> bool:
        if stored.form is Form.PLAIN:
            return stored.verify(password)
        return bool(await self.compute(stored.verify, password))

    async def keys(self, user: str, stored: Stored) -> ScramKeys:
        """What SCRAM computes with. :raises ValueError: no keys can be made of this form."""
        if stored.form is Form.SCRAM:
            return ScramKeys.parse(stored.text)
        if stored.form is not Form.PLAIN:
            raise ValueError(f"SCRAM can't use a {stored.form.value} hash")
        salt = decoy_keys(user, self.secret).salt
        made: ScramKeys = await self.compute(ScramKeys.derive, stored.text, salt)
        return made


def offered(providers: Iterable[Any], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The mechanisms that some provider can judge, of the ``wanted`` ones if any are named."""
    proofs = {proof for provider in providers for proof in provider.proofs}
    possible = (mechanism.name for mechanism in MECHANISMS.values() if mechanism.proof in proofs)
    return tuple(name for name in possible if not wanted or name in wanted)


@dataclass(frozen=True, slots=True, eq=False)
class Logins:
    """One listener's. ``steps`` look at a session that has just logged in, as those of `inbound.welcome` do at a new one; with
    ``keeps_password`` a session has its password for next hops (`auth forward`)."""

    providers: Sequence[Any]
    mechanisms: tuple[str, ...]
    guard: Guard
    adapters: Adapters
    hostname: str
    steps: Sequence[Callable[[Session], Any]] = ()
    keeps_password: bool = False
    normalize: Callable[[str], str] | None = None
    """What is made of a name before it is looked up or asked for."""
    name_map: Any = None
    """A table from names as clients give them to those of the providers."""

    def begin(self, session: Session, mechanism: str, bindings: Callable[[], Mapping[str, bytes]]) -> Login:
        """An exchange of a mechanism that is offered; ``bindings`` gives those of the connection's TLS."""
        chosen = MECHANISMS[mechanism]
        plus_offered = session.tls is not None and "SCRAM-SHA-256-PLUS" in self.mechanisms
        scene = Scene(
            hostname=self.hostname,
            nonce=f"{self.adapters.random.getrandbits(144):036x}",
            time=int(self.adapters.wall_time()),
            bindings=bindings() if chosen.proof is Proof.KEYS and plus_offered else {},
            plus_offered=plus_offered,
        )
        return Login(self, session, chosen, chosen.exchange(scene))

    def able(self, proof: Proof) -> Iterator[Any]:
        return (provider for provider in self.providers if proof in provider.proofs)


class Login:
    """One exchange: `step` turns the client's response into our reply."""

    __slots__ = ("_exchange", "_failed", "_logins", "_mechanism", "_password", "_session", "_started", "_user")

    def __init__(self, logins: Logins, session: Session, mechanism: Mechanism, exchange: Exchange) -> None:
        self._logins = logins
        self._session = session
        self._mechanism = mechanism
        self._exchange = exchange
        self._started = False
        self._failed = False
        self._user = ""
        """Whom the client has named, for the log and the count of guesses."""
        self._password = ""

    @property
    def _counted(self) -> str:
        """The name under which guesses are counted: the same for all ways of writing it that lead to one user."""
        normalize = self._logins.normalize
        return (self._user if normalize is None else normalize(self._user)).casefold()

    async def step(self, response: bytes | None) -> Reply:
        """``response`` is as it came; None at the beginning if there was none."""
        try:
            return await self._step(response)
        except Malformed:
            return MALFORMED
        except MailError as error:
            return self._trouble(error, error.reply if error.reply.code in (421, 454) else UNAVAILABLE)
        except CancelledError:
            raise
        except Exception as error:
            return self._trouble(error, UNAVAILABLE)

    async def _step(self, response: bytes | None) -> Reply:
        first = not self._started
        self._started = True
        if first:
            challenge = self._exchange.send(None)
            if response is None:
                return _challenge(challenge)
            if self._mechanism.server_first:
                return NO_INITIAL
        answer: Any = decode(response or b"", initial=first)
        while True:
            try:
                wanted = self._exchange.send(answer)
            except StopIteration as stop:
                return await self._end(stop.value)
            if isinstance(wanted, Challenge):
                if isinstance(wanted, Refusal):  # counted now: the client may break off
                    self._count_failure()
                return _challenge(wanted)
            self._user = getattr(wanted, "user", "") or self._user
            if self._logins.guard.guesses.exceeded(self._session.client_ip, self._counted):
                return self._fail("too many failed logins", GUESSED)
            answer = await self._answer(wanted)

    async def _end(self, proved: Proved | None) -> Reply:
        session = self._session
        if proved is None:
            self._count_failure()
            return WRONG
        self._logins.guard.guesses.succeeded(session.client_ip, self._counted)
        session.auth_user = proved.user
        session.auth_mechanism = self._mechanism.name
        refusal: Reply | None = UNAVAILABLE
        try:
            refusal = await self._refused()
        finally:  # a check that fails, or a client that goes, leaves nobody logged in
            if refusal is not None:
                session.auth_user = session.auth_mechanism = ""
        if refusal is not None:
            return self._fail(f"refused by a check: {refusal}", refusal)
        if self._logins.keeps_password:
            session.credentials = (proved.identity.user, SecretText(self._password))
        _log.info(Event.AUTH_OK, session=session.id, client=session.client_ip, user=proved.user, mechanism=self._mechanism.name)
        return AUTHENTICATED

    async def _refused(self) -> Reply | None:
        for step in self._logins.steps:
            refusal = step(self._session)
            if refusal is not None and not isinstance(refusal, Reply):
                refusal = await within(refusal, PATIENCE, self._logins.adapters.reactor)
            if refusal is not None:
                return refusal if 400 <= refusal.code <= 599 else UNAVAILABLE
        return None

    def _count_failure(self) -> None:
        if not self._failed:
            self._failed = True
            self._logins.guard.guesses.failed(self._session.client_ip, self._counted)
            self._fail("wrong credentials", WRONG)

    def _fail(self, reason: str, reply: Reply) -> Reply:
        session = self._session
        _log.warn(
            Event.AUTH_FAILED,
            session=session.id,
            client=session.client_ip,
            user=self._user,
            mechanism=self._mechanism.name,
            reason=reason,
        )
        return reply

    def _trouble(self, error: Exception, reply: Reply) -> Reply:
        session = self._session
        _log.error(Event.AUTH_TROUBLE, session=session.id, user=self._user, mechanism=self._mechanism.name, error=repr(error))
        return reply

    # Questions of the mechanisms

    async def _answer(self, question: Question) -> Any:
        """What some provider says. :raises Exception: none said yes, and one could not say anything."""
        logins = self._logins
        if logins.name_map is None and logins.normalize is None:
            return await self._asked(question)
        if isinstance(question, CheckToken | CheckCertificate):
            return await self._asked(question)
        user = question.user
        if logins.normalize is not None:
            user = logins.normalize(user)
        mapped = (user,) if logins.name_map is None else await look_up(logins.name_map, user)
        if len(mapped) > 1:
            raise TemporaryError(
                "Bad entry for this name", reason=f"{logins.name_map.label} has {len(mapped)} names for {user!r}"
            )
        name = mapped[0] if mapped and mapped[0] else user
        if any(ord(character) < 32 for character in name):
            raise TemporaryError("Bad entry for this name", reason=f"{logins.name_map.label}: {name!r} is no name")
        answer = await self._asked(replace(question, user=name))
        return answer if mapped else self._nobodys(question, answer)

    def _nobodys(self, question: Question, answer: Any) -> Any:
        """What is answered for a name that nobody has, after somebody was asked for it all the same."""
        if not isinstance(question, FindKeys):
            return None
        iterations = answer[1].iterations
        return None, decoy_keys(question.user, self._logins.guard.secret, iterations)

    async def _asked(self, question: Question) -> Any:
        """:raises Exception: none said yes, and one could not say anything."""
        ask = _ASK[type(question)]
        trouble: Exception | None = None
        otherwise: Any = None
        for provider in self._logins.able(self._mechanism.proof):
            try:
                answer, otherwise = await ask(self, provider, question)
            except CancelledError:
                raise
            except Exception as error:
                trouble = trouble or error
                _log.error(Event.AUTH_TROUBLE, session=self._session.id, provider=provider.label, error=repr(error))
                continue
            if answer is not None:
                return answer
        if trouble is not None:
            raise trouble
        return otherwise

    async def _check_password(self, provider: Any, question: CheckPassword) -> tuple[Identity | None, None]:
        user, password = question.user, question.password
        if not IAccountStore.providedBy(provider):
            identity = await self._settled(provider.check_password(user, password, self._session.client_ip))
        else:
            account: Account | None = await self._settled(provider.account(user))
            stored = read_secret(account.secret if account is not None else provider.decoy)
            fits = await self._logins.guard.fits(stored, password)
            identity = account.identity if fits and account is not None else None
        if identity is not None:
            self._password = password
        return identity, None

    async def _find_secret(self, provider: Any, question: FindSecret) -> tuple[tuple[Identity, str] | None, None]:
        account: Account | None = await self._settled(provider.account(question.user))
        if account is None:
            return None, None
        stored = read_secret(account.secret)
        return ((account.identity, stored.text) if stored.form is Form.PLAIN else None), None

    async def _find_keys(self, provider: Any, question: FindKeys) -> tuple[tuple[Identity, ScramKeys] | None, Any]:
        """Besides the answer, keys for somebody whom nobody knows: made with the same effort."""
        guard = self._logins.guard
        account: Account | None = await self._settled(provider.account(question.user))
        keys = await guard.keys(question.user, read_secret(account.secret if account is not None else provider.decoy))
        if account is not None:
            return (account.identity, keys), None
        return None, (None, decoy_keys(question.user, guard.secret, keys.iterations))

    async def _check_token(self, provider: Any, question: CheckToken) -> tuple[Identity | None, None]:
        return await self._settled(provider.check_token(question.user, question.token)), None

    async def _check_certificate(self, provider: Any, question: CheckCertificate) -> tuple[Identity | None, None]:
        return await self._settled(provider.check_certificate(self._session.tls)), None

    async def _settled(self, answer: Any) -> Any:
        if answer is None or isinstance(answer, Identity | Account):
            return answer
        return await within(answer, PATIENCE, self._logins.adapters.reactor)


_ASK: Mapping[type, Callable[[Login, Any, Any], Any]] = {
    CheckPassword: Login._check_password,
    FindSecret: Login._find_secret,
    FindKeys: Login._find_keys,
    CheckToken: Login._check_token,
    CheckCertificate: Login._check_certificate,
}
"""How a provider is asked: its answer (None: it does not know), and what is answered if none knows."""


def _challenge(wanted: Any) -> Reply:
    return Reply(334, "", b64encode(wanted.data).decode())
