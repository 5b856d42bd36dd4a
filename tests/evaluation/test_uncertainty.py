"""Intervals by hand: bootstrap draws and closed forms that take the user as one draw, and what follows from them."""

import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS

from r2ec_lib.evaluation import uncertainty
from r2ec_lib.evaluation.ranking import metric_values


def rankings(ranks: dict[str, np.ndarray], users: np.ndarray) -> pd.DataFrame:
    return pd.concat(
        pd.DataFrame({"model": model, "sample_id": np.arange(len(users)), "user_id": users, "rank": rank})
        for model, rank in ranks.items()
    )


def paired(a, b, users, metric: str, resamples: int, seed: int = 0) -> dict:
    """`uncertainty.difference` of two models with these ranks on the same samples."""
    table = rankings({"a": np.asarray(a), "b": np.asarray(b)}, np.asarray(users))
    return uncertainty.difference(uncertainty.resample(table, [metric], resamples, seed), "a", "b", metric)


def by_hand(draws: np.ndarray, users: int) -> uncertainty.Resampled:
    """Hit@5 of models m and n, with these resampled means (R, 2); m has a mean of 0.5, n of 0."""
    columns = pd.MultiIndex.from_tuples([("m", "hit@5"), ("n", "hit@5")], names=["model", "metric"])
    return uncertainty.Resampled(pd.Series([0.5, 0.0], columns), pd.DataFrame(draws, columns=columns), 9, users)


def test_bootstrap_spread_is_the_standard_error_of_a_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 1))
    draws = uncertainty.bootstrap(values, np.arange(400), 4000, seed=1)
    assert draws.mean() == pytest.approx(values.mean(), abs=0.01)
    assert draws.std() == pytest.approx(values.std() / np.sqrt(400), rel=0.06)


def test_samples_of_one_user_are_drawn_together():
    values = np.repeat(np.random.default_rng(0).normal(size=50), 8)[:, None]  # eight equal samples a user
    clustered = uncertainty.bootstrap(values, np.repeat(np.arange(50), 8), 3000).std()
    apart = uncertainty.bootstrap(values, np.arange(400), 3000).std()
    assert clustered / apart == pytest.approx(np.sqrt(8), rel=0.1)


def test_a_resample_weighs_users_by_their_samples():
    draws = uncertainty.bootstrap(np.array([[1.0], [1.0], [0.0]]), ["a", "a", "b"], 2000, seed=3)
    assert set(np.unique(draws.round(6))) == {0.0, round(2 / 3, 6), 1.0}  # bb, ab, aa


