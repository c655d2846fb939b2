"""A model served over HTTP until it is told to stop."""

from __future__ import annotations

import ipaddress

from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.progress import SILENT, Progress
from rational_jax.sample.backends import named, open_engine

DRAIN_SECONDS = 600


def serve(
    config: RunConfig,
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    reasoning: str = "content",
    api_key: str | None = None,
    most_waiting: int = 256,
    most_bytes: int = 4 * 2**20,
    progress: Progress = SILENT,
) -> None:
    """Serves "base", an arm of the run, a directory or a Hugging Face name, as `name` (None: `model`).

    Returns after SIGTERM or Ctrl-C, once what was asked before has been answered. Raises UserError where the model
    cannot be opened, the libraries are missing, or an address that others can reach is to be served without a key.
    """
    try:
        import uvicorn

        from rational_jax.sample.server import Server, ServerOptions
    except ImportError as error:
        raise UserError(f"serving needs {error.name}: pip install 'rational_jax[serve]'") from error
    if not api_key and not _is_loopback(host):
        raise UserError(f"--host {host} can be reached by others: set an API key, or keep to 127.0.0.1")
    options = ServerOptions(
        name=name or model,
        reasoning=reasoning,
        api_key=api_key,
        most_waiting=most_waiting,
        most_bytes=most_bytes,
    )
    backend = open_engine(*named(config, model))
    progress.message(f"serve {options.name}: compiling for prompts of any length, which may take minutes")
    backend.engine.warm_up(prompt_logprobs=True)
    backend.engine.warm_up(top_p=True)
    app = Server(backend.engine, backend.renderer, options).app
    settings = uvicorn.Config(
        app, host=host, port=port, log_level="warning", lifespan="on", timeout_graceful_shutdown=DRAIN_SECONDS
    )
    progress.message(f"serve {options.name}: http://{host}:{port}/v1")
    uvicorn.Server(settings).run()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
