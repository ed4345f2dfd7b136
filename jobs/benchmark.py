"""Run the paper's evaluation on any task and language, on Ray, and write a report.

Every figure is a cell of a grid: method, aligner, task rows, translated pairs, seed, task and
language. Cells that are done are never made again, so a benchmark that was stopped goes on with the
same command, and more methods, seeds or smaller sizes add to what is there.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.command import Arguments, run_job
from langalign.benchmarkgrid import BenchmarkConfig
from langalign.report import print_report
from langalign.storage import Storage
from langalign.texttables import TextTable, console_table

DEMO_CONFIG = Path(__file__).parent / "configs" / "benchmark-demo.yaml"
EXAMPLES = """\
examples:
  python jobs/benchmark.py                                 the embedded demo
  python jobs/benchmark.py 'grid.seeds=[0]' 'grid.rows=[1000, 5000]'
  python jobs/benchmark.py --config jobs/configs/benchmark-mini.yaml data=FOLDER encoder.name=FOLDER
  python jobs/benchmark.py --config jobs/configs/benchmark-paper.yaml cluster.gpus_per_group=1
"""


def main() -> int:
    """Run the job; returns the exit status."""
    return run_job(
        BenchmarkConfig,
        _benchmark,
        summary=(__doc__ or "").strip(),
        examples=EXAMPLES,
        default_config=_base_config,
    )


def _base_config(arguments: Arguments) -> Path:
    return arguments.config or DEMO_CONFIG


def _benchmark(config: BenchmarkConfig, console: Console) -> dict[str, Any]:
    # Loads Ray and torch, which --help and a wrong key need not wait for.
    from cluster.benchmark import Benchmark

    storage = Storage.from_environment(config.storage)
    console.print(f"[bold]langalign benchmark[/bold] {config.name}, {storage.root}")
    benchmark = Benchmark(config, storage, console)
    summary = benchmark.run()
    show_tables(benchmark.tables, console)
    # Its own table knows of one size only.
    print_report({**summary, "results": []}, console, benchmark.written)
    return summary


def show_tables(tables: Iterable[TextTable], console: Console) -> None:
    """Print them folded to the width: a line cut off would hide the largest sizes."""
    for table in tables:
        console.print(console_table(table), soft_wrap=False)


if __name__ == "__main__":
    sys.exit(main())
