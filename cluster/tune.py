"""The sweep: Ray Tune with Optuna over aligner settings, on embeddings that are made once.

Embeddings go into the object store once and every trial reads them there. Tune asks Optuna for the
values of a few trials at a time and trains those in one process as one stack; as many such bundles
run as the cluster's free resources hold (more when nodes join), and poor trials are stopped. The
study on storage is what a second run goes on from. The best values are then compared with the
config's own on fresh seeds, and the better of the two trained by the pipeline and published.
"""

import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from rich.console import Console
from rich.markup import escape

from cluster import session
from cluster.arrays import load_arrays
from cluster.bundle import MemberScheduler, TrialBundle
from cluster.confirm import Comparison, measure_gain, own_trial
from cluster.display import Display
from cluster.monitor import drivers_node
from cluster.pipeline import Pipeline
from cluster.prepare import RunData
from cluster.study import SCORE, StudyFile, StudySearch
from cluster.sweepfiles import SweepFiles, sweep_summary
from cluster.verdicts import Verdicts
from cluster.watch import TakenStopper, Watch
from langalign.config import PipelineConfig
from langalign.errors import IntegrityError, TrainingError
from langalign.outputs import StepOutput, digest_of
from langalign.searchspace import SweepConfig, paper_points, pipeline_values, suggest
from langalign.storage import Storage
from langalign.sweepreport import print_gain, sweep_tables
from langalign.sweepresult import SweepResult, read_sweep
from langalign.trials import COMPARED, WATCHED

__all__ = ["Sweep"]

# What the embeddings of a trial are read from; those of test rows are not.
READ_SETS = ("train", "source", "target")
# No result files, and nothing of Tune's on the terminal: `Watch` shows what there is.
TUNE_VARIABLES = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}


