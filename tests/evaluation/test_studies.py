"""Several runs side by side: seeds apart from shoppers, variants compared on the same questions."""

import math
import statistics as plain

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import write_json, write_table
from r2ec_lib.evaluation import studies, uncertainty


def rankings(ranks, users=None, model="r2ec"):
    ranks = np.asarray(ranks, dtype=float)
    users = users if users is not None else [f"u{i}" for i in range(len(ranks))]
    return pd.DataFrame(
        {"model": model, "sample_id": np.arange(len(ranks)), "user_id": users, "target": 1, "rank": ranks}
    )


def finished(folder, ranks, **recipe):
    table = rankings(ranks)
    write_table(table, folder / "evaluation" / "rankings.parquet")
    results = {"models": {"r2ec": {"hit@5": 0.5}}, "baselines": recipe.pop("baselines", ["popularity", "caser"])}
    write_json(results, folder / "evaluation" / "metrics.json")
    head, later = {"name": folder.name, "threads": 2}, {"cues": recipe.pop("cues", ["a", "b"])}
    sections = {"01_data_preparation": {"seed": 0}, "02_training": {"steps": 5} | recipe, "05_oversight": later}
    parts = [f"\n# {name}\n{yaml.safe_dump(keys)}" for name, keys in sections.items()]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(head) + "".join(parts))
    return folder


def test_runs_are_read_with_their_recipes(tmp_path):
    folders = []
    for seed, name in enumerate(("one", "two")):
        folders.append(finished(tmp_path / name, [1, 2, 9], seed=seed, cues=[name], data_dir=f"/{name}/data"))
    table, recipes = studies.read_runs(folders)
    assert table["run"].tolist() == ["one"] * 3 + ["two"] * 3
    assert recipes.loc["two"].to_dict() == {"seed": 1, "steps": 5, "data_dir": "/two/data"}
    assert studies.variants(recipes).nunique() == 1  # neither what later pages do nor where files lie counts


def test_the_best_baseline_is_sought_among_those_that_every_run_has(tmp_path):
    first = finished(tmp_path / "first", [1, 2])
    second = finished(tmp_path / "second", [1, 2], baselines=["caser", "sasrec"])
    assert studies.common_baselines([first]) == ["popularity", "caser"]
    assert studies.common_baselines([first, second]) == ["caser"]


def test_a_run_without_an_evaluation_or_with_other_questions_is_named(tmp_path):
    first = finished(tmp_path / "first", [1, 2, 9])
    with pytest.raises(DataError, match=r"empty: no evaluation/rankings\.parquet"):
        studies.read_runs([first, tmp_path / "empty"])
    with pytest.raises(DataError, match="other and first were not asked the same questions"):
        studies.read_runs([first, finished(tmp_path / "other", [1, 2])])
    table = rankings([1, 2, 9]).assign(target=7)
    write_table(table, finished(tmp_path / "targets", [1, 2, 9]) / "evaluation" / "rankings.parquet")
    with pytest.raises(DataError, match="targets and first were not asked the same questions"):
        studies.read_runs([first, tmp_path / "targets"])
    write_table(
        rankings([1, 2, 9]).assign(user_id="w"),
        finished(tmp_path / "users", [1, 2, 9]) / "evaluation" / "rankings.parquet",
    )
    with pytest.raises(DataError, match="users and first were not asked the same questions"):
        studies.read_runs([first, tmp_path / "users"])
    with pytest.raises(DataError, match="at least one"):
        studies.read_runs([])


def test_runs_that_differ_in_their_seed_alone_are_one_variant():
    recipes = pd.DataFrame(
        {"seed": [0, 1, 0], "steps": [5, 5, 9]},
        index=list("abc"),
    )
    assert studies.variants(recipes).tolist() == ["steps 5", "steps 5", "steps 9"]
    assert studies.variants(recipes.loc[["a", "b"]]).nunique() == 1


def test_two_runs_of_one_variant_and_seed_are_no_repetitions():
    recipes = pd.DataFrame({"seed": [0, 1, 0], "steps": [5, 9, 5]}, index=["first", "other", "again"])
    with pytest.raises(DataError, match=r"first and again are one variant \(steps 5\) and both have seed 0"):
        studies.variants(recipes)
    with pytest.raises(DataError, match=r"first and again are one variant \(the same settings\)"):
        studies.variants(recipes.loc[["first", "again"]])
    assert studies.variants(recipes.loc[["first", "other"]]).nunique() == 2


