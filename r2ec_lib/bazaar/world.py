"""The Bazaar: a generated market whose shoppers have reasons, so that a recommender's reasoning can be checked.

It copies what makes real purchase logs hard (sparse, long-tailed, cold items, drift, repeated noise) and adds what
they lack: the truth. This module holds the process; its exact posterior is in `oracle.py`, words and sentences
are in `language.py`, what the tiny backbone reads before training in `warmup.py`. Nothing is downloaded.

The process, for `BazaarConfig` c and one seed:

1. *Series.* A brand has `lines` lines. Each line has one style and one tier. A brand has a home style and tier, its
   further lines often leave them, and line names are shared between brands, so only brand and line together tell.
2. *Items.* An item has a piece (kettle, lamp, …), a series, a color, a popularity w (log-normal) and a launch day.
   Each cell (piece, style, tier) has an item from the first day. Its title shows brand, line, piece and color; style,
   tier and use stand in its card alone. Some items are launched late, and for a while sell better for being new:
   w_day(v) = w · [launched] · (novelty if new).
3. *Shoppers.* A shopper starts on a uniform day with a project z (a kit of pieces, P(z | day) drifts, and `late_kits`
   of them do not exist before `late_day`), a style s and a tier t, all independent.
4. *Purchases.* The first order is a basket, all at one moment; single purchases follow, days or weeks apart. Each
   purchase is noise with probability ε; otherwise it is for the project:
   - its piece is one of the pieces of z that are missing (neither bought for the project nor by chance): in the basket
     the j-th missing one in the kit's order with weight basket_spread^j, later always the first missing one;
   - its style is s in the basket and a(z, s) later, each with probability `style_fidelity`, else any other: who has
     furnished a project adds accents. The table a is common knowledge and has no rule: of a project's `palette` styles
     each s has one, at random, so that z and s are both needed;
   - its tier is t with probability `tier_fidelity`, else any other;
   - the item is drawn from that cell in proportion to w_day.
   Noise is, after the basket and with probability `repeat`, a repetition of a sundry from the history; else a sundry
   (`sundry_share`) or any other item, in proportion to w_day. With a complete kit every purchase is noise.

So the next purchase depends on the past through the history alone given (z, s, t), and P(z, s, t | history) is a
product over the purchases: `oracle.oracle_scores` computes it exactly and is the ceiling of any recommender.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.data.schema import DataError


@dataclass(frozen=True)
class BazaarConfig:
    """Sizes and probabilities of a Bazaar. Every value with the same seed gives the same world."""

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
    analyst_errors: float = 0.05
    first_day: str = "2024-01-01"
    seed: int = 0

    def __post_init__(self):
        limits = {"kits": len(text.KITS), "styles": len(text.STYLES), "tiers": len(text.TIERS)}
        limits |= {"brands": len(text.BRANDS), "lines": len(text.LINES)}
        for name, limit in limits.items():
            if not 1 <= getattr(self, name) <= limit:
                raise DataError(f"Bazaar: {name} is {getattr(self, name)}; there are names for 1 to {limit}.")
        combinations = self.styles * self.tiers
        if self.brands < combinations:
            raise DataError(f"Bazaar: {self.brands} brands cannot cover {combinations} styles × tiers; raise brands.")
        pieces = {piece for listing in list(text.KITS.values())[: self.kits] for piece in listing.split()}
        cells = combinations * len(pieces) + len(text.SUNDRIES)
        if self.items < cells:
            raise DataError(
                f"Bazaar: {self.items} items cannot fill {cells} cells (piece × style × tier); raise items."
            )


@dataclass(frozen=True)
class World:
    """A generated Bazaar.

    Attributes:
        items, interactions: the two public tables of `data.schema`.
        facts: one row an item, in the order of `items`: piece, style, tier, brand, line, color, popularity, launch
            (day), sundry (bool), kits (names, joined by "; ").
        truth: one row an interaction, in the order of `interactions`: origin ("basket", "project", "noise",
            "repeat"), and the shopper's kit, style and tier. Never shown to a model.
        kits: name, pieces (list), accents (list, for each style of the config its accent), weight, trend, first_day.
        config: what the world was generated from.
    """

    items: pd.DataFrame
    interactions: pd.DataFrame
    facts: pd.DataFrame
    truth: pd.DataFrame
    kits: pd.DataFrame
    config: BazaarConfig

    def restricted_to(self, items: pd.DataFrame) -> "World":
        """The same world with the catalogue, and so the item indexes, of `items` (a data stage may drop some)."""
        rows = pd.Index(self.items["item_id"]).get_indexer(items["item_id"])
        if (rows < 0).any():
            raise DataError(f"Bazaar: item {items['item_id'].iloc[int((rows < 0).argmax())]!r} is not of this world.")
        facts = self.facts.iloc[rows].reset_index(drop=True)
        return World(items, self.interactions, facts, self.truth, self.kits, self.config)

    @cached_property
    def process(self) -> "Process":
        """The numbers behind the tables, as arrays."""
        return Process(self.facts, self.kits, self.config)


class Process:
    """Arrays of the generative process. Letters: N items, P pieces, Z kits, S styles, T tiers, D days.

    Attributes:
        pieces: P names, kit pieces first, then sundries.
        piece, style, tier: (N,) indexes of each item.
        kit_pieces: (Z, 6) piece indexes in the kits' order.
        accents: (Z, S) style index of the accents of a kit in a style.
        kit_prior: (D, Z) P(z | day of the first order).
        style_prior, tier_prior: (S,), (T,).
        style_given, tier_given: (S, S), (T, T); row = the shopper's, column = the item's.
        in_cell: (D, N) P(item | its cell, day).
        fresh: (D, N) P(item | noise that repeats nothing, day).
    """

    def __init__(self, facts: pd.DataFrame, kits: pd.DataFrame, config: BazaarConfig):
        self.config = config
        self.kits = kits["name"].to_list()
        used = sorted({piece for listing in kits["pieces"] for piece in listing})
        self.pieces = [*used, *text.SUNDRIES]
        self.styles, self.tiers = text.STYLES[: config.styles], text.TIERS[: config.tiers]
        self.kit_pieces = np.array([[self.pieces.index(piece) for piece in listing] for listing in kits["pieces"]])
        self.accents = np.array([[self.styles.index(style) for style in listing] for listing in kits["accents"]])
        self.piece = pd.Index(self.pieces).get_indexer(facts["piece"])
        self.style = pd.Index(self.styles).get_indexer(facts["style"])
        self.tier = pd.Index(self.tiers).get_indexer(facts["tier"])
        self.sundry = facts["sundry"].to_numpy()  # (N,) bool
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
        totals = np.zeros((config.days, cell.max() + 1))
        np.add.at(totals.T, cell, weights.T)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.in_cell = np.nan_to_num(weights / totals[:, cell]).astype(np.float32)
        self.cells = {number: np.flatnonzero(cell == number) for number in np.unique(cell)}
        everyday, rest = weights * self.sundry, weights * ~self.sundry
        everyday *= config.sundry_share / everyday.sum(axis=1, keepdims=True)
        rest *= (1 - config.sundry_share) / rest.sum(axis=1, keepdims=True)
        self.fresh = (everyday + rest).astype(np.float32)

    def cell_items(self, piece: int, style: int, tier: int) -> np.ndarray:
        """Item indexes of a cell (piece, style, tier)."""
        return self.cells[(piece * self.config.styles + style) * self.config.tiers + tier]


def generate(config: BazaarConfig) -> World:
    """The whole world of a config; a second call gives the same tables."""
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
    """Series, then items: one a cell, the others where popular styles and tiers are."""
    styles, tiers = config.styles, config.tiers
    combinations = [(style, tier) for style in range(styles) for tier in range(tiers)]
    home = rng.permutation(np.resize(np.arange(len(combinations)), config.brands))  # every combination has a brand
    series: dict[tuple[int, int], list[tuple[str, str]]] = {pair: [] for pair in combinations}
    for brand, pair in enumerate(home):
        names = rng.choice(text.LINES, config.lines, replace=False)
        for number, line in enumerate(names):
            style, tier = combinations[pair]
            if number and rng.random() < config.line_deviation:
                style = int(rng.integers(styles))
            if number and rng.random() < config.line_deviation:
                tier = int(rng.integers(tiers))
            series[style, tier].append((text.BRANDS[brand], str(line)))

    members = {piece: [] for listing in kits["pieces"] for piece in listing}
    for name, listing in zip(kits["name"], kits["pieces"], strict=True):
        for piece in listing:
            members[piece].append(name)
    cells = [(piece, *pair) for piece in sorted(members) for pair in combinations]
    cells += [(piece, *combinations[rng.integers(len(combinations))]) for piece in text.SUNDRIES]
    guaranteed = len(cells)
    sundries = (config.items - guaranteed) // 12
    taste = np.outer(_zipf(styles, 0.4), _zipf(tiers, 0.4)).ravel()
    for number in range(config.items - guaranteed):
        pair = combinations[rng.choice(len(combinations), p=taste)]
        names = text.SUNDRIES if number < sundries else sorted(members)
        cells.append((names[rng.integers(len(names))], *pair))

    rows, taken = [], set()
    for number, (piece, style, tier) in enumerate(cells):
        while True:
            brand, line = series[style, tier][rng.integers(len(series[style, tier]))]
            color = text.COLORS[rng.integers(len(text.COLORS))]
            if (brand, line, piece, color) not in taken:
                break
        taken.add((brand, line, piece, color))
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


def _purchases(process: Process, items: pd.DataFrame, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interactions and their truth, sorted by time and user."""
    config = process.config
    rows = []
    for user in range(config.users):
        day = float(rng.uniform(0, config.days))
        kit = rng.choice(config.kits, p=process.kit_prior[int(day)])
        style = rng.choice(config.styles, p=process.style_prior)
        tier = rng.choice(config.tiers, p=process.tier_prior)
        in_basket = int(rng.integers(config.basket[0], config.basket[1] + 1))
        when, history = day, []
        for number in range(in_basket + 1 + rng.poisson(config.returns - 1)):
            if number >= in_basket:
                when += 0.5 + rng.exponential(12.0)
            if when >= config.days:
                break
            item, origin = _next_item(process, history, number < in_basket, int(when), kit, style, tier, rng)
            history.append(item)
            rows.append((f"U{user:05d}", item, when, origin, kit, style, tier))
    table = pd.DataFrame(rows, columns=["user_id", "item", "when", "origin", "kit", "style", "tier"])
    minutes = (table["when"] * 1440).astype("int64")
    table["timestamp"] = pd.Timestamp(config.first_day, tz="UTC") + pd.to_timedelta(minutes, unit="min")
    table["timestamp"] = table["timestamp"].astype("datetime64[ms, UTC]")
    table = table.sort_values(["timestamp", "user_id"], kind="stable").reset_index(drop=True)
    table["item_id"] = items["item_id"].to_numpy()[table["item"]]
    table["rating"] = np.float32(np.nan)
    for column, names in {"kit": process.kits, "style": process.styles, "tier": process.tiers}.items():
        table[column] = np.asarray(names)[table[column]]
    return table[["user_id", "item_id", "timestamp", "rating"]], table[["origin", "kit", "style", "tier"]]


