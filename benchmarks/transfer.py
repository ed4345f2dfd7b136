"""How well English labels transfer: every aligner, both directions, with and without step 1.

Runs the method's own functions in one process, without Ray, so that the same command works on a
CPU and on one GPU; `jobs/train.py` gives the same rows for one setting at a time. Scores are on
test rows that nothing is chosen on; epochs are chosen on held-out rows.

    python benchmarks/transfer.py sib200 --data DATA --encoder ENCODER --target ko --seeds 3
    python benchmarks/transfer.py sentiment --data DATA --encoder ENCODER --target zh
    python benchmarks/transfer.py counterpart --data DATA        # SST-2 into a counterpart language
    python benchmarks/transfer.py demo

DATA is a folder with <set>_<language>/{train,validation}.parquet (text, label[, id]) and
parallel_en_<language>/train.parquet (source, target); ENCODER a transformers folder or hub name.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from langalign import metrics
from langalign.aligners import Direction, NoAligner, build_aligner
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.encoder import SentenceEncoder
from langalign.finetuning import TextClassifier, TokenizedRows, fit_encoder
from langalign.loop import FitOptions, Worker, seed_everything
from langalign.splits import split_rows
from langalign.training import Labelled, Pairs, count_outcomes, fit_aligner, fit_head

TUNE = FitOptions(3e-4, batch_size=16, max_epochs=12, patience=4)
ALIGN = FitOptions(1e-4, batch_size=16, max_epochs=100, patience=10)
HEAD = FitOptions(1e-3, batch_size=16, max_epochs=50, patience=10)
KINDS = ("fc", "ae", "residual", "linear", "procrustes")


@dataclass(frozen=True)
class Rows:
    """Texts (N) and their labels (N)."""

    texts: list[str]
    labels: list[int]

    def take(self, ids: Sequence[int]) -> "Rows":
        """The rows of `ids`."""
        return Rows([self.texts[i] for i in ids], [self.labels[i] for i in ids])


@dataclass(frozen=True)
class Study:
    """English rows, pairs (`source`, `target`; labels where they are known), test and native."""

    name: str
    classes: int
    metric: str
    english: Rows
    source: list[str]
    target: list[str]
    pair_labels: list[int] | None
    test: Rows
    native: Rows | None


@dataclass(frozen=True)
class Settings:
    """What a table is made with. Learning rates suit encoders of a few million parameters."""

    pooling: str = "mean"
    max_length: int = 128
    step3: str = "head"
    tune: FitOptions = TUNE
    align: FitOptions = ALIGN
    head: FitOptions = HEAD

    def seeded(self, seed: int) -> "Settings":
        """The same settings with another seed."""
        options = {n: replace(getattr(self, n), seed=seed) for n in ("tune", "align", "head")}
        return replace(self, **options)


class Encoded:
    """The embeddings of a study by one encoder, and where its rows are held out."""

    def __init__(self, encoder: SentenceEncoder, study: Study, seed: int, device: Any) -> None:
        def embed(texts: list[str]) -> Tensor:
            return torch.from_numpy(encoder.embed(texts)).to(device)

        self.device = device
        self.labels = {"english": study.english.labels, "test": study.test.labels}
        self.vectors = {"english": embed(study.english.texts), "test": embed(study.test.texts)}
        self.vectors |= {"source": embed(study.source), "target": embed(study.target)}
        if study.pair_labels:
            self.labels["target"] = study.pair_labels
        if study.native:
            self.labels["native"] = study.native.labels
            self.vectors["native"] = embed(study.native.texts)
        self.split = {
            name: split_rows(len(vectors), validation_fraction=0.1, seed=seed)
            for name, vectors in self.vectors.items()
        }
        self.split["target"] = self.split["source"]

    def rows(self, name: str, part: int | None, *, of_target: bool) -> Labelled:
        """Labelled rows: training (0), held-out (1) or all of them (None)."""
        ids = np.arange(len(self.vectors[name])) if part is None else self.split[name][part]
        labels = torch.tensor(self.labels[name], device=self.device)
        chosen = torch.from_numpy(ids).to(self.device)
        return Labelled(self.vectors[name][chosen], labels[chosen], of_target)

    def pairs(self, part: int, direction: Direction) -> Pairs:
        """Embedded pairs, training (0) or held-out (1), in the direction of the aligner."""
        chosen = torch.from_numpy(self.split["source"][part]).to(self.device)
        sides = self.vectors["source"][chosen], self.vectors["target"][chosen]
        return Pairs(*(sides[::-1] if direction == "reverse" else sides))


def run_seed(
    study: Study, encoder_name: str, settings: Settings, tune_on: str, seed: int, device: Any
) -> Iterator[dict[str, Any]]:
    """All rows of one table column: one seed, one choice of step 1 (none, english, both)."""
    settings = settings.seeded(seed)
    worker = Worker(device=device)
    encoder, head = tuned(study, encoder_name, settings, tune_on, worker)
    encoded = Encoded(encoder.prepare(device), study, seed, device)
    test = encoded.rows("test", None, of_target=True)
    where = {"study": study.name, "step1": tune_on, "seed": seed, "pooling": settings.pooling}
    where["step3"] = settings.step3

    def row(method: str, kind: str, model: AlignedHead, **more: float) -> dict[str, Any]:
        value = metrics.score(study.metric, count_outcomes(model, test))
        accuracy = metrics.accuracy(count_outcomes(model, test))
        scores = {"score": value, "accuracy": accuracy}
        return {**where, "method": method, "aligner": kind, **scores, **more}

    if head is not None and tune_on == "english":
        own = AlignedHead(NoAligner(), head.to(device), direction="forward")
        yield row("english", "none", own)
    baselines = {"omission" if tune_on != "none" else "english": "english"}
    baselines |= {"translated": "target", "native": "native"}
    for method, name in baselines.items():
        if name in encoded.labels:
            model, _ = _fit_plain(study, encoded, settings, name, worker)
            yield row(method, "none", model)
    directions: tuple[Direction, ...] = ("forward", "reverse")
    for kind, direction in itertools.product(KINDS, directions):
        model, closeness = _fit_aligned(study, encoded, settings, kind, direction, worker)
        method = "langalign" if direction == "forward" else "rev-langalign"
        yield row(method, kind, model, **closeness)
        if direction == "forward" and model.aligner.maps_own_space:
            # The other reading of section 3.2: only English ever passes A.
            model.aligner.maps_own_space = False
            yield row("target around A", kind, model)


def tuned(
    study: Study, name: str, settings: Settings, tune_on: str, worker: Worker
) -> tuple[SentenceEncoder, ClassificationHead | None]:
    """The encoder as step 1 on these rows leaves it (none, english, both), and step 1's head."""
    encoder = SentenceEncoder.load(
        name, pooling=settings.pooling, max_length=settings.max_length
    ).to(worker.device)
    if tune_on == "none":
        return encoder, None
    parts = [study.english]
    if tune_on == "both":
        assert study.pair_labels is not None, "step 1 on both needs labelled pairs"
        parts.append(Rows(study.target, study.pair_labels))
    train: list[Rows] = []
    held_out: list[Rows] = []
    for part in parts:
        ids = split_rows(len(part.texts), validation_fraction=0.1, seed=settings.tune.seed)
        for rows, chosen in zip((train, held_out), ids, strict=True):
            rows.append(part.take(chosen.tolist()))
    joined = Rows([t for r in train for t in r.texts], [y for r in train for y in r.labels])
    seed_everything(settings.tune.seed, 1)
    head = ClassificationHead(encoder.width, study.classes)
    fit_encoder(
        TextClassifier(encoder, head, precision="bf16" if worker.device.type == "cuda" else "fp32"),
        _tokenized(encoder, joined),
        [_tokenized(encoder, rows) for rows in held_out],
        metric=study.metric,
        options=settings.tune,
        worker=worker,
    )
    return encoder, head


