"""Means, tests, tables, findings and the page of a benchmark, from results made by hand."""

from pathlib import Path

import pytest

from langalign.benchmarkgrid import BenchmarkConfig, Cell
from langalign.benchmarkreport import html_report, markdown_report, write_benchmark_report
from langalign.benchmarkresult import CellResult, CellStore, estimate, paired_p
from langalign.benchmarktables import (
    Key,
    ResultSet,
    TextTable,
    cosine_table,
    failure_table,
    score_table,
)
from langalign.findings import findings
from langalign.published import published_score
from langalign.storage import Storage

SIZES, SEEDS = (100, 1000), (0, 1, 2)
STUDY = {"name": "one", "target_language": "xc", "train": "demo", "parallel": "demo"}
CONFIG = BenchmarkConfig.model_validate({"studies": [{**STUDY, "test": "demo"}]})
# Accuracy in points at 100 and 1,000 rows, before what a seed adds.
BASE = {
    ("english", "none", None): (50, 60),
    ("native", "none", None): (80, 90),
    ("translated", "none", None): (75, None),
    ("omission", "none", None): (45, 55),
    ("langalign", "ae", 200): (70, 82),
    ("data-share", "ae", 200): (69.5, 82),
    ("rev-langalign", "ae", 200): (49, 60),
}
# Each seed's own offset; that of `english` is the same one, so that pairing removes it.
OFFSETS = (0.0, 4.0, -4.0)


def result(
    method: str,
    aligner: str,
    pairs: int | None,
    rows: int,
    seed: int,
    points: float,
) -> CellResult:
    cell = Cell("one", "xc", method, aligner, rows, pairs, seed)
    alignment = {}
    if pairs:
        values = {"retrieval_forward": 0.1, "retrieval_backward": 0.2, "cka": 0.3}
        values |= {"language_id": 1.0}
        alignment = {
            "before": {"cosine": 0.4 + seed / 100, **values},
            "after": {"cosine": 0.9, **values},
            "moved": {"cosine": 0.5},
        }
    return CellResult(
        cell,
        f"{method}-{aligner}-{rows}-{seed}",
        "done",
        "accuracy",
        {"accuracy": points / 100},
        alignment,
        {},
        {},
        [[1, 0], [0, 1]],
    )


def results() -> list[CellResult]:
    found = []
    for (method, aligner, pairs), values in BASE.items():
        for rows, points in zip(SIZES, values, strict=True):
            for seed, offset in zip(SEEDS, OFFSETS, strict=True):
                if points is not None:
                    # A little noise that differs by seed, or every difference would be equal.
                    noise = 0.01 * seed * len(method)
                    found.append(
                        result(method, aligner, pairs, rows, seed, points + offset + noise)
                    )
    return found


def field(table: TextTable, line: str, column: str) -> str:
    (row,) = [row for row in table.rows if row[0].text == line]
    return row[table.header.index(column)].text


def table(found: list[CellResult]) -> TextTable:
    methods = ["english", "native", "translated", "langalign"]
    return score_table(ResultSet.of(found), "one", methods, "T", is_published=False)


def test_the_interval_is_students_t() -> None:
    found = estimate([1.0, 2.0, 3.0])
    # By hand: t(0.975, 2) = 4.302653 times 1 / sqrt(3).
    assert found.mean == 2
    assert found.half_width == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert estimate([5.0]).half_width is None


def test_the_paired_test_takes_differences_by_seed() -> None:
    ours, theirs = {0: 1.0, 1: 12.0, 2: 23.0}, {0: 0.0, 1: 10.0, 2: 20.0}
    # Differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.4641 with 2 degrees of freedom.
    assert paired_p(ours, theirs) == pytest.approx(0.0741799, abs=1e-6)
    assert paired_p({0: 1.0}, {0: 0.0}) is None
    assert paired_p(ours, ours) == 1
    assert paired_p({0: 1.0, 1: 2.0}, {0: 0.0, 1: 1.0}) == 0
    assert paired_p({0: 0.3, 1: 0.2, 2: 0.1}, {0: 0.2, 1: 0.1, 2: 0.0}) == 0, "but for rounding"


def test_a_line_has_mean_interval_and_marks() -> None:
    made = table(results())
    assert made.header == ("method", "task rows", "100", "1,000")
    # Offsets 0, 4, -4: standard deviation 4, times 4.302653 / sqrt(3) = 9.94.
    assert field(made, "English", "100").startswith("50.1 ± 9.")
    assert "†" not in field(made, "English", "100")
    assert field(made, "LangAlign ae, 200 pairs", "100").endswith("†")
    assert field(made, "translated", "1,000") == "–"
    aligned = next(row for row in made.rows if row[0].text.startswith("LangAlign"))
    # 70 is below 75 translated rows of the same size; 82 from more English rows is above them.
    assert [entry.is_bold for entry in aligned[2:]] == [False, False]
    assert [entry.is_underlined for entry in aligned[2:]] == [False, True]


def test_bold_is_above_translated_rows_of_the_same_size() -> None:
    better = [r for r in results() if r.cell.method != "langalign"]
    better += [result("langalign", "ae", 200, 100, seed, 76 + OFFSETS[seed]) for seed in SEEDS]
    aligned = next(row for row in table(better).rows if row[0].text.startswith("LangAlign"))
    assert aligned[2].is_bold


