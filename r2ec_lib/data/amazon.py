"""Amazon Reviews 2023: download, file names, and which texts are read.

Figures that sum up the future (rating counts, average ratings) and prices are never shown to a model.
"""

import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from r2ec_lib.data.formats import place, read_file, records
from r2ec_lib.data.readers import drop_unknown, parse_time, read_times, select_columns
from r2ec_lib.data.schema import (
    RATING_RANGE,
    YEARS,
    DataError,
    drops_table,
    sums_up_future,
    to_numbers,
    validate_interactions,
    validate_items,
)
from r2ec_lib.data.storage import sha256
from r2ec_lib.data.texts import plain_text

AMAZON_URL = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
AMAZON_TEXT = ["title", "main_category", "store", "categories", "features", "description", "details"]
MAX_TITLE_WORDS = 20  # of the official variant
ODD_SHARE = 0.01  # share of rows that may be odd for one reason; more is a fault of the file
ODD_ROWS = 10  # so many may be odd in a small file as well


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
    Odd rows (no plausible time, a rating outside 1…5, an item listed again, a broken line) are dropped and counted
    with an example, up to ODD_SHARE of a file. Raises DataError.
    """
    if download:
        download_amazon(data_dir, category, core, base_url=base_url)
    interactions_path, items_path = amazon_files(data_dir, category, core)
    interactions, drops = _amazon_interactions(interactions_path)
    items, dropped_items = _amazon_items(items_path, set(interactions["item_id"].unique()), protocol)
    interactions, unknown = drop_unknown(items, interactions, str(interactions_path))
    return items, interactions, drops_table(dropped_items + drops + unknown)


def _amazon_interactions(path: Path) -> tuple[pd.DataFrame, list[tuple]]:
    where = place(path)
    names = {"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating"}
    raw = select_columns(read_file(path), names, where)
    rating = to_numbers(raw["rating"])
    odd = {
        "without a user or an item": raw[["user_id", "item_id"]].isna().any(axis=1),
        f"no time in {YEARS[0]}…{YEARS[1]}": ~read_times(raw["timestamp"], "ms").dt.year.between(*YEARS),
        "rating outside 1…5": raw["rating"].notna() & ~rating.between(*RATING_RANGE),
    }
    raw, drops = _drop_odd(raw, odd, "interactions", path)
    raw["timestamp"] = parse_time(raw["timestamp"], "ms", where)
    return validate_interactions(raw, where), drops


def _amazon_items(path: Path, bought: set[str], protocol: str) -> tuple[pd.DataFrame, list[tuple]]:
    faults: list[DataError] = []
    texts, count, unnamed = {}, 0, []
    for count, (line, record) in enumerate(records(path, faults), start=1):
        if not isinstance(record.get("parent_asin"), str):
            unnamed.append(DataError(f"{path}, line {line}: no 'parent_asin'; found {', '.join(record)}."))
        elif record["parent_asin"] in bought:
            priced = str(record.get("price") or "").strip() not in ("", "None", "—")
            texts[count - 1] = {"item_id": record["parent_asin"]} | _amazon_text(record) | {"priced": priced}
    for errors in (faults, unnamed):
        if len(errors) > _tolerated(count):
            raise errors[0]
    if not texts:
        raise DataError(f"{path}: no item of the interactions is described here. Do the two files belong together?")
    items = pd.DataFrame(texts.values(), index=pd.Index(texts.keys()))
    priced = items.pop("priced")
    total, left = len(faults) + count, count - len(unnamed)
    drops: list[tuple] = [("items", "read", 0, total)]
    if faults:
        drops.append(("items", "no JSON object", len(faults), count, str(faults[0])))
    if unnamed:
        drops.append(("items", "without parent_asin", len(unnamed), left, str(unnamed[0])))
    drops.append(("items", "never bought", left - len(items), len(items)))
    items, repeated = _drop_odd(items, {"listed again": items["item_id"].duplicated()}, "items", path)
    drops += repeated
    unwanted = {"without a title": items["title"] == ""}
    if protocol == "official":
        unwanted["without a price"] = ~priced
        unwanted[f"title over {MAX_TITLE_WORDS} words"] = items["title"].str.split().str.len() > MAX_TITLE_WORDS
    for reason, bad in unwanted.items():
        bad = bad[items.index]
        example = f"item_id {items['item_id'][bad].iloc[0]!r}" if bad.any() else ""
        items = items[~bad]
        drops.append(("items", reason, int(bad.sum()), len(items), example))
        if items.empty:
            raise DataError(f"{path}: no item is left once those {reason} are dropped (protocol {protocol!r}).")
    return validate_items(items, place(path)), drops


def _tolerated(rows: int) -> float:
    return max(ODD_ROWS, ODD_SHARE * rows)


def _drop_odd(
    df: pd.DataFrame, odd: Mapping[str, pd.Series], step: str, path: Path
) -> tuple[pd.DataFrame, list[tuple]]:
    """`df` without its odd rows, and a row for the drops table, with an example, per reason that occurs.

    A reason with more rows than are tolerated drops none: the file or its unit is wrong then, and validation says so.
    """
    limit, drops = _tolerated(len(df)), []
    for reason, bad in odd.items():
        bad = bad[df.index]
        if 0 < bad.sum() <= limit:
            example = ", ".join(map(str, df[bad].iloc[0].to_list()[:4]))
            df = df[~bad]
            drops.append((step, reason, int(bad.sum()), len(df), f"{path.name}: {example}"))
    return df, drops


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
            raise DataError(
                f"{path}: its SHA-256 differs from the one in {recorded.name}. Delete {recorded.name} if the file was "
                "changed on purpose; delete both to fetch it again."
            )


def _amazon_text(record: Mapping[str, Any]) -> dict[str, str]:
    categories = " > ".join(filter(None, map(plain_text, record.get("categories") or [])))
    details = {key: value for key, value in (record.get("details") or {}).items() if not sums_up_future(key)}
    texts = {name: plain_text(record.get(name)) for name in AMAZON_TEXT}
    return texts | {"categories": categories, "details": plain_text(details)}


def _amazon_names(category: str, core: str) -> tuple[str, str]:
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
