"""Embeddings of a benchmark's rows by one encoder: each row once."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from cluster.embed import ENCODER_FOLDER, EncoderRule
from cluster.text_units import TextPart
from cluster.texts import read_texts
from cluster.units import Part
from langalign.embeddings import EmbeddingSet, part_name, write_part
from langalign.encoder import SentenceEncoder
from langalign.outputs import StepOutput, digest_of
from langalign.storage import Storage
from langalign.training import Labelled

__all__ = ["Embedder"]


@dataclass(frozen=True)
class _Embedded:
    """Ids (N,), embeddings (N, D) and labels (N,), and the seconds that it took."""

    ids: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    seconds: float


class Embedder:
    """Embeddings of parts of text sets by one encoder, kept on storage and in memory.

    `parts` are all that will be asked for: of each column of a text set the largest part is
    embedded, and the others, which lie in it, are taken from that.
    """

    def __init__(
        self,
        storage: Storage,
        rule: EncoderRule,
        device: torch.device,
        parts: Iterable[TextPart],
    ) -> None:
        self.storage = storage
        self.rule = rule
        self.device = device
        self._largest: dict[tuple[str, str], TextPart] = {}
        for part in sorted(parts, key=lambda each: each.split.ids("all").size):
            self._largest[part.texts.digest, part.texts.column] = part
        self._kept: dict[str, _Embedded] = {}

    @cached_property
    def encoder(self) -> SentenceEncoder:
        """The frozen encoder."""
        folder = StepOutput(self.storage, self.rule.prefix).fetch() / ENCODER_FOLDER
        return SentenceEncoder.load_frozen(folder, self.device, **self.rule.options())

    def rows(self, part: TextPart, which: Part) -> Labelled:
        """Embeddings and labels (-1 without one) of some rows, in ascending order of id."""
        found = self._all(part)
        chosen = np.isin(found.ids, part.split.ids(which))
        return Labelled(
            torch.from_numpy(found.vectors[chosen]),
            torch.from_numpy(found.labels[chosen]),
            part.of_target,
        ).to(self.device)

    def seconds(self, parts: Iterable[TextPart]) -> float:
        """What embedding took, by the rows of these parts, each row of a column once."""
        ids: dict[tuple[str, str], npt.NDArray[np.int64]] = {}
        found: dict[tuple[str, str], _Embedded] = {}
        for part in parts:
            column = part.texts.digest, part.texts.column
            own = part.split.ids("all")
            ids[column] = np.union1d(ids[column], own) if column in ids else own
            found[column] = self._all(part)
        return sum(
            found[column].seconds * own.size / len(found[column].ids) for column, own in ids.items()
        )

    def _all(self, part: TextPart) -> "_Embedded":
        part = self._largest[part.texts.digest, part.texts.column]
        digest = digest_of("part", self.rule.digest(), part.identity())
        if digest not in self._kept:
            output = StepOutput(self.storage, f"embeddings/{digest}")
            if not output.is_done():
                self._embed(part, output)
            rows = EmbeddingSet(output).load()
            assert rows.labels is not None  # written with them
            self._kept[digest] = _Embedded(
                rows.ids, rows.embeddings, rows.labels, output.info()["seconds"]
            )
        return self._kept[digest]

    def _embed(self, part: TextPart, output: StepOutput) -> None:
        start = time.monotonic()
        ids = part.split.ids("all")
        texts = read_texts(self.storage, part.texts, ids)
        vectors = self.encoder.embed(texts.texts, texts.pairs)
        data = write_part(ids, vectors, pa.array(texts.labels), part.texts.language)
        info = {"rows": len(ids), "language": part.texts.language, **self.rule.options()}
        info["seconds"] = time.monotonic() - start
        output.finish({part_name(0): output.write(part_name(0), data)}, info)
