"""Column names and types of the tables that every stage shares, and the checks that they keep them.

Reading files is the business of `readers`; here a table comes in and the same table, typed and checked, goes out.

items         item_id, title, further text columns; row order is the catalogue order, "item index" the row number
interactions  user_id, item_id, timestamp, rating; sorted by timestamp, then user_id
samples       sample_id, user_id, split, timestamp, target, history, history_hours, history_ratings; sorted by time
drops         step, reason, dropped, remaining, example
"""

import re
from collections.abc import Callable, Hashable, Sequence
from numbers import Integral
from typing import Any, Final

import numpy as np
import pandas as pd

ITEM_COLUMNS = ["item_id", "title"]
INTERACTION_COLUMNS = ["user_id", "item_id", "timestamp", "rating"]
DROP_COLUMNS = ["step", "reason", "dropped", "remaining", "example"]
SPLITS = ["train", "valid", "test"]
TIME: Final = "datetime64[ms, UTC]"
YEARS = (1990, 2100)  # a timestamp outside is a wrong unit or a broken field
RATING_RANGE = (1.0, 5.0)  # the scale where a recipe names no other

# Summaries over the whole corpus: they hold the future of every sample, so no item table carries them. Most are known
# by the English words of their names (see `sums_up_future`); these are the others, and what is true of today alone.
# Under another name none is known.
FUTURE_COLUMNS = frozenset(
    {
        *("price", "rank", "also_buy", "also_view", "related"),  # the last four in Amazon's files until 2018
        *("view_count", "play_count", "like_count", "favorite_count", "buy_count"),
        *("sale_price", "current_price", "discounted_price", "stock", "in_stock", "inventory", "availability"),
    }
)
CROWD_WORDS = frozenset(
    "rating ratings review reviews star stars vote votes upvotes downvotes score scores likes favorites favourites "
    "popularity sales salesrank sold bought purchase purchases purchased orders download downloads installs plays "
    "playcount views viewed click clicks bestseller bestsellers".split()
)
"""What shoppers think and do, of which a column may hold the sum."""
COUNTING_WORDS = frozenset(
    "n nr no num number of count counts total sum units quantity volume avg average mean median overall weighted rank "
    "text helpful positive negative user users customer customers work item product book amazon goodreads imdb also "
    "together frequently after who this is in last past time per day days week weeks month months year years".split()
)
"""What may stand beside them without making another thing of them."""

Where = str | Callable[[int | None], str]  # a file's name, or: row number from 0 -> "file, line 7", None -> "file"

_BETWEEN_WORDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z\d])|(?<=\d)(?=[A-Za-z])|(?<=[A-Z])(?=[A-Z][a-z])")


class DataError(ValueError):
    """A fault in the data that a user can mend: what was found, where, what was expected, what to do."""


def brief(value: Any) -> str:
    """A value of a file as text for a message or an example: without its middle where it has more than 80 signs.

    >>> brief("harp"), len(brief("harp" * 1000))
    ('harp', 80)
    """
    text = str(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-19:]}"


def at(where: Where, row: int) -> str:
    """'file, line 7' where `where` can tell lines, else 'file, row 6' (rows counted from 1)."""
    return where(row) if callable(where) else f"{where}, row {row + 1}"


def name_of(where: Where) -> str:
    """The file's name alone."""
    return where(None) if callable(where) else where


def counted(df: pd.DataFrame, where: Where) -> pd.DataFrame:
    """The table with row numbers as `at` takes them. A file's rows have them; a user's own table has any index."""
    return df if callable(where) else df.reset_index(drop=True)


