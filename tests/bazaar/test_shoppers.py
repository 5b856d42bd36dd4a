"""Purchases follow the process: its order, its noise, its baskets, its needs."""

import math

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.world import BazaarConfig, generate


def test_project_purchases_follow_the_order_of_the_kit(world):
    table = world.interactions.join(world.truth)
    piece = world.facts.set_index(world.items["item_id"])["piece"]
    kits = world.kits.set_index("name")["pieces"]
    checked = 0
    for _, rows in table.groupby("user_id", sort=False):
        owned = []
        for row in rows.itertuples():
            if row.origin == "project":
                assert piece[row.item_id] == next(p for p in kits[row.kit] if p not in owned)
                checked += 1
            owned.append(piece[row.item_id])
    assert checked > 500


def test_nothing_is_bought_before_its_launch_and_late_kits_come_late(world):
    day = (world.interactions["timestamp"] - pd.Timestamp(world.config.first_day, tz="UTC")).dt.days
    launch = world.facts.set_index(world.items["item_id"])["launch"]
    assert (day.to_numpy() >= launch[world.interactions["item_id"]].to_numpy()).all()
    assert launch.max() > world.config.days / 2
    late = world.kits.loc[world.kits["first_day"] > 0, "name"]
    assert len(late) == world.config.late_kits
    bought_for_late = world.truth["kit"].isin(late)
    assert bought_for_late.any() and day[bought_for_late].min() >= world.config.late_day


def test_shares_of_noise_and_of_the_fitting_style_are_as_configured(world):
    table = world.interactions.join(world.truth)
    bought = world.facts.set_index(world.items["item_id"]).loc[table["item_id"], "style"].to_numpy()
    accents = world.kits.set_index("name")["accents"]
    later = [accents[row.kit][text.STYLES.index(row.style)] for row in table.itertuples()]
    for origin, fitting in {"basket": table["style"].to_numpy(), "project": np.array(later)}.items():
        part = (table["origin"] == origin).to_numpy()
        spread = math.sqrt(world.config.style_fidelity * (1 - world.config.style_fidelity) / part.sum())
        assert part.sum() > 500 and abs((bought == fitting)[part].mean() - world.config.style_fidelity) < 4 * spread
    first = ~table["user_id"].duplicated().to_numpy()
    noise = (table["origin"].to_numpy()[first] == "noise").mean()
    assert abs(noise - world.config.noise) < 4 * math.sqrt(world.config.noise * (1 - world.config.noise) / first.sum())
    assert (table["origin"] == "repeat").any()


def test_the_j_th_missing_piece_is_bought_first_with_weight_a_half_to_the_j(world):
    table = world.interactions.join(world.truth)
    first = table[~table["user_id"].duplicated() & (table["origin"] == "basket")]
    piece = world.facts.set_index(world.items["item_id"])["piece"]
    listings = dict(zip(world.kits["name"], world.kits["pieces"], strict=True))
    places = [listings[row.kit].index(piece[row.item_id]) for row in first.itertuples()]
    # The basket is written down in the order of its draws, so the first row of a user is the first draw.
    shares = np.bincount(places, minlength=6) / len(places)
    expected = 0.5 ** np.arange(6) / sum(0.5**j for j in range(6))
    assert np.abs(shares - expected).max() < 4 * math.sqrt(0.25 / len(places))


def test_baskets_are_one_moment_and_returns_come_later_one_by_one(world):
    config = world.config
    counts, later = [], []
    for _, times in world.interactions.groupby("user_id")["timestamp"]:
        ordered = times.sort_values()
        counts.append(int((ordered == ordered.iloc[0]).sum()))
        gaps = ordered[ordered > ordered.iloc[0]].diff().dropna()
        assert (gaps >= pd.Timedelta(hours=11.9)).all()
        later.append(len(ordered) - counts[-1])
    assert set(counts) == set(range(config.basket[0], config.basket[1] + 1))
    assert abs(np.mean(counts) - 3.5) < 4 * math.sqrt(1.25 / len(counts))
    assert 1.2 < np.mean(later) < config.returns  # some returns fall behind the last day
    assert world.interactions["timestamp"].is_monotonic_increasing


def test_only_sundries_are_repeated_and_only_after_the_basket(world):
    table = world.interactions.join(world.truth)
    sundry = world.facts.set_index(world.items["item_id"])["sundry"]
    chances = repeats = 0
    for _, rows in table.groupby("user_id", sort=False):
        start, owned = rows["timestamp"].iloc[0], []
        for row in rows.itertuples():
            if row.origin == "repeat":
                assert row.item_id in owned and sundry[row.item_id] and row.timestamp > start
            if row.origin in ("repeat", "noise") and row.timestamp > start and sundry[owned].any():
                chances, repeats = chances + 1, repeats + (row.origin == "repeat")
            owned.append(row.item_id)
    assert abs(repeats / chances - world.config.repeat) < 4 * math.sqrt(0.21 / chances)


def test_a_purchase_follows_from_as_many_facts_as_the_first_order_has_purchases():
    sizes = {"items": 700, "users": 1500, "kits": 8, "styles": 4, "tiers": 2, "brands": 16, "lines": 3, "late_kits": 1}
    world = generate(BazaarConfig(**sizes, returns=2.0, needs=True, noise=0.1))
    table = world.interactions.join(world.truth)
    table = table.join(world.facts.set_index(world.items["item_id"]), on="item_id", suffixes=("", "_bought"))
    size = table[
        table["origin"].eq("basket") | table["timestamp"].eq(table.groupby("user_id")["timestamp"].transform("min"))
    ]
    assert (size.groupby("user_id")["need"].nunique() == 1).all()
    assert (size.groupby("user_id").size() == size.groupby("user_id")["need"].first()).all()
    later = table[table["origin"].isin(["project", "refill"])]
    assert set(later.loc[later["origin"] == "refill", "need"]) == {1} and set(later["need"]) == {1, 2, 3, 4, 5}
    before = table.groupby("user_id")["piece"].shift()
    assert (later["piece"] == before[later.index])[later["need"] == 1].all()
    assert table.loc[(table["need"] == 1) & (table["origin"] == "basket"), "sundry"].all()
    fits = pd.DataFrame(
        {"tier": later["tier"] == later["tier_bought"], "style": later["style"] == later["style_bought"]}
    )
    shares = fits.groupby(later["need"]).mean()
    assert (shares["tier"] > 0.85).tolist() == [False, False, True, True, True]
    assert (shares["style"] > 0.85).tolist() == [False, False, False, True, False]
    without = generate(BazaarConfig(**sizes, returns=2.0, noise=0.1))
    assert "need" not in without.truth
