"""Writes the files of jobs/configs/benchmark-mini.yaml from folders of public data sets.

    python benchmarks/mini_data.py DATA OUT

DATA holds <set>_<language>/{train,validation}.parquet and parallel_en_<language>/train.parquet, as
`transfer.py` reads them. OUT gets a folder for each study with train, parallel, test and native
Parquet files. Topics: SIB-200's training and validation rows pooled and cut anew, 561 to train on
and 240 to test, the pairs being half of the training rows in both languages. Sentiment: SST-2 into
reviews, with general-domain pairs that the mini encoder did not see as pairs.
"""

import argparse
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from studies import SENTIMENT_TESTS, half_of, load_study
from transfer import Rows

ENGLISH_ROWS = NATIVE_ROWS = PAIRS = 10_000
TOPICS = ("entertainment", "geography", "health", "politics", "science", "sports", "travel")


def main() -> None:
    """Write every study that has its data."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    for language in ("ko", "ja", "zh"):
        _topics(arguments.data, language, arguments.out / f"topics-{language}")
    for language in SENTIMENT_TESTS:
        _sentiment(arguments.data, language, arguments.out / f"sa-{language}")


def _topics(data: Path, language: str, out: Path) -> None:
    study, _ = load_study("sib200-folded", data, language, "none", seed=0)
    assert study.native is not None
    assert study.pair_labels is not None
    labels = [TOPICS[label] for label in study.pair_labels]
    tables = {
        "train": _table(study.english),
        "test": _table(study.test),
        "native": _table(study.native),
        "parallel": pa.table({"source": study.source, "target": study.target, "label": labels}),
    }
    _write(out, tables)


def _table(rows: Rows) -> pa.Table:
    return pa.table({"text": rows.texts, "label": [TOPICS[label] for label in rows.labels]})


def _sentiment(data: Path, language: str, out: Path) -> None:
    target = data / SENTIMENT_TESTS[language]
    pairs = pq.read_table(data / f"parallel_en_{language}" / "train.parquet")
    # The others were seen as pairs when the mini encoder was pre-trained.
    unseen = [half_of(text) == 1 for text in pairs["source"].to_pylist()]
    tables = {
        "train": _sampled(pq.read_table(data / "sst2_en" / "train.parquet"), ENGLISH_ROWS),
        "test": pq.read_table(target / "validation.parquet"),
        "native": _sampled(pq.read_table(target / "train.parquet"), NATIVE_ROWS),
    }
    tables = {role: table.select(["text", "label"]) for role, table in tables.items()}
    tables["parallel"] = _sampled(pairs.filter(pa.array(unseen)), PAIRS).select(
        ["source", "target"]
    )
    _write(out, tables)


def _sampled(table: pa.Table, rows: int) -> pa.Table:
    """Up to `rows` rows, those whose place hashes lowest."""
    places = [hashlib.blake2b(str(n).encode(), digest_size=8).digest() for n in range(len(table))]
    order = pc.sort_indices(pa.array(places))
    return table.take(order[:rows])


def _write(out: Path, tables: dict[str, pa.Table]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for role, table in tables.items():
        pq.write_table(table, out / f"{role}.parquet")
    sizes = ", ".join(f"{len(table):,} {role}" for role, table in tables.items())
    print(f"{out.name}: {sizes}")


if __name__ == "__main__":
    main()
