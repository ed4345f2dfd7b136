"""Units of work that train the encoder: step 1, and step 3 with `head.train` naming it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from cluster.embed import ENCODER_FOLDER, EncoderRule, TextSet
from cluster.texts import read_texts
from cluster.units import (
    ALIGNER_FILE,
    HEAD_FILE,
    AlignerShape,
    Part,
    Split,
    head_info,
    load_aligner,
    tensors_of,
)
from cluster.work import Unit, UnitWork
from langalign.aligners import Direction
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.encoder import SentenceEncoder
from langalign.finetuning import TextClassifier, TokenizedRows, count_text_outcomes, fit_encoder
from langalign.loop import EpochReport, FitOptions, all_sum, seed_everything
from langalign.lora import LoraOptions, add_lora, merge_lora
from langalign.outputs import StepOutput

__all__ = [
    "FineTuning",
    "FinetuneUnit",
    "TextPart",
    "TuneUnit",
    "load_encoder",
    "write_encoder",
]


@dataclass(frozen=True)
class TextPart:
    """Labelled texts: which set, and which rows of it."""

    texts: TextSet
    split: Split
    of_target: bool

    def identity(self) -> list[Any]:
        """The texts by digest, not by where they lie."""
        return [self.texts.digest, self.texts.column, asdict(self.split), self.of_target]

    def load(self, work: UnitWork, part: Part, encoder: SentenceEncoder) -> TokenizedRows:
        """This worker's share, tokenised."""
        rows = read_texts(work.storage, self.texts, self.split.share(part, work.worker))
        tokens = encoder.tokenize(rows.texts, rows.pairs)
        return TokenizedRows(tokens, torch.from_numpy(rows.labels), self.of_target)


@dataclass(frozen=True)
class FineTuning:
    """What training an encoder needs besides rows: see `TuneConfig`."""

    options: FitOptions
    warmup_fraction: float
    max_gradient_norm: float
    precision: str
    dropout: float
    batch_tokens: int | None


@dataclass(frozen=True)
class TuneUnit(Unit):
    """Step 1: tune encoder and a head of its own on labelled rows of one or both languages."""

    rows: str
    rule: EncoderRule
    parts: tuple[TextPart, ...]
    classes: int
    metric: str
    tuning: FineTuning
    lora: LoraOptions | None = None
    step = "tune"

    @property
    def options(self) -> FitOptions:
        """Optimiser and stopping rule."""
        return self.tuning.options

    @property
    def max_epochs(self) -> int:
        """Of step 1's or step 3's stopping rule."""
        return self.options.max_epochs

    @property
    def label(self) -> str:
        """As in `tune english`."""
        return f"tune {self.rows}{' by LoRA' if self.lora else ''}"

    def identity(self) -> list[Any]:
        """Encoder and texts by digest, and every option."""
        texts = [part.identity() for part in self.parts]
        adapted = [asdict(self.lora)] if self.lora else []
        return [self.rule.digest(), texts, self.classes, self.metric, asdict(self.tuning), *adapted]

    def run(self, work: UnitWork) -> None:
        """Train; leaves the tuned encoder and its own head."""
        encoder = work.together(lambda: load_encoder(work, self.rule, self.tuning.batch_tokens))
        train, held_out = work.together(lambda: self._rows(work, encoder))
        if self.lora:
            add_lora(encoder, self.lora)
        seed_everything(self.options.seed, 1)
        head = ClassificationHead(encoder.width, self.classes, dropout=self.tuning.dropout)
        classifier = TextClassifier(encoder, head, precision=self.tuning.precision)
        history = _fit(classifier, train, held_out, self.metric, self.tuning, work, "tune")
        if self.lora:
            merge_lora(encoder)
        info = {
            "rows": self.rows,
            "width": encoder.width,
            "history": [asdict(entry) for entry in history],
        }
        work.finish(
            lambda: {
                **write_encoder(work, encoder),
                HEAD_FILE: work.output.write(HEAD_FILE, tensors_of(head)),
            },
            info,
        )

    def _rows(
        self, work: UnitWork, encoder: SentenceEncoder
    ) -> tuple[TokenizedRows, list[TokenizedRows]]:
        train = [part.load(work, "train", encoder) for part in self.parts]
        return _joined(train), [part.load(work, "held_out", encoder) for part in self.parts]


