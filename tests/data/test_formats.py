"""Every row of a file is read as it stands there, or one message names the file and the line."""

import datetime
import gzip
import io
import json
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2ec_lib.data import formats
from r2ec_lib.data.schema import DataError

ROWS = "".join(f"i{k},Title {k},brand {k}\n" for k in range(1, 6))
CSV = "item_id,title,brand\n" + ROWS  # line k + 1 holds item k


def written(folder, content, name="items.csv"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder, content, name="items.csv"):
    return formats.read_file(written(folder, content, name)).astype(object).where(lambda df: df.notna(), "")


# ---- quotes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Title 2", '"Title 2', r"items\.csv, line 3: a quote opens here and never closes"),
        ("Title 5,brand 5\n", '"Title 5', r"line 6: a quote opens here and never closes"),
        ("Title 2,brand 2\ni3,", '"Title 2,brand 2\ni3,"', r"line 3: a quote opens here .*closes, at line 4"),
        ("i2,", '"i2,', r"line 3: a quote opens here and never closes"),
        ("Title 2", '"2"" seam jeans', r"line 3: a quote opens here and never closes"),
        ("Title 2", '"Best" chair', r"line 3: a quote opens here and is followed by more text"),
        ("Title 2", '"ok\nstill ok","Best" chair', r"line 4: a quote opens here and is followed by more text"),
        ("Title 2,brand 2", '"Title\n2","two" brands', r"line 4: a quote opens here and is followed"),
        ("i2,Title 2,brand 2", '"i2","Title\n2","two" brands', r"line 4: a quote opens here and is followed"),
        (
            "Title 2",
            '"2\\" seam jeans"',
            r'line 3: a backslash precedes a quote.*Double a quote.*option\("escape"',
        ),
        ("Title 2", '"2\\" seam, blue"', r"line 3: a backslash precedes a quote"),
        ("Title 2", '2\\" seam', r"line 3: a backslash precedes a quote"),
        (
            "Title 2,brand 2\ni3,Title 3",
            '"Title 2,brand 2\ni3,3"',
            r"line 3: .*line 4 only, and each line between looks",
        ),
        (
            "Title 2,brand 2\ni3,Title 3",
            '"Title 2,brand 2\n\ni3,3"',
            r"line 3: .*line 5 only, and each line between looks",
        ),
        ("Title 2,", "", r"line 3: 2 fields, expected 3 \(item_id,title,brand\)"),
        ("brand 2", '"x\ny",z', r"line 4: 4 fields from a quote at line 3 on, expected 3"),
    ],
)
def test_a_quote_that_could_swallow_rows_is_refused_where_it_opens(tmp_path, old, new, message):
    with pytest.raises(DataError, match=message):
        formats.read_file(written(tmp_path, CSV.replace(old, new)))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('"Say ""hi"", x"', 'Say "hi", x'),
        ('""""', '"'),
        ('5" nail', '5" nail'),
        ('nail 5"', 'nail 5"'),
        ('""', ""),
        ('"two\nlines"', "two\nlines"),
        (
            '"text, with a comma\nand another, in each\nline, of it"',
            "text, with a comma\nand another, in each\nline, of it",
        ),
        ("back\\slash", "back\\slash"),
        ("NULL", "NULL"),
        ("nan", "nan"),
        ("1991.0", "1991.0"),
        ("007", "007"),
        ("\u2028 stays", "\u2028 stays"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_fields_are_read_as_they_stand(tmp_path, field, text, end):
    content = CSV.replace("Title 2", field).replace("\n", end)
    assert read(tmp_path, content)["title"].tolist() == [
        "Title 1",
        text.replace("\n", end),
        *("Title 3", "Title 4", "Title 5"),
    ]


def test_the_fast_and_the_strict_reader_agree(tmp_path, monkeypatch):
    content = CSV.replace("Title 2", '"Say ""hi"", x"').replace("brand 3", '""')
    path = written(tmp_path, content)
    fast = formats.read_file(path)
    monkeypatch.setattr(formats, "_is_plain", lambda *_: False)
    monkeypatch.setattr(formats, "CHUNK_ROWS", 2)
    pd.testing.assert_frame_equal(formats.read_file(path), fast)


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (b"a,b\n1,2\n", True),
        (b'a,b\n"1","2"', True),
        (b'\xef\xbb\xbf"a",b\r\n1,"x ""y"""\r\n', True),
        (b'"",""\n', True),
        (b'a,"b\n1",2\n', False),
        (b'a,"b\r1",2\r', False),
        (b'a,b"\n1,2"\n', False),
        (b'a,b\n1,"2"x\n"', False),
        (b'a,b\n1,"2\n', False),
        (b'a,b\n"1\\",2",\n', False),
        (b'a,b\n"1\\","2\\"\n', False),
        (b"\na,b\n", False),
        (b'a;"b";c\n', False),
    ],
)
def test_only_files_whose_lines_are_rows_go_to_the_fast_reader(data, plain):
    assert formats._is_plain(data, ",") == plain


