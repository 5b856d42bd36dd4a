"""Readers: a user's own purchase logs in, the validated `items` and `interactions` tables and a count of drops out.

Columns, times and item texts are read here; files and their rows are the business of `formats`, markup of `texts`,
Amazon's files of `amazon`, time windows and samples of `splits`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from r2ec_lib.data import schema
from r2ec_lib.data.formats import place, read_file
from r2ec_lib.data.schema import RATING_RANGE, TIME, YEARS, DataError, Where, at, brief
from r2ec_lib.data.texts import plain_text

LOG_COLUMNS = {
    "user_id": "user_id",
    "item_id": "item_id",
    "timestamp": "timestamp",
    "rating": "rating",
    "title": "title",
    "catalogue_id": "item_id",  # the item id's name in the items file
}
EPOCH_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
FORMATS = [
    *(day + time for day in ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y") for time in ("", " %H:%M", " %H:%M:%S")),
    "%Y%m%d%H%M%S",
]
"""Formats that an error may propose; any other is read as well when it is named."""
UNKNOWN_SHARE = 0.2  # share of interactions with unknown items above which the ids are probably written in two ways

_NAMELESS = re.compile(r"\s*|Unnamed: \d+|__index_level_\d+__")


def read_logs(
    interactions_path: str | Path,
    items_path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    timestamp_unit: str = "iso",
    rating_range: tuple[float, float] = RATING_RANGE,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The (items, interactions, drops) of the user's own logs, each a file or a folder as `formats.read_file` takes.

    `columns` maps our names (the keys of LOG_COLUMNS) to the file's. `timestamp_unit` as in `parse_time`. Ratings are
    optional. Every further column of the items file becomes item text, except those that `clean_items` leaves out.
    Repeated interactions and those with unknown items are dropped and counted. Raises DataError.
    """
    names = _names(columns)
    for key, path in {"interactions_path": interactions_path, "items_path": items_path}.items():
        if not str(path):  # the notebook's default, which as a path would be the working folder
            raise DataError(f"{key} is empty; expected a file in .csv, .jsonl (also .gz) or .parquet.")
    interactions = _read_interactions(interactions_path, columns, timestamp_unit, rating_range)
    where, raw = place(items_path), read_file(items_path)
    items = clean_items(named_items(raw, columns, where), where)
    further = raw.columns.drop([names["catalogue_id"], names["title"]])
    drops: list[tuple] = [("items", "read", 0, len(items))]
    for name in [name for name in further if name in schema.ITEM_COLUMNS or name not in items]:
        reason = "it may sum up the future" if schema.sums_up_future(name) else "it has no name of its own"
        drops.append(("items", f"column {brief(name)!r} left out: {reason}", 0, len(items)))
    drops.append(("interactions", "read", 0, len(interactions)))
    interactions, repeated = drop_repeated(interactions)
    interactions, unknown_items = drop_unknown(items, interactions, str(interactions_path))
    return items, interactions, schema.drops_table(drops + repeated + unknown_items)


def read_interactions(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    timestamp_unit: str = "iso",
    rating_range: tuple[float, float] = RATING_RANGE,
) -> pd.DataFrame:
    """The interactions of `read_logs`, from the same file with the same arguments; their items are not checked."""
    return drop_repeated(_read_interactions(path, columns, timestamp_unit, rating_range))[0]


def _read_interactions(
    path: str | Path, columns: Mapping[str, str] | None, timestamp_unit: str, rating_range: tuple[float, float]
) -> pd.DataFrame:
    names, where, raw = _names(columns), place(path), read_file(path)
    rated = names["rating"] != "rating" or "rating" in raw
    wanted = ("user_id", "item_id", "timestamp", "rating") if rated else ("user_id", "item_id", "timestamp")
    raw = select_columns(raw, {key: names[key] for key in wanted}, where)
    raw = raw if rated else raw.assign(rating=np.float32("nan"))
    raw["timestamp"] = parse_time(raw["timestamp"], timestamp_unit, where)
    return schema.validate_interactions(raw, where, rating_range)


