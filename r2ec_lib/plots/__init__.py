"""Figures: a table in, an `Axes` out; the notebook gives the title. What all of them share is in `style`."""
# ruff: noqa: F401  # the room's functions under one name

from r2ec_lib.plots.data import history_lengths, popularity_tail, split_timeline
from r2ec_lib.plots.evaluation import by_size, differences, over_seeds, quality_by_cost
from r2ec_lib.plots.reasoning import against_chance, dots, shares
from r2ec_lib.plots.speed import growth, phases
from r2ec_lib.plots.training import learning_curve, over_steps
