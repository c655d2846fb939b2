import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rational_jax.data.packing import pack
from rational_jax.models import Execution, bind
from rational_jax.text.chat import ANSWER, REASONING
from rational_jax.train.loss import loss_sums, token_losses

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


def test_chunks_change_neither_loss_nor_gradient(config, params):
    decoder = bind(config, params)
    hidden = jax.random.normal(jax.random.key(1), (37, config.embed_dim))
    targets = jax.random.randint(jax.random.key(2), (37,), 0, config.vocab_size)

    def total(hidden, chunk):
        return jnp.sum(jnp.sin(token_losses(decoder, hidden, targets, chunk)))

    whole, parts = (jax.value_and_grad(total)(hidden, chunk) for chunk in (64, 8))
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-5, atol=1e-6)
