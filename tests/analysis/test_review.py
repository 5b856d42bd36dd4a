"""Review sheets: blind and safe on the way out, checked on the way in; agreement, correlation, single cases."""

import csv
import html
import re

import numpy as np
import pandas as pd
import pytest
from families import text_tokenizer

from r2ec_lib.analysis import mentions, review
from r2ec_lib.data.schema import DataError
from r2ec_lib.model.prompts import Prompts, PromptStyle

CASES = ["case-001", "case-002"]
GOOD = "5,4,3,2,yes,fine"


def sheet_of(*rows: str, header: str = "case,truthful,relevant,consistent,readable,accept,remark") -> str:
    return "\n".join([header, *rows]) + "\n"


@pytest.fixture
def chains():
    """40 reasonings, a few of which found the next purchase."""
    return pd.DataFrame(
        {
            "sample_id": range(40),
            "user_id": [f"user-{n // 2}" for n in range(40)],
            "model": "r2ec-secret",
            "chain": [f"reason {n}." for n in range(40)],
            "rank": [777.0 if n < 36 else 2.0 for n in range(40)],
            "top_items": [[n % 3, 2] for n in range(40)],
        }
    )


@pytest.fixture
def samples():
    return pd.DataFrame({"sample_id": range(40), "history": [[0]] * 40, "target": 1})


@pytest.fixture
def items():
    return pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["a mug", "=HYPERLINK(1)", "<img src=x onerror=y>"]})


# ---- sheets out ----------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_draw_and_the_order_and_the_table_does_not(chains):
    first, same, other = (review.sample_cases(chains, 10, seed) for seed in (1, 1, 2))
    assert first["sample_id"].tolist() == same["sample_id"].tolist() != other["sample_id"].tolist()
    assert first["sample_id"].tolist() != sorted(first["sample_id"])
    assert [case[:9] for case in first["case"][:2]] == ["case-001-", "case-002-"]


def test_a_sheet_filled_for_other_reasons_is_found_out(chains, samples, items):
    before = review.sample_cases(chains, 3)
    after = review.sample_cases(chains.assign(chain="retrained."), 3)
    sent = review.to_csv(review.review_sheet(before, samples, items))
    with pytest.raises(DataError, match="unknown case"):
        review.read_sheet(sent, after["case"], "Ann")


def test_the_digits_of_a_case_tell_the_reason_wherever_it_is_drawn(chains):
    first, other = (review.sample_cases(chains, 40, seed).set_index("sample_id")["case"] for seed in (1, 2))
    assert first.str[9:].to_dict() == other.str[9:].to_dict() and first.str[9:].nunique() == 40
    assert set(review.sample_cases(chains, 2)) == {*chains, "case"}


def test_asking_for_more_cases_than_there_are_takes_all(chains):
    assert len(review.sample_cases(chains, 99)) == 40


def test_a_sheet_tells_neither_model_nor_rank_nor_sample_and_the_key_tells_all(chains, samples, items):
    cases = review.sample_cases(chains, 10)
    sheet = review.review_sheet(cases, samples, items)
    for text in (review.to_csv(sheet), review.to_html(sheet)):
        assert not any(hidden in text for hidden in ("secret", "777", "user-", "sample", "found"))
    assert list(sheet) == review.SHEET_COLUMNS and (sheet[review.FILLED] == "").all(axis=None)
    key = cases[review.KEY].set_index("case")
    assert all(key.loc[row.case, "chain"] == row.reason for row in sheet.itertuples())
    assert set(key["model"]) == {"r2ec-secret"}


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "＝1+1",
        "'=1",
        "''-1",
        "'",
        "a=1",
        "",
        'é "q",\n;',
    ],
)
def test_no_cell_is_a_formula_and_every_cell_comes_back(cell):
    text = review.to_csv(pd.DataFrame({"case": ["x"], "reason": [cell]}))
    assert text.startswith("\ufeff")  # which tells a spreadsheet to read UTF-8
    written = text.split("\n", 1)[1].removeprefix('"x","')
    assert not written.startswith(("=", "+", "-", "@", "＝", "\t", "\r", "\n", " "))
    assert review.from_csv(text)["reason"].tolist() == [cell]


