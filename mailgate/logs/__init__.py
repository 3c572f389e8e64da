"""Log observers: where the lines of mailgate/events.py go, and how they look.

lines.py         an event as text or JSON, escaped and bounded
destinations.py  descriptors, files, syslog: what takes lines without holding up the gateway
outputs.py       several of them at once, changed by a reload, reopened by SIGUSR1
settings.py      the `log` lines of a configuration

What stands here is for twistd and for signals.
"""

from mailgate.logs.outputs import observer, reopen

__all__ = ["observer", "reopen"]
