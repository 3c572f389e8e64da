"""The examples with which direct delivery was asked for (IP strategy, source IP, EHLO hostname, limits, timeouts), each value
as it was written there, in our syntax. Behind a queue, since a client would not wait for all of these times."""

from __future__ import annotations

from mailgate.modules.target import remote
from mailgate.testing.names import MemoryNames
from mailgate.testing.nexthop import DEAF, HANG, Step
from tests.outbound.test_remote import QueuedCase
from tests.support.ledger import message
from tests.support.scenario import codes

SOURCES = "source_ip 192.0.2.10 192.0.2.11 2001:db8::a 2001:db8::b"
TIMEOUTS = """timeouts {
    connect 3m
    greeting 3m
    tls 2m
    ehlo 3m
    mail_from 3m
    rcpt_to 3m
    data 10m
    mta_sts 2m
}"""
LARGE = message("large", body=(b"x" * 998 + b"\r\n") * 4000)


class StrategyTests(QueuedCase):
    def tried(self, strategy: str, *, after: float = 60) -> list[str]:
        """The addresses of a host of both families that lets nobody connect, in the order of the tries."""
        self.names = MemoryNames(self.reactor)
        self.host("d.test", "198.51.100.1", "2001:db8:1::1", listens=False)
        self.queued(f"ip_strategy {strategy}", "fallback_delay 0", "health {\n backoff 1s 1s\n}")
        self.assertEqual(codes(self.send(b"u@d.test"))[-1], b"250")
        self.reactor.settle(after)
        return self.connects()

    def test_each_strategy(self) -> None:
        for strategy, expected in (
            ("ipv4_only", ["198.51.100.1"]),
            ("ipv6_only", ["2001:db8:1::1"]),
            ("ipv6_then_ipv4", ["2001:db8:1::1", "198.51.100.1"]),
            ("ipv4_then_ipv6", ["198.51.100.1", "2001:db8:1::1"]),
        ):
            with self.row(strategy):
                self.assertEqual(self.tried(strategy), expected)

    def test_ipv6_at_first_and_ipv4_after_a_failed_attempt(self) -> None:
        strategy = "{\n if retry_num == 0 then ipv6_only\n else ipv4_only\n}"
        self.assertEqual(self.tried(strategy, after=7 * 120)[:3], ["2001:db8:1::1", "198.51.100.1", "198.51.100.1"])


class SourceTests(QueuedCase):
    def test_one_of_the_list_by_lot_for_each_new_connection(self) -> None:
        self.host("four.test", "198.51.100.1")
        self.host("six.test", "2001:db8:1::1")
        self.queued(SOURCES, "max_idle 0")
        for _ in range(20):
            self.send(b"u@four.test")
            self.send(b"u@six.test")
            self.reactor.settle(5)
        used: dict[str, list[str]] = {"four.test": [], "six.test": []}
        for line in self.attempts():
            domain = line.split("mx=")[1].split(" ")[0]
            used[domain].append(line.split("local=")[1].split(" ")[0].strip('"').rpartition(":")[0].strip("[]"))
        self.assertEqual(set(used["four.test"]), {"192.0.2.10", "192.0.2.11"})
        self.assertEqual(set(used["six.test"]), {"2001:db8::a", "2001:db8::b"})
        for chosen in used.values():
            self.assertEqual(len(chosen), 20)

    def test_ehlo_hostname(self) -> None:
        host = self.host("d.test", "198.51.100.1")
        self.queued("hostname mx.example.org")
        self.send(b"u@d.test")
        self.reactor.settle(5)
        self.assertIn(b"EHLO mx.example.org", host.connections[0].commands)


class LimitTests(QueuedCase):
    def test_seven_hosts_and_two_addresses_of_each(self) -> None:
        self.mx("d.test", *(f"{number} mx{number}.d.test." for number in range(1, 10)))
        for number in range(1, 10):
            self.host(f"mx{number}.d.test", *(f"198.51.100.{10 * number + address}" for address in range(3)), listens=False)
        self.queued("mx_limit 7", "multihomed_limit 2", "fallback_delay 0", "ip_strategy ipv4_only")
        self.send(b"u@d.test")
        self.reactor.settle(60)
        expected = [f"198.51.100.{10 * number + address}" for number in range(1, 8) for address in range(2)]
        self.assertEqual(self.connects(), expected)


class TimeoutTests(QueuedCase):
    """Each step ends after its own time, with a single host, so that nothing but its time ends it."""

    def hang(self, step: Step, *, content: bytes = b"", tls: bool = False) -> tuple[float, str]:
        """Seconds of the attempt that hangs in a step, and where its record says that it ended."""
        script = {step: DEAF if step is Step.BODY else HANG}
        self.host("d.test", "198.51.100.1", script=script, extensions=(b"STARTTLS",) if tls else (b"PIPELINING",))
        return self.attempt("tls require" if tls else "tls disabled", content=content)

    def attempt(self, *lines: str, content: bytes = b"") -> tuple[float, str]:
        self.queued(TIMEOUTS, *lines)
        self.deliver(self.client(), b"u@d.test", content=content or message("m"))
        self.reactor.run_while(lambda: not self.attempts(), limit=1700)
        line = self.attempts()[0]
        return float(line.rpartition("seconds=")[2]), line.split("stage=")[1].split(" ")[0]

    def test_each_step(self) -> None:
        for name, step, seconds, stage in (
            ("greeting", Step.BANNER, 180, "greeting"),
            ("ehlo", Step.HELLO, 180, "hello"),
            ("mail-from", Step.MAIL, 180, "mail"),
            ("rcpt-to", Step.RCPT, 180, "rcpt"),
            ("data", Step.DATA, 600, "data"),
        ):
            with self.row(name):
                self.names = MemoryNames(self.reactor)
                waited, ended = self.hang(step)
                self.assertEqual((round(waited), ended), (seconds, stage))

    def test_tls(self) -> None:
        for step in (Step.STARTTLS, Step.HANDSHAKE):
            with self.row(str(step)):
                self.names = MemoryNames(self.reactor)
                waited, ended = self.hang(step, tls=True)
                self.assertEqual((round(waited), ended), (120, "starttls"))

    def test_connect(self) -> None:
        self.host("d.test", "198.51.100.1", listens=False)
        self.reactor.black_hole("198.51.100.1", 25)
        waited, ended = self.attempt()
        self.assertEqual((round(waited), ended), (180, "connect"))

    def test_mta_sts(self) -> None:
        host = self.host("d.test", "198.51.100.1")
        self.names.add("_mta-sts.d.test", "TXT", '"v=STSv1; id=1;"')
        self.patch(remote, "PolicyHosts", _Silent)
        self.queued(TIMEOUTS, "mx_auth {\n mtasts\n}")
        before = self.reactor.seconds()
        self.send(b"u@d.test")
        self.reactor.run_while(lambda: not host.transactions, limit=1700)
        self.assertEqual(round(self.reactor.seconds() - before), 120)

    def test_what_the_seed_leaves_out_has_its_default(self) -> None:
        for name, step, seconds, content in (
            ("data_block", Step.BODY, 180, LARGE),
            ("final_dot", Step.DOT, 720, b""),
        ):
            with self.row(name):
                self.names = MemoryNames(self.reactor)
                waited, _ = self.hang(step, content=content)
                self.assertEqual(round(waited), seconds)


class _Silent:
    """Policy hosts that never answer."""

    def __init__(self, *_: object) -> None: ...

    async def fetch(self, domain: str) -> bytes:
        from twisted.internet.defer import Deferred

        never: Deferred[bytes] = Deferred()
        return await never
