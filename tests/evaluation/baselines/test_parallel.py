"""Trainings side by side: results in order, one thread each, and no process that outlives whoever started it."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
import torch

from r2ec_lib.evaluation.baselines.parallel import side_by_side

PARENT = """
import os, time
from functools import partial
from r2ec_lib.evaluation.baselines.parallel import side_by_side
from tests_parallel_job import train

if __name__ == "__main__":
    list(side_by_side([partial(train, folder=os.environ["OUT"])] * 2, 2))
"""
JOB = """
import os
from pathlib import Path
import torch

def train(folder):
    layer = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    while True:  # a training that never ends by itself
        layer(torch.ones(64, 64)).sum().backward()
        optimizer.step()
        (Path(folder) / str(os.getpid())).touch()
"""


def gone(pids: list[int], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    alive = lambda pid: psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # noqa: E731
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_a_parent_that_is_killed_while_they_train(tmp_path, end):
    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "tests_parallel_job.py").write_text(JOB)
    out = tmp_path / "out"
    out.mkdir()
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, "parent.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path, "OUT": str(out)}
    )
    children: list[int] = []
    try:
        while len(list(out.iterdir())) < 2 and parent.poll() is None:
            time.sleep(0.05)
        children = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
        assert {int(file.name) for file in out.iterdir()} <= set(children)
        parent.send_signal(end)
        parent.wait()
        assert gone(children)
    finally:
        parent.kill()
        for pid in filter(psutil.pid_exists, children):
            os.kill(pid, signal.SIGKILL)


def test_results_come_in_order_from_processes_of_one_thread_that_end_when_the_iteration_is_given_up(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # as of a kernel, whose workers share its cores
    jobs = [partial(time.sleep, 0.5), torch.get_num_threads, os.getpid, partial(torch.arange, 3)]
    results = side_by_side([*jobs, partial(time.sleep, 600)], 2)
    slept, threads, pid, tensor = (next(results) for _ in jobs)
    assert slept is None and threads == 1 and pid != os.getpid()
    assert tensor.tolist() == [0, 1, 2] and not tensor.is_shared()
    results.close()
    assert gone([pid])


def test_a_job_that_fails_says_so_and_ends_those_beside_it():
    before = set(psutil.Process().children())
    with pytest.raises(ZeroDivisionError):
        list(side_by_side([partial(divmod, 1, 0), partial(time.sleep, 600)], 2))
    assert gone([child.pid for child in set(psutil.Process().children()) - before if "tracker" not in _line(child)])


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
