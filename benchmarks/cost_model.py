"""Time and cost of work on p4d nodes, from a model whose assumptions stand below; nothing is run.

    python benchmarks/cost_model.py
    python benchmarks/cost_model.py --sentences 50e6 --tokens 60 --utilisation 0.2
    python benchmarks/cost_model.py --sentences-per-s 9000 --block-ms 5    # as you measured them

time = start of nodes + step 1 + the longer of: work / (nodes x 8 GPUs x rate), and
       blocks x ms of scheduling a block, which the driver does while GPUs work
cost = (nodes x price + head's price) x (time + the idle minutes after which nodes end)

The head is counted as long as the nodes it is there for; kept running, it costs its price by the
hour. The rate of a GPU is `--sentences-per-s`, or else its peak times an assumed utilisation, over
the arithmetic of a sentence: two operations a weight and token, without the vocabulary's table,
which is only looked up. Training takes three times as long as embedding. No A100 was measured.
"""

import argparse
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from cluster.prices import MACHINES, PRICES_DATE

NODES = (1, 2, 4, 8)
NODE, HEAD = "p4d.24xlarge", "m6i.2xlarge"
A100_PEAK_PER_S = 312e12  # bf16, dense, NVIDIA's data sheet
# XLM-R base without its vocabulary: 12 layers of 12 x 768^2 weights.
WEIGHTS = 12 * 12 * 768**2
BLOCK_ROWS = 4096  # cluster.shard_rows
TRAIN_FACTOR = 3
IDLE_MINUTES = 10


@dataclass(frozen=True)
class Assumptions:
    """What a job is, and what is assumed of a cluster; see `main` for units."""

    sentences: float
    tokens: float
    utilisation: float
    start_s: float
    block_ms: float
    measured_per_s: float | None
    tune_rows: float
    tune_epochs: float

    @property
    def sentences_per_s(self) -> float:
        """Of one GPU, forward: as measured, or by the assumed utilisation."""
        if self.measured_per_s is not None:
            return self.measured_per_s
        return self.utilisation * A100_PEAK_PER_S / (2 * WEIGHTS * self.tokens)


@dataclass(frozen=True)
class Estimate:
    """Seconds of the parts of a run, and what all of it costs."""

    nodes: int
    start_s: float
    tune_s: float
    embed_s: float
    schedule_s: float

    @property
    def seconds(self) -> float:
        """From the first wish for nodes to the last embedding."""
        return self.start_s + self.tune_s + max(self.embed_s, self.schedule_s)

    @property
    def usd(self) -> float:
        """Until the last node has ended for idleness."""
        hours = (self.seconds + 60 * IDLE_MINUTES) / 3600
        return hours * (self.nodes * MACHINES[NODE].usd_per_h + MACHINES[HEAD].usd_per_h)


def estimate(nodes: int, given: Assumptions) -> Estimate:
    """Step 1 on one node (gradients of one node need no network), embedding on all."""
    gpus = MACHINES[NODE].gpus
    passes = TRAIN_FACTOR * given.tune_rows * given.tune_epochs
    tune_s = passes / (gpus * given.sentences_per_s)
    embed_s = given.sentences / (nodes * gpus * given.sentences_per_s)
    # The driver hands out blocks one after the other, however many nodes there are.
    schedule_s = given.sentences / BLOCK_ROWS * given.block_ms / 1000
    return Estimate(nodes, given.start_s, tune_s, embed_s, schedule_s)


def main() -> int:
    """Parse and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sentences", type=float, default=10e6, help="to embed, both languages")
    add("--tokens", type=float, default=40, help="of a sentence, padding included")
    add("--utilisation", type=float, default=0.3, help="share of the GPU's peak that is reached")
    add("--start-s", type=float, default=420, help="until a node has joined: machine, image, Ray")
    add(
        "--block-ms",
        type=float,
        default=34,
        help="of scheduling a block of 4,096 texts: what benchmarks/scaling.py finds, or a guess",
    )
    add(
        "--sentences-per-s",
        type=float,
        dest="measured_per_s",
        help="embedded by one GPU, as measured on such sentences; default: from --utilisation",
    )
    add("--tune-rows", type=float, default=100_000, help="labelled rows of step 1")
    add("--tune-epochs", type=float, default=3, help="epochs of step 1")
    given = Assumptions(**vars(parser.parse_args()))
    per_s = given.sentences_per_s
    table = Table(
        title=f"{given.sentences:,.0f} sentences, {per_s:,.0f}/s on a GPU, prices of {PRICES_DATE}"
    )
    for column in ("nodes", "start s", "step 1 s", "embed s", "scheduling s", "all s", "USD"):
        table.add_column(column, justify="right")
    for nodes in NODES:
        found = estimate(nodes, given)
        parts = (found.start_s, found.tune_s, found.embed_s, found.schedule_s, found.seconds)
        table.add_row(str(nodes), *(f"{part:,.0f}" for part in parts), f"{found.usd:.2f}")
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
