"""Modules that exist in tests only."""

from __future__ import annotations

import ipaddress
from typing import Any, ClassVar

from mailgate.config import values as v
from mailgate.registry import DEFAULTS, REQUIRED, Argument, Block, Directive, Globals, Module, ModuleContext, Refused, Report


class Health(Block):
    """When it is down."""

    failures = Directive("failures", v.Integer(minimum=1), default=3, doc="How many.")
    interval = Directive("interval", v.Duration(), default=60.0, doc="How often.")


class Node(Block):
    """An endpoint with settings of its own."""

    weight = Directive("weight", v.Integer(), default=1, doc="Its share.")


class Target(Module):
    """Delivers nowhere."""

    name = "target.fake"
    made: ClassVar[list[str]] = []

    inline = Argument("ENDPOINT", v.Endpoint(default_port=25), rest=True, doc="Where.")
    targets = Directive("targets", v.List(v.Endpoint(default_port=25)), default=(), doc="Where.")
    timeout = Directive("timeout", v.Duration(minimum=1), default=300.0, doc="How long.")
    debug = Directive("debug", v.Boolean(), default=False, inherit=Globals.debug, doc="Noise.")
    health = Directive("health", block=Health, default=DEFAULTS, doc="Health.")
    probe = Directive("probe", block=Health, doc="Probes.")
    endpoint = Directive("endpoint", v.Endpoint(), block=Node, repeatable=True, doc="One of them.")
    backup = Directive("backup", v.ModuleLine("target"), doc="Where else.")
    forward = Refused("forward", "it can't")

    def __init__(self, context: ModuleContext) -> None:
        super().__init__(context)
        self.seen_in_init = (self.timeout, self.debug)
        self.configured = False

    def configure(self, report: Report) -> None:
        self.configured = True
        if self.timeout == 13:
            report.error(self.span_of("timeout"), "13 seconds is bad luck", code="E0700")
        if self.timeout == 14:
            raise RuntimeError("14 is worse")


class Louder(Target):
    """Another with another default."""

    name = "target.louder"
    timeout = Directive("timeout", v.Duration(), default=5.0, doc="How long.")
    probe = None


class Table(Module):
    """Maps."""

    name = "table.fake"
    path = Argument("PATH", v.Path(), default="", doc="A file.")
    entries = Directive("entry", v.Args(v.String("KEY"), v.Strings("VALUE", minimum=0)), repeatable=True, doc="One.")


class Rewrite(Module):
    """Rewrites by a table."""

    name = "modify.rewrite"
    table = Argument("TABLE", v.ModuleLine("table"), doc="By what.")
    strict = Directive("strict", v.Boolean(), default=False, doc="Whether.")


class Tag(Module):
    """Marks."""

    name = "modify.tag"
    text = Directive("text", v.String(), default=REQUIRED, doc="What.")


class Rules(Block):
    """Nested in themselves."""

    modify = Directive("modify", v.ModuleList("modify"), repeatable=True, doc="Changes.")
    deliver_to = Directive("deliver_to", v.ModuleLine("target"), repeatable=True, doc="Where.")
    match = Directive(
        "match", v.ModuleLine("table", block="directive"), block="Rules", block_required=True, repeatable=True, doc="If."
    )
    again = Directive("again", block=lambda: Rules, repeatable=True, doc="Once more.")
    split = Directive(
        "split", v.OneOf({"off": v.Nothing(), "queue": v.ReferenceTo("target")}), default=v.Chosen("off"), doc="Or."
    )


class Listener(Rules, Module):
    """Listens to nothing."""

    name = "listen"
    is_listener = True
    addresses = Argument("ADDRESS", v.Endpoint(listen=True), rest=True, minimum=1, doc="Where.")
    trusted = Directive("trusted", v.List(v.Network()), default=(ipaddress.ip_network("127.0.0.0/8"),), doc="Whom.")


CLASSES: dict[str, Any] = {c.name: c for c in (Target, Louder, Table, Rewrite, Tag, Listener)}
