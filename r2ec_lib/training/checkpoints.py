"""Checkpoints that survive a kill at any moment: what RecPO adds to the trainer's own files, and which one is whole.

transformers writes weights, optimiser, random states and log into `checkpoint-<step>`. When all of it is on disk,
this module adds the item table and then, in one rename, `recpo.json`, which lists every file with its size. A folder
without that mark, or with other sizes, is not resumed from. Older checkpoints go only when a newer one has its mark.
"""

import shutil
from pathlib import Path
from typing import Any

from accelerate.data_loader import BatchSamplerShard
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerState

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import read_json, write_json
from r2ec_lib.training.trainer import RecPOTrainer

MARK = "recpo.json"
TABLE = "item_table.safetensors"


class Checkpoints(TrainerCallback):
    """Completes each checkpoint of `trainer`, and restores what it added when training resumes from one."""

    def __init__(self, trainer: RecPOTrainer):
        self.trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.accelerator.wait_for_everyone()  # each process writes files of its own
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        save_file({"item_table": self.trainer.items.stored().cpu()}, folder / TABLE)
        notes = {"refreshed_at": self.trainer.items.refreshed_at, "rollouts": self.trainer.rollout_log}
        write_json({**notes, "files": _sizes(folder)}, folder / MARK)
        for other in _folders(folder.parent):
            if _step(other) not in (state.global_step, state.best_global_step):
                shutil.rmtree(other)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A resumed training has the samples and rewards of an uninterrupted one: the order and the item table."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.trainer.accelerator.wait_for_everyone()  # all have chosen the checkpoint to resume from
        for other in _folders(folder.parent):
            if state.is_world_process_zero and fault(other):
                shutil.rmtree(other)
        if not state.global_step:
            return
        skip_orders(kwargs["train_dataloader"], int(state.epoch))
        notes = read_json(folder / MARK)
        self.trainer.items.restore(load_file(folder / TABLE)["item_table"])
        self.trainer.items.refreshed_at, self.trainer.rollout_log = notes["refreshed_at"], notes["rollouts"]
        best = folder.with_name(f"checkpoint-{state.best_global_step}")
        state.best_model_checkpoint = str(best)  # the run folder may have been moved
        if fault(best):  # what was best is lost, so the next validation is the best so far
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None


def restored_end(trainer: RecPOTrainer, checkpoint: Path) -> bool:
    """Whether training had ended when it wrote `checkpoint`; then `trainer` has its state and the best weights.

    transformers would make a further step before it saw that. Weights that are spread over processes are not restored
    here.
    """
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    ended = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
    best = checkpoint.with_name(f"checkpoint-{state.best_global_step}")
    if not ended or fault(best) or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return False
    trainer.state, state.best_model_checkpoint = state, str(best)
    trainer.rollout_log = read_json(checkpoint / MARK)["rollouts"]
    trainer._load_best_model()
    return True


def best_table(folder: Path, state: TrainerState) -> Tensor | None:
    """The item table of the checkpoint in `folder` with the best validation, None where there is none."""
    path = folder / f"checkpoint-{state.best_global_step}" / TABLE
    return load_file(path)["item_table"] if path.is_file() else None


def skip_orders(loader: DataLoader, epochs: int) -> None:
    """Lets the sampler behind `loader` draw the orders of past epochs; made anew, TRL's begins with the first."""
    batches: Any = loader.batch_sampler
    batches = batches.batch_sampler if isinstance(batches, BatchSamplerShard) else batches  # of several processes
    for _ in range(epochs):
        next(iter(batches.sampler))


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint in `folder` to resume from, None where there is none, and a sentence per one passed over."""
    passed: list[str] = []
    for checkpoint in _folders(folder):
        reason = fault(checkpoint)
        if not reason:
            return checkpoint, passed
        passed.append(f"{checkpoint.name} is passed over: {reason}")
    return None, passed


def fault(checkpoint: Path) -> str:
    """Why a checkpoint cannot be used; "" where it is whole."""
    try:
        files = read_json(checkpoint / MARK)["files"]
    except (DataError, KeyError, TypeError):
        return "it was not written to its end"
    sizes = _sizes(checkpoint)
    broken = [name for name, size in files.items() if sizes.get(name) != size]
    return f"{broken[0]} is missing or cut off" if broken else ""


def _folders(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}
