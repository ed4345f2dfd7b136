"""The unit of work that trains an encoder on texts without labels: unsupervised SimCSE."""

from dataclasses import asdict, dataclass
from typing import Any

from cluster.embed import EncoderRule
from cluster.text_units import TextPart, load_encoder, write_encoder
from cluster.work import Unit, UnitWork
from langalign.loop import FitOptions, seed_everything
from langalign.simcse import fit_simcse

__all__ = ["SimcseUnit"]


@dataclass(frozen=True)
class SimcseUnit(Unit):
    """Contrast two views of each text of `part`; on one worker."""

    rule: EncoderRule
    part: TextPart
    options: FitOptions
    temperature: float
    dropout: float
    batch_tokens: int | None
    step = "simcse"

    @property
    def max_epochs(self) -> int:
        """Of the stopping rule."""
        return self.options.max_epochs

    @property
    def label(self) -> str:
        """As in `simcse target`."""
        return f"simcse {self.part.texts.name}"

    def identity(self) -> list[Any]:
        """Encoder and texts by digest, and every option."""
        options = [asdict(self.options), self.temperature, self.dropout]
        return [self.rule.digest(), self.part.identity(), *options]

    def run(self, work: UnitWork) -> None:
        """Train; leaves the encoder."""
        encoder = load_encoder(work, self.rule, self.batch_tokens)
        rows, held_out = (
            self.part.load(work, which, encoder).tokens for which in ("train", "held_out")
        )
        seed_everything(self.options.seed, 5)
        history = fit_simcse(
            encoder,
            rows,
            held_out,
            options=self.options,
            temperature=self.temperature,
            dropout=self.dropout,
            worker=work.worker,
            report=work.report,
        )
        info = {"width": encoder.width, "history": [asdict(entry) for entry in history]}
        work.finish(lambda: write_encoder(work, encoder), info)
