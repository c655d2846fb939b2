"""`rational sample`."""

from typing import Annotated

import typer

from rational_jax.cli.session import PrintConfig, Words, chosen, session

Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="MODEL", help="Only this one of sample.models; may be repeated.")
]


def sample(words: Words = None, model: Models = None, print_config: PrintConfig = False) -> None:
    """The models answer the prompts of the test suites.

    \b
    Leaves answers.jsonl under RUN/sample/MODEL, in the order of the prompts.
      rational sample
      rational sample --model base sample.limit=20 run=runs/quick
      rational sample sample.temperature=0.7 sample.samples=4 run=runs/sampled
    """
    with session(words, print_config, jax=True) as (config, progress):
        from rational_jax import sample

        for name in chosen(model, config.sample.models, "--model", "sample.models"):
            sample.run(config, name, progress)
