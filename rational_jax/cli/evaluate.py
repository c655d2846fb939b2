"""`rational evaluate`."""

from typing import Annotated

import typer

from rational_jax.cli.session import PrintConfig, Words, session

Power = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--power",
        metavar="SHARE SHARE",
        help="Only say how many prompts it takes to tell these two shares apart (confidence: evaluate.confidence).",
    ),
]

Retry = Annotated[
    bool,
    typer.Option("--retry-unscored", help="Ask the judge again about answers that it left unscored, then as always."),
]


def evaluate(
    words: Words = None, power: Power = None, retry_unscored: Retry = False, print_config: PrintConfig = False
) -> None:
    """Judges the answers: refusal and over-refusal, with intervals.

    \b
    Leaves judgements.jsonl, results.json and tables/*.csv under RUN/evaluate. What a judge could not be asked about,
    because its endpoint was gone, is asked again by the same command; what it rejected or did not score stays
    unscored, out of all figures but coverage, unless --retry-unscored.
      rational evaluate
      rational evaluate evaluate.bootstrap=10000
      rational evaluate --power 0.30 0.20
    """
    with session(words, print_config) as (config, progress):
        from rational_jax.cli.summary import print_summary, print_table

        if power is not None:
            from rational_jax.evaluate.power import needs

            rows = [
                (one.design, f"{100 * one.discordant:.0f}%", f"{one.prompts:,}")
                for one in needs(*power, confidence=config.evaluate.confidence)
            ]
            print_table(("for 80% power", "only one errs", "base prompts"), rows)
            return
        from rational_jax import evaluate

        print_summary(evaluate.run(config, progress, retry_unscored=retry_unscored))
