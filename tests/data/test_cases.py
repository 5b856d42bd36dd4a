"""Logs with one fault each, as people have brought them, all the way to samples: read as they stand, or refused by a
message that says what is wrong and where. Amazon's files are in `test_amazon`, what a model does with such texts, ids
and scales in `tests/model`."""

import gzip

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2ec_lib.data import readers, splits
from r2ec_lib.data.schema import DataError

DAYS = pd.date_range("2023-01-13", periods=72, freq="D")
ITEMS = "item_id,title,brand\n" + "".join(f"i{k:02},Lamp no {k},brand{k % 7}\n" for k in range(40))  # k on line k + 2
LOG = "user_id,item_id,timestamp,rating\n" + "".join(
    f"u{k % 12},i{k * 7 % 40:02},{day:%Y-%m-%dT00:00:00},{k % 5 + 1}\n" for k, day in enumerate(DAYS)
)


def prepared(folder, log=LOG, items=ITEMS, *, batch_users=8, max_history=20, **how):
    """What stage 01 makes of two files, given as text, as bytes, or as their path: items, interactions and notes."""
    paths = []
    for name, content in {"orders.csv": log, "items.csv": items}.items():
        paths.append(folder / name if isinstance(content, str | bytes) else content)
        if isinstance(content, str | bytes):
            paths[-1].write_bytes(content.encode() if isinstance(content, str) else content)
    items, interactions, _ = readers.read_logs(*paths, **how)
    samples, _ = splits.make_samples(items, interactions, max_history=max_history)
    return items, interactions, splits.check_feasible(items, samples, batch_users=batch_users)


def timed(form: str, unit: int = 0) -> str:
    """The log with its times in another form: of `strftime`, or as epoch numbers of so many a second."""
    text = LOG
    for day in DAYS:
        time = str(int(day.timestamp()) * unit) if unit else day.strftime(form)
        text = text.replace(day.strftime("%Y-%m-%dT00:00:00"), time)
    return text


