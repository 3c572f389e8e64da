"""The peers of the comparison: a sink that counts, Postfix in two ways, this gateway, and nothing at all.

Postfix runs as an instance of its own in a temporary directory, by its `master` directly; that needs root, because master
gives its children away to the user `postfix`. It's Debian's configuration but for: an unprivileged port, no reverse
lookups, no limit of connections per client, a message size limit above 10 MiB. It logs to a file, as the gateway does.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import time
from pathlib import Path

from .processes import LOOPBACK, NotReady, Running, free_ports

SESSIONS_BACKLOG = "512"
PATIENCE = 30.0
"""Seconds until all workers serve."""


class Sink:
    """smtp-sink: accepts, throws away, counts."""

    def __init__(self, directory: Path) -> None:
        self.port = free_ports(1)[0]
        self._log = directory / "sink.log"
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = [tool("smtp-sink"), *user, "-c", "-m", "1000", f"127.0.0.1:{self.port}", SESSIONS_BACKLOG]
        self._running = Running(command, directory, self._log, self.port)

    @property
    def count(self) -> int:
        """Messages taken so far, by its own counting."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - 200))
            counters = [word for word in log.read().split() if word.startswith(b"mesg=")]
        return int(counters[-1][5:]) if counters else 0

    def wait_for(self, count: int, patience: float = 60.0) -> int:
        """Wait until ``count`` messages have come, or none has come for ``patience`` seconds; then a moment for one too
        many. Returns the count."""
        last, since = self.count, time.monotonic()
        while last < count and time.monotonic() - since < patience:
            time.sleep(0.005)
            now = self.count
            if now != last:
                last, since = now, time.monotonic()
        return self.count

    def stop(self) -> None:
        self._running.stop()


class Relay:
    """Something that carries mail from ``port`` to the sink. ``server`` is None where there's nothing to measure."""

    name = ""
    server: Running | None = None
    host = LOOPBACK
    port = 0

    def __init__(self, sink: Sink, directory: Path) -> None:
        raise NotImplementedError

    def confirm(self) -> None:
        """After all turns: what was measured is what it says it is.

        :raises NotReady: it is not."""

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()


class Direct(Relay):
    """The source talks to the sink: what the load generator itself can do."""

    name = "nothing between"

    def __init__(self, sink: Sink, directory: Path) -> None:
        self.port = sink.port


class Mailgate(Relay):
    """The whole gateway under twistd, one process: routes, limits and logging as an operator has them."""

    name = "mailgate"
    target = "sink"
    store = "store sqlite"
    workers = 1

    def __init__(self, sink: Sink, directory: Path) -> None:
        self.port = free_ports(1)[0]
        home = directory / self.name
        home.mkdir(mode=0o755)
        config = home / "mailgate.conf"
        config.write_text(self.configuration(home, sink.port))
        self.running = self.server = Running(gateway(config, self.workers), home, home / "log", self.port, host=self.host)

    def configuration(self, home: Path, sink: int) -> str:
        return MAILGATE_CONF.format(home=home, port=self.port, sink=sink, target=self.target, store=self.store)


def gateway(config: Path, workers: int) -> list[str]:
    """The command that runs it."""
    twistd = shutil.which("twistd", path=str(Path(sys.executable).parent)) or "twistd"
    options = ["--reactor=mailgate", "-n", "--pidfile="]
    return [twistd, *options, "mailgate", "--workers", str(workers), "-c", str(config)]


class MailgateTwo(Mailgate):
    """The same with two workers, both of them up."""

    name = "mailgate-2"
    workers = 2

    def __init__(self, sink: Sink, directory: Path) -> None:
        super().__init__(sink, directory)
        wait_for_workers(self.running)


def wait_for_workers(running: Running) -> None:
    """Until all of them serve."""
    end = time.monotonic() + PATIENCE
    while " workers.start " not in (log := running.log.read_text(errors="replace")):
        if time.monotonic() > end:
            running.stop()
            raise NotReady("a worker does not come up\n" + log[-3000:])
        time.sleep(0.05)


