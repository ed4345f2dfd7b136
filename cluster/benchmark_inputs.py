"""What a cell was made from, for its manifest: encoder, rows and options of every step."""

from dataclasses import asdict
from functools import lru_cache
from typing import Any

from cluster.benchmark_plan import Group, PlannedCell, Stack
from cluster.simcse_unit import SimcseUnit
from cluster.text_units import TextPart, TuneUnit
from langalign.benchmarkorigin import package_versions
from langalign.outputs import StepOutput
from langalign.storage import Storage

__all__ = ["made_from"]


def made_from(group: Group, member: PlannedCell, storage: Storage) -> dict[str, Any]:
    """As plain values; texts are named by digest, with the rule that draws rows from them.

    Steps that the cell has not are left out: `simcse`, `step_1` (tuning) and `steps_2_and_3`.
    """
    made: dict[str, Any] = {"versions": package_versions(), "encoder": _encoder(group, storage)}
    if group.made_by:
        made["translator"] = {"outputs": list(group.made_by)}
    if group.before:
        made["simcse"] = _simcse(group.before, storage)
    if group.tune:
        made["step_1"] = _tune(group.tune, storage)
    for stack in group.stacks:
        if member in stack.members:
            made["steps_2_and_3"] = _stack(stack, member)
    return {**made, "test": _rows(group.test)}


def _encoder(group: Group, storage: Storage) -> dict[str, Any]:
    """The base encoder; its name is of people's use only, its weights are told by digest."""
    info = _info(storage, group.base.prefix)
    return {"name": info["name"], "revision": info["revision"], **asdict(group.base)}


@lru_cache(maxsize=1)
def _info(storage: Storage, prefix: str) -> dict[str, Any]:
    # The same for all cells of a group, each of which would ask the storage.
    return StepOutput(storage, prefix).info()


def _simcse(unit: SimcseUnit, storage: Storage) -> dict[str, Any]:
    own = {"temperature": unit.temperature, "dropout": unit.dropout}
    return {
        "output": unit.output(storage).prefix,
        "rows": [_rows(unit.part)],
        "options": asdict(unit.options) | own,
    }


def _tune(unit: TuneUnit, storage: Storage) -> dict[str, Any]:
    return {
        "output": unit.output(storage).prefix,
        "rows": [_rows(part) for part in unit.parts],
        "options": asdict(unit.tuning),
        "lora": asdict(unit.lora) if unit.lora else None,
    }


def _stack(stack: Stack, member: PlannedCell) -> dict[str, Any]:
    return {
        "rows": [_rows(part) for part in stack.train],
        "held_out": _rows(stack.held_out),
        "pairs": [_rows(side) for side in stack.pairs] if stack.pairs else None,
        "measured_pairs": [_rows(side) for side in stack.measured],
        "direction": stack.direction,
        "options": asdict(member.options) if member.options else None,
    }


def _rows(part: TextPart) -> dict[str, Any]:
    return {
        "texts": part.texts.name,
        "language": part.texts.language,
        "digest": part.texts.digest,
        "drawn": asdict(part.split),
    }