# ---- what a file is ------------------------------------------------------------------------------------------------


def test_a_text_may_hold_lines_that_are_no_rows(tmp_path):
    for text in ("Title 2\ni3", "Title, with\ncommas, in it", "a\nb,c", "Title\n2, of a, kind"):
        assert read(tmp_path, CSV.replace("Title 2", f'"{text}"'))["title"][1] == text


def test_a_first_line_of_any_length_is_read(tmp_path):
    assert read(tmp_path, CSV.replace("brand", "b" * 200_000, 1)).shape == (5, 3)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_separator_is_read_from_the_header(tmp_path, separator):
    content = CSV.replace(",", separator).replace("Title 2", "a, b")
    assert read(tmp_path, content)["title"][1] == "a, b"


def test_a_file_is_what_its_bytes_say_whatever_its_name(tmp_path):
    expected = read(tmp_path, CSV)
    pd.testing.assert_frame_equal(read(tmp_path, gzip.compress(CSV.encode())), expected)
    pd.testing.assert_frame_equal(read(tmp_path, CSV, "items.csv.gz"), expected)
    pd.testing.assert_frame_equal(read(tmp_path, CSV, "ITEMS.CSV"), expected)
    pd.testing.assert_frame_equal(read(tmp_path, b"\xef\xbb\xbf" + CSV.encode()), expected)
    pd.testing.assert_frame_equal(read(tmp_path, "\n\n" + CSV), expected)
    buffer = io.BytesIO()
    expected.to_parquet(buffer)
    pd.testing.assert_frame_equal(read(tmp_path, buffer.getvalue()), expected)


