"""The base encoder as a step output, so that every node reads it from storage and checks it."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from cluster.embed import ENCODER_FOLDER
from cluster.monitor import Progress
from cluster.session import without_ray_wrapping
from langalign import counterpart
from langalign.counterpart import Counterpart, Order
from langalign.encoder import SentenceEncoder
from langalign.outputs import StepOutput, digest_of
from langalign.storage import Storage, sha256_file

__all__ = [
    "WORDS",
    "DemoLanguage",
    "demo_encoder_output",
    "pretrain_demo_encoder",
    "store_encoder",
    "weights_digest",
]

ENCODERS = "steps/encoder"
DEMO_TEXTS = 20_000
DEMO_SEED = 0
# Bumped when corpus or pre-training change, so that an older cached encoder is not taken.
DEMO_RECIPE = 3
# Name of the alignment of word embeddings among what an encoder's output says of itself.
WORDS = "words"


def store_encoder(storage: Storage, name: str, revision: str | None) -> StepOutput:
    """Load an encoder by folder or hub name and keep it at `steps/encoder/<digest>`.

    A folder of which that was done before is not loaded again, only compared.

    Raises:
        EncoderError: it cannot be loaded.
    """
    source = _source_of(Path(name))
    for digest in storage.folders(ENCODERS) if source else []:
        output = StepOutput(storage, f"{ENCODERS}/{digest}")
        if output.is_done() and output.info().get("source") == source:
            return output
    encoder = SentenceEncoder.load(name, revision=revision, max_length=8)
    with tempfile.TemporaryDirectory() as folder:
        encoder.save(Path(folder))
        hashes = {path.name: sha256_file(path) for path in sorted(Path(folder).iterdir())}
        output = StepOutput(storage, f"{ENCODERS}/{digest_of(hashes)}")
        if not output.is_done():
            records = output.write_folder(Path(folder), ENCODER_FOLDER)
            info = {"name": Path(name).name, "revision": revision, "source": source}
            output.finish(records, info)
    return output


def _source_of(folder: Path) -> str | None:
    """A digest of a folder's files; None for a hub's name, and where loading will say the fault."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        return digest_of({path.name: sha256_file(path) for path in files})
    except OSError:
        return None


@dataclass(frozen=True)
class DemoLanguage:
    """The demo's second language, and the weight of ALIGN-MLM's loss in pre-training on it."""

    script: bool = True
    lexicon: bool | None = None
    order: Order = "verb_final"
    one_to_many: float = 0.15
    align_weight: float = 0.0

    def translator(self) -> Counterpart:
        """The language."""
        return Counterpart(
            script=self.script,
            lexicon=self.lexicon,
            order=self.order,
            one_to_many=self.one_to_many,
        )

    def identity(self) -> dict[str, Any]:
        """What a digest covers; of the lexicon only where it does not go with the script.

        So an encoder that was made before there was a choice keeps its name.
        """
        values = asdict(self)
        if self.lexicon in (None, self.script):
            del values["lexicon"]
        return values


def demo_encoder_output(storage: Storage, language: DemoLanguage | None = None) -> StepOutput:
    """Where the demo's pre-trained encoder lies, or will lie."""
    identity = (language or DemoLanguage()).identity()
    own = [] if identity == DemoLanguage().identity() else [identity]
    digest = digest_of("demo", DEMO_RECIPE, DEMO_TEXTS, DEMO_SEED, *own)
    return StepOutput(storage, f"{ENCODERS}/{digest}")


def pretrain_demo_encoder(
    output: StepOutput, monitor: Any, language: DemoLanguage | None = None
) -> None:
    """Pre-train the demo's encoder in a task on a worker node, with two cores where there are."""
    cores = int(min(2, ray.cluster_resources().get("CPU", 1)))
    task = ray.remote(num_cpus=cores)(_pretrain)
    with without_ray_wrapping():
        ray.get(task.remote(output, monitor, cores, language or DemoLanguage()))


def weights_digest(output: StepOutput) -> str:
    """A digest over the files of the encoder in a step output."""
    files = output.manifest()["files"]
    inside = {k: v["sha256"] for k, v in files.items() if k.startswith(f"{ENCODER_FOLDER}/")}
    return digest_of(inside)


def _pretrain(output: StepOutput, monitor: Any, threads: int, language: DemoLanguage) -> None:
    # Here, since they take seconds to import, and the driver does not need them.
    from langalign.pretraining import pretrain
    from langalign.wordalign import word_alignment

    torch.set_num_threads(threads)
    translator = language.translator()
    english = counterpart.unpaired_texts(DEMO_TEXTS, DEMO_SEED, counterpart.ENGLISH)
    other = counterpart.unpaired_texts(
        DEMO_TEXTS, DEMO_SEED, counterpart.COUNTERPART, counterpart=translator
    )
    words = counterpart.dictionary(english, translator)

    def report(figures: dict[str, float]) -> None:
        text = f"masked LM loss {figures['mlm_loss']:.3f}"
        done, total = int(figures["step"]), int(figures["steps"])
        monitor.post.remote(Progress("pre-training the demo's encoder", done, total, text))

    with tempfile.TemporaryDirectory() as folder:
        pretrain(
            english,
            other,
            Path(folder),
            seed=DEMO_SEED,
            dictionary=words,
            align_weight=language.align_weight,
            report=report,
        )
        records = output.write_folder(Path(folder), ENCODER_FOLDER)
        found = word_alignment(Path(folder), words)
    output.finish(records, {"name": "demo", "revision": None, WORDS: found})
