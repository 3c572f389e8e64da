"""`table.redis`: keys of a Redis server."""

from __future__ import annotations

from functools import partial
from typing import Any

from redis.exceptions import ResponseError
from zope.interface import implementer

from mailgate.clients.ldap import PLACEHOLDER
from mailgate.clients.redis_link import RedisLink
from mailgate.clients.threads import Unanswerable
from mailgate.config import values as v
from mailgate.config.diagnostics import Report
from mailgate.config.schema import REQUIRED, Directive
from mailgate.interfaces import ITable
from mailgate.modules._asked import KEY_PARTS, AskedTable, parts_of
from mailgate.modules._redis import RedisModule
from mailgate.registry import ModuleContext

MAX_VALUES = 1000


class TooMuch(Unanswerable):
    """More values than a table can have."""


@implementer(ITable)
class RedisTable(AskedTable, RedisModule):
    """Values are what `find` finds; a key that Redis does not have is no match. While the server can't be asked, clients hear
    451."""

    name = "table.redis"
    find = Directive(
        "find",
        v.OneOf(
            {
                "string": v.String("KEY"),
                "set": v.String("KEY"),
                "list": v.String("KEY"),
                "member": v.String("KEY"),
                "field": v.Args(v.String("KEY"), v.String("FIELD")),
            }
        ),
        default=REQUIRED,
        doc="Where the values are: `string KEY` (GET), all members of a `set` or a `list`, one `field` of a hash; `member KEY`"
        " asks whether the set has the table's key as a member, a match with an empty value. {key} stands for the key,"
        " {localpart} and {domain} for its parts.",
    )

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        value = self.find.value if self.find is not None else ""
        texts = (value,) if isinstance(value, str) else value
        self.wanted_parts = frozenset(name for text in texts for name in PLACEHOLDER.findall(text))

    def configure(self, report: Report) -> None:
        super().configure(report)
        wrong = self.wanted_parts - set(KEY_PARTS)
        hint = "possible: " + ", ".join(f"{{{name}}}" for name in KEY_PARTS)
        if wrong:
            report.error(self.span_of("find"), f"`{{{min(wrong)}}}` stands for nothing here", code="E0844", hint=hint)
        elif not self.wanted_parts and self.find.word != "member":
            text = "without a placeholder the answer is the same for everybody"
            report.error(self.span_of("find"), text, code="E0844", hint=hint)

    async def ask(self, key: str) -> tuple[str, ...]:
        parts = parts_of(key)

        def filled(text: str) -> str:
            return PLACEHOLDER.sub(lambda match: parts[match[1]], text)

        value = self.find.value
        words = [filled(value)] if isinstance(value, str) else [filled(text) for text in value]
        found = await self.threads.ask(partial(_find, self.find.word, words=words, key=key))
        return tuple(dict.fromkeys(found))


def _find(word: str, link: RedisLink, words: list[str], key: str) -> list[str]:
    try:
        return _FIND[word](link, words, key)
    except ResponseError as error:
        if str(error).startswith("WRONGTYPE"):  # of this key alone
            raise Unanswerable(str(error)) from error
        raise


def _string(link: RedisLink, words: list[str], key: str) -> list[str]:
    return _present(link.client.get(words[0]))


def _field(link: RedisLink, words: list[str], key: str) -> list[str]:
    return _present(link.client.hget(words[0], words[1]))


def _set(link: RedisLink, words: list[str], key: str) -> list[str]:
    client: Any = link.client
    if client.scard(words[0]) > MAX_VALUES:
        raise TooMuch(f"more than {MAX_VALUES} members")
    return sorted(client.smembers(words[0]))


def _list(link: RedisLink, words: list[str], key: str) -> list[str]:
    client: Any = link.client
    found: list[str] = client.lrange(words[0], 0, MAX_VALUES)
    if len(found) > MAX_VALUES:
        raise TooMuch(f"more than {MAX_VALUES} members")
    return found


def _member(link: RedisLink, words: list[str], key: str) -> list[str]:
    return [""] if link.client.sismember(words[0], key) else []


def _present(value: Any) -> list[str]:
    return [] if value is None else [value]


_FIND = {"string": _string, "set": _set, "list": _list, "member": _member, "field": _field}
