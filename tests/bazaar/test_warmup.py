"""The warm-up corpus: no next item in it, well formed, consistent with the world, and mediocre."""

import dataclasses
import hashlib

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.language import Claim
from r2ec_lib.bazaar.truth import accent, first_missing, history_facts
from r2ec_lib.bazaar.warmup import CONCLUSIONS, PREMISES, analysis, exercises, general_facts, warmup_documents


def test_the_warm_up_corpus_cannot_hold_a_next_item(world, samples, prompts, documents):
    train = samples[samples["split"] == "train"]
    blind = train.drop(columns=["target", "sample_id", "user_id"])
    assert warmup_documents(world, blind, prompts, n=400, seed=1) == documents


def test_histories_of_the_warm_up_corpus_are_those_it_was_given(world, samples, prompts, documents):
    train = samples[samples["split"] == "train"]
    titles = world.items["title"]
    given = {tuple(titles[item] for item in history) for history in train["history"]}
    analyses = documents[-400:]
    for document in analyses:
        lines = document.prompt.splitlines()[1:-1]
        assert tuple(line.split(": ", 1)[1] for line in lines) in given


def test_the_analyst_is_fluent_diverse_and_mediocre(world, samples, documents):
    chains = [document.completion for document in documents[-400:]]
    assert all(text.well_formed(chain) for chain in chains)
    kinds = pd.Series([claim.kind for chain in chains for claim in text.claims(chain)]).value_counts(normalize=True)
    assert set(kinds.index) == set(text.FACETS) and kinds.max() < 0.25
    words = pd.Series([len(chain.split()) for chain in chains])
    assert words.min() >= 3 and words.max() <= 45 and len(set(chains)) > 250
    for chain in chains:
        stated = [claim.kind for claim in text.claims(chain)]
        for conclusion, premises in PREMISES.items():
            assert conclusion not in stated or set(premises) <= set(stated[: stated.index(conclusion)])
    rng = np.random.default_rng(0)
    verdicts = []
    for row in [row for row in samples.itertuples() for _ in range(2)][:1500]:
        facts = history_facts(world, row.history, row.history_hours)
        claims = text.claims(analysis(world, row.history, row.history_hours, rng))
        verdicts += [claim.value in facts[claim.kind] for claim in claims]
    assert 0.8 < np.mean(verdicts) < 0.99


def test_the_analyst_takes_the_kit_with_most_pieces_and_of_several_the_one_begun_in_its_order(world, samples):
    sure = dataclasses.replace(world, config=dataclasses.replace(world.config, analyst_errors=0.0))
    listings = dict(zip(world.kits["name"], world.kits["pieces"], strict=True))
    rng, ties = np.random.default_rng(0), 0
    for row in samples.head(300).itertuples():
        facts = history_facts(sure, row.history, row.history_hours)
        stated = dict(text.claims(analysis(sure, row.history, row.history_hours, rng)))
        if "kit" in stated and facts["kit"]:
            owned = {kit: facts["owns"] & set(listings[kit]) for kit in facts["kit"]}
            places = {kit: sum(map(listings[kit].index, pieces)) for kit, pieces in owned.items()}
            assert stated["kit"] in places and places[stated["kit"]] == min(places.values())
            ties += len(places) > 1
    assert ties > 3


def test_exercises_follow_from_the_kits_and_show_no_item(world, prompts):
    kits = world.kits.set_index("name")
    documents = exercises(world, prompts, np.random.default_rng(0), rounds=10)
    assert len(documents) == 10 * len(kits)
    for document in documents:
        owned = [line.split(": ", 1)[1] for line in document.prompt.splitlines()[1:-1]]
        (style,) = text.claims(document.prompt.rpartition("Thoughts:")[2])
        kit, *following = text.claims(document.completion)
        missing = [piece for piece in kits.loc[kit.value, "pieces"] if piece not in owned]
        accent = kits.loc[kit.value, "accents"][text.STYLES.index(style.value)]
        assert kit.kind == "kit" and set(owned) <= set(kits.loc[kit.value, "pieces"])
        assert sorted(following) == [Claim("accent", accent), Claim("next", missing[0])]


