"""The types of values that point somewhere: endpoints, networks, paths, secrets."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import dataclass

import idna

from mailgate.config.diagnostics import Problem
from mailgate.config.expression_types import ADDRESS, Type
from mailgate.config.lexer import Token
from mailgate.config.line import Scope, Value
from mailgate.config.source import Span
from mailgate.config.suggest import did_you_mean

MAX_UNIX_PATH = 107
"""Octets of a unix socket's path that every system takes (sun_path)."""

MAX_SECRET = 1 << 16


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """One address to deliver to or to listen on. ``port`` is 0 where none was given and none is the default;
    ``path`` is a unix socket's, ``host`` a name, an address, "*", a domain (mx) or a descriptor's name (fd)."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" if self.port else f"{self.scheme}://{host}"


_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)\Z", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:/\[\]@?#]*)(?::([^:/]*))?\Z")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")
_MEANT = {"smtp": "tcp", "lmtp": "tcp", "smtps": "tls", "ssl": "tls", "inet": "tcp", "local": "unix"}


class Endpoint(Value):
    """An address to deliver to, or (``listen``) to listen on. Without ``default_port`` a missing port is 0."""

    def __init__(self, default_port: int | None = None, *, listen: bool = False, schemes: tuple[str, ...] = ()) -> None:
        self.default_port = default_port
        self.listen = listen
        self.schemes = schemes or (("tcp", "tls", "unix", "fd") if listen else ("tcp", "tls", "unix"))

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return "ADDRESS" if self.listen else "ENDPOINT"

    def parse_word(self, word: Token, scope: Scope) -> EndpointAddress:
        match = _URL.match(word.text)
        if not match:
            raise self._no_scheme(word)
        scheme, rest = match.group(1).lower(), match.group(2)
        if scheme not in self.schemes:
            meant = _MEANT.get(scheme, "")
            hint = f"did you mean `{meant}`?" if meant in self.schemes else did_you_mean(scheme, self.schemes)
            if scheme == "mx" and not self.listen:
                hint = "to the MX hosts of one domain: `target.remote` with `route mx://DOMAIN`"
            notes = (f"possible: {', '.join(name + '://' for name in self.schemes)}",)
            place = _part(word, 0, len(scheme))
            raise Problem(place, f"`{scheme}://` is not possible here", code="E0506", hint=hint, notes=notes)
        if scheme == "unix":
            return EndpointAddress(scheme, path=_socket_path(word, rest, scope))
        if scheme == "fd":
            if not re.fullmatch(r"[\w.-]+", rest):
                raise Problem(word.span, "`fd://` needs the name of a descriptor", code="E0506", hint="such as `fd://smtp`")
            return EndpointAddress(scheme, host=rest)
        return self._authority(word, scheme, rest)

    def _no_scheme(self, word: Token) -> Problem:
        opaque = re.match(r"(tcp|tls|unix|fd|mx):(?!//)(?:/(?=[^/]*:))?(.*)", word.text, re.DOTALL)
        if opaque:
            hint = f"did you mean `{opaque.group(1)}://{opaque.group(2)}`?"
        elif word.text.startswith("/"):
            hint = f"did you mean `unix://{word.shown}`?"
        elif self.listen and re.fullmatch(r"[^\W\d][\w-]*", word.text):
            hint = f"such as `tcp://127.0.0.1:25`; what is delivered to is a target: `target.lmtp {word.shown}`"
        else:
            hint = f"did you mean `tcp://{word.shown}`?"
        notes = (f"an address begins with {', '.join(name + '://' for name in self.schemes)}",)
        return Problem(word.span, f"`{word.shown}` is no address", code="E0506", hint=hint, notes=notes)

    def _authority(self, word: Token, scheme: str, rest: str) -> EndpointAddress:
        offset = len(scheme) + 3
        match = _AUTHORITY.match(rest)
        if not match:
            hint = _bracketed(scheme, rest)
            notes = ("an IPv6 address stands in brackets", f"expected: {scheme}://host:port")
            raise Problem(
                _part(word, offset, len(word.text)), f"`{word.shown}` is no address", code="E0506", hint=hint, notes=notes
            )
        host = match.group(1)
        place = _part(word, offset + match.start(1), offset + max(match.end(1), match.start(1) + 1))
        port = 0
        if match.group(2) is not None:
            port_place = _part(word, offset + match.start(2), offset + max(match.end(2), match.start(2) + 1))
            if not re.fullmatch(r"[0-9]{1,5}", match.group(2)) or not 0 < int(match.group(2)) < 65536:
                hint = "addresses stand apart with spaces, without commas" if match.group(2).endswith(",") else "1 to 65535"
                raise Problem(port_place, f"`{match.group(2)}` is no port", code="E0506", hint=hint)
            port = int(match.group(2))
        if scheme == "mx":
            if port or _address(host.strip("[]")):
                raise Problem(place, "`mx://` takes a domain alone", code="E0506")
            return EndpointAddress(scheme, _host_name(host, place))
        if self.listen:
            return EndpointAddress(scheme, self._listening_host(host, port, word, place), port)
        if not port and self.default_port is not None:
            port = 465 if scheme == "tls" else self.default_port
        return EndpointAddress(scheme, _host(host, place), port)

    def _listening_host(self, host: str, port: int, word: Token, place: Span) -> str:
        if not port:
            raise Problem(word.span.behind(), "to listen, a port is needed", code="E0506", hint="such as `:25`")
        if host == "*":
            return host
        if not host:
            raise Problem(place, "to listen, an address is needed", code="E0506", hint="`*` means all addresses")
        address = _address(host.strip("[]"))
        if address is None:
            hint = "such as `127.0.0.1`, or `*` for all"
            raise Problem(place, f"to listen, an IP address is needed, not `{host}`", code="E0506", hint=hint)
        return str(address)


class OpenedEndpoint(Endpoint):
    """An address that the gateway opens itself, so that no other line of the file can have it."""

    def __init__(self, *, schemes: tuple[str, ...]) -> None:
        super().__init__(listen=True, schemes=schemes)

    def parse_word(self, word: Token, scope: Scope) -> EndpointAddress:
        address = super().parse_word(word, scope)
        for other, place in scope.opened:
            if _collide(address, other):
                notes = (f"`{other}` is at {place}",)
                hint = "each is opened once: one listener has it"
                raise Problem(word.span, f"`{address}` is opened already", code="E0725", hint=hint, notes=notes)
        scope.opened.append((address, word.span))
        return address


def _collide(one: EndpointAddress, other: EndpointAddress) -> bool:
    """Whether only one of them can be had."""
    if one.path or other.path:
        return one.path == other.path
    return one.port == other.port and (one.host == other.host or _covers(one.host, other.host) or _covers(other.host, one.host))


def _covers(wildcard: str, host: str) -> bool:
    """Whether it is all addresses, or all of the family of ``host``."""
    return wildcard == "*" or wildcard == ("::" if ":" in host else "0.0.0.0")


def _socket_path(word: Token, path: str, scope: Scope) -> str:
    place = _part(word, len("unix://"), len(word.text))
    if os.path.basename(path) in ("", ".", ".."):
        raise Problem(place if path else word.span.behind(), "`unix://` needs the path of a socket", code="E0506")
    full = path if path.startswith("/") else _relative(path, word, scope.runtime_dir)
    if len(os.fsencode(full)) > MAX_UNIX_PATH:
        raise Problem(place, f"the path of a socket has at most {MAX_UNIX_PATH} octets", code="E0506", notes=(f"it is {full}",))
    return full


def _bracketed(scheme: str, rest: str) -> str:
    """The hint for an IPv6 address that stands without its brackets."""
    bare = rest.strip("[]")
    head, _, port = bare.rpartition(":")
    if port.isdigit() and int(port) and _address(head):
        return f"did you mean `{scheme}://[{head}]:{port}`?"
    return f"did you mean `{scheme}://[{bare}]:…`?" if _address(bare) else ""


def _host(host: str, place: Span) -> str:
    if host.startswith("["):
        address = _address(host[1:-1])
        if address is None or address.version != 6:
            raise Problem(place, f"`{host}` is no IPv6 address", code="E0506")
        return str(address)
    return _host_name(host, place)


def _host_name(host: str, place: Span) -> str:
    """A host name in its ASCII form, or an IPv4 address."""
    if not host:
        raise Problem(place, "a host is needed here", code="E0506")
    if re.fullmatch(r"[0-9.]+", host):
        if _address(host) is None:
            raise Problem(place, f"`{host}` is no IPv4 address", code="E0506")
        return host
    name = host
    if not host.isascii():
        try:
            name = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError:
            name = ""
    if not all(_LABEL.match(label) for label in name.removesuffix(".").split(".")) or len(name) > 253:
        raise Problem(place, f"`{host}` is no host name", code="E0506")
    return name


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


class OwnName(Value):
    """A name that we greet with: a domain, in its ASCII form, or an address literal (RFC 5321 4.1.2)."""

    metavar = "NAME"

    def parse_word(self, word: Token, scope: Scope) -> str:
        name = word.text
        try:
            if not name.startswith("[") and _address(name) is None:
                return _host_name(name, word.span)
            if name.startswith("[") and name.endswith("]") and _address(re.sub(r"(?i:^IPv6:(?=.*:))", "", name[1:-1])):
                return name
        except Problem:
            pass
        hint = "a domain, such as `mx.example.org`, or an address in brackets"
        raise Problem(word.span, f"`{word.shown}` can't be said in EHLO", code="E0736", hint=hint)


class Address(Value):
    """An IP address; the value is an `ipaddress` address."""

    metavar = "ADDRESS"

    def parse_word(self, word: Token, scope: Scope) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        address = _address(word.text)
        if address is None or "%" in word.text:
            hint = "such as `192.0.2.1` or `2001:db8::1`"
            raise Problem(word.span, f"`{word.shown}` is no address", code="E0507", hint=hint)
        return address

    @property
    def result(self) -> Type:
        return ADDRESS


def _unmapped(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """``::ffff:10.0.0.0/104`` is 10.0.0.0/8: addresses of clients never come in IPv6 clothes (RFC 4291 2.5.5.2)."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


