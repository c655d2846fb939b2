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
    the rows, but cut at the end of one. `efficiency` is the share of places that hold a token, `tokens` their number.
    """

    rows: int
    examples: int
    dropped: int
    truncated: int
    masked: int
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
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    weights: np.ndarray
    kinds: np.ndarray
    report: PackingReport


def pack(examples: Sequence[Example], length: int, reasoning_weight: float = 1.0, overlong: str = "drop") -> Packed:
    """Packs examples into rows of `length` tokens: longest first, each into the fullest row that it fits in.

    A pure function of its arguments. Answer tokens weigh 1, reasoning tokens `reasoning_weight`, prompt tokens 0.
    Examples longer than a row are dropped, or cut at its end with `overlong="truncate"`; either is counted.

    Raises UserError where no example is left.
    """
    if length < 2:
        raise UserError(f"train.sequence_length: {length} is too short: a row needs at least 2 tokens")
    if not (np.isfinite(reasoning_weight) and reasoning_weight >= 0):
        raise UserError(f"train.reasoning_weight: {reasoning_weight} is not a weight of zero or more")
    if overlong not in ("drop", "truncate"):
        raise ValueError(f"overlong must be 'drop' or 'truncate', not {overlong!r}")
    by_kind = np.zeros(3, np.float32)
    by_kind[REASONING] = reasoning_weight
    by_kind[ANSWER] = 1.0

    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    dropped = truncated = masked = 0
    for example in examples:
        is_long = len(example.tokens) > length
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
        kept.append((tokens, kinds, weights))
    if not kept:
        raise UserError(_nothing_left(len(examples), dropped, masked, length))

    rows = _best_fit([len(tokens) for tokens, _, _ in kept], length)
    shape = (len(rows), length)
    packed = Packed(
        tokens=np.zeros(shape, np.int32),
        segments=np.zeros(shape, np.int32),
        positions=np.zeros(shape, np.int32),
        weights=np.zeros(shape, np.float32),
        kinds=np.full(shape, PROMPT, np.uint8),
        report=PackingReport(
            rows=len(rows),
            examples=len(kept),
            dropped=dropped,
            truncated=truncated,
            masked=masked,
            tokens=sum(len(tokens) for tokens, _, _ in kept),
            efficiency=sum(len(tokens) for tokens, _, _ in kept) / (len(rows) * length),
        ),
    )
    for row, members in enumerate(rows):
        start = 0
        for segment, member in enumerate(members, start=1):
            tokens, kinds, weights = kept[member]
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
