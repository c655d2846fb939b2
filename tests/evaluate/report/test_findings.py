"""The sentence at the top says what the figures say: an effect, none, or a reversed one."""

import pytest

from rational_jax.evaluate.report.findings import find
from rational_jax.evaluate.results import Coverage, Difference, Estimate, Figures, Shares, Slice, SuiteResults

NONE = Estimate(value=None, low=None, high=None, n=0, clusters=0)


def share(value: float | None, half: float = 0.05) -> Estimate:
    if value is None:
        return NONE
    return Estimate(value=value, low=max(0, value - half), high=min(1, value + half), n=100, clusters=100)


def figures(asr: float | None, over: float | None, scored: int = 100) -> Figures:
    shares = Shares(n=100, compliance=0.5, partial=0.0, refusal=0.5)
    mean = None if asr is None or over is None else (asr + over) / 2
    return Figures(
        asr=share(asr),
        asr_with_partial=share(asr),
        over_refusal=share(over),
        mean_error=share(mean),
        premise_accuracy=NONE,
        with_reasoning=NONE,
        mean_score=NONE,
        full_marks=NONE,
        unacceptable=share(asr),
        asr_with_reasoning=share(asr),
        reasoning_leak=NONE,
        names_intent=NONE,
        names_harm=NONE,
        names_decision=NONE,
        verdict_agreement=NONE,
        mean_answer_words=None,
        asr_at_k=(),
        mean_tokens=None,
        mean_reasoning_words=None,
        harmful=shares,
        benign=shares,
        coverage=Coverage(answers=100, scored=scored, truncated_reasoning=100 - scored, truncated_answer=0, unscored=0),
    )


def suite(models: dict[str, Figures], half: float = 0.05, trained_on: int = 0) -> SuiteResults:
    found = []
    for first in models:
        for second in list(models)[: list(models).index(first)]:
            for metric in ("asr", "over_refusal", "mean_error"):
                mine, theirs = (getattr(models[name], metric).value for name in (first, second))
                if mine is None or theirs is None:
                    continue
                gap = mine - theirs
                found.append(
                    Difference(
                        slice="all",
                        metric=metric,
                        first=first,
                        second=second,
                        value=gap,
                        low=gap - half,
                        high=gap + half,
                        p_bootstrap=0.5,
                        p_mcnemar=0.5,
                        p_holm=0.5,
                        pairs=100,
                        first_only=1,
                        second_only=1,
                    )
                )
    slices = (Slice(by="all", name="", other="", figures=models),)
    return SuiteResults(
        name="s",
        title="S",
        headline="",
        models=tuple(models),
        prompts=200,
        trained_on=trained_on,
        slices=slices,
        differences=tuple(found),
    )


def test_an_effect_is_told_with_its_size():
    found = find(suite({"base": figures(0.6, 0.4), "refusal": figures(0.5, 0.45), "rational": figures(0.2, 0.15)}))
    assert found.headline == (
        "The rational model errs less: a mean error of 18% against 48% for the refusal-only model, "
        "30 points less, interval 25 to 35."
    )
    told = " ".join(found.details)
    assert "20% (15 to 25) of the harmful requests" in told
    assert "lower than the base model's 50%" in told
    assert "no clear difference" not in told
    assert "trade" not in told


def test_a_reversed_effect_is_told_as_plainly():
    found = find(suite({"refusal": figures(0.2, 0.2), "rational": figures(0.4, 0.4)}))
    assert found.headline.startswith("The rational model does worse: a mean error of 40% against 20%")
    assert "20 points more, interval 15 to 25" in found.headline


def test_no_effect_is_told_as_none():
    found = find(suite({"refusal": figures(0.30, 0.30), "rational": figures(0.28, 0.28)}))
    assert found.headline.startswith("No difference shows between the rational model and the refusal-only model")
    assert found.headline.endswith("a mean error of 28% against 30%, a difference of −2 points, interval −7 to 3.")
    assert sum("no clear difference" in sentence for sentence in found.details) == 2


@pytest.mark.parametrize(
    ("asr", "over", "words"),
    [(0.1, 0.5, "more benign ones are refused"), (0.5, 0.1, "more harmful ones are answered")],
)
def test_a_trade_is_called_one(asr, over, words):
    found = find(suite({"refusal": figures(0.3, 0.3), "rational": figures(asr, over)}))
    assert found.headline.startswith("No difference shows")
    assert any("trade" in sentence and words in sentence for sentence in found.details)


def test_chance_and_missing_answers_are_told():
    found = find(suite({"refusal": figures(0.55, 0.47), "rational": figures(0.2, 0.2, scored=60)}))
    assert "The refusal-only model cannot be told from chance (a mean error of 50%)." in found.details
    assert any("Only 60% of the answers of the rational model" in sentence for sentence in found.details)


def test_a_suite_with_one_label_or_one_model_has_a_finding_too():
    only_harmful = find(suite({"base": figures(0.6, None), "rational": figures(0.1, None)}))
    assert only_harmful.headline.startswith(
        "The rational model errs less: an ASR of 10% against 60% for the base model"
    )
    alone = find(suite({"mistral": figures(0.4, 0.2)}))
    assert alone.headline == "The model “mistral” has a mean error of 30% (25 to 35)."
    nothing = find(suite({"rational": figures(None, None, scored=0)}))
    assert "no finding" in nothing.headline
