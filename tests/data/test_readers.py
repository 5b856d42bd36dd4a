"""A user's own logs become the tables, or one message that names the file and the line."""

import json
from collections import Counter

import pandas as pd
import pytest

from r2ec_lib.data import readers
from r2ec_lib.data.schema import DataError


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


def test_own_logs_need_no_ratings_and_keep_every_text_column(logs):
    items = 'item_id,title,brand,Price\np,"Pen,  &amp; <i>ink</i>",Acme,3\nq,Quill,,4\n'
    catalogue, interactions, drops = readers.read_logs(*logs(items=items))
    assert catalogue.to_dict("list") == {
        "item_id": ["p", "q"],
        "title": ["Pen, & ink", "Quill"],
        "brand": ["Acme", ""],
    }
    assert interactions["rating"].isna().all()
    (reason,) = drops["reason"][drops["reason"].str.startswith("column 'Price' left out: it may sum up the future")]
    assert reason.endswith("one known before the first purchase is kept under another name")
    catalogue, _, _ = readers.read_logs(*logs(items=items.replace("Price", "List price")))
    assert catalogue["List price"].tolist() == ["3", "4"]


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


def test_a_shopper_whose_json_id_is_once_an_integer_and_once_a_float_is_one(tmp_path):
    row = '{{"user_id": {}, "item_id": "{}", "timestamp": "2020-01-01"}}\n'
    rows = [row.format("7", "p"), row.format("7.0", "q")]
    (tmp_path / "log.jsonl").write_text("".join(rows))
    assert readers.read_interactions(tmp_path / "log.jsonl")["user_id"].tolist() == ["7", "7"]


def test_a_parquet_id_too_large_for_a_float_names_its_file_and_row(tmp_path):
    log = {"user_id": [7.0, 1e20], "item_id": "p", "timestamp": pd.Timestamp("2020-01-01", tz="UTC")}
    pd.DataFrame(log).to_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet, row 2: user_id is a float of 2\*\*53 or more"):
        readers.read_interactions(tmp_path / "log.parquet")


def test_interactions_with_unknown_items_are_counted_and_all_of_them_an_error(logs):
    _, interactions, drops = readers.read_logs(*logs("a,p,2020-01-01\nb,x,2020-01-02\n"))
    assert len(interactions) == 1
    assert drops_of(drops)["of an item that is not in the items table"] == 1
    with pytest.raises(
        DataError, match=r"no interaction belongs to an item of the catalogue \(for example item_id 'x'"
    ):
        readers.read_logs(*logs("b,x,2020-01-02\n"))


def test_where_many_ids_match_the_advice_is_to_add_the_missing_items(logs, capsys):
    paths = logs("".join(f"u{k},{item},2020-01-01\n" for k, item in enumerate("pqxyzpqx")))
    readers.read_logs(*paths)
    assert capsys.readouterr().out.endswith(
        "4 of 8 interactions are dropped, since the items table lacks their items (for example item_id 'x'; the "
        "catalogue has 'p'). It has 2 of the 5 items of the log; add the others.\n"
    )


def test_blanks_around_an_id_make_no_other_id(logs):
    paths = logs("a , p,2020-01-01\na,q ,2020-01-02\n", items="item_id,title\np ,Pen\n q,Quill\n")
    items, interactions, _ = readers.read_logs(*paths)
    assert items["item_id"].tolist() == interactions["item_id"].tolist() == ["p", "q"]
    assert set(interactions["user_id"]) == {"a"}


