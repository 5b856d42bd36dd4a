"""Windows, histories and splits against a plain-Python reading."""

import pandas as pd
import pytest
from data.helpers import catalogue, log, random_log

from r2ec_lib.data import splits
from r2ec_lib.data.schema import DataError


def by_hand(interactions, max_history, mask_seen, skip_ties, order_seconds=0):
    """(user, time, target, history, hours, ratings) of every sample, in plain Python."""
    found = []
    for user, actions in interactions.groupby("user_id"):
        rows = list(zip(actions["item_id"], actions["timestamp"], actions["rating"], strict=True))
        for position in range(1, len(rows)):
            item, time, _ = rows[position]
            past = rows[max(0, position - max_history) : position]
            if mask_seen and item in [p[0] for p in past]:
                continue
            if skip_ties and (time - past[-1][1]).total_seconds() <= order_seconds:
                continue
            hours = [(time - p[1]).total_seconds() / 3600 for p in past]
            found.append(
                (time, user, position, int(item[1:]), [int(p[0][1:]) for p in past], hours, [p[2] for p in past])
            )
    return sorted(found)


@pytest.mark.parametrize(("skip_ties", "order_seconds"), [(True, 0), (True, 2 * 3600), (False, 0)])
@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("max_history", [1, 3, 20])
def test_samples_equal_a_plain_reading_of_the_protocol(max_history, mask_seen, skip_ties, order_seconds):
    interactions = random_log()
    choices = {"mask_seen": mask_seen, "skip_ties": skip_ties, "order_seconds": order_seconds}
    samples, _ = splits.make_samples(catalogue(30), interactions, max_history=max_history, **choices)
    expected = by_hand(interactions, max_history, **choices)
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


def test_ties_are_named_where_they_leave_too_few_samples():
    with pytest.raises(DataError, match=r"1 first action of a shopper.*; 38 same moment as the action before.*ties"):
        splits.make_samples(catalogue(39), log(["u"] * 39, range(39), [0] * 39))


TIMES = [k + k * k % 11 / 20 for k in range(100)]  # hours; no two gaps in a row are alike


