"""The choices of a training: wrong ones are refused by name, right ones reach TRL."""

import pytest

from r2ec_lib.training.config import LENGTH_LOSS, RecPOConfig


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"estimator": "ppo"}, "estimator is 'ppo'"),
        ({"reward_mix": 2.0}, "reward_mix"),
        ({"relabel_top": 9}, "relabel_top is 9"),
        ({"length_handling": "mean"}, "length_handling"),
        ({"reward_mix": -0.1}, "reward_mix"),
        ({"relabel_top": 0}, "relabel_top is 0"),
        ({"item_advantage": "none"}, "item_advantage is 'none'"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"item_vectors": "none"}, "item_vectors is 'none'"),
        ({"max_completion_length": 0}, "nothing would be learned"),
        ({"max_completion_length": 0, "item_advantage": "unit", "length_handling": "constant"}, "nothing would be"),
        ({"max_completion_length": 0, "item_advantage": "unit", "untrue_price": 0.1}, "untrue_price is 0.1 and"),
        ({"stated_facts": 0}, "stated_facts is 0; expected 1 or more"),
        ({"mask_truncated_completions": True}, "set unclosed_price"),
        ({"loss_type": "bnpo"}, "loss_type is 'bnpo': it is set by length_handling here"),
        ({"scale_rewards": "batch"}, "scale_rewards is 'batch': it is set by estimator"),
        ({"reward_weights": [3.0, 1.0]}, "reward_weights is .*set by reward_mix"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "multi_objective_aggregation is"),
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 3}, "steps_per_generation is 3: a rollout has"),
        ({"gradient_accumulation_steps": 2, "generation_batch_size": 8}, "steps_per_generation is 1: a rollout has"),
        ({"generation_batch_size": 0}, "steps_per_generation is 0: a rollout has"),
    ],
)
def test_a_wrong_choice_is_refused_with_its_name(tmp_path, choice, message):
    with pytest.raises(ValueError, match=message):
        RecPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True, **choice)


@pytest.mark.parametrize("name", LENGTH_LOSS)
@pytest.mark.parametrize(("estimator", "scale"), [("grpo", "group"), ("rloo", "none")])
def test_choices_are_handed_to_trl_under_its_names(tmp_path, name, estimator, scale):
    choices = {
        "length_handling": name,
        "estimator": estimator,
        "reward_mix": 0.2,
        "judged_weight": 0.7,
        "token_price": 0.01,
        "unclosed_price": 0.3,
        "untrue_price": 0.4,
    }
    config = RecPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True, **choices)
    trl = {"sum": "luspo", "sequence": "grpo", "constant": "dr_grpo", "batch": "dapo"}
    assert (config.loss_type, config.scale_rewards) == (trl[name], scale)
    assert config.reward_weights == [0.8, 0.2, 0.7, 0.01, 0.3, 0.4]
    assert config.vllm_importance_sampling_mode == "token_truncate"


def test_a_configuration_can_be_made_again_from_its_own_values(tmp_path):
    config = RecPOConfig(output_dir=str(tmp_path), use_cpu=True, estimator="rloo", length_handling="sequence")
    derived = {name: getattr(config, name) for name in ("loss_type", "scale_rewards", "reward_weights")}
    choices = {"estimator": "rloo", "length_handling": "sequence", **derived}
    assert RecPOConfig(output_dir=str(tmp_path), use_cpu=True, **choices).reward_weights == config.reward_weights
