"""`auth.oauth2` against an introspection endpoint on a real socket."""

from __future__ import annotations

import json
import random
from base64 import b64decode
from typing import Any
from urllib.parse import parse_qs

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from mailgate.adapters import Adapters
from mailgate.clients.web import WebFailure
from mailgate.interfaces import Identity
from mailgate.net.waiting import as_deferred
from tests.modules.support import errors, instance

NOW = 1_000_000.0


class Endpoint(Resource):
    isLeaf = True
    answer: Any = {"active": False}
    code = 200

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, dict[str, list[str]]]] = []

    def render_POST(self, request: Any) -> bytes:
        login = b64decode(request.getHeader("authorization").removeprefix("Basic ")).decode()
        self.asked.append((login, parse_qs(request.content.read().decode())))
        request.setResponseCode(self.code)
        return self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()


GOOD = {"active": True, "username": "ann", "scope": "openid smtp", "aud": ["mail", "web"], "exp": NOW + 10}


class OAuth2Tests(TestCase):
    def setUp(self) -> None:
        self.endpoint = Endpoint()
        port: Any = reactor.listenTCP(0, Site(self.endpoint), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        self.url = f"http://127.0.0.1:{port.getHost().port}/introspect"
        self.now = NOW
        self.adapters = Adapters(reactor, lambda: self.now, maybeDeferred, random.Random(0))

    async def judge(self, *lines: str) -> Any:
        block = "".join(f"    {line}\n" for line in ('client "gate way" "s:cret"', *lines))
        made = instance(f'auth.oauth2 t "{self.url}" {{\n{block}}}', "t", self.adapters)
        await made.start()
        self.addCleanup(lambda: as_deferred(made.stop()))
        return made

    async def test_who_is_let_in(self) -> None:
        strict = ("scope smtp", "audience mail")
        for claims, lines, user, owner in (
            (GOOD, (), "ann", "ann"),
            (GOOD, (), "", "ann"),
            (GOOD, (), "ben", None),
            (GOOD, strict, "", "ann"),
            ({**GOOD, "aud": "mail"}, strict, "", "ann"),
            ({**GOOD, "scope": "smtpx"}, strict, "", None),
            ({**GOOD, "scope": None}, strict, "", None),
            ({**GOOD, "aud": "mailx"}, strict, "", None),
            ({**GOOD, "aud": None}, strict, "", None),
            ({**GOOD, "active": False}, (), "", None),
            ({**GOOD, "exp": NOW}, (), "", None),
            ({**GOOD, "exp": float("nan")}, (), "", None),
            ({**GOOD, "exp": "never"}, (), "", None),
            ({**GOOD, "username": None}, (), "", None),
            ({**GOOD, "username": ""}, (), "", None),
            ({**GOOD, "username": "a\nb"}, (), "", None),
            ({**GOOD, "email": "ann@x.test"}, ("user_claim email",), "", "ann@x.test"),
        ):
            self.endpoint.answer = claims
            judge = await self.judge(*lines)
            found = await judge.check_token(user, "token")
            self.assertEqual(found, Identity(owner) if owner else None, (claims, lines, user))
            await judge.stop()

    async def test_what_is_asked(self) -> None:
        judge = await self.judge()
        await judge.check_token("", "a&b=c+d/e")
        login, form = self.endpoint.asked[0]
        self.assertEqual(login, "gate+way:s%3Acret")
        self.assertEqual(form, {"token": ["a&b=c+d/e"], "token_type_hint": ["access_token"]})

    async def test_no_answer_is_no_verdict(self) -> None:
        for code, answer in ((500, GOOD), (401, GOOD), (200, b"no JSON"), (200, []), (200, {}), (200, {"active": "true"})):
            self.endpoint.code, self.endpoint.answer = code, answer
            judge = await self.judge()
            await self.assertFailure(as_deferred(judge.check_token("", "token")), WebFailure)
            await judge.stop()

    async def test_a_good_token_is_known_for_a_while_and_no_longer_than_it_lives(self) -> None:
        self.endpoint.answer = GOOD
        judge = await self.judge()
        for _ in range(3):
            self.assertEqual(await judge.check_token("", "token"), Identity("ann"))
        self.assertEqual(len(self.endpoint.asked), 1)
        self.now += 10
        self.assertIsNone(await judge.check_token("", "token"))

    async def test_a_bad_token_is_asked_for_again(self) -> None:
        judge = await self.judge()
        self.assertIsNone(await judge.check_token("", "token"))
        self.endpoint.answer = GOOD
        self.assertEqual(await judge.check_token("", "token"), Identity("ann"))

    async def test_what_is_no_token_is_not_asked_for(self) -> None:
        judge = await self.judge()
        for token in ("", "a\r\nb", "ü", "x" * 8193):
            self.assertIsNone(judge.check_token("", token))
        self.assertEqual(self.endpoint.asked, [])

    def test_mistakes(self) -> None:
        for url in ("http://login.test/", "ftp://login.test/", "https://", "https://a:b@login.test/", "https://x.test:y/"):
            self.assertEqual(errors(f'auth.oauth2 t "{url}" {{\n client a b\n}}'), ["E0846 1"], url)
