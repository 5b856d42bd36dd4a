"""The benchmark's tools measure what they say, and both sides of each comparison compute the same."""

import time

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib import plots
from r2ec_lib.evaluation.speed import plain_ways, timing
from r2ec_lib.model import encoding
from r2ec_lib.model.prompts import PromptStyle
from r2ec_lib.model.r2ec import stop_ids

ROW = {"what": "a", "against": "b", "ratio": 0.5, "low": 0.4, "high": 0.6, "target": 0.7, "floor": 0.3}


@pytest.fixture
def trainers(tiny, samples, tmp_path):
    """RecPO and plain TRL on copies of one model."""
    tiny.lm.float()
    size = {"num_generations": 2, "per_device_train_batch_size": 8, "max_completion_length": 5}
    return (
        plain_ways.recpo_trainer(tiny, samples, str(tmp_path), **size),
        plain_ways.plain_trainer(tiny, samples, str(tmp_path), **size),
    )


# ---- measuring -----------------------------------------------------------------------------------------------------


def test_sides_take_turns_and_every_second_round_runs_backwards():
    calls = []
    times = timing.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert "".join(calls) == "ba" + "ab" + "ba"  # the first round is not timed
    assert len(times) == 4 and set(times["repetition"]) == {0, 1}


def test_a_ratio_compares_within_a_round():
    seconds = {"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 3.0]}  # the second round met a busy machine
    times = pd.DataFrame(
        [{"side": s, "repetition": i, "seconds": v} for s, values in seconds.items() for i, v in enumerate(values)]
    )
    found = timing.ratio(times, "a", "b")
    assert found == {"ratio": 0.5, "low": 0.5, "high": 0.75, "seconds": 3.0, "seconds_against": 3.0}


def test_a_comparison_tells_slower_from_faster():
    sides = {
        "short": lambda: time.sleep(0.01),
        "long": lambda: (time.sleep(0.04), torch.ones(2, 3) @ torch.ones(3, 2)),
    }
    row = timing.comparison("short", "long", sides, 0.7, 3, timing.matrix_product("cpu", size=8))
    assert row["ratio"] == pytest.approx(0.25, abs=0.2) and row["met"] and row["low"] <= row["ratio"] <= row["high"]
    assert row["operations"] == 0 and row["operations_against"] == 2 * 2 * 3 * 2
    assert timing.comparison("short", "long", sides, None, 1, timing.matrix_product("cpu", size=8))["met"] is None


def test_calls_of_a_module_are_counted_and_no_hook_stays():
    layer = torch.nn.Linear(2, 2)
    assert timing.calls_of(layer, lambda: layer(layer(torch.ones(1, 2)))) == 2
    assert not layer._forward_pre_hooks


def test_operations_count_products_attention_and_backward():
    one = torch.ones(4, 5, requires_grad=True)
    assert timing.operations(lambda: one @ torch.ones(5, 6)) == 2 * 4 * 5 * 6
    assert timing.operations(lambda: (one @ torch.ones(5, 6)).sum().backward()) == 2 * (2 * 4 * 5 * 6)
    query = torch.ones(1, 1, 3, 4)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert timing.operations(lambda: attention(query, query, query)) == 2 * (2 * 3 * 4 * 3)


def test_growth_finds_the_exponent():
    sizes = [10, 20, 40]
    table = timing.growth("x", sizes, lambda n: {"square": lambda: time.sleep(2e-5 * n**2)}, 2)
    assert list(table["size"]) == sizes and (table["low"] <= table["seconds"]).all()
    assert timing.slope(sizes, [n**2 for n in sizes]) == pytest.approx(2)
    assert timing.slope([1, 10, 100, 1000], [5, 1, 10, 100]) == pytest.approx(1)  # the smallest do not count


def test_a_stopwatch_counts_each_second_once_and_leaves_the_object_as_it_was():
    class Work:
        def outer(self):
            time.sleep(0.02)
            self.inner()
            return 7

        def inner(self):
            time.sleep(0.05)

    work, watch = Work(), timing.Stopwatch()
    with watch.watching([(work, "outer", "out"), (work, "inner", "in")]):
        assert work.outer() == 7
    assert not vars(work)
    assert 0.015 < watch.rounds[0]["out"] < watch.rounds[0]["in"]
    assert set(timing.phase_table({"side": watch})["phase"]) == {"out", "in"}


def test_shares_compare_with_a_matrix_product_of_the_same_rounds():
    product, done = timing.matrix_product("cpu", size=256)
    assert done == 2 * 256**3
    one = torch.ones(256, 256)
    sides = {"one": lambda: one @ one, "two": lambda: (one @ one) @ one}
    row = timing.comparison("one", "two", sides, None, 9, (product, done), tokens=5, memory=True)
    assert row["floor"] == 0.5 and row["share"] == pytest.approx(1, abs=0.5)
    assert row["share_against"] == pytest.approx(1, abs=0.5)
    assert row["tokens_per_second"] == pytest.approx(5 / row["seconds"])
    assert row["bytes"] == pytest.approx(4 * 256**2, rel=0.2) and row["memory_ratio"] == pytest.approx(0.5, abs=0.1)


# ---- both sides ----------------------------------------------------------------------------------------------------


def test_generated_items_are_uneven_and_the_same_again():
    items = plain_ways.item_texts("", "product", 50, seed=1)
    lengths = items["description"].str.len()
    assert len(items) == 50 and lengths.max() > 2 * lengths.min()
    assert items.equals(plain_ways.item_texts("", "product", 50, seed=1))


def test_a_random_model_reads_its_texts_in_whole_words(items):
    shape = {"vocab_size": 400, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
    model = plain_ways.random_model(items, PromptStyle(), **shape)
    assert max(map(len, model.prompts.item_ids(items))) < 100
    samples = plain_ways.random_samples(len(items), 5, 4)
    assert all(row.target not in row.history and len(row.history) == 4 for row in samples.itertuples())
    assert len(model.prompts.user_ids(samples, model.titles)) == 5


def test_chains_are_as_long_as_asked_and_gradients_know_nothing_of_it(tiny, samples):
    prompts, answer = tiny.prompts.user_ids(samples.iloc[:6], tiny.titles), tiny.prompts.answer_id
    ids = torch.tensor([prompts[0]])
    before = tiny.lm(ids).logits
    with plain_ways.answers_at_random(tiny.lm, stop_ids(tiny.lm, answer), answer):
        drawn = plain_ways.settings(tiny, 9, temperature=1.0)
        assert {len(chain) for chain in plain_ways.generated(tiny, prompts, drawn)} == {9}
        assert {len(chain) for chain in tiny.sample(prompts, 9, temperature=1.0).chains} == {10}  # and `<answer>`
        assert torch.equal(tiny.lm(ids).logits, before)
    with plain_ways.answers_at_random(tiny.lm, stop_ids(tiny.lm, answer), answer, rate=1.0):
        assert plain_ways.generated(tiny, prompts, drawn) == [[answer]] * 6
    with torch.no_grad():
        assert torch.equal(tiny.lm(ids).logits, before)


def test_generate_writes_the_greedy_chains_of_the_sampler(tiny, samples):
    prompts = tiny.prompts.user_ids(samples.iloc[:6], tiny.titles)
    with plain_ways.answers_at_random(tiny.lm, stop_ids(tiny.lm, 2), 2):
        expected = plain_ways.generated(tiny, prompts, plain_ways.settings(tiny, 8))
        assert [chain[:-1] for chain in tiny.sample(prompts, 8).chains] == expected


def test_file_order_gives_the_states_of_the_buckets(tiny):
    cards = tiny.prompts.item_ids(tiny.catalogue)
    assert torch.allclose(plain_ways.encoded_in_file_order(tiny.lm, cards, 7).float(), tiny.encode(cards), atol=1e-5)


def test_recommended_items_are_those_of_recommend(tiny):
    history = tiny.catalogue["item_id"].tolist()[:3]
    found = tiny.recommend(history, k=5, max_new_tokens=4)
    frame = pd.DataFrame(
        {"history": [[0, 1, 2]], "history_hours": [[72.0, 48, 24]], "history_ratings": [[np.nan] * 3]}
    )
    prompts = tiny.prompts.user_ids(frame, tiny.titles)
    best = [item for item in plain_ways.recommended(tiny, prompts, 4, 8)[0].tolist() if item > 2]
    assert [tiny.head.item_ids[item] for item in best[:5]] == found.item_ids


def test_both_trainers_read_the_same_prompts_and_write_as_many_tokens(trainers):
    recpo, plain = trainers
    users = len(recpo.train_dataset)
    texts = [plain.train_dataset[user]["prompt"] for user in range(users)]
    assert plain._tokenize_prompts(texts)[0] == recpo.prompt_ids
    weights = [weight.detach().clone() for weight in recpo.model.parameters()]
    watches = [timing.Stopwatch(), timing.Stopwatch()]
    for trainer, watch in zip(trainers, watches, strict=True):
        with plain_ways.answers_at_random(trainer.model, stop_ids(trainer.model, 2), 2):
            plain_ways.optimiser_step(trainer)
            plain_ways.optimiser_step(trainer, watch)
        assert trainer.state.global_step == 2
        assert trainer._metrics["train"]["completions/mean_length"] == [5.0, 5.0]
    assert {"sampling", "reward", "policy pass", "backward", "optimiser", "other"} <= set(watches[1].rounds[0])
    assert set(watches[0].rounds[0]) - set(watches[1].rounds[0]) == {"target items"}
    assert any(not torch.equal(one, other) for one, other in zip(weights, recpo.model.parameters(), strict=True))


def test_the_plain_trainer_is_trls_own(trainers):
    recpo, plain = trainers
    assert type(plain).__module__.startswith("trl.")
    same = ["loss_type", "temperature", "beta", "gradient_checkpointing", "learning_rate", "num_generations"]
    assert [getattr(recpo.args, name) for name in same] == [getattr(plain.args, name) for name in same]


def test_a_prompt_once_a_group_gives_the_gradient_of_once_a_chain(trainers):
    recpo, _ = trainers
    ids, mask = plain_ways.policy_rows(recpo.r2ec.lm, 2, 3, 12, 4)
    assert len(ids.unique(dim=0)) == 6 and len(ids[:, :12].unique(dim=0)) == 2
    results = []
    for share in (True, False):
        found = plain_ways.policy_pass(recpo, ids, mask, 4, share)()
        results.append((found.detach(), plain_ways.gradient(recpo.model)))
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(*results, strict=True))


def test_a_step_that_refreshes_encodes_every_item_once(trainers):
    recpo, _ = trainers
    asked, drawn, rows = plain_ways.sampled_rollout(recpo)
    assert len(asked) == len(drawn.chains) == len(rows) == 8
    cards = recpo.r2ec.prompts.item_ids(recpo.r2ec.catalogue)
    targets, every = len(plain_ways.candidates(recpo)), len(cards)
    assert plain_ways.rewards(recpo, drawn, rows).shape == (8, 2)
    plain_ways.fresh_items(recpo)
    original = encoding.forward_states
    with plain_ways.encodings_noted() as noted:
        plain_ways.table_and_targets(recpo)
        plain_ways.targets_alone(recpo)
        plain_ways.whole_table(recpo)
    assert encoding.forward_states is original
    assert len(noted) == every and set(noted) == set(map(tuple, cards))
    for once, expected in ((True, every + targets), (False, 2 * every + targets)):
        with plain_ways.encodings_noted() as noted:
            plain_ways.table_for_a_step(recpo, once)
        assert len(noted) == expected


def test_growing_sides_have_the_sizes_they_are_given(trainers):
    recpo, _ = trainers
    sides = plain_ways.growing_sides(recpo, users=2, history=3, group=2, tokens=4)
    assert len(sides["sampling"]().chains) == 4
    assert sides["policy pass"]().shape == (4, 4)


# ---- figures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_ratios_fill_the_dots_that_meet_their_target(ax):
    rows = pd.DataFrame([ROW, ROW | {"what": "c", "ratio": 0.9}, ROW | {"what": "d", "target": np.nan}])
    plots.ratios(rows, ax)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, False]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "c", "d"]
    with pytest.raises(ValueError, match="no comparison"):
        plots.ratios(rows.iloc[:0], ax)


def test_phases_are_stacked_in_order(ax):
    table = pd.DataFrame(
        [("x", "one", 1.0), ("x", "two", 2.0), ("y", "two", 4.0)], columns=["side", "phase", "seconds"]
    )
    plots.phases(table, ax, ["two", "one", "three"])
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 2), (0, 4), (2, 1), (4, 0)]


def test_growth_shows_the_exponent(ax):
    table = pd.DataFrame({"size": [10, 100], "side": "s", "seconds": [1.0, 100], "low": [1, 90], "high": [2, 110]})
    plots.growth(table, ax, "size")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["s: size^2.00", "size^1"]
    assert ax.get_xscale() == ax.get_yscale() == "log"
