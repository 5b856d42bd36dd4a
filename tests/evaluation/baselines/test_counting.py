"""Baselines that count, against small worlds worked out by hand."""

import math
import re
import tracemalloc
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.data.purchases import actions
from r2ec_lib.evaluation import ranking
from r2ec_lib.evaluation.baselines import counting


def test_popularity_counts_purchases_and_recent_popularity_the_last_days(samples_of):
    samples = samples_of({"a": [0, 1, 2], "b": [0, 1], "c": [0, 3, 4, 5, 5]})
    ever, recent = counting.popularity(actions(samples), 7), counting.popularity(actions(samples), 7, days=1.5)
    assert ever(samples[:2]).tolist() == [[3, 2, 1, 1, 1, 2, 0]] * 2
    assert recent(samples[:1]).tolist() == [[0, 0, 0, 0, 0, 2, 0]]
    assert counting.popularity(actions(samples), 7, days=1.0)(samples[:1]).tolist() == [[0, 0, 0, 0, 0, 1, 0]]


def test_neighbours_prefer_what_the_same_shoppers_bought(samples_of):
    samples = samples_of({"a": [0, 1], "b": [0, 1], "c": [0, 2], "d": [3, 4]})
    score = counting.item_neighbours(actions(samples), 6, decay=0.5, shrink=0.0)
    scores = score(samples_of({"new": [0, 5]}))[0]  # history: item 0 alone
    assert scores.argmax() == 1
    assert scores[1].item() == pytest.approx(2 / np.sqrt(3 * 2))
    assert scores[[0, 3, 4, 5]].tolist() == [0, 0, 0, 0]


def test_neighbours_weigh_the_latest_purchase_most(samples_of):
    samples = samples_of({"a": [0, 1], "b": [2, 3]})
    score = counting.item_neighbours(actions(samples), 5, decay=0.5, shrink=0.0)
    first, last = score(samples_of({"new": [0, 2, 4]}, positions=[2]))[0][[1, 3]].tolist()
    assert (first, last) == (0.5, 1.0)


def test_ease_scores_what_goes_with_the_latest_purchases(samples_of):
    train = samples_of({"a": [0, 1], "b": [0, 1], "c": [2, 3], "d": [2, 3]})
    score = counting.ease(actions(train), 5, penalty=1.0, decay=0.5, whole=False)
    scores = score(samples_of({"new": [0, 2, 4]}, positions=[2]))[0]
    assert scores[[1, 3]].tolist() == pytest.approx([0.5 * 2 / 3, 2 / 3])  # two shoppers of 2 + penalty
    assert scores[4] == 0
    assert score.stored_bytes == 5 * 5 * (8 + 4)  # for each of 5 items 5 indexes and weights


def test_ease_as_a_baseline_is_its_closed_form_with_negative_weights(samples_of):
    train = samples_of({"a": [0, 1], "b": [0, 2], "c": [0, 1], "d": [1, 2, 3]})
    bought = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]], float)
    inverse = np.linalg.inv(bought.T @ bought + 0.5 * np.eye(5))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    assert weights.min() < -0.05
    found = counting.ease(actions(train), 5, penalty=0.5, decay=0.9)(samples_of({"new": [2, 0, 4]}, positions=[2]))[0]
    np.testing.assert_allclose(found, 0.9 * weights[2] + weights[0], atol=1e-5)


def test_a_blend_is_the_sum_of_its_parts(samples_of):
    train = samples_of({"a": [0, 1], "b": [0, 1, 2]})
    first, second = counting.popularity(actions(train), 3), counting.item_neighbours(actions(train), 3)
    both = counting.blend(first, second, share=0.25)
    torch.testing.assert_close(both(train), first(train) + 0.25 * second(train))
    assert both.stored_bytes == first.stored_bytes + second.stored_bytes


def test_text_similarity_finds_the_same_words_in_items_never_bought(samples_of):
    items = pd.DataFrame(
        {"item_id": list("abcd"), "title": ["red oak chair", "blue pen", "oak table red", "pen refill blue ink"]}
    )
    score = counting.text_similarity(items)
    scores = score(samples_of({"new": [0, 1]}))[0]
    assert scores[0].item() == pytest.approx(1.0)
    assert scores[2] > 0.3 > scores[1] == scores[3] == 0


