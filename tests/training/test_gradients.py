"""The gradient of each term of the loss."""

import pytest
import torch
from training.helpers import ADVANTAGES, BEST, gradients, rows_of


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
