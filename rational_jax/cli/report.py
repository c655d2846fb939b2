"""`rational report`."""

from rational_jax.cli.session import PrintConfig, Words, session


def report(words: Words = None, print_config: PrintConfig = False) -> None:
    """Writes the findings as one page that needs nothing else.

    \b
    Leaves index.html under RUN/report.
      rational report
      rational report run=runs/longer report.title="Twice as long"
    """
    with session(words, print_config) as (config, progress):
        from rational_jax.cli.summary import print_path
        from rational_jax.evaluate import report

        print_path(report.run(config, progress))
