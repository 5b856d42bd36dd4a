"""Sequences, the training loop of the networks, and tuning."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.data.purchases import actions
from r2ec_lib.evaluation import ranking
from r2ec_lib.evaluation.baselines import counting, fitting
from r2ec_lib.evaluation.baselines.networks import Caser, GRU4Rec, SASRec

NETWORKS = (GRU4Rec, Caser, SASRec)


@pytest.mark.parametrize("max_history", [1, 2, 3, 20])
def test_every_purchase_but_the_first_is_predicted_exactly_once(max_history, samples_of):
    items = list(range(10))
    blocks = fitting.sequences(samples_of({"a": items}, max_history), max_history)
    assert sorted(int(item) for block in blocks for item in block[1:]) == items[1:]
    assert 2 <= min(map(len, blocks)) <= max(map(len, blocks)) <= max_history + 1


@pytest.mark.parametrize("build", NETWORKS)
def test_a_network_never_reads_what_comes_later(build):
    torch.manual_seed(0)
    network = build(9, 6, width=8).eval()
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    changed = torch.tensor([[1, 2, 3, 8, 0, 9]])  # 9 pads
    before, after = network(ids), network(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


@pytest.mark.parametrize("build", NETWORKS)
def test_a_network_learns_what_follows_what(build, samples_of, cycles):
    train, valid = samples_of(cycles(60, 12, 6, 0)), samples_of(cycles(15, 12, 4, 1), split="valid")
    score = fitting.fit_network(
        build, train, valid, 12, max_history=6, width=16, learning_rate=1e-2, dropout=0.0, batch_size=16, epochs=25
    )
    test = samples_of(cycles(20, 12, 6, 2), split="test")
    assert ranking.metrics(ranking.rank_all(score, test, 12, model="m"))["hit@5"] > 0.95
    assert score.log[-1]["loss"] < score.log[0]["loss"]


def test_training_stops_early_and_keeps_its_best_epoch(samples_of, cycles):
    train, valid = samples_of(cycles(30, 12, 6, 0)), samples_of(cycles(8, 12, 4, 1), split="valid")
    score = fitting.fit_network(
        SASRec, train, valid, 12, width=8, learning_rate=3e-2, batch_size=8, epochs=60, patience=2
    )
    values = [row["valid_ndcg@10"] for row in score.log]
    assert len(values) < 60
    assert len(values) == max(1 + int(np.argmax(values)), fitting.PLATEAU) + 2
    found = ranking.metrics(ranking.rank_all(score, valid, 12, model="m"))["ndcg@10"]
    assert found == pytest.approx(max(values))


def test_the_seed_decides_the_network_and_the_callers_generator_is_left_alone(samples_of, cycles):
    train, valid = samples_of(cycles(10, 8, 5, 0)), samples_of(cycles(4, 8, 4, 1))
    fit = functools.partial(fitting.fit_network, SASRec, train, valid, 8, width=8, epochs=2)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (fit(seed=seed)(valid) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("build", NETWORKS)
def test_cold_items_and_new_shoppers_are_ranked(build, samples_of, cycles):
    train, valid = samples_of(cycles(10, 8, 5, 0)), samples_of(cycles(4, 8, 4, 1))
    score = fitting.fit_network(build, train, valid, 11, max_history=4, width=8, epochs=2)
    cold = samples_of({"stranger": [9, 8, 9, 0, 8, 1, 2, 10]})  # items 8 to 10 are in no training sequence
    found = ranking.rank_all(score, cold.iloc[[-1]], 11, model="m")
    assert 1 <= found["rank"].item() <= 11


def test_padding_leaves_the_scores_of_a_short_history_alone(samples_of, cycles):
    train, valid = samples_of(cycles(10, 8, 5, 0)), samples_of(cycles(4, 8, 4, 1))
    for build in NETWORKS:
        score = fitting.fit_network(build, train, valid, 8, max_history=5, width=8, epochs=1)
        short, long = samples_of({"a": [1, 2]}), samples_of({"a": [3, 4, 5, 6, 7, 1]}, positions=[5])
        torch.testing.assert_close(score(pd.concat([short, long]))[:1], score(short))


def test_tuning_keeps_the_best_setting_on_validation_and_shows_all(samples_of):
    valid = samples_of({"a": [0, 1, 2]})
    fit = lambda lift: lambda batch: torch.eye(4)[torch.tensor(batch["target"].to_numpy())] * lift  # noqa: E731
    score, table = fitting.tune("m", fit, [{"lift": -1}, {"lift": 1}, {"lift": 2}], valid, 4)
    assert table["chosen"].tolist() == [False, True, False]  # the first of equals
    assert table["valid_ndcg@10"].tolist()[1:] == [1, 1]
    assert score(valid)[0, 1] == 1
    assert table["setting"].tolist() == ["lift -1", "lift 1", "lift 2"]


@pytest.mark.parametrize(
    ("best", "told"), [(1, "penalty 1, decay 0.5"), (2, "decay 0.5"), (4, "penalty 4, decay 0.5")]
)
def test_a_chosen_setting_at_an_end_of_its_grid_is_told(samples_of, best, told):
    valid = samples_of({f"u{n}": [0, 1, 2, 3] for n in range(4)}, split="valid")

    def fit(penalty, decay, whole):
        return lambda samples: torch.eye(4)[samples["target"].to_list() if penalty == best else [0] * len(samples)]

    grid = [{"penalty": p, "decay": d, "whole": w} for p in (4, 1, 2) for d in (0.5, 0.8, 1.0) for w in (False, True)]
    _, table = fitting.tune("m", fit, grid, valid, 4, mask_seen=False)
    assert table.loc[table["chosen"], "at_end"].tolist() == [told]
    assert set(table.loc[~table["chosen"], "at_end"]) == {""}


def test_either_of_two_values_is_an_end_of_its_grid_and_a_single_one_or_a_switch_is_not(samples_of):
    valid = samples_of({"a": [0, 1, 2]})
    grid = [{"learning_rate": r, "dropout": 0.5, "whole": w} for r in (3e-3, 1e-3) for w in (True, False)]
    _, table = fitting.tune("m", lambda **_: lambda batch: torch.zeros(len(batch), 4), grid, valid, 4)
    assert table["setting"][0] == "learning rate 0.003, dropout 0.5, whole 1"
    assert table["at_end"].tolist() == ["learning rate 0.003", "", "", ""]


def test_no_grid_tries_a_setting_twice():
    for grid in fitting.GRIDS.values():
        assert len(grid) >= 4 and all(grid.count(setting) == 1 for setting in grid)


def test_no_baseline_changes_when_the_future_is_shuffled(samples_of, cycles):
    train, later = samples_of(cycles(12, 9, 6, 0)), samples_of(cycles(8, 9, 4, 1), split="test")
    everything = pd.concat([train, later.assign(sample_id=later["sample_id"] + 1000)], ignore_index=True)
    asked, targets = everything.tail(6), everything["target"].to_numpy().copy()
    targets[len(train) :] = np.random.default_rng(0).permutation(targets[len(train) :])
    shuffled = everything.assign(target=targets)
    assert not shuffled.equals(everything)
    past = lambda table: table[table["split"] == "train"]  # noqa: E731
    network = functools.partial(fitting.fit_network, valid=train.head(9), num_items=9, width=8, epochs=1)
    fits = {
        "popularity": lambda table: counting.popularity(actions(past(table)), 9),
        "recent": lambda table: counting.popularity(actions(past(table)), 9, days=3),
        "neighbours": lambda table: counting.item_neighbours(actions(past(table)), 9),
        **{build.__name__: lambda table, build=build: network(build, past(table)) for build in NETWORKS},
    }
    for name, fit in fits.items():
        assert torch.equal(fit(everything)(asked), fit(shuffled)(asked)), name
    leaking = lambda table: counting.popularity(actions(table), 9)  # noqa: E731
    assert not torch.equal(leaking(everything)(asked), leaking(shuffled)(asked))


def test_every_sequence_is_in_exactly_one_batch_of_about_its_length():
    lengths = np.random.default_rng(0).integers(2, 21, 500)
    found = fitting.batches(lengths, 16, np.random.default_rng(1))
    assert sorted(np.concatenate(found)) == list(range(500))
    assert max(map(len, found)) == 16
    padded = sum(len(batch) * lengths[batch].max() for batch in found)
    assert padded < 1.25 * lengths.sum()
    again, other = (fitting.batches(lengths, 16, np.random.default_rng(seed)) for seed in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert {frozenset(batch) for batch in found}.isdisjoint(frozenset(batch) for batch in other)
    longest = [lengths[batch].max() for batch in found[:16]]
    assert longest != sorted(longest)  # a network that reads short ones first and long ones last forgets


@pytest.mark.parametrize("build", NETWORKS)
def test_of_a_history_longer_than_the_networks_only_the_latest_items_are_read(build, samples_of, cycles):
    train, valid = samples_of(cycles(10, 8, 5, 0)), samples_of(cycles(4, 8, 4, 1))
    score = fitting.fit_network(build, train, valid, 8, max_history=3, width=8, epochs=1)
    long = pd.DataFrame({"history": [[7, 6, 5, 1, 2, 3], [4], [0, 1, 2, 3]]})
    short = long.assign(history=[history[-3:] for history in long["history"]])
    torch.testing.assert_close(score(long), score(short))
    assert not torch.allclose(score(long)[0], score(long.assign(history=[[7, 6, 5], [4], [0]]))[0])


def test_a_scorer_counts_the_bytes_of_its_weights(samples_of, cycles):
    train, valid = samples_of(cycles(10, 8, 5, 0)), samples_of(cycles(4, 8, 4, 1))
    score = fitting.fit_network(GRU4Rec, train, valid, 8, width=4, epochs=1)
    gru, out, norm, items = 2 * (3 * 4 * 4 + 3 * 4), 4 * 4 + 4, 2 * 4, 9 * 4
    assert score.stored_bytes == 4 * (gru + out + norm + items)


def test_an_epoch_that_is_only_as_good_as_the_best_does_not_put_off_the_end(samples_of, cycles, monkeypatch):
    monkeypatch.setattr(fitting, "_ndcg10", lambda *_: 0.5)
    train = samples_of(cycles(4, 8, 5, 0))
    score = fitting.fit_network(GRU4Rec, train, train, 8, width=4, epochs=40, patience=3)
    assert len(score.log) == fitting.PLATEAU + 3


def test_what_was_bought_before_is_validated_on_where_nothing_is_masked(samples_of, cycles):
    train, again = samples_of(cycles(4, 4, 5, 0)), samples_of({"a": [0, 1, 0]}, positions=[2])
    fit = lambda: lambda batch: torch.eye(4)[torch.tensor(batch["target"].to_numpy())]  # noqa: E731
    assert fitting.tune("m", fit, [{}], again, 4, mask_seen=False)[1]["valid_ndcg@10"].tolist() == [1.0]
    score = fitting.fit_network(GRU4Rec, train, again, 4, width=4, epochs=1, mask_seen=False)
    assert score.log[0]["valid_ndcg@10"] > 0


def test_each_step_has_the_gradient_of_its_own_batch_with_dropout_on(samples_of, cycles, monkeypatch):
    """A rate of 0 leaves the weights as they are, so every epoch of one batch has the same gradient."""
    norms, modes, step = [], [], torch.optim.AdamW.step

    class Watched(GRU4Rec):
        def forward(self, ids):
            modes.append(self.training)
            return super().forward(ids)

    def noting(self):
        norms.append(sum(float(weight.grad.norm()) for weight in self.param_groups[0]["params"]))
        return step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    train = samples_of(cycles(4, 8, 5, 0))
    fitting.fit_network(Watched, train, train, 8, width=4, dropout=0.0, epochs=3, learning_rate=0.0)
    assert norms == pytest.approx([norms[0]] * 3) and norms[0] > 0
    assert modes == [True, False] * 3  # a step, then its validation
