"""`mailgate dkim`: keys that others accept, files that nobody else reads, and records as the DNS has them."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mailgate.cli import main
from mailgate.cli.dkim import State, compare, published
from mailgate.mailauth.dkim_keys import ED25519_SHA256, RSA_SHA256, load_private_key, new_key, parse_record
from mailgate.modules.modify._signing import SigningKey
from mailgate.testing.names import Action, MemoryNames
from mailgate.testing.network import SimulatedReactor
from tests.cli.test_route import CommandCase


class GenerateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "key.pem"

    def generate(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["dkim", "generate", *arguments])

    def test_a_key_and_its_record(self) -> None:
        for kind, algorithm, bits in (("rsa", RSA_SHA256, 2048), ("ed25519", ED25519_SHA256, 256)):
            path = self.directory / kind
            done = self.generate("Example.org", "Mail2026", "--key", str(path), "--algorithm", kind)
            self.assertEqual(done.exit_code, 0, done.output)
            key = load_private_key(path.read_bytes())
            self.assertEqual((key.algorithm, key.bits), (algorithm, bits))
            line = done.stdout.strip()
            self.assertTrue(line.startswith("mail2026._domainkey.example.org. IN TXT ("), line)
            record = "".join(re.findall(r'"([^"]*)"', line)).encode()
            self.assertTrue(key.is_of(parse_record(record)))
            self.assertIn("dkim example.org mail2026 {", done.stderr)

    def test_only_its_owner_reads_it(self) -> None:
        before = os.umask(0)
        try:
            self.generate("example.org", "s", "--key", str(self.path), "--algorithm", "ed25519")
        finally:
            os.umask(before)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_what_is_there_is_never_lost(self) -> None:
        self.path.write_text("precious")
        done = self.generate("example.org", "s", "--key", str(self.path))
        self.assertEqual((done.exit_code, self.path.read_text()), (1, "precious"))
        link = self.directory / "link"
        link.symlink_to(self.directory / "nowhere")
        self.assertEqual(self.generate("example.org", "s", "--key", str(link)).exit_code, 1)
        self.assertEqual(self.generate("example.org", "s", "--key", str(self.directory / "no" / "where")).exit_code, 1)

    def test_names_that_can_not_be(self) -> None:
        for domain, selector in (("example", "s"), ("a..b", "s"), ("example.org", "s..t")):
            done = self.generate(domain, selector, "--key", str(self.path))
            self.assertEqual((done.exit_code, self.path.exists()), (2, False), (domain, selector))

    def test_for_programs(self) -> None:
        done = self.generate("bücher.example", "s", "--key", str(self.path), "--algorithm", "ed25519", "--json")
        made = json.loads(done.stdout)
        self.assertEqual((made["name"], made["version"]), ("s._domainkey.xn--bcher-kva.example", 1))
        self.assertTrue(load_private_key(Path(made["key"]).read_bytes()).is_of(parse_record(made["record"].encode())))


class CheckTests(SynchronousTestCase):
    def test_states(self) -> None:
        key, other, rsa = new_key(ED25519_SHA256), new_key(ED25519_SHA256), new_key(RSA_SHA256, 1024)
        for found, state in (
            ([key.record], State.OK),
            ([key.record + "; t=y"], State.OK),
            ([], State.MISSING),
            ([other.record], State.OTHER),
            ([rsa.record], State.OTHER),
            ([key.record, other.record], State.UNUSABLE),
            (["v=DKIM1; k=ed25519; p="], State.UNUSABLE),
            (["something else"], State.UNUSABLE),
        ):
            self.assertIs(compare(key, [text.encode() for text in found])[0], state, found)

    def test_what_the_names_have(self) -> None:
        reactor = SimulatedReactor(1)
        names = MemoryNames(reactor)
        key = new_key(ED25519_SHA256)
        names.add("s._domainkey.good.test", "TXT", f'"{key.record}"')
        names.script("s._domainkey.silent.test", "TXT", Action.SERVFAIL)
        keys = [SigningKey(f"{domain}.test", "s", key, "f:1") for domain in ("good", "none", "silent")]
        found = reactor.run(published(keys, names.resolver()))
        self.assertEqual([one.state for one in found], ["ok", "missing", "no answer"])
        self.assertEqual(found[1].record, key.record)

    def test_a_file_that_signs_nothing(self) -> None:
        path = Path(self.mktemp())
        path.write_text("smtp tcp://127.0.0.1:25 {\ntls off\ndiscard\n}\n")
        done = CliRunner().invoke(main, ["dkim", "check", "-c", str(path)])
        self.assertEqual((done.exit_code, done.stdout), (0, "the configuration signs with no key\n"))


class OnlineTests(CommandCase):
    """`try --online` asks checks that need names, with the configuration's own servers, and writes nothing."""

    def checked(self, rules: str) -> str:
        path = Path(self.write())
        path.write_text(path.read_text().replace(" deliver_to", rules))
        return str(path)

    async def test_a_message_that_fails(self) -> None:
        self.names.add("_dmarc.d.test", "TXT", '"v=DMARC1; p=reject; rua=mailto:x@d.test"')
        path = self.checked(" check {\n spf\n dkim\n dmarc {\n reports {\n file ./d.sqlite\n }\n }\n }\n deliver_to")
        mail = self.directory / "message"
        mail.write_text("From: ann@d.test\n\nhi\n")
        arguments = ("-c", path, "--ip", "192.0.2.7", "--from", "x@other.test", "--rcpt", "b@d.test", str(mail))
        done = await self.mailgate("try", "--online", *arguments)
        self.assertIn("550 5.7.1 Refused by the DMARC policy of d.test", done.stdout, done.stderr)
        done = await self.mailgate("try", *arguments)
        self.assertIn("250 2.0.0 Ok", done.stdout, done.stderr)
        self.assertFalse((self.directory / "d.sqlite").exists())


class PublishedTests(CommandCase):
    """As a shell sees it, with a real name server."""

    async def test_the_records_of_a_configuration(self) -> None:
        for name in ("good", "other", "sealing"):
            key = new_key(ED25519_SHA256)
            (self.directory / f"{name}.pem").write_bytes(key.pem)
            (self.directory / f"{name}.pem").chmod(0o600)
            published_key = key if name != "other" else new_key(ED25519_SHA256)
            self.names.add(f"{name}._domainkey.d.test", "TXT", f'"{published_key.record}"')
        path = Path(self.write())

        def signing(*lines: str) -> str:
            inner = "\n".join(f"{line} {{\nkey ./{line.split()[-1]}.pem\n}}" for line in lines)
            whole = path.read_text().replace(" deliver_to", f" modify {{\n{inner}\n}}\n deliver_to")
            (self.directory / "signing.conf").write_text(whole)
            return str(self.directory / "signing.conf")

        done = await self.mailgate("dkim", "check", "-c", signing("dkim d.test good", "arc d.test sealing"))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual([line.split()[0] for line in done.stdout.splitlines()], ["ok:", "ok:"])
        done = await self.mailgate("dkim", "check", "-c", signing("dkim d.test good", "dkim d.test other"), "--json")
        self.assertEqual((done.returncode, [one["state"] for one in json.loads(done.stdout)["keys"]]), (1, ["ok", "other key"]))
        self.names.script("good._domainkey.d.test", "TXT", Action.SERVFAIL)
        done = await self.mailgate("dkim", "check", "-c", signing("dkim d.test good"))
        self.assertEqual(done.returncode, 75, done.stdout + done.stderr)
