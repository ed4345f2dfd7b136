"""Translate labelled English rows into the pairs that jobs/train.py and jobs/benchmark.py read.

Every text is kept within seconds of its translation, so a job that was stopped goes on and pays for
nothing twice. The summary says what it took: calls, tokens, hours and money, and how many texts the
service refused, whose rows are left out.
"""

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from jobs.command import run_job
from langalign.report import print_report
from langalign.storage import Storage
from langalign.translateconfig import TranslateConfig

EXAMPLES = """\
examples:
  python jobs/translate.py rows=2000                     the demo's reviews, by its dictionary
  OPENAI_API_KEY=… python jobs/translate.py data=train.csv rows=5000 target_language=ko \\
      language=Korean translator.kind=api translator.model=MODEL \\
      translator.prompt_price=10 translator.completion_price=30
  python jobs/translate.py data=train.csv target_language=ko translator.kind=api \\
      translator.url=http://127.0.0.1:8000/v1 translator.model=MODEL     a server of your own
  python jobs/translate.py data=train.csv target_language=ko language=Korean \\
      translator.kind=local parallel=pairs.tsv local.model=google/mt5-base \\
      'local.prefix="Translate into {language}: "' cluster.gpus_per_worker=1
"""


def main() -> int:
    """Run the job; returns the exit status."""
    return run_job(TranslateConfig, _translate, summary=(__doc__ or "").strip(), examples=EXAMPLES)


def _translate(config: TranslateConfig, console: Console) -> dict[str, Any]:
    # Loads Ray and torch, which --help and a wrong key need not wait for.
    from cluster.translate import Translation

    storage = Storage.from_environment(config.storage)
    console.print(f"[bold]langalign translate[/bold] {config.name}, {storage.root}")
    translation = Translation(config, storage, console)
    summary = translation.run()
    spent = (
        f"{summary['pairs']:,} pairs, {summary['refused']:,} texts refused; "
        f"{summary['calls']:,} calls, "
        f"{summary['prompt_tokens']:,} + {summary['completion_tokens']:,} tokens, "
        f"{summary['translating_s'] / 3600:.2f} h, {summary['money']:.2f} in money"
    )
    console.print(Text(spent), soft_wrap=True)
    print_report(summary, console, translation.written)
    return summary


if __name__ == "__main__":
    sys.exit(main())
