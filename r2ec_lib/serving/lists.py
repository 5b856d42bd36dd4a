"""Lists for every shopper of a log: interactions in, one Parquet or CSV file of recommendations out, in parts.

Shoppers are asked about a part at a time. A part is written whole or not at all, so a killed command goes on with the
next one, and the parts become the file at the end. What is held: the log, as read and by shopper, and the lists of one
part; so memory grows with the log, and not with the lists. How a list comes about is the business of
`model` and, under rules, of `analysis.guardrails`.
"""

import csv
import hashlib
import json
import math
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2ec_lib.analysis import guardrails, review, rules
from r2ec_lib.analysis.guardrails import Action, Guarded
from r2ec_lib.analysis.rules import Guardrails
from r2ec_lib.data.formats import kind_of, parts, place, read_file
from r2ec_lib.data.purchases import histories_table
from r2ec_lib.data.readers import LOG_COLUMNS, drop_unknown, read_interactions, select_columns
from r2ec_lib.data.schema import DataError, brief, to_ids, whole_number
from r2ec_lib.data.storage import alone, code_digest, read_json, sha256, write_atomically, write_json
from r2ec_lib.model import R2ec, vllm
from r2ec_lib.model.backbone import quiet
from r2ec_lib.model.r2ec import Recommendation

PART = 256
"""Shoppers of a part: enough to fill batches of similar length, few enough to lose little of when killed."""
REPORT_EVERY = 10.0
"""Seconds between two lines of progress, at least."""
LISTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("place", pa.int32()),  # from 1
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("score", pa.float64()),  # none for a popular item
        ("reasoning", pa.string()),
        ("note", pa.string()),  # which of the shopper's purchases could not be used
        ("rules", pa.string()),  # which acted, how, and on what
    ]
)
CSV_HEADER = ",".join(f'"{name}"' for name in LISTS.names) + "\n"
POPULAR = "popular items"
"""How the note of a list begins that is not the model's."""
NOTE = "command.json"
"""The command that parts were made by, beside them."""
LIBRARY = Path(__file__).parents[1]
ROOMS = ("data", "model", "analysis", "serving")
"""Parts of the library whose code decides what lists say."""
COMMAND = b"r2ec"
"""Key in a Parquet file's metadata of what its lists were made from; a CSV has no place for it."""

Ask = Callable[[pd.DataFrame], Sequence[Recommendation]]
"""Answers to a table of `data.purchases.histories_table`, with how many of the latest purchases to `read`."""
Fit = Callable[[pd.DataFrame], pd.Series]
"""How many of the latest purchases of each history in such a table, of one row at least, can be asked about."""
Fallback = Callable[[Sequence[str]], Recommendation]
"""The list of a shopper who owns these items and cannot be asked about."""


