"""People in the loop: blind review sheets out, filled sheets in, how reviewers agree, and pages of single cases.

A sheet shows a history, a reason and what was recommended, in random order, without model, rank or next purchase; the
key that maps its cases to samples and models is a table of its own. Texts of shoppers, items and reviewers are not
trusted: they are escaped in HTML, and in CSV kept from being read as formulas. What training makes of the accepted
reasons is the business of `training.judgements`.
"""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import jinja2
import krippendorff
import numpy as np
import pandas as pd

from r2ec_lib.analysis.quality import rank_correlations
from r2ec_lib.data.schema import DataError
from r2ec_lib.model.claims import FORMS, Checker
from r2ec_lib.model.prompts import Prompts
from r2ec_lib.training.judgements import ACCEPT

CRITERIA = {  # none is called "true", which spreadsheets turn into a truth value
    "truthful": "Is what the reason says about the shopper and the items true?",
    "relevant": "Does it speak of this shopper, and of what matters for the next purchase?",
    "consistent": "Do the reason and the recommended items fit together?",
    "readable": "Is it easy to read and understand?",
}
SCALE = (1, 5)
"""Lowest and highest mark: 1 not at all, 5 fully."""

SHOWN = ["case", "history", "reason", "recommended"]
FILLED = [*CRITERIA, "accept", "remark"]
SHEET_COLUMNS = [*SHOWN, *FILLED]
KEY = ["case", "sample_id", "user_id", "model", "rank", "chain"]
"""What a sheet hides, as columns of a table kept apart from it."""
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
_MARK = "\ufeff"
FAULTS = 3
"""Faults of a sheet that an error names, the first ones; the others are counted."""
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


def sample_cases(chains: pd.DataFrame, count: int, seed: int = 0) -> pd.DataFrame:
    """Draws `count` rows of a chains table in random order, or all of them where there are no more.

    Adds `case`, an id that tells nothing: a number in this order and a few digits of a hash of sample, model and
    reason, by which a sheet filled for other reasons is detected.
    """
    cases = chains.sample(min(count, len(chains)), random_state=seed).reset_index(drop=True)
    keys = ["\0".join(map(str, row)) for row in cases[["sample_id", "model", "chain"]].itertuples(index=False)]
    digits = [hashlib.sha256(key.encode()).hexdigest()[:6] for key in keys]
    return cases.assign(case=[f"case-{number:03d}-{part}" for number, part in enumerate(digits, start=1)])


def review_sheet(cases: pd.DataFrame, samples: pd.DataFrame, items: pd.DataFrame, shown: int = 5) -> pd.DataFrame:
    """The sheet that a reviewer fills: `SHEET_COLUMNS`, a row per case of `sample_cases`, with the first `shown`
    recommended items and nothing that tells model, rank or target."""
    titles, histories = items["title"].tolist(), samples.set_index("sample_id")["history"]
    sheet = pd.DataFrame(
        {
            "case": cases["case"],
            "history": [" · ".join(titles[item] for item in histories[sample]) for sample in cases["sample_id"]],
            "reason": cases["chain"],
            "recommended": [" · ".join(titles[item] for item in top[:shown]) for top in cases["top_items"]],
        }
    )
    return sheet.assign(**dict.fromkeys(FILLED, ""))[SHEET_COLUMNS]


def to_csv(table: pd.DataFrame) -> str:
    """CSV text in which no cell is a formula, after a byte-order mark, by which spreadsheets know UTF-8; `from_csv`
    removes both again."""
    cells = table.map(lambda cell: neutral(str(cell))).rename(columns=lambda name: neutral(str(name)))
    return _MARK + cells.to_csv(index=False, quoting=csv.QUOTE_ALL, lineterminator="\n")


def from_csv(text: str) -> pd.DataFrame:
    """The cells, as text, of what `to_csv` wrote or a spreadsheet saved from it (with a byte-order mark, with
    semicolons), indexed by the line in which a row ends. Raises DataError for an empty text, or a row of another
    width, with its line."""
    text = text.removeprefix(_MARK)
    names = text.partition("\n")[0]
    delimiter = ";" if names.count(";") > names.count(",") else ","
    csv.field_size_limit(2**31 - 1)  # a remark may be of any length
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = [(reader.line_num, [_raw(cell) for cell in row]) for row in reader if row]
    if not rows:
        raise DataError("the sheet is empty; expected a line of column names.")
    (_, header), *rows = rows
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"line {line}: {len(row)} cells; expected {len(header)}, as in the first line.")
    return pd.DataFrame([row for _, row in rows], pd.Index([line for line, _ in rows], name="line"), header, dtype=str)


