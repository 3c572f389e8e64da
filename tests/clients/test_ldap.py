"""Escaping, failover and bounds of `clients.ldap`, without a server."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ldap3.core.exceptions import LDAPSocketReceiveError
from ldap3.operation.search import compile_filter, parse_filter
from ldap3.utils.dn import parse_dn
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.adapters import Adapters
from mailgate.clients.breaker import FIRST_PAUSE
from mailgate.clients.ldap import IDLE, WAITING, Directory, fill, in_dn, in_filter
from mailgate.clients.ldap_link import Access, LdapFailure, Server, ServerTrouble
from mailgate.net.waiting import spawn

ONE, TWO = Server("one.test", 389), Server("two.test", 389)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)


class EscapingTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None)
    @given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
    def test_a_filter_means_just_the_value(self, value: str) -> None:
        filled = fill("(mail={key})", {"key": value}, in_filter)
        compiled: Any = compile_filter(parse_filter(filled, None, False, False, None, False).elements[0])
        self.assertEqual(compiled.getName(), "equalityMatch")
        assertion = compiled.getComponent()
        self.assertEqual((str(assertion[0]), bytes(assertion[1])), ("mail", value.encode()))

    @settings(max_examples=150, deadline=None)
    @given(NAMES)
    def test_a_dn_has_the_name_in_one_place(self, name: str) -> None:
        parts = parse_dn(fill("uid={username},ou=people", {"username": name}, in_dn))
        self.assertEqual([(attribute, separator) for attribute, _, separator in parts], [("uid", ","), ("ou", "")])

    def test_values_are_not_read_for_placeholders(self) -> None:
        filled = fill("({key}{domain})", {"key": "{domain}", "domain": "{key}*"}, in_filter)
        self.assertEqual(filled, "({domain}{key}\\2a)")


class FakeLink:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_closed = False
        self.is_aborted = False

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


class DirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.links: list[FakeLink] = []
        self.down: set[Server] = set()
        self.held: list[Callable[[], None]] | None = None

    def directory(self, *servers: Server) -> Directory:
        adapters = Adapters(self.clock, lambda: 0.0, maybeDeferred, random.Random(0))
        return Directory(Access(servers), adapters, run_in_thread=self.run_in_thread, connect=self.connect)

    def run_in_thread(self, function: Callable[[], Any]) -> Any:
        if self.held is None:
            return maybeDeferred(function)
        answer: Deferred[Any] = Deferred()
        self.held.append(lambda: maybeDeferred(function).chainDeferred(answer))
        return answer

    def connect(self, access: Access, context: Any, server: Server, address: str) -> FakeLink:
        if server in self.down:
            raise ServerTrouble(f"{server}: refused")
        self.links.append(FakeLink(server))
        return self.links[-1]

    def ask(self, directory: Directory, work: Callable[[Any], Any] = lambda link: link.server, **options: Any) -> Any:
        return self.successResultOf(spawn(directory.ask(work, **options)))

    def fail(self, directory: Directory, work: Callable[[Any], Any] = lambda link: link.server) -> str:  # type: ignore[override]
        return str(self.failureResultOf(spawn(directory.ask(work)), LdapFailure).value)

    def test_a_connection_is_used_again_until_it_is_old(self) -> None:
        directory = self.directory(ONE)
        self.ask(directory)
        self.ask(directory)
        self.assertEqual(len(self.links), 1)
        self.clock.advance(IDLE)
        self.ask(directory)
        self.assertEqual([link.is_closed for link in self.links], [True, False])

    def test_a_password_is_judged_on_a_connection_of_its_own(self) -> None:
        directory = self.directory(ONE)
        self.ask(directory)
        self.ask(directory, apart=True)
        self.ask(directory)
        self.assertEqual([link.is_closed for link in self.links], [False, True])

    def test_the_next_server_is_asked(self) -> None:
        directory = self.directory(ONE, TWO)
        self.down = {ONE}
        self.assertEqual([self.ask(directory) for _ in range(5)], [TWO] * 5)
        self.down = set()
        self.clock.advance(FIRST_PAUSE)
        self.assertEqual(self.ask(directory), ONE)

    def test_a_connection_that_broke_is_closed_and_the_question_asked_again(self) -> None:
        directory = self.directory(ONE)
        self.ask(directory)

        def work(link: Any) -> str:
            if link is self.links[0]:
                raise LDAPSocketReceiveError("gone")
            return "answer"

        self.assertEqual(self.ask(directory, work), "answer")
        self.assertEqual([link.is_closed for link in self.links], [True, False])

    def test_all_servers_down_is_a_failure_and_soon_a_quick_one(self) -> None:
        directory = self.directory(ONE)
        self.down = {ONE}
        self.assertEqual(self.fail(directory), "ldap://one.test:389: refused")
        self.fail(directory)
        self.assertEqual(self.fail(directory), "no LDAP server is in order")
        self.clock.advance(FIRST_PAUSE)
        self.down = set()
        self.assertEqual(self.ask(directory), ONE)

    def test_what_the_server_said_of_a_key_is_no_fault_of_the_server(self) -> None:
        directory = self.directory(ONE)

        def work(link: Any) -> None:
            raise LdapFailure("sizeLimitExceeded")

        for _ in range(10):
            self.assertEqual(self.fail(directory, work), "sizeLimitExceeded")
        self.assertEqual(self.ask(directory), ONE)

    def test_a_thread_that_hangs_is_not_waited_for(self) -> None:
        directory = self.directory(ONE)
        self.held = []
        asked = spawn(directory.ask(lambda link: link.server))
        self.clock.advance(directory.deadline)
        self.clock.advance(directory.deadline)
        self.assertIn("not done within", str(self.failureResultOf(asked, LdapFailure).value))
        for release in self.held:
            release()
        self.assertEqual(self.links, [], "nobody waits: nothing is asked")

    def test_questions_are_bounded(self) -> None:
        directory = self.directory(ONE)
        self.held = []
        asked = [spawn(directory.ask(lambda link: link.server)) for _ in range(WAITING + directory.access.connections)]
        self.assertEqual(self.fail(directory), "too many questions wait for the directory")
        for release in self.held:
            release()
        self.assertEqual([self.successResultOf(one) for one in asked], [ONE] * len(asked))
        self.held = None
        self.assertEqual(self.ask(directory), ONE)
