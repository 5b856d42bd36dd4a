"""The gradient of each term of the loss."""

from types import SimpleNamespace

import pytest
import torch
from training.helpers import ADVANTAGES, BEST, gradients, rows_of

from r2ec_lib.training.gradients import GradientNorms


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


def test_micro_batches_add_up_and_a_weight_that_only_one_term_moves_counts_for_it():
    one, other = (torch.nn.Parameter(torch.tensor([value, 2.0])) for value in (1.0, 3.0))
    norms = GradientNorms([one, other])
    for factor in (1.0, 2.0):
        norms.add(factor * one.sum())
    one.grad = None  # the terms cancel there: what the tokens give, the items take
    other.grad = torch.tensor([3.0, 4.0])
    identity = SimpleNamespace(reduce=lambda gradient, reduction: gradient)
    assert norms.norms(identity) == (pytest.approx(18**0.5), pytest.approx((18 + 25) ** 0.5))
    assert norms.tokens is None
