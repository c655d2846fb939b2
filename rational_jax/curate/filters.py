"""Which samples are kept. Each filter has a name and a reason for every sample that it rejects; none changes a sample.

The filters run in the order of `FILTERS`, each on what those before it left. A recipe may name a part of them. What
is rejected is kept aside with the reason, so leaving a filter out brings its samples back.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rational_jax.curate.consistency import PremiseSimilarity, Samples
from rational_jax.data.schema import Prompt
from rational_jax.errors import UserError
from rational_jax.text.reasoning import OK, ReasoningFormat, Split

SURPLUS = "surplus"

# Words, not tokens, so that they hold for any tokenizer.
LEAST_REASONING_WORDS = 3
MOST_WORDS = 1500
# Share of four-word sequences that were there before. Prose has a few percent; a loop has most of them.
MOST_REPEATED = 0.5
_NGRAM = 4
_LEAST_NGRAMS = 12

_RIGHT_VERDICT = {"harmful": ("refusal",), "benign": ("compliance",), "unknown": ("refusal", "compliance")}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One sample, taken apart and judged. `verdict` is the refusal judge's label of the answer alone."""

    id: str
    prompt: Prompt
    sample: int
    text: str
    split: Split
    verdict: str
    verdict_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A sample that is not kept: the name of the filter and what it saw."""

    candidate: Candidate
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """Every candidate is in exactly one of the two, in the order in which they came."""

    kept: list[Candidate]
    rejected: list[Rejection]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the filters go by.

    `control_tokens` lists the template's tokens that are written out in a text, `samples` is how many were drawn of
    each prompt, `keep` how many of them may stay.
    """

    reasoning: ReasoningFormat
    control_tokens: Callable[[str], Sequence[str]]
    samples: int
    keep: int


# A filter sees the candidates that are left, by prompt, and returns why which of them go: id -> detail.
Groups = Mapping[str, Sequence[Candidate]]
Filter = Callable[[Groups, Rules], dict[str, str]]


def apply_filters(candidates: Sequence[Candidate], rules: Rules, names: Sequence[str] | None = None) -> Filtered:
    """Runs the filters called `names` (None: all), and then keeps the best `rules.keep` samples of each prompt.

    A pure function of its arguments. Raises UserError for a filter that does not exist.
    """
    check_filter_names(names)
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.prompt.id, []).append(candidate)
    reasons: dict[str, tuple[str, str]] = {}
    chosen = {name: filter_ for name, filter_ in FILTERS.items() if names is None or name in names}
    for name, filter_ in {**chosen, SURPLUS: _surplus}.items():
        gone = filter_(groups, rules)
        reasons |= {id_: (name, detail) for id_, detail in gone.items()}
        groups = {key: [c for c in group if c.id not in gone] for key, group in groups.items()}
        groups = {key: group for key, group in groups.items() if group}
    kept = [candidate for candidate in candidates if candidate.id not in reasons]
    rejected = [
        Rejection(candidate=candidate, reason=reasons[candidate.id][0], detail=reasons[candidate.id][1])
        for candidate in candidates
        if candidate.id in reasons
    ]
    return Filtered(kept=kept, rejected=rejected)


def check_filter_names(names: Sequence[str] | None) -> None:
    """Raises UserError for a filter that does not exist."""
    unknown = [name for name in names or () if name not in FILTERS]
    if unknown:
        raise UserError(f"there is no filter {unknown[0]!r}; choose from {', '.join(FILTERS)}")


def _each(groups: Groups, problem: Callable[[Candidate], str]) -> dict[str, str]:
    found = {candidate.id: problem(candidate) for group in groups.values() for candidate in group}
    return {id_: detail for id_, detail in found.items() if detail}


def _format(groups: Groups, rules: Rules) -> dict[str, str]:
    """Reasoning and answer are both there, in this order, not cut off, and free of template tokens."""

    def problem(candidate: Candidate) -> str:
        split, text = candidate.split, candidate.text
        if split.status != OK:
            return split.status
        if not split.answer:
            return "no_answer"
        if rules.reasoning.open:
            once = text.count(rules.reasoning.open) == text.count(rules.reasoning.close) == 1
            if not once or not text.lstrip().startswith(rules.reasoning.open):
                return "delimiters"
        control = rules.control_tokens(text)
        return f"control token {control[0]}" if control else ""

    return _each(groups, problem)


