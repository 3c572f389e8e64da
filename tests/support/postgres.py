"""A PostgreSQL server of Debian's package in a temporary directory, on a port of 127.0.0.1: started, stopped, killed at will.

It runs as `postgres`, or `nobody`, where the tests run as root: it refuses to be root. One of them serves all the tests of a
process (`shared`), each with a database of its own; tests that break the server have one to themselves.
"""

from __future__ import annotations

import atexit
import functools
import glob
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.servers import DEADLINE, missing

_PACKAGE = "postgresql"
_numbers = itertools.count(1)


def program(name: str) -> str:
    """Of the newest version that is installed; Debian keeps them out of the PATH."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
    path = found[-1] if found else shutil.which(name)
    if path is None:
        missing("PostgreSQL's server", _PACKAGE)
    return path


def needs_psycopg() -> Any:
    """The library; it is an extra of ours."""
    try:
        import psycopg
    except ImportError:
        missing("psycopg", "pip install 'mailgate[postgres]'")
    return psycopg


class Postgres:
    """See the module's docstring. ``fsync`` is on, as in life."""

    def __init__(self) -> None:
        needs_psycopg()
        self._server = program("postgres")
        initdb = program("initdb")
        self._directory = tempfile.TemporaryDirectory(prefix="mailgate-postgres-", ignore_cleanup_errors=True)
        self.home = Path(self._directory.name)
        self.home.chmod(0o755)
        self._data = self.home / "data"
        self._data.mkdir(mode=0o700)
        self._run_as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = self._user()
            os.chown(self._data, user.pw_uid, user.pw_gid)
            os.chown(self.home, user.pw_uid, user.pw_gid)
            self._run_as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": str(self.home)}
        self.port = free_port()
        made = subprocess.run(
            [initdb, "-D", str(self._data), "-A", "trust", "-U", "mail", "-E", "UTF8", "--locale=C", "-N"],
            capture_output=True,
            text=True,
            check=False,
            **self._run_as,
        )
        assert made.returncode == 0, made.stderr
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{self.home}'\nlisten_addresses = '127.0.0.1'\nport = {self.port}\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @staticmethod
    def _user() -> pwd.struct_passwd:
        try:
            return pwd.getpwnam("postgres")
        except KeyError:
            return pwd.getpwnam("nobody")

    def start(self) -> None:
        with (self.home / "log").open("ab") as log:
            command = [self._server, "-D", str(self._data)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._run_as)
        end = time.monotonic() + DEADLINE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"PostgreSQL did not start:\n{self.log}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        psycopg = needs_psycopg()
        try:
            psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGTERM waits for clients (smart), SIGINT throws them out (fast), SIGQUIT is as if the machine fell (immediate)."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            process.wait(DEADLINE)

    def freeze(self) -> None:
        """It stands still, all of it, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            os.kill(pid, number)

    def close(self) -> None:
        self.stop(signal.SIGQUIT)
        self._directory.cleanup()

    @property
    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=mail dbname={database}"

    def database(self) -> str:
        """A new one: its DSN."""
        name = f"mail{next(_numbers)}_{os.getpid()}"
        self.execute("postgres", f'CREATE DATABASE "{name}"')
        return self.dsn(name)

    def execute(self, database: str, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """``database`` is a name, or a DSN."""
        psycopg = needs_psycopg()
        with psycopg.connect(database if "=" in database else self.dsn(database), autocommit=True) as connection:
            cursor = connection.execute(statement, arguments or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
            return rows


@functools.cache
def shared() -> Postgres:
    """Of this process."""
    server = Postgres()
    atexit.register(server.close)
    return server
