"""The rows of a benchmark: one study drawn with one seed, in prepared shards, and parts of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.embed import TextSet
from cluster.encoders import DemoLanguage
from cluster.prepare import DEMO, materialised, text_sets
from cluster.texts import read_texts
from cluster.units import Part, Split
from langalign import counterpart
from langalign.benchmarkgrid import BenchmarkConfig, StudyConfig
from langalign.data import PreparedData, RowStream, read_labelled, read_parallel, write_shards
from langalign.errors import ConfigError, DataError
from langalign.storage import Storage
from langalign.tasks import Task, build_task

__all__ = ["StudyRows", "Subset", "prepare_study", "target_task"]

# Every seed is scored on the same test rows.
TEST_SEED = 0


@dataclass(frozen=True)
class Subset(Split):
    """The first `size` rows in an order that the seed draws, so smaller sets lie in larger ones.

    Which of them are held out follows from their place in that order: a row that is held out of
    one size is held out of all.
    """

    size: int

    def ids(self, part: Part) -> npt.NDArray[np.int64]:
        """Ascending ids (N,) of a part."""
        order = np.random.default_rng([self.seed, 1]).permutation(self.rows)[: self.size]
        before = np.floor(np.arange(len(order) + 1) * self.validation_fraction + 1e-9)
        is_held_out = np.diff(before) > 0
        chosen = {"all": order, "held_out": order[is_held_out], "train": order[~is_held_out]}
        return np.sort(chosen[part])


@dataclass(frozen=True)
class StudyRows:
    """The prepared rows of one study and seed, by text set: train, source, target, test, native.

    By the names of text sets that local translators make: `made_by` has the storage prefixes of the
    steps that do it, `blocked` the reasons of those that could not be made.
    """

    study: StudyConfig
    seed: int
    task: Task
    sets: dict[str, TextSet]
    has_labelled_pairs: bool
    validation_fraction: float
    made_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)

    def rows(self, name: str) -> int:
        """Rows of a text set."""
        return sum(self.sets[name].shard_rows)

    def subset(self, name: str, size: int) -> Subset:
        """`size` rows of a text set; source and target of a pair have the same ids.

        Raises:
            DataError: there are fewer.
        """
        if size > self.rows(name):
            raise DataError(
                f"study {self.study.name} has {self.rows(name):,} {name} rows"
                f"{' that are not among its pairs' if name == 'train' else ''}, and the grid asks "
                f"for {size:,}; give more rows or smaller sizes"
            )
        seed = TEST_SEED if name == "test" else self.seed
        return Subset(self.rows(name), self.validation_fraction, seed, size)


def prepare_study(
    config: BenchmarkConfig, study: StudyConfig, seed: int, storage: Storage
) -> StudyRows:
    """Read the rows of a study into `runs/<name>/benchmark/data/<study>-s<seed>/<role>/`.

    Every seed draws its own training rows and pairs; so many as the grid's largest sizes need. No
    training row is among the pairs (section 3.2), so that sharing data is a choice of the grid.

    Raises:
        DataError: a source cannot be read or breaks its schema.
        ConfigError: the columns or languages of the study do not fit together.
    """
    task = build_task(**study.task.model_dump())
    grid = config.grid_of(study)
    most = max(grid.rows)
    limits = {
        "parallel": grid.most_pairs,
        "train": max(most, grid.tune_rows or 0),
        "test": grid.test_rows,
        "native": most,
    }
    prepared: dict[str, PreparedData] = {}
    paired: set[tuple[str, ...]] = set()
    languages = study.source_language, study.target_language
    other = DemoLanguage(**study.counterpart.model_dump()).translator()
    for role, limit in limits.items():
        spec = study.spec(role, config.data)
        if spec is None or (role == "native" and "native" not in grid.methods):
            continue
        if spec == DEMO and study.target_language != counterpart.COUNTERPART:
            raise ConfigError(
                f"studies: {study.name} has target_language={study.target_language} and "
                f"{role}=demo; the demo's language is {counterpart.COUNTERPART}"
            )
        language = study.source_language if role == "train" else study.target_language
        drawn = TEST_SEED if role == "test" else seed
        with materialised(spec, role, language, limit, drawn, other) as place:
            rows = _read(place, role, study, task, limit, drawn, paired)
            prefix = f"runs/{config.name}/benchmark/data/{study.name}-s{seed}/{role}"
            prepared[role] = write_shards(
                rows, storage, prefix=prefix, shard_rows=config.cluster.shard_rows
            )
        if role == "parallel":
            paired = _sources(text_sets(prepared, *languages)["source"], storage)
    pairs = prepared["parallel"].summary
    return StudyRows(
        study,
        seed,
        task,
        text_sets(prepared, *languages),
        sum(pairs.label_counts.values()) == pairs.rows,
        grid.validation_fraction,
    )


def target_task(study: StudyConfig, task: Task) -> Task:
    """The task as the target-language rows spell it: their columns and the order of their labels.

    Raises:
        ConfigError: the labels are not the task's.
    """
    own = study.target
    names = (own.text or task.text_columns[0], *([own.text_pair] if own.text_pair else []))
    columns = names + task.text_columns[len(names) :]
    labels = tuple(own.labels or task.labels)
    if sorted(labels) != sorted(task.labels):
        raise ConfigError(
            f"studies: {study.name} has target.labels={list(labels)}, which are not the task's "
            f"{list(task.labels)}; give the same names in the order of the rows' ints"
        )
    label = own.label or task.label_column
    return replace(task, text_columns=columns, label_column=label, labels=labels)


def _sources(texts: TextSet, storage: Storage) -> set[tuple[str, ...]]:
    """The English sides of the pairs, as labelled rows would hold them."""
    rows = read_texts(storage, texts, np.arange(sum(texts.shard_rows)))
    return {
        tuple(text for text in each if text is not None)
        for each in zip(rows.texts, rows.pairs, strict=True)
    }


def _read(
    place: str,
    role: str,
    study: StudyConfig,
    task: Task,
    limit: int,
    seed: int,
    paired: set[tuple[str, ...]],
) -> RowStream:
    if role == "parallel":
        return read_parallel(
            place,
            source_language=study.source_language,
            target_language=study.target_language,
            limit=limit,
            sample_seed=seed,
            task=task,
        )
    spelt = task if role == "train" else target_task(study, task)
    rows = read_labelled(
        place,
        spelt,
        language=study.source_language if role == "train" else study.target_language,
        limit=limit,
        sample_seed=seed,
        require_all_labels=role != "test",
        excluded=paired if role == "train" else (),
    )
    return rows if spelt.labels == task.labels else _renumbered(rows, spelt, task)


def _renumbered(rows: RowStream, spelt: Task, task: Task) -> RowStream:
    """The same rows with the class numbers of `task`."""
    numbers = pa.array([task.labels.index(name) for name in spelt.labels], pa.int32())

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            place = batch.schema.get_field_index("label")
            yield batch.set_column(place, "label", numbers.take(batch.column(place)))

    return RowStream(batches(), labels=task.labels, languages=rows.languages, counts=rows.counts)
