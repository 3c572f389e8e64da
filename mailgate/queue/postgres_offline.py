"""A queue in PostgreSQL without a gateway: what `mailgate queue export --offline` reads. Nothing is changed; what is damaged is
passed over by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg

from mailgate.queue import postgres_rows as rows
from mailgate.queue.content import PIECE
from mailgate.queue.entry import Entry
from mailgate.queue.offline import PAGE
from mailgate.queue.postgres_link import Access, Connection, as_store_error, connect


def messages_in(access: Access) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """Every entry, with its content in pieces. :raises Unavailable: it can't be read."""
    with closing(connect(access)) as connection:
        try:
            connection.execute("SET default_transaction_read_only = on")
            after: int | None = 0
            while after is not None:
                entries, _, after = rows.page(connection, after, PAGE)
                for entry in entries:
                    yield entry, _content(connection, entry)
        except psycopg.Error as error:
            raise as_store_error(error, connection) from error


def _content(connection: Connection, entry: Entry) -> Iterator[bytes]:
    """:raises Damaged: it is not what was written."""
    shape, data = rows.read_body(connection, entry.body)
    yield entry.header
    if data is not None:
        yield data
        return
    for number in range(-(-shape.size // PIECE)):
        yield rows.read_piece(connection, entry.body, number)
