"""What a recommendation costs: time per query, tokens written, bytes kept and bytes worked with, for every method.

All methods are scorers and are asked in the same way on the same machine. Memory is counted by PyTorch's and Python's
own allocators, so the figure depends neither on what ran before nor on other processes; what a library keeps outside
both (a thread's stack, a kernel's scratch space) is not included.
"""

import itertools
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from r2ec_lib.evaluation.ranking import Scorer
from r2ec_lib.model.collaborative import Collaborative


def working_bytes(call: Callable[[], object]) -> int:
    """Largest number of bytes that `call` held at one time beyond those held before it.

    Tensors in the machine's memory, Python's objects (NumPy's arrays among them) and tensors on a GPU count; their
    peaks are added, so the figure may be too large, never too small. `call` runs under a profiler: its time
    means nothing.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True):
        pass  # the first one loads modules of many MB
    tracemalloc.start()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    _, python = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gpu = torch.cuda.max_memory_allocated() - before if on_gpu else 0
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    events = [event for event in events if event.device_type() == DeviceType.CPU]  # those of a GPU are in `gpu`
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes, initial=0)) + python + gpu


def model_bytes(lm: torch.nn.Module, table: torch.Tensor, term: Collaborative | None = None) -> int:
    """Bytes that a language model with an item table keeps: parameters, each shared one once, and `kept_bytes`."""
    return sum(weight.nbytes for weight in lm.parameters()) + kept_bytes(table, term)


def kept_bytes(table: torch.Tensor, term: Collaborative | None = None) -> int:
    """Bytes of an item table, and of the collaborative term where there is one."""
    return table.nbytes + (sum(tensor.nbytes for tensor in term.packed()[0].values()) if term else 0)


def seconds_per_query(scorers: Sequence[Scorer], samples: pd.DataFrame, size: int, queries: int) -> list[float]:
    """Median seconds of one query of each scorer where `size` are asked at a time, over `queries` batches after an
    untimed one. The scorers take turns at each batch, so that a machine that slows down slows all of them."""
    seconds = np.empty((queries + 1, len(scorers)))
    for i in range(queries + 1):
        batch = samples.iloc[np.arange(i * size, (i + 1) * size) % len(samples)]
        for j, score in enumerate(scorers):
            began = time.perf_counter()
            score(batch).cpu()  # waits for an accelerator
            seconds[i, j] = (time.perf_counter() - began) / size
    return np.median(seconds[1:], axis=0).tolist()


def table_of_costs(
    scorers: Mapping[str, Scorer],
    samples: pd.DataFrame,
    stored: Mapping[str, int],
    *,
    tokens: Mapping[str, float],
    silent: Mapping[str, Scorer],
    queries: int,
) -> pd.DataFrame:
    """One row per method, in the order of `scorers`.

    Args:
        scorers: the methods, from a slice of `samples` to scores; whatever a query needs happens inside.
        stored: bytes that each method keeps (parameters, item tables, counts).
        tokens: tokens per query, of the methods that write.
        silent: these methods asked to write nothing; what they save is the time spent reasoning.

    Returns:
        model, seconds_batch_1 and seconds_batch_32 (of one query), stored_mb, working_mb (of 32 queries; 10⁶ bytes),
        tokens, and reasoning_share: 1 − seconds of the silent method / seconds, one query at a time, never below 0; 0
        where nothing is written.
    """
    rows: list[dict] = []
    largest = samples.iloc[np.arange(32) % len(samples)]
    many = seconds_per_query(list(scorers.values()), samples, 32, queries)
    alone = seconds_per_query([*scorers.values(), *silent.values()], samples, 1, queries)
    mute = dict(zip(silent, alone[len(scorers) :], strict=True))
    for at, (name, score) in enumerate(scorers.items()):
        rows.append(
            {
                "model": name,
                "seconds_batch_1": alone[at],
                "seconds_batch_32": many[at],
                "stored_mb": stored[name] / 1e6,
                "working_mb": working_bytes(partial(score, largest)) / 1e6,
                "tokens": tokens.get(name, 0.0),
                "reasoning_share": max(0.0, 1 - mute.get(name, alone[at]) / alone[at]),
            }
        )
    return pd.DataFrame(rows)
