"""Items that come and go after training: a file of items in, the model's folder with the new catalogue out.

The folder is replaced when the new one is complete; what stood in it beside the model, such as a student, comes along.
Reading and cleaning items is the business of `data.readers`, encoding them that of `R2ec.add_items`.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from r2ec_lib.data.formats import place, read_file
from r2ec_lib.data.readers import LOG_COLUMNS, REMOVED, marks_removed, named_items, select_columns
from r2ec_lib.data.schema import DataError, Where, at, brief, to_ids
from r2ec_lib.data.storage import alone, whole_folder
from r2ec_lib.model import R2ec, saved
from r2ec_lib.model.backbone import quiet

TRUTHS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
TRUTHS |= {"0.0": False, "1.0": True}  # numbers with gaps, as pandas writes them


def update(model_folder: Path, items_path: Path, columns: Mapping[str, str], remove: bool = False) -> None:
    """Adds, replaces and removes the items of a file, and tells how many of each.

    Args:
        columns: as in `readers.read_logs`.
        remove: removes all items of the file, of which only the ids are read; otherwise those whose `REMOVED` is true
            are removed, and all others added or replaced.

    Columns that the catalogue lacks are left out and told; where one is missing, a replaced item keeps its text. A row
    without a title, which only a new item needs, changes what it holds: a replaced item keeps its other texts.

    Raises:
        DataError: a file that cannot be used, a repeated id, nothing would be left, another process changes the model,
            or the model is that of a run, whose tables name items by their place in its catalogue.
        FileNotFoundError: `model_folder` holds no model.
    """
    if not model_folder.is_dir():  # whose lock would be left behind
        raise FileNotFoundError(f"{model_folder} holds no saved R²ec")
    model_folder = model_folder.resolve()  # neither the working folder nor a link to it can be replaced
    if (model_folder.parent / "data" / "samples.parquet").exists():
        raise DataError(
            f"{model_folder} belongs to a run, whose tables and pages would no longer fit another catalogue. Copy the "
            "folder and change the copy."
        )
    where, raw, names = place(items_path), read_file(items_path), LOG_COLUMNS | dict(columns)
    advice = "Correct the file, or set column_catalogue_id to the name that it has."
    ids = to_ids(select_columns(raw, {"item_id": names["catalogue_id"]}, where, advice)["item_id"], where)
    if ids.duplicated().any():
        row = ids.index[ids.duplicated()][0]
        raise DataError(f"{at(where, row)}: the id {brief(ids[row])!r} is repeated. Keep one row per item.")
    mark = next(filter(marks_removed, raw), REMOVED)
    gone = pd.Series(True, raw.index) if remove else _truths(raw[mark], where) if mark in raw else ids.isna()
    busy = DataError(f"{model_folder} is being changed by another process. Wait for it and start again.")
    quiet()
    with alone(model_folder.with_name(f".{model_folder.name}.lock"), busy):
        model = R2ec.load(model_folder)
        present = ids.isin(model.head.item_ids)
        added = raw[~gone].drop(columns=mark, errors="ignore")
        if len(added):
            if names["title"] not in added and present[~gone].all():
                added = added.assign(**{names["title"]: None})
            items = named_items(added, columns, where)
            kept = model.catalogue.set_index("item_id").reindex(ids[~gone]).set_axis(added.index)  # none of a new item
            untitled, texts = items["title"].isna(), items.columns.intersection(kept.columns)
            items[texts] = items[texts].astype(object)
            items.loc[untitled, texts] = items.loc[untitled, texts].fillna(kept)
            if further := [name for name in items if name not in model.catalogue]:
                print(f"columns that the catalogue lacks, left out: {', '.join(map(brief, further))}")
            model.add_items(items, where)
        model.remove_items(ids[gone & present].tolist())
        with whole_folder(model_folder) as fresh:
            model.save(fresh)
            for path in model_folder.iterdir():
                if path.name not in saved.PARTS:
                    _copy(path, fresh / path.name)
    print(
        f"{(~gone & ~present).sum():,} items added, {(~gone & present).sum():,} replaced, "
        f"{(gone & present).sum():,} removed, {(gone & ~present).sum():,} to remove were not there; "
        f"{len(model.head.item_ids):,} items now"
    )


def _copy(path: Path, target: Path) -> None:
    """A file, a link or a whole folder, at another place. A student, which reads new items as they are, is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, target, symlinks=True)
    else:
        shutil.copy2(path, target, follow_symlinks=False)


def _truths(values: pd.Series, where: Where) -> pd.Series:
    truths = values.astype(object).where(values.notna(), "").astype(str).str.strip().str.casefold().map(TRUTHS)
    if truths.isna().any():
        row = truths.index[truths.isna()][0]
        words = ", ".join(filter(None, TRUTHS))
        raise DataError(f"{at(where, row)}: {REMOVED} is {brief(values[row])!r}; expected {words} or empty.")
    return truths.astype(bool)
