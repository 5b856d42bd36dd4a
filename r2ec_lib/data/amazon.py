"""Amazon Reviews 2023: download, file names, and which texts are read.

Figures that sum up the future (rating counts, average ratings) and prices are never shown to a model.
"""

import difflib
import math
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from r2ec_lib.data import schema
from r2ec_lib.data.formats import place, read_file, records
from r2ec_lib.data.readers import (
    drop_repeated,
    drop_unknown,
    key_drops,
    parse_time,
    read_times,
    select_columns,
    without_future,
)
from r2ec_lib.data.schema import RATING_RANGE, YEARS, DataError, brief
from r2ec_lib.data.storage import alone, sha256, write_text
from r2ec_lib.data.texts import plain_text

AMAZON_URL = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
AMAZON_TEXT = ["title", "main_category", "store", "categories", "features", "description", "details"]
MAX_TITLE_WORDS = 20  # of the official variant
OTHER_LAYOUT = (
    "Source amazon reads the layout of Amazon Reviews 2023 alone; read other files with source logs: set "
    "interactions_path, items_path, timestamp_unit and the columns, such as column_item_id and column_catalogue_id."
)
ODD_SHARE = 0.01  # share of rows that may be odd for one reason; more is a fault of the file
ODD_ROWS = 10  # so many may be odd in a small file as well


