"""Next-token cross-entropy over packed rows, without ever holding `[batch, sequence, vocabulary]`."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rational_jax.models import Decoder, DecoderConfig, Execution
from rational_jax.models.decoder import bend_logits
from rational_jax.text.chat import ANSWER, REASONING

CHUNK_TOKENS = 1024


class LossSums(NamedTuple):
    """Float32 sums over tokens. `weighted / weight` is minimised; reasoning and answer are unweighted, in nats."""

    weighted: jax.Array
    weight: jax.Array
    reasoning: jax.Array
    reasoning_tokens: jax.Array
    answer: jax.Array
    answer_tokens: jax.Array


class Targets(NamedTuple):
    """What is predicted at each place of `[B, S]`: token (int32), its weight (float32) and its kind (int)."""

    tokens: jax.Array
    weights: jax.Array
    kinds: jax.Array


def loss_sums(
    decoder: Decoder,
    batch: dict[str, jax.Array],
    execution: Execution,
    *,
    z_loss: float = 0.0,
    dropout_key: jax.Array | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> LossSums:
    """Sums over a packed batch with `tokens, segments, positions, kinds` (ints) and `weights` (float32), `[B, S]` each.

    A token's weight counts where it is the target; its prediction is read one place to the left, in the same segment.
    `z_loss` weighs the square of each position's log-partition, which keeps logits from drifting (arXiv 2204.02311).
    Logits exist for about `chunk_tokens` tokens a device at a time, and once: the gradient with respect to them is
    taken in the same visit, instead of computing them again in the backward pass.
    """
    hidden_BxSxD, _ = decoder(
        batch["tokens"], batch["positions"], batch["segments"], execution=execution, dropout_key=dropout_key
    )
    names = ("tokens", "weights", "kinds")
    # The last place of a row predicts nothing; so rows keep their length, which is a round number.
    targets = Targets(*(jnp.pad(batch[name][:, 1:], ((0, 0), (0, 1))) for name in names))
    hidden_BxSxD, matrix_VxD = decoder.with_output_matrix(hidden_BxSxD, execution)
    matrix_VxD = matrix_VxD.astype(hidden_BxSxD.dtype)
    chunks = _chunk_count(hidden_BxSxD.shape[:2], chunk_tokens)
    return _chunked_sums((decoder.config, z_loss, chunks), hidden_BxSxD, matrix_VxD, targets)


def _chunk_count(shape: tuple[int, int], chunk_tokens: int) -> int:
    """Into how many parts sequences are cut, so that each device has about `chunk_tokens` tokens of one at a time."""
    rows, length = shape
    mesh = jax.sharding.get_abstract_mesh()
    # Under shard_map the shapes are a device's own already; else the batch lies on all axes that are not for tensors.
    spread = 1 if mesh.empty or mesh.manual_axes else mesh.size // mesh.shape.get("tensor", 1)
    return min(length, max(1, math.ceil(rows * length / (max(1, spread) * chunk_tokens))))


def _visit(
    config: DecoderConfig, z_loss: float, hidden_BxCxD: jax.Array, matrix_VxD: jax.Array, targets: Targets
) -> tuple[LossSums, jax.Array, jax.Array]:
    """The sums of one chunk, and the gradient of the weighted one for its hidden states and for its scores."""
    scores_BxCxV = jnp.einsum("bcd,vd->bcv", hidden_BxCxD, matrix_VxD, preferred_element_type=jnp.float32)
    logits, pull = jax.vjp(functools.partial(bend_logits, config), scores_BxCxV)
    partition = jax.nn.logsumexp(logits, axis=-1)
    losses = partition - jnp.take_along_axis(logits, targets.tokens[..., None], axis=-1)[..., 0]
    penalised = losses if z_loss == 0 else losses + z_loss * partition**2
    reasoning, answer = ((targets.kinds == kind) & (targets.weights > 0) for kind in (REASONING, ANSWER))
    sums = LossSums(
        weighted=jnp.sum(penalised * targets.weights),
        weight=jnp.sum(targets.weights),
        reasoning=jnp.sum(losses * reasoning),
        reasoning_tokens=jnp.sum(reasoning, dtype=jnp.float32),
        answer=jnp.sum(losses * answer),
        answer_tokens=jnp.sum(answer, dtype=jnp.float32),
    )
    # The derivative of the log-partition is the softmax. One pass over the logits, and no second array of their size.
    softmax = jnp.exp(logits - partition[..., None]) * (1 + 2 * z_loss * partition)[..., None]
    chosen = jnp.arange(logits.shape[-1]) == targets.tokens[..., None]
    (d_scores,) = pull((softmax - chosen) * targets.weights[..., None])
    d_scores = d_scores.astype(hidden_BxCxD.dtype)
    return sums, jnp.einsum("bcv,vd->bcd", d_scores, matrix_VxD), d_scores


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_sums(static: tuple[DecoderConfig, float, int], hidden_BxSxD, matrix_VxD, targets: Targets) -> LossSums:
    return _visited(static, hidden_BxSxD, matrix_VxD, targets, trained=False)[0]


def _visited(static, hidden_BxSxD, matrix_VxD, targets, *, trained: bool):
    """The sums, and their gradients for the hidden states and, if it is trained, for the matrix."""
    config, z_loss, chunks = static
    length = hidden_BxSxD.shape[1]
    size = math.ceil(length / chunks)

    def cut(x):
        """[B, S, ...] as [chunks, B, size, ...]: every chunk is spread over the batch, as the whole was."""
        x = jnp.pad(x, ((0, 0), (0, chunks * size - length), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(x.shape[0], chunks, size, *x.shape[2:]).swapaxes(0, 1)

    def visit(d_matrix, chunk):
        sums, d_hidden, d_scores = _visit(config, z_loss, chunk[0], matrix_VxD, chunk[1])
        if trained:
            d_matrix += jnp.einsum("bcv,bcd->vd", d_scores, chunk[0])
        return d_matrix, (sums, d_hidden)

    zeros = jnp.zeros_like(matrix_VxD) if trained else None
    d_matrix, (sums, d_hidden) = jax.lax.scan(visit, zeros, (cut(hidden_BxSxD), jax.tree.map(cut, targets)))
    d_hidden = d_hidden.swapaxes(0, 1).reshape(hidden_BxSxD.shape[0], chunks * size, -1)[:, :length]
    return jax.tree.map(functools.partial(jnp.sum, axis=0), sums), (d_hidden, d_matrix)


def _chunked_forward(static, hidden_BxSxD, matrix_VxD, targets):
    # What is differentiated comes marked: a frozen matrix has no use for a gradient of its own size.
    values = (hidden_BxSxD.value, matrix_VxD.value, jax.tree.map(lambda leaf: leaf.value, targets, is_leaf=_is_primal))
    return _visited(static, *values, trained=matrix_VxD.perturbed)


def _is_primal(leaf) -> bool:
    return hasattr(leaf, "perturbed")


def _chunked_backward(static, residuals, cotangent: LossSums):
    d_hidden, d_matrix = residuals
    # Only the weighted sum is ever differentiated; the others are figures to look at.
    scaled = (None if x is None else x * cotangent.weighted.astype(x.dtype) for x in (d_hidden, d_matrix))
    return *scaled, None


_chunked_sums.defvjp(_chunked_forward, _chunked_backward, symbolic_zeros=True)
