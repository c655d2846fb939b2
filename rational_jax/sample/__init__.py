"""Tokens from a model: requests in, completions out as they finish."""

from rational_jax.sample.backends import (
    Backend,
    EngineBackend,
    deciding,
    led,
    model_directory,
    model_identity,
    open_backend,
    open_engine,
)
from rational_jax.sample.conversation import Conversation, open_conversation
from rational_jax.sample.engine import Counters, Engine
from rational_jax.sample.requests import FILTERED, LENGTH, STOP, Completion, Rejected, Request, derive_seed
from rational_jax.sample.run import run
from rational_jax.sample.session import Session

__all__ = [
    "FILTERED",
    "LENGTH",
    "STOP",
    "Backend",
    "Completion",
    "Conversation",
    "Counters",
    "Engine",
    "EngineBackend",
    "Rejected",
    "Request",
    "Session",
    "deciding",
    "derive_seed",
    "led",
    "model_directory",
    "model_identity",
    "open_backend",
    "open_conversation",
    "open_engine",
    "run",
]
