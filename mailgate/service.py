"""The composition root: what `twistd mailgate` and a .tac file build.

`Options` and `makeService` are what twisted/plugins/mailgate_plugin.py names; `application` serves a .tac. The order of
twistd is: makeService (the configuration is read and checked; any error ends here with its diagnostics), then
privilegedStartService (ports are bound, still as root), drop of uid and gid, startService; stopService drains. This module is
one of the few that may import the reactor.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

from twisted.application.service import Application, IServiceCollection, Service
from twisted.internet import threads
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import FilteringLogObserver, ILogObserver, Logger, PredicateResult, globalLogPublisher
from twisted.python import usage
from twisted.python.threadpool import ThreadPool

from mailgate.adapters import Adapters
from mailgate.admin.doors import Doors
from mailgate.admin.log_detail import LogDetail
from mailgate.admin.metrics import Metrics
from mailgate.admin.notify import ServiceManager
from mailgate.admin.orphans import Orphans
from mailgate.admin.pulse import Pulse
from mailgate.admin.queues import QueueViews
from mailgate.admin.views import Views
from mailgate.admin.whole import Whole
from mailgate.config.diagnostics import render
from mailgate.inbound.authentication import THREADS as HASH_THREADS
from mailgate.interpreter import collect, collect_seldom, processors
from mailgate.logs import reopen
from mailgate.logs.detail import detail
from mailgate.logs.outputs import outputs, standard_output
from mailgate.logs.settings import plans
from mailgate.net.waiting import spawn
from mailgate.registry import Configuration
from mailgate.runtime import Assembler, CannotBind, LiveGateway, Refusal
from mailgate.runtime.log_outputs import LogOutputs
from mailgate.workers import MAX_WORKERS, Crew, RecordingAssembler, Spawn, Staff, cannot_start

DEFAULT_CONFIG = "/etc/mailgate/mailgate.conf"
FILE_THREADS = 8
"""Threads for blocking file work (bodies on disk, maildirs, fsync): enough to keep one disk busy."""

_log = Logger(namespace="mailgate")


class Options(usage.Options):
    """The command line of `twistd mailgate`."""

    longdesc = "Runs the mail gateway that a configuration file describes."
    optParameters = [
        ["config", "c", DEFAULT_CONFIG, "The configuration file."],
        ["orphans", None, "refuse", "Files of queues that are not configured: refuse to start, or hold: leave them, and say so."],
        ["workers", "w", "1", "Processes that serve: a number, or auto for one for each core."],
    ]
    optFlags = [["debug", "d", "Log debug events too."]]

    def postOptions(self) -> None:
        if self["orphans"] not in ("refuse", "hold"):
            raise usage.UsageError("--orphans is refuse or hold")
        self["workers"] = workers_of(str(self["workers"]))
        reason = cannot_start(chroot=bool(self.parent and self.parent.get("chroot"))) if self["workers"] > 1 else ""
        if reason:
            raise usage.UsageError(f"--workers: {reason}")
        self._choose_observer()

    def _choose_observer(self) -> None:
        """Log where the configuration says, or to standard output. What twistd was told holds besides."""
        parent = self.parent
        if parent is None or parent.get("logger") or parent.get("syslog") or parent.get("logfile") not in (None, "", "-"):
            self["twistd_logs"] = True
            return
        parent["logger"] = "mailgate.logs.observer"
        self["to_standard_output"] = bool(parent.get("nodaemon"))


def workers_of(text: str) -> int:
    """:raises usage.UsageError: it is neither a number of workers nor ``auto``."""
    if text == "auto":
        return min(processors(), MAX_WORKERS)
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= MAX_WORKERS:
        raise usage.UsageError(f"--workers is auto, or a number up to {MAX_WORKERS}")
    return int(text)


class GatewayService(Service):
    """One running gateway as a Twisted service. SIGHUP asks it to reload."""

    name = "mailgate"

    def __init__(self, gateway: LiveGateway, pools: Sequence[ThreadPool], reactor: Any) -> None:
        self.gateway = gateway
        self._pools = pools
        self._reactor = reactor
        self._starting: Deferred[None] | None = None
        self._collecting: Any = None
        gateway.released = self._collect_later
        self.reopen = reopen
        self._twistd_reopens: Any = None
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._hang_up)

    def privilegedStartService(self) -> None:
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        try:
            self.gateway.bind()
        except CannotBind as error:
            _log.critical("{error}", error=error)
            raise SystemExit(1) from error  # the log is where standard error goes by now

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        for pool in self._pools:
            pool.start()
        if hasattr(signal, "SIGUSR1"):
            self._twistd_reopens = signal.getsignal(signal.SIGUSR1)  # that of --logfile
            signal.signal(signal.SIGUSR1, self._reopen_logs)
        self._starting = spawn(self.gateway.start())
        self._starting.addCallbacks(self._started, self._failed)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._starting is not None:
            self._starting.cancel()
        stopping = spawn(self.gateway.stop())
        stopping.addErrback(lambda failure: _log.failure("stopping failed", failure))
        stopping.addBoth(self._stop_threads)
        return stopping

    def _stop_threads(self, _: None) -> None:
        for pool in self._pools:
            pool.stop()

    def _started(self, _: None) -> None:
        self._starting = None
        collect()
        collect_seldom()

    def _collect_later(self) -> None:
        if self._collecting is None or not self._collecting.active():
            self._collecting = self._reactor.callLater(COLLECT_AFTER, collect)

    def _failed(self, failure: Any) -> None:
        self._starting = None
        if failure.check(CancelledError):
            return
        if failure.check(Refusal):
            _log.critical("the gateway could not start: {error}", error=failure.value)
        else:
            _log.failure("the gateway could not start", failure)
        atexit.register(_exit_with_failure)
        self._reactor.stop()

    def _hang_up(self, _signal: int, _frame: Any) -> None:
        self._reactor.callFromThread(self.gateway.reload)

    def _reopen_logs(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(self.reopen)
        if callable(self._twistd_reopens):
            self._twistd_reopens(number, frame)


def _exit_with_failure() -> None:
    """twistd would end with status 0 once its reactor has stopped; everything is shut down by now, but for this number."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


