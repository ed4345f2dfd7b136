"""Means, tests, tables and the page of a benchmark, from results made by hand."""

import json
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from benchmark_results import CONFIG, OFFSETS, SEEDS, field, result, results

from langalign.benchmarkcells import ResultSet
from langalign.benchmarkgrid import BenchmarkConfig, Cell
from langalign.benchmarkindex import failure_table
from langalign.benchmarkreport import (
    benchmark_tables,
    html_report,
    main_tables,
    markdown_report,
    write_benchmark_report,
)
from langalign.benchmarkresult import CellResult, CellStore, estimate, paired_p
from langalign.benchmarktables import cosine_table, score_table
from langalign.configfile import load_config
from langalign.findings import findings, findings_table
from langalign.published import published_score
from langalign.storage import Storage
from langalign.texttables import TextTable


def table(found: list[CellResult]) -> TextTable:
    methods = ["english", "native", "translated", "langalign"]
    return score_table(ResultSet.of(found), "one", methods, "T", is_published=False)


def test_the_interval_is_students_t() -> None:
    found = estimate([1.0, 2.0, 3.0])
    # By hand: t(0.975, 2) = 4.302653 times 1 / sqrt(3).
    assert found.mean == 2
    assert found.half_width == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert estimate([5.0]).half_width is None


def test_figures_that_do_not_vary_have_no_interval() -> None:
    """Three equal ones do not make the next one certain; 0.1 + 0.2 is 0.3 but for rounding."""
    assert estimate([0.3, 0.1 + 0.2, 0.3]).half_width is None
    assert estimate([0.3, 0.31]).half_width is not None


def test_the_paired_test_takes_differences_by_seed() -> None:
    ours, theirs = {0: 1.0, 1: 12.0, 2: 23.0}, {0: 0.0, 1: 10.0, 2: 20.0}
    # Differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.4641 with 2 degrees of freedom.
    assert paired_p(ours, theirs) == pytest.approx(0.0741799, abs=1e-6)
    assert paired_p({0: 1.0}, {0: 0.0}) is None
    assert paired_p(ours, ours) == 1


def test_equal_differences_are_not_tested() -> None:
    assert paired_p({0: 1.0, 1: 2.0}, {0: 0.0, 1: 1.0}) is None
    assert paired_p({0: 0.3, 1: 0.2, 2: 0.1}, {0: 0.2, 1: 0.1, 2: 0.0}) is None, "but for rounding"
    tied = [
        result(method, aligner, pairs, 100, seed, points + OFFSETS[seed])
        for seed in SEEDS
        for method, aligner, pairs, points in [
            ("english", "none", None, 50),
            ("langalign", "ae", 200, 51),
            ("data-share", "ae", 200, 51),
        ]
    ]
    assert "†" not in field(table(tied), "LangAlign ae, 200 pairs", "100")
    found = {f.claim.split(" (")[0]: f for f in findings(ResultSet.of(tied), "one")}
    above = found["LangAlign is above English-only"]
    assert above.difference.mean == pytest.approx(1)
    assert (above.p, above.verdict) == (None, "open")
    assert found["shared data is about equal to separate data"].verdict == "open"
    shown = findings_table(ResultSet.of(tied), ["one"])
    (line,) = [row for row in shown.rows if row[1].text.startswith("LangAlign is above English")]
    assert [entry.text for entry in line[3:]] == ["+1.0 points", "–", "open"]
    assert "the same in every seed" in shown.note


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


