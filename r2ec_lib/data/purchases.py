"""Purchases between forms: histories given by hand, or those of a log → the history columns of a samples table,
checked as strictly as a log; and a samples table → the purchases that it shows.

The item texts that go with them are cleaned by `readers.clean_items`; what is recommended is the model's business.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from r2ec_lib.data.schema import (
    RATING_RANGE,
    DataError,
    check_rating_range,
    to_ids,
    validate_interactions,
    whole_number,
)
from r2ec_lib.data.texts import plain_text

SAME_ACTION = pd.Timedelta(minutes=1)
"""Times of one action, computed back from hours stored as float32, differ by less than this."""
LISTS = (list, tuple, np.ndarray, pd.Series, pd.Index, pd.api.extensions.ExtensionArray)
"""What may hold the item ids of a history, or histories."""


def is_one(history: Any) -> bool:
    """Whether these are the item ids of one history, and not a list or a table of histories.

    >>> is_one(["a", "b"]), is_one([["a", "b"]]), is_one([])
    (True, False, True)
    """
    many = isinstance(history, LISTS) and len(history) and isinstance(next(iter(history)), LISTS)
    return not (many or isinstance(history, pd.DataFrame))


def histories_table(interactions: pd.DataFrame, at: pd.Timestamp | None = None) -> pd.DataFrame:
    """The histories in an interactions table: one row per shopper, in the order of their first rows.

    Args:
        at: the moment from which hours are counted back; that of the latest interaction where left out.

    Returns:
        Index: user_id. item_ids, hours and ratings, each a NumPy array per shopper, in the order of the table.
    """
    owners, users = pd.factorize(interactions["user_id"])
    order, ends = np.argsort(owners, kind="stable"), np.bincount(owners, minlength=len(users)).cumsum()
    past = (interactions["timestamp"].max() if at is None else at) - interactions["timestamp"]
    columns = {
        "item_ids": interactions["item_id"].to_numpy(object),
        "hours": (past / pd.Timedelta(hours=1)).to_numpy(np.float32),
        "ratings": interactions["rating"].to_numpy(np.float32),
    }
    split = {name: np.split(values[order], ends)[:-1] for name, values in columns.items()}
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in split.items()}).set_index(users)


def shown_purchases(
    history: Sequence[Any] | pd.DataFrame,
    hours: Sequence[Any] | None = None,
    ratings: Sequence[Any] | None = None,
    latest: Sequence[int] | None = None,
    *,
    item_index: Mapping[str, int],
    max_history: int,
    rating_range: tuple[float, float] = RATING_RANGE,
) -> pd.DataFrame:
    """One history, many, or a table of interactions as the history columns of a samples table, cut to what a model
    reads; and `owned`, the items of each history before the cut.

    Args:
        history, hours, ratings, latest: as in `R2ec.recommend`.
        item_index: row of each item id in the catalogue.
        rating_range: smallest and largest rating.

    Raises:
        DataError: naming the history (counted from 1) and the value that is wrong.
    """
    low, high = check_rating_range(*rating_range)
    if isinstance(history, pd.DataFrame):
        if hours is not None or ratings is not None:
            raise DataError("a table of interactions has its own times and ratings; leave out hours and ratings.")
        table = validate_interactions(history, rating_range=rating_range)
        listed = histories_table(table).loc[to_ids(history["user_id"], "interactions").unique()]
        history, hours, ratings = (listed[name] for name in ("item_ids", "hours", "ratings"))
    elif is_one(history):
        history, hours, ratings = [history], *(None if one is None else [one] for one in (hours, ratings))
    for name, lists in {"hours": hours, "ratings": ratings}.items():
        _sequence([] if lists is None else lists, name, "one list per history")
        if lists is not None and len(lists) != len(history):
            raise DataError(f"{name}: {len(lists)} lists for {len(history)} histories; expected one per history.")
    hours, ratings = (None if lists is None else list(lists) for lists in (hours, ratings))
    found = []
    for number, ids in enumerate(history):
        name = f"history {number + 1}"
        keys = catalogue_ids(ids, name, item_index)
        if not keys:
            raise DataError(f"{name} is empty; a recommendation needs at least one purchase.")
        ages = _numbers(hours, number, f"hours of {name}", [24.0 * back for back in range(len(keys), 0, -1)])
        if not (np.isfinite(ages) & (ages >= 0)).all() or (np.diff(ages) > 0).any():
            raise DataError(f"hours of {name} are {ages.tolist()}; expected hours ago, oldest first, none below 0.")
        stars = _numbers(ratings, number, f"ratings of {name}", [float("nan")] * len(keys))
        if not (np.isnan(stars) | ((stars >= low) & (stars <= high))).all():
            raise DataError(f"ratings of {name} are {stars.tolist()}; expected {low:g}…{high:g}, or None.")
        found.append((np.array([item_index[key] for key in keys], np.int32), ages, stars))
    rows = pd.DataFrame(found, columns=["history", "history_hours", "history_ratings"])
    if not isinstance(latest, (*LISTS, type(None))):
        raise DataError(f"latest: found {latest!r}; expected one number per history.")
    if latest is not None and len(latest) != len(rows):
        raise DataError(f"latest: {len(latest)} numbers for {len(rows)} histories; expected one per history.")
    most = [max_history] * len(rows) if latest is None else latest
    sizes = [min(whole_number(size, "latest", 1), max_history) for size in most]
    read = {name: [facts[-size:] for facts, size in zip(rows[name], sizes, strict=True)] for name in rows}
    return pd.DataFrame(read).assign(owned=rows["history"])


def catalogue_ids(ids: Any, name: str, item_index: Mapping[str, int]) -> list[str]:
    """Item ids, texts or numbers, as the catalogue has them: text, whole numbers without a decimal point.

    Raises DataError, which calls them `name`, for anything but a list, and for an id that the catalogue lacks.
    """
    _sequence(ids, name, "a list of item ids")
    keys = [plain_text(item) if isinstance(item, (float, np.floating)) else str(item) for item in ids]
    if missing := [key for key in keys if key not in item_index]:
        raise DataError(f"{name} holds {missing[0]!r}, which is not in the catalogue. Add it with add_items.")
    return keys


def actions(samples: pd.DataFrame) -> pd.DataFrame:
    """The purchases that a samples table shows, each once, however many histories repeat it.

    Returns:
        user_id, item, timestamp; by user and time. Both targets and history items count. Times so close that float32
        may have exchanged them, those of one moment included, stand in the order in which the samples show them. An
        item bought again within SAME_ACTION is one purchase and stands where the nearest history has it last.
    """
    samples = samples.sort_values("timestamp", kind="stable")
    lengths = samples["history"].map(len).to_numpy()
    hours = np.concatenate(samples["history_hours"].to_list()).astype(float)
    moments = samples["timestamp"].to_numpy("datetime64[ms]")
    past = np.repeat(moments, lengths) - (hours * 3_600_000).round().astype("timedelta64[ms]")
    step = np.spacing(hours.astype(np.float32)).astype(float)  # from one float32 to the next
    error = np.ceil(step / 2 * 3_600_000 + 0.5).astype("timedelta64[ms]")  # of the hours, and of rounding `past`
    number = np.repeat(np.arange(len(samples)), lengths)
    users = samples["user_id"].to_numpy(object)
    shown = pd.DataFrame(
        {
            "user_id": np.concatenate([users[number], users]),
            "item": np.concatenate([*samples["history"], samples["target"]]).astype(np.int64),
            "timestamp": np.concatenate([past, moments]),
            "earliest": np.concatenate([past - error, moments]),
            "latest": np.concatenate([past + error, moments]),
            "hours": np.concatenate([hours, np.zeros(len(samples))]),
            "asked": np.repeat([False, True], [len(hours), len(samples)]),
            # sample after sample, each one's target behind its history
            "place": np.concatenate([np.arange(len(hours)) + number, (lengths + 1).cumsum() - 1]),
        }
    ).sort_values(["user_id", "item", "timestamp"], kind="stable")
    same = shown.groupby(["user_id", "item"])["timestamp"].diff() <= SAME_ACTION
    shown["action"] = (~same).cumsum()
    shown = shown.sort_values("hours", kind="stable")
    exact = shown.drop_duplicates("action").set_index("action")["timestamp"]  # the nearest view is the most precise
    # the nearest view as history tells the order: an earlier purchase has it in an earlier sample or before the other
    found = shown.sort_values("asked", kind="stable").drop_duplicates("action")
    found = found.sort_values(["user_id", "earliest"], kind="stable")
    before = found.groupby("user_id")["latest"].cummax().groupby(found["user_id"]).shift()
    found["moment"] = (~(found["earliest"] <= before)).cumsum()
    found = found.sort_values(["moment", "place"], kind="stable", ignore_index=True)
    return found.assign(timestamp=found["action"].map(exact))[["user_id", "item", "timestamp"]]


def _sequence(values: Any, name: str, expected: str) -> None:
    if not isinstance(values, LISTS):
        raise DataError(f"{name}: found {values!r}; expected {expected}.")


def _numbers(lists: Sequence[Any] | None, number: int, name: str, default: list[float]) -> np.ndarray:
    """The list that goes with a history as float32, NaN where it holds None."""
    if lists is None:
        return np.array(default, np.float32)
    values = lists[number]
    _sequence(values, name, "one number per purchase")
    if len(values) != len(default):
        raise DataError(f"{name}: {len(values)} values for {len(default)} purchases; expected one per purchase.")
    try:
        return np.array([np.nan if value is None or value is pd.NA else float(value) for value in values], np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: {list(values)!r} are not all numbers ({error}).") from error
