"""The trainer's real loss: Eq. 8 to the last gradient, on a two-layer model in float64."""

import math
from contextlib import contextmanager

import pytest
import torch
from families import FAMILIES, family_lm
from training.helpers import ADVANTAGES, BEST, CHAINS, generated, gradients, rows_of, with_old
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3MoeConfig, Qwen3MoeForCausalLM
from trl import GRPOTrainer

from r2ec_lib.data.schema import DataError
from r2ec_lib.model import R2ec
from r2ec_lib.model.backbone import add_lora
from r2ec_lib.model.encoding import READOUTS, captured_states, forward_states
from r2ec_lib.model.prompts import Prompts, PromptStyle
from r2ec_lib.training import trainer as trainer_module
from r2ec_lib.training.config import RecPOConfig
from r2ec_lib.training.trainer import RecPOTrainer


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


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_loss_is_equation_8_also_when_ratios_leave_one(make_trainer, samples, overlapping):
    """An item of a shopper's history is no negative of the item term: with `overlapping` one is another's target."""
    history, target = samples["history"], samples["target"]
    others = range(1, len(samples))
    other = next(row for row in others if (target[row] in history[0]) == overlapping and target[row] != target[0])
    rows = (0, 0, other, other)
    trainer = make_trainer()
    trainer.r2ec.head.temperature = 3.0
    inputs = with_old(trainer, {**rows_of(trainer, rows=rows), "advantages": ADVANTAGES, "best": BEST})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    loss = trainer.compute_loss(trainer.model, inputs).item()
    old = inputs["old_per_token_logps"].tolist()
    expected = plain_objective(
        trainer, CHAINS, rows, ADVANTAGES.tolist(), BEST.tolist(), old, inputs["old_item_log_probs"].tolist()
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


def test_a_bonus_for_entropy_has_a_gradient(make_trainer):
    plain, raised = (
        gradients(trainer, {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST})
        for trainer in (make_trainer(entropy_coef=coef) for coef in (0.0, 0.5))
    )
    assert any(not torch.allclose(raised[name], plain[name], atol=1e-4) for name in plain)


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
    inputs |= {"advantages": ADVANTAGES, "best": torch.ones_like(BEST)}
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


@pytest.mark.parametrize("marks", [[True, False, False, True], [False, True, True, True], [False] * 4])
def test_while_only_items_learn_the_unmarked_rows_are_not_computed_and_nothing_changes(make_trainer, marks):
    trainer = make_trainer(item_warmup_steps=1)
    inputs = with_old(trainer, {**rows_of(trainer), "advantages": ADVANTAGES, "best": torch.tensor(marks)})
    with captured_states(trainer.r2ec.lm) as hidden:
        loss, found = trainer.compute_loss(trainer.model, inputs).item(), gradients(trainer, inputs)
    assert len(hidden[1]) == max(1, sum(marks))  # one forward over the prompts, one over these chains
    trainer.args.item_warmup_steps, trainer.args.item_advantage = 0, "unit"
    still = {**inputs, "advantages": torch.zeros_like(ADVANTAGES)}
    with captured_states(trainer.r2ec.lm) as hidden:
        assert loss == pytest.approx(trainer.compute_loss(trainer.model, still).item(), abs=1e-6)
    assert len(hidden[1]) == 4
    for name, whole in gradients(trainer, still).items():
        assert torch.allclose(found[name], whole, atol=1e-6), name


@pytest.mark.parametrize("marks", [[True, False, False, True], [False] * 4])
def test_a_chain_read_alone_learns_as_one_whose_prompt_had_no_history_and_only_if_it_carries_the_action(
    make_trainer, tiny, marks
):
    tiny.head.readout = "alone"
    trainer = make_trainer(item_advantage="unit")
    inputs = {**rows_of(trainer), "advantages": torch.zeros_like(ADVANTAGES), "best": torch.tensor(marks)}
    with captured_states(tiny.lm) as hidden:
        found = gradients(trainer, inputs)
    assert [len(states) for states in hidden[:3]] == [2, 4, max(1, sum(marks))]  # prompts, chains, chains alone
    tiny.head.readout = "last"
    inputs["prompt_ids"] = torch.tensor([tiny.prompts.empty] * 4)
    plain = gradients(trainer, inputs | {"prompt_mask": torch.ones_like(inputs["prompt_ids"])})
    for name in plain:
        assert torch.allclose(found[name], plain[name], atol=1e-6), name
    assert any(grad.abs().max() > 1e-4 for grad in plain.values()) == any(marks)


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
    assert len(set(trainer._metrics["train"]["item_surprise"])) == 1  # rows without a mark do not count as 0


def test_a_prompt_that_leaves_no_room_for_a_reasoning_is_refused_before_training(make_trainer, tiny):
    tiny.lm.config.max_position_embeddings = 32
    with pytest.raises(DataError, match="exceeds the 32 positions"):
        make_trainer(max_completion_length=30)


def test_the_divergence_from_the_start_has_no_weight_while_only_items_learn(make_trainer, tiny, tmp_path):
    tiny.lm.save_pretrained(tmp_path / "start")
    tiny.lm.config._name_or_path = str(tmp_path / "start")
    trainer = make_trainer(item_warmup_steps=1, beta=0.1, item_weight=0.0)
    inputs = {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST}
    start = with_old(trainer, inputs)["old_per_token_logps"]
    inputs["ref_per_token_logps"] = start + 0.3
    mask = inputs["completion_mask"]
    divergence = ((math.exp(0.3) - 0.3 - 1) * mask).sum(dim=1).mean().item()  # "sum" over tokens, mean over rows
    assert trainer.compute_loss(trainer.model, inputs).item() == 0
    assert max(gradient.abs().max() for gradient in gradients(trainer, inputs).values()) == 0
    trainer.state.global_step = 1
    inputs["advantages"] = torch.zeros_like(ADVANTAGES)
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(0.1 * divergence, rel=1e-4)
    assert max(gradient.abs().max() for gradient in gradients(trainer, inputs).values()) > 0


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_on_a_gpu_repeated_prompts_are_read_as_each_row_alone(make_trainer, tiny, monkeypatch, family):
    """GPT-2 learns a vector per position, so padding before a prompt must not count as one."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=len(tiny.tokenizer), initializer_range=0.3)
    lm = GPT2LMHeadModel(config).double().eval() if family == "GPT2" else family_lm(family)
    model = R2ec(lm, tiny.prompts, tiny.catalogue)
    model.refresh()
    trainer = make_trainer(model)
    prompts = model.prompts.user_ids(trainer.samples.iloc[[0, 0, 1, 1]], model.titles)
    inputs = rows_of(trainer)
    ids, mask = (torch.cat([inputs[f"prompt_{name}"], inputs[f"completion_{name}"]], 1) for name in ("ids", "mask"))
    assert (mask[:, 0] == 0).any()
    monkeypatch.setattr(trainer_module, "caches_exactly", lambda lm: False)
    monkeypatch.setattr(type(trainer.accelerator), "device", torch.device("cuda"))  # TRL's head of a GPU runs here too
    width = inputs["completion_ids"].shape[1]
    found, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, width, compute_entropy=True
    )
    for row, (prompt, chain) in enumerate(zip(prompts, CHAINS, strict=True)):
        log_probs = lm(torch.tensor([prompt + chain])).logits[0].log_softmax(dim=-1)[len(prompt) - 1 : -1]
        assert torch.allclose(found[row, : len(chain)], log_probs[range(len(chain)), chain].to(found), atol=1e-4)
        spread = -(log_probs.exp() * log_probs).sum(dim=1)
        assert torch.allclose(entropies[row, : len(chain)], spread.to(entropies), atol=1e-4)


def test_a_tokenizer_that_names_no_end_of_a_turn_is_trained_with(make_trainer, tiny):
    tiny.tokenizer.eos_token = None
    tiny.lm.generation_config.eos_token_id = tiny.lm.config.eos_token_id = None
    trainer = make_trainer(tiny, max_steps=1)
    assert trainer.generation_config.eos_token_id == tiny.prompts.answer.ids
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_mixture_of_experts_trains_with_its_auxiliary_loss(make_trainer, tiny):
    shape = {"hidden_size": 16, "intermediate_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4}
    config = Qwen3MoeConfig(**shape, num_experts_per_tok=2, vocab_size=len(tiny.tokenizer), pad_token_id=0)
    model = R2ec(Qwen3MoeForCausalLM(config).eval(), tiny.prompts, tiny.catalogue)
    model.refresh()
    trainer = make_trainer(model, max_steps=1)
    routers = {name: part.clone() for name, part in model.lm.named_parameters() if ".mlp.gate." in name}
    trainer.train()
    assert trainer.state.log_history[-1]["step"] == 1
    now = dict(model.lm.named_parameters())
    assert routers and not any(torch.equal(now[name], part) for name, part in routers.items())


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


def test_live_columns_stand_in_place_of_stored_ones_among_catalogue_negatives(make_trainer):
    trainer = make_trainer(catalogue_negatives=True)
    rows, candidates = torch.tensor([0, 1]), torch.tensor(sorted(trainer.samples["target"][:2]))
    generator = torch.Generator().manual_seed(0)
    states, live = (torch.randn(2, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    live.requires_grad_()
    found = trainer._item_log_probs(states, rows, live, candidates)
    table = trainer.r2ec.head.table.double().clone()
    table[candidates] = live.detach()
    for row, log_prob in enumerate(found.tolist()):
        target, history = trainer.samples.at[row, "target"], set(trainer.samples.at[row, "history"])
        scores = (table @ states[row]).tolist()
        kept = [score for item, score in enumerate(scores) if item not in history or item == target]
        assert log_prob == pytest.approx(scores[target] - math.log(sum(map(math.exp, kept))), abs=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), live)
    assert (gradient.abs().sum(dim=1) > 0).all()


def test_live_negatives_join_the_targets_and_are_drawn_anew_at_each_step(make_trainer):
    trainer, drawn = make_trainer(live_negatives=5), []
    targets = set(trainer.samples["target"][:2])
    for step in (0, 1):
        trainer.state.global_step = step
        drawn.append(trainer.roll_out([0, 0, 1, 1])["candidates"].tolist())
        assert targets < set(drawn[-1]) and drawn[-1] == sorted(set(drawn[-1])) and 5 <= len(drawn[-1]) <= 7
    assert drawn[0] != drawn[1]
    trainer.args.live_negatives = 100  # more than there are
    assert trainer.roll_out([0, 0, 1, 1])["candidates"].tolist() == list(range(30))


def test_the_weight_of_the_divergence_is_the_largest_that_a_rollout_will_meet(make_trainer):
    """Rows sampled in the last warm-up step may serve updates after it."""
    for updates, expected in ((1, False), (2, True)):
        trainer = make_trainer(item_warmup_steps=1, num_iterations=updates)
        trainer.args.beta, trainer.ref_model = 0.3, trainer.model
        inputs, _ = generated(trainer)
        assert ("ref_per_token_logps" in inputs) == ("old_item_log_probs" in inputs) == expected


def test_only_four_methods_of_trl_are_overridden_and_two_of_them_private():
    """The class says which ones and why."""
    own = {name for name, value in vars(RecPOTrainer).items() if callable(value) and hasattr(GRPOTrainer, name)}
    own -= {"__init__"}
    assert len(own) <= 4 and sum(name.startswith("_") for name in own) <= 2
    assert all(f"{name}:" in RecPOTrainer.__doc__ for name in own)


def test_four_micro_batches_of_a_step_give_the_gradient_and_the_loss_of_one(make_trainer):
    trainer = make_trainer()
    inputs = {**rows_of(trainer), "advantages": ADVANTAGES, "best": torch.ones(4, dtype=torch.bool)}
    whole, expected = gradients(trainer, inputs), trainer.compute_loss(trainer.model, inputs).item()
    trainer.current_gradient_accumulation_steps, losses = 4, []
    trainer.model.zero_grad()
    for row in range(4):
        trainer.accelerator.gradient_state._set_sync_gradients(row == 3)
        part = {name: value[row : row + 1] if value.dim() else value for name, value in inputs.items()}
        losses.append(trainer.compute_loss(trainer.model, part))
        losses[-1].backward()
    assert sum(loss.item() for loss in losses) == pytest.approx(expected, abs=1e-5)
    for name, weight in trainer.model.named_parameters():
        assert torch.allclose(weight.grad, whole[name], atol=1e-5), name


def test_the_ratio_of_the_recommendation_action_is_clipped_on_the_side_that_its_advantage_pushes(make_trainer):
    trainer = make_trainer(epsilon=0.1, epsilon_high=0.3)
    advantages = torch.tensor([0.7, -0.7, 0.4, -0.4], dtype=torch.float64)
    inputs = with_old(trainer, {**rows_of(trainer), "advantages": advantages})
    ratios = torch.tensor([2.0, 2.0, 0.5, 0.5], dtype=torch.float64)  # π / π_old of the recommendation
    inputs["old_item_log_probs"] = inputs["old_item_log_probs"] - ratios.log()
    with_items, without = (
        trainer.compute_loss(trainer.model, {**inputs, "best": torch.full((4,), marked)}).item()
        for marked in (True, False)
    )
    expected = 0.7 * 1.3 - 0.7 * 2.0 + 0.4 * 0.5 - 0.4 * 0.9
    assert with_items - without == pytest.approx(-expected / 4, abs=1e-5)


def test_validation_ranks_a_seeded_sample_with_a_fresh_table_and_leaves_the_running_step_alone(
    tiny, samples, tmp_path, monkeypatch
):
    args = RecPOConfig(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=8, valid_users=5, seed=4)
    trainer = RecPOTrainer(tiny, args, samples.head(30), samples.tail(18))
    assert trainer.valid_samples.equals(samples.tail(18).sample(5, random_state=4))
    ranks, read = [1.0, 3.0, 7.0, 10.0, 10.5], []

    def ranked(model, given, states, mask_seen):
        assert (
            mask_seen
            and given.equals(trainer.valid_samples)
            and torch.allclose(model.head.table, model.encode_items(model.catalogue), atol=1e-5)
        )
        read.append(states)
        return torch.tensor(ranks)

    monkeypatch.setattr(trainer_module, "ranks_of", ranked)
    with torch.no_grad():
        next(tiny.lm.parameters()).mul_(1.2)
    trainer.model.train()
    trainer._metrics["train"]["reward"].append(0.5)
    metrics = trainer.evaluate()
    gains = [1 / math.log2(rank + 1) for rank in ranks[:4]]
    assert metrics["eval_ndcg@10"] == pytest.approx(sum(gains) / 5) and metrics["eval_hit@10"] == pytest.approx(4 / 5)
    greedy = tiny.sample(tiny.prompts.user_ids(trainer.valid_samples, tiny.titles), args.max_completion_length)
    assert torch.equal(read[0], greedy.states)
    assert metrics["eval_length"] == pytest.approx(sum(map(len, greedy.chains)) / 5)
    assert trainer._metrics["train"]["reward"] == [0.5] and trainer.model.training
    assert trainer.state.log_history[-1]["eval_ndcg@10"] == metrics["eval_ndcg@10"]


@pytest.mark.parametrize("mask_seen", [True, False])
def test_validation_masks_the_history_where_the_recipe_does(tiny, samples, tmp_path, mask_seen):
    """Items of a history are ranked best here: they stand before the target where they are candidates."""
    how = {"max_completion_length": 0, "item_advantage": "unit", "mask_seen": mask_seen}
    args = RecPOConfig(output_dir=str(tmp_path), use_cpu=True, **how)
    trainer = RecPOTrainer(tiny, args, samples.head(30), samples.tail(18))
    seen = [list(history) for history in samples.tail(18)["history"]]
    nobody = [[item for item in range(30) if item not in history] for history in seen]

    def scores(states, histories):
        rows = torch.zeros(len(states), 30)
        for row, others, target in zip(rows, nobody, samples.tail(18)["target"], strict=True):
            row[others], row[target] = -1.0, -0.5
        return rows

    tiny.scores = scores
    expected = [1.0 if mask_seen else 1 / math.log2(2 + len(history)) for history in seen]
    assert trainer.evaluate()["eval_ndcg@10"] == pytest.approx(sum(expected) / 18)


def test_reasonings_are_sampled_with_whole_weights_in_training_and_in_validation(make_trainer, samples, monkeypatch):
    """Where FSDP spreads them, processes whose reasonings end at different tokens would wait for each other."""
    whole, forwards = [], []

    @contextmanager
    def noted(lm):
        whole.append(True)
        yield
        whole.pop()

    trainer = make_trainer()
    trainer.valid_samples = samples.head(4)
    monkeypatch.setattr(trainer_module, "whole_weights", noted)
    lm = trainer.r2ec.lm
    handle = lm.register_forward_pre_hook(lambda *_: forwards.append(bool(whole)))
    trainer.sample_chains(trainer.rows.prompts(range(4)))
    assert forwards and all(forwards)
    trainer.items.refresh(0)
    forwards.clear()
    trainer.evaluate()
    assert forwards and all(forwards)
    handle.remove()


def test_validation_without_samples_is_refused(make_trainer):
    with pytest.raises(ValueError, match="valid_samples"):
        make_trainer().evaluate()


def test_a_model_that_has_changed_since_it_was_saved_is_not_held_to_its_file(make_trainer, tiny, tmp_path):
    """TRL reads the reference of the KL term from the folder that the model came from."""
    with pytest.raises(ValueError, match=r"beta is 0\.1: TRL reads the start from a folder; save the model"):
        make_trainer(beta=0.1)
    tiny.save(tmp_path / "start")
    model = R2ec.load(tmp_path / "start", device="cpu")
    assert make_trainer(model, beta=0.1).ref_model is not None
    with torch.no_grad():
        next(model.lm.parameters()).add_(0.1)
    with pytest.raises(ValueError, match=r"has changed since it was read from .*start"):
        make_trainer(model, beta=0.1)
    assert make_trainer(model).ref_model is None


def test_what_was_trained_to_write_so_many_tokens_writes_as_many(make_trainer, tiny):
    make_trainer(max_completion_length=5)
    assert tiny.max_new_tokens == 5


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_reach_the_adapters_and_no_layer_below_unless_they_must(make_trainer, tiny, reentrant):
    tiny.lm = add_lora(tiny.lm.float(), rank=2, alpha=4, layers=1)
    how = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    trainer, states = make_trainer(tiny, **how), []
    below = tiny.lm.get_base_model().model.layers[0]
    below.register_forward_hook(lambda layer, inputs, output: states.append(output))
    found, _ = generated(trainer)
    moved = gradients(trainer, found)
    assert states and any(state.requires_grad for state in states) == reentrant
    assert all("lora_" in name for name in moved) and any(gradient.any() for gradient in moved.values())
    assert trainer.items.live(trainer.model, torch.tensor([1, 2]), 0).states.requires_grad


def test_a_training_with_recomputed_activations_goes_through_no_frozen_layer_and_leaves_no_hook(make_trainer, tiny):
    """transformers enables them again as a training begins, and TRL after each rollout."""
    tiny.lm = add_lora(tiny.lm.float(), rank=2, alpha=4, layers=1)
    trainer, moved = make_trainer(tiny, gradient_checkpointing=True, max_steps=2), []
    below = tiny.lm.get_base_model().model.layers[0]
    below.register_forward_hook(lambda layer, inputs, output: moved.append(output.requires_grad))
    trainer.train()
    assert moved and not any(moved)
    assert not tiny.lm.get_input_embeddings()._forward_hooks
