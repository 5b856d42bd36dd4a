"""Readers: raw purchase logs in, the validated `items` and `interactions` tables and a count of all drops out.

Amazon Reviews 2023 (files on disk, or fetched from the data set's site) and the user's own CSV, Parquet or JSON-lines
files. Files are read in bulk; only when that fails, a slow second pass finds the line to blame. Texts are made
readable here (markup out, white space folded); guarding prompts against forged special tokens is the business of
`prompts`, time windows and samples of `splits`.
"""

import csv
import gzip
import html
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from r2ec_lib.data.schema import (
    FUTURE_COLUMNS,
    TIME,
    YEARS,
    DataError,
    Where,
    at,
    drops_table,
    validate_interactions,
    validate_items,
)

LOG_COLUMNS = {
    "user_id": "user_id",
    "item_id": "item_id",
    "timestamp": "timestamp",
    "rating": "rating",
    "title": "title",
    "catalogue_id": "item_id",  # the item id's name in the items file
}

_COMMENT = re.compile(r"<!--.*?(?:-->|$)|<(style|script)\b.*?(?:</\1\s*>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<!doctype[^>]*>", re.IGNORECASE)
_REST = re.compile(r"</?[a-zA-Z]{1,8}\s*$|(?<!\w)/?(?:br|b|i|p|ul|li|em|strong|div|span)\s*/?>")  # torn tags
_CSS = re.compile(r"[.#@]?[\w.#:, -]{1,80}\{[^{}]*:[^{}]*\}")  # rules that have lost their style block


