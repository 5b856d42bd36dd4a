"""Figures of the evaluation draw what the table holds and refuse an empty one."""

from itertools import pairwise

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from r2ec_lib import plots as drawn


@pytest.fixture
def ax():
    fig, axes = plt.subplots()
    yield axes
    plt.close(fig)


COMPARISONS = pd.DataFrame(
    {
        "a": "r2ec",
        "b": ["x", "y"],
        "metric": "ndcg@20",
        "difference": [0.1, -0.01],
        "ci95": [[0.05, 0.15], [-0.03, 0.01]],
        "smallest_detectable": [0.04, 0.02],
        "p_holm": [0.01, 0.6],
    }
)


def test_a_dot_is_filled_where_the_corrected_p_is_small(ax):
    drawn.against(COMPARISONS, ax, "ndcg@20", {"x": "Model X"})
    dots = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Model X", "y"]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([2 * 0.04, 2 * 0.02])


def test_slices_stand_in_their_order_with_their_counts(ax):
    table = pd.DataFrame(
        {
            "slice": ["short", "long"] * 2,
            "model": ["a", "a", "b", "b"],
            "mean": [0.1, 0.2, 0.3, 0.4],
            "low": [0.0, 0.1, 0.2, 0.3],
            "high": [0.2, 0.3, 0.4, 0.5],
            "samples": [1500, 7, 1500, 7],
        }
    )
    drawn.sliced(table, ax, {}, "NDCG@20")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["short\n(1,500)", "long\n(7)"]
    assert len(ax.containers) == 2


def test_training_sizes_are_a_line_a_model(ax):
    table = pd.DataFrame(
        {"model": ["a", "a", "b"], "train_samples": [200, 100, 100], "mean": [0.2, 0.1, 0.3], "low": 0.0, "high": 0.5}
    )
    drawn.by_training_size(table, ax, {}, "NDCG@20")
    assert [line.get_xdata().tolist() for line in ax.get_lines()] == [[100, 200], [100]]


def test_cost_and_quality_is_a_named_point_a_model(ax):
    table = pd.DataFrame({"model": ["a", "b"], "seconds": [0.001, 1.0], "value": [0.1, 0.2]})
    drawn.quality_by_cost(table, ax, {"b": "B"}, "seconds", "NDCG@20")
    assert {text.get_text() for text in ax.texts} == {"a", "B"}
    assert ax.get_xscale() == "log"


def test_every_seed_is_a_circle(ax):
    parts = pd.DataFrame({"model": ["a"], "mean": [0.2], "user_se": [0.01]})
    points = pd.DataFrame({"model": ["a", "a", "a"], "mean": [0.1, 0.2, 0.3]})
    drawn.seeds_and_users(parts, points, ax, {}, "ndcg@20")
    circles = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert list(circles[0].get_xdata()) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("draw", [drawn.by_training_size, drawn.sliced])
def test_an_empty_table_is_refused(draw, ax):
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(pd.DataFrame({"model": [], "slice": []}), ax, {}, "NDCG@20")


def test_a_margin_shows_every_seed_its_mean_and_what_was_copied(ax):
    table = pd.DataFrame({"b": ["x"], "metric": ["hit@5"], "relative": [0.5]})
    table["relative_ci95"], table["by_run"] = [[0.2, 0.8]], [[0.4, 0.6]]
    drawn.margins(table, ax, "hit@5", {"x": "Model X"}, copied=0.6867)
    circles = next(line for line in ax.get_lines() if line.get_marker() == "o")
    assert circles.get_xdata() == pytest.approx([40, 60])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Model X"]
    assert any(line.get_xdata()[0] == pytest.approx(68.67) for line in ax.get_lines())
    with pytest.raises(ValueError, match="no margin on ndcg@20"):
        drawn.margins(table, ax, "ndcg@20", {})


def test_names_of_models_that_cost_and_rank_alike_do_not_lie_on_each_other(ax):
    models = [f"model {i}" for i in range(6)]
    drawn.quality_by_cost(pd.DataFrame({"model": models, "seconds": 0.01, "value": 0.2}), ax, {}, "seconds", "NDCG")
    heights = sorted(text.xyann[1] for text in ax.texts)
    assert {text.get_text() for text in ax.texts} == set(models)
    assert min(b - a for a, b in pairwise(heights)) >= 9
