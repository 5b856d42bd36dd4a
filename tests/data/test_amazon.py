"""Amazon's two files become the tables; odd rows are counted, and a broken file is named with its line."""

import gzip
import http.server
import io
import json
import re
import threading

import pandas as pd
import pytest
from filelock import FileLock

from r2ec_lib.data.amazon import _copy, _site_names, download_amazon, read_amazon
from r2ec_lib.data.schema import DataError, sums_up_future

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


def drops_of(drops):
    return dict(zip(drops["reason"], drops["dropped"], strict=True))


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


def test_a_log_that_was_appended_to_itself_is_read_once(amazon):
    lines = [f"u{k},p{k % 3},5.0,{T0 + k * DAY}" for k in range(6)]
    _, interactions, drops = read_amazon(amazon(lines * 2), "Pens")
    assert len(interactions) == 6 and drops_of(drops)["same user, item and time as one before"] == 6


def test_blanks_around_an_item_s_id_make_no_other_item(amazon):
    items, interactions, _ = read_amazon(amazon([f"u, p0,5.0,{T0}"], [item("p0 ")]), "Pens")
    assert items["item_id"].tolist() == interactions["item_id"].tolist() == ["p0"]


def test_the_sites_own_tree_is_read_too(amazon):
    folder = amazon()
    for name in _site_names("Pens", "5core"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name.split("/")[-1]).rename(folder / name)
    assert len(read_amazon(folder, "Pens", "5core")[1]) == 6
    with pytest.raises(DataError, match=r"Pens\.csv\.gz: no such file, nor .*0core"):
        read_amazon(folder, "Pens", "0core")


@pytest.mark.parametrize("core", ["", "5core"])
def test_files_may_be_unpacked_and_are_not_fetched_then(amazon, core):
    folder = amazon()
    for name in _site_names("Pens", core or "0core"):
        zipped, plain = folder / name.split("/")[-1], folder / (name if core else name.split("/")[-1])
        plain.parent.mkdir(parents=True, exist_ok=True)
        plain.with_suffix("").write_bytes(gzip.decompress(zipped.read_bytes()))
        zipped.unlink()
    assert len(read_amazon(folder, "Pens", core or "0core", download=True, base_url="http://nowhere.invalid")[1]) == 6


def test_a_file_that_is_missing_is_told_with_those_of_a_name_alike(amazon):
    with pytest.raises(DataError, match=r"Pencil\.csv\.gz: no such file.*; the folder has Pens\.csv\.gz\. Correct"):
        read_amazon(amazon(), "Pencil")
    with pytest.raises(DataError, match=r"Pens\.csv\.gz: no such file.*; nor is there a file with a name alike\."):
        read_amazon("gone", "Pens")


def test_no_summary_of_the_whole_corpus_becomes_item_text(amazon):
    items, _, _ = read_amazon(amazon(), "Pens")
    assert not any(map(sums_up_future, items.columns))
    assert not re.search(r"4\.5|99|9\.5|12", " ".join(items.iloc[0]))


def test_fields_of_another_kind_than_usual_are_read_as_text(amazon):
    items, _, _ = read_amazon(amazon(items=[item("p0", categories="Pens", details="3 g", features=None)]), "Pens")
    assert items.loc[0, ["categories", "details", "features"]].tolist() == ["Pens", "3 g", ""]
    nested = {"Product information": {"Weight": "3 g", "Best Sellers Rank": {"Pens": 12}}}
    for details in nested, str(nested), json.dumps(nested):
        items, _, _ = read_amazon(amazon(items=[item("p0", details=details)]), "Pens")
        assert items.loc[0, "details"] == "Product information: Weight: 3 g"


