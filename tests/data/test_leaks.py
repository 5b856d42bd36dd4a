"""Leaks that are planted are found; sound samples pass."""

import numpy as np
import pandas as pd
import pytest
from data.helpers import catalogue, random_log

from r2ec_lib.data import leaks, splits
from r2ec_lib.data.purchases import actions
from r2ec_lib.data.schema import DataError


def checked(samples, items=None):
    table = leaks.leak_checks(items if items is not None else catalogue(30), samples)
    return set(table.loc[~table["ok"], "check"])


def test_sound_samples_pass_every_leak_check():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    assert checked(samples) == set()


def test_each_planted_leak_is_found_and_named():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    one = samples["target"].iloc[3]

    planted = samples.copy()
    planted["history"] = [np.append(h[1:], one) if k == 3 else h for k, h in enumerate(samples["history"])]
    assert checked(planted) == {"target is not in its own history"}

    planted = samples.copy()
    planted["history_hours"] = [-1 - h if k == 3 else h for k, h in enumerate(samples["history_hours"])]
    assert "history lies before the target" in checked(planted)

    long = int(np.argmax(samples["history"].map(len)))
    planted["history_hours"] = [h[::-1] if k == long else h for k, h in enumerate(samples["history_hours"])]
    assert checked(planted) == {"history runs from old to new"}

    copied = samples.iloc[[3]].assign(split="test")
    assert "no sample is in two splits" in checked(pd.concat([samples, copied], ignore_index=True))

    shuffled = samples.assign(split=np.random.default_rng(0).permutation(samples["split"]))
    assert "splits follow each other in time" in checked(shuffled)

    assert checked(samples, catalogue(30).assign(average_rating="4.5")) == {"no item column sums up the future"}
    details = leaks.leak_checks(catalogue(30).assign(price="1"), samples).set_index("check")["detail"]
    assert details["no item column sums up the future"] == "price"


def test_a_failing_check_gives_an_example():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    samples["history_hours"] = [-1 - h if k == 3 else h for k, h in enumerate(samples["history_hours"])]
    details = leaks.leak_checks(catalogue(30), samples).set_index("check")["detail"]
    assert details["history lies before the target"].startswith("1 samples, such as 3 of user 'u")


def test_a_column_that_counts_purchases_is_found_under_any_name():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    shoppers = actions(samples).groupby("item")["user_id"].nunique()  # first purchases, too, which are no targets
    bought = shoppers.reindex(range(30), fill_value=0)
    harmless = catalogue(30).assign(width=[str(k % 7) for k in range(30)], brand="Acme")
    assert checked(samples, harmless) == set()
    telling = harmless.assign(shelf_code=[f"{3 * count + 1:,}" for count in bought])
    table = leaks.leak_checks(telling, samples).set_index("check")
    assert not table.loc["no item column counts the purchases", "ok"]
    told = (
        "counts the purchases: 'shelf_code' has a rank correlation of 1.00 .*; remove this column from the items file"
    )
    with pytest.raises(DataError, match=told):
        leaks.require(table.reset_index())


def prompted(samples, titles, extra=None):
    return [
        "Purchases:\n" + "\n".join(titles[i] for i in history) + (f"\n{extra[row]}" if extra else "")
        for row, history in enumerate(samples["history"])
    ]


def test_the_targets_text_in_a_prompt_is_found_with_an_example():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    titles = catalogue(30)["title"].tolist()
    sound = leaks.prompt_check(samples, titles, prompted(samples, titles))
    assert sound["ok"].all()
    hints = ["" if row != 5 else f"soon: {titles[target].upper()}" for row, target in enumerate(samples["target"])]
    caught = leaks.prompt_check(samples, titles, prompted(samples, titles, hints)).iloc[0]
    assert not caught["ok"]
    assert caught["detail"].startswith(f"1 samples, such as {samples['sample_id'].iloc[5]} of user")


def test_words_of_the_prompt_itself_and_of_longer_titles_are_no_leak():
    titles = ["Purchases", "Garden chair", "Garden chair, folding", "Pen"]
    samples = pd.DataFrame({"sample_id": [0, 1, 2], "user_id": "u", "target": [0, 1, 3], "history": [[1], [2], [1]]})
    prompts = prompted(samples, titles, ["", "", "Pen"])
    found = leaks.prompt_check(samples, titles, prompts, frame="Purchases:").iloc[0]
    assert found["ok"]
    assert found["detail"] == "none in 2 prompts"  # "Pen" is too short to tell
    assert not leaks.prompt_check(samples, titles, prompts).iloc[0]["ok"]  # without the frame, its word counts


def test_a_failed_check_stops_with_its_name_and_its_example():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    leaks.require(leaks.leak_checks(catalogue(30), samples))
    planted = leaks.leak_checks(catalogue(30).assign(average_rating="4.5"), samples)
    with pytest.raises(DataError, match="leak check failed: no item column sums up the future: average_rating"):
        leaks.require(planted)


def test_splits_may_share_the_moment_at_which_they_meet():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    assert checked(samples.assign(timestamp=samples["timestamp"].iloc[0])) == set()


def test_purchases_of_the_targets_own_moment_are_counted_and_no_fault():
    samples, _ = splits.make_samples(catalogue(30), random_log(), skip_ties=False)
    same = sum((hours == 0).sum() for hours in samples["history_hours"])
    row = leaks.leak_checks(catalogue(30), samples).set_index("check").loc["history lies before the target"]
    assert same > 0 and (row["ok"], row["detail"]) == (True, f"{same} at the same moment")


@pytest.mark.parametrize("form", ["{:,} in Office Products (", ">#{:,} in Pens (See Top 100)", "{:.1e}", ".{:04d}"])
def test_numbers_with_words_behind_them_count_purchases_too(form):
    samples, _ = splits.make_samples(catalogue(30), random_log())
    places = (-np.bincount(samples["target"], minlength=30)).argsort().argsort()
    items = catalogue(30).assign(place=[form.format(int(300 * place + 5)) for place in places])
    assert checked(samples, items) == {"no item column counts the purchases"}


def test_a_column_with_few_numbers_counts_no_purchases_and_one_with_many_may():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    bought = [str(count) for count in np.bincount(samples["target"], minlength=30)]
    for filled, ok in ((14, True), (15, False), (30, False)):
        items = catalogue(30).assign(shelf=[*bought[:filled], *[""] * (30 - filled)])
        table = leaks.leak_checks(items, samples).set_index("check")
        assert table.loc["no item column counts the purchases", "ok"] == ok
