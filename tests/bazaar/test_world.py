"""The generated world: seeded, with the promised difficulties."""

import dataclasses
import hashlib

import pandas as pd
import pytest

from r2ec_lib.bazaar.world import generate, read_world
from r2ec_lib.data.schema import DataError, validate_interactions, validate_items
from r2ec_lib.data.splits import summary
from r2ec_lib.data.storage import write_json


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world):
    again, other = generate(world.config), generate(dataclasses.replace(world.config, seed=4))
    for name in ("items", "interactions", "facts", "truth", "kits"):
        pd.testing.assert_frame_equal(getattr(world, name), getattr(again, name))
    assert not world.interactions["item_id"].equals(other.interactions["item_id"])


def test_tables_pass_the_validation_that_real_logs_pass(world):
    assert len(validate_items(world.items, "items")) == world.config.items
    assert len(validate_interactions(world.interactions, "interactions")) == len(world.truth)
    assert world.items["title"].is_unique


def test_the_data_are_long_tailed_and_the_test_window_has_cold_items(world, samples):
    counts = world.interactions["item_id"].value_counts()
    top = counts.iloc[: world.config.items // 10].sum() / counts.sum()
    assert top > 0.25  # a tenth of the catalogue would have a tenth of the sales if popularity were even
    assert summary(world.items, world.interactions, samples)["cold_test"] > 0.01


def test_a_smaller_catalogue_keeps_the_facts_of_its_items_and_a_foreign_one_is_refused(world):
    part = world.items.iloc[[7, 3]].reset_index(drop=True)
    small = world.restricted_to(part)
    pd.testing.assert_frame_equal(small.facts, world.facts.iloc[[7, 3]].reset_index(drop=True))
    assert small.items is part and small.kits is world.kits
    with pytest.raises(DataError, match="item 'X1' does not belong to this world"):
        world.restricted_to(part.assign(item_id=[part["item_id"][0], "X1"]))


def test_the_world_of_a_run_is_that_of_its_items_or_is_refused(world, tmp_path):
    assert read_world(tmp_path / "world.json", world.items) is None
    write_json(dataclasses.asdict(world.config), tmp_path / "world.json")
    part = world.items.iloc[5:30].reset_index(drop=True)
    assert read_world(tmp_path / "world.json", part).facts.equals(world.facts.iloc[5:30].reset_index(drop=True))
    with pytest.raises(DataError, match="another version of the Bazaar"):
        read_world(tmp_path / "world.json", part.assign(title="Halden Fern mug"))


def test_published_figures_belong_to_this_very_world(world):
    """A change of this digest changes the world of every seed, and with it every published figure."""
    purchases = (world.interactions["user_id"] + world.interactions["item_id"]).str.cat(sep=" ")
    minutes = world.interactions["timestamp"].astype("int64").astype("str").str.cat(sep=" ")
    cards = (world.items["title"] + world.items["description"]).str.cat(sep=" ")
    digest = hashlib.sha256(f"{purchases} {minutes} {cards}".encode()).hexdigest()
    assert digest[:16] == "09e204155b5ae046"
