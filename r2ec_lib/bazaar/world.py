"""The Bazaar: a generated market whose shoppers have reasons, so that a recommender's reasoning can be checked.

It reproduces what makes real purchase logs hard (sparsity, a long tail, cold items, drift, repeated noise) and adds
what they lack: the truth. This module holds the process. Its exact posterior is in `oracle.py`, the wording in
`language.py`, the tiny backbone's warm-up corpus in `warmup.py`. Nothing is downloaded.

The process, for `BazaarConfig` c and one seed:

1. *Series.* A brand has `lines` lines, each of one style and one tier. The first line has the brand's home style and
   tier; the others often deviate. Brands share line names, so style and tier follow from brand and line together only.
2. *Items.* An item has a piece (kettle, lamp, …), a series, a color, a popularity w (log-normal) and a launch day.
   Each cell (piece, style, tier) has an item from the first day. The title shows brand, line, piece and color; style,
   tier and use are on the item's card only. Some items are launched late and sell better while they are new:
   w_day(v) = w · [launched] · (novelty if new).
3. *Shoppers.* A shopper starts on a uniformly drawn day with a project z (a kit of pieces; P(z | day) drifts, and
   `late_kits` kits do not exist before `late_day`), a style s and a tier t, all independent.
4. *Purchases.* The first order is a basket, bought at one moment; single purchases follow, days or weeks apart. Each
   purchase is noise with probability `noise`; otherwise it is for the project:
   - its piece is one of the missing pieces of z, those bought neither for the project nor by chance: in the basket
     the j-th missing one in the kit's order with weight basket_spread^j, later always the first missing one;
   - its style is s in the basket and the accent a(z, s) later, each with probability `style_fidelity`, otherwise any
     other. The table a is common knowledge but follows no rule: each s gets one of the project's `palette` styles at
     random, so both z and s are needed;
   - its tier is t with probability `tier_fidelity`, otherwise any other;
   - the item is drawn from that cell in proportion to w_day.
   Noise after the basket repeats a sundry of the history with probability `repeat`; all other noise is a sundry
   (`sundry_share`) or any other item, in proportion to w_day. Once the kit is complete, every purchase is noise.

5. *Needs*, only with `needs`. The first order holds n = 1 to 5 purchases, and what follows it needs n facts: for 1, it
   is one sundry, and each later purchase is a refill, any item of the latest one's piece; for 2, the first missing
   piece of the project in any style and tier; for 3, also the tier; for 4, also the style s; for 5, the accent in
   place of s, as everywhere without `needs`. No text says what n means.

Given (z, s, t), the next purchase therefore depends on the history alone, and P(z, s, t | history) is a product over
the purchases: `oracle.oracle_scores` computes it exactly and is the ceiling of any recommender.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.data.schema import DataError

MOST_NEEDED = 5
"""Facts that decide a purchase at most: project, missing piece, style, accent, tier."""


@dataclass(frozen=True)
class BazaarConfig:
    """Sizes and probabilities of a Bazaar; the module's docstring explains them. Equal configs give equal worlds.

    Raises:
        DataError: a size or a probability for which no world can be generated, with its name and limits.
    """

    items: int = 6144
    users: int = 11000
    kits: int = 48
    styles: int = 12
    tiers: int = 4
    palette: int = 4
    brands: int = 96
    lines: int = 3
    line_deviation: float = 0.3
    late_kits: int = 4
    late_items: float = 0.2
    noise: float = 0.15
    repeat: float = 0.3
    sundry_share: float = 0.7
    style_fidelity: float = 0.95
    tier_fidelity: float = 0.95
    basket: tuple[int, int] = (3, 5)
    basket_spread: float = 0.5
    returns: float = 1.5
    days: int = 366
    late_day: int = 280
    novelty: float = 3.0
    novelty_days: int = 45
    needs: bool = False
    analyst_errors: float = 0.05
    first_day: str = "2024-01-01"
    seed: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "kits": (self.late_kits + 1, len(text.KITS)),  # as many as there are names, and one from the first day
            "styles": (1, len(text.STYLES)),
            "tiers": (1, len(text.TIERS)),
            "brands": (self.styles * self.tiers, len(text.BRANDS)),  # each style and tier needs one
            "lines": (1, len(text.LINES)),
            "palette": (1, math.inf),
            "users": (1, math.inf),
            "days": (21, math.inf),  # items are launched from the middle to ten days before the end
            "returns": (1, math.inf),
            **dict.fromkeys(("noise", "repeat", "style_fidelity", "tier_fidelity"), (0, 1)),
        }
        for name, (lowest, highest) in limits.items():
            if not lowest <= getattr(self, name) <= highest:
                bounds = f"at least {lowest}" if highest == math.inf else f"{lowest} to {highest}"
                raise DataError(f"Bazaar: {name} is {getattr(self, name)}; expected {bounds}.")
        pieces = {piece for listing in list(text.KITS.values())[: self.kits] for piece in listing.split()}
        cells = self.styles * self.tiers * len(pieces) + len(text.SUNDRIES)
        if self.items < cells:
            raise DataError(f"Bazaar: items is {self.items}; expected one for each piece, style and tier: {cells}.")


@dataclass(frozen=True)
class World:
    """A generated Bazaar.

    Attributes:
        items, interactions: the two public tables of `data.schema`.
        facts: one row per item, in the order of `items`: piece, style, tier, brand, line, color, popularity, launch
            (day), sundry (bool), kits (names of up to two kits that use the piece, joined by "; ").
        truth: one row per interaction, in the order of `interactions`: origin ("basket", "project", "noise",
            "repeat", "refill"), the shopper's kit, style and tier and, in a world of `needs`, the need. Never shown
            to a model.
        kits: one row per kit: name, pieces (list), accents (list: the accent for each style of the config), weight,
            trend, first_day.
        config: the sizes and probabilities it was generated from.
    """

    items: pd.DataFrame
    interactions: pd.DataFrame
    facts: pd.DataFrame
    truth: pd.DataFrame
    kits: pd.DataFrame
    config: BazaarConfig

    def restricted_to(self, items: pd.DataFrame) -> "World":
        """The same world with the catalogue, and hence the item indexes, of `items` (a data stage may drop some).

        Raises:
            DataError: an item of `items` does not belong to this world.
        """
        rows = pd.Index(self.items["item_id"]).get_indexer(items["item_id"])
        if (rows < 0).any():
            raise DataError(
                f"Bazaar: item {items['item_id'].iloc[int((rows < 0).argmax())]!r} does not belong to this world."
            )
        facts = self.facts.iloc[rows].reset_index(drop=True)
        return World(items, self.interactions, facts, self.truth, self.kits, self.config)

    @cached_property
    def process(self) -> "Process":
        """The generative process as arrays."""
        return Process(self.facts, self.kits, self.config)


class Process:
    """Arrays of the generative process. Letters: N items, P pieces, Z kits, S styles, T tiers, D days.

    Attributes:
        kits, pieces, styles, tiers: the names behind the indexes; among the pieces, sundries come last.
        piece, style, tier: (N,) int, the indexes of each item.
        sundry: (N,) bool.
        brand, color: (N,) str.
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
        self.brand, self.color = facts["brand"].to_numpy(), facts["color"].to_numpy()

        days = np.arange(config.days)[:, None]  # (D, 1)
        growth = np.exp(kits["trend"].to_numpy() * (days / config.days - 0.5))
        growth = kits["weight"].to_numpy() * growth * (days >= kits["first_day"].to_numpy())
        self.kit_prior = growth / growth.sum(axis=1, keepdims=True)
        self.style_prior = _zipf(config.styles, 0.4)
        self.tier_prior = _zipf(config.tiers, 0.4)
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