def test_the_papers_rows_come_first() -> None:
    found = [result("langalign", kind, 200, 100, 0, 60.0) for kind in ("linear", "fc", "ae")]
    found += [result("data-share", "fc", 200, 100, 0, 60.0), *results()]
    made = score_table(
        ResultSet.of(found), "one", ["langalign", "data-share"], "T", is_published=False
    )
    assert [row[0].text for row in made.rows] == [
        *("LangAlign fc, 200 pairs", "LangAlign ae, 200 pairs"),
        *("shared data fc, 200 pairs", "shared data ae, 200 pairs"),
        "LangAlign linear, 200 pairs",
    ]
    assert "Last: the aligners that the paper does not have." in made.note
    assert "Last:" not in table(results()).note


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
    assert field(cosine, "translated – ae", "200 pairs") == "0.900"
    page = html_report(CONFIG, ResultSet.of(found), {}, {})
    assert "the loss is not finite" in page
    verdicts = [f for f in findings(ResultSet.of(found), "one") if "above English" in f.claim]
    # The size that failed is left out for every seed: what is left is 82 against 60.
    langalign = next(f for f in verdicts if f.what == "LangAlign ae")
    assert langalign.difference.mean == pytest.approx(22, abs=0.1)


def test_report_is_one_page(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    store = CellStore(storage, "runs/x/benchmark")
    found = results()
    keys = write_benchmark_report(store, CONFIG, found, {"command": "python <x>"})
    page = storage.read_bytes("runs/x/benchmark/report.html").decode()
    assert all(f'href="cells/{each.digest}.json"' in page for each in found)
    assert "python &lt;x&gt;" in page
    assert "<script" not in page
    assert 'src="data:image/png' in page
    assert {f"runs/x/benchmark/{name}" for name in ("report.md", "figure2-one.png")} <= set(keys)


def test_what_it_was_made_with_lies_beside_the_report(tmp_path: Path) -> None:
    """Every key, also those that were not set, as a file that makes the same benchmark again."""
    store = CellStore(Storage(str(tmp_path)), "x")
    keys = write_benchmark_report(store, CONFIG, results(), {})
    assert {"x/config.yaml", "x/versions.json"} <= set(keys)
    kept = tmp_path / "x" / "config.yaml"
    assert load_config(BenchmarkConfig, kept) == CONFIG
    assert yaml.safe_load(kept.read_text())["simcse"]["temperature"] == 0.05
    versions = store.storage.read_json("x/versions.json")
    assert versions["torch"] == version("torch")
    assert versions["python"] == platform.python_version()
    for name, link in (("report.html", 'href="{}"'), ("report.md", "]({})")):
        text = store.storage.read_bytes(f"x/{name}").decode()
        assert all(link.format(file) in text for file in ("config.yaml", "versions.json"))


def test_notes_say_what_intervals_leave_out() -> None:
    tables = main_tables(CONFIG, ResultSet.of(results()))
    assert [each.title for each in tables] == [
        "Which of the paper's findings hold",
        "Tables 3, 7 and 8: task fine-tuning, one",
    ]
    for each in tables:
        assert "test rows are the same for every seed" in each.note
    for each in benchmark_tables(CONFIG, ResultSet.of(results())):
        has_interval = any("±" in entry.text for row in each.rows for entry in row)
        assert not has_interval or "over seeds, which draw" in each.note, each.title
    cosine = cosine_table(ResultSet.of(results()), "one", is_published=False)
    assert "Mean cosine of 20 pairs held out" in cosine.note


def test_manifests_round_trip_and_failed_ones_are_not_done(tmp_path: Path) -> None:
    store = CellStore(Storage(str(tmp_path)), "f")
    made_from = {"encoder": {"weights": "w"}, "step_1": {"rows": [{"digest": "d"}]}}
    kept = replace(result("langalign", "ae", 200, 100, 0, 70.0), made_from=made_from)
    failed = CellResult.failure(kept.cell, "other", "accuracy", "why")
    store.write(kept)
    store.write(failed)
    assert store.read(kept.digest) == kept
    assert store.done(["other", kept.digest, "absent"]) == {kept.digest: kept}
    assert store.digests() == {"other", kept.digest}


def test_a_manifest_without_what_it_was_made_from_is_readable(tmp_path: Path) -> None:
    store = CellStore(Storage(str(tmp_path)), "f")
    kept = result("langalign", "ae", 200, 100, 0, 70.0)
    old = {name: value for name, value in kept.manifest().items() if name != "made_from"}
    store.storage.write_bytes(store.key(kept.digest), json.dumps(old).encode())
    assert store.read(kept.digest) == kept


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
