"""The same backbone without reasoning: it learns, stops on validation, and is left at its best."""

import copy
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from r2ec_lib.data.schema import DataError
from r2ec_lib.model import R2ec
from r2ec_lib.model.head import RecHead
from r2ec_lib.model.r2ec import ranks_of
from r2ec_lib.model.scoring import item_log_probs, seen_mask
from r2ec_lib.training import item_action, objective
from r2ec_lib.training.item_action import fit_and_save, fit_item_action, progress_line, read_and_spoken


@pytest.mark.parametrize("readout", ["last", "mean", "token"])
@pytest.mark.parametrize("catalogue_negatives", [False, True])
def test_a_few_samples_are_learned(tiny_with_token, samples, catalogue_negatives, readout):
    tiny = tiny_with_token
    tiny.lm.float()
    tiny.head.readout = readout
    few = samples.drop_duplicates("target").head(6)
    before = objective.ndcg(ranks_of(tiny, few, tiny.user_states(few)), 10).mean()
    log = fit_item_action(
        tiny,
        few,
        few,
        steps=30,
        batch_users=6,
        learning_rate=1e-2,
        refresh_steps=1 if catalogue_negatives else 30,
        catalogue_negatives=catalogue_negatives,
        eval_steps=15,
    )
    assert objective.ndcg(ranks_of(tiny, few, tiny.user_states(few)), 10).mean() > before + 0.2
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]


