"""Lists for every shopper: what is written for whom, that a killed command goes on, and that shards need no other."""

import json
import math
import sys
import time
from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock

from r2ec_lib.analysis import rules
from r2ec_lib.data.schema import DataError
from r2ec_lib.model import R2ec
from r2ec_lib.model.r2ec import Recommendation
from r2ec_lib.serving import lists

NOTHING = "no purchases, or all of them returned"


@pytest.fixture
def log(samples, items) -> pd.DataFrame:
    """An interactions table: u0 to u23 an hour apart, i9 often bought, a stranger with items of another shop; every
    other purchase is rated."""
    owned = samples.drop_duplicates("user_id").explode("history")
    rows = list(zip(owned["user_id"], items["item_id"].to_numpy()[owned["history"].astype(int)], strict=True))
    rows += [("u1", "gone"), ("stranger", "x"), ("stranger", "y"), *[(f"u{number}", "i9") for number in range(2, 12)]]
    times = pd.date_range("2024-01-01", periods=len(rows), freq="h", tz="UTC", unit="ms")
    return (
        pd.DataFrame(rows, columns=["user_id", "item_id"])
        .assign(timestamp=times, rating=np.float32("nan"))
        .assign(rating=np.where(np.arange(len(rows)) % 2, 5, np.nan).astype(np.float32))
    )


@pytest.fixture
def shop(tiny, log, tmp_path, monkeypatch):
    """A folder with a saved model and a log; parts are of seven shoppers."""
    monkeypatch.setattr(lists, "PART", 7)
    tiny.save(tmp_path / "model")
    log.to_parquet(tmp_path / "log.parquet")
    return tmp_path


def write(shop, out="lists.parquet", log="log.parquet", **choices) -> pd.DataFrame:
    usual = {"columns": {}, "k": 3, "max_new_tokens": 4}
    lists.recommend(shop / "model", shop / log, shop / out, **{**usual, **choices})
    if out.endswith(".csv"):
        return pd.read_csv(shop / out, keep_default_na=False, na_values={"score": [""]})
    return pd.read_parquet(shop / out)


def asked_about(monkeypatch, fail_at: int = 0) -> list[int]:
    """Notes how many shoppers each call of the model is about; the call of that number is interrupted."""
    sizes: list[int] = []
    original = R2ec.recommend

    def noting(self, history, *args, **kwargs):
        if len(sizes) + 1 == fail_at:
            raise KeyboardInterrupt
        sizes.append(len(history))
        return original(self, history, *args, **kwargs)

    monkeypatch.setattr(R2ec, "recommend", noting)
    return sizes


def test_each_shopper_gets_the_list_that_the_model_gives_for_the_history(shop, log, capsys):
    written = write(shop)
    assert list(written) == lists.LISTS.names
    assert written["user_id"].unique().tolist() == log["user_id"].unique().tolist()
    assert written["place"].tolist() == [1, 2, 3] * log["user_id"].nunique()
    model = R2ec.load(shop / "model")
    known = log[log["item_id"].isin(model.head.item_ids)]
    for user, past in known.groupby("user_id"):
        hours = (log["timestamp"].max() - past["timestamp"]) / pd.Timedelta(hours=1)
        alone = model.recommend(past["item_id"], 3, hours, past["rating"], max_new_tokens=4)
        given = written[written["user_id"] == user]
        assert given["item_id"].tolist() == alone.item_ids and given["title"].tolist() == alone.titles
        assert given["score"].tolist() == pytest.approx(alone.scores, abs=1e-5)
        assert set(given["reasoning"]) == {alone.reasoning}
    assert "25 lists" in capsys.readouterr().out and not list(shop.glob(".*"))


def test_unknown_items_are_counted_and_who_has_no_other_gets_the_popular_ones(shop, log, capsys):
    pd.DataFrame({"user_id": ["u1", "nobody", "stranger", "u1"]}).to_csv(shop / "users.csv", index=False)
    written = write(shop, users_path=shop / "users.csv").set_index("user_id")
    assert written.index.unique().tolist() == ["u1", "nobody", "stranger"]
    assert set(written.loc["u1", "note"]) == {"1 interactions with unknown items left out"}
    counts = log["item_id"].value_counts()
    for user, note in (("stranger", "2 interactions with unknown items left out"), ("nobody", NOTHING)):
        given = written.loc[user]
        assert set(given["note"]) == {f"popular items: {note}"} and set(given["reasoning"]) == {""}
        assert given["item_id"].iloc[0] == "i9" and given["score"].isna().all()
        assert counts[given["item_id"]].is_monotonic_decreasing
    told = capsys.readouterr().out
    assert "3 lists" in told and "2 of them the popular items" in told and "3 interactions with items" in told


