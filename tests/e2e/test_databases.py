"""Tables and logins in a real PostgreSQL and a real Redis: what they find, what injection does, and servers that go and come."""

from __future__ import annotations

import random
from typing import Any

import pytest
import redis
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer
from twisted.trial.unittest import TestCase

from mailgate.adapters import Adapters
from mailgate.clients.threads import NoAnswer
from mailgate.limits.shared import Ask
from mailgate.net.waiting import as_deferred
from tests.modules.support import errors, instance
from tests.support.postgres import Postgres
from tests.support.redis import PASSWORD, RedisServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HASH = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"
HOSTILE = ("' OR '1'='1", "ann@x.test'--", "%(key)s", "{key}", "$1", "\\' OR 1=1 --", "ann@x.test; DROP TABLE aliases", "a\0b")


class _Asking(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.adapters = Adapters(reactor, lambda: 0.0, deferToThread, random.Random(0))

    def make(self, kind: str, *lines: str) -> Any:
        block = "".join(f"    {line}\n" for line in lines)
        made = instance(f"{kind} t {{\n{block}}}", "t", self.adapters)
        self.addCleanup(lambda: as_deferred(made.stop()))
        return made

    async def values(self, table: Any, key: str) -> tuple[str, ...]:
        found = table.lookup(key)
        return found if isinstance(found, tuple) else await found

    async def values_when_back(self, table: Any, key: str) -> tuple[str, ...]:
        """The breaker lets one through again after a pause; `timeout` bounds the waiting."""
        while True:
            try:
                return await self.values(table, key)
            except NoAnswer:
                await deferLater(reactor, 0.1)  # type: ignore[arg-type]


class PostgresTests(_Asking):
    def setUp(self) -> None:
        super().setUp()
        self.server = Postgres()
        self.addCleanup(self.server.close)
        self.dsn = self.server.database()
        for statement in (
            "CREATE TABLE aliases (name text, home text, copies int)",
            "INSERT INTO aliases VALUES ('ann@x.test', 'ann@store.test', 7), ('nil@x.test', NULL, NULL), ('50%', 'half', 1)",
            "CREATE TABLE users (name text, secret text)",
            f"INSERT INTO users VALUES ('ann', '{HASH}')",
        ):
            self.server.execute(self.dsn, statement)

    def table(self, query: str, *lines: str) -> Any:
        return self.make("table.sql", f'database postgres "{self.dsn}"', f'query "{query}"', "timeout 1s", *lines)

    async def test_values(self) -> None:
        table = self.table("SELECT home, copies FROM aliases WHERE name = {key} AND name LIKE '%'")
        self.assertEqual(await self.values(table, "ann@x.test"), ("ann@store.test", "7"))
        self.assertEqual(await self.values(table, "nil@x.test"), ())
        self.assertEqual(await self.values(table, "50%"), ("half", "1"))
        self.assertEqual(await self.values(table, "ben@x.test"), ())

    async def test_injection(self) -> None:
        table = self.table("SELECT home FROM aliases WHERE name = {key}", "negative_cache 0")
        for key in HOSTILE[:-1]:
            self.assertEqual(await self.values(table, key), (), key)
        await self.assertFailure(as_deferred(table.lookup(HOSTILE[-1])), NoAnswer)  # PostgreSQL has no NUL in texts
        self.assertEqual(len(self.server.execute(self.dsn, "SELECT name FROM aliases")), 3)

    async def test_nothing_is_written(self) -> None:
        table = self.table("INSERT INTO aliases (name) VALUES ({key}) RETURNING name")
        error = await self.assertFailure(as_deferred(table.lookup("x")), NoAnswer)
        self.assertIn("read-only", str(error))

    async def test_a_query_that_takes_long_ends(self) -> None:
        table = self.table("SELECT {key} FROM pg_sleep(30)")
        error = await self.assertFailure(as_deferred(table.lookup("x")), NoAnswer)
        self.assertIn("statement timeout", str(error))

    async def test_a_server_that_goes_and_comes_back(self) -> None:
        table = self.table("SELECT home FROM aliases WHERE name = {key}", "cache 0", "negative_cache 0", "connect_timeout 1s")
        self.assertEqual(await self.values(table, "ann@x.test"), ("ann@store.test",))
        self.server.stop()
        await self.assertFailure(as_deferred(table.lookup("ann@x.test")), NoAnswer)
        self.server.start()
        self.assertEqual(await self.values_when_back(table, "ann@x.test"), ("ann@store.test",))

    async def test_accounts(self) -> None:
        query = 'query "SELECT secret FROM users WHERE name = lower({username})"'
        provider = self.make("auth.sql", f'database postgres "{self.dsn}"', query)
        self.assertEqual((await provider.account("Ann")).secret, HASH)
        for name in HOSTILE[:-1]:
            self.assertIsNone(await provider.account(name), name)


class RedisTests(_Asking):
    def setUp(self) -> None:
        super().setUp()
        self.server = RedisServer()
        self.addCleanup(self.server.close)
        self.fill()

    def fill(self) -> None:
        with redis.Redis(port=self.server.port) as client:
            client.set("alias:ann@x.test", "ann@store.test")
            client.sadd("team:x.test", "b@x.test", "a@x.test")
            client.rpush("list:x.test", "b@x.test", "a@x.test")
            client.hset("user:ann", mapping={"home": "ann@store.test"})
            client.sadd("domains", "x.test")
            client.sadd("wide:x.test", *range(1001))

    def table(self, find: str, *lines: str) -> Any:
        return self.make("table.redis", f"server tcp://127.0.0.1:{self.server.port}", f"find {find}", *lines)

    async def test_values(self) -> None:
        for find, key, values in (
            ('string "alias:{key}"', "ann@x.test", ("ann@store.test",)),
            ('string "alias:{key}"', "ben@x.test", ()),
            ('set "team:{domain}"', "any@x.test", ("a@x.test", "b@x.test")),
            ('set "team:{domain}"', "any@y.test", ()),
            ('list "list:{domain}"', "any@x.test", ("b@x.test", "a@x.test")),
            ('field "user:{localpart}" home', "ann@x.test", ("ann@store.test",)),
            ('field "user:{localpart}" away', "ann@x.test", ()),
            ('field "user:{localpart}" home', "ann", ()),
            ("member domains", "x.test", ("",)),
            ("member domains", "y.test", ()),
        ):
            self.assertEqual(await self.values(self.table(find), key), values, (find, key))

    async def test_no_answers(self) -> None:
        for find in ('set "wide:{domain}"', 'string "team:{domain}"'):  # too many, and of another type
            await self.assertFailure(as_deferred(self.table(find).lookup("any@x.test")), NoAnswer)

    async def test_keys_are_keys(self) -> None:
        table = self.table('string "alias:{key}"')
        for key in ("*", "ann@x.test\r\nFLUSHALL\r\n", "{key}", "a b", "ann@x.test\0"):
            self.assertEqual(await self.values(table, key), (), key)
        self.assertEqual(await self.values(table, "ann@x.test"), ("ann@store.test",))

    async def test_with_a_login_over_a_unix_socket(self) -> None:
        table = self.make(
            "table.redis", f"server unix://{self.server.path}", f'login gateway "{PASSWORD}"', 'find string "alias:{key}"'
        )
        self.assertEqual(await self.values(table, "ann@x.test"), ("ann@store.test",))
        wrong = self.make("table.redis", f"server unix://{self.server.path}", "login gateway wrong", 'find string "alias:{key}"')
        await self.assertFailure(as_deferred(wrong.lookup("ann@x.test")), NoAnswer)

    async def test_a_server_that_goes_and_comes_back(self) -> None:
        table = self.table('string "alias:{key}"', "cache 0", "negative_cache 0")
        self.assertEqual(await self.values(table, "ann@x.test"), ("ann@store.test",))
        self.server.kill()
        await self.assertFailure(as_deferred(table.lookup("ann@x.test")), NoAnswer)
        self.server.start()
        self.fill()
        self.assertEqual(await self.values_when_back(table, "ann@x.test"), ("ann@store.test",))

    def test_mistakes(self) -> None:
        for find in ('string "alias"', 'string "{address}"', 'field "user:x" y'):
            self.assertEqual(errors(f"table.redis t {{\n find {find}\n}}"), ["E0844 2"], find)


class _Forgetful(ProxyClient):
    """Loses one answer, and the connection with it, when it is told to."""

    def dataReceived(self, data: bytes) -> None:
        factory: Any = self.peer.factory
        if factory.loses:
            factory.loses -= 1
            self.peer.transport.abortConnection()
            return
        super().dataReceived(data)


class _ForgetfulFactory(ProxyClientFactory):
    protocol = _Forgetful


class _ForgetfulServer(ProxyServer):
    clientProtocolFactory = _ForgetfulFactory


class Between(ProxyFactory):
    """Between a gateway and its server; ``loses`` answers are lost on the way, though the server has done what it was asked."""

    noisy = False
    protocol = _ForgetfulServer
    loses = 0


class CounterTests(_Asking):
    """Two gateways, each with a counter of its own, on one Redis."""

    def setUp(self) -> None:
        super().setUp()
        self.server = RedisServer()
        self.addCleanup(self.server.close)

    async def counter(self, *lines: str) -> Any:
        made = self.make("counter.redis", f"server tcp://127.0.0.1:{self.server.port}", *lines)
        await made.start()
        return made

    async def test_a_rate_of_all_together(self) -> None:
        one, two = await self.counter(), await self.counter()
        ask = [Ask("ip rate:192.0.2.1", 10, 3600.0)]
        taken = [await (one, two)[number % 2].take(ask) for number in range(20)]
        self.assertEqual([one.refused for one in taken], [-1] * 10 + [0] * 10)
        self.assertEqual((await two.take([Ask("ip rate:192.0.2.2", 10, 3600.0)])).refused, -1)

    async def test_tokens_ahead_of_time(self) -> None:
        counter = await self.counter()
        ask = [Ask("all rate:*", 1, 100.0, 250.0)]
        delays = [(await counter.take(ask)).delay for _ in range(3)]
        for delay, expected in zip(delays, (0, 100, 200), strict=True):
            self.assertLess(abs(delay - expected), 5)
        self.assertEqual((await counter.take(ask)).refused, 0)

    async def test_slots_of_all_together(self) -> None:
        one, two = await self.counter(), await self.counter()
        ask = [Ask("all rate:*", 1000, 1.0), Ask("all concurrency:*", 2)]
        first, second = await one.take(ask), await two.take(ask)
        self.assertEqual((first.refused, second.refused), (-1, -1))
        self.assertEqual((await two.take(ask)).refused, 1)
        one.give_back(first)
        one.give_back(first)
        while (third := await two.take(ask)).refused >= 0:  # giving back is not waited for
            await deferLater(reactor, 0.02)  # type: ignore[arg-type]
        self.assertEqual((await one.take(ask)).refused, 1)
        for taken in (second, third):
            two.give_back(taken)

    async def test_all_or_nothing(self) -> None:
        counter = await self.counter()
        held = await counter.take([Ask("slots", 1)])
        for _ in range(5):
            self.assertEqual((await counter.take([Ask("rate", 1, 3600.0), Ask("slots", 1)])).refused, 1)
        counter.give_back(held)
        while (await counter.take([Ask("rate", 1, 3600.0), Ask("slots", 1)])).refused == 1:
            await deferLater(reactor, 0.02)  # type: ignore[arg-type]

    async def test_slots_of_who_died_are_free_after_a_while_and_those_of_who_lives_are_not(self) -> None:
        dead, alive = await self.counter(), await self.counter("prefix other")
        with redis.Redis(port=self.server.port) as client:
            for counter in (dead, alive):
                await counter.take([Ask("slots", 1)])
            for key in client.keys("*slots"):  # a minute later
                for holder in client.zrange(key, 0, -1):
                    client.zincrby(key, -59.5e6, holder)
            await alive._renew_all()
            while (await dead.take([Ask("slots", 1)])).refused >= 0:
                await deferLater(reactor, 0.1)  # type: ignore[arg-type]
            self.assertEqual((await alive.take([Ask("slots", 1)])).refused, 0)

    async def test_a_question_whose_answer_is_lost_is_counted_once(self) -> None:
        between = Between("127.0.0.1", self.server.port)
        port = reactor.listenTCP(0, between, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        counter = self.make("counter.redis", f"server tcp://127.0.0.1:{port.getHost().port}")
        self.addCleanup(counter.stop)
        asks = [Ask("rate", 4, 3600.0), Ask("slots", 3)]
        await counter.take(asks)  # from here on there is an idle link, and the server knows the script
        for _ in range(2):
            between.loses = 1
            taken = await counter.take(asks)
            self.assertEqual((taken.refused, between.loses), (-1, 0))
        self.assertEqual((await counter.take(asks)).refused, 1)
        self.assertEqual((await counter.take(asks[:1])).refused, -1)
        self.assertEqual((await counter.take(asks[:1])).refused, 0)

    async def test_a_server_that_is_gone_is_a_failure(self) -> None:
        counter = await self.counter()
        await counter.take([Ask("slots", 1)])
        self.server.kill()
        await self.assertFailure(as_deferred(counter.take([Ask("slots", 1)])), NoAnswer)
