"""A rollout: chains as sampled and closed, ranks of the catalogue, rewards; by our sampler and by vLLM."""

import math
import sys

import pytest
import torch
from training.helpers import generated, gradients
from trl.trainer.utils import split_tensor_dict

from r2ec_lib.model import encoding
from r2ec_lib.model.backbone import AdaptedLinear, add_lora
from r2ec_lib.model.encoding import captured_states
from r2ec_lib.training import rollout
from r2ec_lib.training.config import RecPOConfig
from r2ec_lib.training.monitoring import log_rows
from r2ec_lib.training.trainer import RecPOTrainer


@pytest.fixture
def whole_texts(monkeypatch):
    """No forward of its own for what item texts begin with, so that forwards can be counted."""
    monkeypatch.setattr(encoding, "SHARED_TOKENS", 999)


@pytest.mark.parametrize("readout", ["last", "token"])
def test_chains_are_closed_and_the_share_of_unclosed_ones_is_logged(make_trainer, tiny_with_token, readout):
    tiny_with_token.head.readout = readout
    trainer = make_trainer(tiny_with_token)
    tail = trainer.r2ec.closed([[]])[0]
    inputs, trajectories = generated(trainer, rows=(0, 0, 1, 1))
    answer, lengths = trainer.r2ec.prompts.answer.ids[0], inputs["completion_mask"].sum(dim=1)
    ends = [
        ids[: int(end)].tolist()[-1 - len(tail) :] for ids, end in zip(inputs["completion_ids"], lengths, strict=True)
    ]
    assert ends == [[answer, *tail]] * 4
    unclosed = [not trajectory["written"] for trajectory in trajectories]
    assert trainer._metrics["train"]["share_unclosed"] == [sum(unclosed) / 4]
    appended = inputs["completion_mask"].sum() - inputs["tool_mask"].mul(inputs["completion_mask"]).sum()
    assert appended == sum(unclosed) + 4 * len(tail)


def test_both_rewards_come_from_ranks_among_unseen_items_and_the_target(make_trainer):
    trainer = make_trainer(estimator="rloo", reward_cutoff=30, reward_mix=0.5)
    rows = [3, 3, 9, 9, 11, 11]
    history, target = trainer.samples.at[9, "history"], int(trainer.samples.at[9, "target"])
    trainer.rows.prompts(rows)
    trainer.samples.at[9, "history"] = [*history, target]  # bought before; still the target
    inputs, trajectories = generated(trainer, rows)
    trainer.r2ec.head.temperature, parts = 1.0, {True: [], False: []}
    scores = trainer.r2ec.head.scores(torch.stack([one["state"] for one in trajectories])).double().tolist()
    for masked, found in parts.items():
        for row, values in zip(rows, scores, strict=True):
            target = trainer.samples.at[row, "target"]
            hidden = set(trainer.samples.at[row, "history"]) - {target} if masked else set()
            kept = [value for item, value in enumerate(values) if item not in hidden]
            rank = 1 + sum(value > values[target] for value in kept)
            share = math.exp(values[target]) / sum(math.exp(value) for value in kept)
            found.append((rank, 1 / math.log2(rank + 1) if rank <= 30 else 0.0, share))
    names = ("rank", "reward_ndcg", "reward_similarity")
    for name, expected, unmasked in zip(names, *(zip(*parts[masked], strict=True) for masked in parts), strict=True):
        assert [one[name] for one in trajectories] == pytest.approx(list(expected), abs=1e-6), name
        assert list(expected) != pytest.approx(list(unmasked), abs=1e-4), name
    rewards = [0.5 * share + 0.5 * gain for _, gain, share in parts[True]]
    expected = [rewards[i] - rewards[i ^ 1] for i in range(6)]
    assert inputs["advantages"].tolist() == pytest.approx(expected, abs=1e-6)
    assert inputs["candidates"][0].tolist() == sorted(set(trainer.samples.loc[rows, "target"]))


def test_without_a_mask_items_of_the_history_compete(make_trainer):
    trainer = make_trainer(mask_seen=False)
    _, trajectories = generated(trainer)
    values = trainer.r2ec.head.scores(trajectories[0]["state"][None])[0]
    target = trainer.samples.at[3, "target"]
    assert trajectories[0]["rank"] == 1 + int((values > values[target]).sum())


