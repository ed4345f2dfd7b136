"""Readers and checks: every format gives the same rows, every fault one clear line."""

import csv
import gzip
import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langalign.data import (
    LABELLED_SCHEMA,
    MAX_TEXT_CHARACTERS,
    LabelledSource,
    RowStream,
    read_labelled,
)
from langalign.errors import DataError
from langalign.tasks import PRESETS, Task, build_task

SENTIMENT, NLI = PRESETS["sentiment"], PRESETS["nli"]
Rows = Sequence[dict[str, Any]]

ROWS: Rows = [
    {"text": "정말 재미있는 영화였다", "label": 1},
    {"text": 'とても、"つまらない"映画, 二度と見ない', "label": 0},
    {"text": "这部电影很好看", "label": 1},
    {"text": "a plain bad film", "label": 0},
]
NAMED: Rows = [{"text": row["text"], "label": SENTIMENT.labels[row["label"]]} for row in ROWS]


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_csv_gz(path: Path, rows: Rows) -> None:
    plain = path.with_name("plain.csv")
    write_csv(plain, rows)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


def write_tsv(path: Path, rows: Rows) -> None:
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    path.write_text("".join("\t".join(line) + "\r\n" for line in lines), encoding="utf-8")


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=3)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "rows.csv": write_csv,
    "rows.csv.gz": write_csv_gz,
    "rows.tsv": write_tsv,
    "rows.jsonl": write_jsonl,
    "rows.parquet": write_parquet,
}


def labelled(spec: object, task: Task = SENTIMENT, **options: Any) -> list[dict[str, Any]]:
    return rows_of(read_labelled(str(spec), task, language="ko", **options))


def rows_of(stream: RowStream) -> list[dict[str, Any]]:
    return [row for batch in stream for row in batch.to_pylist()]


def message(spec: object, task: Task = SENTIMENT, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        labelled(spec, task, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- every format ------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [ROWS, NAMED], ids=["class numbers", "names"])
@pytest.mark.parametrize("name", WRITERS)
def test_each_format_gives_the_same_rows(tmp_path: Path, name: str, rows: Rows) -> None:
    WRITERS[name](tmp_path / name, rows)
    stream = read_labelled(str(tmp_path / name), SENTIMENT, language="ko")
    batches = list(stream)
    assert all(batch.schema == LABELLED_SCHEMA for batch in batches)
    assert [row for batch in batches for row in batch.to_pylist()] == [
        {"id": n, "text": row["text"], "text_pair": None, "label": row["label"], "lang": "ko"}
        for n, row in enumerate(ROWS)
    ]
    assert stream.counts.files == [str(tmp_path / name)]
    assert stream.counts.rows_read == 4


def test_columns_of_a_users_own_and_pairs(tmp_path: Path) -> None:
    rows = [
        {"n": 9, "p": "남자가 웃는다", "h": "사람이 있다", "gold": "Entailment"},
        {"n": 8, "p": "남자가 웃는다", "h": "남자가 운다", "gold": "contradiction"},
        {"n": 7, "p": "a man smiles", "h": "he is rich", "gold": "1"},
    ]
    write_csv(tmp_path / "nli.csv", rows)
    task = build_task("nli", text="p", text_pair="h", label="gold")
    found = labelled(tmp_path / "nli.csv", task)
    assert [(row["text"], row["text_pair"]) for row in found] == [(r["p"], r["h"]) for r in rows]
    assert [row["label"] for row in found] == [0, 2, 1]


def test_a_folder_and_a_glob_are_read_by_name_and_other_files_are_left_alone(
    tmp_path: Path,
) -> None:
    write_jsonl(tmp_path / "b.jsonl", ROWS[2:])
    write_parquet(tmp_path / "a.parquet", ROWS[:2])
    (tmp_path / "README.md").write_text("no rows")
    assert [row["text"] for row in labelled(tmp_path)] == [row["text"] for row in ROWS]
    assert [row["text"] for row in labelled(tmp_path / "*.jsonl")] == [r["text"] for r in ROWS[2:]]


def test_quotes_line_ends_and_a_byte_order_mark_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'\xef\xbb\xbftext,label\r\n"two\nlines, ""quoted""",1\r\n\r\nplain,0\r\n')
    assert [row["text"] for row in labelled(path)] == ['two\nlines, "quoted"', "plain"]
    path.write_bytes(b'text,label\n"two\nlines",1\n\nplain,7\n')
    assert "rows.csv row 5," in message(path)  # the line on which an editor shows it


