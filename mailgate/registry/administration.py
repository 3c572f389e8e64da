"""What a configuration says of those who look after the gateway: the `control` block; roles and tokens, also of `admin`."""

from __future__ import annotations

import enum

from mailgate.config import values as v
from mailgate.config.schema import Block, Directive


class Role(enum.IntEnum):
    """What somebody may do; each includes the one before."""

    NOBODY = 0
    VIEW = 1
    """See: state, pools, queues, limits, certificates, metrics."""
    OPERATE = 2
    """Act on what runs: drain an endpoint, probe it; hold, retry, remove what waits in a queue."""
    ADMIN = 3
    """Change what runs: reload. Read what a queue holds."""

    @property
    def word(self) -> str:
        return self.name.lower()


ROLES = {role.word: role for role in Role if role is not Role.NOBODY}


def token_directive() -> Directive:
    return Directive(
        "token",
        v.Args(v.Choice(*ROLES), v.Secret("TOKEN")),
        repeatable=True,
        doc="Who brings this token may view, operate or admin, from wherever: `token ROLE TOKEN`.",
    )


class ControlBlock(Block):
    """The control socket, `control.sock` in runtime_dir, by which `mailgate reload` and the like reach the running gateway."""

    socket_mode = Directive(
        "socket_mode",
        v.Choice("0600", "0660", "0666"),
        default="0660",
        doc="Who may connect: only root and the gateway's user, who may do everything; also the group, who may view and operate;"
        " everyone, who then may view.",
    )
    socket_group = Directive(
        "socket_group", v.String("GROUP"), default="", doc="The group of the socket; that of the gateway by default."
    )
    token = token_directive()