def test_column_names_are_no_formulas_either_and_no_cell_is_left_out():
    text = review.to_csv(pd.DataFrame({"=case": [1, None], "reason": ["x", None]}))
    assert text.splitlines()[0] == '\ufeff"\'=case","reason"'
    assert review.from_csv(text).to_numpy().tolist() == [["1.0", "x"], ["nan", "nan"]]


def test_markup_in_titles_reasons_and_ids_stays_text_on_the_page(samples, items, chains):
    evil = "</dd><script>alert(1)</script>"
    cases = review.sample_cases(chains.assign(chain=evil), 5)
    page = review.to_html(review.review_sheet(cases, samples, items), title=evil)
    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;" in page and "&lt;img" in page
    assert page.count("<section>") == 5


def test_a_printed_case_has_a_mark_of_each_height_for_each_criterion(samples, items, chains):
    cases = review.sample_cases(chains.assign(chain=""), 1)
    page = review.to_html(review.review_sheet(cases, samples, items))
    assert re.findall(r"<span>(\w+)</span>", page) == [*"12345"] * 4 + ["yes", "no"]
    assert "from 1 (not at all) to 5 (fully)" in page and "<dt>reason</dt><dd>(none)</dd>" in page


# ---- filled sheets in ----------------------------------------------------------------------------------------------


def test_a_filled_sheet_comes_back_by_case_whatever_the_order_of_its_rows():
    text = sheet_of(",".join(["case-002", "1,,5,5,NO ,"]), f"case-001,{GOOD}")
    marks = review.read_sheet(text, CASES, "Ann")
    assert marks["case"].tolist() == CASES and set(marks["reviewer"]) == {"Ann"}
    assert marks["truthful"].tolist() == [5, 1] and np.isnan(marks["relevant"][1])
    assert marks["accept"].tolist() == [1, -1] and marks["remark"].tolist() == ["fine", ""]


def test_what_was_sent_out_can_be_read_back_unfilled(chains, samples, items):
    cases = review.sample_cases(chains, 3)
    marks = review.read_sheet(review.to_csv(review.review_sheet(cases, samples, items)), cases["case"], "Ann")
    assert marks[list(review.CRITERIA)].isna().all(axis=None) and (marks["accept"] == 0).all()


def test_a_spreadsheets_mark_and_semicolons_are_read():
    text = sheet_of(f"case-001,{GOOD}", f"case-002,{GOOD}").replace(",", ";")
    assert review.read_sheet("\ufeff" + text, CASES, "Ann")["readable"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["empty"]),
        (sheet_of(f"case-001,{GOOD}", f"case-009,{GOOD}"), ['line 3: unknown case "case-009"', "no row for case-002"]),
        (sheet_of("case-001,6,4,3,2,,", f"case-002,{GOOD}"), ['line 2: truthful is "6"; expected 1 to 5']),
        (
            sheet_of("case-001,2.5,x,3,2,,", f"case-002,{GOOD}"),
            ['line 2: truthful is "2.5"', 'line 2: relevant is "x"'],
        ),
        (sheet_of("case-001,1,4,3,2,maybe,", f"case-002,{GOOD}"), ['line 2: accept is "maybe"']),
        (sheet_of(f"case-001,{GOOD}"), ["after line 2: no row for case-002"]),
        (sheet_of(), ["after line 1: no row for case-001, case-002"]),
        (
            sheet_of(f"case-001,{GOOD}", f"case-002,{GOOD}", f"case-001,{GOOD}"),
            ['line 4: case "case-001" is repeated, first in line 2'],
        ),
        (sheet_of("case-001,1,2"), ["line 2: 3 cells; expected 7"]),
        (sheet_of(header="case,truthful,relevant,consistent,readable,accept,remark,mood"), ['unknown column "mood"']),
        (sheet_of(header="case,truthful,relevant,consistent,accept,remark"), ['no column "readable"']),
        (
            sheet_of(header="case,truthful,truthful,relevant,consistent,readable,accept,remark"),
            ['"truthful" is repeated'],
        ),
    ],
)
def test_each_fault_of_a_sheet_is_named_with_its_line(text, said):
    with pytest.raises(DataError) as error:
        review.read_sheet(text, CASES, "Ann", where="ann.csv")
    assert str(error.value).startswith("ann.csv: ") and all(part in str(error.value) for part in said), error.value


