"""Measuring what a computation costs: seconds of two sides in turn, operations, bytes, and how a cost grows.

The sides of a comparison take turns within one process, so that a busy machine slows both; what is reported is the
ratio within each round. Nothing here knows what is measured: the sides of each comparison are in `plain_ways`, the
figures in `plots`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from r2ec_lib.evaluation.costs import working_bytes

Side = Callable[[], object]
Product = tuple[Side, int]
"""Matrix products that a phase is measured by, and their operations."""


def now() -> float:
    """Seconds of a clock, an accelerator's work included: with one CPU thread the processor time of this process, so
    that others on the machine do not count; else wall-clock."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if alone else time.perf_counter()


def seconds_of(call: Side) -> float:
    """Seconds of one call."""
    began = now()
    call()
    return now() - began


def in_turn(sides: Mapping[Any, Side], repetitions: int, untimed: int = 1) -> pd.DataFrame:
    """Times the sides one after the other, `repetitions` times, after rounds that are not timed: one row per call with
    side, repetition, seconds. Each round has an order of its own: no side follows itself, nor one of several others
    each time."""
    rows: list[dict] = []
    rng, names, last = np.random.default_rng(0), list(sides), None
    for repetition in range(-untimed, repetitions):
        order = rng.permutation(len(names)).tolist()
        if names[order[0]] == last:
            order.append(order.pop(0))
        for name in [names[place] for place in order]:
            seconds = seconds_of(sides[name])
            if repetition >= 0:
                rows.append({"side": name, "repetition": repetition, "seconds": seconds})
            last = name
    return pd.DataFrame(rows)


def ratio(times: pd.DataFrame, side: str, against: str) -> dict[str, float]:
    """Seconds of `side` over seconds of `against`, within each round of `in_turn`: ratio (median over the rounds), low
    and high (quartiles), seconds and seconds_against (medians)."""
    table = times.pivot(index="repetition", columns="side", values="seconds")
    each = table[side] / table[against]
    low, middle, high = each.quantile([0.25, 0.5, 0.75])
    medians = table.median()
    return {
        "ratio": float(middle),
        "low": float(low),
        "high": float(high),
        "seconds": float(medians[side]),
        "seconds_against": float(medians[against]),
    }


