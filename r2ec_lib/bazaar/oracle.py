"""What a history tells in the Bazaar: the exact posterior of its shopper, and the oracle that ranks with it.

The ceiling of any recommender there. The process itself, whose letters and arrays are used here, is in `world.py`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from r2ec_lib.bazaar.world import Process, World

TINY = 1e-30
"""Keeps the logarithm of an impossible purchase finite."""


@dataclass(frozen=True)
class Belief:
    """The exact posterior of B histories.

    Attributes:
        posterior: (B, Z, S, T) P(kit, style, tier | history).
        next_given_kit: (B, P, Z) P(piece of the next project purchase | history, kit); all 0 for a complete kit.
    """

    posterior: np.ndarray
    next_given_kit: np.ndarray

    def next_piece(self) -> np.ndarray:
        """(B, P) P(piece of the next project purchase | history); a row sums to P(kit not complete)."""
        return np.einsum("bpz,bzst->bp", self.next_given_kit, self.posterior)

    def accent(self, process: Process) -> np.ndarray:
        """(B, S) P(style of the accents | history)."""
        out = np.zeros((len(self.posterior), process.config.styles))
        np.add.at(out.T, process.accents, self.posterior.sum(axis=3).transpose(1, 2, 0))
        return out


def belief(world: World, samples: pd.DataFrame) -> Belief:
    """P(kit, style, tier | history) by Bayes' rule, from `history`, `history_hours` and `timestamp` alone.

    The actions of a history's first moment are its basket, so a history must not be cut at its beginning.
    """
    process, config = world.process, world.config
    items, hours, days, _ = _padded(world, samples)
    sundry = (items >= 0) & process.sundry[items]  # (B, L)
    rows = np.arange(len(samples))
    log_posterior = np.log(process.kit_prior[days[:, 0]] + TINY)[:, :, None, None]
    log_posterior = log_posterior + np.log(process.style_prior)[:, None] + np.log(process.tier_prior)  # (B, Z, S, T)
    owned = np.zeros((len(samples), len(process.pieces)), dtype=bool)
    for step in range(items.shape[1]):
        there = items[:, step] >= 0  # (B,)
        item, day = np.maximum(items[:, step], 0), days[:, step]
        piece, in_basket = process.piece[item], hours[:, step] == hours[:, 0]
        share, chance = _chances(process, owned, in_basket)
        for_kit = chance[rows, piece]  # (B, Z)
        earlier = items[:, :step]
        bought = sundry[:, :step].sum(axis=1)  # (B,)
        repeat = config.repeat * ((bought > 0) & ~in_basket)
        same = ((earlier == item[:, None]) & sundry[:, :step]).sum(axis=1) / np.maximum(bought, 1)
        noise = (1 - repeat) * process.fresh[day, item] + repeat * same  # (B,)
        style = process.style_given[:, process.style[item]].T  # (B, S) of an item in style s
        style = np.where(in_basket[:, None, None], style[:, None], style[:, process.accents])  # (B, Z, S)
        tier = process.tier_given[:, process.tier[item]].T * process.in_cell[day, item][:, None]  # (B, T)
        taste = style[..., None] * tier[:, None, None]  # (B, Z, S, T)
        likelihood = ((1 - share) * for_kit)[:, :, None, None] * taste
        likelihood += (share * noise[:, None])[:, :, None, None]
        log_posterior += np.where(there[:, None, None, None], np.log(likelihood + TINY), 0.0)
        owned[rows[there], piece[there]] = True
    log_posterior -= log_posterior.max(axis=(1, 2, 3), keepdims=True)
    posterior = np.exp(log_posterior)
    _, chance = _chances(process, owned, hours[:, 0] == 0)
    return Belief(posterior / posterior.sum(axis=(1, 2, 3), keepdims=True), chance)


def oracle_scores(world: World, samples: pd.DataFrame, chunk: int = 256) -> np.ndarray:
    """log P(next item | history) under the true process: the ceiling of any ranking.

    The hidden project and taste are summed out; the target is not read.

    Args:
        world: with the catalogue that the samples' item indexes refer to (`World.restricted_to`).
        samples: rows of the samples table.

    Returns:
        (B, N) float32.
    """
    process, config = world.process, world.config
    parts = []
    for start in range(0, len(samples), chunk):
        part = samples.iloc[start : start + chunk]
        known = belief(world, part)
        items, hours, _, today = _padded(world, part)
        # (Z, S, S) style of the next item, by kit and style of the shopper, for a basket and later
        given = np.broadcast_to(process.style_given, (config.kits, *process.style_given.shape))
        given = np.stack([process.style_given[process.accents], given])[(hours[:, 0] == 0).astype(int)]  # (B, Z, S, S)
        tastes = np.einsum("bzst,bzsx,ty->bzxy", known.posterior, given, process.tier_given, optimize=True)
        cells = np.einsum("bpz,bzxy->bpxy", known.next_given_kit, tastes, optimize=True)
        complete = 1 - cells.sum(axis=(1, 2, 3))[:, None]  # (B, 1)
        project = cells[:, process.piece, process.style, process.tier] * process.in_cell[today]  # (B, N)
        row, step = np.nonzero((items >= 0) & process.sundry[items])
        same = np.zeros_like(project)
        np.add.at(same, (row, items[row, step]), 1.0)
        bought = same.sum(axis=1, keepdims=True)  # (B, 1)
        repeat = config.repeat * ((bought > 0) & (hours[:, :1] > 0))
        noise = (1 - repeat) * process.fresh[today] + repeat * same / np.maximum(bought, 1)
        share = config.noise * (1 - complete) + complete
        parts.append(np.log(share * noise + (1 - config.noise) * project + TINY).astype(np.float32))
    return np.concatenate(parts)


def _chances(process: Process, owned: np.ndarray, in_basket: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(noise | kit) (B, Z) and P(piece | kit, no noise) (B, P, Z), for owned pieces (B, P) and basket marks (B,)."""
    config = process.config
    missing = ~owned[:, process.kit_pieces]  # (B, Z, 6)
    place = missing.cumsum(axis=2) - 1  # 0 for the first missing piece
    weights = np.where(in_basket[:, None, None], config.basket_spread**place, place == 0) * missing
    weights = weights / np.maximum(weights.sum(axis=2, keepdims=True), TINY)
    chance = np.zeros((len(owned), len(process.pieces), len(process.kits)))
    chance[:, process.kit_pieces, np.arange(len(process.kits))[:, None]] = weights
    return np.where(missing.any(axis=2), config.noise, 1.0), chance


def _padded(world: World, samples: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Histories as item indexes (B, L), -1 after their end; hours before the target (B, L), NaN there; the day of each
    action (B, L); the target's day (B,)."""
    shape = len(samples), int(samples["history"].map(len).max())
    items, hours = np.full(shape, -1), np.full(shape, np.nan)
    for row, (history, before) in enumerate(zip(samples["history"], samples["history_hours"], strict=True)):
        items[row, : len(history)], hours[row, : len(history)] = history, before
    now = ((samples["timestamp"] - pd.Timestamp(world.config.first_day, tz="UTC")) / pd.Timedelta(days=1)).to_numpy()
    # hours are stored as float32: half a minute more keeps an action of midnight on its day
    then = now[:, None] - np.nan_to_num(hours) / 24 + 0.5 / 1440
    last = world.config.days - 1
    return items, hours, np.clip(then, 0, last).astype(int), np.clip(now, 0, last).astype(int)
