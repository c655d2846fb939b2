"""`rational curate`."""

from rational_jax.cli.session import PrintConfig, Words, session


def curate(words: Words = None, print_config: PrintConfig = False) -> None:
    """The model writes rationales; filters decide which are kept.

    \b
    Leaves under RUN/curate, for every layout in curate.datasets, a TFDS dataset and a `datasets` folder.
      rational curate
      rational curate configs/demo.yaml curate.samples=8 run=runs/more
      rational curate curate.prompts=my_prompts.jsonl curate.limit=100 run=runs/mine
    """
    with session(words, print_config, jax=True) as (config, progress):
        from rational_jax import curate

        curate.run(config, progress)
