"""HTTP with JSON, on twisted.web: the table of routes, who may take them, and the answers.

Versions are in the path (``/v1/``): within one, fields are added, never changed or removed. Every answer but /metrics is a JSON
object; an error is ``{"error": "…"}`` with its status. Requests are small: a body over `MAX_BODY` is refused before it is
read, one of unknown length when it has become too long; a connection that says nothing is closed after `IDLE` seconds, and
there are at most `MAX_CONNECTIONS`.
"""

from __future__ import annotations

import email.policy  # noqa: F401  twisted.web imports it with the first POST, when we may no longer read where Python lives
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from mailgate.admin.access import Access, is_plain_host, peer_uid
from mailgate.events import EventLog
from mailgate.net.waiting import spawn
from mailgate.registry.administration import Role

MAX_BODY = 1 << 16
IDLE = 60
MAX_CONNECTIONS = 50

_events = EventLog("mailgate.admin")


@dataclass(frozen=True, slots=True)
class Answer:
    """``body`` is an object for JSON, or text ready to be sent as ``kind``."""

    status: int
    body: Any
    kind: str = "application/json"


class Fault(Exception):
    """The request can't be met: a status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Question:
    """What a view is asked: the query of the URL, and the JSON object in the body, {} without; and by whom."""

    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    who: str = ""
    """``uid 1000 (operate)``, or ``a token (admin)``: for the record of what was done."""


View = Callable[[Question], "Answer | Awaitable[Answer]"]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    role: Role
    view: View
    public: bool = False
    """Answered to everyone where monitoring is."""


class Door(Site):
    """One socket's side of HTTP. ``access`` changes with the configuration."""

    displayTracebacks = False

    def __init__(self, routes: Mapping[str, Mapping[str, Route]], access: Access) -> None:
        super().__init__(_Router(routes, self), requestFactory=_Request, timeout=IDLE)  # type: ignore[no-untyped-call]
        self.access = access
        self.noisy = False
        self._open = 0

    def buildProtocol(self, addr: Any) -> Any:
        if self._open >= MAX_CONNECTIONS:
            return None
        channel: Any = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        self._open += 1
        lost = channel.connectionLost

        def connection_lost(reason: Any) -> None:
            self._open -= 1
            lost(reason)

        channel.connectionLost = connection_lost
        return channel

    def log(self, request: Any) -> None:
        """What is done is logged by those who do it."""


def table(routes: list[Route]) -> dict[str, dict[str, Route]]:
    """By path, then by method."""
    found: dict[str, dict[str, Route]] = {}
    for route in routes:
        found.setdefault(route.path, {})[route.method] = route
    return found


class _Request(Request):
    """Refuses bodies that are too long, and answers nothing else itself."""

    _refused = False

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)  # type: ignore[no-untyped-call]
        if length is not None and length > MAX_BODY:
            self._too_long()

    def handleContentChunk(self, data: bytes) -> None:
        assert self.content is not None
        if self.content.tell() + len(data) > MAX_BODY:
            self._too_long()
        elif not self._refused:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]

    def process(self) -> None:
        if not self._refused:
            super().process()  # type: ignore[no-untyped-call]

    def _too_long(self) -> None:
        if self._refused:
            return
        self._refused = True
        channel = cast(Any, self.channel)
        body = json.dumps({"error": f"a body has at most {MAX_BODY} octets"}).encode()
        head = "HTTP/1.1 413 Content Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
        channel.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        channel.loseConnection()


class _Router(Resource):
    isLeaf = True

    def __init__(self, routes: Mapping[str, Mapping[str, Route]], door: Door) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._routes = routes
        self._door = door

    def render(self, request: Any) -> Any:
        try:
            answer = self._answer(request)
        except Fault as fault:
            return _send(request, Answer(fault.status, {"error": str(fault)}))
        except Exception as error:
            return _send(request, _incident(error))
        if isinstance(answer, Answer):
            return _send(request, answer)
        waiting: Deferred[Answer] = spawn(cast(Any, answer))
        gone = request.notifyFinish()
        gone.addErrback(lambda _: waiting.cancel())
        waiting.addErrback(_explained)
        waiting.addCallback(lambda found: _finish(request, found))
        return NOT_DONE_YET

    def _answer(self, request: Any) -> Any:
        path = request.path.decode("ascii", "replace")
        methods = self._routes.get(path)
        if methods is None:
            raise Fault(404, f"there is no {path}")
        method = request.method.decode("ascii", "replace")
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            request.setHeader("Allow", ", ".join(methods))
            raise Fault(405, f"{path} takes {', '.join(methods)}")
        who = self._admit(request, route)
        return route.view(Question(_query(request), _body(request), who))

    def _admit(self, request: Any, route: Route) -> str:
        access = self._door.access
        uid = peer_uid(request.channel.transport)
        authorization = request.getHeader(b"authorization")
        role = access.role(uid, authorization)
        if role >= route.role or (route.public and access.monitored and is_plain_host(request.getHeader(b"host"))):
            return f"{'a token' if uid is None else f'uid {uid}'} ({role.word})"
        if role is Role.NOBODY and authorization is None:
            request.setHeader("WWW-Authenticate", "Bearer")
            raise Fault(401, f"this needs the role {route.role.word}: say a token, or use the control socket")
        raise Fault(403, f"this needs the role {route.role.word}" + (f", you have {role.word}" if role else ""))


def _query(request: Any) -> dict[str, str]:
    return {name.decode("utf-8", "replace"): values[-1].decode("utf-8", "replace") for name, values in request.args.items()}


def _body(request: Any) -> dict[str, Any]:
    data = request.content.read()
    if not data:
        return {}
    if (request.getHeader(b"content-type") or b"").partition(b";")[0].strip().lower() != b"application/json":
        raise Fault(415, "the body is no application/json")  # nor can a form in a browser send any
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Fault(400, f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Fault(400, "the body is no JSON object")
    return found


def _send(request: Any, answer: Answer) -> bytes:
    request.setResponseCode(answer.status, http.RESPONSES.get(answer.status))
    request.setHeader("Content-Type", answer.kind)
    request.setHeader("Cache-Control", "no-store")
    request.setHeader("X-Content-Type-Options", "nosniff")
    text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body, ensure_ascii=False) + "\n"
    return text.encode()


def _finish(request: Any, answer: Answer) -> None:
    if not request._disconnected:
        data = _send(request, answer)
        request.setHeader("Content-Length", str(len(data)))
        request.write(data)
        request.finish()


def _explained(failure: Any) -> Answer:
    if failure.check(CancelledError):
        return Answer(503, {"error": "cancelled"})
    if failure.check(Fault):
        return Answer(failure.value.status, {"error": str(failure.value)})
    return _incident(failure.value)


def _incident(error: BaseException) -> Answer:
    _events.incident("admin", error)
    return Answer(500, {"error": "internal error, see the log"})
