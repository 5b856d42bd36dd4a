"""The warm-up corpus of the Bazaar: the texts on which the tiny backbone is trained before RecPO.

They stand in for the knowledge of an instruction-tuned model: item cards, general facts, exercises about invented
shoppers, and analyses of *unlabelled* histories by a mediocre analyst, who states randomly chosen facets in random
order and is sometimes wrong. Premises precede their conclusion, and one conclusion is repeated inside `<answer>`. The
analyst derives the missing piece and the accents from a guess at the project: no next purchase is read here. Which
facets are worth stating is for RecPO to learn.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.language import Claim
from r2ec_lib.bazaar.truth import accent, first_missing, history_facts
from r2ec_lib.bazaar.world import World
from r2ec_lib.model.analyses import rounds
from r2ec_lib.model.prompts import Document, Prompts

PREMISES = {"next": ("kit",), "accent": ("kit", "style")}
"""Facet -> the facets it follows from, which an analysis states first."""

CONCLUSIONS = ("next", "accent", "tier")
"""Facets that describe the next purchase; after an analysis, `<answer>` holds one that it has stated."""


def warmup_documents(world: World, samples: pd.DataFrame, prompts: Prompts, n: int, seed: int = 0) -> list[Document]:
    """The warm-up corpus: every item card twice, general facts, exercises, and `n` analyses of histories.

    A card is a completion from its description on, since its title cannot be predicted. Its `<answer>`, where the item
    prompt asks for key attributes, holds one of them at random, so the state before it has to represent all of them.
    After an analysis, `<answer>` holds one of its conclusions: users and items are described in the same words.

    Args:
        world: with the catalogue to which the samples' item indexes refer.
        samples: training rows; only `history`, `history_hours` and `history_ratings` are read, never `target`.
        n: number of analyses; each round over the histories is in a new random order.
    """
    rng = np.random.default_rng(seed)
    documents = []
    for item, fact in zip(world.items.to_dict("records"), world.facts.to_dict("records"), strict=True):
        title, mark, description = prompts.item_text(item).partition("description:")
        attributes = [fact["piece"], fact["style"], fact["tier"], *filter(None, fact["kits"].split("; "))]
        for attribute in rng.choice(attributes, 2, replace=False):
            documents.append(Document(title + mark, description, str(attribute)))
    documents += [Document("", fact) for fact in general_facts(world)] * 20  # to be learned by heart
    documents += exercises(world, prompts, rng)
    titles = world.items["title"].to_list()
    columns = [samples[name].to_list() for name in ("history", "history_hours", "history_ratings")]
    for row in rounds(rng, len(samples), n):
        history, hours, ratings = (column[row] for column in columns)
        prompt = prompts.user_text([titles[item] for item in history], hours, ratings)
        reasoning = analysis(world, history, hours, rng)
        conclusions = [claim.value for claim in text.claims(reasoning) if claim.kind in CONCLUSIONS]
        documents.append(Document(prompt, reasoning, str(rng.choice(conclusions)) if conclusions else ""))
    return documents


def general_facts(world: World) -> list[str]:
    """Common knowledge in the Bazaar: kits and their order, accents, brands and their lines."""
    facts = []
    for name, pieces in zip(world.kits["name"], world.kits["pieces"], strict=True):
        facts.append(f"For the {name} people buy, in this order: {', '.join(f'the {piece}' for piece in pieces)}.")
    for name, accents in zip(world.kits["name"], world.kits["accents"], strict=True):
        for style, kind in zip(world.process.styles, accents, strict=True):
            claims = (Claim("kit", name), Claim("style", style), Claim("accent", kind))
            facts.append(" ".join(map(text.sentence, claims)))
    series = world.facts.groupby(["brand", "line"], sort=True)[["style", "tier"]].first()
    for (brand, line), row in series.iterrows():
        facts.append(f"{brand} {line}: the style is {row['style']}, prices are {row['tier']}.")
    for brand, rows in series.groupby(level="brand"):
        facts.append(f"{brand} is mostly {rows['style'].mode()[0]}, at {rows['tier'].mode()[0]} prices.")
    return facts


def exercises(world: World, prompts: Prompts, rng: np.random.Generator, rounds: int = 480) -> list[Document]:
    """For each kit, `rounds` invented shoppers who own two or more of its pieces in a given style: their accents, and
    the piece they need next.

    Exercises follow from the kits alone: titles are bare pieces, and no item or history of the log appears.
    """
    documents = []
    for kit, (name, pieces) in enumerate(zip(world.kits["name"], world.kits["pieces"], strict=True)):
        weights = 0.6 ** np.arange(len(pieces))  # early pieces are owned more often, as in histories
        for number in range(rounds):
            size = 2 + number % (len(pieces) - 2)
            owned = [pieces[i] for i in rng.choice(len(pieces), size, replace=False, p=weights / weights.sum())]
            hours = [24.0 * int(rng.integers(60))] * size
            style = world.process.styles[rng.integers(world.config.styles)]
            missing = next(piece for piece in pieces if piece not in owned)
            solution = [Claim("kit", name), Claim("accent", accent(world, kit, style))]
            solution.insert(int(rng.integers(1, 3)), Claim("next", missing))
            prompt = prompts.user_text(owned, hours, [float("nan")] * size)
            given = text.sentence(Claim("style", style))
            documents.append(Document(f"{prompt} {given}", " ".join(map(text.sentence, solution))))
    return documents


def analysis(world: World, history: Sequence[int], hours: Sequence[float], rng: np.random.Generator) -> str:
    """A mediocre analysis of a history (item indexes, oldest first, and hours before the target): two to five random
    facets, in a world of needs also a single one, in random order, premises before conclusions, some of them wrong."""
    facts = history_facts(world, history, hours)
    error, refill = world.config.analyst_errors, world.config.needs and not facts["kit"]  # no project to be seen
    kit = _guessed_kit(world, facts["owns"], error, rng)
    facts["kit"] = {world.process.kits[kit]} if not refill else set()
    missing = first_missing(world, kit, facts["owns"])
    facts["next"] = {missing} if missing and not refill else set()
    for kind in ("style", "tier"):
        if facts[kind] and rng.random() < error:  # judged by a single purchase
            item = history[int(rng.integers(len(history)))]
            facts[kind] = {str(world.facts[kind].iloc[item])}
        elif facts[kind]:
            facts[kind] = {_one_of(facts[kind], rng)}
    facts["accent"] = {accent(world, kit, style) for style in facts["style"] if not refill}
    fewest = 1 if world.config.needs else 2
    kinds = [kind for kind in text.FACETS if facts[kind]]
    chosen = [kinds[index] for index in rng.permutation(len(kinds))[: rng.integers(fewest, 6)]]
    stated = dict.fromkeys(step for kind in chosen for step in (*PREMISES.get(kind, ()), kind))
    return " ".join(text.sentence(Claim(kind, _one_of(facts[kind], rng))) for kind in stated)


def _one_of(values: set[str], rng: np.random.Generator) -> str:
    return sorted(values)[rng.integers(len(values))]


def _guessed_kit(world: World, owned: set[str], error: float, rng: np.random.Generator) -> int:
    """The index of the kit with the most owned pieces; in a tie, of the one in whose order these come earliest, since
    kits are bought in order. With probability `error`, of any kit that has an owned piece."""
    overlap = [len(owned.intersection(listing)) for listing in world.kits["pieces"]]
    some = [kit for kit, count in enumerate(overlap) if count]
    if rng.random() < error and some:
        return some[rng.integers(len(some))]
    most = max(overlap)
    best = [kit for kit, count in enumerate(overlap) if count == most]
    return min(best, key=lambda kit: sum(at for at, piece in enumerate(world.kits["pieces"][kit]) if piece in owned))