def zipped():
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
        file.writestr("[Content_Types].xml", "<Types/>")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(), r"items\.csv: this is an Excel workbook or another zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"items\.csv: this is an Excel workbook"),
        (CSV.encode("utf-16"), r"items\.csv: this is UTF-16 text; save it as UTF-8"),
        (gzip.compress(gzip.compress(b"a,b\n", mtime=0), mtime=0), r"items\.csv: this is gzipped twice"),
        (CSV.replace("Title 2", "café").encode("latin-1"), r"items\.csv, line 3: not UTF-8 text .*Latin-1"),
        (gzip.compress(CSV.encode() * 2000, mtime=0)[:-9], r"items\.csv: broken after line 1\d{4} "),
        (gzip.compress(CSV.encode() * 2000, mtime=0)[:5], r"items\.csv: broken after line 0"),
        (b"", r"items\.csv: cannot be read as csv, for it is empty"),
        (b"\n\n", r"items\.csv: cannot be read as csv, for it is empty"),
        (CSV.replace("brand\n", "title\n", 1), r"items\.csv, line 1: columns 2 and 3 are both called 'title'"),
    ],
)
def test_a_foreign_or_broken_file_is_named_for_what_it_is(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        formats.read_file(written(tmp_path, content))


def test_a_missing_file_and_a_foreign_name_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: no such file\. Correct the path"):
        formats.read_file(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"notes\.txt: expected a name in \.csv, \.jsonl"):
        formats.read_file(written(tmp_path, CSV, "notes.txt"))


def test_nameless_columns_get_a_name_that_tells_their_place(tmp_path):
    table = read(tmp_path, ",item_id,title,,\n0,p,Pen,,\n1,q,Quill,,\n")
    assert table.columns.tolist() == ["Unnamed: 0", "item_id", "title", "Unnamed: 3", "Unnamed: 4"]


def test_a_folder_of_parts_is_read_in_order_and_places_are_found_in_it(tmp_path):
    spark = tmp_path / "items.csv"
    written(spark, "", "_SUCCESS")
    written(spark, "", "part-00001-a.csv")
    written(spark, "crc", ".part-00000-a.csv.crc")
    written(spark, "item_id,title\nc,C\n", "part-00002-a.csv")
    written(spark, gzip.compress(b"item_id,title\na,A\n\nb,B\n"), "part-00000-a.csv.gz")
    assert formats.read_file(spark)["item_id"].to_dict() == {0: "a", 1: "b", 2: "c"}
    assert formats.place(spark)(1).endswith("part-00000-a.csv.gz, line 4")
    assert formats.place(spark)(2).endswith("part-00002-a.csv, line 2")
    assert formats.place(spark)(None) == str(spark)
    written(spark, "item_id,name\nd,D\n", "part-00003-a.csv")
    with pytest.raises(DataError, match=r"part-00003-a\.csv, line 1: the columns are item_id, name; those of .*00000"):
        formats.read_file(spark)


def test_parquet_and_json_parts_are_read_too(tmp_path):
    for number, ids in enumerate([["a", "b"], ["c"]]):
        folder = tmp_path / "parquet"
        folder.mkdir(exist_ok=True)
        pd.DataFrame({"item_id": ids}).to_parquet(folder / f"part-{number}.snappy.parquet")
        written(
            tmp_path / "json", "\n".join(json.dumps({"item_id": i, f"x{i}": 1}) for i in ids), f"part-{number}.json"
        )
    for kind, where in {"parquet": r"part-1.snappy.parquet, row 1", "json": r"part-1.json, line 1"}.items():
        assert formats.read_file(tmp_path / kind)["item_id"].tolist() == ["a", "b", "c"]
        assert formats.place(tmp_path / kind)(2).endswith(where)


def test_an_empty_path_is_not_the_working_folder():
    with pytest.raises(DataError, match="The path of a file is empty"):
        formats.read_file("")


def test_folders_that_would_lose_something_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: a folder without part-… files"):
        formats.read_file(tmp_path / "empty")
    written(tmp_path / "logs/year=2020", CSV, "part-0.csv")
    with pytest.raises(DataError, match="logs: holds the folder 'year=2020', so it is partitioned"):
        formats.read_file(tmp_path / "logs")


# ---- JSON lines and Parquet ----------------------------------------------------------------------------------------


def test_json_numbers_stay_as_they_stand_though_rows_have_gaps(tmp_path):
    lines = '{"item_id": 17, "ean": 4006381333931000002, "year": 1991, "x": 2.50}\n\n{"item_id": 4}\n'
    table = read(tmp_path, lines, "items.jsonl")
    assert table.to_dict("list") == {
        "item_id": ["17", "4"],
        "ean": ["4006381333931000002", ""],
        "year": ["1991", ""],
        "x": ["2.50", ""],
    }
    assert read(tmp_path, lines.replace("\n", "\r"), "items.jsonl").equals(table)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("7", "7"),
        ("7.0", "7"),
        ("1.2345678E7", "12345678"),
        ("9007199254740993.0", "9007199254740993.0"),
        ("1e20", "1e20"),
        ("1e999", "1e999"),
        ("7.50", "7.50"),
        ('"7.0"', "7.0"),
    ],
)
def test_a_whole_float_of_json_is_read_as_the_integer_and_any_other_as_it_stands(tmp_path, number, text):
    assert read(tmp_path, f'{{"user_id": {number}}}\n', "log.jsonl")["user_id"].tolist() == [text]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": ', r"items\.jsonl, line 2: not valid JSON"),
        (b"[1, 2]", r"items\.jsonl, line 2: expected one JSON object, found \[1, 2\]"),
        (rb'{"a": "half \ud83d"}', r"items\.jsonl, line 2: half a character \(\\ud83d"),
        (rb'{"a": "half \uD83D"}', r"items\.jsonl, line 2: half a character \(\\ud83d"),
        (rb'{"a": "\udc80"}', r"items\.jsonl, line 2: "),
        (b'{"a": "caf\xe9"}', r"items\.jsonl, line 2: not UTF-8 text"),
        (b'{"a": 1, "b": {"b": 0, "c": 1, "c": 2}}', r"items\.jsonl, line 2: the key 'c' is repeated"),
        (b"[" * 100_000, r"items\.jsonl, line 2: nested too deeply"),
    ],
)
def test_a_broken_json_line_is_named_or_kept_aside(tmp_path, line, message):
    path = written(tmp_path, b'{"a": "\\ud83d\\ude00"}\n' + line + b'\n{"a": 3}\n', "items.jsonl")
    with pytest.raises(DataError, match=message):
        formats.read_file(path)
    faults = []
    assert [number for number, _ in formats.records(path, faults)] == [1, 3]
    assert len(faults) == 1 and "line 2" in str(faults[0])