def test_more_than_a_fifth_of_unknown_items_is_told_with_an_example_and_what_would_match(logs, capsys):
    items, rows = "item_id,title\n001,Pen\n20,Quill\n", "a,20,2020-01-01\n" * 2 + "b,1,2020-01-02\nb,x,2020-01-02\n"
    readers.read_logs(*logs(rows, items))
    told = capsys.readouterr().out
    assert "interactions.csv: 2 of 3 interactions are dropped" in told
    assert "(for example item_id '1'; the catalogue has '001')" in told
    assert told.endswith("Write the ids alike in both files; without leading zeros, 1 would match.\n")
    readers.read_logs(*logs(rows.replace("b,1", "b,P-1"), items.replace("001", "p-1")))
    assert capsys.readouterr().out.endswith("Write the ids alike in both files; in one case, 1 would match.\n")
    rows = "".join(f"u{number},20,2020-01-01\n" for number in range(4)) + "b,x,2020-01-02\n"
    readers.read_logs(*logs(rows, items))
    assert capsys.readouterr().out == ""  # no more than a fifth
    with pytest.raises(DataError, match="both files; without leading zeros, 1 would match"):
        readers.read_logs(*logs("b,1,2020-01-02\n", items))


def test_interactions_that_a_file_repeats_are_dropped_and_counted(logs):
    rows = "a,p,2020-01-01\nb,q,2020-01-02\n"
    paths = logs(rows + rows + "a,p,2020-01-02\n")
    _, interactions, drops = readers.read_logs(*paths)
    assert interactions["user_id"].to_dict() == {0: "a", 1: "a", 2: "b"}
    row = drops.set_index("reason").loc["same user, item and time as one before"]
    assert (row["dropped"], row["remaining"], row["example"]) == (2, 3, "a, p, 2020-01-01 00:00:00+00:00")
    assert len(readers.read_interactions(paths[0])) == 3  # as lists read the log


@pytest.fixture
def sold(tmp_path):
    """Reads a log of one shopper's (item, quantity, time) and an items file of a pen and a quill."""

    def read(*rows):
        (tmp_path / "log.csv").write_text(
            "user_id;item_id;Menge;timestamp\n" + "".join(f"a;{';'.join(row.split())}\n" for row in rows)
        )
        (tmp_path / "items.csv").write_text("item_id,title\npen,Pen\nquill,Quill\n")
        _, interactions, drops = readers.read_logs(tmp_path / "log.csv", tmp_path / "items.csv", {"quantity": "Menge"})
        assert readers.read_interactions(tmp_path / "log.csv", {"quantity": "Menge"}).equals(interactions)
        left = zip(interactions["item_id"], interactions["timestamp"].dt.day, strict=True)
        return [f"{item} {day}" for item, day in left], drops.set_index("reason")

    return read


RETURN, TAKEN = "quantity of 0 or less: a return, no purchase", "purchase that a later return takes back"


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        (["pen 1 2020-01-01", "quill 2,0 2020-01-02"], ["pen 1", "quill 2"]),
        (["pen 1 2020-01-01", "pen 1 2020-01-02", "quill 1 2020-01-02", "pen -1 2020-01-03"], ["pen 1", "quill 2"]),
        (["pen 1 2020-01-01", "quill 1 2020-01-02", "pen 0 2020-01-03", "pen -1,0 2020-01-04"], ["quill 2"]),
        (["pen -1 2020-01-01", "pen 1 2020-01-02"], ["pen 2"]),
        (["quill 1 2020-01-05", "pen -1 2020-01-02", "pen 1 2020-01-02", "pen 1 2020-01-01"], ["pen 1", "quill 5"]),
        (["pen 1 2020-01-01", "pen 1 2020-01-01", "pen -1 2020-01-02"], ["pen 1"]),
    ],
    ids=[
        "no return",
        "the latest goes",
        "nothing is taken twice",
        "bought before the log",
        "new to old",
        "a unit each",
    ],
)
def test_a_return_is_no_purchase_and_takes_back_the_latest_one_before_it(sold, rows, left):
    assert sold(*rows)[0] == left


def test_returns_and_what_they_take_back_are_counted_with_examples(sold):
    _, drops = sold("pen 1 2020-01-01", "quill 1 2020-01-02", "pen -1 2020-01-03", "pen -1 2020-01-04")
    assert drops.loc["read", "remaining"].tolist() == [2, 4]
    assert drops.loc[RETURN, ["dropped", "remaining", "example"]].tolist() == [
        *(2, 2, "a, pen, 2020-01-03 00:00:00+00:00, -1")
    ]
    assert drops.loc[TAKEN, ["dropped", "remaining", "example"]].tolist() == [
        *(1, 1, "a, pen, 2020-01-01 00:00:00+00:00, 1")
    ]


