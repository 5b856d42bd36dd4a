"""The language of the Bazaar: its words, titles, item cards, general facts, and the sentences of a reasoning.

A reasoning is a row of short sentences, each stating one facet of a history ("a whisk is still missing."). The same
templates write them (`sentence`) and read them back (`claims`), so a chain can be checked for form (`well_formed`)
and, against a history, for truth (`claims_true`). Nothing here draws a random number or knows how shoppers behave: the
world itself is in `bazaar.py`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

KITS = {
    "coffee corner": "kettle grinder scale mug jar tray",
    "tea ritual": "teapot kettle tray mug bowl cushion",
    "baking day": "scale bowl whisk apron timer jar",
    "brunch table": "skillet platter carafe mug table vase",
    "supper club": "table knife platter lamp carafe speaker",
    "camp kitchen": "stove skillet cooler knife mug lantern",
    "first kitchen": "knife skillet kettle bowl apron whisk",
    "pickle pantry": "jar scale knife pitcher grinder apron",
    "reading nook": "armchair lamp bookshelf blanket cushion mug",
    "music den": "speaker armchair headset bookshelf rug curtain",
    "home office": "desk lamp organizer headset clock corkboard",
    "study desk": "desk notebook pen corkboard timer lamp",
    "writing retreat": "desk notebook kettle pen blanket thermos",
    "guest room": "pillow blanket curtain mirror towel lamp",
    "nursery corner": "curtain rug armchair basket clock lamp",
    "hallway makeover": "mirror bench rug basket frame clock",
    "picnic day": "basket blanket cooler platter thermos speaker",
    "weekend camp": "tent bedroll stove lantern backpack rope",
    "day hike": "backpack thermos rope telescope notebook bedroll",
    "stargazing night": "telescope blanket lantern thermos stool notebook",
    "beach day": "towel cooler mat satchel hammock tent",
    "balcony garden": "planter trowel trellis bench lantern rug",
    "herb garden": "planter trowel hose pruner jar scale",
    "vegetable patch": "shovel trowel trellis hose basket scale",
    "rose bed": "shovel trellis pruner hose bench vase",
    "summer patio": "bench lantern table cushion planter hammock",
    "small greenhouse": "trowel planter stool shovel hose organizer",
    "spa bath": "towel robe mat diffuser tray vase",
    "yoga room": "mat diffuser cushion blanket mirror speaker",
    "morning stretch": "mat towel timer mirror pitcher clock",
    "painting studio": "easel brush stool apron lamp frame",
    "gallery wall": "frame toolbox mirror clock bookshelf easel",
    "knitting circle": "yarn basket armchair lamp mug organizer",
    "craft table": "table yarn brush organizer apron corkboard",
    "home workshop": "toolbox bench apron lamp brush speaker",
    "bird watch": "telescope notebook stool pen satchel backpack",
    "city commute": "satchel headset thermos notebook organizer pen",
    "language class": "notebook headset pen satchel timer desk",
    "film night": "curtain speaker cushion blanket bowl pitcher",
    "game night": "table stool timer bowl pitcher toolbox",
    "garden party": "lantern table pitcher platter vase easel",
    "lakeside cabin": "bedroll stove kettle lantern hammock rug",
    "road trip": "cooler pillow thermos tent satchel headset",
    "sailing trip": "rope bedroll lantern robe stove backpack",
    "flower stall": "vase pruner basket table hose corkboard",
    "sunday breakfast": "tray teapot carafe whisk pitcher jar",
    "slow morning": "robe teapot tray armchair diffuser yarn",
    "dream bedroom": "pillow curtain rug robe bookshelf frame",
}
"""Kit name -> its pieces, in the order in which they are bought. A piece stands in several kits, at other places."""

SUNDRIES = ("candle", "soap", "sponge", "lightbulb", "matchbox", "ribbon", "keyring", "umbrella")
"""Everyday goods that belong to no kit: what noise purchases mostly are."""

STYLES = ("rustic", "nordic", "retro", "coastal", "industrial", "bohemian")
STYLES += ("minimal", "deco", "tropical", "alpine", "gothic", "pastel")
TIERS = ("budget", "everyday", "premium", "luxury")
COLORS = ("sage", "ivory", "navy", "amber", "charcoal", "coral", "teal", "sand", "plum", "copper")
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
"""Style -> the word that item cards use for its look; a second, indirect mark of the style."""

_LINES = """
Fern Harbor Ember Willow Slate Comet Juniper Meadow Canyon Velvet Orchid Maple  Lagoon Aurora Pebble Saffron
Cobalt Thistle Breeze Summit Lark Clover Dune Opal
"""
LINES = tuple(_LINES.split())
_BRANDS = """
Halden Norvik Castell Brightwell Marlow Tessera Oakhurst Pellini Quillon Rosmund Stavanger Tolliver  Umbra
Varley Westmark Yarrow Zephyr Alderley Birkdale Corvino Dunmore Eastwick Fairlie Galloway  Hartwell Ivarsson
Jasperson Kestrel Lindqvist Morrow Nightingale Ostara Prescott Quarry Ravello Selwyn  Thornbury Ulverston Vance
Wexford Yorke Zeller Ashby Bellamy Carrick Delmar Ellery Finch  Granger Holloway Inver Jolie Kirkwall Lowell
Maddox Newbury Orrin Paxton Radley Sorrel  Tamsin Upton Verity Whitby Arden Bramble Calder Dorset Embry Foxley
Garrick Hollis  Iona Juno Keswick Larkin Merrin Nolan Osborne Pemberton Rowan Sutton Tilney Vesper  Winslow
Abbott Barlow Crosby Draper Emerson Fielding Gresham Hadley Ingram Jarvis Kendal
"""
BRANDS = tuple(_BRANDS.split())

_TEMPLATES = {
    "next": ("{a piece} is still missing.", "next comes {a piece}."),
    "kit": ("this is for {a kit}.", "they are setting up {a kit}."),
    "style": ("they like {a style} look.", "the style is {style}."),
    "tier": ("they pay {tier} prices.", "the price level is {tier}."),
    "owns": ("they already have {a piece}.", "{a piece} is at home."),
    "latest": ("the latest is {a piece}.", "they just bought {a piece}."),
    "brand": ("they know {brand}.", "{brand} comes up here."),
    "color": ("they like {color}.", "{color} is in the mix."),
    "side": ("the {sundry} is a side purchase.", "the {sundry} is nothing special."),
    "pace": ("the last order was {pace}.", "they came back {pace}."),
}
FACETS = tuple(_TEMPLATES)
"""Kinds of claims. `next`, `style` and `tier` decide the next purchase; the others are true or false all the same."""

PACES = ("days ago", "weeks ago", "long ago")


class Claim(NamedTuple):
    """One thing that a reasoning says: a facet and its value, as in ("style", "rustic")."""

    kind: str
    value: str


def a(noun: str) -> str:
    """The noun with its article.

    >>> a("apron"), a("mug")
    ('an apron', 'a mug')
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def sentence(claim: Claim, form: int = 0) -> str:
    """The claim as an English sentence, in one of its two forms.

    >>> sentence(Claim("next", "whisk")), sentence(Claim("tier", "budget"), 1)
    ('a whisk is still missing.', 'the price level is budget.')
    """
    template = _TEMPLATES[claim.kind][form]
    return re.sub(r"\{(a )?\w+\}", lambda slot: a(claim.value) if slot[1] else claim.value, template)


