"""Which metrics a running cluster exports, and which the dashboard asks for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

__all__ = ["DASHBOARD", "GPU_METRICS", "exported_metrics", "queried_metrics"]

DASHBOARD = Path(__file__).with_name("dashboard.json")
# Exported by nodes with an NVIDIA GPU only.
GPU_METRICS = frozenset(
    {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available"}
)
SCRAPE_LIMIT_S = 5.0
METRIC = re.compile(r"\b(?:ray|autoscaler)_[a-z0-9_]+")
SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)[{ ]", re.MULTILINE)


def queried_metrics(dashboard: Path = DASHBOARD) -> set[str]:
    """Names of all metrics in the dashboard's queries."""
    content = json.loads(dashboard.read_text())
    return {name for query in _queries(content) for name in METRIC.findall(query)}


def exported_metrics(discovery: Path) -> set[str]:
    """Names of the samples at every endpoint of Ray's service-discovery file.

    An endpoint that does not answer, as of a node that has just gone, has none; nor has a file that
    is not there, or not whole yet.
    """
    try:
        groups = json.loads(discovery.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return set()
    found: set[str] = set()
    for group in groups:
        for target in group["targets"]:
            try:
                answer = httpx2.get(f"http://{target}/metrics", timeout=SCRAPE_LIMIT_S)
            except httpx2.HTTPError:
                continue
            found.update(SAMPLE.findall(answer.text))
    return found


def _queries(content: Any) -> Iterator[str]:
    """Every `expr`, however deep."""
    if isinstance(content, dict):
        if isinstance(content.get("expr"), str):
            yield content["expr"]
        content = list(content.values())
    if isinstance(content, list):
        for inner in content:
            yield from _queries(inner)
