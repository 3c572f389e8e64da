"""The gateway as it stands before an organisation: recipients from LDAP, SPF and DKIM verified, all of it out of its caches.

slapd and unbound run beside it, from Debian's packages, in the temporary directory of the run. Everything that is sent has one
RSA signature of 2048 bits. The checks refuse whatever does not pass, so what the sink counts has passed; before anything is
measured, one message is looked at as it was delivered, and what must be refused is sent. Afterwards slapd and unbound must
not have been asked again: that is what "cached" means here.

SPF does not judge clients on loopback, so smtp-source comes from an address of its own, which the network namespace of the run
has (`own_network`); the other relays take the same message on loopback.
"""

from __future__ import annotations

import ctypes
import smtplib
import subprocess
from pathlib import Path

from .content import ADDRESSES, CLIENT, DOMAIN, HEADER, TEXT, TEXTS, quoted, signed
from .processes import LOOPBACK, Beside, NotReady, free_ports, takes_connections
from .servers import Mailgate, PostfixQueue, Relay, Sink, tool

FIELDS = HEADER + b"To: <rcpt@bench.test>\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@bench.test>\r\n"
"""All that a message needs: servers add what is missing, and break signatures that say so."""
SENDER = f"sender@{DOMAIN}"
RECIPIENT = f"rcpt@{DOMAIN}"
LOOKED_AT = f"kept@{DOMAIN}"
"""Whose mail is kept in a file; the directory does not know it."""
_NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of unshare(2); os.unshare came with Python 3.12."""


def own_network() -> None:
    """Leave the network of the machine: from here on there is loopback alone, which has the address of a stranger too."""
    if ctypes.CDLL(None).unshare(_NEW_NETWORK) != 0:
        raise NotReady("a client for SPF needs a network namespace of its own, and root to make it")
    ip = tool("ip", "iproute2")
    for words in (("link", "set", "lo", "up"), ("address", "add", f"{CLIENT}/32", "dev", "lo")):
        subprocess.run([ip, *words], check=True)


def message_file(directory: Path) -> Path:
    """The signed message as smtp-source reads it, lines that end with LF."""
    path = directory / "signed.eml"
    path.write_bytes(signed(FIELDS).replace(b"\r\n", b"\n"))
    return path


class Directory(Beside):
    """slapd with one person."""

    def __init__(self, directory: Path) -> None:
        home = directory / "slapd"
        (home / "db").mkdir(parents=True)
        (self.port,) = free_ports(1)
        self._log = home / "log"
        config, data = home / "slapd.conf", home / "people.ldif"
        config.write_text(_SLAPD.format(home=home))
        data.write_text(_LDIF)
        subprocess.run([tool("slapadd", "slapd"), "-q", "-f", str(config), "-l", str(data)], check=True, capture_output=True)
        command = [tool("slapd", "slapd"), "-f", str(config), "-h", f"ldap://{LOOPBACK}:{self.port}", "-d", "stats"]
        super().__init__(command, home, self._log, takes_connections(self.port))

    @property
    def questions(self) -> int:
        """How many it has been asked."""
        return self._log.read_text(errors="replace").count(" SRCH base=")


class Names(Beside):
    """unbound, which answers for the sender's domain from its configuration."""

    def __init__(self, directory: Path) -> None:
        home = directory / "unbound"
        home.mkdir()
        (self.port,) = free_ports(1)
        self._log = home / "log"
        records = [f"{name}. 3600 TXT {quoted(text)}" for name, text in TEXTS.items()]
        records += [f"{name}. 3600 A {address}" for name, address in ADDRESSES.items()]
        data = "".join(f"    local-data: '{record}'\n" for record in records)
        config = home / "unbound.conf"
        config.write_text(_UNBOUND.format(home=home, port=self.port, host=LOOPBACK, domain=DOMAIN) + data)
        super().__init__([tool("unbound", "unbound"), "-d", "-c", str(config)], home, self._log, takes_connections(self.port))

    @property
    def questions(self) -> int:
        return self._log.read_text(errors="replace").count(f"{DOMAIN}. ")