def test_who_returned_all_purchases_gets_the_popular_items_when_named_and_the_note_is_true(shop, log):
    returned = pd.DataFrame({"user_id": "back", "item_id": ["i3", "i3"], "quantity": [1, -1]})
    returned = returned.assign(timestamp=log["timestamp"].max(), rating=np.float32("nan"))
    pd.concat([log.assign(quantity=1), returned]).to_parquet(shop / "log.parquet")
    (shop / "users.csv").write_text("user_id\nback\nu3\n")
    written = write(shop, users_path=shop / "users.csv", columns={"quantity": "quantity"}).set_index("user_id")
    assert set(written.loc["back", "note"]) == {f"popular items: {NOTHING}"} and set(written.loc["u3", "note"]) == {""}


def test_a_log_of_another_catalogue_is_refused_with_an_example_of_both(shop, log):
    log.assign(item_id="0" + log["item_id"]).to_parquet(shop / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet: no interaction belongs .* the catalogue has 'i0'"):
        write(shop)
    assert not (shop / "lists.parquet").exists()


def test_many_purchases_of_unknown_items_are_told_with_an_example(shop, log, capsys):
    log.assign(item_id=log["item_id"].where(log.index % 2 == 0, "0" + log["item_id"])).to_parquet(shop / "log.parquet")
    write(shop, shard=(1, 6))
    assert "the items table lacks their items (for example item_id '0i" in capsys.readouterr().out


def test_a_file_of_shoppers_none_of_whom_is_in_the_log_is_refused(shop):
    (shop / "users.csv").write_text("user_id\n1\n2\n")
    with pytest.raises(
        DataError, match=r"users\.csv: none of its shoppers has a purchase in .*example '1'; the log has 'u0'"
    ):
        write(shop, users_path=shop / "users.csv")


def test_looking_for_many_named_shoppers_in_a_long_log_takes_no_time(shop, log):
    strangers = pd.DataFrame({"user_id": [f"stranger{number}" for number in range(40_000)]})
    others = pd.DataFrame({"user_id": [f"other{number}" for number in range(40_000)], "item_id": "i9"})
    others = others.assign(timestamp=log["timestamp"].max(), rating=np.float32("nan"))
    pd.concat([log, others]).to_parquet(shop / "log.parquet")
    strangers.to_csv(shop / "users.csv", index=False)
    begun = time.process_time()
    with pytest.raises(DataError, match="none of its shoppers has a purchase"):
        write(shop, users_path=shop / "users.csv")
    assert time.process_time() - begun < 10


def test_an_interrupted_command_goes_on_where_it_was(shop, monkeypatch, capsys):
    whole = write(shop, "whole.parquet")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        asked_about(patch, fail_at=3)
        write(shop)
    assert not (shop / "lists.parquet").exists()
    capsys.readouterr()
    sizes = asked_about(monkeypatch)
    assert write(shop).equals(whole) and sizes == [7, 3]
    assert "2 of 4 parts are there already" in capsys.readouterr().out
    (shop / ".lists.parquet.parts").mkdir()  # as if killed while tidying up
    assert write(shop).equals(whole) and len(sizes) == 2 and not list(shop.glob(".*"))
    assert "holds these lists already" in capsys.readouterr().out


def test_asking_for_finished_lists_again_leaves_the_parts_of_another_command_alone(shop, monkeypatch, capsys):
    whole = write(shop)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        asked_about(patch, fail_at=3)
        write(shop, k=2)
    assert write(shop).equals(whole) and "holds these lists already" in capsys.readouterr().out
    assert write(shop, k=2)["place"].max() == 2
    assert "2 of 4 parts are there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k": 4}, "k"),
        ({"shard": (1, 2)}, "shard"),
        *(({}, name) for name in ("interactions", "model", "shoppers in a", "library", "torch", "transformers")),
    ],
)
def test_parts_of_another_command_are_not_gone_on_from(shop, log, monkeypatch, change, named):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        asked_about(patch, fail_at=2)
        write(shop)
    if named == "interactions":
        log.iloc[1:].to_parquet(shop / "log.parquet")
    if named == "shoppers in a":
        monkeypatch.setattr(lists, "PART", 8)
    if named == "library":
        monkeypatch.setattr(lists, "_library", lambda: "of other code")
    if named in ("torch", "transformers"):
        others = {name: metadata.version(name) for name in ("torch", "transformers")} | {named: "0"}
        monkeypatch.setattr(lists, "metadata", SimpleNamespace(version=others.get))
    if named == "model":
        model = R2ec.load(shop / "model")
        model.remove_items(["i29"])
        model.save(shop / "model")
    with pytest.raises(DataError, match=f"with another {named}.* Remove the folder .* or name another --out"):
        write(shop, **change)
    assert write(shop, "new.parquet", **change)["user_id"].nunique() > 5


