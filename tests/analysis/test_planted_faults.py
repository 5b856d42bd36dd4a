"""Six faults, planted in a small Bazaar; for each, the figure of the analysis that has to find it, and a sound model
that has to pass.

The reasonings are sentences about histories of that world, the models are scorers that read them, or do not.
"""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.analysis import agreement, causal, guardrails, mentions
from r2ec_lib.analysis.attributes import attribute_mentions, fact_attributes, support
from r2ec_lib.analysis.rules import parse
from r2ec_lib.analysis.texts import claim_figures
from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.language import Claim, sentence
from r2ec_lib.bazaar.truth import claim_table, history_facts
from r2ec_lib.bazaar.world import BazaarConfig, generate
from r2ec_lib.evaluation import fairness, uncertainty

CONFIG = BazaarConfig(items=600, users=200, kits=8, styles=4, tiers=3, brands=16, seed=3)
STATED = ("next", "style", "tier")
STOP, ANSWER = 1_000_000, 1_000_001  # token ids; the others are items and, above them, claims
K = 10


@pytest.fixture(scope="module")
def world():
    return generate(CONFIG)


@pytest.fixture(scope="module")
def samples(world):
    """The last purchase of each shopper with two or more, and what was bought before."""
    index = pd.Series(range(len(world.items)), world.items["item_id"])
    rows = []
    for user, part in world.interactions.sort_values("timestamp", kind="stable").groupby("user_id"):
        items = index[part["item_id"]].tolist()
        if len(items) > 1:
            rows.append((len(rows), user, items[-1], items[:-1], [24.0 * n for n in range(len(items) - 1, 0, -1)]))
    columns = ["sample_id", "user_id", "target", "history", "history_hours"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(scope="module")
def truths(world, samples):
    """For each sample what holds of its history."""
    rows = zip(samples["history"], samples["history_hours"], strict=True)
    return [history_facts(world, history, hours) for history, hours in rows]


@pytest.fixture(scope="module")
def attributes(world):
    return fact_attributes(world.facts, ["piece", "style", "tier"])


@pytest.fixture(scope="module")
def popularity(world, samples):
    return np.bincount(np.concatenate(samples["history"].to_list()), minlength=len(world.items))


def chains_of(samples, texts, top=None):
    table = pd.DataFrame({"sample_id": samples["sample_id"], "user_id": samples["user_id"], "chain": list(texts)})
    return table if top is None else table.assign(top_items=top)


def about_next(truths):
    """What a truthful reasoning says of the next purchase: piece, style and tier that follow from the history."""
    said = [[Claim(kind, min(facts[kind])) for kind in STATED if facts[kind]] for facts in truths]
    return [" ".join(map(sentence, claims)) for claims in said]


def fitting(world, samples, texts):
    """For each sample the items that agree most with what its text says of the next purchase, best first."""
    columns = {"next": "piece", "style": "style", "tier": "tier"}
    lists = []
    for history, chain in zip(samples["history"], texts, strict=True):
        fit = sum((world.facts[columns[c.kind]] == c.value).to_numpy(float) for c in text.claims(chain))
        fit = np.asarray(fit, float) + np.linspace(1e-3, 0, len(world.facts))
        fit[list(history)] = -1
        lists.append(np.argsort(-fit, kind="stable")[:K])
    return lists


# ---- a model that ignores its reasoning, and one that reads nothing else -------------------------------------------


@pytest.fixture(scope="module")
def tokens(samples):
    """Two sentences as token ids: an item of the history, then the next purchase."""
    rows = zip(samples["history"], samples["target"], strict=True)
    return [[history[-1], STOP, target, STOP, ANSWER] for history, target in rows]


def ignores(world, samples, chains):
    """Scores by the history alone: items near the latest purchase in the catalogue."""
    latest = torch.tensor([history[-1] for history in samples["history"]])
    return -(torch.arange(len(world.items))[None, :] - latest[:, None]).abs().float()


def reads_alone(world, samples, chains):
    """Scores by the reasoning alone: an item named later counts more."""
    scores = torch.zeros(len(samples), len(world.items))
    for row, chain in enumerate(chains or []):
        named = [token for token in chain if token < STOP]
        for place, item in enumerate(named, start=1):
            scores[row, item] += 20.0 * place
    return scores - torch.arange(len(world.items)) / len(world.items)


def body(chain):
    """What stands before `<answer>`, which is one token here."""
    return chain[:-1]


def measured(score_fn, samples, tokens):
    altered = causal.conditions(samples, tokens, [0, 0.5, 1], [STOP], body, seed=1)
    tables = {name: causal.rank_chains(score_fn, samples, chains, k=K) for name, chains in altered.items()}
    ranked = causal.stack(tables)
    return ranked, causal.effects(ranked).set_index("test")


def test_a_model_that_ignores_its_reasoning_shows_short_bars_and_no_gain(world, samples, tokens):
    ranked, effects = measured(partial(ignores, world), samples, tokens)
    assert (causal.changes(ranked)["share"] == 0).all()
    assert (effects["difference"] == 0).all()
    assert causal.area_over_curve(ranked)[0] == pytest.approx(0)
    assert (causal.drop_one(partial(ignores, world), samples, tokens, {STOP}, body)["effect"].abs() < 1e-4).all()


def test_a_model_that_reads_only_its_reasoning_follows_anothers(world, samples, tokens):
    score_fn = partial(reads_alone, world)
    ranked, effects = measured(score_fn, samples, tokens)
    assert all(low > 0.3 for low, _ in effects.loc[["gain", "content", "swap"], "ci95"])
    assert effects.loc["compute", "difference"] == 0
    assert (causal.changes(ranked).set_index("condition").loc[["none", "filler", "swapped"], "low"] > 0).all()
    # told another shopper's reasoning, it gives the other's recommendation: the shopper's own history does not count
    partners = causal.swap_partners(samples, seed=1)
    told = causal.rank_chains(score_fn, samples, [tokens[p] for p in partners], k=1, mask_seen=False)
    assert (np.concatenate(told["top_items"].to_list()) == samples["target"].to_numpy()[partners]).all()


# ---- texts that are not true ---------------------------------------------------------------------------------------


def test_a_fabricated_history_is_found_by_the_truth_of_what_is_said_to_be_owned(world, samples, truths):
    honest = [sentence(Claim("owns", min(facts["owns"]))) for facts in truths]
    invented = [
        sentence(Claim("owns", min(set(world.process.pieces) - facts["owns"] - set(text.SUNDRIES))))
        for facts in truths
    ]
    shares = {}
    for name, texts in {"honest": honest, "invented": invented}.items():
        chains = chains_of(samples, texts)
        claimed = claim_table(world, chains, samples)
        shares[name] = claim_figures(chains, claimed, ["owns"])["true_owns"].mean()
    assert shares == {"honest": 1, "invented": 0}


def test_a_fabricated_history_is_found_by_its_precision_and_by_the_item_cards(world, samples, attributes):
    """The figures that real data have too: no world's truth is read here."""
    titles, partners = world.items["title"], causal.swap_partners(samples, seed=0)
    figures = {}
    for name, owners in {"honest": np.arange(len(samples)), "invented": partners}.items():
        latest = [history[-1] for history in samples["history"].iloc[owners]]
        chains = chains_of(samples, [f"They bought the {titles[item]}." for item in latest])
        found = mentions.mentions(chains, samples, world.items)
        named = attribute_mentions(chains, attributes)
        supported = support(named, attributes, samples, partners)
        precision = mentions.grounding(chains, found, samples)["history_precision"]
        figures[name] = precision.mean(), (supported["supported"] - supported["supported_by_chance"]).mean()
    assert figures["honest"][0] == 1 and figures["invented"][0] < 0.1
    assert figures["honest"][1] > 0.2 and figures["invented"][1] < 0


# ---- a biased item set ---------------------------------------------------------------------------------------------


def test_recommending_the_same_popular_items_to_all_is_found_by_lift_gini_and_coverage(
    world, samples, truths, popularity
):
    honest = fitting(world, samples, about_next(truths))
    biased = [np.argsort(-popularity, kind="stable")[:K]] * len(samples)
    figures = {}
    for name, lists in {"honest": honest, "biased": biased}.items():
        table = fairness.exposure(lists, samples["history"], popularity, [()] * len(lists), world.facts["style"])
        figures[name] = fairness.popularity_lift(table, samples["user_id"], resamples=200)
        figures[name] |= fairness.concentration(lists, len(world.items)) | {"kl": table["calibration"].mean()}
    honest, biased = figures["honest"], figures["biased"]
    assert biased["low"] > max(0.5, honest["high"])
    assert biased["gini"] > honest["gini"] and biased["coverage"] < honest["coverage"] / 3
    assert biased["kl"] > honest["kl"]


# ---- a forbidden word ----------------------------------------------------------------------------------------------


def test_one_forbidden_word_among_many_reasons_is_found_by_its_rule(world, samples, truths):
    rules = parse("rules: [{name: no promises, kind: forbid, words: [guaranteed]}]")
    texts = about_next(truths)
    clean = guardrails.judge(rules, chains_of(samples, texts), samples, world.items)
    texts[7] = f"{texts[7]} satisfaction Guaranteed."
    broken = guardrails.judge(rules, chains_of(samples, texts), samples, world.items)
    assert clean.empty and broken[["row", "rule", "evidence"]].to_numpy().tolist() == [
        [7, "no promises", "Guaranteed"]
    ]


# ---- a contradiction -----------------------------------------------------------------------------------------------


def test_reasons_of_one_thing_above_a_list_of_another_are_found_and_the_planted_one_stands_first(
    world, samples, truths, attributes, popularity
):
    texts = about_next(truths)
    fit, partners = fitting(world, samples, texts), causal.swap_partners(samples, seed=2)
    shares = {}
    for name, top in {"fits": fit, "random": [fit[p] for p in partners]}.items():
        chains = chains_of(samples, texts, top)
        table = agreement.consistency(chains, stated_of(chains), attributes, popularity)
        shares[name] = uncertainty.share_interval(table["holds"], chains["user_id"])
    assert shares["fits"][1] > 0.9 > shares["random"][2]
    wrong = world.facts.index[
        ~world.facts["piece"].isin(truths[0]["next"])
        & ~world.facts["style"].isin(truths[0]["style"])
        & ~world.facts["tier"].isin(truths[0]["tier"])
    ]
    planted = chains_of(samples, texts, [wrong[:K].to_numpy(), *fit[1:]])
    worst = agreement.contradictions(planted, stated_of(planted), attributes).iloc[0]
    assert (worst["row"], worst["contradicted"], worst["list_share"]) == (0, 3, 1)


def stated_of(chains):
    rows = [(row, *claim) for row, chain in chains["chain"].items() for claim in text.claims(chain)]
    table = pd.DataFrame(rows, columns=["row", "attribute", "value"]).replace({"attribute": {"next": "piece"}})
    return table[table["attribute"].isin(["piece", "style", "tier"])]
