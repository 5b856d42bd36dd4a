"""Where the official code departs from the paper: each departure beside what is done here, and the difference.

The formulas called `slip` say in one line what that code computes; none of its lines stand here.
"""

import math
from pathlib import Path

import pytest
import torch

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import read_table, write_table
from r2ec_lib.training import jobs, objective
from r2ec_lib.training.rollout import Drawn
from r2ec_lib.workflow import recipes

ROOT = Path(__file__).parents[2]


def broadcast(advantages, log_probs):
    """(B, S) × (B, 1, 1) → (B, B, S): every token is weighted by the sum of all advantages."""
    return (log_probs * advantages[:, None, None]).sum()


def token_gradients(advantages, log_probs):
    """The gradient of the reasoning tokens under the broadcast, and token by token as in Eq. 8."""
    (slip,) = torch.autograd.grad(broadcast(advantages, log_probs), log_probs)
    (ours,) = torch.autograd.grad((log_probs * advantages[:, None]).sum(), log_probs)
    return slip, ours


@pytest.mark.parametrize("estimator", ["grpo", "rloo"])
def test_reasoning_gets_no_gradient_from_broadcast_advantages_where_a_batch_holds_whole_groups(make_scored, estimator):
    """They sum to 0 but for rounding, in float32 about 1e-7 of the right norm here; the official run had 1e-5."""
    rewards = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).tolist()
    advantages = make_scored(rewards, estimator=estimator)["advantages"]
    slip, ours = token_gradients(advantages, torch.randn(24, 5, requires_grad=True))
    assert slip.norm() < 1e-5 * ours.norm()
    assert torch.allclose(ours, advantages[:, None].expand(24, 5))


def test_where_groups_are_split_broadcast_advantages_give_reasoning_a_wrong_gradient_that_is_not_zero(make_scored):
    """All tokens of a micro-batch are pushed the same way, good reasonings and bad ones alike."""
    rewards = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).tolist()
    advantages = make_scored(rewards)["advantages"].view(6, 4)
    log_probs = torch.randn(6, 5, requires_grad=True)
    for advantage in advantages.T:  # a trajectory of each user: no micro-batch holds a whole group
        slip, ours = token_gradients(advantage, log_probs)
        assert slip.norm() > 0.1 * ours.norm()
        assert (slip == slip[0, 0]).all() and (torch.sign(ours) != torch.sign(slip)).any()
        assert torch.cosine_similarity(slip.flatten(), ours.flatten(), dim=0).abs() < 0.9


def test_the_same_broadcast_voids_the_mark_of_the_best_trajectory():
    gains = torch.randn(4, 1, dtype=torch.float64, requires_grad=True)  # the item action as a token of its own
    best = objective.best_trajectories(torch.rand(2, 2)).flatten()  # (4,)
    (slip,) = torch.autograd.grad((gains * best[:, None, None]).sum(), gains)
    (ours,) = torch.autograd.grad((gains * best[:, None]).sum(), gains)
    assert (slip == 2).all()  # every trajectory counts, as often as there are groups
    assert ours.flatten().tolist() == best.double().tolist()


@pytest.mark.parametrize("group", [2, 4])
def test_leaving_one_out_of_equal_rewards_leaves_nothing(make_scored, group):
    rewards = torch.full((2, group), 0.75)
    slip = rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / group  # divides the other G − 1 by G
    assert slip.flatten().tolist() == pytest.approx([0.75 / group] * 2 * group)
    assert make_scored(rewards.tolist(), estimator="rloo")["advantages"].abs().max() == 0


