"""Both sides of each comparison compute the same."""

import numpy as np
import pandas as pd
import pytest
import torch
from training.helpers import encodings_noted

from r2ec_lib.evaluation.speed import plain_ways, subjects, timing
from r2ec_lib.model import encoding


@pytest.fixture
def trainers(tiny, samples, tmp_path):
    """RecPO and plain TRL on copies of one model."""
    tiny.lm.float()
    size = {"num_generations": 2, "per_device_train_batch_size": 8, "max_completion_length": 5}
    return (
        plain_ways.recpo_trainer(tiny, samples, str(tmp_path), **size),
        plain_ways.plain_trainer(tiny, samples, str(tmp_path), **size),
    )


def test_generate_writes_the_greedy_chains_of_the_sampler(tiny, samples):
    prompts = tiny.prompts.user_ids(samples.iloc[:6], tiny.titles)
    with subjects.answers_at_random(tiny.lm, tiny.prompts.answer):
        expected = plain_ways.generated(tiny, prompts, tiny.settings(8))
        assert [chain[:-1] for chain in tiny.sample(prompts, 8).chains] == expected


def test_file_order_gives_the_states_of_the_buckets(tiny):
    cards = tiny.prompts.item_ids(tiny.catalogue)
    assert torch.allclose(plain_ways.encoded_in_file_order(tiny.lm, cards, 7).float(), tiny.encode(cards), atol=1e-5)


def test_recommended_items_are_those_of_recommend(tiny):
    history = tiny.catalogue["item_id"].tolist()[:3]
    found = tiny.recommend(history, k=5, max_new_tokens=4)
    frame = pd.DataFrame(
        {"history": [[0, 1, 2]], "history_hours": [[72.0, 48, 24]], "history_ratings": [[np.nan] * 3]}
    )
    prompts = tiny.prompts.user_ids(frame, tiny.titles)
    best = [item for item in plain_ways.recommended(tiny, prompts, [[0, 1, 2]], 4, 8)[0].tolist() if item > 2]
    assert [tiny.head.item_ids[item] for item in best[:5]] == found.item_ids


def test_both_trainers_read_the_same_prompts_and_write_as_many_tokens(trainers):
    recpo, plain = trainers
    users = len(recpo.train_dataset)
    texts = [plain.train_dataset[user]["prompt"] for user in range(users)]
    assert plain._tokenize_prompts(texts)[0] == recpo.rows.prompts(range(users))
    weights = [weight.detach().clone() for weight in recpo.model.parameters()]
    watches = [timing.Stopwatch(), timing.Stopwatch()]
    for trainer, watch in zip(trainers, watches, strict=True):
        with subjects.answers_at_random(trainer.model, recpo.r2ec.prompts.answer):
            plain_ways.optimiser_step(trainer)
            plain_ways.optimiser_step(trainer, watch)
        assert trainer.state.global_step == 2
        assert trainer._metrics["train"]["completions/mean_length"] == [5.0, 5.0]
    assert {"sampling", "reward", "policy pass", "backward", "optimiser", "other"} <= set(watches[1].rounds[0])
    assert set(watches[0].rounds[0]) - set(watches[1].rounds[0]) == {"target items"}
    assert any(not torch.equal(one, other) for one, other in zip(weights, recpo.model.parameters(), strict=True))


def test_the_plain_trainer_is_trls_own(trainers):
    recpo, plain = trainers
    assert type(plain).__module__.startswith("trl.")
    same = ["loss_type", "temperature", "beta", "gradient_checkpointing", "learning_rate", "num_generations"]
    assert [getattr(recpo.args, name) for name in same] == [getattr(plain.args, name) for name in same]


def test_a_prompt_once_a_group_gives_the_gradient_of_once_a_chain(trainers):
    recpo, _ = trainers
    ids, mask = plain_ways.policy_rows(recpo.r2ec.lm, 2, 3, 12, 4)
    assert len(ids.unique(dim=0)) == 6 and len(ids[:, :12].unique(dim=0)) == 2
    results = []
    for share in (True, False):
        found = plain_ways.policy_pass(recpo, ids, mask, 4, share)()
        results.append((found.detach(), plain_ways.gradient(recpo.model)))
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(*results, strict=True))


def test_a_step_that_refreshes_encodes_every_item_once(trainers):
    recpo, _ = trainers
    asked, drawn, rows = plain_ways.sampled_rollout(recpo)
    assert len(asked) == len(drawn.chains) == len(rows) == 8
    cards = recpo.r2ec.prompts.item_ids(recpo.r2ec.catalogue)
    targets, every = len(plain_ways.candidates(recpo)), len(cards)
    assert plain_ways.rewards(recpo, drawn, rows).shape == (8, 2)
    plain_ways.fresh_items(recpo)
    original = encoding.forward_states
    with encodings_noted() as noted:
        plain_ways.table_and_targets(recpo)
        plain_ways.targets_alone(recpo)
        plain_ways.whole_table(recpo)
    assert encoding.forward_states is original
    assert len(noted) == every and set(noted) == set(map(tuple, cards))
    for once, expected in ((True, every + targets), (False, 2 * every + targets)):
        with encodings_noted() as noted:
            plain_ways.table_for_a_step(recpo, once)
        assert len(noted) == expected


def test_growing_sides_have_the_sizes_they_are_given(trainers):
    recpo, _ = trainers
    sides = plain_ways.growing_sides(recpo, users=2, history=3, group=2, tokens=4)
    assert len(sides["sampling"]().chains) == 4
    assert sides["policy pass"]().shape == (4, 4)
