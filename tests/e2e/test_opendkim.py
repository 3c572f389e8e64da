"""OpenDKIM: it verifies what modify.dkim has signed, and we verify what it signs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from mailgate.cli import main
from mailgate.mailauth.dkim import Outcome, Verification
from mailgate.mailauth.dkim_keys import load_private_key
from tests.mailauth.messages import body, section
from tests.support.scenario import SMTP, SimulatedCase, statuses
from tests.support.servers import tool

pytestmark = pytest.mark.e2e

KINDS = ("rsa", "ed25519")
MESSAGES = 40
_INSERTED = re.compile(rb"### INSHEADER: idx=\d+ hname='DKIM-Signature' hvalue='(.*?)'\n", re.DOTALL)


class OpenDkimTests(SimulatedCase):
    """Keys are made by `mailgate dkim generate`; OpenDKIM reads their records from a file."""

    def setUp(self) -> None:
        super().setUp()
        self.program = tool("opendkim", "opendkim")
        self.home = Path(self.mktemp()).absolute()
        self.home.mkdir()
        self.records: dict[str, str] = {}
        for kind in KINDS:
            path = self.home / f"{kind}.pem"
            arguments = ["dkim", "generate", "example.org", kind, "--key", str(path), "--algorithm", kind]
            self.assertEqual(CliRunner().invoke(main, arguments).exit_code, 0)
            self.records[f"{kind}._domainkey.example.org"] = load_private_key(path.read_bytes()).record
        lines = [f"{name} {record}\n" for name, record in self.records.items()]
        (self.home / "records").write_text("".join(lines))

    def opendkim(self, settings: str, *files: Path) -> bytes:
        """What it says about messages."""
        configuration = self.home / "opendkim.conf"
        configuration.write_text(f"Syslog no\nRequireSafeKeys no\n{settings}\n")
        command = [self.program, "-x", str(configuration), "-f", "-l", "-vvv", "-t", ",".join(map(str, files))]
        done = subprocess.run(command, cwd=self.home, capture_output=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def messages(self) -> list[tuple[bytes, bytes]]:
        """Header sections and bodies. OpenDKIM wants a message to have what RFC 5322 asks for."""
        return [(section(Random(seed)), body(Random(seed)) or b"\r\n") for seed in range(MESSAGES)]

    def test_it_verifies_what_we_sign(self) -> None:
        hop = self.hop()
        lines = "\n".join(f"dkim example.org {kind} {{\nkey {self.home}/{kind}.pem\nexpire 20000d\n}}" for kind in KINDS)
        self.gateway(f"smtp {SMTP} {{\ntls off\nmodify {{\n{lines}\n}}\ndeliver_to smtp {hop.endpoint}\n}}\n")
        client = self.client()
        files = []
        for number, (header, content) in enumerate(self.messages()):
            stuffed = re.sub(rb"(?m)^\.", b"..", header + b"\r\n" + content)
            stuffed += b"" if stuffed.endswith(b"\r\n") else b"\r\n"
            self.assertEqual(statuses(self.deliver(client, b"b@y.test", content=stuffed))[-1], b"250 2.0.0")
            files.append(self.home / f"{number}.eml")
            files[-1].write_bytes(bytes(hop.transactions[-1].content))
        self.reactor.run(client.quit())
        said = self.opendkim("Mode v\nTestPublicKeys records", *files)
        for number in range(MESSAGES):
            found = re.findall(rb"\b%d\.eml: verification \(s=(\w+), d=example\.org, \S+ key\) succeeded" % number, said)
            self.assertIn(found[:1], ([b"rsa"], [b"ed25519"]), said[-2000:])
        self.assertNotIn(b"failed", said)

    def test_it_notices_what_was_changed(self) -> None:
        hop = self.hop()
        line = f"dkim example.org rsa {{\nkey {self.home}/rsa.pem\nexpire 20000d\n}}"
        self.gateway(f"smtp {SMTP} {{\ntls off\nmodify {{\n{line}\n}}\ndeliver_to smtp {hop.endpoint}\n}}\n")
        client = self.client()
        self.deliver(client, b"b@y.test", content=b"From: ann@example.org\r\nSubject: 10 apples\r\n\r\nfor 5 euros\r\n")
        self.reactor.run(client.quit())
        content = bytes(hop.transactions[-1].content)
        files = []
        for name, old, new in (("head", b"10 apples", b"11 apples"), ("body", b"5 euros", b"9 euros")):
            files.append(self.home / f"{name}.eml")
            files[-1].write_bytes(content.replace(old, new))
        said = self.opendkim("Mode v\nTestPublicKeys records", *files)
        self.assertEqual(len(re.findall(rb"verification \(s=rsa.*\) failed", said)), 2, said)

    def test_we_verify_what_it_signs(self) -> None:
        """With RSA: of Ed25519 keys it verifies, and does not sign (2.11 in Debian)."""
        for form in ("relaxed/relaxed", "relaxed/simple"):  # a milter does not see white space behind colons
            settings = f"Mode s\nDomain example.org\nSelector rsa\nKeyFile rsa.pem\nCanonicalization {form}\n"
            for number, (header, content) in enumerate(self.messages()[:10]):
                message = header + b"\r\n" + content
                message += b"" if message.endswith(b"\r\n") else b"\r\n"
                path = self.home / "message.eml"
                path.write_bytes(message)
                said = self.opendkim(settings, path)
                found = _INSERTED.search(said)
                assert found is not None, said
                field = b"DKIM-Signature: " + found[1].replace(b"\n", b"\r\n") + b"\r\n"
                judging = Verification(field + header)
                judging.update(message[len(header) + 2 :])
                keys = {name: (self.records[name].encode(),) for name in judging.key_names}
                (result,) = judging.results(keys, 1.8e9)
                self.assertIs(result.outcome, Outcome.PASS, (form, number, result))
