"""Rules and dashboards of cluster/monitoring. tests/e2e/test_cluster.py checks them against a real run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations

import pytest
import yaml
from cluster_files import DASHBOARDS, MONITORING, Exported, Query, queries, rules

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here; Debian's prometheus has it")


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], cwd=MONITORING, capture_output=True, text=True, timeout=240)


@needs_promtool
def test_every_alarm_rings_after_its_fault_and_not_before() -> None:
    answer = promtool("test", "rules", "rules_test.yml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    tests = [case for group in yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]
             for case in group["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert alerts == {case["alertname"] for case in tests if case["exp_alerts"]}
    assert alerts == {case["alertname"] for case in tests if not case["exp_alerts"]}


@needs_promtool
def test_an_alarm_that_no_longer_rings_fails(tmp_path) -> None:
    shutil.copy(MONITORING / "rules_test.yml", tmp_path)
    text = (MONITORING / "rules.yml").read_text()
    (tmp_path / "rules.yml").write_text(text.replace("expr: vector(1800)", "expr: vector(5000)"))
    answer = subprocess.run(["promtool", "test", "rules", tmp_path / "rules_test.yml"], capture_output=True, text=True)
    assert answer.returncode == 1 and "SquallStuckPhase" in answer.stdout + answer.stderr


@needs_promtool
def test_prometheus_takes_its_configuration() -> None:
    answer = promtool("check", "config", "prometheus.yml")
    assert answer.returncode == 0 and "15 rules found" in answer.stdout, answer.stdout + answer.stderr


def test_every_alarm_says_what_to_do_and_how_bad_it_is() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) == 10
    for rule in alerts:
        assert set(rule["annotations"]) == {"summary", "action"} and rule["labels"]["severity"] in ("critical", "warning")


def test_prometheus_of_pods_differs_in_where_it_looks_alone() -> None:
    host, pods = (yaml.safe_load((MONITORING / name).read_text()) for name in ("prometheus.yml", "prometheus-kubernetes.yml"))
    (job,) = pods.pop("scrape_configs")
    assert [host.pop("scrape_configs")[0]["job_name"], host] == [job["job_name"], pods]
    kept = {entry["source_labels"][0]: entry["regex"] for entry in job["relabel_configs"] if entry.get("action") == "keep"}
    assert kept["__meta_kubernetes_pod_container_port_name"] == "metrics"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_room_a_source_and_a_legend_that_their_query_gives(path) -> None:
    board = json.loads(path.read_text())
    (source,) = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) and len(panels) > 25
    assert all(panel["datasource"]["uid"] == source["uid"] for panel in panels)
    for one, other in combinations([panel["gridPos"] for panel in board["panels"]], 2):
        assert (one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
                or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]), (one, other)
    for query in queries():
        assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= query.grouped() | query.made(), query
    assert "$run" in "".join(target["expr"] for panel in panels for target in panel["targets"])


def test_what_a_query_names_is_found() -> None:
    query = Query("", 'max by (run, phase) (ray_a{run="$run",kind!="x"} == 1) * on (run) group_left () (time() - min(ray_b))'
                      ' > on () group_left () squall:limit:c and avg_over_time(ray_d{statistic="mean"}[30m]) > 0.5')
    assert list(query.selectors()) == [("ray_a", {"run": "", "kind": ""}), ("ray_b", {}), ("squall:limit:c", {}),
                                       ("ray_d", {"statistic": "mean"})]
    assert query.grouped() == {"run", "phase"}


def test_what_no_run_exports_is_told() -> None:
    exported = Exported()
    exported.read('# TYPE ray_a gauge\nray_a{run="r",kind="fog"} 1\n')
    assert exported.lacks(Query("panel", 'max by (run, instance) (ray_a{kind="fog"})')) == []
    assert exported.lacks(Query("panel", "max(ray_c)")) == ["panel: no series ray_c"]
    assert exported.lacks(Query("panel", 'max(ray_a{colour="red"})')) == ["panel: ray_a has no label colour"]
    assert exported.lacks(Query("panel", 'max(ray_a{kind="mist"})')) == ["panel: ray_a has no kind=mist, it has ['fog']"]
    assert exported.lacks(Query("panel", "max by (colour) (ray_a)")) == ["panel: no series has the label colour"]
