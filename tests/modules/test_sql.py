"""`table.sql` and `auth.sql` over a file of SQLite; PostgreSQL: tests/e2e/test_databases.py."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailgate.adapters import Adapters
from mailgate.clients.threads import NoAnswer
from mailgate.interfaces import Identity, Proof
from mailgate.net.waiting import as_deferred
from tests.modules.support import errors, instance

HASH = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"


class SqlTests(TestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        with sqlite3.connect(self.path) as database:
            database.executescript(
                "CREATE TABLE aliases (name TEXT, domain TEXT, home TEXT, copy TEXT);"
                "INSERT INTO aliases VALUES ('ann', 'x.test', 'ann@store.test', 'ann@copy.test');"
                "INSERT INTO aliases VALUES ('ann', 'x.test', 'ann@second.test', 'ann@copy.test');"
                "INSERT INTO aliases VALUES ('nil', 'x.test', NULL, NULL);"
                "CREATE TABLE users (name TEXT, secret TEXT);"
                f"INSERT INTO users VALUES ('ann', '{HASH}'), ('twin', 'a'), ('twin', 'b'), ('weak', 'plaintext');"
            )
        database.close()
        self.adapters = Adapters(reactor, lambda: 0.0, deferToThread, random.Random(0))

    def make(self, kind: str, *lines: str) -> Any:
        block = "".join(f"    {line}\n" for line in (f"database sqlite {self.path}", *lines))
        made = instance(f"{kind} t {{\n{block}}}", "t", self.adapters)
        self.addCleanup(lambda: as_deferred(made.stop()))
        return made

    async def values(self, table: Any, key: str) -> tuple[str, ...]:
        found = table.lookup(key)
        return found if isinstance(found, tuple) else await found

    async def test_values_are_all_columns_without_nulls(self) -> None:
        table = self.make("table.sql", 'query "SELECT home, copy FROM aliases WHERE name = {localpart} AND domain = {domain}"')
        self.assertEqual(await self.values(table, "ann@x.test"), ("ann@store.test", "ann@copy.test", "ann@second.test"))
        self.assertEqual(await self.values(table, "nil@x.test"), ())
        self.assertEqual(await self.values(table, "ben@x.test"), ())
        self.assertEqual(await self.values(table, "ann"), ())

    async def test_answers_are_kept(self) -> None:
        table = self.make("table.sql", 'query "SELECT 1 FROM aliases WHERE name = {key}"', "cache 1h", "negative_cache 0")
        self.assertEqual(await self.values(table, "ann"), ("1",))
        self.path.unlink()
        self.assertEqual(table.lookup("ann"), ("1",))

    async def test_a_database_that_is_gone_is_no_empty_answer(self) -> None:
        table = self.make("table.sql", 'query "SELECT 1 FROM aliases WHERE name = {key}"')
        self.path.unlink()
        await self.assertFailure(as_deferred(table.lookup("ann")), NoAnswer)

    async def test_a_table_that_is_dropped_is_no_empty_answer(self) -> None:
        table = self.make("table.sql", 'query "SELECT 1 FROM aliases WHERE name = {key}"')
        with sqlite3.connect(self.path) as database:
            database.execute("DROP TABLE aliases")
        database.close()
        await self.assertFailure(as_deferred(table.lookup("ann")), NoAnswer)

    async def test_accounts(self) -> None:
        provider = self.make("auth.sql", 'query "SELECT secret FROM users WHERE name = {username}"')
        self.assertEqual(provider.proofs, {Proof.PASSWORD})
        found = await provider.account("ann")
        self.assertEqual((found.identity, found.secret), (Identity("ann"), HASH))
        self.assertIsNone(await provider.account("ben"))
        self.assertIsNone(await provider.account("ann' OR '1'='1"))
        for name, reason in (("twin", "2 secrets"), ("weak", "`schemes`")):
            with self.assertRaises(Exception) as caught:
                await provider.account(name)
            self.assertIn(reason, str(caught.exception))

    async def test_schemes(self) -> None:
        provider = self.make("auth.sql", 'query "SELECT secret FROM users WHERE name = {username}"', "schemes plain")
        self.assertIn(Proof.SECRET, provider.proofs)
        self.assertEqual((await provider.account("weak")).secret, "plaintext")

    def test_mistakes(self) -> None:
        head = f"table.sql t {{\n database sqlite {self.path}\n query"
        for query, code in (
            ("\"SELECT 1 FROM aliases WHERE name = '{key}'\"", "E0840 3"),
            ('"SELECT 1 FROM aliases WHERE nome = {key}"', "E0841 2"),
            ('"SELECT 1 FROM people WHERE name = {key}"', "E0841 2"),
        ):
            self.assertEqual(errors(f"{head} {query}\n}}"), [code], query)
        self.assertEqual(errors('table.sql t {\n database sqlite /no/such.db\n query "SELECT {key}"\n}'), ["E0841 2"])

    def test_one_question_for_those_who_ask_the_same(self) -> Deferred[Any]:
        table = self.make("table.sql", 'query "SELECT home FROM aliases WHERE name = {key}"')
        first, second = table.lookup("ann"), table.lookup("ann")

        async def both() -> None:
            self.assertEqual(await first, await second)

        return Deferred.fromCoroutine(both())