@pytest.mark.parametrize(
    ("quantity", "message"),
    [
        ("one", r"log\.csv, line 3: quantity 'one' is no number \(1 such rows\)"),
        ("", r"log\.csv, line 3: no quantity \(1 such rows\)"),
        ("-1", r"log\.csv: no purchase is left without returns\. Correct column_quantity"),
    ],
)
def test_a_quantity_that_is_none_and_a_log_of_returns_are_refused(tmp_path, quantity, message):
    path = tmp_path / "log.csv"
    path.write_text(f"user_id,item_id,timestamp,n\na,p,2020-01-01,1\na,p,2020-01-02,{quantity}\n")
    with pytest.raises(DataError, match=message):
        readers.read_interactions(path, {"quantity": "n"})


LONG = "x" * 10**6


@pytest.mark.parametrize(
    ("interactions", "items"),
    [
        (f"a,p,{LONG}\n", "item_id,title\np,Pen\n"),
        (f"a,{LONG},2020-01-01\n", "item_id,title\np,Pen\n"),
        ("a,p,2020-01-01\n", f"item_id,{LONG}\np,Pen\n"),
        ("a,p,2020-01-01\n", f"item_id,title,{LONG},{LONG}\np,Pen,,\n"),
        ("a,p,2020-01-01\n", f"item_id,title,\np,Pen,{LONG}\n"),
        ("a,p,2020-01-01\n", f"item_id,title\n{LONG},Pen\n{LONG},Pen\n"),
        ("a,p,2020-01-01\n", f"item_id,{LONG}\np,Pen,more\n"),
    ],
)
def test_a_value_of_any_length_leaves_a_message_of_a_few_lines(logs, interactions, items):
    with pytest.raises(DataError) as caught:
        readers.read_logs(*logs(interactions, items))
    assert len(str(caught.value)) < 1000


def test_a_dropped_row_of_any_length_leaves_a_short_example(logs):
    _, _, drops = readers.read_logs(
        *logs(f"a,p,2020-01-01\n{LONG},p,2020-01-01\n{LONG},p,2020-01-01\nb,{LONG},2020\n")
    )
    assert (drops["example"].str.len() > 0).sum() == 2 and drops["example"].str.len().max() < 200


def test_lines_are_counted_as_an_editor_does(logs):
    """Quoted line breaks and empty lines stand before the fault."""
    items = 'item_id,title,text\np,Pen,"two\nlines"\n\nq,Quill,x\np,Again,y\n'
    with pytest.raises(DataError, match=r"items\.csv, line 6: item_id 'p' is already at .*items\.csv, line 3"):
        readers.read_logs(*logs(items=items))


def test_a_wrong_column_name_is_refused(logs):
    with pytest.raises(DataError, match=r"interactions\.csv: no column 'sku' for item_id; found 'user_id', 'item_id'"):
        readers.read_logs(*logs(), {"item_id": "sku"})
    with pytest.raises(DataError, match=r"interactions\.csv: no column 'stars' for rating"):
        readers.read_logs(*logs(), {"rating": "stars"})
    with pytest.raises(DataError, match=r"items\.csv: no column 'name' for title"):
        readers.read_logs(*logs(), {"title": "name"})
    with pytest.raises(DataError, match=r"\['brand'\] not known"):
        readers.read_logs(*logs(), {"brand": "name"})


def test_a_column_of_the_items_is_named_by_the_key_that_maps_it(logs):
    with pytest.raises(DataError, match=r"items\.csv: no column 'item_id' for item_id; .*set column_catalogue_id and"):
        readers.read_logs(*logs(items="sku,title\np,Pen\n"))
    with pytest.raises(DataError, match=r"no column 'sku' for item_id; .* or set column_item_id to the name"):
        readers.read_logs(*logs(), {"item_id": "sku"})


