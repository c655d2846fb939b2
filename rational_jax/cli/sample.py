"""`rational sample`."""

from typing import Annotated

import typer

from rational_jax.cli.session import PrintConfig, Words, chosen, session

Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="MODEL", help="Only this one of sample.models; may be repeated.")
]
Prompt = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Answer this, and leave no file; - reads it from standard input.")
]
Chat = Annotated[
    bool, typer.Option("--chat", help="A conversation at the terminal. MODEL may be a folder or a Hugging Face name.")
]


def sample(
    words: Words = None,
    model: Models = None,
    prompt: Prompt = None,
    chat: Chat = False,
    print_config: PrintConfig = False,
) -> None:
    """The models answer the prompts of the test suites.

    \b
    Leaves answers.jsonl under RUN/sample/MODEL, in the order of the prompts.
      rational sample
      rational sample --model base sample.limit=20 run=runs/quick
      rational sample --model base run=runs/mine "sample.suites=[my-prompts.jsonl]"
      rational sample sample.temperature=0.7 sample.samples=4 run=runs/sampled
      rational sample --model base --prompt "Tell me about the dorn."
      rational sample --model rational --chat engine.weights=checkpoint

    \b
    Started on every host of a TPU pod, all of them generate; the first one reads and writes the run.
    """
    if prompt is not None and chat:
        raise typer.BadParameter("--prompt and --chat: choose one")
    several = prompt is None and not chat
    with session(words, print_config, jax=True, processes=several) as (config, progress):
        from rational_jax import sample

        if several:
            names = chosen(model, config.sample.models, "--model", "sample.models")
            sample.led(lambda: [sample.run(config, name, progress) for name in names])
            return
        from rational_jax.cli.chat import converse
        from rational_jax.errors import UserError

        if len(model or ()) > 1:
            raise UserError("--model: one of them answers --prompt and --chat")
        converse(sample.open_conversation(config, *(model or ()), progress=progress), prompt)
