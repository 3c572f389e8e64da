"""What subcommands share: the options that name the configuration and ask for JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

DEFAULT_CONFIG = "/etc/mailgate/mailgate.conf"
UNREADABLE = 2
"""Exit status for a named file that can't be read, as for wrong usage."""

config_option: Callable[..., Any] = click.option(
    "-c",
    "--config",
    "path",
    default=DEFAULT_CONFIG,
    show_default=True,
    metavar="FILE",
    help="The configuration file.",
)

json_option: Callable[..., Any] = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