def _next_item(
    process: Process, history: list[int], basket: bool, day: int, kit: int, style: int, tier: int, rng
) -> tuple[int, str]:
    """One draw of the process: an item index and its origin."""
    config = process.config
    owned = {process.piece[item] for item in history}
    missing = [piece for piece in process.kit_pieces[kit] if piece not in owned]
    if not missing or rng.random() < config.noise:
        sundries = [item for item in history if process.sundry[item]]
        if sundries and not basket and rng.random() < config.repeat:
            return sundries[rng.integers(len(sundries))], "repeat"
        return _draw(process.fresh[day], rng), "noise"
    weights = config.basket_spread ** np.arange(len(missing)) if basket else np.ones(1)
    piece = missing[_draw(weights, rng)]
    wanted = style if basket else process.accents[kit, style]
    cell = process.cell_items(piece, _draw(process.style_given[wanted], rng), _draw(process.tier_given[tier], rng))
    return int(cell[_draw(process.in_cell[day, cell], rng)]), "basket" if basket else "project"


def _draw(weights: np.ndarray, rng: np.random.Generator) -> int:
    sums = np.cumsum(weights, dtype=np.float64)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))


def _zipf(count: int, exponent: float) -> np.ndarray:
    weights = np.arange(1, count + 1) ** -exponent
    return weights / weights.sum()


def _fidelity(count: int, fidelity: float) -> np.ndarray:
    """(count, count): `fidelity` on the diagonal, the rest shared by the other values."""
    if count == 1:
        return np.ones((1, 1))
    return np.full((count, count), (1 - fidelity) / (count - 1)) + np.eye(count) * (
        fidelity - (1 - fidelity) / (count - 1)
    )