def test_reward_functions_hand_on_what_one_pass_has_computed_in_any_order(make_trainer):
    trainer, logged = make_trainer(), {}
    fields = trainer.roll_out([3, 3, 9, 9])
    figures = [fields["figures"]] * 4
    given = {**fields, "figures": figures, "log_metric": logged.__setitem__, "prompts": None}
    assert rollout.handed_on("similarity")(**given) == fields["reward_similarity"]
    assert rollout.ndcg(**given) == fields["reward_ndcg"] == rollout.ndcg(**given)
    assert logged == figures[0] and set(logged) == {
        "length", "length_low", "length_high", "share_unclosed", "repetition", "seconds_sampling", "seconds_reward",
    }  # fmt: skip


def test_the_logged_lengths_count_answer_whether_it_was_written_or_appended(make_trainer, monkeypatch):
    """As those of validations do."""
    trainer, chains = make_trainer(), [[40, 2], [40, 41, 42, 2], [40, 41, 2], [2]]
    drawn = rollout.Drawn(chains, [2, 3, 3, 0], [True, False, True, False], torch.zeros(4, 16))
    monkeypatch.setattr(trainer, "sample_chains", lambda prompts: drawn)
    generated(trainer)
    logged = log_rows([{"step": 1, **{name: mean for name, [mean] in trainer._metrics["train"].items()}}])[0]
    assert [logged[name] for name in ("length", "length_low", "length_high")] == [(2 + 4 + 3 + 1) / 4, 1, 4]


def test_targets_are_encoded_anew_before_the_reward_and_other_items_stay_until_the_refresh(make_trainer):
    trainer = make_trainer(refresh_steps=50)
    generated(trainer)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight *= 1.3
    stored = trainer.r2ec.head.table.clone()
    _, trajectories = generated(trainer)
    fresh, targets = trainer.r2ec.encode(trainer.items.texts), trajectories[0]["candidates"]
    others = torch.ones(len(fresh), dtype=torch.bool).index_fill(0, targets, False)
    table = trainer.r2ec.head.table
    assert torch.allclose(table[targets], fresh[targets], atol=1e-5)
    assert torch.equal(table[others], stored[others]) and not torch.allclose(table[others], fresh[others], atol=1e-2)


def test_kept_trajectories_have_their_own_figures_in_groups(make_trainer):
    trainer = make_trainer(rollout_users=1, rollout_steps=2, num_generations=2, reward_mix=0.25)
    generated(trainer)
    trainer.state.global_step = 1
    generated(trainer)
    assert {row["step"] for row in trainer.rollout_log} == {0}
    trainer.rollout_log.clear()
    trainer.state.global_step = 2
    inputs, trajectories = generated(trainer, rows=(9, 9, 3, 3))
    assert [row["trajectory"] for row in trainer.rollout_log] == [0, 1]
    for place, row in enumerate(trainer.rollout_log):
        one = trajectories[place]
        assert row["step"] == 2 and row["sample_id"] == trainer.samples.at[9, "sample_id"]
        assert (row["rank"], row["closed"], row["tokens"]) == (one["rank"], one["written"], len(one["chain"]))
        assert row["chain"] == trainer.r2ec.decode(one["chain"])
        assert row["reward"] == pytest.approx(0.75 * one["reward_ndcg"] + 0.25 * one["reward_similarity"])
        assert (row["advantage"], row["best"]) == (inputs["advantages"][place], inputs["best"][place])


def test_rollouts_that_serve_several_steps_are_kept_as_often_as_asked_also_after_a_resume(make_trainer):
    kept = []
    for steps in ((0, 3, 6), (9, 12, 15, 18)):
        trainer = make_trainer(num_iterations=3, rollout_steps=5, rollout_users=1)
        trainer.rollout_log = [*kept]  # as a checkpoint gives it back
        for step in steps:
            trainer.state.global_step = step
            generated(trainer)
        kept = trainer.rollout_log
    assert [row["step"] for row in kept[::2]] == [0, 6, 12, 15]


def test_appended_tokens_are_no_actions_and_have_no_log_probability_of_their_own():
    drawn = rollout.Drawn(
        [[5, 7, 8], [6, 7, 8]], [3, 1], [True, False], torch.zeros(2, 1), [[-1.0, -2.0, -3.0], [-4.0]]
    )
    found = drawn.completions(lambda chains: [[*chain, 9] for chain in chains])
    assert found["completion_ids"] == [[5, 7, 8, 9], [6, 7, 8, 9]]
    assert found["env_mask"] == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert found["logprobs"] == [[-1.0, -2.0, -3.0, 0.0], [-4.0, 0.0, 0.0, 0.0]]


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
        read = [states.shape[1] for states in hidden]
        ending = 2 if readout == "token" else 1  # tokens that a chain at the limit reads at once
        assert set(read[1:-1]) <= {1, ending} and len(read) <= 1 + 6 + 1 + 1  # prompts, tokens, ending, target items
    lengths = inputs["completion_mask"].sum(dim=1).tolist()
    tail = len(trainer.r2ec.closed([[]])[0])
    chains = [ids[: length - tail].tolist() for ids, length in zip(inputs["completion_ids"], lengths, strict=True)]
    again = trainer.r2ec.user_states(trainer.samples.iloc[rows], chains)
    assert torch.allclose(torch.stack([one["state"] for one in trajectories]), again, atol=1e-4)


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