def test_keys_that_a_run_does_not_state_or_that_change_no_ranking_make_no_variant():
    recipes = {"seed": [0, 1], "steps": [5, 5], "bazaar_items": [900, None], "resamples": [10, 20], "workers": [1, 2]}
    recipes = pd.DataFrame(recipes, index=["a", "b"])
    assert studies.differing(recipes) == ["seed", "resamples", "workers"]
    assert studies.variants(recipes).tolist() == ["the same settings"] * 2


def two_seeds(ours, theirs):
    """Two runs, in each the ranks of r2ec and of one opponent on the same questions."""
    return pd.concat(
        rankings(ranks, model=model).assign(run=run)
        for run, pair in zip("ab", zip(ours, theirs, strict=True), strict=True)
        for model, ranks in zip(("r2ec", "caser"), pair, strict=True)
    )


def test_a_margin_over_seeds_is_the_mean_of_each_runs_own_margin():
    table = two_seeds([[1, 1, 1, 9], [1, 1, 9, 9]], [[1, 9, 1, 9], [1, 1, 1, 9]])
    found = studies.margins(studies.resample_runs(table, ["hit@5"], 500), "r2ec", ["caser", "absent"], ["hit@5"])
    row = found.to_dict("records")[0]
    assert len(found) == 1 and row["runs"] == 2  # no row for a model that no run has
    assert row["by_run"] == pytest.approx([3 / 4 - 2 / 4, 2 / 4 - 3 / 4]) and row["difference"] == pytest.approx(0)
    assert row["relative"] == pytest.approx(((3 / 2 - 1) + (2 / 3 - 1)) / 2)
    assert row["seed_sd"] == pytest.approx(plain.stdev([1 / 4, -1 / 4]))
    assert row["collapsed"] is False
    one_run = pd.concat([table, rankings([1] * 4, model="sasrec").assign(run="a")])
    drawn = studies.resample_runs(one_run, ["hit@5"], 50)
    assert studies.margins(drawn, "r2ec", ["caser", "sasrec"], ["hit@5"])["b"].tolist() == ["caser"]


def test_a_margin_over_an_opponent_that_collapsed_in_one_seed_is_marked():
    floor = pd.concat([rankings([1, 1, 9, 9], model="popularity").assign(run=run) for run in "ab"])
    table = pd.concat([two_seeds([[1] * 4] * 2, [[1, 1, 1, 9], [9, 9, 9, 1]]), floor])
    drawn = studies.resample_runs(table, ["hit@5"], 50)
    assert studies.margins(drawn, "r2ec", ["caser"], ["hit@5"])["collapsed"].tolist() == [True]
    assert studies.margins({"a": drawn["a"]}, "r2ec", ["caser"], ["hit@5"])["collapsed"].tolist() == [False]


def test_the_interval_of_a_margin_holds_seeds_and_shoppers():
    """Half of it is t · √(u² + s² / k); equal seeds leave the shoppers alone, and one run has their percentiles."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(1, 12, 400), rng.integers(1, 16, 400)
    alike = studies.resample_runs(two_seeds([ours, ours], [theirs, theirs]), ["hit@5"], 3000)
    [row] = studies.margins(alike, "r2ec", ["caser"], ["hit@5"]).to_dict("records")
    [one] = studies.margins({"a": alike["a"]}, "r2ec", ["caser"], ["hit@5"]).to_dict("records")
    assert row["seed_sd"] == 0
    assert np.isnan(one["seed_sd"]) and one["relative"] == row["relative"]
    width = row["ci95"][1] - row["ci95"][0]
    assert width == pytest.approx(2 * 1.966 * row["user_se"], rel=1e-3)  # Student's t with 399 degrees of freedom
    assert one["ci95"][1] - one["ci95"][0] == pytest.approx(width, rel=0.1)

    other = rng.integers(1, 12, 400)
    pairs = [(ours, theirs), (other - (other > 3), theirs)]
    apart = studies.resample_runs(two_seeds(*zip(*pairs, strict=True)), ["hit@5"], 3000)
    [row] = studies.margins(apart, "r2ec", ["caser"], ["hit@5"]).to_dict("records")
    for name, ends, less in (
        ("difference", "ci95", lambda a, b: a - b),
        ("relative", "relative_ci95", lambda a, b: a / b - 1),
    ):
        by_run = [less((a <= 5).mean(), (b <= 5).mean()) for a, b in pairs]
        draws = np.mean([less(run.draws["r2ec", "hit@5"], run.draws["caser", "hit@5"]) for run in apart.values()], 0)
        first, second = draws.std(ddof=1) * math.sqrt(400 / 399), plain.stdev(by_run) / math.sqrt(2)
        df = (first**2 + second**2) ** 2 / (first**4 / 399 + second**4 / 1)
        half = stats.t.ppf(0.975, df) * math.hypot(first, second)
        assert row[name] == pytest.approx(np.mean(by_run)) and abs(row[name]) > 0.01
        assert row[ends] == pytest.approx([np.mean(by_run) - half, np.mean(by_run) + half])


def test_the_interval_over_seeds_and_shoppers_covers_the_truth_at_about_its_level():
    """Each run's ability is drawn around the truth, its hits by shopper around that: 95 % must come out of both."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        shopper = rng.random(150)  # how easy each shopper is, the same in all runs
        runs = {}
        for k in range(4):
            ours, theirs = 0.45 + 0.04 * rng.standard_normal(), 0.30
            ranks = [np.where((shopper + rng.random(150)) / 2 < level, 1, 99) for level in (ours, theirs)]
            table = pd.concat([rankings(r, model=m) for m, r in zip(("r2ec", "caser"), ranks, strict=True)])
            runs[f"r{k}"] = uncertainty.resample(table, ["hit@5"], 200, 0)
        [row] = studies.margins(runs, "r2ec", ["caser"], ["hit@5"]).to_dict("records")
        truth = 2 * (0.45**2 + 0.04**2) / (2 * 0.30**2) - 1  # P((u + v) / 2 < x) = 2 x² for uniform u, v and x ≤ 1 / 2
        covered += row["relative_ci95"][0] <= truth <= row["relative_ci95"][1]
    assert covered / 60 >= 0.9


