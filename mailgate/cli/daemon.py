"""The client of the running gateway: HTTP over its control socket, whose place the configuration file tells.

Exit status: 3 when nobody answers there, 75 when it can't answer now. The configuration is only read for `runtime_dir`, and
need not be free of errors: it is when a file is broken that the operator asks.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from mailgate.cli.common import UNREADABLE
from mailgate.registry.directories import runtime_directory

UNREACHABLE = 3
TEMPORARY = 75
CONTROL_SOCKET = "control.sock"
PATIENCE = 30.0
"""Seconds for an answer; a reload may take longer."""

socket_option: Callable[..., Any] = click.option(
    "--socket", "socket_path", metavar="PATH", help="The control socket; by default control.sock in the file's runtime_dir."
)
token_option: Callable[..., Any] = click.option(
    "--token-file", metavar="FILE", help="A file with the token that gives you a role; without it your user decides."
)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any

    @property
    def error(self) -> str:
        return str(self.body.get("error", f"status {self.status}")) if isinstance(self.body, dict) else f"status {self.status}"


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, patience: float) -> None:
        super().__init__("localhost", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """The gateway that runs the configuration ``config``, or that listens on ``socket_path``."""

    def __init__(self, config: str, socket_path: str | None = None, token_file: str | None = None) -> None:
        self._path = socket_path or os.path.join(_runtime_dir(config), CONTROL_SOCKET)
        self._token = _token(token_file) if token_file else ""

    def get(self, path: str) -> Reply:
        return self.request("GET", path)

    def post(self, path: str, body: Mapping[str, Any], patience: float = PATIENCE) -> Reply:
        return self.request("POST", path, body, patience)

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None, patience: float = PATIENCE) -> Reply:
        """Ask. Exits with 3 if nobody is there, with 1 if it is not allowed."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        data = None
        if body is not None:
            data = json.dumps(body)
            headers["Content-Type"] = "application/json"
        connection = _Connection(self._path, patience)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
        except TimeoutError:
            _fail(f"{self._path}: no answer within {patience:g} s", TEMPORARY)
        except PermissionError:
            _fail(f"{self._path}: you may not connect: see `control` in the configuration", 1)
        except (OSError, http.client.HTTPException) as error:
            _fail(f"{self._path}: no gateway answers: {getattr(error, 'strerror', None) or error}", UNREACHABLE)
        finally:
            connection.close()
        try:
            reply = Reply(answer.status, json.loads(text))
        except ValueError:
            _fail(f"{self._path}: this is no gateway", UNREACHABLE)
        absent = reply.body.get("absent") if isinstance(reply.body, dict) else None
        if absent:
            click.echo(f"warning: worker {', '.join(map(str, absent))} is away, and missing here", err=True)
        if reply.status in (401, 403):
            _fail(reply.error, 1)
        return reply


def _runtime_dir(config: str) -> str:
    try:
        return runtime_directory(config)
    except OSError as error:
        _fail(f"can't read {config}: {error.strerror or error}", UNREADABLE)


def _token(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"can't read {path}: {getattr(error, 'strerror', None) or error}", UNREADABLE)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(status)
