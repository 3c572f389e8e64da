"""Providers that answer, do not know, fail or hang: wrong is never said for "can't say", and hashing is bounded."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any
from unicodedata import normalize

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailgate.inbound.authentication import PATIENCE, THREADS, WAITING, Guard, Logins
from mailgate.interfaces import Account, IAccountStore, Identity, IPasswordJudge, Proof
from mailgate.message.envelope import Session
from mailgate.net.waiting import spawn
from mailgate.smtp.reply import Reply
from mailgate.testing.network import SimulatedReactor, adapters_for
from tests.pipeline.fakes import FakeTable

RIGHT = b64encode(b"\0alice\0secret")
ALICE = Identity("alice")


@implementer(IPasswordJudge)
class Judge:
    proofs = frozenset({Proof.PASSWORD})
    label = "judge"

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    def check_password(self, user: str, password: str, client_ip: str) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


@implementer(IAccountStore)
class Store:
    proofs = frozenset({Proof.PASSWORD, Proof.KEYS})
    label = "store"
    decoy = "$6$rounds=1000$saltsalt$" + "a" * 86

    def __init__(self, secret: str | None) -> None:
        self.secret = secret

    def account(self, user: str) -> Account | None:
        return Account(ALICE, self.secret) if user == "alice" and self.secret else None


class AuthenticationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = SimulatedReactor(1)
        self.adapters = adapters_for(self.reactor)
        self.guard = Guard(self.adapters)

    def log_in(self, *providers: Any, response: bytes = RIGHT, **options: Any) -> Reply:
        session = Session("s", "l", "mx.test", client_ip="192.0.2.1")
        logins = Logins(providers, ("PLAIN",), self.guard, self.adapters, "mx.test", **options)
        self.session = session
        return self.reactor.run(_settled(logins.begin(session, "PLAIN", dict).step(response)), limit=600)

    def codes(self, *providers: Any, **options: Any) -> str:
        reply = self.log_in(*providers, **options)
        return f"{reply.code} {reply.enhanced}"

    def test_who_says_what(self) -> None:
        broken = RuntimeError("the directory is down")
        for answers, expected in (
            ([ALICE], "235 2.7.0"),
            ([None], "535 5.7.8"),
            ([broken], "454 4.7.0"),
            ([broken, ALICE], "235 2.7.0"),
            ([None, ALICE], "235 2.7.0"),
            ([broken, None], "454 4.7.0"),
            ([None, broken], "454 4.7.0"),
            ([None, None], "535 5.7.8"),
        ):
            with self.subTest(answers):
                self.assertEqual(expected, self.codes(*map(Judge, answers)))
        self.flushLoggedErrors()

    def test_the_first_yes_ends_it(self) -> None:
        second = Judge(ALICE)
        self.assertEqual("235 2.7.0", self.codes(Judge(ALICE), second))
        self.assertEqual(0, second.asked)

    def test_who_does_not_answer(self) -> None:
        before = self.reactor.seconds()
        self.assertEqual("454 4.7.0", self.codes(Judge(Deferred)))
        self.assertEqual(PATIENCE, self.reactor.seconds() - before)

    def test_trouble_is_no_guess(self) -> None:
        for _ in range(100):
            self.assertEqual("454 4.7.0", self.codes(Judge(RuntimeError())))
        self.assertEqual("235 2.7.0", self.codes(Judge(ALICE)))

    def test_an_unknown_user_costs_a_hash(self) -> None:
        computed: list[str] = []

        async def compute(function: Any, *arguments: Any) -> Any:
            computed.append(function.__name__)
            return function(*arguments)

        self.guard.compute = compute  # type: ignore[method-assign]
        self.assertEqual("535 5.7.8", self.codes(Store(None)))
        self.assertEqual(["verify"], computed)

    def test_names_are_normalised_and_mapped(self) -> None:
        names = FakeTable({"ann@x.test": ("alice",), "same": ("",), "two": ("a", "b"), "odd": ("a\nb",)})
        for given, expected, asked, keywords in (
            ("ann@x.test", "235 2.7.0", "alice", {"name_map": names}),
            ("ANN@X.test", "535 5.7.8", "ANN@X.test", {"name_map": names}),
            ("ANN@X.test", "235 2.7.0", "alice", {"name_map": names, "normalize": str.lower}),
            ("same", "235 2.7.0", "same", {"name_map": names}),
            ("nobody", "535 5.7.8", "nobody", {"name_map": names}),
            ("two", "454 4.7.0", None, {"name_map": names}),
            ("odd", "454 4.7.0", None, {"name_map": names}),
            ("any", "454 4.7.0", None, {"name_map": FakeTable(OSError("gone"))}),
            ("ANN", "235 2.7.0", "ann", {"normalize": str.lower}),
        ):
            judge = Judge(ALICE)
            heard: list[str] = []
            judge.check_password = lambda user, password, client_ip, heard=heard: (heard.append(user), ALICE)[1]  # type: ignore[method-assign, misc]
            response = b64encode(f"\0{given}\0secret".encode())
            with self.subTest(given):
                self.assertEqual(expected, self.codes(judge, response=response, **keywords))
                self.assertEqual([asked] if asked else [], heard, "a name that nobody has takes as long")
        self.flushLoggedErrors()

    def test_guesses_are_counted_by_the_normalised_name(self) -> None:
        """Else each way of writing a name would have guesses of its own."""
        failed: list[str] = []
        self.guard.guesses.failed = lambda ip, user: failed.append(user)  # type: ignore[method-assign]
        for name in ("Ann", "\uff21nn", "a\uff4e\uff4e"):
            response = b64encode(f"\0{name}\0wrong".encode())
            self.codes(Judge(None), response=response, normalize=lambda text: normalize("NFKC", text).casefold())
        self.assertEqual(failed, ["ann"] * 3)

    def test_the_map_and_scram(self) -> None:
        """A name that the map does not have gets a salt like any other, and no way in."""
        store = Store("secret")
        store.decoy = "secret"
        logins = Logins(
            [store], ("SCRAM-SHA-256",), self.guard, self.adapters, "mx.test", name_map=FakeTable({"ann": ("alice",)})
        )
        for name in ("ann", "alice", "nobody"):
            session = Session("s", "l", "mx.test", client_ip="192.0.2.1")
            first = b64encode(f"n,,n={name},r=abc".encode())
            reply = self.reactor.run(_settled(logins.begin(session, "SCRAM-SHA-256", dict).step(first)), limit=60)
            self.assertEqual((reply.code, b"s=" in b64decode(str(reply).split()[-1])), (334, True), name)

    def test_hashing_is_bounded(self) -> None:
        waiting: list[Deferred[bool]] = []

        def later(*_: Any) -> Deferred[bool]:
            waiting.append(Deferred())
            return waiting[-1]

        self.guard._run_in_thread = later
        running = [spawn(self.guard.compute(bool)) for _ in range(THREADS + WAITING)]
        self.assertEqual("454 4.7.0", self.codes(Store("$6$rounds=1000$saltsalt$" + "b" * 86)))
        for one in waiting:
            one.callback(True)
        self.assertEqual([True] * len(running), [self.successResultOf(one) for one in running])
        self.assertEqual(0, self.guard._under_way)

    def test_a_check_may_refuse_a_login(self) -> None:
        refusal = Reply(535, "5.7.8", "Not from there")
        self.assertEqual(refusal, self.log_in(Judge(ALICE), steps=[lambda session: None, lambda session: refusal]))
        self.assertEqual(("", ""), (self.session.auth_user, self.session.auth_mechanism))
        self.assertEqual("454 4.7.0", self.codes(Judge(ALICE), steps=[lambda session: 1 / 0]))
        self.assertEqual("", self.session.auth_user)

    def test_the_password_is_kept_only_where_it_is_wanted(self) -> None:
        self.log_in(Judge(ALICE))
        self.assertEqual(
            (None, "alice", "PLAIN"), (self.session.credentials, self.session.auth_user, self.session.auth_mechanism)
        )
        self.log_in(Judge(ALICE), keeps_password=True)
        assert self.session.credentials is not None
        self.assertEqual(("alice", "secret"), (self.session.credentials[0], self.session.credentials[1].reveal()))
        self.assertNotIn("secret", repr(self.session))


async def _settled(step: Any) -> Any:
    return await step