@pytest.mark.parametrize(
    ("price", "field", "rewards", "advantages"),
    [
        # appended tokens are free
        ({"token_price": 0.25}, "reward_price", [-3.0, -2.0, -2.0, -3.0], [-0.25, 0.25, 0.25, -0.25]),
        ({"unclosed_price": 0.5}, "reward_unclosed", [0.0, 0.0, 0.0, -1.0], [0.0, 0.0, 0.5, -0.5]),
    ],
)
def test_tokens_and_reasonings_that_do_not_end_have_their_prices(
    make_trainer, monkeypatch, price, field, rewards, advantages
):
    trainer = make_trainer(estimator="rloo", **price)
    chains, states = [[40, 41, 2], [42, 2], [43, 2], [44, 45, 46, 2]], torch.zeros(4, 16)
    drawn = rollout.Drawn(chains, [3, 2, 2, 3], [True, True, True, False], states)
    monkeypatch.setattr(trainer, "sample_chains", lambda prompts: drawn)
    found, trajectories = generated(trainer)
    assert [one[field] for one in trajectories] == rewards
    assert found["advantages"].tolist() == pytest.approx(advantages)  # equal states rank alike
    paid = sum(price.values()) * (rewards[3] - rewards[2])
    assert trainer.rollout_log[3]["reward"] == pytest.approx(trainer.rollout_log[2]["reward"] + paid)


@pytest.mark.parametrize(
    ("stated_facts", "rewards", "advantages"),
    [
        (1, [0, -0.5, -1, -1], [0.25, -0.25, 0, 0]),  # silence is no way out
        (2, [-0.5, -0.5, -1, -1], [0, 0, 0, 0]),  # nor is one true sentence
    ],
)
def test_statements_about_the_history_that_fail_or_are_missing_have_a_price(
    make_trainer, monkeypatch, stated_facts, rewards, advantages
):
    trainer = make_trainer(estimator="rloo", untrue_price=0.5, stated_facts=stated_facts)
    model, history = trainer.r2ec, trainer.samples["history"].iloc[0]
    last = model.titles[history[-1]]
    texts = [f"The last purchase was {last}.", f"The last purchase was {last}. The needs are about zinc."]
    texts += ["The last purchase was a zinc mug.", "It is a gift."]
    told = [model.tokenizer(f" {text}")["input_ids"] for text in texts]
    chains = [[*ids, *model.prompts.answer.ids] for ids in told]
    drawn = rollout.Drawn(chains, [*map(len, chains)], [True] * 4, torch.zeros(4, 16))
    monkeypatch.setattr(trainer, "sample_chains", lambda prompts: drawn)
    found, trajectories = generated(trainer, rows=(0, 0, 0, 0))
    assert [one["reward_untrue"] for one in trajectories] == rewards
    assert found["advantages"].tolist() == pytest.approx(advantages)  # pairs; equal states rank alike
    assert trainer._metrics["train"]["rewards/untrue/mean"] == [sum(rewards) / 4]


def test_the_last_statement_of_a_turn_that_ended_without_answer_counts_and_that_of_a_cut_one_does_not(
    make_trainer, monkeypatch
):
    trainer = make_trainer(untrue_price=0.5, unclosed_price=0.5)
    model = trainer.r2ec
    text = f" The last purchase was {model.titles[trainer.samples['history'].iloc[0][-1]]}."
    told, answer, stop = model.tokenizer(text)["input_ids"], model.prompts.answer.ids, model.tokenizer.eos_token_id
    sampled = [[*told, *answer], [*told, stop], told, []]
    written = [True, False, False, False]
    chains = [ids if own else [*ids, *answer] for ids, own in zip(sampled, written, strict=True)]
    drawn = rollout.Drawn(chains, [*map(len, sampled)], written, torch.zeros(4, 16))
    monkeypatch.setattr(trainer, "sample_chains", lambda prompts: drawn)
    _, trajectories = generated(trainer, rows=(0, 0, 0, 0))
    assert [one["reward_untrue"] for one in trajectories] == [0, 0, -1, -1]
    assert [one["reward_unclosed"] for one in trajectories] == [0, -1, -1, -1]


