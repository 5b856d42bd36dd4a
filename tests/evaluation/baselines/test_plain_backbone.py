"""The same backbone without reasoning: it learns, stops on validation, and is left at its best."""

import pytest
import torch

from r2ec_lib.evaluation.baselines.plain_backbone import fit_and_save, fit_item_action
from r2ec_lib.model import R2ec
from r2ec_lib.model.r2ec import ranks_of
from r2ec_lib.training import objective


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


def test_given_reasonings_are_what_is_learned_from(tiny, samples):
    """Targets that follow from the reasoning alone are found through it, and not without it."""
    tiny.lm.float()
    few = samples.head(12).assign(target=[row % 4 for row in range(12)])
    one = few.iloc[0]
    few["history"], few["history_hours"] = [one["history"]] * 12, [one["history_hours"]] * 12
    few["history_ratings"] = [one["history_ratings"]] * 12
    chains = [[5 + target, tiny.prompts.answer_id] for target in few["target"]]
    fit_item_action(tiny, few, few, 80, (chains, chains), batch_users=12, learning_rate=1e-2, mask_seen=False)
    told, silent = (objective.ndcg(ranks_of(tiny, few, said), 10).mean() for said in (chains, None))
    assert told > silent + 0.1


def test_a_job_of_its_own_saves_what_training_in_place_gives(tiny, samples, tmp_path):
    tiny.lm.float()
    tiny.save(tmp_path / "start")
    how = {"batch_users": 6, "learning_rate": 1e-2, "eval_steps": 4}
    log = fit_and_save(tmp_path / "start", tmp_path / "end", samples.head(12), samples.tail(12), 8, **how)
    here = R2ec.load(tmp_path / "start")
    assert log.drop(columns="seconds").equals(fit_item_action(here, samples.head(12), samples.tail(12), 8, **how))
    assert torch.equal(R2ec.load(tmp_path / "end").head.table, here.head.table)
