"""People in the loop: blind review sheets out, filled sheets in, agreement, and judged sentences as a reward.

A sheet shows a history, a reason and what was recommended, in random order, without model, rank or next purchase; the
key that maps its cases to samples and models is a table of its own. What comes from shoppers, items and reviewers is
foreign text: escaped in HTML, and in CSV kept from being read as a formula.
"""

import csv
import hashlib
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from nltk.metrics.agreement import AnnotationTask

from r2ec_lib.analysis.quality import rank_correlations
from r2ec_lib.data.schema import DataError
from r2ec_lib.training.judgements import ACCEPT

CRITERIA = {
    "true": "Is what the reason says about the shopper and the items true?",
    "relevant": "Does it speak of this shopper, and of what matters for the next purchase?",
    "consistent": "Do the reason and the recommended items fit together?",
    "readable": "Is it easy to read and understand?",
}
SCALE = (1, 5)
"""Lowest and highest mark: 1 not at all, 5 fully."""

SHOWN = ["case", "history", "reason", "recommended"]
FILLED = [*CRITERIA, "accept", "remark"]
SHEET_COLUMNS = [*SHOWN, *FILLED]
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")


# ---- sheets out ----------------------------------------------------------------------------------------------------


def sample_cases(chains: pd.DataFrame, strata: Sequence, count: int, seed: int = 0) -> pd.DataFrame:
    """Draws `count` rows of a chains table, as equally from its strata as these allow, in random order.

    Args:
        strata: the stratum of each row, such as rank bucket and history length in one text (`strata_of`).

    Returns:
        The drawn rows with `stratum` and `case`, an id that tells nothing: a number in this order and a few digits of
        a hash of sample, model and reason, by which a sheet filled for other reasons is found out. All rows where the
        table holds no more than `count`.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least one case")
    rng = np.random.default_rng(seed)
    table = chains.assign(stratum=[str(one) for one in strata]).iloc[rng.permutation(len(chains))]
    turn = table.groupby("stratum").cumcount()  # the first of each stratum before the second of any
    drawn = table.iloc[np.lexsort((rng.random(len(table)), turn))[:count]]
    drawn = drawn.iloc[rng.permutation(len(drawn))].reset_index(drop=True)
    marks = [_digest(*row) for row in drawn[["sample_id", "model", "chain"]].itertuples(index=False)]
    return drawn.assign(case=[f"case-{n:03d}-{mark}" for n, mark in enumerate(marks, start=1)])


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:6]


def strata_of(ranks: Sequence[float], histories: Sequence[Sequence[int]], k: int = 10) -> pd.Series:
    """Rank bucket (found within k, or not) and history length (1, 2–4, 5 or more) of each case, in one text."""
    lengths = pd.cut([len(history) for history in histories], [0, 1, 4, np.inf], labels=["1", "2–4", "5 or more"])
    found = np.where(np.asarray(ranks, float) <= k, f"within {k}", f"beyond {k}")
    return pd.Series([f"{bucket}, history of {length}" for bucket, length in zip(found, lengths, strict=True)])


def review_sheet(cases: pd.DataFrame, samples: pd.DataFrame, items: pd.DataFrame, shown: int = 5) -> pd.DataFrame:
    """The sheet that a reviewer fills: `SHEET_COLUMNS`, a row a case, nothing that tells model, rank or target.

    Args:
        cases: rows of `sample_cases` with sample_id, chain, top_items.
        samples: `sample_id`, `history`, for at least these samples. items: the catalogue, in item-index order.
        shown: recommended items a case.
    """
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


def key(cases: pd.DataFrame) -> pd.DataFrame:
    """What a sheet hides, kept apart from it: case, sample_id, user_id, model, stratum, rank, chain."""
    return cases[["case", "sample_id", "user_id", "model", "stratum", "rank", "chain"]].reset_index(drop=True)


def to_csv(table: pd.DataFrame) -> str:
    """CSV text in which no cell is a formula.

    A cell that starts with =, +, -, @ (also full-width), tab or a line break, or with an apostrophe before one of
    these, gets one more apostrophe. `from_csv` takes it off again.

    Leading spaces are looked through, since some spreadsheets drop them.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow([_neutral(str(column)) for column in table.columns])
    writer.writerows([[_neutral(str(cell)) for cell in row] for row in table.itertuples(index=False)])
    return out.getvalue()


