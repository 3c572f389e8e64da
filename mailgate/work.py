"""What the process of one worker runs: `python -m mailgate.work REACTOR OPTIONS`, started by the supervisor, and by nobody
else.

It has no configuration file, no addresses and no user to become: the supervisor sends it the text and the sockets
(mailgate/workers), and has dropped its privileges before. It is the gateway of `service`, without a control socket: the
supervisor asks it over the link. SIGTERM makes it drain and end, and the supervisor puts another in its place; SIGHUP is the
supervisor's business, and ignored.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import socket
import sys
import time
from typing import Any

from twisted.logger import globalLogBeginner, globalLogPublisher

from mailgate.admin.log_detail import LogDetail
from mailgate.admin.metrics import Metrics
from mailgate.admin.pulse import Pulse
from mailgate.admin.queues import QueueViews
from mailgate.admin.views import Views
from mailgate.admin.whole import answers
from mailgate.config.diagnostics import render
from mailgate.config.files import Recorded
from mailgate.interpreter import collect, collect_seldom
from mailgate.logs import reopen
from mailgate.logs.destinations import Descriptor
from mailgate.logs.detail import detail
from mailgate.logs.lines import RelayFormat
from mailgate.logs.outputs import Output, outputs, standard_output
from mailgate.runtime import Assembler, LiveGateway
from mailgate.runtime.log_outputs import LogOutputs
from mailgate.service import COLLECT_AFTER, LINK, RELAY, Outside
from mailgate.workers import Answers, CannotStart, Inherited, Worker, open_link


class Process:
    """One worker and its process. ``told``: its number, how many there are, debug, and whether it relays its log."""

    def __init__(self, reactor: Any, told: dict[str, Any]) -> None:
        self._reactor = reactor
        self._told = told
        self._inherited = Inherited()
        self._pools: tuple[Any, ...] = ()
        self._collecting: Any = None
        self.failed = False
        self.worker = Worker(reactor, self._inherited, self._begin, self._ready, reopen, self._end)

    def run(self) -> int:
        """The exit status, when it is over."""
        link = socket.socket(fileno=LINK)
        self.worker.link = open_link(self._reactor, link, self.worker.heard, self.worker.stop)
        self._reactor.callWhenRunning(self._catch_signals)
        self._reactor.run()
        return int(self.failed)

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self.worker.stop))
        signal.signal(signal.SIGUSR1, lambda *_: self._reactor.callFromThread(reopen))

    def _begin(self, message: dict[str, Any]) -> tuple[Assembler, LiveGateway, Answers]:
        record = message["record"]
        outside = Outside(
            self._reactor,
            worker=self._told["worker"],
            workers=self._told["workers"],
            secret=bytes.fromhex(message["secret"]),
            listening=self._inherited.take,
        )
        adapters = outside.adapters
        assembler = Assembler(record["path"], adapters)
        assembler.files = Recorded(record)
        built = assembler.assemble()
        if built.configuration is None:
            raise CannotStart(render(built.diagnostics, color=False))
        log = LogOutputs(outputs, debug=self._told["debug"], otherwise=self._otherwise())
        log.prepare(built.configuration)
        log.adopt()
        for pool in outside.pools:
            pool.start()
        self._pools = outside.pools
        live = LiveGateway(assembler, built.configuration, adapters)
        live.released = self._collect_later
        pulse = Pulse(self._reactor)
        log_detail = LogDetail(live, detail, self._reactor)
        live.companions += [log, pulse, log_detail]
        views = Views(live, assembler.path, adapters, Metrics(live, assembler.spool, pulse, time.time))
        return assembler, live, answers([*views.routes(), *QueueViews(live, adapters).routes(), *log_detail.routes()])

    def _otherwise(self) -> Any:
        """Where the log goes without `log` lines."""
        relays = self._told["relays"]
        if relays:
            os.set_inheritable(RELAY, False)
        if relays == "beside":
            globalLogPublisher.addObserver(_relay())
            return None
        return _relay if relays else standard_output

    def _ready(self) -> None:
        collect()
        collect_seldom()

    def _collect_later(self) -> None:
        if self._collecting is None or not self._collecting.active():
            self._collecting = self._reactor.callLater(COLLECT_AFTER, collect)

    def _end(self, failed: bool) -> None:
        self.failed = failed
        for pool in self._pools:
            pool.stop()
        self._reactor.stop()


def _relay() -> Output:
    return Output(Descriptor(RELAY), RelayFormat())


def main() -> int:
    faulthandler.enable()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    module, told = sys.argv[1:]
    importlib.import_module(module).install()
    from twisted.internet import reactor

    globalLogBeginner.beginLoggingTo([outputs], redirectStandardIO=False, discardBuffer=True)
    return Process(reactor, json.loads(told)).run()


if __name__ == "__main__":
    sys.exit(main())
