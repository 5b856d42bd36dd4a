"""The language of the Bazaar: its vocabulary, titles, item cards, and the sentences of a reasoning.

A reasoning is a sequence of short sentences, each stating one facet of a history ("Next comes the whisk."). The same
templates write them (`sentence`) and read them back (`claims`), so a reasoning can be checked for form (`well_formed`)
and, against a history, for truth (`truth.py`). Nothing here is random or knows how shoppers behave: that is in
`world.py`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

KITS = {
    "cafe": "kettle grinder scale mug jar tray",
    "teatime": "teapot kettle tray mug bowl cushion",
    "baking": "scale bowl whisk apron timer jar",
    "brunch": "skillet platter carafe mug table vase",
    "supper": "table knife platter lamp carafe speaker",
    "cookout": "stove skillet cooler knife mug lantern",
    "kitchen": "knife skillet kettle bowl apron whisk",
    "pantry": "jar scale knife pitcher grinder apron",
    "library": "armchair lamp bookshelf blanket cushion mug",
    "den": "speaker armchair headset bookshelf rug curtain",
    "office": "desk lamp organizer headset clock corkboard",
    "study": "desk notebook pen corkboard timer lamp",
    "novel": "desk notebook kettle pen blanket thermos",
    "guestroom": "pillow blanket curtain mirror towel lamp",
    "nursery": "curtain rug armchair basket clock lamp",
    "hallway": "mirror bench rug basket frame clock",
    "picnic": "basket blanket cooler platter thermos speaker",
    "campsite": "tent bedroll stove lantern backpack rope",
    "hike": "backpack thermos rope telescope notebook bedroll",
    "stargazing": "telescope blanket lantern thermos stool notebook",
    "beach": "towel cooler mat satchel hammock tent",
    "balcony": "planter trowel trellis bench lantern rug",
    "herbs": "planter trowel hose pruner jar scale",
    "allotment": "shovel trowel trellis hose basket scale",
    "roses": "shovel trellis pruner hose bench vase",
    "patio": "bench lantern table cushion planter hammock",
    "greenhouse": "trowel planter stool shovel hose organizer",
    "spa": "towel robe mat diffuser tray vase",
    "yoga": "mat diffuser cushion blanket mirror speaker",
    "workout": "mat towel timer mirror pitcher clock",
    "studio": "easel brush stool apron lamp frame",
    "gallery": "frame toolbox mirror clock bookshelf easel",
    "knitting": "yarn basket armchair lamp mug organizer",
    "crafts": "table yarn brush organizer apron corkboard",
    "workshop": "toolbox bench apron lamp brush speaker",
    "birding": "telescope notebook stool pen satchel backpack",
    "commute": "satchel headset thermos notebook organizer pen",
    "class": "notebook headset pen satchel timer desk",
    "cinema": "curtain speaker cushion blanket bowl pitcher",
    "games": "table stool timer bowl pitcher toolbox",
    "party": "lantern table pitcher platter vase easel",
    "cabin": "bedroll stove kettle lantern hammock rug",
    "roadtrip": "cooler pillow thermos tent satchel headset",
    "sailing": "rope bedroll lantern robe stove backpack",
    "florist": "vase pruner basket table hose corkboard",
    "breakfast": "tray teapot carafe whisk pitcher jar",
    "morning": "robe teapot tray armchair diffuser yarn",
    "bedroom": "pillow curtain rug robe bookshelf frame",
}
"""Kit name -> its pieces, in the order in which they are bought. Kits share pieces, at different places."""

SUNDRIES = ("candle", "soap", "sponge", "lightbulb", "matchbox", "ribbon", "keyring", "umbrella")
"""Everyday goods that belong to no kit: what noise purchases mostly are."""

MATERIALS = {
    "rustic": "oak",
    "nordic": "birch",
    "retro": "chrome",
    "coastal": "driftwood",
    "industrial": "steel",
    "bohemian": "rattan",
    "minimal": "glass",
    "deco": "brass",
    "tropical": "bamboo",
    "alpine": "pine",
    "gothic": "iron",
    "pastel": "ceramic",
}
"""Style -> the material named on item cards, a second and indirect mark of the style."""

STYLES = tuple(MATERIALS)
TIERS = ("budget", "everyday", "premium", "luxury")
COLORS = ("sage", "ivory", "navy", "amber", "charcoal", "coral", "teal", "sand", "plum", "copper")
PACES = ("days ago", "weeks ago", "long ago")
LINES = tuple(
    """
Fern Harbor Ember Willow Slate Comet Juniper Meadow Canyon Velvet Orchid Maple Lagoon Aurora Pebble Saffron
Cobalt Thistle Breeze Summit Lark Clover Dune Opal
""".split()
)
BRANDS = tuple(
    """