class Network(Value):
    """An address, or a network in CIDR form; the value is an `ipaddress` network."""

    metavar = "NETWORK"

    def parse_word(self, word: Token, scope: Scope) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        try:
            return _unmapped(ipaddress.ip_network(word.text))
        except ValueError:
            pass
        try:
            meant = ipaddress.ip_network(word.text, strict=False)
        except ValueError:
            hint = "such as `192.0.2.1`, `10.0.0.0/8` or `2001:db8::/32`"
            raise Problem(word.span, f"`{word.shown}` is neither an address nor a network", code="E0507", hint=hint) from None
        message = f"`{word.shown}` has bits set behind its mask"
        raise Problem(word.span, message, code="E0507", hint=f"did you mean `{meant}`?")


class Path(Value):
    """A path, made absolute: relative to state_dir, or with ``./`` to the file it stands in (``of_file``: always to the file)."""

    def __init__(self, metavar: str = "PATH", *, of_file: bool = False) -> None:
        self.metavar = metavar
        self.of_file = of_file

    def parse_word(self, word: Token, scope: Scope) -> str:
        if not word.text:
            raise Problem(word.span, "an empty path", code="E0510")
        if "\0" in word.text:
            raise Problem(word.span, "a path has no NUL in it", code="E0510")
        return _relative(word.text, word, "" if self.of_file else scope.state_dir)