def test_a_failed_cell_is_never_a_number() -> None:
    found = results()
    broken = next(r for r in found if (r.cell.method, r.cell.rows) == ("langalign", 100))
    failed = CellResult.failure(broken.cell, broken.digest, "accuracy", "the loss\nis not finite")
    found[found.index(broken)] = failed
    made = table(found)
    assert field(made, "LangAlign ae, 200 pairs", "100") == "failed (1 of 3)"
    assert field(made, "LangAlign ae, 200 pairs", "1,000") != "failed (1 of 3)"
    (row,) = failure_table(ResultSet.of(found)).rows
    assert (row[0].text, row[1].text) == (broken.cell.label, "the loss is not finite")
    cosine = cosine_table(ResultSet.of(found), "one", is_published=False)
    assert field(cosine, "translated – ae", "200 pairs") == "0.900 ± 0.000"
    page = html_report(CONFIG, ResultSet.of(found), {}, {})
    assert "the loss is not finite" in page
    verdicts = [f for f in findings(ResultSet.of(found), "one") if "above English" in f.claim]
    # The size that failed is left out for every seed: what is left is 82 against 60.
    langalign = next(f for f in verdicts if f.what == "LangAlign ae")
    assert langalign.difference.mean == pytest.approx(22, abs=0.1)


def test_findings_say_what_holds_and_what_does_not() -> None:
    found = {(f.claim.split(" (")[0], f.what): f for f in findings(ResultSet.of(results()), "one")}
    above = found["LangAlign is above English-only", "LangAlign ae"]
    assert above.verdict == "holds"
    assert above.difference.mean == pytest.approx((20 + 22) / 2, abs=0.1)
    assert found["leaving LangAlign out is below LangAlign", "LangAlign ae"].verdict == "holds"
    shared = found["shared data is about equal to separate data", "shared data ae"]
    assert (shared.verdict, shared.is_equality) == ("holds", True)
    assert found["cosine after is above before", "LangAlign ae"].difference.mean == pytest.approx(
        0.49
    )
    reverse = found["reverse is above English-only", "Rev-LangAlign ae"]
    # 49 against 50 and 60 against 60: below, but for the noise.
    assert reverse.verdict in ("open", "does not hold")
    assert reverse.difference.mean < 0
    more = found["more English data helps", "LangAlign ae"]
    assert more.difference.mean == pytest.approx(12, abs=0.1)
    assert found["more English data helps", "Rev-LangAlign ae"].difference.mean == pytest.approx(
        11, abs=0.1
    )
    assert not any("local translator" in claim for claim, _ in found), "it has no cell"


def test_one_seed_gives_no_verdict() -> None:
    single = [r for r in results() if r.cell.seed == 0]
    assert {f.verdict for f in findings(ResultSet.of(single), "one")} == {"one seed only"}


def test_report_is_one_page_whose_figures_lead_to_manifests(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    store = CellStore(storage, "runs/x/benchmark")
    found = results()
    for each in found:
        store.write(each)
    keys = write_benchmark_report(store, CONFIG, found, {"command": "python <x>"})
    page = storage.read_bytes("runs/x/benchmark/report.html").decode()
    for each in found:
        assert f'href="cells/{each.digest}.json"' in page
        assert storage.exists(store.key(each.digest))
    key = Key("one", "langalign", "ae", 200, 1000)
    assert f'href="#{key.anchor}"' in page
    assert f'id="{key.anchor}"' in page
    assert "python &lt;x&gt;" in page
    assert "<script" not in page
    assert 'src="data:image/png' in page
    assert {f"runs/x/benchmark/{name}" for name in ("report.md", "figure2-one.png")} <= set(keys)
    text = storage.read_bytes("runs/x/benchmark/report.md").decode()
    assert "](cells/langalign-ae-1000-2.json)" in text


def test_manifests_round_trip_and_failed_ones_are_not_done(tmp_path: Path) -> None:
    store = CellStore(Storage(str(tmp_path)), "f")
    kept = result("langalign", "ae", 200, 100, 0, 70.0)
    failed = CellResult.failure(kept.cell, "other", "accuracy", "why")
    store.write(kept)
    store.write(failed)
    assert store.read(kept.digest) == kept
    assert store.done(["other", kept.digest, "absent"]) == {kept.digest: kept}
    assert store.digests() == {"other", kept.digest}


def test_papers_figures_stand_beside_ours_only_where_data_is_the_same() -> None:
    assert published_score("sa-ko", "langalign", "ae", 5000, 30_000) == 80.1
    assert published_score("nli-ko", "rev-langalign", "fc", 20_000, 300_000) == 81.9
    assert published_score("demo", "english", "none", None, 5000) is None
    cell = Cell("sa-ko", "ko", "english", "none", 5000, None, 0)
    mine = CellResult(cell, "d", "done", "f1", {"f1": 0.7}, {}, {}, {}, [])
    for is_published, shown in ((True, "70.0 (74.2)"), (False, "70.0")):
        made = score_table(
            ResultSet.of([mine]), "sa-ko", ["english"], "T", is_published=is_published
        )
        assert field(made, "English", "5,000") == shown


def test_markdown_escapes_what_would_end_a_field() -> None:
    failed = CellResult.failure(results()[0].cell, "d", "accuracy", "a|b")
    assert r"a\|b" in markdown_report(CONFIG, ResultSet.of([failed]), [], {})