class MailgateChecked(Mailgate):
    """See the module's docstring."""

    name = "mailgate-checked"
    host = CLIENT

    def __init__(self, sink: Sink, directory: Path) -> None:
        self._beside: list[Directory | Names] = []
        try:
            self._beside.append(Directory(directory))
            self._beside.append(Names(directory))
            super().__init__(sink, directory)
            self._prove(directory / self.name / "kept")
        except BaseException:
            self.stop()
            raise
        self._asked = self._questions()

    def configuration(self, home: Path, sink: int) -> str:
        people, names = (server.port for server in self._beside)
        return _MAILGATE.format(home=home, host=self.host, port=self.port, sink=sink, people=people, names=names)

    def _questions(self) -> list[int]:
        return [server.questions for server in self._beside]

    def _prove(self, kept: Path) -> None:
        """One message passes and stays whole; mail for nobody, without a signature, and forged is refused."""
        message = message_file(kept.parent)
        to = f"inet:{self.host}:{self.port}"
        subprocess.run([tool("smtp-source"), "-F", message, "-f", SENDER, "-t", LOOKED_AT, to], check=True, timeout=60)
        (delivered,) = [path.read_bytes().replace(b"\r\n", b"\n") for path in (kept / "new").iterdir()]
        for wanted in (b"dkim=pass", b"spf=pass"):
            if wanted not in delivered:
                raise NotReady(f"{wanted.decode()} is not among the results:\n{delivered[:2000].decode()}")
        if not delivered.endswith(message.read_bytes() + b"\n"):  # smtp-source adds an empty line
            raise NotReady("the message does not arrive as it was sent")
        asked = self._questions()
        hears(self, b"2.", RECIPIENT, signed(FIELDS))
        hears(self, b"5.1.1", f"nobody@{DOMAIN}", signed(FIELDS))
        if self._questions() != [asked[0] + 2, asked[1]]:
            raise NotReady(f"slapd and unbound were asked {asked}, then {self._questions()}")
        hears(self, b"5.7.", RECIPIENT, FIELDS + b"\r\n" + TEXT)
        hears(self, b"5.7.", RECIPIENT, signed(FIELDS).replace(b"Subject: bench", b"Subject: forged"))

    def confirm(self) -> None:
        if (asked := self._questions()) != self._asked:
            raise NotReady(f"not all came from the caches: slapd and unbound were asked {self._asked}, then {asked}")

    def stop(self) -> None:
        super().stop()
        for server in self._beside:
            server.stop()


class PostfixOpendkim(PostfixQueue):
    """Postfix with its queue, signatures verified by opendkim, which has the key in a file: no recipients, no SPF."""

    name = "Postfix queue, opendkim"

    def __init__(self, sink: Sink, directory: Path) -> None:
        home = directory / "opendkim"
        home.mkdir()
        (port,) = free_ports(1)
        keys, config, ours = home / "keys", home / "conf", home / "ours"
        keys.write_text("".join(f"{name} {text}\n" for name, text in TEXTS.items() if "_domainkey" in name))
        ours.write_text("192.0.2.99\n")  # mail of its own hosts, 127.0.0.1 if none are named, is not verified
        config.write_text(_OPENDKIM.format(port=port, keys=keys, hosts=ours))
        command = [tool("opendkim", "opendkim"), "-f", "-l", "-x", str(config)]
        self._filter = Beside(command, home, home / "log", takes_connections(port))
        self.more = f"smtpd_milters = inet:127.0.0.1:{port}\nmilter_default_action = tempfail\n"
        try:
            super().__init__(sink, directory)
            self.running.with_more(self._filter)
            hears(self, b"5.7.", RECIPIENT, FIELDS + b"\r\n" + TEXT)
            hears(self, b"5.7.", RECIPIENT, signed(FIELDS).replace(b"Subject: bench", b"Subject: forged"))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        super().stop()
        self._filter.stop()


def hears(relay: Relay, status: bytes, recipient: str, message: bytes) -> None:
    """Send a message: the enhanced status code begins so.

    :raises NotReady: it does not."""
    with smtplib.SMTP(relay.host, relay.port, local_hostname="source.bench.test", timeout=30) as client:
        client.ehlo()
        client.mail(SENDER)
        code, text = client.rcpt(recipient)
        if code == 250:
            code, text = client.data(message)
    if not text.startswith(status):
        raise NotReady(f"{relay.name}: a message for {recipient} hears {code} {text.decode()}, not {status.decode()}")


CHECKED_RELAYS: dict[str, type[Relay]] = {"postfix-opendkim": PostfixOpendkim, "mailgate-checked": MailgateChecked}

_SLAPD = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {home}/pid
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "dc=bench,dc=test"
directory {home}/db
index mail eq
access to * by * read
"""

_LDIF = f"""\
dn: dc=bench,dc=test
objectClass: dcObject
objectClass: organization
dc: bench
o: Bench

dn: cn=rcpt,dc=bench,dc=test
objectClass: inetOrgPerson
cn: rcpt
sn: rcpt
mail: {RECIPIENT}
"""

_UNBOUND = """\
server:
    directory: "{home}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    logfile: ""
    log-queries: yes
    interface: {host}
    port: {port}
    local-zone: "{domain}." static
"""

_OPENDKIM = """\
Mode v
Syslog no
Socket inet:{port}@127.0.0.1
TestPublicKeys {keys}
InternalHosts {hosts}
On-NoSignature reject
On-BadSignature reject
"""

_MAILGATE = """\
hostname gateway.bench.test
state_dir {home}
runtime_dir {home}
tls off
resolver {{
    servers 127.0.0.1:{names}
}}

table.ldap people {{
    urls ldap://127.0.0.1:{people}
    base_dn "dc=bench,dc=test"
    filter "(mail={{key}})"
    cache 24h
}}

target.smtp sink {{
    targets tcp://127.0.0.1:{sink}
}}

smtp tcp://{host}:{port} {{
    reverse_lookup no
    check {{
        spf {{
            on_softfail reject
            on_neutral reject
            on_none reject
            on_permerror reject
        }}
        dkim {{
            on_fail reject
            on_none reject
        }}
    }}
    source bench.test {{
        destination kept@bench.test {{
            deliver_to maildir {home}/kept
        }}
        destination_in &people {{
            deliver_to &sink
        }}
        default_destination {{
            reject 550 5.1.1 "no such user"
        }}
    }}
    default_source {{
        reject 553 5.7.1 "not for us"
    }}
}}
"""
