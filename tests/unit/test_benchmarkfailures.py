"""A failed cell is never a number, and no figure is a mean over the seeds that are left."""

from dataclasses import replace

from benchmark_results import CONFIG, SEEDS, SIZES, field, result, results

from langalign.benchmarkcells import ResultSet
from langalign.benchmarkplots import benchmark_plots
from langalign.benchmarkresult import CellResult
from langalign.benchmarktables import alignment_table, cosine_table
from langalign.findings import Finding, findings


def with_failure(found: list[CellResult], pairs: int, seeds: tuple[int, ...]) -> ResultSet:
    """The results with LangAlign at the most rows failed for some seeds."""
    return ResultSet.of(
        CellResult.failure(each.cell, each.digest, "accuracy", "why")
        if (each.cell.method, each.cell.rows, each.cell.pairs) == ("langalign", 1000, pairs)
        and each.cell.seed in seeds
        else each
        for each in found
    )


def test_no_figure_is_a_mean_over_the_seeds_that_are_left() -> None:
    """One failed seed of three leaves as much of a figure as three failed ones."""
    found = results()
    found += [
        # The seed that fails is far from the others: the mean of those would be another.
        replace(
            result("langalign", "ae", 400, rows, seed, 70 + seed),
            alignment={
                "before": {"cosine": 0.1},
                "after": {"cosine": 0.9 - 0.4 * seed},
                "moved": {"cosine": 0.5},
            },
        )
        for rows in SIZES
        for seed in SEEDS
    ]
    one, all_failed = with_failure(found, 400, (2,)), with_failure(found, 400, SEEDS)

    def figure(of: ResultSet) -> bytes:
        return benchmark_plots(of, ["one"], CONFIG.costs)["figure3-one"]

    def closer(of: ResultSet) -> Finding:
        return next(f for f in findings(of, "one") if f.claim.startswith("cosine after"))

    assert figure(one) == figure(all_failed) != figure(ResultSet.of(found))
    assert closer(one) == closer(all_failed) != closer(ResultSet.of(found))
    cosine = cosine_table(one, "one", is_published=False)
    assert field(cosine, "translated – ae", "400 pairs") == "failed (1 of 3)"
    assert field(alignment_table(one, "one"), "LangAlign ae: after", "cosine") == "failed (1 of 3)"


def test_a_failed_cosine_has_no_figure_beside_it_and_brackets_are_explained() -> None:
    found = []
    for seed in SEEDS:
        made = result("langalign", "ae", 5000, 20_000, seed, 80)
        found.append(replace(made, cell=replace(made.cell, study="sa-ko")))
    shown = cosine_table(ResultSet.of(found), "sa-ko", is_published=True)
    assert field(shown, "translated – ae", "5,000 pairs") == "0.900 (0.952)"
    assert "In brackets: the paper's figure." in shown.note
    assert "paper" not in cosine_table(ResultSet.of(found), "sa-ko", is_published=False).note
    found[0] = CellResult.failure(found[0].cell, "d", "accuracy", "why")
    shown = cosine_table(ResultSet.of(found), "sa-ko", is_published=True)
    assert field(shown, "translated – ae", "5,000 pairs") == "failed (1 of 3)"
