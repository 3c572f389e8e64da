"""The files of etc/, each running as it is between a client and the servers it names: a simulated network has their addresses."""

from __future__ import annotations

import shutil
from base64 import b64encode
from pathlib import Path

from mailgate.registry import build
from mailgate.testing.gateway import WholeGateway
from mailgate.testing.network import adapters_for
from mailgate.testing.nexthop import NextHop
from tests.support.invariants import check_content, check_hop
from tests.support.ledger import message
from tests.support.scenario import SimulatedCase

ETC = Path(__file__).parents[2] / "etc"
OUTSIDE = "tcp://192.0.2.1:25"
ADDRESSED = {b"one": message("one"), b"two": message("two")}


class EtcCase(SimulatedCase):
    def load(self, name: str) -> None:
        """Start the gateway with a file of etc/; only its directories are others."""
        shutil.copy(ETC / "recipients", self.directory)
        shutil.copy(ETC / "users", self.directory)
        text = (ETC / name).read_text().replace("/var/lib/mailgate", self.directory).replace("/run/mailgate", self.directory)
        self.running = WholeGateway(text, adapters_for(self.reactor), self.directory)
        self.reactor.run(self.running.start())

    def server(self, host: str, port: int = 25, *, lmtp: bool = False) -> NextHop:
        hop = NextHop(lmtp=lmtp).listen(self.reactor, port=port, interface=host)
        self.hops.append(hop)
        return hop

    def send(self, recipient: bytes, listener: str = OUTSIDE, sender: bytes = b"sender@client.test") -> bytes:
        """The last reply to a message: to RCPT if that is refused, else to the dot."""
        client = self.client(listener)
        replies = self.deliver(client, recipient, sender=sender, content=ADDRESSED[b"one"])
        self.reactor.run(client.quit())
        refused = [reply for reply in replies if reply[:1] in b"45"]
        return refused[0] if refused else replies[-1]

    def assert_taken(self, hop: NextHop, *recipients: bytes) -> None:
        """Exactly these arrived, one transaction each, byte for byte."""
        check_hop(hop, len(recipients))
        arrived = [(path, done.content) for done in hop.transactions for path in done.paths]
        self.assertEqual([address for address, _ in arrived], list(recipients))
        for _, content in arrived:
            check_content(content, ADDRESSED[b"one"])


class InboundRelayTests(EtcCase):
    def test_mailgate_conf(self) -> None:
        mailserver = self.server("10.0.0.20")
        self.load("mailgate.conf")
        self.assertEqual(self.send(b"ann@example.org")[:3], b"250")
        self.assertEqual(self.send(b"postmaster")[:3], b"250")
        self.assertEqual(self.send(b"nobody@example.org"), b"550 5.1.1 no such user")
        self.assertEqual(self.send(b"other@far.example"), b"550 5.7.1 relaying denied")
        self.assert_taken(mailserver, b"ann@example.org", b"ann@example.org")


class StoresTests(EtcCase):
    def test_lmtp_stores_conf(self) -> None:
        first, second = (self.server(host, 24, lmtp=True) for host in ("10.0.0.31", "10.0.0.32"))
        self.load("lmtp-stores.conf")
        self.assertEqual(self.send(b"ann@example.org")[:3], b"250")
        self.assertEqual(self.send(b"postmaster@example.net")[:3], b"250")
        self.assertEqual(self.send(b"other@far.example"), b"550 5.7.1 relaying denied")
        self.assert_taken(first, b"ann@example.org", b"postmaster@example.org")
        self.assertEqual(second.transactions, [])

    def test_the_second_store_takes_over(self) -> None:
        second = self.server("10.0.0.32", 24, lmtp=True)
        self.load("lmtp-stores.conf")
        self.assertEqual(self.send(b"ann@example.org")[:3], b"250")
        self.assert_taken(second, b"ann@example.org")

    def test_over_lmtp_all_recipients_at_once(self) -> None:
        store = self.server("10.0.0.31", 24, lmtp=True)
        self.load("lmtp-stores.conf")
        client = self.client(f"unix://{self.directory}/lmtp.sock", b"LHLO client.test")
        client.lmtp = True
        replies = self.deliver(client, b"ann@example.org", b"ben@example.net", content=ADDRESSED[b"two"])
        self.assertEqual([reply[:3] for reply in replies], [b"250", b"250", b"250", b"354", b"250", b"250"])
        check_hop(store, 1)
        self.reactor.run(client.quit())


class SplitDomainTests(EtcCase):
    def test_split_domain_conf(self) -> None:
        old, new, lists = (self.server(host) for host in ("10.0.0.20", "10.0.0.30", "10.0.0.40"))
        self.load("split-domain.conf")
        self.assertEqual(self.send(b"ann@example.org")[:3], b"250")
        self.assertEqual(self.send(b"zoe@example.org")[:3], b"250")
        self.assertEqual(self.send(b"news@lists.example.org")[:3], b"250")
        self.assertEqual(self.send(b"other@far.example"), b"550 5.7.1 relaying denied")
        self.assertEqual(self.send(b"ben@example.org", "tcp://10.0.0.5:25")[:3], b"250")
        self.assertEqual(self.send(b"other@far.example", "tcp://10.0.0.5:25")[:3], b"550")
        self.assert_taken(new, b"ann@example.org", b"ben@example.org")
        self.assert_taken(old, b"zoe@example.org")
        self.assert_taken(lists, b"news@lists.example.org")


class FilterHopTests(EtcCase):
    def test_filter_hop_conf(self) -> None:
        behind = self.server("127.0.0.1", 10025)
        self.load("filter-hop.conf")
        hop = "tcp://127.0.0.1:10024"
        self.assertEqual(self.send(b"ann@old.example.org", hop)[:3], b"250")
        self.assertEqual(self.send(b"other@far.example", hop)[:3], b"250")
        self.assertEqual(self.send(b"ann@example.org", hop, b"winner@lottery.example"), b"550 5.7.1 not from you")
        self.assertEqual(self.send(b"ann@example.org", hop, b"x@a.bulk.example"), b"550 5.7.1 no bulk mail")
        self.assert_taken(behind, b"ann@example.org", b"other@far.example")

    def test_what_the_mta_behind_says_is_what_the_one_in_front_hears(self) -> None:
        self.load("filter-hop.conf")
        self.assertEqual(self.send(b"ann@example.org", "tcp://127.0.0.1:10024")[:1], b"4")


class QueueTests(EtcCase):
    def test_submission_conf(self) -> None:
        self.reactor.hosts.update({"smart1.example.net": "10.0.0.40", "smart2.example.net": "10.0.0.41"})
        self.load("submission.conf")
        client = self.client("tcp://192.0.2.1:587")
        self.assertEqual(self.ask(client, b"MAIL FROM:<ann@example.org>")[:9], b"530 5.7.0")
        login = b"AUTH PLAIN " + b64encode(b"\0ann\0secret")
        self.assertEqual(self.ask(client, login)[:3], b"538", "a password goes over TLS only")
        self.reactor.run(client.quit())

    def test_direct_conf(self) -> None:
        """Names are asked for on a real network only: here it is loaded."""
        self.assertEqual([str(one) for one in build(str(ETC / "direct.conf")).diagnostics], [])
