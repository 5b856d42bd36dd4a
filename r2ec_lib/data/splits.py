"""From interactions to samples: the time window, histories, and the chronological split.

The protocol is the paper's (App. B): a window whose start is rolled back until enough items are in it, no k-core
filter, the latest actions of a shopper as history, every action with an earlier one as a sample, all samples in time
order cut 80/10/10. The official code's variant rolls back three months at a time instead of one; its further item
filters concern Amazon's files and are in `amazon.read_amazon`.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from r2ec_lib.data.readers import read_times
from r2ec_lib.data.schema import SPLITS, DataError, brief, drops_table

STEP_MONTHS = {"paper": 1, "official": 3}
RANKED = 20  # items of the longest ranking that is evaluated
TIED_SHARE = 0.05  # share of samples with the time of one of another split above which a note says so
REGULAR_SHARE = 0.2  # share of targets that come equally long after the purchase before above which a note says so
ONE_ORDER = 60  # seconds up to which purchases equally far apart are probably lines of one order
SOON = 1.0  # hours between two purchases that are of one sitting
LARGE_SHARE = 0.05  # share of the samples of one shopper of many above which a note says so


def select_window(
    items: pd.DataFrame,
    interactions: pd.DataFrame,
    *,
    protocol: str = "paper",
    start: str = "",
    end: str = "",
    min_items: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The (items, interactions, drops) inside start ≤ time < end; "" leaves that side open.

    While fewer than `min_items` items are bought inside, the start goes back by one month ("paper") or three
    ("official"), at most to the first action; a row of `drops` says so where even that is not enough. With a window,
    the catalogue is what was bought in it; without one it stays as it came, unbought items included. DataError for a
    date that is none, an unknown protocol, or an empty window.
    """
    if protocol not in STEP_MONTHS:
        raise DataError(f"protocol is {protocol!r}; expected one of {', '.join(STEP_MONTHS)}.")
    drops = [("window", "no window set: everything is kept", 0, len(interactions))]
    if start or end:
        times = interactions["timestamp"]
        low, high = window_ends(start, end)
        low, high = low or times.iloc[0], high or times.iloc[-1] + pd.Timedelta(1, "ms")
        before_end = times < high
        last_bought = times[before_end].groupby(interactions["item_id"]).max().sort_values()  # one time an item
        step = pd.DateOffset(months=STEP_MONTHS[protocol])
        while (count := len(last_bought) - last_bought.searchsorted(low)) < min_items and low > times.iloc[0]:
            low = low - step
        inside = interactions[before_end & (times >= low)]
        if inside.empty:
            raise DataError(
                f"window {low} to {high}: no interaction; the data run from {times.iloc[0]} to {times.iloc[-1]}."
            )
        dropped = len(interactions) - len(inside)
        drops = [("window", f"outside {low:%Y-%m-%d} to {high:%Y-%m-%d}", dropped, len(inside))]
        if count < min_items:
            drops.append(
                ("window", f"beginning of the data reached with {count} of {min_items} items", 0, len(inside))
            )
        interactions = inside.reset_index(drop=True)
        kept = items["item_id"].isin(interactions["item_id"])
        drops.append(("items", "not bought inside the window", int((~kept).sum()), int(kept.sum())))
        items = items[kept].reset_index(drop=True)
    return items, interactions, drops_table(drops)


def window_ends(start: str, end: str) -> tuple[pd.Timestamp | None, pd.Timestamp | None]:
    """The two ends of a time window, None for one that is open. DataError for a date that is none, or none after the
    start."""
    low, high = (_date(text, name) if text else None for text, name in ((start, "start"), (end, "end")))
    if low and high and not low < high:
        raise DataError(f"the window ends ({end}) no later than it begins ({start}). Correct start or end.")
    return low, high


