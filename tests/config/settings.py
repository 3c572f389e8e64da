"""A block with dynamic settings of every kind of type, for tests; and what is read of a text in it."""

from __future__ import annotations

from typing import Any

from mailgate.config import load_text
from mailgate.config import values as v
from mailgate.config.checker import check_body
from mailgate.config.diagnostics import Problem, Report
from mailgate.config.dynamic_variables import OUTBOUND_VARIABLES, Stage, outbound
from mailgate.config.line import Scope
from mailgate.config.schema import Block, Directive


class Settings(Block):
    """Of a delivery."""

    hostname = Directive("hostname", v.String("NAME"), dynamic=OUTBOUND_VARIABLES, doc="The name we say.")
    ip_strategy = Directive("ip_strategy", v.Choice("ipv4_only", "ipv6_only"), dynamic=outbound(Stage.RECIPIENT), doc="Families.")
    source_ip = Directive("source_ip", v.List(v.Address()), dynamic=outbound(Stage.ADDRESS), doc="From where.")
    names = Directive("names", v.Strings("NAME", minimum=0), dynamic=outbound(Stage.HOST), doc="Which.")
    connect = Directive("connect", v.Duration(minimum=1, maximum=600), dynamic=outbound(Stage.HOST), doc="How long.")
    limit = Directive("limit", v.Integer(minimum=0), dynamic=outbound(Stage.ENVELOPE), doc="How many.")
    size = Directive("size", v.Size(), dynamic=outbound(Stage.ENVELOPE), doc="How large.")
    flag = Directive("flag", v.Boolean(), dynamic=outbound(Stage.ENVELOPE), doc="Whether.")
    sni = Directive("sni", v.OneOf({"no": v.Nothing(), "": v.String()}), dynamic=outbound(Stage.ENVELOPE), doc="Which name.")
    target = Directive("target", v.ReferenceTo("target"), dynamic=outbound(Stage.ENVELOPE), doc="Where to.")
    plain = Directive("plain", v.Boolean(), doc="Not dynamic.")


class Names:
    """Stands in for the registry: references are to what `known` has."""

    def __init__(self, **known: Any) -> None:
        self.known = known

    def reference(self, name: Any, provides: str) -> Any:
        found = self.known.get(name.text[1:])
        if found is None:
            raise Problem(name.span, f"nothing is called `{name.text[1:]}`", code="E0602")
        return found


def read(text: str, path: str = "dynamic.conf", **known: Any) -> tuple[dict[str, Any], Report]:
    """The values of `Settings` that a text gives, by attribute, and what is wrong with it."""
    report = Report()
    loaded = load_text(text, path, report=report, environment={})
    scope: Any = Scope(report, Names(**known))  # type: ignore[arg-type]
    return check_body(Settings, loaded.tree, scope, "settings", None).values, report
