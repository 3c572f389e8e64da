"""`table.dns`: which names are asked, and what the answers are."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgate.adapters import Adapters
from mailgate.dns.answer import Answer, Status
from mailgate.dns.failure import ServerFailure
from mailgate.net.waiting import as_deferred
from tests.modules.support import errors, instance


class Names:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def query(self, name: str, rdtype: int) -> Answer:
        self.asked.append(name)
        if name.startswith("broken"):
            raise ServerFailure(name, "A", "SERVFAIL")
        if name.startswith(("2.0.0.127", "listed.test")):
            records = (SimpleNamespace(address="127.0.0.2"), SimpleNamespace(address="127.0.0.4"))
            return Answer(name, "A", Status.FOUND, records)
        return Answer(name, "A", Status.NXDOMAIN)

    async def txt(self, name: str) -> Answer:
        self.asked.append(name)
        if name.startswith("listed.test"):
            return Answer(
                name, "TXT", Status.FOUND, (SimpleNamespace(strings=(b"one ", b"text")), SimpleNamespace(strings=(b"two",)))
            )
        return Answer(name, "TXT", Status.NODATA)


class DnsTableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = Names()
        self.adapters = Adapters(Clock(), lambda: 0.0, maybeDeferred, random.Random(0), resolver=self.names)

    def values(self, key: str, kind: str = "a") -> Any:
        table = instance(f"table.dns t list.example.org {{\n type {kind}\n}}", "t", self.adapters)
        found = table.lookup(key)
        return found if isinstance(found, tuple) else self.successResultOf(as_deferred(found))

    def test_answers(self) -> None:
        for key, name, values in (
            ("127.0.0.2", "2.0.0.127", ("127.0.0.2", "127.0.0.4")),
            ("127.0.0.3", "3.0.0.127", ()),
            ("2001:db8::1", "1." + "0." * 23 + "8.b.d.0.1.0.0.2", ()),
            ("listed.test", "listed.test", ("127.0.0.2", "127.0.0.4")),
            ("ann@listed.test", "listed.test", ("127.0.0.2", "127.0.0.4")),
            ("ann@bücher.test", "xn--bcher-kva.test", ()),
        ):
            self.assertEqual(self.values(key), values, key)
            self.assertEqual(self.names.asked.pop(), f"{name}.list.example.org")

    def test_what_is_no_name_is_not_asked(self) -> None:
        for key in ("", "no name", "a..b", "x" * 64 + ".test"):
            self.assertEqual(self.values(key), (), key)
        self.assertEqual(self.names.asked, [])

    def test_texts(self) -> None:
        self.assertEqual(self.values("listed.test", "txt"), ("one text", "two"))
        self.assertEqual(self.values("other.test", "txt"), ())

    def test_no_answer_is_no_empty_one(self) -> None:
        table = instance("table.dns t list.example.org", "t", self.adapters)
        self.failureResultOf(as_deferred(table.lookup("broken.test")), ServerFailure)

    def test_mistakes(self) -> None:
        self.assertEqual(errors("table.dns t list"), ["E0843 1"])
