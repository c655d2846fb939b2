"""Intervals over base prompts and seeds, and the tables that are made of them."""

import dataclasses
import json
import math
import statistics

import pytest

from rational_jax.data.schema import Prompt
from rational_jax.data.suites import Headline, Suite
from rational_jax.evaluate.compare import differences
from rational_jax.evaluate.metrics import Settings, slice_figures
from rational_jax.evaluate.outcomes import Answer, Outcome
from rational_jax.evaluate.results import Estimate
from rational_jax.evaluate.seed_tables import FIGURES, markdown, summarise, tables
from rational_jax.evaluate.seeds import differences_over_seeds, over_seeds, slice_over_seeds

SETTINGS = Settings(confidence=0.95, samples=300, seed=0)
OBJECTS = 40
SUITE = Suite(
    name="s",
    title="S",
    source="",
    about="",
    headline=Headline(words="new things", tiers=("new",)),
    tiers=("old", "new"),
)


def outcome(number: int, erred: bool, tier: str) -> Outcome:
    label = "harmful" if number % 2 else "benign"
    prompt = Prompt.from_json({"id": f"{tier}{number}", "text": "?", "label": label, "category": tier})
    answer = Answer(
        id=prompt.id,
        model="m",
        prompt=prompt,
        sample=0,
        text="",
        reasoning="It is a thing.",
        answer="",
        status="ok",
        tokens=5,
    )
    judged = "compliance" if erred == (label == "harmful") else "refusal"
    return Outcome(answer=answer, label=judged, reason="", premise=not erred, agrees=None)


def seed(errors: int, *, tier: str = "new", start: int = 0) -> list[Outcome]:
    """One seed's outcomes, of which the first `errors` from `start` on are wrong."""
    return [outcome(n, start <= n < start + errors, tier) for n in range(OBJECTS)]


def half_width(values: list[float], quantile: float) -> float:
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def test_one_seed_says_what_the_evaluation_of_one_run_says():
    runs = {"refusal": [seed(20)], "rational": [seed(6)]}
    alone = {model: seeds[0] for model, seeds in runs.items()}
    found, by_seed = slice_over_seeds(runs, by="all", settings=SETTINGS)
    assert found == by_seed[0] == slice_figures(alone, by="all", settings=SETTINGS)
    assert differences_over_seeds(runs, where="all", settings=SETTINGS) == differences(
        alone, where="all", settings=SETTINGS
    )


def test_seeds_that_agree_add_nothing_and_are_no_more_objects():
    one, _ = slice_over_seeds({"rational": [seed(10)]}, by="all", settings=SETTINGS)
    three, _ = slice_over_seeds({"rational": [seed(10)] * 3}, by="all", settings=SETTINGS)
    first, many = one.figures["rational"].mean_error, three.figures["rational"].mean_error
    assert (many.value, many.low, many.high) == pytest.approx((first.value, first.low, first.high))
    assert many.clusters == first.clusters == OBJECTS


def test_seeds_that_differ_widen_the_interval_to_at_least_students():
    counts = (4, 12, 20)
    found, alone = slice_over_seeds({"rational": [seed(n) for n in counts]}, by="all", settings=SETTINGS)
    figure = found.figures["rational"].mean_error
    values = [one.figures["rational"].mean_error.value for one in alone]
    assert values == pytest.approx([n / OBJECTS for n in counts])
    assert figure.value == pytest.approx(statistics.mean(values))
    # Student's quantile for two degrees of freedom; the ends of a share stop at 0 and 1.
    assert figure.low == 0.0
    assert figure.high >= figure.value + half_width(values, 4.3027)
    assert figure.high <= 1.0


def test_distances_are_added_in_squares():
    pooled = Estimate(value=0.5, low=0.46, high=0.53, n=9, clusters=9)
    values = [0.49, 0.50, 0.51]
    half = half_width(values, 4.302653)
    widened = over_seeds(pooled, values, 0.95)
    assert widened.low == pytest.approx(0.5 - math.hypot(0.04, half))
    assert widened.high == pytest.approx(0.5 + math.hypot(0.03, half))
    assert over_seeds(pooled, [0.5, None], 0.95) == pooled


