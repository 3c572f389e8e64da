"""Files of queues that the configuration does not have: mail that somebody was promised and nobody would deliver.

They stop the start and a reload, with what to do; `twistd mailgate --orphans hold` starts nevertheless and leaves the files as
they are. Files that hold no mail are nobody's.
"""

from __future__ import annotations

import os

from mailgate.events import Event, EventLog
from mailgate.modules.target.queue import QueueTarget
from mailgate.queue.offline import files_of, recipients_in
from mailgate.queue.store import StoreError
from mailgate.registry import Configuration
from mailgate.runtime import CannotBind, Companion

_events = EventLog("mailgate.queue")


class Orphans(Companion):
    """``hold``: say it, and go on."""

    def __init__(self, *, hold: bool = False) -> None:
        self._hold = hold

    def prepare(self, configuration: Configuration) -> None:
        root = os.path.join(configuration.globals.state_dir, "queue")
        known = {module.context.name for module in configuration.modules if isinstance(module, QueueTarget)}
        try:
            names = sorted(set(os.listdir(root)) - known)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CannotBind(f"{root}: {error.strerror or error}") from error
        for name in names:
            directory = os.path.join(root, name)
            reason = _holds(directory)
            if not reason:
                continue
            if not self._hold:
                raise CannotBind(
                    f"{directory}: {reason}, and the configuration has no `target.queue {name}`: bring it back until it is empty,"
                    f" or save its mail with `mailgate queue export --offline --queue {name} DIRECTORY` and move the files away,"
                    " or leave it there with `twistd mailgate --orphans hold`"
                )
            _events.warn(Event.QUEUE_ORPHAN, file=directory, reason=reason)


def _holds(directory: str) -> str:
    """What is in there, "" for nothing. A file that can't be read holds something, until somebody has looked."""
    count = 0
    try:
        for path in files_of(directory):
            count += recipients_in(path)
    except StoreError as error:
        return f"it can't be read ({error})"
    return f"{count} recipients wait in it" if count else ""
