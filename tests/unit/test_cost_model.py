"""The model of time and cost of benchmarks/cost_model.py: what was measured replaces a guess."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cost_model.py"


@pytest.fixture(scope="module")
def model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cost_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cost_model"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def printed(
    model: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *options: str,
) -> dict[int, list[float]]:
    """The table's rows by number of nodes: seconds of start, step 1, embedding, scheduling, all,
    and USD."""
    monkeypatch.setattr(sys, "argv", ["cost_model.py", *options])
    assert model.main() == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    return {int(nodes): [float(cell.replace(",", "")) for cell in rest] for nodes, *rest in rows}


def test_a_measured_rate_replaces_the_utilisation(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--sentences=8e6", "--sentences-per-s=1000", "--utilisation=0.9")
    rows = printed(model, monkeypatch, capsys, *options)
    assert [rows[nodes][2] for nodes in (1, 2, 4)] == [1000, 500, 250]


def test_a_measured_block_replaces_the_guess_and_is_the_drivers_alone(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = printed(model, monkeypatch, capsys, "--sentences=4096e3", "--block-ms=100")
    assert [rows[nodes][3] for nodes in (1, 2, 4, 8)] == [100] * 4
    assert rows[8][4] == pytest.approx(rows[4][4])  # nodes do not help where the driver is slower


def test_nodes_and_head_are_paid_until_the_last_node_has_ended(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = printed(model, monkeypatch, capsys)
    hours = (rows[2][4] + 600) / 3600
    assert rows[2][5] == pytest.approx(hours * (2 * 21.957642 + 0.384), abs=0.02)
