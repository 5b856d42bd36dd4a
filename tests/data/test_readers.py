"""Raw files become tables, or one message that names the file and the line."""

import gzip
import http.server
import json
import re
import threading

import pandas as pd
import pytest

from r2ec_lib.data import readers
from r2ec_lib.data.amazon import _amazon_names, download_amazon, read_amazon
from r2ec_lib.data.schema import FUTURE_COLUMNS, DataError

HEADER = "user_id,parent_asin,rating,timestamp"
DAY = 86_400_000
T0 = 1_500_000_000_000  # a moment in 2017, in milliseconds


def item(name, **fields):
    base = {
        "main_category": "Office",
        "title": f"Title of {name}",
        "average_rating": 4.5,
        "rating_number": 99,
        "features": ["Light", "<b>Red</b>"],
        "description": [],
        "price": 9.5,
        "store": "Shop",
        "categories": ["Office", "Pens"],
        "details": {"Weight": "3 g", "Best Sellers Rank": {"Pens": 12}, "Customer Reviews": "4.5"},
        "helpful_votes": 7,
        "parent_asin": name,
    }
    return base | fields


@pytest.fixture
def amazon(tmp_path):
    """Writes the two files of a category named Pens and returns their folder."""

    def write(lines=None, items=None, header=HEADER):
        lines = [f"u{k},p{k % 3},5.0,{T0 + k * DAY}" for k in range(6)] if lines is None else lines
        items = [item("p0"), item("p1"), item("p2")] if items is None else items
        with gzip.open(tmp_path / "Pens.csv.gz", "wt") as file:
            file.write("\n".join([header, *lines]) + "\n")
        with gzip.open(tmp_path / "meta_Pens.jsonl.gz", "wt") as file:
            file.writelines((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in items)
        return tmp_path

    return write


@pytest.fixture
def logs(tmp_path):
    """Writes interactions.csv and items.csv and returns both paths."""

    def write(interactions=None, items="item_id,title\np,Pen\nq,Quill\n"):
        rows = "a,p,2020-01-01\nb,q,2020-01-02\n" if interactions is None else interactions
        (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + rows)
        (tmp_path / "items.csv").write_text(items)
        return tmp_path / "interactions.csv", tmp_path / "items.csv"

    return write


def drops_of(drops):
    return dict(zip(drops["reason"], drops["dropped"], strict=True))


# ---- Amazon Reviews 2023 -------------------------------------------------------------------------------------------


def test_amazon_files_become_the_two_tables(amazon):
    items, interactions, drops = read_amazon(amazon(), "Pens")
    assert items["item_id"].tolist() == ["p0", "p1", "p2"]
    assert items.iloc[0].to_dict() == {
        "item_id": "p0",
        "title": "Title of p0",
        "main_category": "Office",
        "store": "Shop",
        "categories": "Office > Pens",
        "features": "Light Red",
        "description": "",
        "details": "Weight: 3 g",
    }
    assert interactions["timestamp"].iloc[0] == pd.Timestamp(T0, unit="ms", tz="UTC")
    assert interactions["rating"].tolist() == [5.0] * 6
    assert drops["dropped"].sum() == 0


def test_the_sites_own_tree_is_read_too(amazon):
    folder = amazon()
    for name in _amazon_names("Pens", "5core"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name.split("/")[-1]).rename(folder / name)
    assert len(read_amazon(folder, "Pens", "5core")[1]) == 6
    with pytest.raises(DataError, match=r"Pens\.csv\.gz: no such file, nor .*0core"):
        read_amazon(folder, "Pens", "0core")


def test_no_summary_of_the_whole_corpus_becomes_item_text(amazon):
    items, _, _ = read_amazon(amazon(), "Pens")
    assert not FUTURE_COLUMNS & set(items.columns)
    assert not re.search(r"4\.5|99|9\.5|12", " ".join(items.iloc[0]))


def test_every_drop_is_counted_with_its_reason(amazon):
    items = [item("p0"), item("p1", title=None), item("never")]
    lines = [f"u{k},p{k % 3},5.0,{T0 + k}" for k in range(9)]
    kept, interactions, drops = read_amazon(amazon(lines, items), "Pens")
    assert kept["item_id"].tolist() == ["p0"] and len(interactions) == 3
    assert drops_of(drops) == {
        "read": 0,
        "never bought": 1,
        "without a title": 1,
        "of an item that is not in the items table": 6,
    }


def test_the_official_variant_also_drops_items_without_price_or_with_long_titles(amazon):
    items = [item("p0"), item("p1", price=None), item("p2", title="word " * 21)]
    kept, _, drops = read_amazon(amazon(items=items), "Pens", protocol="official")
    assert kept["item_id"].tolist() == ["p0"]
    assert drops_of(drops)["without a price"] == drops_of(drops)["title over 20 words"] == 1
    assert len(read_amazon(amazon(items=items), "Pens", protocol="paper")[0]) == 3


def test_a_filter_that_leaves_nothing_is_an_error(amazon):
    with pytest.raises(DataError, match="no item is left once those without a price are dropped"):
        read_amazon(amazon(items=[item("p0", price=None)]), "Pens", protocol="official")
    with pytest.raises(DataError, match=r"no item of .* is described here"):
        read_amazon(amazon(items=[item("other")]), "Pens")


LINES = [f"u{k},p0,5.0,{T0 + k}" for k in range(5)]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (f"u,p0,5.0,{T0},extra", r"Pens\.csv\.gz, line 4: 5 fields, expected 4 \(user_id,parent_asin"),
        (f"u,p0,{T0}", r"Pens\.csv\.gz, line 4: 3 fields, expected 4"),
        (f"u,p0,9.0,{T0}", r"Pens\.csv\.gz, line 4: rating 9 is outside 1…5"),
        ("u,p0,5.0,soon", r"Pens\.csv\.gz, line 4: 'soon' is no plausible time"),
        ("u,p0,5.0,1500000000", r"Pens\.csv\.gz, line 4: '1500000000' .* would fit timestamp_unit 's'"),
        (f",p0,5.0,{T0}", r"Pens\.csv\.gz, line 4: no user_id"),
    ],
)
def test_a_broken_interaction_is_named_with_file_and_line(amazon, broken, message):
    with pytest.raises(DataError, match=message):
        read_amazon(amazon([*LINES[:2], broken, *LINES[2:]]), "Pens")


