"""The Bazaar: a generated market whose shoppers have reasons, so that a recommender's reasoning can be checked.

It reproduces what makes real purchase logs hard (sparsity, a long tail, cold items, drift, repeated noise) and adds
what they lack: the truth. `catalogue.py` draws what is sold and `shoppers.py` who buys what, both from the
probabilities in `process.py`. Its exact posterior is in `oracle.py`, the wording in `language.py`, the tiny backbone's
warm-up corpus in `warmup.py`. Nothing is downloaded.

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

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.catalogue import draw_items, draw_kits
from r2ec_lib.bazaar.config import BazaarConfig
from r2ec_lib.bazaar.process import Process
from r2ec_lib.bazaar.shoppers import draw_purchases
from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import read_json


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
    def process(self) -> Process:
        """The generative process as arrays."""
        return Process(self.facts, self.kits, self.config)


def generate(config: BazaarConfig) -> World:
    """The world of a config; equal configs give equal tables."""
    rng = np.random.default_rng(config.seed)
    kits = draw_kits(config, rng)
    facts = draw_items(config, kits, rng)
    description = [
        text.card(row.piece, row.style, row.tier, row.kits.split("; ") if row.kits else [])
        for row in facts.itertuples()
    ]
    titles = [text.title(row.brand, row.line, row.piece, row.color) for row in facts.itertuples()]
    ids = [f"B{number:05d}" for number in range(len(facts))]
    items = pd.DataFrame({"item_id": ids, "title": titles, "description": description}).astype("str")
    interactions, truth = draw_purchases(Process(facts, kits, config), items, rng)
    return World(items, interactions, facts, truth, kits, config)


def read_world(path: Path, items: pd.DataFrame) -> World | None:
    """The world whose config a run has stored at `path`, restricted to the items of the run; None without such a file.

    Raises DataError if the items are not those that this config generates.
    """
    if not path.exists():
        return None
    world = generate(BazaarConfig(**read_json(path)))
    if len(items.merge(world.items)) < len(items):
        raise DataError("The items are of another version of the Bazaar than its truth; run the data stage again.")
    return world.restricted_to(items)