def test_the_best_baseline_is_the_best_of_each_run():
    table = two_seeds([[1, 9], [1, 1]], [[9, 9], [9, 1]])
    best = studies.with_best_baseline(studies.resample_runs(table, ["hit@5"], 20), ["caser", "r2ec"])
    assert [run.means["best_baseline", "hit@5"] for run in best.values()] == [1 / 2, 1]


def answered(ranks, tokens, users=None):
    """What `read_answers` gives for one run."""
    table = rankings(ranks, users).set_index("sample_id")[["user_id", "target"]]
    hits = {"ndcg@20": [1 / math.log2(rank + 1) if rank <= 20 else 0 for rank in ranks]}
    return table.assign(tokens=tokens, **hits, **{"hit@5": [float(rank <= 5) for rank in ranks]})


def logged(*scores):
    values = {"step": range(1, len(scores) + 1), "valid_ndcg@10": scores, "reward": scores}
    return pd.DataFrame(values)


def test_answers_are_read_question_by_question(tmp_path):
    chains = rankings([1, 7, 30]).assign(tokens=[4, 5, 6]).iloc[::-1]
    write_table(chains, tmp_path / "one" / "evaluation" / "chains.parquet")
    found = studies.read_answers([tmp_path / "one"])["one"]
    assert found["tokens"].tolist() == [4, 5, 6] and found["hit@5"].tolist() == [1, 0, 0]
    assert found["ndcg@20"].tolist() == pytest.approx([1, 1 / math.log2(8), 0])
    with pytest.raises(DataError, match=r"none: no evaluation/chains\.parquet"):
        studies.read_answers([tmp_path / "none"])


