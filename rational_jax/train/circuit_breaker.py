"""Circuit breakers: representation rerouting with LoRA (Zou et al., arXiv 2406.04313, algorithm 1), a rival of SFT.

No text is learned. On harmful answers the residual stream is led to where it is orthogonal to the base's, on all others
it is kept where the base has it. The base is the same frozen weights without the low-rank factors.

As published: rerouting minimises ReLU(cos(ours, base)) at chosen layers, retaining the Euclidean distance |ours - base|
at all layers; at step t of T, counted from one, they weigh alpha (1 - t/2T) and alpha t/2T. As in the authors' code:
layers are counted as Hugging Face counts `hidden_states` (10 is after ten layers), factors sit in layer 0 up to the one
that follows the last target, nothing beyond that layer is run, and both terms are means over tokens and layers.

Ours: a mean is over tokens alone, where theirs for retaining counts padding too; the stream of the last layer is taken
as it is, where theirs has the model's last norm on it; the first token of a conversation, whose state is the same
whatever follows, is never rerouted; and B begins with a little noise (`begun`).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rational_jax.config import CircuitBreakerSection
from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, Execution, LoraConfig, bind, combine

START_STD = 1e-3
_REFERENCE_LAYERS, _REFERENCE_TARGETS = 32, (10, 20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rerouting:
    """`layers` are the targets, counted from one; the first `depth` layers are run; `steps` is how long the run is."""

    layers: tuple[int, ...]
    depth: int
    alpha: float
    retain_weight: float
    steps: int

    def coefficients(self, step: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        """What rerouting and retaining weigh at `step`, counted from one."""
        part = jnp.asarray(step, jnp.float32) / (2 * self.steps)
        return self.alpha * (1 - part), self.alpha * self.retain_weight * part


def rerouting(section: CircuitBreakerSection, steps: int, decoder: DecoderConfig) -> Rerouting:
    """What the section asks of a model. Raises UserError where a layer is not there."""
    there = decoder.num_layers
    in_proportion = (max(1, round(layer * there / _REFERENCE_LAYERS)) for layer in _REFERENCE_TARGETS)
    layers = tuple(sorted(set(section.layers or in_proportion)))
    if not 1 <= layers[0] <= layers[-1] <= there:
        raise UserError(f"train.circuit_breaker.layers={list(layers)}: the model has layers 1 to {there}")
    return Rerouting(
        layers=layers,
        depth=min(layers[-1] + 1, there),
        alpha=section.alpha,
        retain_weight=section.retain_weight,
        steps=steps,
    )


def adapted(lora: LoraConfig, rerouting: Rerouting, decoder: DecoderConfig) -> LoraConfig:
    """LoRA on the layers that are run. Raises UserError where it is asked for on others, which nothing would train."""
    if lora.layers is None:
        layers = None if rerouting.depth == decoder.num_layers else tuple(range(rerouting.depth))
        return dataclasses.replace(lora, layers=layers)
    if lora.layers[-1] >= rerouting.depth:
        raise UserError(
            f"train.lora.layers names {lora.layers[-1]}, which nothing trains: with train.circuit_breaker.layers="
            f"{list(rerouting.layers)} they are 0 to {rerouting.depth - 1}"
        )
    return lora


def begun(factors: dict, key: jax.Array) -> dict:
    """Factors whose B is a little noise instead of zero.

    Where ours equals the base the cosine is at its maximum and the distance at its minimum: no term has a gradient, and
    a run that starts there moves by nothing but rounding.
    """

    leaves, structure = jax.tree.flatten_with_path(factors)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        x + START_STD * jax.random.normal(own, x.shape, x.dtype) if path[-1].key == "lora_b" else x
        for (path, x), own in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


class RerouteSums(NamedTuple):
    """Float32 sums over tokens, coefficients included. `weighted` is minimised: the sum of the other two."""

    weighted: jax.Array
    reroute: jax.Array
    retain: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReroutingLoss:
    """The loss of a step (`train.step.Loss`). A batch has `weights` where it reroutes and `retain` where it retains."""

    rerouting: Rerouting
    config: DecoderConfig
    execution: Execution
    lora: LoraConfig

    sums = RerouteSums

    def prepared(self, batch: dict[str, jax.Array], step: jax.Array) -> dict[str, jax.Array]:
        """The batch with weights that make a sum over its tokens the loss, however it is cut. `step` is from zero."""
        reroute, retain = self.rerouting.coefficients(step + 1)

        def shared(weights: jax.Array, layers: int, coefficient: jax.Array) -> jax.Array:
            return weights * (coefficient / jnp.maximum(layers * jnp.sum(weights), 1e-9))

        return batch | {
            "weights": shared(batch["weights"], len(self.rerouting.layers), reroute),
            "retain": shared(batch["retain"], self.rerouting.depth, retain),
        }

    def __call__(self, trainable: dict, frozen: dict, batch: dict[str, jax.Array], key) -> RerouteSums:
        def streams(decoder, key) -> jax.Array:
            places = (batch["tokens"], batch["positions"], batch["segments"])
            found = decoder.streams(*places, depth=self.rerouting.depth, execution=self.execution, dropout_key=key)
            return found.astype(jnp.float32)

        base = jax.lax.stop_gradient(streams(bind(self.config, frozen), None))
        ours = streams(bind(self.config, combine(frozen, trainable), self.lora), key)
        targets = jnp.asarray(self.rerouting.layers) - 1
        reroute = jnp.sum(jax.nn.relu(cosines(ours[targets], base[targets])) * batch["weights"])
        retain = jnp.sum(lengths(ours - base) * batch["retain"])
        return RerouteSums(weighted=reroute + retain, reroute=reroute, retain=retain)

    def scale(self, sums: RerouteSums) -> float:
        """What makes a gradient of sums one of the loss: they are shared out already."""
        return 1.0

    def metrics(self, sums: RerouteSums, scale: float, step: jax.Array) -> dict[str, jax.Array]:
        """The loss; its two terms without their coefficients; the coefficients."""
        reroute, retain = self.rerouting.coefficients(step + 1)
        return {
            "loss": sums.weighted,
            "loss_reroute": sums.reroute / reroute,
            "loss_retain": sums.retain / retain,
            "coefficient_reroute": reroute,
            "coefficient_retain": retain,
        }


def lengths(x: jax.Array) -> jax.Array:
    """Euclidean norms over the last axis, with gradient zero at zero."""
    squares = jnp.sum(x * x, axis=-1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def cosines(x: jax.Array, y: jax.Array) -> jax.Array:
    """Of the angles between vectors over the last axis; 0 where one of them is zero."""
    return jnp.sum(x * y, axis=-1) / jnp.maximum(lengths(x) * lengths(y), 1e-30)