def test_the_same_seed_gives_the_same_interval():
    ranks = np.arange(1, 101)
    first, again, other = (
        paired(ranks, ranks[::-1], np.arange(100), "ndcg@20", 500, seed)["ci95"] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_paired_difference_by_hand():
    found = paired([1, 1], [3, 3], ["a", "b"], "ndcg@5", 100)
    assert found["difference"] == pytest.approx(1 - 1 / 2)  # 1 / log2(2) - 1 / log2(4)
    assert found["relative"] == pytest.approx(1.0)
    assert found["ci95"] == pytest.approx([0.5, 0.5])


def test_equal_models_differ_by_nothing():
    found = paired([1, 9, 4], [1, 9, 4], ["a", "b", "c"], "hit@5", 200)
    assert (found["difference"], found["p"], found["ci95"]) == (0, 1, [0, 0])


def test_relative_difference_to_nothing_is_no_number():
    assert np.isnan(paired([1], [99], ["a"], "hit@5", 10)["relative"])


def test_the_relative_margin_has_the_interval_of_a_ratio_of_paired_means():
    """Against the delta method: Var(a/b) ≈ (sd of (value_a − a/b · value_b) / b)² / n."""
    rng = np.random.default_rng(2)
    a, b = rng.integers(1, 30, 2000), rng.integers(1, 45, 2000)
    found = paired(a, b, np.arange(2000), "ndcg@20", 4000)
    values_a, values_b = metric_values(a, "ndcg@20"), metric_values(b, "ndcg@20")
    ratio = values_a.mean() / values_b.mean()
    error = (values_a - ratio * values_b).std() / values_b.mean() / np.sqrt(2000)
    low, high = found["relative_ci95"]
    assert found["relative"] == pytest.approx(ratio - 1)
    assert (high - low) == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert low < found["relative"] < high


def test_a_margin_over_what_may_be_nothing_has_no_interval():
    found = paired([1, 1, 9], [1, 9, 9], ["a", "b", "c"], "hit@5", 200)
    assert found["relative"] == pytest.approx(1.0)  # (2 / 3) / (1 / 3) - 1
    assert np.isnan(found["relative_ci95"]).all()  # some resamples hold no hit of b


def test_the_best_of_several_is_chosen_anew_in_each_metric_and_on_each_resample():
    table = rankings(
        {"a": np.array([1, 1, 1, 1]), "top": np.array([1, 99, 99, 99]), "wide": np.array([99, 5, 5, 99])}, np.arange(4)
    )
    drawn = uncertainty.resample(table, ["hit@5", "ndcg@5"], 300)
    both = uncertainty.with_best(drawn, "best", ["top", "wide"])
    assert both.means["best", "hit@5"] == pytest.approx(2 / 4)  # of wide
    assert both.means["best", "ndcg@5"] == pytest.approx(1 / 4)  # of top: 1 / 4 beats 2 / log2(6) / 4
    for metric in ("hit@5", "ndcg@5"):
        best, members = both.draws["best", metric], both.draws[[("top", metric), ("wide", metric)]]
        assert (best == members.max(axis=1)).all()
        assert (best > both.draws["wide", metric]).any()
    assert uncertainty.compare(both, "a", ["best"], ["hit@5"])["relative"].item() == pytest.approx(1.0)


def test_a_model_as_good_as_all_baselines_is_never_ahead_of_their_best_and_often_behind_it():
    """Which is why only the lower end of such an interval is to be trusted."""
    rng = np.random.default_rng(0)
    names, ends = ["a", *"bcdefghi"], []
    for _ in range(40):
        table = rankings({name: rng.integers(1, 11, 200) for name in names}, range(200))
        drawn = uncertainty.resample(table, ["hit@5"], 300)
        row = uncertainty.compare(uncertainty.with_best(drawn, "best", names[1:]), "a", ["best"], ["hit@5"])
        ends.append(row["ci95"].item())
    low, high = np.transpose(ends)
    assert not (low > 0).any() and (high < 0).mean() > 0.1  # a true level would be below zero in 0.025


def test_what_is_kept_of_a_gain_is_measured_from_the_base_up():
    ranks = {"top": np.array([1, 1, 1, 9]), "mid": np.array([1, 1, 9, 9]), "base": np.array([1, 9, 9, 9])}
    drawn = uncertainty.resample(rankings(ranks, np.arange(4)), ["hit@5"], 400)
    found = uncertainty.kept_gain(drawn, "mid", "top", "base", "hit@5")
    assert found["kept"] == pytest.approx((2 / 4 - 1 / 4) / (3 / 4 - 1 / 4))
    assert np.isnan(found["ci95"]).all()  # some resamples hold nothing but a sample where none gains
    many = {name: np.tile(values, 100) for name, values in ranks.items()}
    drawn = uncertainty.resample(rankings(many, np.arange(400)), ["hit@5"], 2000)
    low, high = uncertainty.kept_gain(drawn, "mid", "top", "base", "hit@5")["ci95"]
    assert 0.4 < low < 0.5 < high < 0.6
    assert np.isnan(uncertainty.kept_gain(drawn, "mid", "base", "top", "hit@5")["kept"])


def test_intervals_cover_the_truth_at_about_their_level():
    rng = np.random.default_rng(4)
    truth, covered = 0.3, 0
    for seed in range(150):
        hits = (rng.random((200, 1)) < truth).astype(float)
        low, high = np.percentile(uncertainty.bootstrap(hits, np.arange(200), 400, seed), [2.5, 97.5])
        covered += low <= truth <= high
    assert 0.88 <= covered / 150 <= 0.99


@pytest.mark.parametrize("users", [5, 12, 40])
def test_intervals_of_few_users_cover_the_truth_as_students_do(users):
    """Plain percentiles cover 82, 90 and 93 % of 600 draws like these. The t interval of normal values is exact."""
    rng, covered, wide, exact, at_the_end = np.random.default_rng(users), 0, [], [], []
    for seed in range(200):
        values = rng.normal(size=(users, 1))
        draws = uncertainty.bootstrap(values, np.arange(users), 4000, seed)[:, 0]
        low, high = uncertainty.percentiles(draws, users)
        covered += low <= 0 <= high
        wide.append(high - low)
        exact.append(np.diff(uncertainty.mean_interval(values[:, 0], np.arange(users))[1:]).item())
        at_the_end.append(uncertainty.two_sided_p(draws - low, users))
    assert 0.87 <= covered / 200 <= 0.99
    assert np.mean(wide) == pytest.approx(np.mean(exact), rel=0.15)
    assert np.median(at_the_end) == pytest.approx(0.05, abs=0.02)  # zero at the end of the interval


def test_the_standard_error_over_a_few_users_is_that_of_a_sample_of_so_many():
    values = np.array([0.0, 1.0, 5.0])
    draws = values[np.random.default_rng(0).integers(0, 3, (100_000, 3))].mean(axis=1)
    assert uncertainty.standard_errors(draws, 3) == pytest.approx(values.std(ddof=1) / np.sqrt(3), rel=0.01)


def test_smallest_detectable_effect_is_2_8_standard_errors():
    rng = np.random.default_rng(0)
    a, b = rng.integers(1, 40, 500), rng.integers(1, 40, 500)
    found = paired(a, b, np.arange(500), "ndcg@20", 3000)
    error = (metric_values(a, "ndcg@20") - metric_values(b, "ndcg@20")).std() / np.sqrt(500)
    assert found["smallest_detectable"] == pytest.approx(2.8 * error, rel=0.06)


def test_a_few_shoppers_find_the_effect_that_they_are_said_to_find_as_often_as_is_said():
    rng, found = np.random.default_rng(0), []
    for _ in range(150):
        noise = rng.normal(0, 1, (8, 1))
        drawn = uncertainty.bootstrap(noise, np.arange(8), 400)
        two = by_hand(np.column_stack([drawn, 0 * drawn]), 8)
        effect = uncertainty.difference(two, "m", "n", "hit@5")["smallest_detectable"]
        found.append(uncertainty.percentiles(drawn[:, 0] + effect, 8)[0] > 0)
    assert 0.7 < np.mean(found) < 0.95


def test_a_real_difference_is_found_and_an_absent_one_is_not():
    rng = np.random.default_rng(0)
    good, twin = rng.integers(1, 20, 600), rng.integers(1, 20, 600)
    table = rankings({"a": good, "bad": good + 15, "twin": twin}, np.arange(600) // 2)
    found = uncertainty.compare(uncertainty.resample(table, ["ndcg@20"], 2000), "a", ["bad", "twin"], ["ndcg@20"])
    bad, same = found.to_dict("records")
    assert bad["ci95"][0] > 0
    assert bad["p_holm"] < 0.01
    assert same["ci95"][0] < 0 < same["ci95"][1]
    assert same["p_holm"] > 0.05


def test_p_is_below_5_percent_exactly_where_the_interval_excludes_zero():
    rng = np.random.default_rng(7)
    for shift in range(12):
        found = paired(rng.integers(1, 30, 80), rng.integers(1, 30 + 2 * shift, 80), np.arange(80), "ndcg@20", 4000)
        low, high = found["ci95"]
        if abs(found["p"] - 0.05) > 0.005:
            assert (found["p"] < 0.05) == (low > 0 or high < 0)


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.6, 0.01, 0.02], [0.6, 3 * 0.01, 2 * 0.02]),
        ([0.01, 0.04, 0.03], [3 * 0.01, 2 * 0.03, 2 * 0.03]),  # never falls
        ([0.5, 0.9], [2 * 0.5, 1.0]),
        ([0.04], [0.04]),
    ],
)
def test_holm_multiplies_the_smallest_p_most_and_stays_below_one(p, corrected):
    assert uncertainty.with_holm(pd.DataFrame({"p": p}))["p_holm"].tolist() == pytest.approx(corrected)