def test_a_missing_column_is_named(amazon):
    with pytest.raises(DataError, match=r"Pens\.csv\.gz: no column 'parent_asin' for item_id; found user_id, asin"):
        read_amazon(amazon(header="user_id,asin,rating,timestamp"), "Pens")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"parent_asin": "p1", ', r"meta_Pens\.jsonl\.gz, line 2: not valid JSON"),
        ("[1, 2]", r"meta_Pens\.jsonl\.gz, line 2: expected one JSON object, found \[1, 2\]"),
        ('{"title": "x"}', r"meta_Pens\.jsonl\.gz, line 2: no 'parent_asin'"),
        (json.dumps(item("p0")), r"line 2: item_id 'p0' stood already at .*meta_Pens\.jsonl\.gz, line 1"),
    ],
)
def test_a_broken_item_is_named_with_file_and_line(amazon, broken, message):
    with pytest.raises(DataError, match=message):
        read_amazon(amazon(items=[item("p0"), broken, item("p2")]), "Pens")


def test_a_truncated_gzip_file_is_named(amazon):
    folder = amazon([f"user{k * 7919},p0,5.0,{T0 + k * 104_729}" for k in range(5000)])
    for name in ("Pens.csv.gz", "meta_Pens.jsonl.gz"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=rf"{name}: broken after line \d+"):
            read_amazon(folder, "Pens")
        path.write_bytes(whole)


# ---- the user's own logs -------------------------------------------------------------------------------------------


def test_own_logs_need_no_ratings_and_keep_every_text_column(logs):
    items = 'item_id,title,brand,Price\np,"Pen,  &amp; <i>ink</i>",Acme,3\nq,Quill,,4\n'
    catalogue, interactions, drops = readers.read_logs(*logs(items=items))
    assert catalogue.to_dict("list") == {
        "item_id": ["p", "q"],
        "title": ["Pen, & ink", "Quill"],
        "brand": ["Acme", ""],
    }
    assert interactions["rating"].isna().all()
    assert "column 'Price' left out: it may sum up the future" in drops["reason"].tolist()


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".jsonl", ".jsonl.gz"])
def test_all_file_types_hold_the_same_tables_under_the_users_names(tmp_path, suffix):
    log = pd.DataFrame({"who": ["a", "b"], "sku": [1, 2], "t": [1_500_000_000, 1_500_000_001], "stars": [4.5, 2.0]})
    goods = pd.DataFrame({"id": [1, 2], "name": ["Pen", "Quill"], "title": ["Dr", "Mr"]})
    for frame, name in ((log, "log"), (goods, "goods")):
        path = tmp_path / (name + suffix)
        if suffix == ".parquet":
            frame.to_parquet(path)
        elif suffix.startswith(".csv"):
            frame.to_csv(path, index=False)
        else:
            frame.to_json(path, orient="records", lines=True)
    columns = {
        "user_id": "who",
        "item_id": "sku",
        "timestamp": "t",
        "rating": "stars",
        "catalogue_id": "id",
        "title": "name",
    }
    paths = (tmp_path / f"log{suffix}", tmp_path / f"goods{suffix}")
    items, interactions, _ = readers.read_logs(*paths, columns, timestamp_unit="s")
    assert items.to_dict("list") == {"item_id": ["1", "2"], "title": ["Pen", "Quill"]}
    assert interactions["item_id"].tolist() == ["1", "2"] and interactions["rating"].tolist() == [4.5, 2.0]
    assert interactions["timestamp"].iloc[0] == pd.Timestamp("2017-07-14 02:40:00", tz="UTC")


