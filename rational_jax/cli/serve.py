"""`rational serve`."""

from typing import Annotated

import typer

from rational_jax.cli.session import PrintConfig, Words, session

Model = Annotated[str, typer.Argument(help="base, an arm of the run, a folder, or a Hugging Face name.")]
Host = Annotated[str, typer.Option(help="Address to listen on; one that others can reach needs a key.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="What clients call the model; MODEL if not given.")]
Reasoning = Annotated[
    str, typer.Option(metavar="content|field", help="Where reasoning goes: into the text, or a field of its own.")
]
KeyVariable = Annotated[
    str,
    typer.Option(metavar="VARIABLE", help="Environment variable with the key that clients must send, if it is set."),
]
Waiting = Annotated[int, typer.Option(min=0, help="Requests that may wait for a slot; more get 429.")]
Bytes = Annotated[int, typer.Option(min=1024, help="Longest body of a request; longer ones get 413.")]


def serve(
    model: Model,
    words: Words = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    name: Name = None,
    reasoning: Reasoning = "content",
    api_key_env: KeyVariable = "RATIONAL_API_KEY",
    most_waiting: Waiting = 256,
    most_bytes: Bytes = 4 * 2**20,
    print_config: PrintConfig = False,
) -> None:
    """A model behind an HTTP interface.

    It is the one that OpenAI's clients, lm-eval and Inspect speak.

    \b
      rational serve base
      rational serve rational run=runs/demo engine.max_length=512
      rational serve ./my-model --reasoning field --port 8001
    """
    import os

    if reasoning not in ("content", "field"):
        raise typer.BadParameter(f"--reasoning {reasoning}: choose content or field")
    with session(words, print_config, jax=True) as (config, progress):
        from rational_jax.sample.serve import serve as run

        run(
            config,
            model,
            host=host,
            port=port,
            name=name,
            reasoning=reasoning,
            api_key=os.environ.get(api_key_env) or None,
            most_waiting=most_waiting,
            most_bytes=most_bytes,
            progress=progress,
        )