def from_csv(text: str) -> pd.DataFrame:
    """What `to_csv` wrote, or a spreadsheet saved from it (with a byte-order mark, with semicolons).

    Returns:
        Cells as text, indexed by the line in which the row begins.

    Raises:
        DataError: an empty text, or a row of another width, with its line.
    """
    text = text.removeprefix("\ufeff")
    names = text.partition("\n")[0]
    delimiter = ";" if names.count(";") > names.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows, lines = [], []
    begin = 1
    for row in reader:
        if row:
            rows.append([_raw(cell) for cell in row])
            lines.append(begin)
        begin = reader.line_num + 1
    if not rows:
        raise DataError("the sheet is empty; expected a line of column names.")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(rows[0]):
            raise DataError(f"line {line}: {len(row)} cells; expected {len(rows[0])}, as in the first line.")
    return pd.DataFrame(rows[1:], columns=rows[0], index=pd.Index(lines[1:], name="line"), dtype=str)


def _neutral(cell: str) -> str:
    return f"'{cell}" if cell.lstrip(" '").startswith(_FORMULA) else cell


def _raw(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell.lstrip(" '").startswith(_FORMULA) else cell


def to_html(sheet: pd.DataFrame, title: str = "Review of reasons") -> str:
    """A printable page of a sheet, a case a block that no page break cuts; everything foreign is escaped."""
    low, high = SCALE
    asked = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(text)}</li>" for name, text in CRITERIA.items())
    marks = " ".join(f"<span>{mark}</span>" for mark in range(low, high + 1))
    lines = "".join(f"<tr><td>{html.escape(name)}</td><td class='marks'>{marks}</td></tr>" for name in CRITERIA)
    accept = "<tr><td>accept</td><td class='marks'><span>yes</span> <span>no</span></td></tr>"
    blocks = []
    for row in sheet.to_dict("records"):
        told = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(row[name])) or '(none)'}</dd>" for name in SHOWN[1:]
        )
        heading = f"<h2>{html.escape(str(row['case']))}</h2>"
        blocks.append(f"<section>{heading}<dl>{told}</dl><table>{lines}{accept}</table><p>Remark:</p></section>")
    style = (
        "body{font:11pt/1.4 sans-serif;max-width:48em;margin:2em auto;padding:0 1em}"
        "section{break-inside:avoid;border-top:1px solid;padding-bottom:2em}"
        "dt{font-weight:bold}dd{white-space:pre-wrap}"
        ".marks span{border:1px solid;border-radius:1em;padding:0 .5em;margin:0 .3em}"
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{style}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<p>Reviewer: ____________________</p>"
        f"<p>Circle one mark a line, from {low} (not at all) to {high} (fully), and "
        f"whether a shopper may be shown the reason.</p><ul>{asked}</ul>"
        f"{''.join(blocks)}</body></html>\n"
    )


def rehearse(
    sheet: pd.DataFrame, worth: pd.DataFrame, reviewers: int = 3, noise: float = 0.7, seed: int = 0
) -> dict[str, str]:
    """Sheets filled by a rule in place of people, to see what follows from filled ones. They judge nothing.

    A mark is 1 + 4 · worth + N(0, `noise`²), rounded into the scale; a reason is accepted where its mean mark is above
    the middle of the scale.

    Args:
        worth: a row a case of `sheet`, in its order, and a column of 0…1 for each of `CRITERIA`.

    Returns:
        Name to CSV text, as `read_sheet` takes it.
    """
    rng, (low, high), sheets = np.random.default_rng(seed), SCALE, {}
    for number in range(1, reviewers + 1):
        marks = low + (high - low) * worth[list(CRITERIA)].to_numpy(float) + rng.normal(0, noise, (len(sheet), 4))
        marks = np.clip(np.rint(marks), low, high).astype(int)  # (cases, criteria)
        filled = {name: marks[:, column].astype(str) for column, name in enumerate(CRITERIA)}
        accepted = np.where(marks.mean(axis=1) > (low + high) / 2, "yes", "no")
        sheets[f"stand-in {number}"] = to_csv(sheet.assign(**filled, accept=accepted))
    return sheets


