"""Windows, histories and splits against a plain-Python reading; leaks that are planted are found."""

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.data import leaks, splits
from r2ec_lib.data.schema import DataError, validate_interactions


def catalogue(n):
    return pd.DataFrame({"item_id": [f"i{k}" for k in range(n)], "title": [f"Title {k}" for k in range(n)]})


def log(users, item_codes, hours):
    """A validated log; `hours` after the first of January 2020."""
    times = pd.Timestamp("2020-01-01", tz="UTC") + pd.to_timedelta(hours, unit="h")
    ratings = [1 + code % 5 for code in item_codes]
    items = [f"i{code}" for code in item_codes]
    return validate_interactions(
        pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times, "rating": ratings})
    )


def random_log(n=400, num_users=40, num_items=30, seed=0):
    rng = np.random.default_rng(seed)
    users = [f"u{k}" for k in rng.integers(0, num_users, n)]
    return log(users, rng.integers(0, num_items, n), rng.integers(0, 300, n))  # many ties in time


def by_hand(interactions, max_history, mask_seen, skip_ties):
    """(user, time, target, history, hours, ratings) of every sample, in plain Python."""
    found = []
    for user, actions in interactions.groupby("user_id"):
        rows = list(zip(actions["item_id"], actions["timestamp"], actions["rating"], strict=True))
        for position in range(1, len(rows)):
            item, time, _ = rows[position]
            past = rows[max(0, position - max_history) : position]
            if mask_seen and item in [p[0] for p in past]:
                continue
            if skip_ties and past[-1][1] == time:
                continue
            hours = [(time - p[1]).total_seconds() / 3600 for p in past]
            found.append(
                (time, user, position, int(item[1:]), [int(p[0][1:]) for p in past], hours, [p[2] for p in past])
            )
    return sorted(found)


@pytest.mark.parametrize("skip_ties", [True, False])
@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("max_history", [1, 3, 20])
def test_samples_equal_a_plain_reading_of_the_protocol(max_history, mask_seen, skip_ties):
    interactions = random_log()
    choices = {"max_history": max_history, "mask_seen": mask_seen, "skip_ties": skip_ties}
    samples, _ = splits.make_samples(catalogue(30), interactions, **choices)
    expected = by_hand(interactions, max_history, mask_seen, skip_ties)
    assert len(samples) == len(expected)
    for row, (time, user, _, target, history, hours, ratings) in zip(samples.itertuples(), expected, strict=True):
        assert (row.timestamp, row.user_id, row.target) == (time, user, target)
        assert row.history.tolist() == history
        assert row.history_hours.tolist() == pytest.approx(hours)
        assert row.history_ratings.tolist() == ratings


def test_the_split_cuts_the_published_counts():
    # Table 5 of the paper: 13,435 samples of CDs are 10,748 / 1,343 / 1,344
    n = 13_435
    interactions = log(["u"] * (n + 1), range(n + 1), range(n + 1))
    samples, _ = splits.make_samples(catalogue(n + 1), interactions)
    assert samples["split"].value_counts().to_dict() == {"train": 10_748, "valid": 1_343, "test": 1_344}
    assert samples["timestamp"].is_monotonic_increasing


def test_a_target_in_its_own_history_is_dropped_and_counted():
    interactions = log(["u"] * 40, [*range(38), 37, 5], range(40))
    samples, drops = splits.make_samples(catalogue(38), interactions, max_history=20)
    assert len(samples) == 38  # 39 positions, the repeat of item 37 out, item 5 is 34 actions back and stays
    assert samples["target"].iloc[-1] == 5
    assert drops["dropped"].tolist() == [1, 0, 1] and drops["remaining"].tolist() == [39, 39, 38]


def test_shuffling_the_future_changes_no_training_sample():
    interactions = random_log(seed=1)
    samples, _ = splits.make_samples(catalogue(30), interactions, mask_seen=False)
    train = samples[samples["split"] == "train"]
    future = interactions["timestamp"] > train["timestamp"].iloc[-1]
    altered = interactions.copy()
    altered.loc[future, "item_id"] = interactions.loc[future, "item_id"].to_numpy()[::-1]
    again, _ = splits.make_samples(catalogue(30), altered, mask_seen=False)
    pd.testing.assert_frame_equal(again[: len(train)], train)


def test_too_few_samples_to_split_is_an_error():
    with pytest.raises(DataError, match=r"3 samples from 4 interactions of 1 users: too few to split"):
        splits.make_samples(catalogue(4), log(["u"] * 4, range(4), range(4)))
    with pytest.raises(DataError, match="0 samples"):
        splits.make_samples(catalogue(4), log(list("abcd"), range(4), range(4)))


def monthly():
    """Three items a month through 2020, one shopper."""
    starts = pd.date_range("2020-01-01", "2020-12-01", freq="MS")
    hours = [(day - starts[0]) / pd.Timedelta(1, "h") + k for day in starts for k in range(3)]
    return catalogue(36), log(["u"] * 36, range(36), hours)


@pytest.mark.parametrize(("protocol", "first_month", "count"), [("paper", 8, 15), ("official", 7, 18)])
def test_the_window_rolls_back_until_there_are_enough_items(protocol, first_month, count):
    items, interactions = monthly()
    settings = {"protocol": protocol, "start": "2020-10-01", "end": "2021-01-01", "min_items": 13}
    kept, inside, drops = splits.select_window(items, interactions, **settings)
    assert inside["timestamp"].iloc[0] == pd.Timestamp(f"2020-{first_month:02d}-01", tz="UTC")
    assert len(kept) == count and len(inside) == count
    assert drops["dropped"].tolist() == [36 - count, 36 - count]


