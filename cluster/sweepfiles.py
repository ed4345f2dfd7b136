"""What a sweep leaves on storage beside its study: report, summary, the model's configuration."""

import shlex
import sys
from typing import Any

from optuna.trial import TrialState

from cluster.confirm import Comparison
from cluster.study import is_spent
from langalign.config import PipelineConfig
from langalign.jsontext import dump_json
from langalign.outputs import digest_of
from langalign.searchspace import SweepConfig
from langalign.storage import Storage
from langalign.sweepreport import write_sweep_report
from langalign.sweepresult import SweepResult

__all__ = ["SweepFiles", "sweep_summary"]

# Keys of a pipeline that say where it ran, and not what came of it.
PLACE_KEYS = {"storage", "cluster", "publish"}


class SweepFiles:
    """Writes under `runs/<run>/sweep/`; `written` are the places."""

    def __init__(self, storage: Storage, run: str) -> None:
        self.storage = storage
        self.run = run
        self.folder = f"runs/{run}/sweep"
        self.written: list[str] = []

    def keep_summary(self, summary: dict[str, Any]) -> None:
        """summary.json, in place of an earlier one."""
        self._write("summary.json", summary)

    def keep_report(self, found: SweepResult, facts: dict[str, str]) -> None:
        """report.html and the plots; `facts` go into the page."""
        facts = {**facts, "command": shlex.join(["python", *sys.argv])}
        keys = write_sweep_report(self.storage, f"{self.run}/sweep", found, facts)
        self.written += map(self.storage.uri, keys)

    def keep_config(self, config: PipelineConfig) -> str:
        """A whole configuration, as `jobs/train.py --config` takes it; returns its key.

        The name is a digest, so that what a model's lineage names is never written over.
        """
        values = config.model_dump(exclude=PLACE_KEYS)
        return self._write(f"config-{digest_of(values)}.json", values)

    def _write(self, name: str, values: dict[str, Any]) -> str:
        key = f"{self.folder}/{name}"
        self.storage.write_bytes(key, dump_json(values, indent=2).encode())
        if self.storage.uri(key) not in self.written:
            self.written.append(self.storage.uri(key))
        return key


def sweep_summary(
    config: SweepConfig, found: SweepResult, compared: Comparison, notes: list[str]
) -> dict[str, Any]:
    """What summary.json holds before a model is published; `seconds` are the caller's to set."""
    best, own, gain = compared.best, compared.own, compared.gain
    trials = [trial for trial in found.trials if is_spent(trial)]
    return {
        "job": "sweep",
        "run": config.name,
        "status": "searched" if config.publish else "done",
        "seconds": 0.0,
        "seed": config.seed,
        "results": [],
        "models": [],
        "notes": notes,
        "trials": {s.name.lower(): sum(t.state is s for t in trials) for s in TrialState},
        "best": {"trial": best.number, "score": best.value, "values": best.params},
        "gain": None
        if own is None or gain is None
        else {
            "best": gain.best,
            "defaults": gain.defaults,
            "defaults_trial": own.number,
            "difference": gain.difference,
            "interval_95": gain.interval,
        },
    }
