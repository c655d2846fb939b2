"""`rational train`."""

from typing import Annotated

import typer

from rational_jax.cli.session import PrintConfig, Words, chosen, session

Arms = Annotated[
    list[str] | None, typer.Option("--arm", metavar="ARM", help="Only this arm of train.arms; may be repeated.")
]


def train(words: Words = None, arm: Arms = None, print_config: PrintConfig = False) -> None:
    """Trains one model for each arm on what `rational curate` left.

    \b
    Leaves checkpoints, metrics.jsonl and TensorBoard events under RUN/train/ARM.
      rational train
      rational train configs/demo.yaml train.steps=200 train.learning_rate=5e-4 run=runs/longer
      rational train --arm rational
      tensorboard --logdir runs/demo/train     to watch it

    \b
    On several machines run the same command on each, with one RUN folder that all of them see. TPU pods,
    srun and mpirun are found by themselves; elsewhere set JAX_COORDINATOR_ADDRESS=HOST:PORT,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. On SIGTERM the state is saved and the exit code is 75: start
    the same command again.
    """
    with session(words, print_config, jax=True, processes=True, all_write=True) as (config, progress):
        from rational_jax import train

        for name in chosen(arm, config.train.arms, "--arm", "train.arms"):
            train.run(config, name, progress)
