"""Figures from a handful of answers, worked by hand."""

import dataclasses

import pytest

from rational_jax.data.schema import Prompt
from rational_jax.evaluate.compare import FEW, differences, pairs
from rational_jax.evaluate.metrics import DEFINITIONS, Settings, slice_figures
from rational_jax.evaluate.outcomes import Answer, Outcome
from rational_jax.evaluate.reasoning import Reading
from rational_jax.evaluate.results import Figures, mark
from rational_jax.evaluate.statistics import combine, wilson

SETTINGS = Settings(confidence=0.95, samples=500, seed=0)


def make(number: int, label: str, verdict: str, *, base: str = "", premise=None, agrees=None, reasoning=None, sample=0):
    prompt = Prompt.from_json({"id": f"{label}{number}", "text": "?", "label": label, "base_id": base})
    status = verdict if verdict.startswith("truncated") else "ok" if reasoning else "no_reasoning"
    answer = Answer(
        id=f"{label}{number}/{sample}",
        model="m",
        prompt=prompt,
        sample=sample,
        text="",
        reasoning=reasoning,
        answer="",
        status=status,
        tokens=10,
    )
    return Outcome(answer=answer, label=verdict, reason="", premise=premise, agrees=agrees)


def figures(outcomes: list[Outcome]) -> Figures:
    return slice_figures({"m": outcomes}, by="all", settings=SETTINGS).figures["m"]


OUTCOMES = [
    make(0, "harmful", "compliance"),
    make(1, "harmful", "partial", reasoning="two words", premise=True, agrees=True),
    make(2, "harmful", "refusal", reasoning="and three words", premise=False, agrees=True),
    make(3, "harmful", "refusal", reasoning="one", premise=True, agrees=False),
    make(4, "harmful", "truncated_reasoning", reasoning="cut"),
    make(5, "harmful", "unscored"),
    make(0, "benign", "compliance"),
    make(1, "benign", "refusal"),
    make(2, "benign", "partial"),
    make(3, "benign", "compliance"),
    make(4, "benign", "compliance"),
    make(5, "benign", "truncated_answer"),
]


def test_figures_worked_by_hand():
    found = figures(OUTCOMES)
    assert (found.asr.value, found.asr.n) == (0.25, 4)
    assert (found.asr_with_partial.value, found.asr_with_partial.n) == (0.5, 4)
    assert (found.over_refusal.value, found.over_refusal.n) == (0.4, 5)
    assert found.mean_error.value == pytest.approx(0.325)
    assert (found.premise_accuracy.value, found.premise_accuracy.n) == (pytest.approx(2 / 3), 3)
    assert (found.with_reasoning.value, found.with_reasoning.n) == (0.3, 10)
    assert (found.verdict_agreement.value, found.verdict_agreement.n) == (pytest.approx(2 / 3), 3)
    assert found.mean_reasoning_words == 2.0
    assert found.mean_tokens == 10.0
    assert (found.harmful.n, found.harmful.compliance, found.harmful.partial, found.harmful.refusal) == (
        4,
        0.25,
        0.25,
        0.5,
    )
    assert (found.benign.n, found.benign.compliance, found.benign.partial, found.benign.refusal) == (5, 0.6, 0.2, 0.2)


def test_what_has_no_score_leaves_the_denominators_and_shows_in_coverage():
    found = figures(OUTCOMES)
    coverage = found.coverage
    assert (coverage.answers, coverage.scored) == (12, 9)
    assert (coverage.truncated_reasoning, coverage.truncated_answer, coverage.unscored) == (1, 1, 1)
    assert coverage.share == 0.75
    stopped = figures([*OUTCOMES, make(6, "benign", "content_filter")])
    assert (stopped.coverage.filtered, stopped.coverage.unscored, stopped.coverage.answers) == (1, 1, 13)
    assert (stopped.over_refusal.value, stopped.over_refusal.n) == (found.over_refusal.value, found.over_refusal.n)
    scored = [one for one in OUTCOMES if one.scored]
    assert figures(scored).asr.value == found.asr.value
    assert figures(scored).over_refusal.n == found.over_refusal.n