def test_other_code_counts_and_other_comments_do_not(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(lists, "LIBRARY", tmp_path)
    digests = []
    for code in ("x = 1", "x = 1  # one", "x = 2"):
        (tmp_path / "model" / "head.py").write_text(code)
        digests.append(lists._library())
    assert digests[0] == digests[1] != digests[2]


def test_lists_of_other_weights_with_the_same_items_are_made_anew(shop):
    """A student that is the backbone itself keeps its teacher's item table."""
    whole, model = write(shop), R2ec.load(shop / "model")
    with torch.no_grad():
        next(iter(model.lm.get_decoder().layers)).mlp.down_proj.weight.mul_(-1.0)
    model.save(shop / "model")
    assert not write(shop).equals(whole)


def test_two_processes_do_not_write_the_same_file(shop):
    folder = shop / ".lists.parquet.parts"
    folder.mkdir()
    with FileLock(folder / "lock"), pytest.raises(DataError, match="by another process"):
        write(shop)


def test_what_cannot_be_done_is_known_before_the_model_is_loaded(shop, log, monkeypatch):
    """A file of something else is left alone."""
    monkeypatch.setattr(R2ec, "load", lambda folder: pytest.fail("the model was loaded"))
    for wrong in ({"k": 0}, {"max_new_tokens": -1}):
        with pytest.raises(DataError, match=f"{next(iter(wrong))} is"):
            write(shop, **wrong)
    with pytest.raises(DataError, match="holds no lists"):
        write(shop, "log.parquet")
    assert pd.read_parquet(shop / "log.parquet").equals(log)
    with pytest.raises(DataError, match=r"expected a name in \.csv or \.parquet"):
        write(shop, "lists.xlsx")
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        write(shop, log="gone.csv")
    (shop / "users.csv").write_text("id\nu1\n")
    with pytest.raises(DataError, match=r"users\.csv: no column 'user_id'"):
        write(shop, users_path=shop / "users.csv")


def test_shards_write_each_shopper_once_and_as_without_shards(shop):
    whole = write(shop)
    shards = [write(shop, f"part-{number}.parquet", shard=(number, 3)) for number in (1, 2, 3)]
    assert all(len(shard) for shard in shards)
    together = pd.concat(shards).sort_values(["user_id", "place"], ignore_index=True)
    expected = whole.sort_values(["user_id", "place"], ignore_index=True)
    pd.testing.assert_frame_equal(together, expected, atol=1e-5)


def test_shoppers_that_the_log_does_not_have_are_counted_with_an_example(shop, capsys):
    (shop / "users.csv").write_text("user_id\nu1\n01\n02\n")
    assert write(shop, users_path=shop / "users.csv")["user_id"].nunique() == 3
    told = capsys.readouterr().out
    assert "2 of the 3 shoppers of" in told and "(for example '01'; the log has 'u" in told


def test_a_finished_shard_is_not_replaced_by_another_one(shop, capsys):
    first = write(shop, shard=(1, 2))
    for other in ((2, 2), (1, 1)):
        with pytest.raises(DataError, match=r"lists\.parquet holds shard 1/2 of these lists; name another --out"):
            write(shop, shard=other)
    assert pd.read_parquet(shop / "lists.parquet").equals(first) and not list(shop.glob(".*"))
    capsys.readouterr()
    assert len(write(shop, shard=(2, 2), k=2))  # lists of another command are replaced, which is told
    assert "lists.parquet holds lists of a command with another k, shard; they will be" in capsys.readouterr().out


def test_a_large_log_is_spread_evenly_over_shards():
    counts = np.bincount([lists.shard_of(f"user{number}", 16) for number in range(16_000)])
    assert counts[0] == 0 and len(counts) == 17 and 900 < counts[1:].min() <= counts[1:].max() < 1100


def test_the_popular_items_name_what_the_rules_took_from_their_list_alone(items):
    bars = rules.parse("rules:\n- {name: sevens, kind: never_recommend, items: {item_id: [i7, i29]}}")
    given = lists.popular(lists.by_popularity(stub_log(3, item_id=["i7", "i7", "i2"]), items), 2, bars)
    assert given.item_ids == ["i2", "i0"] and given.actions == (("sevens", "item masked", "i7"),)


def test_the_popular_items_are_none_that_the_shopper_owns_and_none_that_a_rule_bars_for_an_owner_of_these(items):
    text = "rules:\n- {name: n, kind: never_recommend, items: {item_id: [i2]}, when: {history: {item_id: [i7]}}}"
    bars, most_bought = rules.parse(text), lists.by_popularity(stub_log(3, item_id=["i7", "i7", "i2"]), items)
    given = lists.popular(most_bought, 2, bars, ["i7", "i0"])
    assert given.item_ids == ["i1", "i3"] and given.actions == (("n", "item masked", "i2"),)
    assert lists.popular(most_bought, 2, bars, ["i0"]).item_ids == ["i7", "i2"]


def test_shoppers_to_whom_the_rules_leave_nothing_are_counted(shop, capsys):
    (shop / "rules.yaml").write_text("rules:\n- {name: all, kind: never_recommend, items: {brand: [Acme, Globex]}}\n")
    assert write(shop, guardrails_path=shop / "rules.yaml").empty
    assert "25 shoppers without a list: the rules or their history leave no item" in capsys.readouterr().out


def test_rules_are_kept_and_named_for_popular_items_too(shop):
    barred = ", ".join(f"i{number}" for number in range(9, 18))
    (shop / "rules.yaml").write_text(
        f"rules:\n- {{name: no nines, kind: never_recommend, items: {{item_id: [{barred}]}}}}\n"
        "- {name: grounded, kind: ground, mentions: 3}\nretries: 0\n"
    )
    written = write(shop, guardrails_path=shop / "rules.yaml")
    assert "i9" not in set(written["item_id"])
    stranger = written[written["user_id"] == "stranger"]
    assert stranger["rules"].str.startswith("no nines: item masked (i9").all() and len(stranger) == 3
    masked = written["rules"].str.extract(r"no nines: item masked \((.*?)\)")[0]
    assert masked.str.contains(", ").any() and written["rules"].str.count("no nines").max() == 1
    others = written[written["user_id"] != "stranger"]
    assert others["rules"].str.startswith("grounded: reason dropped (0 of 3 mentions)").any()


def test_files_are_read_with_their_own_columns(shop, log):
    names = {"user_id": "customer", "item_id": "sku", "timestamp": "at", "rating": "stars"}
    seconds = log["timestamp"].astype("int64") // 1000
    log.assign(timestamp=seconds).rename(columns=names).to_csv(shop / "own.csv", index=False)
    pd.DataFrame({"customer": ["u3", "u1"]}).to_json(shop / "users.jsonl", orient="records", lines=True)
    choices = {"columns": names, "timestamp_unit": "s", "users_path": shop / "users.jsonl"}
    written, whole = write(shop, log="own.csv", **choices), write(shop, "whole.parquet").set_index("user_id")
    pd.testing.assert_frame_equal(written.set_index("user_id"), whole.loc[["u3", "u1"]], atol=1e-5)


def test_a_csv_has_the_same_lists_and_no_formula(shop):
    model = R2ec.load(shop / "model")
    model.add_items(pd.DataFrame({"item_id": ["i9"], "title": ['=1+1 "ä"']}))
    model.head.table *= torch.tensor([1.0, -1.0]).repeat(15)[:, None]  # scores of both signs
    model.save(shop / "model")
    whole, written = write(shop, k=31), write(shop, "lists.csv", k=31)
    assert whole["score"].min() < 0 < whole["score"].max() and whole["score"].isna().any()
    formula = whole["title"] == '=1+1 "ä"'
    assert formula.any() and (written.loc[formula, "title"] == '\'=1+1 "ä"').all()
    expected = whole.assign(title=whole["title"].where(~formula, written["title"]))
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, rtol=1e-12)