@pytest.mark.parametrize(
    "kind, falls", [("constant_with_warmup", lambda step: 1.0), ("linear", lambda step: (11 - step) / (11 - 4))]
)
def test_the_rate_rises_and_falls_as_the_schedule_says(tiny, samples, monkeypatch, kind, falls):
    rates, plain = [], torch.optim.AdamW.step

    def step(optimizer, *args, **kwargs):
        rates.append(optimizer.param_groups[0]["lr"])
        return plain(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    how = {"batch_users": 6, "learning_rate": 0.02, "warmup_steps": 4, "lr_scheduler_type": kind}
    fit_item_action(tiny, samples.head(12), samples.head(6), 10, **how)
    assert rates == pytest.approx([0.02 * (at / 4 if at <= 4 else falls(at)) for at in range(1, 11)])


def test_recomputed_activations_train_the_same_weights(tiny, samples, monkeypatch):
    used, plain = [], type(tiny.lm).activation_checkpointing_enable
    note = lambda lm, *how: used.append(how) or plain(lm, *how)  # noqa: E731
    monkeypatch.setattr(type(tiny.lm), "activation_checkpointing_enable", note)
    tiny.lm.float()
    again = R2ec(copy.deepcopy(tiny.lm), tiny.prompts, tiny.catalogue)
    chains = [[40 + row, *tiny.prompts.answer.ids] for row in range(12)], None
    how = {"batch_users": 6, "learning_rate": 0.01, "live_negatives": 5, "chain_weight": 1.0}
    fit_item_action(tiny, samples.head(12), samples.head(6), 3, chains, **how)
    assert not used
    fit_item_action(again, samples.head(12), samples.head(6), 3, chains, **how, gradient_checkpointing=True)
    assert used and not again.lm.is_activation_checkpointing
    assert not again.lm.get_input_embeddings()._forward_hooks
    for one, other in zip(tiny.lm.parameters(), again.lm.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_best_validation_is_what_remains(tiny, samples):
    tiny.lm.float()
    log = fit_item_action(
        tiny, samples.head(24), samples.tail(24), steps=40, batch_users=8, learning_rate=2e-2, eval_steps=4, patience=3
    )
    left = objective.ndcg(ranks_of(tiny, samples.tail(24), tiny.user_states(samples.tail(24))), 10).mean().item()
    assert left == pytest.approx(log["valid_ndcg@10"].max(), abs=1e-6)
    assert len(log) <= log["valid_ndcg@10"].idxmax() + 1 + 3
    fresh = tiny.encode_items(tiny.catalogue)
    assert torch.equal(tiny.head.table, fresh)


def test_progress_is_told_at_each_tenth_and_the_score_where_there_is_one(tiny, samples):
    tiny.lm.float()
    told = []
    tables = samples.head(12), samples.tail(12)
    log = fit_item_action(tiny, *tables, 20, batch_users=6, eval_steps=10, report=lambda *row: told.append(row))
    assert [step for step, _, _ in told] == list(range(2, 21, 2))
    assert [(step, score) for step, _, score in told if score is not None] == [
        *zip(log["step"], log["valid_ndcg@10"], strict=True)
    ]
    assert torch.equal(tiny.head.table, tiny.encode_items(tiny.catalogue))  # also where the last is the best
    assert progress_line(*told[0]).split() == ["step", "2", "loss", f"{told[0][1]:.3f}"]
    assert "NDCG@10" in progress_line(*told[4])


def test_given_reasonings_are_what_is_learned_from(tiny, samples):
    """Targets that follow from the reasoning alone are found through it, and not without it."""
    tiny.lm.float()
    few = samples.head(12).assign(target=[row % 4 for row in range(12)])
    one = few.iloc[0]
    few["history"], few["history_hours"] = [one["history"]] * 12, [one["history_hours"]] * 12
    few["history_ratings"] = [one["history_ratings"]] * 12
    chains = [[5 + target, *tiny.prompts.answer.ids] for target in few["target"]]
    fit_item_action(tiny, few, few, 40, (chains, chains), batch_users=12, learning_rate=1e-2, mask_seen=False)
    states = tiny.user_states(few, chains), tiny.user_states(few)
    told, silent = (objective.ndcg(ranks_of(tiny, few, read), 10).mean() for read in states)
    assert told > silent + 0.1


def test_a_job_of_its_own_saves_what_training_in_place_gives(tiny, samples, tmp_path):
    tiny.lm.float()
    tiny.save(tmp_path / "start")
    how = {"batch_users": 6, "learning_rate": 1e-2, "eval_steps": 4}
    log = fit_and_save(tmp_path / "start", tmp_path / "end", samples.head(12), samples.tail(12), 8, **how)
    here = R2ec.load(tmp_path / "start")
    assert 0 < log["seconds"].iloc[0] < 600
    assert log.drop(columns="seconds").equals(fit_item_action(here, samples.head(12), samples.tail(12), 8, **how))
    assert torch.equal(R2ec.load(tmp_path / "end").head.table, here.head.table)


def test_a_job_that_is_done_is_not_done_again_and_another_one_is(tiny, samples, tmp_path):
    tiny.lm.float()
    tiny.save(tmp_path / "start")
    places, tables = (tmp_path / "start", tmp_path / "end"), (samples.head(12), samples.tail(12))
    how = {"batch_users": 6, "learning_rate": 1e-2, "eval_steps": 4}
    log = fit_and_save(*places, *tables, 4, **how)
    assert fit_and_save(*places, *tables, 4, **how).equals(log)  # with the seconds of the first time
    assert R2ec.load(places[1], device="cpu").recommend(["i1"]).reasoning == ""  # it has learned to answer at once
    for other in ({**how, "learning_rate": 2e-2}, {**how, "chains": ([[*tiny.prompts.answer.ids]] * 12, None)}):
        assert not fit_and_save(*places, *tables, 4, **other)["seconds"].equals(log["seconds"])
    valid, targets = (tables[0], samples.tail(11)), (tables[0].assign(target=29), tables[1])
    back = tables[0].assign(history=[history[::-1] for history in tables[0]["history"]]), tables[1]
    for others in ((samples.iloc[1:13], tables[1]), valid, targets, back):
        before = fit_and_save(*places, *tables, 4, **how)
        assert not fit_and_save(*places, *others, 4, **how)["seconds"].equals(before["seconds"])
    for change in ({"table": tiny.head.table + 1}, {}):  # another start: other weights, then other titles alone
        before = fit_and_save(*places, *tables, 4, **how)
        vars(tiny.head).update(change)
        tiny.catalogue = tiny.catalogue if change else tiny.catalogue.assign(title=tiny.catalogue["title"] + " pan")
        tiny.save(tmp_path / "start")
        assert not fit_and_save(*places, *tables, 4, **how)["seconds"].equals(before["seconds"])


def first_loss(model, table, **choices):
    """The loss of the first step, before any weight has changed."""
    how = {"steps": 1, "batch_users": len(table), "eval_steps": 1} | choices
    return fit_item_action(model, table, table, **how)["loss"].item()


def test_texts_are_read_without_dropout_as_in_recpo(tiny, samples):
    tiny.lm.float()
    again = R2ec(copy.deepcopy(tiny.lm), tiny.prompts, tiny.catalogue)
    for layer in again.lm.model.layers:
        layer.mlp = torch.nn.Sequential(layer.mlp, torch.nn.Dropout(0.5))
    assert first_loss(again, samples.head(12)) == first_loss(tiny, samples.head(12))


def test_four_samples_of_one_target_have_nothing_to_tell_apart(tiny, samples):
    few = samples.drop_duplicates("user_id").head(4).assign(target=29)
    few["history"] = [[item for item in history if item != 29] or [0] for history in few["history"]]
    few["history_hours"] = [[float(n) for n in range(len(history), 0, -1)] for history in few["history"]]
    few["history_ratings"] = [[math.nan] * len(history) for history in few["history"]]
    assert first_loss(tiny, few) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("similarity", ["inner", "cosine"])
@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("catalogue_negatives", [True, False])
def test_the_loss_is_equation_7_over_the_targets_that_a_shopper_has_not_bought(
    tiny, samples, catalogue_negatives, mask_seen, similarity
):
    """Histories overlap with the other targets of the batch, and two samples share a target."""
    few = samples.head(5).assign(target=[3, 8, 11, 3, 20])
    few["history"] = [[8, 1], [3, 11, 2], [5], [11], [3, 8, 11]]
    few["history_hours"] = [[float(n) for n in range(len(history), 0, -1)] for history in few["history"]]
    few["history_ratings"] = [[math.nan] * len(history) for history in few["history"]]
    tiny.head.similarity, tiny.head.temperature = similarity, 0.5
    users, table = tiny.user_states(few).tolist(), tiny.encode(tiny.prompts.item_ids(tiny.catalogue)).tolist()
    tiny.head.table = torch.zeros_like(tiny.head.table)  # of weights that are long gone
    losses = []
    for user, target, history in zip(users, few["target"], few["history"], strict=True):
        candidates = range(len(table)) if catalogue_negatives else set(few["target"])
        scores = {}
        for item in candidates:
            if mask_seen and item in history:
                continue
            scores[item] = sum(a * b for a, b in zip(user, table[item], strict=True))
            if similarity == "cosine":
                scores[item] /= math.hypot(*user) * math.hypot(*table[item])
        losses.append(-math.log(math.exp(scores[target] / 0.5) / sum(math.exp(s / 0.5) for s in scores.values())))
    found = first_loss(tiny, few, catalogue_negatives=catalogue_negatives, mask_seen=mask_seen)
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_learning_rate_rises_over_the_warm_up_and_the_gradient_is_clipped(tiny, samples, monkeypatch):
    rates, norms = [], []
    step, clip = torch.optim.AdamW.step, torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda w, most: norms.append(most) or clip(w, most))
    choices = {"batch_users": 4, "eval_steps": 6, "learning_rate": 8e-3, "warmup_steps": 4}
    fit_item_action(tiny, samples.head(8), samples.head(4), 6, **choices)
    assert rates == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 8e-3, 8e-3]) and set(norms) == {1.0}


