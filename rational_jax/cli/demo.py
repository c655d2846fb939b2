"""`rational demo`."""

from rational_jax.cli.session import PrintConfig, Words, session


def demo(words: Words = None, print_config: PrintConfig = False) -> None:
    """Runs all verbs, by default on the small model in the package.

    \b
      rational demo
      rational demo run=runs/again seed=1
      rational demo ci.yaml                a minute instead of several; its figures say nothing
      rational demo my_configuration.yaml
    """
    with session(words, print_config, jax=True) as (config, progress):
        from rational_jax import evaluate
        from rational_jax.cli.summary import print_path, print_summary
        from rational_jax.workflow import demo

        path = demo.run(config, progress)
        print_summary(evaluate.run(config))
        print_path(path)
