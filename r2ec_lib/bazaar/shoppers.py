"""Draws who buys in a Bazaar, and what (steps 3 to 5 of the process in `world`)."""

import numpy as np
import pandas as pd

from r2ec_lib.bazaar.config import MOST_NEEDED
from r2ec_lib.bazaar.process import Process


def draw_purchases(
    process: Process, items: pd.DataFrame, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interactions and their truth, sorted by time, then user."""
    config = process.config
    rows = []
    for user in range(config.users):
        day = float(rng.uniform(0, config.days))
        kit = rng.choice(config.kits, p=process.kit_prior[int(day)])
        style = rng.choice(config.styles, p=process.style_prior)
        tier = rng.choice(config.tiers, p=process.tier_prior)
        first, last = (1, MOST_NEEDED) if config.needs else config.basket
        in_basket = int(rng.integers(first, last + 1))
        need = in_basket if config.needs else MOST_NEEDED
        when = day
        history: list[int] = []
        for number in range(in_basket + 1 + rng.poisson(config.returns - 1)):
            if number >= in_basket:
                when += 0.5 + rng.exponential(12.0)
            if when >= config.days:
                break
            item, origin = _next_item(process, history, number < in_basket, int(when), kit, style, tier, need, rng)
            history.append(item)
            rows.append((f"U{user:05d}", item, when, origin, kit, style, tier, need))
    table = pd.DataFrame(rows, columns=["user_id", "item", "when", "origin", "kit", "style", "tier", "need"])
    minutes = (table["when"] * 1440).astype("int64")
    table["timestamp"] = pd.Timestamp(config.first_day, tz="UTC") + pd.to_timedelta(minutes, unit="min")
    table["timestamp"] = table["timestamp"].astype("datetime64[ms, UTC]")
    table = table.sort_values(["timestamp", "user_id"], kind="stable").reset_index(drop=True)
    table["item_id"] = items["item_id"].to_numpy()[table["item"]]
    table["rating"] = np.float32(np.nan)
    for column, names in {"kit": process.kits, "style": process.styles, "tier": process.tiers}.items():
        table[column] = np.asarray(names)[table[column]]
    truth = ["origin", "kit", "style", "tier", *(["need"] if config.needs else [])]
    return table[["user_id", "item_id", "timestamp", "rating"]], table[truth]


def _next_item(
    process: Process,
    history: list[int],
    basket: bool,
    day: int,
    kit: int,
    style: int,
    tier: int,
    need: int,
    rng: np.random.Generator,
) -> tuple[int, str]:
    """One draw of the process: an item index and its origin."""
    config, refill = process.config, need == 1
    if refill and not history:
        return _draw(process.fresh[day] * process.sundry, rng), "basket"
    owned = {process.piece[item] for item in history}
    missing = [piece for piece in process.kit_pieces[kit] if piece not in owned]
    if not (missing or refill) or rng.random() < config.noise:
        sundries = [item for item in history if process.sundry[item]]
        if sundries and not basket and rng.random() < config.repeat:
            return sundries[rng.integers(len(sundries))], "repeat"
        return _draw(process.fresh[day], rng), "noise"
    if refill:
        return _draw(process.in_piece[day] * (process.piece == process.piece[history[-1]]), rng), "refill"
    weights = config.basket_spread ** np.arange(len(missing)) if basket else np.ones(1)
    piece = missing[_draw(weights, rng)]
    if not basket and need == 2:
        return _draw(process.in_piece[day] * (process.piece == piece), rng), "project"
    if not basket and need == 3:
        among = (process.piece == piece) & (process.tier == _draw(process.tier_given[tier], rng))
        return _draw(process.in_piece_tier[day] * among, rng), "project"
    wanted = style if basket or need == 4 else process.accents[kit, style]
    cell = process.cells[piece, _draw(process.style_given[wanted], rng), _draw(process.tier_given[tier], rng)]
    return int(cell[_draw(process.in_cell[day, cell], rng)]), "basket" if basket else "project"


def _draw(weights: np.ndarray, rng: np.random.Generator) -> int:
    """An index, drawn in proportion to its weight."""
    sums = np.cumsum(weights, dtype=np.float64)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
