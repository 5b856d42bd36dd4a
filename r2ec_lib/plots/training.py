"""Figures of a training: its learning curve, and anything else over its steps."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from r2ec_lib.evaluation.wording import metric_name
from r2ec_lib.plots.style import BESIDE, COLOURS, look, style


def learning_curve(log: pd.DataFrame, ax: Axes) -> Axes:
    """Reward, its two parts and validation NDCG@10 over training steps.

    The reward of each step is faint, its centred running mean over a twentieth of the run (three steps at least)
    strong. Validation is measured at intervals, so it has markers joined by a line.
    """
    window = max(3, len(log) // 20)
    names = {"reward": "reward", "reward_ndcg": "its NDCG part", "reward_similarity": "its similarity part"}
    for i, (column, label) in enumerate(names.items()):
        if column in log and log[column].notna().any():
            rows = log.dropna(subset=column)  # nothing is rewarded at step 0
            smooth = rows[column].rolling(window, center=True, min_periods=1).mean()
            ax.plot(rows["step"], rows[column], color=COLOURS[i], alpha=0.2, linewidth=0.8)
            ax.plot(rows["step"], smooth, label=label, **look(i) | {"marker": "o" if len(rows) == 1 else None})
    if "valid_ndcg@10" in log:
        valid = log.dropna(subset="valid_ndcg@10")
        ax.plot(valid["step"], valid["valid_ndcg@10"], label="validation NDCG@10", **look(3) | {"markersize": 6})
    ax.legend(**BESIDE)
    ax.xaxis.set_major_locator(_whole())
    return style(ax, "training step", "reward, and NDCG (0 to 1)")


def over_steps(
    table: pd.DataFrame,
    ax: Axes,
    columns: Sequence[str] | Mapping[str, str],
    ylabel: str,
    xlabel: str = "training step",
) -> Axes:
    """One line for each of `columns` (names, or names to legend texts) over `step`; a column's NaN are skipped, and
    zero is always in view.

    Where the table has `<column>_low` and `<column>_high`, the band between them is drawn.
    """
    labels = columns if isinstance(columns, Mapping) else {c: metric_name(c).replace("_", " ") for c in columns}
    for i, (column, label) in enumerate(labels.items()):
        rows = table.dropna(subset=column)
        if {f"{column}_low", f"{column}_high"} <= set(table.columns):
            band = (rows[f"{column}_low"].astype(float), rows[f"{column}_high"].astype(float))
            ax.fill_between(rows["step"], *band, color=COLOURS[i % len(COLOURS)], alpha=0.15, linewidth=0)
        ax.plot(rows["step"], rows[column], label=label, **look(i) | ({"marker": None} if len(rows) > 40 else {}))
    ax.update_datalim([(0, 0)], updatex=False)
    ax.autoscale_view()
    if (table["step"] % 1 == 0).all():
        ax.xaxis.set_major_locator(_whole())
    return style(ax, xlabel, ylabel, legend=len(labels) > 1)


def _whole() -> MaxNLocator:
    """Ticks at whole numbers."""
    return MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True)