def test_times_in_the_future_and_quantities_that_nobody_reads_are_told(logs, capsys):
    interactions, items = logs("a,p,2020-01-01\nb,q,2099-12-31\n")
    readers.read_interactions(interactions)
    assert "interactions.csv: 1 of 2 times lie in the future, the last 2099-12-31" in capsys.readouterr().out
    interactions.write_text("user_id,item_id,timestamp,quantity\na,p,2020-01-01,1\nb,q,2020-01-02,-1\n")
    readers.read_logs(interactions, items)
    assert "1 rows have a quantity of 0 or less and count as purchases" in capsys.readouterr().out
    readers.read_logs(interactions, items, {"quantity": "quantity"})
    assert capsys.readouterr().out == ""


def test_missing_and_empty_files_are_named(logs, tmp_path):
    interactions, items = logs()
    for paths in (("", items), (interactions, "")):
        with pytest.raises(DataError, match="path of a file is empty"):
            readers.read_logs(*paths)
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        readers.read_logs(tmp_path / "gone.csv", items)
    with pytest.raises(DataError, match=r"notes\.txt: expected a name in \.csv"):
        readers.read_logs(tmp_path / "notes.txt", items)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match=r"empty\.csv: cannot be read as csv"):
        readers.read_logs(tmp_path / "empty.csv", items)
    with pytest.raises(DataError, match=r"interactions\.csv: the table has no rows"):
        readers.read_logs(*logs(""))


def test_messages_list_the_columns_that_the_file_has_so_that_blanks_are_seen(logs):
    interactions, items = logs()
    interactions.write_text("user_id ,item_id,timestamp,till\na,p,2020-01-01,7\n")
    found = r"no column 'user_id' for user_id; found 'user_id ', 'item_id', 'timestamp', 'till'\. Correct"
    with pytest.raises(DataError, match=found):
        readers.read_logs(interactions, items)
    assert len(readers.read_logs(interactions, items, {"user_id": "user_id "})[1]) == 1


def test_ratings_may_have_a_decimal_comma(logs):
    interactions, items = logs()
    interactions.write_text("user_id;item_id;timestamp;rating\na;p;2020-01-01;2,5\nb;q;2020-01-02;4\n")
    assert readers.read_logs(interactions, items)[1]["rating"].tolist() == [2.5, 4.0]


# ---- items ---------------------------------------------------------------------------------------------------------


def test_index_and_empty_columns_without_a_name_are_left_out_and_counted(logs):
    items = ",item_id,title,title2,,\n1,p,Pen,x,,\n0,q,Quill,,,\n"
    catalogue, _, drops = readers.read_logs(*logs(items=items))
    assert catalogue.columns.tolist() == ["item_id", "title", "title2"]
    assert drops["dropped"].sum() == 0 and set(drops["remaining"]) == {2}
    reasons = drops["reason"].tolist()
    assert [f"column 'Unnamed: {k}' left out: it has no name of its own" in reasons for k in (0, 4, 5)] == [True] * 3


@pytest.mark.parametrize("title", ["", " ", "<br>", "\u200b"])
def test_items_without_a_title_are_dropped_and_counted_and_so_are_their_purchases(logs, title):
    items = f"item_id,title,brand\np,Pen,Acme\nq,{title},Acme\nr,{title},\n"
    catalogue, interactions, drops = readers.read_logs(*logs(items=items))
    assert catalogue["item_id"].tolist() == interactions["item_id"].tolist() == ["p"]
    row = drops.set_index("reason").loc["without a title"]
    assert (row["step"], row["dropped"], row["remaining"], row["example"]) == ("items", 2, 1, "item_id 'q'")
    assert drops["remaining"][0] == 3 and drops_of(drops)["of an item that was dropped"] == 1


