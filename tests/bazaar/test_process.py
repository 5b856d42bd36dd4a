"""The probabilities of a Bazaar, day by day."""

import numpy as np


def test_a_new_item_sells_better_for_as_long_as_it_is_new(world):
    process, facts, config = world.process, world.facts, world.config
    item = int(facts.index[facts["launch"].between(1, config.days - config.novelty_days - 1)][0])
    mates = process.cells[process.piece[item], process.style[item], process.tier[item]]
    mate = next(int(other) for other in mates if facts["launch"][other] == 0)
    launch, ratio = facts["launch"][item], facts["popularity"][item] / facts["popularity"][mate]
    days = launch + np.array([-1, 0, config.novelty_days - 1, config.novelty_days])
    sold = process.in_cell[days, item] / process.in_cell[days, mate]
    np.testing.assert_allclose(sold, [0, config.novelty * ratio, config.novelty * ratio, ratio], rtol=1e-5)


def test_each_day_s_probabilities_sum_to_one_and_sundries_have_their_share_of_noise(world):
    process, config = world.process, world.config
    cells = [members for members in process.cells.values() if not process.sundry[members].any()]
    for members in cells:
        np.testing.assert_allclose(process.in_cell[:, members].sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(process.fresh.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(process.fresh[:, process.sundry].sum(axis=1), config.sundry_share, rtol=1e-5)
    np.testing.assert_allclose(process.kit_prior.sum(axis=1), 1.0)
    late = world.kits["first_day"].to_numpy() > 0
    assert (process.kit_prior[: config.late_day, late] == 0).all() and (process.kit_prior[config.late_day :] > 0).all()
    np.testing.assert_allclose(process.style_given.sum(axis=1), 1.0)
    np.testing.assert_allclose(np.diag(process.tier_given), config.tier_fidelity)


def test_kits_drift_by_their_trends(world):
    prior, trend = world.process.kit_prior, world.kits["trend"].to_numpy()
    one, other = np.flatnonzero(world.kits["first_day"] == 0)[:2]
    growth = np.log(prior[-1, [one, other]] / prior[0, [one, other]])
    elapsed = (world.config.days - 1) / world.config.days
    np.testing.assert_allclose(growth[0] - growth[1], (trend[one] - trend[other]) * elapsed)