def _tokenized(encoder: SentenceEncoder, rows: Rows) -> TokenizedRows:
    return TokenizedRows(encoder.tokenize(rows.texts), torch.tensor(rows.labels))


def _fit_plain(
    study: Study, encoded: Encoded, settings: Settings, name: str, worker: Worker
) -> tuple[AlignedHead, None]:
    of_target = name != "english"
    model = new_model(study, encoded, NoAligner(), "forward", settings)
    fit_head(
        model,
        encoded.rows(name, 0, of_target=of_target),
        encoded.rows(name, 1, of_target=of_target),
        metric=study.metric,
        options=settings.head,
        worker=worker,
    )
    return model, None


def _fit_aligned(
    study: Study,
    encoded: Encoded,
    settings: Settings,
    kind: str,
    direction: Direction,
    worker: Worker,
) -> tuple[AlignedHead, dict[str, float]]:
    seed_everything(settings.align.seed, 2)
    aligner = build_aligner(kind, encoded.vectors["source"].shape[1]).to(encoded.device)
    held_out = encoded.pairs(1, direction)
    train = encoded.pairs(0, direction)
    fit_aligner(aligner, train, held_out, options=settings.align, worker=worker)
    with torch.no_grad():
        before, n = metrics.cosine_total(held_out.source, held_out.target).tolist()
        kept = aligner.keep(held_out.target)
        after, _ = metrics.cosine_total(aligner(held_out.source), kept).tolist()
    model = new_model(study, encoded, aligner, direction, settings)
    chooses_on_target = "target" in encoded.labels
    fit_head(
        model,
        encoded.rows("english", 0, of_target=False),
        encoded.rows("target" if chooses_on_target else "english", 1, of_target=chooses_on_target),
        metric=study.metric,
        options=settings.head,
        train_aligner=settings.step3 == "head+aligner" and direction == "forward",
        worker=worker,
    )
    return model, {"cosine_before": before / n, "cosine_after": after / n}


