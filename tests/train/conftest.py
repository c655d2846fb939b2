"""A tiny decoder and packed examples of random tokens."""

import jax
import numpy as np
import pytest
from tiny import tiny_llama

from rational_jax import models
from rational_jax.data.batches import Batches
from rational_jax.data.packing import pack
from rational_jax.text.chat import ANSWER, PROMPT, REASONING, Example

CONFIG = tiny_llama()


@pytest.fixture(scope="session")
def config():
    return CONFIG


@pytest.fixture(scope="session")
def params():
    return jax.tree.map(lambda x: 5 * x, models.init_params(CONFIG, jax.random.key(0)))


@pytest.fixture(scope="session")
def examples():
    rng = np.random.default_rng(0)

    def example(prompt: int, reasoning: int, answer: int) -> Example:
        kinds = np.repeat(np.array([PROMPT, REASONING, ANSWER], np.uint8), [prompt, reasoning, answer])
        return Example(tokens=rng.integers(1, CONFIG.vocab_size, len(kinds), dtype=np.int32), kinds=kinds)

    return [example(*rng.integers(2, 9, 3)) for _ in range(60)]


@pytest.fixture(scope="session")
def batches(examples):
    return Batches(pack(examples, length=48), batch_size=8, seed=3)
