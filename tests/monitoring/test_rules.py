"""monitoring/: what Prometheus' own tool says of the metrics and of the alerts."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from luod.ctl import metrics
from luod.testing.tools import require_tool
from tests.ctl.test_metrics import STATUS, TIMELINE, told

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "monitoring/luod.rules.yml"
DASHBOARD: Final = ROOT / "monitoring/luod.dashboard.json"
OF_OTHERS: Final = {"node_textfile_mtime_seconds"}
"""Metrics that node_exporter itself writes."""


def promtool(*arguments: str, stdin: bytes = b"") -> str:
    """Runs promtool in monitoring/. Returns what it printed, after a check of its exit status."""
    tool = require_tool("promtool", package="prometheus")
    done = subprocess.run([tool, *arguments], input=stdin, capture_output=True, check=False, cwd=RULES.parent)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


@pytest.mark.parametrize("timeline", [None, TIMELINE])
def test_the_metrics_follow_the_conventions_of_prometheus(timeline: object) -> None:
    assert promtool("check", "metrics", stdin=metrics.text(STATUS, TIMELINE if timeline else None)) == ""


def test_each_alert_fires_for_its_problem_and_not_for_a_healthy_host() -> None:
    promtool("check", "rules", RULES.name)
    assert "SUCCESS" in promtool("test", "rules", "luod.rules.test.yml")


def test_each_alert_has_a_test() -> None:
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    tested = re.findall(r"alertname: (\w+)", RULES.with_name("luod.rules.test.yml").read_text())
    assert {name: tested.count(name) for name in alerts} == dict.fromkeys(alerts, 2)


def test_the_alerts_use_metrics_that_luoctl_writes() -> None:
    used = set(re.findall(r"\b(?:luod|node)_[a-z_]+", " ".join(re.findall(r"expr: (.*)", RULES.read_text()))))
    written = {name.partition("{")[0] for name in told(metrics.text(STATUS, TIMELINE))}
    assert used - OF_OTHERS <= written


def expressions() -> list[str]:
    """Returns the expressions of the dashboard, with its variable set to all hosts."""
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            if "expr" in value:
                found.append(value["expr"].replace("$instance", ".*"))
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(json.loads(DASHBOARD.read_text()))
    return found


def test_the_dashboard_asks_prometheus_for_metrics_that_luoctl_writes(tmp_path: Path) -> None:
    written = {name.partition("{")[0] for name in told(metrics.text(STATUS, TIMELINE))}
    asked = set(re.findall(r"\bluod_[a-z_]+", " ".join(expressions())))
    assert asked <= written
    assert {"luod_up", "luod_sessions_bytes", "luod_problems", "luod_last_update_blackout_seconds"} <= asked
    rules = [{"record": f"dashboard:{number}", "expr": each} for number, each in enumerate(expressions())]
    # JSON is YAML, too.
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_the_panels_of_the_dashboard_do_not_cover_each_other() -> None:
    cells = [
        (x, y)
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _y in cells) < 24
