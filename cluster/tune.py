"""The sweep: Ray Tune with Optuna over aligner settings, on embeddings that are made once.

Embeddings go into the object store once and every trial reads them there. Tune asks Optuna for the
values of a few trials at a time and trains those in one process as one stack; as many such bundles
run as the cluster's free resources hold (more when nodes join), and poor trials are stopped. The
study on storage is what a second run goes on from. The best values are then compared with the
paper's defaults on fresh seeds, trained by the pipeline and published.
"""

import os
import shlex
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from rich.console import Console

from cluster import session
from cluster.arrays import load_arrays
from cluster.bundle import MemberScheduler, TrialBundle
from cluster.display import Display
from cluster.monitor import Progress
from cluster.pipeline import Pipeline
from cluster.prepare import RunData
from cluster.study import SCORE, StudyFile, StudySearch, is_spent
from cluster.trial import fit_seeds
from cluster.verdicts import Verdicts
from langalign.config import PipelineConfig
from langalign.errors import TrainingError
from langalign.outputs import digest_of
from langalign.report import dump_json
from langalign.searchspace import SweepConfig, paper_points, pipeline_values, suggest
from langalign.stacked_steps import PROBE_EPOCHS
from langalign.storage import Storage
from langalign.sweepreport import sweep_tables, trials_table, write_sweep_report
from langalign.sweepresult import Gain, completed, read_sweep, top_trials

__all__ = ["Sweep"]

# Seeds of the comparison with the defaults start here, away from those that chose.
FRESH_SEEDS = 1000
LEADING = 8  # rows of the table while a search runs
# No result files, and nothing of Tune's on the terminal: `_Watch` shows what there is.
TUNE_VARIABLES = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}


