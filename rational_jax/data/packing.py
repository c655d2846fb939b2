"""Examples into rows of one length, ahead of time."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rational_jax.errors import UserError
from rational_jax.text.chat import ANSWER, PROMPT, REASONING, Example


@dataclass(frozen=True, kw_only=True)
class PackingReport:
    """What became of the examples: `examples` are in the `rows`; the others were left out and are counted by reason.

    `dropped`: longer than a row. `masked`: nothing in it to learn from (every loss weight is zero). `truncated`: in
    the rows, but cut at the end of one. `lost`: those among the dropped and truncated whose answer is gone, or a part
    of it. `efficiency` is the share of places that hold a token, `tokens` their number.
    """

    rows: int
    examples: int
    dropped: int
    truncated: int
    masked: int
    lost: int
    tokens: int
    efficiency: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Rows of examples. R rows of S places:

    tokens [R, S] int32: token ids, 0 in padding.
    segments [R, S] int32: 1, 2, ... for the examples of a row, 0 for padding.
    positions [R, S] int32: place inside the example, 0 in padding.
    weights [R, S] float32: loss weight of the token at that place AS A TARGET, that is of predicting tokens[t] from
    what is before t in its example; the first token of an example is predicted from nothing and has weight 0. kinds
    [R, S] uint8: PROMPT, REASONING or ANSWER; PROMPT in padding.

    lengths [R] int32: to which length a row may be cut without losing a token: one of a few where examples were
    bucketed, else S. `members`: for each row the numbers of its examples among those given to `pack`.
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    weights: np.ndarray
    kinds: np.ndarray
    lengths: np.ndarray
    members: tuple[tuple[int, ...], ...]
    report: PackingReport


PACKED, BUCKETED, PADDED = "packed", "bucketed", "padded"
_FEWEST_TOKENS = 128  # in a bucket, where the rows are long enough: what attention kernels work on at a time
_MOST_BUCKETS = 4


def pack(
    examples: Sequence[Example],
    length: int,
    reasoning_weight: float = 1.0,
    overlong: str = "drop",
    *,
    rows: str = PACKED,
    loss_on: str = "completion",
) -> Packed:
    """Packs examples into rows of `length` tokens: longest first, each into the fullest row that it fits in.

    A pure function of its arguments. Answer tokens weigh 1, reasoning tokens `reasoning_weight`, prompt tokens 0; with
    `loss_on` "answer" or "reasoning" the other of the two weighs 0 as well, and with "all" a prompt token weighs 1.
    Examples longer than a row are dropped, or cut at its end with `overlong="truncate"`; either is counted. With `rows`
    "padded" or "bucketed" every example has a row of its own, bucketed ones of one of a few lengths: `length` and its
    halves.

    Raises UserError where no example is left.
    """
    if length < 2:
        raise UserError(f"train.sequence_length: {length} is too short: a row needs at least 2 tokens")
    if not (np.isfinite(reasoning_weight) and reasoning_weight >= 0):
        raise UserError(f"train.reasoning_weight: {reasoning_weight} is not a weight of zero or more")
    if overlong not in ("drop", "truncate"):
        raise ValueError(f"overlong must be 'drop' or 'truncate', not {overlong!r}")
    by_kind = np.zeros(3, np.float32)
    by_kind[PROMPT] = loss_on == "all"
    by_kind[REASONING] = reasoning_weight * (loss_on != "answer")
    by_kind[ANSWER] = loss_on != "reasoning"

    kept: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
    dropped = truncated = masked = lost = 0
    for number, example in enumerate(examples):
        is_long = len(example.tokens) > length
        lost += bool((example.kinds[length:] == ANSWER).any())
        if is_long and overlong == "drop":
            dropped += 1
            continue
        tokens, kinds = example.tokens[:length], example.kinds[:length]
        weights = by_kind[kinds]
        weights[:1] = 0.0
        if not weights.any():
            masked += 1
            continue
        truncated += is_long
        kept.append((number, tokens, kinds, weights))
    if not kept:
        raise UserError(_nothing_left(len(examples), dropped, masked, length))

    used = [len(tokens) for _, tokens, _, _ in kept]
    dealt = _best_fit(used, length) if rows == PACKED else [[i] for i in range(len(kept))]
    buckets = _buckets(length) if rows == BUCKETED else [length]
    lengths = [min(bucket for bucket in buckets if bucket >= sum(used[i] for i in members)) for members in dealt]
    shape = (len(dealt), length)
    packed = Packed(
        tokens=np.zeros(shape, np.int32),
        segments=np.zeros(shape, np.int32),
        positions=np.zeros(shape, np.int32),
        weights=np.zeros(shape, np.float32),
        kinds=np.full(shape, PROMPT, np.uint8),
        lengths=np.array(lengths, np.int32),
        members=tuple(tuple(kept[i][0] for i in members) for members in dealt),
        report=PackingReport(
            rows=len(dealt),
            examples=len(kept),
            dropped=dropped,
            truncated=truncated,
            masked=masked,
            lost=lost,
            tokens=sum(used),
            efficiency=sum(used) / sum(lengths),
        ),
    )
    for row, members in enumerate(dealt):
        start = 0
        for segment, member in enumerate(members, start=1):
            _, tokens, kinds, weights = kept[member]
            place = slice(start, start + len(tokens))
            packed.tokens[row, place] = tokens
            packed.segments[row, place] = segment
            packed.positions[row, place] = np.arange(len(tokens))
            packed.weights[row, place] = weights
            packed.kinds[row, place] = kinds
            start += len(tokens)
    return packed


def balancing_weight(packed: Packed) -> float | None:
    """The `reasoning_weight` with which all reasoning weighs as much as all answers; None where there is no reasoning.

    The weights that `packed` has do not matter.
    """
    targets = packed.positions > 0  # neither padding nor first tokens, which nothing predicts
    reasoning, answer = (int((targets & (packed.kinds == kind)).sum()) for kind in (REASONING, ANSWER))
    return answer / reasoning if reasoning else None


def _best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the members of each row, by index into `lengths`. Ties go to the lower index."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free places, row) of every row that is not full, sorted
    for member in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        found = bisect.bisect_left(room, (lengths[member], 0))
        if found < len(room):
            free, row = room.pop(found)
        else:
            free, row = capacity, len(rows)
            rows.append([])
        rows[row].append(member)
        free -= lengths[member]
        if free:
            bisect.insort(room, (free, row))
    return rows


def _buckets(length: int) -> list[int]:
    """Lengths of rows: `length` and its halves, as long as they are whole and none is too short for a kernel."""
    found = [length]
    fewest = _FEWEST_TOKENS if length % _FEWEST_TOKENS == 0 else 2
    while len(found) < _MOST_BUCKETS and found[-1] % (2 * fewest) == 0:
        found.append(found[-1] // 2)
    return found


def _nothing_left(examples: int, dropped: int, masked: int, length: int) -> str:
    if not examples:
        return "there is no example to pack"
    if dropped:
        return (
            f"no example is left to train on: of {examples}, {dropped} are longer than train.sequence_length={length} "
            f"and {masked} have no token with a loss weight; raise train.sequence_length"
        )
    return (
        f"no example is left to train on: none of {examples} has a token with a loss weight (train.reasoning_weight?)"
    )
