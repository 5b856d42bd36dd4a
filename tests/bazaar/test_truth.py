"""What is true of a history, and what a perfect analyst would write."""

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar import truth as module
from r2ec_lib.bazaar.oracle import Belief, belief, oracle_scores
from r2ec_lib.bazaar.truth import (
    accent,
    claim_table,
    corrected,
    first_missing,
    history_facts,
    true_facts,
    true_reasoning,
)


def item_of(world, piece, style, tier=None):
    """The first item of a kind."""
    facts = world.facts
    fits = (facts["piece"] == piece) & (facts["style"] == style) & ((facts["tier"] == tier) | (tier is None))
    return int(facts.index[fits][0])


def test_a_claim_is_true_only_of_a_history_that_bears_it_out(world):
    mug, grinder = item_of(world, "mug", "rustic"), item_of(world, "grinder", "rustic")
    facts = history_facts(world, [grinder, mug], [500.0, 30.0])
    chain = "the style is rustic. the latest is the mug. next comes the kettle. the style is nordic."
    samples = pd.DataFrame({"sample_id": [7], "history": [[grinder, mug]], "history_hours": [[500.0, 30.0]]})
    chains = pd.DataFrame({"sample_id": [7, 7], "chain": [chain, "Hm."]}, index=[3, 5])
    claimed = claim_table(world, chains, samples)
    assert claimed["true"].tolist() == [True, True, True, False] and claimed["row"].tolist() == [3] * 4
    assert claimed[["kind", "value"]].to_numpy().tolist() == [list(claim) for claim in text.claims(chain)]
    assert facts["kit"] == {"cafe"} and facts["pace"] == {"days ago"}
    assert facts["owns"] == {"mug", "grinder"} and facts["latest"] == {"mug"} and facts["side"] == set()
    assert facts["brand"] == set(world.facts["brand"][[mug, grinder]])


def test_style_is_that_of_the_first_order_and_accents_follow_from_it_and_the_kit(world):
    kit = world.kits.iloc[0]
    basket = [item_of(world, piece, "rustic") for piece in kit["pieces"][:2]]
    later = [item_of(world, piece, "retro") for piece in kit["pieces"][2:5]]
    facts = history_facts(world, basket + later, [900.0, 900.0, 300.0, 200.0, 100.0])
    assert facts["kit"] == {kit["name"]} and facts["style"] == {"rustic"} and facts["next"] == {kit["pieces"][5]}
    assert facts["accent"] == {kit["accents"][text.STYLES.index("rustic")]}
    assert history_facts(world, basket + later, [900.0] * 5)["style"] == {"retro"}


def test_the_upper_line_names_what_the_history_makes_most_probable(world, samples):
    some = samples.iloc[-60:]
    scores = oracle_scores(world, some)
    agreed = []
    for chain, row in zip(true_reasoning(world, some), scores, strict=True):
        assert text.well_formed(chain)
        said = {claim.kind: claim.value for claim in text.claims(chain)}
        best = world.facts.iloc[int(row.argmax())]
        agreed.append(best["piece"] == said["next"] and best["style"] == said["accent"])
    assert np.mean(agreed) > 0.6


def test_a_corrected_reasoning_keeps_its_order_and_says_what_the_upper_line_says(world, samples):
    some = samples.iloc[-20:]
    facts, upper = true_facts(world, some), true_reasoning(world, some)
    wrong = "Next comes the mug. They have the pen. Prices are luxury."
    for mended, truth, full in zip(corrected([wrong] * 20, facts), facts, upper, strict=True):
        first, kept, last = text.claims(mended)
        assert (first, kept, last) == (("next", truth["next"]), ("owns", "pen"), ("tier", truth["tier"]))
        assert {first, last} <= set(text.claims(full))
    assert corrected(upper, facts) == upper


@pytest.mark.parametrize(
    ("days", "pace"), [(0, "days ago"), (6.99, "days ago"), (7, "weeks ago"), (29.99, "weeks ago"), (30, "long ago")]
)
def test_the_pace_is_counted_from_the_last_purchase(world, days, pace):
    facts = history_facts(world, [0, 1], [2000.0, days * 24])
    assert facts["pace"] == {pace}


def test_the_most_frequent_tier_counts_all_orders_ties_stay_and_sundries_do_not_count(world):
    kit, sundry = world.kits["pieces"][0], int(world.facts.index[world.facts["sundry"]][0])
    tier = world.facts["tier"][sundry]
    other = next(name for name in world.process.tiers if name != tier)
    kinds = [(kit[0], "rustic", other), (kit[1], "retro", other), (kit[2], "retro", tier)]
    history = [item_of(world, *kind) for kind in kinds]
    facts = history_facts(world, [sundry, sundry, *history], [90.0, 90.0, 90.0, 90.0, 20.0])
    assert facts["tier"] == {other} and facts["style"] == {"rustic", "retro"}
    assert facts["side"] == {world.facts["piece"][sundry]}
    assert len(facts["accent"]) <= 2 * len(facts["kit"])
    assert history_facts(world, history[1:], [90.0, 90.0])["tier"] == {tier, other}


