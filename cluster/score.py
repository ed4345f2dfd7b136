"""A published model on labelled rows, with Ray Data: every shard is embedded once.

The model's own head counts its outcomes, and on the same embeddings so do the baselines that its
training run left beside it: `english` (step 1's own head) and `omission` (a head on the raw
embeddings, without an aligner). A baseline that reads another encoder is left out, with a note.
"""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from ray.data import ActorPoolStrategy
from rich.console import Console
from safetensors.torch import load as load_tensors
from torch import Tensor

from cluster import session
from cluster.display import Display
from cluster.embed import default_actors, prepare_ray_data
from cluster.monitor import Progress
from cluster.prepare import DEMO, materialised
from cluster.published import PublishedPlace, find_model, usable_baselines
from cluster.publishing import write_reports
from cluster.scoring import score_rows
from cluster.session import without_ray_wrapping
from cluster.units import HEAD_FILE
from langalign import artifacts
from langalign.aligners import NoAligner
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.config import ActorsConfig, ScoreConfig, ScoredRowsConfig
from langalign.counterpart import COUNTERPART
from langalign.data import PreparedData, read_labelled, write_shards
from langalign.errors import ConfigError
from langalign.manifest import Manifest
from langalign.metrics import class_table, confusion
from langalign.model import TextModel
from langalign.outputs import StepOutput
from langalign.storage import Storage
from langalign.tasks import Task
from langalign.training import Labelled, count_outcomes

__all__ = ["Scoring"]

# Texts, their second texts or None, and a language to labels.
Ask = Callable[[Sequence[str], Sequence[str] | None, str], list[str]]