def test_every_sample_is_read_once_before_any_is_read_again(tiny, samples, monkeypatch):
    read, original = [], R2ec.closed
    prompts = tiny.prompts.user_ids(samples.head(8), tiny.titles)
    states = item_action.batched_states

    def noting(lm, plain_lm, ids, *args, **kwargs):
        read.append([tuple(row) for row in ids])
        return states(lm, plain_lm, ids, *args, **kwargs)

    monkeypatch.setattr(item_action, "batched_states", noting)
    fit_item_action(tiny, samples.head(8), samples.head(4), 2, batch_users=4, eval_steps=2)
    closed = [tuple(row) for row in original(tiny, [[*ids, *tiny.prompts.answer.ids] for ids in prompts])]
    assert sorted(read[0] + read[2]) == sorted(closed)  # users of both steps; items are read between them


@pytest.mark.parametrize("size", [4096, 1])  # tokens a batch: all rows together, or each alone
@pytest.mark.parametrize("readout", ["last", "mean", "token"])
def test_one_pass_reads_the_states_and_weighs_the_written_tokens(tiny_with_token, samples, readout, size, monkeypatch):
    monkeypatch.setattr(item_action, "encoded_tokens", lambda lm: size)
    model, few = tiny_with_token, samples.head(6)
    model.lm.float()
    model.head.readout = readout
    answer = model.prompts.answer.ids
    chains = [[9, 10, 11, *answer], [7, 8, *answer], [*answer]] * 2
    prompts = model.prompts.user_ids(few, model.titles)
    users = model.closed([[*ids, *chain] for ids, chain in zip(prompts, chains, strict=True)])
    states, spoken = read_and_spoken(model, users, [len(ids) for ids in prompts])
    assert torch.allclose(states, model.user_states(few, chains), atol=1e-5)
    nats = []
    for ids, chain in zip(prompts, chains, strict=True):
        if chain == [*answer]:  # an answer at once is nothing that was written
            continue
        logits = model.lm(torch.tensor([[*ids, *chain]])).logits[0].log_softmax(dim=-1)
        nats += [-logits[len(ids) + place - 1, token].item() for place, token in enumerate(chain)]
    assert spoken.item() == pytest.approx(sum(nats) / len(nats), abs=1e-4)
    silent = model.closed([[*ids, *answer] for ids in prompts])
    assert read_and_spoken(model, silent, [len(ids) for ids in prompts])[1] == 0