def test_text_is_nfc_without_nul_and_cut_at_the_limit(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "한국어 영화")
    rows = [{"text": f"\0{decomposed}\0", "label": 0}, {"text": "긴" * 1_000_000, "label": 1}]
    for name in ("rows.jsonl", "rows.csv"):
        WRITERS[name](tmp_path / name, rows)
        stream = read_labelled(str(tmp_path / name), SENTIMENT, language="ko")
        assert [row["text"] for row in rows_of(stream)] == [
            "한국어 영화",
            "긴" * MAX_TEXT_CHARACTERS,
        ]
        assert stream.counts.texts_cut == 1


# --- repeats, limits, samples ------------------------------------------------------------------


def test_repeats_are_dropped_and_counted_and_ids_stay_dense(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n % 2} for n in range(60)]
    again = [rows[3], rows[3], {"text": "t4", "label": 1}]  # two repeats, one contradiction
    write_jsonl(tmp_path / "rows.jsonl", [*rows[:30], *again, *rows[30:]])
    stream = read_labelled(str(tmp_path / "rows.jsonl"), SENTIMENT, language="en")
    found = rows_of(stream)
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert [row["id"] for row in found] == list(range(60))
    assert found[4]["label"] == 0
    counts = stream.counts
    assert (counts.rows_read, counts.duplicates_dropped, counts.conflicts_dropped) == (63, 2, 1)


def test_pairs_that_join_to_one_string_are_not_repeats(tmp_path: Path) -> None:
    rows = [
        {"premise": "ab", "hypothesis": "c", "label": 0},
        {"premise": "a", "hypothesis": "bc", "label": 1},
        {"premise": "abc", "hypothesis": "d", "label": 2},
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    stream = read_labelled(str(tmp_path / "rows.jsonl"), NLI, language="en")
    assert len(rows_of(stream)) == 3
    assert stream.counts.conflicts_dropped == 0


def test_rows_that_are_only_scored_keep_repeats_and_contradictions(tmp_path: Path) -> None:
    rows = [*ROWS, ROWS[0], {"text": ROWS[1]["text"], "label": 1}]  # 1 of 6 contradicts: over 5%
    write_csv(tmp_path / "rows.csv", rows)
    source = LabelledSource(str(tmp_path / "rows.csv"), SENTIMENT, "ko")
    stream = source.read(require_all_labels=False)
    found = rows_of(stream)
    assert [(row["text"], row["label"]) for row in found] == [(r["text"], r["label"]) for r in rows]
    assert [row["id"] for row in found] == list(range(6))
    counts = stream.counts
    assert (counts.rows_read, counts.duplicates_dropped, counts.conflicts_dropped) == (6, 0, 0)


def test_many_contradictions_are_an_error_that_names_two_rows(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": ROWS[1]["text"], "label": 1}]
    write_csv(tmp_path / "rows.csv", rows)
    text = message(tmp_path / "rows.csv")
    assert "rows.csv row 3 and" in text
    assert "rows.csv row 6 have the same text" in text
    assert "(negative, positive)" in text
    assert "1 of 5 rows" in text


def test_limit_takes_the_first_rows_and_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [*ROWS, {"text": "unknown label", "label": 9}])
    assert [row["text"] for row in labelled(path, limit=3)] == [row["text"] for row in ROWS[:3]]
    assert "row 5" in message(path, limit=5)


def test_a_seeded_sample_is_uniform_repeatable_and_in_file_order(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n % 2} for n in range(400)]
    write_csv(tmp_path / "rows.csv", rows)
    source = LabelledSource(str(tmp_path / "rows.csv"), SENTIMENT, "en", limit=100, sample_seed=1)
    found = rows_of(source.read())
    places = [int(row["text"][1:]) for row in found]
    assert places == sorted(set(places))
    assert [row["id"] for row in found] == list(range(100))
    assert found == rows_of(source.read())
    assert 150 < sum(places) / 100 < 250  # mean 199.5, standard error 10
    other = labelled(tmp_path / "rows.csv", limit=100, sample_seed=2)
    assert [row["text"] for row in other] != [row["text"] for row in found]
    assert len(labelled(tmp_path / "rows.csv", limit=1000, sample_seed=1)) == 400


def test_a_class_without_rows_is_refused_for_training_only(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [ROWS[0], ROWS[2]])
    text = message(tmp_path / "rows.csv")
    assert "none of 2 rows is labelled 'negative'" in text
    assert len(labelled(tmp_path / "rows.csv", require_all_labels=False)) == 2


