"""`mailgate route` and `mailgate tls probe` as a shell sees them: real name server, real hosts, real certificates."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailgate.net.waiting import spawn
from mailgate.testing.names import Action, NameServer
from mailgate.testing.nexthop import NextHop, Step, say
from tests.outbound.test_dane import key_digest
from tests.support.adapters import real_adapters
from tests.support.certificates import authority, leaf
from tests.support.ports import free_port


class CommandCase(TestCase):
    timeout = 60
    secure = True

    def setUp(self) -> None:
        self.reactor: Any = real_adapters().reactor
        self.names = NameServer(self.reactor, secure=self.secure)
        self.addCleanup(lambda: spawn(self.names.stop()))
        directory = tempfile.TemporaryDirectory(prefix="mailgate-test-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.port = free_port()
        self.names.add("", "NS", "a.root-servers.net.")

    def host(self, name: str, address: str, **options: Any) -> NextHop:
        self.names.add(name, "A", address)
        hop = NextHop(**options).listen(self.reactor, port=self.port, interface=address)
        self.addCleanup(lambda: spawn(hop.close()))
        return hop

    def write(self, *lines: str) -> str:
        path = self.directory / "mailgate.conf"
        inner = "\n".join((f"port {self.port}", "allow_loopback yes", *lines))
        path.write_text(
            f"hostname gateway.test\nstate_dir {self.directory}\nresolver {{\n servers 127.0.0.1:{self.names.port}\n}}\n"
            f"target.remote direct {{\n{inner}\n}}\nsmtp tcp://127.0.0.1:2525 {{\n tls off\n deliver_to &direct\n}}\n"
        )
        return str(path)

    async def mailgate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command, in a process of its own while the test's servers go on."""
        command = [sys.executable, "-c", "from mailgate.cli import main; main()", *arguments]
        done: subprocess.CompletedProcess[str] = await deferToThread(
            subprocess.run, command, capture_output=True, text=True, timeout=45, check=False
        )
        self.assertNotIn("Traceback", done.stderr)
        return done


class RouteTests(CommandCase):
    async def test_hosts_in_order_with_address_name_and_tls(self) -> None:
        self.names.add("d.test", "MX", "20 mx2.d.test.", "10 mx1.d.test.", "30 gateway.test.", "40 mx4.d.test.")
        first = self.host("mx1.d.test", "127.0.0.11", tls=leaf("mx1.d.test").server)
        self.names.add("mx2.d.test", "A", "127.0.0.12")
        digest = key_digest(leaf("mx1.d.test"))
        self.names.add(f"_{self.port}._tcp.mx1.d.test", "TLSA", f"3 1 1 {digest}")
        path = self.write(
            "source_ip 127.0.0.21 127.0.0.22",
            "hostname {\n if local_ip == 127.0.0.22 then mx2.gateway.test\n else mx.gateway.test\n}",
            "tls dane",
        )
        done = await self.mailgate("route", "d.test", "-c", path, "--json")
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        found = json.loads(done.stdout)
        self.assertEqual((found["version"], found["target"], found["secure"]), (1, "direct", True))
        self.assertEqual([hop["address"] for hop in found["hops"]], ["127.0.0.11", "127.0.0.12"])
        self.assertEqual([hop["preference"] for hop in found["hops"]], [10, 20])
        self.assertEqual(found["hops"][0]["tls"], "required, verified by DANE")
        self.assertIn(digest[:8], found["hops"][0]["why"][0])
        self.assertEqual(found["hops"][1]["tls"], "where it is offered, not verified; else plain text")
        self.assertEqual(found["hops"][1]["why"], ["DANE: no TLSA record", "`tls dane`"])
        left_out = {one["host"]: one["left_out"] for one in found["named"]}
        self.assertEqual(left_out["gateway.test"], "this gateway")
        self.assertEqual(left_out["mx4.d.test"], "behind this gateway")
        self.assertIn(found["hops"][0]["sources"], (["127.0.0.21"], ["127.0.0.22"]))
        expected = {"127.0.0.21": "mx.gateway.test", "127.0.0.22": "mx2.gateway.test"}
        for hop in found["hops"]:
            self.assertEqual(hop["names"], [expected[hop["sources"][0]]])
        self.assertEqual(first.connections, [])

        text = await self.mailgate("route", "someone@d.test", "-c", path)
        self.assertIn("1. mx1.d.test [127.0.0.11]", text.stdout)
        self.assertIn("30 gateway.test  (not tried: this gateway)", text.stdout)
        self.assertEqual(list(self.directory.iterdir()), [Path(path)])

    async def test_settings_by_retry(self) -> None:
        self.names.add("d.test", "A", "127.0.0.11")
        self.names.add("d.test", "AAAA", "::1")
        path = self.write("ip_strategy {\n if retry_num == 0 then ipv6_only\n else ipv4_only\n}")
        for retry, address in (("0", "::1"), ("1", "127.0.0.11")):
            done = await self.mailgate("route", "d.test", "-c", path, "--retry", retry, "--json")
            self.assertEqual([hop["address"] for hop in json.loads(done.stdout)["hops"]], [address])

    async def test_what_a_client_would_hear(self) -> None:
        self.names.add("null.test", "MX", "0 .")
        self.names.script("fails.test", "MX", Action.SERVFAIL)
        self.names.add("bad.test", "MX", "10 mx.bad.test.")
        self.names.add("mx.bad.test", "A", "127.0.0.11")
        self.names.script(f"_{self.port}._tcp.mx.bad.test", "TLSA", Action.SERVFAIL)
        path = self.write("tls dane")
        for domain, status, words in (
            ("null.test", 1, "556 5.1.10"),
            ("nowhere.test", 1, "550 5.1.2"),
            ("fails.test", 75, "451 4.4.3"),
            ("bad.test", 75, "left: "),
            ("not a domain", 2, ""),
        ):
            done = await self.mailgate("route", domain, "-c", path)
            self.assertEqual(done.returncode, status, f"{domain}: {done.stdout}{done.stderr}")
            self.assertIn(words, done.stdout)
            self.assertLessEqual(done.stdout.count("550 5.1.2"), 1, done.stdout)

    async def test_which_target(self) -> None:
        path = self.write()
        done = await self.mailgate("route", "d.test", "-c", path, "--target", "other")
        self.assertEqual(done.returncode, 2)
        self.assertIn("there is direct", done.stderr)