def test_purchases_of_items_without_a_title_are_not_called_unknown(logs, capsys):
    """Else the advice would be to write ids alike that are."""
    rows, items = "a,p,2020-01-01\na,q,2020-01-02\nb,q,2020-01-02\nb,x,2020-01-03\n", "item_id,title\np,Pen\n q,\n"
    _, interactions, drops = readers.read_logs(*logs(rows + "".join(f"c{k},p,2020-01-04\n" for k in range(9)), items))
    counts = drops_of(drops)
    assert (counts["of an item that was dropped"], counts["of an item that is not in the items table"]) == (2, 1)
    assert len(interactions) == 10 and drops["remaining"].iloc[-1] == 10 and capsys.readouterr().out == ""
    with pytest.raises(DataError, match=r"2 of 2 are of items that were dropped \(for example item_id 'q'\)"):
        readers.read_logs(*logs("a,q,2020-01-02\nb,q,2020-01-02\n", items))


def test_where_no_item_has_a_title_the_column_is_named_and_what_to_set(logs):
    items = "item_id,title,Bezeichnung\np,,Stift\nq,,Feder\n"
    with pytest.raises(DataError, match=r"items\.csv: no item has a title in the column 'title'\. Set column_title"):
        readers.read_logs(*logs(items=items))
    with pytest.raises(DataError, match=r"items\.csv: the table has no rows"):
        readers.read_logs(*logs(items="item_id,title\n"))


DETAILS = {"Weight": "3 g", "Best Sellers Rank": {"Pens": 12}, "Info": [{"Customer Reviews": "4.5", "Ink": "red"}]}


@pytest.mark.parametrize(
    "details",
    [
        DETAILS,
        str(DETAILS),
        json.dumps(DETAILS),
        f" [{DETAILS}]",
        DETAILS | {"Info": json.dumps(DETAILS["Info"])},
        list(DETAILS.items()),
    ],
)
def test_keys_that_sum_up_the_future_become_no_text_in_whatever_form_they_come(details):
    """A dict, its text as JSON or Python, a list, a text inside, and a map of Parquet."""
    keys = Counter()
    items = pd.DataFrame({"item_id": ["p", "q"], "title": "Pen", "details": [details, "{M} or {L}"]})
    assert readers.clean_items(items, "items", keys)["details"].tolist() == [
        "Weight: 3 g; Info: Ink: red",
        "{M} or {L}",
    ]
    assert keys == {"Best Sellers Rank": 1, "Customer Reviews": 1}


def test_keys_that_were_left_out_are_named_among_the_drops(tmp_path, logs):
    interactions, _ = logs("a,p,2020-01-01\n")
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"item_id": "p", "title": "Pen", "details": DETAILS}))
    catalogue, _, drops = readers.read_logs(interactions, items)
    assert catalogue["details"].tolist() == ["Weight: 3 g; Info: Ink: red"]
    row = drops.set_index("reason").loc["keys inside columns left out: they may sum up the future"]
    assert (row["step"], row["dropped"], row["remaining"]) == ("items", 0, 1)
    assert row["example"] == "Customer Reviews, Best Sellers Rank"


@pytest.mark.parametrize("text", ["{}", "{1, 2}", "{3 g", "[{", "{[1]: 2}", "{" * 10**5])
def test_texts_that_only_begin_like_a_mapping_stay(text):
    shown = readers.clean_items(pd.DataFrame({"item_id": ["p"], "title": ["Pen"], "form": [text]}))["form"][0]
    assert shown == (text if text != "{}" else "")


@pytest.mark.parametrize("values", ["x,y", "1,1", "1,2.5"])
def test_a_nameless_column_that_holds_something_is_refused(logs, values):
    first, second = values.split(",")
    with pytest.raises(DataError, match=rf"items\.csv: column 3 has no name but holds values such as '{first}'"):
        readers.read_logs(*logs(items=f"item_id,title,\np,Pen,{first}\nq,Quill,{second}\n"))


def test_a_column_whose_name_is_taken_is_counted(logs):
    items = "sku,name,title\np,Pen,Dr\nq,Quill,Mr\n"
    catalogue, _, drops = readers.read_logs(*logs(items=items), {"catalogue_id": "sku", "title": "name"})
    assert catalogue.to_dict("list") == {"item_id": ["p", "q"], "title": ["Pen", "Quill"]}
    assert "column 'title' left out: it has no name of its own" in drops["reason"].tolist()


