"""Real peers for tests/e2e: programs of Debian's and npm's packages, run from temporary directories on unprivileged addresses.

A test that needs a program that is missing is skipped, and says which package has it; in continuous integration (CI=true) it
fails instead, so that a broken installation step can't hide there.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from twisted.trial.unittest import SkipTest

from tests.support.ports import free_port

PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/lib/dovecot"])
DEADLINE = 20.0


def missing(what: str, package: str) -> NoReturn:
    reason = f"{what} is not installed (Debian: {package})"
    if os.environ.get("CI") == "true":
        raise AssertionError(f"{reason}, and this is continuous integration: .ci/run must install it")
    raise SkipTest(reason)


def tool(name: str, package: str) -> str:
    """The path of a program."""
    found = shutil.which(name, path=PLACES)
    if found is None:
        missing(name, package)
    return found


def needs_root(what: str) -> None:
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            raise AssertionError(f"{what} needs root, and this is continuous integration")
        raise SkipTest(f"{what} needs root to give its processes away to their own users")


class Server:
    """A server process that is ready when its socket takes connections and says something, by itself or to ``asks``.
    ``address`` is a path, or a port of 127.0.0.1."""

    def __init__(self, command: list[str], address: str | int, log: Path, *, asks: bytes = b"") -> None:
        self.log_path = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        end = time.monotonic() + DEADLINE
        while not self._answers(address, asks):
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise AssertionError(f"{command[0]} did not start:\n{self.log}")
            time.sleep(0.02)

    @staticmethod
    def _answers(address: str | int, asks: bytes) -> bool:
        family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
        with socket.socket(family) as probe:
            probe.settimeout(1)
            try:
                probe.connect(("127.0.0.1", address) if isinstance(address, int) else address)
                probe.sendall(asks)
                return bool(probe.recv(3))
            except OSError:
                return False

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class SmtpSink:
    """Postfix's smtp-sink; keeps each message in a file. It serves SMTP and LMTP alike."""

    def __init__(self, *options: str) -> None:
        program = tool("smtp-sink", "postfix")
        self._directory = tempfile.TemporaryDirectory(prefix="mailgate-sink-")
        home = Path(self._directory.name)
        home.chmod(0o777)
        self._mails = home / "mails"
        self._mails.mkdir()
        self._mails.chmod(0o777)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self.port = free_port()
        command = [program, *user, "-c", "-d", f"{self._mails}/%s.", *options, f"127.0.0.1:{self.port}", "256"]
        self._server = Server(command, self.port, home / "log")

    @property
    def messages(self) -> list[bytes]:
        """What was kept: its own head lines (X-Mail-Args and so on), then the message, with LF."""
        return [path.read_bytes() for path in sorted(self._mails.iterdir())]

    def wait_for(self, count: int, deadline: float = DEADLINE) -> list[bytes]:
        """The messages, as soon as there are so many."""
        end = time.monotonic() + deadline
        while sum(path.stat().st_size > 0 for path in self._mails.iterdir()) < count and time.monotonic() < end:
            time.sleep(0.02)
        return self.messages

    def stop(self) -> None:
        self._server.stop()
        self._directory.cleanup()


class Dovecot:
    """Dovecot with nothing but LMTP on a unix socket, and one for logins; users alice and bob at any domain, Maildirs,
    everybody else unknown; their password is `DOVECOT_PASSWORD`."""

    def __init__(self) -> None:
        needs_root("Dovecot")
        program = tool("dovecot", "dovecot-lmtpd")
        if not Path("/usr/lib/dovecot/lmtp").exists():
            missing("Dovecot's LMTP service", "dovecot-lmtpd")
        self._directory = tempfile.TemporaryDirectory(prefix="mailgate-dovecot-")
        home = Path(self._directory.name)
        home.chmod(0o755)
        self.mail = home / "mail"
        self.mail.mkdir()
        nobody = pwd.getpwnam("nobody")
        os.chown(self.mail, nobody.pw_uid, nobody.pw_gid)
        users = "".join(f"{name}::{nobody.pw_uid}:{nobody.pw_gid}::{self.mail}/{name}::\n" for name in ("alice", "bob"))
        (home / "users").write_text(users)
        (home / "passwords").write_text("".join(f"{name}:{{PLAIN}}{DOVECOT_PASSWORD}\n" for name in ("alice", "bob")))
        self.socket = str(home / "lmtp.sock")
        self.logins = str(home / "logins.sock")
        config = home / "dovecot.conf"
        config.write_text(DOVECOT_CONF.format(home=home, uid=nobody.pw_uid))
        self._server = Server([program, "-F", "-c", str(config)], self.socket, home / "log")

    @property
    def log(self) -> str:
        return self._server.log

    def delivered(self, user: str) -> list[bytes]:
        """The messages in a user's Maildir, as they lie there."""
        directory = self.mail / user / "new"
        return [path.read_bytes() for path in sorted(directory.iterdir())] if directory.exists() else []

    def stop(self) -> None:
        self._server.stop()
        self._directory.cleanup()


DOVECOT_PASSWORD = "of a dovecot"
DOVECOT_CONF = """\
base_dir = {home}/run
state_dir = {home}/state
log_path = /dev/stderr
protocols = lmtp
ssl = no
mail_location = maildir:{home}/mail/%n
first_valid_uid = {uid}
mail_save_crlf = yes
auth_username_format = %n
passdb {{
  driver = passwd-file
  args = username_format=%n {home}/passwords
}}
service auth {{
  unix_listener {home}/logins.sock {{
    mode = 0666
  }}
}}
userdb {{
  driver = passwd-file
  args = username_format=%n {home}/users
}}
service lmtp {{
  unix_listener {home}/lmtp.sock {{
    mode = 0666
  }}
}}
"""