def test_p_counts_both_tails_and_the_interval_holds_95_percent():
    below = np.column_stack([np.r_[-np.ones(3), np.ones(96)], np.zeros(99)])
    p = uncertainty.difference(by_hand(below, 10**9), "m", "n", "hit@5")["p"]
    assert p == pytest.approx(2 * (3 + 1) / (99 + 1))
    steps = np.column_stack([np.linspace(0, 1, 201), np.zeros(201)])
    drawn = by_hand(steps, 10**9)
    found = uncertainty.difference(drawn, "m", "n", "hit@5")
    assert found["ci95"] == pytest.approx([0.025, 0.975])
    first = uncertainty.intervals(drawn).iloc[0]
    assert (first["low"], first["high"]) == pytest.approx((0.025, 0.975))
    assert (first["samples"], first["users"]) == (9, 10**9)


def test_each_sample_keeps_its_user_whatever_the_order_of_the_rows():
    """Four equal hits of one user and four misses of others: grouped wrongly, the interval would be narrower."""
    table = rankings({"a": np.array([1, 1, 1, 1, 9, 9, 9, 9]), "b": np.full(8, 1)}, np.array(list("uuuuvwxy")))
    mixed = table.iloc[np.random.default_rng(0).permutation(len(table))]
    first, second = (uncertainty.intervals(uncertainty.resample(t, ["hit@5"], 400)) for t in (table, mixed))
    columns = ["model", "low", "high"]
    assert first[columns].equals(second.sort_values("model", ignore_index=True)[columns])
    assert uncertainty.users_of(mixed)[[0, 4, 7]].tolist() == ["u", "v", "y"]


