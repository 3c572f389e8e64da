"""A real OpenLDAP behind the gateway: recipients, aliases, logins, injection, and a server that goes and comes back."""

from __future__ import annotations

import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailgate.testing.client import RawClient, connect
from mailgate.testing.nexthop import NextHop
from mailgate.testing.tls import TrustingClient
from tests.support.certificates import authority, leaf
from tests.support.invariants import check_log
from tests.support.ports import free_ports
from tests.support.process import GatewayProcess
from tests.support.slapd import BASE, MANAGER, SECRET, Slapd, person

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ENTRIES = (
    person("ann", password="wonderland", mail="ann@example.org", mailRoutingAddress="ann@store.test")
    + person("ben", password="cheshire", mail=("ben@example.org", "sales@example.org"))
    + person("team", mail="team@example.org", mailLocalAddress=("ann@store.test", "ben@store.test"))
    + person("twin", password="same", mail=("twin@example.org", "o(dd)*@example.org"))
    + "".join(person(f"u{number}", mail=f"u{number}@example.org") for number in range(20_000))
)
PEOPLE = f"""\
hostname gateway.test
state_dir {{home}}
runtime_dir {{home}}
tls file {{chain}} {{key}}

table.ldap people {{{{
    urls {{urls}}
    {{tls}}
    {{bind}}
    base_dn "ou=people,{BASE}"
    filter "(&(objectClass=inetOrgPerson)(mail={{{{key}}}}))"
    cache 30s
    negative_cache 30s
    connect_timeout 1s
    timeout 1s
    tls_client {{{{
        root_ca {{ca}}
        {{pair}}
    }}}}
}}}}
table.ldap routes {{{{
    urls {{urls}}
    {{tls}}
    {{bind}}
    base_dn "ou=people,{BASE}"
    scope one
    filter "(|(mail={{{{key}}}})(mail={{{{localpart}}}}@{{{{domain}}}}))"
    attribute mailRoutingAddress mailLocalAddress
    cache 0
    negative_cache 0
    tls_client {{{{
        root_ca {{ca}}
        {{pair}}
    }}}}
}}}}
auth.ldap staff {{{{
    urls {{urls}}
    {{tls}}
    {{login}}
    tls_client {{{{
        root_ca {{ca}}
    }}}}
}}}}
smtp tcp://127.0.0.1:{{smtp}} {{{{
    destination_in &people {{{{
        modify {{{{
            replace_rcpt &routes
        }}}}
        deliver_to smtp {{relay}}
    }}}}
    default_destination {{{{
        reject 550 5.1.1 "no such user"
    }}}}
}}}}
submission tls://127.0.0.1:{{submission}} {{{{
    auth &staff
    deliver_to smtp {{relay}}
}}}}
"""
SEARCH = f'base_dn "ou=people,{BASE}"\n    filter "(uid={{username}})"'
STARTTLS = "starttls yes"
PLAIN = f'bind plain "{MANAGER}" "{SECRET}"'


class LdapTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        directory = tempfile.TemporaryDirectory(prefix="mailgate-e2e-")
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)
        self.relay = NextHop().listen(reactor)
        self.addCleanup(self.relay.close)
        self.slapd = Slapd(ENTRIES)
        self.addCleanup(self.slapd.stop)
        self.smtp, self.submission = free_ports(2)

    def run_gateway(self, urls: str = "", tls: str = STARTTLS, bind: str = PLAIN, login: str = SEARCH, pair: str = "") -> None:
        certificate = leaf("localhost")
        config = self.home / "mailgate.conf"
        config.write_text(
            PEOPLE.format(
                home=self.home,
                chain=certificate.chain_path,
                key=certificate.key_path,
                ca=authority().path,
                urls=urls or self.slapd.url,
                tls=tls,
                bind=bind,
                login=login,
                pair=pair,
                smtp=self.smtp,
                submission=self.submission,
                relay=self.relay.endpoint,
            )
        )
        self.gateway = GatewayProcess(config).wait_until_ready()
        self.addCleanup(self.stop_gateway)

    async def stop_gateway(self) -> None:
        log = await self.gateway.stop_beside()
        check_log(log)
        for secret in ("wonderland", SECRET):
            self.assertNotIn(secret, log)

    async def client(self) -> RawClient:
        client = await connect(self.reactor, f"tcp://127.0.0.1:{self.smtp}")
        await client.reply()
        await client.command(b"EHLO client.test")
        self.assertEqual((await client.command(b"MAIL FROM:<a@x.test>"))[:3], b"250")
        self.addCleanup(client.close)
        return client

    async def rcpt(self, client: RawClient, address: str) -> str:
        return (await client.command(b"RCPT TO:<%s>" % address.encode()))[:9].decode()

    async def log_in(self, user: str, password: str) -> str:
        client = await connect(self.reactor, f"tls://127.0.0.1:{self.submission}", tls=TrustingClient("localhost"))
        await client.reply()
        await client.command(b"EHLO client.test")
        reply = await client.command(b"AUTH PLAIN " + b64encode(f"\0{user}\0{password}".encode()))
        await client.close()
        return reply[:3].decode()

    async def test_recipients_and_aliases(self) -> None:
        self.run_gateway()
        client = await self.client()
        for address in ("ann@example.org", "ANN@Example.Org", "team@example.org", "u999@example.org"):
            self.assertEqual(await self.rcpt(client, address), "250 2.1.5", address)
        self.assertEqual(await self.rcpt(client, "nobody@example.org"), "550 5.1.1")
        await client.command(b"DATA")
        self.assertEqual((await client.command(b"Subject: x\r\n\r\nhello\r\n."))[:3], b"250")
        paths = sorted({path for kept in self.relay.transactions for path in kept.paths})
        self.assertEqual(paths, [b"ann@store.test", b"ben@store.test", b"u999@example.org"])

    async def test_injection_finds_no_entry(self) -> None:
        self.run_gateway()
        client = await self.client()
        for local_part in (
            "*",
            "a*",
            "ann)(mail=*",
            "*)(objectClass=*",
            "ann\\2a",
            "ann)(|(uid=*",
            "\\00",
            "(ann)",
            "&(ann)",
            "!ann",
        ):
            quoted = local_part.replace("\\", "\\\\")
            self.assertEqual(await self.rcpt(client, f'"{quoted}"@example.org'), "550 5.1.1", local_part)
        self.assertEqual(await self.rcpt(client, '"o(dd)*"@example.org'), "250 2.1.5")

    async def test_logins(self) -> None:
        self.run_gateway()
        self.assertEqual(await self.log_in("ann", "wonderland"), "235")
        for user, password in (
            ("ann", "cheshire"), ("nobody", "wonderland"), ("*", "wonderland"), ("a*", "wonderland"),
            ("ann)(uid=*", "wonderland"), ("team", "wonderland"), ("u1", ""), ("ann", ""),
        ):  # fmt: skip
            self.assertIn(await self.log_in(user, password), ("535", "501"), (user, password))

    async def test_logins_by_dn_template(self) -> None:
        self.run_gateway(login=f'dn_template "uid={{username}},ou=people,{BASE}"')
        self.assertEqual(await self.log_in("ann", "wonderland"), "235")
        for user in ("ben", "ann,ou=people", "*", "ann+sn=ann", "#ann", " ann\\", 'a"nn', "nobody"):
            self.assertEqual(await self.log_in(user, "wonderland"), "535", user)

    async def test_logins_by_comparing(self) -> None:
        self.run_gateway(login=f"{PLAIN}\n    {SEARCH}\n    compare userPassword")
        self.assertEqual(await self.log_in("ann", "wonderland"), "235")
        for user, password in (("ann", "cheshire"), ("nobody", "wonderland"), ("u1", "wonderland")):
            self.assertEqual(await self.log_in(user, password), "535", user)

    async def test_ldaps_and_a_certificate_of_ours(self) -> None:
        ours = authority().issue("gateway", common_name="gateway")
        self.run_gateway(
            urls=self.slapd.tls_url,
            tls="starttls no",
            bind="bind external",
            pair=f"cert {ours.chain_path}\n        key {ours.key_path}",
        )
        client = await self.client()
        self.assertEqual(await self.rcpt(client, "ann@example.org"), "250 2.1.5")
        self.assertIn("mech=EXTERNAL", self.slapd.log)

    async def refuses(self, url: str, tls: str) -> None:
        self.run_gateway(urls=url.replace("localhost", "127.0.0.1"), tls=tls)
        client = await self.client()
        self.assertEqual((await self.rcpt(client, "ann@example.org"))[:3], "451")
        self.assertEqual(await self.log_in("ann", "wonderland"), "454")
        self.assertNotIn(" BIND ", self.slapd.log)
        self.assertIn("CERTIFICATE_VERIFY_FAILED", self.gateway.log)

    async def test_a_certificate_for_another_name_behind_starttls(self) -> None:
        await self.refuses(self.slapd.url, STARTTLS)

    async def test_a_certificate_for_another_name_at_ldaps(self) -> None:
        await self.refuses(self.slapd.tls_url, "starttls no")

    async def test_a_server_that_is_killed_and_comes_back(self) -> None:
        self.run_gateway()
        client = await self.client()
        self.assertEqual(await self.rcpt(client, "ann@example.org"), "250 2.1.5")
        self.assertEqual(await self.log_in("ann", "wonderland"), "235")
        self.slapd.kill()
        for number in range(10):
            self.assertEqual((await self.rcpt(client, f"u{number}@example.org"))[:3], "451")
            self.assertEqual((await self.rcpt(client, f"nobody{number}@example.org"))[:3], "451")
        self.assertEqual(await self.log_in("ann", "wonderland"), "454")
        self.assertEqual(await self.log_in("ann", "cheshire"), "454")
        self.slapd.start()

        async def back() -> bool:
            return (await self.rcpt(client, "u1@example.org"))[:3] == "250" and await self.log_in("ann", "wonderland") == "235"

        end = self.reactor.seconds() + 20
        while not await back():
            self.assertLess(self.reactor.seconds(), end, "it does not come back by itself")
            await deferLater(self.reactor, 0.2)
        self.assertEqual(await self.rcpt(client, "nobody1@example.org"), "550 5.1.1")

    async def test_the_next_server_takes_over(self) -> None:
        (dead,) = free_ports(1)
        self.run_gateway(urls=f"ldap://localhost:{dead} {self.slapd.url}")
        client = await self.client()
        self.assertEqual(await self.rcpt(client, "ann@example.org"), "250 2.1.5")
        self.assertEqual(await self.log_in("ann", "wonderland"), "235")

    async def test_what_is_cached_is_not_asked_again(self) -> None:
        self.run_gateway()
        client = await self.client()
        await self.rcpt(client, "nobody@example.org")
        asked = self.slapd.searches
        for _ in range(5):
            self.assertEqual(await self.rcpt(client, "nobody@example.org"), "550 5.1.1")
        self.assertEqual(self.slapd.searches, asked)
        self.slapd.kill()
        self.assertEqual(await self.rcpt(client, "nobody@example.org"), "550 5.1.1")