def test_interactions_with_unknown_items_are_counted_and_all_of_them_an_error(logs):
    _, interactions, drops = readers.read_logs(*logs("a,p,2020-01-01\nb,x,2020-01-02\n"))
    assert len(interactions) == 1
    assert drops_of(drops)["of an item that is not in the items table"] == 1
    with pytest.raises(
        DataError, match=r"no interaction belongs to an item of the catalogue \(for example item_id 'x'"
    ):
        readers.read_logs(*logs("b,x,2020-01-02\n"))


def test_lines_are_counted_as_an_editor_does(logs):
    """Quoted line breaks and empty lines stand before the fault."""
    items = 'item_id,title,text\np,Pen,"two\nlines"\n\nq,Quill,x\np,Again,y\n'
    with pytest.raises(DataError, match=r"items\.csv, line 6: item_id 'p' stood already at .*items\.csv, line 3"):
        readers.read_logs(*logs(items=items))


def test_a_wrong_column_name_is_refused(logs):
    with pytest.raises(DataError, match=r"interactions\.csv: no column 'sku' for item_id; found user_id, item_id"):
        readers.read_logs(*logs(), {"item_id": "sku"})
    with pytest.raises(DataError, match=r"interactions\.csv: no column 'stars' for rating"):
        readers.read_logs(*logs(), {"rating": "stars"})
    with pytest.raises(DataError, match=r"items\.csv: no column 'name' for title"):
        readers.read_logs(*logs(), {"title": "name"})
    with pytest.raises(DataError, match=r"\['brand'\] not known"):
        readers.read_logs(*logs(), {"brand": "name"})


def test_missing_empty_and_foreign_files_are_named(logs, tmp_path):
    _, items = logs()
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        readers.read_logs(tmp_path / "gone.csv", items)
    with pytest.raises(DataError, match=r"notes\.txt: expected a name in \.csv"):
        readers.read_logs(tmp_path / "notes.txt", items)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match=r"empty\.csv: cannot be read as csv"):
        readers.read_logs(tmp_path / "empty.csv", items)
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(DataError, match=r"no\.parquet: cannot be read as parquet"):
        readers.read_logs(tmp_path / "no.parquet", items)
    with pytest.raises(DataError, match=r"interactions\.csv: the table has no rows"):
        readers.read_logs(*logs(""))


def test_bytes_that_are_no_text_are_named_with_their_line(logs):
    interactions, items = logs()
    interactions.write_bytes(interactions.read_bytes() + b"c,\xff\xfe,2020-01-03\n")
    with pytest.raises(DataError, match=r"interactions\.csv, line 4: not UTF-8 text"):
        readers.read_logs(interactions, items)


def test_a_byte_order_mark_is_no_part_of_the_first_column(logs):
    interactions, items = logs()
    interactions.write_bytes(b"\xef\xbb\xbf" + interactions.read_bytes())
    assert len(readers.read_logs(interactions, items)[1]) == 2


def test_a_rating_outside_the_users_scale_is_refused(logs):
    interactions, items = logs()
    interactions.write_text("user_id,item_id,timestamp,rating\na,p,2020-01-01,8\nb,q,2020-01-01,\n")
    with pytest.raises(DataError, match=r"interactions\.csv, line 2: rating 8 is outside 1…5"):
        readers.read_logs(interactions, items)
    assert len(readers.read_logs(interactions, items, rating_range=(0, 10))[1]) == 2


# ---- times ---------------------------------------------------------------------------------------------------------

PLACE = "log"


def test_times_are_read_in_every_unit():
    expected = pd.Timestamp("2017-07-14 02:40:00", tz="UTC")
    for unit, text in {"s": "1500000000", "ms": "1500000000000", "iso": "2017-07-14T04:40:00+02:00"}.items():
        assert readers.parse_time(pd.Series([text]), unit, PLACE).tolist() == [expected]
    assert readers.parse_time(pd.Series(["2017-07-14 02:40:00"]), "iso", PLACE).tolist() == [expected]
    stored = pd.Series([expected.tz_convert("Asia/Tokyo")])
    assert readers.parse_time(stored, "s", PLACE).tolist() == [expected]


