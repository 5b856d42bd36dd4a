"""People's judgements as a reward: what a reasoning is worth by what was said of it and of its sentences."""

import pandas as pd
import pytest

from r2ec_lib.training.judgements import judged_reward, judgements, normalise

JUDGED = {
    "the style is deco. it needs a lamp!": 1,
    "the style is deco; the colour is red.": -1,
    "it needs a lamp! buy two?": 1,
    "buy two?": -1,
}


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("The style is  Deco. It needs a lamp!", 1.0),  # judged as it stands, whatever its sentences say
        ("the style is deco; the colour is red.", -1.0),
        ("It needs a lamp!", 1.0),  # both of its judgements accept it
        ("the style is deco.", 1.0),
        ("the style is deco;", -1.0),  # another sentence: it ends otherwise
        ("It needs a lamp! It is blue.", 0.5),  # (1 + 0) / 2: nobody has judged the second sentence
        ("the colour is red. buy two?", -0.5),  # (−1 + (1 − 1) / 2) / 2
        ("buy two?", -1.0),  # its own judgement, not the mean of those of its sentence
        ("nobody has said this", 0.0),
        ("", 0.0),
    ],
)
def test_a_reasoning_has_its_own_judgement_or_the_mean_of_its_sentences(text, reward):
    assert judged_reward([text], JUDGED) == [reward]


def test_a_sentence_that_is_accepted_and_rejected_is_weighed_once_per_reasoning():
    judged = {"a. a. b.": 1, "a. c.": 1, "a. d.": -1}  # `a.` stands in two accepted reasonings and a rejected one
    assert judged_reward(["a."], judged) == [pytest.approx((1 + 1 - 1) / 3)]


def test_the_majority_of_reviewers_judges_and_ties_and_silence_are_left_out():
    cases = pd.DataFrame({"case": [1, 2, 3, 4, 5], "chain": ["Good  One", "bad one", "tie", "unjudged", ""]})
    marks = pd.DataFrame(
        [(1, 1), (1, 1), (1, -1), (2, -1), (2, -1), (2, 0), (3, 1), (3, -1), (4, 0), (5, 1)],
        columns=["case", "accept"],
    )
    assert judgements(marks, cases) == {"good one": 1, "bad one": -1}


def test_texts_differ_in_words_alone():
    assert normalise("  A\tRed \n lamp") == "a red lamp"