def test_every_drop_is_counted_with_its_reason(amazon):
    items = [item("p0"), item("p1", title=None), item("never")]
    lines = [f"u{k},p{k % 3},5.0,{T0 + k}" for k in range(9)]
    kept, interactions, drops = read_amazon(amazon(lines, items), "Pens")
    assert kept["item_id"].tolist() == ["p0"] and len(interactions) == 3
    assert list(drops.drop(columns="step").itertuples(index=False, name=None)) == [
        ("read", 0, 3, ""),
        ("never bought", 1, 2, ""),
        ("without a title", 1, 1, "meta_Pens.jsonl.gz: p1, , Office, Shop"),
        ("keys inside columns left out: they may sum up the future", 0, 1, "Best Sellers Rank, Customer Reviews"),
        ("read", 0, 9, ""),
        ("of an item that was dropped", 3, 6, "item_id 'p1'"),
        ("of an item that is not in the items table", 3, 3, "item_id 'p2'"),
    ]
    assert drops["step"].tolist() == ["items"] * 4 + ["interactions"] * 3


def test_an_item_stays_that_is_listed_first_without_a_title_and_then_with_one(amazon):
    listed = [item("p0", title=""), item("p1"), item("p0"), item("p1", title=None), item("p0", title="Again")]
    kept, interactions, drops = read_amazon(amazon(items=[*listed, item("p2", title="")]), "Pens")
    assert kept[["item_id", "title"]].to_numpy().tolist() == [["p1", "Title of p1"], ["p0", "Title of p0"]]
    steps = drops[drops["step"] == "items"].set_index("reason")[["dropped", "remaining"]].to_numpy().tolist()
    assert steps == [[0, 6], [0, 6], [3, 3], [1, 2], [0, 2]] and len(interactions) == 4
    assert drops_of(drops)["of an item that was dropped"] == 2  # p2's


def test_a_title_of_signs_that_nobody_sees_is_none(amazon):
    kept, _, drops = read_amazon(amazon(items=[item("p0"), item("p1", title="\u200b"), item("p2")]), "Pens")
    assert kept["item_id"].tolist() == ["p0", "p2"] and drops_of(drops)["without a title"] == 1


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
    with pytest.raises(DataError, match=r"meta_Pens.jsonl.gz, line 1: expected one JSON object, found \["):
        read_amazon(amazon(items=[json.dumps([item("p0"), item("p1")])]), "Pens")


LINES = [f"u{k},p0,5.0,{T0 + k}" for k in range(5)]


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (f"u,p0,0.0,{T0}", "rating outside 1…5"),
        (f"u,p0,5.5,{T0}", "rating outside 1…5"),
        (f"u,p0,good,{T0}", "rating outside 1…5"),
        ("u,p0,5.0,soon", "no time in 1990…2100"),
        ("u,p0,5.0,-62135596800000", "no time in 1990…2100"),
        ("u,p0,5.0,", "no time in 1990…2100"),
        (f",p0,5.0,{T0}", "without a user or an item"),
        (f"u,,5.0,{T0}", "without a user or an item"),
        (f" ,p0,5.0,{T0}", "without a user or an item"),
    ],
)
def test_an_odd_interaction_is_dropped_and_counted_with_an_example(amazon, odd, reason):
    _, interactions, drops = read_amazon(amazon([*LINES[:2], odd, *LINES[2:]]), "Pens")
    assert len(interactions) == 5
    row = drops.set_index("reason").loc[reason]
    assert (row["step"], row["dropped"], row["remaining"]) == ("interactions", 1, 5)
    example = ", ".join(field or "nan" for field in odd.split(","))
    assert row["example"] == f"Pens.csv.gz: {example}"


def test_a_rating_that_is_missing_is_no_odd_one(amazon):
    assert len(read_amazon(amazon([*LINES, f"u,p0,,{T0}"]), "Pens")[1]) == 6


