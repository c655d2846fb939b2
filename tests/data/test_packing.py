import dataclasses

import numpy as np
import pytest

from rational_jax.data.packing import balancing_weight, pack
from rational_jax.errors import UserError
from rational_jax.text.chat import ANSWER, PROMPT, REASONING, Example


def example(length, start=0, prompt=1, reasoning=0):
    kinds = np.full(length, ANSWER, np.uint8)
    kinds[:prompt] = PROMPT
    kinds[prompt : prompt + reasoning] = REASONING
    return Example(tokens=np.arange(start, start + length, dtype=np.int32), kinds=kinds)


def random_examples(count=200, longest=40):
    rng = np.random.default_rng(0)
    return [
        example(int(n), 1000 * i, prompt=int(rng.integers(0, n))) for i, n in enumerate(rng.integers(2, longest, count))
    ]


def test_every_example_is_there_once_and_whole():
    examples = random_examples()
    packed = pack(examples, length=48)
    found = []
    for row in range(len(packed.tokens)):
        used = packed.segments[row] > 0
        assert not packed.tokens[row, ~used].any() and not packed.weights[row, ~used].any()
        assert not packed.positions[row, ~used].any() and not packed.kinds[row, ~used].any()
        for segment in range(1, packed.segments[row].max() + 1):
            here = np.flatnonzero(packed.segments[row] == segment)
            assert (np.diff(here) == 1).all()
            assert (packed.positions[row, here] == np.arange(len(here))).all()
            assert packed.weights[row, here[0]] == 0
            found.append(tuple(packed.tokens[row, here]))
    assert sorted(found) == sorted(tuple(e.tokens) for e in examples)
    assert packed.report.tokens == sum(map(len, found)) == (packed.segments > 0).sum()
    assert packed.report.efficiency == packed.report.tokens / packed.tokens.size > 0.95


def test_dtypes_and_determinism():
    packed, again = pack(random_examples(), length=48), pack(random_examples(), length=48)
    dtypes = {"tokens": np.int32, "segments": np.int32, "positions": np.int32, "weights": np.float32, "kinds": np.uint8}
    for name, dtype in dtypes.items():
        assert getattr(packed, name).dtype == dtype
        assert getattr(packed, name).tobytes() == getattr(again, name).tobytes()


def test_best_fit_takes_the_fullest_row():
    # 6 and 5 open two rows of 8; the 2 fits both and must go to the 6, so that the 3 still finds the 5.
    packed = pack([example(2, 20), example(6, 60), example(3, 30), example(5, 50)], length=8)
    assert packed.tokens.tolist() == [[60, 61, 62, 63, 64, 65, 20, 21], [50, 51, 52, 53, 54, 30, 31, 32]]
    assert packed.segments.tolist() == [[1, 1, 1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 1, 2, 2, 2]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 4, 0, 1, 2]]


def test_weights_are_those_of_the_target():
    packed = pack([example(6, prompt=2, reasoning=2)], length=8, reasoning_weight=0.25)
    assert packed.kinds[0].tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    assert packed.weights[0].tolist() == [0, 0, 0.25, 0.25, 1, 1, 0, 0]
    # Without a prompt the first token is predicted from nothing.
    assert pack([example(3, prompt=0)], length=4).weights[0].tolist() == [0, 1, 1, 0]


def test_exactly_a_row_longer_and_one_token():
    packed = pack([example(8), example(9), example(1, prompt=0), example(4, prompt=4)], length=8)
    assert packed.tokens.tolist() == [list(range(8))]
    expected = {"rows": 1, "examples": 1, "dropped": 1, "truncated": 0, "masked": 2, "lost": 1, "tokens": 8}
    expected["efficiency"] = 1.0
    assert dataclasses.asdict(packed.report) == expected


def test_truncation_is_counted_once_and_only_where_the_example_stays():
    packed = pack([example(10), example(10, prompt=9)], length=8, overlong="truncate")
    assert packed.tokens.tolist() == [list(range(8))]
    assert (packed.report.truncated, packed.report.masked, packed.report.dropped) == (1, 1, 0)
    assert packed.report.lost == 2
    # What is cut off is reasoning behind the answer: nothing of the answer is lost.
    late = example(10, prompt=2)
    late.kinds[7:] = REASONING
    assert pack([late], length=8, overlong="truncate").report.lost == 0