def read_amazon(
    data_dir: str | Path,
    category: str,
    core: str = "0core",
    *,
    protocol: str = "paper",
    download: bool = False,
    rating_range: tuple[float, float] = RATING_RANGE,
    base_url: str = AMAZON_URL,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The (items, interactions, drops) of one category of Amazon Reviews 2023.

    `data_dir` holds the two files side by side or in the site's own tree (see `amazon_files`); `download` fetches
    what is missing. Items that nobody bought and items without a title are dropped; protocol "official" also drops
    items without a price and those with a title over 20 words. Price, ratings and rating counts never become text.
    Odd rows (no plausible time, a rating out of range, an item listed again, a broken line) are dropped and counted
    with an example, up to ODD_SHARE of a file; so are repeated interactions, however many. Raises DataError.
    """
    if download:
        download_amazon(data_dir, category, core, base_url=base_url)
    interactions_path, items_path = amazon_files(data_dir, category, core)
    interactions, read = _read_interactions(interactions_path, rating_range)
    items, described, dropped = _read_items(items_path, set(interactions["item_id"].unique()), protocol)
    interactions, repeated = drop_repeated(interactions)
    interactions, unknown = drop_unknown(items, interactions, str(interactions_path), dropped)
    return items, interactions, schema.drops_table(described + read + repeated + unknown)


def amazon_files(data_dir: str | Path, category: str, core: str = "0core") -> tuple[Path, Path]:
    """Paths of the interactions and the item file, flat in `data_dir` or in the site's tree, gzipped or plain.

    Raises DataError, which names files of the folder with a name alike.
    """
    paths = []
    for name in _site_names(category, core):
        if (path := _found(data_dir, name)) is None:
            flat = Path(data_dir) / Path(name).name
            inside = [one.name for one in flat.parent.glob("*") if one.is_file()]
            alike = ", ".join(map(brief, difflib.get_close_matches(flat.name, inside)))
            raise DataError(
                f"{flat}: no such file, nor {Path(data_dir) / name}, nor one of them without .gz; "
                f"{'the folder has ' + alike if alike else 'nor is there a file with a name alike'}. "
                f"Correct data_dir or category, or set download. {OTHER_LAYOUT}"
            )
        paths.append(path)
    return paths[0], paths[1]


def download_amazon(data_dir: str | Path, category: str, core: str = "0core", *, base_url: str = AMAZON_URL) -> None:
    """Fetches the two files of a category into the site's tree below `data_dir`, unless they are there.

    A broken transfer continues where it stopped. The SHA-256 of a finished file is kept beside it (`.sha256`) and
    verified by later calls. Raises DataError without a network, for an unknown category, or while another process
    fetches the same file.
    """
    for name in _site_names(category, core):
        path = Path(data_dir) / name
        recorded = path.with_name(path.name + ".sha256")
        if _found(data_dir, name) not in (path, None):
            continue
        busy = DataError(f"{path} is being fetched by another process; start again when it has finished.")
        if not path.is_file():
            with alone(path.with_name(f".{path.name}.lock"), busy):
                if not path.is_file():  # which another process has not just finished
                    _fetch(f"{base_url}/{name}", path)
                    write_text(sha256(path) + "\n", recorded)
        if recorded.is_file() and recorded.read_text(encoding="ascii").strip() != sha256(path):
            raise DataError(
                f"{path}: its SHA-256 differs from the one in {recorded.name}. Delete {recorded.name} if the file was "
                "changed on purpose; delete both to fetch it again."
            )


def _read_interactions(path: Path, rating_range: tuple[float, float]) -> tuple[pd.DataFrame, list[tuple]]:
    where = place(path)
    names = {"user_id": "user_id", "item_id": "parent_asin", "rating": "rating", "timestamp": "timestamp"}
    raw = read_file(path)
    raw = select_columns(raw if "rating" in raw else raw.assign(rating=np.nan), names, where, OTHER_LAYOUT)
    ids, rated, ratings = raw[["user_id", "item_id"]], raw["rating"].notna(), schema.to_numbers(raw["rating"])
    odd = {
        "without a user or an item": (ids.isna() | ids.apply(lambda column: column.str.isspace())).any(axis=1),
        f"no time in {YEARS[0]}…{YEARS[1]}": ~read_times(raw["timestamp"], "ms").dt.year.between(*schema.YEARS),
        "rating outside {:g}…{:g}".format(*rating_range): rated & ~ratings.between(*rating_range),
    }
    drops: list[tuple] = [("interactions", "read", 0, len(raw))]
    raw, odd_drops = _drop(raw, odd, "interactions", path, _tolerated(len(raw)))
    try:
        raw["timestamp"] = parse_time(raw["timestamp"], "ms", where)
    except DataError as error:
        raise DataError(
            f"{error} With source amazon the unit is always 'ms'; read other files with source logs."
        ) from error
    return schema.validate_interactions(raw, where, rating_range), drops + odd_drops


def _read_items(path: Path, bought: set[str], protocol: str) -> tuple[pd.DataFrame, list[tuple], set[str]]:
    """The items, rows for the drops table, and the ids of the bought items that were dropped."""
    faults: list[DataError] = []
    texts: dict[int, dict[str, Any]] = {}
    keys: Counter[str] = Counter()
    sound = 0
    for line, record in records(path, faults):
        if not isinstance(record.get("parent_asin"), str):
            faults.append(DataError(f"{path}, line {line}: no 'parent_asin'; found {', '.join(map(brief, record))}."))
            continue
        sound += 1
        if (item_id := record["parent_asin"].strip()) in bought:
            price = str(record.get("price") or "").strip()
            texts[line] = {"item_id": item_id} | _item_text(record, keys) | {"price": price}
    limit = _tolerated(sound + len(faults))
    if len(faults) > limit or (faults and not sound):
        raise DataError(f"{faults[0]} {OTHER_LAYOUT}") from faults[0]
    if not texts:
        raise DataError(f"{path}: no item of the interactions is described here. Do the two files belong together?")
    items = pd.DataFrame(list(texts.values()), index=pd.Index(texts))
    prices = items.pop("price")
    drops: list[tuple] = [("items", "read", 0, sound + len(faults))]
    if faults:
        drops.append(("items", "no JSON object with a parent_asin", len(faults), sound, str(faults[0])))
    drops.append(("items", "never bought", sound - len(items), len(items)))
    described = set(items["item_id"])
    items, untitled = _drop(items, {"without a title": schema.shows_nothing(items["title"])}, "items", path)
    items, repeated = _drop(items, {"listed again": items["item_id"].duplicated()}, "items", path, limit)
    unwanted = {}
    if protocol == "official":
        unwanted["without a price"] = prices.isin(["", "None", "—"])
        unwanted[f"title over {MAX_TITLE_WORDS} words"] = items["title"].str.split().map(len) > MAX_TITLE_WORDS
    items, filtered = _drop(items, unwanted, "items", path)
    items = schema.validate_items(items, lambda line: str(path) if line is None else f"{path}, line {line}")
    return (
        items,
        drops + untitled + repeated + filtered + key_drops(keys, len(items)),
        described - set(items["item_id"]),
    )


def _tolerated(rows: int) -> float:
    return max(ODD_ROWS, ODD_SHARE * rows)


def _drop(
    df: pd.DataFrame, reasons: Mapping[str, pd.Series], step: str, path: Path, limit: float = math.inf
) -> tuple[pd.DataFrame, list[tuple]]:
    """`df` without the rows of each reason, and per reason that occurs a row, with an example, for the drops table.

    A reason with more than `limit` rows drops none: the file or its unit is wrong then, and validation says so.
    """
    drops = []
    for reason, bad in reasons.items():
        bad = bad[df.index]
        if 0 < bad.sum() <= limit:
            example = ", ".join(map(brief, df[bad].iloc[0].to_list()[:4]))
            df = df[~bad]
            drops.append((step, reason, int(bad.sum()), len(df), f"{path.name}: {example}"))
            if df.empty:
                raise DataError(f"{path}: no {step[:-1]} is left once those {reason} are dropped.")
    return df, drops


def _item_text(record: Mapping[str, Any], keys: Counter[str]) -> dict[str, str]:
    texts = {name: without_future(record.get(name), keys) for name in AMAZON_TEXT}
    if isinstance(categories := texts["categories"], list):
        texts["categories"] = " > ".join(filter(None, map(plain_text, categories)))
    return {name: plain_text(text) for name, text in texts.items()}


def _found(data_dir: str | Path, name: str) -> Path | None:
    """Where a file of the site is: flat or in the site's tree, else there without .gz."""
    zipped = [Path(data_dir) / Path(name).name, Path(data_dir) / name]
    return next(filter(Path.is_file, zipped + [path.with_suffix("") for path in zipped]), None)


def _site_names(category: str, core: str) -> tuple[str, str]:
    if core not in ("0core", "5core"):
        raise DataError(f"core is {core!r}; expected '0core' or '5core'.")
    return (
        f"benchmark/{core}/rating_only/{category}.csv.gz",
        f"raw/meta_categories/meta_{category}.jsonl.gz",
    )


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
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:
            part.unlink()
            raise DataError(
                f"{url}: the site's file was replaced by a smaller one than has arrived. Run again to fetch it."
            ) from error
        raise DataError(
            f"{url}: cannot be fetched ({error}). Check the network and the category; what has arrived is kept and "
            f"the next run continues. Or put the file into {path.parent} by hand."
        ) from error
    part.rename(path)


def _copy(answer: BinaryIO, part: Path, start: int, total: int, name: str) -> None:
    done, tenths = start, -1
    with part.open("ab" if start else "wb") as file:
        while chunk := answer.read(1 << 20):
            file.write(chunk)
            done += len(chunk)
            if total and done * 10 // total > tenths:
                tenths = done * 10 // total
                print(f"{name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
    if total and done != total:
        raise OSError(f"{done} of {total} bytes arrived")
