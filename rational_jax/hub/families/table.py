"""The weight table: for each of our arrays, where it lies on disk. Loading, saving and PEFT names are derived from it.

Shapes and logical axes belong to the decoder and are not repeated here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from rational_jax.models.config import DecoderConfig

TreePath = tuple[str, ...]
"""Where an array stands in the tree of parameters."""


class Piece(NamedTuple):
    """Where a part of one of our arrays lies on disk: `array[index]` is the rows `rows` of the tensor `name`."""

    index: tuple[int, ...]
    name: str
    rows: slice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """One row of a weight table: `path` in our tree, `name` of the Hugging Face tensor or tensors.

    Our array has a leading axis of `layers` where the name holds `{i}`, and after it one of `experts` where it holds
    `{e}`. Where a family fuses matrices, `rows` says which rows of the fused tensor are ours; the other rows belong to
    other Weights of the same name.
    """

    path: TreePath
    name: str
    layers: tuple[int, ...] | None = None
    experts: int | None = None
    rows: tuple[int, int] | None = None

    @property
    def module(self) -> str:
        """The Hugging Face module that owns the tensor: the name PEFT puts its adapter under."""
        return self.name.rpartition(".")[0]

    def pieces(self) -> Iterator[Piece]:
        """Every tensor of the array, in the order of the array."""
        rows = slice(None) if self.rows is None else slice(*self.rows)
        axes = {"i": self.layers, "e": None if self.experts is None else range(self.experts)}
        stacked = {letter: values for letter, values in axes.items() if values is not None}
        for place in itertools.product(*(range(len(values)) for values in stacked.values())):
            names = {letter: values[at] for (letter, values), at in zip(stacked.items(), place, strict=True)}
            yield Piece(place, self.name.format(**names), rows)


# Our norms around attention and MLP, and what they are called on disk, by `DecoderConfig.block_norms`.
_NORMS = {
    "pre": {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    "post": {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"},
    "both": {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
    """In what families name their tensors differently.

    `fused`: q, k and v are the rows of one `qkv_proj`, gate and up those of one `gate_up_proj`. `router` and `experts`
    are modules in a layer (`{e}` is the expert), `expert_projections` what gate, up and down are called in an expert.
    """

    fused: bool = False
    router: str = "mlp.gate"
    experts: str = "mlp.experts.{e}"
    expert_projections: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")


def rows(config: DecoderConfig, names: Names) -> Iterator[Weight]:
    """The whole table of a model."""
    everywhere = tuple(range(config.num_layers))
    model = f"{config.tensor_prefix}model."

    def one(path: str, name: str, layers: tuple[int, ...] = everywhere, **more) -> Weight:
        return Weight(path=("layers", *path.split(".")), name=f"{model}layers.{{i}}.{name}", layers=layers, **more)

    def linear(path: str, name: str, bias: bool, layers: tuple[int, ...] = everywhere, **more) -> Iterator[Weight]:
        for kind in ("weight", "bias") if bias else ("weight",):
            yield one(f"{path}.{kind}", f"{name}.{kind}", layers, **more)

    def fused(parts: dict[str, int], name: str, bias: bool, layers: tuple[int, ...] = everywhere) -> Iterator[Weight]:
        start = 0
        for path, size in parts.items():
            yield from linear(path, name, bias, layers, rows=(start, start + size))
            start += size

    yield Weight(path=("embed", "weight"), name=f"{model}embed_tokens.weight")
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    sizes = {"attention.q_proj": heads, "attention.k_proj": kv_heads, "attention.v_proj": kv_heads}
    if names.fused:
        yield from fused(sizes, "self_attn.qkv_proj", config.qkv_bias)
    else:
        for path in sizes:
            yield from linear(path, path.replace("attention", "self_attn"), config.qkv_bias)
    yield from linear("attention.o_proj", "self_attn.o_proj", config.output_bias)
    if config.qk_norm is not None:
        yield from (one(f"attention.{norm}.weight", f"self_attn.{norm}.weight") for norm in ("q_norm", "k_norm"))
    for norm, name in _NORMS[config.block_norms].items():
        yield one(f"{norm}.weight", f"{name}.weight")
    if dense := config.dense_layers:
        if names.fused:
            parts = {"mlp.gate_proj": config.mlp_dim, "mlp.up_proj": config.mlp_dim}
            yield from fused(parts, "mlp.gate_up_proj", config.mlp_bias, dense)
        else:
            for path in ("mlp.gate_proj", "mlp.up_proj"):
                yield from linear(path, path, config.mlp_bias, dense)
        yield from linear("mlp.down_proj", "mlp.down_proj", config.mlp_bias, dense)
    if sparse := config.sparse_layers:
        yield one("experts.router.weight", f"{names.router}.weight", sparse)
        for ours, theirs in zip(("gate_proj", "up_proj", "down_proj"), names.expert_projections, strict=True):
            path, name = f"experts.{ours}.weight", f"{names.experts}.{theirs}.weight"
            yield one(path, name, sparse, experts=config.moe.num_experts)
    yield Weight(path=("norm", "weight"), name=f"{model}norm.weight")
    if not config.tie_embeddings:
        yield Weight(path=("lm_head", "weight"), name=f"{config.tensor_prefix}lm_head.weight")