class Sweep:
    """One sweep, or the rest of one."""

    def __init__(self, config: SweepConfig, storage: Storage, console: Console) -> None:
        self.config = config
        self.pipeline = PipelineConfig.model_validate(pipeline_values(config, {}))
        self.storage = storage
        self.console = console
        self.display = Display(console)
        self.folder = f"runs/{config.name}/sweep"
        self.written: list[str] = []

    def run(self) -> dict[str, Any]:
        """Search, compare, train and publish; returns the summary.

        Raises:
            TrainingError: no trial reached a score.
            KeyboardInterrupt: the search was stopped; what is done is kept.
            LangAlignError: a step ended on purpose, with the reason.
        """
        start = time.monotonic()
        self.storage.check()
        with ExitStack() as stack:
            address = self.config.cluster.address
            stack.enter_context(session.checked_session(address, self.storage, self.display))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            file = StudyFile(self.storage, f"{self.folder}/study.journal", self.config.name, folder)
            data, arrays = self._embedded()
            file.claim(self._identity(data))
            self._searched(file, arrays, folder)
            best = self._best(file)
            gain = self._gain(best, arrays)
            summary = self._summary(file, best, gain)
            if self.config.publish:
                summary |= self._published(best)
            summary["seconds"] = round(time.monotonic() - start, 3)
            self._report(file, gain, summary)
        return summary

    def search(
        self,
        file: StudyFile,
        arrays: dict[str, Any],
        folder: Path,
        points: list[dict[str, Any]],
        trials: int,
    ) -> None:
        """Have Tune run `trials` trials, of which `points` are the first.

        `arrays` holds a reference to TrialArrays for each pooling, `folder` is a temporary one.
        """
        options, space, aligner = self.config.sweep, self.config.space, self.pipeline.aligner
        verdicts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Verdicts).remote()
        bundle = tune.with_parameters(
            TrialBundle,
            arrays=arrays,
            pipeline=self.pipeline,
            seeds=range(self.config.seed, self.config.seed + options.seeds),
            matmul_precision=options.matmul_precision,
            probe_epochs=PROBE_EPOCHS if options.scheduler == "asha" else 1,
            verdicts=verdicts,
        )
        resources = {"cpu": options.cpus_per_stack, "gpu": options.gpus_per_stack}
        size = min(options.stack, options.max_concurrent or options.stack)
        search = StudySearch(
            file,
            lambda asker: suggest(asker, space, aligner),
            points,
            seed=self.config.seed,
            trials=trials,
            size=size,
        )
        # Tune's own files stay on this machine for the time of the run: they are pickles, and
        # the study holds all that the next run needs.
        os.environ.update(TUNE_VARIABLES)
        _carry_no_keys()
        tune.Tuner(
            tune.with_resources(bundle, resources),
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                search_alg=search,
                scheduler=self._scheduler(verdicts),
                # At most: the search says when all have been drawn.
                num_samples=trials,
                max_concurrent_trials=(options.max_concurrent or 0) // size or None,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(folder / "tune"),
                failure_config=tune.FailureConfig(max_failures=options.max_failures),
                # A trial takes seconds to minutes; one that is disturbed starts again.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_Watch(file, self.display, options.trials)],
                verbose=0,
            ),
        ).fit()

    def _embedded(self) -> tuple[RunData, dict[str, Any]]:
        """The data of the run, and a reference to its arrays for each pooling."""
        load = ray.remote(num_cpus=0)(load_arrays)
        arrays: dict[str, Any] = {}
        for pooling in self.config.space.pooling or [self.config.encoder.pooling]:
            values = pipeline_values(self.pipeline, {"encoder.pooling": pooling})
            pipeline = Pipeline(PipelineConfig.model_validate(values), self.storage, self.console)
            data, prefixes = pipeline.embedded()
            with session.without_ray_wrapping():
                arrays[pooling] = load.remote(self.storage, data, prefixes)
                ray.wait([arrays[pooling]], fetch_local=False)
        return data, arrays

    def _identity(self, data: RunData) -> dict[str, str]:
        rows = {role: prepared.summary.digest for role, prepared in data.roles.items()}
        rows.pop("test")
        rest = self.pipeline.model_dump(include={"task", "encoder", "tune", "aligner", "head"})
        options = self.config.sweep
        settings = digest_of(rest, options.seeds, options.matmul_precision, self.config.seed)
        return {
            "data": digest_of(rows),
            "settings": settings,
            "space": digest_of(self.config.space.model_dump()),
        }

    def _searched(self, file: StudyFile, arrays: dict[str, Any], folder: Path) -> None:
        options = self.config.sweep
        points = file.interrupted()
        done = file.spent()
        if not done and not points:
            points = paper_points(self.config.space, self.pipeline)
        if done >= options.trials:
            with self.display.step("search") as line:
                line.found(f"{done} trials")
            return
        with self.display.step("search") as line:
            self.search(file, arrays, folder, points, options.trials - done)
            counts = [f"{done} from before"] if done else []
            line.say(", ".join([f"{file.spent()} trials", *counts]))
        if file.spent() < options.trials:
            sweep_tables(read_sweep(file.study), self.console)
            raise KeyboardInterrupt

    def _scheduler(self, verdicts: Any) -> Any:
        options = self.config.sweep
        if options.scheduler == "none":
            return FIFOScheduler()
        longest = self.pipeline.aligner.max_epochs + self.pipeline.head.max_epochs
        asha = ASHAScheduler(
            max_t=longest + 1,
            grace_period=min(options.grace_epochs, longest),
            reduction_factor=options.reduction_factor,
        )
        return MemberScheduler(asha, verdicts, paper_points(self.config.space, self.pipeline))

    def _best(self, file: StudyFile) -> FrozenTrial:
        trials = file.study.get_trials(deepcopy=False)
        complete = [t for t in trials if t.state is TrialState.COMPLETE]
        if not complete:
            reasons = {t.user_attrs["reason"] for t in trials if "reason" in t.user_attrs}
            raise TrainingError(
                f"no trial of {len(trials)} reached a score, so nothing is published: "
                f"{'; '.join(sorted(reasons)[:3]) or 'all were stopped early'}"
            )
        return max(complete, key=lambda t: (t.value or 0.0, -t.number))

    def _gain(self, best: FrozenTrial, arrays: dict[str, Any]) -> Gain | None:
        """The best and the paper's defaults on fresh seeds."""
        count = self.config.sweep.confirm_seeds
        if not count:
            return None
        # The paper's point of the kind that the config names, by the config's own values.
        paper: dict[str, Any] = {"aligner.kind": self.pipeline.aligner.kind}
        options = self.config.sweep
        fit = ray.remote(num_cpus=options.cpus_per_stack, num_gpus=options.gpus_per_stack)(
            fit_seeds
        )
        seeds = [self.config.seed + FRESH_SEEDS + i for i in range(count)]
        with self.display.step("confirm") as line, session.without_ray_wrapping():
            tuned, default = ray.get(
                [
                    fit.remote(values, seeds, arrays=arrays, pipeline=self.pipeline)
                    for values in (best.params, paper)
                ]
            )
            line.say(f"the best and the paper's defaults on {count} fresh seeds")
        return Gain(tuple(tuned), tuple(default))

    def _published(self, best: FrozenTrial) -> dict[str, Any]:
        """Train the best values by the whole pipeline; what its summary says of the model."""
        values = pipeline_values(self.pipeline, best.params)
        config = PipelineConfig.model_validate(values)
        lineage = {"study": f"{self.folder}/study.journal#trial={best.number}"}
        summary = Pipeline(config, self.storage, self.console, parents=lineage).run()
        return {name: summary[name] for name in ("models", "results", "chosen", "notes")}

    def _summary(self, file: StudyFile, best: FrozenTrial, gain: Gain | None) -> dict[str, Any]:
        trials = [t for t in file.study.get_trials(deepcopy=False) if is_spent(t)]
        return {
            "job": "sweep",
            "run": self.config.name,
            "status": "done",
            "seconds": 0.0,
            "seed": self.config.seed,
            "results": [],
            "models": [],
            "trials": {s.name.lower(): sum(t.state is s for t in trials) for s in TrialState},
            "best": {"trial": best.number, "score": best.value, "values": best.params},
            "gain": None
            if gain is None
            else {
                "best": gain.best,
                "defaults": gain.defaults,
                "difference": gain.difference,
                "interval_95": gain.interval,
            },
        }

    def _report(self, file: StudyFile, gain: Gain | None, summary: dict[str, Any]) -> None:
        result = read_sweep(file.study, gain)
        sweep_tables(result, self.console)
        attributes = file.study.user_attrs
        facts = {
            "data digest": attributes["data"],
            "space digest": attributes["space"],
            "seed": str(self.config.seed),
            "command": shlex.join(["python", *sys.argv]),
        }
        key = f"{self.folder}/summary.json"
        self.storage.write_bytes(key, dump_json(summary, indent=2).encode())
        keys = write_sweep_report(self.storage, f"{self.config.name}/sweep", result, facts)
        self.written = [self.storage.uri(k) for k in [key, f"{self.folder}/study.journal", *keys]]


