"""`mailgate queue`: what waits, why, and what an operator does about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn
from urllib.parse import urlencode

import click
from click.core import ParameterSource

from mailgate.cli.common import UNREADABLE, config_option, json_option
from mailgate.cli.daemon import TEMPORARY, Daemon, Reply, socket_option, token_option
from mailgate.cli.queue_export import Exporter, offline_entries, remote_content
from mailgate.cli.queue_text import entry_lines, plain, show_lines, stats_lines, survey_lines, why_lines

FORMAT_VERSION = 1
PATIENCE = 300.0
"""Seconds: a survey of a long queue looks at every entry."""

_queue_option: Callable[..., Any] = click.option("--queue", "queue_name", metavar="NAME", help="One queue; all by default.")
_where_option: Callable[..., Any] = click.option(
    "--where", metavar="EXPR", help="Which recipients, such as 'rcpt_domain == \"example.org\" and age > 1d'."
)


class Client:
    """The options that all have in common, and the questions."""

    def __init__(self, path: str, socket_path: str | None, token_file: str | None, as_json: bool, queue_name: str | None) -> None:
        self.path = path
        self._socket_path = socket_path
        self._token_file = token_file
        self.as_json = as_json
        self.queue = queue_name
        self._daemon: Daemon | None = None

    @property
    def daemon(self) -> Daemon:
        if self._daemon is None:
            self._daemon = Daemon(self.path, self._socket_path, self._token_file)
        return self._daemon

    def get(self, path: str, **query: Any) -> Any:
        given = {name: value for name, value in {"queue": self.queue, **query}.items() if value is not None}
        return self._body(self.daemon.request("GET", f"{path}?{urlencode(given)}", patience=PATIENCE))

    def post(self, **body: Any) -> Any:
        given = {name: value for name, value in {"queue": self.queue, **body}.items() if value is not None}
        return self._body(self.daemon.post("/v1/queue", given, PATIENCE))

    def pages(self, where: str | None, limit: int) -> Iterator[dict[str, Any]]:
        """Entries, a page at a time; as many as are asked for."""
        after = None
        while limit > 0:
            body = self.get("/v1/queue/entries", where=where, limit=min(limit, 500), after=after)
            yield from body["entries"]
            limit -= len(body["entries"])
            after = body["next"]
            if after is None:
                return

    def _body(self, reply: Reply) -> Any:
        if reply.status != 200:
            fail(reply.error, {400: UNREADABLE, 503: TEMPORARY}.get(reply.status, 1))
        return reply.body

    def show(self, found: dict[str, Any], lines: Callable[[], list[str]]) -> None:
        if self.as_json:
            click.echo(json.dumps({"version": FORMAT_VERSION, **found}, indent=2, ensure_ascii=False))
        else:
            click.echo("\n".join(lines()))


def fail(message: str, status: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(status)


_COMMON = ("path", "socket_path", "token_file", "as_json", "queue_name")


def _client(command: Callable[..., Any]) -> Callable[..., Any]:
    """The common options, handed to the command as one `Client`."""

    def with_client(*arguments: Any, **options: Any) -> Any:
        context = click.get_current_context()
        common = {name: options.pop(name) for name in _COMMON}
        for name, value in (context.parent.params if context.parent is not None else {}).items():
            # `mailgate queue -c FILE ls` means what `mailgate queue ls -c FILE` means.
            if name in common and context.get_parameter_source(name) is ParameterSource.DEFAULT:
                common[name] = value
        return command(Client(**common), *arguments, **options)

    with_client.__name__ = command.__name__
    with_client.__doc__ = command.__doc__
    with_client.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    made: Callable[..., Any] = with_client
    for option in (_queue_option, json_option, token_option, socket_option, config_option):
        made = option(made)
    return made


@click.group(invoke_without_command=True)
@_client
def queue(client: Client) -> None:
    """Look at what waits, and hold, release, retry, remove, bounce or reroute it.

    Without a subcommand: how old it is and where it wants to go, and the answers that were heard last, equal ones together.

    Messages are named by their ids, as in the reply that accepted them; or, with --where, recipients are chosen by an expression
    over sender, sender_domain, rcpt, rcpt_domain, queue, destination, target, id, state, held, age, due_in, retries, size,
    last_code, last_error, last_text, last_peer, in_doubt, reason, client_ip, auth_user, source and priority.

    Exit status: 0 fine, 1 not there or not possible, 2 usage, a wrong expression, or the file can't be read, 3 no gateway
    answers, 75 try again later: the queue is not to be had, or some are being delivered just now.
    """
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        found = client.get("/v1/queue/survey")
        client.show(found, lambda: survey_lines(found))


@queue.command("ls")
@_where_option
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Messages, the eldest first.")
@_client
def ls(client: Client, where: str | None, limit: int) -> None:
    """List messages with their recipients, the eldest first."""
    entries = client.pages(where, limit)
    if client.as_json:
        client.show({"entries": list(entries)}, list)
        return
    count = 0
    for count, entry in enumerate(entries, 1):  # noqa: B007 - the number of the last one is wanted
        click.echo("\n".join(entry_lines(entry)))
    if not count:
        click.echo("nothing is queued" if where is None else "nothing matches")
    elif count >= limit:
        click.echo(f"the first {limit}; for more: --limit")


@queue.command("show")
@click.argument("message_id", metavar="ID")
@_client
def show(client: Client, message_id: str) -> None:
    """Show all that is known of a message, with its history."""
    found = client.get("/v1/queue/message", id=message_id)
    client.show(found, lambda: show_lines(found["entries"]))


@queue.command("why")
@click.argument("message_id", metavar="ID")
@_client
def why(client: Client, message_id: str) -> None:
    """Say why a message waits, and when it is tried again."""
    found = client.get("/v1/queue/message", id=message_id)
    client.show(found, lambda: why_lines(found["entries"]))


@queue.command("stats")
@_client
def stats(client: Client) -> None:
    """Show every queue in numbers."""
    found = client.get("/v1/queue")
    client.show(found, lambda: stats_lines(found["queues"]))


@queue.command("cat")
@click.argument("message_id", metavar="ID")
@_client
def cat(client: Client, message_id: str) -> None:
    """Write a message as its next hop would get it to standard output. Needs the role admin."""
    (entry, *_) = client.get("/v1/queue/message", id=message_id)["entries"]
    for piece in remote_content(client.get, entry):
        click.echo(piece, nl=False)


@queue.command("export")
@click.argument("directory", type=click.Path(file_okay=False))
@_where_option
@click.option("--offline", is_flag=True, help="Without a gateway: also files of queues that are not configured.")
@_client
def export(client: Client, directory: str, where: str | None, offline: bool) -> None:
    """Write messages into DIRECTORY: QUEUE-ID-NUMBER.eml, and its envelope in .json. They stay queued. Needs the role admin.

    With --offline the files in state_dir are read, and the databases that the configuration names.
    """
    try:
        exporter = Exporter(directory)
        if offline:
            if where is not None:
                fail("--where needs the running gateway", UNREADABLE)
            for entry, content in offline_entries(client.path, client.queue):
                exporter.write(entry, content)
        else:
            for entry in client.pages(where, 1 << 62):
                exporter.write(entry, remote_content(client.get, entry))
    except OSError as error:
        fail(f"{error.filename or directory}: {error.strerror or error}", 1)
    client.show({"exported": exporter.count, "directory": directory}, lambda: [f"{exporter.count} messages"])


_ACTS = {
    "hold": "Keep recipients back until they are released.",
    "release": "Let held recipients go, at once.",
    "retry": "Try recipients now, whatever their schedule says; a destination that backs off is probed.",
    "rm": "Take recipients out of the queue. For 24 hours `mailgate queue undo` puts them back; nobody is told.",
    "bounce": "Give recipients up: their sender gets a report, as if they had been refused.",
    "reroute": "Let recipients go to another target, at once.",
    "undo": "Put back what was removed within the last 24 hours.",
}


def _act(name: str, text: str) -> None:
    @click.argument("ids", nargs=-1, metavar="[ID]...")
    @_where_option
    @click.option("--dry-run", is_flag=True, help="Say what would be changed; change nothing.")
    @_client
    def act(client: Client, ids: tuple[str, ...], where: str | None, dry_run: bool, target: str | None = None) -> None:
        if bool(ids) == (where is not None):
            fail("either message ids or --where say which", UNREADABLE)
        _perform(client, {"action": name, "target": target, "dry_run": dry_run}, ids, where)

    command = click.option("--to", "target", required=True, metavar="TARGET")(act) if name == "reroute" else act
    queue.command(name, help=text)(command)


for _name, _text in _ACTS.items():
    _act(_name, _text)


def _perform(client: Client, request: dict[str, Any], ids: tuple[str, ...], where: str | None) -> None:
    total: dict[str, Any] = {"matched": 0, "changed": 0, "busy": 0, "messages": [], "missing": []}
    after = None
    batches = [list(ids[start : start + 1000]) for start in range(0, len(ids), 1000)]
    while True:
        which = {"where": where, "after": after} if where is not None else {"ids": batches.pop(0)}
        done = client.post(**request, **which)
        for key in total:
            total[key] += done[key]
        after = done["next"]
        if after is None and not batches:
            break
    client.show({"dry_run": request["dry_run"], **total}, lambda: _done_lines(request, total))
    if total["missing"]:
        sys.exit(1)
    if total["busy"]:
        sys.exit(TEMPORARY)
    sys.exit(1 if ids and not total["changed"] else 0)


def _done_lines(request: dict[str, Any], total: dict[str, Any]) -> list[str]:
    would = "would be " if request["dry_run"] else ""
    lines = [f"{total['changed']} recipients of {len(total['messages'])} messages {would}changed: {request['action']}"]
    if total["busy"]:
        lines.append(f"{total['busy']} are being delivered just now: try again")
    lines += [f"no queue has a message {plain(one)}" for one in total["missing"]]
    return lines