def neutral(cell: str) -> str:
    """The text of a cell that no spreadsheet takes for a formula.

    A cell that starts with =, +, -, @ (also full-width), tab or a line break, perhaps after spaces, which some
    spreadsheets drop, or with an apostrophe before one of these, gets one more apostrophe.
    """
    return f"'{cell}" if cell.lstrip(" '").startswith(_FORMULA) else cell


def _raw(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell.lstrip(" '").startswith(_FORMULA) else cell


def to_html(sheet: pd.DataFrame, title: str = "Review of reasons") -> str:
    """A printable page of a sheet, each case a block that no page break cuts."""
    page = {"title": title, "criteria": CRITERIA, "marks": range(SCALE[0], SCALE[1] + 1), "shown": SHOWN[1:]}
    return _TEMPLATES.get_template("sheet.html.j2").render(page, cases=sheet.to_dict("records"))


def read_sheet(text: str, cases: Sequence[str], reviewer: str, where: str = "the sheet") -> pd.DataFrame:
    """A filled sheet, checked whole; the first `FAULTS` faults are named with their lines, and others are counted.

    Args:
        text: CSV; columns beyond case, the criteria, accept and remark may be left out, others are refused.
        cases: the ids that were asked for.

    Returns:
        A row per case, in the order of `cases`: reviewer, case, the criteria (float, NaN where the cell is empty),
        accept (1 yes, −1 no, 0 empty), remark.

    Raises:
        DataError: unknown or missing columns, wrong or repeated ids, marks outside the scale, missing rows.
    """
    try:
        table = from_csv(text)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    faults = [f'line 1: unknown column "{name}"' for name in table.columns if name not in SHEET_COLUMNS]
    faults += [f'line 1: column "{name}" is repeated' for name in table.columns[table.columns.duplicated()]]
    faults += [f'line 1: no column "{name}"' for name in ["case", *FILLED] if name not in table.columns]
    if faults:
        raise DataError(f"{where}: {'; '.join(faults)}. Expected the columns {', '.join(SHEET_COLUMNS)}.")
    low, high = SCALE
    allowed = {str(mark): float(mark) for mark in range(low, high + 1)} | {"": np.nan}
    filled = table[["case", *CRITERIA, "accept"]].map(str.strip).assign(accept=table["accept"].str.strip().str.lower())
    lines: dict[str, int] = {}  # case -> the line where it is first
    for line, row in filled.iterrows():
        case = row["case"]
        if case not in set(cases):
            faults.append(f'line {line}: unknown case "{case}"')
        elif case in lines:
            faults.append(f'line {line}: case "{case}" is repeated, first in line {lines[case]}')
        lines.setdefault(case, line)
        bad = [name for name in CRITERIA if row[name] not in allowed]
        faults += [f'line {line}: {name} is "{row[name]}"; expected {low} to {high}, or nothing' for name in bad]
        if row["accept"] not in ACCEPT:
            faults.append(f'line {line}: accept is "{row["accept"]}"; expected yes, no or nothing')
    if missing := [case for case in cases if case not in lines]:
        faults.append(f"after line {max(table.index, default=1)}: no row for {_first(missing, ', ')}")
    if faults:
        raise DataError(f"{where}: {_first(faults, '; ')}.")
    filled = filled.assign(remark=table["remark"]).set_index("case").loc[list(cases)].reset_index()
    marks = {name: filled[name].map(allowed).astype(float) for name in CRITERIA}
    filled = filled.assign(**marks, accept=filled["accept"].map(ACCEPT).astype(int))
    filled.insert(0, "reviewer", reviewer)
    return filled


def _first(parts: Sequence[str], separator: str) -> str:
    """The first `FAULTS` parts, and how many more there are."""
    rest = [f"and {len(parts) - FAULTS} more"] if len(parts) > FAULTS else []
    return separator.join([*parts[:FAULTS], *rest])


def sheet_files(folder: Path) -> list[Path]:
    """The filled sheets in a folder, by name. Raises DataError where there is no such folder, no sheet in it, or two
    of one reviewer."""
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() == ".csv")
    if not files:
        raise DataError(f"{folder}: no review sheets; expected a folder with one CSV file per reviewer.")
    for one, other in pairwise(sorted(files, key=lambda path: path.stem)):
        if one.stem == other.stem:
            raise DataError(f"{folder}: {one.name} and {other.name} are sheets of one reviewer. Rename or remove one.")
    return files


