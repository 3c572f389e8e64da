"""Greylisting that several gateways share, in a real Redis and PostgreSQL: the rules, two nodes, servers that go and come."""

from __future__ import annotations

import smtplib
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from twisted.trial.unittest import SynchronousTestCase

from mailgate.clients.greylist import Seen
from mailgate.clients.greylist_postgres import PostgresGreylist, PostgresLink
from mailgate.clients.greylist_redis import RedisGreylist
from mailgate.clients.redis_link import RedisAccess, RedisLink
from mailgate.clients.threads import Unanswerable
from mailgate.config.places import SecretText
from tests.support.greylist import DAY, NET, NOW, WAITING, Life
from tests.support.invariants import check_log
from tests.support.ports import free_ports
from tests.support.postgres import Postgres, shared
from tests.support.process import GatewayProcess
from tests.support.redis import RedisServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DEADLINE = 30.0


class RedisStoreTests(Life, SynchronousTestCase):
    def setUp(self) -> None:
        self.server = RedisServer()
        self.addCleanup(self.server.close)
        self.link = self.linked()
        self.now = NOW
        self.greylist = RedisGreylist("grey", WAITING, clock=lambda: self.now)

    def linked(self) -> RedisLink:
        link = RedisLink(RedisAccess(host="127.0.0.1", port=self.server.port))
        self.addCleanup(link.close)
        return link

    def seen(self, after: float, sender: str = "a@x.test", network: str = NET) -> Seen:
        self.now = NOW + after
        return self.greylist.seen(self.link, network, sender, "b@y.test")

    def test_what_lies_there_ends_and_names_nobody(self) -> None:
        greylist = RedisGreylist("grey", WAITING, most=10, clock=lambda: self.now)
        for number in range(50):
            self.now = NOW + number
            greylist.seen(self.link, NET, f"{number}@x.test", "b@y.test")
        client: Any = self.link.client
        self.assertEqual(client.zcard("{grey}:pending"), 10)
        self.now = NOW + 349
        self.assertEqual(greylist.seen(self.link, NET, "49@x.test", "b@y.test"), Seen.PASSED)
        self.assertEqual(greylist.seen(self.link, NET, "1@x.test", "b@y.test"), Seen.EARLY, "the oldest were forgotten")
        keys = client.keys("*")
        self.assertEqual({key.partition(":")[0] for key in keys}, {"{grey}"})
        self.assertTrue(all(0 < client.ttl(key) <= 36 * DAY for key in keys), keys)
        self.assertNotIn("x.test", str([client.zrange(key, 0, -1) for key in keys if not key.endswith("counts")]))
        self.now = NOW + 40 * DAY
        greylist.seen(self.link, NET, "new@x.test", "b@y.test")
        cards = [client.zcard(f"{{grey}}:{name}") for name in ("pending", "known", "networks")]
        self.assertEqual((cards, client.hlen("{grey}:counts")), ([1, 0, 0], 0))

    def test_the_servers_clock(self) -> None:
        greylist = RedisGreylist("grey", WAITING)
        self.assertEqual(greylist.seen(self.link, NET, "a@x.test", "b@y.test"), Seen.EARLY)
        with redis.Redis(port=self.server.port, decode_responses=True) as client:
            ((member, score),) = client.zrange("{grey}:pending", 0, -1, withscores=True)
            self.assertLess(abs(time.time() - score), 60)
            client.zadd("{grey}:pending", {member: score - 300})
        self.assertEqual(greylist.seen(self.linked(), NET, "a@x.test", "b@y.test"), Seen.PASSED)


class PostgresStoreTests(Life, SynchronousTestCase):
    def setUp(self) -> None:
        self.server = shared()
        self.dsn = self.server.database()
        self.link = self.linked()
        self.greylist = PostgresGreylist(WAITING)

    def linked(self) -> PostgresLink:
        link = PostgresLink(SecretText(self.dsn), 5)
        self.addCleanup(link.close)
        return link

    def at(self, after: float, greylist: PostgresGreylist | None = None) -> None:
        (greylist or self.greylist).clock = f"{NOW + after!r}::float8"

    def seen(self, after: float, sender: str = "a@x.test", network: str = NET) -> Seen:
        self.at(after)
        return self.greylist.seen(self.link, network, sender, "b@y.test")

    def rows(self, table: str = "greylist_triples") -> int:
        return int(self.server.execute(self.dsn, f"SELECT count(*) FROM {table}")[0][0])

    def test_what_lies_there_ends(self) -> None:
        greylist = PostgresGreylist(WAITING, most=10)
        for number in range(50):
            self.at(number, greylist)
            greylist.seen(self.link, NET, f"{number}@x.test", "b@y.test")
        self.assertEqual(greylist.sweep(self.link), 40)
        self.assertEqual((greylist.sweep(self.link), self.rows()), (0, 10))
        self.at(349, greylist)
        self.assertEqual(greylist.seen(self.link, NET, "49@x.test", "b@y.test"), Seen.PASSED)
        self.at(3 * DAY, greylist)
        self.assertEqual((greylist.sweep(self.link), self.rows(), self.rows("greylist_networks")), (9, 1, 1))
        self.at(40 * DAY, greylist)
        self.assertEqual((greylist.sweep(self.link), self.rows(), self.rows("greylist_networks")), (2, 0, 0))

    def test_many_at_once(self) -> None:
        """Eight nodes make the tables and ask at the same time: one of them sees it pass."""
        self.dsn = self.server.database()
        with ThreadPoolExecutor(8) as pool:
            links = list(pool.map(lambda _: self.linked(), range(8)))
            for after, expected in ((0, [Seen.EARLY] * 8), (300, [Seen.KNOWN] * 7 + [Seen.PASSED])):
                self.at(after)
                found = pool.map(lambda link: self.greylist.seen(link, NET, "a@x.test", "b@y.test"), links)
                self.assertEqual(sorted(found, key=lambda one: one.value), expected)

    def test_the_servers_clock(self) -> None:
        greylist = PostgresGreylist(WAITING)
        self.assertEqual(greylist.seen(self.link, NET, "a@x.test", "b@y.test"), Seen.EARLY)
        self.server.execute(self.dsn, "UPDATE greylist_triples SET first = first - 300")
        self.assertEqual(greylist.seen(self.linked(), NET, "a@x.test", "b@y.test"), Seen.PASSED)

    def test_a_name_that_is_none_is_no_outage(self) -> None:
        for sender in ("a\0b", "\udcff"):
            self.assertRaises(Unanswerable, self.greylist.seen, self.link, NET, sender, "b@y.test")
        self.assertEqual(self.seen(0, sender="'); DROP TABLE greylist_triples --"), Seen.EARLY)
        self.assertEqual(self.seen(0), Seen.EARLY)


