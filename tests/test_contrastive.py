"""The same backbone without reasoning: it learns, stops on validation, and is left at its best."""

import pytest

from r2ec_lib import objective
from r2ec_lib.contrastive import fit_item_action
from r2ec_lib.model import ranks_of


@pytest.mark.parametrize("readout", ["last", "mean", "token"])
@pytest.mark.parametrize("catalogue_negatives", [False, True])
def test_a_few_samples_are_learned(tiny_with_token, samples, catalogue_negatives, readout):
    tiny = tiny_with_token
    tiny.lm.float()
    tiny.head.readout = readout
    few = samples.drop_duplicates("target").head(6)
    before = objective.ndcg(ranks_of(tiny, few, None), 10).mean()
    log = fit_item_action(
        tiny,
        few,
        few,
        steps=60,
        batch_users=6,
        learning_rate=1e-2,
        refresh_steps=1 if catalogue_negatives else 60,
        catalogue_negatives=catalogue_negatives,
        eval_steps=15,
    )
    assert objective.ndcg(ranks_of(tiny, few, None), 10).mean() > before + 0.2
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]


def test_the_best_validation_is_what_remains(tiny, samples):
    tiny.lm.float()
    log = fit_item_action(
        tiny, samples.head(24), samples.tail(24), steps=40, batch_users=8, learning_rate=2e-2, eval_steps=4, patience=3
    )
    left = objective.ndcg(ranks_of(tiny, samples.tail(24), None), 10).mean().item()
    assert left == pytest.approx(log["valid_ndcg@10"].max(), abs=1e-6)
    assert len(log) <= log["valid_ndcg@10"].idxmax() + 1 + 3