def test_differences_are_paired_by_seed():
    # Seeds differ a lot, and both models alike: only unpaired intervals would hold zero.
    counts = (8, 16, 24, 32)
    runs = {"refusal": [seed(n + 4) for n in counts], "rational": [seed(n) for n in counts]}
    found = {d.metric: d for d in differences_over_seeds(runs, where="all", settings=SETTINGS)}
    assert found["mean_error"].value == pytest.approx(-4 / OBJECTS)
    assert found["mean_error"].high < 0
    swapped = runs | {"rational": list(reversed(runs["rational"]))}
    found = {d.metric: d for d in differences_over_seeds(swapped, where="all", settings=SETTINGS)}
    assert found["mean_error"].value == pytest.approx(-4 / OBJECTS)
    assert found["mean_error"].low < 0 < found["mean_error"].high


def test_models_with_different_seeds_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        slice_over_seeds({"base": [seed(1)], "rational": [seed(1), seed(2)]}, by="all", settings=SETTINGS)


@pytest.fixture(scope="module")
def summary() -> dict:
    def both(new: int, old: int) -> list[Outcome]:
        return seed(new) + seed(old, tier="old")

    runs = {
        "base": [both(20, 20)] * 3,
        "refusal": [both(n, 4) for n in (22, 18, 20)],
        "rational": [both(n, 4) for n in (3, 4, 5)],
        "twin": [seed(n, start=start) + seed(4, tier="old") for n, start in ((3, 5), (5, 0), (4, 3))],
    }
    return summarise(runs, suite=SUITE, first="rational", settings=SETTINGS)


def test_summary_is_of_the_headline_and_survives_json(summary):
    assert json.loads(json.dumps(summary)) == summary
    assert summary["figures"]["rational"]["mean_error"]["value"] == pytest.approx(4 / OBJECTS)
    assert [one["rational"]["mean_error"] for one in summary["by_seed"]] == pytest.approx([0.075, 0.1, 0.125])
    assert summary["tiers"]["old"]["base"]["mean_error"]["value"] == pytest.approx(0.5)
    assert {d["second"] for d in summary["differences"]} == {"base", "refusal", "twin"}


def test_an_effect_that_is_absent_is_said_to_be(summary):
    main, compared, tiers = tables(summary)
    assert [row[0] for row in main[2]] == ["base", "refusal", "rational", "twin"]
    assert len(main[1]) == len(main[2][0]) == len(FIGURES) + 2
    says = {row[0]: row[-1] for row in compared[2]}
    assert says == {
        "rational − base": "rational errs less",
        "rational − refusal": "rational errs less",
        "rational − twin": "no difference shown",
    }
    assert tiers[1] == ("model", "old", "new")


def test_the_other_direction_is_said_too(summary):
    worse = [d | {"value": 0.2, "low": 0.1, "high": 0.3} for d in summary["differences"]]
    says = {row[-1] for row in tables(summary | {"differences": worse})[1][2]}
    assert says == {"rational errs more"}


def test_a_figure_that_there_is_not_is_a_dash(summary):
    nothing = dataclasses.asdict(Estimate(value=None, low=None, high=None, n=0, clusters=0))
    figures = summary["figures"] | {"base": summary["figures"]["base"] | {"premise_accuracy": nothing}}
    assert tables(summary | {"figures": figures})[0][2][0][4] == "–"


def test_markdown_has_every_cell_in_its_column(summary):
    page = markdown("Title", ["A note."], tables(summary))
    assert page.startswith("# Title\n\nA note.\n")
    assert page.splitlines().count("## mean error by tier") == 1
    for block in page.split("## ")[1:]:
        assert len({len(line) for line in block.splitlines() if line.startswith("|")}) == 1
