"""Twisted's epoll reactor with less between the event and the protocol: ``twistd --reactor mailgate mailgate -c …`` on Linux.

For each event Twisted's own loop enters a logging context (nine calls and two dictionaries), so that `log.msg` can tell which
connection was being served. Our events carry the ids of their session and message, so nobody reads it; without it the gateway
needs a tenth less CPU per message (docs/performance.md). Only the plain case, octets have come, goes the short way. Everything
else, and what an exception means (it is logged and ends that connection), is Twisted's.
"""

from __future__ import annotations

import errno
import select
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.python import log

_READABLE = select.EPOLLIN


class Reactor(EPollReactor):
    """See the module's docstring."""

    _poller: Any
    _selectables: dict[int, Any]
    _disconnectSelectable: Callable[..., Any]

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, ``timeout`` seconds at most (None: until one comes), and handle those that came."""
        selectables = self._selectables
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, len(selectables))
        except OSError as error:
            if error.errno == errno.EINTR:
                return
            raise
        for descriptor, event in events:
            selectable = selectables.get(descriptor)
            if selectable is None:
                continue  # gone since: an event before this one closed it
            if event != _READABLE:
                log.callWithLogger(selectable, self._doReadOrWrite, selectable, descriptor, event)
                continue
            try:
                why = selectable.doRead()
            except BaseException as error:
                log.err()
                why = error
            if why:
                self._disconnectSelectable(selectable, why, True)

    doIteration = doPoll


def install() -> None:
    """What ``--reactor mailgate`` calls: this reactor becomes the process's."""
    installReactor(Reactor())  # type: ignore[no-untyped-call]
