"""A model served over HTTP until it is told to stop."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket

from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.progress import SILENT, Progress
from rational_jax.sample.backends import named, open_engine

_NOT_THERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


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

    SIGTERM and Ctrl-C take their usual effect (the process ends; KeyboardInterrupt is raised) once what was asked
    before has been answered. Raises UserError where the port is in use or no address of the host is this machine's,
    the model cannot be opened, the libraries are missing, or an address that others can reach is to be served without
    a key.
    """
    try:
        import uvicorn

        from rational_jax.sample.server import DRAIN_SECONDS, Server, ServerOptions
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
    with contextlib.ExitStack() as opened:
        # Nobody should wait for a model to be compiled to learn that its port is in use.
        places = _bound(host, port, opened)
        backend = open_engine(*named(config, model))
        progress.message(f"serve {options.name}: compiling for prompts of any length, which may take minutes")
        backend.engine.warm_up(prompt_logprobs=True)
        backend.engine.warm_up(top_p=True)
        app = Server(backend.engine, backend.renderer, options).app
        settings = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=DRAIN_SECONDS)
        progress.message(f"serve {options.name}: http://{host}:{port}/v1")
        uvicorn.Server(settings).run(sockets=places)


def _bound(host: str, port: int, opened: contextlib.ExitStack) -> list[socket.socket]:
    """A socket for each address of the host, where connections wait; UserError where there can be none."""
    places, problems = [], []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        found, problems = [], [error]
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            place = opened.enter_context(socket.socket(family, kind, protocol))
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended is none
            if family == socket.AF_INET6:
                place.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            place.bind(address)
            place.listen()  # before that another server could bind it too
            places.append(place)
        except OSError as error:
            problems.append(error)
    # A name may stand for addresses that are not there, such as ::1 where there is no IPv6.
    problems = [error for error in problems if not places or error.errno not in _NOT_THERE]
    if problems:
        raise UserError(f"--host {host} --port {port}: {problems[0].strerror}; choose another")
    return places


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
