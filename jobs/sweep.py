"""Search the aligner's depth, dropout and learning rate with Ray Tune and Optuna.

Rows are embedded once; trials train aligner and head on those embeddings and are compared on
held-out translated rows (English ones where the pairs have no labels), never on test rows. The best
values are trained by the whole pipeline and published. Run again, a sweep goes on where it was
stopped.
"""

import sys
from typing import Any

from rich.console import Console

from jobs.command import run_job
from jobs.train import base_config
from langalign.report import print_report
from langalign.searchspace import SweepConfig
from langalign.storage import Storage

EXAMPLES = """\
examples:
  python jobs/sweep.py                                    the embedded demo
  python jobs/sweep.py sweep.trials=64 sweep.seeds=3      more trials, each the mean of 3 seeds
  python jobs/sweep.py 'space.kind=[fc]' 'space.depth={low: 2, high: 6}' space.dropout=
  python jobs/sweep.py 'space.hidden={low: 64, high: 1024, log: true}' 'space.batch_size=[16, 32]'
  python jobs/sweep.py --config my.yaml sweep.gpus_per_stack=0.1 sweep.stack=16
  ray job submit -- python jobs/sweep.py

An IntDomain or FloatDomain is a range {low, high}, with `log: true` to draw the exponent evenly, or
{choices: [64, 256]}, short [64, 256]; `kinds: [fc]` in either draws it for some aligner kinds only.
A parameter set to nothing (space.dropout=) is not searched.
"""


def main() -> int:
    """Run the job; returns the exit status."""
    return run_job(
        SweepConfig,
        _sweep,
        summary=(__doc__ or "").strip(),
        examples=EXAMPLES,
        default_config=base_config,
    )


def _sweep(config: SweepConfig, console: Console) -> dict[str, Any]:
    # Loads Ray and torch, which --help and a wrong key need not wait for.
    from cluster.tune import Sweep

    storage = Storage.from_environment(config.storage)
    console.print(f"[bold]langalign sweep[/bold] {config.name}, seed {config.seed}, {storage.root}")
    sweep = Sweep(config, storage, console)
    summary = sweep.run()
    print_report(summary, console, sweep.written)
    return summary


if __name__ == "__main__":
    sys.exit(main())