def test_without_reasoning_the_answer_follows_the_prompt_and_only_the_recommendation_learns(make_trainer, samples):
    trainer = make_trainer(max_completion_length=0, item_advantage="unit")
    found, trajectories = generated(trainer)
    assert [one["chain"] for one in trajectories] == [trainer.r2ec.prompts.answer.ids] * 4
    assert (
        found["tool_mask"].sum() == 0
        and (found["advantages"] == 0).all()
        and found["best"].tolist() == [True, False] * 2
    )
    states = trainer.r2ec.user_states(samples.iloc[[3, 3, 9, 9]])
    assert torch.allclose(torch.stack([one["state"] for one in trajectories]), states, atol=1e-4)
    moved = gradients(trainer, found)
    assert (
        all(torch.isfinite(gradient).all() for gradient in moved.values())
        and max(g.abs().max() for g in moved.values()) > 0
    )


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
        self.prompts, self.num_generations = prompts, num_generations
        return prompts, list(self.chains), [[[-1.5] for _ in chain] for chain in self.chains], None


@pytest.fixture
def vllm_trainer(make_trainer, monkeypatch):
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", FakeVLLM)
    return make_trainer(use_vllm=True)


def test_vllm_is_asked_for_ids_and_told_where_a_reasoning_ends(vllm_trainer):
    generated(vllm_trainer)
    backend, prompts = vllm_trainer.vllm_generation, vllm_trainer.r2ec.prompts
    assert backend.given["generation_kwargs"] == {"stop_token_ids": [*prompts.answer.ids, 1]}
    assert backend.prompts == prompts.user_ids(vllm_trainer.samples.iloc[[3, 3, 9, 9]], vllm_trainer.r2ec.titles)
    assert backend.synced == 1 and backend.num_generations == 2
    assert "vllm" not in sys.modules


def test_handing_adapters_to_vllm_leaves_the_backbone_under_them_as_it_is(make_trainer, monkeypatch, tiny):
    tiny.lm = add_lora(tiny.lm.bfloat16(), rank=2, alpha=8)
    adapted = [layer for layer in tiny.lm.modules() if isinstance(layer, AdaptedLinear)]
    for layer in adapted:
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    merged = []

    class Merging(FakeVLLM):
        def sync_weights(self):
            self.given["model"].merge_adapter()
            merged.extend(layer.base_layer.weight.detach().clone() for layer in adapted)
            self.given["model"].unmerge_adapter()

    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", Merging)
    trainer = make_trainer(use_vllm=True)
    before = [layer.base_layer.weight.detach().clone() for layer in adapted]
    generated(trainer)
    for layer, one, given in zip(adapted, before, merged, strict=True):
        assert torch.equal(layer.base_layer.weight, one) and not torch.equal(given, one)


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
    inputs, _ = generated(trainer)
    old, ratio = inputs["old_per_token_logps"], inputs["importance_sampling_ratio"]
    actions = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
    expected = (old + 1.5).exp().clamp(max=trainer.args.vllm_importance_sampling_clip_max)
    assert torch.allclose(ratio[actions], expected[actions], atol=1e-6)
    assert (ratio[~actions] == 1).all()
    assert "old_item_log_probs" not in inputs  # one update: the ratio of the recommendation action is 1
    inputs = {**inputs, "advantages": torch.zeros(4), "best": torch.zeros(4, dtype=torch.bool)}
    assert max(gradient.abs().max() for gradient in gradients(trainer, inputs).values()) == 0
    inputs["advantages"] = torch.tensor([1.0, -1.0, 0.5, -0.5])
    assert max(gradient.abs().max() for gradient in gradients(trainer, inputs).values()) > 0


def test_our_sampler_never_writes_the_token_that_is_read(make_trainer, tiny_with_token, tiny):
    trainer = make_trainer(tiny_with_token)
    assert trainer.generation_config.suppress_tokens == [tiny_with_token.read_id]
    with torch.no_grad():  # the model would write nothing else
        trainer.r2ec.lm.get_output_embeddings().weight[tiny_with_token.read_id] = 1e3
    _, trajectories = generated(trainer)
    assert all(tiny_with_token.read_id not in one["chain"] for one in trajectories)
    assert rollout.generation_limits(tiny, use_vllm=False) == {"eos_token_id": tiny.prompts.answer.stop_ids(tiny.lm)}


