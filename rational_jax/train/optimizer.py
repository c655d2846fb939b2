"""The optax chain that a configuration names."""

import inspect

import jax
import jax.numpy as jnp
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
    """Global-norm clipping, then an optimizer of optax by name, with decay on matrices only.

    Raises UserError for what is none, and for one that cannot do what the settings ask for.
    """
    name = section.optimizer
    factory = None if name.startswith("_") else getattr(optax, name, None)
    try:
        accepted = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        accepted = {}
    if "learning_rate" not in accepted:
        raise UserError(f"train.optimizer={name!r} is no optimizer of optax; adamw, lion and sgd are")
    masks = {"mask", "weight_decay_mask"} & set(accepted)
    if section.weight_decay and not (masks and "weight_decay" in accepted):
        raise UserError(
            f"train.optimizer={name!r} has no decay for matrices alone: set train.weight_decay=0, or take adamw"
        )
    offered = {"b1": section.beta1, "b2": section.beta2, "weight_decay": section.weight_decay}
    options = {key: value for key, value in offered.items() if key in accepted} | dict.fromkeys(masks, matrices)
    rate = learning_rate_schedule(section)
    # Some take no schedule, others want the loss itself; they say so when they are made or used, each in its own way.
    try:
        optimizer = factory(rate, **options)
        jax.eval_shape(lambda x: optimizer.update(x, optimizer.init(x), x), {"matrix": jnp.zeros((2, 2))})
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"train.optimizer={name!r} cannot be used with a schedule and gradients alone") from error
    return optax.chain(optax.clip_by_global_norm(section.clip_norm), optimizer)


def matrices(params: dict) -> dict:
    """True for what weight decay acts on: matrices, not norms and biases (vectors that carry a leading layer axis)."""

    def is_matrix(path: tuple, _: object) -> bool:
        names = [key.key for key in path]
        return names[-1] != "bias" and not any("norm" in name for name in names)

    return jax.tree_util.tree_map_with_path(is_matrix, params)