def test_an_opponent_below_popularity_in_one_run_has_collapsed():
    good, bad, floor = np.array([1, 1, 1, 9]), np.array([9, 9, 9, 1]), np.array([1, 1, 9, 9])
    runs = [
        uncertainty.resample(rankings({"m": ranks, "popularity": floor}, np.arange(4)), ["hit@5"], 10)
        for ranks in (good, bad)
    ]
    assert not uncertainty.collapsed(runs[:1], "m", "hit@5")
    assert uncertainty.collapsed(runs, "m", "hit@5")
    assert not uncertainty.collapsed(runs, "popularity", "hit@5")
    alone = uncertainty.resample(rankings({"m": bad}, np.arange(4)), ["hit@5"], 10)
    assert not uncertainty.collapsed([alone], "m", "hit@5")  # nothing to hold it against
    assert uncertainty.compare(runs[1], "popularity", ["m"], ["hit@5"])["collapsed"].tolist() == [True]


def test_models_on_different_samples_cannot_be_compared():
    table = rankings({"a": np.array([1, 2]), "b": np.array([1, 2])}, np.array(["x", "y"])).iloc[:-1]
    with pytest.raises(ValueError, match="a 2, b 1"):
        uncertainty.resample(table, ["hit@5"], 10)


def test_intervals_hold_the_mean_of_every_model_and_metric():
    table = rankings({"b": np.arange(1, 41), "a": np.full(40, 3)}, np.arange(40))
    found = uncertainty.intervals(uncertainty.resample(table, ["hit@5", "ndcg@20"], 500))
    assert found["model"].tolist() == ["b", "b", "a", "a"]  # in the order of the rankings
    assert found["mean"].tolist() == pytest.approx(
        [5 / 40, metric_values(np.arange(1, 41), "ndcg@20").mean(), 1, 1 / 2]
    )
    assert (found["low"] <= found["mean"]).all() and (found["mean"] <= found["high"]).all()
    assert found["users"].tolist() == [40] * 4


def samples_table(targets, histories, users, start="2023-01-01"):
    return pd.DataFrame(
        {
            "sample_id": np.arange(len(targets)),
            "user_id": users,
            "timestamp": pd.Timestamp(start, tz="UTC") + pd.to_timedelta(np.arange(len(targets)), unit="D"),
            "target": targets,
            "history": [np.array(history) for history in histories],
            "history_hours": [np.linspace(9.0, 1.0, len(history)) for history in histories],
        }
    )


def test_slices_name_cold_items_new_users_and_history_lengths():
    bought = pd.DataFrame({"user_id": ["u", "u", "v", "v", "w", "w"], "item": [3, 1, 3, 1, 1, 2]})
    test = samples_table([1, 2, 9, 3], [[3], [1, 3], [1] * 12, [2]], ["u", "new", "w", "u"], "2023-02-01")
    labels = uncertainty.slice_labels(test, bought)
    assert labels["target in training"].tolist() == ["warm", "warm", "cold", "warm"]
    assert labels["time"].tolist() == ["first half", "first half", "second half", "second half"]
    odd = uncertainty.slice_labels(test.head(3), bought)["time"].tolist()
    assert odd == ["first half", "first half", "second half"]  # the moment in the middle belongs to the first half
    assert labels["user in training"].tolist() == ["known", "new", "known", "known"]
    assert labels["history length"].tolist() == ["1", "2–4", "10–12", "1"]
    assert labels["last purchase"].tolist() == ["earlier", "within 1 h", "within 1 h", "earlier"]
    assert labels["target popularity"].tolist() == ["popular third", "rare third", "cold", "middle third"]
    table = rankings({"m": np.array([1, 2, 50, 3])}, test["user_id"].to_numpy())
    found = uncertainty.slices(table, labels, "hit@5", 50).set_index(["slicing", "slice"])
    assert found.loc["history length"].index.tolist() == ["1", "2–4", "10–12"]
    assert found.loc["target popularity"].index.tolist() == ["cold", "rare third", "middle third", "popular third"]
    assert found.loc[("target in training", "cold"), "mean"] == 0
    assert found.loc[("target in training", "warm"), "samples"] == 3
    assert found.groupby("slicing")["samples"].sum().eq(4).all()


