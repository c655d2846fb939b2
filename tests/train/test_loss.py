import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_llama

from rational_jax import models
from rational_jax.data.packing import pack
from rational_jax.models import Execution, bind
from rational_jax.text.chat import ANSWER, REASONING
from rational_jax.train.loss import loss_sums

EXECUTION = Execution(scan=False)


def batch_of(packed):
    names = ("tokens", "segments", "positions", "weights", "kinds")
    return {name: jnp.asarray(getattr(packed, name)) for name in names}


def by_hand(decoder, examples):
    """Sums in float64 numpy, example by example, straight from the definition."""
    sums = {REASONING: 0.0, ANSWER: 0.0}
    for example in examples:
        hidden, _ = decoder(jnp.asarray(example.tokens)[None], execution=EXECUTION)
        logits = np.asarray(decoder.unembed(hidden)[0], np.float64)
        for place in range(1, len(example.tokens)):
            row = logits[place - 1]
            if (kind := int(example.kinds[place])) in sums:
                sums[kind] += np.log(np.exp(row - row.max()).sum()) + row.max() - row[example.tokens[place]]
    return sums


@pytest.mark.parametrize("reasoning_weight", [1.0, 0.25])
def test_packed_loss_equals_the_sum_over_single_examples(config, params, examples, reasoning_weight):
    few = examples[:6]
    packed = pack(few, length=32, reasoning_weight=reasoning_weight)
    assert packed.report.rows < len(few)
    decoder = bind(config, params)
    sums = loss_sums(decoder, batch_of(packed), EXECUTION)
    expected = by_hand(decoder, few)
    # float32 against float64 over about 70 tokens: the error of a sum grows with its length.
    assert float(sums.reasoning) == pytest.approx(expected[REASONING], rel=1e-5)
    assert float(sums.answer) == pytest.approx(expected[ANSWER], rel=1e-5)
    assert float(sums.weighted) == pytest.approx(reasoning_weight * expected[REASONING] + expected[ANSWER], rel=1e-5)
    counts = [sum(int((example.kinds == kind).sum()) for example in few) for kind in (REASONING, ANSWER)]
    assert [float(sums.reasoning_tokens), float(sums.answer_tokens)] == counts
    assert float(sums.weight) == pytest.approx(reasoning_weight * counts[0] + counts[1])


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_chunks_change_neither_loss_nor_gradient(config, params, examples, z_loss):
    batch = batch_of(pack(examples[:6], length=37))

    def total(params, chunk):
        sums = loss_sums(bind(config, params), batch, EXECUTION, z_loss=z_loss, chunk_tokens=chunk)
        return sums.weighted

    (whole, exact), *others = (jax.value_and_grad(total)(params, chunk) for chunk in (10_000, 64, 20))
    for value, gradient in others:
        np.testing.assert_allclose(value, whole, rtol=1e-6)
        for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(exact), strict=True):
            assert float(jnp.abs(ours - theirs).max()) <= 1e-5 * float(jnp.abs(theirs).max())


def test_the_gradient_is_that_of_the_plain_definition(config, params, examples):
    """The loss brings its own derivative; here it is taken of the definition instead."""
    batch = batch_of(pack(examples[:6], length=37))

    def plain(params):
        decoder = bind(config, params)
        hidden, _ = decoder(batch["tokens"], batch["positions"], batch["segments"], execution=EXECUTION)
        logits = decoder.unembed(hidden)[:, :-1]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["tokens"][:, 1:, None], axis=-1)[..., 0]
        partition = jax.nn.logsumexp(logits, axis=-1)
        return jnp.sum((losses + 0.1 * partition**2) * batch["weights"][:, 1:])

    def ours(params):
        return loss_sums(bind(config, params), batch, EXECUTION, z_loss=0.1, chunk_tokens=30).weighted

    expected, got = jax.value_and_grad(plain)(params), jax.value_and_grad(ours)(params)
    for theirs, mine in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        assert float(jnp.abs(mine - theirs).max()) <= 1e-5 * float(jnp.abs(theirs).max())


def test_a_frozen_matrix_gets_no_gradient(config, params, examples):
    """What is as large as the vocabulary times the width is made for a matrix that is trained, and not for others."""
    batch = batch_of(pack(examples[:2], length=32))
    matrix = params["embed"]["weight"].shape

    def products(loss):
        found = []

        def walk(jaxpr):
            for equation in jaxpr.eqns:
                found.extend(out.aval.shape for out in equation.outvars if equation.primitive.name == "dot_general")
                for inner in jax.extend.core.jaxprs_in_params(equation.params):
                    walk(inner)

        walk(jax.make_jaxpr(jax.grad(loss))(params["layers"]).jaxpr)
        return found

    def frozen(layers):
        return loss_sums(bind(config, params | {"layers": layers}), batch, EXECUTION).weighted

    def trained(layers):
        scale = 1 + jnp.sum(jax.tree.leaves(layers)[0])
        scaled = jax.tree.map(lambda leaf: leaf * scale, {k: v for k, v in params.items() if k != "layers"})
        return loss_sums(bind(config, scaled | {"layers": layers}), batch, EXECUTION).weighted

    assert products(trained).count(matrix) == products(frozen).count(matrix) + 1


@pytest.mark.parametrize("implementation", ["reference", "xla", "splash-interpreted", "triton-interpreted"])
def test_packed_or_not_the_loss_and_its_gradient_are_the_same(examples, implementation):
    config = tiny_llama(num_layers=1, num_heads=2, num_kv_heads=1, head_dim=64)  # what the kernels can do
    params = jax.tree.map(lambda x: 5 * x, models.init_params(config, jax.random.key(0)))
    execution = Execution(scan=False, attention=implementation)

    def total(params, batch):
        sums = loss_sums(bind(config, params), batch, execution)
        return sums.weighted, sums

    packed, padded = (pack(examples[:5], length=128, rows=rows) for rows in ("packed", "padded"))
    assert packed.report.rows < padded.report.rows == 5
    gradient = jax.jit(jax.value_and_grad(total, has_aux=True))
    results = [gradient(params, batch_of(rows)) for rows in (packed, padded)]
    ((_, ours), mine), ((_, theirs), other) = results
    # The same terms in another order and with other masks: float32 rounding over about 80 of them.
    for a, b in zip(ours, theirs, strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-5)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True):
        assert float(jnp.abs(a - b).max()) <= 1e-5 * float(jnp.abs(b).max())
