"""Steps 2 and 3 on small embeddings: they learn, stop, resume to the same weights, and agree.

Shapes: N rows, D = 12 wide embeddings, C = 2 classes.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from langalign.aligners import Aligner, build_aligner
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.errors import TrainingError
from langalign.loop import (
    EpochReport,
    FitOptions,
    Reporter,
    Worker,
    epoch_order,
    seed_everything,
    silent,
)
from langalign.training import Labelled, Pairs, count_outcomes, fit_aligner, fit_head

D = 12
FAST = FitOptions(learning_rate=1e-2, batch_size=8, max_epochs=10, patience=10, seed=3)
State = dict[str, Tensor]
Fit = Callable[[FitOptions, Reporter, Path | None], tuple[list[EpochReport], State]]


class Stopped(Exception):
    """Stands for a worker that is killed."""


def pairs(rows: int, seed: int = 0, noise: float = 0.01) -> Pairs:
    """Targets that are a rotation of the sources (the same for every seed), and noise."""
    rotation, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(99)))
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(rows, D, generator=generator)
    return Pairs(source, source @ rotation + noise * torch.randn(rows, D, generator=generator))


def unrelated(rows: int, seed: int = 0) -> Pairs:
    """Pairs that can only be learned by heart, so that the held-out score soon falls."""
    return Pairs(pairs(rows, seed).source, pairs(rows, seed + 1).source)


def labelled(rows: int, seed: int = 0) -> Labelled:
    embeddings = torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))
    return Labelled(embeddings, (embeddings[:, 0] > 0).long(), of_target=False)


def small(kind: str, seed: int = 1) -> Aligner:
    seed_everything(seed)
    hidden, depth = (32, 4) if kind == "fc" else (32, 2)
    return build_aligner(kind, D, hidden=hidden, depth=depth)


def align(
    kind: str,
    options: FitOptions = FAST,
    report: Reporter = silent,
    resume: Path | None = None,
    *,
    held_out: Pairs | None = None,
    train: Pairs | None = None,
) -> tuple[list[EpochReport], State]:
    aligner = small(kind)
    history = fit_aligner(
        aligner,
        train or pairs(80),
        held_out or pairs(10, seed=1),
        options=options,
        report=report,
        resume=resume,
    )
    return history, aligner.state_dict()


def head(
    options: FitOptions = FAST,
    report: Reporter = silent,
    resume: Path | None = None,
    *,
    train_aligner: bool = False,
    rows: Labelled | None = None,
) -> tuple[list[EpochReport], State]:
    # Residual, because it starts as the identity and leaves the head something to learn from.
    aligner = small("residual")
    model = AlignedHead(aligner, ClassificationHead(D, 2, dropout=0.3), direction="forward")
    history = fit_head(
        model,
        rows or labelled(80),
        labelled(20, seed=1),
        metric="f1",
        options=options,
        train_aligner=train_aligner,
        report=report,
        resume=resume,
    )
    return history, model.state_dict()


FITS: dict[str, Fit] = {
    "fc": lambda options, report, resume: align("fc", options, report, resume),
    "ae": lambda options, report, resume: align("ae", options, report, resume),
    "residual": lambda options, report, resume: align("residual", options, report, resume),
    "head": lambda options, report, resume: head(options, report, resume),
    "head and aligner": lambda options, report, resume: head(
        options, report, resume, train_aligner=True
    ),
}


def figures(history: list[EpochReport]) -> list[tuple[int, float, float, bool]]:
    return [(entry.epoch, entry.train_loss, entry.score, entry.best) for entry in history]


# --- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", FITS)
def test_the_loss_falls(fit: str) -> None:
    history, _ = FITS[fit](FAST, silent, None)
    assert history[-1].train_loss < 0.9 * history[0].train_loss
    assert max(entry.score for entry in history) > history[0].score


@pytest.mark.parametrize("fit", FITS)
def test_one_seed_gives_one_result_and_another_seed_another(fit: str) -> None:
    first, weights = FITS[fit](FAST, silent, None)
    again, same = FITS[fit](FAST, silent, None)
    assert figures(first) == figures(again)
    torch.testing.assert_close(weights, same, atol=0, rtol=0)
    other, _ = FITS[fit](FitOptions(**{**asdict(FAST), "seed": 4}), silent, None)
    assert figures(first) != figures(other)


def test_the_reported_loss_and_score_are_means_over_all_rows() -> None:
    still = FitOptions(learning_rate=1e-12, batch_size=16, max_epochs=1)
    train, held_out = pairs(37), pairs(11, seed=1)
    (entry,), _ = align("ae", still, train=train, held_out=held_out)
    assert entry.train_loss == pytest.approx(two_way_error(small("ae"), train), rel=1e-5)
    assert entry.score == pytest.approx(-two_way_error(small("ae"), held_out), rel=1e-5)


@torch.no_grad()
def two_way_error(aligner: Aligner, rows: Pairs) -> float:
    """MSE over source to target and target to target (section 3.2)."""
    aligner.eval()
    both = torch.cat([aligner(rows.source) - rows.target, aligner(rows.target) - rows.target])
    return both.square().mean().item()


def test_dropout_is_off_in_scores_and_in_a_frozen_aligner() -> None:
    still = FitOptions(learning_rate=1e-12, batch_size=16, max_epochs=1)
    held_out, rows = pairs(11, seed=1), labelled(37)
    (entry,), _ = align("fc", still, held_out=held_out)
    assert entry.score == pytest.approx(-two_way_error(small("fc"), held_out), rel=1e-5)
    model = AlignedHead(small("fc"), ClassificationHead(D, 2, dropout=0), direction="forward")
    (entry,) = fit_head(model, rows, rows, metric="accuracy", options=still)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(
            model.eval()(rows.embeddings, of_target=False), rows.labels
        )
    assert entry.train_loss == pytest.approx(loss.item(), rel=1e-5)


def test_a_frozen_aligner_stays_as_it_is_and_a_trained_one_does_not() -> None:
    before = small("residual").state_dict()
    for train_aligner in (False, True):
        _, after = head(train_aligner=train_aligner)
        moved = [k for k, v in before.items() if not torch.equal(v, after[f"aligner.{k}"])]
        assert moved == (list(before) if train_aligner else [])


def test_a_head_learns_what_count_outcomes_then_finds() -> None:
    model = AlignedHead(small("fc"), ClassificationHead(D, 2), direction="reverse")
    options = FitOptions(learning_rate=1e-2, batch_size=8, max_epochs=20)
    held_out = labelled(60, seed=1)
    fit_head(model, labelled(200), held_out, metric="accuracy", options=options)
    counts = count_outcomes(model, held_out)
    assert counts.sum() == 60
    assert counts.diagonal().sum() > 50


@pytest.mark.parametrize("kind", ["linear", "procrustes", "none"])
def test_a_closed_form_reports_no_epoch(kind: str) -> None:
    aligner = build_aligner(kind, D)
    reports: list[EpochReport] = []
    history = fit_aligner(
        aligner,
        pairs(80, noise=0),
        pairs(20, seed=1, noise=0),
        options=FAST,
        report=lambda entry, save: reports.append(entry),
    )
    assert (history, reports) == ([], [])


# --- stopping ---------------------------------------------------------------------------------


def keep_every_epoch(module_states: list[State], folder: Path) -> Reporter:
    """A reporter that keeps the weights of every epoch, as its checkpoint holds them."""

    def keep(report: EpochReport, save: Callable[[Path], None]) -> None:
        path = folder / f"epoch-{report.epoch}.safetensors"
        save(path)
        module_states.append(below(load_file(path), "module/"))

    return keep


def below(tensors: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def test_training_stops_after_patience_stale_epochs_with_the_best_weights(tmp_path: Path) -> None:
    options = FitOptions(learning_rate=5e-2, batch_size=8, max_epochs=200, patience=3)
    held_out = unrelated(30, seed=8)
    states: list[State] = []
    keep = keep_every_epoch(states, tmp_path)
    history, weights = align("ae", options, keep, train=unrelated(40), held_out=held_out)
    scores = [entry.score for entry in history]
    kept = scores.index(max(scores))
    assert len(history) == kept + 1 + options.patience < options.max_epochs
    torch.testing.assert_close(weights, states[kept], atol=0, rtol=0)
    assert not torch.equal(weights["layers.0.weight"], states[-1]["layers.0.weight"])
    aligner = small("ae")
    aligner.load_state_dict(weights)
    assert -two_way_error(aligner, held_out) == pytest.approx(scores[kept], rel=1e-5)


def test_best_is_said_of_every_epoch_that_beat_all_before_it() -> None:
    history, _ = head(FitOptions(learning_rate=1e-2, batch_size=8, max_epochs=12, patience=12))
    scores = [entry.score for entry in history]
    assert [entry.best for entry in history] == [
        all(score > earlier for earlier in scores[:i]) for i, score in enumerate(scores)
    ]
    assert not all(entry.best for entry in history), "a score that ties or falls is not better"


# --- resuming ---------------------------------------------------------------------------------


def stop_after(epochs: int, path: Path) -> Reporter:
    def stop(report: EpochReport, save: Callable[[Path], None]) -> None:
        if report.epoch + 1 == epochs:
            save(path)
            raise Stopped

    return stop


@pytest.mark.parametrize("epochs", [1, 4])
@pytest.mark.parametrize("fit", FITS)
def test_a_run_stopped_and_resumed_reaches_the_same_weights(
    fit: str, epochs: int, tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    history, weights = FITS[fit](FAST, silent, None)
    with pytest.raises(Stopped):
        FITS[fit](FAST, stop_after(epochs, path), None)
    torch.manual_seed(12345)  # a new process knows nothing of the old one's random state
    seen: list[int] = []
    resumed, again = FITS[fit](FAST, lambda entry, save: seen.append(entry.epoch), path)
    assert seen == list(range(epochs, len(history)))
    expected = torch.tensor(figures(history), dtype=torch.float64)
    found = torch.tensor(figures(resumed), dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(again, weights, atol=1e-7, rtol=0)


def test_resuming_remembers_the_best_weights_and_the_stale_epochs(tmp_path: Path) -> None:
    options = FitOptions(learning_rate=5e-2, batch_size=8, max_epochs=200, patience=4)
    train, held_out = unrelated(40), unrelated(30, seed=8)
    history, weights = align("ae", options, train=train, held_out=held_out)
    path = tmp_path / "state.safetensors"
    stop = stop_after(len(history) - 1, path)  # among the stale epochs
    with pytest.raises(Stopped):
        align("ae", options, stop, train=train, held_out=held_out)
    resumed, again = align("ae", options, resume=path, train=train, held_out=held_out)
    assert len(resumed) == len(history)
    torch.testing.assert_close(again, weights, atol=1e-7, rtol=0)


def test_a_finished_run_resumed_trains_no_more(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(Stopped):
        align("ae", FAST, stop_after(FAST.max_epochs, path))
    reports: list[EpochReport] = []
    history, weights = align("ae", FAST, lambda entry, save: reports.append(entry), path)
    assert (len(history), reports) == (FAST.max_epochs, [])
    torch.testing.assert_close(weights, below(load_file(path), "best/"), atol=0, rtol=0)


def test_a_checkpoint_is_safetensors_with_weights_moments_and_history(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(Stopped):
        align("ae", FAST, stop_after(2, path))
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        history = json.loads(file.metadata()["history"])
    names = set(small("ae").state_dict())
    count = len(list(small("ae").parameters()))
    moments = {f"{i}/{what}" for i in range(count) for what in ("step", "exp_avg", "exp_avg_sq")}
    assert keys == (
        {f"module/{name}" for name in names}
        | {f"best/{name}" for name in names}
        | {f"optimizer/{moment}" for moment in moments}
    )
    assert [entry["epoch"] for entry in history] == [0, 1]


# --- faults -----------------------------------------------------------------------------------


def with_nan(rows: Pairs) -> Pairs:
    source = rows.source.clone()
    source[3, 0] = torch.nan
    return Pairs(source, rows.target)


def test_nan_in_the_pairs_names_step_and_learning_rate() -> None:
    for train, held_out in ((with_nan(pairs(40)), pairs(10)), (pairs(40), with_nan(pairs(10)))):
        with pytest.raises(TrainingError, match=r"^align: epoch 0 .* \(now 0\.01\).*NaN") as caught:
            align("ae", FAST, train=train, held_out=held_out)
        assert "\n" not in str(caught.value)


def test_nan_in_the_rows_of_the_head_names_step_and_learning_rate() -> None:
    rows = labelled(50)
    rows.embeddings[7, 2] = torch.nan
    with pytest.raises(TrainingError, match=r"^head: epoch 0 .* \(now 0\.01\)"):
        head(rows=rows)


# --- the order of rows ------------------------------------------------------------------------


def test_every_epoch_and_every_worker_has_its_own_order() -> None:
    workers = [Worker(), Worker(rank=1)]
    orders = [epoch_order(50, FAST, worker, epoch) for worker in workers for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)


# --- two workers ------------------------------------------------------------------------------


def train_as_rank(rank: int, folder: str) -> None:
    """One of two processes; its weights start elsewhere, so that only DDP can make them agree."""
    address = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    worker = Worker(rank=rank, world_size=2)
    for name, options in TOGETHER.items():
        aligner = small("ae", seed=1 + rank)
        history = fit_aligner(aligner, pairs(40), pairs(7, seed=1), options=options, worker=worker)
        path = Path(folder) / f"{name}-{rank}"
        save_file(aligner.state_dict(), path.with_suffix(".safetensors"))
        path.with_suffix(".json").write_text(json.dumps(figures(history)))
    torch.distributed.destroy_process_group()


TOGETHER = {
    "still": FitOptions(learning_rate=1e-12, batch_size=8, max_epochs=1),
    "trained": FAST,
}


@pytest.mark.slow
def test_two_workers_end_with_one_set_of_weights_and_report_means_over_all_rows(
    tmp_path: Path,
) -> None:
    spawn(train_as_rank, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    for name in TOGETHER:
        one, two = (load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in range(2))
        torch.testing.assert_close(one, two, atol=0, rtol=0)
        told = [(tmp_path / f"{name}-{rank}.json").read_text() for rank in range(2)]
        assert told[0] == told[1]
    ((_, loss, score, _),) = json.loads((tmp_path / "still-0.json").read_text())
    assert loss == pytest.approx(two_way_error(small("ae"), pairs(40)), rel=1e-5)
    assert score == pytest.approx(-two_way_error(small("ae"), pairs(7, seed=1)), rel=1e-5)
    trained = json.loads((tmp_path / "trained-0.json").read_text())
    assert trained[-1][1] < 0.9 * trained[0][1]
