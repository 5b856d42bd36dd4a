"""RecPO trainings in a run folder: each starts from `training/start`, resumes from its checkpoints, saves a model.

A training has a folder of its own for its job and tables: `training` for the model of the run, `training/item_only`
for the control. The training notebook calls `train` in its own process, or, when the recipe asks for several, starts
this module through `accelerate launch` and shows its lines. Both read the same `job.json`, so nothing differs between
one device and many but the number of processes.
"""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import pandas as pd
import torch
from transformers import EarlyStoppingCallback, PrinterCallback
from transformers.utils import is_bitsandbytes_available

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import read_json, read_table, sha256, write_json
from r2ec_lib.model import R2ec, vllm
from r2ec_lib.model.backbone import quiet
from r2ec_lib.training.checkpoints import Checkpoints, best_table, newest_whole, restored_end
from r2ec_lib.training.config import RecPOConfig
from r2ec_lib.training.item_action import adapters_of
from r2ec_lib.training.judgements import judged_reward
from r2ec_lib.training.monitoring import TrainingTables
from r2ec_lib.training.trainer import RecPOTrainer

START = "training/start"
"""Folder in a run of the R²ec that its trainings start from."""
ROW = "row "
"""Begins a line in which a process hands on a row of the log as JSON."""
OWN = ("step ", "resumed ", "already ", "WARNING ", "checkpoint-")
"""How the lines of a training itself begin, see `TrainingTables`."""


