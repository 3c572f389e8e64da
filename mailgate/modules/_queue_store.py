"""`store` of target.queue: where a queue is kept, and what is made of that.

psycopg is imported where a queue asks for it: it is an extra of the package.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from mailgate.adapters import Adapters
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.line import Chosen
from mailgate.config.places import SecretText
from mailgate.events import EventLog
from mailgate.queue.offline import files_for, recipients_in
from mailgate.queue.partner import Partner
from mailgate.queue.shelves import Shelves
from mailgate.queue.sqlite import SqliteStore
from mailgate.queue.store import LEASE

STORE = v.OneOf({"sqlite": v.Nothing(), "postgres": v.Secret("DSN")})
MOST_OCTETS = 54
"""Of the name of a queue in PostgreSQL, where its schema has nine more."""


def dsn_of(store: Chosen | None) -> SecretText | None:
    """What the directive says; None: files."""
    return store.value if store is not None and store.word == "postgres" else None


def check(module: Any, report: Report) -> None:
    """What is wrong with the `store` and the `lease` of a queue."""
    dsn = dsn_of(module.store)
    if dsn is None:
        if module.lease is not None:
            report.error(
                module.span_of("lease"),
                "a lease of files, which belong to one process anyway",
                code="E0762",
                hint='store postgres "host=db.example.net dbname=mail"',
            )
        return
    span = module.span_of("store")
    try:
        from mailgate.queue.postgres_link import is_dsn
    except ImportError:
        report.error(
            span,
            "`store postgres` needs the Python library `psycopg`, which is not installed",
            code="E0605",
            hint="pip install 'mailgate[postgres]'",
        )
        return
    if not is_dsn(dsn.reveal()):
        report.error(
            span, "PostgreSQL's library can't read this", code="E0763", hint='"host=db.example.net dbname=mail user=mailgate"'
        )
    if len(module.context.name.encode()) > MOST_OCTETS:
        report.error(module.span, f"the name of a queue in PostgreSQL has at most {MOST_OCTETS} octets", code="E0764")


def place_of(module: Any) -> str:
    """Where a queue is kept, to tell two places apart: it may be a secret."""
    dsn = dsn_of(module.store)
    return "files" if dsn is None else f"postgres {dsn.reveal()}"


def access_of(module: Any) -> Any:
    """How a queue's database is reached, a `postgres_link.Access`; None where it is kept in files."""
    dsn = dsn_of(module.store)
    if dsn is None:
        return None
    from mailgate.queue.postgres_link import Access
    from mailgate.queue.postgres_schema import schema_of

    return Access(dsn, schema_of(module.context.name))


def _database(module: Any, adapters: Adapters, log: EventLog) -> Any:
    """A queue's `PostgresStore`, not opened; None where it is kept in files."""
    access = access_of(module)
    if access is None:
        return None
    from mailgate.queue.postgres import PostgresStore

    return PostgresStore(access, f"{socket.gethostname()}/{adapters.worker}", adapters, log, module.lease or LEASE)


async def make(module: Any, adapters: Adapters, log: EventLog) -> tuple[Any, Any]:
    """The store of a queue, and the part of it that other nodes share, if there is one.

    Files that hold mail are served as well: a queue that moves into a database leaves nothing behind."""
    directory = os.path.join(module.context.state_dir, "queue", module.context.name)
    files = await adapters.run_in_thread(files_for, directory, adapters.worker, adapters.workers)
    shared = _database(module, adapters, log)
    if shared is not None:
        files = await adapters.run_in_thread(_with_mail, files)
    mine = Partner(shared) if adapters.worker > 1 else shared
    stores = [*([mine] if shared is not None else ()), *(SqliteStore(path, adapters, log) for path in files)]
    return stores[0] if len(stores) == 1 else Shelves(stores), shared


def _with_mail(files: list[str]) -> list[str]:
    return [path for path in files if os.path.exists(path) and recipients_in(path)]
