"""Cohen's kappa against cases worked by hand."""

import pytest

from rational_jax.judges import agreement


def test_kappa_of_a_table_worked_by_hand():
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed .7, expected .5, kappa .4 (a textbook table).
    person = ["yes"] * 25 + ["no"] * 25
    judge = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    result = agreement(person, judge)
    assert result.items == 50
    assert result.accuracy == pytest.approx(0.7)
    assert result.kappa == pytest.approx(0.4)
    assert result.confusion == {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}


def test_agreement_by_chance_alone_has_no_kappa():
    person = ["a", "a", "b", "b"]
    assert agreement(person, ["a", "b", "a", "b"]).kappa == pytest.approx(0.0)
    assert agreement(person, ["b", "b", "a", "a"]).kappa == pytest.approx(-1.0)
    assert agreement(["a", "a"], ["a", "a"]).kappa == 1.0


def test_labellings_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="same items"):
        agreement(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="same items"):
        agreement([], [])