COLLECT_AFTER = 10.0
"""Seconds after an old configuration was released: a collection stops everything for a moment, and one does for many reloads."""


class Outside:
    """The outside world of one process: its adapters, and the threads that they use."""

    def __init__(self, reactor: Any, **also: Any) -> None:
        """``also``: what else `Adapters` have."""
        files = ThreadPool(minthreads=0, maxthreads=FILE_THREADS, name="mailgate-files")
        hashes = ThreadPool(minthreads=0, maxthreads=HASH_THREADS, name="mailgate-hashes")
        self.pools = (files, hashes)
        self.adapters = Adapters(
            reactor=reactor,
            wall_time=time.time,
            run_in_thread=lambda function, *args: threads.deferToThreadPool(reactor, files, function, *args),
            hash_in_thread=lambda function, *args: threads.deferToThreadPool(reactor, hashes, function, *args),
            random=random.SystemRandom(),
            **also,
        )


def makeService(options: Any) -> GatewayService:
    """Build the gateway of ``options["config"]``, or the supervisor of several workers.

    :raises SystemExit: the diagnostics went to standard error; 1 for errors in the file, 2 if it can't be read.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    workers = options.get("workers", 1)
    outside = Outside(reactor, workers=workers)
    return _supervisor(options, outside) if workers > 1 else _gateway(options, outside)


def _gateway(options: Any, outside: Outside) -> GatewayService:
    adapters = outside.adapters
    assembler = Assembler(options["config"], adapters)
    configuration = load(assembler)
    log = begin_log(configuration, options)
    gateway = LiveGateway(assembler, configuration, adapters)
    gateway.companions.append(log)
    pulse = Pulse(adapters.reactor)
    views = Views(gateway, assembler.path, adapters, Metrics(gateway, assembler.spool, pulse, time.time))
    queues = QueueViews(gateway, adapters)
    log_detail = LogDetail(gateway, detail, adapters.reactor)
    doors = Doors(adapters.reactor, lambda: [*views.routes(), *queues.routes(), *log_detail.routes()])
    orphans = Orphans(hold=options.get("orphans") == "hold")
    gateway.companions += [orphans, pulse, log_detail, doors, ServiceManager(gateway, adapters.reactor)]
    return GatewayService(gateway, outside.pools, adapters.reactor)


def _supervisor(options: Any, outside: Outside) -> GatewayService:
    """The process that owns the sockets, starts the workers and speaks for them; it carries no mail."""
    adapters = outside.adapters
    assembler = RecordingAssembler(os.path.abspath(options["config"]), adapters)
    configuration = load(assembler)
    log = begin_log(configuration, options)
    give_away_logs(configuration, options)
    staff = Staff(adapters.workers, adapters, spawner(adapters, options))
    gateway = LiveGateway(assembler, configuration, adapters, make=lambda made: Crew(made, staff, assembler.record))
    gateway.companions.append(log)
    pulse = Pulse(adapters.reactor)
    metrics = Metrics(gateway, assembler.spool, pulse, time.time, carries_mail=False)
    views = Views(gateway, assembler.path, adapters, metrics)
    whole = Whole(gateway, staff, adapters, views)
    queues, log_detail = QueueViews(gateway, adapters), LogDetail(gateway, detail, adapters.reactor)
    doors = Doors(adapters.reactor, lambda: whole.routes([*views.routes(), *queues.routes(), *log_detail.routes()]))
    orphans = Orphans(hold=options.get("orphans") == "hold")
    gateway.companions += [orphans, doors, ServiceManager(gateway, adapters.reactor)]
    service = GatewayService(gateway, outside.pools, adapters.reactor)

    def reopen_all() -> None:
        reopen()
        staff.reopen()

    service.reopen = reopen_all
    return service


LINK, RELAY = 3, 4
"""Descriptors of a worker: its end of the link, and where it writes what twistd is to log."""
NOT_FOR_WORKERS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})
"""Of the environment: what systemd says to the process that it has started."""


def spawner(adapters: Adapters, options: Any) -> Spawn:
    """What starts the process of a worker (mailgate/work.py)."""
    reactor = adapters.reactor
    relays = "beside" if options.get("twistd_logs") else "" if options.get("to_standard_output") else "instead"

    def spawn(number: int, protocol: Any, link: int) -> Any:
        told = {"worker": number, "workers": adapters.workers, "debug": bool(options["debug"]), "relays": relays}
        command = [sys.executable, "-P", "-m", "mailgate.work", type(reactor).__module__, json.dumps(told)]
        environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_WORKERS}
        with open(os.devnull, "rb") as nothing:
            descriptors = {0: nothing.fileno(), 1: 1, 2: 2, LINK: link, **({RELAY: "r"} if relays else {})}
            return reactor.spawnProcess(protocol, sys.executable, command, environment, childFDs=descriptors)

    return spawn


def begin_log(configuration: Configuration, options: Any) -> LogOutputs:
    """The log, open already: files are made as root, if we are, and what is said during the start goes there.

    :raises SystemExit: a destination can't be had.
    """
    log = LogOutputs(
        outputs, debug=bool(options["debug"]), otherwise=standard_output if options.get("to_standard_output") else None
    )
    try:
        log.prepare(configuration)
    except CannotBind as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    log.adopt()
    if options.get("twistd_logs"):
        globalLogPublisher.addObserver(FilteringLogObserver(outputs, [cast(Any, _not_relayed)]))
    return log


def give_away_logs(configuration: Configuration, options: Any) -> None:
    """Workers open the log's files themselves, as the user that twistd will be: what root has just made there is theirs."""
    told = getattr(options, "parent", None) or {}
    uid, gid = told.get("uid"), told.get("gid")
    if uid is None or os.geteuid() != 0:
        return
    for plan in plans(configuration.globals):
        if plan.kind == "file" and os.stat(plan.path).st_uid == 0:
            os.chown(plan.path, uid, -1 if gid is None else gid)


