"""The generated world: seeded, with the promised structure and difficulties."""

import dataclasses
import hashlib
import math
import re

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.world import BazaarConfig, generate
from r2ec_lib.data.schema import DataError, validate_interactions, validate_items
from r2ec_lib.data.splits import summary


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world):
    again, other = generate(world.config), generate(dataclasses.replace(world.config, seed=4))
    for name in ("items", "interactions", "facts", "truth", "kits"):
        pd.testing.assert_frame_equal(getattr(world, name), getattr(again, name))
    assert not world.interactions["item_id"].equals(other.interactions["item_id"])


def test_tables_pass_the_validation_that_real_logs_pass(world):
    assert len(validate_items(world.items, "items")) == world.config.items
    assert len(validate_interactions(world.interactions, "interactions")) == len(world.truth)
    assert world.items["title"].is_unique


def test_titles_hide_style_tier_and_use_and_cards_show_them(world):
    names = {*text.STYLES, *text.TIERS, *text.KITS, *text.MATERIALS.values()}
    for row in world.items.join(world.facts).itertuples():
        assert names.isdisjoint(row.title.lower().replace(",", "").split())
        assert row.style in row.description and row.tier in row.description and row.piece in row.description
        assert all(kit in row.description for kit in row.kits.split("; "))


def test_brand_and_line_together_tell_style_and_tier_and_neither_does_alone(world):
    kinds = world.facts.groupby(["brand", "line"])[["style", "tier"]].nunique()
    assert (kinds == 1).all().all()
    assert world.facts.groupby("line")["style"].nunique().mean() > 1.5
    assert world.facts.groupby("brand")["style"].nunique().mean() > 1.1


def test_kits_share_pieces_in_different_orders():
    members = {}
    for kit, listing in text.KITS.items():
        pieces = listing.split()
        assert len(set(pieces)) == 6
        for place, piece in enumerate(pieces):
            members.setdefault(piece, []).append((kit, place))
    assert len(text.KITS) == 48 and len(members) == 64
    assert all(len(uses) >= 2 for uses in members.values())
    assert np.mean([len({place for _, place in uses}) for uses in members.values()]) > 2.5
    assert len(set(map(frozenset, map(str.split, text.KITS.values())))) == 48


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


def test_accents_come_from_the_palette_of_a_kit_and_need_its_style_as_well(world):
    wide = generate(dataclasses.replace(world.config, styles=8, brands=32, palette=3, items=1400))
    table = np.array(wide.kits["accents"].to_list())  # (kits, styles)
    assert all(len(set(row)) == 3 for row in table)
    assert all(len(set(column)) > 1 for column in table.T)
    assert (wide.process.accents == [[text.STYLES.index(name) for name in row] for row in table]).all()


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


def test_the_data_are_long_tailed_and_the_test_window_has_cold_items(world, samples):
    counts = world.interactions["item_id"].value_counts()
    top = counts.iloc[: world.config.items // 10].sum() / counts.sum()
    assert top > 0.25  # a tenth of the catalogue would have a tenth of the sales if popularity were even
    assert summary(world.items, world.interactions, samples)["cold_test"] > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kits": 49}, "kits is 49; expected 2 to 48"),
        ({"kits": 1}, "kits is 1; expected 2 to 48"),
        ({"styles": 13}, "styles is 13; expected 1 to 12"),
        ({"tiers": 0}, "tiers is 0; expected 1 to 4"),
        ({"brands": 7}, "brands is 7; expected 8 to 96"),
        ({"brands": 97}, "brands is 97; expected 8 to 96"),
        ({"lines": 25}, "lines is 25; expected 1 to 24"),
        ({"palette": 0}, "palette is 0; expected at least 1"),
        ({"users": 0}, "users is 0; expected at least 1"),
        ({"days": 20}, "days is 20; expected at least 21"),
        ({"returns": 0.5}, "returns is 0.5; expected at least 1"),
        ({"noise": 1.5}, "noise is 1.5; expected 0 to 1"),
        ({"repeat": -0.1}, "repeat is -0.1; expected 0 to 1"),
        ({"style_fidelity": math.nan}, "style_fidelity is nan; expected 0 to 1"),
        ({"tier_fidelity": 1.01}, "tier_fidelity is 1.01; expected 0 to 1"),
        ({"items": 100}, r"items is 100; expected one for each piece, style and tier: \d+"),
    ],
)
def test_an_impossible_size_is_refused_with_its_name_and_its_limits(world, change, message):
    with pytest.raises(DataError, match=f"Bazaar: {message}"):
        dataclasses.replace(world.config, **change)


def test_the_limits_themselves_are_sizes_of_a_world(world):
    least = {"kits": 2, "styles": 1, "tiers": 1, "brands": 1, "lines": 1, "palette": 1, "users": 1, "days": 21}
    small = generate(dataclasses.replace(world.config, **least, returns=1, items=50, late_day=10))
    assert len(small.items) == 50 and small.interactions["user_id"].nunique() == 1
    assert small.facts["launch"].between(0, 10).all()


def test_more_items_than_there_are_titles_are_refused_rather_than_sought_forever(world):
    with pytest.raises(DataError, match=r"items is 9000; that makes \d+ of the kind .*, and there are \d+ titles"):
        generate(dataclasses.replace(world.config, items=9000, brands=8, lines=1))


