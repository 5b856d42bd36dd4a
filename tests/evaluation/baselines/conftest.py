"""Samples tables made from sequences of daily purchases."""

import numpy as np
import pandas as pd
import pytest

DAY = pd.Timedelta(days=1)
START = pd.Timestamp("2023-01-01", tz="UTC")


def _samples_of(sequences: dict[str, list[int]], max_history=20, split="train", positions=None) -> pd.DataFrame:
    """Every position of each shopper's daily purchases as a sample, in time order."""
    rows = []
    for user, items in sequences.items():
        for at in positions or range(1, len(items)):
            history = items[max(0, at - max_history) : at]
            hours = [24.0 * (len(history) - i) for i in range(len(history))]
            rows.append((user, split, START + at * DAY, items[at], np.array(history), np.array(hours, np.float32)))
    columns = ["user_id", "split", "timestamp", "target", "history", "history_hours"]
    table = pd.DataFrame(rows, columns=columns).sort_values("timestamp", kind="stable", ignore_index=True)
    return table.assign(sample_id=np.arange(len(table)))


@pytest.fixture
def samples_of():
    """Makes a samples table of every position of each shopper's daily purchases."""
    return _samples_of


@pytest.fixture
def cycles():
    """Makes sequences of shoppers who buy item i + 1 after item i."""

    def make(users: int, num_items: int, length: int, seed: int) -> dict[str, list[int]]:
        starts = np.random.default_rng(seed).integers(0, num_items, users)
        return {f"u{seed}-{i}": [(int(s) + t) % num_items for t in range(length)] for i, s in enumerate(starts)}

    return make
