"""Queries as parameters, and SQLite as it is asked."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgate.clients.sql import MAX_ROWS, BadQuery, Query, SqliteLink, TooMuch

PARTS = ("key", "localpart", "domain")
VALUES = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


class QueryTests(SynchronousTestCase):
    def test_placeholders_become_parameters(self) -> None:
        for text, sqlite, postgres in (
            ("SELECT a FROM t WHERE k = {key}", "SELECT a FROM t WHERE k = :key", "SELECT a FROM t WHERE k = %(key)s"),
            (
                "SELECT '100%' || ':x' FROM t WHERE k LIKE {localpart} || '%' AND d = {domain};",
                "SELECT '100%' || ':x' FROM t WHERE k LIKE :localpart || '%' AND d = :domain;",
                "SELECT '100%%' || ':x' FROM t WHERE k LIKE %(localpart)s || '%%' AND d = %(domain)s;",
            ),
            (
                'SELECT "its" FROM t WHERE 7 % 2 = {key}',
                'SELECT "its" FROM t WHERE 7 % 2 = :key',
                'SELECT "its" FROM t WHERE 7 %% 2 = %(key)s',
            ),
            (
                "SELECT 1 -- what's; this\nFROM t WHERE k = {key}",
                "SELECT 1 -- what's; this\nFROM t WHERE k = :key",
                "SELECT 1 -- what's; this\nFROM t WHERE k = %(key)s",
            ),
        ):
            query = Query.read(text, PARTS)
            self.assertEqual((query.for_sqlite(), query.for_postgres()), (sqlite, postgres))

    def test_what_can_not_be_put(self) -> None:
        for text, reason in (
            ("SELECT 1", "without a placeholder"),
            ("SELECT a FROM t WHERE k = '{key}'", "in quotes"),
            ('SELECT a FROM t WHERE k = "{key}"', "in quotes"),
            ("SELECT a FROM t -- {key}", "in a comment"),
            ("SELECT a FROM t /* {key} */", "in a comment"),
            ("SELECT a FROM t WHERE k = {address}", "stands for nothing"),
            ("SELECT a FROM t WHERE k = {key}; DELETE FROM t", "one statement"),
        ):
            self.assertIn(reason, str(self.assertRaises(BadQuery, Query.read, text, PARTS)), text)


class SqliteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        with sqlite3.connect(self.path) as database:
            database.execute("CREATE TABLE people (address TEXT, home TEXT)")
            database.execute("INSERT INTO people VALUES ('ann@x.test', 'ann@store.test'), ('null@x.test', NULL)")
        database.close()
        self.link = SqliteLink(self.path, 1.0)
        self.addCleanup(self.link.close)
        self.query = Query.read("SELECT home FROM people WHERE address = {key}", PARTS)

    def rows(self, key: str) -> list[tuple[Any, ...]]:
        return self.link.rows(self.query, {"key": key, "localpart": "", "domain": ""})

    def test_rows(self) -> None:
        self.assertEqual(self.rows("ann@x.test"), [("ann@store.test",)])
        self.assertEqual(self.rows("null@x.test"), [(None,)])

    @settings(max_examples=100, deadline=None)
    @given(VALUES)
    def test_no_value_is_more_than_a_value(self, value: str) -> None:
        self.assertEqual(self.rows(value), [])

    def test_injection(self) -> None:
        for value in ("' OR '1'='1", "ann@x.test'--", "{key}", ":key", "%(key)s", "x\0y", '"; DROP TABLE people; --'):
            self.assertEqual(self.rows(value), [], value)

    def test_nothing_is_written(self) -> None:
        query = Query.read("INSERT INTO people VALUES ({key}, '')", PARTS)
        self.assertIn("readonly", str(self.assertRaises(sqlite3.OperationalError, self.link.rows, query, {"key": "x"})))

    def test_too_many_rows_are_a_failure(self) -> None:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {limit}) SELECT i FROM n"
        query = Query.read(numbers.replace("{limit}", "length({key})"), PARTS)
        self.assertEqual(len(self.link.rows(query, {"key": "x" * MAX_ROWS})), MAX_ROWS)
        self.assertRaises(TooMuch, self.link.rows, query, {"key": "x" * (MAX_ROWS + 1)})