@pytest.mark.parametrize("name", ["removed", " Removed"])
def test_a_column_of_withdrawn_items_becomes_no_text_and_it_is_told_how_they_go(logs, name):
    items, _, drops = readers.read_logs(*logs(items=f"item_id,title,{name}\np,Pen,1\nq,Quill,0\n"))
    assert list(items) == ["item_id", "title"] and len(items) == 2
    (reason,) = drops["reason"][drops["reason"].str.startswith(f"column '{name}' left out")]
    assert "`r2ec items` removes some from the trained model" in reason


def test_clean_items_gives_the_texts_that_training_reads():
    table = pd.DataFrame(
        {
            "title": ["<b>Pen</b>", "Size <M or L>"],
            "item_id": [17, 4],
            "year": [1991, None],
            "ean": pd.array([None, 4006381333931000002], "Int64"),
            "released": pd.to_datetime(["2020-01-02", None]),
            "flag": [True, None],
            "kind": pd.Categorical(["pen", None]),
            "tags": [["a", "b"], None],
            "averageRating": [4.5, 3.0],
            "Unnamed: 0": [1, 0],
        }
    )
    assert readers.clean_items(table).to_dict("list") == {
        "item_id": ["17", "4"],
        "title": ["Pen", "Size <M or L>"],
        "year": ["1991", ""],
        "ean": ["", "4006381333931000002"],
        "released": ["2020-01-02", ""],
        "flag": ["True", ""],
        "kind": ["pen", ""],
        "tags": ["a b", ""],
    }
    assert table.columns[0] == "title" and table["title"][0] == "<b>Pen</b>"  # the caller's table stays


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"title": ["Pen", "<br>"]}, r"items, row 2: no title"),
        ({"item_id": ["p", "p"]}, r"items, row 2: item_id 'p' is already at items, row 1"),
        ({"item_id": ["p", None]}, r"items, row 2: no item_id"),
        ({"item_id": [["p"], ["q"]]}, r"items, row 1: a list or a mapping as item_id"),
        ({" ": ["x", "y"]}, r"items: column 3 has no name"),
    ],
)
def test_clean_items_refuses_what_stage_one_refuses(columns, message):
    with pytest.raises(DataError, match=message):
        readers.clean_items(pd.DataFrame({"item_id": ["p", "q"], "title": ["Pen", "Quill"]} | columns))


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
    texts = {
        "s": ["1500000000", 1500000000, 1.5e9, "1500000000.0"],
        "ms": ["1500000000000", "1500000000000.4"],
        "us": ["1500000000000000", 1500000000000999],
        "ns": ["1500000000000000000", 1500000000000000000],
        "iso": ["2017-07-14T04:40:00+02:00", "2017-07-14 02:40:00", "2017-07-14 02:40:00 UTC", "20170714T024000Z"],
        "%d/%m/%Y %H:%M": ["14/07/2017 02:40"],
        "%d.%m.%Y %H:%M:%S %z": ["14.07.2017 04:40:00 +0200"],
        "%Y%m%d%H%M": ["201707140240", 201707140240],
    }
    for unit, values in texts.items():
        for value in values:
            assert readers.parse_time(pd.Series([value]), unit, PLACE).tolist() == [expected], (unit, value)
    for text in ("20170714", "2017-07-14", 20170714, " 2017-07-14 "):
        assert readers.parse_time(pd.Series([text]), "iso", PLACE).tolist() == [expected.normalize()]
    assert readers.parse_time(pd.Series(["1500000000.123"]), "s", PLACE)[0].microsecond == 123_000
    stored = pd.Series([expected.tz_convert("Asia/Tokyo")])
    assert readers.parse_time(stored, "s", PLACE).tolist() == [expected]


