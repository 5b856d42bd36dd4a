"""R²ec on a whole samples table: reasonings written once, user states, rankings and the chains table.

The state of a sample is computed once; ranks, top items and the chains table all read it. Rankings are measured in
`ranking`; what a reasoning says is read in `analysis`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from r2ec_lib.evaluation import ranking
from r2ec_lib.model import R2ec
from r2ec_lib.model.sampling import Sampled


def answer(
    model: R2ec, samples: pd.DataFrame, max_new_tokens: int, chains: Sequence[Sequence[int]] | None = None
) -> Sampled:
    """Reasons greedily about each sample and reads the state at its `<answer>`.

    Args:
        max_new_tokens: of a reasoning; 0 writes none and reads `<answer>` straight after the prompt.
        chains: reasonings to read instead of writing any.
    """
    if chains is None:
        return model.sample(model.prompts.user_ids(samples, model.titles), max_new_tokens)
    return Sampled([list(chain) for chain in chains], [False] * len(samples), model.user_states(samples, chains))


def chains_of(model: R2ec, texts: Sequence[str]) -> list[list[int]]:
    """Given reasonings as chains: tokens of each text, closed by `<answer>`."""
    ids = model.tokenizer([f" {text.strip()}" for text in texts], add_special_tokens=False)["input_ids"]
    return [[*chain, *model.prompts.answer.ids] for chain in ids]


def rank(model: R2ec, answers: Sampled, samples: pd.DataFrame, *, name: str, **how: Any) -> pd.DataFrame:
    """`ranking.rank_all` from the states at hand; `how` are further keywords of it."""
    row_of = pd.Series(range(len(samples)), samples["sample_id"])
    return ranking.rank_all(
        lambda batch: model.scores(answers.states[row_of[batch["sample_id"]].to_list()], batch["history"].to_list()),
        samples,
        len(model.catalogue),
        model=name,
        **how,
    )


def exchange(answers: Mapping[str, tuple[R2ec, Sampled]], samples: pd.DataFrame, **how: Any) -> pd.DataFrame:
    """Each model ranks after its own reasonings and after those of the others: a model that ranks better may write
    what tells more, or make more of whatever it reads. All rank without a collaborative term.

    Args:
        answers: by name, a model and its answers to `samples`. The models share a tokenizer.
        how: further keywords of `ranking.rank_all`.

    Returns:
        The tables of `rank` below each other, with `model` = "<reader> reads <writer>".
    """
    parts = []
    for reader, (model, own) in answers.items():
        bare = R2ec(model.lm, model.prompts, model.catalogue, model.head)
        for writer, (_, other) in answers.items():
            read = own if writer == reader else answer(bare, samples, 0, other.chains)
            parts.append(rank(bare, read, samples, name=f"{reader} reads {writer}", **how))
    return pd.concat(parts, ignore_index=True)


def chains_table(
    model: R2ec, answers: Sampled, samples: pd.DataFrame, *, k: int = 20, mask_seen: bool = True
) -> pd.DataFrame:
    """One row per sample: what R²ec wrote, what it recommended, and the rank of the target.

    Returns:
        sample_id, user_id, model, chain (text), tokens (`<answer>` included), closed (the model wrote `<answer>`
        itself), rank, top_items (k indexes, best first), target.
    """
    table = rank(model, answers, samples, name="r2ec", mask_seen=mask_seen, k=k).assign(
        chain=[model.decode(chain) for chain in answers.chains],
        tokens=[len(chain) for chain in answers.chains],
        closed=answers.written,
    )
    return table[["sample_id", "user_id", "model", "chain", "tokens", "closed", "rank", "top_items", "target"]]


def live_scorer(model: R2ec, max_new_tokens: int) -> ranking.Scorer:
    """Reasoning, encoding and scoring in one call, as a service would run it; for measuring latency."""
    return lambda batch: model.scores(answer(model, batch, max_new_tokens).states, batch["history"].to_list())
