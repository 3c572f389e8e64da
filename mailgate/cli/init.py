"""`mailgate init`: a commented file to begin with, that passes `mailgate check --strict` as it is written."""

from __future__ import annotations

import os
import socket
import sys

import click

from mailgate.cli.check import examine
from mailgate.cli.common import DEFAULT_CONFIG
from mailgate.config.diagnostics import render
from mailgate.registry import build

_HEAD = """\
# mailgate: {summary}
# `mailgate check -c FILE` says whether it will load and is safe, `mailgate doc NAME` what a word does.

# Who we are: in the greeting, in Received, in EHLO to next hops. The name that the MX record, or the address, has in the DNS.
hostname {hostname}
state_dir /var/lib/mailgate
runtime_dir /run/mailgate

# Made in memory: enough for clients that do not verify. With a real one: tls file CERTIFICATE KEY
tls self_signed

# The domains we are responsible for.
$(domains) = {domains}
local_domains $(domains)

# /metrics for Prometheus, /health/live and /health/ready, for this machine only.
admin tcp://127.0.0.1:8025

"""

_RECIPIENTS = """\
    # The next hop says who exists, while the client waits for the answer to RCPT.
    destination postmaster {{
        modify {{
            replace_rcpt static {{
                entry postmaster postmaster@{first}
            }}
        }}
        deliver_to &{target}
    }}
    destination $(domains) {{
        deliver_to &{target}
    }}
    default_destination {{
        reject 550 5.7.1 "relaying denied"
    }}
}}

# What must stay true: `mailgate check` tries it, and `mailgate reload` takes no file that breaks it.
test "outsiders cannot relay" {{
    ip 203.0.113.9
    from a@outside.example
    rcpt b@elsewhere.example
    expect reject 550
}}
test "our mail comes in" {{
    ip 203.0.113.9
    from a@outside.example
    rcpt postmaster@{first}
    expect accept &{target}
}}
"""

_INBOUND = """\
# The server that holds the mailboxes. With several, the first that is well gets the mail; one that fails is left out for a while.
target.smtp mailserver {{
    targets {next_hop}
}}

smtp tcp://*:25 {{
    max_message_size 50M
    max_connections_per_ip 20
"""

_LMTP = """\
# The mail stores, by LMTP: they answer for each recipient. With several, in the order in which they are asked.
target.lmtp stores {{
    targets {next_hop}
}}

smtp tcp://*:25 {{
    max_message_size 50M
    max_connections_per_ip 20
    # A client hears one answer for all recipients, a store gives one for each: so each transaction carries one recipient, and the
    # client sends the next right after.
    on_split defer
"""

_SMARTHOST = """\
# Where all mail goes. It must have a certificate for its name, or nothing is sent. If it wants a login:
#     auth plain USER file:/etc/mailgate/smarthost.secret
target.smtp smarthost {{
    targets {next_hop}
    tls require_verify
}}

# For programs and hosts of our own: they have their answer when the smarthost has given it, and nothing is stored here.
smtp tcp://127.0.0.1:25 tcp://[::1]:25 {{
    max_message_size 50M
    # Hosts that may send too get an address of ours to listen on, above, and stand here: relay_from 10.0.0.0/8
    deliver_to &smarthost
}}

# What must stay true: `mailgate check` tries it, and `mailgate reload` takes no file that breaks it.
test "our mail goes out" {{
    ip 127.0.0.1
    from a@{first}
    rcpt b@elsewhere.example
    expect accept &smarthost
}}
"""

PROFILES = {
    "inbound-relay": (
        "mail from the internet for your domains, passed on to the server that holds the mailboxes.",
        _INBOUND + _RECIPIENTS,
        "mailserver",
        "tcp://10.0.0.20:25",
    ),
    "smarthost": ("mail of this machine and its neighbours, passed on to a smarthost.", _SMARTHOST, "smarthost", ""),
    "lmtp-edge": (
        "mail from the internet for your domains, passed on to mail stores that speak LMTP.",
        _LMTP + _RECIPIENTS,
        "stores",
        "tcp://10.0.0.31:24",
    ),
}
"""What each is for, its file behind the head, the name of its target, and where that is unless said; "" must be said."""


@click.command()
@click.option("--profile", type=click.Choice(list(PROFILES)), required=True, help="What the gateway is for.")
@click.option("--hostname", default="", metavar="NAME", help="Our name; the system's by default.")
@click.option("--domain", "domains", multiple=True, metavar="DOMAIN", help="A domain we are responsible for; may be repeated.")
@click.option("--next-hop", "next_hops", multiple=True, metavar="ENDPOINT", help="Where mail goes, such as tcp://10.0.0.20:25.")
@click.option(
    "-c", "--config", "path", default=DEFAULT_CONFIG, show_default=True, metavar="FILE", help="Where to write it; - prints it."
)
def init(profile: str, hostname: str, domains: tuple[str, ...], next_hops: tuple[str, ...], path: str) -> None:
    """Write a commented configuration to begin with. A file that is there already is left alone.

    Exit status: 0 written, 1 it is there already, or a name given here is no good, 2 usage or it can't be written.
    """
    summary, body, target, usual = PROFILES[profile]
    hops = " ".join(next_hops) or usual
    if not hops:
        raise click.UsageError(f"the profile {profile} needs --next-hop, such as tcp://smtp.example.net:587")
    name = hostname or socket.getfqdn()
    ours = domains or (name.partition(".")[2] or "example.org",)
    text = (_HEAD + body).format(
        summary=summary, hostname=name, domains=" ".join(ours), first=ours[0], next_hop=hops, target=target
    )
    built = build(text, at=path)
    if built.configuration is None:
        click.echo(render(built.diagnostics, color=sys.stderr.isatty()), err=True)
        sys.exit(1)
    if path == "-":
        click.echo(text, nl=False)
        return
    _write(path, text)
    click.echo(f"{path} is written: look it over, then `mailgate check -c {path}`")
    for diagnostic in examine(path):
        click.echo(str(diagnostic), err=True)


def _write(path: str, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    except FileExistsError:
        click.echo(f"error: {path} is there already; choose another name with -c", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"error: can't write {path}: {error.strerror or error}", err=True)
        sys.exit(2)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
