"""`rational curate`."""

from rational_jax.cli.session import PrintConfig, Words, session


def curate(words: Words = None, print_config: PrintConfig = False) -> None:
    """The model writes rationales; filters decide which are kept.

    \b
    Leaves under RUN/curate, for every layout in curate.datasets, a TFDS dataset and a `datasets` folder, and
    what was rejected with the reason in rejected.jsonl. `rational browse RUN` makes a page of both.
      rational curate
      rational curate configs/demo.yaml curate.samples=8 run=runs/more
      rational curate curate.prompts=my_prompts.jsonl curate.limit=100 run=runs/mine
      rational curate curate.recipe=policy curate.policies=my_policies.yaml run=runs/policy
      rational curate curate.rounds=2 run=runs/rounds

    \b
    Started on every host of a TPU pod, all of them generate; the first one reads and writes the run.
    """
    with session(words, print_config, jax=True, processes=True) as (config, progress):
        from rational_jax import sample
        from rational_jax.cli.summary import print_funnel
        from rational_jax.workflow import rounds

        def body() -> None:
            rounds.run(config, progress)
            print_funnel(config)

        sample.led(body)
