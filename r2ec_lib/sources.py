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
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from r2ec_lib.files import sha256
from r2ec_lib.schema import (
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

AMAZON_URL = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
AMAZON_TEXT = ["title", "main_category", "store", "categories", "features", "description", "details"]
LOG_COLUMNS = {
    "user_id": "user_id",
    "item_id": "item_id",
    "timestamp": "timestamp",
    "rating": "rating",
    "title": "title",
    "catalogue_id": "item_id",  # the item id's name in the items file
}
MAX_TITLE_WORDS = 20  # of the official variant

_COMMENT = re.compile(r"<!--.*?(?:-->|$)|<(style|script)\b.*?(?:</\1\s*>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<!doctype[^>]*>", re.IGNORECASE)
_REST = re.compile(r"</?[a-zA-Z]{1,8}\s*$|(?<!\w)/?(?:br|b|i|p|ul|li|em|strong|div|span)\s*/?>")  # torn tags
_CSS = re.compile(r"[.#@]?[\w.#:, -]{1,80}\{[^{}]*:[^{}]*\}")  # rules that have lost their style block


def read_amazon(
    data_dir: str | Path,
    category: str,
    core: str = "0core",
    *,
    protocol: str = "paper",
    download: bool = False,
    base_url: str = AMAZON_URL,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The (items, interactions, drops) of one category of Amazon Reviews 2023.

    `data_dir` holds the two files side by side or in the site's own tree (see `amazon_files`); `download` fetches
    what is missing. Items that nobody bought and items without a title are dropped; protocol "official" also drops
    items without a price and those with a title over 20 words. Price, ratings and rating counts never become text.
    Raises DataError.
    """
    if download:
        download_amazon(data_dir, category, core, base_url=base_url)
    interactions_path, items_path = amazon_files(data_dir, category, core)
    where = place(interactions_path)
    names = {"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating"}
    raw = _select(read_file(interactions_path), names, where)
    raw["timestamp"] = parse_time(raw["timestamp"], "ms", where)
    interactions = validate_interactions(raw, where)

    bought, count, texts = set(interactions["item_id"].unique()), 0, {}
    for line, record in _records(items_path):
        count += 1
        if "parent_asin" not in record:
            raise DataError(f"{items_path}, line {line + 1}: no 'parent_asin'; found {', '.join(record)}.")
        if record["parent_asin"] in bought:
            priced = str(record.get("price") or "").strip() not in ("", "None", "—")
            texts[line] = {"item_id": record["parent_asin"]} | _amazon_text(record) | {"priced": priced}
    if not texts:
        raise DataError(
            f"{items_path}: no item of {interactions_path} is described here. Do the files belong together?"
        )
    items = pd.DataFrame(texts.values(), index=pd.Index(texts.keys()))
    priced = items.pop("priced")
    drops = [("items", "read", 0, count), ("items", "never bought", count - len(items), len(items))]
    unwanted = {"without a title": items["title"] == ""}
    if protocol == "official":
        unwanted["without a price"] = ~priced
        unwanted[f"title over {MAX_TITLE_WORDS} words"] = items["title"].str.split().str.len() > MAX_TITLE_WORDS
    for reason, bad in unwanted.items():
        bad = bad[items.index]
        items = items[~bad]
        drops.append(("items", reason, int(bad.sum()), len(items)))
        if items.empty:
            raise DataError(f"{items_path}: no item is left once those {reason} are dropped (protocol {protocol!r}).")
    items = validate_items(items, place(items_path))
    interactions, more = _known(items, interactions, str(interactions_path))
    return items, interactions, drops_table(drops + more)


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


def amazon_files(data_dir: str | Path, category: str, core: str = "0core") -> tuple[Path, Path]:
    """Paths of the interactions and the item file, flat in `data_dir` or in the site's tree. Raises DataError."""
    found = []
    for name in _amazon_names(category, core):
        candidates = [Path(data_dir) / Path(name).name, Path(data_dir) / name]
        existing = [path for path in candidates if path.is_file()]
        if not existing:
            raise DataError(
                f"{candidates[0]}: no such file, nor {candidates[1]}. Correct data_dir or category, or set download."
            )
        found.append(existing[0])
    return found[0], found[1]


def download_amazon(data_dir: str | Path, category: str, core: str = "0core", *, base_url: str = AMAZON_URL) -> None:
    """Fetches the two files of a category into the site's tree below `data_dir`, unless they are there.

    A broken transfer continues where it stopped. The SHA-256 of a finished file is kept beside it (`.sha256`) and
    verified by later calls. Raises DataError without a network or for an unknown category.
    """
    for name in _amazon_names(category, core):
        path = Path(data_dir) / name
        recorded = path.with_name(path.name + ".sha256")
        if (Path(data_dir) / path.name).is_file():
            continue
        if not path.is_file():
            _fetch(f"{base_url}/{name}", path)
            recorded.write_text(sha256(path) + "\n", encoding="ascii")
        if recorded.is_file() and recorded.read_text(encoding="ascii").strip() != sha256(path):
            raise DataError(f"{path}: its SHA-256 differs from the one in {recorded.name}. Delete both and run again.")


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


def _amazon_text(record: Mapping[str, Any]) -> dict[str, str]:
    categories = " > ".join(filter(None, map(plain_text, record.get("categories") or [])))
    details = {key: value for key, value in (record.get("details") or {}).items() if not _is_future(key)}
    texts = {name: plain_text(record.get(name)) for name in AMAZON_TEXT}
    return texts | {"categories": categories, "details": plain_text(details)}


def _is_future(name: str) -> bool:
    """Whether a field ("Best Sellers Rank") sums up the whole corpus."""
    return "_".join(str(name).casefold().split()) in FUTURE_COLUMNS


def _amazon_names(category: str, core: str) -> tuple[str, str]:
    if core not in ("0core", "5core"):
        raise DataError(f"core is {core!r}; expected '0core' or '5core'.")
    return (
        f"benchmark/{core}/rating_only/{category}.csv.gz",
        f"raw/meta_categories/meta_{category}.jsonl.gz",
    )


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


def _fetch(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:
                start = 0  # the server sends the whole file
            total = start + int(answer.headers.get("Content-Length", 0))
            _copy(answer, part, start, total, path.name)
    except OSError as error:  # urllib's errors are OSErrors
        if isinstance(error, urllib.error.HTTPError) and error.headers.get("Content-Range") == f"bytes */{start}":
            part.rename(path)  # all had arrived already
            return
        raise DataError(
            f"{url}: cannot be fetched ({error}). Check the network and the category; what has arrived is kept and "
            f"the next run continues. Or put the file into {path.parent} by hand."
        ) from error
    part.rename(path)


def _copy(answer: BinaryIO, part: Path, start: int, total: int, name: str) -> None:
    done, told = start, -1
    with part.open("ab" if start else "wb") as file:
        while chunk := answer.read(1 << 20):
            file.write(chunk)
            done += len(chunk)
            if total and done * 10 // total > told:
                told = done * 10 // total
                print(f"{name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
    if total and done != total:
        raise OSError(f"{done} of {total} bytes arrived")
