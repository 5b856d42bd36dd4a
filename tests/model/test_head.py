"""The recommendation head against plain readings of Eq. 1 to 3 and 7."""

import math

import pytest
import torch

from r2ec_lib.model.head import RecHead


@pytest.fixture
def table() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def states() -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def plain_scores(states: torch.Tensor, table: torch.Tensor, similarity: str) -> list[list[float]]:
    def length(vector: list[float]) -> float:
        return math.sqrt(sum(x * x for x in vector)) if similarity == "cosine" else 1.0

    return [
        [
            sum(a * b for a, b in zip(state, item, strict=True)) / (length(state) * length(item))
            for item in table.tolist()
        ]
        for state in states.tolist()
    ]


@pytest.mark.parametrize("similarity", ["inner", "cosine"])
def test_scores_are_one_product_of_a_state_with_each_item(table, states, similarity):
    head = RecHead(list("abcdef"), table, similarity=similarity)
    expected = torch.tensor(plain_scores(states, table, similarity))
    torch.testing.assert_close(head.scores(states), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_log_probs_are_a_softmax_over_the_items_that_count(table, states, whole):
    """Live vectors stand in for the table's rows; seen items do not count; with `whole` the rest of the table does."""
    head = RecHead(list("abcdef"), table, temperature=0.5, similarity="cosine")
    candidates, targets = torch.tensor([1, 3, 4]), torch.tensor([3, 1, 4])
    live = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    seen = torch.zeros(3, 6, dtype=torch.bool)
    seen[0, 4] = seen[1, 0] = True
    now = table.clone()
    now[candidates] = live
    scores = plain_scores(states, now, "cosine")
    counted = range(6) if whole else candidates.tolist()
    expected = []
    for row, target in enumerate(targets.tolist()):
        powers = {item: math.exp(scores[row][item] / 0.5) for item in counted if not seen[row, item]}
        expected.append(math.log(powers[target] / sum(powers.values())))
    found = head.log_probs(states, live, candidates, targets, seen, whole)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_item_ids_are_those_of_the_table_and_unique():
    with pytest.raises(ValueError, match="2 rows for 1 item ids"):
        RecHead(["a"], torch.zeros(2, 3))
    with pytest.raises(ValueError, match="unique"):
        RecHead(["a", "a"], torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"similarity": "cosin"}, r"similarity is 'cosin'; .*'cosine'"),
        ({"readout": "first"}, r"readout is 'first'; .*'last'"),
    ],
)
def test_an_unknown_similarity_or_readout_is_refused_before_anything_is_scored(choice, message):
    with pytest.raises(ValueError, match=message):
        RecHead([], torch.empty(0, 1), **choice)
