"""`table.http` against a service on a real socket."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from mailgate.adapters import Adapters
from mailgate.clients.breaker import FAILURES
from mailgate.clients.web import WebFailure
from mailgate.net.waiting import as_deferred
from tests.modules.support import build_text, errors, instance

ANSWERS: dict[bytes, tuple[int, bytes]] = {
    b"/one": (200, b'"ann@store.test"'),
    b"/number": (200, b"7"),
    b"/list": (200, b'["a@x.test", "b@x.test", "a@x.test"]'),
    b"/true": (200, b"true"),
    b"/object": (200, b'{"id": 1}'),
    b"/null": (200, b"null"),
    b"/false": (200, b"false"),
    b"/none": (200, b"[]"),
    b"/missing": (404, b"no such thing"),
    b"/gone": (410, b""),
    b"/moved": (302, b""),
    b"/nocontent": (204, b""),
    b"/broken": (200, b"<html>"),
    b"/deep": (200, b"[" * 100_000),
    b"/mixed": (200, b'["a", {"b": 1}]'),
    b"/large": (200, b'"' + b"x" * (1 << 20) + b'"'),
    b"/error": (500, b""),
    b"/busy": (503, b'"ann"'),
    b"/nested": (200, b'{"mail": {"homes": ["a@x.test"]}}'),
    b"/nested-null": (200, b'{"mail": null}'),
    b"/nested-list": (200, b'{"mail": []}'),
}
VALUES: dict[str, tuple[str, ...] | None] = {
    "one": ("ann@store.test",),
    "number": ("7",),
    "list": ("a@x.test", "b@x.test"),
    "true": ("",),
    "object": ("",),
    **dict.fromkeys(("null", "false", "none", "missing", "gone"), ()),
    **dict.fromkeys(("moved", "nocontent", "broken", "deep", "mixed", "large", "error", "busy"), None),
}


class Service(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []
        self.is_silent = False

    def render(self, request: Any) -> Any:
        self.asked.append(request)
        if self.is_silent:
            return NOT_DONE_YET
        code, body = ANSWERS.get(request.uri, (404, b""))
        request.setResponseCode(code)
        if code == 302:
            request.setHeader(b"location", b"/one")
        return body


class HttpTableTests(TestCase):
    def setUp(self) -> None:
        self.service = Service()
        port: Any = reactor.listenTCP(0, Site(self.service), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        self.base = f"http://127.0.0.1:{port.getHost().port}"
        self.adapters = Adapters(reactor, lambda: 0.0, maybeDeferred, random.Random(0))

    def table(self, url: str = "/{key}", *lines: str) -> Any:
        block = "".join(f"    {line}\n" for line in lines)
        table = instance(f'table.http t "{self.base}{url}" {{\n{block}}}', "t", self.adapters)
        self.addCleanup(lambda: as_deferred(table.stop()))
        return table

    async def test_what_the_answers_mean(self) -> None:
        for key, values in VALUES.items():
            table = self.table()  # each with a breaker of its own
            if values is not None:
                self.assertEqual(await table.lookup(key), values, key)
            else:
                await self.assertFailure(as_deferred(table.lookup(key)), WebFailure)
            await table.stop()

    async def test_a_member_of_the_answer(self) -> None:
        table = self.table("/{key}", "member mail.homes")
        self.assertEqual(await table.lookup("nested"), ("a@x.test",))
        self.assertEqual(await table.lookup("nested-null"), ())
        self.assertEqual(await table.lookup("object"), ())
        await self.assertFailure(as_deferred(table.lookup("nested-list")), WebFailure)

    async def test_keys_are_encoded(self) -> None:
        table = self.table("/{domain}?user={localpart}")
        self.assertEqual(await table.lookup("a/b&c=%?#@x.test/../y"), ())
        self.assertEqual(self.service.asked[-1].uri, b"/x.test%2F..%2Fy?user=a%2Fb%26c%3D%25%3F%23")
        self.assertEqual(await table.lookup("ü@x.test"), ())
        self.assertEqual(self.service.asked[-1].uri, b"/x.test?user=%C3%BC")
        self.assertEqual(table.lookup("nodomain"), ())

    async def test_fields(self) -> None:
        table = self.table("/{key}", 'header Authorization "Bearer abc"', "header X-Who mailgate")
        await table.lookup("one")
        request = self.service.asked[-1]
        sent = [request.getHeader(name) for name in ("authorization", "x-who", "accept", "user-agent")]
        self.assertEqual(sent, ["Bearer abc", "mailgate", "application/json", "mailgate"])

    async def test_answers_are_kept_and_asked_once(self) -> None:
        table = self.table()
        first, second = table.lookup("one"), table.lookup("one")
        self.assertEqual(await first, await second)
        self.assertEqual(table.lookup("one"), ("ann@store.test",))
        self.assertEqual(len(self.service.asked), 1)

    async def test_a_connection_is_used_again(self) -> None:
        table = self.table("/{key}", "connections 1")
        await table.lookup("one")
        await table.lookup("list")
        first, second = self.service.asked
        self.assertEqual(first.getClientAddress().port, second.getClientAddress().port)

    async def test_a_service_that_is_silent(self) -> None:
        self.service.is_silent = True
        table = self.table("/{key}", "timeout 100ms")
        await self.assertFailure(as_deferred(table.lookup("one")), WebFailure)

    async def test_a_service_that_fails_is_left_alone(self) -> None:
        table = self.table("/{key}", "negative_cache 0")
        for _ in range(FAILURES):
            await self.assertFailure(as_deferred(table.lookup("busy")), WebFailure)
        error = await self.assertFailure(as_deferred(table.lookup("one")), WebFailure)
        self.assertIn("left alone", str(error))
        self.assertEqual(len(self.service.asked), FAILURES)

    async def test_a_key_that_makes_it_stumble_is_no_outage(self) -> None:
        """Whoever chooses keys must not be able to have the service left alone."""
        table = self.table("/{key}", "negative_cache 0")
        for key in ("error", "large"):
            for _ in range(FAILURES + 1):
                await self.assertFailure(as_deferred(table.lookup(key)), WebFailure)
            self.assertEqual(await table.lookup("one" if key == "error" else "list"), VALUES["one" if key == "error" else "list"])


class MistakeTests(SynchronousTestCase):
    def test_urls(self) -> None:
        for url in (
            "https://x.test/",
            "https://x.test/{address}",
            "ftp://x.test/{key}",
            "https:///{key}",
            "https://{domain}/{key}",
            "https://user:password@x.test/{key}",
            "https://x.test:port/{key}",
            "https://x.test/{key} more",
        ):
            self.assertEqual(errors(f'table.http t "{url}"'), ["E0842 1"], url)

    def test_fields_and_authorities(self) -> None:
        head = 'table.http t "https://x.test/{key}" {\n'
        self.assertEqual(errors(head + ' header "X Y" z\n}'), ["E0842 2"])
        self.assertEqual(errors(head + " root_ca /no/such.pem\n}"), ["E0842 2"])

    def test_a_secret_in_clear(self) -> None:
        for url, codes in (("http://x.test/{key}", ["W0840"]), ("http://127.0.0.1/{key}", []), ("https://x.test/{key}", [])):
            said = build_text(f'table.http t "{url}" {{\n header Authorization secret\n}}').diagnostics
            self.assertEqual([one.code for one in said if one.code == "W0840"], codes)
