"""From interactions to samples: the time window, histories, the chronological split, and checks for leaks.

The protocol is the paper's (App. B): a window whose start is rolled back until enough items are in it, no k-core
filter, the latest actions of a shopper as history, every action with an earlier one as a sample, all samples in time
order cut 80/10/10. The official code's variant rolls back three months at a time instead of one; its further item
filters concern Amazon's files and are in `sources.read_amazon`.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from r2ec_lib.schema import FUTURE_COLUMNS, SPLITS, DataError, drops_table, validate_samples

STEP_MONTHS = {"paper": 1, "official": 3}
TEXT_CHECK_SAMPLES = 5_000  # the verbatim-title check reads at most so many samples, evenly spaced in time
SHORTEST_TITLE = 6  # characters; a shorter title also stands in a prompt by chance
COUNTS_PURCHASES = 0.8  # rank correlation from which a column is taken for a count of purchases


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
        low = _date(start, "start") if start else times.iloc[0]
        high = _date(end, "end") if end else times.iloc[-1] + pd.Timedelta(1, "ms")
        before_end = times < high
        last_bought = times[before_end].groupby(interactions["item_id"]).max().sort_values()  # one time an item
        step = pd.DateOffset(months=STEP_MONTHS[protocol])
        while (found := len(last_bought) - last_bought.searchsorted(low)) < min_items and low > times.iloc[0]:
            low = low - step
        inside = interactions[before_end & (times >= low)]
        if inside.empty:
            raise DataError(
                f"window {low} to {high}: no interaction; the data run from {times.iloc[0]} to {times.iloc[-1]}."
            )
        dropped = len(interactions) - len(inside)
        drops = [("window", f"outside {low:%Y-%m-%d} to {high:%Y-%m-%d}", dropped, len(inside))]
        if found < min_items:
            drops.append(
                ("window", f"beginning of the data reached with {found} of {min_items} items", 0, len(inside))
            )
        interactions = inside.reset_index(drop=True)
        kept = items["item_id"].isin(interactions["item_id"])
        drops.append(("items", "not bought inside the window", int((~kept).sum()), int(kept.sum())))
        items = items[kept].reset_index(drop=True)
    return items, interactions, drops_table(drops)


def make_samples(
    items: pd.DataFrame,
    interactions: pd.DataFrame,
    *,
    max_history: int = 20,
    mask_seen: bool = True,
    skip_ties: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The (samples, drops) of all actions that have an earlier one, in time order, split 80/10/10.

    A shopper's actions at the same moment keep the order of the log; samples at the same moment are ordered by user,
    then position. DataError where a split would be empty.

    skip_ties: an action at the same moment as the one before is part of the same order and no question, since before
    the order none of its parts was known.
    mask_seen: history items are no candidates at ranking time, so a sample whose target stands in its own history
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
        later = time[chosen] > time[chosen - 1]
        drops.append(("samples", "same moment as the action before: part of one order", int((~later).sum())))
        chosen = chosen[later]
    length = np.minimum(position[chosen], max_history)
    if mask_seen:
        source, offsets = _history_rows(chosen, length)
        hits = np.concatenate([[0], np.cumsum(item[source] == np.repeat(item[chosen], length))])
        fresh = hits[offsets[1:]] == hits[offsets[:-1]]
        drops.append(("samples", "target stands in its own history", int((~fresh).sum())))
        chosen, length = chosen[fresh], length[fresh]
    n = len(chosen)
    train_end, valid_end = n * 8 // 10, n * 9 // 10
    if not 0 < train_end < valid_end < n:
        raise DataError(
            f"{n} samples from {len(interactions)} interactions of {len(users)} users: too few to split 80/10/10. "
            "A sample needs a shopper with two actions; widen the window or bring more data."
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
    return validate_samples(samples, len(items)), table


def summary(items: pd.DataFrame, interactions: pd.DataFrame, samples: pd.DataFrame) -> dict[str, float]:
    """Counts of the finished data set, and the shares of cold targets and of ties in time.

    cold_<split>: share of the split's targets that no training sample shows, as target or in its history.
    ties_with_history: share of samples whose latest history action has the target's own timestamp.
    ties_across_splits: share of samples that have their timestamp in common with a sample of another split.
    """
    by_split = {name: samples[samples["split"] == name] for name in SPLITS}
    train = by_split["train"]
    shown = np.unique(np.concatenate([train["target"].to_numpy(), *train["history"]]))
    splits_at = samples.groupby("timestamp")["split"].transform("nunique")
    latest = np.array([hours[-1] for hours in samples["history_hours"]])
    return {
        "users": int(interactions["user_id"].nunique()),
        "items": len(items),
        "interactions": len(interactions),
        "samples": len(samples),
        **{name: len(part) for name, part in by_split.items()},
        **{f"cold_{name}": float((~part["target"].isin(shown)).mean()) for name, part in by_split.items()},
        "ties_with_history": float((latest == 0).mean()),
        "ties_across_splits": float((splits_at > 1).mean()),
    }


def leak_checks(items: pd.DataFrame, samples: pd.DataFrame, *, mask_seen: bool = True) -> pd.DataFrame:
    """A table (check, ok, detail): one row a way in which the future could reach a prompt or a split another.

    `detail` holds counts and, where a check fails, an example. The last two rows are figures, not faults: how much of
    the catalogue is first seen after training (candidates all the same, so a model that likes what was never bought
    gains), and how often the target's title stands word for word among the history's (an item listed twice, a series).
    """
    first, last = samples.groupby("split")["timestamp"].min(), samples.groupby("split")["timestamp"].max()
    ordered = last["train"] <= first["valid"] and last["valid"] <= first["test"]
    ties = int((samples.groupby("timestamp")["split"].transform("nunique") > 1).sum())

    hours = np.concatenate(samples["history_hours"].to_list())
    lengths = samples["history"].map(len).to_numpy()
    row_of = np.repeat(np.arange(len(samples)), lengths)  # sample of each history action
    later = row_of[hours < 0]
    inside = np.flatnonzero(row_of[1:] == row_of[:-1])
    disordered = row_of[inside[hours[inside + 1] > hours[inside]]]

    keys = ["user_id", "timestamp", "target"]
    in_splits = samples.groupby(keys, sort=False)["split"].transform("nunique").to_numpy()
    own = row_of[np.concatenate(samples["history"].to_list()) == samples["target"].to_numpy()[row_of]]
    future = sorted(FUTURE_COLUMNS & set(items.columns))

    counting = _counting_columns(items, samples)

    rows = [
        ("splits follow each other in time", bool(ordered), f"{ties} samples share a moment with another split"),
        ("history lies before the target", *_verdict(later, samples, f"{int((hours == 0).sum())} at the same moment")),
        ("history runs from old to new", *_verdict(disordered, samples)),
        ("no sample stands in two splits", *_verdict(np.flatnonzero(in_splits > 1), samples)),
        ("no item column sums up the future", not future, ", ".join(future) or "none"),
        ("no item column counts the purchases", not counting, "; ".join(counting) or "none"),
    ]
    if mask_seen:
        rows.append(("target is not in its own history", *_verdict(own, samples)))
    rows.append(("items seen only after training (a figure)", True, _future_items(items, samples)))
    rows.append(("target's title in the history (a figure)", True, f"{_title_share(items, samples):.2%} of samples"))
    return pd.DataFrame(rows, columns=["check", "ok", "detail"])


def prompt_check(
    samples: pd.DataFrame, titles: Sequence[str], prompts: Sequence[str], frame: str = ""
) -> pd.DataFrame:
    """Whether a prompt holds the target's title more often than its history and its own wording explain; one row.

    Args:
        samples: S rows of the samples table.
        titles: N titles, as prompts show them.
        prompts: S texts, as a model reads them.
        frame: a prompt with an empty history, whose wording is no leak.

    Titles shorter than `SHORTEST_TITLE` characters are left out and counted: they stand in a text by chance.
    """
    shown = [title.casefold() for title in titles]
    frame, bad, short = frame.casefold(), [], 0
    for row, (target, history, prompt) in enumerate(zip(samples["target"], samples["history"], prompts, strict=True)):
        if len(shown[target]) < SHORTEST_TITLE:
            short += 1
            continue
        word = re.compile(rf"(?<!\w){re.escape(shown[target])}(?!\w)")
        explained = len(word.findall(frame)) + sum(len(word.findall(shown[item])) for item in history)
        if len(word.findall(prompt.casefold())) > explained:
            bad.append(row)
    verdict = _verdict(np.array(bad, dtype=int), samples, f"none in {len(samples) - short:,} prompts")
    return pd.DataFrame([("target's text is not in the prompt", *verdict)], columns=["check", "ok", "detail"])


def future_check(
    name: str,
    fit: Callable[[pd.DataFrame], Callable[[pd.DataFrame], object]],
    samples: pd.DataFrame,
    questions: pd.DataFrame,
    seed: int = 0,
) -> pd.DataFrame:
    """Whether a method's scores stay as they are when everything after the training part is shuffled; one row.

    Args:
        name: of the method, for the row.
        fit: from a samples table with all its splits to a scorer. A sound method takes the training part out of it.
        samples: all samples.
        questions: rows of the samples table, asked of both fits.

    The targets of validation and test are permuted among themselves, so a method that reads only training rows sees
    the very same table.
    """
    later = np.flatnonzero(samples["split"] != "train")
    targets = samples["target"].to_numpy().copy()
    targets[later] = np.random.default_rng(seed).permutation(targets[later])
    before, after = (
        np.asarray(fit(table)(questions), dtype=float) for table in (samples, samples.assign(target=targets))
    )  # (B, N)
    moved = np.flatnonzero((before != after).any(axis=1))
    verdict = _verdict(moved, questions, f"the same scores for {len(questions):,} questions")
    return pd.DataFrame([(f"{name} does not know the future", *verdict)], columns=["check", "ok", "detail"])


def _verdict(bad_rows: np.ndarray, samples: pd.DataFrame, fine: str = "none") -> tuple[bool, str]:
    if not len(bad_rows):
        return True, fine
    example = samples.iloc[bad_rows[0]]
    return False, f"{len(np.unique(bad_rows))} samples, such as {example['sample_id']} of user {example['user_id']!r}"


def _title_share(items: pd.DataFrame, samples: pd.DataFrame) -> float:
    titles = items["title"].str.casefold().to_numpy(object)
    some = samples.iloc[:: max(1, len(samples) // TEXT_CHECK_SAMPLES)]
    found = [
        titles[target] in "\n".join(titles[history])
        for target, history in zip(some["target"], some["history"], strict=True)
    ]
    return float(np.mean(found))


def _counting_columns(items: pd.DataFrame, samples: pd.DataFrame) -> list[str]:
    """Item columns of numbers that rank the items as the purchases of all splits do, whatever their name."""
    bought = np.bincount(samples["target"], minlength=len(items)).astype(float)
    found = []
    for column in items.columns.drop(["item_id", "title"]):
        numbers = pd.to_numeric(items[column].astype(str).str.replace(",", ""), errors="coerce").reset_index(drop=True)
        if numbers.notna().mean() < 0.5 or numbers.nunique() < 3:
            continue
        likeness = numbers.corr(pd.Series(bought), method="spearman")
        if abs(likeness) >= COUNTS_PURCHASES:
            found.append(f"{column!r} has a rank correlation of {likeness:.2f} with the purchases of all splits")
    return found


def _future_items(items: pd.DataFrame, samples: pd.DataFrame) -> str:
    train = samples[samples["split"] == "train"]
    known = np.unique(np.concatenate([train["target"].to_numpy(), *train["history"]]))
    test = samples.loc[samples["split"] == "test", "target"]
    return f"{1 - len(known) / len(items):.2%} of the catalogue, {(~test.isin(known)).mean():.2%} of the test targets"


def _date(text: str, name: str) -> pd.Timestamp:
    try:
        date = pd.Timestamp(text)
    except ValueError as error:
        raise DataError(f"{name} is {text!r}; expected a date such as 2022-10-01, or nothing.") from error
    return date.tz_localize("UTC") if date.tzinfo is None else date.tz_convert("UTC")


def _history_rows(chosen: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the `length` actions before each row in `chosen`, oldest first, and where each list begins.

    Returns (rows (sum of length,), offsets (len(chosen) + 1,)).
    """
    offsets = np.concatenate([[0], np.cumsum(length)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length)
    return np.repeat(chosen - length, length) + within, offsets


def _lists(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """One NumPy array a row, as an object array."""
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)).to_numpy(zero_copy_only=False)
