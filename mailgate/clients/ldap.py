"""An LDAP directory (RFC 4511) behind several servers, asked without blocking the reactor.

`Directory` is one configuration's. ldap3 blocks, so each question runs in a thread of a pool of the directory's own, as many as
it may have connections; a thread has a connection for itself while it asks, and leaves it for the next one (`ldap_link.Link`).
The contract:

- A question is put to the first server in written order that is not left alone by its `Breaker`. Any exception closes the
  connection it happened on, and the question goes once more to the next such server, on a connection made for it where there is
  only one.
- What comes then is `LdapFailure`, and so is everything that is no answer: all servers down, a result code that says nothing
  about the key, too many entries, too many questions. An empty answer always means that the directory said so.
- Nothing waits for ever: connecting, TLS and each answer have their time, the whole question `deadline`, after which the
  connection is torn from the thread. `WAITING` questions wait for a thread at most.
- Every value of a key goes through `fill`, which escapes it (RFC 4515 3, RFC 4514 2.4) and never reads it for placeholders.
- Names of servers are asked of the gateway's own resolver; a certificate must be for the name that stands in the configuration.

Passwords of users are judged on connections of their own, closed afterwards: no connection that asks is ever bound as a user.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from threading import Thread
from typing import Any, Generic, TypeVar

from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import escape_rdn
from twisted.internet.defer import CancelledError
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from mailgate.adapters import Adapters
from mailgate.clients.breaker import Breaker
from mailgate.clients.ldap_link import Access, LdapFailure, Link, Server, ServerTrouble, trouble
from mailgate.net.waiting import DeadlineExceeded, within

T = TypeVar("T")

WAITING = 256
"""Questions that wait for a thread: beyond it a failure at once, since the directory does not keep up."""
IDLE = 30.0
"""Seconds for which a connection is kept that nobody uses: servers and firewalls forget them after minutes."""
ATTEMPTS = 2
MAX_ADDRESSES = 2
"""Of one server's name that are tried."""
_SPACE = re.compile(r"\s")
_BARE_HASH = re.compile(r"(?<!^\\)#")
PLACEHOLDER = re.compile(r"\{([a-z]+)\}")


def in_filter(value: str) -> str:
    """A value as it stands in a filter. ldap3 takes white space off the ends of what it reads, so that is escaped too."""
    escaped: str = escape_filter_chars(value)
    return _SPACE.sub(lambda match: "".join(f"\\{octet:02x}" for octet in match[0].encode()), escaped)


def in_dn(value: str) -> str:
    """A value as it stands in a DN: ldap3 escapes `#` at the beginning only, and reads it nowhere without."""
    escaped: str = escape_rdn(value)
    return _BARE_HASH.sub(r"\\#", escaped)


def fill(template: str, values: Mapping[str, str], escape: Callable[[str], str]) -> str:
    """The template with each ``{name}`` replaced by its value, escaped. Braces in values stay what they are."""
    return PLACEHOLDER.sub(lambda match: escape(values[match[1]]), template)


