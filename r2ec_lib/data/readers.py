"""Readers: a user's own purchase logs in, the validated `items` and `interactions` tables and a count of drops out.

Columns, times and item texts are read here; files and their rows are the business of `formats`, markup of `texts`,
Amazon's files of `amazon`, time windows and samples of `splits`.
"""

import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    "quantity": "",  # none: every row is a purchase
}
REMOVED = "removed"
"""The column of an items file, in any case, that tells `r2ec items` which items go; it never becomes text."""
EPOCH_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
FORMATS = [
    *(day + time for day in ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y") for time in ("", " %H:%M", " %H:%M:%S")),
    "%Y%m%d%H%M%S",
]
"""Formats that an error may propose; any other is read as well when it is named."""
UNKNOWN_SHARE = 0.2  # share of interactions with unknown items above which a note says so
ALIKE_SHARE = 0.2  # share of known items from which ids are written alike, and rows of the others are missing

_NAMELESS = re.compile(r"\s*|Unnamed: \d+|__index_level_\d+__")
_MAPPING = re.compile(r"\s*(?:\[\s*)?\{")  # how a text begins that shows a mapping, or a list of them


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
    Items without a title, returns with what they take back (`drop_returned`), repeated interactions and those with
    unknown or dropped items are dropped and counted. Raises DataError, also where no item has a title.
    """
    names = _names(columns)
    interactions, returned = _read_interactions(interactions_path, columns, timestamp_unit, rating_range)
    where, raw = place(items_path), read_file(items_path)
    named = named_items(raw, columns, where)
    untitled = schema.shows_nothing(named["title"].map(plain_text))
    if untitled.all() and len(raw):
        raise DataError(
            f"{items_path}: no item has a title in the column {brief(names['title'])!r}. Set column_title to the one "
            "that holds the titles."
        )
    keys: Counter[str] = Counter()
    items = clean_items(named[~untitled], where, keys)
    further = raw.columns.drop([names["catalogue_id"], names["title"]])
    drops: list[tuple] = [("items", "read", 0, len(raw))]
    if untitled.any():
        example = f"item_id {brief(named['item_id'][untitled].iloc[0])!r}"
        drops.append(("items", "without a title", int(untitled.sum()), len(items), example))
    for name in [name for name in further if name in schema.ITEM_COLUMNS or name not in items]:
        reason = "it has no name of its own"
        if schema.sums_up_future(name):
            reason = "it may sum up the future; one known before the first purchase is kept under another name"
        elif marks_removed(name):
            reason = "training takes all items; `r2ec items` removes some from the trained model"
        drops.append(("items", f"column {brief(name)!r} left out: {reason}", 0, len(items)))
    drops += key_drops(keys, len(items))
    interactions, repeated = drop_repeated(interactions)
    lacking = named["item_id"][untitled].dropna().astype("str").str.strip()
    interactions, unknown_items = drop_unknown(items, interactions, str(interactions_path), lacking)
    return items, interactions, schema.drops_table(drops + returned + repeated + unknown_items)


def read_interactions(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    timestamp_unit: str = "iso",
    rating_range: tuple[float, float] = RATING_RANGE,
) -> pd.DataFrame:
    """The interactions of `read_logs`, from the same file with the same arguments; their items are not checked."""
    return drop_repeated(_read_interactions(path, columns, timestamp_unit, rating_range)[0])[0]


def _read_interactions(
    path: str | Path, columns: Mapping[str, str] | None, timestamp_unit: str, rating_range: tuple[float, float]
) -> tuple[pd.DataFrame, list[tuple]]:
    names, where, given = _names(columns), place(path), read_file(path)
    rated = names["rating"] != "rating" or "rating" in given
    wanted = ["user_id", "item_id", "timestamp"] + (["rating"] if rated else [])
    wanted += ["quantity"] if names["quantity"] else []
    raw = select_columns(given, {key: names[key] for key in wanted}, where)
    raw = raw if rated else raw.assign(rating=np.float32("nan"))
    raw["timestamp"] = parse_time(raw["timestamp"], timestamp_unit, where)
    name, late = schema.name_of(where), raw["timestamp"] > pd.Timestamp.now(tz="UTC") + pd.Timedelta(1, "D")
    if late.any():
        told = (
            f"{name}: {int(late.sum()):,} of {len(raw):,} times lie in the future, the last {raw['timestamp'].max()}."
        )
        print(f"{told} If such a date stands for none, remove its rows: they would count as the latest.")
    returns = (schema.to_numbers(given["quantity"]) <= 0).sum() if "quantity" in given and not names["quantity"] else 0
    if returns:
        told = f"{name}: {returns:,} rows have a quantity of 0 or less and count as purchases."
        print(f"{told} If they are returns, set column_quantity to quantity.")
    drops: list[tuple] = [("interactions", "read", 0, len(raw))]
    if "quantity" in raw:
        raw, returned = drop_returned(raw, where)
        drops += returned
    return schema.validate_interactions(raw, where, rating_range), drops


def named_items(raw: pd.DataFrame, columns: Mapping[str, str] | None, where: Where) -> pd.DataFrame:
    """The user's own items table with item_id and title under our names first, then its further columns.

    `columns` as in `read_logs`; a further column that has one of our names is left out. Raises DataError.
    """
    names = _names(columns)
    advice = "Correct the file, or set column_catalogue_id and column_title to the names that it has."
    named = select_columns(raw, {"item_id": names["catalogue_id"], "title": names["title"]}, where, advice)
    return named.join(raw.drop(columns={names["catalogue_id"], names["title"], *named}, errors="ignore"))


def clean_items(df: pd.DataFrame, where: Where = "items", keys: Counter[str] | None = None) -> pd.DataFrame:
    """An items table as every stage and model reads it, from one with ids, titles and any further columns.

    All fields become text without markup ("" where missing). Columns that sum up the future (schema.sums_up_future)
    and `REMOVED` are left out, and columns without a name where they are empty or number the rows, as the index does
    that a spreadsheet or pandas writes along; so are keys inside a field (`without_future`). Raises DataError as
    `schema.validate_items`, and for other nameless columns.
    """
    schema.check_names(list(df.columns), schema.name_of(where))
    df = schema.counted(df, where)
    keys = Counter() if keys is None else keys
    left_out = [name for name in df.columns if schema.sums_up_future(name) or marks_removed(name)]
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
        texts = [plain_text(without_future(value, keys)) for value in items[name]]
        items[name] = pd.Series(texts, items.index, dtype="str")
    return schema.validate_items(items, where)


def without_future(value: Any, keys: Counter[str]) -> Any:
    """A field without the keys that sum up the future (schema.sums_up_future), at any depth; `keys` counts them.

    A text that shows a mapping, or a list of them, as JSON or Python writes it, is read as one.
    """
    if isinstance(value, str) and _MAPPING.match(value):
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                if isinstance(found := read(value.strip()), (dict, list)):
                    return without_future(found, keys)
    if isinstance(value, list) and value and all(isinstance(one, tuple) and len(one) == 2 for one in value):
        value = dict(value)  # a map of Parquet
    if isinstance(value, Mapping):
        kept = {key: without_future(part, keys) for key, part in value.items() if not schema.sums_up_future(key)}
        keys.update(str(key) for key in value if key not in kept)
        return kept
    if isinstance(value, (list, tuple, np.ndarray)):
        return [without_future(part, keys) for part in value]
    return value


def key_drops(keys: Counter[str], remaining: int) -> list[tuple]:
    """A row for the drops table where `without_future` left out keys, with the commonest as the example."""
    shown = [brief(key) for key, _ in keys.most_common(5)] + ["…"] * (len(keys) > 5)
    reason = "keys inside columns left out: they may sum up the future"
    return [("items", reason, 0, remaining, ", ".join(shown))] if keys else []


def marks_removed(name: Hashable) -> bool:
    """Whether a column of an items file is `REMOVED`."""
    return str(name).strip().casefold() == REMOVED


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
        rest = values[~bad].iloc[::every]  # which fit `unit`, and would have to fit another as well
        sound = [one for one in fit if read_times(rest, ast.literal_eval(one)).dt.year.between(*YEARS).all()]
        if fit:
            advice = f"It would fit timestamp_unit {' or '.join(sound or fit)}"
            advice += "" if sound else f", but the other {int((~bad).sum())} fit {unit!r} alone: bring all to one unit"
        elif pd.notna(times[row]):
            advice = f"It means the year {times[row].year}. Expected a year in {YEARS[0]}…{YEARS[1]}"
        else:
            advice = (
                f"Expected {_expected(unit)}. Correct the field, or set timestamp_unit, for instance to '%d.%m.%y'"
            )
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


def select_columns(
    df: pd.DataFrame,
    names: Mapping[str, str],
    where: Where,
    advice: str = "Correct the file, or set column_{} to the name that it has.",
) -> pd.DataFrame:
    """The columns `names` (ours: theirs) of `df`, under our names. DataError for one that is missing, with advice, in
    which {} is our name."""
    for ours, theirs in names.items():
        if theirs not in df.columns:
            raise DataError(
                f"{schema.name_of(where)}: no column {theirs!r} for {ours}; found "
                f"{', '.join(map(repr, map(brief, df.columns)))}. {advice.format(ours)}"
            )
    return df[list(names.values())].set_axis(list(names), axis=1)


def drop_returned(log: pd.DataFrame, where: Where) -> tuple[pd.DataFrame, list[tuple]]:
    """The purchases of a log that has a `quantity`, and rows for the drops table.

    A row with a quantity of 0 or less is a return: it goes, and with it the shopper's latest purchase of the item up
    to that moment, if one is left, however many units either has. Raises DataError for a quantity that is no number,
    and where no purchase is left.
    """
    quantity = schema.to_numbers(log["quantity"])
    if (bad := quantity.isna()).any():
        row = bad.index[bad][0]
        value = log["quantity"][row]
        found = "no quantity" if pd.isna(value) else f"quantity {brief(value)!r} is no number"
        raise DataError(
            f"{at(where, row)}: {found} ({int(bad.sum())} such rows). Correct it, or leave column_quantity empty."
        )
    keys = ["user_id", "item_id"]
    log = log.assign(returned=quantity <= 0, **{key: schema.to_ids(log[key], where) for key in keys})
    ordered = log[log.groupby(keys)["returned"].transform("any")]
    ordered = ordered.sort_values(["timestamp", "returned"])  # a file may run from new to old within a moment
    taken, left = [], defaultdict(list)
    for row, user, item, returned in ordered[[*keys, "returned"]].itertuples():
        if not returned:
            left[user, item].append(row)
        elif left[user, item]:
            taken.append(left[user, item].pop())
    drops = []
    for reason, rows in {
        "quantity of 0 or less: a return, no purchase": log.index[log["returned"]],
        "purchase that a later return takes back": taken,
    }.items():
        if len(rows):
            example = ", ".join(map(brief, log.loc[rows[0], [*keys, "timestamp", "quantity"]]))
            log = log.drop(index=rows)
            drops.append(("interactions", reason, len(rows), len(log), example))
    if drops and log.empty:
        raise DataError(f"{schema.name_of(where)}: no purchase is left without returns. Correct column_quantity.")
    return log.drop(columns=["quantity", "returned"]), drops


def drop_repeated(interactions: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple]]:
    """The interactions, each once, and a row for the drops table where a file has some again, perhaps one per unit."""
    keys = ["user_id", "item_id", "timestamp"]
    again = interactions.duplicated(keys)
    if not again.any():
        return interactions, []
    kept, example = interactions[~again].reset_index(drop=True), interactions.loc[again, keys].iloc[0]
    row = ("interactions", "same user, item and time as one before", int(again.sum()), len(kept))
    return kept, [(*row, ", ".join(map(brief, example)))]


def drop_unknown(
    items: pd.DataFrame, interactions: pd.DataFrame, path: str, dropped: Iterable[str] = ()
) -> tuple[pd.DataFrame, list[tuple]]:
    """The interactions with items of the catalogue, and rows for the drops table.

    Prints a note where more than UNKNOWN_SHARE go that are not of `dropped` items: those that the catalogue had and
    the reader left out. DataError where none is left.
    """
    drops, known = [], interactions["item_id"].isin(items["item_id"])
    lacking = ~known & interactions["item_id"].isin(set(dropped))
    if lacking.any():
        example = f"item_id {brief(interactions['item_id'][lacking].iloc[0])!r}"
        drops.append(
            ("interactions", "of an item that was dropped", int(lacking.sum()), int((~lacking).sum()), example)
        )
        if not known.any():
            raise DataError(
                f"{path}: no interaction belongs to an item that is left; {int(lacking.sum()):,} of "
                f"{len(interactions):,} are of items that were dropped (for example {example}). Mend the items file."
            )
    kept, unknown = interactions[known].reset_index(drop=True), interactions["item_id"][~known & ~lacking]
    example = f"item_id {brief(unknown.iloc[0])!r}" if len(unknown) else ""
    ways = {"without leading zeros": lambda ids: ids.str.lstrip("0"), "in one case": lambda ids: ids.str.casefold()}
    alike = {way: unknown.pipe(cut).isin(items["item_id"].pipe(cut)).sum() for way, cut in ways.items()}
    way, most = max(alike.items(), key=lambda pair: pair[1])
    both = f"for example {example}; the catalogue has {brief(items['item_id'].iloc[0])!r}"
    matching, all_items = kept["item_id"].nunique(), kept["item_id"].nunique() + unknown.nunique()
    advice = "Write the ids alike in both files."
    if most:
        advice = f"Write the ids alike in both files; {way}, {most:,} would match."
    elif matching > ALIKE_SHARE * all_items:
        advice = f"It has {matching:,} of the {all_items:,} items of the log; add the others."
    if kept.empty:
        raise DataError(f"{path}: no interaction belongs to an item of the catalogue ({both}). {advice}")
    if len(unknown) > UNKNOWN_SHARE * len(interactions):
        share = f"{len(unknown):,} of {len(interactions):,} interactions"
        print(f"{path}: {share} are dropped, since the items table lacks their items ({both}). {advice}")
    return kept, [
        *drops,
        ("interactions", "of an item that is not in the items table", len(unknown), len(kept), example),
    ]


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
