"""What a recommendation costs: time per query, tokens written, bytes kept and bytes worked with, for every method.

All methods are scorers and are asked in the same way on the same machine. Memory is counted by PyTorch's and Python's
own allocators, so the figure depends neither on what ran before nor on other processes; what a library keeps outside
both (a thread's stack, a kernel's scratch space) is not included.
"""

import itertools
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from r2ec_lib.evaluation.ranking import Scorer, latency


def working_bytes(call: Callable[[], object]) -> int:
    """Largest number of bytes that `call` held at one time beyond those held before it.

    On an accelerator its memory counts, elsewhere tensors and Python's objects (NumPy's arrays among them); the two
    peaks are added, so the figure may be too large, never too small. `call` runs under a profiler: its time
    means nothing.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    tracemalloc.start()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    _, python = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes, initial=0)) + python


def model_bytes(lm: torch.nn.Module, table: torch.Tensor) -> int:
    """Bytes that a language model with an item table keeps: parameters, each shared one once, and the table."""
    return sum(weight.nbytes for weight in lm.parameters()) + table.nbytes


def table_of_costs(
    scorers: Mapping[str, Scorer],
    samples: pd.DataFrame,
    stored: Mapping[str, int],
    *,
    tokens: Mapping[str, float] | None = None,
    silent: Mapping[str, Scorer] | None = None,
    batch_sizes: Sequence[int] = (1, 32),
    queries: int = 8,
) -> pd.DataFrame:
    """One row per method, in the order of `scorers`.

    Args:
        scorers: the methods, from a slice of `samples` to scores; whatever a query needs happens inside.
        stored: bytes that each method keeps (parameters, item tables, counts).
        tokens: tokens per query, of the methods that write.
        silent: the same methods asked to write nothing; what they save is the time spent reasoning.
        batch_sizes: numbers of queries asked at a time; the largest is also the one whose working memory is measured.
        queries: timed batches of each size.

    Returns:
        model, seconds_batch_<size> (median seconds of one query), stored_mb, working_mb (10⁶ bytes), tokens, and
        reasoning_share: 1 − seconds of the silent method / seconds, at the smallest batch size, never below 0; 0 where
        nothing is written.
    """
    rows: list[dict] = []
    small = min(batch_sizes)
    for name, score in scorers.items():
        timed = latency(score, samples, model=name, batch_sizes=batch_sizes, queries=queries)
        seconds = {row["batch_size"]: row["seconds"] for row in timed}
        share = 0.0
        if silent and name in silent:
            [without] = latency(silent[name], samples, model=name, batch_sizes=[small], queries=queries)
            share = max(0.0, 1 - without["seconds"] / seconds[small])
        largest = samples.iloc[[i % len(samples) for i in range(max(batch_sizes))]]
        rows.append(
            {
                "model": name,
                **{f"seconds_batch_{size}": seconds[size] for size in batch_sizes},
                "stored_mb": stored[name] / 1e6,
                "working_mb": working_bytes(partial(score, largest)) / 1e6,
                "tokens": (tokens or {}).get(name, 0.0),
                "reasoning_share": share,
            }
        )
    return pd.DataFrame(rows)