class Directory:
    """See the module's docstring. ``run_in_thread(function)`` and ``connect`` are a test's; the directory has threads of its
    own."""

    def __init__(
        self,
        access: Access,
        adapters: Adapters,
        *,
        run_in_thread: Callable[[Callable[[], Any]], Any] | None = None,
        connect: Callable[..., Any] = Link,
    ) -> None:
        self.access = access
        self.connect = connect
        self._adapters = adapters
        self._run = run_in_thread or self._run_in_pool
        self._threads: ThreadPool | None = None
        self._breakers = {server: Breaker(adapters.reactor.seconds) for server in access.servers}
        self._idle: dict[Server, list[tuple[Any, float]]] = {server: [] for server in access.servers}
        self._context: ssl.SSLContext | None = None
        self._busy: set[_Question[Any]] = set()
        self._under_way = 0
        self.deadline = access.connect_timeout * 2 * MAX_ADDRESSES + access.timeout * 3
        """Seconds for one attempt: connecting, TLS, bind and the answer, some waiting for a thread included."""

    async def ask(self, work: Callable[[Any], T], *, apart: bool = False) -> T:
        """What ``work``, called in a thread, makes of a `Link`. ``apart``: of one that is made for it and closed then.

        :raises LdapFailure: nobody could say."""
        if self._under_way >= WAITING + self.access.connections:
            raise LdapFailure("too many questions wait for the directory")
        self._under_way += 1
        try:
            return await self._ask(work, apart)
        finally:
            self._under_way -= 1

    async def stop(self) -> None:
        """Close all connections; whoever waits for an answer hears a failure."""
        for question in self._busy:
            question.abort()
        for links in self._idle.values():
            while links:
                links.pop()[0].close()
        if self._threads is not None:
            threads, self._threads = self._threads, None
            await self._adapters.run_in_thread(threads.stop)  # it waits for each

    async def _ask(self, work: Callable[[Any], T], apart: bool) -> T:
        last: ServerTrouble | None = None
        for server in self._candidates():
            breaker = self._breakers[server]
            if not breaker.begin():
                continue
            try:
                answer = await self._attempt(_Question(self, server, work, apart, last is not None))
            except ServerTrouble as error:
                last = error
                (breaker.failed if error.counts else breaker.gave_up)()
            except LdapFailure:
                breaker.succeeded()  # it has answered
                raise
            except BaseException:
                breaker.gave_up()
                raise
            else:
                breaker.succeeded()
                return answer
        raise last or LdapFailure("no LDAP server is in order")

    def _candidates(self) -> list[Server]:
        """Whom to ask, one behind the other: those that are not left alone, the only one twice."""
        usable = [server for server in self.access.servers if not self._breakers[server].is_open][:ATTEMPTS]
        return usable * ATTEMPTS if len(usable) == 1 else usable

    async def _attempt(self, question: _Question[T]) -> T:
        self._busy.add(question)
        try:
            question.addresses = await self._addresses(question.server)
            answer: T = await within(self._run(question.put), self.deadline, self._adapters.reactor)
            return answer
        except DeadlineExceeded as error:
            question.abort()
            raise ServerTrouble(f"{question.server}: {error}") from error
        except CancelledError:
            question.abort()
            raise
        finally:
            self._busy.discard(question)

    async def _addresses(self, server: Server) -> tuple[str, ...]:
        if self._adapters.resolver is None:
            return (server.host,)
        try:
            found = await self._adapters.resolver.addresses(server.host)
        except CancelledError:
            raise
        except Exception as error:
            raise ServerTrouble(f"{server}: {error}") from error
        addresses: tuple[str, ...] = (*found.ipv6[:1], *found.ipv4[:1])
        if not addresses:
            raise ServerTrouble(f"{server}: the name has no address")
        return addresses

    def _run_in_pool(self, function: Callable[[], Any]) -> Any:
        if self._threads is None:
            self._threads = ThreadPool(0, self.access.connections, "mailgate-ldap")
            self._threads.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
            self._threads.start()
        return deferToThreadPool(self._adapters.reactor, self._threads, function)

    # In threads

    def context(self) -> ssl.SSLContext:
        if self._context is None:  # two threads may make one each
            self._context = self.access.tls_context()
        return self._context

    def take(self, server: Server) -> Any:
        """A connection that nobody uses, the last used one; None if there is none of use."""
        idle = self._idle[server]
        while True:
            try:
                link, since = idle.pop()
            except IndexError:
                return None
            if self._adapters.reactor.seconds() < since + IDLE:
                return link
            link.close()

    def give_back(self, link: Any) -> None:
        self._idle[link.server].append((link, self._adapters.reactor.seconds()))


class _Question(Generic[T]):
    """One question to one server: `put` is called in a thread, `abort` by the reactor."""

    addresses: tuple[str, ...] = ()

    def __init__(self, directory: Directory, server: Server, work: Callable[[Any], T], apart: bool, is_second: bool) -> None:
        self.server = server
        self._directory = directory
        self._work = work
        self._apart = apart
        self._is_second = is_second
        """After trouble: on a connection of its own making, since the idle ones may be as old as the one that failed."""
        self._link: Any = None
        self._is_aborted = False

    def put(self) -> T:
        """:raises LdapFailure: there is no answer."""
        link = None if self._apart or self._is_second else self._directory.take(self.server)
        is_used = link is not None
        if link is None:
            link = self._connected()
        self._link = link
        try:
            if self._is_aborted:
                raise LdapFailure("nobody waits for the answer any more")
            answer = self._work(link)
        except Exception as error:  # whatever it is: this connection is not used again
            self._link = None
            link.close()
            raise trouble(self.server, error, is_used=is_used) from error
        self._link = None
        if self._apart or self._is_aborted:
            link.close()
        else:
            self._directory.give_back(link)
        return answer

    def _connected(self) -> Any:
        directory = self._directory
        access = directory.access.unbound() if self._apart else directory.access
        failure: LdapFailure | None = None
        for address in self.addresses:
            if self._is_aborted:
                break
            try:
                return directory.connect(access, directory.context(), self.server, address)
            except Exception as error:
                failure = failure or trouble(self.server, error, is_used=False)
        raise failure or LdapFailure("nobody waits for the answer any more")

    def abort(self) -> None:
        self._is_aborted = True
        if self._link is not None:
            self._link.abort()
