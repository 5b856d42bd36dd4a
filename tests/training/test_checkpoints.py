"""Checkpoints: killed at any moment a training goes on from a whole one, and what is broken is passed over by name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import TrainerState
from trl.trainer.utils import RepeatSampler

from r2ec_lib.data.storage import read_table, write_json, write_table
from r2ec_lib.training import jobs
from r2ec_lib.training.checkpoints import MARK, TABLE, Checkpoints, fault, newest_whole, skip_orders

SETTINGS = {
    "seed": 3,
    "num_generations": 2,
    "max_steps": 5,
    "eval_steps": 1,
    "max_completion_length": 4,
    "learning_rate": 5e-3,
    "rollout_steps": 1,
    "refresh_steps": 3,
    "use_cpu": True,
}
QUIET = {"report": lambda line: None}


@pytest.fixture
def run(tiny, samples, tmp_path):
    """A run folder that is ready to train."""

    def prepare(name, **settings):
        folder = tmp_path / name
        write_table(samples.assign(split=["train"] * 36 + ["valid"] * 12), folder / "data" / "samples.parquet")
        tiny.lm.float()
        tiny.save(folder / "training" / "start")
        jobs.write_job(folder, {**SETTINGS, **settings}, batch_users=4, num_processes=1, patience=99)
        return folder

    return prepare


def weights(folder):
    return load_file(folder / "model" / "lm" / "model.safetensors")


def equal(one, other):
    return all(torch.equal(one[name], weight) for name, weight in other.items())


def interrupted(folder, step):
    """Trains until the checkpoint of `step` is there, and a part of the next step."""

    def stop(row):
        if row["step"] == step + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.train(folder, **QUIET, show=stop)
    return folder / "training" / "checkpoints"


KILLED_AGAIN_AND_AGAIN = """
import gc, os, random, signal, sys, threading
import torch
from r2ec_lib.training import jobs

folder, kills, chance = sys.argv[1], int(sys.argv[2]), random.Random(0)
torch.set_num_threads(1)
gc.freeze()  # the children share what is loaded, since no collection writes to it

def train(moment, delay):
    changes = 0
    def count(event, args):
        nonlocal changes
        written = event == "open" and folder in str(args[0]) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if written or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            changes += 1
            if changes == moment:
                die = lambda: os.kill(os.getpid(), signal.SIGKILL)
                threading.Timer(delay, die).start() if delay else die()
    sys.addaudithook(count)
    jobs.train(folder, report=lambda line: print(line, flush=True))

for attempt in range(kills + 1):
    moment, delay = chance.randint(1, 60), chance.choice([0, 0, chance.uniform(0, 0.1)])
    child = os.fork()
    if not child:
        train(moment if attempt < kills else 0, delay)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL:
        print("killed", flush=True)
    else:
        break