def test_a_csv_is_gone_on_with_and_replaced_but_no_other_file_is(shop, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        asked_about(patch, fail_at=3)
        write(shop, "lists.csv")
    write(shop, "lists.csv")
    assert "2 of 4 parts are there already" in capsys.readouterr().out and not list(shop.glob(".*"))
    assert write(shop, "lists.csv", k=2)["place"].max() == 2
    (shop / "rules.yaml").write_text("rules:\n- {name: all, kind: never_recommend, items: {brand: [Acme, Globex]}}\n")
    assert list(write(shop, "lists.csv", guardrails_path=shop / "rules.yaml")) == lists.LISTS.names
    (shop / "users.csv").write_text("user_id\nu1\n")
    with pytest.raises(DataError, match=r"users\.csv exists and holds no lists"):
        write(shop, "users.csv")
    assert (shop / "users.csv").read_text() == "user_id\nu1\n"


@pytest.mark.parametrize("text", ["customer\nu3\n", "user_id\nu3\n", "user_id,customer\nx,u3\n"])
def test_a_file_of_shoppers_has_the_logs_name_for_them_or_ours(shop, log, text):
    log.rename(columns={"user_id": "customer"}).to_parquet(shop / "own.parquet")
    (shop / "users.csv").write_text(text)
    choices = {"columns": {"user_id": "customer"}, "users_path": shop / "users.csv"}
    assert write(shop, log="own.parquet", **choices)["user_id"].unique().tolist() == ["u3"]
    (shop / "users.csv").write_text("id\nu3\n")
    with pytest.raises(DataError, match=r"users\.csv: no column 'customer' for user_id"):
        write(shop, "other.parquet", log="own.parquet", **choices)


def test_twenty_thousand_shoppers_are_streamed(tmp_path):
    """With a stub of the model. The lists of a part are on disk before the next part is asked about."""
    shoppers, k = 20_000, 2
    generator = np.random.default_rng(0)
    owners = generator.permutation(np.repeat(np.arange(shoppers), 2))
    item_ids = [f"i{number}" for number in range(50)]
    log = pd.DataFrame({"user_id": pd.Series(owners).map("user{}".format), "item_id": "i3", "rating": np.float32(5)})
    log["timestamp"] = pd.Timestamp("2024-01-01", tz="UTC")
    sizes: list[int] = []

    def ask(part):
        assert len(list(tmp_path.glob(".*/*.parquet"))) == len(sizes)
        sizes.append(len(part))
        assert all(ids.tolist() == ["i3", "i3"] for ids in part["item_ids"])
        return [Recommendation(item_ids[:k], item_ids[:k], [2.0, 1.0], user) for user in part.index]

    users, out = log["user_id"].unique(), tmp_path / "lists.parquet"
    nobody = Recommendation(item_ids[:1], item_ids[:1], [math.nan], "")
    lists.write_lists(log, users, ask, item_ids, lambda owned: nobody, out, {"k": k})
    assert max(sizes) == lists.PART and sum(sizes) == shoppers
    written = pq.read_table(out, columns=["user_id", "place", "reasoning"])
    assert written["user_id"].to_pylist()[::k] == users.tolist() == written["reasoning"].to_pylist()[1::k]
    assert json.loads(pq.read_schema(out).metadata[lists.COMMAND]) == {"k": k}


def stubbed(tmp_path, log: pd.DataFrame, ask, command=None) -> pd.DataFrame:
    """`write_lists` with a stub of the model; the table that it wrote."""
    nobody = Recommendation(["i0"], ["popular"], [math.nan], "")
    out = tmp_path / "lists.parquet"
    lists.write_lists(log, log["user_id"].unique(), ask, ["i0", "i1"], lambda owned: nobody, out, command or {"k": 1})
    return pd.read_parquet(out)


def stub_log(count: int, **columns) -> pd.DataFrame:
    times = pd.date_range("2024-01-01", periods=count, freq="h", tz="UTC", unit="ms")
    usual = {"user_id": [f"u{n}" for n in range(count)], "item_id": "i0", "timestamp": times, "rating": np.float32(5)}
    return pd.DataFrame(usual | columns)


def test_purchases_keep_the_order_of_the_log_however_long_it_is(tmp_path):
    owners = [f"u{number}" for number in np.random.default_rng(0).integers(0, 3, 300)]
    log = stub_log(300, user_id=owners, item_id=[f"i{bit}" for bit in np.random.default_rng(1).integers(0, 2, 300)])
    seen = {}

    def ask(part):
        seen.update({user: items.tolist() for user, items in part["item_ids"].items()})
        return [Recommendation(["i0"], ["pen"], [1.0], "")] * len(part)

    stubbed(tmp_path, log, ask)
    assert seen == log.groupby("user_id")["item_id"].apply(list).to_dict()


def test_a_part_is_there_only_when_it_is_whole(tmp_path, monkeypatch):
    def broken(table, path):
        path.write_bytes(b"PAR1")
        raise KeyboardInterrupt

    ask = lambda part: [Recommendation(["i0"], ["pen"], [1.0], "")] * len(part)  # noqa: E731
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pq, "write_table", broken)
        stubbed(tmp_path, stub_log(3), ask)
    assert stubbed(tmp_path, stub_log(3), ask)["item_id"].tolist() == ["i0"] * 3