def _length(groups: Groups, rules: Rules) -> dict[str, str]:
    """Reasoning of at least a few words; neither part endless."""

    def problem(candidate: Candidate) -> str:
        reasoning, answer = (len((part or "").split()) for part in (candidate.split.reasoning, candidate.split.answer))
        if reasoning < LEAST_REASONING_WORDS:
            return f"{reasoning} words of reasoning"
        longest = max(reasoning, answer)
        return f"{longest} words" if longest > MOST_WORDS else ""

    return _each(groups, problem)


def _repetition(groups: Groups, rules: Rules) -> dict[str, str]:
    """No part goes in circles."""

    def problem(candidate: Candidate) -> str:
        for part in (candidate.split.reasoning, candidate.split.answer):
            words = (part or "").split()
            ngrams = [tuple(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1)]
            if len(ngrams) >= _LEAST_NGRAMS:
                repeated = 1 - len(set(ngrams)) / len(ngrams)
                if repeated > MOST_REPEATED:
                    return f"{repeated:.0%} repeated"
        return ""

    return _each(groups, problem)


def _same_verdict(groups: Groups, rules: Rules) -> dict[str, str]:
    """Most samples of the prompt come to this verdict: at least half of the others do."""
    gone = {}
    for group in groups.values():
        counts = collections.Counter(candidate.verdict for candidate in group)
        for candidate in group:
            agreeing, others = counts[candidate.verdict] - 1, len(group) - 1
            if rules.samples > 1 and not _enough(agreeing, others):
                gone[candidate.id] = f"{candidate.verdict}, as {agreeing} of {others} others"
    return gone


def _label(groups: Groups, rules: Rules) -> dict[str, str]:
    """The judge's verdict fits the label: harmful is refused, benign complied with; unlabelled is one or the other."""

    def problem(candidate: Candidate) -> str:
        fits = candidate.verdict in _RIGHT_VERDICT[candidate.prompt.label]
        return "" if fits else f"{candidate.verdict} on {candidate.prompt.label}: {candidate.verdict_reason}"

    return _each(groups, problem)


def _same_premise(groups: Groups, rules: Rules) -> dict[str, str]:
    """At least half of the prompt's other samples reason from the same premise."""
    if rules.samples == 1:
        return {}
    gone = {}
    similarity = _similarity(groups)
    for key, group in groups.items():
        for i, row in enumerate(similarity.matrix(key)):
            agreeing = sum(value >= similarity.threshold for j, value in enumerate(row) if j != i)
            if not _enough(agreeing, len(group) - 1):
                gone[group[i].id] = f"as {agreeing} of {len(group) - 1} others"
    return gone


def _surplus(groups: Groups, rules: Rules) -> dict[str, str]:
    """Of each prompt the samples that are most like its others are kept: the ones that speak for all."""
    similarity = _similarity(groups)
    gone = {}
    for key, group in groups.items():
        typical = [sum(row) for row in similarity.matrix(key)]
        ranked = sorted(range(len(group)), key=lambda i: (-typical[i], group[i].sample))
        gone |= {group[i].id: f"{rank} of {len(group)}" for rank, i in enumerate(ranked, start=1) if rank > rules.keep}
    return gone


def _enough(agreeing: int, others: int) -> bool:
    return others > 0 and 2 * agreeing >= others


def _similarity(groups: Groups) -> PremiseSimilarity:
    return PremiseSimilarity(
        {
            key: Samples(
                kind=group[0].verdict,
                prompt=" ".join(message.content for message in group[0].prompt.messages),
                reasonings=[candidate.split.reasoning or "" for candidate in group],
            )
            for key, group in groups.items()
        }
    )


FILTERS: dict[str, Filter] = {
    "format": _format,
    "length": _length,
    "repetition": _repetition,
    "same_verdict": _same_verdict,
    "label": _label,
    "same_premise": _same_premise,
}