"""


def test_killed_at_twenty_random_moments_a_training_ends_with_the_weights_of_an_undisturbed_one(run):
    """Moments are counted in changes to files, some a little later: that is where a kill could do harm."""
    whole, broken = (run(name, max_steps=40) for name in ("whole", "broken"))
    jobs.train(whole, **QUIET)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, str(broken), "20"],
        env=environment,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed") == 20  # some in the middle of a line
    assert any(line.startswith("resumed at step") for line in lines) and any(
        "is passed over" in line for line in lines
    )
    assert equal(weights(whole), weights(broken))
    for table in ("log", "rollouts"):
        one, other = (read_table(folder / "training" / f"{table}.parquet") for folder in (whole, broken))
        same = [name for name in one if "second" not in name and "memory" not in name]
        assert one[same].equals(other[same])
    assert not (broken / "training" / "checkpoints").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def test_a_checkpoint_with_a_broken_file_is_passed_over_by_name_and_an_older_one_resumed(run, tmp_path):
    folder, lines = run("broken"), []
    checkpoints = interrupted(folder, 3)
    older, newest = sorted(path.name for path in checkpoints.glob("checkpoint-*"))
    assert newest == "checkpoint-3"
    for harm in (truncate, Path.unlink):
        for name in ("model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth", TABLE, MARK):
            copy = shutil.copytree(checkpoints, tmp_path / f"{harm.__name__}-{name}")
            harm(copy / newest / name)
            whole, (line,) = newest_whole(copy)
            reason = "it was not written to its end" if name == MARK else f"{name} is missing or cut off"
            assert (whole.name, line) == (older, f"{newest} is passed over: {reason}")
    truncate(checkpoints / newest / "optimizer.pt")
    jobs.train(folder, lines.append)
    assert lines[:2] == [
        f"{newest} is passed over: optimizer.pt is missing or cut off",
        f"resumed at step {older[-1]} of 5",
    ]
    whole = run("whole")
    jobs.train(whole, **QUIET)
    assert equal(weights(whole), weights(folder))


def test_a_training_whose_checkpoints_are_all_broken_begins_again(run):
    folder, lines = run("broken"), []
    for checkpoint in interrupted(folder, 2).glob("checkpoint-*"):
        truncate(checkpoint / "optimizer.pt")
    jobs.train(folder, lines.append)
    assert not any(line.startswith("resumed") for line in lines) and (folder / "model").is_dir()


def test_a_best_checkpoint_that_is_lost_is_not_asked_for_at_the_end(run):
    folder = run("broken")
    checkpoints = interrupted(folder, 3)
    older = next(path for path in checkpoints.glob("checkpoint-*") if path.name != "checkpoint-3")
    truncate(older / "model.safetensors")
    jobs.train(folder, **QUIET)
    assert (folder / "model").is_dir()


def test_older_checkpoints_go_only_when_the_newer_one_has_its_mark(run, monkeypatch):
    folder, seen = run("order"), []
    original = jobs.Checkpoints.on_save

    def watched(self, args, state, *rest, **more):
        seen.append({path.name for path in checkpoints.glob("checkpoint-*") if not fault(path)})
        original(self, args, state, *rest, **more)
        kept = {path.name for path in checkpoints.glob("checkpoint-*")}
        assert kept == {f"checkpoint-{state.global_step}", f"checkpoint-{state.best_global_step}"}
        assert newest_whole(checkpoints)[0].name == f"checkpoint-{state.global_step}"

    checkpoints = folder / "training" / "checkpoints"
    monkeypatch.setattr(jobs.Checkpoints, "on_save", watched)
    jobs.train(folder, **QUIET)
    assert seen[0] == set() and all(seen[1:])  # while a checkpoint is written, an older whole one is there


def test_a_resumed_training_goes_on_with_the_item_table_as_it_was(run):
    """Between two refreshes the table is older than the weights, and rewards are ranks in it."""
    whole, broken = run("whole", refresh_steps=99, eval_steps=2), run("broken", refresh_steps=99, eval_steps=2)
    jobs.train(whole, **QUIET)
    interrupted(broken, 2)
    jobs.train(broken, **QUIET)
    assert equal(weights(whole), weights(broken))


@pytest.mark.parametrize("processes", [1, 2])
def test_past_epochs_draw_their_orders_before_a_resumed_one(processes):
    def loader():
        sampler = RepeatSampler(list(range(8)), mini_repeat_count=1, batch_size=2, seed=5)
        return prepare_data_loader(
            DataLoader(list(range(8)), batch_size=2, sampler=sampler), num_processes=processes, process_index=0
        )

    whole, resumed = loader(), loader()
    orders = [[batch.tolist() for batch in whole] for _ in range(3)]
    skip_orders(resumed, 2)
    assert [batch.tolist() for batch in resumed] == orders[2] != orders[0]


def test_a_saved_model_is_finished_whatever_is_left_of_its_checkpoints(run):
    folder, lines = run("done"), []
    jobs.train(folder, **QUIET)
    (folder / "training" / "checkpoints" / "checkpoint-9").mkdir(parents=True)
    before = weights(folder)
    jobs.train(folder, lines.append)
    assert lines == ["already trained: model"] and equal(before, weights(folder))
    assert not (folder / "training" / "checkpoints").exists()


def marked(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"item_table": torch.full((2, 2), float(step))}, checkpoint / TABLE)
    size = (checkpoint / TABLE).stat().st_size
    write_json({"refreshed_at": step, "rollouts": [{"step": step}], "files": {TABLE: size}}, checkpoint / MARK)
    return checkpoint


def test_the_newest_checkpoint_is_that_of_the_latest_step(tmp_path):
    for step in (9, 10, 2):
        marked(tmp_path, step)
    assert newest_whole(tmp_path) == (tmp_path / "checkpoint-10", [])
    assert newest_whole(tmp_path / "nothing") == (None, [])


def test_resuming_restores_what_was_added_drops_broken_folders_and_forgets_a_lost_best(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.args.output_dir = str(tmp_path)
    for step in (2, 4, 6):
        marked(tmp_path, step)
    for step in (2, 6):
        truncate(tmp_path / f"checkpoint-{step}" / TABLE)
    state = TrainerState(global_step=4, epoch=0.5, best_global_step=2, best_metric=0.9, is_world_process_zero=True)
    loader = DataLoader([0], sampler=[0])
    Checkpoints(trainer).on_train_begin(trainer.args, state, None, train_dataloader=loader)
    assert (trainer.r2ec.head.table == 4).all()
    assert (trainer.items.refreshed_at, trainer.rollout_log) == (4, [{"step": 4}])
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    assert (state.best_global_step, state.best_metric) == (None, None)
