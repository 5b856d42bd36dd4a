"""Lists for every shopper: what is written for whom, that a killed command goes on, and that shards need no other."""

import itertools

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from r2ec_lib.analysis import rules
from r2ec_lib.data.schema import DataError
from r2ec_lib.model.r2ec import Recommendation
from r2ec_lib.serving import lists

FALLBACK = Recommendation(["i0"], ["red kettle"], [float("nan")], "")


@pytest.fixture
def log(samples, items) -> pd.DataFrame:
    """An interactions table: u0…u23, an hour apart; the first purchase of u1 and both of "stranger" are unknown."""
    owned = samples.drop_duplicates("user_id").explode("history")
    table = pd.DataFrame({"user_id": owned["user_id"], "item_id": items["item_id"].to_numpy()[owned["history"].astype(int)]})
    table.iloc[table.index.get_indexer_for(table.index[table["user_id"] == "u1"])[:1], 1] = "gone"
    table = pd.concat([table, pd.DataFrame({"user_id": ["stranger"] * 2, "item_id": ["x", "y"]})], ignore_index=True)
    times = pd.date_range("2024-01-01", periods=len(table), freq="h", tz="UTC", unit="ms")
    return table.assign(timestamp=times, rating=np.float32("nan"))


@pytest.fixture
def saved(tiny, log, tmp_path):
    """Folder of a saved model, and a log beside it as a CSV file with columns of its own."""
    tiny.float().lm if False else tiny.lm.float()
    tiny.refresh()
    tiny.save(tmp_path / "model")
    log.to_csv(tmp_path / "log.csv", index=False)
    return tmp_path


def write(folder, out="lists.parquet", **choices) -> pd.DataFrame:
    usual = {"columns": {}, "k": 3, "max_new_tokens": 4}
    lists.recommend(folder / "model", folder / "log.csv", folder / out, **{**usual, **choices})
    return pd.read_parquet(folder / out)