def test_the_start_is_inside_the_window_and_the_end_outside():
    items, interactions = monthly()
    _, inside, _ = splits.select_window(items, interactions, start="2020-03-01", end="2020-05-01")
    assert inside["item_id"].tolist() == [f"i{k}" for k in range(6, 12)]


def test_a_window_that_reaches_the_beginning_says_so_and_goes_on():
    items, interactions = monthly()
    kept, inside, drops = splits.select_window(items, interactions, start="2020-10-01", min_items=1000)
    assert len(kept) == len(inside) == 36
    assert "beginning of the data reached with 36 of 1000 items" in drops["reason"].tolist()


def test_without_a_window_items_that_nobody_bought_stay_candidates():
    items, _ = monthly()
    interactions = log(["u", "u"], [3, 4], [0, 1])
    kept, inside, _ = splits.select_window(items, interactions)
    assert len(kept) == 36 and len(inside) == 2
    kept, _, _ = splits.select_window(items, interactions, start="2020-01-01")
    assert kept["item_id"].tolist() == ["i3", "i4"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "2030-01-01"}, "no interaction; the data run from 2020-01-01"),
        ({"start": "yesterdayish"}, "start is 'yesterdayish'; expected a date"),
        ({"end": "2019-01-01"}, "no interaction"),
        ({"protocol": "mine"}, "protocol is 'mine'; expected one of paper, official"),
    ],
)
def test_a_wrong_window_is_an_error(settings, message):
    with pytest.raises(DataError, match=message):
        splits.select_window(*monthly(), **settings)


def test_the_summary_counts_cold_targets_and_ties():
    interactions = log(["u"] * 22, [*range(21), 0], [*range(19), 19, 19, 20])
    samples, _ = splits.make_samples(catalogue(21), interactions, max_history=3, skip_ties=False)  # 16 / 2 / 3
    figures = splits.summary(catalogue(21), interactions, samples)
    assert (figures["users"], figures["items"], figures["interactions"], figures["samples"]) == (1, 21, 22, 21)
    assert (figures["train"], figures["valid"], figures["test"]) == (16, 2, 3)
    assert figures["cold_test"] == pytest.approx(2 / 3)  # items 19 and 20 are new, item 0 is not
    assert figures["ties_with_history"] == pytest.approx(1 / 21)
    assert figures["ties_across_splits"] == 0


def test_training_purchases_end_with_the_training_split_and_stay_in_the_catalogue():
    hours = range(24)
    interactions = log(["a", "b"] * 12, [*range(20), *range(4)], hours)
    samples, _ = splits.make_samples(catalogue(20), interactions)
    last = samples.loc[samples["split"] == "train", "timestamp"].max()
    purchases = splits.training_purchases(interactions, samples, catalogue(10))
    expected = [(row.user_id, int(row.item_id[1:])) for row in interactions.itertuples() if row.timestamp <= last]
    assert list(zip(purchases["user_id"], purchases["item"], strict=True)) == [
        (user, item) for user, item in expected if item < 10
    ]
    assert len(purchases) < len(interactions[interactions["item_id"].str[1:].astype(int) < 10])


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
    assert "no sample stands in two splits" in checked(pd.concat([samples, copied], ignore_index=True))

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


def test_the_title_figure_is_reported_and_is_no_fault():
    items = catalogue(30).assign(title="The same title")
    samples, _ = splits.make_samples(items, random_log())
    table = leaks.leak_checks(items, samples)
    assert table["ok"].all()
    assert table["detail"].iloc[-1] == "100.00% of samples"


def test_a_column_that_counts_purchases_is_found_under_any_name():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    bought = np.bincount(samples["target"], minlength=30)
    harmless = catalogue(30).assign(width=[str(k % 7) for k in range(30)], brand="Acme")
    assert checked(samples, harmless) == set()
    telling = harmless.assign(shelf_code=[f"{3 * count + 1:,}" for count in bought])
    table = leaks.leak_checks(telling, samples).set_index("check")
    assert not table.loc["no item column counts the purchases", "ok"]
    assert table.loc["no item column counts the purchases", "detail"].startswith("'shelf_code' has a rank correlation")


def test_what_is_first_seen_after_training_is_a_figure():
    samples, _ = splits.make_samples(catalogue(40), random_log())  # ten items that nobody buys
    table = leaks.leak_checks(catalogue(40), samples).set_index("check")
    assert table.loc["items seen only after training (a figure)", "ok"]
    assert table.loc["items seen only after training (a figure)", "detail"].startswith(
        "25.00% of the catalogue, 0.00%"
    )


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


def test_a_method_that_reads_the_future_is_caught_and_one_that_does_not_is_left_alone():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    counts = lambda table: lambda asked: np.tile(np.bincount(table["target"], minlength=30) / 9, (len(asked), 1))  # noqa: E731
    on_train = lambda table: counts(table[table["split"] == "train"])  # noqa: E731
    next_item = lambda table: lambda asked: np.eye(30)[table.set_index("sample_id")["target"].loc[asked["sample_id"]]]  # noqa: E731
    asked = samples[samples["split"] == "test"]
    assert leaks.future_check("sound", on_train, samples, asked)["ok"].item()
    caught = leaks.future_check("peeking", next_item, samples, asked).iloc[0]
    assert (caught["check"], caught["ok"]) == ("peeking does not know the future", False)
    assert "such as" in caught["detail"]
