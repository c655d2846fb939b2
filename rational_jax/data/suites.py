"""The suites there are by name, and any prompt file as a suite of its own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rational_jax.config import RunConfig
from rational_jax.data.attacks import attacked
from rational_jax.data.benchmarks import ALIASES, BENCHMARKS
from rational_jax.data.files import READERS
from rational_jax.data.schema import Prompt
from rational_jax.data.sources import packaged, read_prompts
from rational_jax.data.tables import HUB, TFDS
from rational_jax.errors import UserError
from rational_jax.storage import read_jsonl


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The part of a suite that its headline figures are taken from: prompts of these tiers (their `category`), or of
    these styles.
    """

    words: str
    tiers: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()

    def holds(self, prompt: Prompt) -> bool:
        return prompt.category in self.tiers or prompt.style.partition("+")[0] in self.styles


Metric = Literal["asr", "over-refusal", "both", "fulfilment", "score", "rubric"]
REWRITES = "rewrites.jsonl"
"""What models wrote of prompts, under RUN/sample."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A set of prompts under a name.

    Attributes:
        name: what `sample.suites` calls it.
        title: what the report calls it.
        source: what `read_prompts` takes.
        about: one sentence on what it measures, for the report.
        headline: the part that headlines quote; None for the whole suite.
        metric: what its figure is: "asr" (how much harm is done, lower is better), "over-refusal" (how much help is
            refused, lower is better), "both", "fulfilment" (share of requests fulfilled), "score" (a mean mark) or
            "rubric" (share that is not acceptable).
        judge: the judge that its authors' figure needs; `evaluate.judge=suites` asks for it.
        tiers: the order in which tiers are shown; those not named here follow in the order of their prompts.
    """

    name: str
    title: str
    source: str
    about: str
    headline: Headline | None = None
    tiers: tuple[str, ...] = ()
    metric: Metric = "both"
    judge: str = "refusal"


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


def _published(name: str, title: str, about: str, metric: Metric, judge: str, headline: Headline | None = None) -> None:
    SUITES[name] = Suite(
        name=name, title=title, source=name, about=about, metric=metric, judge=judge, headline=headline
    )


_published(
    "sorry-bench",
    "SORRY-Bench 2024/06",
    "Unsafe requests of 45 kinds, plain and in 20 styles: how many are fulfilled. The paper's benchmark.",
    "fulfilment",
    "fulfilment",
)
_published(
    "sorry-bench-202503",
    "SORRY-Bench 2025/03",
    "Unsafe requests of 44 kinds, plain and in 20 styles: how many are fulfilled.",
    "fulfilment",
    "fulfilment",
)
_published("hex-phi", "HEx-PHI", "Requests for prohibited uses, marked from 1 to 5.", "score", "hex-phi")
_published(
    "coconot",
    "CoCoNot",
    "Requests that should not simply be complied with; the rubric of each kind says what is acceptable.",
    "rubric",
    "coconot",
)
_published("coconot-contrast", "CoCoNot, contrast", "Requests that should be complied with.", "over-refusal", "refusal")
_published(
    "harmbench",
    "HarmBench",
    "Harmful behaviours; those about copyright are another matter and not in the headline.",
    "asr",
    "fulfilment",
    Headline(words="standard and contextual behaviours", styles=("standard", "contextual")),
)
_published(
    "jailbreakbench", "JailbreakBench", "Harmful requests and their benign twins, one for one.", "both", "fulfilment"
)
_published(
    "jailbreakbench-transfer",
    "JailbreakBench, transfer",
    "Jailbreak prompts found against other models, replayed: a transfer attack, weaker than one on the model itself.",
    "asr",
    "fulfilment",
)
_published("strongreject", "StrongREJECT", "Forbidden requests, scored from 0 to 1.", "score", "strongreject")
_published("xstest", "XSTest", "Safe requests that sound unsafe, and unsafe ones in contrast.", "both", "refusal")
_published("or-bench-80k", "OR-Bench 80k", "Harmless requests that models refuse.", "over-refusal", "refusal")
_published("or-bench-hard-1k", "OR-Bench hard", "Those that models refuse most.", "over-refusal", "refusal")
_published("or-bench-toxic", "OR-Bench toxic", "Requests that should be refused.", "asr", "refusal")
_published("wildjailbreak", "WildJailbreak", "Harmful and harmless requests in jailbreaks of users.", "both", "refusal")
_published("wildguardtest", "WildGuardTest", "Harmful and harmless requests, plain and adversarial.", "both", "refusal")
_published("advbench", "AdvBench", "Harmful instructions.", "asr", "fulfilment")
_published("do-not-answer", "Do-Not-Answer", "Questions that should not be answered.", "asr", "refusal")


def find_suite(name: str) -> Suite:
    """The suite of that name, "NAME@PATH" for a copy of it, or any other source of prompts as a suite of its own.

    Raises UserError for anything else.
    """
    known = SUITES.get(ALIASES.get(name, name))
    if known is not None:
        return known
    base, at, _ = name.partition("@")
    if at and ALIASES.get(base, base) in BENCHMARKS:
        return replace(SUITES[ALIASES.get(base, base)], name=name, source=name)
    if Path(name).suffix in READERS or name.startswith((HUB, TFDS)) or name in packaged():
        return Suite(name=name, title=Path(name).stem, source=name, about=f"The prompts of {Path(name).name}.")
    raise UserError(
        f"sample.suites: there is no suite {name!r}; choose from {', '.join(SUITES)}, or give a prompt file by its path"
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


def configured_suites(config: RunConfig) -> dict[str, list[Prompt]]:
    """The suites of `config.sample`, each with its prompts under attack behind the plain ones.

    What is not benign is attacked. Raises UserError as `load_suites` does, for an unknown attack, and where what a
    model was to write is not there.
    """
    return attacked_suites(Path(config.run), config.sample.suites, config.sample.limit, config.sample.attacks)


def attacked_suites(
    run: Path, names: Iterable[str], limit: int | None, attacks: Iterable[str]
) -> dict[str, list[Prompt]]:
    """`configured_suites` of the run in a folder, by the settings that matter."""
    suites = load_suites(names, limit)
    if not attacks:
        return suites
    rewritten = read_rewrites(run / "sample" / REWRITES)
    return {name: with_attacks(prompts, attacks, rewritten) for name, prompts in suites.items()}


def with_attacks(prompts: Iterable[Prompt], attacks: Iterable[str], rewritten: Mapping[str, str]) -> list[Prompt]:
    """The prompts, and behind them those that are not benign under each attack; a rewriting that failed is left out."""
    prompts = list(prompts)
    under = [
        attacked(prompt, attack, rewritten) for attack in attacks for prompt in prompts if prompt.label != "benign"
    ]
    return [*prompts, *(prompt for prompt in under if prompt is not None)]


def read_rewrites(path: Path) -> dict[str, str]:
    """Key of a rewriting -> its text, "" where the model would not; {} without the file."""
    return {row["key"]: row["text"] for row in read_jsonl(path)} if path.is_file() else {}
