"""`target.queue`: accept with a promise, deliver through another target later, and report what could not be delivered.

After our 250 a message survives `kill -9` and the loss of power; it is tried until it is delivered, refused for good, or
expired, and its sender hears of what he asked to hear of. The work is in mailgate/queue: this file is its directives, the way
its reports take through the `bounce` pipeline, and its life over a reload, where the new module takes over the running queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from mailgate.config import values as v
from mailgate.config.dynamic import Dynamic
from mailgate.config.dynamic_variables import Stage, outbound
from mailgate.config.schema import REQUIRED, Block, Directive
from mailgate.events import EventLog
from mailgate.interfaces import Finality, ITarget
from mailgate.limits.limits import Kind, Scope
from mailgate.message.envelope import Attempt, Envelope, Recipient
from mailgate.modules._queue_store import STORE, check, make, place_of
from mailgate.outbound.variables import DeliveryVariables
from mailgate.pipeline.compile import NamedPipeline
from mailgate.pipeline.reach import enforces_requiretls
from mailgate.pipeline.router import Deliver, DeliverTo, Router
from mailgate.pipeline.submission import Submission, submit
from mailgate.queue.attempt import attempt_of, session_of
from mailgate.queue.delivery import QueueDelivery
from mailgate.queue.engine import Queue
from mailgate.queue.entry import Entry, Waiting
from mailgate.queue.reports import Reporter, ReportSettings
from mailgate.queue.schedule import EXPIRE, NOTIFY, RETRY, Plan
from mailgate.queue.store import Unavailable
from mailgate.queue.verdicts import QueueSettings
from mailgate.registry import Module, ModuleContext, Report
from mailgate.smtp.address import NULL_ADDRESS, Address
from mailgate.smtp.parameters import MailParameters
from mailgate.smtp.reply import Reply

REPORT_KINDS = ("failed", "delayed", "success")
UNPROTECTED = Reply(550, "5.7.30", "The way for reports does not do REQUIRETLS, which the message asked for")
_SCHEDULE = outbound(Stage.RECIPIENT)


class Bounce(NamedPipeline):
    """Where reports go: a pipeline for mail from <> to the sender of the message that a report is about."""

    @property
    def title(self) -> str:
        return "bounce"


class ReportsBlock(Block):
    """The words of reports to senders. In texts {hostname}, {sender}, {message_id} and, of delays, {until} are replaced."""

    from_address = Directive(
        "from", v.String("ADDRESS"), default="", doc="Who signs them; postmaster at our name by default. They leave as <> anyway."
    )
    subject = Directive(
        "subject",
        v.Args(v.Choice(*REPORT_KINDS), v.String("TEXT")),
        repeatable=True,
        doc="Their subject, by kind: of failures, of delays, of deliveries that somebody asked to hear of.",
    )
    text = Directive(
        "text", v.Args(v.Choice(*REPORT_KINDS), v.String("TEXT")), repeatable=True, doc="What people read first, by kind."
    )

    @property
    def texts(self) -> dict[str, str]:
        """As `message.dsn.compose` takes them."""
        return {**{f"subject_{kind}": text for kind, text in self.subject}, **dict(self.text)}


@implementer(ITarget)
class QueueTarget(Module):
    """A durable queue in front of another target."""

    name = "target.queue"
    works_alone = True
    finality = Finality.TWO_PHASE
    starts_last = True

    target = Directive(
        "target", v.ModuleLine("target"), default=REQUIRED, doc="What the queue delivers through: &NAME, or a target of its own."
    )
    store = Directive(
        "store",
        STORE,
        doc="Where it is kept: sqlite, files under state_dir, by default; or a PostgreSQL database, which several gateways may"
        " share (docs/scaling.md). DSN is libpq's, `host=… dbname=…` or `postgresql://…`; a secret.",
    )
    lease = Directive(
        "lease",
        v.Duration(minimum=1, maximum=3600),
        doc="With postgres: how long after the last sign of life of a gateway the others take over what it had; 60s by default.",
    )
    retry = Directive(
        "retry",
        v.List(v.Duration(minimum=1), minimum=1),
        default=RETRY,
        dynamic=_SCHEDULE,
        doc="Pauses between attempts; the last one repeats. Each is spread by 10 %.",
        origin="stalwart",
    )
    notify = Directive(
        "notify",
        v.List(v.Duration(minimum=1), minimum=1),
        default=NOTIFY,
        dynamic=_SCHEDULE,
        doc="Ages at which the sender is told that a message still waits.",
        origin="stalwart",
    )
    expire = Directive(
        "expire",
        v.Duration(minimum=1),
        default=EXPIRE,
        dynamic=_SCHEDULE,
        doc="The age at which a message is given up, after an attempt that failed.",
        origin="stalwart",
    )
    concurrency = Directive("concurrency", v.Integer(minimum=1), default=200, divided=True, doc="Deliveries at once.")
    limits = Directive(
        "limits",
        v.BlockOrReference("limits"),
        doc="Deliveries to each destination: at once, `destination concurrency N`, 20 without it; in a time,"
        " `destination rate N T`.",
    )
    bounce = Directive(
        "bounce",
        block=Bounce,
        block_required=True,
        doc="The pipeline for reports to senders. Without it nobody is told, and what can't be delivered is only logged.",
    )

    reports = Directive("reports", block=ReportsBlock, doc="The words of reports: who signs them, subjects and texts.")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self._router: Any = None
        self._queue: Queue | None = None
        self._place = ""
        self._reports = 0
        self._log = context.log or EventLog("mailgate.queue")

    # ITarget

    def open(self, envelope: Envelope) -> QueueDelivery:
        """See `ITarget`."""
        assert self.context.adapters is not None
        return QueueDelivery(self.queue, self.target.label, envelope, self.context.adapters.wall_time())

    def keeper(self, target: Any, envelope: Envelope) -> QueueDelivery:
        """A delivery of what ``target`` may not take, for `on_split queue`."""
        assert self.context.adapters is not None
        return QueueDelivery(self.queue, target.label, envelope, self.context.adapters.wall_time())

    def ledger(self, envelope: Envelope) -> QueueDelivery:
        """What keeps reports about a message that others deliver, for `reports` of a listener."""
        return self.open(envelope)

    @property
    def enforces_requiretls(self) -> bool:
        """As what it delivers through does. Reports are judged when there is one: none leaves unprotected."""
        return bool(getattr(self.target, "enforces_requiretls", False))

    @property
    def queue(self) -> Queue:
        """At work, after `start`."""
        assert self._queue is not None, "a queue that was not started"
        return self._queue

    # Life

    def configure(self, report: Report) -> None:
        check(self, report)
        circle = [self]
        while isinstance(following := getattr(circle[-1], "target", None), type(self)) and following not in circle:
            circle.append(following)
        if following is self:
            notes = (" → ".join(f"target.queue {queue.context.name}" for queue in (*circle, self)),)
            report.error(self.span_of("target"), "the queue delivers to itself", code="E0807", notes=notes)
        if self.bounce is not None:
            self._router = self.bounce.router(report, self.context.local_domains)
        elif not self.damaged:
            report.warning(
                self.span,
                "without `bounce` nobody hears of mail that could not be delivered",
                code="W0760",
                hint="bounce { deliver_to &NAME }",
            )
        if self.limits is not None:
            self.limits.check_place("queue", {Scope.DESTINATION}, self.span_of("limits"), report)
            if self.limits.shared is not None:
                report.error(self.span_of("limits"), "a queue's limits can't be shared: each has its own mail", code="E0753")
            for item in self.limits.items:
                if item.value.wait is not None:
                    report.error(item.span, "a queue waits as long as it must", code="E0760", hint="leave `wait` out")
        if not self.context.name:
            report.error(
                self.span, "a queue needs a name, for its files: `target.queue NAME { … }`", code="E0761", hint="deliver_to &NAME"
            )

    def inherit_state(self, old: Module) -> None:
        if isinstance(old, QueueTarget):
            self._queue = old._queue
            self._place = old._place

    async def start(self) -> None:
        """:raises StoreError: the store can't be had."""
        adapters = self.context.adapters
        assert adapters is not None
        settings = QueueSettings(self.context.name, self.concurrency, self._each(), self._rate(), self._planner(), self._quiet())
        submit = self._submit if self._router is not None else None
        reporter = Reporter(self.report_settings, submit, adapters, itself=self._submit)
        if self._queue is not None:
            if self._place != place_of(self):
                raise Unavailable(f"target.queue {self.context.name}: another `store` needs a restart")
            self._queue.adopt(self, settings, self._find, reporter)
            return
        self._place = place_of(self)
        store, shared = await make(self, adapters, self._log)
        self._queue = Queue(settings, store, self._find, reporter, adapters, self._log)
        if shared is not None:
            shared.on_waiting = self._queue.hear_of
        self._queue.adopt(self, settings, self._find, reporter)
        await self._queue.start()

    async def stop(self) -> None:
        if self._queue is not None and self._queue.is_owned_by(self):
            await self._queue.stop()

    def _find(self, name: str) -> Any:
        """The target of an entry. A name that is gone from the configuration is None: the entry is held."""
        if name == self.target.label:
            return self.target
        found = self.context.instances.get(name)
        if found is None:
            found = next((one for one in self.context.instances.values() if one.label == name), None)
        return found if found is not None and ITarget.providedBy(found) else None

    # Settings

    @property
    def report_settings(self) -> ReportSettings:
        """The words of this queue's reports."""
        words = self.reports
        return ReportSettings(self.context.hostname, words.from_address if words else "", words.texts if words else None)

    def _each(self) -> int:
        workers = self.context.workers
        if self.limits is None:
            return min(max(20 // workers, 1), int(self.concurrency))
        at_once = [line.divided(workers).count for line in self.limits.lines if line.kind is Kind.CONCURRENCY]
        return int(min(at_once, default=min(max(20 // workers, 1), int(self.concurrency))))

    def _rate(self) -> tuple[int, float] | None:
        """Deliveries to each destination, and the seconds for so many."""
        workers = self.context.workers
        lines = self.limits.lines if self.limits is not None else ()
        rates = [line.divided(workers) for line in lines if line.kind is Kind.RATE]
        return (rates[0].count, rates[0].period) if rates else None

    def _quiet(self) -> float:
        """The least age at which anybody may be told anything."""
        if any(isinstance(value, Dynamic) for value in (self.notify, self.expire)):
            return 0.0
        return float(min((*self.notify, self.expire)))

    def _planner(self) -> Callable[[Entry, Waiting], Any]:
        settings = (self.retry, self.notify, self.expire)
        if not any(isinstance(value, Dynamic) for value in settings):
            plan = Plan(tuple(self.retry), tuple(self.notify), self.expire)
            return lambda entry, row: plan
        return self._plan

    async def _plan(self, entry: Entry, row: Waiting) -> Plan:
        adapters = self.context.adapters
        assert adapters is not None
        attempt: Attempt = attempt_of(entry, row, adapters.wall_time(), None)
        envelope = Envelope(entry.message_id, entry.sender, session_of(entry.origin), entry.parameters, attempt=attempt)
        variables = DeliveryVariables(envelope, [Recipient(row.address, row.parameters, row.original)], entry.size)
        values = []
        for setting in (self.retry, self.notify, self.expire):
            value = setting
            if isinstance(setting, Dynamic):
                value = setting.value(variables)
                if setting.waits:
                    value = await value
            values.append(value)
        return Plan(tuple(values[0]), tuple(values[1]), values[2])

    # Reports

    async def _submit(self, to: Address, content: bytes, parameters: MailParameters) -> Reply:
        """Pass a report through the `bounce` pipeline, or where there is none through this queue; the answer is the one to its
        dot."""
        adapters = self.context.adapters
        assert adapters is not None
        router = self._router or Router(Deliver((DeliverTo(self),)))
        if parameters.requiretls and not enforces_requiretls(router):
            return UNPROTECTED
        self._reports += 1
        submission = Submission(NULL_ADDRESS, to, content, "dsn", parameters)
        hostname = self.context.hostname
        listener = f"queue {self.context.name}"
        return await submit(submission, router, adapters, spool=self.context.spool, hostname=hostname, listener=listener)
