"""The dashboard: a real Prometheus answers each of its queries, and Grafana's published model has all its members."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from luod.ctl import metrics
from luod.frozen import replace
from luod.testing import eventually
from luod.testing.tools import require_tool
from tests.ctl.test_metrics import STATUS, TIMELINE, told

ROOT: Final = Path(__file__).parents[2]
DASHBOARD: Final = json.loads((ROOT / "monitoring/luod.dashboard.json").read_text())
HOSTS: Final = {
    "/h1": metrics.text(STATUS, TIMELINE),
    "/h2": metrics.text(replace(STATUS, state="idle", generation=8), TIMELINE),
    "/h3": b"# TYPE luod_up gauge\nluod_up 0\n",
}
"""What hosts write, by the path at which Prometheus reads it."""
OF_PROMETHEUS: Final = {".annotations.list[0].titleFormat"}
"""Members that are read by the data source and are not in the model."""


@dataclass(frozen=True)
class Query:
    """A query of the dashboard with its variable set to all hosts. `panel` is None for the annotation."""

    expression: str
    instant: bool
    panel: str | None


def queries() -> list[Query]:
    found = [
        Query(target["expr"], target.get("instant", False), panel["title"])
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]
    found += [Query(each["expr"], False, None) for each in DASHBOARD["annotations"]["list"]]
    return [Query(each.expression.replace("$instance", ".*"), each.instant, each.panel) for each in found]


class Hosts(BaseHTTPRequestHandler):
    """Answers scrapes, in place of node_exporter."""

    def do_GET(self) -> None:
        body = HOSTS[self.path]
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


class Prometheus:
    """Asks a Prometheus by its HTTP interface."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/api/v1/"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, what: str, **parameters: str) -> list[Any]:
        """Returns the data. Raises OSError: it cannot be reached, or refuses the query."""
        body = urllib.parse.urlencode(parameters).encode()
        with self._opener.open(f"{self._address}{what}", body, timeout=30) as answer:
            said = json.load(answer)
        assert said["status"] == "success"
        found: list[Any] = said["data"]["result"]
        return found

    def reached(self, hosts: int) -> bool:
        """Returns whether it has scraped so many hosts."""
        try:
            return len(self.ask("query", query="luod_up")) == hosts
        except OSError:
            return False


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Yields a Prometheus that has scraped the hosts."""
    program = require_tool("prometheus", package="prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ThreadingHTTPServer(("127.0.0.1", 0), Hosts) as server:
        jobs = [
            {
                "job_name": path.strip("/"),
                "metrics_path": path,
                "static_configs": [
                    {"targets": [f"127.0.0.1:{server.server_address[1]}"], "labels": {"instance": path.strip("/")}}
                ],
            }
            for path in HOSTS
        ]
        # JSON is YAML, too.
        configuration = directory / "prometheus.yml"
        configuration.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        command = [program, f"--config.file={configuration}", f"--storage.tsdb.path={directory}/data"]
        with (
            open(directory / "log", "wb") as log,
            subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{port}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            ) as process,
        ):
            try:
                asked = Prometheus(port)
                eventually(lambda: asked.reached(len(HOSTS)), describe="Prometheus has scraped the hosts")
                yield asked
            except AssertionError as error:
                error.add_note((directory / "log").read_text())
                raise
            finally:
                process.kill()
                server.shutdown()
                thread.join()


def test_each_query_has_an_answer_of_a_real_prometheus(prometheus: Prometheus) -> None:
    (first, *_rest) = prometheus.ask("query", query="luod_up")
    now = float(first["value"][0])
    unanswered = []
    for query in queries():
        if query.instant:
            found = prometheus.ask("query", query=query.expression)
        else:
            parameters = {"start": f"{now - 60}", "end": f"{now}", "step": "1"}
            found = prometheus.ask("query_range", query=query.expression, **parameters)
        if not found and query.panel is not None:
            unanswered.append(query.panel)
    assert unanswered == []


def test_the_answers_are_those_of_the_hosts(prometheus: Prometheus) -> None:
    by_panel = {query.panel: query.expression for query in queries()}

    def of(panel: str) -> dict[tuple[str, ...], float]:
        found = prometheus.ask("query", query=by_panel[panel])
        return {tuple(each["metric"].values()): float(each["value"][1]) for each in found}

    assert of("Hosts without luod") == {(): 1}
    assert of("Broken kernels") == {(): 0}
    assert of("Torn or stuck") == {(): 2}
    assert of("State of each host") == {("h1",): 5, ("h2",): 1}
    assert of("Phases of the last update") == {
        ("preparing",): 1.0,
        ("freezing",): 1.0,
        ("jumping",): 2.0,
        ("restoring",): 1.5,
    }


def test_it_asks_for_metrics_that_luoctl_writes() -> None:
    written = {name.partition("{")[0] for name in told(metrics.text(STATUS, TIMELINE))}
    asked = set(re.findall(r"\bluod_[a-z_]+", " ".join(query.expression for query in queries())))
    assert asked <= written
    assert {"luod_up", "luod_sessions_bytes", "luod_problems", "luod_last_update_blackout_seconds"} <= asked


def test_grafanas_model_has_each_member_and_keeps_its_value() -> None:
    register_default_plugins()

    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))

    assert set(lost(DASHBOARD, kept, "")) == OF_PROMETHEUS


def lost(given: Any, kept: Any, path: str) -> Iterator[str]:
    """Yields the paths of the values that are not kept. Members may be added."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            yield from lost(value, kept.get(name), f"{path}.{name}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{path}[{number}]")
    elif given != kept:
        yield path


def test_panels_do_not_cover_each_other() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _y in cells) < 24