def test_an_item_card_is_learned_from_its_description_on_and_summed_up_in_one_attribute(world, prompts, documents):
    item, fact = world.items.iloc[0].to_dict(), world.facts.iloc[0]
    attributes = {fact["piece"], fact["style"], fact["tier"], *fact["kits"].split("; ")}
    for card in documents[:2]:
        assert item["title"] in card.prompt and item["title"] not in card.completion
        assert card.prompt + card.completion == prompts.item_text(item) and card.prompt.endswith("description:")
        assert card.answer in attributes
    assert documents[0].answer != documents[1].answer


def test_an_analysis_is_summed_up_in_any_one_of_its_own_conclusions(documents):
    places = []
    for document in documents[-400:]:
        conclusions = [claim.value for claim in text.claims(document.completion) if claim.kind in CONCLUSIONS]
        assert document.answer in conclusions if conclusions else document.answer == ""
        places += [conclusions.index(document.answer)] if conclusions else []
    assert len(places) > 200 and set(places) == {0, 1, 2}


def test_general_facts_and_exercises_show_nothing_inside_an_answer(world, documents):
    assert not any(document.answer for document in documents[2 * len(world.items) : -400])


def test_general_facts_are_about_the_world_and_agree_with_it(world):
    facts = general_facts(world)
    assert len(set(facts)) == len(facts) > 50
    series = world.facts.iloc[0]
    brand, line, style, tier = series[["brand", "line", "style", "tier"]]
    assert f"{brand} {line}: the style is {style}, prices are {tier}." in facts
    kit = world.kits.iloc[1]
    accent = kit["accents"][text.STYLES.index("nordic")]
    assert f"This is for the {kit['name']}. The style is nordic. Accents are {accent}." in facts
    assert not any(ident in fact for fact in facts for ident in world.items["item_id"])


def test_an_analyst_who_always_errs_names_any_kit_with_an_owned_piece_and_one_purchase_s_style(world, samples):
    wrong = dataclasses.replace(world, config=dataclasses.replace(world.config, analyst_errors=1.0))
    listings = dict(zip(world.kits["name"], world.kits["pieces"], strict=True))
    rng, missed = np.random.default_rng(0), {"kit": 0, "style": 0, "tier": 0}
    for row in samples.head(400).itertuples():
        facts = history_facts(wrong, row.history, row.history_hours)
        stated = dict(text.claims(analysis(wrong, row.history, row.history_hours, rng)))
        for kind in ("style", "tier"):
            assert kind not in stated or stated[kind] in set(world.facts[kind].iloc[list(row.history)])
        if "kit" in stated and facts["kit"]:
            assert facts["owns"] & set(listings[stated["kit"]])
        for kind in missed:
            missed[kind] += kind in stated and bool(facts[kind]) and stated[kind] not in facts[kind]
    assert min(missed.values()) > 10


def test_the_analyst_s_conclusions_follow_from_its_own_premises(world, samples):
    wrong = dataclasses.replace(world, config=dataclasses.replace(world.config, analyst_errors=0.5))
    names, rng, checked = world.kits["name"].to_list(), np.random.default_rng(1), 0
    for row in samples.head(300).itertuples():
        owned = history_facts(wrong, row.history, row.history_hours)["owns"]
        stated = dict(text.claims(analysis(wrong, row.history, row.history_hours, rng)))
        if "next" in stated:
            assert stated["next"] == first_missing(world, names.index(stated["kit"]), owned)
        if "accent" in stated:
            assert stated["accent"] == accent(world, names.index(stated["kit"]), stated["style"])
            checked += 1
    assert checked > 30


