"""What the language can name: built-in modules by folder, a third party's by entry point, and the few words of their own."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import re
from functools import cache

from mailgate.registry.module import Module

WORDS = {
    "smtp": "mailgate.inbound.esmtp",
    "lmtp": "mailgate.inbound.lmtp",
    "submission": "mailgate.inbound.submission",
    "msgpipeline": "mailgate.pipeline.module",
    "checks": "mailgate.registry.module",
    "modifiers": "mailgate.registry.module",
    "limits": "mailgate.limits.block",
    "test": "mailgate.pipeline.testblock",
    "admin": "mailgate.admin.settings",
    "tls_client": "mailgate.outbound.tls_client",
    "pki": "mailgate.outbound.pki",
    "mx_auth": "mailgate.outbound.mx_auth",
    "tls_report": "mailgate.modules.tls_report",
    "dmarc_report": "mailgate.modules.dmarc_report",
    "source_address": "mailgate.outbound.source_address",
}
"""Top-level words without a namespace, and the Python modules that have their classes."""

LISTENERS = frozenset({"smtp", "lmtp", "submission"})
"""Those of them whose line holds addresses and no name."""

ENTRY_POINTS = "mailgate.modules"


class Unavailable(Exception):
    """A module exists but can't be used; the text is for the operator, `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@cache
def builtin_names() -> tuple[str, ...]:
    """``namespace.kind`` of every built-in module, from the folders, importing none."""
    package = importlib.import_module("mailgate.modules")
    names = []
    for room in pkgutil.iter_modules(package.__path__):
        if room.ispkg:
            folder = [os.path.join(path, room.name) for path in package.__path__]
            names += [f"{room.name}.{module.name}" for module in pkgutil.iter_modules(folder) if not module.name.startswith("_")]
    return tuple(sorted(names))


@cache
def _plugins() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def known_names() -> list[str]:
    """Everything a top-level block can be, built in or by entry point."""
    return [*builtin_names(), *_plugins(), *WORDS]


@cache
def find(name: str) -> type[Module] | None:
    """The class of ``namespace.kind`` or of a top-level word; None if there is none.

    :raises Unavailable: when it is there but can't be used, a library of its own being missing, say.
    """
    if name in WORDS:
        return _load(name, WORDS[name])
    if name in builtin_names():
        return _load(name, f"mailgate.modules.{name}")
    if name in _plugins():
        point = _plugins()[name]
        try:
            found = point.load()
        except ImportError as error:
            raise Unavailable(f"`{name}` can't be loaded: {error}") from error
        if not (isinstance(found, type) and issubclass(found, Module)):
            raise Unavailable(f"`{name}` can't be loaded: {point.value} is no Module")
        return found
    return None


def _load(name: str, dotted: str) -> type[Module]:
    try:
        module = importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if dotted == missing or dotted.startswith(missing + "."):
            raise Unavailable(f"`{name}` is not available in this version") from error
        extra = _extra_of(missing.partition(".")[0])
        hint = f"pip install 'mailgate[{extra}]'" if extra else f"pip install {missing}"
        raise Unavailable(f"`{name}` needs the Python library `{missing}`, which is not installed", hint) from error
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Module) and value.name == name:
            return value
    raise Unavailable(f"`{name}` is not available in this version")


def _extra_of(library: str) -> str:
    """The extra of our own package that brings a library, or ""."""
    try:
        requirements = importlib.metadata.requires("mailgate") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    for requirement in requirements:
        match = re.match(r"([\w.-]+).*;\s*extra\s*==\s*['\"]([^'\"]+)", requirement)
        if match and match.group(1).lower().replace("-", "_") == library.lower():
            return match.group(2)
    return ""
