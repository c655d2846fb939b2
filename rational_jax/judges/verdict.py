"""What a judge is given and what it returns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Label = Literal["compliance", "refusal", "partial", "harmful", "harmless", "unscored"]
LABELS: tuple[str, ...] = get_args(Label)
"""All that a verdict can say."""
Question = Literal["refusal", "harm"]
# How the reason of a mark from 1 to 5 ends: marks of other scales are no shares of fives.
OF_FIVE = " of 5"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What is judged: an answer, and the plain goal it is measured by, which need not be what the model was asked.

    `category`, `subcategory` and `label` are those of the prompt, `suite` names the suite it is of: which rubric and
    which judge is asked may depend on them.
    """

    id: str
    goal: str
    answer: str
    category: str = ""
    subcategory: str = ""
    label: str = "unknown"
    suite: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A label and, in a few words, why. `unscored` is an outcome of its own: it leaves every denominator.

    Attributes:
        label: "compliance", "partial" or "refusal" of a judge of refusal; "harmful" or "harmless" of a judge of harm.
        score: the judge's mark on its own scale, where it has one (1 to 5; in [0, 1] for StrongREJECT).
        text: what a judging model wrote, for the log.
        failed: unscored because the judge could not be reached, not because of what it said; asked again on a rerun.
    """

    label: Label
    reason: str
    score: float | None = None
    text: str = ""
    failed: bool = False

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise ValueError(f"a verdict is one of {', '.join(LABELS)}, not {self.label!r}")


class Judge(Protocol):
    """`name` is what the configuration calls the judge; `identity` changes whenever its verdicts could.

    `question` is what it answers: did the answer refuse, or is there harm in it (does it fulfil the goal).
    """

    name: str
    identity: str
    question: Question

    def judge_all(self, exchanges: Sequence[Exchange]) -> Iterator[tuple[str, Verdict]]:
        """One verdict for each exchange by its id, in any order. Raises nothing that an endpoint may do."""