CONFIG = """\
hostname gateway.test
state_dir {home}
runtime_dir {home}
tls off
smtp tcp://127.0.0.1:{port} {{
    proxy_protocol {{
        trust 127.0.0.1
        required yes
    }}
    reverse_lookup no
    check {{
        greylist {{
            store {store} {{
                timeout 500ms
            }}
            delay 1s
            {on_error}
        }}
    }}
    discard
}}
"""
PASSED, GREYLISTED, UNASKED, REFUSED = (250, b"2.1.5"), (451, b"4.7.1"), (451, b"4.3.0"), (550, b"5.7.1")


class NodeTests(SynchronousTestCase):
    """Two gateways on one server; the second one refuses for good what it can't judge."""

    def nodes(self, store: str) -> None:
        self.ports = free_ports(2)
        self.gateways = []
        for number, (port, on_error) in enumerate(zip(self.ports, ("", 'on_error reject 550 5.7.1 "no"'), strict=True)):
            directory = tempfile.TemporaryDirectory(prefix=f"mailgate-e2e-{number}-")
            self.addCleanup(directory.cleanup)
            config = Path(directory.name) / "mailgate.conf"
            config.write_text(CONFIG.format(home=directory.name, port=port, store=store, on_error=on_error))
            self.gateways.append(GatewayProcess(config).wait_until_ready())
            self.addCleanup(self.gateways[-1].kill)

    def ask(self, node: int, sender: str = "a@x.test") -> tuple[int, bytes]:
        """What RCPT hears from 192.0.2.7."""
        with socket.create_connection(("127.0.0.1", self.ports[node]), 20) as connection:
            connection.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n")
            client = smtplib.SMTP(timeout=20)
            client.sock = connection
            self.assertEqual(client.getreply()[0], 220)
            client.ehlo("client.test")
            client.mail(sender)
            code, text = client.rcpt("b@y.test")
            return code, text[:5]

    def until(self, node: int, expected: tuple[int, bytes], *before: tuple[int, bytes]) -> None:
        """It hears this, and before only those."""
        end = time.monotonic() + DEADLINE
        while (heard := self.ask(node)) != expected:
            self.assertIn(heard, before)
            self.assertLess(time.monotonic(), end)

    def whole_life(self) -> None:
        self.assertEqual(self.ask(0), GREYLISTED)
        self.until(1, PASSED, GREYLISTED)
        self.assertEqual(self.ask(0), PASSED)
        self.assertEqual(self.ask(0, "other@x.test"), GREYLISTED)

    def down(self) -> None:
        for _ in range(5):
            self.assertEqual((self.ask(0), self.ask(1)), (UNASKED, REFUSED))

    def finish(self) -> None:
        for gateway in self.gateways:
            check_log(gateway.stop())

    def test_redis(self) -> None:
        server = RedisServer()
        self.addCleanup(server.close)
        self.nodes(f"redis tcp://127.0.0.1:{server.port}")
        self.whole_life()
        server.kill()
        self.down()
        server.start()  # it knows nobody any more
        self.until(0, GREYLISTED, UNASKED)
        self.until(1, PASSED, GREYLISTED, REFUSED)
        self.until(0, PASSED, UNASKED)
        self.finish()

    def test_postgres(self) -> None:
        server = Postgres()
        self.addCleanup(server.close)
        self.nodes(f'postgres "{server.database()}"')
        self.whole_life()
        server.stop()
        self.down()
        server.start()
        self.until(0, PASSED, UNASKED)
        self.until(1, PASSED, REFUSED)
        server.freeze()
        self.addCleanup(server.thaw)
        self.down()
        server.thaw()
        self.until(0, PASSED, UNASKED)
        self.finish()

    def test_a_gateway_starts_while_its_server_is_not_there(self) -> None:
        server = RedisServer()
        self.addCleanup(server.close)
        server.kill()
        self.nodes(f"redis tcp://127.0.0.1:{server.port}")
        self.down()
        server.start()
        self.until(0, PASSED, GREYLISTED, UNASKED)
        self.finish()
