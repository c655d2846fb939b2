"""What every judge returns, and how a judge is found by its name."""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from rational_jax.errors import UserError

Label = Literal["compliance", "refusal", "partial", "unscored"]
LABELS: tuple[str, ...] = get_args(Label)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A label and, in a few words, why. `unscored` is an outcome of its own: it leaves every denominator."""

    label: Label
    reason: str

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise ValueError(f"a verdict is one of {', '.join(LABELS)}, not {self.label!r}")


class Judge(Protocol):
    """`name` is what the configuration calls the judge; `identity` changes whenever its verdicts could."""

    name: str
    identity: str

    def judge(self, answer: str) -> Verdict: ...


def load_judge(name: str) -> Judge:
    """The judge that `evaluate.judge` names. Raises UserError for a name that no judge has."""
    # Imported here because refusal.py needs Verdict from this file.
    from rational_jax.judges.refusal import RefusalJudge

    if name == RefusalJudge.name:
        return RefusalJudge()
    raise UserError(f"evaluate.judge: there is no judge {name!r}; choose from: {RefusalJudge.name}")
