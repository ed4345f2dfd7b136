"""The Grafana dashboard and Prometheus' configuration, without a cluster."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.observability.exported import (
    DASHBOARD,
    GPU_METRICS,
    exported_metrics,
    queried_metrics,
)
from cluster.ports import free_ports

PANELS: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]


def test_every_panel_asks_the_chosen_data_source_for_something() -> None:
    graphs = [panel for panel in PANELS if panel["type"] != "row"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in graphs:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    for a, b in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (a, b)


def test_the_dashboard_covers_pipeline_gpus_trials_and_serving() -> None:
    names = queried_metrics()
    assert names >= GPU_METRICS
    assert names >= {
        "ray_langalign_embedded_texts_total",
        "ray_langalign_step_done",
        "ray_langalign_best_score",
        "ray_langalign_latency_s_bucket",
    }


def test_prometheus_reads_rays_discovery_file() -> None:
    (job,) = yaml.safe_load(DASHBOARD.with_name("prometheus.yaml").read_text())["scrape_configs"]
    (source,) = job["file_sd_configs"]
    assert [Path(file).name for file in source["files"]] == ["prom_metrics_service_discovery.json"]


@contextmanager
def endpoint(text: str) -> Iterator[str]:
    """host:port of a server that has these metrics."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("has_gone", [False, True])
def test_exported_are_the_samples_of_all_nodes_that_answer(tmp_path: Path, has_gone: bool) -> None:
    path = tmp_path / "discovery.json"
    text = '# HELP ray_a text ray_c\n# TYPE ray_a gauge\nray_a{Node="1"} 2\nray_b_sum 3\n'
    with endpoint(text) as target:
        others = [f"127.0.0.1:{free_ports(1)[0]}"] if has_gone else []
        path.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [target, *others]}]))
        assert exported_metrics(path) == {"ray_a", "ray_b_sum"}
    assert exported_metrics(tmp_path / "none.json") == set()