def check_settings(
    settings: Mapping[str, Any], *, batch_users: int, num_processes: int, train_samples: int, num_judged: int = 0
) -> None:
    """Refuses what would fail a training, or leave it without a step, before any work is done; writes nothing.

    Args:
        settings: fields of `RecPOConfig`.
        batch_users: users whose trajectories make one optimiser step, over all processes.
        num_processes: devices (or CPU processes) to train on.
        train_samples: rows of the train split.
        num_judged: reasonings that people have judged.

    Raises:
        DataError: names the setting, what was found and what to do.
    """
    if settings.get("judged_weight") and not num_judged:
        raise DataError(
            "judged_weight asks for judgements, but no reasoning was accepted or rejected; name the reviews"
        )
    if settings.get("use_vllm"):
        vllm.require()
    optim = str(settings.get("optim", ""))
    if re.search("paged|8bit|bnb", optim) and not is_bitsandbytes_available():
        raise DataError(f"optim is {optim!r}, which needs bitsandbytes; install the extra `gpu`, or name another")
    group, accumulation = settings["num_generations"], settings.get("gradient_accumulation_steps", 1)
    rows, parts = batch_users * group, num_processes * accumulation
    if rows < 1 or rows % parts:
        raise DataError(
            f"a step of {batch_users} users × {group} trajectories = {rows} rows cannot be "
            f"split evenly over {num_processes} processes × {accumulation} accumulation steps; change batch_users"
        )
    here = {"output_dir": "checkpoints", "use_cpu": not torch.cuda.is_available()}
    size = {"per_device_train_batch_size": rows // accumulation, "per_device_eval_batch_size": group}
    try:  # one process stands for all: the rows of a step are the same
        config = RecPOConfig(**{**here, **size, **settings})
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise DataError(f"the training settings: {error}") from error
    if config.item_vectors == "learned" and num_processes > 1:
        raise DataError(
            f"item_vectors: learned trains on one process, and num_processes is {num_processes}; the vectors are used "
            "outside the language model's forward, which data parallelism does not follow"
        )
    reuse = config.updates_per_rollout
    if config.eval_steps and config.eval_steps % reuse:  # checkpoints are made at these steps
        raise DataError(
            f"a training could not be resumed: each rollout serves {reuse} steps, and eval_steps is "
            f"{config.eval_steps:g}; expected a multiple of {reuse}"
        )
    users = config.generation_batch_size // group  # of one rollout; those left over are not trained on
    if train_samples < users:
        fewer = batch_users * train_samples // users
        raise DataError(
            f"a training would make no step: there are {train_samples} training samples, and one rollout takes "
            f"{users} (batch_users: {batch_users}); lower batch_users to {fewer} or fewer, or bring more data"
        )
    if config.max_steps <= 0 and config.num_train_epochs <= 0:
        raise DataError(
            f"a training would make no step: max_steps is {config.max_steps} and num_train_epochs is "
            f"{config.num_train_epochs:g}; set one of them (the recipe's steps or epochs) above 0"
        )


def check_combined(
    item_steps: int, writing_steps: int, item_vectors: str, lora_layers: int, lora_r: int, dtype: str
) -> None:
    """Refuses keys of a recipe that would undo one another. Raises DataError, which names both."""
    if item_steps and item_vectors == "learned":
        raise DataError(
            f"item_steps is {item_steps} and item_vectors learned: the steps would order encoded vectors, and random "
            "ones then take their place; set item_steps to 0"
        )
    if writing_steps and not lora_r:
        raise DataError(
            f"writing_steps is {writing_steps} and lora_r 0: all weights would learn a few sentences and forget the "
            "rest; set lora_r, or writing_steps to 0"
        )
    if lora_layers and not lora_r:
        raise DataError(f"lora_layers is {lora_layers} and lora_r 0: without adapters all weights train; set lora_r")
    if dtype != "float32" and not lora_r:
        raise DataError(
            f"dtype is {dtype} and lora_r 0: most updates of a weight are too small for {dtype}; set lora_r, "
            "or dtype to float32 and bf16 to true"
        )


def check_readout(readout: str, max_completion_length: int) -> None:
    """Refuses a read-out of reasonings alone where none is written. Raises DataError."""
    if readout == "alone" and not max_completion_length:
        raise DataError(
            "readout is alone and max_completion_length 0: without a reasoning the history is read after all; set "
            "readout to last"
        )


def write_job(
    run_dir: str | Path,
    settings: dict,
    *,
    batch_users: int,
    num_processes: int,
    patience: int,
    folder: str = "training",
    model: str = "model",
    judged: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Writes `<folder>/job.json`: what one training is. Checkpoints and model of another job in `folder` are removed.

    Args:
        settings, batch_users, num_processes: as in `check_settings`, which is called here.
        patience: evaluations without a better validation NDCG@10 after which training ends.
        folder: of the run, for job and tables.
        model: of the run, where the trained R²ec goes.
        judged: people's judgements (`judgements.judgements`), which `settings["judged_weight"]` weighs.

    Raises:
        DataError: as `check_settings`.
    """
    run_dir, place = Path(run_dir), Path(run_dir) / folder
    train_samples = int((read_table(run_dir / "data" / "samples.parquet")["split"] == "train").sum())
    sizes = {"batch_users": batch_users, "num_processes": num_processes}
    check_settings(settings, **sizes, train_samples=train_samples, num_judged=len(judged))
    rows, accumulation = batch_users * settings["num_generations"], settings.get("gradient_accumulation_steps", 1)
    settings = {
        **settings,
        "per_device_train_batch_size": rows // (num_processes * accumulation),
        "per_device_eval_batch_size": settings["num_generations"],
        "logging_steps": 1,
        "restore_callback_states_from_checkpoint": True,
        "load_best_model_at_end": True,
        "metric_for_best_model": "ndcg@10",
        "eval_strategy": "steps",
        "save_steps": settings["eval_steps"],
    }
    job = {
        "settings": settings,
        "num_processes": num_processes,
        "patience": patience,
        "model": model,
        "judged": dict(judged),
    }
    if adapters := adapters_of(run_dir / START):  # adapters that have just been added leave the table as it was
        job["adapters"] = adapters
    starts = (f"{START}/rec_head.safetensors", f"{START}/r2ec.json")  # the table is by the weights: it stands for them
    job |= {path: sha256(run_dir / path) for path in (*starts, "data/samples.parquet")}
    if not (place / "job.json").is_file() or read_json(place / "job.json") != job:
        for old in (place / "checkpoints", run_dir / model):
            shutil.rmtree(old, ignore_errors=True)
    write_json(job, place / "job.json")


def item_only(settings: dict) -> dict:
    """Settings of the control: the same, but the token terms stay off, so its reasoning is never rewarded, nor does a
    KL term hold it; and the recommendation action keeps the weight 1, also where `item_advantage` is "trajectory"."""
    return {**settings, "item_warmup_steps": sys.maxsize}


def train(
    run_dir: str | Path,
    report: Callable[[str], None] = print,
    folder: str = "training",
    show: Callable[[dict], None] = lambda row: None,
) -> None:
    """Trains the R²ec in `training/start` on the train split of `data/samples.parquet`, as `<folder>/job.json` says.

    Writes `<folder>/log.parquet`, `<folder>/rollouts.parquet` and, at the end, the best model by validation NDCG@10 to
    the job's `model`; a warning says so where the start was better. An interrupted training goes on from its newest
    whole checkpoint; a finished one is left as it is. One whose weights become NaN ends there with a warning, and the
    best model before it is saved.

    Args:
        report, show: called with lines of text and with rows of the log, see `monitoring.TrainingTables`.

    Raises:
        RuntimeError: another number of processes than the job's; NaN before the first validation; no step was made.
    """
    run_dir, place = Path(run_dir), Path(run_dir) / folder
    job = read_json(place / "job.json")
    checkpoints = place / "checkpoints"
    if (run_dir / job["model"]).is_dir():  # saved in one rename, at the end
        shutil.rmtree(checkpoints, ignore_errors=True)
        return report(f"already trained: {job['model']}")
    quiet()
    here = {"output_dir": str(checkpoints), "use_cpu": not torch.cuda.is_available()}  # a run folder may be moved
    config = RecPOConfig(**{**here, **job["settings"]})
    if config.world_size != job["num_processes"]:
        raise RuntimeError(f"{config.world_size} processes were started for a job of {job['num_processes']}")
    config._n_gpu = min(config.n_gpu, 1)  # or one process would take all GPUs by nn.DataParallel, which TRL refuses
    model = R2ec.load(run_dir / START, device=str(config.device))
    samples = read_table(run_dir / "data" / "samples.parquet")
    train_samples, valid_samples = (samples[samples["split"] == name] for name in ("train", "valid"))
    judge = partial(judged_reward, judged=job["judged"]) if config.judged_weight else None
    trainer = RecPOTrainer(model, config, train_samples, valid_samples, judge)
    trainer.items.refreshed_at = 0  # the table of the start is by its weights; a checkpoint has one of its own
    tables = TrainingTables(place, lambda: trainer.rollout_log, report, show)
    trainer.remove_callback(PrinterCallback)
    for callback in (Checkpoints(trainer), tables, EarlyStoppingCallback(early_stopping_patience=job["patience"])):
        trainer.add_callback(callback)
    checkpoint, passed_over = newest_whole(checkpoints)
    for line in passed_over:
        report(line)
    try:
        if checkpoint and restored_end(trainer, checkpoint):
            tables.write(trainer.state)
        else:
            config.eval_on_start = checkpoint is None  # what training has to improve on
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        _finish(trainer, checkpoints)
        trainer.require_numbers(model.head.table)
    except FloatingPointError as error:
        tables.write(trainer.state)
        _restore_best(trainer, error, report)
        _finish(trainer, checkpoints)
    if not trainer.state.global_step:
        raise RuntimeError("training made no step; more training samples, or more epochs, are needed")
    start, best = trainer.state.log_history[0]["eval_ndcg@10"], trainer.state.best_metric
    if best is not None and best < start:
        report(f"WARNING no validation was as good as that of the start, NDCG@10 {start:.4f}; the best is {best:.4f}")
    trainer.items.release()
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        model.save(run_dir / job["model"], weights)
        shutil.rmtree(checkpoints)


def _finish(trainer: RecPOTrainer, checkpoints: Path) -> None:
    """The item table by the final weights, in the precision of the saved model: accelerate's autocast is taken off."""
    if not trainer.is_fsdp_enabled:  # weights that are spread over processes are gathered in each forward of all
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    trainer.items.finish(best_table(checkpoints, trainer.state))


def _restore_best(trainer: RecPOTrainer, error: FloatingPointError, report: Callable[[str], None]) -> None:
    """Gives `trainer` the weights of the best validation before it met NaN; RuntimeError where there was none."""
    state, (last, _) = trainer.state, newest_whole(Path(str(trainer.args.output_dir)))
    if last is None or state.best_global_step is None:
        raise RuntimeError(f"{error}. It came before the first validation, so no model is left") from error
    trainer._load_best_model()
    report(
        f"WARNING training ended: {error}. The last good checkpoint is that of step {last.name.split('-')[1]}; the "
        f"model is the best one, of step {state.best_global_step} (NDCG@10 {state.best_metric:.4f})"
    )


def launch(
    run_dir: str | Path,
    report: Callable[[str], None] = print,
    accelerate_config: str = "",
    folder: str = "training",
    show: Callable[[dict], None] = lambda row: None,
) -> None:
    """Trains as `<folder>/job.json` says: here on one process, or through `accelerate launch` on several.

    Args:
        report, show: as in `train`. What else the processes print is in `<folder>/processes.log`.
        accelerate_config: path of an accelerate configuration file (DeepSpeed, FSDP, several machines); "" for plain
            data parallelism.

    Raises:
        RuntimeError: a worker failed; the message holds its error, `<folder>/processes.log` all that was printed.
    """
    gc.collect()
    torch.cuda.empty_cache()  # what this process held before is free for those that train
    processes = read_json(Path(run_dir) / folder / "job.json")["num_processes"]
    if processes == 1 and not accelerate_config:
        return train(run_dir, report, folder, show)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    if accelerate_config:
        command += ["--config_file", accelerate_config]
    else:  # "multi_gpu" is accelerate's name for one process a device; without GPUs they run on the CPU
        command += ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["-m", "r2ec_lib.training.jobs", str(run_dir), folder]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    path = Path(run_dir) / folder / "processes.log"
    with (
        path.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process,
    ):
        assert process.stdout is not None  # a pipe was asked for
        lines = _streamed(process.stdout, log, report, show)
    if process.returncode:
        errors = [line for line in lines if re.match(r"(\[rank\d+\]: )?[\w.]+(Error|Exception|Interrupt): ", line)]
        said = [*errors, *lines[-1:], f"it ended with {process.returncode} and said nothing"][0]
        raise RuntimeError(f"a training process failed: {said} (more in {path})")


def _streamed(stream: Iterable[str], log: TextIO, report: Callable[[str], None], show: Callable) -> list[str]:
    """Passes on what processes print, as it comes: rows to `show`, lines of the training to `report`, all to `log`."""
    lines = []
    for line in map(str.rstrip, stream):
        if line.startswith(ROW):
            show(json.loads(line.removeprefix(ROW)))
            continue
        lines.append(line)
        print(line, file=log, flush=True)
        if line.startswith(OWN):
            report(line)
    return lines


def training_metrics(log: pd.DataFrame, rollouts: pd.DataFrame) -> dict:
    """The figures of `training/metrics.json` from the two tables."""
    rewarded = log.dropna(subset=["reward"])
    window = max(1, len(rewarded) // 10)
    first, last = rewarded.head(window), rewarded.tail(window)
    figures = ["reward", "reward_ndcg", "reward_similarity", "length", "entropy"]
    figures += ["share_unclosed", "share_equal_groups"]
    return {
        "steps": int(log["step"].max()),
        "first": first[figures].mean().to_dict(),
        "last": last[figures].mean().to_dict(),
        "best_valid_ndcg@10": float(log.loc[log["step"] > 0, "valid_ndcg@10"].max()),
        "seconds": {name: float(log[f"seconds_{name}"].sum()) for name in ("sampling", "reward", "update")},
        "rollouts_kept": len(rollouts),
    }


if __name__ == "__main__":
    if os.environ.get("RANK", "0") == "0":
        train(sys.argv[1], print, sys.argv[2], show=lambda row: print(ROW + json.dumps(row)))
    else:
        train(sys.argv[1], lambda line: None, sys.argv[2])