def test_recomputed_activations_change_nothing_that_is_sampled_and_stay_on(make_trainer):
    trainer, drawn = make_trainer(), []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(trainer.sample_chains(trainer.rows.prompts([3, 3, 9, 9])))
        trainer.model.activation_checkpointing_enable({"use_reentrant": False})
    assert drawn[0].chains == drawn[1].chains and torch.equal(drawn[0].states, drawn[1].states)
    assert trainer.model.training and trainer.model.is_activation_checkpointing


def test_states_that_are_no_numbers_are_told_with_step_and_learning_rate(make_trainer):
    trainer = make_trainer()
    trainer.state.global_step, trainer.state.log_history = 7, [{"learning_rate": 0.5}, {"eval_length": 1.0}]
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"after step 7 \(learning rate 0\.5\)"):
        generated(trainer)


def uneven(trainer):
    """Three users of two trajectories each, the one with the longest prompt first."""
    users = [4, 2, 7]
    for user, cut in zip(users, (0, 3, 6), strict=True):
        trainer.rows.prompt_ids[user] = trainer.rows.prompts([0])[0][cut:]
    return users, [{"prompt": user} for user in users for _ in range(2)]


@pytest.mark.parametrize("steps, whole", [({}, True), ({"steps_per_generation": 6}, False)])
def test_micro_batches_of_one_step_hold_whole_groups_in_order_of_their_prompts(make_trainer, steps, whole):
    size = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_generations": 2, **steps}
    trainer = make_trainer(**size)
    users, rows = uneven(trainer)
    read, asked = [], trainer.args.steps_per_generation
    torch.manual_seed(5)
    for step in range(asked):
        trainer._step = step
        part = trainer._of_whole_groups(trainer._prepare_inputs(rows * (asked // 3)))
        read.append(part["sample_rows"].tolist())
        targets = trainer.rows.targets(part["sample_rows"]).tolist()
        assert all(target in part["candidates"][0] for target in targets)
    assert sorted(row for part in read for row in part) == sorted(2 * (asked // 3) * users)
    assert (read == [[user, user] for user in reversed(users)]) == whole


def test_a_step_of_whole_groups_has_the_gradient_of_one_whose_rows_are_shuffled(make_trainer, monkeypatch):
    size = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_generations": 2}
    grads = []
    for ordered in (True, False):
        trainer = make_trainer(**size)
        _, rows = uneven(trainer)
        if not ordered:
            monkeypatch.setattr(rollout, "whole_groups", lambda parts: parts)
        trainer.current_gradient_accumulation_steps = 3
        torch.manual_seed(5)
        for step in range(3):
            trainer.accelerator.gradient_state._set_sync_gradients(step == 2)
            trainer.training_step(trainer.model, rows, None)
        grads.append({name: weight.grad for name, weight in trainer.model.named_parameters()})
    assert any(grad.abs().max() > 1e-3 for grad in grads[0].values())
    for name, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][name], atol=1e-6), name


def test_whole_groups_leave_each_trajectory_its_own_figures(make_trainer):
    trainer = make_trainer(per_device_train_batch_size=6)
    _, rows = uneven(trainer)
    made = trainer._generate_and_score_completions(rows)
    fields = ("prompt_ids", "completion_ids", "advantages", "best", "sample_rows")
    order = [3, 0, 5, 1, 4, 2]
    shuffled = {name: value[order] if value.dim() else value for name, value in made.items()}
    parts = rollout.whole_groups(split_tensor_dict(shuffled, 3))
    expected = {tuple(str(made[name][row].tolist()) for name in fields) for row in range(6)}
    assert {tuple(str(part[name][row].tolist()) for name in fields) for part in parts for row in range(2)} == expected
    assert all(torch.equal(part["num_items_in_batch"], made["num_items_in_batch"]) for part in parts)


@pytest.mark.parametrize(
    ("best", "most", "rows"),
    [([False, True, False, True], 2, [1, 3]), ([False] * 4, 0, [0]), ([False, False, True, False], 3, [2, 0, 1])],
)
def test_rows_that_carry_the_recommendation_action_stay_and_as_many_as_another_process_has(best, most, rows):
    inputs = {"best": torch.tensor(best), "ids": torch.arange(8).view(4, 2), "number": torch.tensor(7)}
    kept = rollout.marked_rows(inputs, most)
    assert kept["ids"].tolist() == inputs["ids"][rows].tolist() and kept["number"] == 7
    assert kept["best"].tolist() == [best[row] for row in rows]