@pytest.mark.parametrize(
    ("sound", "odd", "refused"), [(0, 11, True), (1089, 11, False), (1088, 12, True), (3, 10, False)]
)
def test_more_odd_rows_than_one_in_a_hundred_are_an_error(amazon, sound, odd, refused):
    lines = [f"u{k},p0,0.0,{T0 + k}" for k in range(odd)] + [f"v{k},p0,5.0,{T0 + k}" for k in range(sound)]
    folder = amazon(lines)
    if refused:
        with pytest.raises(DataError, match=rf"Pens\.csv\.gz, line 2: rating 0 is outside 1…5 \({odd} such rows\)"):
            read_amazon(folder, "Pens")
    else:
        assert len(read_amazon(folder, "Pens")[1]) == sound


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LINES, f"u,p0,5.0,{T0},extra"], r"Pens\.csv\.gz, line 7: 5 fields, expected 4 \(user_id,parent_asin"),
        ([*LINES, f"u,p0,{T0}"], r"Pens\.csv\.gz, line 7: 3 fields, expected 4"),
        (
            ["u,p0,5.0,1500000000"] * 11,
            r"Pens\.csv\.gz, line 2: '1500000000' .* is always 'ms'; read other files with",
        ),
        ([f",p0,5.0,{T0}"] * 11, r"Pens\.csv\.gz, line 2: no user_id \(11 such rows\)"),
        ([f",p0,5.0,{T0}"] * 3, r"Pens\.csv\.gz: no interaction is left once those without a user or an item"),
    ],
)
def test_a_broken_interactions_file_is_named_with_its_line(amazon, lines, message):
    with pytest.raises(DataError, match=message):
        read_amazon(amazon(lines), "Pens")


def test_another_scale_of_ratings_is_read_where_it_is_asked_for(amazon):
    lines = [f"u{k},p{k % 3},{k * 2},{T0 + k * DAY}" for k in range(6)] + [f"u,p0,11,{T0}"]
    _, interactions, drops = read_amazon(amazon(lines), "Pens", rating_range=(0, 10))
    assert sorted(interactions["rating"]) == [0, 2, 4, 6, 8, 10]
    assert drops_of(drops)["rating outside 0…10"] == 1


def test_ratings_are_not_needed(amazon):
    _, interactions, _ = read_amazon(amazon([f"u,p0,{T0}"], header="user_id,parent_asin,timestamp"), "Pens")
    assert interactions["rating"].isna().all() and len(interactions) == 1


def test_a_missing_column_is_named(amazon):
    advice = "Source amazon reads .* 2023 alone; read other files with source logs: set .* such as column_item_id and"
    found = r"Pens\.csv\.gz: no column 'parent_asin' for item_id; found 'user_id', 'asin', 'rating', 'timestamp'\. "
    with pytest.raises(DataError, match=found + advice):
        read_amazon(amazon(header="user_id,asin,rating,timestamp"), "Pens")
    items = [{"asin" if key == "parent_asin" else key: value for key, value in item("p0").items()}]
    with pytest.raises(DataError, match=rf"meta_Pens\.jsonl\.gz, line 1: no 'parent_asin'; found .*asin\. {advice}"):
        read_amazon(amazon(items=items), "Pens")


@pytest.mark.parametrize(
    ("odd", "reason", "example"),
    [
        ('{"parent_asin": "p1", ', "no JSON object with a parent_asin", r"line 2: not valid JSON"),
        ("[1, 2]", "no JSON object with a parent_asin", r"line 2: expected one JSON object, found \[1, 2\]"),
        ('{"title": "x"}', "no JSON object with a parent_asin", r"line 2: no 'parent_asin'; found title"),
        (
            r'{"parent_asin": "p1", "title": "\ud83d"}',
            "no JSON object with a parent_asin",
            r"line 2: half a character",
        ),
        (json.dumps(item("p0", title="Again")), "listed again", r"^meta_Pens\.jsonl\.gz: p0, Again, Office"),
    ],
)
def test_an_odd_item_is_dropped_and_counted_and_many_are_an_error(amazon, odd, reason, example):
    items, _, drops = read_amazon(amazon(items=[item("p0"), odd, item("p2")]), "Pens")
    assert items["title"].tolist() == ["Title of p0", "Title of p2"]
    row = drops.set_index("reason").loc[reason]
    assert row["dropped"] == 1 and re.search(example, row["example"])
    assert row["remaining"] == 2 and drops["remaining"].iloc[0] == 3
    with pytest.raises(DataError, match=r"meta_Pens\.jsonl\.gz, line 2: "):
        read_amazon(amazon(items=[item("p0"), *[odd] * 11, item("p2")]), "Pens")