def test_a_row_is_paired_with_its_base_seed_by_seed_and_question_by_question():
    rng = np.random.default_rng(0)
    base = [rng.integers(1, 10, 300) for _ in range(3)]
    worse = [np.where(rng.random(300) < 0.4, 9, ranks) for ranks in base]
    runs = {"full": {0: "f0", 1: "f1", 2: "f2"}, "worse": {0: "w0", 1: "w1", 5: "w5"}, "other world": {0: "o0"}}
    answers = {f"f{k}": answered(ranks, 10) for k, ranks in enumerate(base)}
    answers |= {name: answered(ranks, 12) for name, ranks in zip(("w0", "w1", "w5"), worse, strict=True)}
    answers["o0"] = answered([1, 2], 3)
    logs = {"f0": logged(0.1, 0.5), "f1": logged(0.2, 0.5), "w0": logged(0.1, 0.2), "w1": logged(np.nan, 0.2)}
    against = {"full": "full", "worse": "full", "other world": "other world"}
    found = studies.compare_rows(answers, logs, runs, against, 2000).set_index(["row", "measure"])
    row = found.loc[("worse", "hit@5")]
    by_run = [(worse[k] <= 5).mean() - (base[k] <= 5).mean() for k in (0, 1)]  # of the seeds that both have
    assert row["by_run"] == pytest.approx(by_run) and row["difference"] == pytest.approx(np.mean(by_run))
    assert row["mean"] == pytest.approx(np.mean([(ranks <= 5).mean() for ranks in worse])) and row["seeds"] == 3
    paired = np.mean([(worse[k] <= 5).astype(float) - (base[k] <= 5) for k in (0, 1)], axis=0)
    assert row["user_se"] == pytest.approx(paired.std(ddof=1) / math.sqrt(300), rel=0.1)
    assert row["seed_sd"] == pytest.approx(plain.stdev(by_run))
    first, second = row["user_se"], row["seed_sd"] / math.sqrt(2)
    error, df = math.hypot(first, second), (first**2 + second**2) ** 2 / (first**4 / 299 + second**4)
    half = stats.t.ppf(0.975, df) * error
    assert row["ci95"] == pytest.approx([row["difference"] - half, row["difference"] + half])
    assert row["p"] == pytest.approx(2 * stats.t.sf(-row["difference"] / error, df)) and row["p_holm"] == row["p"]
    tokens = found.loc[("worse", "tokens")]
    assert tokens["difference"] == 2 and tokens["ci95"] == [2, 2] and tokens["p"] == 0
    learning = found.loc[("worse", "learning")]
    assert learning["by_run"] == pytest.approx([0.15 - 0.3, 0.2 - 0.5]) and learning["user_se"] == 0
    assert found.loc[("full", "hit@5"), "difference"] is np.nan or np.isnan(found.loc[("full", "hit@5"), "difference"])
    assert found.loc[("other world", "hit@5"), "mean"] == 1 and np.isnan(found.loc[("other world", "hit@5"), "p_holm"])


def test_p_values_are_corrected_over_the_rows_of_each_measure():
    rng = np.random.default_rng(1)
    base = rng.integers(1, 10, 200)
    runs = {row: {seed: f"{row}{seed}" for seed in (0, 1)} for row in ("full", "a", "b")}
    answers = {run: answered(base, 9) for of in runs.values() for run in of.values()}
    answers |= {f"a{seed}": answered(np.where(rng.random(200) < 0.1, 9, base), 9) for seed in (0, 1)}
    found = studies.compare_rows(answers, {}, runs, dict.fromkeys(runs, "full"), 2000)
    assert set(found["measure"]) == {"ndcg@20", "hit@5", "tokens"}  # nothing is known of the training
    hits = found[found["measure"] == "hit@5"].set_index("row")
    assert hits.loc["a", "p_holm"] == pytest.approx(2 * hits.loc["a", "p"]) and hits.loc["b", "p"] == 1


def test_a_single_seed_in_common_has_an_interval_over_shoppers_and_neither_p_nor_a_place_among_the_corrected():
    rng = np.random.default_rng(1)
    base = rng.integers(1, 10, 200)
    worse = np.where(rng.random(200) < 0.5, 9, base)
    runs = {"full": {0: "f0", 1: "f1"}, "two": {0: "t0", 1: "t1"}, "one": {0: "o0"}, "apart": {1: "p1", 2: "p2"}}
    answers = {run: answered(base if row == "full" else worse, 9) for row, of in runs.items() for run in of.values()}
    found = studies.compare_rows(answers, {}, runs, dict.fromkeys(runs, "full"), 2000)
    hits = found[found["measure"] == "hit@5"].set_index("row")
    assert hits["pairs"].to_dict() == {"full": 0, "two": 2, "one": 1, "apart": 1}
    assert hits.loc["two", "p_holm"] == hits.loc["two", "p"] < 0.05
    for row in ("one", "apart"):
        assert hits.loc[row, "ci95"][1] < 0 and hits.loc[row, ["seed_sd", "p", "p_holm"]].isna().all()


def test_a_row_that_others_are_compared_with_is_compared_itself_once():
    answers = {"f": answered([1, 1, 9], 9), "r": answered([1, 9, 9], 9), "p": answered([9, 9, 9], 9)}
    runs = {"full": {0: "f"}, "RLOO": {0: "r"}, "RLOO, priced": {0: "p"}}
    against = {"full": "full", "RLOO": "full", "RLOO, priced": "RLOO"}
    found = studies.compare_rows(answers, {}, runs, against, 100)
    hits = found[found["measure"] == "hit@5"].set_index("row")
    assert hits["against"].to_dict() == against
    assert hits.loc["RLOO, priced", "difference"] == pytest.approx(-1 / 3)