def test_every_combination_of_piece_style_and_tier_is_sold_from_the_first_day(world):
    first = world.facts[(world.facts["launch"] == 0) & ~world.facts["sundry"]]
    pieces = {piece for listing in world.kits["pieces"] for piece in listing}
    assert len(first.groupby(["piece", "style", "tier"])) == len(pieces) * world.config.styles * world.config.tiers
    assert set(world.facts.loc[world.facts["sundry"], "piece"]) == set(text.SUNDRIES)


def test_style_and_tier_of_a_brand_s_first_line_cover_all_combinations_evenly():
    """Without deviation each brand keeps to one style and tier, and each pair has its share of the brands."""
    config = BazaarConfig(items=700, users=1, kits=8, styles=4, tiers=2, brands=16, late_kits=1, line_deviation=0.0)
    homes = generate(config).facts.groupby("brand")[["style", "tier"]].agg(["nunique", "first"])
    assert (homes.xs("nunique", axis=1, level=1) == 1).all().all()
    assert homes.xs("first", axis=1, level=1).value_counts().to_list() == [2] * 8


def test_a_card_names_at_most_two_kits_and_only_kits_with_the_piece(world):
    listings = dict(zip(world.kits["name"], world.kits["pieces"], strict=True))
    for row in world.facts.itertuples():
        shown = [kit for kit in row.kits.split("; ") if kit]
        uses = [kit for kit in listings if row.piece in listings[kit]]
        assert set(shown) <= set(uses) and len(set(shown)) == min(2, len(uses)) and row.sundry == (not uses)


def test_a_new_item_sells_better_for_as_long_as_it_is_new(world):
    process, facts, config = world.process, world.facts, world.config
    item = int(facts.index[facts["launch"].between(1, config.days - config.novelty_days - 1)][0])
    mates = process.cells[process.piece[item], process.style[item], process.tier[item]]
    mate = next(int(other) for other in mates if facts["launch"][other] == 0)
    launch, ratio = facts["launch"][item], facts["popularity"][item] / facts["popularity"][mate]
    days = launch + np.array([-1, 0, config.novelty_days - 1, config.novelty_days])
    sold = process.in_cell[days, item] / process.in_cell[days, mate]
    np.testing.assert_allclose(sold, [0, config.novelty * ratio, config.novelty * ratio, ratio], rtol=1e-5)


def test_each_day_s_probabilities_sum_to_one_and_sundries_have_their_share_of_noise(world):
    process, config = world.process, world.config
    cells = [members for members in process.cells.values() if not process.sundry[members].any()]
    for members in cells:
        np.testing.assert_allclose(process.in_cell[:, members].sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(process.fresh.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(process.fresh[:, process.sundry].sum(axis=1), config.sundry_share, rtol=1e-5)
    np.testing.assert_allclose(process.kit_prior.sum(axis=1), 1.0)
    late = world.kits["first_day"].to_numpy() > 0
    assert (process.kit_prior[: config.late_day, late] == 0).all() and (process.kit_prior[config.late_day :] > 0).all()
    np.testing.assert_allclose(process.style_given.sum(axis=1), 1.0)
    np.testing.assert_allclose(np.diag(process.tier_given), config.tier_fidelity)


def test_kits_drift_by_their_trends(world):
    prior, trend = world.process.kit_prior, world.kits["trend"].to_numpy()
    one, other = np.flatnonzero(world.kits["first_day"] == 0)[:2]
    growth = np.log(prior[-1, [one, other]] / prior[0, [one, other]])
    elapsed = (world.config.days - 1) / world.config.days
    np.testing.assert_allclose(growth[0] - growth[1], (trend[one] - trend[other]) * elapsed)


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


def test_a_smaller_catalogue_keeps_the_facts_of_its_items_and_a_foreign_one_is_refused(world):
    part = world.items.iloc[[7, 3]].reset_index(drop=True)
    small = world.restricted_to(part)
    pd.testing.assert_frame_equal(small.facts, world.facts.iloc[[7, 3]].reset_index(drop=True))
    assert small.items is part and small.kits is world.kits
    with pytest.raises(DataError, match="item 'X1' does not belong to this world"):
        world.restricted_to(part.assign(item_id=[part["item_id"][0], "X1"]))


def test_published_figures_belong_to_this_very_world(world):
    """A change of this digest changes the world of every seed, and with it every published figure."""
    purchases = (world.interactions["user_id"] + world.interactions["item_id"]).str.cat(sep=" ")
    minutes = world.interactions["timestamp"].astype("int64").astype("str").str.cat(sep=" ")
    cards = (world.items["title"] + world.items["description"]).str.cat(sep=" ")
    digest = hashlib.sha256(f"{purchases} {minutes} {cards}".encode()).hexdigest()
    assert digest[:16] == "09e204155b5ae046"


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


def test_a_kind_may_have_as_many_items_as_it_has_titles_and_not_one_more(world):
    """Which kind is full first is drawn, so the size is sought."""
    config = dataclasses.replace(world.config, users=1, brands=8, lines=1, kits=2, styles=4, late_kits=0)
    for items in range(370, 400, 2):
        try:
            fits = generate(dataclasses.replace(config, items=items))
        except DataError as error:
            count, titles = re.search(r"that makes (\d+) .* there are (\d+) titles", str(error)).groups()
            break
    assert int(titles) == 10 and int(titles) < int(count) <= int(titles) + 2
    assert fits.facts.groupby(["piece", "style", "tier"]).size().max() <= int(titles)
