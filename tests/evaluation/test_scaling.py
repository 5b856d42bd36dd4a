"""Scaling: a line through the rows of a study, its slope's interval, and whether the rows follow it."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from r2ec_lib.data.schema import DataError
from r2ec_lib.evaluation import scaling


def rows(sizes, means, se=0.01) -> pd.DataFrame:
    table = pd.DataFrame({"row": list(map(str, sizes)), "size": sizes, "mean": means, "se": se})
    return table.assign(seed_se=1e-3 * table["se"], free=3)  # nearly all of it is over shoppers


def test_rows_on_a_line_give_its_slope_per_doubling():
    found = scaling.fit(rows([10.0, 20.0, 80.0], [0.1, 0.15, 0.25]))
    assert found["per_doubling"] == pytest.approx(0.05) and found["p_line"] == pytest.approx(1.0)
    assert found["intercept"] + found["per_doubling"] * np.log2(40) == pytest.approx(0.2)
    # three rows at log₂ size 0, 1 and 3 about their mean 4/3: Σ (x − x̄)² = 14/3
    half = 1.959964 * 0.01 / np.sqrt(14 / 3)
    assert found["ci95"] == pytest.approx([0.05 - half, 0.05 + half], rel=1e-4)


def test_rows_off_a_line_are_told_from_noise_by_their_errors():
    sizes, means = [1.0, 2.0, 4.0], [0.1, 0.2, 0.1]
    # the best line is flat at 2/15; its distance in errors is Σ r² / se² = (0.1 / 0.01)² · 2/3
    assert scaling.fit(rows(sizes, means))["p_line"] == pytest.approx(3.2e-16, rel=0.05)
    assert scaling.fit(rows(sizes, means, se=0.1))["p_line"] == pytest.approx(0.4142, abs=1e-4)


def test_a_sure_row_pulls_more_than_an_unsure_one():
    table = rows([1.0, 2.0, 4.0], [0.0, 0.1, 0.4], se=[0.001, 0.001, 1.0])
    assert scaling.fit(table)["per_doubling"] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(("sizes", "se"), [([2.0, 2.0], 0.1), ([1.0, 2.0], 0.0)])
def test_no_line_without_two_sizes_or_without_spread(sizes, se):
    found = scaling.fit(rows(sizes, [0.1, 0.2], se))
    assert np.isnan([*found.pop("ci95"), *found.values()]).all()


def test_two_rows_have_a_slope_and_no_test_of_the_line():
    found = scaling.fit(rows([1.0, 2.0], [0.1, 0.2]))
    assert found["per_doubling"] == pytest.approx(0.1) and np.isnan(found["p_line"])


def answered(values, users) -> pd.DataFrame:
    return pd.DataFrame({"user_id": users, "ndcg@20": values})


def test_what_few_seeds_tell_of_their_spread_widens_the_interval():
    """With three degrees of freedom and no other spread, t is 3.182; without two seeds of a row nothing is known."""
    table = rows([10.0, 20.0, 80.0], [0.1, 0.15, 0.25])
    found = scaling.fit(table.assign(seed_se=table["se"]))
    half = 3.182446 * 0.01 / np.sqrt(14 / 3)
    assert found["ci95"] == pytest.approx([0.05 - half, 0.05 + half], rel=1e-6)
    bent = rows([1.0, 2.0, 4.0], [0.1, 0.2, 0.1], se=0.05)  # 8/3 errors from its line: F with 1 and 3 degrees
    assert scaling.fit(bent.assign(seed_se=bent["se"]))["p_line"] == pytest.approx(0.2010, abs=1e-4)
    assert np.isnan(scaling.fit(table.assign(seed_se=0.0, free=0))["ci95"]).all()


def test_the_interval_of_a_slope_of_zero_rarely_excludes_it():
    """Rows with one seed and with two; shoppers' spread is small, so that of seeds has to be estimated."""
    generator, users, missed = np.random.default_rng(0), [f"u{i}" for i in range(60)], 0
    runs = {"small": {0: "a"}, "middle": {0: "b", 1: "c"}, "large": {0: "d", 1: "e"}}
    sizes = dict(zip("abcde", [1.0, 2.0, 2.0, 4.0, 4.0], strict=True))
    for _ in range(100):
        answers = {
            run: answered(0.5 + generator.normal(0, 0.02) + generator.normal(0, 0.02, 60), users) for run in sizes
        }
        low, high = scaling.fit(scaling.curve(answers, runs, sizes, resamples=50))["ci95"]
        missed += not low < 0 < high
    assert missed <= 9  # of 100


def test_a_curve_has_the_spread_over_shoppers_and_the_pooled_one_over_seeds():
    users = [f"u{i}" for i in range(400)]
    half = answered([0.0, 1.0] * 200, users)
    answers = {"a0": half, "b0": half, "b1": answered([0.2, 1.0] * 200, users)}
    runs = {"large": {0: "b0", 1: "b1"}, "small": {0: "a0"}}
    table = scaling.curve(answers, runs, {"a0": 1.0, "b0": 8.0, "b1": 8.0}, resamples=4_000)
    assert table["row"].to_list() == ["small", "large"] and table["size"].to_list() == [1.0, 8.0]
    assert table["seeds"].to_list() == [1, 2] and table["mean"].to_list() == pytest.approx([0.5, 0.55])
    over_shoppers, seeds = 0.45 / 20, 0.1 / np.sqrt(2) * np.array([1, 1 / np.sqrt(2)])
    assert table["seed_se"].to_list() == pytest.approx(seeds) and table["free"].to_list() == [1, 1]
    assert table["se"].to_list() == pytest.approx(np.hypot([0.5 / 20, over_shoppers], seeds), rel=0.05)
    freedom = (table["se"] / table["seed_se"]) ** 4  # one degree, for as large a part as the seeds have
    assert table["half"].to_list() == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * table["se"])
    assert (table["half"] > 5 * table["se"]).all()


def test_samples_of_one_shopper_are_one_draw():
    answers = {"a": answered([0.0] * 200 + [1.0] * 200, [f"u{i // 10}" for i in range(400)])}
    table = scaling.curve(answers, {"row": {0: "a"}}, {"a": 1.0}, resamples=4_000)
    assert table["se"].item() == pytest.approx(0.5 / np.sqrt(40), rel=0.05)
    assert table["half"].item() == pytest.approx(1.96 * table["se"].item(), rel=1e-4)  # nothing is known of seeds


def test_sizes_are_read_from_the_recipes_of_finished_runs(tmp_path):
    for name, steps in {"a": 40, "b": 80}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(f"name: {name}\nmax_steps: {steps}\n")
    assert scaling.read_sizes([tmp_path / "a", tmp_path / "b"], "max_steps") == {"a": 40.0, "b": 80.0}
    for wrong in ("0", "many", "true", "[3]"):
        (tmp_path / "b" / "recipe.yaml").write_text(f"max_steps: {wrong}\n")
        with pytest.raises(DataError, match=r"^b: max_steps is .* a number above 0"):
            scaling.read_sizes([tmp_path / "a", tmp_path / "b"], "max_steps")
