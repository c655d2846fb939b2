"""What the sections of a run's configuration are made of: values with their ranges, and sources of prompts."""

import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _day(text: str) -> str:
    """An ISO date in its one plain form, which Python reads among others."""
    try:
        day = datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        day = None
    if day != text:
        raise ValueError(f"expected a day such as 2024-07-26, got {text!r}")
    return text


Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Natural = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(gt=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Remat = Literal["none", "save-matmuls", "save-mlp", "save-attention", "offload", "full"]
MeshSize = Annotated[int, Field(ge=-1, le=2**31 - 1)]
Text = Annotated[str, Field(min_length=1)]
Flag = Annotated[str, Field(pattern=r"^xla_\w+=[\w.,:-]+$")]
Day = Annotated[str, AfterValidator(_day)]
Layout = Literal["rational", "refusal", "answer-first", "shuffled"]
Label = Literal["harmful", "benign", "unknown"]
Names = Annotated[tuple[Text, ...], Field(min_length=1)]
Layers = Annotated[tuple[Natural, ...], Field(min_length=1)]
Layouts = Annotated[tuple[Layout, ...], Field(min_length=1)]
# What is trained: on a curated dataset of that layout, or the rival that has sets of its own.
Arm = Literal["rational", "refusal", "answer-first", "shuffled", "circuit-breaker"]
Arms = Annotated[tuple[Arm, ...], Field(min_length=1)]


class Section(BaseModel):
    """What all parts have in common: frozen, no unknown keys, no silent conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PromptSource(Section):
    """A source of prompts and what is taken from it, as `data.read_prompts` reads it.

    A key of the type `Sources` takes such a section, the text of its `source` alone, or a list of both:

        prompts: [xstest, {source: "hf:someone/requests", split: test, columns: {prompt: question}, label: benign}]
    """

    source: Text = Field(
        description="a published set (xstest, or xstest@PATH for a copy), hf:NAME, tfds:NAME, a file, a packaged set"
    )
    config: Text | None = Field(None, description="configuration of a dataset on the Hub or in TFDS")
    split: Text | None = Field(None, description="split of such a dataset; null is train")
    revision: Text | None = Field(None, description="branch, tag or commit on the Hub; null is the newest")
    columns: dict[str, Text] = Field(
        {}, description="field of a prompt -> column (prompt: question); other names than its fields go to meta"
    )
    labels: dict[str, Label] = Field({}, description="what the label column holds -> harmful, benign, unknown")
    label: Label | None = Field(None, description="label of all its prompts")
    where: dict[str, Text | Names] = Field(
        {},
        description="only prompts whose field is this, or one of these (label: benign; style: [base, slang]); style: "
        "paper is the eleven styles of SORRY-Bench that the paper has",
    )
    part: Literal["all", "train", "test"] = Field(
        "all", description="all, or one side of a split 70 to 30 by base prompt, even over categories"
    )
    split_seed: Natural = Field(0, description="the split is a function of it")


def _sources(value: object) -> object:
    items = value if isinstance(value, list | tuple) else (value,)
    if not items:
        raise ValueError("expected at least one source")
    return tuple(PromptSource(source=item) if isinstance(item, str) and item else item for item in items)


Sources = Annotated[tuple[PromptSource, ...], BeforeValidator(_sources)]
"""A key that takes one source of prompts or several, each as a text or as a section."""
