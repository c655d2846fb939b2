"""Parameters as nested dicts: made, described, split by what is trained, put together again.

A base is `{"embed": {"weight": ...}, "layers": {"attention": {"q_proj": {"weight": ...}}}}`; a LoRA tree has the same
nesting with `lora_a` and `lora_b` as its only leaves. NNX modules are bound over the union of both (`decoder.bind`).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from rational_jax.models import quantize
from rational_jax.models.attention import is_kernel
from rational_jax.models.config import DecoderConfig
from rational_jax.models.decoder import Decoder, Execution, structure
from rational_jax.models.layers import LoraParam
from rational_jax.models.lora import LoraConfig, merge

merge_lora = merge


def init_params(config: DecoderConfig, key: jax.Array) -> dict:
    """Random float32 parameters of the base: normal with standard deviation 0.02, norms one."""
    return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(key))))


def init_lora(config: DecoderConfig, lora: LoraConfig, key: jax.Array) -> dict:
    """The low-rank factors alone, float32; they change nothing until B leaves zero."""
    return nnx.to_pure_dict(nnx.state(Decoder(config, lora=lora, rngs=nnx.Rngs(key)), LoraParam))


def abstract_params(config: DecoderConfig, dtype=jnp.float32, quantized: str | None = None) -> dict:
    """The base's shapes, without allocating it. The parts of quantized weights have dtypes of their own."""
    _, state = structure(config, None, quantized)

    def shaped(path, leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if path[-1].key in quantize.PART_NAMES else dtype)

    return jax.tree.map_with_path(shaped, nnx.to_pure_dict(state))


def logical_axes(config: DecoderConfig, lora: LoraConfig | None = None, quantized: str | None = None) -> dict:
    """The same tree with a tuple of logical axis names for each array, low-rank factors included."""
    _, state = structure(config, lora, quantized)
    axes = jax.tree.map(lambda v: v.get_metadata("axes"), state, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return nnx.to_pure_dict(axes)


def combine(frozen: Mapping, trainable: Mapping) -> dict:
    """The union of two nested dicts; where both have a leaf, the trainable one stands."""
    combined = dict(frozen)
    for name, value in trainable.items():
        below = combined.get(name, {})
        combined[name] = combine(below, value) if isinstance(value, Mapping) else value
    return combined


def execution_for(platform: str, *, dtype=jnp.float32, attention: str = "auto") -> Execution:
    """The fastest way to generate on a platform (`cpu`, `gpu`, `tpu`). Raises UserError for an unknown `attention`."""
    # Kernels are for the long rows of training: prompts come in buckets that are shorter than a kernel's blocks.
    plain = is_kernel(attention) or attention == "auto"
    return Execution(dtype=dtype, attention="xla" if plain else attention, scan=platform != "cpu")