def test_it_is_told_every_ten_seconds_how_long_it_will_take_from_what_was_done_so_far(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lists, "PART", 1)
    ticks = iter(range(0, 600, 6))
    with monkeypatch.context() as patch:
        patch.setattr(lists.time, "monotonic", lambda: next(ticks))
        stubbed(tmp_path, stub_log(12), lambda part: [Recommendation(["i0"], ["pen"], [1.0], "")], {"k": 2})
    told = [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines() if "left" in line]
    assert told == ["1", "3", "5", "7", "9", "11"]
    clock = iter(range(0, 6000, 60))  # a minute a part
    monkeypatch.setattr(lists.time, "monotonic", lambda: next(clock))
    stubbed(tmp_path, stub_log(12), lambda part: [Recommendation(["i0"], ["pen"], [1.0], "")])
    told = [line for line in capsys.readouterr().out.splitlines() if "left" in line]
    assert told[0] == "1 of 12 parts of 1 shoppers, about 11 min left"
    assert told[9] == "10 of 12 parts of 1 shoppers, about 2 min left" and len(told) == 11


def test_the_popular_items_are_the_most_bought_ones_in_catalogue_order_and_have_no_score(items, tmp_path):
    log = stub_log(5, item_id=["i7", "i2", "i7", "i4", "elsewhere"])
    assert lists.popular(lists.by_popularity(log, items), 5).item_ids == ["i7", "i2", "i4", "i0", "i1"]
    stubbed(tmp_path, stub_log(2, item_id="elsewhere"), lambda part: [])
    assert pq.read_table(tmp_path / "lists.parquet")["score"].null_count == 2


