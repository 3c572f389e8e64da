"""A laboratory for DANE: knot signs and serves zones, unbound validates, hosts on 127.0.0.x show certificates, Postfix's
posttls-finger and our gateway are asked for their verdicts. Run by test_dane.py in a network namespace of its own:

    unshare --net --mount python -m tests.e2e.dane_lab DIRECTORY        prints JSON: {case: {mode: [theirs, ours]}}

The verdicts: ``verified`` (as TLSA says), ``tls`` (encrypted, nobody verified), ``clear``, ``failed`` (nothing would be sent);
posttls-finger says nothing of hosts without STARTTLS: "".
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificates
from twisted.internet import reactor as installed
from twisted.internet.threads import deferToThread

from mailgate.dns.service import with_names
from mailgate.net.waiting import spawn
from mailgate.testing.client import connect
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.nexthop import NextHop, Step, say
from tests.support.adapters import real_adapters
from tests.support.certificates import Leaf, authority, leaf
from tests.support.ledger import message
from tests.support.servers import tool

reactor: Any = installed
MODES = {"dane": "dane", "dane-only": "dane_require"}
"""posttls-finger's level, and our mode."""


@dataclass(frozen=True)
class Case:
    """One domain with one host. ``tlsa`` makes the record of the certificates that the host shows, leaf first."""

    certificate: Callable[[str], Leaf] | None
    tlsa: Callable[[list[bytes], list[bytes]], list[str]]
    zone: str = "test"
    script: Any = None
    alias: bool = False
    tlsa_alias: bool = False
    domain_zone: str = ""
    """Of the domain, where its host is in another."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def own(host: str) -> Leaf:
    return leaf(host)


def other(host: str) -> Leaf:
    return leaf("other." + host)


def with_root(name: Callable[[str], str]) -> Callable[[str], Leaf]:
    """A certificate with its authority behind it."""

    def make(host: str) -> Leaf:
        issued = leaf(name(host))
        return Leaf(issued.chain + Path(authority().path).read_bytes(), issued.key, "", "")

    return make


def NO_RECORDS(certificates: list[bytes], keys: list[bytes]) -> list[str]:
    return []


def KEY(certificates: list[bytes], keys: list[bytes]) -> list[str]:
    return [f"3 1 1 {digest(keys[0])}"]


CASES = {
    "ee-key": Case(own, KEY),
    "ee-key-other-name": Case(other, KEY),
    "ee-certificate": Case(own, lambda certificates, keys: [f"3 0 1 {digest(certificates[0])}"]),
    "ee-full": Case(own, lambda certificates, keys: [f"3 1 0 {keys[0].hex()}"]),
    "ee-sha512": Case(own, lambda certificates, keys: [f"3 1 2 {hashlib.sha512(keys[0]).hexdigest()}"]),
    "ee-wrong": Case(own, lambda certificates, keys: ["3 1 1 " + "00" * 32]),
    "ee-one-of-two": Case(own, lambda certificates, keys: ["3 1 1 " + "00" * 32, *KEY(certificates, keys)]),
    "ta": Case(with_root(lambda host: host), lambda certificates, keys: [f"2 0 1 {digest(certificates[-1])}"]),
    "ta-key": Case(with_root(lambda host: host), lambda certificates, keys: [f"2 1 1 {digest(keys[-1])}"]),
    "ta-other-name": Case(
        with_root(lambda host: "other." + host), lambda certificates, keys: [f"2 0 1 {digest(certificates[-1])}"]
    ),
    "ta-not-sent": Case(own, lambda certificates, keys: ["2 0 1 " + digest(root()[0])]),
    "ta-full-not-sent": Case(own, lambda certificates, keys: ["2 0 0 " + root()[0].hex()]),
    "ta-wrong": Case(with_root(lambda host: host), lambda certificates, keys: ["2 0 1 " + "00" * 32]),
    "unusable": Case(own, lambda certificates, keys: ["1 1 1 " + "00" * 32]),
    "unusable-digest": Case(own, lambda certificates, keys: ["3 1 9 " + "00" * 32]),
    "no-records": Case(own, NO_RECORDS),
    "no-tls-no-records": Case(None, NO_RECORDS),
    "no-starttls": Case(None, lambda certificates, keys: ["3 1 1 " + "00" * 32]),
    "starttls-refused": Case(own, KEY, script={Step.STARTTLS: say(b"454 4.7.0 not now")}),
    "insecure-zone": Case(own, KEY, zone="insecure"),
    "insecure-zone-wrong": Case(own, lambda certificates, keys: ["3 1 1 " + "00" * 32], zone="insecure"),
    "bogus-zone": Case(own, KEY, zone="bogus"),
    "ee-full-certificate": Case(own, lambda certificates, keys: [f"3 0 0 {certificates[0].hex()}"]),
    "ee-behind-wrong-ta": Case(own, lambda certificates, keys: ["2 0 1 " + "00" * 32, *KEY(certificates, keys)]),
    "strongest-digest-wrong": Case(own, lambda certificates, keys: ["3 1 2 " + "00" * 64, *KEY(certificates, keys)]),
    "strongest-digest-right": Case(
        own, lambda certificates, keys: ["3 1 1 " + "00" * 32, f"3 1 2 {hashlib.sha512(keys[0]).hexdigest()}"]
    ),
    "records-by-alias": Case(own, KEY, tlsa_alias=True),
    "insecure-mx": Case(own, KEY, domain_zone="insecure"),
    "insecure-mx-wrong": Case(own, lambda certificates, keys: ["3 1 1 " + "00" * 32], domain_zone="insecure"),
    "alias": Case(own, KEY, alias=True),
    "alias-wrong": Case(own, lambda certificates, keys: ["3 1 1 " + "00" * 32], alias=True),
}


def domain_of(name: str) -> str:
    return f"{name}.{CASES[name].domain_zone or CASES[name].zone}"


def contents(pem: bytes) -> tuple[list[bytes], list[bytes]]:
    """Certificates and keys of a chain, in DER."""
    chain = load_pem_x509_certificates(pem)
    keys = [one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for one in chain]
    return [one.public_bytes(Encoding.DER) for one in chain], keys


def root() -> list[bytes]:
    return contents(Path(authority().path).read_bytes())[0]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


class Lab:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hops: dict[str, NextHop] = {}
        self.servers: list[subprocess.Popen[bytes]] = []

    def host_of(self, name: str) -> str:
        return f"mx.{name}.{CASES[name].zone}"

    def build(self) -> None:
        """Zones, hosts, servers."""
        run("ip", "link", "set", "lo", "up")
        (self.directory / "resolv.conf").write_text("nameserver 127.0.0.1\noptions trust-ad\n")
        run("mount", "--bind", str(self.directory / "resolv.conf"), "/etc/resolv.conf")
        zones: dict[str, list[str]] = {
            zone: [f"@ 60 SOA ns.{zone}. admin.{zone}. 1 3600 600 86400 60", f"@ 60 NS ns.{zone}.", "ns 60 A 127.0.0.2"]
            for zone in ("test", "insecure", "bogus")
        }
        for number, (name, case) in enumerate(CASES.items(), 10):
            host, address = self.host_of(name), f"127.0.0.{number}"
            records = zones[case.zone]
            named = f"alias.{name}" if case.alias else f"mx.{name}"
            zones[case.domain_zone or case.zone].append(f"{name} 60 MX 10 {named}.{case.zone}.")
            records.append(f"mx.{name} 60 A {address}")
            if case.alias:
                records.append(f"alias.{name} 60 CNAME mx.{name}.{case.zone}.")
            shown = case.certificate(host) if case.certificate is not None else None
            chain = contents(shown.chain) if shown is not None else ([], [])
            owner = f"_25._tcp.mx.{name}"
            if case.tlsa_alias:
                records.append(f"{owner} 60 CNAME dane.{name}")
                owner = f"dane.{name}"
            records += [f"{owner} 60 TLSA {record}" for record in case.tlsa(*chain)]
            hop = NextHop(tls=None if shown is None else shown.server, script=case.script)
            self.hops[name] = hop.listen(reactor, port=25, interface=address)
        for zone, records in zones.items():
            (self.directory / f"{zone}.zone").write_text(f"$ORIGIN {zone}.\n" + "\n".join(records) + "\n")
        self.serve()

    def serve(self) -> None:
        conf = self.directory / "knot.conf"
        signed = "".join(f"  - domain: {zone}\n    dnssec-signing: on\n" for zone in ("test", "bogus"))
        conf.write_text(
            f"server:\n    rundir: {self.directory}\n    listen: 127.0.0.2@53\n"
            f"database:\n    storage: {self.directory}\n"
            f'template:\n  - id: default\n    storage: {self.directory}\n    file: "%s.zone"\n    zonefile-sync: -1\n'
            "    journal-content: all\n    zonefile-load: difference-no-serial\n"
            f"zone:\n{signed}  - domain: insecure\n"
        )
        self.start("127.0.0.2", "test.", tool("knotd", "knot"), "-c", str(conf))
        anchors = {}
        for zone in ("test", "bogus"):
            for line in run(tool("keymgr", "knot"), "-c", str(conf), zone, "ds").splitlines():
                if " DS " in line:
                    anchors[zone] = line
        wrong = anchors["bogus"].rsplit(" ", 1)[0] + " " + "00" * (len(anchors["bogus"].rsplit(" ", 1)[1]) // 2)
        stubs = "".join(f"stub-zone:\n  name: {zone}\n  stub-addr: 127.0.0.2\n" for zone in ("test", "insecure", "bogus"))
        unbound = self.directory / "unbound.conf"
        unbound.write_text(
            f'server:\n  interface: 127.0.0.1\n  directory: "{self.directory}"\n  chroot: ""\n  username: ""\n'
            '  do-not-query-localhost: no\n  use-syslog: no\n  pidfile: ""\n  do-daemonize: no\n'
            '  module-config: "validator iterator"\n  local-zone: "test." nodefault\n  domain-insecure: "insecure"\n'
            f'  trust-anchor: "{anchors["test"]}"\n  trust-anchor: "{wrong}"\n'
            f"remote-control:\n  control-enable: no\n{stubs}"
        )
        self.start("127.0.0.1", "test.", tool("unbound", "unbound"), "-d", "-c", str(unbound))

    def start(self, address: str, zone: str, *command: str) -> None:
        """A name server, once it has signed answers for a zone."""
        log = self.directory / (Path(command[0]).name + ".log")
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        self.servers.append(process)
        query = dns.message.make_query(zone, "SOA", want_dnssec=True)
        for _ in range(100):
            try:
                response = dns.query.udp(query, address, timeout=0.5)
            except (OSError, dns.exception.DNSException):
                response = None
            if response is not None and len(response.answer) == 2:
                return
            time.sleep(0.1)
        raise AssertionError(f"{command[0]} does not answer:\n{log.read_text()}")

    async def theirs(self, name: str, level: str) -> str:
        domain = domain_of(name)
        finger = tool("posttls-finger", "postfix")
        text = await deferToThread(run, finger, "-c", "-t", "10", "-T", "10", "-l", level, "-L", "summary", domain)
        (self.directory / f"finger-{name}-{level}.log").write_text(text)
        if "Verified TLS connection" in text or "Trusted TLS connection" in text.replace("Untrusted", ""):
            return "verified"
        if re.search(r"verification failed for .*: num=", text) or 'resorting to "secure"' in text:
            return "failed"
        if "TLS connection established" in text:
            return "tls"
        return "failed" if "error" in text else ""

    async def ours(self, name: str, mode: str) -> str:
        directory = self.directory / f"{name}-{mode}"
        directory.mkdir()
        text = (
            f"hostname gateway.lab\ntarget.remote direct {{\n allow_loopback yes\n tls {mode}\n}}\n"
            "smtp tcp://127.0.0.9:2525 {\n tls off\n reverse_lookup no\n deliver_to &direct\n}\n"
        )
        gateway = WholeGateway(text, with_names(None, real_adapters()), str(directory))
        await gateway.start()
        try:
            client = await connect(reactor, "tcp://127.0.0.9:2525")
            await client.reply()
            await client.command(b"EHLO c.lab")
            recipient = f"u@{domain_of(name)}".encode()
            replies = await client.deliver(b"a@x.lab", [recipient], message("dane"))
            await client.close()
        finally:
            await gateway.stop()
        if not replies[-1].startswith(b"250"):
            return "failed"
        record = gateway.logged("delivery.attempt")[-1]
        return "verified" if 'verified="TLSA' in record or "verified=mx." in record else "tls" if " tls=" in record else "clear"

    async def verdicts(self) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        for name in CASES:
            found[name] = {mode: [await self.theirs(name, level), await self.ours(name, mode)] for level, mode in MODES.items()}
        return found


def main() -> None:
    lab = Lab(Path(sys.argv[1]))

    async def all_of_it() -> None:
        lab.build()
        try:
            print(json.dumps(await lab.verdicts()))
        finally:
            for server in lab.servers:
                server.terminate()
                server.wait(10)

    def begin() -> None:
        running = spawn(all_of_it())
        running.addErrback(lambda failure: print(failure.getTraceback(), file=sys.stderr))
        running.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()


if __name__ == "__main__":
    main()