def generate(config: BazaarConfig) -> World:
    """The world of a config; equal configs give equal tables."""
    rng = np.random.default_rng(config.seed)
    kits = _kits(config, rng)
    facts = _facts(config, kits, rng)
    description = [
        text.card(row.piece, row.style, row.tier, row.kits.split("; ") if row.kits else [])
        for row in facts.itertuples()
    ]
    titles = [text.title(row.brand, row.line, row.piece, row.color) for row in facts.itertuples()]
    ids = [f"B{number:05d}" for number in range(len(facts))]
    items = pd.DataFrame({"item_id": ids, "title": titles, "description": description}).astype("str")
    interactions, truth = _purchases(Process(facts, kits, config), items, rng)
    return World(items, interactions, facts, truth, kits, config)


def _kits(config: BazaarConfig, rng: np.random.Generator) -> pd.DataFrame:
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
            "weight": rng.permutation(_zipf(config.kits, 0.5)),
            "trend": rng.normal(0, 0.7, config.kits),
            "first_day": first_day,
        }
    )


def _facts(config: BazaarConfig, kits: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The facts of every item: one item per cell, the others mostly in popular styles and tiers; shuffled."""
    combinations = [(style, tier) for style in range(config.styles) for tier in range(config.tiers)]
    series = _series(config, combinations, rng)
    members: dict[str, list[str]] = {piece: [] for listing in kits["pieces"] for piece in listing}
    for name, listing in zip(kits["name"], kits["pieces"], strict=True):
        for piece in listing:
            members[piece].append(name)
    cells = [(piece, style, tier) for piece in sorted(members) for style, tier in combinations]
    cells += [(piece, *combinations[rng.integers(len(combinations))]) for piece in text.SUNDRIES]
    guaranteed = len(cells)
    sundries = (config.items - guaranteed) // 12
    demand = np.outer(_zipf(config.styles, 0.4), _zipf(config.tiers, 0.4)).ravel()
    for number in range(config.items - guaranteed):
        pair = combinations[rng.choice(len(combinations), p=demand)]
        names = text.SUNDRIES if number < sundries else tuple(sorted(members))
        cells.append((names[rng.integers(len(names))], *pair))
    for (piece, style, tier), count in Counter(cells).items():
        if count > (distinct := len(series[style, tier]) * len(text.COLORS)):
            raise DataError(
                f"Bazaar: items is {config.items}; that makes {count} of the kind {text.STYLES[style]} {piece}, "
                f"{text.TIERS[tier]}, and there are {distinct} titles; lower items, or raise brands or lines."
            )

    rows, titles = [], set()
    for number, (piece, style, tier) in enumerate(cells):
        while True:
            brand, line = series[style, tier][rng.integers(len(series[style, tier]))]
            color = text.COLORS[rng.integers(len(text.COLORS))]
            if (brand, line, piece, color) not in titles:
                break
        titles.add((brand, line, piece, color))
        late = number >= guaranteed and rng.random() < config.late_items * config.items / (config.items - guaranteed)
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


def _purchases(process: Process, items: pd.DataFrame, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
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


def _shares(weights: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(D, N) float32: the weight of each item as a share of its group's on that day, 0 where the group has none."""
    totals = np.zeros((len(weights), group.max() + 1))
    np.add.at(totals.T, group, weights.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(weights / totals[:, group]).astype(np.float32)


def _draw(weights: np.ndarray, rng: np.random.Generator) -> int:
    """An index, drawn in proportion to its weight."""
    sums = np.cumsum(weights, dtype=np.float64)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))


def _zipf(count: int, exponent: float) -> np.ndarray:
    weights = np.arange(1, count + 1) ** -exponent
    return weights / weights.sum()


def _fidelity(count: int, fidelity: float) -> np.ndarray:
    """(count, count): `fidelity` on the diagonal, the remainder shared evenly by the other values."""
    if count == 1:
        return np.ones((1, 1))
    return np.full((count, count), (1 - fidelity) / (count - 1)) + np.eye(count) * (
        fidelity - (1 - fidelity) / (count - 1)
    )
