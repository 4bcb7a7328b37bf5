"""What cluster/ asks of Prometheus: the queries of rules and dashboards, the series in them, and whether a run exports them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
MONITORING = CLUSTER / "monitoring"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
WORDS = set("""and or unless on by group_left max min sum avg count time vector last_over_time avg_over_time quantile_over_time
    predict_linear label_replace offset""".split())
"""Everything in a query that is neither a series nor a label."""
PROMETHEUS_OWN = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate"}}
ADDED_BY_SCRAPING = {"instance", "job"}
ONLY_SOMETIMES = {
    "ray_node_gpus_utilization": {"GpuIndex"},  # a node with a GPU
    "ray_squall_heldout_accuracy": {"run", "branch"},  # a run with held-out questions
    "ray_squall_retried_groups_total": {"run", "reason"},  # a worker that died
    "ray_squall_worker_deaths_total": {"run", "worker"},
}
"""Series that a healthy run on CPUs does not export, with their labels."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a rule or a panel."""

    where: str
    text: str
    legend: str = ""

    def selectors(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Every series with its label matchers, the value where it is asked for as it is and without a variable."""
        bare = re.sub(r'label_replace\((.*), "\w+", "[^"]*", "\w+", "[^"]*"\)', r"\1", self.text)
        bare = re.sub(r"\b(by|on|group_left)\s*\([^)]*\)", r"\1", re.sub(r"#.*", "", bare))
        for name, inner in re.findall(r"([a-zA-Z_][\w:]*)(?![\w:]*\()\s*(\{[^}]*\})?", re.sub(r"\[\w+\]|\b\d+\w?\b", "", bare)):
            if name not in WORDS:
                yield name, {label: value if sign == "=" and "$" not in value else ""
                             for label, sign, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', inner)}

    def grouped(self) -> set[str]:
        """Labels that the query groups or joins by."""
        return {label for inner in re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", self.text)
                for label in re.findall(r"\w+", inner)}

    def made(self) -> set[str]:
        """Labels that the query makes itself."""
        return set(re.findall(r'label_replace\(.*, "(\w+)", "[^"]*", "\w+"', self.text))


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"] for rule in group["rules"]]


def queries() -> list[Query]:
    """Every query of rules and dashboards."""
    found = [Query(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    for path in DASHBOARDS:
        found += [Query(f"{path.name}: {panel['title']}", target["expr"], target.get("legendFormat", ""))
                  for panel in json.loads(path.read_text())["panels"] for target in panel.get("targets", ())]
    return found


class Exported:
    """What endpoints have served so far."""

    def __init__(self) -> None:
        self.series: dict[str, dict[str, set[str]]] = {}
        """Name to label to values."""

    def read(self, text: str) -> None:
        """Take in an exposition."""
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = self.series.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)

    def lacks(self, query: Query) -> list[str]:
        """What a query names and nothing has served, in words."""
        recorded = {rule["record"] for rule in rules() if "record" in rule}
        problems, labels = [], set(ADDED_BY_SCRAPING)
        for name, asked in query.selectors():
            known = self._labels(name, recorded)
            if known is None:
                problems.append(f"{query.where}: no series {name}")
                continue
            labels |= known.keys()
            for label, value in asked.items():
                if label not in known.keys() | ADDED_BY_SCRAPING:
                    problems.append(f"{query.where}: {name} has no label {label}")
                elif value and known.get(label) and value not in known[label]:
                    problems.append(f"{query.where}: {name} has no {label}={value}, it has {sorted(known[label])}")
        strange = query.grouped() - labels - query.made()
        return problems + [f"{query.where}: no series has the label {label}" for label in sorted(strange)]

    def _labels(self, name: str, recorded: set[str]) -> Mapping[str, set[str]] | None:
        if name in self.series:
            return self.series[name]
        if name in recorded:
            return {}
        own = PROMETHEUS_OWN.get(name) or ONLY_SOMETIMES.get(name)
        return None if own is None else {label: set() for label in own}
