"""Check cluster files without a cloud: mistakes, what is left to fill in, and cost by the hour."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.check_aws import check_cluster
from cluster.check_budgets import check_budgets
from cluster.check_manifests import check_manifest
from cluster.kustomize import KUSTOMIZATION, Manifest, build
from cluster.prices import PRICES_DATE, PRICES_REGIONS, cost_bounds, cost_rows
from cluster.problems import Problem
from cluster.yamlfiles import read_documents
from langalign.errors import ConfigError

__all__ = ["DEFAULT_PATHS", "Report", "check", "run_check"]

DEFAULT_PATHS = (Path("cluster.yaml"), Path("cluster/kuberay"))
EXIT_PROBLEMS = 2
# Values of the files as they come, which name nothing real.
EXAMPLE_VALUES = (
    "123456789012",
    "example-bucket",
    "example-key",
    "registry.example",
    "sg-00000000000000000",
    "subnet-00000000000000000",
)


@dataclass
class Report:
    """What a check found: mistakes, tables of cost, and how many objects it looked at.

    `to_fill_in` has the first key of each (file, value) that is still an example, `manifests` the
    objects for Kubernetes that have no mistake of their own.
    """

    problems: list[Problem] = field(default_factory=list)
    to_fill_in: dict[tuple[str, str], str] = field(default_factory=dict)
    costs: list[Table | str] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    objects: int = 0


def check(paths: list[Path]) -> Report:
    """Check `ray up` files, manifests, and folders of manifests or kustomizations."""
    report = Report()
    for path in paths:
        try:
            if path.is_dir():
                _check_folder(path, report)
            else:
                _check_file(path, report)
        except ConfigError as error:
            report.problems.append(Problem("", "", str(error)))
    report.problems += check_budgets(report.manifests)
    return report


def run_check(paths: list[Path]) -> int:
    """Check and print; returns the exit status: 0 clean, 2 mistakes."""
    console, errors = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
    report = check(paths)
    for cost in report.costs:
        console.print(cost)
    for (file, text), key in report.to_fill_in.items():
        place = escape(f"{file}: {key}: {text}")
        console.print(f"[yellow]fill in:[/yellow] {place}", highlight=False)
    for problem in report.problems:
        errors.print(f"[red]error:[/red] {escape(str(problem))}", highlight=False)
    console.print(f"{report.objects} objects checked, {len(report.problems)} mistakes")
    return EXIT_PROBLEMS if report.problems else 0


def _check_folder(folder: Path, report: Report) -> None:
    """A kustomization as it would be applied; without one, the files here and folders below."""
    if (folder / KUSTOMIZATION).is_file():
        for manifest in build(folder):
            _check_object(manifest, report)
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            _check_folder(path, report)
        elif path.suffix in (".yaml", ".yml"):
            _check_file(path, report)


def _check_file(path: Path, report: Report) -> None:
    for document in read_documents(path):
        if isinstance(document, dict) and "cluster_name" in document:
            report.objects += 1
            found = check_cluster(str(path), document)
            report.problems += found
            _note_examples(str(path), document, report)
            if not found:
                report.costs += _cost(document)
        else:
            _check_object(Manifest(path, document), report)


def _check_object(manifest: Manifest, report: Report) -> None:
    report.objects += 1
    found = check_manifest(manifest)
    report.problems += found
    if not found:
        report.manifests.append(manifest)
    _note_examples(str(manifest.file), manifest.document, report)


def _note_examples(file: str, document: Any, report: Report) -> None:
    """Say which values still name nothing real, each once: anchors and overlays repeat them."""
    for key, text in _texts(document, ""):
        if (file, text) not in report.to_fill_in and any(one in text for one in EXAMPLE_VALUES):
            report.to_fill_in[file, text] = key


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """(path, text) of every text in a document."""
    if isinstance(value, str):
        yield key, value
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    for name, inner in items:
        yield from _texts(inner, f"{key}.{name}" if key else str(name))


def _cost(config: dict[str, Any]) -> list[Table | str]:
    region = config["provider"]["region"]
    if region not in PRICES_REGIONS:
        known = ", ".join(PRICES_REGIONS)
        return [f"no cost: the price table has {known}, not {region}"]
    try:
        rows = cost_rows(config)
    except ConfigError as error:
        return [f"no cost: {error}"]
    table = Table(title=f"USD an hour, on-demand prices of {PRICES_DATE}, {region}")
    table.add_column("type")
    table.add_column("machine")
    for name in ("nodes", "one", "all"):
        table.add_column(name, justify="right")
    for row in rows:
        nodes = f"{row.fewest}" if row.fewest == row.most else f"{row.fewest} to {row.most}"
        at_most = "≤ " if row.is_spot else ""
        table.add_row(
            row.name,
            f"{row.machine} spot" if row.is_spot else row.machine,
            nodes,
            f"{at_most}{row.usd_per_h:.2f}",
            f"{at_most}{row.most * row.usd_per_h:.2f}",
        )
    least, most = cost_bounds(rows, config["max_workers"])
    bounds = (
        f"at least {least:.2f}, at most {most:.2f} USD an hour with max_workers "
        f"{config['max_workers']}; disks, traffic and S3 come on top"
    )
    return [table, bounds]