def claims(chain: str) -> list[Claim]:
    """What a reasoning claims, in order; text that is no sentence of the Bazaar claims nothing.

    >>> claims("they pay budget prices. hm. an apron is still missing.")
    [Claim(kind='tier', value='budget'), Claim(kind='next', value='apron')]
    """
    return [claim for part in _sentences(chain) if (claim := _READ.get(part)) is not None]


def well_formed(chain: str) -> bool:
    """Whether a reasoning consists of whole sentences of the Bazaar's grammar, at least one, none twice.

    >>> well_formed("the style is deco. next comes a rug."), well_formed("the style is rug."), well_formed("")
    (True, False, False)
    """
    parts = _sentences(chain)
    return bool(parts) and all(part in _READ for part in parts) and len(set(parts)) == len(parts)


def claims_true(found: Sequence[Claim], facts: Mapping[str, set[str]]) -> list[bool]:
    """Whether each claim holds for a history.

    Args:
        found: what `claims` returned.
        facts: for each facet the values that are true of the history, from `bazaar.history_facts`.
    """
    return [claim.value in facts[claim.kind] for claim in found]


def title(brand: str, line: str, piece: str, color: str) -> str:
    """What a history shows of an item. Style and tier stay hidden: they are those of the brand's line."""
    return f"{brand} {line} {piece}, {color}"


def card(piece: str, style: str, tier: str, kits: Sequence[str]) -> str:
    """An item's description: the style, tier and use that its title hides, in about 25 words."""
    use = f"Made for {a(kits[0])}" + (f" or {a(kits[1])}." if len(kits) > 1 else ".") if kits else "Handy every day."
    return f"{a(style).capitalize()} {piece} in {MATERIALS[style]}, at {a(tier)} price. {use}"


def kit_fact(kit: str, pieces: Sequence[str], form: int = 0) -> str:
    """General knowledge: what belongs to a kit, in its order."""
    listing = ", ".join(a(piece) for piece in pieces[:-1]) + f" and {a(pieces[-1])}"
    if form == 0:
        return f"For {a(kit)} people buy {listing}, in this order."
    return f"{a(kit).capitalize()} needs {listing}."


def missing_fact(kit: str, owned: Sequence[str], piece: str, form: int = 0) -> str:
    """General knowledge: which piece of a kit comes next for somebody who has some of the others."""
    has = " ".join(sentence(Claim("owns", name), form) for name in owned)
    return f"{has} {sentence(Claim('kit', kit), form)} {sentence(Claim('next', piece), form)}"


def line_fact(brand: str, line: str, style: str, tier: str) -> str:
    """General knowledge: how a brand's line looks and what it costs."""
    return f"{brand} {line} is {style}, at {tier} prices."


def brand_fact(brand: str, style: str, tier: str) -> str:
    """General knowledge: what a brand is mostly known for; a single line may differ."""
    return f"{brand} is mostly known for {a(style)} look and {tier} prices."


def _sentences(chain: str) -> list[str]:
    """The chain cut after each full stop; a last sentence without one stays as it is, and is none of the grammar."""
    folded = re.sub(r"\s+", " ", chain.replace(" .", "."))
    return [part.strip() for part in re.findall(r"[^.]+\.?", folded) if part.strip()]


_PIECES = tuple(sorted({piece for listing in KITS.values() for piece in listing.split()}))
VALUES = {
    "next": _PIECES,
    "kit": tuple(KITS),
    "style": STYLES,
    "tier": TIERS,
    "owns": _PIECES + SUNDRIES,
    "latest": _PIECES + SUNDRIES,
    "brand": BRANDS,
    "color": COLORS,
    "side": SUNDRIES,
    "pace": PACES,
}
"""Facet -> the values that it can have."""

_READ = {
    sentence(Claim(kind, value), form): Claim(kind, value)
    for kind, values in VALUES.items()
    for value in values
    for form in (0, 1)
}
"""Every sentence of the grammar -> its claim."""
