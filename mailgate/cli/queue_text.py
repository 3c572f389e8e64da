"""How `mailgate queue` puts queues, messages and reasons into words: pure functions of the JSON that the gateway answers.

Everything that came from outside (addresses, replies) is printed without control characters: a reply must not move a cursor.
"""

from __future__ import annotations

from typing import Any

MOST_LINES = 20
"""Destinations and clusters of a survey that are shown."""


def plain(text: object) -> str:
    """One line of printable characters."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in str(text))


def span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def octets(number: float) -> str:
    for unit in ("", "K", "M"):
        if number < 1024:
            return f"{number:.0f}{unit}"
        number /= 1024
    return f"{number:.1f}G"


# The survey


def survey_lines(body: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for one in body["queues"]:
        paused = f", paused: {plain(one['paused'])}" if one["paused"] else ""
        lines += [*([""] if lines else []), f"{one['queue']}: {one['recipients']} recipients{paused}"]
        if one["recipients"]:
            lines += [f"  {line}" for line in _table(body["ages"], one["destinations"])]
            lines += [f"  {line}" for line in _clusters(one["clusters"])]
    return lines or ["no queue is configured"]


def _table(ages: list[str], destinations: list[dict[str, Any]]) -> list[str]:
    head = ["", "all", *(age if age == "older" else f"<{age}" for age in ages)]
    rows = [_row(plain(one["destination"]), one["ages"]) for one in destinations[:MOST_LINES]]
    if len(destinations) > MOST_LINES:
        rest = destinations[MOST_LINES:]
        rows.append(_row(f"{len(rest)} others", [sum(one["ages"][n] for one in rest) for n in range(len(ages))]))
    if len(rows) > 1:
        rows.insert(0, _row("all", [sum(one["ages"][n] for one in destinations) for n in range(len(ages))]))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for name, *counts in (head, *rows):
        columns = [count.rjust(width) for count, width in zip(counts, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *columns]))
    return lines


def _row(name: str, ages: list[int]) -> list[str]:
    return [name, str(sum(ages)), *(str(count) if count else "." for count in ages)]


def _clusters(clusters: list[dict[str, Any]]) -> list[str]:
    width = max((len(str(one["recipients"])) for one in clusters), default=0)
    lines = [f"{one['recipients']:>{width}}  {_answer(one)}" for one in clusters[:MOST_LINES]]
    if len(clusters) > MOST_LINES:
        lines.append(f"{sum(one['recipients'] for one in clusters[MOST_LINES:]):>{width}}  {len(clusters) - MOST_LINES} others")
    return ["last answers:", *lines] if lines else []


def _answer(last: dict[str, Any]) -> str:
    return plain(" ".join(str(part) for part in (last["code"], last["status"], last["text"]) if part))


# Messages


def entry_lines(entry: dict[str, Any]) -> list[str]:
    head = (
        f"{entry['id']}  {span(entry['age'])}  {octets(entry['size'])}  <{plain(entry['sender'])}>"
        f"  {entry['queue']} → {plain(entry['target'])}"
    )
    return [head, *(f"    <{plain(one['address'])}>  {recipient_state(one)}" for one in entry["recipients"])]


def recipient_state(one: dict[str, Any]) -> str:
    words = [one["state"]]
    if one["reason"]:
        words[0] += f" ({plain(one['reason'])})"
    if one["state"] == "waiting":
        words.append(f"next in {span(one['due_in'])}" if one["due_in"] else "due")
    if one["state"] == "owed" and one["reports"]:
        words.append(f"its report was refused {times(one['reports'])}, next in {span(one['due_in'])}")
    if one["retries"]:
        words.append("1 attempt" if one["retries"] == 1 else f"{one['retries']} attempts")
    if one["in_doubt"]:
        words.append("may be delivered already")
    said = f": {last_words(one['last'])}" if one["last"] else ""
    return ", ".join(words) + said


def times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def last_words(last: dict[str, Any]) -> str:
    peer = plain(last["peer"] or last["address"] or "")
    return f"{_answer(last)}{f' ({peer})' if peer else ''}"


def show_lines(entries: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for entry in entries:
        origin = entry["origin"]
        came = " ".join(plain(origin[name]) for name in ("protocol", "client_ip", "client_name", "auth_user") if name in origin)
        lines += [
            *([""] if lines else []),
            *entry_lines(entry),
            f"  arrived {entry['arrived']}{f' by {came}' if came else ''}",
            *(f"  {name} {plain(value)}" for name, value in entry["parameters"].items() if value),
            *_connections(entry),
        ]
        if entry["history"]:
            lines += ["  history:", *(f"    {line['at']}  {plain(line['text'])}" for line in entry["history"])]
    return lines


def _connections(entry: dict[str, Any]) -> list[str]:
    lines = []
    for one in entry["recipients"]:
        last = one["last"]
        if last is not None and last["stage"]:
            facts = [f"{name} {plain(last[name])}" for name in ("stage", "address", "local", "tls") if last[name]]
            lines.append(f"  last attempt for <{plain(one['address'])}> {last['at']}: {', '.join(facts)}")
    return lines


# Reasons

_STATES = {
    "delivering": "is being delivered just now",
    "owed": "is at its end; the report to its sender is being made",
    "removed": "was removed; `mailgate queue undo` puts it back within 24 hours",
}


def why_lines(entries: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for entry in entries:
        if entry["paused"]:
            lines.append(f"the queue {entry['queue']} delivers nothing at present: {plain(entry['paused'])}")
        ways = {one["destination"]: one for one in entry["destinations"]}
        for one in entry["recipients"]:
            lines += _why(one, ways.get(one["destination"]))
    return lines


def _why(one: dict[str, Any], way: dict[str, Any] | None) -> list[str]:
    address = f"<{plain(one['address'])}>"
    state = one["state"]
    if state == "held":
        lines = [f"{address} is held: {plain(one['reason'] or 'no reason is known')}; `mailgate queue release` lets it go"]
    elif state == "owed" and one["reports"]:
        lines = [
            f"{address} is at its end; its report was refused {times(one['reports'])}, and is made again in {span(one['due_in'])}"
        ]
    elif state != "waiting":
        lines = [f"{address} {_STATES.get(state, state)}"]
    elif one["due_in"]:
        lines = [f"{address} waits for its next attempt, in {span(one['due_in'])}"]
    else:
        lines = [f"{address} is due"]
    if one["last"]:
        kind = f", class {one['last']['class']}" if one["last"]["class"] else ""
        heard = "said" if one["last"]["remote"] else "failed"
        lines.append(f"  attempt {max(one['retries'], 1)} {heard}{kind}: {last_words(one['last'])}")
    elif state in ("waiting", "held"):
        lines.append("  it was not tried yet")
    if way is not None and state == "waiting":
        lines += _why_there(way)
    return lines


def _why_there(way: dict[str, Any]) -> list[str]:
    name = plain(way["destination"])
    if way["failures"]:
        failures = "1 failure" if way["failures"] == 1 else f"{way['failures']} failures in a row"
        when = f"one delivery tries it in {span(way['retry_in'])}" if way["retry_in"] else "the next delivery tries it"
        return [f"  {name} could not be reached since {way['since']} ({failures}: {plain(way['reason'])}); {when}"]
    if way["in_flight"]:
        return [f"  {way['in_flight']} deliveries to {name} are under way"]
    return []


def stats_lines(queues: list[dict[str, Any]]) -> list[str]:
    return [line for one in queues for line in _stats(one)] or ["no queue is configured"]


def _stats(one: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{one[name]} {words}" for name, words in _COUNTS.items())
    facts = [f"oldest {one['oldest']}"] if one["oldest"] else []
    facts += [f"{one['delivered']} delivered and {one['failed']} failed since the start"]
    lines = [f"{one['queue']}: {counts}", f"  {', '.join(facts)}"]
    if one["damaged"]:
        lines.append(f"  {one['damaged']} damaged rows were set aside")
    if one["paused"]:
        lines.append(f"  paused: {plain(one['paused'])}")
    for way in one["down"]:
        lines.append(f"  {plain(way['destination'])} is down, tried again in {span(way['retry_in'])}: {plain(way['reason'])}")
    return lines


_COUNTS = {
    "waiting": "waiting",
    "held": "held",
    "owed": "reports owed",
    "removed": "removed",
    "in_flight": "in flight",
    "destinations": "destinations",
}