def _not_relayed(event: dict[str, Any]) -> Any:
    """What a worker has logged is in the `log` destinations already."""
    return PredicateResult.no if event.get("relayed") else PredicateResult.maybe


def load(assembler: Assembler) -> Configuration:
    """The checked configuration to begin with; warnings go to standard error too."""
    if not os.access(assembler.path, os.R_OK):
        print(f"error: {assembler.path}: cannot be read", file=sys.stderr)
        raise SystemExit(2)
    built = assembler.assemble()
    if built.diagnostics:
        print(render(built.diagnostics, color=sys.stderr.isatty()), file=sys.stderr)
    if built.configuration is None:
        raise SystemExit(1)
    if not any(module.is_listener or module.works_alone for module in built.configuration.modules):
        print(f"error: {assembler.path}: nothing to do: no smtp, submission or lmtp block, and no queue", file=sys.stderr)
        raise SystemExit(1)
    return built.configuration


def application(config: str = DEFAULT_CONFIG, *, debug: bool = False, workers: int | str = 1) -> Any:
    """A whole Application for a .tac file: ``application = mailgate.service.application("/etc/mailgate/mailgate.conf")``.
    ``workers`` is a number, or "auto"."""
    made = Application("mailgate")
    options = {"config": config, "debug": debug, "to_standard_output": True, "workers": workers_of(str(workers))}
    service: Any = makeService(options)
    service.setServiceParent(IServiceCollection(made))
    made.setComponent(ILogObserver, outputs)
    return made
