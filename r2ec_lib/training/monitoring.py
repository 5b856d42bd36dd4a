"""What happened in a training: the log and rollouts tables, and rows and readable lines while it runs."""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import TrainerCallback, TrainerState

from r2ec_lib.data.storage import write_table

FIGURES = [
    ("reward", "reward", "reward", ".4f"),
    ("rewards/ndcg/mean", "reward_ndcg", "its NDCG part", ".4f"),
    ("rewards/similarity/mean", "reward_similarity", "its similarity part", ".4f"),
    ("rewards/judged/mean", "reward_judged", "people's judgements", ".3f"),
    ("rewards/untrue/mean", "reward_untrue", "statements that fail or are missing (share)", ".3f"),
    ("eval_ndcg@10", "valid_ndcg@10", "validation NDCG@10", ".4f"),
    ("eval_hit@10", "valid_hit@10", "", ""),
    ("eval_length", "valid_length", "", ""),
    ("length", "length", "length (tokens)", ".1f"),
    ("length_low", "length_low", "", ""),
    ("length_high", "length_high", "", ""),
    ("share_unclosed", "share_unclosed", "reasonings cut off", ".0%"),
    ("repetition", "repetition", "repetition (0 to 1)", ".2f"),
    ("frac_reward_zero_std", "share_equal_groups", "groups of equal rewards", ".0%"),
    ("entropy", "entropy", "entropy (nats per token)", ".3f"),
    ("kl", "kl", "KL to the start", ".4f"),
    ("loss", "loss", "", ""),
    ("item_surprise", "item_surprise", "", ""),
    ("grad_norm", "grad_norm", "gradient norm", ".3g"),
    ("learning_rate", "learning_rate", "", ""),
    ("step_time", "step_seconds", "", ""),
    ("seconds_sampling", "seconds_sampling", "seconds: sampling", ".2f"),
    ("seconds_reward", "seconds_reward", "seconds: reward", ".2f"),
    ("seconds_update", "seconds_update", "seconds: update", ".2f"),
    ("peak_memory_gb", "peak_memory_gb", "peak memory (GB)", ".2f"),
    ("peak_device_memory_gb", "peak_device_memory_gb", "peak GPU memory (GB)", ".2f"),
]
"""TRL's name of each figure, the log table's and, for those that the live table shows, a label and a number format.

Lengths are in tokens with `<answer>`, seconds per step, shares from 0 to 1. `item_surprise` is the mean −log π(v⁺) of
Eq. 7 over the trajectories that carry the recommendation action. `entropy` is the mean over all sampled tokens, or
over those of these trajectories in warm-up steps that compute no others (`item_warmup_steps`). `repetition` is
1 − different token triples / token triples. Memory (of this process, and of its GPU) is the highest so far."""
COLUMNS = ["step", *(column for _, column, _, _ in FIGURES)]