def recommend(
    model_folder: Path,
    interactions_path: Path,
    out: Path,
    *,
    columns: Mapping[str, str],
    timestamp_unit: str = "iso",
    k: int = 10,
    users_path: Path | None = None,
    guardrails_path: Path | None = None,
    max_new_tokens: int | None = None,
    shard: tuple[int, int] = (1, 1),
    use_vllm: bool = False,
) -> None:
    """Writes the lists of a log's shoppers to `out` and tells how far it is; goes on where it was interrupted.

    Args:
        out: a name in .parquet or .csv; texts in CSV are kept from being read as formulas, as in `review.to_csv`.
        columns, timestamp_unit: as in `readers.read_logs`.
        users_path: a file whose column for user_id, under the log's name or ours, says who gets a list; all shoppers
            of the log where left out.
        max_new_tokens: longest reasoning; as the model was trained if left out.
        shard: (i, n) writes for the i-th (from 1) of n groups of shoppers, which `shard_of` makes.
        use_vllm: whether vLLM writes the reasonings.

    Raises:
        DataError: a file that cannot be used, a log or `users_path` whose ids fit no item or shopper, parts of another
            command beside `out`, or reasonings so long that the model has no room for a history.
        FileNotFoundError: `model_folder` holds no model.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise DataError(f"{out}: expected a name in .csv or .parquet for the lists.")
    whole_number(k, "k", 1)
    whole_number(max_new_tokens or 0, "max_new_tokens", 0)
    if use_vllm:
        vllm.require()
    quiet()
    _command_of(out)  # refuses a file of something else before any long work
    for part in parts(interactions_path):
        kind_of(part)  # and so what is no log; its rows are read on the model's scale of ratings
    files: dict[str, Path | None] = {"model": model_folder, "interactions": interactions_path}
    files |= {"users": users_path, "guardrails": guardrails_path}
    # before any is read, so that one replaced meanwhile counts as another next time; who reads a missing one says so
    digests = {name: sha256(path) if path and path.exists() else None for name, path in files.items()}
    wanted = _named_users(users_path, columns) if users_path else None
    rails = rules.load(guardrails_path) if guardrails_path else None
    model = R2ec.load(model_folder)
    max_new_tokens = model.longest(max_new_tokens)
    style, room = model.prompts.style, room_for_prompts(model, max_new_tokens)
    for told in guardrails.idle(rails, model.catalogue) if rails else ():
        print(told, flush=True)
    log = read_interactions(
        interactions_path,
        columns,
        timestamp_unit=timestamp_unit,
        rating_range=(style.rating_min, style.rating_max),
    )
    drop_unknown(model.catalogue, log, str(interactions_path))  # refuses a log of another catalogue; the rest is noted
    if wanted is not None and not log["user_id"].isin(wanted).any():
        raise DataError(
            f"{users_path}: none of its shoppers has a purchase in {interactions_path} (for example "
            f"{brief(wanted[0])!r}; the log has {brief(log['user_id'].iloc[0])!r}). Write the ids alike in both files."
        )
    if wanted is not None and (absent := sorted({*wanted} - {*log["user_id"]})):
        print(
            f"{len(absent):,} of the {len(wanted):,} shoppers of {users_path} have no purchase in {interactions_path} "
            f"(for example {brief(absent[0])!r}; the log has {brief(log['user_id'].iloc[0])!r})",
            flush=True,
        )
    users = log["user_id"].unique() if wanted is None else wanted
    users = np.array([user for user in users if shard_of(user, shard[1]) == shard[0]], object)
    command = {
        **digests,
        "columns": dict(columns),
        "timestamp_unit": timestamp_unit,
        "k": k,
        "max_new_tokens": max_new_tokens,
        "shard": list(shard),
        "use_vllm": use_vllm,
        "shoppers in a part": PART,
        "library": _library(),
        **{name: metadata.version(name) for name in ("torch", "transformers")},
    }

    if use_vllm and max_new_tokens:
        model.writer = vllm.writer(model, model_folder)

    def ask(part: pd.DataFrame) -> Sequence[Recommendation]:
        given = {name: part[name] for name in ("hours", "ratings")}
        given |= {"k": k, "max_new_tokens": max_new_tokens, "latest": part["read"]}
        if rails:
            return guardrails.recommend(model, part["item_ids"], rails, **given)
        return model.recommend(part["item_ids"], **given)

    most_bought = by_popularity(log, model.catalogue)
    fallback = partial(popular, most_bought, k, rails and rails.about_items())
    write_lists(log, users, ask, model.head.item_ids, fallback, out, command, partial(fitted, model, room))


def _library() -> str:
    """Digest of the code in `ROOMS`."""
    files = sorted(file for room in ROOMS for file in (LIBRARY / room).glob("*.py"))
    return hashlib.sha256("".join(map(code_digest, files)).encode()).hexdigest()[:16]


def _named_users(path: Path, columns: Mapping[str, str]) -> np.ndarray:
    """The shoppers whom a file names, each once. Raises DataError."""
    where, table, name = place(path), read_file(path), (LOG_COLUMNS | dict(columns))["user_id"]
    name = "user_id" if name not in table and "user_id" in table else name
    users = to_ids(select_columns(table, {"user_id": name}, where)["user_id"], where).unique()
    if not len(users):
        raise DataError(f"{path}: the file names no shopper.")
    return users


def shard_of(user_id: str, shards: int) -> int:
    """The shard of a shopper, 1…shards, by the CRC-32 of the id's UTF-8: the same everywhere and in every run.

    >>> shard_of("u17", 16)
    5
    """
    return zlib.crc32(user_id.encode()) % shards + 1


def room_for_prompts(model: R2ec, max_new_tokens: int) -> float:
    """Tokens that a prompt may have before a reasoning of `max_new_tokens`; infinite where the model has no limit.

    Raises DataError where not even the prompt of an empty history has room.
    """
    room = model.positions - model.with_ending(max_new_tokens)
    needed = len(model.prompts.empty)
    if room <= needed:
        raise DataError(
            f"max_new_tokens is {max_new_tokens}: of the model's {model.positions} positions this leaves none for a "
            f"history. Expected at most {room + max_new_tokens - needed - 1}, and less by what a history needs."
        )
    return room


def fitted(model: R2ec, room: float, table: pd.DataFrame) -> pd.Series:
    """How many of the latest purchases of each history in a table of `histories_table` the model reads: as many as its
    prompts show and `room` tokens hold; 0 where not even the latest purchase has room."""
    rows = model.purchases(*(table[name] for name in ("item_ids", "hours", "ratings")))
    rows = rows.set_axis(table.index).drop(columns="owned")
    read = rows["history"].map(len)
    while len(rows):
        long = np.array([len(ids) > room for ids in model.prompts.user_ids(rows, model.titles)])
        rows = rows[long].map(lambda facts: facts[1:])  # all but the oldest
        read[rows.index] -= 1
        rows = rows[read[rows.index] > 0]
    return read


def by_popularity(log: pd.DataFrame, catalogue: pd.DataFrame) -> pd.DataFrame:
    """The catalogue, the items with the most interactions in the log first, those with equally many as they stood."""
    counts = log["item_id"].value_counts().reindex(catalogue["item_id"], fill_value=0).to_numpy()  # (N,)
    return catalogue.iloc[np.argsort(-counts, kind="stable")].reset_index(drop=True)


def popular(most_bought: pd.DataFrame, k: int, rails: Guardrails | None = None, owned: Sequence[str] = ()) -> Guarded:
    """The k first of the most bought items (`by_popularity`), for a shopper of whom a model can be asked nothing.

    A model knows no popularity, so the log at hand is counted, with all of its shoppers. What the shopper owns is left
    out, and so is what rules bar of it.
    """
    mine = most_bought["item_id"].isin(owned).to_numpy()
    free, actions = ~mine, []
    if rails:
        history = [np.flatnonzero(mine).tolist()]
        unruled = pd.DataFrame({"sample_id": [0], "chain": [""], "top_items": [np.flatnonzero(free)[:k].tolist()]})
        broken = guardrails.judge(rails, unruled, pd.DataFrame({"sample_id": [0], "history": history}), most_bought)
        actions = [Action(row.rule, "item masked", row.evidence) for row in broken.itertuples()]
        free &= ~guardrails.blocked(rails, history, [""], most_bought)[0]
    best = most_bought[free].head(k)
    return Guarded(best["item_id"].tolist(), best["title"].tolist(), [math.nan] * len(best), "", tuple(actions))


def write_lists(
    log: pd.DataFrame,
    users: np.ndarray,
    ask: Ask,
    item_ids: Sequence[str],
    fallback: Fallback,
    out: Path,
    command: Mapping[str, Any],
    fit: Fit = lambda table: table["item_ids"].map(len),
) -> None:
    """Asks for the list of each of `users`, a part at a time, and writes all of them to `out`.

    Args:
        users: ids without repetitions, in the order of their lists; each may be absent from the log.
        log: an interactions table; what it has of items that are not in `item_ids` is left out and counted.
        fallback: what a shopper gets of whom no interaction is left, or none that the model has room for.
        fit: how much of the histories of a part the model reads.
        command: what the lists are made from. Parts of the same command are gone on from, and it is kept in the file.

    Raises:
        DataError: parts of another command, or `out` is a file of something else or another shard's.
    """
    folder = out.with_name(f".{out.name}.parts")
    held = _command_of(out)
    if held == command:
        if folder.is_dir() and _begun(folder) in (None, command):  # it was killed at its very end
            with _opened(folder, command):
                shutil.rmtree(folder)
        return print(f"{out} holds these lists already.")
    if held and {**held, "shard": None} == {**command, "shard": None}:
        raise DataError(f"{out} holds shard {'/'.join(map(str, held['shard']))} of these lists; name another --out.")
    if held:
        changed = ", ".join(key for key in command if held.get(key) != command[key])
        print(f"{out} holds lists of a command with another {changed}; they will be replaced.", flush=True)
    at = log["timestamp"].max()
    owners = pd.Index(users).get_indexer(log["user_id"])  # (rows,) −1 for those who get no list
    in_catalogue = log["item_id"].isin(item_ids).to_numpy()
    unknown = np.bincount(owners[(owners >= 0) & ~in_catalogue], minlength=len(users))  # interactions of each shopper
    rows = np.flatnonzero((owners >= 0) & in_catalogue)
    rows = rows[np.argsort(owners[rows], kind="stable")]
    log, owners = log.iloc[rows], owners[rows]
    nobody = fallback([])
    with _opened(folder, command):
        parts = {start: folder / f"{start:012}.parquet" for start in range(0, len(users), PART)}
        missing = [start for start, part in parts.items() if not part.exists()]
        if len(missing) < len(parts):
            print(f"{len(parts) - len(missing):,} of {len(parts):,} parts are there already.", flush=True)
        begun, reported = time.monotonic(), -math.inf
        for done, start in enumerate(missing, start=1):
            asked = slice(start, start + PART)
            table = histories_table(log.iloc[slice(*np.searchsorted(owners, [start, start + PART]))], at)
            table["read"] = fit(table) if len(table) else 0
            asking, others = table[table["read"] > 0], table[table["read"] == 0]
            answers = dict(zip(asking.index, ask(asking), strict=True)) if len(asking) else {}
            instead = dict.fromkeys(users[asked], nobody) | others["item_ids"].map(fallback).to_dict()
            cut = table.loc[table["read"] < table["item_ids"].map(len), "read"].to_dict()
            lists = _rows(users[asked], unknown[asked], cut, answers, instead)
            write_atomically(parts[start], partial(pq.write_table, lists))
            now = time.monotonic()
            if now - reported >= REPORT_EVERY and done < len(missing):
                left = (now - begun) / done * (len(missing) - done) / 60
                print(f"{done:,} of {len(missing):,} parts of {PART} shoppers, about {left:.0f} min left", flush=True)
                reported = now
        listed, of_popular = _join(list(parts.values()), out, command)
        shutil.rmtree(folder)
    print(f"{listed:,} lists in {out}, {of_popular:,} of them the popular items")
    if unknown.any():
        print(f"{unknown.sum():,} interactions with items that are not in the catalogue left out")
    if listed < len(users):
        print(f"{len(users) - listed:,} shoppers without a list: the rules or their history leave no item")


@contextmanager
def _opened(folder: Path, command: Mapping[str, Any]) -> Iterator[None]:
    """The folder of a command's parts, which one process at a time works in. Raises DataError."""
    folder.mkdir(parents=True, exist_ok=True)
    busy = DataError(f"{folder} is being written by another process. Wait for it, or name another --out.")
    with alone(folder / "lock", busy):
        old = _begun(folder) or command
        if changed := [key for key in command if old.get(key) != command[key]]:
            raise DataError(
                f"{folder} holds parts of an interrupted command with another {', '.join(changed)}. Remove the folder "
                "to start anew, or name another --out."
            )
        write_json(command, folder / NOTE)
        yield