def test_a_model_goes_on_writing_the_reasonings_that_it_is_given(tiny, samples):
    tiny.lm.float()
    few, chain = samples.head(8), [5, 6, 7, *tiny.prompts.answer.ids]
    fit_item_action(tiny, few, few, 60, ([chain] * 8, None), 8, 1e-2, chain_weight=1.0, eval_steps=60)
    assert tiny.sample(tiny.prompts.user_ids(few, tiny.titles), 8).chains == [chain] * 8


@pytest.mark.parametrize("chain_weight", [0.0, 1.0])
def test_reasonings_that_are_read_alone_are_learned_without_their_history_and_answers_at_once_with_it(
    tiny, samples, monkeypatch, chain_weight
):
    tiny.lm.float()
    tiny.head.readout = "alone"
    few, answer, read = samples.head(2), tiny.prompts.answer.ids, []
    original = item_action._states

    def states(model, ids, *rest, **how):
        read.append(ids)
        return original(model, ids, *rest, **how)

    monkeypatch.setattr(item_action, "_states", states)
    fit_item_action(tiny, few, few, 1, ([[7, 8, *answer], None], None), 2, chain_weight=chain_weight, eval_steps=1)
    prompts = tiny.prompts.user_ids(few, tiny.titles)
    assert sorted(read[0]) == sorted([[*tiny.prompts.empty, 7, 8, *answer], [*prompts[1], *answer]])


def test_live_negatives_are_further_candidates(tiny, samples):
    """With the whole catalogue live, the loss is that over all items; with none of it, over the batch's targets."""
    tiny.lm.float()
    few = samples.drop_duplicates("target").head(4)
    tiny.refresh()
    states = tiny.user_states(few)
    targets = torch.tensor(few["target"].to_numpy())
    seen = seen_mask(few["history"], len(tiny.catalogue))
    whole = -item_log_probs(tiny.head.scores(states), targets, tiny.head.temperature, seen).mean()
    assert first_loss(tiny, few, live_negatives=len(tiny.catalogue) + 9) == pytest.approx(whole.item(), abs=1e-4)
    assert first_loss(tiny, few) < whole


@pytest.mark.parametrize("longer", [0, 1])
def test_a_reasoning_that_the_model_has_no_positions_for_is_refused(tiny, samples, longer):
    few = samples.head(4)
    chains = [[*[7] * (90 + longer), *tiny.prompts.answer.ids]] * 4
    prompts = tiny.prompts.user_ids(few, tiny.titles)
    tiny.lm.config.max_position_embeddings = max(map(len, prompts)) + 90 + 1
    with pytest.raises(DataError, match="reasoning included, exceeds") if longer else nullcontext():
        fit_item_action(tiny, few, few, 1, (chains, None), batch_users=4)


def test_a_training_of_no_steps_is_refused(tiny, samples):
    with pytest.raises(DataError, match="steps is 0; expected a whole number, 1 or more"):
        fit_item_action(tiny, samples, samples, steps=0)


@pytest.mark.parametrize(
    ("eval_steps", "message"),
    [
        (50, r"after step 1 \(learning rate inf\) NaN or infinity is in the loss .*a lower learning rate"),
        (1, r"after step 1 .*the item table"),  # before the next loss would tell
    ],
)
def test_a_training_that_diverges_says_so(tiny, samples, eval_steps, message):
    tiny.lm.float()
    how = {"batch_users": 8, "learning_rate": math.inf, "warmup_steps": 0, "eval_steps": eval_steps}
    with pytest.raises(FloatingPointError, match=message):
        fit_item_action(tiny, samples.head(8), samples.head(8), 4, **how)