Halden Norvik Castell Brightwell Marlow Tessera Oakhurst Pellini Quillon Rosmund Stavanger Tolliver  Umbra
Varley Westmark Yarrow Zephyr Alderley Birkdale Corvino Dunmore Eastwick Fairlie Galloway  Hartwell Ivarsson
Jasperson Kestrel Lindqvist Morrow Nightingale Ostara Prescott Quarry Ravello Selwyn  Thornbury Ulverston Vance
Wexford Yorke Zeller Ashby Bellamy Carrick Delmar Ellery Finch  Granger Holloway Inver Jolie Kirkwall Lowell
Maddox Newbury Orrin Paxton Radley Sorrel  Tamsin Upton Verity Whitby Arden Bramble Calder Dorset Embry Foxley
Garrick Hollis  Iona Juno Keswick Larkin Merrin Nolan Osborne Pemberton Rowan Sutton Tilney Vesper  Winslow
Abbott Barlow Crosby Draper Emerson Fielding Gresham Hadley Ingram Jarvis Kendal
""".split()
)

_TEMPLATES = {
    "next": "Next comes the {}.",
    "kit": "This is for the {}.",
    "style": "The style is {}.",
    "accent": "Accents are {}.",
    "tier": "Prices are {}.",
    "owns": "They have the {}.",
    "latest": "The latest is the {}.",
    "brand": "They know {}.",
    "side": "Never mind the {}.",
    "pace": "The last visit was {}.",
}
FACETS = tuple(_TEMPLATES)
"""Kinds of claims. `next`, `accent` and `tier` decide the next purchase, and `accent` follows from `kit` and `style`;
the others can be true or false but decide nothing."""


class Claim(NamedTuple):
    """One statement of a reasoning: a facet and its value, as in ("style", "rustic")."""

    kind: str
    value: str


def sentence(claim: Claim) -> str:
    """The claim as an English sentence; the first words give the facet, the last ones the value.

    >>> sentence(Claim("next", "whisk")), sentence(Claim("tier", "budget"))
    ('Next comes the whisk.', 'Prices are budget.')
    """
    return _TEMPLATES[claim.kind].format(claim.value)


def claims(chain: str) -> list[Claim]:
    """The claims of a reasoning, in order; text outside the grammar of the Bazaar claims nothing.

    >>> claims("Prices are budget. Hm. Next comes the apron.")
    [Claim(kind='tier', value='budget'), Claim(kind='next', value='apron')]
    """
    return [claim for part in _sentences(chain) if (claim := _READ.get(part)) is not None]


def well_formed(chain: str) -> bool:
    """Whether a reasoning consists of complete sentences of the grammar, at least one and none twice.

    >>> well_formed("The style is deco. Next comes the rug."), well_formed("The style is rug."), well_formed("")
    (True, False, False)
    """
    parts = _sentences(chain)
    return bool(parts) and all(part in _READ for part in parts) and len(set(parts)) == len(parts)


def title(brand: str, line: str, piece: str, color: str) -> str:
    """An item's title, all that a history shows of it. Style and tier are hidden: they follow from brand and line."""
    return f"{brand} {line} {piece}, {color}"


def card(piece: str, style: str, tier: str, kits: Sequence[str]) -> str:
    """An item's description: the style, the tier and the uses that its title hides.

    >>> card("kettle", "alpine", "budget", ["cafe", "cabin"])
    'An alpine kettle in pine at a budget price, made for the cafe or the cabin.'
    """
    article = "An" if style[0] in "aeiou" else "A"
    price = f"{'an' if tier[0] in 'aeiou' else 'a'} {tier} price"
    use = "made for " + " or ".join(f"the {kit}" for kit in kits) if kits else "handy every day"
    return f"{article} {style} {piece} in {MATERIALS[style]} at {price}, {use}."


def _sentences(chain: str) -> list[str]:
    """The chain in lower case, split after each full stop; a last sentence without one matches no template."""
    folded = re.sub(r"\s+", " ", chain.replace(" .", ".")).casefold()
    return [part.strip() for part in re.findall(r"[^.]+\.?", folded) if part.strip()]


_PIECES = tuple(sorted({piece for listing in KITS.values() for piece in listing.split()}))
VALUES = {
    "next": _PIECES,
    "kit": tuple(KITS),
    "style": STYLES,
    "accent": STYLES,
    "tier": TIERS,
    "owns": _PIECES + SUNDRIES,
    "latest": _PIECES + SUNDRIES,
    "brand": BRANDS,
    "side": SUNDRIES,
    "pace": PACES,
}
"""Facet -> the values that it can have."""

_READ = {sentence(claim).casefold(): claim for kind in VALUES for claim in (Claim(kind, v) for v in VALUES[kind])}
"""Every sentence of the grammar, in lower case -> its claim."""
