"""The workers on one configuration: to `runtime.LiveGateway`, which does not know the difference, a `Gateway`.

The supervisor checks the file, runs its tests and opens its addresses; then each worker builds its own gateway of the same
text (`config.files.Recorded`: what the file says by then does not matter) and of the sockets it is given. A worker that is
started anew gets the text of the configuration in force, not what may stand in the file since.

A reload has two steps, so that it happens everywhere or nowhere: every worker makes its successor ready, and only when all
have said so each changes over, in one turn of its event loop. One that can't, or ends meanwhile, is the end of the reload for
all.
"""

from __future__ import annotations

import secrets
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from mailgate.adapters import Adapters
from mailgate.config.files import Recorder
from mailgate.events import Event, EventLog
from mailgate.inbound.ports import place_of
from mailgate.net.waiting import DeadlineExceeded, within
from mailgate.registry import Built, Configuration, build
from mailgate.runtime import Assembler, Gateway, Refusal
from mailgate.runtime.live import START_TIME
from mailgate.workers.link import WorkerGone
from mailgate.workers.slot import Slot, State
from mailgate.workers.sockets import Address, Place, open_addresses
from mailgate.workers.staff import Staff

CHANGE_OVER = 10.0
"""Seconds that are waited for workers to say that they have changed over. They will, whenever they come to it."""

_events = EventLog("mailgate.workers")


class RecordingAssembler(Assembler):
    """The supervisor's: keeps what it has read last."""

    def __init__(self, path: str, adapters: Adapters) -> None:
        super().__init__(path, adapters)
        self.record: dict[str, Any] = {}

    def _build(self, path: str) -> Built:
        recorder = Recorder()
        built = build(path, self._adapters, outfit=self._outfit, files=recorder)
        self.record = {"path": path, **recorder.record}
        return built


class Crew(Gateway):
    """See the module's docstring. ``record`` is the text of the configuration."""

    def __init__(self, configuration: Configuration, staff: Staff, record: dict[str, Any], secret: str = "") -> None:
        super().__init__(configuration)
        self._staff = staff
        self._record = record
        self._secret = secret or secrets.token_hex(32)
        self._old: Crew | None = None
        self._opened: dict[Place, Address] = {}
        self._places: list[Place] = []
        self._prepared: list[Slot] = []
        self._changing: list[tuple[Slot, Deferred[dict[str, Any]]]] = []
        self._adopted = False

    @property
    def session_count(self) -> int:
        return self._staff.session_count if self._staff.beginning == self._begin else 0

    def succeed(self, old: Gateway) -> None:
        assert isinstance(old, Crew)
        self._old = old
        self._secret = old._secret

    def bind(self) -> None:
        """Open every address that is not open already."""
        self._make_runtime_dir()
        self._opened = open_addresses(self.listeners, self._staff.open, len(self._staff.slots))
        self._staff.open.update(self._opened)
        self._places = [place for place in self._staff.open if place in self._wanted()]

    def _wanted(self) -> set[Place]:
        return {
            place_of(endpoint.scheme, endpoint.host, endpoint.port, endpoint.path)
            for listener in self.listeners
            for endpoint in listener.endpoints
        }

    async def start_modules(self) -> None:
        """The first one starts the workers; a successor has them make it ready."""
        if self._old is None:
            await self._start_workers()
        else:
            await self._prepare()

    def accept(self) -> None:
        """What is ready serves from now on, and nothing else is started any more."""
        self._adopt()
        self._changing = [(slot, slot.ask({"do": "commit"})) for slot in self._prepared]
        self._prepared = []
        for slot in self._staff.slots:
            slot.restart_now()
        wanted = self._wanted()
        for place in [place for place in self._staff.open if place not in wanted]:
            self._staff.open.pop(place).close()

    async def start(self) -> None:
        """See `Gateway.start`."""
        await self.start_modules()
        addresses = [address for listener in self.listeners for address in listener.addresses]
        _events.info(Event.WORKERS_START, workers=len(self._staff.slots), listeners=" ".join(addresses))

    async def settled(self) -> None:
        """Wait until every worker has changed over."""
        changing, self._changing = self._changing, []
        for slot, answer in changing:
            try:
                said = await within(answer, CHANGE_OVER, self._staff.reactor)
            except (WorkerGone, DeadlineExceeded):
                continue  # it will have it when it starts, or comes to it
            if said["says"] != "reloaded":
                _events.error(Event.WORKER_BEHIND, worker=slot.number, reason=said.get("reason", ""))
                slot.replace()

    def superseded(self) -> None:
        """The workers see to it."""

    async def emptied(self) -> None:
        """Wait until the workers have no session under an older configuration."""
        beats = {slot: slot.beats + 2 for slot in self._staff.serving}  # the next may have been on its way already
        while any(slot.state is State.SERVING and (slot.old or slot.beats < due) for slot, due in beats.items()):
            await self._staff.change()

    async def stop(self) -> None:
        """If it has not come to serve: it was never there. Else the workers see to it."""
        if self._adopted:
            return
        prepared, self._prepared = self._prepared, []
        giving_up = [slot.ask({"do": "abandon", "reason": "the reload was given up"}) for slot in prepared]
        for answer in giving_up:
            try:
                await within(answer, START_TIME + CHANGE_OVER, self._staff.reactor)
            except (WorkerGone, DeadlineExceeded):
                continue  # the next reload waits for its turn there
        for place, address in self._opened.items():
            self._staff.open.pop(place, None)
            address.close()
        self._opened = {}

    def take_bound(self) -> list[Any]:
        """The staff, of whichever is in force."""
        return [self._staff] if self._staff.beginning == self._begin or (self._old is None and not self._adopted) else []

    # Steps

    async def _start_workers(self) -> None:
        self._adopt()
        for slot in self._staff.slots:
            slot.start()
        while not all(slot.state is State.SERVING for slot in self._staff.slots):
            for slot in self._staff.slots:
                if slot.state is State.WAITING:
                    raise Refusal(f"worker {slot.number} could not start: {slot.last_end}")
            await self._staff.change()

    def _adopt(self) -> None:
        self._adopted = True
        self._staff.beginning = self._begin
        self._staff.longest_drain = max(listener.shutdown_timeout for listener in self.listeners)

    async def _prepare(self) -> None:
        await self._staff.settled()
        self._prepared = self._staff.serving
        message = {"do": "reload", "record": self._record}
        turns = [slot.ask(message, self._staff.sockets_for(slot.number, self._opened)) for slot in self._prepared]
        results: list[tuple[bool, Any]] = await DeferredList(turns, consumeErrors=True)
        for slot, (succeeded, said) in zip(list(self._prepared), results, strict=True):
            if not succeeded:
                said.trap(WorkerGone)  # or we are cancelled, and it is to be abandoned
                self._prepared.remove(slot)
                raise Refusal(f"{said.value}; try again")
            if said["says"] != "prepared":
                self._prepared.remove(slot)
                raise Refusal(f"worker {slot.number}: {said.get('reason')}")

    def _begin(self, number: int) -> tuple[dict[str, Any], dict[Place, Any]]:
        message = {"record": self._record, "secret": self._secret}
        return message, self._staff.sockets_for(number, self._places)
