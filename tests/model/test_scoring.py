"""Scores, ranks, softmaxes and the best items against plain-Python readings, on random inputs."""

import math
import random

import pytest
import torch

from r2ec_lib.model import scoring

random.seed(0)


def random_scores(rows=7, items=11, levels=6):
    """Few distinct levels, so that ties are common."""
    return [[random.randrange(levels) / 3 for _ in range(items)] for _ in range(rows)]


def plain_rank(scores, target, seen):
    others = [s for v, s in enumerate(scores) if v != target and v not in seen]
    return 1 + sum(s > scores[target] for s in others) + sum(s == scores[target] for s in others) / 2


def test_ranks_with_ties_and_masked_items_follow_the_definition():
    for _ in range(20):
        scores = random_scores()
        targets = [random.randrange(11) for _ in scores]
        seen = [set(random.sample(range(11), 4)) for _ in scores]
        mask = torch.tensor([[v in hidden for v in range(11)] for hidden in seen])
        ranks = scoring.target_ranks(torch.tensor(scores, dtype=torch.float64), torch.tensor(targets), mask)
        assert ranks.tolist() == [plain_rank(*row) for row in zip(scores, targets, seen, strict=True)]


def test_a_constant_scorer_ranks_its_target_in_the_middle():
    assert scoring.target_ranks(torch.zeros(1, 9), torch.tensor([3])).item() == 5.0  # 1 + 0 + 8 / 2


def test_a_target_that_is_marked_as_seen_is_still_a_candidate():
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    assert scoring.target_ranks(scores, torch.tensor([1]), torch.tensor([[True, True, False]])).item() == 1.0


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="row 1 of the scores holds NaN"):
        scoring.target_ranks(torch.tensor([[1.0, 2.0], [math.nan, 0.0]]), torch.tensor([0, 1]))


def test_the_similarity_reward_is_a_softmax_over_unseen_items_and_the_target():
    """R_c of Eq. 5; a target that is in the history itself still counts."""
    tau, scores = 0.7, random_scores()
    targets = [random.randrange(11) for _ in scores]
    seen = [set(random.sample(range(11), 4)) | ({target} if row % 2 else set()) for row, target in enumerate(targets)]
    expected = []
    for row, target, hidden in zip(scores, targets, seen, strict=True):
        weights = [math.exp(s / tau) for v, s in enumerate(row) if v not in hidden or v == target]
        expected.append(math.exp(row[target] / tau) / sum(weights))
    mask = torch.tensor([[v in hidden for v in range(11)] for hidden in seen])
    found = scoring.item_log_probs(torch.tensor(scores, dtype=torch.float64), torch.tensor(targets), tau, mask).exp()
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_item_action_is_a_softmax_over_the_batch_targets():
    scores = random_scores(rows=5, items=4)
    positives, tau = [random.randrange(4) for _ in range(5)], 0.3
    expected = [
        math.log(math.exp(row[p] / tau) / sum(math.exp(s / tau) for s in row))
        for row, p in zip(scores, positives, strict=True)
    ]
    found = scoring.item_log_probs(torch.tensor(scores, dtype=torch.float64), torch.tensor(positives), tau)
    assert found.tolist() == pytest.approx(expected)


def test_log_probabilities_of_all_items_are_a_softmax_over_those_that_are_not_seen():
    scores, seen = torch.tensor([[2.0, 1.0, 0.0, 4.0]]), torch.tensor([[False, False, False, True]])
    total = sum(math.exp(score / 0.5) for score in (2.0, 1.0, 0.0))
    expected = [score / 0.5 - math.log(total) for score in (2.0, 1.0, 0.0, 4.0)]
    assert scoring.all_log_probs(scores, 0.5, seen)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_an_excluded_candidate_is_no_negative_but_the_own_target_always_counts():
    scores = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    excluded = torch.tensor([[True, False, True]])
    found = scoring.item_log_probs(scores, torch.tensor([0]), 1.0, excluded)
    assert found.item() == pytest.approx(math.log(math.e / (math.e + math.e**2)))


def test_cosine_scores_do_not_depend_on_lengths():
    states, items = torch.randn(3, 5), torch.randn(4, 5)
    scores = scoring.similarity_scores(states, items, "cosine")
    assert torch.allclose(scores, scoring.similarity_scores(7 * states, 0.1 * items, "cosine"), atol=1e-6)
    expected = torch.cosine_similarity(states[:, None], items[None], dim=-1)  # of each pair
    assert torch.allclose(scores, expected.to(scores), atol=1e-6)
    assert torch.allclose(scoring.similarity_scores(states, items), states @ items.T)


@pytest.mark.parametrize("chunk", [3, 10, 64, None])
def test_topk_in_chunks_equals_a_stable_sort_of_all_scores(chunk):
    generator = torch.Generator().manual_seed(chunk or 0)
    users = torch.randint(-2, 3, (13, 4), generator=generator).float()
    items = torch.randint(-2, 3, (50, 4), generator=generator).float()
    scores, found = scoring.topk(users, items, 10, chunk)
    expected = (users @ items.T).sort(dim=1, descending=True, stable=True)
    assert torch.equal(found, expected.indices[:, :10])
    assert torch.equal(scores, expected.values[:, :10])


def test_topk_reads_a_bfloat16_table_in_the_precision_of_the_users():
    generator = torch.Generator().manual_seed(0)
    users, table = torch.randn(3, 8, generator=generator), torch.randn(40, 8, generator=generator).bfloat16()
    scores, found = scoring.topk(users, table, 5, chunk=7)
    expected = (users @ table.float().T).topk(5)
    assert scores.dtype == torch.float32 and torch.equal(found, expected.indices)
    assert torch.allclose(scores, expected.values)
