"""Score a published model on labelled rows, on Ray: accuracy, F1, confusion, scores by class.

Beside the model, on the same embeddings: the English-only head and the head on raw embeddings
(LangAlign omitted), where the model's training run left them in the model's storage.
"""

import os
import sys
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.markup import escape

from jobs.command import run_job
from langalign.artifacts import LATEST
from langalign.config import ScoreConfig
from langalign.errors import ConfigError
from langalign.report import confusion_table, print_report, score_table
from langalign.storage import Storage
from serve.client import Client
from serve.labels import ServiceLabels

API_KEY_VARIABLE = "LANGALIGN_API_KEY"
EXAMPLES = """\
examples:
  python jobs/score.py                         the demo's model on the demo's test rows
  python jobs/score.py language=en data=reviews.csv
  python jobs/score.py model=reviews-ko data=test.csv task.text=review task.label=stars
  python jobs/score.py model=s3://bucket/prefix/models/reviews-ko/v-0123456789ab data=test.parquet
  python jobs/score.py service=http://127.0.0.1:8000 model=reviews-ko data=test.csv

The demo's model is the one that python jobs/train.py publishes.
"""


def main() -> int:
    """Run the job; returns the exit status."""
    return run_job(ScoreConfig, _score, summary=(__doc__ or "").strip(), examples=EXAMPLES)


def _score(config: ScoreConfig, console: Console) -> dict[str, Any]:
    # Loads Ray and torch, which --help and a wrong key need not wait for.
    from cluster.published import asked_version, model_name
    from cluster.score import Scoring

    storage = Storage.from_environment(config.storage)
    console.print(f"[bold]langalign score[/bold] {escape(config.model)}, {storage.root}")
    with ExitStack() as stack:
        ask = None
        if config.service:
            wanted = asked_version(config.model, config.version)
            key = os.environ.get(API_KEY_VARIABLE)
            client = stack.enter_context(Client(config.service, api_key=key))
            served = ServiceLabels(client, model_name(config.model))
            if wanted not in (LATEST, served.version):
                raise ConfigError(
                    f"version={wanted}: {config.service} answers with {served.version}; leave the "
                    "version out, or score it without service="
                )
            # The rows and labels are those of the version that answers.
            config = config.model_copy(update={"version": served.version})
            ask = served.ask
        scoring = Scoring(config, storage, console, ask)
        summary = scoring.run()
    console.print(score_table(summary["classes"]))
    labels = [row["label"] for row in summary["classes"]]
    console.print(confusion_table(labels, summary["confusion"]))
    # The report would call the model published, which it was before.
    print_report({**summary, "models": []}, console, scoring.written)
    return summary


if __name__ == "__main__":
    sys.exit(main())
