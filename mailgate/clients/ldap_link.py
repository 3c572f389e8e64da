"""One connection to an LDAP server (RFC 4511): the blocking half of `clients.ldap`, called in its threads only.

A `Link` is used by one thread at a time and never mends itself: whatever goes wrong with it, it is closed and another one made.
ldap3 does the protocol in its SAFE_SYNC strategy, with no schema fetched and no referral followed. TLS is not ldap3's: its
verification falls back to the common name and to rules of its own, so the standard library's, which is made for it, looks at the
certificate (RFC 6125, RFC 4513 3.1.3).
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import ldap3
from ldap3.core.exceptions import LDAPCommunicationError, LDAPException

from mailgate.config.places import SecretText

SUCCESS, SIZE_LIMIT, COMPARE_FALSE, COMPARE_TRUE, NO_SUCH_ATTRIBUTE, NO_SUCH_OBJECT = 0, 4, 5, 6, 16, 32
OUT_OF_ORDER = frozenset({51, 52})
"""busy, unavailable: the server answers, and says that it can't."""
WRONG_CREDENTIALS = frozenset({19, NO_SUCH_OBJECT, 48, 49})
"""What a bind with a user's password may end with that is an answer: constraintViolation (too many failures, some servers say),
noSuchObject, inappropriateAuthentication (an entry without a password), invalidCredentials."""
MAX_ENTRIES = 1000
"""For one question: who is listed in so many entries is no recipient but a mistake in the filter."""


class Bind(Enum):
    """How a link says who we are."""

    OFF = "off"
    PLAIN = "plain"
    EXTERNAL = "external"


class Scope(Enum):
    """Where a search looks, from its base on."""

    BASE = "base"
    ONE = "one"
    SUB = "sub"


_SCOPES = {Scope.BASE: ldap3.BASE, Scope.ONE: ldap3.LEVEL, Scope.SUB: ldap3.SUBTREE}


class LdapFailure(Exception):
    """The directory could not say."""


class ServerTrouble(LdapFailure):
    """Another server may know better, or this one on another connection. ``counts``: the fault is the server's, or that of the
    way to it, and its breaker hears of it."""

    def __init__(self, text: str, *, counts: bool = True) -> None:
        super().__init__(text)
        self.counts = counts


@dataclass(frozen=True, slots=True)
class Server:
    """``is_tls``: TLS from the first octet."""

    host: str
    port: int
    is_tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'ldaps' if self.is_tls else 'ldap'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Access:
    """How a directory is reached: all of its servers in the same way. Seconds are of one step: of connecting (TLS included),
    and of one answer."""

    servers: tuple[Server, ...]
    starttls: bool = False
    bind: Bind = Bind.OFF
    dn: str = ""
    password: SecretText = field(default=SecretText(""))
    authorities: tuple[str, ...] = ()
    """Files; the system's authorities if there are none."""
    certificate: str | None = None
    key: str | None = None
    connect_timeout: float = 5.0
    timeout: float = 5.0
    connections: int = 4

    def unbound(self) -> Access:
        """For connections that begin as nobody's."""
        return replace(self, bind=Bind.OFF)

    def tls_context(self) -> ssl.SSLContext:
        """:raises OSError: a file is missing, or of no use."""
        context = ssl.create_default_context()
        if self.authorities:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            for path in self.authorities:
                context.load_verify_locations(path)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.hostname_checks_common_name = False
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Entry:
    """What a search found: the attributes that were asked for, by name in lower case."""

    dn: str
    attributes: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Search:
    """``limit``: more entries than this are a failure (or, with ``is_capped``, not looked at)."""

    base: str
    scope: Scope
    filter: str
    attributes: tuple[str, ...] = ()
    limit: int = MAX_ENTRIES
    is_capped: bool = False


class _Tls(ldap3.Tls):  # type: ignore[misc]
    def __init__(self, context: ssl.SSLContext, name: str, seconds: float) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._context = context
        self._name = name
        self._seconds = seconds

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        plain = connection.socket
        before = plain.gettimeout()
        plain.settimeout(self._seconds)
        connection.socket = self._context.wrap_socket(plain, server_hostname=self._name)
        connection.socket.settimeout(before)