def feasible(num_items=30, users=None, **choices):
    users = users or [f"u{k % 5}" for k in range(100)]
    samples, _ = splits.make_samples(
        catalogue(30), log(users, [k // 5 % 29 for k in range(100)], TIMES), max_history=7
    )
    return splits.check_feasible(catalogue(num_items), samples, **{"batch_users": 8} | choices)


def test_data_that_are_enough_leave_no_note():
    assert feasible() == feasible(27) == feasible(20, mask_seen=False) == []


@pytest.mark.parametrize(
    ("num_items", "choices", "message"),
    [
        (30, {"batch_users": 77}, r"76 training samples do not fill a step of batch_users=77; lower it to 76"),
        (26, {}, r"26 items leave 19 candidates beside a history of 7, fewer than the top 20.*lower max_history to 6"),
        (
            15,
            {"batch_users": 100},
            r"76 training samples .*bring more data; 15 items leave 8 candidates .*ranking; bring 27 items",
        ),
        (20, {}, r"20 items leave 13 candidates .*ranking; bring 27 items"),
        (21, {}, r"21 items leave 14 candidates .*ranking; lower max_history to 1, or bring 27"),
        (19, {"mask_seen": False}, r"19 items leave 19 candidates .*ranking; bring 20 items"),
    ],
)
def test_what_would_stop_a_later_stage_is_known_at_once(num_items, choices, message):
    with pytest.raises(DataError, match=message):
        feasible(num_items, **choices)
    assert feasible(batch_users=76) == []


def test_a_split_with_one_shopper_is_noted():
    notes = feasible(users=["u"] * 100, mask_seen=False)
    assert [note.split(",")[0] for note in notes] == [
        f"The {name} split has one shopper" for name in ("valid", "test")
    ]


def test_an_id_that_has_a_large_part_of_many_shoppers_samples_is_noted():
    users = ["guest" if k % 3 == 0 else f"u{k % 250:03d}" for k in range(1000)]
    samples, _ = splits.make_samples(
        catalogue(999), log(users, [k % 997 for k in range(1000)], [k + k * k % 11 / 20 for k in range(1000)])
    )
    [note] = splits.check_feasible(catalogue(999), samples, batch_users=8)
    assert note.startswith("Shopper 'guest' has 44% of the samples. If the id stands for many people")
    others = splits.check_feasible(catalogue(999), samples[samples["user_id"] != "guest"], batch_users=8)
    assert not [note for note in others if note.startswith("Shopper")]


def test_lines_of_orders_that_are_seconds_apart_are_noted_though_no_two_gaps_are_alike():
    users = [f"u{k // 2 % 7}" for k in range(100)]
    hours = [1000 * (k // 2) + k // 2 * (k // 2) % 13 + k % 2 * (k % 41 + 2) / 3600 for k in range(100)]
    samples, _ = splits.make_samples(catalogue(30), log(users, [k % 29 for k in range(100)], hours), max_history=3)
    [note] = splits.check_feasible(catalogue(30), samples, batch_users=8)
    assert note.startswith("54% of the targets were bought within 1 minute of the purchase before. If these are lines")
    assert "set order_seconds to 60 or more" in note


def test_a_log_of_few_different_times_is_noted():
    users, items = [f"u{k % 50:02d}" for k in range(200)], [k // 50 for k in range(200)]
    samples, _ = splits.make_samples(catalogue(30), log(users, items, [3.5 * item**2 for item in items]))
    notes = splits.check_feasible(catalogue(30), samples, batch_users=8)
    assert notes[0].startswith("33% of the samples have the same time as one of another split")
    assert notes[1].startswith("33% of the targets were bought exactly ")


def test_times_and_ratings_that_say_nothing_are_noted():
    users, items = [f"u{k % 5}" for k in range(100)], [k // 5 % 29 for k in range(100)]
    samples, _ = splits.make_samples(catalogue(30), log(users, items, TIMES).assign(rating=5.0), max_history=7)
    note = "Every rating is 5, so ratings say nothing here."
    assert splits.check_feasible(catalogue(30), samples, batch_users=8) == [note]
    samples["history_ratings"] = [ratings * float("nan") for ratings in samples["history_ratings"]]
    assert splits.check_feasible(catalogue(30), samples, batch_users=8) == []  # there are none
    daily = log(users, items, [24 * (k // 5) + k % 5 / 7 for k in range(100)])
    samples, _ = splits.make_samples(catalogue(30), daily, max_history=7)
    [note] = splits.check_feasible(catalogue(30), samples, batch_users=8)
    assert note.startswith("100% of the targets were bought exactly 24 hours after the purchase before. Such times")
    assert splits.summary(catalogue(30), daily, samples)["soon_test"] == 0
    days, _ = splits.make_samples(catalogue(30), log(users, items, [24 * (k // 5) for k in range(100)]), max_history=7)
    assert not [one for one in splits.check_feasible(catalogue(30), days, batch_users=8) if "made up" in one]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (1, "exactly 1 second after the purchase before. If these are lines of one order, set order_seconds to 1 or"),
        (
            60,
            "exactly 1 minute after the purchase before. If these are lines of one order, set order_seconds to 60 or",
        ),
        (61, "exactly 61 seconds after the purchase before. Such times are probably made up"),
        (5400, "exactly 90 minutes after the purchase before. Such times are probably made up"),
        (432_000, "exactly 120 hours after the purchase before. Such times are probably made up"),
    ],
)
def test_purchases_equally_far_apart_are_noted_with_their_distance_and_what_to_do(seconds, told):
    users = [f"u{k // 2 % 7}" for k in range(100)]
    hours = [1000 * (k // 2) + k // 2 * (k // 2) % 13 + k % 2 * seconds / 3600 for k in range(100)]
    samples, _ = splits.make_samples(catalogue(30), log(users, [k % 29 for k in range(100)], hours), max_history=3)
    [note] = splits.check_feasible(catalogue(30), samples, batch_users=8)
    assert note.startswith(f"54% of the targets were bought {told}")


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


def test_the_sides_of_the_window_may_have_a_time_and_a_zone():
    moments = log(["u", "v", "w"], [0, 1, 2], [0, 1, 2])
    first, second = moments["timestamp"].iloc[0], moments["timestamp"].iloc[1]
    zoned = first.tz_convert("+05:30").isoformat()
    _, inside, _ = splits.select_window(catalogue(3), moments, start=zoned, end=second.isoformat())
    assert inside["user_id"].tolist() == ["u"]


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
        ({"start": "01/10/2022"}, "start is '01/10/2022'; expected a date such as 2022-10-01"),
        ({"end": "now"}, "end is 'now'; expected a date"),
        ({"end": "10"}, "end is '10'; expected a date"),
        ({"start": "NaT"}, "start is 'NaT'; expected a date"),
        ({"end": "2019-01-01"}, "no interaction"),
        ({"start": "2020-03-01", "end": "2020-02-01"}, "the window ends .2020-02-01. no later than it begins"),
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


@pytest.mark.parametrize(("max_history", "mask_seen"), [(1, True), (3, True), (3, False), (20, True)])
def test_the_summary_counts_targets_that_were_bought_before_the_history_that_is_shown(max_history, mask_seen):
    interactions = random_log().drop_duplicates(["user_id", "item_id", "timestamp"], ignore_index=True)
    samples, _ = splits.make_samples(catalogue(30), interactions, max_history=max_history, mask_seen=mask_seen)
    earlier = []
    for row in samples.itertuples():
        own = interactions[interactions["user_id"].eq(row.user_id) & (interactions["timestamp"] < row.timestamp)]
        earlier.append(f"i{row.target}" in set(own["item_id"]) and row.target not in row.history)
    share = splits.summary(catalogue(30), interactions, samples)["bought_earlier"]
    assert share == pytest.approx(sum(earlier) / len(samples)) and (share > 0) == (max_history < 20)


def test_a_draw_of_the_test_questions_keeps_their_order_and_is_the_same_every_time():
    samples, _ = splits.make_samples(catalogue(30), random_log())
    test = samples[samples["split"] == "test"]
    drawn = splits.test_questions(samples, 7)
    assert len(drawn) == 7 and drawn.index.is_monotonic_increasing and drawn.index.isin(test.index).all()
    assert drawn.index.equals(splits.test_questions(samples, 7).index)
    assert splits.test_questions(samples).equals(test) and splits.test_questions(samples, 10**6).equals(test)


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


def test_targets_of_validation_and_test_at_the_moment_of_the_last_training_sample_are_no_training_purchases():
    interactions = log(["a", "b"] * 12, range(24), [0, 0, *[1] * 22])  # 22 samples at one moment, in all three splits
    samples, _ = splits.make_samples(catalogue(24), interactions, skip_ties=False)
    targets = samples.groupby("split")["target"].agg(set)
    purchases = splits.training_purchases(interactions, samples, catalogue(24))
    assert set(purchases["item"]) == {0, 1} | targets["train"]  # 0 and 1 are first actions, targets of no sample
    same_items = interactions.assign(user_id="c")
    assert len(splits.training_purchases(same_items, samples, catalogue(24))) == 24  # another shopper's are left


def test_an_interaction_with_an_unknown_item_is_named():
    with pytest.raises(DataError, match="item_id 'i9' is not in the items"):
        splits.make_samples(catalogue(9), log(["u"] * 3, [0, 9, 1], range(3)))


def test_the_paper_rolls_back_month_by_month():
    items, interactions = monthly()
    _, inside, _ = splits.select_window(items, interactions, start="2020-10-01", min_items=10)
    assert inside["timestamp"].iloc[0] == pd.Timestamp("2020-09-01", tz="UTC")


def test_a_window_without_a_start_begins_with_the_first_purchase():
    _, inside, _ = splits.select_window(*monthly(), end="2020-02-01")
    assert inside["item_id"].tolist() == ["i0", "i1", "i2"]