class Sweep:
    """One sweep, or the rest of one."""

    def __init__(self, config: SweepConfig, storage: Storage, console: Console) -> None:
        self.config = config
        self.pipeline = PipelineConfig.model_validate(pipeline_values(config, {}))
        self.storage = storage
        self.console = console
        self.display = Display(console)
        self.files = SweepFiles(storage, config.name)
        self.study_key = f"{self.files.folder}/study.journal"

    @property
    def written(self) -> list[str]:
        """Places of what the run left."""
        return [self.storage.uri(self.study_key), *self.files.written]

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
            data, prefixes, arrays = self._embedded()
            file = StudyFile(self.storage, self.study_key, self.config.name, folder)
            identity = self._identity(data, prefixes)
            file.claim(identity)
            found = self._searched(file, arrays, folder)
            compared = self._compared(found.trials, arrays)
            found = replace(found, gain=compared.gain)
            notes = [*compared.notes, *self._notes(data, file)]
            summary = sweep_summary(self.config, found, compared, notes)
            # All that was found is shown and kept before the model, whose training may fail.
            self._report(found, identity, notes)
            self._keep(summary, start)
            if self.config.publish:
                summary |= self._published(compared.chosen, identity["data"])
                summary |= {"status": "done", "notes": notes + summary["notes"]}
                self._keep(summary, start)
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
        verdicts = (
            ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Verdicts)
            .options(scheduling_strategy=drivers_node())
            .remote()
        )

        def note_ended(numbers: Iterable[int]) -> None:
            ray.get(verdicts.finish.remote(numbers))

        size = min(options.stack, options.max_concurrent or options.stack)
        search = StudySearch(
            file,
            lambda asker: suggest(asker, space, aligner),
            points,
            seed=self.config.seed,
            trials=trials,
            size=size,
            on_end=note_ended,
        )
        # Tune's own files stay on this machine for the time of the run: they are pickles, and
        # the study holds all that the next run needs.
        os.environ.update(TUNE_VARIABLES)
        session.carry_no_keys()
        tuner = tune.Tuner(
            self._bundle(arrays, verdicts),
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                search_alg=search,
                scheduler=self._scheduler(verdicts, file),
                num_samples=-(-trials // size),
                max_concurrent_trials=(options.max_concurrent or 0) // size or None,
                reuse_actors=True,
            ),
            run_config=self._run_config(file, folder),
        )
        with session.own_interrupts():
            tuner.fit()
        # What could not be stored meanwhile, or the reason why this run had to end.
        file.keep()

    def _run_config(self, file: StudyFile, folder: Path) -> tune.RunConfig:
        options = self.config.sweep
        return tune.RunConfig(
            name="sweep",
            storage_path=str(folder / "tune"),
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
            # A trial takes seconds to minutes; one that is disturbed starts again.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[Watch(file, self.display, options.trials)],
            stop=TakenStopper(file),
            verbose=0,
        )

    def _bundle(self, arrays: dict[str, Any], verdicts: Any) -> Any:
        """The trainable, with the resources of one process of it."""
        options = self.config.sweep
        bundle = tune.with_parameters(
            TrialBundle,
            arrays=arrays,
            pipeline=self.pipeline,
            seeds=range(self.config.seed, self.config.seed + options.seeds),
            matmul_precision=options.matmul_precision,
            probe=COMPARED if options.scheduler == "asha" else WATCHED,
            verdicts=verdicts,
        )
        resources = {"cpu": options.cpus_per_stack, "gpu": options.gpus_per_stack}
        return tune.with_resources(bundle, resources)

    def _embedded(self) -> tuple[RunData, dict[str, dict[str, str]], dict[str, Any]]:
        """The data of the run, and for each pooling prefixes and a reference to the arrays.

        Raises:
            IntegrityError: a stored embedding was altered; it is made anew by the next run.
        """
        load = ray.remote(num_cpus=0, num_returns=2)(load_arrays)
        arrays: dict[str, Any] = {}
        read: dict[str, dict[str, str]] = {}
        for pooling in self.config.space.pooling or [self.config.encoder.pooling]:
            values = pipeline_values(self.pipeline, {"encoder.pooling": pooling})
            pipeline = Pipeline(PipelineConfig.model_validate(values), self.storage, self.console)
            data, prefixes = pipeline.embedded()
            read[pooling] = {name: prefixes[name] for name in READ_SETS}
            arrays[pooling], is_read = load.remote(self.storage, data, prefixes)
            try:
                with session.without_ray_wrapping():
                    ray.get(is_read)
            except IntegrityError as error:
                if error.folder is None:
                    raise
                StepOutput(self.storage, error.folder).discard()
                raise IntegrityError(
                    f"{error}; it is thrown away: run the same command again, which makes it anew"
                ) from error
        return data, read, arrays

    def _identity(self, data: RunData, prefixes: dict[str, dict[str, str]]) -> dict[str, str]:
        """What the trials depend on, by the word that a refusal has for it."""
        rows = {role: data.roles[role].summary.digest for role in ("train", "parallel")}
        rest = self.pipeline.model_dump(include={"task", "encoder", "tune", "aligner", "head"})
        options = self.config.sweep
        settings = digest_of(rest, options.seeds, options.matmul_precision, self.config.seed)
        return {
            "data": digest_of(rows),
            "settings": settings,
            "space": digest_of(self.config.space.model_dump()),
            "held-out rows": digest_of(self.pipeline.data.validation_fraction),
            # Named by digests over texts, encoder weights and the rule of embedding.
            "embeddings": digest_of(prefixes),
        }

    def _searched(self, file: StudyFile, arrays: dict[str, Any], folder: Path) -> SweepResult:
        """Run the trials that are left; prints and returns what all of them found.

        Raises:
            KeyboardInterrupt: the search was stopped.
        """
        options = self.config.sweep
        points = file.to_repeat()
        done = file.spent()
        if not done and not points:
            points = paper_points(self.config.space, self.pipeline)
        with self.display.step("search") as line:
            if done >= options.trials:
                line.found(f"{done} trials")
            else:
                self.search(file, arrays, folder, points, options.trials - done)
                counts = [f"{done} from before"] if done else []
                # Tune takes a second failed call, as of a node that is out of reach, for a
                # trial's last, whatever max_failures says.
                if file.lost() and self._has_ended(file):
                    left = options.trials - file.spent()
                    self.search(file, arrays, folder, file.to_repeat(), left)
                    counts.append(f"{left} repeated")
                if lost := len(file.lost()):
                    counts.append(f"{lost} lost with their process")
                line.say(", ".join([f"{file.spent()} trials", *counts]))
        found = read_sweep(file.study)
        sweep_tables(found, self.console)
        if not self._has_ended(file):
            raise KeyboardInterrupt
        return found

    def _has_ended(self, file: StudyFile) -> bool:
        """Whether no trial was left out because the search was stopped."""
        return file.spent() + len(file.lost()) >= self.config.sweep.trials

    def _scheduler(self, verdicts: Any, file: StudyFile) -> Any:
        options = self.config.sweep
        if options.scheduler == "none":
            return FIFOScheduler()
        longest = self.pipeline.aligner.max_epochs + self.pipeline.head.max_epochs
        asha = ASHAScheduler(
            max_t=longest + 1,
            grace_period=min(options.grace_epochs, longest),
            reduction_factor=options.reduction_factor,
        )
        spared = paper_points(self.config.space, self.pipeline)
        return MemberScheduler(asha, verdicts, spared, file.curves())

    def _best(self, trials: Sequence[FrozenTrial]) -> FrozenTrial:
        complete = [t for t in trials if t.state is TrialState.COMPLETE]
        if not complete:
            reasons = {t.user_attrs["reason"] for t in trials if "reason" in t.user_attrs}
            raise TrainingError(
                f"no trial of {len(trials)} reached a score, so nothing is published: "
                f"{'; '.join(sorted(reasons)[:3]) or 'all were stopped early'}"
            )
        return max(complete, key=lambda t: (t.value or 0.0, -t.number))

    def _compared(self, trials: Sequence[FrozenTrial], arrays: dict[str, Any]) -> Comparison:
        """The best trial beside that of the config's own values, on fresh seeds."""
        best = self._best(trials)
        count = self.config.sweep.confirm_seeds
        if not count:
            return Comparison(best)
        with self.display.step("confirm") as line:
            try:
                own = own_trial(paper_points(self.config.space, self.pipeline), trials)
                gain = measure_gain(self.config, best.params, own.params, arrays)
            except TrainingError as error:
                # It says how good the best is; the best is published all the same.
                compared = Comparison(best, fault=str(error))
                line.say(escape(compared.notes[0]))
                return compared
            others = f" and {own.number}, the config's own values," if own != best else ""
            line.say(f"trial {best.number}, the best,{others} on {count} fresh seeds")
        return Comparison(best, own, gain)

    def _report(self, found: SweepResult, identity: dict[str, str], notes: list[str]) -> None:
        print_gain(found.gain, self.console)
        facts = {
            "data digest": identity["data"],
            "space digest": identity["space"],
            "seed": str(self.config.seed),
        }
        facts |= {"notes": "; ".join(notes)} if notes else {}
        self.files.keep_report(found, facts)

    def _published(self, chosen: FrozenTrial, data_digest: str) -> dict[str, Any]:
        """Train a trial's values by the whole pipeline; what its summary says of the model."""
        config = PipelineConfig.model_validate(pipeline_values(self.pipeline, chosen.params))
        lineage = {
            "study": f"{self.study_key}#trial={chosen.number}",
            "config": self.files.keep_config(config),
            "data": data_digest,
        }
        summary = Pipeline(config, self.storage, self.console, parents=lineage).run()
        parts = {name: summary[name] for name in ("models", "results", "chosen", "notes")}
        return {**parts, "lineage": lineage}

    def _notes(self, data: RunData, file: StudyFile) -> list[str]:
        """What to know of the search: rows that it lacked, trials that it lost."""
        notes = []
        if not data.has_labelled_pairs:
            note = "trials were compared on held-out English rows: data.parallel has no labels"
            if self.pipeline.aligner.direction == "reverse" and not self.pipeline.head.residuals:
                note += "; these pass no aligner, so that aligners could not be told apart"
            notes.append(note)
        if lost := len(file.lost()):
            notes.append(f"{lost} trials were lost with their process; run again to repeat them")
        return notes

    def _keep(self, summary: dict[str, Any], start: float) -> None:
        summary["seconds"] = round(time.monotonic() - start, 3)
        self.files.keep_summary(summary)
