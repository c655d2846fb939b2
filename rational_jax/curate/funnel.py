"""What became of the samples, in numbers that add up."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rational_jax.curate.filters import FILTERS, SURPLUS, Candidate, Filtered
from rational_jax.judges import simplify

# The micro world's prompts say here what is true of their object.
PREMISE = "premise"


@dataclass(frozen=True, kw_only=True)
class Premises:
    """How often the reasoning states the premise that is known to be true: before any filter, and in what is kept.

    `generated` and `kept` are (right, all) counts of samples that have reasoning. The truth is counted here and
    filters nothing.
    """

    generated: tuple[int, int]
    kept: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """`samples` = `kept` + the sum of `rejected` (filter -> count, in the filters' order).

    `covered` prompts have at least one kept sample. `labels`: label -> (kept, samples). `premises` is None where no
    prompt says what is true.
    """

    prompts: int
    samples: int
    rejected: Mapping[str, int]
    kept: int
    covered: int
    labels: Mapping[str, tuple[int, int]]
    premises: Premises | None

    def rows(self) -> dict[str, int]:
        """The funnel as a table: what -> how many samples."""
        return {
            "generated": self.samples,
            **{f"rejected: {name}": count for name, count in self.rejected.items()},
            "kept": self.kept,
        }

    def to_json(self) -> dict:
        """For funnel.json."""
        premises = self.premises
        return {
            "prompts": self.prompts,
            "covered": self.covered,
            "samples": self.samples,
            "rejected": dict(self.rejected),
            "kept": self.kept,
            "labels": {label: {"kept": kept, "samples": count} for label, (kept, count) in self.labels.items()},
            "premises": premises
            and {
                when: {"right": right, "of": count, "accuracy": right / count if count else None}
                for when, (right, count) in (("generated", premises.generated), ("kept", premises.kept))
            },
        }

    def lines(self) -> list[str]:
        """The funnel in words, a line each."""
        gone = ", ".join(f"{name} {count:,}" for name, count in self.rejected.items() if count) or "none"
        lines = [
            f"{self.samples:,} samples of {self.prompts:,} prompts: {self.kept:,} kept, for {self.covered:,} prompts; "
            f"rejected: {gone}"
        ]
        if self.premises:
            before, after = (f"{right / max(count, 1):.1%}" for right, count in _both(self.premises))
            lines.append(f"the premise is right in {before} of what was generated and {after} of what is kept")
        return lines


def make_funnel(candidates: Sequence[Candidate], filtered: Filtered) -> Funnel:
    """Counts; raises AssertionError should a sample be lost or counted twice, which would be a bug."""
    counts = collections.Counter(rejection.reason for rejection in filtered.rejected)
    rejected = {name: counts[name] for name in (*FILTERS, SURPLUS)}
    ids = [c.id for c in filtered.kept] + [r.candidate.id for r in filtered.rejected]
    if sorted(ids) != sorted(c.id for c in candidates) or sum(rejected.values()) != len(filtered.rejected):
        raise AssertionError("the funnel does not add up")
    labels = collections.Counter(candidate.prompt.label for candidate in candidates)
    kept_labels = collections.Counter(candidate.prompt.label for candidate in filtered.kept)
    generated, kept = _premises(candidates), _premises(filtered.kept)
    return Funnel(
        prompts=len({candidate.prompt.id for candidate in candidates}),
        samples=len(candidates),
        rejected=rejected,
        kept=len(filtered.kept),
        covered=len({candidate.prompt.id for candidate in filtered.kept}),
        labels={label: (kept_labels[label], count) for label, count in sorted(labels.items())},
        premises=Premises(generated=generated, kept=kept) if generated[1] else None,
    )


def _premises(candidates: Iterable[Candidate]) -> tuple[int, int]:
    right = count = 0
    for candidate in candidates:
        premise = candidate.prompt.meta.get(PREMISE, "")
        if premise and candidate.split.reasoning:
            count += 1
            right += f" {simplify(premise)} " in f" {simplify(candidate.split.reasoning)} "
    return right, count


def _both(premises: Premises) -> tuple[tuple[int, int], tuple[int, int]]:
    return premises.generated, premises.kept
