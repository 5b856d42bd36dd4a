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
        ({"kl_weight_warmup": 0.5}, "kl_weight_warmup is 0.5 and beta 0"),
        ({"item_vectors": "none"}, "item_vectors is 'none'"),
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
    }
    config = RecPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True, **choices)
    trl = {"sum": "luspo", "sequence": "grpo", "constant": "dr_grpo", "batch": "dapo"}
    assert (config.loss_type, config.scale_rewards) == (trl[name], scale)
    assert config.reward_weights == [0.8, 0.2, 0.7, 0.01, 0.3]
    assert config.vllm_importance_sampling_mode == "token_truncate"