@pytest.mark.parametrize(
    ("value", "unit", "message"),
    [
        (
            "1500000000",
            "ms",
            "log, row 2: '1500000000' is no plausible time in unit 'ms'.*would fit timestamp_unit 's'",
        ),
        ("1500000000000", "s", "row 2: .*would fit timestamp_unit 'ms'"),
        ("1500000000", "iso", "row 2: .*would fit timestamp_unit 's'"),
        ("1500000000000", "iso", "row 2: .*would fit timestamp_unit 'ms'"),
        ("31.12.2017", "iso", "row 2: '31.12.2017' is no plausible time in unit 'iso'.*Expected a year in 1990…2100"),
        ("5", "s", "row 2: .*Expected a year"),
        (None, "s", "row 2: "),
        ("2017", "years", "timestamp_unit is 'years'; expected 'iso', 's' or 'ms'"),
    ],
)
def test_a_time_that_is_none_names_its_row_and_the_unit_that_fits(value, unit, message):
    sound = {"s": "1500000000", "ms": "1500000000000"}.get(unit, "2017-07-14")
    with pytest.raises(DataError, match=message):
        readers.parse_time(pd.Series([sound, value]), unit, PLACE)


# ---- texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "readable"),
    [
        ("Soft<br>and&nbsp;light &amp; small", "Soft and light & small"),
        (" <!-- .h {color:#000;} ul {margin:0} --> Pens", "Pens"),
        ("Pens <!-- torn off", "Pens"),
        ("<style>p {x: y}</style>A<script>alert('<b>')</script>B", "A B"),
        ("&lt;p class=&quot;x&quot;&gt;Twice escaped&lt;/p&gt;", "Twice escaped"),
        (".sup {font-size: 11px;} hr.dashed {height:1px} Text", "Text"),
        ("red b> blue <br", "red blue"),
        ("1 < 2 and 3 > 2, {so it is}", "1 < 2 and 3 > 2, {so it is}"),
        (["One.", None, "", "Two."], "One. Two."),
        ({"Size": "A4", "Dimensions": {"Height": "3 cm"}, "Gone": None}, "Size: A4; Dimensions: Height: 3 cm"),
        (12.5, "12.5"),
        (float("nan"), ""),
    ],
)
def test_texts_become_readable(raw, readable):
    assert readers.plain_text(raw) == readable


# ---- downloads -----------------------------------------------------------------------------------------------------


@pytest.fixture
def site(amazon, tmp_path):
    """The Amazon files on a local server that understands ranges; `.asked` keeps (path, Range header)."""
    folder = amazon()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Range")))
            path = folder / self.path.split("/")[-1]
            if not path.is_file():
                return self.send_error(404)
            body, start = path.read_bytes(), 0
            if self.headers.get("Range"):
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                return self.end_headers()
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start:])

        def log_message(self, *args):
            pass

    asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, asked
    server.shutdown()
    server.server_close()


def test_a_download_is_read_recorded_and_not_repeated(site, tmp_path, capsys):
    url, _, asked = site
    target = tmp_path / "data"
    assert len(read_amazon(target, "Pens", download=True, base_url=url)[1]) == 6
    assert "Pens.csv.gz:" in capsys.readouterr().out and len(asked) == 2
    read_amazon(target, "Pens", download=True, base_url=url)
    assert len(asked) == 2
    path = target / "benchmark/0core/rating_only/Pens.csv.gz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"Pens\.csv\.gz: its SHA-256 differs"):
        read_amazon(target, "Pens", download=True, base_url=url)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_broken_download_continues_where_it_stopped(site, tmp_path, share):
    url, folder, asked = site
    whole = (folder / "Pens.csv.gz").read_bytes()
    part = tmp_path / "data/benchmark/0core/rating_only/Pens.csv.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(whole[: int(len(whole) * share)])
    download_amazon(tmp_path / "data", "Pens", base_url=url)
    assert asked[0][1] == f"bytes={int(len(whole) * share)}-"
    assert part.with_suffix("").read_bytes() == whole and not part.exists()


def test_a_failed_download_says_what_to_do(site, tmp_path):
    url, _, _ = site
    with pytest.raises(DataError, match=r"cannot be fetched .*404.*Check the network and the category"):
        download_amazon(tmp_path / "data", "Ships", base_url=url)
    with pytest.raises(DataError, match=r"cannot be fetched .*refused"):
        download_amazon(tmp_path / "data", "Pens", base_url="http://127.0.0.1:9")
    with pytest.raises(DataError, match="core is '3core'"):
        download_amazon(tmp_path / "data", "Pens", "3core", base_url=url)