def test_an_analysis_has_two_to_five_facets_and_their_premises_in_any_order(world, samples):
    row, rng = next(row for row in samples.itertuples() if len(row.history) > 4), np.random.default_rng(0)
    chains = [text.claims(analysis(world, row.history, row.history_hours, rng)) for _ in range(400)]
    sizes = {len(chain) for chain in chains}
    assert min(sizes) == 2 and max(sizes) == 7  # five facets and two premises
    independent = [[claim.kind for claim in chain if claim.kind in ("owns", "pace")] for chain in chains]
    assert ["owns", "pace"] in independent and ["pace", "owns"] in independent


def test_exercises_own_two_to_five_pieces_rather_early_ones_and_put_the_conclusions_in_both_orders(world, prompts):
    documents = exercises(world, prompts, np.random.default_rng(0), rounds=40)
    kits, places, sizes, orders, ages = world.kits.set_index("name")["pieces"], [], [], set(), set()
    for document in documents:
        lines = document.prompt.splitlines()[1:-1]
        assert len({line.split(": ", 1)[0] for line in lines}) == 1  # bought at one moment, without ratings
        ages.add(lines[0].split(": ", 1)[0])
        kit, *conclusions = text.claims(document.completion)
        owned = [line.split(": ", 1)[1] for line in lines]
        places += [kits[kit.value].index(piece) for piece in owned]
        sizes.append(len(owned))
        orders.add(tuple(claim.kind for claim in conclusions))
    assert np.bincount(sizes).tolist() == [0, 0, *[len(documents) // 4] * 4]
    assert orders == {("next", "accent"), ("accent", "next")}
    counts = np.bincount(places)
    assert (np.diff(counts) < 0).all() and counts[0] > 1.5 * counts[-1]
    assert len(ages) > 40  # days, of sixty


def test_facts_are_repeated_often_exercises_once_and_each_history_before_any_again(world, samples, prompts):
    train = samples[samples["split"] == "train"].head(40)
    documents = warmup_documents(world, train, prompts, n=100, seed=2)
    cards, facts, rest = documents[:1400], documents[1400:-100], documents[-100:]
    general = general_facts(world)
    assert [fact.completion for fact in facts[: 20 * len(general)]] == general * 20
    assert len(facts) - 20 * len(general) == 480 * len(world.kits)
    assert all(card.completion and card.answer for card in cards)
    assert all(not fact.prompt for fact in facts[: 20 * len(general)])
    rounds = [[document.prompt for document in rest[start : start + 40]] for start in (0, 40, 80)]
    assert sorted(rounds[0]) == sorted(rounds[1]) and rounds[0] != rounds[1] and set(rounds[2]) < set(rounds[0])
    assert len(set(rounds[0])) > 35
    assert warmup_documents(world, train, prompts, n=100, seed=3) != documents


def test_general_facts_cover_kits_accents_lines_and_brands_each_once(world):
    config, series = world.config, world.facts.drop_duplicates(["brand", "line"])
    facts = general_facts(world)
    kinds = [len(world.kits), config.kits * config.styles, len(series), series["brand"].nunique()]
    assert len(facts) == sum(kinds)
    assert (
        facts[0]
        == "For the cafe people buy, in this order: "
        + ", ".join(f"the {piece}" for piece in world.kits["pieces"][0])
        + "."
    )
    by_brand = series[series["brand"] == series["brand"].iloc[0]]
    (style, tier) = (by_brand[name].mode()[0] for name in ("style", "tier"))
    assert f"{by_brand['brand'].iloc[0]} is mostly {style}, at {tier} prices." in facts


def test_published_figures_belong_to_this_very_corpus(documents):
    """A change of this digest changes what every tiny backbone knows, and with it every published figure."""
    digest = hashlib.sha256("\n".join(map("|".join, documents)).encode()).hexdigest()
    assert digest[:16] == "a95ed8385128b4a9"


def test_a_history_of_sundries_alone_is_analysed_too_also_by_an_analyst_who_errs(world):
    wrong = dataclasses.replace(world, config=dataclasses.replace(world.config, analyst_errors=1.0))
    sundry = int(world.facts.index[world.facts["sundry"]][0])
    assert text.well_formed(analysis(wrong, [sundry], [5.0], np.random.default_rng(0)))