class ProbeTests(CommandCase):
    async def probe(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        common = ("--root-ca", authority().path, "-c", self.write(), "--json")
        done = await self.mailgate("tls", "probe", *arguments, *common)
        self.assertTrue(done.stdout, done.stderr)
        return done.returncode, json.loads(done.stdout)

    async def verdicts(self, **options: Any) -> tuple[int, dict[str, str]]:
        self.host("mx.d.test", "127.0.0.11", **options)
        status, found = await self.probe(f"mx.d.test:{self.port}")
        return status, {verdict["mode"]: verdict["result"] for verdict in found["hosts"][0]["verdicts"]}

    async def test_a_certificate_for_its_name(self) -> None:
        status, verdicts = await self.verdicts(tls=leaf("mx.d.test").server)
        self.assertEqual(status, 0)
        self.assertEqual(
            verdicts,
            {
                "disabled": "clear",
                **dict.fromkeys(("optional", "optional_verify", "require", "require_verify", "dane"), "verified"),
                "dane_require": "refused",
                "dane_fallback_require_verify": "verified",
            },
        )

    async def test_another_name_and_records_that_are_right(self) -> None:
        pair = leaf("other.test")
        self.names.add(f"_{self.port}._tcp.mx.d.test", "TLSA", f"3 1 1 {key_digest(pair)}")
        status, verdicts = await self.verdicts(tls=pair.server)
        self.assertEqual(status, 0)
        self.assertEqual([verdicts[mode] for mode in ("require", "require_verify")], ["encrypted", "refused"])
        for mode in ("dane", "dane_require", "dane_fallback_require_verify"):
            self.assertEqual(verdicts[mode], "verified", mode)

    async def test_records_that_are_wrong(self) -> None:
        self.names.add(f"_{self.port}._tcp.mx.d.test", "TLSA", "3 1 1 " + "00" * 32)
        status, verdicts = await self.verdicts(tls=leaf("other.test").server)
        self.assertEqual(status, 1)
        for mode in ("dane", "dane_require", "dane_fallback_require_verify", "require_verify", "optional_verify"):
            self.assertEqual(verdicts[mode], "refused", mode)

    async def test_no_starttls_and_one_that_is_refused(self) -> None:
        status, verdicts = await self.verdicts()
        self.assertEqual((status, verdicts["optional"], verdicts["require"]), (1, "clear", "refused"))
        self.host("mx2.d.test", "127.0.0.12", tls=leaf("mx2.d.test").server, script={Step.STARTTLS: say(b"454 4.7.0 later")})
        status, found = await self.probe(f"mx2.d.test:{self.port}")
        self.assertEqual((status, found["hosts"][0]["trouble"]), (1, "STARTTLS is refused"))

    async def test_the_hosts_of_a_domain(self) -> None:
        self.names.add("d.test", "MX", "20 mx2.d.test.", "10 mx1.d.test.")
        self.host("mx1.d.test", "127.0.0.11", tls=leaf("mx1.d.test").server)
        self.host("mx2.d.test", "127.0.0.12", tls=leaf("d.test").server)
        status, found = await self.probe("d.test", "--port", str(self.port))
        self.assertEqual((status, found["domain"], found["secure"], found["mta_sts"]), (1, "d.test", True, "none"))
        named = [(one["host"], one["tls"]["judged"]["name"]["ok"]) for one in found["hosts"]]
        self.assertEqual(named, [("mx1.d.test", True), ("mx2.d.test", False)])
        status, found = await self.probe("nowhere.test", "--port", str(self.port))
        self.assertEqual((status, found["trouble"]), (75, "there is no such domain"))

    async def test_nobody_there(self) -> None:
        self.names.add("mx.d.test", "A", "127.0.0.11")
        status, found = await self.probe(f"mx.d.test:{self.port}")
        self.assertEqual(status, 75)
        self.assertIn("refused", found["hosts"][0]["trouble"])

    async def test_the_chain_is_shown_and_nothing_but_hello_and_starttls_is_said(self) -> None:
        hop = self.host("mx.d.test", "127.0.0.11", tls=leaf("mx.d.test").server)
        done = await self.mailgate("tls", "probe", "mx.d.test", "--port", str(self.port), "-c", self.write())
        self.assertEqual(done.returncode, 1)  # the authority is not one of the system's
        self.assertIn("certificate OU=Testing cert", done.stdout)
        self.assertIn("key SHA-256", done.stdout)
        self.assertIn("tls require_verify", done.stdout)
        (connection,) = hop.connections
        said = [line.split()[0] for line in connection.commands]
        self.assertEqual(said, [b"EHLO", b"STARTTLS", b"EHLO", b"QUIT"])
