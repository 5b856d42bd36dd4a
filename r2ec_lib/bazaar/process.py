"""The generative process of a Bazaar as arrays, for the generator and for its exact posterior, the oracle."""

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.config import BazaarConfig


class Process:
    """Arrays of the generative process. Letters: N items, P pieces, Z kits, S styles, T tiers, D days.

    Attributes:
        kits, pieces, styles, tiers: the names behind the indexes; among the pieces, sundries come last.
        piece, style, tier: (N,) int, the indexes of each item.
        sundry: (N,) bool.
        brand: (N,) str.
        kit_pieces: (Z, 6) int, piece indexes in the kits' order.
        accents: (Z, S) int, style index of the accents of a kit in a style.
        kit_prior: (D, Z) P(z | day of the first order).
        style_prior, tier_prior: (S,), (T,).
        style_given, tier_given: (S, S), (T, T) P(item's | wanted); row = wanted, column = the item's.
        in_cell, in_piece, in_piece_tier: (D, N) float32, P(item | its cell, day), P(item | its piece, day) and
            P(item | its piece and tier, day); the last two only in a world of `needs`.
        fresh: (D, N) float32, P(item | noise that repeats nothing, day).
        cells: (piece, style, tier) -> the indexes of its items.
    """

    def __init__(self, facts: pd.DataFrame, kits: pd.DataFrame, config: BazaarConfig):
        self.config = config
        self.kits = kits["name"].to_list()
        self.pieces = [*sorted({piece for listing in kits["pieces"] for piece in listing}), *text.SUNDRIES]
        self.styles, self.tiers = text.STYLES[: config.styles], text.TIERS[: config.tiers]
        self.kit_pieces = np.array([[self.pieces.index(piece) for piece in listing] for listing in kits["pieces"]])
        self.accents = np.array([[self.styles.index(style) for style in listing] for listing in kits["accents"]])
        self.piece = pd.Index(self.pieces).get_indexer(facts["piece"])
        self.style = pd.Index(self.styles).get_indexer(facts["style"])
        self.tier = pd.Index(self.tiers).get_indexer(facts["tier"])
        self.sundry = facts["sundry"].to_numpy()
        self.brand = facts["brand"].to_numpy()

        days = np.arange(config.days)[:, None]  # (D, 1)
        growth = np.exp(kits["trend"].to_numpy() * (days / config.days - 0.5))
        growth = kits["weight"].to_numpy() * growth * (days >= kits["first_day"].to_numpy())
        self.kit_prior = growth / growth.sum(axis=1, keepdims=True)
        self.style_prior = zipf(config.styles, 0.4)
        self.tier_prior = zipf(config.tiers, 0.4)
        self.style_given = _fidelity(config.styles, config.style_fidelity)
        self.tier_given = _fidelity(config.tiers, config.tier_fidelity)

        launch = facts["launch"].to_numpy()  # (N,)
        new = (launch > 0) & (days - launch < config.novelty_days)
        weights = facts["popularity"].to_numpy() * (days >= launch) * np.where(new, config.novelty, 1.0)
        cell = (self.piece * config.styles + self.style) * config.tiers + self.tier  # (N,)
        self.in_cell = _shares(weights, cell)
        if config.needs:
            self.in_piece = _shares(weights, self.piece)
            self.in_piece_tier = _shares(weights, self.piece * config.tiers + self.tier)
        self.cells = facts.groupby([self.piece, self.style, self.tier]).indices
        sundries, others = weights * self.sundry, weights * ~self.sundry
        sundries *= config.sundry_share / sundries.sum(axis=1, keepdims=True)
        others *= (1 - config.sundry_share) / others.sum(axis=1, keepdims=True)
        self.fresh = (sundries + others).astype(np.float32)


def zipf(count: int, exponent: float) -> np.ndarray:
    weights = np.arange(1, count + 1) ** -exponent
    return weights / weights.sum()


def _shares(weights: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(D, N) float32: the weight of each item as a share of its group's on that day, 0 where the group has none."""
    totals = np.zeros((len(weights), group.max() + 1))
    np.add.at(totals.T, group, weights.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(weights / totals[:, group]).astype(np.float32)


def _fidelity(count: int, fidelity: float) -> np.ndarray:
    """(count, count): `fidelity` on the diagonal, the remainder shared evenly by the other values."""
    if count == 1:
        return np.ones((1, 1))
    return np.full((count, count), (1 - fidelity) / (count - 1)) + np.eye(count) * (
        fidelity - (1 - fidelity) / (count - 1)
    )
