"""A local translation model, fine-tuned on the parallel corpus (NMT mT5 in section 3.4.3).

Any sequence-to-sequence model of transformers (mT5, for instance), or a tiny one made on the spot
over an encoder's tokenizer, for the demo. Its input is `prefix` and the text (appendix D).
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
)

from langalign.errors import TranslationError
from langalign.loop import (
    EpochReport,
    FitOptions,
    Reporter,
    Worker,
    all_sum,
    epoch_order,
    make_optimizer,
    parallel,
    per_worker,
    run_epochs,
    seed_everything,
    silent,
)
from langalign.outputs import digest_of
from langalign.storage import sha256_file

__all__ = ["Seq2SeqTranslator", "fit_translator", "model_digest"]

# Labels at these places do not count; the value is PyTorch's default.
_IGNORED = -100
# Rows whose translations are made side by side: each step of a small model costs a call anyway.
_GENERATED_ROWS = 256


class Seq2SeqTranslator(nn.Module):
    """Model and tokenizer. Texts longer than `max_length` tokens are cut."""

    def __init__(self, model: Any, tokenizer: Any, *, prefix: str = "", max_length: int = 128):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.prefix = prefix
        self.max_length = max_length

    @classmethod
    def load(cls, name: str, *, revision: str | None = None, **options: Any) -> Self:
        """A folder or hub model, at a commit or tag; `options` are those of the class.

        Raises:
            TranslationError: it is none, or cannot be reached.
        """
        try:
            model = AutoModelForSeq2SeqLM.from_pretrained(name, revision=revision)
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TranslationError(
                f"local.model={name!r} is no sequence-to-sequence model that loads: {reason}"
            ) from error
        return cls(model, tokenizer, **options)

    @classmethod
    def tiny(cls, tokenizer_folder: Path, *, seed: int, **options: Any) -> Self:
        """A BART of two layers, 128 wide, with random weights, over a folder's tokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        made = cls(None, tokenizer, **options)
        seed_everything(seed, 6)
        config = BartConfig(
            vocab_size=len(tokenizer),
            d_model=128,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=256,
            decoder_ffn_dim=256,
            max_position_embeddings=made.max_length + 2,
            # Dropout keeps so small a model from learning the order of words.
            dropout=0.0,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=None,
        )
        made.model = BartForConditionalGeneration(config)
        return made

    def save(self, folder: Path) -> None:
        """In transformers' format."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, sources: Sequence[str], targets: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropy of all target tokens, and their number."""
        inputs = self._tokens([self.prefix + text for text in sources])
        labels = self._tokens(targets)["input_ids"]
        labels = labels.masked_fill(labels == self.tokenizer.pad_token_id, _IGNORED)
        count = (labels != _IGNORED).sum()
        # The model's loss is the mean: a second one would hold its logits, a quarter of a million
        # for each token of mT5, once more.
        return self.model(**inputs, labels=labels).loss * count, count

    @torch.no_grad()
    def translate(self, texts: Sequence[str]) -> list[str]:
        """One translation for each text, by greedy search; texts of like length go together."""
        self.eval()
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found = [""] * len(texts)
        for start in range(0, len(order), _GENERATED_ROWS):
            places = order[start : start + _GENERATED_ROWS]
            inputs = self._tokens([self.prefix + texts[place] for place in places])
            # A translation is seldom more than twice as long.
            longest = min(self.max_length - 1, 2 * inputs["input_ids"].shape[1] + 8)
            ids = self.model.generate(
                **inputs, max_new_tokens=longest, num_beams=1, do_sample=False
            )
            texts_of_batch = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            for place, text in zip(places, texts_of_batch, strict=True):
                found[place] = text.strip()
        return found

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            list(texts),
            max_length=self.max_length,
            truncation=True,
            padding=True,
            return_tensors="pt",
        )
        return {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}


@cache
def model_digest(name: str, revision: str | None) -> str:
    """Names the weights of a model: over a folder's files, or a hub name and its revision."""
    folder = Path(name)
    if not folder.is_dir():
        return digest_of(name, revision)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_of({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})


def fit_translator(
    translator: Seq2SeqTranslator,
    pairs: Sequence[tuple[str, str]],
    held_out: Sequence[tuple[str, str]],
    *,
    options: FitOptions,
    worker: Worker | None = None,
    report: Reporter | None = None,
    resume: Path | None = None,
) -> list[EpochReport]:
    """Cross-entropy on (source, target) texts; keeps the epoch with the lowest held-out loss.

    `pairs` and `held_out` are this worker's shares.

    Raises:
        TrainingError: the loss is not finite.
    """
    worker = worker or Worker()
    translator.to(worker.device)
    module = parallel(translator, worker)
    optimizer = make_optimizer(list(translator.parameters()), options, worker.device)

    def loss_of(run: nn.Module, chosen: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        total, tokens = run([source for source, _ in chosen], [target for _, target in chosen])
        return total, tokens

    def train_epoch(epoch: int) -> float:
        module.train()
        order = epoch_order(len(pairs), options, worker, epoch).tolist()
        sums = torch.zeros(2, dtype=torch.float64, device=worker.device)
        for chosen in _batches(order, per_worker(options, worker)):
            total, tokens = loss_of(module, [pairs[place] for place in chosen])
            optimizer.zero_grad(set_to_none=True)
            (total / tokens).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(translator.parameters(), 1.0)
            optimizer.step()
            sums += torch.stack([total.detach().double(), tokens.double()])
        total_loss, count = all_sum(sums).tolist()
        return float(total_loss / count)

    @torch.no_grad()
    def evaluate() -> float:
        translator.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=worker.device)
        for chosen in _batches(range(len(held_out)), per_worker(options, worker)):
            total, tokens = loss_of(translator, [held_out[place] for place in chosen])
            sums += torch.stack([total.double(), tokens.double()])
        total_loss, count = all_sum(sums).tolist()
        return float(-total_loss / count)

    history = run_epochs(
        translator,
        optimizer,
        train_epoch=train_epoch,
        evaluate=evaluate,
        options=options,
        step="translator",
        report=report or silent,
        resume=resume,
    )
    translator.eval()
    return history


def _batches(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (order[start : start + size] for start in range(0, len(order), size))