# ---- filled sheets in ----------------------------------------------------------------------------------------------


def read_sheet(text: str, cases: Sequence[str], reviewer: str, where: str = "the sheet") -> pd.DataFrame:
    """A filled sheet, checked whole; every fault is named with its line.

    Args:
        text: CSV; columns beyond case, the criteria, accept and remark may be left out, others are refused.
        cases: the ids that were asked for.
        reviewer: a name or number for this reviewer.

    Returns:
        reviewer, case, the criteria (float, NaN where the cell is empty), accept (1 yes, −1 no, 0 empty), remark; a
        row a case, in the order of `cases`.

    Raises:
        DataError: unknown or missing columns, wrong or repeated ids, marks outside the scale, missing rows.
    """
    try:
        table = from_csv(text)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    faults = [f'line 1: unknown column "{name}"' for name in table.columns if name not in SHEET_COLUMNS]
    faults += [f'line 1: column "{name}" stands twice' for name in table.columns[table.columns.duplicated()]]
    faults += [f'line 1: no column "{name}"' for name in ["case", *FILLED] if name not in table.columns]
    if faults:
        raise DataError(f"{where}: {'; '.join(faults)}. Expected the columns {', '.join(SHEET_COLUMNS)}.")
    low, high = SCALE
    allowed, first = {str(mark): float(mark) for mark in range(low, high + 1)} | {"": np.nan}, {}
    for line, row in table.iterrows():
        case = row["case"].strip()
        if case not in set(cases):
            faults.append(f'line {line}: unknown case "{case}"')
        elif case in first:
            faults.append(f'line {line}: case "{case}" stood already in line {first[case]}')
        first.setdefault(case, line)
        for name in CRITERIA:
            if row[name].strip() not in allowed:
                faults.append(f'line {line}: {name} is "{row[name]}"; expected {low} to {high}, or nothing')
        if row["accept"].strip().lower() not in ACCEPT:
            faults.append(f'line {line}: accept is "{row["accept"]}"; expected yes, no or nothing')
    missing = [case for case in cases if case not in first]
    faults += (
        [f"after line {table.index.max() if len(table) else 1}: no row for {', '.join(missing)}"] if missing else []
    )
    if faults:
        raise DataError(f"{where}: " + "; ".join(faults) + ".")
    table = table.assign(case=table["case"].str.strip()).set_index("case").loc[list(cases)].reset_index()
    filled = {name: table[name].str.strip().map(allowed).astype(float) for name in CRITERIA}
    filled |= {"accept": table["accept"].str.strip().str.lower().map(ACCEPT).astype(int), "remark": table["remark"]}
    return pd.DataFrame({"reviewer": reviewer, "case": table["case"], **filled})


# ---- agreement and quality -----------------------------------------------------------------------------------------


def krippendorff_alpha(marks: np.ndarray) -> float:
    """Krippendorff's α for ordinal marks, 1 for full agreement, 0 for that of chance, below for less.

    α = 1 − D_o / D_e is NLTK's; the ordinal distance, which it leaves to its caller, is
    δ²(c, k) = (Σ_{g=c..k} n_g − (n_c + n_k) / 2)², with n_g the marks of value g among those that count
    (K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011). Cases with fewer than two marks do not count.

    Args:
        marks: (reviewers, cases), NaN where a reviewer gave none.

    Returns:
        NaN where no case has two marks, or all marks that count are equal: there is nothing to agree on.
    """
    marks = np.asarray(marks, float)
    marks = marks[:, (~np.isnan(marks)).sum(axis=0) >= 2]
    values, totals = np.unique(marks[~np.isnan(marks)], return_counts=True)
    if len(values) < 2:
        return float("nan")
    middle = dict(zip(values, np.cumsum(totals) - totals / 2, strict=True))  # δ lies between the middles of c and k
    given = [(*place, float(mark)) for place, mark in np.ndenumerate(marks) if not np.isnan(mark)]
    return float(AnnotationTask(given, lambda a, b: (middle[a] - middle[b]) ** 2).alpha())


