"""The metrics and the alerts, as Prometheus' own tool judges them."""

from __future__ import annotations

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
