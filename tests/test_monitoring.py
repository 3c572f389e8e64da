"""The alert rules and the dashboard that are shipped: every metric, label and value that they name is one that we export."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from mailgate.admin.metrics import Metrics
from mailgate.admin.pulse import Pulse
from mailgate.message.body import Spool
from mailgate.testing.network import adapters_for
from tests.support.examples import documents
from tests.support.scenario import SMTP, SimulatedCase
from tests.support.servers import tool

CONTRIB = Path(__file__).parent.parent / "contrib"
RULES = CONTRIB / "prometheus" / "alerts.yml"
RULE_TESTS = CONTRIB / "prometheus" / "alerts.test.yml"
DASHBOARD = CONTRIB / "grafana" / "mailgate.json"
SCRAPED = {"instance", "job", "le"}
"""Labels that Prometheus and histograms bring."""
CONFIG = f"""\
target.smtp next {{
    targets tcp://127.0.0.1:2525
    limits {{
        all rate 10 1s
    }}
}}
target.queue kept {{
    target &next
    bounce {{
        deliver_to &next
    }}
}}
smtp {SMTP} {{
    tls off
    deliver_to &kept
}}
"""
_SELECTOR = re.compile(r"\b(mailgate_[a-z_]+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|=|!=)\s*"([^"]*)"')
_BY = re.compile(r"\bby \(([^)]*)\)")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def of_the_dashboard() -> Iterator[str]:
    board = json.loads(DASHBOARD.read_text())
    yield from (target["expr"] for panel in board["panels"] for target in panel["targets"])
    yield from (annotation["expr"] for annotation in board["annotations"]["list"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


class NamesTest(SimulatedCase):
    def exported(self) -> dict[str, dict[str, set[str]]]:
        """Names of samples, each with its labels and their values."""
        gateway = self.gateway(CONFIG)
        text = Metrics(gateway.live, Spool(1 << 30, adapters_for(self.reactor)), Pulse(self.reactor), time.time).render()
        found: dict[str, dict[str, set[str]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    labels.setdefault(name, set()).add(value)
        return found

    def check(self, expression: str, known: dict[str, dict[str, set[str]]]) -> None:
        selectors = _SELECTOR.findall(expression)
        labels: set[str] = set(SCRAPED)
        for name, matchers in selectors:
            self.assertIn(name, known, expression)
            labels |= set(known[name])
            for label, operator, value in _MATCHER.findall(matchers):
                if label in SCRAPED:
                    continue
                self.assertIn(label, known[name], expression)
                if operator != "!=":
                    for one in value.split("|"):
                        self.assertIn(one, known[name][label], expression)
        for names in _BY.findall(expression):
            self.assertLessEqual({name.strip() for name in names.split(",")}, labels, expression)

    def test_every_name_is_exported(self) -> None:
        known = self.exported()
        expressions = [rule["expr"] for rule in rules()] + list(of_the_dashboard())
        self.assertGreater(len(expressions), 50)
        for expression in expressions:
            self.check(expression, known)

    def test_pages_name_no_others(self) -> None:
        known = self.exported()
        for page in documents():
            for name, labels in re.findall(r"`(mailgate_[a-z_]+)(?:\{([a-z_,]+)[^`]*)?`", page.read_text()):
                family = [sample for sample in known if sample in (name, f"{name}_bucket")]
                self.assertTrue(family, f"{page.name}: {name}")
                self.assertLessEqual(set(labels.split(",")) - {""}, {label for sample in family for label in known[sample]}, name)

    def test_every_rule_says_what_to_do(self) -> None:
        for rule in rules():
            self.assertEqual(set(rule["annotations"]), {"summary", "description"}, rule["alert"])
            self.assertIn(rule["labels"]["severity"], ("critical", "warning"))

    def test_panels_do_not_overlap(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(DASHBOARD.read_text())["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
            }
            self.assertLessEqual(max(x for x, _ in cells), 23)
            self.assertFalse(taken & cells, panel["title"])
            taken |= cells

    def test_promtool_agrees(self) -> None:
        promtool = tool("promtool", "prometheus")
        for command in (["check", "rules", str(RULES)], ["test", "rules", str(RULE_TESTS)]):
            done = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
