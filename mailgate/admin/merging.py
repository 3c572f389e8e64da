"""What several workers answer to one question, made one answer: the body of each, with the worker's number, to a body.

Numbers are added up, for each worker counts its own part. What can't be added is said by its worker: an endpoint that is down
in one and up in another is shown as it is where it is worst, with everybody's evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Parts = Sequence[tuple[int, dict[str, Any]]]
"""Numbers of workers and what they answered."""
Merge = Callable[[Parts], dict[str, Any]]

NUMBERS = 64
"""Entries of queues are numbered by each worker; here ``number * NUMBERS + worker - 1``."""
MOST_EVIDENCE = 10
"""Failures of an endpoint, holders of a limit."""
_BY_BADNESS = ("down", "half-open", "drained", "starting", "up")


def entry_number(worker: int, number: int) -> int:
    return number * NUMBERS + worker - 1


def of_entry(number: int) -> tuple[int, int]:
    """The worker and its own number."""
    place, worker = divmod(number, NUMBERS)
    return worker + 1, place


def by_worker(parts: Parts) -> dict[str, Any]:
    """Where nothing better is known: each for itself."""
    return {"workers": [{"worker": number, **body} for number, body in parts]}


def first(parts: Parts) -> dict[str, Any]:
    """What all have alike."""
    return parts[0][1]


def _added(bodies: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers together; of what is no number, the first that is something."""
    total: dict[str, Any] = {}
    for body in bodies:
        for name, value in body.items():
            before = total.get(name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if is_number and before is not None:
                total[name] = before + value
            elif before is None:
                total[name] = value
    return total


def _grouped(parts: Parts, list_name: str, key: Callable[[dict[str, Any]], Any]) -> list[list[tuple[int, dict[str, Any]]]]:
    """The elements of a list that every part has, those with the same key together, in the order of the first."""
    found: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for number, body in parts:
        for one in body[list_name]:
            found.setdefault(key(one), []).append((number, one))
    return list(found.values())


def _least(values: Iterable[Any]) -> Any:
    return min((value for value in values if value is not None), default=None)


# State


def status(parts: Parts) -> dict[str, Any]:
    """Listeners and queues; the rest is the supervisor's to say."""
    listeners = [
        _added(one for _, one in group)
        for group in _grouped(parts, "listeners", lambda one: (one["kind"], tuple(one["addresses"])))
    ]
    return {
        "sessions": sum(body["sessions"] for _, body in parts),
        "old_configurations": max((body["old_configurations"] for _, body in parts), default=0),
        "listeners": listeners,
        "queues": _queues(parts),
    }


def sessions(parts: Parts) -> dict[str, Any]:
    configurations = [{"worker": number, **one} for number, body in parts for one in body["configurations"]]
    return {"sessions": sum(body["sessions"] for _, body in parts), "configurations": configurations}


def limits(parts: Parts) -> dict[str, Any]:
    """Each worker has its part of every limit."""
    found = []
    for group in _grouped(parts, "limits", lambda one: (one["place"], one["name"])):
        total = _added(one for _, one in group)
        holders: dict[str, int] = {}
        for _, one in group:
            for key, count in one["holders"]:
                holders[key] = holders.get(key, 0) + count
        found.append({**total, "holders": sorted(holders.items(), key=lambda item: -item[1])[:MOST_EVIDENCE]})
    return {"limits": found}


# Pools


def pools(parts: Parts) -> dict[str, Any]:
    return {"pools": [_pool(group) for group in _grouped(parts, "pools", lambda one: one["target"])]}


def pool_act(parts: Parts) -> dict[str, Any]:
    failures = [f"worker {number}: {body['failure']}" for number, body in parts if body["failure"]]
    return {"failure": "; ".join(failures) or None, "pool": _pool([(number, body["pool"]) for number, body in parts])}


def _pool(group: Parts) -> dict[str, Any]:
    endpoints = [_endpoint(same) for same in _grouped(group, "endpoints", lambda one: one["endpoint"])]
    return {**_added(one for _, one in group), "endpoints": endpoints}


def _endpoint(group: Parts) -> dict[str, Any]:
    _, worst = min(group, key=lambda item: _badness(item[1]["state"]))
    evidence = sorted(
        ((ago, f"worker {number}: {what}") for number, one in group for ago, what in one["evidence"]), key=lambda item: -item[0]
    )
    counts = _added({name: one[name] for name in ("open", "idle", "leased", "messages")} for _, one in group)
    times = {name: _least(one[name] for _, one in group if one["state"] == worst["state"]) for name in ("retry_in", "probe_in")}
    states = {f"worker {number}": one["state"] for number, one in group}
    differ = {"states": states} if len(set(states.values())) > 1 else {}
    return {**worst, **counts, **times, "evidence": evidence[-MOST_EVIDENCE:], **differ}


def _badness(state: str) -> int:
    return _BY_BADNESS.index(state) if state in _BY_BADNESS else -1


# Queues


def _queues(parts: Parts) -> list[dict[str, Any]]:
    return [_queue(group) for group in _grouped(parts, "queues", lambda one: one["queue"])]


def _queue(group: Parts) -> dict[str, Any]:
    """A worker whose store fails has no numbers, but says why."""
    total = _added(one for _, one in group)
    paused = [f"worker {number}: {one['paused']}" for number, one in group if one.get("paused")]
    total["paused"] = "; ".join(paused) or None
    if any("oldest" in one for _, one in group):
        total["oldest"] = _least(one.get("oldest") for _, one in group)
        total["destinations"] = max(one.get("destinations", 0) for _, one in group)
    down = [{**entry, "worker": number} for number, one in group for entry in one.get("down", ())]
    return {**total, "down": down} if any("down" in one for _, one in group) else total


def queue_stats(parts: Parts) -> dict[str, Any]:
    return {"queues": _queues(parts)}


def queue_survey(parts: Parts) -> dict[str, Any]:
    return {
        "ages": parts[0][1]["ages"],
        "queues": [_survey(group) for group in _grouped(parts, "queues", lambda one: one["queue"])],
    }


def _survey(group: Parts) -> dict[str, Any]:
    destinations = []
    for same in _grouped(group, "destinations", lambda one: one["destination"]):
        ages = [sum(column) for column in zip(*(one["ages"] for _, one in same), strict=True)]
        destinations.append({"destination": same[0][1]["destination"], "recipients": sum(ages), "ages": ages})
    clusters = [_cluster(same) for same in _grouped(group, "clusters", lambda one: (one["code"], one["status"], one["text"]))]
    paused = [f"worker {number}: {one['paused']}" for number, one in group if one["paused"]]
    return {
        "queue": group[0][1]["queue"],
        "recipients": sum(one["recipients"] for _, one in group),
        "paused": "; ".join(paused) or None,
        "destinations": sorted(destinations, key=lambda one: -one["recipients"]),
        "clusters": sorted(clusters, key=lambda one: -one["recipients"]),
    }


def _cluster(same: Parts) -> dict[str, Any]:
    return {**same[0][1], "recipients": sum(one["recipients"] for _, one in same)}


def queue_entries(parts: Parts) -> dict[str, Any]:
    """Without ``next``: that is whose page it is."""
    return {
        "entries": [
            {**entry, "number": entry_number(number, entry["number"]), "worker": number}
            for number, body in parts
            for entry in body["entries"]
        ]
    }


def queue_done(parts: Parts) -> dict[str, Any]:
    """Of an act on named messages: missing is what nobody had."""
    missing = [one for one in parts[0][1]["missing"] if all(one in body["missing"] for _, body in parts)]
    messages = [one for _, body in parts for one in body["messages"]]
    counts = _added({name: body[name] for name in ("matched", "changed", "busy")} for _, body in parts)
    return {**counts, "messages": messages, "next": None, "missing": missing}