def _carry_no_keys() -> None:
    """Tune would put AWS keys into trials' runtime environments, which Ray's agent logs in clear.

    Each node has its own, see `cluster.session`.
    """
    carried = class_cache.ENV_VARS_TO_PROPAGATE
    carried.difference_update({name for name in carried if name.startswith("AWS_")})


class _Watch(tune.Callback):  # type: ignore[misc]
    """Shows trials done of all, the time that is left, and a table of the best so far."""

    def __init__(self, file: StudyFile, display: Display, trials: int) -> None:
        self.file = file
        self.display = display
        self.trials = trials
        self.before = file.spent()
        self.start = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Tune writes its callbacks beside its state, and a terminal cannot be written.
        return {}

    def on_trial_result(self, *_: Any, **__: Any) -> None:
        """After an epoch of a trial."""
        self._show()

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        """After a trial."""
        self._show()

    def _show(self) -> None:
        trials = self.file.study.get_trials(deepcopy=False)
        done = sum(map(is_spent, trials))
        score = max((trial.value or 0.0 for trial in completed(trials)), default=None)
        best = "no score yet" if score is None else f"best {100 * score:.1f}"
        left = ""
        if done > self.before:
            pace = (time.monotonic() - self.start) / (done - self.before)
            left = f", about {pace * (self.trials - done):.0f} s left"
        leading = trials_table("Leading trials", top_trials(trials, LEADING))
        self.display.show(Progress("trials", done, self.trials, best + left, score), leading)
