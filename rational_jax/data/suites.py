"""The suites there are by name, and any prompt file as a suite of its own."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rational_jax.data.schema import Prompt
from rational_jax.data.sources import read_prompts
from rational_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The part of a suite that its headline figures are taken from: prompts of these tiers (their `category`)."""

    words: str
    tiers: tuple[str, ...]

    def holds(self, prompt: Prompt) -> bool:
        return prompt.category in self.tiers


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A set of prompts under a name.

    Attributes:
        name: what `sample.suites` calls it.
        title: what the report calls it.
        source: what `read_prompts` takes.
        about: one sentence on what it measures, for the report.
        headline: the part that headlines quote; None for the whole suite.
        tiers: the order in which tiers are shown; those not named here follow in the order of their prompts.
    """

    name: str
    title: str
    source: str
    about: str
    headline: Headline | None = None
    tiers: tuple[str, ...] = ()


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="micro",
            title="The micro world",
            source="micro/test",
            about="Requests about invented things. Whether it is harmful to help follows from what kind of thing it "
            "is and what that kind does; the model read both in pretraining. With one hop the request names the kind. "
            "With two it does not, and of the new things nobody ever asked before this test.",
            headline=Headline(words="two hops, things that no request ever named", tiers=("two-hop-new",)),
            tiers=("one-hop", "two-hop-seen", "two-hop-new"),
        ),
    )
}


def find_suite(name: str) -> Suite:
    """The suite of that name; a path to a prompt file is a suite of its own. Raises UserError for anything else."""
    if name in SUITES:
        return SUITES[name]
    if Path(name).suffix in (".jsonl", ".csv", ".parquet", ".txt"):
        return Suite(name=name, title=Path(name).stem, source=name, about=f"The prompts of {Path(name).name}.")
    known = ", ".join(SUITES)
    raise UserError(
        f"sample.suites: there is no suite {name!r}; choose from {known}, or give a prompt file by its path"
    )


def load_suite(name: str, limit: int | None = None) -> list[Prompt]:
    """The prompts of a suite in the order of its file, at most `limit`.

    The chosen ones are spread evenly over the prompts in order of category, label and base, so that a part of a suite
    is made of the same things as the whole. Raises UserError for an unknown suite or a bad file.
    """
    prompts = read_prompts(find_suite(name).source)
    if limit is None or limit >= len(prompts):
        return prompts
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].category, prompts[i].label, prompts[i].base_id, i))
    return [prompts[i] for i in sorted(order[n * len(prompts) // limit] for n in range(limit))]


def load_suites(names: Iterable[str], limit: int | None = None) -> dict[str, list[Prompt]]:
    """Several suites by name. Raises UserError where two of them share a prompt id: answers are told apart by it."""
    suites, owner = {}, {}
    for name in names:
        suites[name] = load_suite(name, limit)
        for prompt in suites[name]:
            if owner.setdefault(prompt.id, name) != name:
                raise UserError(f"suites {owner[prompt.id]} and {name} both have a prompt with the id {prompt.id!r}")
    return suites
