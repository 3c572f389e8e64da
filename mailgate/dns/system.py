"""The system's own files: /etc/resolv.conf (resolv.conf(5)) and /etc/hosts (hosts(5)).

Of resolv.conf count ``nameserver`` (three, as everywhere) and the options ``timeout`` and ``attempts``. ``search``, ``domain``
and ndots are for people at a prompt: names of mail are complete, and `example.org.corp.example` must never get the mail
of example.org.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

MAX_SERVERS = 3
MAX_TIMEOUT = 30
MAX_ATTEMPTS = 5
"""The limits of glibc."""

MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class ResolvConf:
    servers: tuple[str, ...] = ("127.0.0.1",)
    """A system without the file asks its own machine."""
    timeout: float = 5.0
    attempts: int = 2


@dataclass(frozen=True, slots=True)
class Hosts:
    """``addresses`` by name in lower case, ``names`` by address: the first of its line."""

    addresses: dict[str, tuple[str, ...]]
    names: dict[str, str]


NO_HOSTS = Hosts({}, {})


def parse_resolv_conf(text: str) -> ResolvConf:
    servers: list[str] = []
    numbers = {"timeout": 5, "attempts": 2}
    limits = {"timeout": MAX_TIMEOUT, "attempts": MAX_ATTEMPTS}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and len(words) > 1 and _is_address(words[1]):
            servers.append(words[1])
        elif words[0] == "options":
            for option in words[1:]:
                name, _, number = option.partition(":")
                if name in numbers and number.isascii() and number.isdigit():
                    numbers[name] = min(max(int(number[:6]), 1), limits[name])
    return ResolvConf(tuple(servers[:MAX_SERVERS]) or ("127.0.0.1",), float(numbers["timeout"]), numbers["attempts"])


def parse_hosts(text: str) -> Hosts:
    addresses: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2 or not _is_address(words[0]):
            continue
        address = words[0] if "%" in words[0] else str(ipaddress.ip_address(words[0]))
        names.setdefault(address, words[1].removesuffix("."))
        for name in words[1:]:
            known = addresses.setdefault(name.lower().removesuffix("."), [])
            if address not in known:
                known.append(address)
    return Hosts({name: tuple(found) for name, found in addresses.items()}, names)


def read_resolv_conf(path: str = "/etc/resolv.conf") -> ResolvConf:
    return parse_resolv_conf(_read(path))


def read_hosts(path: str = "/etc/hosts") -> Hosts:
    return parse_hosts(_read(path))


def _read(path: str) -> str:
    """The file's text; "" if there is none, as libc has it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MAX_FILE)
    except OSError:
        return ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
