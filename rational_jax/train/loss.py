"""Next-token cross-entropy over packed rows, without ever holding `[batch, sequence, vocabulary]`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rational_jax.models import Decoder, Execution
from rational_jax.text.chat import ANSWER, REASONING

CHUNK_TOKENS = 4096


class LossSums(NamedTuple):
    """Float32 sums over tokens. `weighted / weight` is minimised; reasoning and answer are unweighted, in nats."""

    weighted: jax.Array
    weight: jax.Array
    reasoning: jax.Array
    reasoning_tokens: jax.Array
    answer: jax.Array
    answer_tokens: jax.Array


def token_losses(decoder: Decoder, hidden_NxD: jax.Array, targets_N: jax.Array, chunk: int = CHUNK_TOKENS) -> jax.Array:
    """Cross-entropy of each target in nats, float32 `[N]`; logits exist for one chunk of tokens at a time."""

    def chunk_losses(hidden_CxD, targets_C):
        logits_CxV = decoder.unembed(hidden_CxD)
        chosen_C = jnp.take_along_axis(logits_CxV, targets_C[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits_CxV, axis=-1) - chosen_C

    count = targets_N.shape[0]
    if count <= chunk:
        return chunk_losses(hidden_NxD, targets_N)
    padding = -count % chunk
    hidden = jnp.pad(hidden_NxD, ((0, padding), (0, 0))).reshape(-1, chunk, hidden_NxD.shape[-1])
    targets = jnp.pad(targets_N, (0, padding)).reshape(-1, chunk)
    # Recomputing a chunk's logits in the backward pass is what keeps the other chunks' logits from being stored.
    losses = jax.lax.map(lambda pair: jax.checkpoint(chunk_losses)(*pair), (hidden, targets))
    return losses.reshape(-1)[:count]


def loss_sums(decoder: Decoder, batch: dict[str, jax.Array], execution: Execution) -> LossSums:
    """Sums over a packed batch with `tokens, segments, positions, kinds` (ints) and `weights` (float32), `[B, S]` each.

    A token's weight counts where it is the target; its prediction is read one place to the left, in the same segment.
    """
    hidden, _ = decoder(batch["tokens"], batch["positions"], batch["segments"], execution=execution)
    hidden_NxD = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    losses = token_losses(decoder, hidden_NxD, batch["tokens"][:, 1:].reshape(-1))
    weights, kinds = (batch[name][:, 1:].reshape(-1) for name in ("weights", "kinds"))
    reasoning, answer = ((kinds == kind) & (weights > 0) for kind in (REASONING, ANSWER))
    return LossSums(
        weighted=jnp.sum(losses * weights),
        weight=jnp.sum(weights),
        reasoning=jnp.sum(losses * reasoning),
        reasoning_tokens=jnp.sum(reasoning, dtype=jnp.float32),
        answer=jnp.sum(losses * answer),
        answer_tokens=jnp.sum(answer, dtype=jnp.float32),
    )
