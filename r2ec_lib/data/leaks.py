"""Checks that no sample reads the future and no prompt gives its target away."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from r2ec_lib.data.schema import DataError, brief, sums_up_future

SHORTEST_TITLE = 6  # characters; a shorter title also occurs in a prompt by chance
COUNTS_PURCHASES = 0.8  # rank correlation from which a column is taken for a count of purchases
_LEADING = r"^[^\w.+-]*([+-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"  # such as that of "#18,600 in Pens"


def leak_checks(items: pd.DataFrame, samples: pd.DataFrame, *, mask_seen: bool = True) -> pd.DataFrame:
    """A table (check, ok, detail): one row per way in which the future could reach a prompt, or one split another.

    `detail` holds counts and, where a check fails, an example.
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
    repeated = row_of[np.concatenate(samples["history"].to_list()) == samples["target"].to_numpy()[row_of]]
    future = [name for name in items.columns if sums_up_future(name)]

    counting = _counting_columns(items, samples)

    rows = [
        ("splits follow each other in time", bool(ordered), f"{ties} samples share a moment with another split"),
        ("history lies before the target", *_verdict(later, samples, f"{int((hours == 0).sum())} at the same moment")),
        ("history runs from old to new", *_verdict(disordered, samples)),
        ("no sample is in two splits", *_verdict(np.flatnonzero(in_splits > 1), samples)),
        ("no item column sums up the future", not future, ", ".join(future) or "none"),
        ("no item column counts the purchases", not counting, "; ".join(counting) or "none"),
    ]
    if mask_seen:
        rows.append(("target is not in its own history", *_verdict(repeated, samples)))
    return pd.DataFrame(rows, columns=["check", "ok", "detail"])


def prompt_check(
    samples: pd.DataFrame, titles: Sequence[str], prompts: Sequence[str], frame: str = ""
) -> pd.DataFrame:
    """Whether a prompt holds the target's title more often than its history and its own wording explain; one row.

    Args:
        titles: N titles, as prompts show them.
        prompts: S texts, as a model reads them.
        frame: a prompt with an empty history, whose wording is no leak.

    Titles shorter than `SHORTEST_TITLE` characters are left out: they occur in a text by chance.
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


def require(checks: pd.DataFrame) -> None:
    """Raises DataError that names each check of a table of checks that failed, with its detail."""
    failed = checks[~checks["ok"]]
    if len(failed):
        raise DataError("leak check failed: " + "; ".join(failed["check"] + ": " + failed["detail"]))


def _verdict(bad_rows: np.ndarray, samples: pd.DataFrame, fine: str = "none") -> tuple[bool, str]:
    if not len(bad_rows):
        return True, fine
    count, example = len(np.unique(bad_rows)), samples.iloc[bad_rows[0]]
    return False, f"{count} samples, such as {example['sample_id']} of user {brief(example['user_id'])!r}"


def _counting_columns(items: pd.DataFrame, samples: pd.DataFrame) -> list[str]:
    """Item columns whose texts begin with numbers that rank the items as the purchases of all splits do, those that
    only histories show among them."""
    users, lengths = pd.factorize(samples["user_id"])[0].astype(np.int64), samples["history"].map(len)
    shown = [np.repeat(users, lengths) * len(items) + np.concatenate([*samples["history"]])]  # a first purchase, too
    pairs = np.unique(np.concatenate([*shown, users * len(items) + samples["target"]]))
    bought = np.bincount(pairs % len(items), minlength=len(items)).astype(float)  # by how many shoppers
    counting = []
    for column in items.columns.drop(["item_id", "title"]):
        leading = items[column].astype(str).str.extract(_LEADING, expand=False).str.replace(",", "")
        numbers = pd.to_numeric(leading, errors="coerce").reset_index(drop=True)
        if numbers.notna().mean() < 0.5 or numbers.nunique() < 3:
            continue
        likeness = numbers.corr(pd.Series(bought), method="spearman")
        if abs(likeness) >= COUNTS_PURCHASES:
            found = f"{column!r} has a rank correlation of {likeness:.2f} with the purchases of all splits"
            counting.append(f"{found}; remove this column from the items file")
    return counting
