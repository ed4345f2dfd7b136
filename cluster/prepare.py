"""The first step: read every source, check it, and lay it out in shards on storage."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.embed import TextSet
from cluster.units import Split
from langalign import counterpart
from langalign.config import DataConfig, PipelineConfig
from langalign.data import PreparedData, read_labelled, read_parallel, write_shards
from langalign.errors import ConfigError
from langalign.storage import Storage
from langalign.tasks import Task, build_task

__all__ = ["DEMO", "RunData", "materialised", "prepare", "text_sets"]

DEMO = "demo"
DEMO_ROWS = {"train": 10_000, "parallel": 2_000, "test": 2_000, "native": 10_000}


@dataclass(frozen=True)
class RunData:
    """The prepared rows of a run, by role: train, parallel, test and perhaps native."""

    task: Task
    source_language: str
    target_language: str
    roles: dict[str, PreparedData]
    validation_fraction: float
    seed: int

    def split(self, role: str) -> Split:
        """How a role's rows are cut into training and held-out ones."""
        return Split(self.roles[role].summary.rows, self.validation_fraction, self.seed)

    @property
    def has_labelled_pairs(self) -> bool:
        """Whether every pair carries the English label."""
        summary = self.roles["parallel"].summary
        return sum(summary.label_counts.values()) == summary.rows

    def text_sets(self) -> dict[str, TextSet]:
        """What there is to embed; see `text_sets`."""
        return text_sets(self.roles, self.source_language, self.target_language)


def text_sets(
    roles: Mapping[str, PreparedData], source_language: str, target_language: str
) -> dict[str, TextSet]:
    """Texts of prepared rows by role; pairs give two sets, `source` and `target`, of equal ids."""
    sets = {}
    for role, prepared in roles.items():
        for name in ("source", "target") if role == "parallel" else (role,):
            column = name if role == "parallel" else "text"
            sets[name] = TextSet(
                name=name,
                digest=prepared.summary.digest,
                language=source_language if name in ("train", "source") else target_language,
                shards=prepared.shards,
                shard_rows=prepared.shard_rows,
                column=column,
                pair_column=f"{column}_pair",
            )
    return sets


def prepare(config: PipelineConfig, storage: Storage) -> RunData:
    """Read train, parallel, test and native rows into `runs/<name>/data/<role>/`.

    Raises:
        DataError: a source cannot be read or breaks its schema.
        ConfigError: the task does not fit together.
    """
    task = build_task(**config.task.model_dump())
    data = config.data
    if DEMO in (data.train, data.parallel, data.test) and (
        data.target_language != counterpart.COUNTERPART
    ):
        raise ConfigError(
            f"data.target_language={data.target_language}: the demo's language is "
            f"{counterpart.COUNTERPART}; name your own data.train, data.parallel and data.test, "
            f"or run without arguments"
        )
    limits = {
        "train": data.train_rows,
        "parallel": data.parallel_rows,
        "test": data.test_rows,
        "native": data.native_rows,
    }
    roles = {}
    for role in ("train", "parallel", "test", "native"):
        spec = getattr(data, role)
        if spec is None:
            continue
        language = data.source_language if role == "train" else data.target_language
        with materialised(spec, role, language, limits[role], config.seed) as place:
            rows = _read(place, role, task, data, limits[role])
            roles[role] = write_shards(
                rows,
                storage,
                prefix=f"runs/{config.name}/data/{role}",
                shard_rows=config.cluster.shard_rows,
            )
    return RunData(
        task,
        data.source_language,
        data.target_language,
        roles,
        data.validation_fraction,
        config.seed,
    )


def _read(place: str, role: str, task: Task, data: DataConfig, limit: int | None):  # type: ignore[no-untyped-def]
    if role == "parallel":
        return read_parallel(
            place,
            source_language=data.source_language,
            target_language=data.target_language,
            limit=limit,
            task=task,
        )
    return read_labelled(
        place,
        task,
        language=data.source_language if role == "train" else data.target_language,
        limit=limit,
        require_all_labels=role != "test",
    )


@contextmanager
def materialised(
    spec: str,
    role: str,
    language: str,
    limit: int | None,
    seed: int,
    other: counterpart.Counterpart | None = None,
) -> Iterator[str]:
    """A spec that readers know: the demo's rows of a role are written to a file first.

    `other` is the counterpart language, if it is not the demo's own.

    Raises:
        ConfigError: the demo has no such language.
    """
    if spec != DEMO:
        yield spec
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{role}.parquet"
        pq.write_table(_demo_table(role, language, limit or DEMO_ROWS[role], seed, other), path)
        yield str(path)


def _demo_table(
    role: str, language: str, rows: int, seed: int, other: counterpart.Counterpart | None
) -> pa.Table:
    if role == "parallel":
        return counterpart.parallel_table(rows, seed, counterpart=other)
    return counterpart.labelled_table(
        rows,
        seed,
        language,  # type: ignore[arg-type]
        split=role,  # type: ignore[arg-type]
        counterpart=other,
    )
