"""People's judgements as a reward: majority per reason, and the mean worth of sentences elsewhere."""

import pandas as pd
import pytest

from r2ec_lib.training import judgements


def marks_of(reviewer, accept):
    return pd.DataFrame({"reviewer": reviewer, "case": ["c0", "c1", "c2"], "accept": accept})


def test_judgements_are_the_majority_for_each_reason_and_ties_are_left_out():
    cases = pd.DataFrame({"case": ["c0", "c1", "c2"], "chain": ["Good.", " good. ", "Bad."]})
    marks = pd.concat([marks_of("Ann", [1, 1, 1]), marks_of("Ben", [-1, 1, -1])])
    assert judgements.judgements(marks, cases) == {"good.": 1}


def test_a_reason_judged_as_it_stands_has_its_own_judgement():
    assert judgements.judged_reward(["A is b.  C is D."], {"a is b. c is d.": -1, "a is b.": 1}) == [-1.0]


def test_another_reason_has_the_mean_worth_of_its_sentences():
    judged = {"a. b.": 1, "a. c.": 1, "a. d.": -1}
    rewards = judgements.judged_reward(["a. c.  x.", "d.", "x.", ""], judged)
    assert rewards == pytest.approx([((1 + 1 - 1) / 3 + 1 + 0) / 3, -1, 0, 0])


def test_saying_a_good_sentence_again_does_not_raise_the_reward_above_one_saying():
    judged = {"a. b.": 1}
    assert judgements.judged_reward(["a. a. a."], judged) == judgements.judged_reward(["a."], judged) == [1.0]


def test_nothing_judged_rewards_nothing():
    assert judgements.judged_reward(["a.", "b."], {}) == [0.0, 0.0]