def _begun(folder: Path) -> Any:
    """The command whose parts a folder holds; None where it holds none."""
    return read_json(folder / NOTE) if (folder / NOTE).exists() else None


def _rows(
    users: np.ndarray,
    unknown: np.ndarray,
    cut: Mapping[str, int],
    answers: Mapping[str, Recommendation],
    instead: Mapping[str, Recommendation],
) -> pa.Table:
    """A row per shopper and place, from `instead` where there is no answer; `cut`: how many interactions were asked
    about, of shoppers who have more."""
    columns: dict[str, list] = {name: [] for name in LISTS.names}
    for user, lost in zip(users, unknown.tolist(), strict=True):
        best = answers.get(user, instead[user])
        notes = [f"{lost} interactions with unknown items left out"] if lost else []
        if user in cut:
            read = f"reads the latest {cut[user]} alone" if cut[user] else "has room for none of them"
            notes.append(f"the model {read}")
        note = "; ".join(notes)
        if user not in answers:
            note = f"{POPULAR}: {note or 'no purchases, or all of them returned'}"
        evidence: dict[str, list[str]] = {}
        for action in best.actions if isinstance(best, Guarded) else ():
            evidence.setdefault(f"{action.rule}: {action.action}", []).append(action.evidence)
        acted = "; ".join(f"{what} ({', '.join(parts)})" for what, parts in evidence.items())
        scores = [None if math.isnan(score) else score for score in best.scores]
        size = len(best.item_ids)
        ranked = [[user] * size, range(1, size + 1), best.item_ids, best.titles, scores]
        ranked += [[text] * size for text in (best.reasoning, note, acted)]
        for column, values in zip(columns.values(), ranked, strict=True):
            column.extend(values)
    return pa.table(columns, LISTS)