class Scoring:
    """One run of `jobs/score.py`; `ask` gives the labels where a service has the model."""

    def __init__(
        self, config: ScoreConfig, storage: Storage, console: Console, ask: Ask | None = None
    ) -> None:
        self.config = config
        self.storage = storage
        self.ask = ask
        self.display = Display(console)
        self.written: list[str] = []

    def run(self) -> dict[str, Any]:
        """Score; returns the summary that `summary.json` holds.

        Besides the contract's keys: `data` {source, rows, digest}, `classes` (see
        `metrics.class_table`) and `confusion` (row counts, label by prediction), of the model.

        Raises:
            LangAlignError: the model, the rows or the storage do not allow it.
        """
        start = time.monotonic()
        self.storage.check()
        model = find_model(self.storage, self.config.model, self.config.version)
        manifest = model.manifest
        language = _language(self.config, manifest)
        rows = self._prepare(model, language)
        counts, notes = (
            self._asked(self.ask, model, rows, language)
            if self.ask
            else self._count(model, rows, language)
        )
        own = counts[model.method]
        summary = {
            "job": "score",
            "run": self.config.name,
            "status": "done",
            "seconds": round(time.monotonic() - start, 3),
            "seed": manifest.seed,
            "results": _results(counts, manifest, language, model.method),
            "models": [{"name": manifest.name, "version": manifest.version, "uri": model.uri}],
            "notes": notes,
            "data": {
                "source": _source(self.config, manifest),
                "rows": rows.summary.rows,
                "digest": rows.summary.digest,
            },
            "classes": class_table(own, tuple(manifest.labels)),
            "confusion": own.tolist(),
        }
        self.written = write_reports(self.storage, self.config.name, summary, {})
        return summary

    def _prepare(self, model: PublishedPlace, language: str) -> PreparedData:
        manifest, limit = model.manifest, self.config.rows
        task = _task(self.config.task, manifest)
        source = _source(self.config, manifest)
        with (
            self.display.step("prepare") as line,
            materialised(source, "test", language, limit, manifest.seed) as place,
        ):
            rows = write_shards(
                read_labelled(
                    place, task, language=language, limit=limit, require_all_labels=False
                ),
                self.storage,
                prefix=f"runs/{self.config.name}/data/score",
                shard_rows=self.config.cluster.shard_rows,
            )
            line.say(f"{rows.summary.rows:,} rows of {language} from {source}")
        return rows

    def _count(
        self, model: PublishedPlace, rows: PreparedData, language: str
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Counts by method, and notes on baselines that are left out."""
        manifest, address = model.manifest, self.config.cluster.address
        heads, notes = usable_baselines(model) if self.config.baselines else ({}, [])
        work = _Work(self.storage, model, heads, language == manifest.target_language)
        with (
            session.checked_session(address, self.storage, self.display),
            self.display.step("score") as line,
        ):
            counts = _count_shards(work, rows.shards, self.config.cluster, self.display)
            line.say(f"{manifest.name} {manifest.version}: {', '.join(counts)}")
        return counts, notes

    def _asked(
        self, ask: Ask, model: PublishedPlace, rows: PreparedData, language: str
    ) -> tuple[dict[str, Tensor], list[str]]:
        """As `_count`, with the labels that a service gives."""
        manifest = model.manifest
        places = {label: place for place, label in enumerate(manifest.labels)}
        counts = torch.zeros(len(places), len(places), dtype=torch.int64)
        with self.display.step("score") as line:
            for done, key in enumerate(rows.shards, start=1):
                table = pq.read_table(io.BytesIO(self.storage.read_bytes(key)))
                pairs = table["text_pair"].to_pylist()
                second = None if None in pairs else pairs
                found = ask(table["text"].to_pylist(), second, language)
                labels = torch.tensor(table["label"].to_pylist())
                predicted = torch.tensor([places[label] for label in found])
                counts += confusion(labels, predicted, len(places))
                self.display.show(Progress("shards", done, len(rows.shards), ""))
            line.say(f"{manifest.name} {manifest.version}, as {self.config.service} answers")
        notes = ["english, omission: left out, because a service answers with its model only"]
        return {model.method: counts}, notes if self.config.baselines else []


@dataclass(frozen=True)
class _Work:
    """What an actor needs. `heads` are step outputs of the model's storage, by method."""

    storage: Storage
    model: PublishedPlace
    heads: dict[str, str]
    of_target: bool

    @property
    def methods(self) -> tuple[str, ...]:
        return (self.model.method, *self.heads)


def _count_shards(
    work: _Work, shards: Sequence[str], cluster: ActorsConfig, display: Display
) -> dict[str, Tensor]:
    """Confusion counts (C, C) of every method over all shards."""
    prepare_ray_data()
    actors = cluster.embed_actors or default_actors(
        gpus_per_actor=cluster.gpus_per_worker, cpus_per_actor=cluster.cpus_per_worker
    )
    # One stage, so the actors may fill the cluster: there is no other stage to wait for.
    dataset = ray.data.from_items(
        [{"key": key} for key in shards], override_num_blocks=len(shards)
    ).map(
        _Count,
        fn_constructor_kwargs={"work": work},
        compute=ActorPoolStrategy(size=min(actors, len(shards))),
        num_gpus=cluster.gpus_per_worker,
        num_cpus=cluster.cpus_per_worker,
    )
    classes = len(work.model.manifest.labels)
    total = np.zeros((len(work.methods), classes, classes), dtype=np.int64)
    with without_ray_wrapping():
        for done, row in enumerate(dataset.iter_rows(), start=1):
            total += row["counts"]
            display.show(Progress("shards", done, len(shards), ""))
    return dict(zip(work.methods, torch.from_numpy(total), strict=True))


class _Count:
    """An actor that holds the model: a shard of rows to counts (M, C, C) of M methods."""

    def __init__(self, work: _Work) -> None:
        self.work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        table = pq.read_table(io.BytesIO(self.work.storage.read_bytes(row["key"])))
        pairs = table["text_pair"].to_pylist() if self._model.is_pair_task else None
        embeddings = self._model.encoder.embed(table["text"].to_pylist(), pairs)
        rows = Labelled(
            torch.from_numpy(embeddings),
            torch.from_numpy(table["label"].to_numpy().astype(np.int64)),
            self.work.of_target,
        ).to(self._model.encoder.device)
        counts = [count_outcomes(head, rows).cpu() for head in self._heads]
        return {"counts": torch.stack(counts).numpy()}

    # Loaded with the first shard: of an error in a constructor Ray passes on the text only.
    @cached_property
    def _model(self) -> TextModel:
        model = self.work.model
        manifest = model.manifest
        return TextModel.from_folder(
            artifacts.fetch(model.storage, manifest.name, manifest.version)
        )

    @cached_property
    def _heads(self) -> list[AlignedHead]:
        """In the order of `methods`."""
        encoder = self._model.encoder
        heads = [self._model.model]
        for prefix in self.work.heads.values():
            head = ClassificationHead(encoder.width, len(self._model.labels))
            data = StepOutput(self.work.model.storage, prefix).read(HEAD_FILE)
            head.load_state_dict(load_tensors(data))
            baseline = AlignedHead(NoAligner(), head, direction="forward")
            heads.append(baseline.to(encoder.device))
        return heads


def _source(config: ScoreConfig, manifest: Manifest) -> str:
    # The counterpart language exists in the demo only; nothing else says where test rows lie.
    if config.data is None and manifest.target_language != COUNTERPART:
        raise ConfigError(
            f"data is unset, and model {manifest.name} keeps no rows: give labelled "
            f"{manifest.target_language} rows, as in data=test.csv"
        )
    return config.data or DEMO


def _language(config: ScoreConfig, manifest: Manifest) -> str:
    known = (manifest.target_language, manifest.source_language)
    language = config.language or manifest.target_language
    if language not in known:
        raise ConfigError(
            f"language={language}: model {manifest.name} {manifest.version} is for "
            f"{' and '.join(known)}; give one of them"
        )
    return language


def _task(columns: ScoredRowsConfig, manifest: Manifest) -> Task:
    """The model's task, with the columns and label names that the rows have."""
    task: dict[str, Any] = dict(manifest.task)
    texts = list(task["text_columns"])
    if columns.text_pair and len(texts) == 1:
        raise ConfigError(
            f"task.text_pair={columns.text_pair}: model {manifest.name} reads single texts; "
            f"leave it out"
        )
    given = [columns.text, columns.text_pair][: len(texts)]
    labels = columns.labels or manifest.labels
    if len(labels) != len(manifest.labels):
        raise ConfigError(
            f"task.labels={labels}: model {manifest.name} has {len(manifest.labels)} labels "
            f"({', '.join(manifest.labels)}); name each of them, in this order"
        )
    return Task(
        name=task["name"],
        text_columns=tuple(new or old for new, old in zip(given, texts, strict=True)),
        label_column=columns.label or task["label_column"],
        labels=tuple(labels),
        metric=task["metric"],
    )


def _results(
    counts: Mapping[str, Tensor], manifest: Manifest, language: str, own: str
) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for method, table in counts.items():
        where = {
            "method": method,
            "aligner": manifest.aligner["kind"] if method == own else "none",
            "language": language,
            "split": "test",
            "seed": manifest.seed,
        }
        results += score_rows(table.tolist(), str(manifest.task["metric"]), where)
    return results