def test_runs_without_an_opponent_have_no_margins():
    drawn = studies.resample_runs(rankings([1, 9]).assign(run="a"), ["hit@5"], 10)
    assert studies.with_best_baseline(drawn, []) == drawn
    assert list(studies.margins(drawn, "r2ec", ["best_baseline"], ["hit@5"])["b"]) == []


def test_rows_of_other_questions_are_not_compared():
    answers = {"f": answered([1, 2], 9), "w": answered([1, 2, 3], 9)}
    runs = {"full": {0: "f"}, "world": {0: "w"}}
    with pytest.raises(DataError, match="w and f were not asked the same questions"):
        studies.compare_rows(answers, {}, runs, dict.fromkeys(runs, "full"))


def test_a_claim_without_an_interval_is_open():
    assert studies.verdict("higher", np.nan, 2) == "open"
    assert studies.verdict("higher", [0.1, 0.2], 2) == "holds"


def test_a_claim_about_one_training_says_so():
    assert studies.verdict("higher", [0.1, 0.2], 1) == "holds, in one training"


def test_a_band_runs_from_the_lowest_seed_to_the_highest():
    logs = {"a": logged(0.1, np.nan, 0.5), "b": logged(0.3, np.nan, 0.3), "c": logged(0.2, 0.4, 0.6)}
    found = studies.bands(logs, {"one": {0: "a", 1: "b"}, "two": {0: "c"}, "gone": {0: "d"}}, "valid_ndcg@10")
    assert found["step"].tolist() == [1, 2, 3] and "gone" not in found
    assert found["one"].dropna().tolist() == pytest.approx([0.2, 0.4])
    assert found["one_low"].dropna().tolist() == [0.1, 0.3] and found["one_high"].dropna().tolist() == [0.3, 0.5]
    smooth = studies.bands(logs, {"two": {0: "c"}}, "reward", window=3)
    assert smooth["two"].tolist() == pytest.approx([0.3, 0.4, 0.5])


def test_a_band_ends_where_the_first_of_its_seeds_stops():
    logs = {"long": logged(0.1, 0.5, 0.9), "short": logged(0.1, 0.1)}
    found = studies.bands(logs, {"one": {0: "long", 1: "short"}, "two": {0: "long"}}, "valid_ndcg@10")
    assert found["one"].dropna().tolist() == pytest.approx([0.1, 0.3])  # and no jump to 0.9
    assert found["one_high"].dropna().tolist() == [0.1, 0.5] and found["two"].notna().all()


def test_what_learns_alike_but_stops_early_learns_no_later():
    runs = {"full": {0: "f0", 1: "f1"}, "short": {0: "s0", 1: "s1"}}
    answers = {run: answered([1, 9], 9) for of in runs.values() for run in of.values()}
    logs = {run: logged(0.1, 0.2, 0.6, 0.7) for run in ("f0", "f1")} | {run: logged(0.1, 0.2) for run in ("s0", "s1")}
    found = studies.compare_rows(answers, logs, runs, dict.fromkeys(runs, "full"), 50).set_index(["row", "measure"])
    assert found.loc[("short", "learning"), "by_run"] == [0, 0]
    assert found.loc[("short", "learning"), "by_seed"] == pytest.approx([0.15, 0.15])  # its own whole training


def test_two_seeds_cover_less_than_three_and_least_where_a_third_is_run_only_if_they_disagree():
    """The shares of the docstring of `margins`: the true difference is 0, and seeds vary five times as much as
    shoppers (s.e. 0.004)."""
    rng = np.random.default_rng(0)
    shoppers = 0.004 * stats.norm.ppf((np.arange(200) + 0.5) / 200)
    covered = {"two": [], "three": [], "kept at two": []}
    for _ in range(2000):
        seeds = 0.02 * rng.standard_normal(3) + 0.004 * rng.standard_normal()
        for name, count in {"two": 2, "three": 3, "kept at two": 2}.items():
            if name != "kept at two" or abs(seeds[0] - seeds[1]) < 0.025:
                row = studies._over_runs(seeds[:count], [one + shoppers for one in seeds[:count]], 1222)
                covered[name].append(row["ci95"][0] <= 0 <= row["ci95"][1])
    shares = {name: np.mean(values) for name, values in covered.items()}
    assert shares == pytest.approx({"two": 0.87, "three": 0.92, "kept at two": 0.79}, abs=0.03)