def named_items(raw: pd.DataFrame, columns: Mapping[str, str] | None, where: Where) -> pd.DataFrame:
    """The user's own items table with item_id and title under our names first, then its further columns.

    `columns` as in `read_logs`; a further column that has one of our names is left out. Raises DataError.
    """
    names = _names(columns)
    named = select_columns(raw, {"item_id": names["catalogue_id"], "title": names["title"]}, where)
    return named.join(raw.drop(columns={names["catalogue_id"], names["title"], *named}, errors="ignore"))


def clean_items(df: pd.DataFrame, where: Where = "items") -> pd.DataFrame:
    """An items table as every stage and model reads it, from one with ids, titles and any further columns.

    All fields become text without markup ("" where missing). Columns that sum up the future (schema.sums_up_future)
    are left out, and columns without a name where they are empty or number the rows, as the index does that a
    spreadsheet or pandas writes along. Raises DataError as `schema.validate_items`, and for other nameless columns.
    """
    schema.check_names(list(df.columns), schema.name_of(where))
    df = schema.counted(df, where)
    left_out = [name for name in df.columns if schema.sums_up_future(name)]
    for position, name in enumerate(df.columns, start=1):
        if not _NAMELESS.fullmatch(str(name)):
            continue
        values = df.iloc[:, position - 1].dropna()
        numbers = schema.to_numbers(values)
        if not (numbers % 1 == 0).all() or not numbers.is_unique:
            raise DataError(
                f"{schema.name_of(where)}: column {position} has no name but holds values such as "
                f"{brief(values.iloc[0])!r}. Name or remove it."
            )
        left_out.append(name)
    items = df.drop(columns=left_out)
    for name in items.columns.drop("item_id", errors="ignore"):
        items[name] = pd.Series([plain_text(value) for value in items[name]], items.index, dtype="str")
    return schema.validate_items(items, where)


def parse_time(values: pd.Series, unit: str, where: Where) -> pd.Series:
    """Times (datetime64[ms, UTC]) from text or numbers; stored times and days pass as they are.

    unit: "iso" (ISO 8601, also with " UTC" at its end, days alone, or days such as 20230131), "s", "ms", "us", "ns"
        (epoch numbers), or a format of `strptime` such as "%d/%m/%Y %H:%M".

    Zones are converted to UTC; text without a zone is taken as UTC. Raises DataError for what is no time in this unit
    and for years outside schema.YEARS, naming the units that would fit.
    """
    times = read_times(values, unit)
    bad = ~times.dt.year.between(*YEARS)
    if bad.any():
        row = bad.index[bad][0]
        rows = f"({int(bad.sum())} such rows)"
        if pd.isna(values[row]):
            raise DataError(f"{at(where, row)}: no timestamp {rows}; expected: every interaction has a time.")
        every = int(bad.sum()) // 1000 + 1  # from all of a log, whose first rows may be of one day
        sample = values[bad].iloc[::every]
        others = [other for other in ("iso", *EPOCH_UNITS, *FORMATS) if other != unit]
        fit = [repr(other) for other in others if read_times(sample, other).dt.year.between(*YEARS).all()]
        if fit:
            advice = f"It would fit timestamp_unit {' or '.join(fit)}"
        elif pd.notna(times[row]):
            advice = f"It means the year {times[row].year}. Expected a year in {YEARS[0]}…{YEARS[1]}"
        else:
            advice = f"Expected {_expected(unit)}. Correct the field, or set timestamp_unit"
        raise DataError(
            f"{at(where, row)}: {brief(values[row])!r} is no plausible time in unit {unit!r} {rows}. {advice}."
        )
    return times.astype(TIME)


