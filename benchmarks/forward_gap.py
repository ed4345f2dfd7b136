"""Why LangAlign stays below its reverse, and below labels in the target language itself.

Forward, the head learns from A(e(English)) and reads A(e(target)). What A cannot tell from the
English sentence is missing in the first and present in the second. This trains heads on the same
frozen embeddings that differ in that alone, and says what share of their targets' variance aligners
explain:

    labels, e(target)    the head learns from target-language embeddings and their labels: what
                         is there to be had, whatever the aligner
    labels, A(target)    the same through the aligner: what A leaves of it
    langalign            the method: A(e(English)) and English labels
    + residuals          the same with head.residuals=true
    rev-langalign        the reverse direction, without and with them

    python benchmarks/forward_gap.py demo
    python benchmarks/forward_gap.py sib200 --data DATA --encoder ENCODER --target ko --step1 none

DATA and ENCODER as for transfer.py.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch
from studies import load_study, study_parser
from transfer import Encoded, Settings, Study, mean_text, new_model, tuned

from langalign import metrics
from langalign.aligners import Aligner, Direction, NoAligner, build_aligner
from langalign.loop import FitOptions, Worker, seed_everything
from langalign.training import Pairs, count_outcomes, fit_aligner, fit_head

KINDS = ("fc", "ae", "residual", "linear")
DIRECTIONS: tuple[Direction, ...] = ("forward", "reverse")
EXPLAINED = "variance explained"
# jobs/configs/benchmark-demo.yaml's.
DEMO = Settings(
    max_length=64,
    tune=FitOptions(3e-4, batch_size=32, max_epochs=1),
    align=FitOptions(1e-3, batch_size=64, max_epochs=60, patience=25),
    head=FitOptions(1e-3, batch_size=64, max_epochs=10, patience=3),
)
REAL = Settings(
    align=FitOptions(1e-4, batch_size=64, max_epochs=60, patience=10),
    head=FitOptions(1e-3, batch_size=64, max_epochs=50, patience=10),
)
# A figure: the way, the kind of aligner, what it is of, and its value.
Figure = tuple[str, str, str, float]


class Seed:
    """One seed of a study: embeddings by one tuned encoder, and heads trained on them."""

    def __init__(self, study: Study, encoder: str, settings: Settings, step1: str) -> None:
        self.study, self.settings = study, settings
        self.worker = Worker(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        tuned_encoder, _ = tuned(study, encoder, settings, step1, self.worker)
        device = self.worker.device
        frozen = tuned_encoder.prepare(device)
        self.encoded = Encoded(frozen, study, settings.align.seed, device)

    def figures(self) -> Iterator[Figure]:
        """Scores of every way, and what share of the variance is explained."""
        has_labels = "target" in self.encoded.labels
        if has_labels:
            yield from self._scores("labels, e(target)", NoAligner(), "forward", "target")
        for kind, direction in itertools.product(KINDS, DIRECTIONS):
            method = "langalign" if direction == "forward" else "rev-langalign"
            pairs = self.encoded.pairs(0, direction)
            aligner, explained = self._aligner(kind, direction)
            yield method, kind, EXPLAINED, explained
            yield from self._scores(method, aligner, direction, "english")
            yield from self._scores(f"{method} + residuals", aligner, direction, "english", pairs)
            if has_labels and direction == "forward":
                yield from self._scores("labels, A(target)", aligner, direction, "target")

    def _aligner(self, kind: str, direction: Direction) -> tuple[Aligner, float]:
        pairs, held_out = (self.encoded.pairs(part, direction) for part in (0, 1))
        seed_everything(self.settings.align.seed, 2)
        aligner = build_aligner(kind, pairs.source.shape[1]).to(self.worker.device)
        fit_aligner(aligner, pairs, held_out, options=self.settings.align, worker=self.worker)
        aligner.requires_grad_(False).eval()
        error = (aligner(held_out.source) - held_out.target).square().mean()
        return aligner, float(1 - error / held_out.target.var(0).mean())

    def _scores(
        self,
        way: str,
        aligner: Aligner,
        direction: Direction,
        rows: str,
        residuals_of: Pairs | None = None,
    ) -> Iterator[Figure]:
        """A head trained on `rows` through the aligner, scored on the test rows."""
        held_out = "target" if "target" in self.encoded.labels else "english"
        model = new_model(self.study, self.encoded, aligner, direction, self.settings)
        fit_head(
            model,
            self.encoded.rows(rows, 0, of_target=rows == "target"),
            self.encoded.rows(held_out, 1, of_target=held_out == "target"),
            metric=self.study.metric,
            options=self.settings.head,
            residuals_of=residuals_of,
            worker=self.worker,
        )
        counts = count_outcomes(model, self.encoded.rows("test", None, of_target=True))
        for metric in dict.fromkeys(("accuracy", self.study.metric)):
            yield way, aligner.kind, metric, metrics.score(metric, counts)


def print_table(figures: list[Figure]) -> None:
    """A line for each way and kind: mean and sample standard deviation over seeds, in points."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for way, kind, name, value in figures:
        found.setdefault((way, kind), {}).setdefault(name, []).append(value)
    names = list(dict.fromkeys(name for _, _, name, _ in figures if name != EXPLAINED))
    print("| " + " | ".join(["way", "aligner", *names, EXPLAINED]) + " |")
    print("|---" * (3 + len(names)) + "|")
    for (way, kind), values in sorted(found.items(), key=lambda line: line[0][1] != "none"):
        cells = [mean_text(values.get(name, [])) for name in (*names, EXPLAINED)]
        print("| " + " | ".join([way, kind, *cells]) + " |")


def main() -> int:
    """Parse, run every seed, print the table."""
    parser = study_parser(__doc__)
    parser.add_argument("--step1", default="english", choices=("none", "english", "both"))
    parser.add_argument("--tune-epochs", type=int, help="epochs of step 1 at most")
    arguments = parser.parse_args()
    settings = DEMO if arguments.study == "demo" else REAL
    if arguments.tune_epochs:
        settings = replace(settings, tune=replace(settings.tune, max_epochs=arguments.tune_epochs))
    figures: list[Figure] = []
    for seed in range(arguments.seeds):
        study, encoder = load_study(
            arguments.study, arguments.data, arguments.target, arguments.encoder, seed
        )
        figures += Seed(study, encoder, settings.seeded(seed), arguments.step1).figures()
        print(f"{study.name}, seed {seed} done", file=sys.stderr)
    print_table(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