def test_parquet_columns_keep_their_values_though_they_have_gaps(tmp_path):
    day = datetime.date(2020, 1, 2)
    table = pa.table(
        {
            "ean": pa.array([None, 2**62 + 1], pa.int64()),
            "flag": pa.array([None, True]),
            "day": pa.array([None, day]),
            "kind": pa.array([None, "pen"]).dictionary_encode(),
            "old_text": pa.array([None, b"caf\xc3\xa9"]),
            "tags": pa.array([None, [2**62 + 1, None]]),
            "": pa.array([0, 1]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    rows = formats.read_file(tmp_path / "t.parquet")
    assert rows.iloc[1].to_dict() == {
        "ean": 2**62 + 1,
        "flag": True,
        "day": pd.Timestamp(day),
        "kind": "pen",
        "old_text": "café",
        "tags": [2**62 + 1, None],
        "Unnamed: 6": 1,
    }
    assert rows.iloc[0, :6].isna().all()


def test_empty_and_blank_texts_are_missing_as_an_empty_field_of_csv_is(tmp_path):
    """Of any column that may hold texts; all else stays as it is."""
    lines = [{"a": "", "b": [], "c": 7}, {"a": " \n", "b": None, "c": ""}, {"a": "x", "b": "y", "c": 2.5}]
    table = formats.read_file(written(tmp_path, "\n".join(map(json.dumps, lines)), "t.jsonl"))
    assert table.isna().to_dict("list") == {
        "a": [True, True, False],
        "b": [False, True, False],
        "c": [False, True, False],
    }
    assert table["b"][0] == [] and table.iloc[2].to_dict() == {"a": "x", "b": "y", "c": "2.5"}
    texts = pa.array(["", " ", "x"])
    columns = {"text": texts, "kind": texts.dictionary_encode(), "n": pa.array([1, 2, 3]), "tags": [[""], [], ["x"]]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = formats.read_file(tmp_path / "t.parquet")
    assert table[["text", "kind"]].isna().to_numpy().tolist() == [[True] * 2, [True] * 2, [False] * 2]
    assert table["n"].dtype == "int64" and table["tags"].tolist() == [[""], [], ["x"]]


def test_parquet_that_is_none_or_repeats_a_column_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.parquet: cannot be read as parquet"):
        formats.read_file(written(tmp_path, "no", "no.parquet"))
    pq.write_table(pa.table([[1], [2]], ["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: columns 1 and 2 are both called 'a'"):
        formats.read_file(tmp_path / "t.parquet")


# ---- fuzz ----------------------------------------------------------------------------------------------------------
# Each reader is held against a plain reading of the same bytes: the same rows, or a DataError that names the place.


def plain_csv(text):
    """RFC 4180, sign by sign: the rows, or None where a quote does not stand around a whole field."""
    rows, row, field, state = [], [], "", "start"
    for sign in [*text.replace("\r\n", "\n").replace("\r", "\n"), "end"]:
        if state == "inside" and sign != "end":
            field, state = (field, "closed") if sign == '"' else (field + sign, state)
        elif state == "inside" or (state == "closed" and sign not in ('"', ",", "\n", "end")):
            return None
        elif sign == '"' and state in ("start", "closed"):
            field, state = (field + '"' if state == "closed" else field), "inside"
        elif sign in (",", "\n", "end"):
            row.append(field)
            field, state = "", "start"
            if sign != ",":
                rows, row = [*rows, row] if row != [""] else rows, []
        else:
            field, state = field + sign, "open"
    return rows


def reference_csv(data):
    header, *rows = plain_csv(data.decode("utf-8-sig"))
    return header, rows


def whole(text):
    return str(int(float(text))) if float(text) % 1 == 0 and abs(float(text)) < 2**53 else text


def reference_json(data):
    objects = [
        json.loads(line, parse_int=str, parse_float=whole)
        for line in data.decode("utf-8-sig").splitlines()
        if line.strip()
    ]
    names = list(dict.fromkeys(name for entry in objects for name in entry))
    return names, [[entry.get(name, "") for name in names] for entry in objects]


def reference_parquet(data):
    table = pq.read_table(io.BytesIO(data))
    texts = [
        [value.decode() if isinstance(value, bytes) else value for value in row.values()] for row in table.to_pylist()
    ]
    return table.column_names, texts


def parquet_bytes():
    table = {"item_id": ["a", "b", None], "year": pa.array([1, None, 2**60], pa.int64()), "flag": [True, None, False]}
    pq.write_table(pa.table(table), buffer := io.BytesIO(), compression="none")
    return buffer.getvalue()


QUOTED = 'item_id,title,brand\ni1,"Pen, ""red""",A\ni2,"two\nlines",\ni3,5" nail,B\ni4,Ink,C\n'
LINES = '{"item_id": "a", "title": "Pen"}\n{"item_id": "b", "n": 12345678901234567890}\n{"e": "\\ud83d\\ude00"}\n'
BASES = {
    "fast.csv": (CSV.encode(), reference_csv),
    "quoted.csv": (QUOTED.encode(), reference_csv),
    "lines.jsonl": (LINES.encode(), reference_json),
    "t.parquet": (parquet_bytes(), reference_parquet),
}
SNIPPETS = [
    b'"',
    b'""',
    b",",
    b"\n",
    b"\r",
    b"\r\n",
    b'\\"',
    b"\\",
    b";",
    b" ",
    b"\xff",
    b"\xc3\xa9",
    b"\x00",
    b"i9,",
    b"{",
    b"}",
]
EDIT = st.tuples(
    st.integers(0, 10_000), st.integers(0, 3), st.one_of(st.sampled_from([b"", *SNIPPETS]), st.binary(max_size=3))
)


def mutated(name, edits):
    """The file with some bytes replaced; in Parquet, whose footer counts bytes, by as many others."""
    data = BASES[name][0]
    for place, length, new in edits:
        place, length = place % (len(data) + 1), len(new) if name == "t.parquet" else length
        data = data[:place] + new + data[place + length :]
    return data


def check_reading(folder, name, edits):
    """ "read" or "refused"; fails where a reader loses or changes a row, or raises anything but a placed DataError."""
    data = mutated(name, edits)
    path = written(folder, data, name)
    try:
        table = formats.read_file(path)
    except DataError as error:
        assert name in str(error)
        whole_file = ("this is", "cannot be read as", "broken after line", "both called")
        assert ", line " in str(error) or any(reason in str(error) for reason in whole_file), error
        formats.place(path)(None)
        return "refused"
    names, rows = BASES[name][1](data)
    assert table.columns.tolist() == [name if name.strip() else f"Unnamed: {k}" for k, name in enumerate(names)]
    expected = [["" if value is None else value for value in row] for row in rows]
    ends = {"\r\n": "\n", "\r": "\n"} if name.endswith("csv") else {}
    found = []
    for row in table.astype(object).to_numpy().tolist():
        values = ["" if value is None or value is pd.NA or value != value else value for value in row]
        for old, new in ends.items():
            values = [value.replace(old, new) for value in values]
        found.append(values)
    assert found == expected
    if len(table) and name != "t.parquet":
        assert ", line " in formats.place(path)(len(table) - 1)
    return "read"


@pytest.mark.parametrize("examples", [150, pytest.param(2_500, marks=pytest.mark.slow)])  # 10,000 over the four files
@pytest.mark.parametrize("name", BASES)
def test_a_damaged_file_is_read_like_a_plain_reading_or_refused(tmp_path, name, examples):
    assert check_reading(tmp_path, name, []) == "read"

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(EDIT, min_size=1, max_size=3))
    def run(edits):
        check_reading(tmp_path, name, edits)

    run()


def test_the_line_of_a_row_is_that_of_an_editor(tmp_path):
    path = written(tmp_path, QUOTED.replace("i3", "\ni3"))
    assert [formats.place(path)(row).rsplit(" ", 1)[1] for row in range(4)] == ["2", "4", "6", "7"]
    assert formats.place(path)(np.int64(3)).endswith("line 7")  # an index of pandas


@pytest.mark.parametrize("content", ["", "\n\n", "{}\n{}\n"])
def test_json_lines_without_a_value_are_told_to_be_empty(tmp_path, content):
    with pytest.raises(DataError, match=r"items\.jsonl: cannot be read as JSON lines, for it is empty"):
        formats.read_file(written(tmp_path, content, "items.jsonl"))


def test_empty_lines_count_where_a_json_record_stands(tmp_path):
    path = written(tmp_path, '\n{"a": 1}\n\n \n{"a": 2}\n', "items.jsonl")
    assert [formats.place(path)(row).rsplit(" ", 1)[1] for row in (0, 1)] == ["2", "5"]


def test_parquet_whose_pages_do_not_match_their_checksums_is_refused(tmp_path):
    pq.write_table(
        pa.table({"a": ["pen", "ink"]}), buffer := io.BytesIO(), compression="none", write_page_checksum=True
    )
    whole = buffer.getvalue()
    assert formats.read_file(written(tmp_path, whole, "t.parquet"))["a"].tolist() == ["pen", "ink"]
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read as parquet"):
        formats.read_file(written(tmp_path, whole.replace(b"pen", b"pan", 1), "t.parquet"))


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary(3), pa.dictionary(pa.int32(), pa.binary())]
)
def test_bytes_of_parquet_are_text_or_refused(tmp_path, kind):
    """A number or an id in bytes would be read as the text that Python shows for it."""
    for content, texts in ([b"pen", None], ["pen", None]), ([b"\xff\x00\x01", None], None):
        pq.write_table(pa.table({"a": pa.array(content).cast(kind)}), tmp_path / "t.parquet")
        if texts:
            assert (
                formats.read_file(tmp_path / "t.parquet")["a"].astype(object).where(pd.notna, None).tolist() == texts
            )
        else:
            with pytest.raises(DataError, match=r"t\.parquet: cannot be read as parquet \(Invalid UTF8"):
                formats.read_file(tmp_path / "t.parquet")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.list_(pa.string())])
def test_texts_of_parquet_that_are_no_utf_8_are_refused(tmp_path, kind):
    """As a damaged file has them; pandas would fail where it comes to that row."""
    broken = pa.array([b"pen", b"\xff"]).view(pa.string())
    column = pa.array([0, 2], pa.int32()) if pa.types.is_list(kind) else broken
    column = pa.ListArray.from_arrays(column, broken) if pa.types.is_list(kind) else broken.cast(kind)
    pq.write_table(pa.table({"a": column}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read as parquet \(.*Invalid UTF8"):
        formats.read_file(tmp_path / "t.parquet")