def read_times(values: pd.Series, unit: str) -> pd.Series:
    """Times (UTC) as in `parse_time`, of any year; NaT for what is none. DataError for an unknown unit."""
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return pd.to_datetime(values, utc=True)
    if unit in EPOCH_UNITS:
        milliseconds = np.floor(
            (schema.to_numbers(values) * {"s": 1e3, "ms": 1, "us": 1e-3, "ns": 1e-6}[unit]).round(3)
        )
        within = milliseconds.abs() < 2e14  # the year 8307
        times = pd.to_datetime(milliseconds.where(within, 0).astype("int64"), unit="ms", utc=True)
        return times.where(within)
    text = values.astype("str").str.strip()
    text = text.where(~text.str.casefold().isin(["now", "today"]))  # pandas would read the clock
    if unit == "iso":
        text = text.str.replace(r"\s*UTC$", "Z", regex=True)
        dated = text.str.match(r"\d{4}(?:$|\d{4}(?:T|$)|\D)")
        return pd.to_datetime(text.where(dated), format="ISO8601", utc=True, errors="coerce")
    if "%" not in unit:
        raise DataError(
            f"timestamp_unit is {unit!r}; expected 'iso', {', '.join(map(repr, EPOCH_UNITS))}, or a format such as "
            "'%d/%m/%Y %H:%M'."
        )
    try:
        return pd.to_datetime(text, format=unit, utc=True, errors="coerce")
    except ValueError as error:
        raise DataError(f"timestamp_unit is {unit!r}, which is no format of strptime ({error}).") from error


def select_columns(df: pd.DataFrame, names: Mapping[str, str], where: Where) -> pd.DataFrame:
    """The columns `names` (ours: theirs) of `df`, under our names. DataError for a column that is missing."""
    for ours, theirs in names.items():
        if theirs not in df.columns:
            raise DataError(
                f"{schema.name_of(where)}: no column {theirs!r} for {ours}; found "
                f"{', '.join(map(repr, map(brief, df.columns)))}. Correct the file or the column mapping."
            )
    return df[list(names.values())].set_axis(list(names), axis=1)


def drop_repeated(interactions: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple]]:
    """The interactions, each once, and a row for the drops table where a file has some again, perhaps one per unit."""
    keys = ["user_id", "item_id", "timestamp"]
    again = interactions.duplicated(keys)
    if not again.any():
        return interactions, []
    kept, example = interactions[~again].reset_index(drop=True), interactions.loc[again, keys].iloc[0]
    row = ("interactions", "same user, item and time as one before", int(again.sum()), len(kept))
    return kept, [(*row, ", ".join(map(brief, example)))]


def drop_unknown(items: pd.DataFrame, interactions: pd.DataFrame, path: str) -> tuple[pd.DataFrame, list[tuple]]:
    """The interactions with items of the catalogue, and a row for the drops table.

    Prints a note where more than UNKNOWN_SHARE go. DataError where none is left.
    """
    known = interactions["item_id"].isin(items["item_id"])
    kept, unknown = interactions[known].reset_index(drop=True), interactions["item_id"][~known]
    example = f"item_id {brief(unknown.iloc[0])!r}" if len(unknown) else ""
    alike = unknown.str.lstrip("0").isin(items["item_id"].str.lstrip("0")).sum()
    both = f"for example {example}; the catalogue has {brief(items['item_id'].iloc[0])!r}"
    advice = "Write the ids alike in both files"
    advice += f"; without leading zeros, {alike:,} would match." if alike else "."
    if kept.empty:
        raise DataError(f"{path}: no interaction belongs to an item of the catalogue ({both}). {advice}")
    if len(unknown) > UNKNOWN_SHARE * len(interactions):
        share = f"{len(unknown):,} of {len(interactions):,} interactions"
        print(f"{path}: {share} are dropped, since the items table lacks their items ({both}). {advice}")
    return kept, [("interactions", "of an item that is not in the items table", len(unknown), len(kept), example)]


def _names(columns: Mapping[str, str] | None) -> dict[str, str]:
    names = LOG_COLUMNS | dict(columns or {})
    if unknown := set(names) - set(LOG_COLUMNS):
        raise DataError(f"column mapping: {sorted(unknown)} not known; possible are {', '.join(LOG_COLUMNS)}.")
    return names


def _expected(unit: str) -> str:
    if unit in EPOCH_UNITS:
        return f"{EPOCH_UNITS[unit]} since 1970"
    moment = pd.Timestamp("2023-01-31 15:00:54")
    return f"times such as {moment.isoformat() if unit == 'iso' else moment.strftime(unit)}"
