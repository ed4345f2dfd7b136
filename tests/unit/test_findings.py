"""Which findings hold, on results made by hand, and the cells that each leads to."""

import pytest
from benchmark_results import CONFIG, OFFSETS, SEEDS, SIZES, result, results

from langalign.benchmarkcells import Key, ResultSet
from langalign.benchmarkreport import markdown_report
from langalign.findings import findings


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
    assert found["native data is above English-only", "native"].difference.mean == pytest.approx(
        30, abs=0.1
    )
    translated = found["translated data is above English-only", "translated"]
    assert translated.difference.mean == pytest.approx(25, abs=0.1)
    claim = "with 1,000 English rows LangAlign is above 100 translated ones"
    assert found[claim, "LangAlign ae"].difference.mean == pytest.approx(82 - 75, abs=0.1)
    assert not any("local translator" in claim for claim, _ in found), "it has no cell"


@pytest.mark.parametrize(("points", "verdict"), [(30, "holds"), (70, "does not hold")])
def test_a_local_translator_is_expected_below_english_only(points: float, verdict: str) -> None:
    local = [
        result("translated-local", "none", 200, 100, seed, points + offset + 0.1 * seed)
        for seed, offset in zip(SEEDS, OFFSETS, strict=True)
    ]
    compared = findings(ResultSet.of([*results(), *local]), "one")
    (found,) = [f for f in compared if f.claim.startswith("a small local translator is below")]
    assert found.difference.mean == pytest.approx(50 - points, abs=0.2)
    assert found.verdict == verdict


def test_one_seed_gives_no_verdict() -> None:
    single = [r for r in results() if r.cell.seed == 0]
    assert {f.verdict for f in findings(ResultSet.of(single), "one")} == {"one seed only"}


def test_a_finding_leads_to_all_cells_that_it_compares() -> None:
    found = {f.claim.split(" (")[0]: f for f in findings(ResultSet.of(results()), "one")}
    above = found["LangAlign is above English-only"]
    assert set(above.keys) == {
        Key("one", method, aligner, pairs, rows)
        for method, aligner, pairs in [("langalign", "ae", 200), ("english", "none", 0)]
        for rows in SIZES
    }
    text = markdown_report(CONFIG, ResultSet.of(results()), [], {})
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith('| <a id="of-') and "hold, one, LangAlign is above English" in line
    ]
    assert all(f"](#{key.anchor})" in line for key in above.keys)
