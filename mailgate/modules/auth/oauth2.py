"""`auth.oauth2`: bearer tokens judged by an authorization server (RFC 7662)."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from math import isfinite
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

from zope.interface import implementer

from mailgate.clients.cache import Cache
from mailgate.clients.web import NoAuthority, WebClient, WebFailure, authorities
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import REQUIRED, Argument, Directive
from mailgate.interfaces import Identity, ITokenJudge, Proof
from mailgate.registry import Module, ModuleContext

MAX_BODY = 1 << 16
MAX_TOKEN = 8192
MAX_KNOWN = 10_000
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@implementer(ITokenJudge)
class OAuth2(Module):
    """Asks the introspection endpoint whether a token is good, and whose it is: XOAUTH2 and OAUTHBEARER. A token is good if it is
    active, has the scope and the audience that are wanted and has not expired. While the server can't be asked, clients hear
    454."""

    name = "auth.oauth2"
    proofs = frozenset({Proof.TOKEN})
    url = Argument("URL", v.String("URL"), doc="The introspection endpoint; https://, or http:// on this machine.")
    client = Directive(
        "client",
        v.Args(v.String("ID"), v.Secret("SECRET")),
        default=REQUIRED,
        doc="Who we are to the server (HTTP Basic, RFC 6749 2.3.1).",
    )
    user_claim = Directive(
        "user_claim", v.String("NAME"), default="username", doc="The member of the answer that is the user's name, `email` say."
    )
    scopes = Directive("scope", v.Strings("SCOPE"), default=(), doc="Scopes of which the token must have each.")
    audience = Directive("audience", v.String("NAME"), default="", doc="For whom the token must have been given (`aud`).")
    cache = Directive(
        "cache",
        v.Duration(maximum=3600),
        default=60.0,
        doc="How long a good token is taken for good without asking; 0: always ask.",
    )
    root_ca = Directive(
        "root_ca", v.List(v.Path()), default=(), doc="Files with the certificates to trust (PEM), in place of the system's."
    )
    timeout = Directive("timeout", v.Duration(minimum=0.1, maximum=60), default=5.0, doc="For the whole answer.")
    connections = Directive("connections", v.Integer(minimum=1, maximum=64), default=4, divided=True, doc="Connections at most.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._client: WebClient | None = None
        self._known: Cache[tuple[Any, ...]] | None = None
        self._key = b""

    def configure(self, report: Report) -> None:
        try:
            parts = urlsplit(self.url)
            parts.port  # noqa: B018  (it is read to be checked)
        except ValueError as error:
            report.error(self.span, f"no URL: {error}", code="E0846")
            return
        host = parts.hostname or ""
        if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
            report.error(self.span, "tokens go there: it must be an https:// URL", code="E0846", hint="https://host/introspect")
        elif not host or parts.username or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            report.error(self.span, "this is no URL of an endpoint", code="E0846", hint="https://host/introspect")
        try:
            authorities(self.root_ca)
        except NoAuthority as error:
            report.error(self.span_of("root_ca"), str(error), code="E0846")

    async def start(self) -> None:
        adapters = self.context.adapters
        assert adapters is not None
        self._key = adapters.random.getrandbits(256).to_bytes(32, "big")
        self._known = Cache(adapters.reactor.seconds, size=MAX_KNOWN, found=self.cache, missing=0)
        self._client = WebClient(
            self.label,
            adapters,
            timeout=self.timeout,
            connections=self.connections,
            max_body=MAX_BODY,
            root_ca=self.root_ca,
        )

    async def stop(self) -> None:
        if self._client is not None:
            await self._client.stop()

    def check_token(self, user: str, token: str) -> Any:
        """A user may give the name or none; another's token is nobody's."""
        if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable():
            return None
        return self._check(user, token)

    async def _check(self, user: str, token: str) -> Identity | None:
        assert self._known is not None
        assert self.context.adapters is not None

        async def ask(_: str) -> tuple[Any, ...]:
            return await self._introspect(token)

        digest = hmac.digest(self._key, token.encode(), "sha256").hex()  # so that no token is kept
        found = self._known.get(digest, ask)
        good = found if isinstance(found, tuple) else await found
        if not good:
            return None
        owner, expires = good
        if (expires and self.context.adapters.wall_time() >= expires) or user not in ("", owner):
            return None
        return Identity(owner)

    async def _introspect(self, token: str) -> tuple[Any, ...]:
        """Whose it is, and until when (seconds since the epoch, 0: not said); () if it is not good."""
        assert self._client is not None
        name, secret = self.client
        login = b64encode(f"{quote_plus(name)}:{quote_plus(secret.reveal())}".encode()).decode("ascii")
        fields = {
            "Authorization": [f"Basic {login}"],
            "Content-Type": ["application/x-www-form-urlencoded"],
            "Accept": ["application/json"],
        }
        body = urlencode({"token": token, "token_type_hint": "access_token"}).encode("ascii")
        answer = await self._client.ask("POST", self.url, fields, body)
        try:
            claims = json.loads(answer.body) if answer.code == 200 else None
        except (ValueError, RecursionError):
            claims = None
        if not isinstance(claims, dict) or not isinstance(claims.get("active"), bool):
            raise WebFailure(f"{self.label}: the answer ({answer.code}) is no introspection")
        return self._judged(claims)

    def _judged(self, claims: dict[str, Any]) -> tuple[Any, ...]:
        owner, expires, scope, audience = (claims.get(name) for name in (self.user_claim, "exp", "scope", "aud"))
        has = set(scope.split()) if isinstance(scope, str) else set()
        given_to = audience if isinstance(audience, list) else [audience]
        good = (
            claims["active"]
            and isinstance(owner, str)
            and bool(owner)
            and owner.isprintable()
            and has.issuperset(self.scopes)
            and (not self.audience or self.audience in given_to)
            and (expires is None or (isinstance(expires, int | float) and isfinite(expires)))
        )
        return (owner, float(expires or 0)) if good else ()
