"""Trainings side by side, each in a process of its own that never outlives the one that asked for it.

Nothing here knows what is trained: a job is a picklable function without arguments.
"""

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch


def side_by_side(jobs: Sequence[Callable[[], Any]], workers: int) -> Iterator[Any]:
    """Results of `jobs` in their order, computed by `workers` processes with one torch thread each.

    The processes end at once, within whatever they compute, when the iteration is given up and when this process is
    gone, be it killed. What a job raises is raised here, and BrokenProcessPool where a worker was killed, as where
    memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, context, _begin, (reader,))
    try:
        for future in [executor.submit(_in_bytes, job) for job in jobs]:
            yield pickle.loads(future.result())
    finally:
        writer.close()
        executor.shutdown(cancel_futures=True)
        reader.close()


def _begin(lifeline: Connection) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    """Ends this process as soon as the other end of `lifeline` is closed, which the end of its holder does too."""
    with suppress(EOFError, OSError):
        lifeline.recv()
    os._exit(1)


def _in_bytes(job: Callable[[], Any]) -> bytes:
    """The result of a job, pickled here: torch would pass tensors in shared memory, which is scarce in containers."""
    return pickle.dumps(job())