def sums_up_future(name: Hashable) -> bool:
    """Whether a column or field sums up the whole corpus by its English name, however it is spelt.

    It does if it is one of FUTURE_COLUMNS, or if all its words, numbers aside, are CROWD_WORDS or COUNTING_WORDS and
    at least one is a crowd word. Any other word makes it an attribute of the item: an age rating, a sales package.

    >>> sums_up_future("Best Sellers Rank"), sums_up_future("averageRating"), sums_up_future("brand")
    (True, True, False)
    >>> sums_up_future("text_reviews_count"), sums_up_future("5 stars"), sums_up_future("age_rating")
    (True, True, False)
    """
    joined = "_".join(word.casefold() for word in _BETWEEN_WORDS.split(str(name)) if word)
    if joined in FUTURE_COLUMNS:
        return True
    words = joined.replace("best_seller", "bestseller").split("_")
    telling = {word for word in words if not word.isdecimal()}
    return bool(telling & CROWD_WORDS) and telling <= CROWD_WORDS | COUNTING_WORDS


def check_names(names: Sequence[Hashable], where: str) -> None:
    """Raises DataError where a column name is repeated."""
    for first, name in enumerate(names):
        if name in names[first + 1 :]:
            second = names.index(name, first + 1) + 1
            raise DataError(
                f"{where}: columns {first + 1} and {second} are both called {brief(name)!r}. Rename or remove one."
            )


def check_rating_range(low: float, high: float) -> tuple[float, float]:
    """The scale of ratings as (smallest, largest). Raises DataError unless both are finite and `low` < `high`."""
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DataError(f"rating_min is {low:g}, rating_max {high:g}; expected two numbers, the smaller one first.")
    return float(low), float(high)


