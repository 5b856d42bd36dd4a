"""Amazon Reviews 2023: download, file names, and which texts are read.

Figures that sum up the future (rating counts, average ratings) and prices are never shown to a model.
"""

import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from r2ec_lib.data.readers import _is_future, _known, _records, _select, parse_time, place, plain_text, read_file
from r2ec_lib.data.schema import DataError, drops_table, validate_interactions, validate_items
from r2ec_lib.data.storage import sha256

AMAZON_URL = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
AMAZON_TEXT = ["title", "main_category", "store", "categories", "features", "description", "details"]
MAX_TITLE_WORDS = 20  # of the official variant


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


def _amazon_text(record: Mapping[str, Any]) -> dict[str, str]:
    categories = " > ".join(filter(None, map(plain_text, record.get("categories") or [])))
    details = {key: value for key, value in (record.get("details") or {}).items() if not _is_future(key)}
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