def test_losses_of_micro_batches_are_averaged_so_their_number_leaves_the_gradient_as_it_is(make_trainer):
    """Summed, as in the official code, the gradient grows with their number, until clipping hides it."""
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(8, 3, dtype=torch.float64)
    slip, ours = [], []
    for count in (1, 2, 4):
        losses = [(part @ weight).mean() for part in rows.split(8 // count)]
        slip.append(torch.autograd.grad(sum(losses), weight, retain_graph=True)[0])
        ours.append(torch.autograd.grad(sum(loss / count for loss in losses), weight)[0])
    assert all(torch.allclose(one, count * slip[0]) for one, count in zip(slip, (1, 2, 4), strict=True))
    assert all(torch.allclose(one, ours[0]) for one in ours)
    clipped = [gradient / gradient.norm().clamp(min=1e-3) for gradient in slip]
    assert all(torch.allclose(one, clipped[0]) for one in clipped)


def test_only_the_logits_of_chain_tokens_are_computed(make_trainer):
    """The official code's `logits_to_keep` reaches no forward at its pinned transformers, so it holds all logits."""
    trainer = make_trainer()
    prompts, chains = torch.full((2, 9), 5), torch.tensor([[40, 41, 2], [42, 2, 0]])
    ids, mask = torch.cat([prompts, chains], dim=1), torch.ones(2, 12, dtype=torch.long)
    mask[1, -1] = 0
    rows = []
    handle = trainer.r2ec.lm.get_output_embeddings().register_forward_hook(
        lambda _, __, logits: rows.append(logits.numel() // logits.shape[-1])
    )
    trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 3)
    handle.remove()
    assert max(rows) == 5 < ids.numel()  # three and two chain tokens; the prompts' pass keeps one position each


def test_a_step_that_cannot_be_split_evenly_is_refused_and_not_rounded(tiny, samples, tmp_path):
    users, micro = 7, 4
    assert users // micro + users % micro != math.ceil(users / micro)  # 4 steps where 2 are needed
    write_table(samples, tmp_path / "data" / "samples.parquet")
    tiny.save(tmp_path / "training" / "start")
    with pytest.raises(DataError, match="cannot be split evenly"):
        settings = {"num_generations": 2, "eval_steps": 1, "gradient_accumulation_steps": micro}
        jobs.write_job(tmp_path, settings, batch_users=users, num_processes=1, patience=1)


def test_sampled_tokens_are_trained_on_though_their_text_would_give_others(make_trainer, monkeypatch):
    trainer = make_trainer()
    tokenizer, words = trainer.r2ec.tokenizer, tokenizer_pieces(trainer.r2ec.tokenizer)
    again = tokenizer(tokenizer.decode(words), add_special_tokens=False)["input_ids"]
    assert again != words  # decoded and read again they are other tokens
    chains, states = [[*words, *trainer.r2ec.prompts.answer.ids]] * 4, torch.zeros(4, 16)
    drawn = Drawn(chains, list(map(len, chains)), [True] * 4, states)
    monkeypatch.setattr(type(trainer), "sample_chains", lambda self, prompts: drawn)
    inputs = trainer._generate_and_score_completions([{"prompt": row} for row in (0, 0, 1, 1)])
    assert inputs["completion_ids"][0, : len(words)].tolist() == words


def tokenizer_pieces(tokenizer) -> list[int]:
    """A frequent word spelled in single letters, which a sampler may well write."""
    return tokenizer.convert_tokens_to_ids(list("likes"))


def test_the_longest_rows_keep_their_last_token_and_with_it_their_state(tiny, samples):
    rows = [[5, 6, 7, 40, 41, 2], [5, 6, 7, 42, 2], [8, 6, 7, 40, 41, 2]]
    states = tiny.encode(rows)
    width = max(map(len, rows)) - 1  # a column less: every row that is tied for the longest loses its last token
    slip = tiny.encode([row[:width] for row in rows])
    assert [torch.allclose(one, other, atol=1e-2) for one, other in zip(slip, states, strict=True)] == [
        len(row) <= width for row in rows
    ]
    assert torch.allclose(states[0], tiny.encode(rows[:1])[0], atol=1e-5)


def test_a_step_without_memory_fails(make_trainer, monkeypatch):
    trainer = make_trainer()

    def full(*_, **__):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(type(trainer), "_item_log_probs", full)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.train()


def test_training_reads_no_row_of_the_test_split(tiny, samples, tmp_path):
    """The same training twice, the second time with test rows that would fail it."""
    tiny.lm.float()
    split, logs = ["train"] * 24 + ["valid"] * 12 + ["test"] * 12, []
    settings = {"num_generations": 2, "max_steps": 2, "eval_steps": 1, "max_completion_length": 3, "use_cpu": True}
    for name in ("usual", "broken"):
        table = samples.assign(split=split)
        if name == "broken":
            table.loc[table["split"] == "test", ["target", "user_id"]] = [10**6, "nobody"]
        write_table(table, tmp_path / name / "data" / "samples.parquet")
        tiny.save(tmp_path / name / "training" / "start")
        jobs.write_job(tmp_path / name, settings, batch_users=2, num_processes=1, patience=9)
        jobs.train(tmp_path / name, report=lambda line: None)
        logs.append(read_table(tmp_path / name / "training" / "log.parquet")[["reward", "valid_ndcg@10"]])
    assert logs[0].equals(logs[1])


PAPER = {
    "learning_rate": 1e-5, "warmup_steps": 32, "batch_users": 24, "num_generations": 4, "temperature": 1.5,
    "top_k": 200, "max_completion_length": 512, "lora_r": 4, "reward_mix": 0.05, "reward_cutoff": 1000,
    "similarity": "inner", "epsilon": 0.2, "relabel_top": 1, "num_train_epochs": 3.0, "patience": 1, "beta": 0.0,
    "item_advantage": "trajectory", "length_handling": "sum", "readout": "last", "item_warmup_steps": 0,
    "optim": "paged_adamw_32bit", "protocol": "paper", "max_history": 20,
    "warmup_lm_steps": 0, "item_steps": 0,
}  # fmt: skip
OFFICIAL = {
    "batch_users": 12, "num_processes": 3, "temperature": 2.0, "top_k": 50, "max_completion_length": 640,
    "lora_alpha": 128, "similarity": "cosine", "rec_temperature": 0.02, "epsilon_high": 0.28,
    "relabel_top": 2, "patience": 8, "optim": "paged_adamw_8bit", "protocol": "official", "core": "5core",
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), [("paper", PAPER), ("official", {**PAPER, **OFFICIAL})])
def test_the_presets_hold_both_columns_of_settings(name, expected):
    found = recipes.load(ROOT / "params" / "paper" / f"{name}.yaml", recipes.declared_in(ROOT / "notebooks")).values
    declared = {key: p.default for keys in recipes.declared_in(ROOT / "notebooks").values() for key, p in keys.items()}
    assert {key: found.get(key, declared[key]) for key in expected} == expected
    assert declared["max_grad_norm"] == 1.0 and "max_grad_norm" not in found
    assert not {"control_item_only", "judged_weight"} & set(found)