def _join(parts: Sequence[Path], out: Path, command: Mapping[str, Any]) -> tuple[int, int]:
    """Writes the parts to one file, Parquet or CSV by its name, one of them in memory at a time; how many lists there
    are, and popular ones."""
    schema = LISTS.with_metadata({COMMAND: json.dumps(command)})
    counts: Counter[bool] = Counter()  # of lists, by whether they hold popular items

    def tables() -> Iterator[pa.Table]:
        for part in parts:
            table = pq.read_table(part)
            yield table
            firsts = table.filter(pc.field("place") == 1)["note"].to_pylist()
            counts.update(note.startswith(POPULAR) for note in firsts)

    def write_parquet(path: Path) -> None:
        with pq.ParquetWriter(path, schema) as file:
            for table in tables():
                file.write_table(table)

    def write_csv(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(CSV_HEADER)
            for rows in (table.to_pandas() for table in tables()):
                texts = rows.select_dtypes(exclude="number").map(review.neutral)  # a score may begin with a minus
                how = {"header": False, "index": False, "quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\n"}
                rows.assign(**texts).to_csv(file, **how)

    write_atomically(out, write_csv if out.suffix == ".csv" else write_parquet)
    return counts.total(), counts[True]


def _command_of(out: Path) -> dict[str, Any] | None:
    """What the lists in a file were made from, nothing for a CSV, which does not say so; None where there is no file.
    Raises DataError for any other file."""
    if not out.exists():
        return None
    other = DataError(f"{out} exists and holds no lists of recommendations. Name another --out.")
    if out.suffix == ".csv":
        with out.open("rb") as file:
            if file.readline() != CSV_HEADER.encode():
                raise other
        return {}
    try:
        return json.loads(pq.read_schema(out).metadata[COMMAND])
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise other from error
