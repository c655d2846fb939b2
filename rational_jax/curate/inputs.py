"""Which prompts are asked by which recipe: read, checked, and freed of what is tested on."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rational_jax.config import RunConfig
from rational_jax.curate.filters import check_filter_names
from rational_jax.curate.recipes import NONE, OFF, REMOVE, Recipe, load_recipe
from rational_jax.curate.store import Part
from rational_jax.data.overlap import decontaminate
from rational_jax.data.schema import Prompt
from rational_jax.data.sources import digest_prompts, iter_prompts
from rational_jax.errors import UserError
from rational_jax.sample.requests import derive_seed

GENERAL = "general"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the configuration and its recipe say together, in numbers."""

    recipe: Recipe
    general: Recipe | None
    samples: int
    keep: int
    filters: tuple[str, ...] | None
    decontaminate: str

    def parts(self, prompts: int, general: int) -> list[Part]:
        """The parts, where so many prompts are the recipe's and so many after them are general ones."""
        first = Part(
            recipe=self.recipe,
            prompts=range(prompts),
            first=0,
            samples=self.samples,
            keep=self.keep,
            filters=self.filters,
        )
        if self.general is None:
            return [first]
        second = Part(
            recipe=self.general,
            prompts=range(prompts, prompts + general),
            first=prompts * self.samples,
            samples=1,
            keep=1,
            filters=self.general.filters,
        )
        return [first, second]


def make_plan(config: RunConfig) -> Plan:
    """Raises UserError where the recipe is broken or does not go with the settings."""
    section = config.curate
    recipe = load_recipe(section.recipe, config.model.name, section.policies)
    samples = recipe.samples if section.samples is None else section.samples
    keep = min(recipe.keep, samples) if section.keep is None else section.keep
    filters = recipe.filters if section.filters is None else section.filters
    check_filter_names(filters)
    if keep > samples:
        raise UserError(f"curate.keep ({keep}) is more than the {samples} samples of each prompt")
    if samples > 1 and section.temperature == 0:
        raise UserError(
            f"curate.temperature: 0 makes all {samples} samples of a prompt equal; set it above 0, or curate.samples=1"
        )
    if recipe.reasoning == NONE and section.datasets != ("refusal",):
        raise UserError(f"recipe {recipe.name} asks for no reasoning, so curate.datasets can only be [refusal]")
    return Plan(
        recipe=recipe,
        general=load_recipe(GENERAL) if section.mix is not None and section.mix_share else None,
        samples=samples,
        keep=keep,
        filters=filters,
        decontaminate=recipe.decontaminate if section.decontaminate is None else section.decontaminate,
    )


class Inputs:
    """The prompts that a configuration names, read once to be checked and again whenever they are asked for.

    Attributes:
        digests: of the recipe's prompts, and of the general ones if there are any.
        prompts, general: how many there are of each.
    """

    def __init__(self, config: RunConfig, plan: Plan):
        """Raises UserError where a prompt does not fit its recipe, and where a general one is labelled harmful or has
        another's id.
        """
        self._config, self._plan = config, plan
        self._chosen: list[int] = []
        count = itertools.count()
        checked = (prompt for prompt in self.read() if next(count) >= 0 and plan.recipe.messages(prompt))
        self.digests = {"prompts": digest_prompts(checked)}
        self.prompts = next(count)
        if not self.prompts:
            raise UserError("curate.prompts: there is no prompt in what it names")
        if plan.general is not None:
            share = config.curate.mix_share
            # Rounded first, or 7 x .3 / .7 would be a little more than 3.
            self._choose_general(math.ceil(round(self.prompts * plan.keep * share / (1 - share), 6)))
            self.digests["mix"] = digest_prompts(self.read_general())
        self.general = len(self._chosen)

    def read(self) -> Iterator[Prompt]:
        """The recipe's prompts."""
        return iter_prompts(self._config.curate.prompts, self._config.curate.limit)

    def read_general(self) -> Iterator[Prompt]:
        """As many general prompts as `curate.mix_share` may need, chosen by chance, in their order."""
        chosen = set(self._chosen)
        if chosen:
            for number, prompt in enumerate(iter_prompts(self._config.curate.mix)):
                if number in chosen:
                    yield dataclasses.replace(prompt, label="benign")

    def _choose_general(self, count: int) -> None:
        config, ranked = self._config, []
        own = {prompt.id for prompt in self.read()}
        for number, prompt in enumerate(iter_prompts(config.curate.mix)):
            if prompt.label == "harmful":
                raise UserError(
                    f"curate.mix: prompt {prompt.id!r} is labelled harmful; only harmless prompts are mixed in"
                )
            if prompt.id in own:
                raise UserError(
                    f"curate.mix: the id {prompt.id!r} is also that of a prompt in curate.prompts; give the rows of "
                    "one of them other ids, or, where they have none, the file another name"
                )
            ranked.append((derive_seed(config.seed, "mix", prompt.id), number))
        if len(ranked) < count:
            raise UserError(
                f"curate.mix: a share of {config.curate.mix_share:g} may need {count:,} prompts, and there are "
                f"{len(ranked):,}; give more, or set a smaller curate.mix_share"
            )
        self._chosen = sorted(number for _, number in sorted(ranked)[:count])


def without_tested(
    prompts: Sequence[Prompt], suites: Mapping[str, Sequence[Prompt]], what: str
) -> tuple[Sequence[Prompt], list[dict], dict[str, int]]:
    """What is left of the prompts, a row for each that is in a suite too, and how many of each suite's are left.

    `what` is "remove", "report" (all are left) or "off".
    """
    if what == OFF:
        return prompts, [], {}
    kept, found = decontaminate(prompts, suites)
    rows = [
        {
            "id": one.prompt.id,
            "suite": one.suite,
            "match": one.match,
            "kind": one.kind,
            "score": round(one.score, 3),
            "removed": what == REMOVE,
            "prompt": one.prompt.to_json(),
        }
        for one in found
    ]
    if what == REMOVE:
        return kept, rows, {}
    return prompts, rows, dict(sorted(collections.Counter(one.suite for one in found).items()))