def test_each_step_has_the_gradient_of_its_own_batch_and_each_row_of_the_log_its_own_losses(
    tiny, samples, monkeypatch
):
    """A rate of 0 leaves the weights as they are, so four batches of all samples have one gradient and one loss."""
    norms, losses = [], []
    clip, log_probs = torch.nn.utils.clip_grad_norm_, RecHead.log_probs

    def clipped(weights, most):
        norms.append(sum(float(weight.grad.norm()) for weight in weights))
        return clip(weights, most)

    def noting(*given):
        losses.append(-log_probs(*given).mean().item())
        return log_probs(*given)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    choices = {"learning_rate": 0.0, "eval_steps": 2, "patience": 9}
    fit_item_action(tiny, samples.head(6), samples.head(4), 4, batch_users=6, **choices)
    assert norms == pytest.approx([norms[0]] * 4) and norms[0] > 0
    monkeypatch.setattr(RecHead, "log_probs", noting)
    log = fit_item_action(tiny, samples.head(12), samples.head(4), 4, batch_users=3, **choices)
    assert log["loss"].tolist() == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2]) and len(set(losses)) == 4


def test_an_evaluation_that_is_only_as_good_as_the_best_does_not_put_off_the_end(tiny, samples):
    log = fit_item_action(tiny, samples.head(6), samples.head(4), 40, batch_users=6, learning_rate=0.0, eval_steps=1)
    assert len(log) == 1 + 3


def test_training_ends_after_so_many_evaluations_without_a_better_score(tiny, samples, monkeypatch):
    ranks = iter([9.0, 5.0, 2.0, 3.0, 3.0, 3.0, 1.0])
    monkeypatch.setattr(item_action, "ranks_of", lambda *_: torch.tensor([next(ranks)]))
    log = fit_item_action(tiny, samples.head(6), samples.head(4), 40, batch_users=6, eval_steps=1, patience=3)
    assert len(log) == 6


@pytest.mark.parametrize(("negatives", "encoded"), [(True, [0, 3, 6]), (False, [6])])
def test_the_stored_table_is_encoded_anew_only_where_it_is_read(tiny, samples, monkeypatch, negatives, encoded):
    steps, at = [0], []
    monkeypatch.setattr(R2ec, "refresh", lambda model: at.append(steps[0]))
    counted = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args: steps.append(steps.pop() + 1) or counted(*args))
    how = {"batch_users": 6, "refresh_steps": 3, "catalogue_negatives": negatives, "eval_steps": 6}
    fit_item_action(tiny, samples.head(6), samples.head(4), 6, **how)
    assert at == encoded


def test_the_last_step_is_evaluated_too(tiny, samples):
    log = fit_item_action(tiny, samples.head(6), samples.head(4), 5, batch_users=6, eval_steps=4)
    assert log["step"].tolist() == [4, 5]


def test_what_is_left_of_a_round_is_dropped_unless_it_is_all():
    for samples, batch, size in ((7, 3, 3), (6, 3, 3), (2, 5, 2)):
        rounds = item_action._rounds(samples, batch, np.random.default_rng(0))
        assert [len(set(next(rounds))) for _ in range(5)] == [size] * 5


def test_reasonings_are_weighed_in_the_gradient_and_read_in_validation(tiny, samples, monkeypatch):
    tiny.lm.float()
    few, gradients = samples.head(6), []
    chains = [[5 + row, 7, *tiny.prompts.answer.ids] for row in range(6)]

    def clipped(weights, most):
        gradients.append(torch.cat([weight.grad.flatten() for weight in weights]))

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    for weight in (0.0, 1.0, 3.0):
        how = {"batch_users": 6, "learning_rate": 0.0, "chain_weight": weight}
        log = fit_item_action(tiny, few, few, 1, (chains, chains), **how)
    plain, once, thrice = gradients
    torch.testing.assert_close(thrice - plain, 3 * (once - plain), atol=1e-4, rtol=1e-3)
    ranks = [ranks_of(tiny, few, tiny.user_states(few, read)) for read in (chains, None)]
    told, silent = (objective.ndcg(one, 10).mean().item() for one in ranks)
    assert log["valid_ndcg@10"].item() == pytest.approx(told) and told != silent


@pytest.mark.parametrize("mask_seen", [True, False])
def test_validation_masks_the_history_where_training_does(tiny, samples, mask_seen):
    """The items of a history are scored best here, so they stand before the target where they are candidates."""
    few = samples.head(6)
    shown = seen_mask(few["history"], len(tiny.catalogue)).float()
    shown[torch.arange(6), torch.tensor(few["target"])] = 0.5
    tiny.scores = lambda states, histories: shown
    log = fit_item_action(tiny, few, few, 1, batch_users=6, learning_rate=0.0, mask_seen=mask_seen)
    expected = [1.0 if mask_seen else 1 / math.log2(2 + len(history)) for history in few["history"]]
    assert log["valid_ndcg@10"].item() == pytest.approx(sum(expected) / 6)