def test_a_slicing_into_a_single_part_is_left_out():
    table = rankings({"m": np.array([1, 2, 9]), "n": np.array([2, 3, 4])}, np.array(["u", "v", "w"]))
    labels = pd.DataFrame({"sample_id": range(3), "all": "warm", "some": ["short", "long", "long"]})
    labels["known"] = ["early", "early", None]  # one part, but not all of the samples
    found = uncertainty.slices(table, labels, "hit@5", 50)
    assert found["slicing"].unique().tolist() == ["some", "known"]
    none = uncertainty.slices(table, labels[["sample_id", "all"]], "hit@5", 50)
    assert none.empty and list(none) == list(found)


@pytest.mark.parametrize(
    ("lengths", "spans"),
    [
        ([1, 2, 6], ["1", "2–4", "5–6"]),
        ([3, 5], ["2–4", "5"]),
        ([4, 1], ["2–4", "1"]),
        ([1, 1], ["1", "1"]),
        ([9, 10], ["5–9", "10"]),
    ],
)
def test_the_last_span_of_history_lengths_ends_at_the_longest_history(lengths, spans):
    samples = samples_table([1] * len(lengths), [[2] * length for length in lengths], "u")
    bought = pd.DataFrame({"user_id": ["u"], "item": [1]})
    assert uncertainty.slice_labels(samples, bought)["history length"].tolist() == spans


# ---- figures of texts ----------------------------------------------------------------------------------------------


def test_intervals_treat_a_user_as_one_draw():
    single = uncertainty.mean_interval([0, 1, 0, 1], ["a", "b", "c", "d"])
    paired = uncertainty.mean_interval([0, 0, 1, 1], ["a", "a", "b", "b"])
    assert single[0] == paired[0] == 0.5
    assert paired[2] - paired[1] > 1.5 * (single[2] - single[1])
    # se² = 4/3 · 4 · 0.5² / 4², and t at 3 degrees of freedom
    assert single[2] - single[0] == pytest.approx(3.182446 * math.sqrt(4 / 3 * 4 * 0.25 / 16), rel=1e-4)
    assert np.isnan(uncertainty.mean_interval([1, 2], ["a", "a"])[1])
    assert np.isnan(uncertainty.mean_interval([math.nan], ["a"])).all()


def test_the_interval_of_a_mean_is_that_of_a_regression_with_clustered_errors():
    rng = np.random.default_rng(0)
    users, values = rng.integers(0, 6, 40), rng.normal(size=40)
    fitted = OLS(values, np.ones(40)).fit(cov_type="cluster", cov_kwds={"groups": users}, use_t=True)
    assert uncertainty.mean_interval(values, users) == pytest.approx((fitted.params[0], *fitted.conf_int()[0]))