def test_a_truncated_gzip_file_is_named(amazon):
    folder = amazon([f"user{k * 7919},p0,5.0,{T0 + k * 104_729}" for k in range(5000)])
    for name in ("Pens.csv.gz", "meta_Pens.jsonl.gz"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=rf"{name}: broken after line \d+"):
            read_amazon(folder, "Pens")
        path.write_bytes(whole)


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
            if self.headers.get("Range") and "/no_ranges/" not in self.path:
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
    with pytest.raises(
        DataError, match=r"Pens\.csv\.gz: its SHA-256 differs .* Delete Pens\.csv\.gz\.sha256 if .* on purpose"
    ):
        read_amazon(target, "Pens", download=True, base_url=url)


def test_a_file_that_was_corrected_is_taken_once_its_checksum_is_deleted(site, tmp_path):
    url, _, asked = site
    target = tmp_path / "data"
    download_amazon(target, "Pens", base_url=url)
    path = target / "benchmark/0core/rating_only/Pens.csv.gz"
    path.write_bytes(gzip.compress(f"{HEADER}\nu,p0,5.0,{T0}\n".encode()))
    path.with_name(path.name + ".sha256").unlink()
    assert len(read_amazon(target, "Pens", download=True, base_url=url)[1]) == 1
    assert len(asked) == 2


def test_a_download_of_which_more_has_arrived_than_the_site_has_now_begins_anew(site, tmp_path):
    url, folder, _ = site
    whole = (folder / "Pens.csv.gz").read_bytes()
    part = tmp_path / "data/benchmark/0core/rating_only/Pens.csv.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(whole + b"more")
    with pytest.raises(DataError, match=r"Pens\.csv\.gz: .* replaced by a smaller one .*Run again"):
        download_amazon(tmp_path / "data", "Pens", base_url=url)
    download_amazon(tmp_path / "data", "Pens", base_url=url)
    assert part.with_suffix("").read_bytes() == whole


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


def test_two_processes_do_not_fetch_the_same_file(site, tmp_path):
    url, _, asked = site
    part = tmp_path / "data/benchmark/0core/rating_only/Pens.csv.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"begun")
    with (
        FileLock(part.with_name(".Pens.csv.gz.lock")),
        pytest.raises(DataError, match=r"Pens\.csv\.gz is being fetched"),
    ):
        download_amazon(tmp_path / "data", "Pens", base_url=url)
    assert part.read_bytes() == b"begun" and not asked


def test_a_server_without_ranges_sends_the_whole_file_again(site, tmp_path):
    url, folder, _ = site
    part = tmp_path / "data/benchmark/0core/rating_only/Pens.csv.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"other")
    download_amazon(tmp_path / "data", "Pens", base_url=f"{url}/no_ranges")
    assert part.with_suffix("").read_bytes() == (folder / "Pens.csv.gz").read_bytes()


def test_a_download_tells_its_progress_in_tenths(tmp_path, capsys):
    size = 30 << 20
    _copy(io.BytesIO(bytes(size)), tmp_path / "x.part", 0, size, "x")
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[1], lines[-1], len(lines)] == [
        "x: 1.0 of 31.5 MB",
        "x: 3.1 of 31.5 MB",
        "x: 31.5 of 31.5 MB",
        11,
    ]
    assert (tmp_path / "x.part").stat().st_size == size
    with pytest.raises(OSError, match="5 of 9 bytes arrived"):
        _copy(io.BytesIO(b"ab"), tmp_path / "x.part", 3, 9, "x")


def test_a_failed_download_says_what_to_do(site, tmp_path):
    url, _, _ = site
    with pytest.raises(DataError, match=r"cannot be fetched .*404.*Check the network and the category"):
        download_amazon(tmp_path / "data", "Ships", base_url=url)
    with pytest.raises(DataError, match=r"cannot be fetched .*refused"):
        download_amazon(tmp_path / "data", "Pens", base_url="http://127.0.0.1:9")
    with pytest.raises(DataError, match="core is '3core'"):
        download_amazon(tmp_path / "data", "Pens", "3core", base_url=url)