def read_logs(
    interactions_path: str | Path,
    items_path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    timestamp_unit: str = "iso",
    rating_range: tuple[float, float] = (1.0, 5.0),
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The (items, interactions, drops) of the user's own logs: .csv, .parquet or .jsonl, text files also as .gz.

    `columns` maps our names (the keys of LOG_COLUMNS) to the file's. `timestamp_unit` is "iso", "s" or "ms". Ratings
    are optional. Every further column of the items file becomes item text, except summaries over the whole corpus
    (schema.FUTURE_COLUMNS). Interactions with unknown items are dropped and counted. Raises DataError.
    """
    names = LOG_COLUMNS | dict(columns or {})
    if unknown := set(names) - set(LOG_COLUMNS):
        raise DataError(f"column mapping: {sorted(unknown)} not known; possible are {', '.join(LOG_COLUMNS)}.")
    where = place(interactions_path)
    raw = read_file(interactions_path)
    if names["rating"] == "rating" and "rating" not in raw:
        raw["rating"] = np.float32("nan")
    raw = _select(raw, {key: names[key] for key in ("user_id", "item_id", "timestamp", "rating")}, where)
    raw["timestamp"] = parse_time(raw["timestamp"], timestamp_unit, where)
    interactions = validate_interactions(raw, where, rating_range)

    raw = read_file(items_path)
    named = _select(raw, {"item_id": names["catalogue_id"], "title": names["title"]}, place(items_path))
    further = [name for name in raw if name not in (names["catalogue_id"], names["title"], *named)]
    future = [name for name in further if _is_future(name)]
    items = named.join(raw[further].drop(columns=future))
    for name in items.columns.drop("item_id"):
        items[name] = items[name].map(plain_text)
    drops = [("items", "read", 0, len(items))]
    drops += [("items", f"column {name!r} left out: it may sum up the future", 0, len(items)) for name in future]
    items = validate_items(items, place(items_path))
    interactions, more = _known(items, interactions, str(interactions_path))
    return items, interactions, drops_table(drops + more)


def read_file(path: str | Path) -> pd.DataFrame:
    """A CSV, Parquet or JSON-lines file by its suffix; CSV fields are text. Index: record number from 0.

    Raises DataError for a missing file, another suffix, or an unreadable line (naming it).
    """
    path = Path(path)
    suffix = _suffix(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file. Correct the path in the recipe.")
    if suffix == ".jsonl":
        numbered = list(_records(path))
        return pd.DataFrame([record for _, record in numbered], index=pd.Index([row for row, _ in numbered]))
    try:
        if suffix == ".parquet":
            return pa.parquet.read_table(path).to_pandas(ignore_metadata=True)
        with _open(path) as file:
            header = next(csv.reader([file.readline().decode("utf-8-sig")]), [])
        with _open(path) as file:
            table = pa.csv.read_csv(
                file,
                read_options=pa.csv.ReadOptions(column_names=header, skip_rows=1),
                parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.string()), null_values=[""], strings_can_be_null=True
                ),
            )
        return table.to_pandas()
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        if suffix == ".csv":
            for _ in _csv_lines(path):
                pass  # raises where a line is to blame
        raise DataError(f"{path}: cannot be read as {suffix[1:]}: {error}") from error


def parse_time(values: pd.Series, unit: str, where: Where) -> pd.Series:
    """Times (datetime64[ms, UTC]) from ISO text ("iso") or epoch numbers ("s", "ms"); stored times pass as they are.

    Zones are converted to UTC; ISO text without a zone is taken as UTC. Raises DataError for what is no time and for
    years outside schema.YEARS, naming the unit that would fit.
    """
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return pd.to_datetime(values, utc=True).astype(TIME)
    if unit not in ("iso", "s", "ms"):
        raise DataError(f"timestamp_unit is {unit!r}; expected 'iso', 's' or 'ms'.")
    numbers = pd.to_numeric(values, errors="coerce")
    if unit == "iso":
        times = pd.to_datetime(values.astype("str"), format="ISO8601", utc=True, errors="coerce")
        bad = times.isna() | (numbers.abs() >= 10**8)  # longer than 20171231 is an epoch number
    else:
        milliseconds = numbers * {"s": 1000, "ms": 1}[unit]
        low, high = (pd.Timestamp(f"{year}-01-01").timestamp() * 1000 for year in (YEARS[0], YEARS[1] + 1))
        bad = ~((milliseconds >= low) & (milliseconds < high))
        times = pd.to_datetime(milliseconds.where(~bad, 0).astype("int64"), unit="ms", utc=True)
    if bad.any():
        row = bad.index[bad][0]
        meant = [u for u, year in _years(numbers[row]).items() if u != unit and YEARS[0] <= year <= YEARS[1]]
        advice = f"It would fit timestamp_unit {meant[0]!r}" if meant else f"Expected a year in {YEARS[0]}…{YEARS[1]}"
        raise DataError(
            f"{at(where, row)}: {str(values[row])!r} is no plausible time in unit {unit!r} "
            f"({int(bad.sum())} such rows). {advice}."
        )
    return times.astype(TIME)


def plain_text(value: Any) -> str:
    """Readable text of a field: lists are joined, mappings become "key: value; …", markup and extra space go.

    >>> plain_text(["<b>Soft</b> &amp; light", None, "<!-- .x {color:red} -->"])
    'Soft & light'
    """
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, Mapping):
        parts = ((plain_text(key), plain_text(part)) for key, part in value.items())
        return "; ".join(f"{key}: {part}" for key, part in parts if part)
    if isinstance(value, (list, tuple, np.ndarray)):
        return " ".join(part for part in map(plain_text, value) if part)
    text = str(value)
    if "&" in text:
        text = html.unescape(html.unescape(text))  # some catalogues escape twice
    if "<" in text:
        text = _TAG.sub(" ", _COMMENT.sub(" ", text))
    if "<" in text or ">" in text:
        text = _REST.sub(" ", text.replace("-->", " "))
    if "{" in text:
        text = _CSS.sub(" ", text)
    return " ".join(text.split())


def place(path: str | Path) -> Callable[[int | None], str]:
    """A `schema.Where` for a file: finds the line of a record (by a pass over the file) only when it is asked."""

    def where(row: int | None) -> str:
        if row is None:
            return str(path)
        if _suffix(Path(path)) == ".parquet":
            return f"{path}, row {row + 1}"
        if _suffix(Path(path)) == ".jsonl":
            return f"{path}, line {row + 1}"
        line = next(itertools.islice(_csv_lines(Path(path)), row, None))
        return f"{path}, line {line}"

    return where


def _select(df: pd.DataFrame, names: Mapping[str, str], where: Where) -> pd.DataFrame:
    """The columns `names` (ours: theirs) of `df`, under our names."""
    for ours, theirs in names.items():
        if theirs not in df.columns:
            raise DataError(
                f"{where(None)}: no column {theirs!r} for {ours}; found {', '.join(map(str, df.columns))}. "
                "Correct the file or the column mapping."
            )
    return df[list(names.values())].set_axis(list(names), axis=1)


def _known(items: pd.DataFrame, interactions: pd.DataFrame, path: str) -> tuple[pd.DataFrame, list]:
    known = interactions["item_id"].isin(items["item_id"])
    kept = interactions[known].reset_index(drop=True)
    if kept.empty:
        example = interactions["item_id"].iloc[0]
        raise DataError(
            f"{path}: no interaction belongs to an item of the catalogue (for example item_id {example!r})."
        )
    rows = [
        ("interactions", "read", 0, len(interactions)),
        ("interactions", "of an item that is not in the items table", int((~known).sum()), len(kept)),
    ]
    return kept, rows


def _is_future(name: str) -> bool:
    """Whether a field ("Best Sellers Rank") sums up the whole corpus."""
    return "_".join(str(name).casefold().split()) in FUTURE_COLUMNS


def _suffix(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix not in (".csv", ".jsonl", ".parquet") or path.name.endswith(".parquet.gz"):
        raise DataError(f"{path}: expected a name in .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet.")
    return suffix


def _open(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _lines(path: Path) -> Iterator[str]:
    """Text lines of a file, plain or gzipped. Raises DataError naming the line that cannot be read."""
    if not path.is_file():
        raise DataError(f"{path}: no such file. Correct the path in the recipe.")
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: not UTF-8 text ({error}). Save the file as UTF-8.") from error
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise DataError(f"{path}: broken after line {number} ({error}). Fetch or write the file again.") from error


def _csv_lines(path: Path) -> Iterator[int]:
    """The line on which each data record of a CSV file ends. Raises DataError for a wrong number of fields."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(_lines(path))
    header = next(reader, [])
    for record in reader:
        if record:
            if len(record) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(record)} fields, expected {len(header)} "
                    f"({','.join(header)}). Correct or remove the line."
                )
            yield reader.line_num


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 0, object) of every line of a JSON-lines file; empty lines are passed over."""
    for number, line in enumerate(_lines(path)):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number + 1}: not valid JSON ({error}).") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number + 1}: expected one JSON object, found {line.strip()[:40]}.")
        yield number, record


def _years(number: float) -> dict[str, float]:
    """The year that a number would mean as epoch seconds and as epoch milliseconds."""
    return {"s": 1970 + number / 31_556_952, "ms": 1970 + number / 31_556_952_000}
