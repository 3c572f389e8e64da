"""`mailgate dsn preview`: a report as the sender of a message would get it, in the words of the configuration."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from mailgate.cli.common import UNREADABLE, config_option
from mailgate.config.diagnostics import render
from mailgate.message.dsn import ACTIONS, RecipientReport, StatusReport, compose
from mailgate.modules.target.queue import QueueTarget
from mailgate.registry import build
from mailgate.smtp.address import parse_address

ARRIVED = 1_800_000_000.0
"""When the message of the sample was accepted: always the same, so that two previews can be compared."""
_HEADER = b"From: sender@client.example\r\nTo: someone@example.org\r\nSubject: A message\r\nMessage-ID: <1@client.example>\r\n"
_SAMPLES = {
    "failed": ("failed", "5.1.1", 550, "No such user here"),
    "delayed": ("delayed", "4.4.1", 0, "The next hop can't be reached, try again later"),
    "delivered": ("delivered", "2.0.0", 250, "Ok"),
    "relayed": ("relayed", "2.0.0", 250, "Ok"),
    "expanded": ("expanded", "2.0.0", 0, ""),
    "success": ("relayed", "2.0.0", 250, "Ok"),
}
"""What is reported, and as what; `success` is what the configuration calls all that went well."""


@click.group()
def dsn() -> None:
    """Look at the reports that senders get."""


@dsn.command("preview")
@config_option
@click.option("--queue", "name", metavar="NAME", help="Whose reports; of the only queue by default.")
@click.option("--action", type=click.Choice((*ACTIONS, "success")), default="failed", show_default=True, help="What is reported.")
@click.option("--smtputf8", is_flag=True, help="Of internationalized mail, with addresses that are not ASCII.")
def preview(path: str, name: str | None, action: str, smtputf8: bool) -> None:
    """Print a report of a queue, with a made-up message and recipient.

    Exit status: 0 printed, 1 the file has errors or no such queue, 2 usage, or the file can't be read.
    """
    try:
        built = build(path)
    except OSError as error:
        _fail(f"can't read {path}: {error.strerror or error}", UNREADABLE)
    if built.configuration is None:
        click.echo(render(built.diagnostics), err=True)
        sys.exit(1)
    queues = {module.context.name: module for module in built.configuration.modules if isinstance(module, QueueTarget)}
    if name is None and len(queues) != 1:
        _fail(f"--queue says which: {', '.join(queues) or 'the file has none'}", UNREADABLE)
    queue = queues.get(name) if name is not None else next(iter(queues.values()))
    if queue is None:
        _fail(f"there is no queue {name}; there is {', '.join(queues) or 'none'}", 1)
    click.echo(sample(queue, action, smtputf8=smtputf8).replace(b"\r\n", b"\n"), nl=False)


def sample(queue: QueueTarget, kind: str, *, smtputf8: bool = False) -> bytes:
    """The report, with CRLF line ends."""
    action, status, code, text = _SAMPLES[kind]
    settings = queue.report_settings
    recipient = RecipientReport(
        parse_address("jürgen@example.org" if smtputf8 else "someone@example.org"),
        action,
        status,
        diagnostic=text,
        code=code,
        said=status if code else "",
        remote=bool(code),
        remote_mta="mx.example.org" if code else "",
        last_attempt=ARRIVED + 3600,
        retry_until=ARRIVED + 5 * 86400,
    )
    report = StatusReport(
        hostname=settings.hostname,
        sender=parse_address("sendér@client.example" if smtputf8 else "sender@client.example"),
        message_id="0123456789ab.1",
        recipients=[recipient],
        arrived=ARRIVED,
        now=ARRIVED + 3600,
        boundary="report-0123456789abcdef01234567",
        own_id="0123456789abcdef",
        received_from="client.example",
        returned=_HEADER,
        texts=settings.texts,
        from_address=settings.from_address,
        smtputf8=smtputf8,
    )
    return compose(report)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(status)