def test_a_history_that_is_too_long_for_the_model_is_cut_to_its_latest_purchases_and_costs_nobody_else(shop, log):
    """The latest five purchases of u1 fill the model; the title of another shopper's only one is longer."""
    model = R2ec.load(shop / "model")
    model.add_items(pd.DataFrame({"item_id": ["endless"], "title": ["lamp " * 19 + "x" * 60]}))
    model.save(shop / "model")
    before = write(shop).set_index("user_id")
    more = pd.DataFrame({"user_id": ["u1"] * 6 + ["wordy"], "item_id": [f"i{n}" for n in range(6)] + ["endless"]})
    more = more.assign(timestamp=log["timestamp"].max(), rating=np.float32("nan"))
    pd.concat([log, more]).to_parquet(shop / "log.parquet")
    own = pd.concat([log, more]).query("user_id == 'u1' and item_id != 'gone'")
    rows = model.purchases([own["item_id"].iloc[-5:]], [[0.0] * 5])
    [prompt] = model.prompts.user_ids(rows, model.titles)
    model.lm.config.max_position_embeddings = len(prompt) + 4 + len(model.prompts.answer.ids)
    model.save(shop / "model")
    written = write(shop).set_index("user_id")
    unknown = "1 interactions with unknown items left out"
    assert set(written.loc["u1", "note"]) == {f"{unknown}; the model reads the latest 5 alone"}
    alone = model.recommend(own["item_id"].iloc[-5:], 30, [0.0] * 5, max_new_tokens=4)
    new = [item for item in alone.item_ids if item not in set(own["item_id"])]
    assert written.loc["u1", "item_id"].tolist() == new[:3]
    assert set(written.loc["wordy", "note"]) == {"popular items: the model has room for none of them"}
    assert written.loc["wordy", "item_id"].iloc[0] == "i9"
    assert written.loc["u3"].equals(before.loc["u3"])