class MailgateQueue(Mailgate):
    """The same with a durable queue before the target: 250 after an fsync, then delivered."""

    name = "mailgate-queue"
    target = "queue"


class MailgateQueueTwo(MailgateTwo):
    """The same with two workers, each with a file of its own."""

    name = "mailgate-queue-2"
    target = "queue"


MAILGATE_CONF = """\
hostname gateway.bench.test
state_dir {home}
runtime_dir {home}
tls off

target.smtp sink {{
    targets tcp://127.0.0.1:{sink}
}}

target.queue queue {{
    target &sink
    {store}
    bounce {{
        discard
    }}
}}

smtp tcp://127.0.0.1:{port} {{
    reverse_lookup no
    source bench.test {{
        destination bench.test {{
            deliver_to &{target}
        }}
        default_destination {{
            reject 550 5.7.1 "relaying denied"
        }}
    }}
    default_source {{
        reject 553 5.7.1 "not for us"
    }}
}}
"""


class _Postfix(Relay):
    proxy = True
    more = ""
    """Lines of main.cf."""

    def __init__(self, sink: Sink, directory: Path) -> None:
        if os.geteuid() != 0:
            raise NotReady("Postfix's master needs root to start its services")
        self.port = free_ports(1)[0]
        home = directory / type(self).__name__
        lay_out_postfix(home, self.port, sink.port, proxy=self.proxy, more=self.more)
        self.running = self.server = Running(
            [postfix_master(), "-c", str(home / "etc"), "-d"], home, home / "master.log", self.port
        )


def postfix_master() -> str:
    """The path of Postfix's master process."""
    for path in ("/usr/lib/postfix/sbin/master", "/usr/libexec/postfix/master"):
        if os.access(path, os.X_OK):
            return path
    raise NotReady("Postfix is not installed")


class PostfixProxy(_Postfix):
    """Postfix before the queue (smtpd_proxy_filter): synchronous as we are, the nearest comparison."""

    name = "Postfix proxy"


class PostfixQueue(_Postfix):
    """Postfix with its queue: durable, answers before delivery."""

    name = "Postfix queue"
    proxy = False


def lay_out_postfix(home: Path, port: int, sink: int, *, proxy: bool, options: str = "", more: str = "") -> None:
    """Configuration and queue directories of one Postfix instance; ``options`` of its smtpd, and ``more`` of main.cf."""
    postfix = pwd.getpwnam("postfix")
    etc, queue, data = home / "etc", home / "queue", home / "data"
    for directory in (home, etc, queue):
        directory.mkdir(mode=0o755)
    data.mkdir(mode=0o700)
    os.chown(data, postfix.pw_uid, 0)
    for name in POSTFIX_QUEUES:
        (queue / name).mkdir(mode=0o700)
        os.chown(queue / name, postfix.pw_uid, 0)
    (queue / "pid").mkdir(mode=0o755)
    daemons = "/usr/lib/postfix/sbin" if Path("/usr/lib/postfix/sbin").exists() else "/usr/libexec/postfix"
    (etc / "main.cf").write_text(MAIN_CF.format(home=home, daemons=daemons, sink=sink) + more)
    option = f" -o smtpd_proxy_filter=127.0.0.1:{sink}" if proxy else ""
    (etc / "master.cf").write_text(f"127.0.0.1:{port} inet n - n - - smtpd{option}{options}\n" + MASTER_CF)


POSTFIX_QUEUES = (
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
myhostname = postfix.bench.test
mydestination =
relay_domains = bench.test
relayhost = [127.0.0.1]:{sink}
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
message_size_limit = 52428800
mailbox_size_limit = 0
smtpd_tls_security_level = none
smtp_tls_security_level = none
"""

MASTER_CF = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def tool(name: str, package: str = "postfix") -> str:
    """The path of a program, one of Postfix's test programs say, which Debian keeps out of users' PATH."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotReady(f"{name} is not installed (Debian: apt-get install {package})")
    return found
