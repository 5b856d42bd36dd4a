"""The trainer's real loss: Eq. 8 to the last gradient, on a two-layer model in float64."""

import math
import sys

import pytest
import torch
from conftest import FAMILIES, family_lm

from r2ec_lib.model import R2ec, encoding
from r2ec_lib.model.encoding import READOUTS, captured_states, forward_states, read_out
from r2ec_lib.model.prompts import Prompts, PromptStyle
from r2ec_lib.training import trainer as trainer_module
from r2ec_lib.training.log_probs import token_log_probs
from r2ec_lib.training.trainer import RecPOConfig, RecPOTrainer

CHAINS = [[40, 41, 2], [42, 2], [43, 44, 45, 46, 2], [47, 48, 49, 2]]  # 2 is `<answer>`; different lengths


@pytest.fixture
def whole_texts(monkeypatch):
    """No forward of its own for what item texts begin with, so that forwards can be counted."""
    monkeypatch.setattr(encoding, "SHARED_TOKENS", 999)


def rows_of(trainer, chains=CHAINS, rows=(0, 0, 1, 1), written=None):
    """The tensors that the loss gets for given chains."""
    prompts = trainer.r2ec.prompts.user_ids(trainer.samples.iloc[list(rows)], trainer.r2ec.titles)
    written = written or [True] * len(chains)
    actions = [len(chain) - (not own) for chain, own in zip(chains, written, strict=True)]
    chains = trainer.r2ec.closed(chains)
    width, length = max(map(len, prompts)), max(map(len, chains))
    inputs = {
        "prompt_ids": torch.tensor([[0] * (width - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor([c + [0] * (length - len(c)) for c in chains]),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (length - len(c)) for c in chains]),
        "tool_mask": torch.tensor([[int(at < n) for at in range(length)] for n in actions]),
        "sample_rows": torch.tensor(rows),
        "num_items_in_batch": torch.tensor(sum(map(len, chains))),
    }
    targets = torch.tensor(trainer.samples["target"].iloc[list(rows)].to_list()).unique()
    return {**inputs, "candidates": targets.expand(len(rows), -1)}


def with_old(trainer, inputs):
    """Adds π_old as the current policy has it, so that the ratio differs from 1 once weights move."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    keep = inputs["completion_ids"].shape[1]
    with torch.no_grad(), captured_states(trainer.r2ec.lm) as hidden:
        old, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, keep)
        ends = hidden[-1].shape[1] - keep + inputs["completion_mask"].sum(dim=1) - 1
        states = read_out(hidden[-1], ends, ends)
        candidates = inputs["candidates"][0]
        items = forward_states(trainer.r2ec.lm, trainer.r2ec.lm, [trainer.items.texts[item] for item in candidates])
        items_old = trainer._item_log_probs(states, inputs["sample_rows"], items, candidates)
    return {**inputs, "old_per_token_logps": old, "old_item_log_probs": items_old}


def live_items(trainer, inputs):
    return trainer.items.live(trainer.model, inputs["candidates"][0], 0)


def generated(trainer, rows=(3, 3, 9, 9)):
    """A whole rollout for rows of the samples table: the tensors of the loss, and a dict per trajectory."""
    trajectories = [{"prompt": row} for row in rows]
    return trainer._generate_and_score_completions(trajectories), trajectories


def gradients(trainer, inputs):
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, inputs).backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def plain_objective(trainer, chains, rows, advantages, best, old_tokens, old_items):
    """Eq. 8 in plain Python: row by row, no padding, no batch; the sum over tokens and the marked item action."""
    model, tau = trainer.r2ec, trainer.r2ec.head.temperature
    prompts = model.prompts.user_ids(trainer.samples.iloc[list(rows)], model.titles)
    targets = trainer.samples["target"].iloc[list(rows)].tolist()
    batch = sorted(set(targets))
    items = [model.lm.model(torch.tensor([trainer.items.texts[v]])).last_hidden_state[0, -1].tolist() for v in batch]
    total = 0.0
    for i, (prompt, chain) in enumerate(zip(prompts, chains, strict=True)):
        output = model.lm(torch.tensor([prompt + chain]), output_hidden_states=True)
        log_probs = output.logits[0].log_softmax(dim=-1)
        for t, token in enumerate(chain):
            ratio = math.exp(log_probs[len(prompt) + t - 1, token].item() - old_tokens[i][t])
            total += min(ratio * advantages[i], min(max(ratio, 0.8), 1.2) * advantages[i])
        if best[i]:
            state = output.hidden_states[-1][0, -1].tolist()
            scores = [sum(a * b for a, b in zip(state, item, strict=True)) / tau for item in items]
            seen = set(trainer.samples["history"].iloc[rows[i]])
            kept = [s for s, v in zip(scores, batch, strict=True) if v not in seen or v == targets[i]]
            own = scores[batch.index(targets[i])] - math.log(sum(math.exp(s) for s in kept))
            ratio = math.exp(own - old_items[i])
            total += min(ratio * advantages[i], min(max(ratio, 0.8), 1.2) * advantages[i])
    return total / len(chains)


ADVANTAGES = torch.tensor([0.7, -0.7, -0.4, 0.4], dtype=torch.float64)
BEST = torch.tensor([True, False, False, True])


def test_the_loss_is_equation_8_also_when_ratios_leave_one(make_trainer):
    trainer = make_trainer()
    trainer.r2ec.head.temperature = 3.0
    inputs = with_old(trainer, {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    loss = trainer.compute_loss(trainer.model, inputs).item()
    old = inputs["old_per_token_logps"].tolist()
    expected = plain_objective(
        trainer, CHAINS, (0, 0, 1, 1), ADVANTAGES.tolist(), BEST.tolist(), old, inputs["old_item_log_probs"].tolist()
    )
    assert loss == pytest.approx(-expected, rel=1e-6)


def test_gradients_agree_with_finite_differences(make_trainer):
    trainer = make_trainer()
    trainer.r2ec.head.temperature = 3.0
    inputs = with_old(trainer, {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST})
    found = gradients(trainer, inputs)
    parameters = dict(trainer.model.named_parameters())
    generator = torch.Generator().manual_seed(1)
    for name in list(found)[:: max(1, len(found) // 8)]:
        direction = torch.randn(found[name].shape, generator=generator, dtype=torch.float64)
        step = 3e-4  # TRL computes token log-probabilities in float32
        with torch.no_grad():
            values = []
            for sign in (1, -2, 1):  # +h, −h, back
                parameters[name] += sign * step * direction
                values.append(trainer.compute_loss(trainer.model, inputs).item())
        slope = (values[0] - values[1]) / (2 * step)
        assert (found[name] * direction).sum().item() == pytest.approx(slope, rel=2e-3, abs=1e-3), name


def test_a_rollout_with_zero_advantage_moves_no_token(make_trainer):
    trainer = make_trainer()
    nothing = {"advantages": torch.zeros(4, dtype=torch.float64), "best": torch.zeros(4, dtype=torch.bool)}
    assert max(g.abs().max() for g in gradients(trainer, {**rows_of(trainer), **nothing}).values()) == 0


def test_opposite_advantages_move_their_rollouts_in_opposite_directions(make_trainer):
    trainer = make_trainer(learning_rate=1e-3)
    inputs = with_old(trainer, rows_of(trainer))
    inputs |= {"advantages": ADVANTAGES, "best": torch.zeros(4, dtype=torch.bool)}
    found = gradients(trainer, inputs)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            weight -= 1e-3 * found.get(name, torch.zeros_like(weight))
    moved = with_old(trainer, inputs)["old_per_token_logps"] - inputs["old_per_token_logps"]
    change = (moved * inputs["completion_mask"]).sum(dim=1)
    assert (torch.sign(change) == torch.sign(ADVANTAGES)).all()


def test_only_the_best_trajectory_carries_the_item_term(make_trainer):
    trainer = make_trainer(item_advantage="unit")
    still = {"advantages": torch.zeros(4, dtype=torch.float64)}
    inputs = {**rows_of(trainer), **still}
    first = gradients(trainer, {**inputs, "best": torch.tensor([True, False, False, False])})
    changed = {
        **inputs,
        "completion_ids": inputs["completion_ids"].clone(),
        "best": torch.tensor([True] + [False] * 3),
    }
    changed["completion_ids"][1:, 0] += 1  # other rows say something else
    again = gradients(trainer, changed)
    assert all(torch.allclose(first[name], again[name], atol=1e-12) for name in first)
    other = gradients(trainer, {**inputs, "best": torch.tensor([False, True, False, False])})
    assert any(not torch.allclose(first[name], other[name], atol=1e-6) for name in first)


def test_the_item_gradient_has_both_terms(make_trainer):
    """∇s(v) = (∇h_T)ᵀ h_v + h_Tᵀ ∇f(x_v): through the reasoning state, and through the item encoder."""
    trainer = make_trainer(item_advantage="unit")
    still = {"advantages": torch.zeros(4, dtype=torch.float64), "best": BEST}
    inputs = {**rows_of(trainer), **still}
    whole = gradients(trainer, inputs)
    prompts = trainer.r2ec.prompts.user_ids(trainer.samples.iloc[[0, 0, 1, 1]], trainer.r2ec.titles)
    lm, targets = trainer.r2ec.lm, inputs["candidates"][0]
    parts = []
    for live in ("users", "items"):
        trainer.model.zero_grad()
        states = forward_states(lm, lm, [[*p, *c] for p, c in zip(prompts, CHAINS, strict=True)])
        items = forward_states(lm, lm, [trainer.items.texts[item] for item in targets])
        states, items = (states, items.detach()) if live == "users" else (states.detach(), items)
        log_probs = trainer._item_log_probs(states, inputs["sample_rows"], items, targets)
        (-(log_probs * BEST).sum() / 4).backward()
        parts.append({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
    name = "model.layers.0.self_attn.q_proj.weight"
    assert parts[0][name].abs().max() > 1e-8 and parts[1][name].abs().max() > 1e-8
    assert torch.allclose(whole[name], parts[0][name] + parts[1][name], atol=1e-5)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_micro_batches_padding_and_row_order_leave_the_gradient_unchanged(make_trainer, order):
    trainer = make_trainer(catalogue_negatives=True)
    inputs = {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST}
    whole = gradients(trainer, inputs)
    trainer.current_gradient_accumulation_steps = 2
    trainer.model.zero_grad()
    for half in (order[:2], order[2:]):
        part = {k: v[half] if v.dim() else v for k, v in inputs.items()}
        for key in ("prompt_ids", "prompt_mask"):  # three more columns of padding
            part[key] = torch.cat([torch.zeros(2, 3, dtype=part[key].dtype), part[key]], dim=1)
        trainer.compute_loss(trainer.model, part).backward()
    for name, weight in trainer.model.named_parameters():
        assert torch.allclose(weight.grad, whole[name], atol=1e-5), name


@pytest.mark.parametrize("readout", READOUTS)
def test_the_training_state_is_the_evaluation_state(make_trainer, tiny_with_token, readout):
    """For the longest row, a row that never wrote `<answer>`, and every other one."""
    tiny_with_token.head.readout = readout
    trainer = make_trainer(tiny_with_token)
    inputs = rows_of(trainer, written=[True, True, False, True])
    inputs |= {"advantages": ADVANTAGES, "best": BEST}
    seen = []
    original = trainer._item_log_probs
    trainer._item_log_probs = lambda states, *rest: seen.append(states) or original(states, *rest)
    trainer.compute_loss(trainer.model, inputs)
    evaluated = trainer.r2ec.user_states(trainer.samples.iloc[[0, 0, 1, 1]], CHAINS)
    assert torch.allclose(seen[0].float(), evaluated.float(), atol=1e-5)


def test_an_appended_answer_is_no_action_of_the_policy(make_trainer):
    """Its own gradient is zero: a chain of nothing but the appended token trains no token."""
    trainer = make_trainer()
    inputs = rows_of(trainer, chains=[[2], [2]], rows=(0, 0), written=[False, False])
    inputs |= {"advantages": torch.tensor([1.0, -1.0]).double(), "best": torch.tensor([False, False])}
    assert max(g.abs().max() for g in gradients(trainer, inputs).values()) == 0


@pytest.mark.parametrize("readout", ["last", "token"])
def test_chains_are_closed_and_the_share_of_unclosed_ones_is_logged(make_trainer, tiny_with_token, readout):
    tiny_with_token.head.readout = readout
    trainer = make_trainer(tiny_with_token)
    tail = trainer.r2ec.closed([[]])[0]
    inputs, trajectories = generated(trainer, rows=(0, 0, 1, 1))
    answer, lengths = trainer.r2ec.prompts.answer_id, inputs["completion_mask"].sum(dim=1)
    ends = [
        ids[: int(end)].tolist()[-1 - len(tail) :] for ids, end in zip(inputs["completion_ids"], lengths, strict=True)
    ]
    assert ends == [[answer, *tail]] * 4
    unclosed = [not trajectory["written"] for trajectory in trajectories]
    assert trainer._metrics["train"]["share_unclosed"] == [sum(unclosed) / 4]
    appended = inputs["completion_mask"].sum() - inputs["tool_mask"].mul(inputs["completion_mask"]).sum()
    assert appended == sum(unclosed) + 4 * len(tail)


def test_rewards_and_advantages_come_from_the_ranks_of_the_catalogue(make_trainer):
    trainer = make_trainer(estimator="rloo", reward_cutoff=5)
    rows = [3, 3, 9, 9]
    inputs, _ = generated(trainer, rows)
    chains = [
        ids[: int(mask.sum())].tolist()
        for ids, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)
    ]
    samples = trainer.samples.iloc[rows]
    scores = trainer.r2ec.head.scores(trainer.r2ec.user_states(samples, chains))
    rewards = []
    for row, (history, target) in zip(
        scores.tolist(), zip(samples["history"], samples["target"], strict=True), strict=True
    ):
        kept = [s for v, s in enumerate(row) if v not in set(history)]
        rank = 1 + sum(s > row[target] for s in kept)
        share = math.exp(row[target]) / sum(math.exp(s) for s in kept)
        rewards.append(0.05 * share + 0.95 * (1 / math.log2(rank + 1) if rank <= 5 else 0))
    expected = [rewards[i] - rewards[i ^ 1] for i in range(4)]
    assert inputs["advantages"].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"estimator": "ppo"}, "estimator is 'ppo'"),
        ({"reward_mix": 2.0}, "reward_mix"),
        ({"relabel_top": 9}, "relabel_top is 9"),
        ({"length_handling": "mean"}, "length_handling"),
    ],
)
def test_a_wrong_choice_is_refused_with_its_name(tmp_path, choice, message):
    with pytest.raises(ValueError, match=message):
        RecPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True, **choice)


@pytest.mark.parametrize("readout", ["last", "mean", "max"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_computed_once_gives_the_loss_and_gradients_of_repeated_prompts(
    make_trainer, monkeypatch, tokenizer, items, family, tied, readout
):
    model = R2ec(family_lm(family, tied), Prompts(tokenizer, PromptStyle(instruct=False)), items)
    model.head.readout = readout
    model.refresh()
    trainer = make_trainer(model)
    inputs = with_old(trainer, {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST})
    with captured_states(model.lm) as hidden:
        shared = gradients(trainer, inputs)
    assert [len(states) for states in hidden[:2]] == [2, 4]  # two prompts, then four chains
    loss = trainer.compute_loss(trainer.model, inputs)
    monkeypatch.setattr(trainer_module, "caches_exactly", lambda lm: False)
    with captured_states(model.lm) as hidden:
        plain = gradients(trainer, inputs)
    assert len(hidden[0]) == 4 and hidden[0].shape[1] > hidden[1].shape[1]
    assert loss.item() == pytest.approx(trainer.compute_loss(trainer.model, inputs).item(), abs=1e-5)
    assert shared.keys() == plain.keys()
    assert all(torch.allclose(shared[name], plain[name], atol=2e-5, rtol=1e-3) for name in plain)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_entropies_are_those_of_each_chain_alone(family, share):
    lm = family_lm(family, tied=False)
    prompts, chains = [[5, 6, 7, 8] * 3, [9], [5, 6, 7, 8] * 3, [10, 11]], CHAINS
    width, length = max(map(len, prompts)), max(map(len, chains))
    pairs = list(zip(prompts, chains, strict=True))
    ids = torch.tensor([[0] * (width - len(p)) + p + c + [0] * (length - len(c)) for p, c in pairs])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * (len(p) + len(c)) + [0] * (length - len(c)) for p, c in pairs])
    found, entropies = token_log_probs(lm, lm, ids, mask, length, 0.7, share, fused=False, entropies=True)
    for row, (prompt, chain) in enumerate(pairs):
        log_probs = (lm(torch.tensor([prompt + chain])).logits[0] / 0.7).log_softmax(dim=-1)[len(prompt) - 1 : -1]
        assert torch.allclose(found[row, : len(chain)], log_probs[range(len(chain)), chain], atol=1e-5)
        assert torch.allclose(entropies[row, : len(chain)], -(log_probs.exp() * log_probs).sum(dim=1), atol=1e-5)
        assert not found[row, len(chain) :].any() and not entropies[row, len(chain) :].any()


def test_prompts_of_one_token_can_be_shared_too():
    lm = family_lm("Qwen3")
    ids, mask = torch.tensor([[5, 40, 2], [5, 41, 2], [6, 40, 2]]), torch.ones(3, 3, dtype=torch.long)
    found = [token_log_probs(lm, lm, ids, mask, 2, 1.0, share, False, False)[0] for share in (True, False)]
    assert torch.allclose(*found, atol=1e-6)


@pytest.mark.parametrize("readout", ["last", "token"])
def test_the_reward_reads_the_states_of_sampling_and_needs_no_forward(
    make_trainer, tiny_with_token, whole_texts, readout
):
    tiny_with_token.head.readout = readout
    trainer = make_trainer(tiny_with_token)
    rows = [3, 3, 9, 9]
    trainer.items.refreshed_at = 0  # the table is fresh, so the reward encodes the targets alone
    with captured_states(trainer.r2ec.lm) as hidden:
        inputs, trajectories = generated(trainer, rows)
        steps = [states for states in hidden[1:] if states.shape[1] == 1]
        assert len(hidden) == 1 + len(steps) + 1  # prompts, tokens, target items
    lengths = inputs["completion_mask"].sum(dim=1).tolist()
    tail = len(trainer.r2ec.closed([[]])[0])
    chains = [ids[: length - tail].tolist() for ids, length in zip(inputs["completion_ids"], lengths, strict=True)]
    again = trainer.r2ec.user_states(trainer.samples.iloc[rows], chains)
    assert torch.allclose(torch.stack([one["state"] for one in trajectories]), again, atol=1e-4)


def test_targets_are_encoded_once_for_table_and_loss_and_again_after_an_update(make_trainer):
    trainer = make_trainer()
    inputs = {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST}
    trainer.items.update(trainer.model, inputs["candidates"][0], 0)
    with captured_states(trainer.r2ec.lm) as hidden:
        trainer.compute_loss(trainer.model, inputs).backward()
        assert len(hidden) == 2  # prompts and chains: the items came from the pass that wrote the table
    trainer.items.update(trainer.model, inputs["candidates"][0], 0)
    before = live_items(trainer, inputs)
    with torch.no_grad():
        next(trainer.model.parameters()).mul_(1.5)
    assert live_items(trainer, inputs) is not before
    plain = trainer.r2ec.encode([trainer.items.texts[item] for item in inputs["candidates"][0]])
    assert torch.allclose(live_items(trainer, inputs).states.float(), plain, atol=1e-5)


def test_a_refresh_encodes_each_item_once(make_trainer, whole_texts):
    trainer = make_trainer()
    candidates = rows_of(trainer)["candidates"][0]
    trainer.r2ec.head.table.zero_()
    with captured_states(trainer.r2ec.lm) as hidden:
        trainer.items.update(trainer.model, candidates, 0)
        assert sum(len(states) for states in hidden) == len(trainer.items.texts)
    assert torch.allclose(trainer.r2ec.head.table, trainer.r2ec.encode(trainer.items.texts), atol=1e-5)


@pytest.mark.parametrize("item_weight", [1.0, 3.0])
def test_micro_batches_share_one_encoding_of_the_targets(make_trainer, whole_texts, item_weight):
    trainer = make_trainer(item_weight=item_weight)
    inputs = {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST}
    whole = gradients(trainer, inputs)
    trainer.current_gradient_accumulation_steps = 2
    trainer.model.zero_grad()
    with captured_states(trainer.r2ec.lm) as hidden:
        for half, last in (([0, 2], False), ([1, 3], True)):
            trainer.accelerator.gradient_state._set_sync_gradients(last)
            part = {k: v[half] if v.dim() else v for k, v in inputs.items()}
            trainer.compute_loss(trainer.model, part).backward()
    assert len(hidden) == 2 + 1 + 2
    for name, weight in trainer.model.named_parameters():
        assert torch.allclose(weight.grad, whole[name], atol=1e-5), name


def test_the_gradient_of_each_term_is_measured_apart(make_trainer):
    trainer = make_trainer(rollout_steps=2)
    trainer.r2ec.head.temperature = 3.0
    inputs = {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST}
    expected = []
    for weight, advantages in ((0.0, ADVANTAGES), (1.0, torch.zeros_like(ADVANTAGES))):
        trainer.args.item_weight, trainer.args.item_advantage = weight, "trajectory"
        terms = {**inputs, "advantages": advantages}
        if weight:
            trainer.args.item_advantage = "unit"
        expected.append(torch.stack([g.norm() for g in gradients(trainer, terms).values()]).norm().item())
        trainer._gradients.tokens = None
    trainer._prepare_inputs, trainer._trained_tokens = (lambda given: given), 0
    trainer.model.zero_grad()
    trainer.training_step(trainer.model, inputs, None)
    metrics = trainer._metrics["train"]
    assert metrics["grad_norm_tokens"] == [pytest.approx(expected[0], rel=1e-4)]
    assert metrics["grad_norm_items"] == [pytest.approx(expected[1], rel=1e-4)]
    trained = int(inputs["prompt_mask"].sum() + inputs["completion_mask"].sum())
    assert metrics["tokens_per_second"] == [pytest.approx(trained / metrics["step_time"][0])]
    trainer.state.global_step = 1
    trainer.training_step(trainer.model, inputs, None)
    assert len(metrics["grad_norm_items"]) == 1 and len(metrics["tokens_per_second"]) == 2


@pytest.mark.parametrize("marks", [[True, False, False, True], [False, True, True, True], [False] * 4])
def test_while_only_items_learn_the_unmarked_rows_are_not_computed_and_nothing_changes(make_trainer, marks):
    trainer = make_trainer(item_warmup_steps=1)
    inputs = with_old(trainer, {**rows_of(trainer), "advantages": ADVANTAGES, "best": torch.tensor(marks)})
    with captured_states(trainer.r2ec.lm) as hidden:
        loss, found = trainer.compute_loss(trainer.model, inputs).item(), gradients(trainer, inputs)
    assert len(hidden[1]) == max(1, sum(marks))  # one forward over the prompts, one over these chains
    assert trainer._trained_tokens < 2 * inputs["prompt_mask"].sum() + 2 * inputs["completion_mask"].sum()
    trainer.args.item_warmup_steps, trainer.args.item_advantage = 0, "unit"
    still = {**inputs, "advantages": torch.zeros_like(ADVANTAGES)}
    with captured_states(trainer.r2ec.lm) as hidden:
        assert loss == pytest.approx(trainer.compute_loss(trainer.model, still).item(), abs=1e-6)
    assert len(hidden[1]) == 4
    for name, whole in gradients(trainer, still).items():
        assert torch.allclose(found[name], whole, atol=1e-6), name


def test_micro_batches_without_marked_rows_leave_the_gradient_of_a_warm_up_step_unchanged(make_trainer):
    trainer = make_trainer(item_warmup_steps=1)
    inputs = {**rows_of(trainer), "advantages": ADVANTAGES, "best": torch.tensor([True, True, False, False])}
    whole = gradients(trainer, inputs)
    trainer.current_gradient_accumulation_steps = 2
    trainer.model.zero_grad()
    for half, last in (([0, 1], False), ([2, 3], True)):
        trainer.accelerator.gradient_state._set_sync_gradients(last)
        trainer.compute_loss(trainer.model, {k: v[half] if v.dim() else v for k, v in inputs.items()}).backward()
    for name, weight in trainer.model.named_parameters():
        assert torch.allclose(weight.grad, whole[name], atol=1e-6), name


def test_the_divergence_from_the_start_has_a_weight_of_its_own_while_only_items_learn(make_trainer, tiny, tmp_path):
    tiny.lm.save_pretrained(tmp_path / "start")
    tiny.lm.config._name_or_path = str(tmp_path / "start")
    trainer = make_trainer(item_warmup_steps=1, kl_weight_warmup=0.5, item_weight=0.0)
    inputs = {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST}
    start = with_old(trainer, inputs)["old_per_token_logps"]
    inputs["ref_per_token_logps"] = start + 0.3
    mask = inputs["completion_mask"]
    divergence = ((math.exp(0.3) - 0.3 - 1) * mask).sum(dim=1).mean().item()  # "sum" over tokens, mean over rows
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(0.5 * divergence, rel=1e-4)
    assert max(gradient.abs().max() for gradient in gradients(trainer, inputs).values()) > 0
    trainer.state.global_step = 1
    trainer.compute_loss(trainer.model, inputs)
    assert trainer.beta == trainer.args.beta == 0 and trainer._metrics["train"]["kl"][-1] > 0


def test_judgements_shift_the_advantages_and_the_best_trajectory(make_trainer, tiny, samples, tmp_path):
    def judge(texts):
        seen.append(texts)
        return [1.0, -1.0, 0.0, 0.0]

    seen, plain = [], make_trainer(estimator="rloo")
    torch.manual_seed(0)
    without, _ = generated(plain)
    config = RecPOConfig(
        output_dir=str(tmp_path), use_cpu=True, num_generations=2, per_device_train_batch_size=4, estimator="rloo",
        max_completion_length=6, judged_weight=0.5,
    )  # fmt: skip
    trainer = RecPOTrainer(tiny, config, samples, judge=judge)
    trainer.model.train()
    torch.manual_seed(0)
    found, trajectories = generated(trainer)
    assert torch.equal(found["completion_ids"], without["completion_ids"])
    assert seen == [[tiny.decode(one["chain"]) for one in trajectories]]
    shift = torch.tensor([0.5 * 1 - 0.5 * -1, 0.5 * -1 - 0.5 * 1, 0.0, 0.0])  # leave-one-out in groups of two
    assert torch.allclose(found["advantages"], without["advantages"] + shift, atol=1e-6)
    assert found["best"].tolist()[:2] == [True, False]
    assert trainer._metrics["train"]["rewards/judged/mean"] == [0.0]


def test_a_weight_without_judgements_is_refused(make_trainer):
    with pytest.raises(ValueError, match=r"judged_weight is 0\.5"):
        make_trainer(judged_weight=0.5)


class FakeVLLM:
    """TRL's interface to vLLM 0.30: raw ids in, ids and the sampled tokens' log-probabilities out."""

    chains = ([40, 41, 2], [42, 43, 44, 45, 46, 47], [48, 1], [2])  # closed, cut off, turn ended otherwise, empty

    def __init__(self, **given):
        self.given, self.synced = given, 0

    def sync_weights(self):
        self.synced += 1

    def generate(self, prompts, images, num_generations, profiler):
        self.prompts = prompts
        return prompts, list(self.chains), [[[-1.5] for _ in chain] for chain in self.chains], None


@pytest.fixture
def vllm_trainer(make_trainer, monkeypatch):
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", FakeVLLM)
    return make_trainer(use_vllm=True)


def test_vllm_is_asked_for_ids_and_told_where_a_reasoning_ends(vllm_trainer):
    generated(vllm_trainer)
    backend, prompts = vllm_trainer.vllm_generation, vllm_trainer.r2ec.prompts
    assert backend.given["generation_kwargs"] == {"stop_token_ids": [prompts.answer_id, 1]}
    assert backend.prompts == prompts.user_ids(vllm_trainer.samples.iloc[[3, 3, 9, 9]], vllm_trainer.r2ec.titles)
    assert backend.synced == 1
    assert "vllm" not in sys.modules


def test_vllm_must_not_write_the_token_that_is_read(make_trainer, monkeypatch, tiny_with_token):
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", FakeVLLM)
    read = tiny_with_token.read_id
    trainer = make_trainer(tiny_with_token, use_vllm=True)
    assert trainer.vllm_generation.given["generation_kwargs"]["logit_bias"] == {read: -100.0}
    inputs, _ = generated(trainer)
    assert inputs["completion_ids"][0, :4].tolist() == [40, 41, 2, read]


def test_chains_of_vllm_are_trained_on_as_sampled_and_closed(vllm_trainer):
    trainer = vllm_trainer
    inputs, trajectories = generated(trainer)
    lengths = inputs["completion_mask"].sum(dim=1).tolist()
    chains = [ids[:length].tolist() for ids, length in zip(inputs["completion_ids"], lengths, strict=True)]
    assert chains == [[40, 41, 2], [42, 43, 44, 45, 46, 47, 2], [48, 1, 2], [2]]
    assert [one["written"] for one in trajectories] == [True, False, False, True]
    actions = (inputs["completion_mask"] * inputs["tool_mask"]).sum(dim=1)
    assert actions.tolist() == [3, 6, 2, 1]  # an appended `<answer>` is none
    states = trainer.r2ec.user_states(trainer.samples.iloc[[3, 3, 9, 9]], chains)
    assert torch.allclose(torch.stack([one["state"] for one in trajectories]), states, atol=1e-5)


def test_the_mismatch_between_vllm_and_the_model_is_corrected_token_by_token(vllm_trainer):
    trainer = vllm_trainer
    inputs, trajectories = generated(trainer)
    old, ratio = inputs["old_per_token_logps"], inputs["importance_sampling_ratio"]
    actions = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
    expected = (old + 1.5).exp().clamp(max=trainer.args.vllm_importance_sampling_clip_max)
    assert torch.allclose(ratio[actions], expected[actions], atol=1e-6)
    assert (ratio[~actions] == 1).all()
    states, candidates = torch.stack([one["state"] for one in trajectories]), inputs["candidates"][0]
    item = trainer._item_log_probs(states, inputs["sample_rows"], trainer.r2ec.head.table[candidates], candidates)
    assert torch.allclose(inputs["old_item_log_probs"], item)
    inputs = {**inputs, "advantages": torch.zeros(4), "best": torch.zeros(4, dtype=torch.bool)}
    assert max(gradient.abs().max() for gradient in gradients(trainer, inputs).values()) == 0
    inputs["advantages"] = torch.tensor([1.0, -1.0, 0.5, -0.5])
    assert max(gradient.abs().max() for gradient in gradients(trainer, inputs).values()) > 0


REWARDS = [[0.1, 0.9, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5], [0.2, 0.0, 0.7, 0.7]]


@pytest.mark.parametrize("estimator", ["grpo", "rloo"])
def test_advantages_follow_equation_2_and_equal_rewards_give_none(make_scored, estimator):
    found = make_scored(REWARDS, estimator=estimator, relabel_top=2)
    expected, best = [], []
    for group in REWARDS:
        mean = sum(group) / 4
        std = math.sqrt(sum((reward - mean) ** 2 for reward in group) / 3)
        grpo = [(reward - mean) / (std + 1e-4) for reward in group]
        expected += grpo if estimator == "grpo" else [reward - (sum(group) - reward) / 3 for reward in group]
        order = sorted(range(4), key=lambda place: -group[place])  # stable: of equal ones the first
        best += [place in order[:2] for place in range(4)]
    assert found["advantages"].tolist() == pytest.approx(expected, abs=1e-5)
    assert found["advantages"][4:8].tolist() == [0.0] * 4
    assert found["best"].tolist() == best
