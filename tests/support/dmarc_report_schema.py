"""Is this an aggregate report of DMARC? Read by the schema of RFC 7489, appendix C."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from lxml import etree

_PATH = Path(__file__).parents[1] / "mailauth" / "rfc7489" / "aggregate.xsd"
NAMESPACE = ' xmlns="http://dmarc.org/dmarc-xml/0.1"\n           targetNamespace="http://dmarc.org/dmarc-xml/0.1"'


@cache
def _schema() -> Any:
    """Without its namespace, which reports don't use in the wild: readers look for elements without one."""
    text = _PATH.read_text()
    assert NAMESPACE in text
    return etree.XMLSchema(etree.fromstring(text.replace(NAMESPACE, "").encode()))


def checked(content: bytes) -> Any:
    """Its root. :raises AssertionError: it is none."""
    root = etree.fromstring(content)
    _schema().assertValid(root)
    return root


def records(root: Any) -> list[tuple[str, int, str, str, str]]:
    """Address, count, disposition, dkim, spf of each."""
    found = []
    for row in root.iterfind("record/row"):
        judged = row.find("policy_evaluated")
        words = (judged.findtext(name) for name in ("disposition", "dkim", "spf"))
        found.append((row.findtext("source_ip"), int(row.findtext("count")), *words))
    return found