def read_file(path: Path, cases: Sequence[str]) -> pd.DataFrame:
    """The filled sheet in a file named after its reviewer (ann.csv), as `read_sheet` returns it.

    Raises:
        DataError: as `read_sheet`, and for a file that is not UTF-8 text.
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name}, line {line}: not UTF-8 text (perhaps saved as ANSI). Save the sheet as CSV UTF-8."
        ) from error
    return read_sheet(text, cases, path.stem, path.name)


def agreement(marks: pd.DataFrame) -> pd.DataFrame:
    """Krippendorff's α (ordinal) of each criterion over the tables of `read_sheet`, below each other: criterion,
    alpha, mean (mark), cases and reviewers that count.

    α is 1 for full agreement, 0 for that of chance, negative below chance, and NaN where no case has two marks or all
    marks of such cases are equal: there is nothing to agree on.
    """
    rows = []
    for name in CRITERIA:
        given = marks.pivot(index="reviewer", columns="case", values=name)
        pairs = given.loc[:, given.notna().sum() >= 2]
        varied = pairs.stack().nunique() > 1
        alpha = krippendorff.alpha(pairs.to_numpy(), level_of_measurement="ordinal") if varied else np.nan
        counted = {"cases": pairs.shape[1], "reviewers": int(pairs.notna().any(axis=1).sum())}
        rows.append({"criterion": name, "alpha": float(alpha), "mean": marks[name].mean(), **counted})
    return pd.DataFrame(rows)


def quality_correlation(
    marks: pd.DataFrame, cases: pd.DataFrame, quality: Mapping[str, float], resamples: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """How an automatic quality index goes with people's marks, the mean over reviewers: Spearman's ρ over cases, 95 %
    interval over users.

    Args:
        marks: the tables of `read_sheet`, below each other.
        cases: the `KEY` of the sheet.
        quality: the index of each case.

    Returns:
        criterion (and "all", the mean of the criteria), correlation, low, high, cases; NaN below three cases or where
        one side does not vary.
    """
    mean = marks.groupby("case")[list(CRITERIA)].mean()
    mean["all"] = mean.mean(axis=1, skipna=False)
    other = {"index": pd.Series(quality, dtype=float), "user": cases.set_index("case")["user_id"]}
    rows = []
    for name in mean:
        both = pd.DataFrame({"mark": mean[name]} | other).dropna()
        interval = (np.nan, np.nan, np.nan)
        if len(both) > 2:
            table = rank_correlations(both[["index"]], both["mark"], both["user"], resamples, seed)
            interval = tuple(table.loc[0, ["share", "low", "high"]])
        rows.append((name, *interval, len(both)))
    return pd.DataFrame(rows, columns=["criterion", "correlation", "low", "high", "cases"])


def case_html(
    sample: pd.Series,
    items: pd.DataFrame,
    chain: str,
    mentioned: pd.DataFrame,
    top: Mapping[str, tuple[Sequence[int], Sequence[float], float]],
    note: str = "",
    prompts: Prompts | None = None,
) -> str:
    """One case as a safe HTML fragment: history, reasoning with its mentions, and top items with scores.

    Mentions of the history are marked, other items of the catalogue underlined; the next purchase is set in bold.

    Args:
        mentioned: the chain's rows of `mentions.mentions`.
        top: heading to (item indexes, scores, rank of the next purchase), such as with and without reasoning.
        note: why the case is shown.
        prompts: of the model that wrote the chain: then each statement about the history (`model.claims`) is listed,
            with whether it holds; an unfinished last one is not.
    """
    finished = chain.rstrip().endswith(".")
    checked = Checker(items, prompts).check(chain, finished, sample["history"]) if prompts else []
    told = [(FORMS[kind].format(name), holds) for kind, name, holds in checked]
    pieces, at = [], 0  # (text, "history", "other" or "")
    for mention in mentioned.sort_values("start").drop_duplicates("start").itertuples():
        kind = "history" if mention.in_history else "other"
        pieces += [(chain[at : mention.start], ""), (chain[mention.start : mention.end], kind)]
        at = mention.end
    pieces = [piece for piece in [*pieces, (chain[at:], "")] if piece[0]]
    case = {"user": sample["user_id"], "history": sample["history"], "target": sample["target"], "note": note}
    return _TEMPLATES.get_template("case.html.j2").render(
        case, titles=items["title"].tolist(), pieces=pieces, told=told, top=top
    )
