"""What a Bazaar sells: kits that share pieces, items whose titles hide what their cards show."""

import dataclasses
import re

import numpy as np
import pytest

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.world import BazaarConfig, generate
from r2ec_lib.data.schema import DataError


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


def test_accents_come_from_the_palette_of_a_kit_and_need_its_style_as_well(world):
    wide = generate(dataclasses.replace(world.config, styles=8, brands=32, palette=3, items=1400))
    table = np.array(wide.kits["accents"].to_list())  # (kits, styles)
    assert all(len(set(row)) == 3 for row in table)
    assert all(len(set(column)) > 1 for column in table.T)
    assert (wide.process.accents == [[text.STYLES.index(name) for name in row] for row in table]).all()


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