def test_a_history_of_sundries_alone_has_no_kit_style_or_tier(world):
    sundry = int(world.facts.index[world.facts["sundry"]][0])
    facts = history_facts(world, [sundry], [5.0])
    assert [kind for kind, values in facts.items() if not values] == ["next", "kit", "style", "accent", "tier"]


def test_kits_in_a_tie_each_have_their_missing_piece_and_accent(world):
    listings = world.kits["pieces"]
    piece = next(p for p in listings[0] if sum(p in listing for listing in listings) > 1)
    tied = [kit for kit, listing in enumerate(listings) if piece in listing]
    facts = history_facts(world, [item_of(world, piece, "nordic")], [5.0])
    assert facts["kit"] == {world.kits["name"][kit] for kit in tied}
    assert facts["next"] == {next(p for p in listings[kit] if p != piece) for kit in tied}
    assert facts["accent"] == {accent(world, kit, "nordic") for kit in tied}


def test_a_complete_kit_lacks_nothing(world):
    pieces = world.kits["pieces"][0]
    assert first_missing(world, 0, set(pieces)) is None
    assert first_missing(world, 0, {pieces[0], pieces[2]}) == pieces[1]
    facts = history_facts(world, [item_of(world, piece, "rustic") for piece in pieces], [9.0] * 6)
    assert facts["next"] == set() and facts["kit"] == {world.kits["name"][0]}


def test_true_facts_are_the_maxima_of_the_posterior_in_chunks_of_any_size(world, samples):
    some = samples.iloc[:250]
    posterior, process = belief(world, some).posterior, world.process
    facts = true_facts(world, some)
    for row, truth in enumerate(facts):
        chances = {"kit": {}, "style": {}, "accent": {}, "tier": {}}
        for (kit, style, tier), chance in np.ndenumerate(posterior[row]):
            name = process.styles[style]
            names = {"kit": process.kits[kit], "style": name, "tier": process.tiers[tier]}
            for facet, value in {**names, "accent": accent(world, kit, name)}.items():
                chances[facet][value] = chances[facet].get(value, 0.0) + chance
        assert all(truth[facet] == max(values, key=values.get) for facet, values in chances.items())
    assert list(facts[0]) == ["kit", "style", "accent", "tier", "next"]
    assert true_facts(world, some, chunk=7) == facts


def test_a_corrected_reasoning_drops_what_is_no_sentence_and_repeats_what_was_repeated():
    chains = ["Hm. Prices are luxury. Prices are budget. They have the pen.", ""]
    facts = [{"tier": "everyday", "kit": "spa"}, {"tier": "luxury"}]
    assert corrected(chains, facts) == ["Prices are everyday. Prices are everyday. They have the pen.", ""]


def test_each_fact_is_the_most_probable_of_its_own_kind_whatever_the_others_are(world, samples, monkeypatch):
    """Here the most probable kit, style and tier together are the first of each, and none of them by itself."""
    posterior = np.zeros((1, 8, 4, 2))
    posterior[0, [0, 1, 2, 1], [0, 1, 1, 3], [0, 1, 1, 1]] = [0.34, 0.22, 0.22, 0.22]
    next_given_kit = np.zeros((1, len(world.process.pieces), 8))
    next_given_kit[0, [5, 6, 6], [0, 1, 2]] = 1.0
    monkeypatch.setattr(module, "belief", lambda *_: Belief(posterior, next_given_kit))
    [facts] = true_facts(world, samples.head(1))
    process, style = world.process, world.process.styles[1]
    assert (facts["kit"], facts["style"], facts["tier"]) == (process.kits[1], style, process.tiers[1])
    assert facts["next"] == process.pieces[6]


def test_a_reasoning_has_the_need_of_its_question_and_facets_are_counted_once():
    chains = ["Prices are luxury. Prices are budget. They have the pen.", "Hm.", "Next comes the pen."]
    reasonings = pd.DataFrame({"sample_id": [7, 8, 9], "chain": chains})
    known = pd.DataFrame({"sample_id": [8, 7], "need": [1, 5], "style": ["deco", "deco"]})
    found = module.with_needs(reasonings, known)
    assert found.to_dict("list") == {"sample_id": [7, 8], "chain": chains[:2], "facets": [2, 0], "need": [5, 1]}
