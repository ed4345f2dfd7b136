"""A local translation model, fine-tuned on the parallel corpus (NMT mT5 in section 3.4.3).

Any sequence-to-sequence model of transformers (mT5, for instance), or a tiny one made on the spot
over an encoder's tokenizer, for the demo. Its input is `prefix` and the text (appendix D).
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

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
# Rows are put in order of length within so many batches: padding then adds 4 % to the tokens of the
# demo, and 62 % without.
_GROUPED_BATCHES = 16

# The token ids of a source and of its target.
_Row = tuple[Tensor, Tensor]


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
        # Imported here, as it takes seconds and to plan a translator loads none.
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

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
        from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

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

    def rows(self, pairs: Sequence[tuple[str, str]]) -> list[_Row]:
        """Texts as `forward` takes them: the prefix added, cut, in tokens."""
        sources = self._ids([self.prefix + source for source, _ in pairs])
        # Marian's, for one, has a vocabulary for each side.
        targets = self._ids(None, text_target=[target for _, target in pairs])
        return list(zip(sources, targets, strict=True))

    def forward(self, rows: Sequence[_Row]) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropy of all target tokens, and their number."""
        sources, targets = zip(*rows, strict=True)
        labels = self._padded(targets, _IGNORED)
        count = (labels != _IGNORED).sum()
        # The model's loss is the mean: a second one would hold its logits, a quarter of a million
        # for each token of mT5, once more.
        return self.model(**self._inputs(sources), labels=labels).loss * count, count

    @torch.no_grad()
    def translate(self, texts: Sequence[str]) -> list[str]:
        """One translation for each text, by greedy search; texts of like length go together."""
        self.eval()
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found = [""] * len(texts)
        for start in range(0, len(order), _GENERATED_ROWS):
            places = order[start : start + _GENERATED_ROWS]
            ids = self._ids([self.prefix + texts[place] for place in places])
            inputs = self._inputs(ids)
            # A translation is seldom more than twice as long.
            longest = min(self.max_length - 1, 2 * inputs["input_ids"].shape[1] + 8)
            said = self.model.generate(
                **inputs, max_new_tokens=longest, num_beams=1, do_sample=False
            )
            texts_of_batch = self.tokenizer.batch_decode(said, skip_special_tokens=True)
            for place, text in zip(places, texts_of_batch, strict=True):
                found[place] = text.strip()
        return found

    def _ids(self, texts: list[str] | None, **target: list[str]) -> list[Tensor]:
        found = self.tokenizer(texts, **target, max_length=self.max_length, truncation=True)
        return [torch.tensor(ids) for ids in found["input_ids"]]

    def _inputs(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        ones = [torch.ones_like(ids) for ids in rows]
        ids = self._padded(rows, self.tokenizer.pad_token_id)
        return {"input_ids": ids, "attention_mask": self._padded(ones, 0)}

    def _padded(self, rows: Sequence[Tensor], value: int) -> Tensor:
        return pad_sequence(list(rows), batch_first=True, padding_value=value).to(self.device)


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
    size = per_worker(options, worker)
    rows, checked = translator.rows(pairs), _batches(translator.rows(held_out), size)

    def train_epoch(epoch: int) -> float:
        module.train()
        order = epoch_order(len(rows), options, worker, epoch).tolist()
        batches = _batches([rows[place] for place in order], size)
        sums = torch.zeros(2, dtype=torch.float64, device=worker.device)
        for number in torch.randperm(len(batches)).tolist():
            total, tokens = module(batches[number])
            optimizer.zero_grad(set_to_none=True)
            (total / tokens).backward()
            nn.utils.clip_grad_norm_(translator.parameters(), 1.0)
            optimizer.step()
            sums += torch.stack([total.detach().double(), tokens.double()])
        total_loss, count = all_sum(sums).tolist()
        return float(total_loss / count)

    @torch.no_grad()
    def evaluate() -> float:
        translator.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=worker.device)
        for batch in checked:
            total, tokens = translator(batch)
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


def _batches(rows: Sequence[_Row], size: int) -> list[Sequence[_Row]]:
    """Batches of `size` rows of like length, as near to the order given as that allows."""
    found: list[Sequence[_Row]] = []
    for start in range(0, len(rows), size * _GROUPED_BATCHES):
        group = sorted(
            rows[start : start + size * _GROUPED_BATCHES],
            key=lambda row: (len(row[1]), len(row[0])),
        )
        found += [group[place : place + size] for place in range(0, len(group), size)]
    return found
