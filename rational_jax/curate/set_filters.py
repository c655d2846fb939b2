"""Filters that compare a sample with those of other prompts, or that ask another model.

Each reads the stream of what is left, as often as it needs to, and yields the number of every sample that goes and why.
"""

from collections.abc import Callable, Iterator

from rational_jax.curate.candidates import Candidate, Numbered, Rules, Stream
from rational_jax.curate.consistency import PremiseSimilarity, Samples
from rational_jax.curate.text_filters import enough
from rational_jax.data.overlap import NearDuplicates
from rational_jax.sample.requests import derive_seed

# Two reasonings are near-duplicates from here on: the Jaccard similarity of their runs of five letters.
MOST_ALIKE = 0.8
SURPLUS, NEAR_DUPLICATE, DIVERSITY = "surplus", "near_duplicate", "diversity"
GOOD_IN_THEMSELVES = (SURPLUS, NEAR_DUPLICATE, DIVERSITY)
"""What these reject has nothing wrong but the company of others."""

SetFilter = Callable[[Stream, Rules], Iterator[tuple[int, str]]]


def _same_premise(stream: Stream, rules: Rules) -> Iterator[tuple[int, str]]:
    """At least half of the prompt's other samples reason from the same premise."""
    if rules.samples == 1:
        return
    similarity = _similarity(stream)
    for group in stream():
        for i, row in enumerate(similarity.matrix(_samples(group))):
            agreeing = sum(value >= similarity.threshold for j, value in enumerate(row) if j != i)
            if not enough(agreeing, len(group) - 1):
                yield group[i][0], f"as {agreeing} of {len(group) - 1} others"


def _near_duplicate(stream: Stream, rules: Rules) -> Iterator[tuple[int, str]]:
    """The reasoning is not nearly that of another sample before it."""
    known = NearDuplicates(MOST_ALIKE)
    ids: list[str] = []
    for group in stream():
        for number, candidate in group:
            if not candidate.split.reasoning:
                continue
            ids.append(candidate.id)
            like = known.add(candidate.split.reasoning)
            if like is not None:
                yield number, f"like {ids[like]}"


def _guard(stream: Stream, rules: Rules) -> Iterator[tuple[int, str]]:
    """The guard model finds no harm in what the sample says; where it says nothing that can be read, it did."""
    if rules.guard is None:
        return
    verdicts = rules.guard(_samples_in(stream))
    for group in stream():
        for number, candidate in group:
            verdict = verdicts[candidate.id]
            if verdict.label != "harmless":
                yield number, f"{verdict.label}: {verdict.reason}"


def _score(stream: Stream, rules: Rules) -> Iterator[tuple[int, str]]:
    """The mark that the judge gives is there and not below the least."""
    if rules.score is None:
        return
    verdicts = rules.score(_samples_in(stream))
    for group in stream():
        for number, candidate in group:
            verdict = verdicts[candidate.id]
            if verdict.score is None or (rules.least_score is not None and verdict.score < rules.least_score):
                yield number, verdict.reason


def _surplus(stream: Stream, rules: Rules) -> Iterator[tuple[int, str]]:
    """Of each prompt the samples with the best marks are kept, or else those that are most like its others."""
    if rules.samples <= rules.keep:
        return
    marks = rules.score(_samples_in(stream)) if rules.score is not None else {}
    similarity = _similarity(stream) if rules.score is None else None
    for group in stream():
        if len(group) <= rules.keep:
            continue
        if similarity is None:
            worth = [marks[candidate.id].score or 0.0 for _, candidate in group]
        else:
            worth = [sum(row) for row in similarity.matrix(_samples(group))]
        ranked = sorted(range(len(group)), key=lambda i: (-worth[i], group[i][1].sample))
        yield from (
            (group[i][0], f"{rank} of {len(group)}") for rank, i in enumerate(ranked, start=1) if rank > rules.keep
        )


def _diversity(stream: Stream, rules: Rules) -> Iterator[tuple[int, str]]:
    """At most `rules.most` in all: as many as there are of rare labels, categories and styles, and as many of each of
    the others as the rest allows. Chance decides which, so no part of the prompts is preferred."""
    if rules.most is None:
        return
    cells: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for group in stream():
        for number, one in group:
            key = (one.prompt.label, one.prompt.category, one.prompt.style)
            cells.setdefault(key, []).append((derive_seed(rules.seed, "diversity", one.id), number))
    left = rules.most
    for place, key in enumerate(sorted(cells, key=lambda key: (len(cells[key]), key))):
        share = min(len(cells[key]), left // (len(cells) - place))
        left -= share
        yield from ((number, " / ".join(filter(None, key))) for _, number in sorted(cells[key])[share:])


def _samples_in(stream: Stream) -> Iterator[Candidate]:
    return (candidate for group in stream() for _, candidate in group)


def _similarity(stream: Stream) -> PremiseSimilarity:
    return PremiseSimilarity(lambda: map(_samples, stream()))


def _samples(group: list[Numbered]) -> Samples:
    first = group[0][1]
    return Samples(
        kind=first.verdict,
        prompt=" ".join(message.content for message in first.prompt.messages),
        reasonings=[candidate.split.reasoning or "" for _, candidate in group],
    )


SET_FILTERS: dict[str, SetFilter] = {
    "same_premise": _same_premise,
    "guard": _guard,
    "score": _score,
    SURPLUS: _surplus,
    # Of what stays of each prompt only: its own samples are bound to be alike.
    NEAR_DUPLICATE: _near_duplicate,
    DIVERSITY: _diversity,
}
