"""Pre-trains the demo's tiny XLM-R-shaped encoder on unpaired text of two languages.

Masked LM first, then masked LM with a contrastive loss between the two halves of one text, within
one language at a time. Masked LM alone does not put the meaning of a whole text into the mean of
its token vectors, and an aligner can only map what is there; nothing here ever pairs the
languages, so bringing them together is left to the aligner.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForMaskedLM

from langalign.adamw import AdamW
from langalign.errors import DataError, TrainingError
from langalign.wordalign import alignment_loss, dictionary_ids

__all__ = ["fast_tokenizer", "pretrain", "train_tokenizer"]

# In XLM-R's order: position ids start after the id of <pad>, so <pad> must be 1.
_SPECIALS: Final = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_BOS, _PAD, _EOS, _UNK, _MASK = range(len(_SPECIALS))
_REPORT_EVERY: Final = 50


def pretrain(
    english: Sequence[str],
    counterpart: Sequence[str],
    folder: Path,
    *,
    seed: int = 0,
    mlm_steps: int = 200,
    contrastive_steps: int = 350,
    batch_size: int = 96,
    vocab_size: int = 8000,
    max_length: int = 64,
    hidden_size: int = 128,
    layers: int = 3,
    heads: int = 4,
    learning_rate: float = 2e-3,
    temperature: float = 0.1,
    mask_share: float = 0.15,
    dictionary: Sequence[tuple[str, str]] = (),
    align_weight: float = 0.0,
    report: Callable[[dict[str, float]], None] | None = None,
) -> Path:
    """Writes an encoder and its tokenizer to `folder` in transformers format; returns `folder`.

    `english` and `counterpart` are texts of the two languages, not translations of each other.
    Every step takes `batch_size` texts of one language, cut to `max_length` tokens. `report`
    receives step, steps, mlm_loss and contrastive_loss (0 in the masked LM phase) every 50 steps.
    With an `align_weight`, word embeddings of the pairs of `dictionary` are drawn together
    (ALIGN-MLM, `langalign.wordalign`).
    The same arguments and number of threads give the same weights. Raises DataError when a
    language has fewer than two texts of two tokens, TrainingError when the loss is not finite.
    """
    tokenizer = train_tokenizer([*english, *counterpart], vocab_size)
    corpora = [_encode(tokenizer, texts, max_length) for texts in (english, counterpart)]
    vocabulary = tokenizer.get_vocab_size()
    words = dictionary_ids(tokenizer, dictionary) if align_weight else None
    # Forked, so that a caller's own random numbers do not depend on whether the cache was warm.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XLMRobertaForMaskedLM(_config(vocabulary, hidden_size, layers, heads, max_length))
        objective = _Objective(model, vocabulary, mask_share, temperature)
        steps = mlm_steps + contrastive_steps
        optimizer = AdamW(model.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_then_fall(steps))
        batches = [corpus.batches(batch_size, seed) for corpus in corpora]
        model.train()
        for step in range(steps):
            corpus, rows = corpora[step % 2], next(batches[step % 2])
            if step < mlm_steps:
                mlm, contrastive = objective.masked(corpus.texts(rows)), torch.zeros(())
            else:
                mlm, contrastive = objective.halves(*corpus.halves(rows))
            loss = mlm + contrastive
            if words is not None:
                embeddings = model.get_input_embeddings().weight
                loss = loss + align_weight * alignment_loss(embeddings, words)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if (step + 1) % _REPORT_EVERY == 0 or step + 1 == steps:
                _tell(report, step + 1, steps, mlm.item(), contrastive.item())
    # The weights come last: a folder that has them is whole.
    fast_tokenizer(tokenizer).save_pretrained(folder)
    model.roberta.save_pretrained(folder)
    return folder


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A BPE tokenizer with XLM-R's special tokens and pair format.

    Not XLM-R's Unigram, whose bare word-start sign would be a token that all languages share; not
    WordPiece, whose trainer numbers `##` pieces in hash order and so never learns the same
    vocabulary twice. Letters are lower-cased; signs and digits are tokens of their own.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIALS[_UNK]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(_SPECIALS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos, eos = _SPECIALS[_BOS], _SPECIALS[_EOS]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B:0 {eos}:0",
        special_tokens=[(bos, _BOS), (eos, _EOS)],
    )
    return tokenizer


def fast_tokenizer(tokenizer: Tokenizer) -> Any:
    """The tokenizer as transformers saves and loads it."""
    bos, pad, eos, unk, mask = _SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        cls_token=bos,
        eos_token=eos,
        sep_token=eos,
        pad_token=pad,
        unk_token=unk,
        mask_token=mask,
        model_input_names=["input_ids", "attention_mask"],
    )


def _config(
    vocabulary: int, hidden_size: int, layers: int, heads: int, max_length: int
) -> XLMRobertaConfig:
    return XLMRobertaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=258,
        type_vocab_size=1,
        # Dropout keeps so small a model on the plateau for hundreds of steps.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=_BOS,
        pad_token_id=_PAD,
        eos_token_id=_EOS,
    )


@dataclass(frozen=True)
class _Corpus:
    """Token ids of all texts end to end, without special tokens; text i is ids[start:][:length]."""

    ids: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    def batches(self, rows: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
        """Endless batches of row numbers, (B,), whose texts are about equally long."""
        random = np.random.default_rng(seed)
        while True:
            shuffled = random.permutation(len(self.lengths))
            by_length = shuffled[np.argsort(self.lengths[shuffled], kind="stable")]
            cuts = np.arange(0, len(by_length) - 1, rows)
            for cut in random.permutation(cuts):
                yield by_length[cut : cut + rows]

    def texts(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Whole texts, (B, L) ids with <s>, </s> and padding."""
        return self._window(self.starts[rows], self.lengths[rows])

    def halves(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """First and second halves, (B, L) each; of an odd number the middle token is left out."""
        half = self.lengths[rows] // 2
        second = self.starts[rows] + self.lengths[rows] - half
        return self._window(self.starts[rows], half), self._window(second, half)

    def _window(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Tensor:
        """Ids of `lengths` tokens from `starts`, (B, longest + 2)."""
        places = np.arange(lengths.max() + 2)
        source = np.clip(starts[:, None] + places - 1, 0, len(self.ids) - 1)
        end = lengths[:, None] + 1
        window = np.where(places < end, self.ids[source], np.where(places == end, _EOS, _PAD))
        window[:, 0] = _BOS
        return torch.from_numpy(window)


def _encode(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> _Corpus:
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    kept = [encoding.ids[: max_length - 2] for encoding in encoded if len(encoding) >= 2]
    if len(kept) < 2:
        raise DataError(
            f"{len(texts)} texts hold {len(kept)} of two tokens or more: "
            "pre-training needs at least 2 in each language"
        )
    lengths = np.array([len(ids) for ids in kept], dtype=np.int64)
    return _Corpus(np.concatenate(kept).astype(np.int64), np.cumsum(lengths) - lengths, lengths)


@dataclass(frozen=True)
class _Objective:
    """The losses of one batch; each is a mean, in nats."""

    model: Any
    vocabulary: int
    mask_share: float
    temperature: float

    def masked(self, ids: Tensor) -> Tensor:
        """Masked LM on whole texts, (B, L) ids to a scalar."""
        return self._masked_lm(ids)[0]

    def halves(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Masked LM and contrastive loss on (B, L) halves; row i of one belongs to row i of both.

        InfoNCE between mean-pooled vectors, both ways, the other rows as negatives. The halves
        go in masked: one forward pass serves both losses, and the masks act as dropout.
        """
        ids = torch.cat([first, second])
        mlm, hidden = self._masked_lm(ids)
        real = (ids != _PAD).unsqueeze(-1)
        pooled = (hidden * real).sum(1) / real.sum(1)
        # Centred, or the mean that all texts share hides what tells them apart.
        centred = pooled - pooled.mean(0)
        one, other = F.normalize(centred, dim=-1).chunk(2)
        similarity = one @ other.T / self.temperature
        same = torch.arange(len(first))
        contrastive = F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)
        return mlm, contrastive / 2

    def _masked_lm(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and hidden states (B, L, D). Logits are computed at masked positions only."""
        chosen = (torch.rand(ids.shape) < self.mask_share) & (ids >= len(_SPECIALS))
        draw = torch.rand(ids.shape)  # of the chosen: 80% <mask>, 10% a random token, 10% kept
        random = torch.randint(len(_SPECIALS), self.vocabulary, ids.shape)
        shown = torch.where(chosen & (draw < 0.9), random, ids)
        shown = shown.masked_fill(chosen & (draw < 0.8), _MASK)
        real = ids != _PAD
        # Without padding no mask is needed, and attention without one is faster.
        mask = None if bool(real.all()) else real
        hidden = self.model.roberta(shown, attention_mask=mask).last_hidden_state
        logits = self.model.lm_head(hidden[chosen])
        return F.cross_entropy(logits, ids[chosen]), hidden


def _warm_up_then_fall(steps: int) -> Callable[[int], float]:
    """Share of the learning rate: up over the first twentieth, then straight down to 0."""
    warm = max(1, steps // 20)
    return lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def _tell(
    report: Callable[[dict[str, float]], None] | None,
    step: int,
    steps: int,
    mlm: float,
    contrastive: float,
) -> None:
    if not np.isfinite(mlm + contrastive):
        raise TrainingError(
            f"pre-training loss is {mlm + contrastive} at step {step}: lower the learning rate"
        )
    if report is not None:
        losses = {"mlm_loss": mlm, "contrastive_loss": contrastive}
        report({"step": step, "steps": steps, **losses})