def test_what_was_bought_before_the_history_read_is_neither_recommended_nor_forgotten_by_rules_and_the_note_tells(
    tiny, shop, log
):
    tiny.prompts.style = replace(tiny.prompts.style, max_history=1)
    tiny.save(shop / "model")
    own = log[(log["user_id"] == "u2")]["item_id"].tolist()
    free = [item for item in write(shop, k=30).query("user_id == 'u2'")["item_id"] if item not in own]
    when = f"when: {{history: {{item_id: [{own[0]}]}}}}"
    (shop / "rules.yaml").write_text(
        f"rules:\n- {{name: old, kind: never_recommend, items: {{item_id: [{free[0]}]}}, {when}}}\n"
    )
    written = write(shop, "ruled.parquet", k=30, guardrails_path=shop / "rules.yaml").query("user_id == 'u2'")
    assert written["item_id"].tolist() == free[1:]
    assert set(written["note"]) == {"the model reads the latest 1 alone"}
    assert set(written["rules"]) == {f"old: item masked ({free[0]})"}


def test_who_buys_what_the_model_has_no_room_for_gets_the_popular_items_that_are_new_and_allowed(shop):
    model = R2ec.load(shop / "model")
    model.add_items(pd.DataFrame({"item_id": ["endless"], "title": ["lamp " * 19 + "x" * 60]}))
    [prompt] = model.prompts.user_ids(model.purchases([["endless"]], [[0.0]]), model.titles)
    model.lm.config.max_position_embeddings = len(prompt) + 4
    model.save(shop / "model")
    stub_log(3, user_id="wordy", item_id=["i9", "endless", "endless"]).to_parquet(shop / "log.parquet")
    (shop / "rules.yaml").write_text(
        "rules:\n- {name: n, kind: never_recommend, items: {item_id: [i1]}, when: {history: {item_id: [i9]}}}\n"
    )
    written = write(shop, guardrails_path=shop / "rules.yaml")
    assert set(written["note"]) == {"popular items: the model has room for none of them"}
    assert written["item_id"].tolist() == ["i0", "i2", "i3"]
    assert set(written["rules"]) == {"n: item masked (i1)"}


def test_reasonings_that_leave_no_room_for_a_history_are_refused_before_the_log_is_read(shop):
    (shop / "log.parquet").write_text("no log")
    with pytest.raises(DataError, match=r"max_new_tokens is 2045: of the model's 2048 .* at most ") as refused:
        write(shop, max_new_tokens=2045)
    model, most = R2ec.load(shop / "model"), int(str(refused.value).split("at most ")[1].split(",")[0])
    assert lists.room_for_prompts(model, most) > 0
    with pytest.raises(DataError):
        lists.room_for_prompts(model, most + 1)


@pytest.mark.parametrize("name", ["users", "guardrails"])
def test_lists_are_made_anew_where_a_file_beside_the_log_has_changed(shop, name, capsys):
    texts = {"users": "user_id\nu1\n", "guardrails": "rules:\n- {name: n, kind: limit, words: 50}\n"}
    other = {"users": "user_id\nu2\n", "guardrails": "rules:\n- {name: o, kind: limit, words: 50}\n"}
    path = shop / {"users": "users.csv", "guardrails": "rules.yaml"}[name]
    for text in (texts[name], other[name], other[name]):
        path.write_text(text)
        write(shop, **{f"{name}_path": path, "shard": (1, 4)} if name == "guardrails" else {f"{name}_path": path})
    told = [line for line in capsys.readouterr().out.splitlines() if "lists" in line and "replaced" not in line]
    assert ["already" in line for line in told] == [False, False, True]