def test_items_without_text_get_a_number(samples_of):
    items = pd.DataFrame({"item_id": list("ab"), "title": ["", "pen"]})
    assert torch.isfinite(counting.text_similarity(items)(samples_of({"new": [0, 1]}))).all()


def test_a_test_split_of_strangers_alone_is_ranked_by_every_baseline(samples_of, cycles):
    train = samples_of(cycles(12, 9, 6, 0))
    items = pd.DataFrame({"item_id": list("abcdefghi"), "title": [f"title {i % 3}" for i in range(9)]})
    strangers = samples_of(cycles(5, 9, 4, 7), split="test")
    assert not set(strangers["user_id"]) & set(train["user_id"])
    scorers = {
        "popularity": counting.popularity(actions(train), 9),
        "neighbours": counting.item_neighbours(actions(train), 9),
        "text": counting.text_similarity(items),
    }
    for name, scorer in scorers.items():
        found = ranking.rank_all(scorer, strangers, 9, model=name)
        assert found["rank"].between(1, 9).all()
        assert scorer.stored_bytes > 0


@pytest.mark.parametrize("title_weight", [1, 3])
def test_text_similarity_is_tf_idf_written_out(title_weight):
    """tf = ln(1 + n) and idf = ln(N / items with the word) + 1, as cosines, over all columns but the id."""
    table = pd.DataFrame(
        {
            "item_id": list("abcd"),
            "title": ["Red oak chair, red", "blue pen", "Oak table", ""],
            "brand": ["oak & co", "Blue", "red", "a pen of 1991"],
            "year": [1991, 1992, 1991, 2000],
        }
    )
    bags = []
    for row in table.drop(columns="item_id").astype(str).to_dict("records"):
        bag = Counter()
        for column, text in row.items():
            for word in re.findall(r"\w+", text.lower()):
                bag[word] += title_weight if column == "title" else 1
        bags.append(bag)
    idf = {word: math.log(4 / sum(word in bag for bag in bags)) + 1 for bag in bags for word in bag}
    vectors = [{word: math.log(1 + n) * idf[word] for word, n in bag.items()} for bag in bags]
    norms = [math.sqrt(sum(value**2 for value in vector.values())) for vector in vectors]
    cosine = lambda i, j: sum(vectors[i][w] * vectors[j].get(w, 0) for w in vectors[i]) / norms[i] / norms[j]  # noqa: E731
    score = counting.text_similarity(table, decay=0.5, title_weight=title_weight)
    found = score(pd.DataFrame({"history": [[0, 3], [1]]}))
    assert found[0].tolist() == pytest.approx([0.5 * cosine(0, j) + cosine(3, j) for j in range(4)])
    assert found[1].tolist() == pytest.approx([cosine(1, j) for j in range(4)])


def test_neighbours_shrink_what_few_shoppers_bought_and_count_a_shopper_once(samples_of):
    samples = samples_of({"a": [0, 1, 0, 1], "b": [0, 1], "c": [0, 2]})
    scores = counting.item_neighbours(actions(samples), 4, shrink=2.0)(samples_of({"new": [0, 3]}))[0]
    assert scores.tolist() == pytest.approx([0, 2 / (math.sqrt(3 * 2) + 2), 1 / (math.sqrt(3 * 1) + 2), 0])


def test_ease_reads_its_weights_without_a_copy_of_them(samples_of):
    """A query alone takes the time of its history, not that of all weights."""
    train = samples_of({f"u{n}": [n, n + 1, n + 2] for n in range(1200)})
    score = counting.ease(actions(train), 1202)
    asked = samples_of({"new": [2, 0, 4]}, positions=[2])
    tracemalloc.start()
    score(asked)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert score.stored_bytes > 5e6 and peak < score.stored_bytes / 10


def test_of_an_account_with_very_many_purchases_the_latest_are_paired(samples_of, monkeypatch):
    monkeypatch.setattr(counting, "COUNTED", 3)
    scores = counting.item_neighbours(actions(samples_of({"guest": [0, 1, 2, 3, 4]})), 5)(samples_of({"new": [4, 0]}))[
        0
    ]
    assert (scores > 0).tolist() == [False, False, True, True, False]
