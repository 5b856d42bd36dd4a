"""Several runs side by side: seeds apart from shoppers, variants compared on the same questions."""

import math
import statistics as plain

import numpy as np
import pandas as pd
import pytest
import yaml

from r2ec_lib import studies
from r2ec_lib.files import write_json, write_table
from r2ec_lib.schema import DataError


def rankings(ranks, users=None, model="r2ec"):
    ranks = np.asarray(ranks, dtype=float)
    users = users if users is not None else [f"u{i}" for i in range(len(ranks))]
    return pd.DataFrame(
        {"model": model, "sample_id": np.arange(len(ranks)), "user_id": users, "target": 1, "rank": ranks}
    )


def finished(folder, ranks, **recipe):
    table = rankings(ranks)
    write_table(table, folder / "evaluation" / "rankings.parquet")
    write_json({"models": {"r2ec": {"hit@5": 0.5}}}, folder / "evaluation" / "metrics.json")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": folder.name, "seed": 0, "steps": 5} | recipe))
    return folder


def test_parts_of_the_shoppers_are_nested_and_keep_shoppers_whole():
    train = pd.DataFrame({"user_id": [f"u{i % 10}" for i in range(60)], "sample_id": range(60)})
    parts = studies.nested_shares(train, [1.0, 0.2, 0.5], seed=3)
    assert list(parts) == [0.2, 0.5, 1.0]
    assert [part["user_id"].nunique() for part in parts.values()] == [2, 5, 10]
    assert set(parts[0.2]["sample_id"]) < set(parts[0.5]["sample_id"]) < set(parts[1.0]["sample_id"])
    assert (parts[0.5]["user_id"].value_counts() == 6).all()
    pd.testing.assert_frame_equal(parts[1.0], train)
    assert studies.nested_shares(train, []) == {}


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="at most 1"):
        studies.nested_shares(pd.DataFrame({"user_id": ["a"]}), [share])


def test_runs_are_read_with_their_recipes(tmp_path):
    folders = [finished(tmp_path / name, [1, 2, 9], seed=seed) for seed, name in enumerate(("one", "two"))]
    table, recipes = studies.read_runs(folders)
    assert table["run"].tolist() == ["one"] * 3 + ["two"] * 3
    assert recipes.loc["two", "seed"] == 1
    assert studies.headline(folders)["hit@5"].tolist() == [0.5, 0.5]


def test_a_run_without_an_evaluation_or_with_other_questions_is_named(tmp_path):
    first = finished(tmp_path / "first", [1, 2, 9])
    with pytest.raises(DataError, match=r"empty: no evaluation/rankings\.parquet"):
        studies.read_runs([first, tmp_path / "empty"])
    with pytest.raises(DataError, match="other and first were not asked the same questions"):
        studies.read_runs([first, finished(tmp_path / "other", [1, 2])])
    with pytest.raises(DataError, match="at least one"):
        studies.read_runs([])


def test_runs_that_differ_in_their_seed_alone_are_one_variant():
    recipes = pd.DataFrame(
        {"name": list("abc"), "seed": [0, 1, 0], "steps": [5, 5, 9], "stages": [["x"], ["x"], ["y"]]},
        index=list("abc"),
    )
    assert studies.variants(recipes).tolist() == ["steps 5", "steps 5", "steps 9"]
    assert studies.variants(recipes.loc[["a", "b"]]).nunique() == 1


def test_keys_that_a_run_does_not_state_or_that_change_no_ranking_make_no_variant():
    recipes = pd.DataFrame({"steps": [5, 5], "bazaar_items": [900, None], "resamples": [10, 20]}, index=["a", "b"])
    assert studies.differing(recipes) == ["resamples"]
    assert studies.variants(recipes).tolist() == ["all alike", "all alike"]


def test_seed_spread_and_shopper_spread_by_hand():
    table = pd.concat(
        [
            rankings([1, 9, 9, 9]).assign(run="a"),
            rankings([1, 1, 9, 9]).assign(run="b"),
            rankings([1] * 4).assign(run="c"),
        ]
    )
    intervals = studies.run_intervals(table, ["hit@5"], 4000)
    groups = pd.Series({"a": "v", "b": "v", "c": "w"})
    found = studies.variance_parts(intervals, groups).set_index("variant")
    assert found.loc["v", "mean"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert found.loc["v", "seed_sd"] == pytest.approx(plain.stdev([1 / 4, 2 / 4]))
    errors = [math.sqrt(p * (1 - p) / 4) for p in (1 / 4, 2 / 4)]  # of a mean of four shoppers
    assert found.loc["v", "user_se"] == pytest.approx(math.sqrt(sum(e**2 for e in errors) / 2), rel=0.05)
    half = 12.706 * plain.stdev([1 / 4, 2 / 4]) / math.sqrt(2)  # Student's t with one degree of freedom
    assert found.loc["v", "high"] == pytest.approx(3 / 8 + half, rel=1e-3)
    assert np.isnan(found.loc["w", "seed_sd"]) and np.isnan(found.loc["w", "low"])


def test_equal_seeds_have_no_spread_however_wide_the_shoppers_are():
    table = pd.concat([rankings([1, 9, 9, 1]).assign(run=run) for run in "ab"])
    found = studies.variance_parts(studies.run_intervals(table, ["hit@5"], 500), pd.Series({"a": "v", "b": "v"}))
    assert found["seed_sd"].item() == 0
    assert found["user_se"].item() > 0.1


def test_variants_are_compared_by_the_mean_of_their_seeds_on_the_same_questions():
    good, bad = [1, 1, 1, 9] * 25, [1, 9, 9, 9] * 25
    mixed = [1, 1, 9, 9] * 25
    table = pd.concat(
        [rankings(ranks).assign(run=run) for run, ranks in {"a": good, "b": bad, "c": mixed, "d": good}.items()]
    )
    groups = pd.Series({"a": "base", "b": "base", "c": "same", "d": "better"})
    found = studies.compare_variants(table, groups, "r2ec", "base", ["hit@5"], 2000).set_index("a")
    assert found.loc["same", "difference"] == pytest.approx(0)  # (3/4 + 1/4) / 2 against 2/4
    assert found.loc["better", "difference"] == pytest.approx(3 / 4 - 2 / 4)
    assert found.loc["better", "p_holm"] < 0.05 < found.loc["same", "p_holm"]
    with pytest.raises(ValueError, match="no run of variant 'none'"):
        studies.compare_variants(table, groups, "r2ec", "none", ["hit@5"])
    with pytest.raises(ValueError, match="nothing to compare"):
        studies.compare_variants(table, pd.Series(dict.fromkeys("abcd", "v")), "r2ec", "v", ["hit@5"])
