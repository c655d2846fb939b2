"""What the decoder must know about a model: one frozen record for all families.

Families differ by the values of these fields, never by a subclass. `rational_jax.hub.families` fills the record
from a Hugging Face `config.json` and writes it back.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How the rotary frequencies are stretched for contexts longer than those of pretraining.

    `kind` is "linear" (every frequency divided by `factor`) or "llama3" (low frequencies divided by `factor`, high
    ones kept, a smooth ramp between them). The remaining fields belong to "llama3": a frequency is high when its
    wavelength in tokens is below `original_max_positions / high_freq_factor`, and low when it is above
    `original_max_positions / low_freq_factor`.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The architecture of one decoder-only language model. Hashable, so it can be a static argument of `jax.jit`.

    Sizes are counts of elements: `embed_dim` is the width of the residual stream, `mlp_dim` that of the gated MLP,
    `head_dim` that of one attention head (queries have `num_heads` of them, keys and values `num_kv_heads`).
    `max_positions` is the context in tokens that the model was made for. With `tie_embeddings` the embedding matrix
    is the output matrix too and there is no `lm_head`. `attention_bias` puts a bias on q, k, v and o projections.
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
    attention_bias: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that no decoder can have."""
        for name in ("vocab_size", "embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd: rotary embedding turns pairs of its elements")