def _relative(path: str, word: Token, directory: str) -> str:
    if os.path.isabs(path):
        return os.path.normpath(path)
    if not directory or path.startswith("./"):
        directory = os.path.dirname(os.path.abspath(word.span.path))
    return os.path.normpath(os.path.join(directory, path))


class SecretText:
    """A secret: printed as ``***`` everywhere, given away by `reveal` alone."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretText) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not serialised")


class Secret(Value):
    """A secret, written there, or in a file (``file:/path``), or in the environment (``env:NAME``)."""

    def __init__(self, metavar: str = "SECRET") -> None:
        self.metavar = metavar

    def parse_word(self, word: Token, scope: Scope) -> SecretText:
        kind, colon, rest = word.text.partition(":")
        if colon and kind == "file":
            return SecretText(self._file(word, _relative(rest, word, scope.state_dir) if rest else "", scope))
        if colon and kind == "env":
            value = scope.environment.get(rest)
            if value is None:
                raise Problem(word.span, f"the environment has no `{rest}`", code="E0508")
            return SecretText(value)
        _hide(word)
        if not word.text:
            raise Problem(word.span, "an empty secret", code="E0508")
        return SecretText(word.text)

    def _file(self, word: Token, path: str, scope: Scope) -> str:
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(MAX_SECRET + 1) if stat.S_ISREG(mode) else b""
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise Problem(word.span, f"the secret in {path} is not UTF-8", code="E0508") from None
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
            raise Problem(word.span, f"can't read the secret: {path or 'no path'}: {reason}", code="E0508") from None
        text = text.removesuffix("\n").removesuffix("\r")
        if not text or len(data) > MAX_SECRET:
            raise Problem(word.span, f"{path} holds no secret: it is empty, too large or no file", code="E0508")
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            hint = f"chmod o-rwx {path}"
            scope.report.warning(word.span, f"everybody can read or write the secret in {path}", code="W0508", hint=hint)
        return text


def _hide(word: Token) -> None:
    spans = [word.span, *(step.span for step in word.span.via.chain() if step.kind == "macro")] if word.span.via else [word.span]
    for span in spans:
        if span.source is not None and span.text and not span.text.startswith("$("):
            span.source.secrets.append((span.start, span.end))


def _part(word: Token, start: int, end: int) -> Span:
    """The place of a piece of a word, where its text stands in the file just so."""
    return word.span.part(start, end) if not word.quoted and word.span.text == word.text else word.span
