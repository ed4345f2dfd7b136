"""Pre-train a tiny or mini encoder on texts of two languages, on this machine.

Masked LM, then also a contrastive loss between the halves of a text; with `align_weight`,
ALIGN-MLM's auxiliary loss draws the words of a dictionary together. The folder it writes is an
`encoder.name` for every other job.
"""

import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from jobs.command import run_job
from langalign.errors import ConfigError
from langalign.pretrainconfig import PretrainConfig

EXAMPLES = """\
examples:
  python jobs/pretrain.py align_weight=10                the demo's languages, its dictionary
  python jobs/pretrain.py source=en.txt target=ko.txt out=encoder-en-ko
  python jobs/pretrain.py source=en.txt target=ko.txt out=encoder-aligned \\
      dictionary=en-ko.tsv align_weight=10 hidden_size=256 layers=6 mlm_steps=5000
  python jobs/train.py encoder.name=encoder-aligned encoder.pooling=mean …
"""


def main() -> int:
    """Run the job; returns the exit status."""
    return run_job(PretrainConfig, _pretrain, summary=(__doc__ or "").strip(), examples=EXAMPLES)


def _pretrain(config: PretrainConfig, console: Console) -> dict[str, Any]:
    # Loads torch, which --help and a wrong key need not wait for.
    from langalign.corpus import read_corpus
    from langalign.pretraining import pretrain
    from langalign.wordalign import word_alignment

    folder = Path(config.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"out={config.out} is there already; name a new folder")
    start = time.monotonic()
    source, target, dictionary = read_corpus(config)
    console.print(
        Text(f"{len(source):,} + {len(target):,} texts, {len(dictionary):,} word pairs"),
        soft_wrap=True,
    )
    history: list[dict[str, float]] = []

    def report(figures: dict[str, float]) -> None:
        history.append(figures)
        losses = (
            f"masked LM {figures['mlm_loss']:.3f}, contrastive {figures['contrastive_loss']:.3f}"
        )
        console.print(f"  step {figures['step']:>6} of {figures['steps']}  {losses}")

    shape = {"seed", "mlm_steps", "contrastive_steps", "batch_size", "max_length", "vocab_size"}
    shape |= {"hidden_size", "layers", "heads", "learning_rate", "align_weight"}
    options = config.model_dump(include=shape)
    pretrain(source, target, folder, dictionary=dictionary, report=report, **options)
    words = word_alignment(folder, dictionary) if dictionary else None
    if words:
        console.print(f"  word embeddings of the dictionary: mean cosine {words['cosine']:.3f}")
    console.print(Text(f"wrote {folder}"), soft_wrap=True)
    return {
        "job": "pretrain",
        "status": "done",
        "seconds": round(time.monotonic() - start, 3),
        "seed": config.seed,
        "encoder": str(folder),
        "texts": [len(source), len(target)],
        "words": words,
        "history": history,
    }


if __name__ == "__main__":
    sys.exit(main())
