"""The states of a training run on disk, through Orbax."""

from rational_jax.checkpoint.checkpoints import Checkpoints

__all__ = ["Checkpoints"]
