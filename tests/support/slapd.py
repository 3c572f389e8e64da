"""OpenLDAP's slapd from Debian's package, with a configuration and a database of its own in a temporary directory."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.certificates import authority, leaf
from tests.support.ports import free_ports
from tests.support.servers import DEADLINE, tool

BASE = "dc=example,dc=org"
MANAGER = f"cn=gw,{BASE}"
SECRET = "of the gateway"

CONF = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/misc.schema
pidfile {home}/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCACertificateFile {ca}
TLSCertificateFile {chain}
TLSCertificateKeyFile {key}
TLSVerifyClient try
security simple_bind={strength}
database mdb
maxsize 268435456
suffix "{base}"
rootdn "{manager}"
rootpw "{secret}"
directory {home}/db
index objectClass,uid,mail eq
access to attrs=userPassword by anonymous auth by * none
access to * by * read
authz-regexp "^cn=gateway$" "{manager}"
"""
HEAD = f"""\
dn: {BASE}
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people

"""


def person(uid: str, *, password: str = "", **attributes: str | tuple[str, ...]) -> str:
    """LDIF of one entry below ou=people."""
    lines = [f"dn: uid={uid},ou=people,{BASE}", "objectClass: inetOrgPerson", "objectClass: inetLocalMailRecipient"]
    lines += [f"uid: {uid}", f"cn: {uid}", f"sn: {uid}"]
    lines += [f"userPassword: {password}"] if password else []
    for name, values in attributes.items():
        lines += [f"{name}: {value}" for value in ((values,) if isinstance(values, str) else values)]
    return "\n".join(lines) + "\n\n"


class Slapd:
    """One server, on ldap:// and ldaps:// of 127.0.0.1; `kill` it and `start` it as often as you like. It refuses
    passwords where there is no TLS."""

    def __init__(self, entries: str) -> None:
        self._program = tool("slapd", "slapd")
        self._directory = tempfile.TemporaryDirectory(prefix="mailgate-slapd-")
        self.home = Path(self._directory.name)
        (self.home / "db").mkdir()
        certificate = leaf("localhost")
        self.ca = authority().path
        self.port, self.tls_port = free_ports(2)
        self._conf = self.home / "slapd.conf"
        self._conf.write_text(
            CONF.format(
                home=self.home,
                ca=self.ca,
                chain=certificate.chain_path,
                key=certificate.key_path,
                strength=128,
                base=BASE,
                manager=MANAGER,
                secret=SECRET,
            )
        )
        data = self.home / "data.ldif"
        data.write_text(HEAD + entries)
        adding = [tool("slapadd", "slapd"), "-q", "-f", str(self._conf), "-l", str(data)]
        added = subprocess.run(adding, capture_output=True, text=True)
        assert added.returncode == 0, added.stderr
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"ldap://localhost:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"ldaps://localhost:{self.tls_port}"

    def start(self) -> None:
        urls = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-f", str(self._conf), "-h", urls, "-d", "stats"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self.home)},
            )
        end = time.monotonic() + DEADLINE
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"slapd did not start:\n{self.log}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.tls_port)) == 0

    @property
    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    @property
    def searches(self) -> int:
        """How many it has been asked for."""
        return self.log.count(" SRCH base=")

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        self.kill()
        self._directory.cleanup()
