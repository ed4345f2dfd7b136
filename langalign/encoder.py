"""The frozen multilingual encoder: tokenising, bucketing by length, pooling, digest.

A sentence embedding e(d) is the first token's last hidden state (`cls`) or the mean over all
tokens (`mean`), as float32. Rows are sorted by token count and cut into batches by a budget of
padded tokens, so that a long input never pads many short ones; each row comes back in its place.

Shapes: N sentences, B rows of a batch, T tokens, D embedding width.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from langalign.errors import ConfigError, EncoderError
from langalign.tokens import IntArray, TextTokenizer, TokenizedText, length_batches
from langalign.written_encoder import WrittenEncoder

__all__ = ["PRECISIONS", "SentenceEncoder"]

Pooling = Literal["cls", "mean"]
FloatArray = npt.NDArray[np.float32]
# Defaults of an encoder.
POOLING: Pooling = "cls"
PRECISION = "fp32"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOKENIZE_WINDOW = 16384
TOKENIZER_FILE = "tokenizer.json"
# On a CPU more than this leaves its caches (benchmarks/embed.py); a GPU wants full launches.
BATCH_TOKENS = {False: 2048, True: 16384}
# What one more call costs, in padded tokens: on a GPU it is launching, not arithmetic.
CALL_TOKENS = {False: 96, True: 4096}
# Where padding takes part in attention only (written_encoder.py).
PACKED_CALL_TOKENS = 1024


class SentenceEncoder(nn.Module):
    """A transformers encoder, or its written form, with its tokenizer and a pooling rule.

    As a module it maps padded token ids to embeddings, which is how step 1 trains it; `embed`
    is the frozen path over texts.
    """

    config: Any

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        pooling: Pooling = POOLING,
        max_length: int = 256,
        precision: str = PRECISION,
        batch_tokens: int | None = None,
    ) -> None:
        """`tokenizer` is a fast one of transformers, or what such a one is built on.

        `batch_tokens` bounds the padded tokens of a batch; None: what suits the device.
        """
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.precision = precision
        self._batch_tokens = batch_tokens
        self.config = cast(Any, model).config
        self.width = int(self.config.hidden_size)
        self.tokenize = TextTokenizer(
            getattr(tokenizer, "backend_tokenizer", tokenizer),
            max_length=self._checked(max_length),
            has_types=getattr(self.config, "type_vocab_size", 1) > 1,
        )

    @classmethod
    def load(cls, name: str, *, revision: str | None = None, **options: Any) -> Self:
        """Load from a local folder or the hub; `options` are the constructor's.

        Raises:
            EncoderError: no such folder or hub model, or one without a fast tokenizer.
        """
        # Here, since they take seconds to import, and most processes load no encoder.
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        if not Path(name).is_dir():
            from langalign.hub import ask_hub

            ask_hub("model", name, EncoderError, "encoder.name")
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            model, loaded = AutoModel.from_pretrained(
                name,
                revision=revision,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, use_fast=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise EncoderError(
                f"encoder.name={name!r} is neither a folder with a transformers model "
                f"(config.json, model.safetensors, tokenizer) nor a hub model that can be "
                f"reached: {reason}"
            ) from error
        if not tokenizer.is_fast:
            raise EncoderError(
                f"encoder.name={name!r} has no fast tokenizer (tokenizer.json); choose one that has"
            )
        if getattr(model, "pooler", None) is not None:
            # Nothing here reads it, and most encoders come without its weights: transformers
            # would draw new ones at every load, and no digest would be the same twice.
            model.pooler = None
        absent = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
        if absent:
            raise EncoderError(
                f"encoder.name={name!r} has no weights for {len(absent)} tensors of its "
                f"config.json, as {absent[0]}; give a folder that save_pretrained wrote"
            )
        return cls(model, tokenizer, **options)

    @classmethod
    def load_frozen(
        cls,
        folder: Path,
        device: torch.device | str = "cpu",
        *,
        pooling: Pooling = POOLING,
        precision: str = PRECISION,
        **options: Any,
    ) -> Self:
        """As `load` and then `prepare`, and seconds sooner where transformers is not needed.

        Raises:
            EncoderError: as `load`.
        """
        options |= {"pooling": pooling, "precision": precision}
        tokenizer = _read_tokenizer(folder) if torch.device(device).type == "cpu" else None
        if tokenizer is not None:
            dtype, first_only = PRECISIONS[precision], pooling == "cls"
            written = WrittenEncoder.read(folder, dtype=dtype, first_only=first_only)
            if written is not None:
                return cls(written, tokenizer, **options).eval()
        return cls.load(str(folder), **options).prepare(device)

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer, in transformers' format.

        Before `prepare`, which may leave the written form only.
        """
        cast(Any, self.model).save_pretrained(folder)
        # Lifted meanwhile, so that a saved tokenizer does not carry this run's truncation.
        self.tokenize.backend.no_truncation()
        self.tokenizer.save_pretrained(folder)
        self.tokenize.backend.enable_truncation(max_length=self.tokenize.max_length)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        # torch looks through all modules for the first parameter, as long as a small layer takes.
        if isinstance(self.model, WrittenEncoder):
            return self.model.words.device
        return next(self.model.parameters()).device

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one batch at most."""
        return self._batch_tokens or BATCH_TOKENS[self.device.type == "cuda"]

    def batches(self, tokens: TokenizedText, batch_tokens: int | None = None) -> list[IntArray]:
        """Rows of each forward pass, longest first; `batch_tokens` in place of the encoder's."""
        is_packed = isinstance(self.model, WrittenEncoder)
        call_tokens = PACKED_CALL_TOKENS if is_packed else CALL_TOKENS[self.device.type == "cuda"]
        return length_batches(tokens.lengths(), batch_tokens or self.batch_tokens, call_tokens)

    def prepare(self, device: torch.device | str = "cpu") -> Self:
        """Freeze on a device, weights in the precision of inference; it only embeds from now on."""
        self.requires_grad_(False)
        self.eval()
        self.model.to(device, PRECISIONS[self.precision])
        written = WrittenEncoder.of(self.model, first_only=self.pooling == "cls")
        self.model = written or self.model
        return self

    def forward(
        self, input_ids: Tensor, mask: Tensor | None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Padded ids (B, T) to embeddings (B, D); `mask` (B, T) is None where nothing is padded."""
        states = self._states(input_ids, mask, token_type_ids)
        if self.pooling == "cls":
            return states[:, 0].float()
        if mask is None:
            return states.float().mean(1)
        weights = mask.unsqueeze(-1).float()
        return (states.float() * weights).sum(1) / weights.sum(1)

    def _states(self, input_ids: Tensor, mask: Tensor | None, types: Tensor | None) -> Tensor:
        """Last hidden states (B, T, D), of which pooling `cls` may be given the first only."""
        if isinstance(self.model, WrittenEncoder):
            return cast(Tensor, self.model(input_ids, mask, types))
        extra = {} if types is None else {"token_type_ids": types}
        found = self.model(input_ids=input_ids, attention_mask=mask, **extra)
        return cast(Tensor, found.last_hidden_state)

    def batch(self, tokens: TokenizedText, rows: IntArray) -> tuple[Tensor | None, ...]:
        """Pad some rows of `tokens` to their longest: the arguments of `forward`."""
        arrays = tokens.padded(rows, self.config.pad_token_id)
        parts = [arrays["ids"], None if arrays["mask"].all() else arrays["mask"]]
        if "types" in arrays:
            parts.append(arrays["types"])
        return tuple(_to_device(part, self.device) for part in parts)

    @torch.inference_mode()
    def embed_tokens(self, tokens: TokenizedText) -> FloatArray:
        """Embeddings (N, D) float32 of tokenised sentences, in their order."""
        out = torch.empty((len(tokens), self.width), dtype=torch.float32, device=self.device)
        for rows in self.batches(tokens):
            embedded = self(*self.batch(tokens, rows))
            out[torch.from_numpy(rows).to(self.device)] = embedded
        return cast(FloatArray, out.cpu().numpy())

    def embed(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None) -> FloatArray:
        """Embeddings (N, D) float32 of texts, in their order, without Ray.

        The next window is tokenised in a thread while the model works on this one.
        """
        parts = [self.embed_tokens(tokens) for tokens in self._tokenized_windows(texts, pairs)]
        return np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)

    def _tokenized_windows(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None
    ) -> Iterator[TokenizedText]:
        starts = range(0, len(texts), TOKENIZE_WINDOW)

        def window(start: int) -> TokenizedText:
            end = start + TOKENIZE_WINDOW
            return self.tokenize(texts[start:end], pairs[start:end] if pairs else None)

        with ThreadPoolExecutor(max_workers=1) as pool:
            pending = [pool.submit(window, start) for start in starts[:1]]
            for start in starts[1:]:
                pending.append(pool.submit(window, start))
                yield pending.pop(0).result()
            yield from (future.result() for future in pending)

    def _checked(self, max_length: int) -> int:
        positions = getattr(self.config, "max_position_embeddings", None)
        # RoBERTa-shaped models number positions from pad_token_id + 1.
        is_counted = "roberta" in self.config.model_type or self.config.model_type == "camembert"
        offset = self.config.pad_token_id + 1 if is_counted else 0
        if positions is not None and max_length > positions - offset:
            raise ConfigError(
                f"encoder.max_length={max_length} is over the {positions - offset} positions "
                f"of the encoder; set encoder.max_length={positions - offset} or less"
            )
        return max_length


def _read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder; None where transformers has to say what is wrong with it."""
    try:
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception:  # noqa: BLE001 (it raises nothing narrower)
        return None


def _to_device(part: npt.NDArray[Any] | None, device: torch.device) -> Tensor | None:
    if part is None:
        return None
    tensor = torch.from_numpy(part)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