@dataclass(frozen=True)
class FinetuneUnit(Unit):
    """Step 3 with a trainable encoder: English text, encoder, aligner, new head."""

    shape: AlignerShape
    aligner: str | None
    direction: Direction
    rule: EncoderRule
    train: TextPart
    held_out: TextPart
    tests: dict[str, TextPart]
    classes: int
    metric: str
    tuning: FineTuning
    train_aligner: bool
    step = "finetune"

    @property
    def options(self) -> FitOptions:
        """Optimiser and stopping rule."""
        return self.tuning.options

    @property
    def max_epochs(self) -> int:
        """Of step 1's or step 3's stopping rule."""
        return self.options.max_epochs

    @property
    def label(self) -> str:
        """As in `head langalign ae with encoder`."""
        return f"head langalign {self.shape.kind} with encoder"

    def identity(self) -> list[Any]:
        """Encoder and texts by digest, and every option."""
        return [
            asdict(self.shape),
            self.aligner,
            self.direction,
            self.rule.digest(),
            self.train.identity(),
            self.held_out.identity(),
            {name: part.identity() for name, part in self.tests.items()},
            [self.classes, self.metric, asdict(self.tuning), self.train_aligner],
        ]

    def run(self, work: UnitWork) -> None:
        """Train; leaves encoder, aligner and head, and counts outcomes on every test part."""
        encoder = work.together(lambda: load_encoder(work, self.rule, self.tuning.batch_tokens))
        aligner = work.together(
            lambda: load_aligner(work.storage, self.aligner, self.shape, encoder.width)
        )
        train, held_out, tests = work.together(
            lambda: (
                self.train.load(work, "train", encoder),
                self.held_out.load(work, "held_out", encoder),
                {name: part.load(work, "all", encoder) for name, part in self.tests.items()},
            )
        )
        seed_everything(self.options.seed, 3)
        head = ClassificationHead(encoder.width, self.classes, dropout=self.tuning.dropout)
        classifier = TextClassifier(
            encoder,
            AlignedHead(aligner, head, direction=self.direction),
            precision=self.tuning.precision,
            train_aligner=self.train_aligner,
        )
        history = _fit(classifier, train, [held_out], self.metric, self.tuning, work, "head")
        counts = {
            name: all_sum(count_text_outcomes(classifier, rows)).tolist()
            for name, rows in tests.items()
        }
        files = {ALIGNER_FILE: tensors_of(aligner), HEAD_FILE: tensors_of(head)}
        work.finish(
            lambda: {
                **write_encoder(work, encoder),
                **{name: work.output.write(name, data) for name, data in files.items()},
            },
            head_info("langalign", self.shape, encoder.width, history, counts),
        )


def _fit(
    classifier: TextClassifier,
    train: TokenizedRows,
    held_out: list[TokenizedRows],
    metric: str,
    tuning: FineTuning,
    work: UnitWork,
    step: str,
) -> Sequence[EpochReport]:
    return fit_encoder(
        classifier,
        train,
        held_out,
        metric=metric,
        options=tuning.options,
        step=step,
        warmup_fraction=tuning.warmup_fraction,
        max_gradient_norm=tuning.max_gradient_norm,
        worker=work.worker,
        report=work.report,
        resume=work.resume,
    )


def load_encoder(work: UnitWork, rule: EncoderRule, batch_tokens: int | None) -> SentenceEncoder:
    """The encoder of a rule with float32 weights, to train on."""
    folder = StepOutput(work.storage, rule.prefix).fetch() / ENCODER_FOLDER
    # The precision of inference is not that of training, which keeps float32 weights.
    return SentenceEncoder.load(
        str(folder),
        pooling=rule.pooling,
        max_length=rule.max_length,
        batch_tokens=batch_tokens,
    )


def write_encoder(work: UnitWork, encoder: SentenceEncoder) -> dict[str, dict[str, Any]]:
    """Write encoder and tokenizer into the unit's output; returns their records."""
    with TemporaryDirectory() as folder:
        encoder.save(Path(folder))
        return work.output.write_folder(Path(folder), ENCODER_FOLDER)


def _joined(parts: Sequence[TokenizedRows]) -> TokenizedRows:
    tokens = parts[0].tokens
    for part in parts[1:]:
        tokens = tokens.followed_by(part.tokens)
    return TokenizedRows(tokens, torch.cat([part.labels for part in parts]))
