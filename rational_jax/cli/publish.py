"""`rational publish`."""

from pathlib import Path
from typing import Annotated

import typer

from rational_jax.cli.session import session

Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder or address, such as runs/demo.")]
Repository = Annotated[str, typer.Argument(metavar="REPO", help="Its name on the Hub: organisation/model.")]
Arm = Annotated[str | None, typer.Option("--arm", metavar="ARM", help="Which export, where there are several.")]
Adapter = Annotated[bool, typer.Option("--adapter", help="The PEFT adapter instead of the merged model.")]
Private = Annotated[bool, typer.Option("--private", help="Make the repository private, where it is new.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and show it; send nothing.")]
NoEvaluation = Annotated[bool, typer.Option("--no-evaluation", help="Publish without figures of what it does.")]


def publish(
    run: Run,
    repository: Repository,
    arm: Arm = None,
    adapter: Adapter = False,
    private: Private = False,
    dry_run: DryRun = False,
    no_evaluation: NoEvaluation = False,
) -> None:
    """Sends a verified export to the Hugging Face Hub.

    \b
    With its card, the figures of `rational evaluate` on it, and the manifest. Only what transformers or
    peft have reloaded and found equal is sent. Log in with `hf auth login`, or set HF_TOKEN.
      rational publish runs/llama me/llama-rational --private
      rational publish runs/llama me/llama-rational-lora --adapter
      rational publish runs/demo me/micro --arm rational --dry-run
    """
    with session((), False) as (_, progress):
        from rational_jax.stores import is_remote
        from rational_jax.workflow import mirror, publish

        folder = Path(run)
        if is_remote(run):
            copy = mirror.Mirror(run)
            copy.pull()
            folder = copy.local
        made = publish.prepare(folder, repository, arm=arm, adapter=adapter, evaluation=not no_evaluation)
        if dry_run:
            from rational_jax.cli.summary import print_table
            from rational_jax.text.terminal import one_line

            rows = [(name, f"{file.stat().st_size:,}") for name, file in made.files.items()]
            rows += [(name, f"{len(text.encode()):,}") for name, text in made.texts.items()]
            print_table(("file", "bytes"), rows)
            print()
            for line in made.texts[publish.CARD].splitlines():
                print(one_line(line))
            print(f"\n{made.bytes:,} bytes would go to {repository}; nothing was sent")
            return
        print(publish.publish(made, private=private, progress=progress))
