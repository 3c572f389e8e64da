"""Several processes that are one gateway: a supervisor, and workers that serve the same addresses.

- `sockets`: the supervisor's listening sockets, one for each worker of an address.
- `link`: the supervisor's conversation with one worker: JSON and sockets over a socket pair.
- `slot`: one worker's place: its process, and what becomes of it when it ends.
- `staff`: all slots together.
- `crew`: the staff on one configuration: what `runtime.LiveGateway` starts, reloads and stops as it does a `Gateway`.
- `worker`: the other end of the link.
"""

from mailgate.workers.crew import Crew, RecordingAssembler
from mailgate.workers.link import WorkerGone, open_link
from mailgate.workers.slot import SlotReport, Spawn
from mailgate.workers.staff import MAX_WORKERS, Staff, cannot_start
from mailgate.workers.worker import Answers, CannotStart, Inherited, Worker

__all__ = [
    "MAX_WORKERS",
    "Answers",
    "CannotStart",
    "Crew",
    "Inherited",
    "RecordingAssembler",
    "SlotReport",
    "Spawn",
    "Staff",
    "Worker",
    "WorkerGone",
    "cannot_start",
    "open_link",
]