class Link:
    """A connection that is open, verified if it has TLS, and bound as `Access` says."""

    def __init__(self, access: Access, context: ssl.SSLContext, server: Server, address: str) -> None:
        """:raises ServerTrouble: it can't be had."""
        self.server = server
        has_tls = server.is_tls or access.starttls
        self._connection = ldap3.Connection(
            ldap3.Server(
                address,
                server.port,
                use_ssl=server.is_tls,
                get_info=ldap3.NONE,
                tls=_Tls(context, server.host, access.connect_timeout) if has_tls else None,
                connect_timeout=access.connect_timeout,
            ),
            auto_bind=ldap3.AUTO_BIND_NONE,
            client_strategy=ldap3.SAFE_SYNC,
            receive_timeout=math.ceil(access.timeout),
            auto_referrals=False,
            auto_escape=False,
            check_names=False,
            raise_exceptions=False,
        )
        try:
            self._connection.open(read_server_info=False)
            if access.starttls and not server.is_tls:
                self._connection.start_tls(read_server_info=False)
                if not self._connection.tls_started:  # what start_tls returns is always true in this strategy
                    raise ServerTrouble(f"{server}: STARTTLS did not come about")
            self._bind(access)
        except ServerTrouble:
            self.close()
            raise
        except Exception as error:  # ldap3 lets through what sockets, TLS and its decoder raise
            self.close()
            raise ServerTrouble(f"{server}: {error}") from error

    def _bind(self, access: Access) -> None:
        if access.bind is Bind.OFF:
            return
        if access.bind is Bind.EXTERNAL:
            self._connection.authentication = ldap3.SASL
            self._connection.sasl_mechanism = ldap3.EXTERNAL
            self._connection.sasl_credentials = b""
            code, text = _result(self._connection.bind(read_server_info=False))
        else:
            code, text = self._simple_bind(access.dn, access.password.reveal())
        if code != SUCCESS:
            raise ServerTrouble(f"{self.server}: it does not let us bind: {text}")

    def _simple_bind(self, dn: str, password: str) -> tuple[int, str]:
        if not dn or not password:  # RFC 4513 5.1.2: a server may say yes to that, whoever it is
            raise LdapFailure("a bind without a name or a password proves nothing")
        connection = self._connection
        if connection.closed:  # ldap3 would open it again, without TLS
            raise ServerTrouble(f"{self.server}: the connection is lost")
        connection.user, connection.password, connection.authentication = dn, password, ldap3.SIMPLE
        try:
            return _result(connection.bind(read_server_info=False))
        finally:
            connection.password = None

    def search(self, search: Search) -> tuple[Entry, ...]:
        """:raises LdapFailure: there is no answer, or too much of one."""
        _, result, response, _ = self._connection.search(
            search.base,
            search.filter,
            _SCOPES[search.scope],
            attributes=list(search.attributes) or [ldap3.NO_ATTRIBUTES],
            size_limit=search.limit,
            time_limit=self._connection.receive_timeout,
        )
        code, text = result["result"], result["description"]
        if code != SUCCESS and not (search.is_capped and code == SIZE_LIMIT):
            raise self._failure(code, text)
        found = [one for one in response or () if one["type"] == "searchResEntry"]
        return tuple(self._entry(one, search.attributes) for one in found)

    def _entry(self, one: dict[str, Any], wanted: Sequence[str]) -> Entry:
        known = {name.lower(): values for name, values in one["raw_attributes"].items()}
        try:
            attributes = {name.lower(): tuple(value.decode() for value in known.get(name.lower(), ())) for name in wanted}
        except UnicodeDecodeError as error:
            raise LdapFailure(f"{self.server}: a value of {one['dn']} is not UTF-8") from error
        return Entry(one["dn"], attributes)

    def compare(self, dn: str, attribute: str, value: str) -> bool:
        """:raises LdapFailure: the server could not say."""
        code, text = _result(self._connection.compare(dn, attribute, value))
        if code not in (COMPARE_TRUE, COMPARE_FALSE, NO_SUCH_ATTRIBUTE, NO_SUCH_OBJECT):
            raise self._failure(code, text)
        return code == COMPARE_TRUE

    def login(self, dn: str, password: str) -> bool:
        """Whether the password is right. The link belongs to that user afterwards: it is closed, and serves nobody else.

        :raises LdapFailure: the server could not say."""
        code, text = self._simple_bind(dn, password)
        if code != SUCCESS and code not in WRONG_CREDENTIALS:
            raise self._failure(code, text)
        return code == SUCCESS

    def _failure(self, code: int, text: str) -> LdapFailure:
        return (ServerTrouble if code in OUT_OF_ORDER else LdapFailure)(f"{self.server}: {text}")

    def abort(self) -> None:
        """From another thread: whoever waits for this server waits no longer."""
        connected = self._connection.socket
        if connected is not None:
            try:
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # TLS must not be touched: a thread is in it
            except OSError:
                pass  # it is closed already

    def close(self) -> None:
        try:
            self._connection.strategy.close()
        except (LDAPException, OSError):
            pass  # there is nothing left to close


def trouble(server: Server, error: Exception, *, is_used: bool) -> LdapFailure:
    """What ``error``, which came of a link, means. A connection that was used before may just have been too old."""
    if isinstance(error, LdapFailure) and not isinstance(error, ServerTrouble):
        return error
    counts = not is_used and isinstance(error, ServerTrouble | LDAPCommunicationError | OSError)
    return ServerTrouble(str(error) if isinstance(error, ServerTrouble) else f"{server}: {error!r}", counts=counts)


def _result(answer: Any) -> tuple[int, str]:
    """Of what SAFE_SYNC returns: (status, result, response, request)."""
    result = answer[1]
    text = f"{result['description']}: {result['message']}" if result["message"] else result["description"]
    return result["result"], text
