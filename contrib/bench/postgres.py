"""The gateway with its durable queue in PostgreSQL: Debian's server in a temporary directory, with its own defaults, fsync on.

What is measured is both together, the gateway and the server.
"""

from __future__ import annotations

import glob
import os
import pwd
import subprocess
from pathlib import Path

from .processes import Beside, NotReady, free_ports
from .servers import MailgateQueue, Sink


class Database(Beside):
    """One server. It refuses to be root."""

    def __init__(self, directory: Path) -> None:
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
        if not found:
            raise NotReady("PostgreSQL's server is not installed (Debian: postgresql)")
        home = directory / "postgres"
        home.mkdir(mode=0o755)
        self.port = free_ports(1)[0]
        data, user = home / "data", pwd.getpwnam("postgres")
        run_as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        if run_as:
            os.chown(home, user.pw_uid, user.pw_gid)
        making = [f"{found[-1]}/initdb", "-D", str(data), "-A", "trust", "-U", "mail", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run(making, check=True, capture_output=True, cwd=home, **run_as)  # type: ignore[call-overload]
        command = [f"{found[-1]}/postgres", "-D", str(data), "-k", str(home), "-h", "127.0.0.1", "-p", str(self.port)]
        asking = [f"{found[-1]}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        super().__init__(command, home, directory / "postgres.log", lambda: subprocess.run(asking).returncode == 0, **run_as)

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=mail dbname=postgres"


class MailgatePostgres(MailgateQueue):
    """See the module's docstring."""

    name = "mailgate-postgres"

    def __init__(self, sink: Sink, directory: Path) -> None:
        self._database = Database(directory)
        self.store = f'store postgres "{self._database.dsn}"'
        super().__init__(sink, directory)
        self.running.with_more(self._database)

    def stop(self) -> None:
        super().stop()
        self._database.stop()