def agreement(marks: pd.DataFrame) -> pd.DataFrame:
    """Krippendorff's α (ordinal) of each criterion: criterion, alpha, mean mark, cases and reviewers that count.

    Args:
        marks: the tables of `read_sheet`, below each other.
    """
    rows = []
    for name in CRITERIA:
        given = marks.pivot(index="reviewer", columns="case", values=name)
        pairs = given.loc[:, given.notna().sum() >= 2]
        counted = {"cases": pairs.shape[1], "reviewers": int(pairs.notna().any(axis=1).sum())}
        alpha = krippendorff_alpha(given.to_numpy())
        rows.append({"criterion": name, "alpha": alpha, "mean": marks[name].mean(), **counted})
    return pd.DataFrame(rows)


def quality_correlation(
    marks: pd.DataFrame, cases: pd.DataFrame, quality: Mapping[str, float], resamples: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """How an automatic quality index goes with people's marks: Spearman's ρ over cases, 95 % interval over users.

    A case's mark is its mean over reviewers.

    Args:
        marks: the tables of `read_sheet`, below each other. cases: the table of `key`.
        quality: the index of each case.

    Returns:
        criterion (and "all", the mean of the criteria), correlation, low, high, cases; NaN below three cases or where
        one side does not vary.
    """
    mean = marks.groupby("case")[list(CRITERIA)].mean()
    mean["all"] = mean.mean(axis=1, skipna=False)
    known = {"index": pd.Series(quality, dtype=float), "user": cases.set_index("case")["user_id"]}
    rows = []
    for name in mean:
        both = pd.DataFrame({"mark": mean[name]} | known).dropna()
        row = {"criterion": name, "correlation": np.nan, "low": np.nan, "high": np.nan, "cases": len(both)}
        if len(both) > 2:
            found = rank_correlations(both[["index"]], both["mark"], both["user"], resamples, seed).iloc[0]
            row |= {"correlation": found["share"], "low": found["low"], "high": found["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def highlight(chain: str, found: pd.DataFrame) -> str:
    """The chain as safe HTML: mentions of the history are marked, other catalogue mentions underlined.

    Args:
        found: the chain's rows of `mentions.mentions`.
    """
    pieces, at = [], 0
    for mention in found.sort_values("start").drop_duplicates("start").itertuples():
        tag = "mark" if mention.in_history else "u"
        pieces += [
            html.escape(chain[at : mention.start]),
            f"<{tag}>{html.escape(chain[mention.start : mention.end])}</{tag}>",
        ]
        at = mention.end
    return "".join(pieces) + html.escape(chain[at:])


def case_html(
    sample: pd.Series,
    items: pd.DataFrame,
    chain: str,
    found: pd.DataFrame,
    top: Mapping[str, tuple[Sequence[int], Sequence[float], float]],
    note: str = "",
) -> str:
    """One case as a safe HTML fragment: history, reasoning with its mentions, and top items with scores.

    Args:
        sample: a row of the samples table.
        found: the chain's rows of `mentions.mentions`.
        top: heading to (item indexes, scores, rank of the next purchase), such as with and without reasoning; the next
            purchase is set in bold.
        note: why the case is shown.
    """
    titles, target = items["title"], int(sample["target"])

    def shown(item: int) -> str:
        title = html.escape(titles.iloc[int(item)])
        return f"<b>{title} (bought next)</b>" if int(item) == target else title

    history = "".join(f"<li>{shown(item)}</li>" for item in sample["history"])
    lists = "".join(
        f"<td style='text-align:left'><b>{html.escape(heading)}</b>: the next purchase on place {rank:,.0f}<ol>"
        + "".join(f"<li>{shown(item)} · {score:.2f}</li>" for item, score in zip(ids, scores, strict=True))
        + "</ol></td>"
        for heading, (ids, scores, rank) in top.items()
    )
    told = highlight(chain, found) or "(empty)"
    return (
        f"<div><h4>Shopper {html.escape(str(sample['user_id']))}{html.escape(f', {note}' if note else '')}</h4>"
        f"<p>Bought, oldest first:</p><ul>{history}</ul><p>Reasoning:</p>"
        f"<blockquote style='white-space:pre-wrap'>{told}</blockquote>"
        f"<p>Bought next: {html.escape(titles.iloc[target])}</p><table><tr>{lists}</tr></table></div>"
    )
