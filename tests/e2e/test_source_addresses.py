"""source_ip and nonlocal_source between two hosts: network namespaces with addresses of their own, joined by a cable.

``gateway`` has 192.0.2.1, 192.0.2.2 and 2001:db8:2::1; ``hop`` has 192.0.2.25 and 2001:db8:2::25 and reaches 198.51.100.0/24
through the gateway's host. What comes back for 198.51.100.7 is taken in there, but the address belongs to no interface.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support.process import GatewayProcess
from tests.support.servers import needs_root, tool

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HOP = """
import socketserver, sys
class Hop(socketserver.StreamRequestHandler):
    def handle(self):
        say = lambda line: self.wfile.write(line + b"\\r\\n")
        say(b"220 hop ESMTP")
        for line in self.rfile:
            verb = line.split()[0].upper()
            if verb == b"EHLO":
                print(self.client_address[0], line.split()[1].decode(), flush=True)
            if verb == b"DATA":
                say(b"354 go")
                while self.rfile.readline() != b".\\r\\n":
                    pass
            say(b"221 bye" if verb == b"QUIT" else b"250 ok")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    address_family = 10
server = Server(("::", 25), Hop)
print("ready", flush=True)
server.serve_forever()
"""

CLIENT = """
import smtplib, sys
with smtplib.SMTP("127.0.0.1", 2525) as client:
    try:
        client.sendmail("a@x.example", ["b@y.example"], b"Subject: x\\r\\n\\r\\nhello\\r\\n")
        print("250")
    except smtplib.SMTPRecipientsRefused as error:
        print(error.recipients["b@y.example"][0])
"""

CONFIG = """\
hostname gw.example
state_dir {home}
runtime_dir {home}
tls off
source_address out {{
    address 192.0.2.2 2001:db8:2::1
    hostname out.example
}}
smtp tcp://127.0.0.1:2525 {{
    deliver_to smtp {endpoint} {{
        {settings}
        max_idle 0
    }}
}}
"""


class SourceAddressTests(SynchronousTestCase):
    def setUp(self) -> None:
        needs_root("a network namespace")
        self._ip = tool("ip", "iproute2")
        names = [f"mailgate-{os.getpid()}-{side}" for side in ("a", "b")]
        self.gateway, self.hop = names
        for name in names:
            self.make_namespace(name)
        self.ip("link", "add", "cable-a", "netns", self.gateway, "type", "veth", "peer", "name", "cable-b", "netns", self.hop)
        for name, link, addresses in (
            (self.gateway, "cable-a", ("192.0.2.1/24", "192.0.2.2/24", "2001:db8:2::1/64")),
            (self.hop, "cable-b", ("192.0.2.25/24", "2001:db8:2::25/64")),
        ):
            for address in addresses:
                self.ip("-n", name, "address", "add", address, "dev", link, *(["nodad"] if ":" in address else []))
            self.ip("-n", name, "link", "set", link, "up")
            self.ip("-n", name, "link", "set", "lo", "up")
        self.ip("-n", self.hop, "route", "add", "198.51.100.0/24", "via", "192.0.2.1")
        # What comes in for the address that nobody has is for this host; only there, so bind() does not know it.
        self.ip("-n", self.gateway, "rule", "add", "iif", "cable-a", "lookup", "100")
        self.ip("-n", self.gateway, "route", "add", "local", "198.51.100.7", "dev", "lo", "table", "100")
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.start_hop()

    def make_namespace(self, name: str) -> None:
        made = subprocess.run([self._ip, "netns", "add", name], capture_output=True, text=True)
        if made.returncode:
            if os.environ.get("CI") == "true":
                raise AssertionError(f"no network namespace: {made.stderr}")
            raise SkipTest(f"network namespaces are not permitted here: {made.stderr.strip()}")
        self.addCleanup(subprocess.run, [self._ip, "netns", "delete", name], check=True)

    def ip(self, *words: str) -> None:
        done = subprocess.run([self._ip, *words], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, f"ip {' '.join(words)}: {done.stderr}")

    def inside(self, name: str) -> list[str]:
        return [self._ip, "netns", "exec", name]

    def start_hop(self) -> None:
        self._hop = subprocess.Popen([*self.inside(self.hop), sys.executable, "-c", HOP], stdout=subprocess.PIPE, text=True)
        self.addCleanup(self._hop.wait)
        self.addCleanup(self._hop.kill)
        assert self._hop.stdout is not None
        self.addCleanup(self._hop.stdout.close)
        self.assertEqual(self._hop.stdout.readline(), "ready\n")

    def heard(self) -> tuple[str, str]:
        """Whom the next hop heard of: address and name."""
        assert self._hop.stdout is not None
        address, name = self._hop.stdout.readline().split()
        return address.removeprefix("::ffff:"), name

    def send(self, settings: str, endpoint: str = "tcp://192.0.2.25:25") -> tuple[str, str]:
        """The client's answer, and the gateway's log."""
        config = self.home / "mailgate.conf"
        config.write_text(CONFIG.format(home=self.home, settings=settings, endpoint=endpoint))
        gateway = GatewayProcess(config, prefix=self.inside(self.gateway)).wait_until_ready()
        self.addCleanup(gateway.kill)
        command = [*self.inside(self.gateway), sys.executable, "-c", CLIENT]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.stdout.strip(), gateway.stop()

    def test_source_ip_of_either_family_and_its_name(self) -> None:
        for endpoint, address in (("tcp://192.0.2.25:25", "192.0.2.2"), ("tcp://[2001:db8:2::25]:25", "2001:db8:2::1")):
            answer, log = self.send("source_ip &out", endpoint)
            self.assertEqual((answer, self.heard()), ("250", (address, "out.example")), log)
            self.assertTrue(re.search(rf"delivery\.attempt .*local=\[?{re.escape(address)}\]?:", log), log)

    def test_an_address_that_this_host_does_not_have(self) -> None:
        answer, log = self.send("source_ip 198.51.100.7")
        self.assertEqual(answer, "451", log)
        self.assertRegex(log, r"source\.failed .*source=198\.51\.100\.7")
        self.assertNotIn("endpoint.down", log)
        answer, log = self.send("source_ip 198.51.100.7\n        nonlocal_source yes")
        self.assertEqual((answer, self.heard()), ("250", ("198.51.100.7", "gw.example")), log)
