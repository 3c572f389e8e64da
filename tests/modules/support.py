"""Modules as a configuration makes them."""

from __future__ import annotations

from typing import Any

from mailgate.registry import Built, build
from tests.pipeline.fakes import make_adapters


def build_text(text: str, adapters: Any = None) -> Built:
    return build(text + "\n", adapters, environment={})


def errors(text: str) -> list[str]:
    return [f"{one.code} {one.span.line if one.span else 0}" for one in build_text(text).diagnostics if one.is_error]


def instance(text: str, name: str, adapters: Any = None) -> Any:
    """The instance called ``name``."""
    built = build_text(text, adapters or make_adapters())
    assert built.configuration is not None, [str(one) for one in built.diagnostics]
    return built.configuration.instances[name]