class TrainingTables(TrainerCallback):
    """Writes `log.parquet` and `rollouts.parquet` into `folder` as training goes, and reports.

    The log is transformers' own (`TrainerState.log_history`), which checkpoints keep.

    Args:
        trainer_rollouts: the trainer's growing list of kept trajectories.
        report: called with a line of text at the beginning of a resumed training and at each evaluation.
        show: called with each row of the log, with `max_steps` and `elapsed` seconds beside the figures.
    """

    def __init__(
        self,
        folder: str | Path,
        trainer_rollouts: Callable[[], list[dict]],
        report: Callable[[str], None] = print,
        show: Callable[[dict], None] = lambda row: None,
    ):
        self.folder = Path(folder)
        self.trainer_rollouts = trainer_rollouts
        self.report = report
        self.show = show
        self.start = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self.report(f"resumed at step {state.global_step} of {state.max_steps}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        entry = state.log_history[-1]
        if not state.is_world_process_zero or "train_runtime" in entry:  # transformers' summary at the end
            return
        unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
        entry["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        if torch.cuda.is_available():
            entry["peak_device_memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        row = log_rows(state.log_history[-2:])[-1]  # an evaluation follows the training entry of its step
        seconds = time.perf_counter() - self.start
        self.show({**row, "max_steps": state.max_steps, "elapsed": seconds})
        if "eval_ndcg@10" in entry:
            self.report(
                f"step {row['step']:>5} of {state.max_steps}  {seconds:>6.0f} s  "
                f"validation NDCG@10 {row['valid_ndcg@10']:.4f}, reasoning {row['valid_length']:.1f} tokens"
            )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write(state)

    def write(self, state: TrainerState) -> None:
        if state.is_world_process_zero:
            log = pd.DataFrame(log_rows(state.log_history)).reindex(columns=COLUMNS).astype({"step": "int64"})
            write_table(log, self.folder / "log.parquet")
            write_table(pd.DataFrame(self.trainer_rollouts()), self.folder / "rollouts.parquet")


def log_rows(history: Sequence[Mapping]) -> list[dict]:
    """Entries of a `TrainerState.log_history` as one row per step, under our names."""
    rows: dict[int, dict] = {}
    for entry in history:
        row = rows.setdefault(entry["step"], {"step": entry["step"]})
        row.update({column: entry[name] for name, column, _, _ in FIGURES if name in entry})
    for row in rows.values():
        if "step_seconds" in row:
            other = row.get("seconds_sampling", 0.0) + row.get("seconds_reward", 0.0)  # a step may reuse a rollout
            row["seconds_update"] = row["step_seconds"] - other
    return list(rows.values())


def summary(log: pd.DataFrame) -> pd.DataFrame:
    """What the table shows of a training log: `figure`, `first` and `now`, means of a tenth of the values.

    Figures that were never taken are left out.
    """
    rows = []
    for _, column, label, form in FIGURES:
        values = log[column].dropna() if label and column in log else pd.Series(dtype=float)
        values = values.abs() if column == "reward_untrue" else values  # which is minus their share
        if len(values):
            window = max(1, len(values) // 10)
            rows.append((label, *(format(part.mean(), form) for part in (values.head(window), values.tail(window)))))
    return pd.DataFrame(rows, columns=["figure", "first", "now"])


def last_group(rollouts: pd.DataFrame, reward_mix: float) -> pd.DataFrame:
    """A group of the last rollout that was kept, its best ranks first.

    Returns:
        sample_id, `reasoning`, tokens, rank, the parts of the reward before their weights (`NDCG`, `similarity`), what
        the mix of the two lacks to the reward (`prices and judgements`, where there are any), reward, advantage, best.
    """
    last = rollouts[rollouts["step"] == rollouts["step"].max()]
    names = {"chain": "reasoning", "reward_ndcg": "NDCG", "reward_similarity": "similarity"}
    group = last[last["sample_id"] == last["sample_id"].iloc[0]].sort_values("rank").rename(columns=names)
    mixed = (1 - reward_mix) * group["NDCG"] + reward_mix * group["similarity"]
    group["prices and judgements"] = (group["reward"] - mixed).round(6) + 0.0  # the weights were rounded; no "-0"
    columns = ["sample_id", "reasoning", "tokens", "rank", "NDCG", "similarity", "prices and judgements", "reward"]
    if not group["prices and judgements"].any():
        columns.remove("prices and judgements")
    return group[[*columns, "advantage", "best"]]


REDRAWN_EVERY = 1.0
"""Seconds between two drawings of the live table, at least."""


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this; it has loaded IPython itself."""
    shell = sys.modules.get("IPython")
    return shell is not None and "IPKernelApp" in getattr(shell.get_ipython(), "config", {})


class LiveTable:
    """Shows the rows of a training as they come in: `row` is what `jobs.launch` calls.

    In a notebook, one display that is replaced (also when Papermill executes it); elsewhere nothing.
    """

    def __init__(self) -> None:
        self.rows: dict[int, dict] = {}
        self._drawn: float | None = None
        self._display: Any = None
        if in_notebook():
            from IPython.display import DisplayHandle  # of the extra `notebooks`, without which trainings run too

            self._display = DisplayHandle()

    def row(self, row: dict) -> None:
        """Takes a row of the log, with `max_steps` and `elapsed` seconds beside its figures."""
        self.rows[row["step"]] = row
        now = time.perf_counter()
        due = self._drawn is None or now - self._drawn >= REDRAWN_EVERY
        if self._display and (due or row["step"] == row["max_steps"] or "valid_ndcg@10" in row):
            (self._display.display if self._drawn is None else self._display.update)(self.page(row), raw=True)
            self._drawn = now

    def page(self, row: dict) -> dict[str, str]:
        """How far the training is, and the table, as HTML and as text."""
        first = self.rows[min(self.rows)]  # of a resumed training not the first of all
        done, ahead = row["step"] - first["step"], row["max_steps"] - row["step"]
        rest = (row["elapsed"] - first["elapsed"]) / done * ahead if done else 0.0
        left = f", about {rest:.0f} s left" if rest else ""
        head = f"step {row['step']} of {row['max_steps']}, {row['elapsed']:.0f} s{left}"
        table = summary(pd.DataFrame(list(self.rows.values())))
        return {
            "text/html": f"<p>{head}</p>{table.to_html(index=False, border=0)}",
            "text/plain": f"{head}\n{table.to_string(index=False)}",
        }
