"""Files appear whole or not at all, and hold what was written."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from r2ec_lib.data import storage
from r2ec_lib.data.schema import TIME, DataError


def test_a_table_comes_back_as_it_was_written(tmp_path):
    table = pd.DataFrame(
        {
            "user_id": ["7", "Zoë"],
            "timestamp": pd.Series(pd.to_datetime([1, 2], unit="ms", utc=True)).astype(TIME),
            "history": [np.array([3], np.int32), np.array([1, 2], np.int32)],
            "history_ratings": [np.array([np.nan], np.float32), np.array([5, np.nan], np.float32)],
        }
    )
    storage.write_table(table, tmp_path / "deep" / "down" / "t.parquet")
    back = storage.read_table(tmp_path / "deep" / "down" / "t.parquet")
    assert back.dtypes.to_dict() == table.dtypes.to_dict()
    for column in ("history", "history_ratings"):
        for written, read in zip(table[column], back[column], strict=True):
            np.testing.assert_array_equal(written, read)
            assert written.dtype == read.dtype
    assert list(back["user_id"]) == ["7", "Zoë"]


def test_json_never_holds_nan_and_takes_numpy_values(tmp_path):
    written = {"a": np.float32("nan"), "b": [np.int64(3), float("inf")], "c": np.array([1.5, np.nan])}
    storage.write_json(written | {"when": pd.Timestamp("2020-01-02"), "where": Path("x")}, tmp_path / "m.json")
    text = (tmp_path / "m.json").read_text()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read == {
        "a": None,
        "b": [3, None],
        "c": [1.5, None],
        "when": "2020-01-02T00:00:00",
        "where": "x",
    }
    assert storage.read_json(tmp_path / "m.json") == read


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "t.parquet"
    storage.write_table(pd.DataFrame({"a": [1]}), path)
    with pytest.raises(ValueError):
        storage.write_table(pd.DataFrame([[1, 2]], columns=["a", "a"]), path)  # Parquet takes no repeated names
    assert storage.read_table(path)["a"].tolist() == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.parquet: no such file"):
        storage.read_table(tmp_path / "gone.parquet")
    for name, read in {"t.parquet": storage.read_table, "m.json": storage.read_json}.items():
        (tmp_path / name).write_text("{half")
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            read(tmp_path / name)


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert storage.sha256(tmp_path / "f").startswith("ba7816bf8f01cfea")  # the published test vector


def test_sha256_of_a_folder_depends_on_the_names_and_contents_of_its_files(tmp_path):
    digests = set()
    for name, content in (("part-0", b"a"), ("part-0", b"b"), ("part-1", b"b"), ("inner/part-1", b"b")):
        (tmp_path / "folder" / "inner").mkdir(parents=True, exist_ok=True)
        for old in tmp_path.glob("folder/**/part-*"):
            old.unlink()
        (tmp_path / "folder" / name).write_bytes(content)
        digests.add(storage.sha256(tmp_path / "folder"))
    assert len(digests) == 4


def test_sha256_of_a_folder_does_not_depend_on_the_order_in_which_a_disk_lists_it(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).write_text(name)
    listed, digests = Path.iterdir, set()
    for backwards in (False, True):
        order = lambda folder, backwards=backwards: sorted(listed(folder), reverse=backwards)  # noqa: E731
        monkeypatch.setattr(Path, "iterdir", order)
        digests.add(storage.sha256(tmp_path))
    assert len(digests) == 1


def test_an_index_is_not_written(tmp_path):
    storage.write_table(pd.DataFrame({"a": [1, 2]}, index=[5, 6]), tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(storage.read_table(tmp_path / "t.parquet"), pd.DataFrame({"a": [1, 2]}))


def test_json_is_written_for_people(tmp_path):
    storage.write_json({"name": "Zoë"}, tmp_path / "m.json")
    assert (tmp_path / "m.json").read_text(encoding="utf-8") == '{\n  "name": "Zoë"\n}\n'


def test_text_that_cannot_be_written_leaves_no_litter(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        storage.write_text("half an emoji: \ud83d", tmp_path / "t.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_by_a_finished_one_alone(tmp_path):
    def written() -> list[str]:
        return sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))

    for name in ("first", "second"):
        with storage.whole_folder(tmp_path / "a" / "model") as fresh:
            (fresh / name).touch()
        assert written() == ["a", "a/model", f"a/model/{name}"]
    with pytest.raises(KeyboardInterrupt), storage.whole_folder(tmp_path / "a" / "model") as fresh:
        (fresh / "half").touch()
        raise KeyboardInterrupt
    assert written() == ["a", "a/model", "a/model/second"]


def test_an_old_folder_comes_back_where_the_new_one_does_not_follow(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    replace, moved = storage.os.replace, []

    def interrupted(source, target):
        moved.append(source)
        if len(moved) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(storage.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), storage.whole_folder(tmp_path / "model") as fresh:
        (fresh / "weights").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_one_process_at_a_time_is_alone(tmp_path):
    lock = tmp_path / "deep" / "lock"
    with storage.alone(lock, DataError("busy")):
        with pytest.raises(DataError, match="busy"), storage.alone(lock, DataError("busy")):
            pass
        with storage.alone(tmp_path / "other", DataError("busy")):
            pass
    with storage.alone(lock, DataError("busy")):  # free again
        pass


def test_yaml_keeps_dates_as_text_and_refuses_a_repeated_key_at_any_depth():
    assert yaml.load("day: 2020-01-02", storage.YamlLoader)["day"] == "2020-01-02"
    with pytest.raises(yaml.YAMLError, match='line 3: the key "words" is repeated'):
        yaml.load("rows:\n- words: 3\n  words: 5", storage.YamlLoader)


@pytest.mark.parametrize("value", ["010", "-010", "+0_7", "0b11", "1:30", "-1:30", "1:30.5", "190:20:30"])
def test_a_number_of_another_base_is_text_in_yaml(value):
    assert yaml.load(f"rows: [{value}]", storage.YamlLoader) == {"rows": [value]}


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("-0", 0), ("0.5", 0.5), ("10", 10), ("1_000", 1000), ("1.0e-4", 1e-4)]
)
def test_a_decimal_number_is_one_in_yaml(text, value):
    read = yaml.load(text, storage.YamlLoader)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("value", ["!!int three", "!!timestamp soon", "!!bool maybe", "!!set [1]", "!!map 1", "!!x 1"])
def test_a_value_that_does_not_fit_its_tag_is_no_valid_yaml(value):
    with pytest.raises(yaml.YAMLError):
        yaml.load(f"words: 3\nrows: {value}", storage.YamlLoader)


def test_a_folder_may_be_read_by_whoever_may_read_others(tmp_path):
    (tmp_path / "usual").mkdir()
    with storage.whole_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_weights_in_a_folder_may_be_read_by_whoever_may_read_other_files_and_those_behind_a_link_stay(tmp_path):
    (tmp_path / "usual").touch()
    (tmp_path / "elsewhere.safetensors").touch(0o600)
    with storage.whole_folder(tmp_path / "model") as fresh:
        (fresh / "lm").mkdir()
        (fresh / "lm" / "model.safetensors").touch(0o600)
        (fresh / "link.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    weights = tmp_path / "model" / "lm" / "model.safetensors"
    assert weights.stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "elsewhere.safetensors").stat().st_mode & 0o777 == 0o600
