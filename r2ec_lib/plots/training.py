"""Figures of a training: learning curves, lengths, and where the time goes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from r2ec_lib.evaluation.wording import metric_name
from r2ec_lib.plots.style import COLOURS, bar_look, look, require, style


def learning_curve(log: pd.DataFrame, ax: Axes) -> Axes:
    """Reward, its two parts and validation NDCG@10 over training steps.

    The reward of each step is faint, its centred running mean over a twentieth of the run strong. Validation is
    measured at intervals, so it has markers joined by a line.
    """
    require(log, ["step", "reward"], "the training log")
    window = max(1, len(log) // 20)
    names = {"reward": "reward", "reward_ndcg": "its NDCG part", "reward_similarity": "its similarity part"}
    for i, (column, label) in enumerate(names.items()):
        if column in log and log[column].notna().any():
            smooth = log[column].rolling(window, center=True, min_periods=1).mean()
            ax.plot(log["step"], log[column], color=COLOURS[i], alpha=0.2, linewidth=0.8)
            ax.plot(log["step"], smooth, label=label, **look(i) | {"marker": "o" if len(log) == 1 else None})
    if "valid_ndcg@10" in log:
        valid = log.dropna(subset="valid_ndcg@10")
        ax.plot(valid["step"], valid["valid_ndcg@10"], label="validation NDCG@10", **look(3) | {"markersize": 6})
    return style(ax, "training step", "reward and NDCG (0 to 1)", legend=True)


def reasoning_length(log: pd.DataFrame, ax: Axes) -> Axes:
    """Mean tokens of a reasoning over training steps; the band is `length_low` to `length_high`, where there."""
    over_steps(log, ax, ["length"], "reasoning length (tokens)")
    ax.set_ylim(bottom=0)
    return ax


def over_steps(
    table: pd.DataFrame,
    ax: Axes,
    columns: Sequence[str] | Mapping[str, str],
    ylabel: str,
    xlabel: str = "training step",
) -> Axes:
    """One line for each of `columns` (names, or names to legend texts) over `step`; a column's NaN are skipped.

    Where the table has `<column>_low` and `<column>_high`, the band between them is drawn.
    """
    labels = columns if isinstance(columns, Mapping) else {c: metric_name(c).replace("_", " ") for c in columns}
    filled = [c for c in labels if c not in table or table[c].notna().any()]
    require(table, ["step", *(filled or labels)], "the table")
    for i, (column, label) in enumerate(labels.items()):
        rows = table.dropna(subset=column)
        if {f"{column}_low", f"{column}_high"} <= set(table.columns):
            band = (rows[f"{column}_low"].astype(float), rows[f"{column}_high"].astype(float))
            ax.fill_between(rows["step"], *band, color=COLOURS[i % len(COLOURS)], alpha=0.15, linewidth=0)
        ax.plot(rows["step"], rows[column], label=label, **look(i) | ({"marker": None} if len(rows) > 40 else {}))
    return style(ax, xlabel, ylabel, legend=len(labels) > 1)


def seconds_by_phase(log: pd.DataFrame, ax: Axes) -> Axes:
    """Wall-clock seconds of each training step, stacked by phase: every `seconds_*` column of the log."""
    columns = [c for c in log.columns if c.startswith("seconds_") and log[c].notna().any()]
    require(log, ["step"], "the training log")
    if not columns:
        raise ValueError("the training log has no column seconds_* with a value: nothing to draw")
    bottom, gap = np.zeros(len(log)), float(np.median(np.diff(log["step"]))) if len(log) > 1 else 1.0
    for i, column in enumerate(columns):
        seconds = log[column].fillna(0).to_numpy(float)
        label = column.removeprefix("seconds_").replace("_", " ")
        ax.bar(log["step"], seconds, bottom=bottom, width=gap, label=label, **bar_look(i))
        bottom += seconds
    return style(ax, "training step", "time of a step (seconds)", legend=True)
