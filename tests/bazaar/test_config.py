"""Sizes of which no world can be made are refused."""

import dataclasses
import math

import pytest

from r2ec_lib.bazaar.world import generate
from r2ec_lib.data.schema import DataError


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
