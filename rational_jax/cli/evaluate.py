"""`rational evaluate`."""

from rational_jax.cli.session import PrintConfig, Words, session


def evaluate(words: Words = None, print_config: PrintConfig = False) -> None:
    """Judges the answers: refusal and over-refusal, with intervals.

    \b
    Leaves judgements.jsonl, results.json and tables/*.csv under RUN/evaluate.
      rational evaluate
      rational evaluate evaluate.bootstrap=10000
    """
    with session(words, print_config) as (config, progress):
        from rational_jax import evaluate
        from rational_jax.cli.summary import print_summary

        print_summary(evaluate.run(config, progress))