def test_a_log_that_mixes_units_is_told_so_and_one_unit_is_advised_where_it_fits_all():
    with pytest.raises(DataError, match="would fit timestamp_unit 's', but the other 2 fit 'ms' alone: bring all"):
        readers.parse_time(pd.Series(["1500000000000", "1500000000", "1500000001000"]), "ms", PLACE)
    with pytest.raises(DataError, match=r"would fit timestamp_unit '%d/%m/%Y'\."):
        readers.parse_time(pd.Series(["04/03/2017", "31/03/2017"]), "%m/%d/%Y", PLACE)


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
        ("1500000000000000", "iso", "row 2: .*would fit timestamp_unit 'us'"),
        ("1500000000000000", "ms", "row 2: .*would fit timestamp_unit 'us'"),
        ("1500000000000000000", "us", "row 2: .*would fit timestamp_unit 'ns'"),
        ("20170714", "s", "row 2: .*would fit timestamp_unit 'iso'"),
        (
            "31.12.2017",
            "iso",
            r"'31\.12\.2017' is no plausible time in unit 'iso' \(1 such rows\)\. .*fit .*'%d\.%m\.%Y'",
        ),
        ("31/12/2017 23:59", "iso", "row 2: .*would fit timestamp_unit '%d/%m/%Y %H:%M'"),
        ("03/04/2017", "iso", "row 2: .*would fit timestamp_unit '%d/%m/%Y' or '%m/%d/%Y'"),
        ("20171231235959", "iso", "row 2: .*would fit timestamp_unit '%Y%m%d%H%M%S'"),
        ("2017-12-31", "%d/%m/%Y", "row 2: .*would fit timestamp_unit 'iso'"),
        ("last May", "iso", "row 2: .*Expected times such as 2023-01-31T15:00:54. Correct the field, or set"),
        ("now", "iso", "row 2: .*Expected times such as"),
        ("last May", "s", "row 2: .*Expected seconds since 1970"),
        ("last May", "%d/%m/%Y", "row 2: .*Expected times such as 31/01/2023"),
        ("1969-12-31", "iso", "row 2: .*It means the year 1969. Expected a year in 1990…2100"),
        ("5", "s", "row 2: .*It means the year 1970. Expected a year in 1990…2100"),
        (None, "s", r"row 2: no timestamp \(1 such rows\)"),
        (None, "iso", r"row 2: no timestamp \(1 such rows\)"),
        ("2017", "years", "timestamp_unit is 'years'; expected 'iso', 's', 'ms', 'us', 'ns', or a format such as"),
        ("2017", "%Q", "timestamp_unit is '%Q', which is no format of strptime"),
    ],
)
def test_a_time_that_is_none_names_its_row_and_the_unit_that_fits(value, unit, message):
    sound = {"s": "1500000000", "ms": "1500000000000", "us": "1500000000000000", "%d/%m/%Y": "14/07/2017"}
    sound = sound.get(unit, "2017-07-14")
    with pytest.raises(DataError, match=message):
        readers.parse_time(pd.Series([sound, value]), unit, PLACE)


def test_days_at_the_end_of_a_log_decide_between_the_units_that_fit_its_beginning():
    days = pd.Series(["03/04/2017"] * 1500 + ["04/30/2017"] * 1500)
    with pytest.raises(DataError, match=r"would fit timestamp_unit '%m/%d/%Y'\."):
        readers.parse_time(days, "iso", PLACE)


def test_milliseconds_are_exact_in_every_unit():
    milliseconds = 1_500_000_000_000 + pd.Series(range(1000))
    for unit, size in {"ms": 1, "us": 1000, "ns": 1_000_000}.items():
        for values in (milliseconds * size, (milliseconds * size).astype("str")):
            assert readers.parse_time(values, unit, PLACE).astype("int64").tolist() == milliseconds.tolist()


def test_what_is_left_of_a_log_is_numbered_anew_and_an_example_shows_what_went(logs):
    _, interactions, drops = readers.read_logs(*logs("a,p,2020-01-01\nb,x,2020-01-02\nb,q,2020-01-03\n"))
    assert interactions["item_id"].to_dict() == {0: "p", 1: "q"}
    assert drops["example"].iloc[-1] == "item_id 'x'"