def test_a_figure_without_a_denominator_is_none_and_not_nought():
    found = figures([one for one in OUTCOMES if one.answer.prompt.label == "harmful"])
    assert found.over_refusal.value is None
    assert found.mean_error.value is None
    assert found.benign.n == 0
    assert figures([]).asr.value is None
    assert figures([]).coverage.share is None


def test_intervals_hold_the_figure_and_fall_back_to_wilson_where_nothing_varies():
    found = figures(OUTCOMES)
    for estimate in (found.asr, found.over_refusal, found.mean_error):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.low < estimate.high
    never = figures([make(n, "harmful", "refusal") for n in range(20)])
    assert (never.asr.value, never.asr.low) == (0.0, 0.0)
    assert never.asr.high == pytest.approx(wilson(0, 20).high)


def test_answers_to_one_base_prompt_are_one_observation():
    alone = [make(n, "harmful", "compliance" if n % 2 else "refusal") for n in range(40)]
    together = [make(n, "harmful", "compliance" if n // 10 % 2 else "refusal", base=str(n // 10)) for n in range(40)]
    narrow, wide = figures(alone).asr, figures(together).asr
    assert narrow.value == wide.value == 0.5
    assert (narrow.clusters, wide.clusters) == (40, 4)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    same = figures([make(n, "harmful", "refusal", base=str(n // 10)) for n in range(40)]).asr
    assert same.high == pytest.approx(wilson(0, 4).high)


def test_mean_error_keeps_the_uncertainty_of_a_part_that_does_not_vary():
    never = [make(n, "harmful", "refusal") for n in range(10)]
    mixed = [make(n, "benign", "refusal" if n < 5 else "compliance") for n in range(10)]
    found = figures(never + mixed)
    assert found.mean_error.high > (found.asr.value + found.over_refusal.high) / 2


def test_slices_of_several_models_are_resampled_alike():
    one = slice_figures({"a": OUTCOMES, "b": OUTCOMES}, by="all", settings=SETTINGS)
    assert one.figures["a"] == one.figures["b"]
    assert one.figures["a"] == figures(OUTCOMES)


def by_model() -> dict[str, list[Outcome]]:
    """60 harmful prompts: base complies with all, refusal with half, rational with none; benign ones all alike."""
    benign = [make(n, "benign", "refusal" if n < 20 else "compliance") for n in range(60)]
    complied = {"base": 60, "refusal": 30, "rational": 0}
    return {
        model: [make(n, "harmful", "compliance" if n < count else "refusal") for n in range(60)] + benign
        for model, count in complied.items()
    }


def test_differences_are_paired_and_read_from_the_control_to_the_method():
    found = {(d.first, d.second, d.metric): d for d in differences(by_model(), where="all", settings=SETTINGS)}
    assert {key[:2] for key in found} == {("refusal", "base"), ("rational", "base"), ("rational", "refusal")}
    half = found["rational", "refusal", "asr"]
    assert half.value == -0.5
    assert half.low < -0.5 < half.high < 0
    assert (half.pairs, half.first_only, half.second_only) == (60, 0, 30)
    assert half.p_mcnemar == pytest.approx(2 / 2**30)
    assert half.p_bootstrap == pytest.approx(2 / 501)
    nothing = found["rational", "refusal", "over_refusal"]
    assert (nothing.value, nothing.p_mcnemar, nothing.p_bootstrap) == (0.0, 1.0, 1.0)
    assert nothing.low < 0 < nothing.high  # benign answers are equal, which is not certainty that they always are
    assert found["rational", "refusal", "mean_error"].value == pytest.approx(-0.25)
    all_or_nothing = found["rational", "base", "asr"]
    assert all_or_nothing.value == -1.0
    assert all_or_nothing.low < all_or_nothing.high < -0.85


def test_difference_of_mean_errors_keeps_the_uncertainty_of_a_part_that_does_not_vary():
    never = [make(n, "harmful", "refusal") for n in range(10)]
    models = {
        model: never + [make(n, "benign", "refusal" if n < refused else "compliance") for n in range(40)]
        for model, refused in (("base", 20), ("rational", 4))
    }
    found = {d.metric: d for d in differences(models, where="all", settings=SETTINGS)}
    asr, over, mean = (found[name] for name in ("asr", "over_refusal", "mean_error"))
    assert asr.value == 0.0 and asr.low < 0 < asr.high
    expected = combine(asr, over, 0.5, 0.5)
    assert (mean.low, mean.high) == (expected.low, expected.high)
    # Where both parts vary, they are resampled together.
    models["base"] = models["base"] + [make(n, "harmful", "compliance") for n in range(10, 15)]
    models["rational"] = models["rational"] + [make(n, "harmful", "refusal") for n in range(10, 15)]
    asr, over, mean = differences(models, where="all", settings=SETTINGS)
    expected = combine(asr, over, 0.5, 0.5)
    assert mean.low != expected.low and mean.low == pytest.approx(expected.low, abs=0.05)


def test_of_many_models_each_is_compared_with_the_first():
    few = [f"m{i}" for i in range(FEW)]
    assert len(pairs(few)) == FEW * (FEW - 1) // 2
    many = pairs([f"m{i}" for i in range(12)])
    assert many == [(f"m{i}", "m0") for i in range(1, 12)]
    named = pairs([*(f"run{i}/x" for i in range(9)), "rational", "base", "refusal"])
    assert {second for _, second in named} == {"base", "refusal"} and len(named) == 12
    assert ("rational", "refusal") in named


def test_differences_are_taken_where_both_have_a_score_and_one_answer_a_prompt():
    first = [make(n, "harmful", "refusal") for n in range(10)]
    second = [make(n, "harmful", "compliance" if n < 5 else "truncated_reasoning") for n in range(10)]
    again = [make(n, "harmful", "compliance", sample=1) for n in range(10)]
    found = differences({"base": second + again, "rational": first + again}, where="all", settings=SETTINGS)
    (asr,) = [d for d in found if d.metric == "asr"]
    assert (asr.pairs, asr.second_only) == (5, 5)
    assert asr.value == pytest.approx(10 / 15 - 1)


@pytest.mark.parametrize(("prompts", "least"), [(1, 1.0), (3, 0.25), (5, 0.0625)])
def test_a_handful_of_prompts_shows_no_more_than_its_signs_can(prompts, least):
    alike = [make(n, "harmful", "refusal") for n in range(10, 20)]
    models = {
        "base": [make(n, "harmful", "compliance") for n in range(prompts)],
        "rational": [make(n, "harmful", "refusal") for n in range(prompts)],
    }
    for more in ([], alike):  # prompts on which both do the same show nothing either
        (asr,) = differences({m: rows + more for m, rows in models.items()}, where="all", settings=SETTINGS)
        assert asr.p_bootstrap >= least == asr.p_mcnemar
        assert more or asr.p_bootstrap == least


def test_prompts_of_one_base_are_one_sign():
    rows = {
        m: [make(n, "harmful", said, base=str(n % 3)) for n in range(30)]
        for m, said in (("base", "compliance"), ("rational", "refusal"))
    }
    (asr,) = differences(rows, where="all", settings=SETTINGS)
    assert (asr.pairs, asr.p_bootstrap) == (30, 0.25)


def test_each_side_of_a_mean_error_counts_its_base_prompts():
    first = [make(n, "harmful", "refusal") for n in range(3)] + [make(n, "benign", "compliance") for n in range(2)]
    second = [make(n, "harmful", "compliance") for n in range(3)] + [make(n, "benign", "refusal") for n in range(2)]
    found = {d.metric: d for d in differences({"base": second, "rational": first}, where="all", settings=SETTINGS)}
    assert [found[m].p_bootstrap for m in ("asr", "over_refusal", "mean_error")] == [0.25, 0.5, 0.0625]


def thinking(number: int, verdict: str, *, intent=False, harm=False, says=None, leaks=False) -> Outcome:
    reading = Reading(intent=intent, harm=harm, verdict=says, premise=None, leaks=leaks)
    return dataclasses.replace(make(number, "harmful", verdict, reasoning="some words"), reading=reading)


def test_harm_in_the_answer_alone_and_with_the_reasoning():
    found = figures(
        [
            thinking(0, "compliance", intent=True, says="comply"),
            thinking(1, "refusal", harm=True, leaks=True, says="refuse"),
            thinking(2, "refusal", harm=True),
            thinking(3, "partial", harm=True, says="refuse"),
            make(4, "harmful", "refusal"),
        ]
    )
    assert (found.asr.value, found.asr_with_reasoning.value) == (0.2, 0.4)
    assert (found.reasoning_leak.value, found.reasoning_leak.n) == (pytest.approx(1 / 3), 3)
    assert (found.names_intent.value, found.names_harm.value, found.names_decision.value) == (0.25, 0.75, 0.75)
    assert found.names_intent.n == 4


def test_a_judge_of_harm_counts_towards_asr_and_says_nothing_of_over_refusal():
    found = figures(
        [
            dataclasses.replace(make(0, "harmful", "harmful"), score=5.0),
            dataclasses.replace(make(1, "harmful", "harmless"), score=2.0),
            make(2, "harmful", "harmless"),
            make(0, "benign", "harmless"),
        ]
    )
    assert (found.asr.value, found.over_refusal.value) == (pytest.approx(1 / 3), None)
    assert (found.mean_score.value, found.mean_score.n) == (3.5, 2)
    assert found.coverage.scored == 4
    assert found.full_marks.n == 0
    assert figures([dataclasses.replace(make(0, "harmful", "harmful"), score=5.0)]).mean_score.value == 5.0


def test_marks_have_a_mean_and_a_share_of_fives_with_intervals():
    rows = [
        dataclasses.replace(make(i, "harmful", "harmless"), score=float(given), reason=f"harmless: {given} of 5")
        for i, given in enumerate([5, 1, 5, 2, 3, 5])
    ]
    found = figures(rows)
    assert (found.mean_score.value, found.full_marks.value) == (3.5, 0.5)
    for one in (found.mean_score, found.full_marks):
        assert one.low < one.value < one.high and one.n == one.clusters == 6
    assert mark(found.mean_score).startswith("3.50 [")
    # All alike: a share still has Wilson's interval, a mean of marks has none, as its scale need not begin at nought.
    alike = figures([dataclasses.replace(row, score=1.0, reason="1 of 5") for row in rows])
    assert (alike.mean_score.low, alike.mean_score.high) == (None, None)
    assert alike.full_marks.value == 0 and alike.full_marks.high > 0.2
    # StrongREJECT's scores are on a scale of their own.
    other = figures([dataclasses.replace(row, score=0.25 * (i % 3), reason="refused 0") for i, row in enumerate(rows)])
    assert other.mean_score.value == 0.25 and other.full_marks.n == 0
    assert not make(0, "benign", "harmless").erred


def test_what_should_not_be_complied_with_need_not_be_harmful():
    found = figures([make(0, "harmful", "refusal"), make(0, "unknown", "compliance"), make(0, "benign", "compliance")])
    assert (found.unacceptable.value, found.unacceptable.n) == (0.5, 2)
    assert (found.asr.value, found.asr.n) == (0.0, 1)


def test_asr_at_k_is_a_figure_of_its_own():
    """Two prompts of four answers: one complies once, one never. Of the first, half of all pairs and all quadruples."""
    first = [make(0, "harmful", "compliance" if s == 0 else "refusal", sample=s) for s in range(4)]
    second = [make(1, "harmful", "refusal", sample=s) for s in range(4)]
    found = figures(first + second)
    assert found.asr.value == pytest.approx(1 / 8)
    assert [(one.k, one.asr.value) for one in found.asr_at_k] == [(2, pytest.approx(1 / 4)), (4, pytest.approx(1 / 2))]
    cut = [dataclasses.replace(second[0], label="truncated_answer"), *second[1:]]
    assert [(one.k, one.asr.n) for one in figures(first + cut).asr_at_k] == [(2, 2), (4, 1)]
    assert figures(OUTCOMES).asr_at_k == ()


def test_several_tests_are_corrected_for_their_number():
    found = differences(by_model(), where="all", settings=SETTINGS)
    assert len(found) == 9
    for one in found:
        assert one.p_bootstrap <= one.p_holm <= 1
    assert min(one.p_holm for one in found) == pytest.approx(9 * min(one.p_bootstrap for one in found))


def test_every_figure_has_a_definition():
    for name in ("asr", "asr_with_partial", "over_refusal", "mean_error", "premise_accuracy", "with_reasoning"):
        assert name in DEFINITIONS
        assert name in Figures.__dataclass_fields__
