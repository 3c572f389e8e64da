"""`table.http`: a service that answers in JSON."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit

from zope.interface import implementer

from mailgate.clients.ldap import PLACEHOLDER
from mailgate.clients.web import NoAuthority, WebAnswer, WebClient, WebFailure, authorities
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import Argument, Directive
from mailgate.interfaces import ITable
from mailgate.modules._asked import KEY_PARTS, AskedTable, parts_of
from mailgate.registry import ModuleContext

MAX_BODY = 1 << 20
_NO_MATCH = frozenset({404, 410})
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


@implementer(ITable)
class HttpTable(AskedTable):
    """The answer to a GET: 404 and 410 are no match, 200 has the values as JSON, and everything else is no answer, so that
    clients hear 451. A string or a number is one value, a list has one for each of its members; null, false and an empty
    list are no match; true and an object are a match with an empty value."""

    name = "table.http"
    url = Argument("URL", v.String("URL"), doc="What is asked. {key}, {localpart} and {domain} are percent-encoded.")
    headers = Directive(
        "header", v.Args(v.String("NAME"), v.Secret("VALUE")), repeatable=True, doc="A field of the request, a token say."
    )
    member = Directive(
        "member",
        v.String("PATH"),
        default="",
        doc="Where in the answer the values are: names of objects' members, with dots between.",
    )
    root_ca = Directive(
        "root_ca", v.List(v.Path()), default=(), doc="Files with the certificates to trust (PEM), in place of the system's."
    )
    connections = Directive("connections", v.Integer(minimum=1, maximum=64), default=4, divided=True, doc="Connections at most.")
    timeout = Directive("timeout", v.Duration(minimum=0.1, maximum=60), default=5.0, doc="For the whole answer.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._client: WebClient | None = None
        self.wanted_parts = frozenset(PLACEHOLDER.findall(self.url or ""))

    def configure(self, report: Report) -> None:
        names = PLACEHOLDER.findall(self.url)
        hint = "possible: " + ", ".join(f"{{{name}}}" for name in KEY_PARTS)
        if wrong := [name for name in names if name not in KEY_PARTS]:
            report.error(self.span, f"`{{{wrong[0]}}}` stands for nothing here", code="E0842", hint=hint)
            return
        if not names:
            report.error(self.span, "without a placeholder the answer is the same for everybody", code="E0842", hint=hint)
            return
        if trouble := _trouble_with(self.url):
            report.error(self.span, trouble, code="E0842", hint="https://host/path/{key}")
            return
        for item in self.items:
            if item.name == "header" and not (_FIELD.match(item.value[0]) and item.value[1].reveal().isprintable()):
                report.error(item.span, "this is no field of a request", code="E0842")
        try:
            authorities(self.root_ca)
        except NoAuthority as error:
            report.error(self.span_of("root_ca"), str(error), code="E0842")
        if self.headers and _is_clear(self.url):
            report.warning(self.span, "what the header lines say goes over the network in clear", code="W0840", hint="https://")

    async def ask(self, key: str) -> tuple[str, ...]:
        filled = parts_of(key)
        url = PLACEHOLDER.sub(lambda match: quote(filled[match[1]], safe=""), self.url)
        fields: dict[str, list[str]] = {"Accept": ["application/json"]}
        for name, value in self.headers:
            fields.setdefault(name, []).append(value.reveal())
        answer = await self._web().ask("GET", url, fields)
        if answer.code in _NO_MATCH:
            return ()
        return tuple(dict.fromkeys(_values(self._content(answer))))

    def _content(self, answer: WebAnswer) -> Any:
        if answer.code != 200:
            raise WebFailure(f"{self.label}: the answer is {answer.code}")
        try:
            content = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise WebFailure(f"{self.label}: the answer is no JSON") from error
        for name in self.member.split(".") if self.member else ():
            if content is None:
                return None
            if not isinstance(content, dict):
                raise WebFailure(f"{self.label}: the answer has no place for `{self.member}`")
            content = content.get(name)
        return content

    def _web(self) -> WebClient:
        if self._client is None:
            assert self.context.adapters is not None
            self._client = WebClient(
                self.label,
                self.context.adapters,
                timeout=self.timeout,
                connections=self.connections,
                max_body=MAX_BODY,
                root_ca=self.root_ca,
            )
        return self._client

    async def stop(self) -> None:
        if self._client is not None:
            await self._client.stop()


def _values(content: Any) -> Iterable[str]:
    """:raises WebFailure: a list with something in it that is no value."""
    if content is None or content is False:
        return ()
    if content is True or isinstance(content, dict):
        return ("",)
    if not isinstance(content, list):
        return (str(content),)
    if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in content):
        raise WebFailure("a list in the answer has more in it than strings and numbers")
    return [str(one) for one in content]


def _trouble_with(url: str) -> str:
    try:
        parts = urlsplit(PLACEHOLDER.sub("x", url))
        parts.port  # noqa: B018  (it is read to be checked)
    except ValueError as error:
        return f"no URL: {error}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "this is no http:// or https:// URL"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "a URL has printable ASCII without spaces"
    if "{" in url.split("/", 3)[2]:
        return "a key may not choose the host that is asked"
    if parts.username or parts.password:
        return "a password has no place in a URL: `header Authorization …`"
    return ""


def _is_clear(url: str) -> bool:
    parts = urlsplit(PLACEHOLDER.sub("x", url))
    if parts.scheme == "https":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname != "localhost"
