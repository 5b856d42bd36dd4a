"""People's judgements of reasonings as a further reward."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

ACCEPT = {"yes": 1, "no": -1, "": 0}
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")


def judgements(marks: pd.DataFrame, cases: pd.DataFrame) -> dict[str, int]:
    """Normalised reason text → +1 where more reviewers accepted than rejected it, −1 where more rejected it.

    Args:
        marks: the tables of `read_sheet`, below each other. cases: the sheet's `review.KEY`, with the reasons.

    Ties and reasons that nobody judged are left out.
    """
    texts = marks["case"].map(cases.set_index("case")["chain"].map(normalise))
    votes = marks["accept"].groupby(texts).sum()
    return {str(text): int(np.sign(vote)) for text, vote in votes.items() if vote and text}


def judged_reward(chains: Sequence[str], judged: Mapping[str, int]) -> list[float]:
    """Reward of each reason from people's judgements, from −1 to 1.

    A reason that was judged as it stands has its own judgement. Any other has the mean over its sentences of
    (accepted − rejected) / (accepted + rejected), counted over the judged reasons that hold the sentence. A sentence
    in none of them counts 0, so that a reason is not rewarded for one good sentence among many unknown ones. An
    empty reason has 0.
    """
    votes: dict[str, list[int]] = {}
    for text, vote in judged.items():
        for sentence in set(_sentences(text)):
            votes.setdefault(sentence, []).append(vote)
    worth = {sentence: sum(given) / len(given) for sentence, given in votes.items()}
    rewards = []
    for chain in chains:
        text = normalise(chain)
        parts = [worth.get(sentence, 0.0) for sentence in _sentences(text)]
        rewards.append(float(judged[text]) if text in judged else sum(parts) / len(parts) if parts else 0.0)
    return rewards


def normalise(text: str) -> str:
    """Lower case, single spaces.

    >>> normalise(" The style  is Deco. ")
    'the style is deco.'
    """
    return " ".join(text.lower().split())


def _sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE.split(text) if part]
