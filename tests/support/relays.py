"""Real relays for tests/e2e, before the gateway or behind it: HAProxy, and a Postfix of its own in a temporary directory."""

from __future__ import annotations

import os
import pwd
import tempfile
import time
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.servers import DEADLINE, Server, missing, needs_root, tool


class HaProxy:
    """HAProxy with the given frontends and backends. ``ready`` is a port of its own that greets once a backend is up."""

    def __init__(self, sections: str, ready: int) -> None:
        program = tool("haproxy", "haproxy")
        self._directory = tempfile.TemporaryDirectory(prefix="mailgate-haproxy-")
        home = Path(self._directory.name)
        config = home / "haproxy.cfg"
        config.write_text(HAPROXY_CFG + sections)
        self._server = Server([program, "-db", "-f", str(config)], ready, home / "log")

    @property
    def log(self) -> str:
        return self._server.log

    def stop(self) -> None:
        self._server.stop()
        self._directory.cleanup()


HAPROXY_CFG = """\
global
    maxconn 200
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout check 2s
"""


class Postfix:
    """One instance of Postfix, run by its `master` as root: it takes mail on ``port`` and passes all of it on to ``next_hop``.
    ``main`` are further lines of main.cf, ``smtpd`` options of the server's line in master.cf."""

    def __init__(self, next_hop: int, main: str = "", smtpd: str = "") -> None:
        needs_root("Postfix")
        places = ("/usr/lib/postfix/sbin", "/usr/libexec/postfix")
        daemons = next((place for place in places if os.access(f"{place}/master", os.X_OK)), "")
        if not daemons:
            missing("Postfix", "postfix")
        self.port, self._plain = free_ports(2)
        self._directory = tempfile.TemporaryDirectory(prefix="mailgate-postfix-")
        home = Path(self._directory.name)
        home.chmod(0o755)
        self._lay_out(home, daemons, next_hop, main, smtpd)
        self._maillog = home / "maillog"
        self._server = Server([f"{daemons}/master", "-c", str(home / "etc"), "-d"], self._plain, home / "log")

    def _lay_out(self, home: Path, daemons: str, next_hop: int, main: str, smtpd: str) -> None:
        owner = pwd.getpwnam("postfix").pw_uid
        etc, queue, data = home / "etc", home / "queue", home / "data"
        for directory in (etc, queue):
            directory.mkdir(mode=0o755)
        data.mkdir(mode=0o700)
        os.chown(data, owner, 0)
        for name in QUEUES:
            (queue / name).mkdir(mode=0o700)
            os.chown(queue / name, owner, 0)
        (queue / "pid").mkdir(mode=0o755)
        (etc / "main.cf").write_text(MAIN_CF.format(home=home, daemons=daemons, next_hop=next_hop) + main)
        (etc / "master.cf").write_text(
            f"127.0.0.1:{self.port} inet n - n - - smtpd {smtpd}\n127.0.0.1:{self._plain} inet n - n - - smtpd\n{MASTER_CF}"
        )

    @property
    def log(self) -> str:
        return self._maillog.read_text(errors="replace") if self._maillog.exists() else self._server.log

    def wait_for_line(self, text: str, deadline: float = DEADLINE) -> str:
        """The first line of its log with ``text`` in it."""
        end = time.monotonic() + deadline
        while True:
            for line in self.log.splitlines():
                if text in line:
                    return line
            if time.monotonic() > end:
                raise AssertionError(f"{text!r} is not in\n{self.log}")
            time.sleep(0.05)

    def stop(self) -> None:
        self._server.stop()
        self._directory.cleanup()


QUEUES = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold"),
    *("incoming", "private", "saved", "trace", "public", "maildrop"),
)

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
daemon_directory = {daemons}
maillog_file = {home}/maillog
maillog_file_prefixes = {home}
myhostname = postfix.test
mydestination =
relay_domains = y.test
relayhost = [127.0.0.1]:{next_hop}
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
smtpd_peername_lookup = no
smtpd_tls_security_level = none
smtp_tls_security_level = none
"""

MASTER_CF = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
