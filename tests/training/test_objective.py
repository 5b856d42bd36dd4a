"""Each function against a plain-Python reading of its equation, on random inputs in float64."""

import math
import random

import pytest
import torch

from r2ec_lib.training import objective

random.seed(0)


def test_ndcg_is_the_discounted_gain_of_one_relevant_item():
    ranks = [1, 1.5, 2, 7, 10, 10.5, 11, 500]
    expected = [1 / math.log2(rank + 1) if rank <= 10 else 0.0 for rank in ranks]
    assert objective.ndcg(torch.tensor(ranks, dtype=torch.float64), 10).tolist() == pytest.approx(expected, abs=1e-15)


def test_only_the_best_trajectory_is_marked_and_the_first_of_equal_ones():
    rewards = torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.5, 0.5]])
    assert objective.best_trajectories(rewards).tolist() == [[False, True, False], [True, False, False]]
    assert objective.best_trajectories(rewards, top=2).tolist() == [[False, True, True], [True, True, False]]


def test_the_clipped_objective_follows_equation_8():
    for _ in range(50):
        ratio, advantage = random.uniform(0.2, 2.5), random.uniform(-2, 2)
        expected = min(ratio * advantage, min(max(ratio, 1 - 0.2), 1 + 0.28) * advantage)
        tensors = (torch.tensor(x, dtype=torch.float64) for x in (ratio, advantage))
        assert objective.clipped(*tensors, 0.2, 0.28).item() == pytest.approx(expected)
