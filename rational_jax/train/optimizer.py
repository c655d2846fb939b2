"""The optax chain that a configuration names."""

import inspect

import jax
import optax

from rational_jax.config import TrainSection
from rational_jax.errors import UserError


def learning_rate_schedule(section: TrainSection) -> optax.Schedule:
    """Linear warm-up from zero, then cosine or linear to zero at the last step, or constant."""
    after = section.steps - section.warmup_steps
    if after < 0:
        raise UserError(f"train.warmup_steps={section.warmup_steps} is more than train.steps={section.steps}")
    peak = section.learning_rate
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, max(after, 1)),
        "linear": lambda: optax.linear_schedule(peak, 0.0, max(after, 1)),
        "constant": lambda: optax.constant_schedule(peak),
    }[section.schedule]()
    # The step that is about to be taken counts from one, so that warm-up does not waste a step at rate zero.
    warmup = optax.linear_schedule(peak / max(section.warmup_steps, 1), peak, max(section.warmup_steps - 1, 1))
    return optax.join_schedules([warmup, decay], [section.warmup_steps])


def make_optimizer(section: TrainSection) -> optax.GradientTransformation:
    """Global-norm clipping, then any optimizer of optax by name, with decay on matrices only."""
    factory = getattr(optax, section.optimizer, None)
    if not inspect.isfunction(factory) or "learning_rate" not in inspect.signature(factory).parameters:
        raise UserError(f"train.optimizer={section.optimizer!r} is no optimizer of optax; adamw, lion and sgd are")
    accepted = inspect.signature(factory).parameters
    offered = {
        "b1": section.beta1,
        "b2": section.beta2,
        "weight_decay": section.weight_decay,
        "mask": matrices,
    }
    options = {name: value for name, value in offered.items() if name in accepted}
    optimizer = factory(learning_rate_schedule(section), **options)
    return optax.chain(optax.clip_by_global_norm(section.clip_norm), optimizer)


def matrices(params: dict) -> dict:
    """True for what weight decay acts on: matrices, not the norms' vectors (which carry a leading layer axis)."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not any("norm" in str(key) for key in path), params)
