"""Train a target-language classifier from English labels and translated sentences, on Ray.

The whole pipeline: prepare rows, tune the encoder (step 1), embed, train the aligner (step 2),
train a new head through it (step 3), score, publish. Run again, finished steps are skipped.
"""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.command import Arguments, run_job
from langalign.config import PipelineConfig
from langalign.report import print_report
from langalign.storage import Storage

DEMO_CONFIG = Path(__file__).parent / "configs" / "demo.yaml"
EXAMPLES = """\
examples:
  python jobs/train.py                         the embedded demo: no data, no download, no GPU
  python jobs/train.py seed=1 aligner.kind=fc  the demo, changed
  python jobs/train.py --config my.yaml cluster.workers=8 cluster.gpus_per_worker=1
  python jobs/train.py data.train=train.csv data.parallel=pairs.tsv data.test=test.csv

Without --config the demo's settings are the base, unless data.train is given: then the paper's.
"""


def main() -> int:
    """Run the job; returns the exit status."""
    return run_job(
        PipelineConfig,
        _train,
        summary=(__doc__ or "").strip(),
        examples=EXAMPLES,
        default_config=base_config,
    )


def base_config(arguments: Arguments) -> Path | None:
    """The file given, or the demo's where no data is named."""
    names_data = any(text.startswith("data.train=") for text in arguments.overrides)
    return arguments.config or (None if names_data else DEMO_CONFIG)


def _train(config: PipelineConfig, console: Console) -> dict[str, Any]:
    # Loads Ray and torch, which --help and a wrong key need not wait for.
    from cluster.pipeline import Pipeline

    storage = Storage.from_environment(config.storage)
    console.print(f"[bold]langalign train[/bold] {config.name}, seed {config.seed}, {storage.root}")
    pipeline = Pipeline(config, storage, console)
    summary = pipeline.run()
    print_report(summary, console, pipeline.written)
    return summary


if __name__ == "__main__":
    sys.exit(main())