# --- faults ------------------------------------------------------------------------------------

FAULTS: list[tuple[str, bytes, list[str]]] = [
    ("empty.csv", b"", ["empty.csv", "is empty"]),
    ("header.csv", b"text,label\n", ["header.csv", "no rows"]),
    ("empty.jsonl", b"\n", ["empty.jsonl", "is empty"]),
    ("lost.csv", b"Texts,label\na,1\n", ["'text'", "Texts, label", "did you mean 'Texts'"]),
    ("lost.jsonl", b'{"a": "b", "label": 1}\n', ["no column 'text'", "a, label", "task.text"]),
    ("twice.csv", b"text,label,text\na,1,b\n", ["two columns", "'text'"]),
    ("bytes.csv", b"text,label\na,1\nb\xff,0\n", ["row 3", "byte 16 of the file", "0xff"]),
    ("bytes.jsonl", b'{"text": "\xe9", "label": 0}\n', ["row 1", "byte 10", "UTF-8"]),
    ("utf16.csv", "text,label\na,1\n".encode("utf-16"), ["row 1", "byte 0", "UTF-8"]),
    ("range.csv", b"text,label\na,1\nb,2\n", ["row 3", "'2'", "0 negative, 1 positive"]),
    ("name.tsv", b"text\tlabel\na\tgood\n", ["row 2", "'good'", "0 negative, 1 positive"]),
    ("none.jsonl", b'{"text": "a"}\n', ["no column 'label'"]),
    (
        "gap.jsonl",
        b'{"text": "a", "label": 1}\n{"label": 0}\n',
        ["row 2", "column 'text'", "missing"],
    ),
    ("null.jsonl", b'{"text": null, "label": 1}\n', ["row 1", "missing"]),
    ("blank.csv", b'text,label\n" ",1\n', ["row 2", "blank"]),
    ("nul.jsonl", b'{"text": "\\u0000", "label": 1}\n', ["row 1", "blank"]),
    ("half.jsonl", b'{"text": "a\\ud800", "label": 1}\n', ["row 1", "surrogate", "character 1"]),
    ("number.jsonl", b'{"text": 5, "label": 1}\n', ["row 1", "5 is a int, not text"]),
    ("cells.csv", b"text,label\na,1\nb,c,0\n", ["row 3", "3 cells", "has 2", "b | c | 0"]),
    ("quote.csv", b'text,label\na,1\n"b,0\nc,1\n', ["row 3", "unexpected end of data"]),
    ("bad.jsonl", b'{"text": "a", "label": 1}\n{"text"\n', ["row 2", "not JSON", "char"]),
    ("list.jsonl", b"[1, 2]\n", ["row 1", "not a JSON object"]),
    ("digits.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}\n", ["row 1", "digits"]),
    ("broken.parquet", b"PAR1 and no more", ["broken.parquet", "not a readable Parquet"]),
    ("cut.csv.gz", gzip.compress(b"text,label\n" * 99)[:30], ["cut.csv.gz", "cannot be read"]),
    ("not.csv.gz", b"text,label\na,1\n", ["not.csv.gz", "cannot be read"]),
    ("rows.xlsx", b"PK", ["'.xlsx'", ".csv, .tsv, .jsonl, .ndjson, .parquet"]),
    ("rows.parquet.gz", b"", ["unknown format", ".parquet"]),
]


@pytest.mark.parametrize(("name", "content", "words"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_each_fault_is_one_line_with_file_row_value_and_remedy(
    tmp_path: Path, name: str, content: bytes, words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    text = message(tmp_path / name)
    assert all(word in text for word in [name, *words]), text
    assert len(text) < 600


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [{"text": "a", "label": "x" * 5000}])
    assert "x" * 80 in message(tmp_path / "rows.csv")
    assert "x" * 81 not in message(tmp_path / "rows.csv")


def test_text_that_is_not_utf8_in_parquet_names_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    table = pa.table({"text": texts, "label": [0, 1]})
    pq.write_table(table, tmp_path / "rows.parquet")
    text = message(tmp_path / "rows.parquet")
    assert "row 2, column 'text': byte 3" in text


@pytest.mark.parametrize("spec", ["missing.csv", "no/such/folder/here", "nothing-*.csv"])
def test_a_source_that_is_not_there(tmp_path: Path, spec: str) -> None:
    assert spec in message(tmp_path / spec)


def test_a_folder_without_data_files(tmp_path: Path) -> None:
    assert "no data file here" in message(tmp_path)
