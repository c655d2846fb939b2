"""Every family against transformers: logits however tokens are laid out in rows, gradients, and the cached decode.

The tolerance is the export gate's: `rational_jax.hub.verify` derives it.
"""

from __future__ import annotations

import dataclasses
import functools

import family_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rational_jax import hub, models
from rational_jax.models import Execution
from rational_jax.models.rope import inverse_frequencies

torch = pytest.importorskip("torch")
TOLERANCE = hub.TOLERANCE
# A gradient sums over 620 positions and its error comes from both directions of the pass.
GRADIENT_TOLERANCE = 1e-3
LENGTH = 620


def relative(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """`model(family, case)`: the torch model, our configuration and parameters read from what it saved."""

    @functools.cache
    def made(family, case):
        directory = tmp_path_factory.mktemp(family)
        theirs = family_cases.make(family, case, directory)
        config = hub.load_config(directory)
        return theirs, config, hub.load_params(directory, config)

    return made


def random_tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, family_cases.SIZES["vocab_size"], count)


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params, tokens, positions, segments):
    decoder = models.bind(config, params)
    return decoder.unembed(decoder(tokens, positions, segments)[0])


@pytest.mark.parametrize(("family", "case"), family_cases.ALL)
def test_logits_equal_those_of_transformers(model, family, case):
    theirs, config, params = model(family, case)
    whole, first, second = random_tokens(LENGTH), random_tokens(300, 1), random_tokens(LENGTH - 300, 2)
    pad = np.zeros(20, int)

    def row(*documents):
        tokens = np.concatenate([tokens for tokens, _ in documents])
        positions = np.concatenate([np.arange(len(tokens)) for tokens, _ in documents])
        segments = np.concatenate([np.full(len(tokens), segment) for tokens, segment in documents])
        return tokens, positions, segments

    rows = [
        row((whole, 1), (pad, 0)),
        row((pad, 0), (whole, 1)),
        row((first, 1), (second, 2), (pad, 0)),
    ]
    ours = np.asarray(logits(config, params, *(jnp.asarray(np.stack(x)) for x in zip(*rows, strict=True))))
    with torch.no_grad():
        alone = {len(t): theirs(torch.tensor(t[None])).logits[0].numpy() for t in (whole, first, second)}
    assert relative(ours[0, :LENGTH], alone[LENGTH]) <= TOLERANCE, "padded right"
    assert relative(ours[1, 20:], alone[LENGTH]) <= TOLERANCE, "padded left"
    assert relative(ours[2, :300], alone[300]) <= TOLERANCE, "packed, first"
    assert relative(ours[2, 300:LENGTH], alone[LENGTH - 300]) <= TOLERANCE, "packed, second"


@pytest.mark.parametrize(
    ("family", "case"),
    [pytest.param(*pair, marks=() if pair in family_cases.FIRST else pytest.mark.slow) for pair in family_cases.ALL],
)
def test_gradients_equal_those_of_transformers(model, tmp_path, family, case):
    theirs, config, params = model(family, case)
    tokens = random_tokens(LENGTH)

    def loss(params):
        decoder = models.bind(config, params)
        logits = decoder.unembed(decoder(jnp.asarray(tokens[None]))[0])[0, :-1]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(LENGTH - 1), tokens[1:]])

    value, ours = jax.jit(jax.value_and_grad(loss))(params)
    torch_tokens = torch.tensor(tokens)
    theirs.zero_grad()
    torch_loss = torch.nn.functional.cross_entropy(theirs(torch_tokens[None]).logits[0, :-1], torch_tokens[1:])
    torch_loss.backward()
    assert float(value) == pytest.approx(torch_loss.item(), rel=1e-5)
    # The gradients are saved as if they were weights: the names on disk are what both sides agree on.
    weights = [parameter.detach().clone() for parameter in theirs.parameters()]
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        theirs.save_pretrained(tmp_path)
        for parameter, weight in zip(theirs.parameters(), weights, strict=True):
            parameter.copy_(weight)
    expected = hub.load_params(tmp_path, config)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for (where, got), want in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        # What cancels to nearly nothing (a bias on keys) is measured against what it is a sum of.
        scale = max(float(jnp.abs(want).max()), 1e-3 * largest)
        assert float(jnp.abs(got - want).max()) <= GRADIENT_TOLERANCE * scale, jax.tree_util.keystr(where)


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize(("family", "case"), family_cases.FIRST)
def test_prefill_and_decode_equal_the_full_pass(model, family, case, scan):
    _, config, params = model(family, case)
    tokens = jnp.asarray(np.stack([random_tokens(64), random_tokens(64, 1)]))
    execution = Execution(scan=scan)

    @jax.jit
    def both(params, tokens):
        decoder = models.bind(config, params)
        full, _ = decoder(tokens, execution=execution)
        # The first tokens in one pass, of which windowed layers keep their window; the next ones as a chunk, in which
        # the second row has three tokens less.
        _, whole = decoder(tokens[:, :48], execution=execution)
        filled = models.cache.grouped(whole, jnp.array([48, 48]), models.cache.groups(config, 72))
        caches = jax.tree.map(
            lambda part, room: room.at[:, :, :, : part.shape[3]].set(part),
            filled,
            models.cache.empty(config, 2, 72, jnp.float32),
        )
        counts = jnp.array([8, 5])
        chunk, caches = decoder.extend(tokens[:, 48:56], jnp.array([48, 48]), counts, caches, execution=execution)

        # The second row runs three tokens behind: every row has its own position.
        def step(caches, index):
            places = jnp.array([index, index - 3])
            hidden, caches = decoder.decode(tokens[jnp.arange(2), places], places, caches, execution=execution)
            return caches, (hidden, full[jnp.arange(2), places])

        return chunk, full[:, 48:56], *jax.lax.scan(step, caches, jnp.arange(56, 64))[1]

    chunk, whole, decoded, expected = both(params, tokens)
    assert relative(decoded, expected) <= 1e-5
    assert relative(chunk[0], whole[0]) <= 1e-5 and relative(chunk[1, :5], whole[1, :5]) <= 1e-5


@pytest.mark.parametrize(
    ("family", "case", "context"),
    [
        ("llama", "dynamic rope", 1500),
        ("llama", "longrope", 200),
        ("llama", "longrope", 300),
        ("phi3", "longrope, window", 200),
    ],
)
def test_rope_that_switches_with_length_is_fixed_by_the_context(family, case, context):
    """transformers looks at the longest sequence of each call; here the `context` of the run decides for all."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    hf = family_cases.hf_config(family, case)
    kind = hf.rope_parameters["rope_type"]
    config = dataclasses.replace(hub.read_config(hf.to_dict()), context=context)
    expected, magnitude = ROPE_INIT_FUNCTIONS[kind](hf, "cpu", seq_len=context)
    assert relative(inverse_frequencies(config), expected.numpy()) <= 1e-6
    assert config.rope_scaling.magnitude == pytest.approx(magnitude)
    other = dataclasses.replace(config, context=1024 if context != 300 else 200)
    assert not np.allclose(inverse_frequencies(other), expected.numpy())
