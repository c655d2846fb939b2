"""What the decoder must know about a model: one frozen record for all families.

Families differ by the values of these fields, never by a subclass. `rational_jax.hub.families` fills the record
from a Hugging Face `config.json` and writes it back.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

ACTIVATIONS = ("silu", "gelu_tanh", "gelu")
QK_NORMS = (None, "head", "all")
BLOCK_NORMS = ("pre", "post", "both")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How the rotary frequencies are stretched for contexts longer than those of pretraining.

    `kind` is one of
    - "linear": every frequency divided by `factor`;
    - "dynamic": the base grows with the context, once it exceeds the model's `max_positions`;
    - "llama3": low frequencies divided by `factor`, high ones kept, a smooth ramp between them. A frequency is high
      when its wavelength in tokens is below `original_max_positions / high_freq_factor`, and low when it is above
      `original_max_positions / low_freq_factor`;
    - "yarn" (arXiv 2309.00071): as llama3, with a ramp from `beta_fast` to `beta_slow` rotations within the original
      context (rounded to whole planes where `truncate`);
    - "longrope" (arXiv 2402.13753): each plane divided by its own number, from `long_factors` where the context exceeds
      `original_max_positions`, else from `short_factors`.
    Cosine and sine are multiplied by `magnitude` (yarn, longrope).
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    magnitude: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """A mixture of experts in place of the MLP: each token goes to the `top_k` experts that its router likes best.

    The weights of the chosen are their softmax probabilities over all experts, divided by their sum if `normalise`.
    `mlp_dim` is the width of one expert. `layers` says which layers have experts; empty: all.
    """

    num_experts: int
    top_k: int
    mlp_dim: int
    normalise: bool = True
    layers: tuple[bool, ...] = ()


class LayerKind(NamedTuple):
    """What may differ from layer to layer: how far back attention sees, which rotary tables, experts or an MLP."""

    window: int | None
    rope: str | None
    sparse: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The architecture of one decoder-only language model. Hashable, so it can be a static argument of `jax.jit`.

    Sizes are counts of elements: `embed_dim` is the width of the residual stream, `mlp_dim` that of the gated MLP,
    `head_dim` that of one attention head (queries have `num_heads` of them, keys and values `num_kv_heads`).
    `max_positions` is the context in tokens that the model was made for, and `context` the longest sequence of this
    run (None: `max_positions`), which decides the rotary frequencies of kinds that switch with length: they are the
    same for every sequence of a run, short ones too. With `tie_embeddings` the embedding matrix is the output matrix
    too and there is no `lm_head`.

    Attention: biases on q, k and v (`qkv_bias`) and on o (`output_bias`); `qk_norm` normalises queries and keys a
    "head" at a time or "all" heads together; scores are multiplied by `attention_scale` (None: `head_dim ** -0.5`) and
    bent to `attention_softcap * tanh(scores / attention_softcap)`. Layers marked in `window_layers` (empty: all) see
    the last `window` tokens, themselves included, and use `local_rope_theta` unscaled if that is given. Layers marked
    in `no_rope_layers` have no positions. `rotary_fraction` is the part of each head that is rotated.

    Blocks: norms before ("pre"), after ("post") or on "both" sides of attention and MLP; a norm multiplies by
    `norm_offset + weight`. Embeddings are multiplied by `embed_scale`, what a block adds by `residual_scale`, and
    logits are divided by `logit_divisor`, then bent with `logit_softcap`. `tensor_prefix` stands before every tensor's
    name in checkpoints that hold other towers too.
    """

    family: str
    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    norm_eps: float
    rope_theta: float
    max_positions: int
    tie_embeddings: bool
    rope_scaling: RopeScaling | None = None
    context: int | None = None
    local_rope_theta: float | None = None
    rotary_fraction: float = 1.0
    no_rope_layers: tuple[bool, ...] = ()
    window: int | None = None
    window_layers: tuple[bool, ...] = ()
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: str | None = None
    attention_scale: float | None = None
    attention_softcap: float | None = None
    activation: str = "silu"
    block_norms: str = "pre"
    norm_offset: float = 0.0
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    logit_softcap: float | None = None
    moe: MoeConfig | None = None
    tensor_prefix: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that no decoder can have."""
        for name in ("vocab_size", "embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}")
        if self.rotary_dim % 2 or self.rotary_dim < 2:
            raise ValueError(f"{self.rotary_dim} of {self.head_dim} elements to rotate: it must be an even number")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 token, got {self.window}")
        for name, allowed in (("activation", ACTIVATIONS), ("qk_norm", QK_NORMS), ("block_norms", BLOCK_NORMS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(map(str, allowed))}")
        marks = {"window_layers": self.window_layers, "no_rope_layers": self.no_rope_layers}
        if self.moe is not None:
            marks["moe.layers"] = self.moe.layers
            if not 1 <= self.moe.top_k <= self.moe.num_experts:
                raise ValueError(f"each token goes to {self.moe.top_k} of {self.moe.num_experts} experts")
        for name, marked in marks.items():
            if marked and len(marked) != self.num_layers:
                raise ValueError(f"{name} names {len(marked)} layers of {self.num_layers}")

    @property
    def rotary_dim(self) -> int:
        """Elements of each head that are rotated."""
        return int(self.head_dim * self.rotary_fraction)

    @property
    def score_scale(self) -> float:
        """What attention scores are multiplied by."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    @functools.cached_property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kind of every layer."""
        return tuple(self._kind(layer) for layer in range(self.num_layers))

    @property
    def dense_layers(self) -> tuple[int, ...]:
        """The layers with an MLP."""
        return tuple(layer for layer, kind in enumerate(self.kinds) if not kind.sparse)

    @property
    def sparse_layers(self) -> tuple[int, ...]:
        """The layers with experts."""
        return tuple(layer for layer, kind in enumerate(self.kinds) if kind.sparse)

    def _kind(self, layer: int) -> LayerKind:
        windowed = self.window is not None and (not self.window_layers or self.window_layers[layer])
        local = windowed and self.local_rope_theta is not None
        rope = None if self.no_rope_layers and self.no_rope_layers[layer] else "local" if local else "global"
        sparse = self.moe is not None and (not self.moe.layers or self.moe.layers[layer])
        return LayerKind(self.window if windowed else None, rope, sparse)
