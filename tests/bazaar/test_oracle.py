"""The oracle: exact, blind to target and truth, right about the day."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.oracle import belief, oracle_scores
from r2ec_lib.bazaar.world import BazaarConfig, generate
from r2ec_lib.data.schema import DataError
from r2ec_lib.data.splits import make_samples


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

    def probabilities(day, in_basket, owned_items, need):
        """For each (kit, style, tier): P(item) of one purchase, as a function."""
        weights = [weight(item, day) for item in range(len(facts))]
        cell_total, kind_total = {}, {True: 0.0, False: 0.0}
        for item, row in enumerate(facts.itertuples()):
            cell = row.piece, row.style, row.tier
            cell_total[cell] = cell_total.get(cell, 0.0) + weights[item]
            kind_total[row.sundry] += weights[item]

        sums = {}

        def within(*columns_and_row):
            *columns, row = columns_and_row
            if (alike := tuple(row[columns].items())) not in sums:
                sums[alike] = sum(weights[item] for item in facts.index[(facts[columns] == row[columns]).all(axis=1)])
            return sums[alike]

        owned = {facts["piece"][item] for item in owned_items}
        sundries = [item for item in owned_items if facts["sundry"][item]]

        def purchase(item, kit, style, tier):
            row = facts.iloc[item]
            share = config.sundry_share if row["sundry"] else 1 - config.sundry_share
            noise = share * weights[item] / kind_total[bool(row["sundry"])]
            if sundries and not in_basket:
                noise = (1 - config.repeat) * noise + config.repeat * sundries.count(item) / len(sundries)
            if need == 1 and not owned_items:
                return weights[item] / kind_total[True] if row["sundry"] else 0.0
            if need == 1:
                alike = row["piece"] == facts["piece"][owned_items[-1]]
                return config.noise * noise + (1 - config.noise) * alike * weights[item] / within("piece", row)
            missing = [piece for piece in kits["pieces"][kit] if piece not in owned]
            if not missing:
                return noise
            powers = [config.basket_spread**j if in_basket else float(j == 0) for j in range(len(missing))]
            for_piece = powers[missing.index(row["piece"])] / sum(powers) if row["piece"] in missing else 0.0
            if not for_piece:
                return config.noise * noise
            if need < 4 and not in_basket:
                tiers_fit = same(tier, row["tier"], config.tier_fidelity, config.tiers) if need == 3 else 1.0
                group = ("piece", "tier") if need == 3 else ("piece",)
                return config.noise * noise + (1 - config.noise) * for_piece * tiers_fit * weights[item] / within(
                    *group, row
                )
            wanted = style if in_basket or need == 4 else kits["accents"][kit][styles.index(style)]
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
    need = hours.count(hours[0]) if config.needs else 5
    steps = [probabilities(day_of(h), h == hours[0], history[:position], need) for position, h in enumerate(hours)]
    following = probabilities(day_of(0), hours[0] == 0, history, need)
    for kit, (s, style), (t, tier) in itertools.product(range(len(kits)), enumerate(styles), enumerate(tiers)):
        chance = growth[kit] / sum(growth) * zipf(config.styles, 0.4, s) * zipf(config.tiers, 0.4, t)
        for step, item in zip(steps, history, strict=True):
            chance *= step(item, kit, style, tier)
        if chance > 0:
            scores += chance * np.array([following(item, kit, style, tier) for item in range(len(facts))])
        total += chance
    return np.log(scores / total + 1e-30)


@pytest.fixture(scope="module")
def tiny_world():
    sizes = {"items": 120, "users": 60, "kits": 2, "styles": 2, "tiers": 2, "brands": 4, "lines": 2, "late_kits": 0}
    return generate(BazaarConfig(**sizes, noise=0.3, basket=(1, 3), returns=4.0))


@pytest.fixture(scope="module")
def tiny_samples(tiny_world):
    return make_samples(tiny_world.items, tiny_world.interactions, mask_seen=False, skip_ties=False)[0]


def kinds_of_samples(world, samples):
    """For each kind of question that the process treats in its own way, which samples are of that kind."""
    facts, process, last = world.facts, world.process, world.config.days - 1
    launches = set(facts["launch"]) - {0}
    start = pd.Timestamp(world.config.first_day, tz="UTC")
    now = (samples["timestamp"] - start) / pd.Timedelta(days=1)
    today = now.astype(int)
    days = [
        np.clip(when - np.asarray(hours) / 24 + 1e-4, 0, last).astype(int)
        for when, hours in zip(now, samples["history_hours"], strict=True)
    ]
    rows = list(zip(samples["history"], days, strict=True))

    def sells_otherwise(shift):
        """A purchase of the history is much less or more probable on a day before or after its own."""
        shifted = [np.clip(day + shift, 0, last) for day in days]
        pairs = zip(samples["history"], days, shifted, strict=True)
        chances = [(process.in_cell[day, items], process.in_cell[other, items]) for items, day, other in pairs]
        return np.array([(abs(chance - other) > 0.1 * chance).any() for chance, other in chances])

    in_basket = np.array([hours[0] == 0 for hours in samples["history_hours"]])
    sundries = np.array([process.sundry[items].sum() for items, _ in rows])
    counts = [pd.Series(items)[process.sundry[items]].value_counts() for items, _ in rows]
    twice = np.array([len(count) > 1 and count.max() > 1 for count in counts])
    pieces = [{facts["piece"][item] for item in items} for items, _ in rows]
    before = [{facts["piece"][item] for item in items[:-1]} for items, _ in rows]
    complete, gone_on = (
        np.array([any(set(kit) <= owned for kit in world.kits["pieces"]) for owned in each])
        for each in (pieces, before)
    )
    return {
        "next in the basket": in_basket,
        "next after the basket": ~in_basket,
        "sundry in the basket": in_basket & (sundries > 0),
        "sundry to repeat": ~in_basket & (sundries > 0),
        "sundry bought twice beside another": ~in_basket & twice,
        "complete kit": complete,
        "purchase after a complete kit": gone_on,
        "launch on the target's day": today.isin(launches).to_numpy(),
        "launch on the day after": (today + 1).isin(launches).to_numpy(),
        "history sells otherwise on the day after": sells_otherwise(1),
        "history sells otherwise on the day before": sells_otherwise(-1),
    }


def test_the_oracle_agrees_with_enumeration_by_hand_on_every_kind_of_question(tiny_world, tiny_samples):
    kinds = kinds_of_samples(tiny_world, tiny_samples)
    rows = sorted({int(np.flatnonzero(marks)[place]) for marks in kinds.values() for place in (0, -1)})
    assert all(marks[rows].any() for marks in kinds.values())
    scores = oracle_scores(tiny_world, tiny_samples.iloc[rows])
    for row, given in zip(rows, scores, strict=True):
        np.testing.assert_allclose(given, plain_oracle(tiny_world, tiny_samples.iloc[row]), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def needing():
    """A world of needs and its questions."""
    sizes = {"items": 120, "users": 150, "kits": 2, "styles": 2, "tiers": 2, "brands": 4, "lines": 2, "late_kits": 0}
    world = generate(BazaarConfig(**sizes, noise=0.2, returns=3.0, needs=True))
    return world, make_samples(world.items, world.interactions, mask_seen=False)[0]


def test_the_oracle_of_needs_agrees_with_enumeration_for_every_need_and_state(needing):
    world, samples = needing
    need = np.array([list(hours).count(hours[0]) for hours in samples["history_hours"]])
    later = samples["history"].map(len).to_numpy() > need
    rows = [int(np.flatnonzero((need == n) & (later == more))[0]) for n in range(1, 6) for more in (False, True)]
    scores = oracle_scores(world, samples.iloc[rows])
    for row, given in zip(rows, scores, strict=True):
        np.testing.assert_allclose(given, plain_oracle(world, samples.iloc[row]), rtol=1e-3, atol=1e-3)
    everything = oracle_scores(world, samples)
    np.testing.assert_allclose(np.exp(everything).sum(axis=1), 1.0, atol=1e-3)


def test_a_question_inside_the_first_order_has_no_need_yet(needing):
    world, _ = needing
    inside = make_samples(world.items, world.interactions, mask_seen=False, skip_ties=False)[0]
    with pytest.raises(DataError, match="set skip_ties to true"):
        oracle_scores(world, inside)


def test_a_purchase_at_midnight_belongs_to_the_day_that_begins(tiny_world):
    """`history_hours` is float32, so that the moment of a purchase comes out a little early or late."""
    facts, process = tiny_world.facts, tiny_world.process
    item = int(facts.index[(facts["launch"] > 0) & ~facts["sundry"]][0])
    midnight = pd.Timestamp(tiny_world.config.first_day, tz="UTC") + pd.Timedelta(days=int(facts["launch"][item]))
    later = [midnight + pd.Timedelta(minutes=minutes) for minutes in range(61, 20_000, 977)]
    hours = [[np.float32((moment - midnight) / pd.Timedelta(hours=1))] for moment in later]
    samples = pd.DataFrame({"timestamp": later, "history": [[item]] * len(later), "history_hours": hours})
    style = belief(tiny_world, samples).posterior.sum(axis=(1, 3))[:, process.style[item]]
    assert (style > process.style_prior[process.style[item]] + 0.1).all()  # it was on sale, so it tells the style


def test_scores_do_not_depend_on_the_chunk_or_on_longer_histories_beside_them(tiny_world, tiny_samples):
    some = tiny_samples.iloc[:40]
    scores = oracle_scores(tiny_world, some)
    assert scores.shape == (40, 120) and scores.dtype == np.float32
    np.testing.assert_allclose(oracle_scores(tiny_world, some, chunk=7), scores, atol=1e-5)
    np.testing.assert_allclose(oracle_scores(tiny_world, some.iloc[:1]), scores[:1], atol=1e-5)


def test_beliefs_are_probabilities_and_the_accent_s_follow_from_kit_and_style(world, samples):
    beliefs, process = belief(world, samples.iloc[:60]), world.process
    np.testing.assert_allclose(beliefs.posterior.sum(axis=(1, 2, 3)), 1.0)
    accents, pieces = beliefs.accent(process), beliefs.next_piece()
    for row, posterior in enumerate(beliefs.posterior):
        by_style, by_piece = np.zeros(len(process.styles)), np.zeros(len(process.pieces))
        for (kit, style, _), chance in np.ndenumerate(posterior):
            by_style[process.accents[kit, style]] += chance
            by_piece += chance * beliefs.next_given_kit[row, :, kit]
        np.testing.assert_allclose(accents[row], by_style)
        np.testing.assert_allclose(pieces[row], by_piece)


def test_the_next_piece_is_the_first_missing_one_after_the_basket_and_any_missing_one_in_it(world):
    samples = make_samples(world.items, world.interactions, mask_seen=False, skip_ties=False)[0].head(200)
    next_given_kit, process = belief(world, samples).next_given_kit, world.process
    for row, sample in enumerate(samples.itertuples()):
        owned = {process.pieces[process.piece[item]] for item in sample.history}
        for kit, listing in enumerate(world.kits["pieces"]):
            missing = [piece for piece in listing if piece not in owned]
            candidates = missing if sample.history_hours[0] == 0 else missing[:1]
            powers = world.config.basket_spread ** np.arange(len(candidates))
            expected = dict(zip(candidates, powers / sum(powers), strict=True))
            given = dict(zip(process.pieces, next_given_kit[row, :, kit], strict=True))
            assert {piece: chance for piece, chance in given.items() if chance} == pytest.approx(expected)


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
    sure = belief(world, samples).posterior.sum(axis=(2, 3)).max(axis=1)
    length = samples["history"].map(len).to_numpy()
    assert sure[length >= 4].mean() > sure[length <= 2].mean() + 0.05


def test_a_history_that_is_all_but_impossible_takes_nothing_from_those_beside_it(tiny_world, tiny_samples):
    """Its probability is far below the smallest number; each history has a scale of its own."""
    long = tiny_samples.iloc[[0]].copy()
    long["history"], long["history_hours"] = [[0] * 400], [np.arange(400, 0, -1, dtype=np.float32)]
    together = belief(tiny_world, pd.concat([long, tiny_samples.iloc[:1]])).posterior
    np.testing.assert_allclose(together.sum(axis=(1, 2, 3)), 1.0)
    np.testing.assert_allclose(together[1:], belief(tiny_world, tiny_samples.iloc[:1]).posterior)