@pytest.mark.parametrize("name", ["log.parquet", "model/r2ec.json", "users.csv", "rules.yaml"])
def test_lists_are_made_anew_where_a_file_was_replaced_once_it_had_been_read(shop, log, name, monkeypatch, capsys):
    (shop / "users.csv").write_text("user_id\nu1\n")
    (shop / "rules.yaml").write_text("rules:\n- {name: n, kind: limit, words: 50}\n")
    choices = {"users_path": shop / "users.csv", "guardrails_path": shop / "rules.yaml"}
    after_all_files = lists.drop_unknown

    def replaced(*tables):
        (shop / name).write_bytes(other)
        return after_all_files(*tables)

    log.iloc[1:].to_parquet(shop / "shorter.parquet")
    shorter = (shop / "shorter.parquet").read_bytes()
    other = shorter if name == "log.parquet" else (shop / name).read_bytes() + b"\n"
    with monkeypatch.context() as patch:
        patch.setattr(lists, "drop_unknown", replaced)
        write(shop, **choices)
    write(shop, **choices)
    assert "already" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "change", [{"max_new_tokens": 3}, {"columns": {"item_id": "second"}}, {"timestamp_unit": "s"}]
)
def test_lists_of_other_settings_are_not_these_lists(shop, log, change):
    log.assign(second=log["item_id"].to_numpy()[::-1]).to_parquet(shop / "log.parquet")
    for choices in ({}, change):
        write(shop, shard=(1, 6), **choices)
        command = json.loads(pq.read_schema(shop / "lists.parquet").metadata[lists.COMMAND])
        assert {name: command[name] for name in choices} == choices


def test_vllm_writes_the_reasonings_where_it_is_asked_for(shop, monkeypatch):
    started = []

    def writer(model, folder):
        started.append(folder)
        return lambda prompts, *_: [[40, 41, 2] for _ in prompts]

    monkeypatch.setattr(lists.vllm, "require", lambda: None)
    monkeypatch.setattr(lists.vllm, "writer", writer)
    written = write(shop, use_vllm=True, shard=(1, 6))
    assert started == [shop / "model"]
    assert set(written["reasoning"]) == {R2ec.load(shop / "model").decode([40, 41])}
    write(shop, use_vllm=True, shard=(1, 6), max_new_tokens=0)
    assert len(started) == 1  # nothing is written


def test_without_vllm_its_lists_are_refused_before_the_model_is_loaded(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    (shop / "model" / "r2ec.json").unlink()
    with pytest.raises(DataError, match=r"install the extra `vllm`"):
        write(shop, use_vllm=True)


def test_ratings_are_read_on_the_scale_of_the_model(tiny, shop, log):
    tiny.prompts.style = replace(tiny.prompts.style, rating_min=0.0, rating_max=10.0)
    tiny.save(shop / "model")
    log.assign(rating=np.float32(9)).to_parquet(shop / "log.parquet")
    assert len(write(shop, shard=(1, 6)))
    log.assign(rating=np.float32(11)).to_parquet(shop / "log.parquet")
    with pytest.raises(DataError, match="rating 11 is outside 0…10"):
        write(shop, "other.parquet", shard=(1, 6))


@pytest.mark.parametrize("name", ["users", "guardrails"])
def test_a_file_beside_the_log_that_is_not_there_is_named(shop, name):
    with pytest.raises(DataError, match=r"gone\.csv: (no such file|cannot be read)"):
        write(shop, **{f"{name}_path": shop / "gone.csv"})


def test_what_names_nobody_or_nothing_is_told(shop, capsys):
    (shop / "users.csv").write_text("user_id\n")
    with pytest.raises(DataError, match=r"users\.csv: the file names no shopper"):
        write(shop, users_path=shop / "users.csv")
    (shop / "rules.yaml").write_text("rules:\n- {name: typo, kind: never_recommend, items: {item_id: [I9]}}\n")
    write(shop, guardrails_path=shop / "rules.yaml", shard=(1, 6))
    assert 'The rule "typo" never acts: it or its condition names no item of the catalogue.' in capsys.readouterr().out