@pytest.mark.parametrize(
    ("loss_on", "weights"),
    [
        ("completion", [0, 0, 0.5, 0.5, 1, 1]),
        ("answer", [0, 0, 0, 0, 1, 1]),
        ("reasoning", [0, 0, 0.5, 0.5, 0, 0]),
        ("all", [0, 1, 0.5, 0.5, 1, 1]),
    ],
)
def test_which_tokens_have_a_loss(loss_on, weights):
    packed = pack([example(6, prompt=2, reasoning=2)], length=6, reasoning_weight=0.5, loss_on=loss_on)
    assert packed.weights[0].tolist() == weights


def test_rows_know_their_examples():
    examples = [*random_examples(40), example(49), example(4, prompt=4)]
    packed = pack(examples, length=48)
    assert sorted(i for row in packed.members for i in row) == list(range(40))
    for row, members in enumerate(packed.members):
        for segment, number in enumerate(members, start=1):
            assert packed.tokens[row, packed.segments[row] == segment].tolist() == examples[number].tokens.tolist()


def test_one_example_to_a_row_padded_or_bucketed():
    examples = [example(n) for n in (3, 9, 20, 48, 12, 13, 24, 25)]
    padded, bucketed = (pack(examples, length=48, rows=rows) for rows in ("padded", "bucketed"))
    assert padded.members == bucketed.members == tuple((i,) for i in range(8))
    assert padded.lengths.tolist() == [48] * 8
    assert bucketed.lengths.tolist() == [6, 12, 24, 48, 12, 24, 24, 48]
    assert padded.report.efficiency == 154 / (8 * 48)
    assert bucketed.report.efficiency == 154 / (6 + 12 + 24 + 48 + 12 + 24 + 24 + 48)
    # A kernel's blocks are whole.
    assert pack([example(5)], length=512, rows="bucketed").lengths.tolist() == [128]


def test_reasoning_weight_zero_masks_what_is_only_reasoning():
    packed = pack([example(4, prompt=1, reasoning=3), example(4, 40)], length=4, reasoning_weight=0)
    assert packed.tokens.tolist() == [[40, 41, 42, 43]] and packed.report.masked == 1


def test_the_balancing_weight_makes_reasoning_and_answers_weigh_the_same():
    examples = [
        example(16, prompt=4, reasoning=9),
        example(24, prompt=5, reasoning=12),
        example(35, prompt=3, reasoning=30),
        example(8, prompt=0, reasoning=4),
    ]
    weight = balancing_weight(pack(examples, length=40))
    packed = pack(examples, length=40, reasoning_weight=weight)
    by_kind = [packed.weights[packed.kinds == kind].sum() for kind in (REASONING, ANSWER)]
    assert by_kind[0] == pytest.approx(by_kind[1])
    assert by_kind[1] == 16
    assert weight == pytest.approx(16 / 54)  # one of the 55 is the first token of its example, which nothing predicts
    # What they were packed with does not matter.
    assert balancing_weight(pack(examples, length=40, reasoning_weight=0.0)) == weight
    assert balancing_weight(pack([example(7, prompt=4)], length=40)) is None


@pytest.mark.parametrize(
    ("examples", "options", "message"),
    [
        ([], {"length": 8}, "no example"),
        ([example(9)], {"length": 8}, "1 are longer than train.sequence_length=8"),
        ([example(4, prompt=4)], {"length": 8}, "none of 1 has a token with a loss weight"),
        ([example(4)], {"length": 1}, "train.sequence_length"),
        ([example(4)], {"length": 8, "reasoning_weight": -1.0}, "train.reasoning_weight"),
        ([example(4)], {"length": 8, "reasoning_weight": float("nan")}, "train.reasoning_weight"),
    ],
)
def test_refusals(examples, options, message):
    with pytest.raises(UserError, match=message):
        pack(examples, **options)