def make_samples(
    items: pd.DataFrame,
    interactions: pd.DataFrame,
    *,
    max_history: int = 20,
    mask_seen: bool = True,
    skip_ties: bool = True,
    order_seconds: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The (samples, drops) of all actions that have an earlier one, in time order, split 80/10/10.

    A shopper's actions at the same moment keep the order of the log; samples at the same moment are ordered by user,
    then position. DataError where a split would be empty.

    skip_ties: an action at the same moment as the one before, or at most `order_seconds` later, is part of the same
    order and no question, since before the order none of its parts was known.
    mask_seen: history items are no candidates at ranking time, so a sample whose target is in its own history
    could be won by nobody: it is dropped and counted.
    """
    user_code, users = pd.factorize(interactions["user_id"], sort=True)
    item_code = pd.Index(items["item_id"]).get_indexer(interactions["item_id"]).astype(np.int32)
    if (item_code < 0).any():
        raise DataError(
            f"interactions: item_id {interactions['item_id'][item_code < 0].iloc[0]!r} is not in the items."
        )
    order = np.argsort(user_code, kind="stable")  # by user, then time: interactions are in time order
    user, item = user_code[order], item_code[order]
    time = interactions["timestamp"].to_numpy("datetime64[ms]")[order]
    rating = interactions["rating"].to_numpy(np.float32)[order]
    position = np.arange(len(user)) - np.searchsorted(user, user)  # 0 for a user's first action

    drops = [("samples", "first action of a shopper: nothing to go by", int((position == 0).sum()))]
    chosen = np.flatnonzero(position > 0)
    chosen = chosen[np.lexsort((position[chosen], user[chosen], time[chosen]))]
    if skip_ties:
        later = time[chosen] > time[chosen - 1] + np.timedelta64(order_seconds, "s")
        same = f"at most {order_seconds:,} s after" if order_seconds else "same moment as"
        drops.append(("samples", f"{same} the action before: part of one order", int((~later).sum())))
        chosen = chosen[later]
    length = np.minimum(position[chosen], max_history)
    if mask_seen:
        source, offsets = _history_rows(chosen, length)
        hits = np.concatenate([[0], np.cumsum(item[source] == np.repeat(item[chosen], length))])
        fresh = hits[offsets[1:]] == hits[offsets[:-1]]
        drops.append(("samples", "target is in its own history", int((~fresh).sum())))
        chosen, length = chosen[fresh], length[fresh]
    n = len(chosen)
    train_end, valid_end = n * 8 // 10, n * 9 // 10
    if not 0 < train_end < valid_end < n:
        lost = "; ".join(f"{count} {reason}" for _, reason, count in drops if count)
        raise DataError(
            f"{n} samples from {len(interactions)} interactions of {len(users)} users: too few to split 80/10/10. "
            f"What was dropped: {lost}. Widen the window or bring more data; where the times are ties, finer times."
        )
    source, offsets = _history_rows(chosen, length)
    hours = (np.repeat(time[chosen], length) - time[source]) / np.timedelta64(1, "h")
    samples = pd.DataFrame(
        {
            "sample_id": np.arange(n, dtype=np.int64),
            "user_id": users.take(user[chosen]),
            "split": np.repeat(SPLITS, [train_end, valid_end - train_end, n - valid_end]),
            "timestamp": pd.DatetimeIndex(time[chosen]).tz_localize("UTC"),
            "target": item[chosen],
            "history": _lists(item[source], offsets),
            "history_hours": _lists(hours.astype(np.float32), offsets),
            "history_ratings": _lists(rating[source], offsets),
        }
    )
    remaining = len(user) - np.cumsum([dropped for *_, dropped in drops])
    table = drops_table([(*row, rest) for row, rest in zip(drops, remaining, strict=True)])
    return samples.astype({"user_id": "str", "split": "str"}), table


def check_feasible(
    items: pd.DataFrame,
    samples: pd.DataFrame,
    *,
    batch_users: int,
    mask_seen: bool = True,
) -> list[str]:
    """What later stages cannot do with these data, one sentence each; DataError for what would stop them.

    They would be stopped by fewer training samples than the `batch_users` of a step, and by a catalogue with fewer
    than RANKED candidates once the items of the longest history are out.
    """
    train, longest = int((samples["split"] == "train").sum()), int(samples["history"].map(len).max())
    masked = longest if mask_seen else 0
    candidates = len(items) - masked
    faults = []
    if train < batch_users:
        faults.append(
            f"{train} training samples do not fill a step of batch_users={batch_users}; lower it to {train}, or bring "
            "more data"
        )
    if candidates < RANKED:
        room = len(items) - RANKED  # for a history
        shorter = f"lower max_history to {room}, or " if mask_seen and room > 0 else ""
        faults.append(
            f"{len(items)} items leave {candidates} candidates beside a history of {longest}, fewer than the top "
            f"{RANKED} of a ranking; {shorter}bring {RANKED + masked} items or more"
        )
    if faults:
        raise DataError("; ".join(faults) + ".")
    users = samples.groupby("split")["user_id"].nunique()
    notes = [
        f"The {name} split has one shopper, so its intervals and tests say nothing of other shoppers."
        for name in ("valid", "test")
        if users.get(name, 0) < 2
    ]
    by_user = samples["user_id"].value_counts()
    if by_user.iloc[0] > max(LARGE_SHARE, 10 / len(by_user)) * len(samples):
        notes.append(
            f"Shopper {brief(by_user.index[0])!r} has {by_user.iloc[0] / len(samples):.0%} of the samples. If the id "
            "stands for many people, as one for guests does, take its rows out of the log."
        )
    if (share := _tied(samples)) > TIED_SHARE:
        notes.append(
            f"{share:.0%} of the samples have the same time as one of another split, so there it is not time that "
            "divides training from test, but the shopper's id. Bring finer times, or a longer period."
        )
    gaps = (pd.Series(_last_hours(samples)) * 3600).round().replace(0, np.nan)
    gap, count = next(iter(gaps.value_counts().items()), (0.0, 0))
    timed = (
        samples["timestamp"] != samples["timestamp"].dt.normalize()
    ).any()  # days alone are often equally far apart
    if timed and count > REGULAR_SHARE * len(samples):
        advice = (
            "Such times are probably made up; whatever is said of time then holds for the order of purchases alone."
        )
        if gap <= ONE_ORDER:
            advice = (
                f"If these are lines of one order, set order_seconds to {gap:g} or more: then they are no questions."
            )
        regular = f"{count / len(samples):.0%} of the targets were bought exactly {_duration(gap)} after"
        notes.append(f"{regular} the purchase before. {advice}")
    elif (share := (gaps <= ONE_ORDER).mean()) > REGULAR_SHARE:
        notes.append(
            f"{share:.0%} of the targets were bought within {_duration(ONE_ORDER)} of the purchase before. If these "
            f"are lines of one order, set order_seconds to {ONE_ORDER} or more: then they are no questions."
        )
    ratings = np.concatenate(samples["history_ratings"].to_list())
    if (given := ratings[~np.isnan(ratings)]).size and (given == given[0]).all():
        notes.append(f"Every rating is {given[0]:g}, so ratings say nothing here.")
    return notes


def summary(items: pd.DataFrame, interactions: pd.DataFrame, samples: pd.DataFrame) -> dict[str, float]:
    """Counts of the finished data set, and the shares of cold targets, of those bought earlier and of ties in time.

    cold_<split>: share of the split's targets that no training sample shows, as target or in its history.
    soon_<split>: share of the split's targets that follow the purchase before within SOON hours.
    bought_earlier: share of samples whose target the shopper had bought already, before what the history shows.
    ties_with_history: share of samples whose latest history action has the target's own timestamp.
    ties_across_splits: share of samples that have their timestamp in common with a sample of another split.
    """
    by_split = {name: samples[samples["split"] == name] for name in SPLITS}
    train = by_split["train"]
    shown = np.unique(np.concatenate([train["target"].to_numpy(), *train["history"]]))
    latest = _last_hours(samples)
    soon = pd.Series(latest <= SOON).groupby(samples["split"].to_numpy()).mean()
    first = interactions.drop_duplicates(["user_id", "item_id"]).set_index(["user_id", "item_id"])["timestamp"]
    targets = pd.MultiIndex.from_arrays([samples["user_id"], items["item_id"].to_numpy()[samples["target"]]])
    again = (first.reindex(targets).array < samples["timestamp"].array).astype(bool)
    in_history = [target in history for target, history in zip(samples["target"], samples["history"], strict=True)]
    return {
        "users": int(interactions["user_id"].nunique()),
        "items": len(items),
        "interactions": len(interactions),
        "samples": len(samples),
        **{name: len(part) for name, part in by_split.items()},
        **{f"cold_{name}": float((~part["target"].isin(shown)).mean()) for name, part in by_split.items()},
        **{f"soon_{name}": float(soon[name]) for name in SPLITS},
        "bought_earlier": float((again & ~np.array(in_history)).mean()),
        "ties_with_history": float((latest == 0).mean()),
        "ties_across_splits": _tied(samples),
    }


def _last_hours(samples: pd.DataFrame) -> np.ndarray:
    """(S,) hours from the purchase before to the target."""
    return np.array([hours[-1] for hours in samples["history_hours"]], dtype=float)


def _duration(seconds: float) -> str:
    units = {"hour": 3600, "minute": 60, "second": 1}
    unit = next(unit for unit, size in units.items() if not seconds % size)
    return f"{seconds / units[unit]:,.0f} {unit}{'s' * (seconds != units[unit])}"


def _tied(samples: pd.DataFrame) -> float:
    return float((samples.groupby("timestamp")["split"].transform("nunique") > 1).mean())


def test_questions(samples: pd.DataFrame, count: int = 0) -> pd.DataFrame:
    """The test samples, or `count` of them drawn at random, the same for every seed of a run; 0 for all."""
    test = samples[samples["split"] == "test"]
    return test.sample(min(count or len(test), len(test)), random_state=0).sort_index()


def training_purchases(interactions: pd.DataFrame, samples: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Interactions up to the last training sample, with `item` (index); what training could count, and no more.

    Left out are items outside the catalogue, and targets of validation and test at the last training sample's moment.
    """
    train = samples["split"] == "train"
    purchases = interactions[interactions["timestamp"] <= samples.loc[train, "timestamp"].max()]
    purchases = purchases.assign(item=pd.Index(items["item_id"]).get_indexer(purchases["item_id"]))
    held_out = pd.MultiIndex.from_frame(samples.loc[~train, ["user_id", "timestamp", "target"]])
    asked = pd.MultiIndex.from_frame(purchases[["user_id", "timestamp", "item"]]).isin(held_out)
    return purchases[(purchases["item"] >= 0) & ~asked]


def _date(text: str, name: str) -> pd.Timestamp:
    date = read_times(pd.Series([text]), "iso")[0]
    if pd.isna(date):
        raise DataError(f"{name} is {text!r}; expected a date such as 2022-10-01, or nothing.")
    return date


def _history_rows(chosen: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (sum of length,) of the `length` actions before each row in `chosen`, oldest first, and offsets
    (len(chosen) + 1,), where each list begins."""
    offsets = np.concatenate([[0], np.cumsum(length)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length)
    return np.repeat(chosen - length, length) + within, offsets


def _lists(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """One NumPy array per row, as an object array."""
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)).to_numpy(zero_copy_only=False)
