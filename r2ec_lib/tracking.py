"""What happened in a training: the log and rollouts tables, and one readable line at a time while it runs."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from transformers import TrainerCallback

from r2ec_lib.files import read_table, write_table

LOG_COLUMNS = {
    "reward": "reward",
    "rewards/ndcg/mean": "reward_ndcg",
    "rewards/similarity/mean": "reward_similarity",
    "eval_ndcg@10": "valid_ndcg@10",
    "eval_hit@10": "valid_hit@10",
    "eval_length": "valid_length",
    "completions/mean_length": "length",
    "completions/min_length": "length_low",
    "completions/max_length": "length_high",
    "share_unclosed": "share_unclosed",
    "frac_reward_zero_std": "share_equal_groups",
    "entropy": "entropy",
    "kl": "kl",
    "loss": "loss",
    "item_surprise": "item_surprise",
    "grad_norm": "grad_norm",
    "grad_norm_tokens": "grad_norm_tokens",
    "grad_norm_items": "grad_norm_items",
    "tokens_per_second": "tokens_per_second",
    "learning_rate": "learning_rate",
    "step_time": "step_seconds",
    "seconds_sampling": "seconds_sampling",
    "seconds_reward": "seconds_reward",
}
"""TRL's names and ours: lengths in tokens with `<answer>`, seconds a step, shares from 0 to 1. `item_surprise` is the
mean −log π(v⁺) of Eq. 7 over the trajectories that carry the item action. `entropy` is the mean over all sampled
tokens, or over those of these trajectories in warm-up steps that compute no others (`item_warmup_steps`). The gradient
norms of the token terms and of the item term are taken before clipping, every `rollout_steps` steps."""


class TrainingTables(TrainerCallback):
    """Writes `log.parquet` and `rollouts.parquet` into `folder` as training goes, and reports lines.

    Args:
        trainer_rollouts: the trainer's growing list of kept trajectories.
        report: called with one line of text every `report_steps` steps and at each evaluation.
    """

    def __init__(
        self,
        folder: str | Path,
        trainer_rollouts: Callable[[], list[dict]],
        report: Callable[[str], None] = print,
        report_steps: int = 10,
    ):
        self.folder = Path(folder)
        self.trainer_rollouts = trainer_rollouts
        self.report = report
        self.report_steps = report_steps
        self.rows: dict[int, dict] = {}
        self.start = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        """A resumed run keeps the rows that its checkpoint had reached."""
        path = self.folder / "log.parquet"
        if state.global_step and path.exists():
            earlier = read_table(path)
            self.rows = {row["step"]: row for row in earlier.to_dict("records") if row["step"] <= state.global_step}
            self.report(f"resumed at step {state.global_step} of {state.max_steps}")

    def on_log(self, args, state, control, logs=None, **kwargs):
        found = {ours: logs[theirs] for theirs, ours in LOG_COLUMNS.items() if theirs in logs}
        if not found or not state.is_world_process_zero:
            return
        row = self.rows.setdefault(state.global_step, {"step": state.global_step})
        row.update(found)
        row["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        evaluated = "valid_ndcg@10" in found
        if evaluated or (state.global_step % self.report_steps == 0 and "reward" in found):
            self.report(self._line(row, state.max_steps, evaluated))

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.write()

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.write()

    def log_table(self) -> pd.DataFrame:
        """One row a logged step, columns as in `LOG_COLUMNS`; NaN where a figure was not taken at that step."""
        table = pd.DataFrame(sorted(self.rows.values(), key=lambda row: row["step"]))
        table = table.reindex(columns=["step", *LOG_COLUMNS.values(), "peak_memory_gb"]).astype({"step": "int64"})
        update = table["step_seconds"] - table["seconds_sampling"] - table["seconds_reward"]
        return table.assign(seconds_update=update)

    def write(self) -> None:
        write_table(self.log_table(), self.folder / "log.parquet")
        write_table(pd.DataFrame(self.trainer_rollouts()), self.folder / "rollouts.parquet")

    def _line(self, row: dict, max_steps: int, evaluated: bool) -> str:
        seconds = time.perf_counter() - self.start
        head = f"step {row['step']:>5} of {max_steps}  {seconds:>6.0f} s"
        if evaluated:
            return f"{head}  validation NDCG@10 {row['valid_ndcg@10']:.4f}, reasoning {row['valid_length']:.1f} tokens"
        return (
            f"{head}  reward {row['reward']:.4f}  length {row['length']:.1f}  "
            f"unclosed {row['share_unclosed']:.0%}  entropy {row['entropy']:.2f}"
        )
