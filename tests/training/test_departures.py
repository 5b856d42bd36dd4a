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


def test_advantages_broadcast_over_the_batch_give_reasoning_no_gradient():
    """(B, S) × (B, 1, 1) → (B, B, S) weights every token by the sum of advantages, which is 0 for whole groups."""
    log_probs = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    advantages = objective.advantages(torch.rand(2, 2, dtype=torch.float64), "grpo").flatten()
    (slip,) = torch.autograd.grad((log_probs * advantages[:, None, None]).sum(), log_probs)
    (ours,) = torch.autograd.grad((log_probs * advantages[:, None]).sum(), log_probs)
    assert slip.abs().max() < 1e-12
    assert torch.allclose(ours, advantages[:, None].expand(4, 5))


def test_the_same_broadcast_voids_the_mark_of_the_best_trajectory():
    gains = torch.randn(4, 1, dtype=torch.float64, requires_grad=True)  # the item action as a token of its own
    best = objective.best_trajectories(torch.rand(2, 2)).flatten()  # (4,)
    (slip,) = torch.autograd.grad((gains * best[:, None, None]).sum(), gains)
    (ours,) = torch.autograd.grad((gains * best[:, None]).sum(), gains)
    assert (slip == 2).all()  # every trajectory counts, as often as there are groups
    assert ours.flatten().tolist() == best.double().tolist()


def test_leaving_one_out_of_equal_rewards_leaves_nothing():
    rewards = torch.full((1, 4), 0.8, dtype=torch.float64)
    slip = rewards - (rewards.sum() - rewards) / 4  # divides the other three by G
    assert slip.tolist()[0] == pytest.approx([0.25 * 0.8] * 4)
    assert objective.advantages(rewards, "rloo").abs().max() == 0


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
    chains, states = [[*words, trainer.r2ec.prompts.answer_id]] * 4, torch.zeros(4, 16)
    drawn = Drawn(chains, list(map(len, chains)), [True] * 4, states)
    monkeypatch.setattr(type(trainer), "sample_chains", lambda self, prompts: drawn)
    inputs = trainer._generate_and_score_completions([{"prompt": row} for row in (0, 0, 1, 1)])
    assert inputs["completion_ids"][0, : len(words)].tolist() == words


def tokenizer_pieces(tokenizer) -> list[int]:
    """A frequent word spelled in single letters, which a sampler may well write."""
    return tokenizer.convert_tokens_to_ids(list("likes"))


def test_the_longest_row_keeps_its_last_token_and_with_it_its_state(tiny, samples):
    rows = [[5, 6, 7, 40, 41, 2], [5, 6, 7, 42, 2]]
    states = tiny.encode(rows)
    cut = [row[: max(map(len, rows)) - 1] for row in rows]  # a column less: only the longest row loses a token
    slip = tiny.encode(cut)
    assert torch.allclose(slip[1], states[1], atol=1e-5) and not torch.allclose(slip[0], states[0], atol=1e-2)
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
    "learning_rate": 1e-5, "learning_rate_warmup": 32, "batch_users": 24, "num_generations": 4, "temperature": 1.5,
    "top_k": 200, "max_new_tokens": 512, "lora_rank": 4, "reward_mix": 0.05, "reward_cutoff": 1000,
    "similarity": "inner", "epsilon": 0.2, "relabel_top": 1, "epochs": 3.0, "patience": 1, "kl_weight": 0.0,
    "item_advantage": "trajectory", "length_handling": "sum", "readout": "last", "item_warmup_steps": 0,
    "optimizer": "paged_adamw_32bit", "protocol": "paper", "max_history": 20,
}  # fmt: skip
OFFICIAL = {
    "batch_users": 12, "num_processes": 3, "temperature": 2.0, "top_k": 50, "max_new_tokens": 640, "lora_alpha": 128,
    "similarity": "cosine", "rec_temperature": 0.02, "epsilon_high": 0.28, "relabel_top": 2, "patience": 8,
    "optimizer": "paged_adamw_8bit", "protocol": "official", "core": "5core",
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), [("paper", PAPER), ("official", {**PAPER, **OFFICIAL})])
def test_the_presets_hold_both_columns_of_settings(name, expected):
    found = recipes.load(ROOT / "params" / "paper" / f"{name}.yaml", recipes.declared_in(ROOT / "notebooks")).values
    declared = {key: p.default for keys in recipes.declared_in(ROOT / "notebooks").values() for key, p in keys.items()}
    assert {key: found.get(key, declared[key]) for key in expected} == expected
    assert declared["max_grad_norm"] == 1.0 and "max_grad_norm" not in found
    assert not any(key.startswith("warn_") or key in ("control_item_only", "judged_weight") for key in found)
