"""Draws what a Bazaar sells: its kits, and the facts of its items (steps 1 and 2 of the process in `world`)."""

from collections import Counter

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.config import BazaarConfig
from r2ec_lib.bazaar.process import zipf
from r2ec_lib.data.schema import DataError


def draw_kits(config: BazaarConfig, rng: np.random.Generator) -> pd.DataFrame:
    """The kits, as `World.kits` holds them."""
    first_day = np.zeros(config.kits, dtype=int)
    first_day[rng.permutation(config.kits)[: config.late_kits]] = config.late_day
    palette = min(config.palette, config.styles)
    accents = np.zeros((config.kits, config.styles), dtype=int)
    for row in accents:
        row[:] = rng.choice(config.styles, palette, replace=False)[rng.permutation(config.styles) % palette]
    return pd.DataFrame(
        {
            "name": list(text.KITS)[: config.kits],
            "pieces": [listing.split() for listing in list(text.KITS.values())[: config.kits]],
            "accents": [[text.STYLES[style] for style in row] for row in accents],
            "weight": rng.permutation(zipf(config.kits, 0.5)),
            "trend": rng.normal(0, 0.7, config.kits),
            "first_day": first_day,
        }
    )


def draw_items(config: BazaarConfig, kits: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The facts of every item, as `World.facts` holds them, in random order.

    Raises:
        DataError: more items of one kind than there are titles for them.
    """
    combinations = [(style, tier) for style in range(config.styles) for tier in range(config.tiers)]
    series = _series(config, combinations, rng)
    members: dict[str, list[str]] = {piece: [] for listing in kits["pieces"] for piece in listing}
    for name, listing in zip(kits["name"], kits["pieces"], strict=True):
        for piece in listing:
            members[piece].append(name)
    cells, guaranteed = _cells(config, sorted(members), combinations, rng)
    for (piece, style, tier), count in Counter(cells).items():
        if count > (distinct := len(series[style, tier]) * len(text.COLORS)):
            raise DataError(
                f"Bazaar: items is {config.items}; that makes {count} of the kind {text.STYLES[style]} {piece}, "
                f"{text.TIERS[tier]}, and there are {distinct} titles; lower items, or raise brands or lines."
            )

    late_share = config.late_items * config.items / max(1, config.items - guaranteed)
    rows, titles = [], set()
    for number, (piece, style, tier) in enumerate(cells):
        while True:
            brand, line = series[style, tier][rng.integers(len(series[style, tier]))]
            color = text.COLORS[rng.integers(len(text.COLORS))]
            if (brand, line, piece, color) not in titles:
                break
        titles.add((brand, line, piece, color))
        late = number >= guaranteed and rng.random() < late_share
        launch = int(rng.integers(config.days // 2, config.days - 10)) if late else 0
        uses = members.get(piece, [])
        shown = [uses[index] for index in sorted(rng.permutation(len(uses))[:2])]
        popularity = float(rng.lognormal(0, 1.0))
        rows.append(
            (piece, text.STYLES[style], text.TIERS[tier], brand, line, color, popularity, launch, not uses, shown)
        )
    columns = ["piece", "style", "tier", "brand", "line", "color", "popularity", "launch", "sundry", "kits"]
    facts = pd.DataFrame(rows, columns=columns)
    facts["kits"] = facts["kits"].map("; ".join)
    return facts.iloc[rng.permutation(len(facts))].reset_index(drop=True)


def _cells(
    config: BazaarConfig, pieces: list[str], combinations: list[tuple[int, int]], rng: np.random.Generator
) -> tuple[list[tuple[str, int, int]], int]:
    """(piece, style, tier) of every item, and how many come first that are there from the first day: one of each cell
    and one of each sundry. The others are mostly of popular styles and tiers."""
    cells = [(piece, style, tier) for piece in pieces for style, tier in combinations]
    cells += [(piece, *combinations[rng.integers(len(combinations))]) for piece in text.SUNDRIES]
    guaranteed = len(cells)
    sundries = (config.items - guaranteed) // 12
    demand = np.outer(zipf(config.styles, 0.4), zipf(config.tiers, 0.4)).ravel()
    for number in range(config.items - guaranteed):
        pair = combinations[rng.choice(len(combinations), p=demand)]
        names = text.SUNDRIES if number < sundries else tuple(pieces)
        cells.append((names[rng.integers(len(names))], *pair))
    return cells, guaranteed


def _series(
    config: BazaarConfig, combinations: list[tuple[int, int]], rng: np.random.Generator
) -> dict[tuple[int, int], list[tuple[str, str]]]:
    """For each (style, tier) its series as (brand, line); every combination is the home of at least one brand."""
    series: dict[tuple[int, int], list[tuple[str, str]]] = {pair: [] for pair in combinations}
    homes = rng.permutation(np.resize(np.arange(len(combinations)), config.brands))
    for brand, home in zip(text.BRANDS, homes, strict=False):
        for number, line in enumerate(rng.choice(text.LINES, config.lines, replace=False)):
            style, tier = combinations[home]
            if number and rng.random() < config.line_deviation:
                style = int(rng.integers(config.styles))
            if number and rng.random() < config.line_deviation:
                tier = int(rng.integers(config.tiers))
            series[style, tier].append((brand, str(line)))
    return series
