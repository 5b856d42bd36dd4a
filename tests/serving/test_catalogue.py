"""Items from a file into a saved model: how many of each kind, and a folder that is whole at every moment."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock

from r2ec_lib.data.schema import DataError
from r2ec_lib.model import R2ec, saved
from r2ec_lib.serving import catalogue, student


@pytest.fixture
def folder(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    return tmp_path / "model"


def update(folder, text: str, columns=None, **choices) -> R2ec:
    (folder.parent / "items.csv").write_text(text)
    catalogue.update(folder, folder.parent / "items.csv", columns or {}, **choices)
    return R2ec.load(folder)


def test_items_are_added_replaced_and_removed_in_one_go(folder, tiny, capsys):
    model = update(
        folder, "item_id,title,brand,removed\nnew,<b>gold</b> harp,Acme,\ni3,gold flute,,no\ni5,,,yes\nold,,,1\n"
    )
    assert model.head.item_ids == [*(f"i{n}" for n in range(30) if n not in (3, 5)), "new", "i3"]
    assert model.titles[-2:] == ["gold harp", "gold flute"] and "removed" not in model.catalogue
    tiny.add_items(pd.DataFrame({"item_id": ["new"], "title": ["gold harp"], "brand": ["Acme"]}))
    assert torch.allclose(model.head.table[-2], tiny.head.table[-1].float(), atol=1e-6)
    assert model.recommend(["new"], k=40, max_new_tokens=2).item_ids
    told = capsys.readouterr().out
    assert told == "1 items added, 1 replaced, 1 removed, 1 to remove were not there; 30 items now\n"


def test_a_student_stays_and_recommends_the_new_items(folder, tiny):
    student.Student(16, 20, width=8, layers=1).save(folder / student.FOLDER)
    update(folder, "item_id,title\nnew,gold harp\n")
    assert "new" in student.FastR2ec.load(folder).recommend(["i3"], 40, fast=True).item_ids


def test_what_others_put_into_the_model_s_folder_stays_and_what_a_model_no_longer_has_goes(folder):
    (folder / "backbone" / "deep").mkdir(parents=True)
    (folder / "backbone" / "deep" / "weights").write_text("precious")
    (folder / "notes.txt").write_text("mine")
    (folder / "notes.txt").chmod(0o640)
    (folder / "link").symlink_to("backbone")
    (folder / "dangling").symlink_to("gone")
    (folder / "collaborative.safetensors").write_bytes(b"of an older model without one")
    assert update(folder, "item_id,title\nnew,gold harp\n").collaborative is None
    assert (folder / "link" / "deep" / "weights").read_text() == "precious" and (folder / "link").is_symlink()
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "notes.txt").stat().st_mode & 0o777 == 0o640
    assert (folder / "dangling").is_symlink() and not (folder / "collaborative.safetensors").exists()


def test_a_changed_model_and_its_student_may_be_read_by_whoever_may_read_other_files(folder):
    student.Student(16, 20, width=8, layers=1).save(folder / student.FOLDER)
    update(folder, "item_id,title\nnew,gold harp\n")
    usual = (folder.parent / "items.csv").stat().st_mode
    assert {path.stat().st_mode for path in folder.rglob("*") if path.is_file()} == {usual}


def test_a_student_is_not_lost_where_the_disk_has_no_room_for_it(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    student.Student(16, 20, width=8, layers=1).save(folder / student.FOLDER)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for copies in ("r2ec_lib.serving.catalogue.shutil.copytree", "r2ec_lib.serving.student.Student.save"):
        monkeypatch.setattr(copies, full)
    with pytest.raises(OSError, match="No space"):
        update(folder, "item_id,title\na,harp\n")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_whole_file_is_removed_by_its_ids_alone(folder, capsys):
    text = "sku,removed\ni0,\ni29,no\nnever there,\n"
    model = update(folder, text, {"catalogue_id": "sku"}, remove=True)
    assert model.head.item_ids == [f"i{n}" for n in range(1, 29)]
    assert "0 items added, 0 replaced, 2 removed, 1 to remove were not there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "choices", "message"),
    [
        ("item_id,title\na,\n", {}, "items.csv, line 2: no title"),
        ("item_id,title,removed\ni5,,yes\na,,\n", {}, "items.csv, line 3: no title"),
        ("item_id,title,removed\na,harp,\na,harp,yes\n", {}, "items.csv, line 3: the id 'a' is repeated"),
        (
            "item_id,title,removed\na,harp,perhaps\n",
            {},
            "items.csv, line 2: removed is 'perhaps'; expected 0, false, no, 1",
        ),
        ("item_id\n" + "\n".join(f"i{n}" for n in range(30)), {"remove": True}, "removing 30 items leaves none"),
        ("sku,title\na,harp\n", {}, "no column 'item_id'"),
        ("item_id,brand\ni3,Acme\na,Acme\n", {}, "no column 'title' for title"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_the_model_as_it_is(folder, text, choices, message):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=message):
        update(folder, text, **choices)
    assert {path: path.read_bytes() for path in folder.parent.rglob("model/**/*") if path.is_file()} == before


def test_the_old_model_stays_until_the_new_one_is_complete(folder, monkeypatch):
    def stopped(*_):
        assert len(R2ec.load(folder).titles) == 30
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(saved, "write", stopped)
        update(folder, "item_id,title\na,harp\n")
    assert len(R2ec.load(folder).titles) == 30
    assert len(update(folder, "item_id,title\na,harp\n").titles) == 31
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["model"]


def test_items_that_another_process_adds_are_not_lost(folder):
    with FileLock(folder.parent / ".model.lock"), pytest.raises(DataError, match="model is being changed by another"):
        update(folder, "item_id,title\na,harp\n")
    assert len(update(folder, "item_id,title\na,harp\n").titles) == 31


def test_the_model_in_the_working_folder_is_changed(folder, monkeypatch):
    (folder.parent / "items.csv").write_text("item_id,title\na,harp\n")
    monkeypatch.chdir(folder)
    catalogue.update(Path("."), folder.parent / "items.csv", {})
    assert len(R2ec.load(folder).titles) == 31


def test_a_link_to_a_model_stays_and_the_model_behind_it_is_changed(folder):
    link = folder.parent / "links" / "current"
    link.parent.mkdir()
    link.symlink_to(folder)
    (folder.parent / "items.csv").write_text("item_id,title\na,harp\n")
    catalogue.update(link, folder.parent / "items.csv", {})
    assert link.is_symlink() and len(R2ec.load(folder).titles) == 31
    assert list(link.parent.iterdir()) == [link]


def test_the_model_of_a_run_is_not_changed_under_its_tables(folder):
    (folder.parent / "data").mkdir()
    (folder.parent / "data" / "samples.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"belongs to a run.*Copy the folder"):
        update(folder, "item_id,title\na,harp\n")


def test_columns_that_the_catalogue_lacks_are_left_out_and_told(folder, capsys):
    with_stock = update(folder, "item_id,title,brand,stock\ni3,gold flute,Acme,17\n").head.table[-1]
    assert "columns that the catalogue lacks, left out: stock\n" in capsys.readouterr().out
    model = update(folder, "item_id,title\ni3,gold flute\n")  # keeps its brand
    assert "stock" not in model.catalogue and model.catalogue["brand"].iloc[-1] == "Acme"
    assert torch.allclose(model.head.table[-1], with_stock, atol=1e-6) and "left out" not in capsys.readouterr().out


def test_items_without_a_title_keep_what_their_rows_leave_empty_and_new_ones_come_in_beside_them(folder, tiny, capsys):
    before, other = tiny.catalogue["title"], "Globex" if tiny.catalogue["brand"][3] == "Acme" else "Acme"
    changed = update(folder, f"sku,brand\ni3,{other}\n", {"catalogue_id": "sku", "title": "name"}).catalogue.iloc[-1]
    assert changed.to_dict() == {"item_id": "i3", "title": before[3], "brand": other}
    text = "item_id,title,brand,removed\nnew,gold harp,,\ni3,,,\ni4,,Initech,\ni5,gold flute,,\ni6,,,yes\n"
    model = update(folder, text)
    last = model.catalogue.set_index("item_id").iloc[-4:]
    assert last["title"].tolist() == ["gold harp", before[3], before[4], "gold flute"]
    assert last["brand"].tolist() == ["", other, "Initech", ""] and "i6" not in model.head.item_ids
    assert "1 items added, 3 replaced, 1 removed" in capsys.readouterr().out


@pytest.mark.parametrize("empty", [None, "", " "])
def test_an_empty_text_of_json_changes_nothing_just_as_a_missing_one(folder, empty):
    kept = R2ec.load(folder).catalogue.set_index("item_id")
    rows = [{"item_id": "i3", "title": empty, "brand": empty}, {"item_id": "i4", "title": empty, "brand": "Initech"}]
    (folder.parent / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    catalogue.update(folder, folder.parent / "items.jsonl", {})
    last = R2ec.load(folder).catalogue.set_index("item_id").iloc[-2:]
    assert last["title"].tolist() == kept["title"][["i3", "i4"]].tolist()
    assert last["brand"].tolist() == [kept["brand"]["i3"], "Initech"]


def test_numbers_of_a_parquet_file_become_the_texts_of_untitled_items_too(folder):
    rows = pd.DataFrame({"item_id": ["i3", "i4"], "title": [None, None], "brand": [7.0, None]})
    rows.to_parquet(folder.parent / "items.parquet")
    kept = R2ec.load(folder).catalogue["brand"][4]
    catalogue.update(folder, folder.parent / "items.parquet", {})
    assert R2ec.load(folder).catalogue["brand"].tolist()[-2:] == ["7", kept]


def test_the_mark_of_removal_is_found_in_any_case(folder, capsys):
    text = "item_id,title, Removed\ni5,, YES\ni6,,1.0\n"
    assert not {"i5", "i6"} & set(update(folder, text).head.item_ids)
    assert "0 items added, 0 replaced, 2 removed" in capsys.readouterr().out


def test_titles_are_read_under_the_name_that_the_file_has_for_them(folder):
    model = update(folder, "sku,name,title\nnew,gold harp,Dr\n", {"catalogue_id": "sku", "title": "name"})
    assert (model.head.item_ids[-1], model.titles[-1]) == ("new", "gold harp")
