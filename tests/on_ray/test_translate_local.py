"""`jobs/translate.py` with a local model, on a real cluster: fine-tuned once, applied once."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from head import Head
from rich.console import Console
from tiny import write_encoder

from cluster.translate import Translation
from langalign import counterpart
from langalign.data import read_parallel
from langalign.seq2seq import Seq2SeqTranslator
from langalign.storage import Storage
from langalign.tasks import build_task
from langalign.translateconfig import TranslateConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny sequence-to-sequence model, hardly trained."""
    folder = tmp_path_factory.mktemp("seq2seq")
    encoder = write_encoder(tmp_path_factory.mktemp("encoder"))
    Seq2SeqTranslator.tiny(encoder, seed=0, max_length=48).save(folder)
    return str(folder)


def run(storage: Storage, head: Head, model: str, **changed: Any) -> dict[str, Any]:
    local = {"model": model, "learning_rate": 1e-3, "max_epochs": 2, "max_length": 48}
    config = {
        "rows": 60,
        "pairs": 80,
        "translator": {"kind": "local"},
        "local": {**local, "prefix": "Into {language}: "},
        "cluster": {"address": head.address, "shard_rows": 40},
        **changed,
    }
    console = Console(file=io.StringIO(), width=200)
    return Translation(TranslateConfig.model_validate(config), storage, console).run()


def test_rows_are_translated_once_and_keep_their_labels(
    head: Head, model: str, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path / "store"))
    summary = run(storage, head, model)
    assert (summary["pairs"], summary["texts_asked"], summary["refused"]) == (60, 60, 0)
    path = tmp_path / "store" / "runs/translate/translate/pairs.parquet"
    found = pq.read_table(path).to_pylist()
    english = counterpart.labelled_table(60, 0, "en").to_pylist()
    labels = {row["text"]: row["label"] for row in english}
    assert {row["source"]: row["label"] for row in found} == labels
    assert all(row["target"] for row in found)
    rows = read_parallel(
        str(path), source_language="en", target_language="xc", task=build_task("sentiment")
    )
    assert sum(len(batch) for batch in rows) == 60
    assert len(storage.folders("steps/translator")) == 1
    again = run(storage, head, model)
    assert again["texts_asked"] == 0
    assert pq.read_table(path).to_pylist() == found


def test_both_texts_of_pairs_are_translated(head: Head, model: str, tmp_path: Path) -> None:
    texts = [f"premise {n},hypothesis {n}" for n in range(80)]
    lines = [f"{text},{n % 3}" for n, text in enumerate(texts)]
    (tmp_path / "nli.csv").write_text("\n".join(["premise,hypothesis,label", *lines]))
    pairs = [f"{text},{text}" for text in texts]
    header = "source,source_pair,target,target_pair"
    (tmp_path / "pairs.csv").write_text("\n".join([header, *pairs]))
    summary = run(
        Storage(str(tmp_path / "store")),
        head,
        model,
        data=str(tmp_path / "nli.csv"),
        parallel=str(tmp_path / "pairs.csv"),
        task={"name": "nli"},
        rows=30,
        pairs=None,
    )
    assert (summary["pairs"], summary["texts_asked"]) == (30, 60)
    path = tmp_path / "store" / "runs/translate/translate/pairs.parquet"
    assert set(pq.read_table(path).column_names) >= {"source_pair", "target_pair", "label"}