@pytest.mark.parametrize("interval", [uncertainty.mean_interval, uncertainty.share_interval])
def test_intervals_of_few_users_cover_the_truth_too(interval):
    """With the normal's quantile in place of Student's t, three users would mislead in one case of five or more."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(300):
        values = np.repeat(rng.uniform(0.2, 0.8, 3), 4)
        _, low, high = interval(values, np.repeat(range(3), 4))
        covered += low <= 0.5 <= high
    assert covered / 300 > 0.9


def test_a_single_user_gives_no_interval_and_no_evidence():
    table = rankings({"a": np.array([1, 1]), "b": np.array([9, 9])}, np.array(["u", "u"]))
    drawn = uncertainty.resample(table, ["hit@5"], 50)
    assert uncertainty.intervals(drawn)[["low", "high"]].isna().all(axis=None)
    found = uncertainty.compare(drawn, "a", ["b"], ["hit@5"]).iloc[0]
    assert found["difference"] == 1 and np.isnan(found["ci95"]).all() and found["p_holm"] == 1


def test_the_interval_of_a_share_is_wilsons_and_stays_in_its_range():
    # ten draws, all 1: the lower bound is n / (n + z²)
    mean, low, high = uncertainty.share_interval([1] * 10, range(10))
    assert (mean, high) == (1, 1) and low == pytest.approx(10 / (10 + 1.96**2), rel=1e-4)
    assert uncertainty.share_interval([0] * 10, range(10))[1] == 0
    values = [1] * 9 + [0]
    plain, bounded = uncertainty.mean_interval(values, range(10)), uncertainty.share_interval(values, range(10))
    assert plain[2] > 1 and bounded[2] < 1 and bounded[1] < plain[0] == bounded[0] < bounded[2]
    with pytest.raises(ValueError, match="a share lies in 0 to 1"):
        uncertainty.share_interval([0, 2], range(2))


def test_a_user_with_many_copies_of_a_share_brings_no_certainty():
    few = uncertainty.share_interval([0, 1, 0, 1], list("abcd"))
    many = uncertainty.share_interval([0, 1, 0, 1] * 50, list("abcd" * 50))
    assert many == pytest.approx(few)


def test_counts_are_summarised_from_zero_on_and_shares_within_their_range():
    figures = pd.DataFrame({"tokens": [0, 9, 0, 9], "true": [1, 1, 1, math.nan]})
    table = uncertainty.summarise(figures, list("abcd")).set_index("figure")
    assert table.loc["tokens", "low"] == 0 and table.loc["tokens", "high"] > 9
    assert table.loc["true", ["mean", "high", "count"]].tolist() == [1, 1, 3]
    assert uncertainty.summarise(figures, ["a"] * 4)["low"].isna().all()  # nothing is known of other shoppers


def test_found_and_chance_are_summarised_side_by_side():
    table = uncertainty.against_chance({"x": ([1, 1], [0, 1]), "y": ([math.nan] * 2, [0, 0])}, ["a", "b"])
    assert table[["facet", "measured", "chance"]].iloc[0].tolist() == ["x", 1, 0.5]
    assert math.isnan(table["measured"][1]) and table["chance_low"][1] == 0


def test_what_is_measured_on_the_same_texts_leads_chance_text_by_text():
    chance = np.arange(40) / 50
    row = uncertainty.against_chance({"x": (chance + 0.1, chance)}, range(40)).iloc[0]
    assert row["measured_low"] < row["chance_high"]  # each by itself says nothing
    assert row[["lead", "lead_low", "lead_high"]].tolist() == pytest.approx([0.1, 0.1, 0.1])


@pytest.mark.parametrize("hits", [1, 5, 9])
def test_wilsons_interval_is_the_formula_written_out(hits):
    z, n, p = uncertainty.Z, 10, hits / 10
    draws = p * (1 - p) / (n / (n - 1) * n * p * (1 - p) / n**2)  # n − 1 for users with one value each
    draws *= (z / 2.262157) ** 2  # t at 9 degrees of freedom
    centre = (p + z**2 / (2 * draws)) / (1 + z**2 / draws)
    half = z / (1 + z**2 / draws) * math.sqrt(p * (1 - p) / draws + z**2 / (4 * draws**2))
    found = uncertainty.share_interval([1] * hits + [0] * (n - hits), range(n))
    assert found == pytest.approx((p, centre - half, centre + half))


def test_popularity_thirds_split_the_warm_samples_evenly():
    bought = pd.DataFrame(
        {"user_id": "u", "item": np.repeat(np.arange(6), np.arange(1, 7))}
    )  # item i bought i + 1 times
    labels = uncertainty.slice_labels(samples_table([5, 0, 1, 4, 3, 2, 9], [[7]] * 7, list("abcdefg")), bought)
    rare, middle, popular = uncertainty.POPULARITY_THIRDS
    assert labels["target popularity"].tolist() == [popular, rare, rare, popular, middle, middle, "cold"]


def test_values_that_differ_by_rounding_alone_are_equal_draws():
    """0.1 three times has a mean of 0.10000000000000002: an error of 1e-17 must not count as an infinite sample."""
    mean, low, high = uncertainty.share_interval([0.1, 0.1, 0.1], range(3))
    assert low == pytest.approx(uncertainty.share_interval([0.1] * 3 + [math.nan], range(4))[1]) and 0 <= low < 0.1
    assert mean == pytest.approx(0.1) and high > 0.3