FEW = "\n".join(ITEMS.splitlines()[:16]) + "\n"  # 15 items
REFUSED = {
    "a quote that never closes": (
        LOG,
        ITEMS.replace("Lamp no 30", '"Lamp no 30'),
        {},
        r"items\.csv, line 32: .*never",
    ),
    "a quote that another closes": (
        LOG,
        ITEMS.replace("Lamp no 10", '"Lamp no 10').replace("Lamp no 30", '"Lamp no 30'),
        {},
        r"items\.csv, line 12: a quote opens here",
    ),
    "a quote after a backslash": (
        LOG,
        ITEMS.replace("Lamp no 10", r'"A 5\" lamp"'),
        {},
        "line 12: a backslash precedes",
    ),
    "Latin-1": (LOG, ITEMS.replace("no 10", "café").encode("latin-1"), {}, "line 12: not UTF-8 text .*Latin-1"),
    "a column name twice": (LOG, ITEMS.replace("brand\n", "title\n"), {}, "columns 2 and 3 are both called 'title'"),
    "a column name of the log twice": (
        LOG.replace("rating", "timestamp"),
        ITEMS,
        {},
        "3 and 4 are both .*'timestamp'",
    ),
    "day first": (
        timed("%d/%m/%Y %H:%M"),
        ITEMS,
        {},
        r"line 2: '13/01/2023 00:00' .*fit timestamp_unit '%d/%m/%Y %H:%M'",
    ),
    "microseconds": (timed("", 10**6), ITEMS, {"timestamp_unit": "ms"}, "line 2: .*would fit timestamp_unit 'us'"),
    "a day for seconds": (timed("%Y%m%d"), ITEMS, {"timestamp_unit": "s"}, "line 2: .*would fit timestamp_unit 'iso'"),
    "equal times": (
        timed("2023-05-05"),
        ITEMS,
        {},
        "60 same moment as the action before.*times are ties, finer times",
    ),
    "a small catalogue": (LOG.replace("i3", "i0"), FEW, {}, "15 items leave .* candidates .*bring 25 items"),
    "few samples": (LOG, ITEMS, {"batch_users": 64}, "48 training samples do not fill a step of batch_users=64"),
    "another scale": (LOG.replace(",5\n", ",10\n"), ITEMS, {}, "line 6: rating 10 is outside 1…5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_or_used_is_refused_by_what_it_is(tmp_path, case):
    log, items, choices, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, log, items, **choices)


READ = {
    "nothing odd": (LOG, ITEMS, {}),
    "semicolons": (LOG.replace(",", ";"), ITEMS.replace(",", ";"), {}),
    "a decimal comma": (LOG.replace(",4\n", ',"4,0"\n'), ITEMS, {}),
    "empty columns": (LOG, ITEMS.replace("\n", ",,\n"), {}),
    "an index": (LOG, "".join(f"{k or ''},{line}\n" for k, line in enumerate(ITEMS.splitlines())), {}),
    "UTC": (timed("%Y-%m-%d %H:%M:%S UTC"), ITEMS, {}),
    "compact days": (timed("%Y%m%d"), ITEMS, {}),
    "days": (timed("%Y-%m-%d"), ITEMS, {}),
    "day first, as told": (timed("%d/%m/%Y"), ITEMS, {"timestamp_unit": "%d/%m/%Y"}),
    "microseconds, as told": (timed("", 10**6), ITEMS, {"timestamp_unit": "us"}),
    "a gzipped file": (gzip.compress(LOG.encode()), ITEMS.replace("\n", "\r"), {}),
}


@pytest.mark.parametrize("case", READ)
def test_a_log_in_another_form_is_the_same_log(tmp_path, case):
    log, items, choices = READ[case]
    table, interactions, notes = prepared(tmp_path, log, items, **choices)
    assert table["title"].tolist() == [f"Lamp no {k}" for k in range(40)] and not notes
    assert list(table) == ["item_id", "title", "brand"] and interactions["timestamp"].tolist() == list(
        DAYS.tz_localize("UTC")
    )
    assert interactions["rating"].tolist() == [k % 5 + 1 for k in range(72)]


def test_months_alone_are_times(tmp_path):
    times = prepared(tmp_path, timed("%Y-%m"))[1]["timestamp"]
    assert times.dt.strftime("%Y-%m-%d").unique().tolist() == ["2023-01-01", "2023-02-01", "2023-03-01"]


def test_a_scale_that_is_told_is_taken(tmp_path):
    ratings = prepared(tmp_path, LOG.replace(",5\n", ",10\n"), rating_range=(0, 10))[1]["rating"]
    assert set(ratings) == {1, 2, 3, 4, 10}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_texts_of_typed_columns_with_gaps_are_those_of_the_file(tmp_path, kind):
    columns = {
        "year": pa.array([None, 1991]),
        "ean": pa.array([None, 4006381333931000003]),
        "new": pa.array([None, True]),
    }
    table = pa.table({"item_id": ["i00", "i01"], "title": ["<unknown>", "Size <M or L>"], **columns})
    path = tmp_path / f"items.{kind}"
    if kind == "parquet":
        table = table.append_column("released", pa.array([None, DAYS[0].date()]))
        pq.write_table(table, path)
    else:
        lines = '{"item_id": "i00", "title": "<unknown>"}\n{"item_id": "i01", "title": "Size <M or L>", "year": 1991, '
        path.write_text(lines + '"ean": 4006381333931000003, "new": true, "released": "2023-01-13"}\n')
    (tmp_path / "orders.csv").write_text(LOG)
    items, _, _ = readers.read_logs(tmp_path / "orders.csv", path)
    assert items.iloc[0].tolist() == ["i00", "<unknown>", "", "", "", ""]
    assert items.iloc[1].tolist() == ["i01", "Size <M or L>", "1991", "4006381333931000003", "True", "2023-01-13"]


@pytest.mark.parametrize("as_text", ["{:03}", "90000000000000000{:02}"])
def test_ids_of_digits_keep_them_all(tmp_path, as_text):
    ids = {f"i{k:02}": as_text.format(k) for k in range(40)}
    log, items = LOG, ITEMS
    for old, new in ids.items():
        log, items = log.replace(old, new), items.replace(old, new)
    table, interactions, _ = prepared(tmp_path, log, items)
    assert table["item_id"].tolist() == list(ids.values()) and len(interactions) == 72


def test_a_folder_of_parts_is_a_log(tmp_path):
    folder = tmp_path / "orders.parquet"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    log = pd.read_csv(pa.BufferReader(LOG.encode())).assign(timestamp=DAYS.date)
    for number, part in enumerate((log[:40], log[40:])):
        part.astype({"user_id": "category"}).to_parquet(folder / f"part-0000{number}.parquet")
    assert prepared(tmp_path, folder)[1]["timestamp"].tolist() == list(DAYS.tz_localize("UTC"))


def test_of_a_single_shopper_it_is_told_what_cannot_be_said(tmp_path):
    log = "user_id,item_id,timestamp\n" + "".join(f"u,i{k:02},{day:%Y-%m-%d}\n" for k, day in enumerate(DAYS[:40]))
    notes = prepared(tmp_path, log)[2]
    assert [note.split(",")[0] for note in notes] == [
        "The valid split has one shopper",
        "The test split has one shopper",
    ]
