"""Statements of sqlite that are over when their answer is there.

A statement that still has rows to give keeps its transaction open: what follows on this connection sees the file as it was, and
no one can shorten its log. CPython ends it with the last reference to the cursor; PyPy does so some day. So whoever wants one
row, or none, says so here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any


def one(connection: sqlite3.Connection, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
    """The first row as a tuple, None where there is none. :raises sqlite3.Error:"""
    with closing(connection.execute(statement, values)) as cursor:
        return cursor.fetchone()


def do(connection: sqlite3.Connection, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> None:
    """For what answers with a row that nobody wants, as a PRAGMA does. :raises sqlite3.Error:"""
    connection.execute(statement, values).close()