def operations(call: Side) -> int:
    """Floating-point operations (a multiply-add is two) of all matrix products in a call, attention and backward too.

    Attention is counted in its plain form, which computes masked positions as well; element-wise work is not counted.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return counter.get_total_flops()


def comparison(
    what: str,
    against: str,
    sides: Mapping[str, Side],
    target: float | None,
    repetitions: int,
    *,
    needed: int = 0,
    product: Product | None = None,
    tokens: int = 0,
    memory: bool = False,
    lm: torch.nn.Module | None = None,
) -> dict:
    """One row of the headline: the first of two `sides` against the second.

    Args:
        what, against: the two sides in words.
        target: the largest ratio of seconds that is wanted; None for no target.
        needed: operations that the result needs at least, whichever way it is reached (`floors`).
        product: products of the shapes that most of them have; they take turns too, so that the machine's rate is that
            of the moment.
        tokens: that each side reads or writes; a prompt counts once per chain, however often it is computed.
        memory: also compare the largest number of bytes that each side works with.
        lm: also compare how often each side calls this module; a call that reads few tokens takes about as long
            whatever their number.

    Returns:
        what, against, the figures of `ratio`, target, met (None without a target), operations and operations_against
        of one call, operations_ratio (what would be left if only matrix products took time), tokens_per_second (None
        without tokens); with `product` needed, matrix_rate (the product's, median), floor (seconds that `needed` takes
        at this rate), share and share_against (of each side's seconds that the floor makes up, median over the
        rounds); with `memory` bytes, bytes_against and memory_ratio; with `lm` forwards, forwards_against and
        forwards_ratio.
    """
    first, second = sides
    row: dict[str, Any] = {"what": what, "against": against, "target": target}
    row |= {"operations": operations(sides[first]), "operations_against": operations(sides[second])}
    row["operations_ratio"] = row["operations"] / max(row["operations_against"], 1)
    times = in_turn({**sides, "product": product[0]} if product else sides, repetitions, untimed=0)  # all ran above
    row |= ratio(times, first, second)
    row["met"] = None if target is None else row["ratio"] <= target
    if product:
        row["needed"], row["matrix_rate"] = needed, product[1] / ratio(times, "product", first)["seconds"]
        row["floor"] = needed / row["matrix_rate"]
        for share, side in (("share", first), ("share_against", second)):
            row[share] = needed / product[1] / ratio(times, side, "product")["ratio"]
    row["tokens_per_second"] = tokens / row["seconds"] if tokens else None
    if memory:
        row |= {"bytes": working_bytes(sides[first]), "bytes_against": working_bytes(sides[second])}
        row["memory_ratio"] = row["bytes"] / row["bytes_against"]
    if lm is not None:
        row |= {"forwards": calls_of(lm, sides[first]), "forwards_against": calls_of(lm, sides[second])}
        row["forwards_ratio"] = row["forwards"] / row["forwards_against"]
    return row


def calls_of(module: torch.nn.Module, call: Side) -> int:
    """How often `call` calls `module`."""
    made = []
    handle = module.register_forward_pre_hook(lambda *_: made.append(1))
    try:
        call()
    finally:
        handle.remove()
    return len(made)


def phase_table(watches: Mapping[str, "Stopwatch"]) -> pd.DataFrame:
    """Median seconds of each phase over all rounds: one row per side and phase (side, phase, seconds)."""
    return pd.DataFrame(
        [
            {"side": side, "phase": phase, "seconds": seconds}
            for side, watch in watches.items()
            for phase, seconds in pd.DataFrame(watch.rounds).fillna(0.0).median().items()
        ]
    )


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Growth as an exponent: the slope of log seconds over log size, fitted to the last three sizes.

    >>> round(slope([10, 100, 1000], [2, 20, 200]), 6)
    1.0
    """
    return float(np.polyfit(np.log(sizes[-3:]), np.log(seconds[-3:]), 1)[0])


def growth(
    what: str, sizes: Iterable[int], make: Callable[[int], Mapping[str, Side]], repetitions: int
) -> pd.DataFrame:
    """Median seconds of each side of `make(size)` at each size; all sizes take turns. One row per size and side: what,
    size, side, seconds, low and high (fastest and slowest), exponent (the `slope` of the side)."""
    sides = {(size, side): call for size in sizes for side, call in make(size).items()}
    times = in_turn(sides, repetitions)
    times[["size", "side"]] = times["side"].to_list()
    each = times.groupby(["size", "side"], sort=False)["seconds"]
    table = each.agg(seconds="median", low="min", high="max").reindex(list(sides)).reset_index()
    slopes = {side: slope(part["size"].to_list(), part["seconds"].to_list()) for side, part in table.groupby("side")}
    table = table.assign(what=what, exponent=table["side"].map(slopes))
    return table[["what", "size", "side", "seconds", "low", "high", "exponent"]]


class Stopwatch:
    """Seconds by phase of an object's methods, each second counted in the innermost phase alone.

    While `watching`, the named methods of an object are called through a clock; the object itself is left as it was.

    Attributes:
        rounds: seconds of each phase, a dict each time that `watching` began.
    """

    def __init__(self) -> None:
        self.rounds: list[dict[str, float]] = []
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts what happens inside as `name`."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    @contextmanager
    def watching(self, methods: Iterable[tuple[object, str, str]]) -> Iterator["Stopwatch"]:
        """Counts calls of methods, given as (object, method, phase)."""
        methods = list(methods)
        self.rounds.append({})
        for owner, method, name in methods:
            setattr(owner, method, self._timed(getattr(owner, method), name))
        try:
            yield self
        finally:
            for owner, method, _ in methods:
                delattr(owner, method)  # the class's own comes back

    def _timed(self, call: Callable, name: str) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return call(*args, **kwargs)

        return timed

    def _turn(self) -> None:
        time_now = now()
        if self._open:
            name = self._open[-1]
            self.rounds[-1][name] = self.rounds[-1].get(name, 0.0) + time_now - self._since
        self._since = time_now
