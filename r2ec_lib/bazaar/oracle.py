"""The oracle of the Bazaar: the exact posterior of a shopper given the history, and the ranking that follows from it.

It is the ceiling of any recommender in this world. The process itself is in `world.py`; shapes use the letters of its
`Process`, and B for the number of histories, L for the length of the longest.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from r2ec_lib.bazaar.config import MOST_NEEDED
from r2ec_lib.bazaar.process import Process
from r2ec_lib.bazaar.world import World
from r2ec_lib.data.schema import DataError

TINY = 1e-30
"""Added to probabilities, so that the logarithm of an impossible purchase stays finite."""


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
        """(B, P) P(piece of the next project purchase | history); each row sums to P(kit not complete)."""
        return np.einsum("bpz,bzst->bp", self.next_given_kit, self.posterior)

    def accent(self, process: Process) -> np.ndarray:
        """(B, S) P(style of the accents | history)."""
        out = np.zeros((len(self.posterior), process.config.styles))
        np.add.at(out.T, process.accents, self.posterior.sum(axis=3).transpose(1, 2, 0))
        return out


def belief(world: World, samples: pd.DataFrame) -> Belief:
    """P(kit, style, tier | history) by Bayes' rule, from `history`, `history_hours` and `timestamp` alone.

    The purchases at a history's first moment are its basket, so a history must not be truncated at its beginning.
    """
    process, config = world.process, world.config
    items, hours, days, _ = _padded(world, samples)
    first_order = hours == hours[:, :1]  # (B, L)
    sundry = (items >= 0) & process.sundry[items]  # (B, L)
    rows = np.arange(len(samples))
    need = needs(world, hours)
    log_posterior = np.log(process.kit_prior[days[:, 0]] + TINY)[:, :, None, None]
    log_posterior = log_posterior + np.log(process.style_prior)[:, None] + np.log(process.tier_prior)  # (B, Z, S, T)
    owned = np.zeros((len(samples), len(process.pieces)), dtype=bool)
    for step in range(items.shape[1]):
        present = items[:, step] >= 0  # (B,)
        item, day = np.maximum(items[:, step], 0), days[:, step]
        piece, in_basket = process.piece[item], first_order[:, step]
        noise_share, piece_given_kit = _chances(process, owned, in_basket)
        sundries = sundry[:, :step].sum(axis=1)  # (B,)
        same = ((items[:, :step] == item[:, None]) & sundry[:, :step]).sum(axis=1)
        repeat = config.repeat * ((sundries > 0) & ~in_basket)
        noise = (1 - repeat) * process.fresh[day, item] + repeat * (same / np.maximum(sundries, 1))  # (B,)
        style = process.style_given[:, process.style[item]].T  # (B, S) P(the item's style | wanted)
        asks = np.where(in_basket, 4, need)  # (B,) a basket is in the shopper's own style and tier
        style = np.where((asks == 4)[:, None, None], style[:, None], style[:, process.accents])  # (B, Z, S)
        style = np.where((asks >= 4)[:, None, None], style, 1.0)
        tier = np.where((asks >= 3)[:, None], process.tier_given[:, process.tier[item]].T, 1.0)  # (B, T)
        tier = tier * _among(process, asks, day, item)[:, None]
        taste = style[..., None] * tier[:, None, None]  # (B, Z, S, T)
        likelihood = ((1 - noise_share) * piece_given_kit[rows, piece])[:, :, None, None] * taste
        likelihood += (noise_share * noise[:, None])[:, :, None, None]
        present &= need > 1  # what is bought for a refill tells nothing of the shopper
        log_posterior += np.where(present[:, None, None, None], np.log(likelihood + TINY), 0.0)
        owned[rows, piece] |= items[:, step] >= 0
    log_posterior -= log_posterior.max(axis=(1, 2, 3), keepdims=True)
    posterior = np.exp(log_posterior)
    _, piece_given_kit = _chances(process, owned, hours[:, 0] == 0)
    return Belief(posterior / posterior.sum(axis=(1, 2, 3), keepdims=True), piece_given_kit)


def oracle_scores(world: World, samples: pd.DataFrame, chunk: int = 256) -> np.ndarray:
    """(B, N) float32 log P(next item | history) under the true process: the ceiling of any ranking.

    The hidden project, style and tier are summed out; the target is not read. `world` has the catalogue to which the
    samples' item indexes refer (`World.restricted_to`); `chunk` rows are computed at a time, which bounds the memory.
    """
    process, config = world.process, world.config
    parts = []
    for start in range(0, len(samples), chunk):
        part = samples.iloc[start : start + chunk]
        beliefs = belief(world, part)
        items, hours, _, today = _padded(world, part)
        in_basket = hours[:, 0] == 0  # the target belongs to the first order
        need = needs(world, hours)
        # (B, Z, S, S) P(style of the next item | kit and style of the shopper)
        given_in_basket = np.broadcast_to(process.style_given, (config.kits, *process.style_given.shape))
        given = np.stack([process.style_given[process.accents], given_in_basket])[
            (in_basket | (need == 4)).astype(int)
        ]
        tastes = np.einsum("bzst,bzsx,ty->bzxy", beliefs.posterior, given, process.tier_given, optimize=True)
        cells = np.einsum("bpz,bzxy->bpxy", beliefs.next_given_kit, tastes, optimize=True)
        complete = 1 - cells.sum(axis=(1, 2, 3))[:, None]  # (B, 1)
        project = cells[:, process.piece, process.style, process.tier] * process.in_cell[today]  # (B, N)
        if config.needs:
            fewer = {2: cells.sum(axis=(2, 3))[:, process.piece] * process.in_piece[today]}
            fewer[3] = cells.sum(axis=2)[:, process.piece, process.tier] * process.in_piece_tier[today]
            latest = process.piece[items[np.arange(len(items)), (items >= 0).sum(axis=1) - 1]]  # (B,)
            fewer[1] = (process.piece == latest[:, None]) * process.in_piece[today]
            project = np.select([(need == n)[:, None] for n in fewer], list(fewer.values()), project)
            complete = np.where(need[:, None] == 1, 0.0, complete)
        row, step = np.nonzero((items >= 0) & process.sundry[items])
        same = np.zeros_like(project)
        np.add.at(same, (row, items[row, step]), 1.0)
        sundries = same.sum(axis=1, keepdims=True)  # (B, 1)
        repeat = config.repeat * ((sundries > 0) & ~in_basket[:, None])
        noise = (1 - repeat) * process.fresh[today] + repeat * same / np.maximum(sundries, 1)
        noise_share = config.noise * (1 - complete) + complete
        parts.append(np.log(noise_share * noise + (1 - config.noise) * project + TINY).astype(np.float32))
    return np.concatenate(parts)


def needs(world: World, hours: np.ndarray) -> np.ndarray:
    """(B,) how many facts the next purchase follows from, by hours (B, L) before the target, NaN after a history.

    Raises DataError for a target inside the first order of a world of `needs`, whose size is not known yet.
    """
    if not world.config.needs:
        return np.full(len(hours), MOST_NEEDED)
    if (hours[:, 0] == 0).any():
        raise DataError("in a Bazaar of needs, a purchase of the first order is no question; set skip_ties to true.")
    return (hours == hours[:, :1]).sum(axis=1)


def _among(process: Process, asks: np.ndarray, day: np.ndarray, item: np.ndarray) -> np.ndarray:
    """(B,) P(item | the cell, or the piece with or without its tier, that as many facts as `asks` (B,) decide)."""
    if not process.config.needs:
        return process.in_cell[day, item]
    shares = [process.in_piece[day, item], process.in_piece_tier[day, item]]
    return np.select([asks <= 2, asks == 3], shares, process.in_cell[day, item])


def _chances(process: Process, owned: np.ndarray, in_basket: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(noise | kit) (B, Z) and P(piece | kit, no noise) (B, P, Z), from the pieces bought so far (B, P) and whether
    the purchase belongs to the first order (B,)."""
    config = process.config
    missing = ~owned[:, process.kit_pieces]  # (B, Z, 6)
    place = missing.cumsum(axis=2) - 1  # 0 for the first missing piece
    weights = np.where(in_basket[:, None, None], config.basket_spread**place, place == 0) * missing
    weights = weights / np.maximum(weights.sum(axis=2, keepdims=True), TINY)
    chance = np.zeros((len(owned), len(process.pieces), len(process.kits)))
    chance[:, process.kit_pieces, np.arange(len(process.kits))[:, None]] = weights
    return np.where(missing.any(axis=2), config.noise, 1.0), chance


def _padded(world: World, samples: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Histories as arrays: item indexes (B, L), -1 after the end of a history; hours before the target (B, L), NaN
    there; the day of each purchase (B, L); the day of the target (B,)."""
    shape = len(samples), int(samples["history"].map(len).max())
    items, hours = np.full(shape, -1), np.full(shape, np.nan)
    for row, (history, before) in enumerate(zip(samples["history"], samples["history_hours"], strict=True)):
        items[row, : len(history)], hours[row, : len(history)] = history, before
    now = ((samples["timestamp"] - pd.Timestamp(world.config.first_day, tz="UTC")) / pd.Timedelta(days=1)).to_numpy()
    # Hours are stored as float32: half a minute more keeps a purchase at midnight on its day.
    then = now[:, None] - np.nan_to_num(hours) / 24 + 0.5 / 1440
    last = world.config.days - 1
    return items, hours, np.clip(then, 0, last).astype(int), np.clip(now, 0, last).astype(int)
