"""SFT: full or LoRA, packed, sharded, resumable."""

from rational_jax.train.examples import load_packed
from rational_jax.train.loop import compile_step, fit
from rational_jax.train.loss import LossSums, loss_sums
from rational_jax.train.optimizer import learning_rate_schedule, make_optimizer
from rational_jax.train.run import run
from rational_jax.train.step import StepOptions, TrainState, init_state, make_train_step

__all__ = [
    "LossSums",
    "StepOptions",
    "TrainState",
    "compile_step",
    "fit",
    "init_state",
    "learning_rate_schedule",
    "load_packed",
    "loss_sums",
    "make_optimizer",
    "make_train_step",
    "run",
]
