"""MTA-STS: the record, the policy, the store on a simulated clock, and deliveries under it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.events import EventLog
from mailgate.modules.target import remote
from mailgate.net.waiting import as_deferred
from mailgate.outbound.mta_sts import PAUSE, REFRESH, FetchFailed, PolicyFiles, PolicyStore
from mailgate.outbound.sts_policy import MAX_AGE, BadPolicy, Mode, StsPolicy, parse_policy, policy_id
from mailgate.pipeline.rehearsal import adapters as dry_adapters
from mailgate.testing.names import Action, MemoryNames
from mailgate.testing.nexthop import NextHop
from tests.outbound.test_remote import RemoteCase
from tests.support.certificates import authority, leaf
from tests.support.scenario import codes, statuses

POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.d.test\r\nmx: *.pool.test\r\nmax_age: 604800\r\n"


class RecordTests(SynchronousTestCase):
    def test_table(self) -> None:
        for texts, expected in (
            ([b"v=STSv1; id=20260101T000000;"], "20260101T000000"),
            ([b"v=STSv1;id=a"], "a"),
            ([b"v=spf1 -all", b"v=STSv1; id=a;"], "a"),
            ([b"v=STSv1; other=x; id=a"], "a"),
            ([], ""),
            ([b"v=STSv1; id=a;", b"v=STSv1; id=b;"], ""),
            ([b"v=STSv1;"], ""),
            ([b"v=STSv1; id=;"], ""),
            ([b"v=STSv1; id=not-allowed;"], ""),
            ([b"v=STSv1; id=" + b"a" * 33], ""),
            ([b"v=STSv2; id=a"], ""),
            ([b"\xff\xfe"], ""),
        ):
            self.assertEqual(policy_id(texts), expected, texts)


class PolicyTests(SynchronousTestCase):
    def test_a_policy(self) -> None:
        expected = StsPolicy(Mode.ENFORCE, ("mx.d.test", "*.pool.test"), 604800)
        self.assertEqual(parse_policy(POLICY), expected)
        self.assertEqual(parse_policy(POLICY.replace(b"\r\n", b"\n") + b"unknown: x\n\n"), expected)
        self.assertEqual(parse_policy(POLICY + b"mode: none\r\n"), expected)

    def test_ages_are_bounded(self) -> None:
        self.assertEqual(parse_policy(POLICY.replace(b"604800", b"9999999999")).max_age, MAX_AGE)

    def test_none_needs_no_host(self) -> None:
        self.assertIs(parse_policy(b"version: STSv1\nmode: none\nmax_age: 1\n").mode, Mode.NONE)

    def test_what_is_no_policy(self) -> None:
        for content in (
            b"",
            b"<html>not found</html>",
            POLICY.replace(b"STSv1", b"STSv2"),
            POLICY.replace(b"mode: enforce", b"mode: maybe"),
            POLICY.replace(b"604800", b"-1"),
            POLICY.replace(b"604800", b""),
            POLICY.replace(b"mx: mx.d.test\r\nmx: *.pool.test\r\n", b""),
            POLICY.replace(b"*.pool.test", b"*"),
            POLICY.replace(b"*.pool.test", b"mx.*.test"),
            POLICY.replace(b"mx.d.test", b"mx.d.test\xff"),
        ):
            self.assertRaises(BadPolicy, parse_policy, content)

    def test_hosts(self) -> None:
        policy = parse_policy(POLICY)
        for host, allowed in (
            ("mx.d.test", True),
            ("MX.d.test.", True),
            ("a.pool.test", True),
            ("a.b.pool.test", False),
            ("pool.test", False),
            ("mx.d.test.evil.test", False),
            ("test", False),
        ):
            self.assertEqual(policy.allows(host), allowed, host)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=300))
    def test_any_octets_are_a_policy_or_none(self, content: bytes) -> None:
        for one in (content, POLICY + content):
            try:
                parse_policy(one)
            except BadPolicy:
                pass


class StoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.names = MemoryNames(self.clock)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.files = PolicyFiles(directory.name + "/mta-sts")
        self.fetched: list[str] = []
        self.content: bytes | Exception = POLICY
        self.announce("one")
        self.store = self.make()

    def make(self) -> PolicyStore:
        adapters = replace(dry_adapters(), reactor=self.clock, wall_time=lambda: 1e9 + self.clock.seconds())
        return PolicyStore(self.names.resolver(cache=0), self.fetch, self.files, adapters, EventLog("test"), patience=5.0)

    def announce(self, identity: str) -> None:
        self.names.add("_mta-sts.d.test", "TXT", f'"v=STSv1; id={identity};"')

    async def fetch(self, domain: str) -> bytes:
        self.fetched.append(domain)
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    def policy(self, store: PolicyStore | None = None) -> StsPolicy | None:
        waiting = as_deferred((store or self.store).policy("d.test"))
        self.clock.pump([0.02] * 5)
        found: StsPolicy | None = self.successResultOf(waiting)
        return found

    def test_it_is_fetched_once(self) -> None:
        for _ in range(3):
            self.assertEqual(self.policy(), parse_policy(POLICY))
        self.assertEqual(self.fetched, ["d.test"])

    def test_no_record_no_fetch(self) -> None:
        self.names.remove("_mta-sts.d.test", "TXT")
        self.assertIsNone(self.policy())
        self.assertEqual(self.fetched, [])

    def test_it_outlives_a_restart(self) -> None:
        self.policy()
        self.content = FetchFailed("gone")
        self.assertEqual(self.policy(self.make()), parse_policy(POLICY))
        self.assertEqual(self.fetched, ["d.test"])

    def test_another_id_is_fetched(self) -> None:
        self.policy()
        self.announce("two")
        self.content = POLICY.replace(b"enforce", b"none")
        self.assertEqual(self.policy(), parse_policy(self.content))
        self.assertEqual(len(self.fetched), 2)

    def test_another_id_whose_fetch_fails_changes_nothing(self) -> None:
        self.policy()
        self.announce("two")
        for failure in (FetchFailed("no"), b"garbage"):
            self.content = failure
            self.assertEqual(self.policy(), parse_policy(POLICY))
        self.assertEqual(len(self.fetched), 2)  # and the second was not tried within the pause
        self.clock.advance(PAUSE + 1)
        self.policy()
        self.assertEqual(len(self.fetched), 3)

    def test_a_record_that_vanishes_or_fails_changes_nothing(self) -> None:
        self.policy()
        for action in (Action.SERVFAIL, Action.NO_SOA, Action.BOGUS):
            self.names.remove("_mta-sts.d.test", "TXT")
            self.names.script("_mta-sts.d.test", "TXT", action)
            self.assertEqual(self.policy(), parse_policy(POLICY), action)

    def test_without_one_a_failing_fetch_is_none_and_waits(self) -> None:
        self.content = FetchFailed("no")
        self.assertIsNone(self.policy())
        self.assertIsNone(self.policy())
        self.assertEqual(len(self.fetched), 1)
        self.clock.advance(PAUSE + 1)
        self.content = POLICY
        self.assertEqual(self.policy(), parse_policy(POLICY))

    def test_it_ends_with_its_age(self) -> None:
        self.policy()
        self.content = FetchFailed("no")
        self.clock.advance(604700)
        self.assertIsNotNone(self.policy())
        self.clock.advance(100)
        self.assertIsNone(self.policy())
        self.assertIsNone(self.policy(self.make()))

    def test_it_is_renewed_before_its_end_and_nobody_waits(self) -> None:
        self.policy()
        self.clock.advance(REFRESH + 1)
        self.assertIsNotNone(self.policy())
        self.assertEqual(len(self.fetched), 2)
        self.clock.advance(604800 - 10)
        self.content = FetchFailed("no")
        self.assertIsNotNone(self.policy())

    def test_a_policy_host_that_is_silent(self) -> None:
        class _Never:
            def __await__(self) -> Any:
                from twisted.internet.defer import Deferred

                return Deferred().__await__()

        self.store._fetch = lambda _: as_deferred(_wait(_Never()))
        waiting = as_deferred(self.store.policy("d.test"))
        self.clock.pump([0.02, 0.02, 5.0, 0.02])
        self.assertIsNone(self.successResultOf(waiting))

    def test_one_question_for_all_who_ask(self) -> None:
        waiting = [as_deferred(self.store.policy("d.test")) for _ in range(3)]
        waiting[0].cancel()
        self.failureResultOf(waiting[0])
        self.clock.pump([0.02] * 5)
        for each in waiting[1:]:
            self.assertIsNotNone(self.successResultOf(each))
        self.assertEqual(self.fetched, ["d.test"])

    def test_damaged_files_are_as_none(self) -> None:
        self.policy()
        path = self.files._path("d.test")
        for text in ("", "{", "[]", '{"domain": "d.test"}', '{"domain": "other", "policy": "", "id": "", "since": 0}'):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            self.assertIsNone(self.files.load("d.test"))

    def test_old_files_are_swept(self) -> None:
        self.policy()
        self.files.sweep(1e9 + 100)
        self.assertIsNotNone(self.files.load("d.test"))
        self.files.sweep(1e9 + 604900)
        self.assertIsNone(self.files.load("d.test"))


async def _wait(never: Any) -> bytes:
    found: bytes = await never
    return found


class DeliveryTests(RemoteCase):
    """Hosts on port 25; what the policy host says is in memory (fetching has a wire test of its own)."""

    def policy_host(self, content: bytes | FetchFailed) -> list[str]:
        """The domains that were fetched."""
        self.names.add("_mta-sts.d.test", "TXT", '"v=STSv1; id=1;"')
        fetched: list[str] = []

        class Hosts:
            def __init__(self, *_: object) -> None: ...

            async def fetch(self, domain: str) -> bytes:
                fetched.append(domain)
                if isinstance(content, FetchFailed):
                    raise content
                return content

        self.patch(remote, "PolicyHosts", Hosts)
        return fetched

    def under(self, *lines: str) -> None:
        self.direct(
            f"tls_client {{\n root_ca {authority().path}\n}}",
            f"mx_auth {{\n mtasts\n{''.join(lines)}\n}}",
        )

    def two_hosts(self) -> tuple[NextHop, NextHop]:
        self.mx("d.test", "10 evil.test.", "20 mx.d.test.")
        return self.host("evil.test", "192.0.2.1"), self.host("mx.d.test", "192.0.2.2", tls=leaf("mx.d.test").server)

    def test_enforce(self) -> None:
        fetched = self.policy_host(POLICY)
        evil, good = self.two_hosts()
        self.under()
        for _ in range(2):
            self.assertEqual(codes(self.send(b"u@d.test"))[-1], b"250")
        self.assertEqual((len(evil.connections), len(good.transactions), fetched), (0, 2, ["d.test"]))
        self.assertTrue(good.connections[0].tls)
        self.assertIn("verified=mx.d.test", self.attempts()[0])

    def test_a_certificate_for_another_name(self) -> None:
        self.policy_host(POLICY)
        self.mx("d.test", "20 mx.d.test.")
        hop = self.host("mx.d.test", "192.0.2.2", tls=leaf("other.test").server)
        self.under()
        self.assertEqual(statuses(self.send(b"u@d.test")[:2])[-1], b"451 4.7.5")
        self.assertEqual(hop.transactions, [])

    def test_no_tls(self) -> None:
        self.policy_host(POLICY)
        self.mx("d.test", "20 mx.d.test.")
        hop = self.host("mx.d.test", "192.0.2.2")
        self.under()
        self.assertEqual(statuses(self.send(b"u@d.test")[:2])[-1], b"451 4.7.4")
        self.assertNotIn(b"MAIL", hop.connections[0].clear)

    def test_no_host_that_the_policy_names(self) -> None:
        self.policy_host(POLICY)
        self.mx("d.test", "10 evil.test.")
        evil = self.host("evil.test", "192.0.2.1")
        self.under()
        self.assertEqual(statuses(self.send(b"u@d.test")[:2])[-1], b"451 4.7.5")
        self.assertEqual(evil.connections, [])

    def test_testing_and_none_let_it_pass(self) -> None:
        for mode in (b"testing", b"none"):
            with self.row(mode.decode()):
                self.names = MemoryNames(self.reactor)
                self.policy_host(POLICY.replace(b"enforce", mode))
                evil, _ = self.two_hosts()
                self.under()
                self.assertEqual(codes(self.send(b"u@d.test"))[-1], b"250")
                self.assertEqual(len(evil.transactions), 1)
                told = [line for line in self.running.logged("mta_sts") if "testing" in line]  # type: ignore[union-attr]
                self.assertEqual(any("evil.test" in line for line in told), mode == b"testing")

    def test_a_policy_that_is_not_had(self) -> None:
        self.policy_host(FetchFailed("the answer is 404"))
        evil, _ = self.two_hosts()
        self.under()
        self.assertEqual(codes(self.send(b"u@d.test"))[-1], b"250")
        self.assertEqual(len(evil.transactions), 1)
        self.assertIn("the answer is 404", " ".join(self.running.logged("mta_sts")))  # type: ignore[union-attr]

    def test_min_tls_level(self) -> None:
        self.mx("d.test", "10 mx.d.test.")
        hop = self.host("mx.d.test", "192.0.2.2")
        for level, expected in (("encrypted", b"451 4.7.4"), ("authenticated", b"451 4.7.4"), ("none", b"250")):
            self.under(f" local_policy {{\n min_tls_level {level}\n}}")
            replies = self.send(b"u@d.test")
            self.assertEqual(statuses(replies[:2])[-1] if level != "none" else codes(replies)[-1], expected)
            self.reactor.run(self.running.stop())  # type: ignore[union-attr]
        self.assertEqual(len(hop.transactions), 1)

    def test_min_mx_level(self) -> None:
        self.policy_host(POLICY)
        self.mx("d.test", "20 mx.d.test.")
        self.mx("e.test", "20 mx.d.test.")
        self.host("mx.d.test", "192.0.2.2", tls=leaf("mx.d.test").server)
        self.names.secure = False
        self.under(" local_policy {\n min_mx_level mtasts\n}")
        self.assertEqual(codes(self.send(b"u@d.test"))[-1], b"250")
        self.assertEqual(statuses(self.send(b"u@e.test")[:2])[-1], b"451 4.7.5")

    def test_recipients_under_different_policies_share_nothing(self) -> None:
        self.policy_host(POLICY)
        self.mx("d.test", "20 mx.d.test.")
        self.mx("e.test", "20 mx.d.test.")
        self.host("mx.d.test", "192.0.2.2", tls=leaf("mx.d.test").server)
        self.under()
        self.assertEqual(codes(self.send(b"u@d.test", b"u@e.test"))[2], b"452")
