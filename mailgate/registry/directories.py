"""Where a configuration file says that sockets and state are, for those who only want to reach the gateway that runs it."""

from __future__ import annotations

import os
from typing import Any, cast

from mailgate import config
from mailgate.config.checker import check_body
from mailgate.config.diagnostics import Report
from mailgate.config.line import Scope
from mailgate.registry.module import Globals


def runtime_directory(path: str) -> str:
    """`runtime_dir` in force, whatever else is wrong with the file. :raises OSError: it can't be read."""
    return _directory(path, "runtime_dir")


def state_directory(path: str) -> str:
    """The same, of `state_dir`."""
    return _directory(path, "state_dir")


def _directory(path: str, name: str) -> str:
    report = Report()
    tree = config.load(path, report=report).tree
    nodes = [node for node in tree if node.name.text == name]
    scope = Scope(report, cast(Any, None), os.environ)  # a path names no module
    directory: str = check_body(Globals, nodes, scope, "the top level", None).values[name]
    return directory
