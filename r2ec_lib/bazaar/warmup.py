"""What the tiny backbone reads before training, and what is true of a history in the Bazaar.

The warm-up corpus stands in for what an instruction-tuned model already knows: item cards, general facts of the world,
exercises about invented shoppers, and analyses of *unlabelled* histories by a mediocre analyst, who talks about
randomly chosen facets in random order and is sometimes wrong. Before a conclusion stands what it follows from, and one
conclusion stands once more inside `<answer>`. The analyst's word on the missing piece and on the accents follows from
its own guess at the project: no next purchase is read here. RecPO later selects which facets are worth stating.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.language import Claim
from r2ec_lib.bazaar.truth import accent, first_missing, history_facts
from r2ec_lib.bazaar.world import World
from r2ec_lib.model.prompts import Document, Prompts

PREMISES = {"next": ("kit",), "accent": ("kit", "style")}
"""What an analyst says before a conclusion, unless it has been said."""

CONCLUSIONS = ("next", "accent", "tier")
"""Facets that describe what to buy; an analysis goes on inside `<answer>` with one that it has drawn."""


def warmup_documents(world: World, samples: pd.DataFrame, prompts: Prompts, n: int, seed: int = 0) -> list[Document]:
    """The warm-up corpus: every item card twice, general facts, exercises, and `n` analyses of histories.

    A card is learned from its description on, since which title an item has cannot be foreseen. Inside `<answer>`,
    where the item prompt asks for key attributes, stands one of them: who may have to name any of them holds all.
    After an analysis one of its own conclusions stands there, so that users and items are told in the same words.

    Args:
        samples: training rows; only `history`, `history_hours` and `history_ratings` are read, `target` never.
        n: number of analyses; histories are drawn in random rounds.
    """
    rng = np.random.default_rng(seed)
    documents = []
    for item, fact in zip(world.items.to_dict("records"), world.facts.to_dict("records"), strict=True):
        title, mark, description = prompts.item_text(item).partition("description:")
        attributes = [fact["piece"], fact["style"], fact["tier"], *filter(None, fact["kits"].split("; "))]
        for attribute in rng.choice(attributes, 2, replace=False):
            documents.append(Document(title + mark, description, str(attribute)))
    documents += [Document("", fact) for fact in general_facts(world)] * 20  # facts that one has to know by heart
    documents += exercises(world, prompts, rng)
    titles = world.items["title"].to_list()
    rounds = [rng.permutation(len(samples)) for _ in range(-(-n // len(samples)))]
    columns = [samples[name].to_list() for name in ("history", "history_hours", "history_ratings")]
    for row in np.concatenate(rounds)[:n]:
        history, hours, ratings = (column[row] for column in columns)
        prompt = prompts.user_text([titles[item] for item in history], hours, ratings)
        said = analysis(world, history, hours, rng)
        concluded = [claim.value for claim in text.claims(said) if claim.kind in CONCLUSIONS]
        documents.append(Document(prompt, said, str(rng.choice(concluded)) if concluded else ""))
    return documents


def general_facts(world: World) -> list[str]:
    """What is common knowledge in the Bazaar: kits and their order, brands and their lines."""
    facts = [
        text.kit_fact(name, pieces) for name, pieces in zip(world.kits["name"], world.kits["pieces"], strict=True)
    ]
    series = world.facts.groupby(["brand", "line"], sort=True)[["style", "tier"]].first()
    for name, accents in zip(world.kits["name"], world.kits["accents"], strict=True):
        facts += [text.accent_fact(name, *pair) for pair in zip(world.process.styles, accents, strict=True)]
    for (brand, line), row in series.iterrows():
        facts.append(text.line_fact(brand, line, row["style"], row["tier"]))
    for brand, rows in series.groupby(level="brand"):
        facts.append(text.brand_fact(brand, rows["style"].mode()[0], rows["tier"].mode()[0]))
    return facts


def exercises(world: World, prompts: Prompts, rng: np.random.Generator, rounds: int = 480) -> list[Document]:
    """For each kit, `rounds` invented shoppers who own at least two of its pieces in a given style: their accents, and
    which piece they lack next.

    They follow from the kits alone: titles are bare pieces, no item and no history of the log appears.
    """
    documents = []
    for kit, (name, pieces) in enumerate(zip(world.kits["name"], world.kits["pieces"], strict=True)):
        weights = 0.6 ** np.arange(len(pieces))  # early pieces are owned more often, as they are in histories
        for number in range(rounds):
            size = 2 + number % (len(pieces) - 2)
            owned = [pieces[i] for i in rng.choice(len(pieces), size, replace=False, p=weights / weights.sum())]
            hours = [24.0 * int(rng.integers(60))] * size
            style = world.process.styles[rng.integers(world.config.styles)]
            said = [Claim("kit", name), Claim("accent", accent(world, kit, style))]
            said.insert(int(rng.integers(1, 3)), Claim("next", first_missing(world, kit, set(owned))))
            prompt = prompts.user_text(owned, hours, [float("nan")] * size)
            given = text.sentence(Claim("style", style))
            documents.append(Document(f"{prompt} {given}", " ".join(map(text.sentence, said))))
    return documents


def analysis(world: World, history: Sequence[int], hours: Sequence[float], rng: np.random.Generator) -> str:
    """A mediocre analysis of a history: two to five random facets in random order, conclusions after what they follow
    from, some of them wrong."""
    facts = history_facts(world, history, hours)
    error = world.config.analyst_errors
    kit = _guessed_kit(world, facts["owns"], error, rng)
    facts["kit"] = {world.kits["name"][kit]}
    facts["next"] = {first_missing(world, kit, facts["owns"])} - {None}
    for kind in ("style", "tier"):
        if facts[kind] and rng.random() < error:  # judged by a single purchase
            some = int(history[rng.integers(len(history))])
            facts[kind] = {str(world.facts[kind].iloc[some])}
        elif facts[kind]:
            facts[kind] = {_one_of(facts[kind], rng)}
    facts["accent"] = {accent(world, kit, style) for style in facts["style"]}
    kinds = [kind for kind in text.FACETS if facts[kind]]
    chosen = [kinds[index] for index in rng.permutation(len(kinds))[: rng.integers(2, 6)]]
    said = dict.fromkeys(step for kind in chosen for step in (*PREMISES.get(kind, ()), kind))
    return " ".join(text.sentence(Claim(kind, _one_of(facts[kind], rng))) for kind in said)


def _one_of(values: set[str], rng: np.random.Generator) -> str:
    return sorted(values)[rng.integers(len(values))]


def _guessed_kit(world: World, owned: set[str], error: float, rng: np.random.Generator) -> int:
    """The kit with most pieces in the history, in a tie the one in whose order they stand earliest, since kits are
    bought in their order; with probability `error` one that shares a single piece with the history."""
    listings = world.kits["pieces"]
    overlap = np.array([len(owned & set(listing)) for listing in listings])
    if rng.random() < error and (overlap > 0).any():
        candidates = np.flatnonzero(overlap > 0)
        return int(candidates[rng.integers(len(candidates))])
    places = [sum(place for place, piece in enumerate(listing) if piece in owned) for listing in listings]
    return int(np.lexsort((places, -overlap))[0])
