"""The Bazaar: a seeded world with the promised difficulties, an exact oracle, a language that can be checked."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.language import Claim
from r2ec_lib.bazaar.oracle import belief, oracle_scores
from r2ec_lib.bazaar.truth import corrected, history_facts, share_true, true_facts, true_reasoning
from r2ec_lib.bazaar.warmup import CONCLUSIONS, PREMISES, analysis, exercises, general_facts, warmup_documents
from r2ec_lib.bazaar.world import BazaarConfig, generate
from r2ec_lib.data.schema import DataError, validate_interactions, validate_items
from r2ec_lib.data.splits import make_samples, summary
from r2ec_lib.model.prompts import Prompts, PromptStyle
from r2ec_lib.model.tiny import train_tokenizer

SIZES = {"items": 700, "users": 900, "kits": 8, "styles": 4, "tiers": 2, "brands": 16, "lines": 3, "late_kits": 1}
SMALL = BazaarConfig(**SIZES, basket=(2, 5), returns=2.0, seed=3)


@pytest.fixture(scope="module")
def world():
    return generate(SMALL)


@pytest.fixture(scope="module")
def samples(world):
    return make_samples(world.items, world.interactions)[0]


@pytest.fixture(scope="module")
def prompts(world):
    return Prompts(train_tokenizer(world.items["title"], 400), PromptStyle(instruct=False))


@pytest.fixture(scope="module")
def documents(world, samples, prompts):
    return warmup_documents(world, samples[samples["split"] == "train"], prompts, n=400, seed=1)


# --- the world --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world):
    again, other = generate(SMALL), generate(dataclasses.replace(SMALL, seed=4))
    for name in ("items", "interactions", "facts", "truth", "kits"):
        pd.testing.assert_frame_equal(getattr(world, name), getattr(again, name))
    assert not world.interactions["item_id"].equals(other.interactions["item_id"])


def test_tables_pass_the_validation_that_real_logs_pass(world):
    assert len(validate_items(world.items, "items")) == SMALL.items
    assert len(validate_interactions(world.interactions, "interactions")) == len(world.truth)
    assert world.items["title"].is_unique


def test_titles_hide_style_tier_and_use_and_cards_show_them(world):
    names = {*text.STYLES, *text.TIERS, *text.KITS, *text.MATERIALS.values()}
    for row in world.items.join(world.facts).itertuples():
        assert names.isdisjoint(row.title.lower().replace(",", "").split())
        assert row.style in row.description and row.tier in row.description and row.piece in row.description
        assert all(kit in row.description for kit in row.kits.split("; "))


def test_brand_and_line_together_tell_style_and_tier_and_neither_does_alone(world):
    kinds = world.facts.groupby(["brand", "line"])[["style", "tier"]].nunique()
    assert (kinds == 1).all().all()
    assert world.facts.groupby("line")["style"].nunique().mean() > 1.5
    assert world.facts.groupby("brand")["style"].nunique().mean() > 1.1


def test_kits_share_pieces_in_different_orders():
    members = {}
    for kit, listing in text.KITS.items():
        pieces = listing.split()
        assert len(set(pieces)) == 6
        for place, piece in enumerate(pieces):
            members.setdefault(piece, []).append((kit, place))
    assert len(text.KITS) == 48 and len(members) == 64
    assert all(len(found) >= 2 for found in members.values())
    assert np.mean([len({place for _, place in found}) for found in members.values()]) > 2.5
    assert len(set(map(frozenset, map(str.split, text.KITS.values())))) == 48


def test_project_purchases_follow_the_order_of_the_kit(world):
    table = world.interactions.join(world.truth)
    piece = world.facts.set_index(world.items["item_id"])["piece"]
    kits = world.kits.set_index("name")["pieces"]
    checked = 0
    for _, rows in table.groupby("user_id", sort=False):
        owned = []
        for row in rows.itertuples():
            if row.origin == "project":
                assert piece[row.item_id] == next(p for p in kits[row.kit] if p not in owned)
                checked += 1
            owned.append(piece[row.item_id])
    assert checked > 500


def test_accents_come_from_the_palette_of_a_kit_and_need_its_style_as_well():
    world = generate(dataclasses.replace(SMALL, styles=8, brands=32, palette=3, items=1400))
    table = np.array(world.kits["accents"].to_list())  # (kits, styles)
    assert all(len(set(row)) == 3 for row in table)
    assert all(len(set(column)) > 1 for column in table.T)
    assert (world.process.accents == [[text.STYLES.index(name) for name in row] for row in table]).all()


def test_nothing_is_bought_before_its_launch_and_late_kits_come_late(world):
    day = (world.interactions["timestamp"] - pd.Timestamp(SMALL.first_day, tz="UTC")).dt.days
    launch = world.facts.set_index(world.items["item_id"])["launch"]
    assert (day.to_numpy() >= launch[world.interactions["item_id"]].to_numpy()).all()
    assert launch.max() > SMALL.days / 2
    late = world.kits.loc[world.kits["first_day"] > 0, "name"]
    assert len(late) == SMALL.late_kits
    bought_for_late = world.truth["kit"].isin(late)
    assert bought_for_late.any() and day[bought_for_late].min() >= SMALL.late_day


def test_shares_of_noise_and_of_the_fitting_style_are_as_configured(world):
    table = world.interactions.join(world.truth)
    bought = world.facts.set_index(world.items["item_id"]).loc[table["item_id"], "style"].to_numpy()
    accents = world.kits.set_index("name")["accents"]
    later = [accents[row.kit][text.STYLES.index(row.style)] for row in table.itertuples()]
    for origin, fitting in {"basket": table["style"].to_numpy(), "project": np.array(later)}.items():
        part = (table["origin"] == origin).to_numpy()
        spread = math.sqrt(SMALL.style_fidelity * (1 - SMALL.style_fidelity) / part.sum())
        assert part.sum() > 500 and abs((bought == fitting)[part].mean() - SMALL.style_fidelity) < 4 * spread
    first = ~table["user_id"].duplicated().to_numpy()
    noise = (table["origin"].to_numpy()[first] == "noise").mean()
    assert abs(noise - SMALL.noise) < 4 * math.sqrt(SMALL.noise * (1 - SMALL.noise) / first.sum())
    assert (table["origin"] == "repeat").any()


def test_the_data_are_long_tailed_and_the_test_window_has_cold_items(world, samples):
    counts = world.interactions["item_id"].value_counts()
    top = counts.iloc[: SMALL.items // 10].sum() / counts.sum()
    assert top > 0.25  # a tenth of the catalogue would have a tenth of the sales if popularity were even
    assert summary(world.items, world.interactions, samples)["cold_test"] > 0.01


@pytest.mark.parametrize(
    ("change", "word"), [({"kits": 49}, "kits"), ({"brands": 7}, "brands"), ({"items": 100}, "items")]
)
def test_an_impossible_size_is_refused_with_its_name(change, word):
    with pytest.raises(DataError, match=word):
        dataclasses.replace(SMALL, **change)


# --- the oracle -------------------------------------------------------------------------------------------------


def plain_oracle(world, sample):
    """P(next item | history) by enumeration, written from the process description with scalars alone."""
    config, facts, kits = world.config, world.facts, world.kits
    styles, tiers = text.STYLES[: config.styles], text.TIERS[: config.tiers]
    start = pd.Timestamp(config.first_day, tz="UTC")

    def day_of(hours):
        return int((sample["timestamp"] - start) / pd.Timedelta(days=1) - hours / 24 + 1e-4)

    def weight(item, day):
        launch = facts["launch"][item]
        new = launch > 0 and day - launch < config.novelty_days
        return facts["popularity"][item] * (day >= launch) * (config.novelty if new else 1)

    def zipf(count, exponent, place):
        return (place + 1) ** -exponent / sum((i + 1) ** -exponent for i in range(count))

    def same(shopper, bought, fidelity, count):
        return fidelity if shopper == bought else (1 - fidelity) / (count - 1)

    def probabilities(day, in_basket, owned_items):
        """For each (kit, style, tier): P(item) of one purchase, as a function."""
        weights = [weight(item, day) for item in range(len(facts))]
        cell_total, kind_total = {}, {True: 0.0, False: 0.0}
        for item, row in enumerate(facts.itertuples()):
            cell = row.piece, row.style, row.tier
            cell_total[cell] = cell_total.get(cell, 0.0) + weights[item]
            kind_total[row.sundry] += weights[item]
        owned = {facts["piece"][item] for item in owned_items}
        sundries = [item for item in owned_items if facts["sundry"][item]]

        def purchase(item, kit, style, tier):
            row = facts.iloc[item]
            share = config.sundry_share if row["sundry"] else 1 - config.sundry_share
            noise = share * weights[item] / kind_total[bool(row["sundry"])]
            if sundries and not in_basket:
                noise = (1 - config.repeat) * noise + config.repeat * sundries.count(item) / len(sundries)
            missing = [piece for piece in kits["pieces"][kit] if piece not in owned]
            if not missing:
                return noise
            powers = [config.basket_spread**j if in_basket else float(j == 0) for j in range(len(missing))]
            for_piece = powers[missing.index(row["piece"])] / sum(powers) if row["piece"] in missing else 0.0
            if not for_piece:
                return config.noise * noise
            wanted = style if in_basket else kits["accents"][kit][styles.index(style)]
            project = for_piece * same(wanted, row["style"], config.style_fidelity, config.styles)
            project *= same(tier, row["tier"], config.tier_fidelity, config.tiers)
            project *= weights[item] / cell_total[row["piece"], row["style"], row["tier"]]
            return config.noise * noise + (1 - config.noise) * project

        return purchase

    history, hours = list(sample["history"]), list(sample["history_hours"])
    first = day_of(hours[0])
    growth = [
        row.weight * math.exp(row.trend * (first / config.days - 0.5)) * (first >= row.first_day)
        for row in kits.itertuples()
    ]
    scores, total = np.zeros(len(facts)), 0.0
    steps = [probabilities(day_of(h), h == hours[0], history[:position]) for position, h in enumerate(hours)]
    following = probabilities(day_of(0), hours[0] == 0, history)
    for kit, (s, style), (t, tier) in itertools.product(range(len(kits)), enumerate(styles), enumerate(tiers)):
        chance = growth[kit] / sum(growth) * zipf(config.styles, 0.4, s) * zipf(config.tiers, 0.4, t)
        for step, item in zip(steps, history, strict=True):
            chance *= step(item, kit, style, tier)
        if chance > 0:
            scores += chance * np.array([following(item, kit, style, tier) for item in range(len(facts))])
        total += chance
    return np.log(scores / total + 1e-30)


def test_the_oracle_agrees_with_enumeration_by_hand():
    tiny = BazaarConfig(items=120, users=60, kits=2, styles=2, tiers=2, brands=4, lines=2, late_kits=0, noise=0.3)
    world = generate(dataclasses.replace(tiny, basket=(1, 3), returns=4.0))
    samples = make_samples(world.items, world.interactions, mask_seen=False)[0]
    chosen = samples.iloc[[3, 40, 90, len(samples) - 1]]
    scores = oracle_scores(world, chosen)
    for row in range(len(chosen)):
        np.testing.assert_allclose(scores[row], plain_oracle(world, chosen.iloc[row]), rtol=1e-3, atol=1e-3)


def test_the_oracle_gives_probabilities_that_come_true(world):
    samples = make_samples(world.items, world.interactions, mask_seen=False)[0]
    scores = oracle_scores(world, samples)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0, atol=1e-3)
    best = scores.argmax(axis=1)
    expected = np.exp(scores.max(axis=1)).astype(float)
    hits = (best == samples["target"].to_numpy()).astype(float)
    spread = math.sqrt((expected * (1 - expected)).sum())
    assert abs(hits.sum() - expected.sum()) < 4 * spread


def test_the_oracle_reads_neither_the_target_nor_the_hidden_truth(world, samples):
    some = samples.iloc[-40:]
    shuffled = some.assign(target=some["target"].to_numpy()[::-1])
    hidden = dataclasses.replace(world, truth=world.truth.sample(frac=1, random_state=0), interactions=None)
    np.testing.assert_array_equal(oracle_scores(world, some), oracle_scores(hidden, shuffled))


def test_the_oracle_follows_a_catalogue_in_another_order(world, samples):
    order = np.random.default_rng(0).permutation(len(world.items))
    moved = world.restricted_to(world.items.iloc[order].reset_index(drop=True))
    place = np.argsort(order)
    some = samples.iloc[-20:]
    history = pd.Series([place[np.asarray(row)] for row in some["history"]], index=some.index)
    there = oracle_scores(moved, some.assign(history=history))
    np.testing.assert_allclose(there[:, place], oracle_scores(world, some), atol=1e-4)


def test_more_history_makes_the_posterior_sharper(world, samples):
    known = belief(world, samples)
    sure = known.posterior.sum(axis=(2, 3)).max(axis=1)
    length = samples["history"].map(len).to_numpy()
    assert sure[length >= 4].mean() > sure[length <= 2].mean() + 0.05


# --- the language -----------------------------------------------------------------------------------------------


def test_every_sentence_reads_back_as_the_claim_it_was_written_from():
    for kind in text.FACETS:
        for value in text.VALUES[kind]:
            sentence = text.sentence(Claim(kind, value))
            assert text.claims(sentence) == [Claim(kind, value)] and text.well_formed(sentence)


@pytest.mark.parametrize("chain", ["", "rug rug.", "the style is deco", "the style is deco. the style is deco.", "."])
def test_broken_repeated_or_unfinished_chains_are_not_well_formed(chain):
    assert not text.well_formed(chain)


def test_a_claim_is_true_only_of_a_history_that_bears_it_out(world):
    facts = world.facts
    mug = facts.index[(facts["piece"] == "mug") & (facts["style"] == "rustic")][0]
    grinder = facts.index[(facts["piece"] == "grinder") & (facts["style"] == "rustic")][0]
    known = history_facts(world, [grinder, mug], [500.0, 30.0])
    said = "the style is rustic. the latest is the mug. next comes the kettle. the style is nordic."
    assert text.claims_true(text.claims(said), known) == [True, True, True, False]
    assert share_true([said], [known]) == 0.75
    assert "cafe" in known["kit"] and known["pace"] == {"days ago"}


def test_style_is_that_of_the_first_order_and_accents_follow_from_it_and_the_kit(world):
    facts, kit = world.facts, world.kits.iloc[0]
    of = lambda piece, style: facts.index[(facts["piece"] == piece) & (facts["style"] == style)][0]  # noqa: E731
    basket = [of(piece, "rustic") for piece in kit["pieces"][:2]]
    later = [of(piece, "retro") for piece in kit["pieces"][2:5]]
    known = history_facts(world, basket + later, [900.0, 900.0, 300.0, 200.0, 100.0])
    assert known["kit"] == {kit["name"]} and known["style"] == {"rustic"} and known["next"] == {kit["pieces"][5]}
    assert known["accent"] == {kit["accents"][text.STYLES.index("rustic")]}
    assert history_facts(world, basket + later, [900.0] * 5)["style"] == {"retro"}


# --- the warm-up corpus and the upper line ----------------------------------------------------------------------


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
        said = [claim.kind for claim in text.claims(chain)]
        for last, first in PREMISES.items():
            assert last not in said or set(first) <= set(said[: said.index(last)])
    rng = np.random.default_rng(0)
    rows = [row for row in samples.itertuples() for _ in range(2)][:1500]
    facts = [history_facts(world, row.history, row.history_hours) for row in rows]
    said = [analysis(world, row.history, row.history_hours, rng) for row in rows]
    assert 0.8 < share_true(said, facts) < 0.99


def test_the_analyst_takes_the_kit_with_most_pieces_and_of_several_the_one_begun_in_its_order(world, samples):
    sure = dataclasses.replace(world, config=dataclasses.replace(SMALL, analyst_errors=0.0))
    kits, rng, ties = dict(zip(world.kits["name"], world.kits["pieces"], strict=True)), np.random.default_rng(0), 0
    for row in samples.head(300).itertuples():
        known = history_facts(sure, row.history, row.history_hours)
        said = [claim.value for claim in text.claims(analysis(sure, row.history, row.history_hours, rng))]
        found = [value for value in said if value in kits]
        if found and known["kit"]:
            places = {
                kit: sum(kits[kit].index(piece) for piece in known["owns"] & set(kits[kit])) for kit in known["kit"]
            }
            assert found[0] in known["kit"] and places[found[0]] == min(places.values())
            ties += len(places) > 1
    assert ties > 3


def test_exercises_follow_from_the_kits_and_show_no_item(world, prompts):
    kits = world.kits.set_index("name")
    found = exercises(world, prompts, np.random.default_rng(0), rounds=10)
    assert len(found) == 10 * len(kits)
    for document in found:
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
        assert card.prompt + card.completion == prompts.item_text(item)
        assert card.answer in attributes
    assert documents[0].answer != documents[1].answer


def test_an_analysis_is_summed_up_in_one_of_its_own_conclusions(documents):
    answered = 0
    for document in documents[-400:]:
        concluded = {claim.value for claim in text.claims(document.completion) if claim.kind in CONCLUSIONS}
        assert document.answer in concluded if concluded else document.answer == ""
        answered += bool(concluded)
    assert answered > 200


def test_general_facts_and_exercises_show_nothing_inside_an_answer(world, documents):
    assert not any(document.answer for document in documents[2 * len(world.items) : -400])


def test_general_facts_are_about_the_world_and_agree_with_it(world):
    facts = general_facts(world)
    assert len(set(facts)) == len(facts) > 50
    series = world.facts.iloc[0]
    assert text.line_fact(series["brand"], series["line"], series["style"], series["tier"]) in facts
    kit = world.kits.iloc[1]
    assert text.accent_fact(kit["name"], "nordic", kit["accents"][text.STYLES.index("nordic")]) in facts
    assert not any(ident in fact for fact in facts for ident in world.items["item_id"])


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
    for mended, known, full in zip(corrected([wrong] * 20, facts), facts, upper, strict=True):
        first, kept, last = text.claims(mended)
        assert (first, kept, last) == (("next", known["next"]), ("owns", "pen"), ("tier", known["tier"]))
        assert {first, last} <= set(text.claims(full))
    assert corrected(upper, facts) == upper
