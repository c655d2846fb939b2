"""`rational export`."""

from rational_jax.cli.session import PrintConfig, Words, chosen, session
from rational_jax.cli.train import Arms


def export(words: Words = None, arm: Arms = None, print_config: PrintConfig = False) -> None:
    """Writes the trained models as Hugging Face and PEFT have them.

    \b
    Leaves merged/ and adapter/ under RUN/export/ARM, each reloaded and compared before it counts as done.
      rational export
      rational export --arm rational
      rational export export.dtype=bfloat16 export.adapter=false
    """
    with session(words, print_config, jax=True) as (config, progress):
        from rational_jax.workflow import export

        for name in chosen(arm, config.train.arms, "--arm", "train.arms"):
            export.run(config, name, progress)