def to_numbers(values: pd.Series) -> pd.Series:
    """Numbers (NaN where a value is none); a decimal comma is read as a point."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values
    text = values.astype("str")
    return pd.to_numeric(text.str.replace(r"^([+-]?\d+),(\d+)$", r"\1.\2", regex=True), errors="coerce")


def whole_number(value: Any, name: str, least: int) -> int:
    """`value`, an integer of Python or NumPy. Raises DataError for anything else, or below `least`."""
    if not isinstance(value, Integral) or value < least:
        raise DataError(f"{name} is {value!r}; expected a whole number, {least} or more.")
    return int(value)


def shows_nothing(texts: pd.Series) -> pd.Series:
    """Whether a text, which is none of the missing ones, holds no sign that can be seen."""
    return ~texts.map(lambda text: any(sign.isprintable() and sign != " " for sign in text)).astype(bool)


def to_ids(values: pd.Series, where: Where) -> pd.Series:
    """Ids as text without blanks around them, whole numbers without a decimal point.

    Raises DataError for a missing id, a list or mapping, or a float too large to be exact.
    """
    if values.dtype == object:
        nested = values.map(lambda value: isinstance(value, (list, tuple, dict, set, np.ndarray)))
        _none(nested.astype(bool), where, f"a list or a mapping as {values.name}", "a text or a number")
    if pd.api.types.is_float_dtype(values.dtype):
        bits = np.finfo(values.dropna().to_numpy().dtype).nmant + 1  # 53, or 24 in single precision
        inexact = f"{values.name} is a float of 2**{bits} or more, where such floats skip whole numbers"
        _none(values.abs() >= 2**bits, where, inexact, "ids written as integers or text")
        if (values.dropna() % 1 == 0).all():
            values = values.astype("Int64")
    text = values.astype("str").str.strip()
    _none(values.isna() | (text == ""), where, f"no {values.name}", "every row needs one")
    return text


def validate_items(df: pd.DataFrame, where: Where = "items") -> pd.DataFrame:
    """Checks ids and titles; returns text columns ("" where missing) in their order, index 0…N-1.

    Raises DataError for a missing column, an empty table, an empty or repeated item_id, a title that shows nothing.
    """
    _require(df, ITEM_COLUMNS, where)
    df = df[ITEM_COLUMNS + [name for name in df.columns if name not in ITEM_COLUMNS]]
    df = df.astype("str").where(df.notna(), "").assign(item_id=to_ids(df["item_id"], where))
    _none(shows_nothing(df["title"]), where, "no title", "every item needs one")
    repeated = df["item_id"].duplicated()
    if repeated.any():
        row, ids = df.index[repeated][0], df["item_id"][repeated].unique()
        first = df.index[df["item_id"] == ids[0]][0]
        shown = ", ".join(repr(brief(name)) for name in ids[:3]) + (", …" if len(ids) > 3 else "")
        raise DataError(
            f"{at(where, row)}: item_id {brief(ids[0])!r} is already at {at(where, first)} ({int(repeated.sum())} "
            f"such rows, of the ids {shown}). Keep one row of each item and remove the others."
        )
    return df.reset_index(drop=True)


def validate_interactions(
    df: pd.DataFrame, where: Where = "interactions", rating_range: tuple[float, float] = RATING_RANGE
) -> pd.DataFrame:
    """Checks and types the four columns; returns them sorted by timestamp, then user_id (stable).

    `timestamp` must hold times already (`readers` reads the units). `rating` lies in `rating_range` or is NaN.
    Raises DataError for a missing column, an empty table, an empty id, no time, a year outside YEARS, a bad rating.
    """
    low, high = check_rating_range(*rating_range)
    df = counted(df, where)
    _require(df, INTERACTION_COLUMNS, where)
    ids = {column: to_ids(df[column], where) for column in ("user_id", "item_id")}
    if not isinstance(df["timestamp"].dtype, pd.DatetimeTZDtype):
        raise DataError(f"{name_of(where)}: timestamp has type {df['timestamp'].dtype}, expected times with UTC zone.")
    _none(df["timestamp"].isna(), where, "no timestamp", "every interaction needs a time")
    years = df["timestamp"].dt.year
    _none(~years.between(*YEARS), where, f"a timestamp outside {YEARS[0]}…{YEARS[1]}", "check the unit")
    rating = to_numbers(df["rating"]).astype("float32")
    _none(rating.isna() & df["rating"].notna(), where, "a rating that is no number", "ratings are numbers or empty")
    outside = rating.notna() & ~rating.between(low, high)
    if outside.any():
        row = df.index[outside][0]
        raise DataError(
            f"{at(where, row)}: rating {rating[row]:g} is outside {low:g}…{high:g} ({int(outside.sum())} such rows). "
            "Correct the ratings or the rating range."
        )
    df = pd.DataFrame({**ids, "timestamp": df["timestamp"].astype(TIME), "rating": rating})
    order = np.lexsort((pd.factorize(df["user_id"], sort=True)[0], df["timestamp"].to_numpy("datetime64[ms]")))
    return df.iloc[order].reset_index(drop=True)


def drops_table(rows: Sequence[tuple]) -> pd.DataFrame:
    """The `drops` table from (step, reason, dropped, remaining) tuples, each perhaps with an example at its end."""
    return pd.DataFrame([(*row, "")[: len(DROP_COLUMNS)] for row in rows], columns=DROP_COLUMNS).astype(
        {"step": "str", "reason": "str", "dropped": "int64", "remaining": "int64", "example": "str"}
    )


def _require(df: pd.DataFrame, columns: list[str], where: Where) -> None:
    check_names(list(df.columns), name_of(where))
    missing = [name for name in columns if name not in df.columns]
    if missing:
        raise DataError(
            f"{name_of(where)}: no column {', '.join(map(repr, missing))}; found {', '.join(map(brief, df.columns))}. "
            "Rename your columns, or name them in the recipe (column_…)."
        )
    if df.empty:
        raise DataError(f"{name_of(where)}: the table has no rows.")


def _none(bad: pd.Series, where: Where, found: str, expected: str) -> None:
    """Raises DataError with the first row where `bad` is true."""
    if bad.any():
        rows = f"({int(bad.sum())} such rows)"
        raise DataError(f"{at(where, bad.index[bad][0])}: {found} {rows}; expected: {expected}.")
