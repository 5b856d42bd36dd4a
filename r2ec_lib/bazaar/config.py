"""Sizes and probabilities of a Bazaar; `world` explains them."""

import math
from dataclasses import dataclass

from r2ec_lib.bazaar import language as text
from r2ec_lib.data.schema import DataError

MOST_NEEDED = 5
"""Facts that decide a purchase at most: project, missing piece, style, accent, tier."""


@dataclass(frozen=True)
class BazaarConfig:
    """Sizes and probabilities of a Bazaar; `world` explains them. Equal configs give equal worlds.

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
