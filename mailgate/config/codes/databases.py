"""Databases and other servers that tables and logins ask: E084."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry, lmtp


def _table(kind: str, *lines: str) -> str:
    """A file whose recipients are in such a table."""
    block = "".join(f"    {line}\n" for line in lines)
    routes = "destination_in &people {\n    discard\n}\ndefault_destination {\n    reject\n}"
    return lmtp(routes, f"table.{kind} people {{\n{block}}}\n")


_SERVER = 'database postgres "host=db.example.org dbname=mail"'

CODES = {
    "E0840": Entry(
        "a query that can't be put",
        "A query is one statement with a placeholder for what is asked: {key}, {localpart} or {domain} in a table, {username}"
        " in a login. The database gets the value apart from the text, so the placeholder stands without quotes around it.",
        bad=_table("sql", _SERVER, "query \"SELECT 1 FROM users WHERE address = '{key}'\""),
        good=_table("sql", _SERVER, 'query "SELECT 1 FROM users WHERE address = {key}"'),
    ),
    "E0841": Entry(
        "a database that can't be asked",
        "A file of SQLite must be there, with the tables and columns of the query; PostgreSQL needs the library psycopg.",
        bad=_table("sql", "database sqlite people.sqlite", 'query "SELECT 1 FROM users WHERE address = {key}"'),
        good=_table("sql", _SERVER, 'query "SELECT 1 FROM users WHERE address = {key}"'),
    ),
}
