"""A training as it runs: one table that renews itself in a notebook, lines of text everywhere.

Nothing here knows of trainers: rows of the training log go in (`tracking.LOG_COLUMNS`), a picture of them comes out.
"""

import time
from collections.abc import Callable
from html import escape

import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import DisplayHandle

FIGURES = {
    "reward": ("reward", ".4f"),
    "reward_ndcg": ("its NDCG part", ".4f"),
    "reward_similarity": ("its similarity part", ".4f"),
    "reward_judged": ("people's judgements", ".3f"),
    "valid_ndcg@10": ("validation NDCG@10", ".4f"),
    "length": ("length (tokens)", ".1f"),
    "share_unclosed": ("chains without <answer>", ".0%"),
    "repetition": ("repetition (0 to 1)", ".2f"),
    "share_equal_groups": ("groups of equal rewards", ".0%"),
    "entropy": ("entropy (nats a token)", ".3f"),
    "kl": ("KL to the start", ".4f"),
    "grad_norm": ("gradient norm", ".3g"),
    "grad_norm_tokens": ("… of the token terms", ".3g"),
    "grad_norm_items": ("… of the item term", ".3g"),
    "seconds_sampling": ("seconds: sampling", ".2f"),
    "seconds_reward": ("seconds: reward", ".2f"),
    "seconds_update": ("seconds: update", ".2f"),
    "tokens_per_second": ("tokens a second", ",.0f"),
    "peak_memory_gb": ("peak memory (GB)", ".2f"),
    "peak_device_memory_gb": ("peak GPU memory (GB)", ".2f"),
}
"""Columns of the training log that the table shows, with what it calls them and how it writes their values."""
BLOCKS = "▁▂▃▄▅▆▇█"
COURSE = 24
"""Most characters of a figure's course."""


def course(values: pd.Series) -> str:
    """Values as a row of blocks from lowest to highest, in at most `COURSE` equal parts.

    >>> course(pd.Series([0.0, 1.0, 2.0, 7.0]))
    '▁▂▃█'
    """
    means = [part.mean() for part in np.array_split(values.to_numpy(float), min(COURSE, len(values)))]
    low, spread = min(means), max(means) - min(means)
    return "".join(BLOCKS[round((mean - low) / spread * (len(BLOCKS) - 1)) if spread else 3] for mean in means)


def summary(log: pd.DataFrame) -> pd.DataFrame:
    """What the table shows of a training log: `figure`, `first`, `now` (means of a tenth of the values) and `course`.

    Figures that were never taken are left out.
    """
    rows = []
    for column, (label, form) in FIGURES.items():
        values = log[column].dropna() if column in log else []
        if len(values):
            window = max(1, len(values) // 10)
            ends = (values.head(window).mean(), values.tail(window).mean())
            rows.append((label, *(format(value, form) for value in ends), course(values)))
    return pd.DataFrame(rows, columns=["figure", "first", "now", "course"])


class LiveTable:
    """Shows a training: `row` and `line` are what `training.launch` calls.

    In a notebook, one display that is replaced as rows come in (also when Papermill executes it), and lines for what
    the table does not tell; elsewhere lines alone.

    Args:
        notebook: whether displays are shown; found out where None.
        out: called with each line.
        seconds: shortest time between two drawings.
    """

    def __init__(self, notebook: bool | None = None, out: Callable[[str], None] = print, seconds: float = 1.0):
        shell = get_ipython()
        self.notebook = "IPKernelApp" in getattr(shell, "config", {}) if notebook is None else notebook
        self.out = out
        self.seconds = seconds
        self.rows: dict[int, dict] = {}
        self.warnings: list[str] = []
        self._display = DisplayHandle() if self.notebook else None
        self._drawn: float | None = None

    def line(self, text: str) -> None:
        """Writes a line of text; one that only repeats what the table shows is left out where there is a table."""
        if text.startswith("WARNING"):
            self.warnings.append(text)
        if not (self.notebook and text.startswith("step ") and "validation" not in text):
            self.out(text)

    def row(self, row: dict) -> None:
        """Takes a row of the log, with `max_steps` and `elapsed` seconds beside its figures."""
        self.rows[row["step"]] = row
        now = time.perf_counter()
        due = self._drawn is None or now - self._drawn >= self.seconds
        if self.notebook and (due or row["step"] == row["max_steps"] or "valid_ndcg@10" in row):
            page = {"text/html": self.html(), "text/plain": self.text()}
            (self._display.display if self._drawn is None else self._display.update)(page, raw=True)
            self._drawn = now

    def head(self) -> str:
        """How far the training is, in words."""
        row = self.rows[max(self.rows)]
        done, elapsed = row["step"] / row["max_steps"], row["elapsed"]
        left = f", about {elapsed / done - elapsed:.0f} s left" if done < 1 else ""
        return f"step {row['step']} of {row['max_steps']}, {elapsed:.0f} s{left}"

    def text(self) -> str:
        table = summary(pd.DataFrame(list(self.rows.values())))
        return "\n".join([self.head(), *self.warnings, table.to_string(index=False)])

    def html(self) -> str:
        table = summary(pd.DataFrame(list(self.rows.values()))).to_html(index=False, border=0)
        warnings = "".join(f'<p style="color: #b00000"><b>{escape(text)}</b></p>' for text in self.warnings)
        return f"<p>{escape(self.head())}</p>{warnings}{table}"
