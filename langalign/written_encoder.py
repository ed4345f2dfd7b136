"""A frozen encoder of BERT's shape with its forward pass written out, for embedding on a CPU.

Small batches of a small encoder spend most of their time between operations: in the calls of
transformers' modules, and in three products for query, key and value where one does. The first
token's state (pooling `cls`) also needs no more of the last layer than that token's row, beside
keys and values. Padding takes part in attention only. Same weights, same results but for rounding.

Shapes: B rows of a batch, T tokens of the longest, N tokens of all, D width, H heads.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["WrittenEncoder"]

# Positions of these count from pad_token_id + 1 and leave pad tokens out; BERT's are 0, 1, 2, …
# By name: to import the classes takes seconds, in every process that might embed something.
_COUNTED = ("RobertaModel", "XLMRobertaModel", "CamembertModel")
_KNOWN = ("BertModel", *_COUNTED)

Affine = tuple[Tensor, Tensor]  # weight and bias


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer; `qkv` is query, key and value, one above the other (3D, D)."""

    qkv: Affine
    attended: Affine
    first_norm: Affine
    wide: Affine
    narrow: Affine
    second_norm: Affine


class WrittenEncoder:
    """Token ids to last hidden states, by the weights of the model it was made from."""

    def __init__(self, model: Any, *, first_only: bool) -> None:
        """For a model that `of` takes; query, key and value become views of one tensor."""
        config = model.config
        self.first_only = first_only
        self.width, self.heads = config.hidden_size, config.num_attention_heads
        self.epsilon = config.layer_norm_eps
        self.pad = config.pad_token_id if type(model).__name__ in _COUNTED else None
        embeddings = model.embeddings
        self.words: Tensor = embeddings.word_embeddings.weight
        self.types = embeddings.token_type_embeddings.weight
        self.positions = embeddings.position_embeddings.weight
        self.norm = _affine(embeddings.LayerNorm)
        self.layers = [_read(layer) for layer in model.encoder.layer]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, *, first_only: bool) -> Self | None:
        """The written form of a frozen model on a CPU; None for one of another make.

        `first_only`: nobody reads more of the result than the first token.
        """
        if type(model).__name__ not in _KNOWN or model.device.type != "cpu":
            return None
        config = model.config
        is_plain = (
            config.hidden_act == "gelu"
            and not config.is_decoder
            and not getattr(config, "chunk_size_feed_forward", 0)
            and getattr(config, "position_embedding_type", "absolute") == "absolute"
            # Neither adapters of peft nor int8.
            and all(type(part) is nn.Linear for part in _linear_parts(model))
        )
        return cls(model, first_only=first_only) if is_plain else None

    def __call__(self, ids: Tensor, mask: Tensor | None, types: Tensor | None = None) -> Tensor:
        """Padded ids (B, T) to states (B, T, D), or (B, 1, D) where only the first is read.

        `mask` (B, T) is 1 for tokens and 0 for the padding behind them; None: nothing is padded.
        States of padding are zero.
        """
        batch = _Batch(ids, mask)
        states = self._embedded(batch, ids, types)
        bias = None
        if mask is not None:
            bias = states.new_zeros(mask.shape).masked_fill_(mask == 0, -torch.inf)[:, None, None]
        for layer in self.layers[:-1]:
            query, key, value = self._by_head(batch.padded(F.linear(states, *layer.qkv)), 3)
            found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            states = self._after(layer, states, batch.packed(found.transpose(1, 2).flatten(2)))
        return self._last(batch, states, bias)

    def _last(self, batch: "_Batch", states: Tensor, bias: Tensor | None) -> Tensor:
        """The last layer, for the tokens that are read."""
        layer, width = self.layers[-1], self.width
        weight, shift = layer.qkv
        key, value = self._by_head(batch.padded(F.linear(states, weight[width:], shift[width:])), 2)
        readers = states[batch.firsts()] if self.first_only else states
        asked = F.linear(readers, weight[:width], shift[:width])
        asked = asked[:, None] if self.first_only else batch.padded(asked)
        (query,) = self._by_head(asked, 1)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        found = found.transpose(1, 2).flatten(2)
        if self.first_only:
            return self._after(layer, readers, found[:, 0])[:, None]
        return batch.padded(self._after(layer, readers, batch.packed(found)))

    def _embedded(self, batch: "_Batch", ids: Tensor, types: Tensor | None) -> Tensor:
        """Sums of the three embeddings (N, D)."""
        if self.pad is None:
            places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        else:
            counted = ids.ne(self.pad)
            places = counted.cumsum(1).mul_(counted).add_(self.pad)
        of_type = self.types[0] if types is None else F.embedding(batch.packed(types), self.types)
        states = F.embedding(batch.packed(ids), self.words).add_(of_type)
        return self._normed(
            states.add_(F.embedding(batch.packed(places), self.positions)), self.norm
        )

    def _after(self, layer: _Layer, readers: Tensor, found: Tensor) -> Tensor:
        """States (N, D) after a layer, of what its attention `found` for the `readers` (N, D)."""
        states = self._normed(F.linear(found, *layer.attended).add_(readers), layer.first_norm)
        inner = F.gelu(F.linear(states, *layer.wide))
        return self._normed(F.linear(inner, *layer.narrow).add_(states), layer.second_norm)

    def _by_head(self, joined: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, T, parts x D) to as many (B, H, T, D / H)."""
        split = joined.view(*joined.shape[:2], parts, self.heads, self.width // self.heads)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _normed(self, states: Tensor, affine: Affine) -> Tensor:
        return F.layer_norm(states, (self.width,), *affine, eps=self.epsilon)


class _Batch:
    """Where the tokens of a padded batch are: attention needs rows, all else tokens alone."""

    def __init__(self, ids: Tensor, mask: Tensor | None) -> None:
        self.shape = ids.shape
        self.mask = mask
        self.kept = None if mask is None else mask.flatten().nonzero()[:, 0]

    def packed(self, values: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...), without padding."""
        flat = values.flatten(0, 1)
        return flat if self.kept is None else flat[self.kept]

    def padded(self, values: Tensor) -> Tensor:
        """(N, W) to (B, T, W), zero where there is padding."""
        if self.kept is None:
            return values.view(*self.shape, -1)
        rows = values.new_zeros(self.shape.numel(), values.shape[1])
        return rows.index_copy_(0, self.kept, values).view(*self.shape, -1)

    def firsts(self) -> Tensor:
        """Places (B,) of the rows' first tokens among the N."""
        if self.mask is None:
            lengths = torch.full(self.shape[:1], self.shape[1])
        else:
            lengths = self.mask.sum(1)
        return lengths.cumsum(0) - lengths


def _linear_parts(model: Any) -> list[nn.Module]:
    return [
        part
        for layer in model.encoder.layer
        for part in (
            *(getattr(layer.attention.self, name) for name in ("query", "key", "value")),
            layer.attention.output.dense,
            layer.intermediate.dense,
            layer.output.dense,
        )
    ]


def _read(layer: Any) -> _Layer:
    own, after = layer.attention.self, layer.attention.output
    return _Layer(
        _joined([own.query, own.key, own.value]),
        _affine(after.dense),
        _affine(after.LayerNorm),
        _affine(layer.intermediate.dense),
        _affine(layer.output.dense),
        _affine(layer.output.LayerNorm),
    )


def _joined(parts: list[nn.Linear]) -> Affine:
    """Weights and biases of several layers in one tensor each, of which theirs become views."""
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([part.bias for part in parts])
    for part, rows, shifts in zip(
        parts, weight.chunk(len(parts)), bias.chunk(len(parts)), strict=True
    ):
        part.weight.data, part.bias.data = rows, shifts
    return weight, bias


def _affine(module: Any) -> Affine:
    return module.weight, module.bias