def new_model(
    study: Study, encoded: Encoded, aligner: Any, direction: Direction, settings: Settings
) -> AlignedHead:
    """An untrained head, the same for every aligner of a seed, behind this one."""
    seed_everything(settings.head.seed, 3)
    head = ClassificationHead(encoded.vectors["english"].shape[1], study.classes)
    return AlignedHead(aligner, head, direction=direction).to(encoded.device)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """For each study and setting, a line a method and aligner, a column a step 1.

    A cell is the mean and sample standard deviation of accuracy over seeds, in points, and the
    cosine of held-out pairs before and after the aligner; `f1` too where the task has it.
    """
    tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        tables.setdefault((row["study"], row["pooling"], row["step3"]), []).append(row)
    for (study, pooling, step3), own in tables.items():
        steps = [step for step in ("none", "english", "both") if _having(own, step1=step)]
        print(f"\n{study}, {pooling} pooling, step 3 trains {step3}\n")
        print("| method | aligner | " + " | ".join(f"step 1: {step}" for step in steps) + " |")
        print("|---" * (2 + len(steps)) + "|")
        for method, aligner in dict.fromkeys((r["method"], r["aligner"]) for r in own):
            cells = [
                _cell(_having(own, step1=step, method=method, aligner=aligner)) for step in steps
            ]
            print("| " + " | ".join([method, aligner, *cells]) + " |")


def _having(rows: Sequence[dict[str, Any]], **wanted: str) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _cell(group: Sequence[dict[str, Any]]) -> str:
    if not group:
        return ""
    text = mean_text([row["accuracy"] for row in group])
    if any(row["score"] != row["accuracy"] for row in group):
        text += f", F1 {mean_text([row['score'] for row in group])}"
    if "cosine_after" in group[0]:
        before, after = (
            np.mean([row[f"cosine_{when}"] for row in group]) for when in ("before", "after")
        )
        text += f" ({before:.2f} → {after:.2f})"
    return text


def mean_text(values: Sequence[float]) -> str:
    """Mean and sample standard deviation, in points; empty for no value."""
    if not values:
        return ""
    spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread}"


def main() -> int:
    """Parse, run every seed and step 1, print the table."""
    from studies import load_study, study_parser

    parser = study_parser(__doc__)
    parser.add_argument("--step1", nargs="+", default=["none", "english", "both"])
    parser.add_argument("--pooling", nargs="+", default=["mean"], choices=["cls", "mean"])
    parser.add_argument("--step3", nargs="+", default=["head"], choices=["head", "head+aligner"])
    parser.add_argument("--tune-epochs", type=int, default=12, help="epochs of step 1 at most")
    parser.add_argument("--align-epochs", type=int, default=100, help="epochs of step 2 at most")
    parser.add_argument("--batch-size", type=int, default=16, help="rows a step, steps 2 and 3")
    parser.add_argument(
        "--out", type=Path, help="append to this file of JSON lines, print all of it"
    )
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        study, encoder = load_study(
            arguments.study, arguments.data, arguments.target, arguments.encoder, seed
        )
        for pooling, step3, step1 in itertools.product(
            arguments.pooling, arguments.step3, arguments.step1
        ):
            if step1 == "both" and study.pair_labels is None:
                continue
            start = time.perf_counter()
            settings = Settings(pooling=pooling, step3=step3)
            settings = replace(
                settings,
                tune=replace(settings.tune, max_epochs=arguments.tune_epochs),
                align=replace(
                    settings.align,
                    max_epochs=arguments.align_epochs,
                    batch_size=arguments.batch_size,
                ),
                head=replace(settings.head, batch_size=arguments.batch_size),
            )
            for row in run_seed(study, encoder, settings, step1, seed, device):
                rows.append(row)
                if arguments.out:
                    # As they come: a run of hours that is stopped keeps what it has.
                    with arguments.out.open("a", encoding="utf-8") as out:
                        out.write(json.dumps(row) + "\n")
            seconds = time.perf_counter() - start
            print(f"{study.name} seed {seed} step 1 {step1}: {seconds:.0f} s", file=sys.stderr)
    if arguments.out:
        rows = [json.loads(line) for line in arguments.out.read_text("utf-8").splitlines()]
    print(f"{device.type}, {asdict(settings)}")
    print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
