"""A frozen encoder of BERT's shape with its forward pass written out, for embedding on a CPU.

Small batches of a small encoder spend most of their time between operations: in the calls of
transformers' modules, and in three products for query, key and value where one does. The first
token's state (pooling `cls`) also needs no more of the last layer than that token's row, beside
keys and values. Padding takes part in attention only. Same weights, same results but for rounding.

Its weights are read from a folder without transformers, whose models take seconds to import in
every process that embeds: actors, replicas, a user's own.

Shapes: B rows of a batch, T tokens of the longest, N tokens of all, D width, H heads.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["WrittenEncoder"]

# Positions of these count from pad_token_id + 1 and leave pad tokens out; BERT's are 0, 1, 2, …
# By model_type and name: to import the classes takes seconds.
_COUNTED = {
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "camembert": "CamembertModel",
}
_KNOWN = {"bert": "BertModel", **_COUNTED}
# What a folder's config.json has to say; the rest has the same default for all of them.
_WANTED = (
    *("model_type", "architectures"),
    *("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size"),
    *("vocab_size", "max_position_embeddings", "type_vocab_size"),
    *("layer_norm_eps", "pad_token_id", "hidden_act"),
)
# Tensors that no state depends on.
_UNREAD = {
    *("pooler.dense.weight", "pooler.dense.bias"),
    *("embeddings.position_ids", "embeddings.token_type_ids"),
}

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


class WrittenEncoder(nn.Module):
    """Token ids to last hidden states; `config` is the model's, or what its config.json says."""

    config: Any

    def __init__(
        self, config: Any, tensors: Mapping[str, Tensor], *, kind: str, first_only: bool
    ) -> None:
        """`tensors` have the names and shapes of a transformers model of class `kind`.

        `first_only`: nobody reads more of the result than the first token.
        """
        super().__init__()
        self.config = config
        self.first_only = first_only
        self.width, self.heads = config.hidden_size, config.num_attention_heads
        self.epsilon = config.layer_norm_eps
        self.pad = config.pad_token_id if kind in _COUNTED.values() else None
        self.words = tensors["embeddings.word_embeddings.weight"]
        self.types = tensors["embeddings.token_type_embeddings.weight"]
        self.positions = tensors["embeddings.position_embeddings.weight"]
        self.norm = _affine(tensors, "embeddings.LayerNorm")
        names = [f"encoder.layer.{number}" for number in range(config.num_hidden_layers)]
        self.layers = [_read(tensors, name) for name in names]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, *, first_only: bool) -> Self | None:
        """The written form of a frozen model on a CPU; None for one of another make."""
        kind = type(model).__name__
        if kind not in _KNOWN.values() or model.device.type != "cpu":
            return None
        # Neither adapters of peft nor int8.
        has_own_layers = all(type(part) is nn.Linear for part in _linear_parts(model))
        if not has_own_layers or not _is_plain(model.config):
            return None
        return cls(model.config, model.state_dict(), kind=kind, first_only=first_only)

    @classmethod
    def read(cls, folder: Path, *, dtype: torch.dtype, first_only: bool) -> Self | None:
        """The written form of a model that save_pretrained wrote, on the CPU.

        None where transformers has to read it, or has to say what is wrong with it: a model of
        another make, without a file, or with other tensors than its config.json says.
        """
        config = _config_of(folder)
        path = folder / "model.safetensors"
        if config is None or not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            names = set(file.keys()) - _UNREAD
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            if shapes != dict(_shapes(config)):
                return None
            # Copies, as what is mapped would follow the file; of some, joining makes one.
            tensors = {
                name: file.get_tensor(name).to(dtype, copy=".attention.self." not in name)
                for name in names
            }
            return cls(config, tensors, kind=config.architectures[0], first_only=first_only)

    def forward(self, ids: Tensor, mask: Tensor | None, types: Tensor | None = None) -> Tensor:
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


def _read(tensors: Mapping[str, Tensor], at: str) -> _Layer:
    own, after = f"{at}.attention.self", f"{at}.attention.output"
    asked = [_affine(tensors, f"{own}.{part}") for part in ("query", "key", "value")]
    return _Layer(
        (torch.cat([weight for weight, _ in asked]), torch.cat([bias for _, bias in asked])),
        _affine(tensors, f"{after}.dense"),
        _affine(tensors, f"{after}.LayerNorm"),
        _affine(tensors, f"{at}.intermediate.dense"),
        _affine(tensors, f"{at}.output.dense"),
        _affine(tensors, f"{at}.output.LayerNorm"),
    )


def _affine(tensors: Mapping[str, Tensor], name: str) -> Affine:
    return tensors[f"{name}.weight"], tensors[f"{name}.bias"]


def _is_plain(config: Any) -> bool:
    return (
        config.hidden_act == "gelu"
        and config.hidden_size % config.num_attention_heads == 0
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "chunk_size_feed_forward", 0)
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
    )


def _config_of(folder: Path) -> Any:
    """What the config.json of a folder says, if it is of a model that can be written out."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(values, dict) or any(values.get(name) is None for name in _WANTED):
        return None
    config = SimpleNamespace(**values)
    # transformers goes by the type, and the class is that of the tensors' names.
    is_known = config.architectures == [_KNOWN.get(config.model_type)]
    return config if is_known and _is_plain(config) else None


def _shapes(config: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that a model of a configuration has."""
    width, inner = config.hidden_size, config.intermediate_size
    tables = {
        "word": config.vocab_size,
        "token_type": config.type_vocab_size,
        "position": config.max_position_embeddings,
    }
    for name, rows in tables.items():
        yield f"embeddings.{name}_embeddings.weight", (rows, width)
    products = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
    products |= {"attention.output.dense": (width, width)}
    products |= {"intermediate.dense": (inner, width), "output.dense": (width, inner)}
    norms = ["embeddings.LayerNorm"]
    for number in range(config.num_hidden_layers):
        at = f"encoder.layer.{number}"
        for name, shape in products.items():
            yield f"{at}.{name}.weight", shape
            yield f"{at}.{name}.bias", shape[:1]
        norms += [f"{at}.{part}.LayerNorm" for part in ("attention.output", "output")]
    for name in norms:
        yield f"{name}.weight", (width,)
        yield f"{name}.bias", (width,)