def test_of_many_faults_and_of_many_missing_rows_the_first_three_are_told_and_the_rest_counted():
    cases = [f"case-{number:03d}" for number in range(1, 41)]
    wrong = sheet_of(*(f"{case},9,4,3,2,yes,fine" for case in cases))
    with pytest.raises(DataError, match=r"line 2: .*; line 3: .*; line 4: [^:]*; and 37 more\.$"):
        review.read_sheet(wrong, cases, "Ann")
    with pytest.raises(DataError, match=r"no row for case-002, case-003, case-004, and 36 more\.$"):
        review.read_sheet(sheet_of(f"case-001,{GOOD}"), cases, "Ann")


def test_a_remark_may_be_of_any_length():
    limit = csv.field_size_limit(131_072)  # Python's own
    try:
        marks = review.read_sheet(sheet_of(*(f"{case},1,2,3,4,yes,{'x' * 140_000}" for case in CASES)), CASES, "ann")
    finally:
        csv.field_size_limit(limit)
    assert marks["remark"].map(len).tolist() == [140_000] * len(CASES)


def test_two_sheets_of_one_reviewer_are_named(tmp_path):
    for name in ("ann.csv", "ann.CSV", "bob.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r"(ann\.csv and ann\.CSV|ann\.CSV and ann\.csv) are sheets of one"):
        review.sheet_files(tmp_path)


def test_no_column_of_a_sheet_is_a_word_that_a_spreadsheet_takes_for_a_truth_value():
    assert not {"true", "false"} & {*review.SHEET_COLUMNS}


def test_the_sheets_of_a_folder_are_found_in_any_case_and_an_empty_or_missing_folder_is_named(tmp_path):
    for name in ("b.CSV", "a.csv", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [path.name for path in review.sheet_files(tmp_path)] == ["a.csv", "b.CSV"]
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        with pytest.raises(DataError, match=f"{folder}: no review sheets"):
            review.sheet_files(tmp_path / folder)


def test_a_sheet_is_read_from_the_file_named_after_its_reviewer(tmp_path):
    text = "\ufeff" + sheet_of(f"case-001,{GOOD}", "case-002,5,4,3,2,yes,café").replace("\n", "\r\n")
    (tmp_path / "Ann.csv").write_bytes(text.encode())
    marks = review.read_file(tmp_path / "Ann.csv", CASES)
    assert set(marks["reviewer"]) == {"Ann"} and marks["remark"].tolist() == ["fine", "café"]
    (tmp_path / "Ann.csv").write_text(sheet_of(f"case-001,{GOOD}"))
    with pytest.raises(DataError, match=r"^Ann\.csv: after line 2: no row for case-002"):
        review.read_file(tmp_path / "Ann.csv", CASES)


@pytest.mark.parametrize(("encoding", "line"), [("cp1252", 3), ("utf-16", 1)])
def test_a_sheet_that_is_not_utf_8_is_named_with_its_line(tmp_path, encoding, line):
    text = sheet_of(f"case-001,{GOOD}", "case-002,5,4,3,2,yes,café")
    (tmp_path / "ann.csv").write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=rf"^ann\.csv, line {line}: not UTF-8 text .*Save the sheet as CSV UTF-8"):
        review.read_file(tmp_path / "ann.csv", CASES)


def test_lines_are_those_of_the_file_where_cells_hold_line_breaks():
    text = sheet_of('case-001,5,4,3,2,yes,"two\nlines"', "case-002,9,4,3,2,yes,")
    with pytest.raises(DataError, match='line 4: truthful is "9"'):
        review.read_sheet(text, CASES, "Ann")


# ---- agreement and quality -----------------------------------------------------------------------------------------

NONE = float("nan")
PUBLISHED = np.array(  # four observers, twelve units, in Krippendorff's paper of 2011, section C
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
)


def alpha_by_definition(marks: np.ndarray) -> float:
    """Pairs of marks within cases against all pairs of marks, in plain Python."""
    units = [[mark for mark in column if mark == mark] for column in marks.T.tolist()]
    units = [unit for unit in units if len(unit) > 1]
    pool = [mark for unit in units for mark in unit]

    def apart(a: float, b: float) -> float:
        low, high = sorted((a, b))
        return (sum(low <= mark <= high for mark in pool) - (pool.count(a) + pool.count(b)) / 2) ** 2

    def pairs(these: list) -> list:
        return [(a, b) for i, a in enumerate(these) for j, b in enumerate(these) if i != j]

    observed = sum(sum(apart(a, b) for a, b in pairs(unit)) / (len(unit) - 1) for unit in units)
    return 1 - observed / (sum(apart(a, b) for a, b in pairs(pool)) / (len(pool) - 1))


def alpha(marks) -> float:
    sheets = [marks_of(f"reviewer {number}", list(given)) for number, given in enumerate(marks)]
    return review.agreement(pd.concat(sheets)).set_index("criterion").loc["truthful", "alpha"]


def test_alpha_is_that_of_the_published_example():
    assert alpha(PUBLISHED) == pytest.approx(0.815, abs=5e-4)


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_that_of_its_definition_with_gaps(seed):
    rng = np.random.default_rng(seed)
    marks = rng.integers(1, 6, (3, 15)).astype(float)
    marks[rng.random(marks.shape) < 0.3] = np.nan
    assert alpha(marks) == pytest.approx(alpha_by_definition(marks))


def test_alpha_is_one_for_equal_marks_and_negative_for_opposed_ones():
    assert alpha([[1, 2, 5], [1, 2, 5]]) == pytest.approx(1)
    assert alpha([[1, 5, 1, 5], [5, 1, 5, 1]]) < 0


@pytest.mark.parametrize("marks", [[[3, 3], [3, 3]], [[1, 2], [NONE, NONE]], [[1, NONE], [NONE, 2]]])
def test_alpha_is_undefined_without_two_values_or_two_reviewers_of_a_case(marks):
    assert np.isnan(alpha(marks))


def marks_of(reviewer: str, truthful: list[float], accept=None) -> pd.DataFrame:
    table = pd.DataFrame({"reviewer": reviewer, "case": [f"c{n}" for n in range(len(truthful))]})
    table = table.assign(**dict.fromkeys(review.CRITERIA, np.nan)).assign(truthful=truthful)
    return table.assign(accept=accept if accept is not None else 0)


def test_agreement_is_told_for_each_criterion():
    marks = pd.concat([marks_of("Ann", [1, 2, 5, NONE]), marks_of("Ben", [1, 2, 5, 4])])
    table = review.agreement(marks).set_index("criterion")
    assert table.loc["truthful", "alpha"] == pytest.approx(1)
    assert table.loc["truthful", ["cases", "reviewers"]].tolist() == [3, 2]
    assert table.loc["truthful", "mean"] == pytest.approx((1 + 2 + 5 + 1 + 2 + 5 + 4) / 7)
    assert np.isnan(table.loc["readable", "alpha"]) and table.loc["readable", "cases"] == 0


def test_an_index_that_follows_the_marks_correlates_and_a_constant_one_has_no_value():
    cases = pd.DataFrame({"case": [f"c{n}" for n in range(5)], "user_id": list("abcde")})
    marks = pd.concat([marks_of("Ann", [1, 2, 3, 4, 5]), marks_of("Ben", [1, 1, 3, 5, 5])])
    told = {f"c{n}": n**3 for n in range(5)}
    row = review.quality_correlation(marks, cases, told, resamples=200).set_index("criterion").loc["truthful"]
    assert row["correlation"] == pytest.approx(1) and row["cases"] == 5
    assert row[["low", "high"]].tolist() == pytest.approx([1, 1])
    whole = review.quality_correlation(marks, cases, told, resamples=50).set_index("criterion").loc["all"]
    assert whole["cases"] == 0  # a case has a mean of all criteria only where each of them has a mark
    flat = review.quality_correlation(marks, cases, dict.fromkeys(told, 1.0), resamples=50)
    assert flat["correlation"].isna().all()


@pytest.mark.parametrize(("count", "known"), [(2, False), (3, True)])
def test_a_correlation_needs_three_cases(count, known):
    cases = pd.DataFrame({"case": [f"c{n}" for n in range(count)], "user_id": range(count)})
    index = {f"c{n}": float(n) for n in range(count)}
    row = review.quality_correlation(marks_of("Ann", [1, 2, 3][:count]), cases, index, resamples=50).iloc[0]
    assert row["cases"] == count and np.isnan(row["correlation"]) != known


def test_the_interval_of_the_correlation_holds_users_together():
    rng = np.random.default_rng(0)
    mark = rng.integers(1, 6, 30).astype(float)
    told = {f"c{n}": mark[n] + rng.normal(0, 1.5) for n in range(30)}
    widths = []
    for users in (range(30), [n // 10 for n in range(30)]):
        cases = pd.DataFrame({"case": [f"c{n}" for n in range(30)], "user_id": list(users)})
        row = review.quality_correlation(marks_of("Ann", mark), cases, told, resamples=300).iloc[0]
        assert row["low"] <= row["correlation"] <= row["high"]
        widths.append(row["high"] - row["low"])
    assert widths[0] != widths[1]


# ---- single cases --------------------------------------------------------------------------------------------------

TITLES = ["Halden Fern mug, sage", "Norvik Slate tent, navy", "The Blue Whale Atlas", "<script>alert(1)</script> lamp"]


@pytest.fixture
def catalogue():
    return pd.DataFrame({"item_id": [f"i{n}" for n in range(len(TITLES))], "title": TITLES})


def case_of(text, history):
    """One sample whose user id is markup, and its chain."""
    samples = pd.DataFrame({"sample_id": [0], "user_id": "<img src=x onerror=y>", "history": [history], "target": 2})
    return samples, pd.DataFrame({"sample_id": [0], "chain": [text]})


def test_a_case_page_escapes_every_foreign_text_and_marks_mentions(catalogue):
    samples, chains = case_of("<b>They</b> own a mug & <script>evil()</script>", [3, 0])
    table = mentions.mentions(chains, samples, catalogue)
    top = {"with <i>": ([3, 2], [0.5, 0.25], 2.0)}
    page = review.case_html(samples.iloc[0], catalogue, chains["chain"][0], table, top, note="<u>helped</u>")
    assert not any(tag in page for tag in ("<script", "<img", "<b>They", "<i>", "<u>helped"))
    assert "<mark>mug</mark>" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; lamp" in page
    assert "<b>The Blue Whale Atlas (bought next)</b> · 0.25" in page
    assert "the next purchase ranks 2" in page


def test_the_page_of_a_case_marks_what_is_owned_underlines_what_is_not_and_leaves_the_text_as_it_was(catalogue):
    text = "Own Halden Fern mug, sage & a mug; try the Blue Whale Atlas <now>"
    samples, chains = case_of(text, [0])
    mentioned = mentions.mentions(chains, samples, catalogue)
    page = review.case_html(samples.iloc[0], catalogue, text, mentioned, {})
    (quote,) = re.findall(r"<blockquote[^>]*>(.*)</blockquote>", page, re.DOTALL)
    assert "<mark>Halden Fern mug, sage</mark>" in quote and "<u>Blue Whale Atlas</u>" in quote.replace("the ", "")
    assert html.unescape(re.sub(r"</?(mark|u)>", "", quote)) == text


def test_the_page_of_a_case_says_which_statements_about_the_history_hold(catalogue):
    text = (
        "The last purchase was Halden Fern mug, sage. The shopper trusts <b>Zeno. Next may come <i>x. The needs are ab"
    )
    samples, chains = case_of(text, [0])
    prompts = Prompts(text_tokenizer("byte-level"), PromptStyle(instruct=False))
    page = review.case_html(samples.iloc[0], catalogue, text, chains[:0].assign(start=0), {}, prompts=prompts)
    told = re.findall(r"<p>(.*) <b>(statement holds|does not hold)</b></p>", page)
    assert told == [
        ("The last purchase was Halden Fern mug, sage.", "statement holds"),
        ("The shopper trusts &lt;b&gt;Zeno.", "does not hold"),
    ]


def test_the_page_of_a_case_without_a_reasoning_says_so(catalogue):
    samples, chains = case_of("", [0])
    page = review.case_html(samples.iloc[0], catalogue, "", mentions.mentions(chains, samples, catalogue), {})
    assert ">(empty)</blockquote>" in page
